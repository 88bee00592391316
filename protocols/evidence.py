"""Signed messages that convict their sender: what a third party can check with the roster and the terms of the sum alone.

Evidence holds statements with their signatures, and the public values behind the hashes in them.  `check_evidence` asks whether one
party signed what no party that follows the protocol signs.  Nothing in it is the word of whoever brings it.

Channel assumed: none.  What it does not protect: it shows what a key signed, not who held the key, and a party whose machine was
restored to an earlier state signs twice as a liar does.  What is not provable, for want of a signature or because the proof would
open others' secrets, has no kind here (docs/audit.md lists it).  Of others' secrets `share` holds the one share of each that its
accused has opened to the server anyway, fewer than rebuild anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import cbor2

from protocols.batch_terms import HandshakeTerms
from protocols.errors import Refused, require
from protocols.primitives import agree
from protocols.primitives.graph import Graph, Harary
from protocols.primitives.shamir import SHARE_SIZE
from protocols.said import Said
from protocols.schema import strings
from protocols.secagg_labels import receipt_of, share_hash
from protocols.secagg_types import PINS
from protocols.suite import Terms


@dataclass(frozen=True)
class Evidence:
    """What convicts one party.

    Attributes:
        kind: one of `KINDS`.
        accused: its roster index.
        said: statements that it signed.
        given: public values that the statements hold hashes of, by name.
    """

    kind: str
    accused: int
    said: tuple[Said, ...]
    given: Mapping[str, bytes] = field(default_factory=dict)


def check_evidence(evidence: Evidence, terms: Terms[Any]) -> str:
    """What the evidence proves, in one line.

    Args:
        evidence: what somebody brings.
        terms: of the sum; its roster is the one that the checker trusts.

    Raises:
        Refused: ``evidence-statement``, ``evidence-session``, ``evidence-signature`` or ``evidence-proof``: it proves nothing.
    """
    u, said = evidence.accused, evidence.said
    require(evidence.kind in KINDS and 1 <= u <= len(terms.roster), "evidence-proof", "of no kind, or about nobody of the roster")
    for one in said:
        _, sid, signer, *_ = one.parts
        require(sid == terms.sid and signer == u, "evidence-session", "a statement of another session or another party")
        require(one.holds(terms.roster.identity(u)), "evidence-signature", f"party {u} did not sign this")
    try:
        return f"party {u} ({terms.roster.name(u)}) {KINDS[evidence.kind](evidence, terms)}"
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise Refused("evidence-proof", f"malformed ({type(error).__name__})") from None


def graph_of(terms: Terms[Any]) -> Graph:
    """The graph of a sum, or of the keys that carry it."""
    found: Graph = terms.parameters.graph
    return found


def held_by(terms: Terms[Any], L: bytes, u: int, u2: tuple[int, ...]) -> list[int]:
    """The other dealers whose shares u holds, ascending: in whose order hashes came to it."""
    holders = graph_of(terms).holders(u, list(u2), terms.ordering + L)
    return [v for v in u2 if v != u and v in holders]


def keeps_own(terms: Terms[Any]) -> bool:
    """Whether a party keeps a share of its own seed."""
    return not isinstance(graph_of(terms), Harary)


def share_opened(terms: Terms[Any], L: bytes, u: int, u2: tuple[int, ...], shares: bytes, dealer: int) -> bytes:
    """The share of one dealer's secret among all that u opened."""
    dealers = held_by(terms, L, u, u2) + [u] * keeps_own(terms)
    return strings(shares, SHARE_SIZE)[sorted(dealers).index(dealer)]


def bad_keys(keys: tuple[bytes, ...]) -> str:
    """What is wrong with fresh public keys that a party signed; empty where nothing is."""
    if len(set(keys)) != len(keys):
        return "one key for two uses"
    for key in keys:
        try:
            agree.check_public_key(key)
        except Refused as error:
            return error.check
    return ""


def _two(evidence: Evidence, _terms: Terms[Any]) -> str:
    one, other = evidence.said
    require(one.parts[0] == other.parts[0], "evidence-proof", "statements of two rounds may differ")
    require(one.statement != other.statement, "evidence-proof", "the same statement twice")
    return f"signed two different statements {one.parts[0]!r} in one session"


def _keys(evidence: Evidence, terms: Terms[Any]) -> str:
    (one,) = evidence.said
    tag, _, _, c_pk, *others = one.parts
    wrong = bad_keys((c_pk, *(strings(b"".join(others), 32) if isinstance(terms, HandshakeTerms) else others)))
    require(tag == "keys" and wrong, "evidence-proof", "keys that nothing is wrong with")
    return f"signed public keys that are refused: {wrong}"


