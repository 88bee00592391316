"""The roster: who belongs to a consortium, signed with its key; every call is held to it.

One canonical CBOR list, and the authority's signature of exactly those bytes.  Serial numbers go upwards: who has seen one refuses
every lower one.  A name stands for one identity forever; who was revoked stays on the roster as revoked.

What it does not protect: whoever has the consortium's key writes the roster.  A server can withhold a new roster; a party that has
one refuses servers that have an older one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, get_args

from cryptography import x509

from protocols.errors import Refused, require
from protocols.schema import MAX_PARTIES
from protocols.suite import Member, Roster
from protocols.wire import canonical, read_canonical
from securefl.errors import UserError
from securefl.transport.pki import NAME, Authority, Part, fingerprint_of, issued_by, signed_by

FORMAT = "securefl roster 1"
LARGEST = 4 << 20
"""Most bytes of a roster: 16384 parties with a few certificates each."""
CERTIFICATES = 8
"""Most certificates of one entry that are good at once: a new one is issued before the old one is over."""


@dataclass(frozen=True)
class Entry:
    """One party, server or author of jobs.

    Attributes:
        name: its name.
        part: ``party``, ``server`` or ``author``.
        identity: a party's or author's Ed25519 public key, 32 bytes; empty for a server, which signs nothing.
        certificates: fingerprints of its TLS certificates, the newest last.
        revoked: whether it is shut out.
    """

    name: str
    part: Part
    identity: bytes
    certificates: tuple[bytes, ...]
    revoked: bool = False

    @property
    def content(self) -> list[object]:
        """What is signed."""
        return [self.name, self.part, self.identity, list(self.certificates), int(self.revoked)]


@dataclass(frozen=True)
class SignedRoster:
    """A roster that its consortium signed.

    Attributes:
        consortium: the consortium's name.
        serial: from 1.
        entries: in the order in which they were issued, which is that of the roster of every sum.
        document: the signed bytes as they travel and lie on disks.
        authority: the consortium's certificate.
    """

    consortium: str
    serial: int
    entries: tuple[Entry, ...]
    document: bytes
    authority: x509.Certificate = field(repr=False)

    @classmethod
    def make(cls, authority: Authority, consortium: str, serial: int, entries: Iterable[Entry]) -> SignedRoster:
        """Sign a roster."""
        listed = tuple(entries)
        content = canonical([FORMAT, consortium, serial, [entry.content for entry in listed]])
        return cls(consortium, serial, listed, canonical([content, authority.sign(content)]), authority.certificate)

    @classmethod
    def read(cls, document: bytes, authority: x509.Certificate) -> SignedRoster:
        """Check a roster.

        Raises:
            Refused: ``roster-form`` or ``wire-…`` for what is none, ``roster-signature`` where the authority did not sign it.
        """
        content, signature = _pair(document)
        require(signed_by(authority, signature, content), "roster-signature", "the roster is not signed by this consortium")
        tree = read_canonical(content, LARGEST)
        fits = type(tree) is list and len(tree) == 4 and tree[0] == FORMAT and type(tree[1]) is str and type(tree[2]) is int
        require(fits and tree[2] >= 1 and type(tree[3]) is list, "roster-form", "no roster of this version")
        entries = tuple(_entry(item) for item in tree[3])
        for what, values in (
            ("name", [e.name for e in entries]),
            ("identity", [e.identity for e in entries if e.identity]),
            ("certificate", [c for e in entries for c in e.certificates]),
        ):
            require(len(set(values)) == len(values), "roster-form", f"two entries of the roster share a {what}")
        return cls(tree[1], tree[2], entries, document, authority)

    def after(self, authority: Authority, entries: Iterable[Entry]) -> SignedRoster:
        """The next roster."""
        return SignedRoster.make(authority, self.consortium, self.serial + 1, entries)

    def named(self, name: str) -> Entry | None:
        """The entry of that name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def of_certificate(self, der: bytes) -> Entry:
        """Whose certificate it is.  A consortium speaks for its own certificates alone: what it lists of another's says nothing.

        Raises:
            Refused: ``peer-unknown`` or ``peer-revoked``.
        """
        known = fingerprint_of(der)
        found = next((entry for entry in self.entries if known in entry.certificates), None)
        if found is None or not issued_by(self.authority, x509.load_der_x509_certificate(der)):
            raise Refused("peer-unknown", "a certificate that is not on the roster, or not of its consortium")
        require(not found.revoked, "peer-revoked", f"{found.name} is revoked", sender=found.name)
        return found

    @property
    def parties(self) -> tuple[Entry, ...]:
        """The parties that are not revoked, in order."""
        return tuple(entry for entry in self.entries if entry.part == "party" and not entry.revoked)

    @property
    def cohort(self) -> Roster:
        """The roster of a sum of all of them.

        Raises:
            Misuse: where there are fewer than two.
        """
        return Roster(tuple(Member(entry.name, entry.identity) for entry in self.parties))

    def place(self, name: str, identity: bytes) -> int:
        """The roster index of a party, by its own name and identity.

        Raises:
            Refused: ``net-member`` where it is not there with both.
        """
        mine = next((at for at, entry in enumerate(self.parties, 1) if (entry.name, entry.identity) == (name, identity)), None)
        if mine is None:
            raise Refused("net-member", f"{name} is not on the roster with its own identity")
        return mine


