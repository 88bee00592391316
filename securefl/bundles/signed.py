"""Who wrote a bundle, and what a party decided about one: Ed25519 signatures of identities that the consortium's roster names.

Every signature covers a text that says what it is for, the fingerprint of the consortium, who signs, and the hash of the bundle:
one made elsewhere, or for something else, fits nothing here.  The author and its signature are no part of the bundle's hash.

What it does not protect: the holder of an author's key signs whatever it likes, until its name is revoked.  From then on nothing
that it signed is taken any more, as nobody can say what was signed before a key was stolen; another author may sign the same
contents, and decisions about their hash still stand.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

from cryptography import x509

from protocols.errors import Refused, require
from protocols.primitives.sign import SIGNATURE_SIZE, SigningKey, verify
from protocols.wire import canonical, read_canonical
from securefl.bundles.contents import Bundle
from securefl.transport.desk_words import LARGEST_BUNDLE, LARGEST_DECISION
from securefl.transport.pki import NAME, fingerprint
from securefl.transport.roster import Entry, SignedRoster

BUNDLE, DECISION = "securefl bundle signature 1", "securefl decision 1"
MOST_BECAUSE = 500
"""Most letters of a reason."""
Verdict = Literal["approved", "refused"]


@dataclass(frozen=True)
class SignedBundle:
    """A bundle with its author's signature.

    Attributes:
        bundle: the contents.
        author: name on the roster.
        signature: of `statement`.
        consortium: fingerprint of the consortium's certificate.
    """

    bundle: Bundle
    author: str
    signature: bytes = field(repr=False)
    consortium: bytes = field(repr=False)

    @classmethod
    def make(cls, bundle: Bundle, author: str, key: SigningKey, authority: x509.Certificate) -> SignedBundle:
        """Sign a bundle."""
        place = fingerprint(authority)
        return cls(bundle, author, key.sign(statement(place, author, bundle.hash)), place)

    @classmethod
    def read(cls, document: bytes, authority: x509.Certificate) -> SignedBundle:
        """The bundle in a document; whether its author signed it says `check`.

        Raises:
            Refused: ``bundle-form`` or ``wire-…`` for what is none, or as `Bundle.read`.
        """
        tree = read_canonical(document, LARGEST_BUNDLE, 4)
        fits = type(tree) is list and [type(part) for part in tree] == [bytes, str, bytes]
        require(fits and NAME.fullmatch(tree[1]) and len(tree[2]) == SIGNATURE_SIZE, "bundle-form", "no signed bundle")
        return cls(Bundle.read(tree[0]), tree[1], tree[2], fingerprint(authority))

    @property
    def document(self) -> bytes:
        """The bytes that travel and lie on disks."""
        return canonical([self.bundle.content, self.author, self.signature])

    @property
    def hash(self) -> bytes:
        """Of the contents."""
        return self.bundle.hash

    def check(self, roster: SignedRoster) -> Entry:
        """The author, by a roster that the consortium signed.

        Raises:
            Refused: ``bundle-author`` where it is not there, revoked, or a server; ``bundle-signature`` where it did not sign this.
        """
        entry = roster.named(self.author)
        if entry is None or entry.part == "server":
            raise Refused("bundle-author", f"{self.author} is no party and no author on roster {roster.serial}")
        require(not entry.revoked, "bundle-author", f"its author {self.author} is revoked: another may sign the same files")
        content = statement(self.consortium, self.author, self.hash)
        require(verify(entry.identity, self.signature, content), "bundle-signature", f"{self.author} did not sign this bundle")
        return entry


def statement(consortium: bytes, author: str, digest: bytes) -> bytes:
    """What an author signs."""
    return canonical([BUNDLE, consortium, author, digest])


@dataclass(frozen=True)
class Decision:
    """What a party decided about one bundle.

    Attributes:
        consortium: fingerprint of the consortium's certificate.
        party: who decided.
        bundle: hash of the bundle.
        verdict: ``approved`` or ``refused``.
        because: the reason of a refusal, of at most `MOST_BECAUSE` letters.
        number: of the party's decisions, from 1: a later one about the same bundle takes the place of an earlier.
        at: when, by the party's own clock: ISO 8601, UTC.
        signature: by the party's identity.
    """

    consortium: bytes = field(repr=False)
    party: str
    bundle: bytes
    verdict: Verdict
    because: str
    number: int
    at: str
    signature: bytes = field(default=b"", repr=False)

    @property
    def content(self) -> bytes:
        """What is signed."""
        said = [self.party, self.bundle, self.verdict, self.because, self.number, self.at]
        return canonical([DECISION, self.consortium, *said])

    @property
    def document(self) -> bytes:
        """The bytes that travel and lie on disks."""
        return canonical([self.content, self.signature])

    def signed(self, key: SigningKey) -> Decision:
        """The decision with its signature."""
        parts = (self.consortium, self.party, self.bundle, self.verdict, self.because, self.number, self.at)
        return Decision(*parts, key.sign(self.content))

    @classmethod
    def read(cls, document: bytes, authority: x509.Certificate) -> Decision:
        """The decision in a document; whether its party signed it says `check`.

        Raises:
            Refused: ``decision-form`` or ``wire-…`` for what is none, or another consortium's.
        """
        outer = read_canonical(document, LARGEST_DECISION)
        require(type(outer) is list and [type(part) for part in outer] == [bytes, bytes], "decision-form", "no signed decision")
        tree = read_canonical(outer[0], LARGEST_DECISION)
        kinds = [str, bytes, str, bytes, str, str, int, str]
        fits = type(tree) is list and [type(part) for part in tree] == kinds and tree[0] == DECISION
        require(fits and tree[1] == fingerprint(authority), "decision-form", "no decision of this version and consortium")
        _, place, party, bundle, verdict, because, number, at = tree
        good = NAME.fullmatch(party) and len(bundle) == 32 and verdict in get_args(Verdict) and len(because) <= MOST_BECAUSE
        require(good and 1 <= number < 2**32 and _is_time(at), "decision-form", "a damaged decision")
        return cls(place, party, bundle, verdict, because, number, at, outer[1])

    def check(self, identity: bytes) -> None:
        """Whether this identity signed it.

        Raises:
            Refused: ``decision-signature``.
        """
        signed = verify(identity, self.signature, self.content)
        require(signed, "decision-signature", f"{self.party} did not sign this decision")


def _is_time(text: str) -> bool:
    try:
        return len(text) <= 40 and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