def _share(evidence: Evidence, terms: Terms[Any]) -> str:
    """What was accepted is signed in round 2 for shares of others, in round 1 for one of one's own; what was opened in round 4."""
    masked, opening, *dealing = evidence.said
    u, dealer = evidence.accused, int.from_bytes(evidence.given["dealer"], "big")
    rounds = [one.parts[0] for one in evidence.said]
    require(rounds == ["masked", "open", *["share"] * (dealer == u)], "evidence-proof", "not the statements of one opening")
    require(len({one.parts[3] for one in evidence.said}) == 1, "evidence-proof", "statements over different lists")
    _, _, _, L, u2, _, receipt = masked.parts  # the place of a share follows from U2, which its opener signed
    _, _, _, _, u3, shares = opening.parts
    share = share_opened(terms, L, u, tuple(u2), shares, dealer)
    if dealing:
        pinned, secret = dealing[0].parts[5], "b"
    else:
        require(receipt_of(evidence.given["hashes"]) == receipt, "evidence-proof", "hashes of another receipt")
        both = strings(evidence.given["hashes"], PINS)[held_by(terms, L, u, tuple(u2)).index(dealer)]
        pinned, secret = (both[32:], "b") if dealer in u3 else (both[:32], "s")
    require(share_hash(terms, L, dealer, u, secret, share) != pinned, "evidence-proof", "the share is the one that was accepted")
    return f"opened another share of party {dealer}'s secret than the one whose hash it had signed"


def _dealing(evidence: Evidence, terms: Terms[Any]) -> str:
    """The hashes and the list are held to the hashes of them that were signed."""
    (one,), hashes, listed = evidence.said, evidence.given["hashes"], evidence.given["list"]
    tag, _, u, L, _, own, hashed = one.parts
    signed = tag == "share" and hashlib.sha256(hashes).digest() == hashed and hashlib.sha256(listed).digest() == L
    require(signed, "evidence-proof", "hashes or a list that were not signed")
    (entries,) = cbor2.loads(listed)
    wrong = bad_dealing(terms, L, u, tuple(entry[0] for entry in entries), own, hashes)
    require(wrong, "evidence-proof", "a dealing that nothing is wrong with")
    return f"signed {wrong}"


def bad_dealing(terms: Terms[Any], L: bytes, u: int, u1: tuple[int, ...], own: bytes, hashes: bytes) -> str:
    """What is wrong with the share hashes that a party signed; empty where nothing is."""
    if len(own) != 32 * keeps_own(terms):
        return "a hash of a share of its own where none is kept, or none where one is"
    count = len(held_by(terms, L, u, u1))
    return "" if len(hashes) == PINS * count else f"share hashes for {len(hashes) / PINS:g} others, where there are {count}"


KINDS: Mapping[str, Callable[[Evidence, Terms[Any]], str]] = {
    "two statements": _two,
    "keys": _keys,
    "dealing": _dealing,
    "share": _share,
}
"""The kinds of evidence: from it and the terms what the accused did; raises `Refused` where it did not."""


def two_statements(u: int, one: Said, other: Said) -> Evidence:
    """A party signed two statements of one round in one session."""
    return Evidence("two statements", u, (one, other))


def keys_refused(u: int, said: Said) -> Evidence:
    """A party signed fresh keys that every other party refuses."""
    return Evidence("keys", u, (said,))


def dealing_refused(u: int, said: Said, hashes: bytes, listed: bytes) -> Evidence:
    """A party signed share hashes that are refused.

    Args:
        u: the dealer.
        said: what it signed when it dealt.
        hashes: the share hashes.
        listed: the round-0 list, as it is hashed.
    """
    return Evidence("dealing", u, (said,), {"hashes": hashes, "list": listed})


def other_share(u: int, dealer: int, masked: Said, opening: Said, *, dealing: Said | None = None, hashes: bytes = b"") -> Evidence:
    """A party opened another share than it had accepted.

    Args:
        u: the opener.
        dealer: whose secret.
        masked: what u signed with its masked vector, U2 and the receipt among it.
        opening: what it signed when it opened.
        dealing: for a share of its own, what it signed when it dealt.
        hashes: for others' shares, the hashes that it accepted.
    """
    said = (masked, opening) if dealing is None else (masked, opening, dealing)
    return Evidence("share", u, said, {"dealer": dealer.to_bytes(2, "big"), "hashes": hashes})
