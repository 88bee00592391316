"""Round 0 and the sealed boxes, as every protocol with signed keys has them: who takes part, under which fresh keys.

Source: Bonawitz et al., CCS 2017 (eprint 2017/281), figure 4, rounds 0 and 1 with the steps for active adversaries.  L is the hash
of the round-0 list; it enters every label, signature and associated data from then on, so parties who were shown different lists
share no key.

Channel assumed: the server relays everything and may lie; identities are registered out of band.  What it does not protect: who
took part, and that somebody takes part at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from protocols.errors import Refused, require
from protocols.once import once
from protocols.policy import Policy
from protocols.primitives import agree
from protocols.primitives.sign import SigningKey, verify
from protocols.rand import Key, Rand
from protocols.said import Said
from protocols.schema import Message
from protocols.suite import P, Terms
from protocols.wire import canonical, control_bytes

if TYPE_CHECKING:
    from protocols.evidence import Evidence


@dataclass(frozen=True)
class Invited(Generic[P]):
    """A party that has been invited.

    Attributes:
        me: its roster index.
        identity: its long-term signing key.
        terms: of the sum.
        policy: its own bounds.
    """

    me: int
    identity: SigningKey
    terms: Terms[P]
    policy: Policy


class Keyed(Protocol):
    """Fresh public keys under a signature: an advert, or a line of the list."""

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The public keys, in the order in which they are signed."""

    @property
    def signature(self) -> bytes:
        """Over all of them."""


class Line(Keyed, Protocol):
    """One line of the round-0 list."""

    @property
    def index(self) -> int:
        """Whose keys."""


K = TypeVar("K", bound=Keyed)
E = TypeVar("E", bound=Line)


def check_invitation(invited: Invited[Any], suite: str) -> None:
    """What a party asks before it makes a key.

    Raises:
        Refused: ``terms-suite``, ``roster-own``, or what `Policy.check` refuses.
    """
    terms = invited.terms
    require(terms.suite == suite, "terms-suite", f"the suite named is {terms.suite}, the one that runs {suite}")
    invited.policy.check(terms)
    require(terms.roster.identity(invited.me) == invited.identity.public, "roster-own", "the roster has another key for this party")


def sign_keys(invited: Invited[Any], keys: Sequence[bytes]) -> bytes:
    """The party's signature over its fresh keys."""
    return invited.identity.sign(_keys_statement(invited.terms, invited.me, keys))


def _keys_statement(terms: Terms[Any], u: int, keys: Sequence[bytes]) -> bytes:
    """What a party signs in round 0; keys beyond the second stand in one string with it."""
    return terms.statement("keys", u, *keys[:1], *([b"".join(keys[1:])] if keys[1:] else []))


class Register(dict[int, K]):
    """Adverts by roster index, as the server takes them in, and the set of their keys, to which one is added in one step."""

    def __init__(self) -> None:
        super().__init__()
        self._taken = set[bytes]()

    def enter(self, terms: Terms[Any], u: int, advert: K) -> None:
        """Check one advert on arrival, with the checks that every party will make, and add it.

        Raises:
            Refused: ``advert-signature``, ``advert-distinct``, ``public-key-canonical`` or ``public-key-order``.
        """
        keys = advert.keys
        try:
            _check_keys(terms, u, advert, "advert-signature")
        except Refused as error:
            error.evidence = _signed_nonetheless(terms, u, advert)
            raise
        require(self._taken.isdisjoint(keys), "advert-distinct", "a public key that another party has advertised")
        self[u] = advert
        self._taken.update(keys)


def list_hash(listed: Message) -> bytes:
    """L, the hash of the round-0 list, 32 bytes; ``entries`` are all that such a message holds."""
    return once("list", lambda: hashlib.sha256(control_bytes(listed)).digest(), of=getattr(listed, "entries", listed))


