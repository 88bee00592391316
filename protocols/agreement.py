"""Round 3, as every masking protocol here has it: the survivors agree on who they are before anything is opened.

Source: Bonawitz et al., CCS 2017 (eprint 2017/281), figure 4, the consistency check; on a sparse graph, where no neighbourhood sees
the whole, the agreement is global: more than (n + |C|)/2 signatures on one U3, and the signature of each of its members on one U2
and one masked vector (see `protocols.degree` for the ring).

Channel assumed: the server relays everything and may lie.  A server that tells two sets of survivors to two groups gets fewer than
the threshold of signatures on each.  What it does not protect: liveness; the server can always make a round abort here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from protocols.errors import Refused, require
from protocols.handshake import Invited, check_cohort
from protocols.once import once
from protocols.primitives.sign import verify
from protocols.schema import PARTIES, Count, Digest, Index, Message, Record, Signature
from protocols.suite import Terms


@dataclass(frozen=True)
class Dropped(Message):
    """Round 2, server → U3: only the dropped set U2∖U3, so that "both shares of v" cannot be said."""

    dropped: Annotated[tuple[Index, ...], Count(0, PARTIES)]


@dataclass(frozen=True)
class Agree(Message):
    """Round 3, u → server: signature over L and U3."""

    signature: Signature


@dataclass(frozen=True)
class Signed(Record):
    """One agreeing party."""

    index: Index
    signature: Signature


@dataclass(frozen=True)
class Covering(Record):
    """What one member of U3 signed with its masked vector: hash of the vector, receipt, signature over them, L and U2."""

    vector: Digest
    receipt: Digest
    signature: Signature


@dataclass(frozen=True)
class Agreed(Message):
    """Round 3, server → U4: the signatures; on a sparse graph also what each member of U3 signed in round 2, in its order."""

    signatures: Annotated[tuple[Signed, ...], Count(1, PARTIES)]
    coverings: Annotated[tuple[Covering, ...], Count(0, PARTIES)] = ()


def survivors(invited: Invited[Any], u2: Sequence[int], said: Dropped) -> tuple[int, ...]:
    """U3, after the checks on the dropped set.

    Raises:
        Refused: ``dropped-set``, ``dropped-own`` or ``dropped-cohort``.
    """
    dropped = set(said.dropped)
    ordered = list(said.dropped) == sorted(dropped) and dropped <= set(u2)
    require(ordered, "dropped-set", "the dropped set ascends within U2")
    require(invited.me not in dropped, "dropped-own", "this party is said to have dropped")
    u3 = tuple(v for v in u2 if v not in dropped)
    check_cohort(invited, len(u3), "dropped-cohort")
    return u3


def sign_survivors(invited: Invited[Any], L: bytes, u3: Sequence[int]) -> Agree:
    """The party's signature over L and U3."""
    return Agree(invited.identity.sign(invited.terms.statement("agree", invited.me, L, tuple(u3))))


def check_agree(terms: Terms[Any], L: bytes, u3: Sequence[int], u: int, signature: bytes, check: str) -> None:
    """One party's signature over L and U3.

    Raises:
        Refused: ``check``.
    """
    require(_signed(terms, L, u3, u, signature), check, f"party {u} did not sign this U3")


def _signed(terms: Terms[Any], L: bytes, u3: Sequence[int], u: int, signature: bytes) -> bool:
    return verify(terms.roster.identity(u), signature, terms.statement("agree", u, L, tuple(u3)))


def false_agreements(terms: Terms[Any], L: bytes, u3: Sequence[int], said: Mapping[int, bytes]) -> list[Refused]:
    """Who of those that agreed sent a signature that is none: looked for where the parties found too few that are."""
    false = [u for u, signature in said.items() if not _signed(terms, L, u3, u, signature)]
    return [Refused("agree-signature", f"party {u} did not sign this U3", sender=f"client {u}") for u in false]


def gathered(said: Mapping[int, Agree], coverings: Sequence[Covering] = ()) -> Agreed:
    """What the server shows to everybody who agreed."""
    return Agreed(tuple(Signed(u, agree.signature) for u, agree in said.items()), tuple(coverings))


def check_agreement(invited: Invited[Any], L: bytes, u3: Sequence[int], agreed: Agreed) -> None:
    """At least the threshold of distinct members of U3 signed the own L and U3.

    Signatures that are not valid count for nothing and cost nothing: the server could as well have left them out, so one bad one
    need not stop anybody.  Those beyond the threshold are not looked at.

    Raises:
        Refused: ``agreed-signers``, ``agreed-count`` or ``agreed-signature``.
    """
    terms, signers = invited.terms, [signed.index for signed in agreed.signatures]
    need = terms.parameters.threshold
    require(signers == sorted(set(signers)) and set(signers) <= set(u3), "agreed-signers", "distinct members of U3, ascending")
    require(len(signers) >= need, "agreed-count", f"{len(signers)} signatures where {need} are needed")
    key = ("agreed", terms.sid, L, tuple(u3))
    valid = once(key, lambda: _count_valid(terms, L, u3, agreed.signatures, need), of=agreed.signatures)
    enough = valid >= min(need, len(signers))
    require(enough, "agreed-signature", f"{valid} of {len(signers)} signatures are over this U3 where {need} are needed")


def _count_valid(terms: Terms[Any], L: bytes, u3: Sequence[int], signatures: Sequence[Signed], need: int) -> int:
    """How many are valid, up to ``need``."""
    valid, members = 0, tuple(u3)
    for signed in signatures:
        valid += _signed(terms, L, members, signed.index, signed.signature)
        if valid == need:
            break
    return valid


def masked_statement(terms: Terms[Any], u: int, L: bytes, u2: Sequence[int], vector: bytes, receipt: bytes) -> bytes:
    """What a party signs with its masked vector."""
    return terms.statement("masked", u, L, tuple(u2), vector, receipt)


def check_coverings(terms: Terms[Any], L: bytes, u2: Sequence[int], u3: Sequence[int], coverings: Sequence[Covering]) -> None:
    """Every member of U3 masked its vector for the own L and U2: nobody was told another set.

    Raises:
        Refused: ``agreed-coverings`` or ``agreed-masked``.
    """
    require(len(coverings) == len(u3), "agreed-coverings", "one for each member of U3")
    once(("masked", terms.sid, L, tuple(u2), tuple(u3)), lambda: _check_masked(terms, L, u2, u3, coverings), of=coverings)


def _check_masked(terms: Terms[Any], L: bytes, u2: Sequence[int], u3: Sequence[int], coverings: Sequence[Covering]) -> None:
    for u, said in zip(u3, coverings, strict=True):
        statement = masked_statement(terms, u, L, u2, said.vector, said.receipt)
        valid = verify(terms.roster.identity(u), said.signature, statement)
        require(valid, "agreed-masked", f"party {u} did not mask for this U2")
