"""A party's bundles and decisions on its own disk: what it runs is decided here, and nobody else's word counts.

In the folder of keys lies ``bundles/``: for every bundle that was reviewed ``HASH.bundle``, and ``HASH.decision`` once it is
decided, signed with the party's identity, both of mode 0600.  What is read back is checked anew: the contents against the hash, the
author's signature against the roster, the decision against the own identity.

What it does not protect: whoever may write the folder may put an old decision back in the place of a newer one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from protocols.errors import Refused, require
from securefl import files
from securefl.bundles.signed import MOST_BECAUSE, Decision, SignedBundle, Verdict
from securefl.errors import UserError
from securefl.transport.desk_words import LARGEST_BUNDLE, LARGEST_DECISION
from securefl.transport.enrolment import Credentials
from securefl.transport.keyfiles import make_folder, read_public
from securefl.transport.pki import fingerprint

FOLDER = "bundles"
SHORTEST = 8
"""Fewest digits by which a bundle may be named."""


def is_hash(text: str, *, shortest: int = SHORTEST) -> bool:
    """Whether this names a bundle by at least so many first digits of its hash."""
    return re.fullmatch(rf"[0-9a-f]{{{shortest},64}}", text) is not None


def require_hash(text: str) -> None:
    """Refuse what names no bundle.

    Raises:
        UserError: with what does.
    """
    if not is_hash(text):
        raise UserError(f"{text!r} names no bundle: {SHORTEST} to 64 digits 0-9 a-f of its hash are needed")


def one_of(named: str, digests: Iterable[str], what: str, hint: str = "") -> str:
    """The one hash of ``what`` a server has that begins with these digits.

    Raises:
        UserError: where there is none, or more than one.
    """
    found = [digest for digest in digests if digest.startswith(named)]
    if len(found) != 1:
        count = "no bundle" if not found else f"{len(found)} bundles"
        raise UserError(f"{count} on the server's {what} begin with {named}{hint}")
    return found[0]


@dataclass(frozen=True)
class Kept:
    """The bundles of one party.

    Attributes:
        credentials: of the party.
    """

    credentials: Credentials

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.credentials.folder / FOLDER

    def keep(self, signed: SignedBundle) -> None:
        """Keep a bundle that was reviewed."""
        self._write(f"{signed.hash.hex()}.bundle", signed.document)

    def named(self, text: str) -> bytes:
        """The hash of a bundle that was reviewed, from its first digits.

        Raises:
            UserError: where there is none, or more than one.
        """
        require_hash(text)
        found = self._hashes(f"{text}*.bundle")
        if len(found) != 1:
            which = "no bundle that was reviewed here begins" if not found else f"{len(found)} bundles begin"
            raise UserError(f"{which} with {text}: securefl review lists and shows them")
        return bytes.fromhex(found[0])

    def bundle(self, digest: bytes) -> SignedBundle:
        """A bundle that was reviewed, with the contents of its hash.

        Raises:
            UserError: where it was not, or the file was changed.
        """
        path = self.folder / f"{digest.hex()}.bundle"
        if not path.exists():
            raise UserError(f"the bundle {digest.hex()} was not reviewed here: securefl review fetches and shows it")
        try:
            signed = SignedBundle.read(read_public(path, "the bundle", LARGEST_BUNDLE), self.credentials.authority)
            require(signed.hash == digest, "bundle-hash", "the file holds another bundle than it is named after")
        except Refused as error:
            raise UserError(f"{path} is refused: {error.check} ({error.detail})") from None
        return signed

    def decision(self, digest: bytes) -> Decision | None:
        """What this party decided about a bundle.

        Raises:
            UserError: where the file is no decision that this party signed, about this bundle.
        """
        path = self.folder / f"{digest.hex()}.decision"
        if not path.exists():
            return None
        mine = self.credentials.entry
        try:
            found = Decision.read(read_public(path, "the decision", LARGEST_DECISION), self.credentials.authority)
            require(
                found.bundle == digest and found.party == mine.name, "decision-form", "about another bundle, or of another party"
            )
            found.check(mine.identity)
        except Refused as error:
            raise UserError(f"{path} is refused: {error.check} ({error.detail})") from None
        return found

    def decisions(self) -> list[Decision]:
        """All decisions in their order; errors as `decision`."""
        found = [self.decision(bytes.fromhex(digest)) for digest in self._hashes("*.decision")]
        return sorted((one for one in found if one is not None), key=lambda one: one.number)

    def decide(self, digest: bytes, verdict: Verdict, now: datetime, because: str = "") -> Decision:
        """Decide about a bundle that was reviewed, on the disk when it returns.

        Raises:
            UserError: where it was not reviewed, the reason is too long, or, to approve, its author's signature does not hold by
                the newest roster.
        """
        if len(because) > MOST_BECAUSE:
            raise UserError(f"the reason has {len(because)} letters: at most {MOST_BECAUSE} are allowed")
        signed, key = self.bundle(digest), self.credentials.identity
        if key is None:
            raise UserError(f"{self.credentials.folder} holds no identity")
        if verdict == "approved":
            self._check(signed)
        number = max((one.number for one in self.decisions()), default=0) + 1
        party, place = self.credentials.entry.name, fingerprint(self.credentials.authority)
        at = now.astimezone(UTC).isoformat(timespec="seconds")
        made = Decision(place, party, digest, verdict, because, number, at).signed(key)
        self._write(f"{digest.hex()}.decision", made.document)
        return made

    def last_approved(self, but: bytes) -> tuple[SignedBundle, Decision] | None:
        """The bundle that this party approved last, other than one, with its decision."""
        approved = [one for one in self.decisions() if one.verdict == "approved" and one.bundle != but]
        return (self.bundle(approved[-1].bundle), approved[-1]) if approved else None

    def approved(self, digest: bytes) -> SignedBundle:
        """A bundle that this party runs.

        Raises:
            UserError: where it did not approve it, refused it, or it was altered or is not signed by an author on the roster.
        """
        found = self.decision(digest)
        if found is None:
            raise UserError(f"the bundle {digest.hex()} is not approved here: securefl review shows it, securefl approve decides")
        if found.verdict != "approved":
            raise UserError(f"the bundle {digest.hex()} is refused here, on {found.at}: {found.because}")
        signed = self.bundle(digest)
        self._check(signed)
        return signed

    def _check(self, signed: SignedBundle) -> None:
        try:
            signed.check(self.credentials.roster)
        except Refused as error:
            raise UserError(f"the bundle {signed.hash.hex()} is refused: {error.check} ({error.detail})") from None

    def _hashes(self, pattern: str) -> list[str]:
        """Whole hashes that files of such names are named after, in order."""
        return sorted(path.stem for path in self.folder.glob(pattern) if is_hash(path.stem, shortest=64))

    def _write(self, name: str, content: bytes) -> None:
        make_folder(self.folder)
        try:
            files.atomic_write(self.folder / name, content, private=True)
            files.sync_folder(self.folder)
        except OSError as error:
            raise UserError(f"{self.folder / name} cannot be written: {error.strerror or error}") from None