def check_list(invited: Invited[Any], own: tuple[bytes, ...], listed: Sequence[E]) -> Mapping[int, E]:
    """The checks on the round-0 list; its lines by index.

    Raises:
        Refused: ``listed-order``, ``listed-own``, ``listed-cohort``, ``listed-distinct``, ``listed-signature``, or for a bad key.
    """
    me, terms = invited.me, invited.terms
    entries = once(("entries", len(terms.roster)), lambda: _by_index(terms, listed), of=listed)
    require(me in entries, "listed-own", "own entry is missing")
    require(entries[me].keys == own, "listed-own", "own keys were changed")
    check_cohort(invited, len(entries), "listed-cohort")
    once(("keys", terms.sid), lambda: _check_all_keys(terms, listed), of=listed)
    return entries


def _by_index(terms: Terms[Any], listed: Sequence[E]) -> Mapping[int, E]:
    entries, order = {entry.index: entry for entry in listed}, [entry.index for entry in listed]
    require(order == sorted(entries) and order[-1] <= len(terms.roster), "listed-order", "indexes must ascend within the roster")
    return entries


def _check_all_keys(terms: Terms[Any], listed: Sequence[E]) -> None:
    keys = [key for entry in listed for key in entry.keys]
    require(len(set(keys)) == len(keys), "listed-distinct", "a public key stands twice in the list")
    for entry in listed:
        _check_keys(terms, entry.index, entry, "listed-signature")


def _check_keys(terms: Terms[Any], u: int, signed: Keyed, check: str) -> None:
    keys = signed.keys
    for key in keys:
        agree.check_public_key(key)
    require(len(set(keys)) == len(keys), "advert-distinct", "one key advertised twice")
    statement = _keys_statement(terms, u, keys)
    require(verify(terms.roster.identity(u), signed.signature, statement), check, f"keys of party {u}")


def _signed_nonetheless(terms: Terms[Any], u: int, advert: Keyed) -> Evidence | None:
    """Evidence that party u signed keys which are refused; None where the signature is what is wrong."""
    from protocols.evidence import keys_refused  # noqa: PLC0415  (it reads messages that are built on this module)

    said = Said(_keys_statement(terms, u, advert.keys), advert.signature)
    return keys_refused(u, said) if said.holds(terms.roster.identity(u)) else None


def for_session(rand: Rand, what: str, terms: Terms[Any], L: bytes) -> Rand:
    """Randomness that belongs to one session: a machine that is cloned with its generator draws other bytes in another one."""
    return rand.child(f"{what} {terms.sid.hex()} {L.hex()}")


def check_cohort(invited: Invited[Any], size: int, check: str) -> None:
    """No set that a party goes along with is smaller than the threshold, or than its own smallest cohort.

    Raises:
        Refused: ``check``.
    """
    smallest = max(invited.terms.parameters.threshold, invited.policy.min_cohort)
    require(size >= smallest, check, f"{size} parties where {smallest} are needed")


def check_sharing(invited: Invited[Any], u1: Sequence[int] | Mapping[int, object], u2: Sequence[int]) -> None:
    """The checks on U2, who dealt shares.

    Raises:
        Refused: ``sealed-set``, ``sealed-own`` or ``sealed-cohort``.
    """
    require(list(u2) == sorted(set(u2)) and set(u2) <= set(u1), "sealed-set", "U2 ascends within U1")
    require(invited.me in u2, "sealed-own", "this party is not in U2")
    check_cohort(invited, len(u2), "sealed-cohort")


def box_key(terms: Terms[Any], L: bytes, pair: agree.KeyPair, theirs: bytes, u: int, v: int, *, mine: int) -> Key:
    """The key of the one box from u to v; its label holds both ids and both public keys, in that order."""
    keys = (pair.public, theirs) if mine == u else (theirs, pair.public)
    return agree.derive(pair.exchange(theirs), canonical(["box", terms.sid, L, u, v, *keys]))


def box_aad(terms: Terms[Any], L: bytes, u: int, v: int) -> bytes:
    """Associated data of the box from u to v."""
    return canonical([terms.sid, L, u, v])