def not_older(new: SignedRoster, known: SignedRoster | None) -> SignedRoster:
    """The new roster, if none is known that is newer.

    Raises:
        Refused: ``roster-older``, or ``roster-forked`` where the same serial number says something else.
    """
    if known is not None:
        require(new.serial >= known.serial, "roster-older", f"roster {new.serial}, and {known.serial} is known")
        same = new.serial > known.serial or new.document == known.document or new.entries == known.entries
        require(same, "roster-forked", f"two rosters of serial number {new.serial}")
    return new


def with_entry(entries: tuple[Entry, ...], added: Entry) -> tuple[Entry, ...]:
    """The entries with one more, or with one more certificate for the same party.

    Raises:
        UserError: for a name or an identity that is taken, or revoked.
    """
    before = next((entry for entry in entries if entry.name == added.name), None)
    if before is None:
        if added.identity and any(entry.identity == added.identity for entry in entries):
            raise UserError(f"the identity of {added.name} is on the roster under another name")
        if len(entries) >= MAX_PARTIES:
            raise UserError(f"a roster has at most {MAX_PARTIES} entries")
        return (*entries, added)
    if before.revoked:
        raise UserError(f"{added.name} is revoked: a revoked name is never issued again; take another")
    if (before.part, before.identity) != (added.part, added.identity):
        raise UserError(f"{added.name} is on the roster with another identity: a name stands for one identity forever")
    certificates = (*before.certificates, *added.certificates)[-CERTIFICATES:]
    return tuple(replace(before, certificates=certificates) if entry is before else entry for entry in entries)


def revoked(entries: tuple[Entry, ...], name: str) -> tuple[Entry, ...]:
    """The entries with one shut out.

    Raises:
        UserError: where nobody has that name, or it is shut out already.
    """
    found = next((entry for entry in entries if entry.name == name), None)
    if found is None or found.revoked:
        state = "on the roster" if found is None else "good any more"
        raise UserError(f"no {name!r} is {state}; there are {', '.join(e.name for e in entries if not e.revoked) or 'none'}")
    return tuple(replace(entry, revoked=True) if entry is found else entry for entry in entries)


def check_dates(certificate: x509.Certificate, now: datetime) -> None:
    """Whether a certificate is good now.

    Raises:
        Refused: ``peer-expired``.
    """
    good = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc
    require(good, "peer-expired", f"good until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")


def _pair(document: bytes) -> tuple[bytes, bytes]:
    tree = read_canonical(document, LARGEST)
    fits = type(tree) is list and len(tree) == 2 and all(type(part) is bytes for part in tree)
    require(fits, "roster-form", "no signed document")
    return tree[0], tree[1]


def _entry(item: Any) -> Entry:
    kinds = [str, str, bytes, list, int]
    require(type(item) is list and [type(part) for part in item] == kinds, "roster-form", "a damaged entry")
    name, part, identity, certificates, out = item
    good = NAME.fullmatch(name) and part in get_args(Part) and len(identity) == (0 if part == "server" else 32) and out in (0, 1)
    prints = 1 <= len(certificates) <= CERTIFICATES and all(type(c) is bytes and len(c) == 32 for c in certificates)
    require(good and prints, "roster-form", f"a damaged entry {name!r}")
    return Entry(name, part, identity, tuple(certificates), bool(out))
