"""The suite string, the roster, the parameters, and the session identity that binds them.

``sid = SHA-256 of CBOR [label, suite, run, round, attempt, roster, parameters, model]``: one canonical list, not a concatenation.
It enters every signature, key-derivation label, associated data and mask expansion, so parties who were told different rosters,
parameters or models get masks that don't cancel or a refused signature, never a leak.

What all parameters have in common is here (`SumParameters`, bounds and defaults that several protocols share); those of a protocol
are in a module of their own.  Source of the default threshold: Bonawitz et al., CCS 2017 (eprint 2017/281), section 6.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, Protocol

from typing_extensions import TypeVar

from protocols.errors import Misuse
from protocols.ring import Group
from protocols.schema import MAX_PARTIES
from protocols.wire import array, digest

if TYPE_CHECKING:
    from protocols.secagg_parameters import Parameters

SECAGG = "SecAgg_X25519_Ed25519_HKDF-SHA256_AES256GCM_AES256CTR_Z"
"""Name of the whole configuration of `protocols.secagg`; the ring's width in bits follows."""
SECAGG_PLUS = "SecAggPlus_X25519_Ed25519_HKDF-SHA256_AES256GCM_AES256CTR_Z"
"""The same on a sparse graph."""
LIGHTSECAGG = "LightSecAgg_X25519_Ed25519_HKDF-SHA256_AES256GCM_AES256CTR_F"
"""The same of `protocols.lightsecagg`; the field's width in bits follows."""
PLAIN = "PlainInsecure_Z"
"""The same of `protocols.plain`."""


@dataclass(frozen=True)
class Member:
    """One invited party.

    Attributes:
        name: its registered name, 1 to 64 bytes.
        identity: its Ed25519 public key, 32 bytes, registered out of band.
    """

    name: str
    identity: bytes


@dataclass(frozen=True)
class Roster:
    """Those invited, in a fixed order: roster index 1 is the first.

    Raises:
        Misuse: for fewer than two or too many members, doubled names or keys, or a malformed entry.
    """

    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.members) <= MAX_PARTIES:
            raise Misuse(f"a roster has 2 to {MAX_PARTIES} parties, not {len(self.members)}")
        for member in self.members:
            if not 1 <= len(member.name.encode()) <= 64 or len(member.identity) != 32:
                raise Misuse(f"the roster entry {member.name!r} needs a name of 1 to 64 bytes and a key of 32")
        for what, values in (("name", [m.name for m in self.members]), ("key", [m.identity for m in self.members])):
            if len(set(values)) != len(values):
                raise Misuse(f"two parties of the roster share a {what}")

    def __len__(self) -> int:
        return len(self.members)

    @property
    def indexes(self) -> range:
        """All roster indexes, 1 to n."""
        return range(1, len(self.members) + 1)

    def identity(self, index: int) -> bytes:
        """Ed25519 public key of a party."""
        return self.members[index - 1].identity

    def name(self, index: int) -> str:
        """Registered name of a party."""
        return self.members[index - 1].name

    @cached_property
    def content(self) -> list[list[object]]:
        """What enters the session identity."""
        return [[m.name, m.identity] for m in self.members]


def default_corrupt(parties: int) -> int:
    """|C|, the number of corrupt parties tolerated by default: ⌈n/3⌉ − 1."""
    return math.ceil(parties / 3) - 1


def default_threshold(parties: int, corrupt: int) -> int:
    """t = ⌊(n + |C|)/2⌋ + 1, the least threshold with 2t > n + |C|."""
    return (parties + corrupt) // 2 + 1


def check_sizes(parties: int, size: int, max_abs: int) -> None:
    """The bounds that hold under every protocol.

    Raises:
        Misuse: where one is broken, with the values.
    """
    if not 2 <= parties <= MAX_PARTIES:
        raise Misuse(f"a secure sum needs 2 to {MAX_PARTIES} parties, not {parties}")
    if not 1 <= size <= 2**31:
        raise Misuse(f"a vector has 1 to 2^31 values, not {size}")
    if max_abs < 1:
        raise Misuse(f"max_abs must be at least 1, not {max_abs}")


def check_tail(tail: int) -> None:
    """Raise `Misuse` for a bound of the noise that is none."""
    if not 0 <= tail < 2**62:
        raise Misuse(f"the tail of the noise must be at least 0 and below 2^62, not {tail}")


class SumParameters(Protocol):
    """What the public parameters of a sum have under every protocol."""

    @property
    def parties(self) -> int:
        """n, number of invited parties."""

    @property
    def size(self) -> int:
        """d, coordinates of every input vector."""

    @property
    def max_abs(self) -> int:
        """Largest absolute value of an input coordinate."""

    @property
    def ring(self) -> Group:
        """Ring or field of the masked vectors."""

    @property
    def threshold(self) -> int:
        """Parties needed to open, and smallest number of survivors."""

    @property
    def corrupt(self) -> int:
        """|C|, how many parties may collude with the server."""

    @property
    def security(self) -> float:
        """σ, bits of statistical security; infinite where nothing is left to chance."""

    @property
    def lying_server(self) -> bool:
        """Whether the parameters hold against a server that does not follow the protocol."""

    @property
    def content(self) -> list[object]:
        """What enters the session identity."""


def ring_bits(parties: int, max_abs: int, tail: int = 0) -> int:
    """Least b with n·max + T < 2^(b−1)."""
    return (parties * max_abs + tail).bit_length() + 1


def tail_of(parameters: SumParameters) -> int:
    """T, bound of the noise in a sum; 0 for a protocol whose parameters know no noise."""
    return int(getattr(parameters, "tail", 0))


@dataclass(frozen=True)
class Occasion:
    """For what a sum is made: no two sums share all of these.

    Attributes:
        run: name of the run, 1 to 64 bytes.
        round: number of the round, from 0.
        attempt: number of the attempt, from 0.
        model: hash of the global model that the inputs were computed from, 32 bytes (zeros where there is none).
    """

    run: str
    round: int
    attempt: int = 0
    model: bytes = bytes(32)

    def __post_init__(self) -> None:
        if (
            not 1 <= len(self.run.encode()) <= 64
            or len(self.model) != 32
            or not 0 <= self.round < 2**32
            or not 0 <= self.attempt < 2**32
        ):
            raise Misuse(
                f"malformed occasion: run {self.run!r}, round {self.round}, attempt {self.attempt}, model {self.model.hex()!r}"
            )


def session_id(suite: str, occasion: Occasion, roster: Roster, parameters: SumParameters) -> bytes:
    """sid, 32 bytes.

    Raises:
        Misuse: where roster and parameters speak of different numbers of parties.
    """
    if len(roster) != parameters.parties:
        raise Misuse(f"the roster has {len(roster)} parties, the parameters {parameters.parties}")
    o = occasion
    return digest(["securefl sid", suite, o.run, o.round, o.attempt, roster.content, parameters.content, o.model])


P = TypeVar("P", bound=SumParameters, default="Parameters")


@dataclass(frozen=True)
class Terms(Generic[P]):
    """Everything public that the parties of one sum must agree on before it starts.

    Attributes:
        suite: suite string.
        occasion: run, round, attempt, model.
        roster: who is invited.
        parameters: of the sum.
    """

    suite: str
    occasion: Occasion
    roster: Roster
    parameters: P

    @cached_property
    def sid(self) -> bytes:
        """Session identity, 32 bytes."""
        return session_id(self.suite, self.occasion, self.roster, self.parameters)

    @property
    def dealing(self) -> bytes:
        """Identity under which shares and commitments are hashed, 32 bytes; that of the sum, if it is known when they are dealt."""
        return self.sid

    @property
    def ordering(self) -> bytes:
        """Identity of the session from which a sparse graph's order is drawn, 32 bytes."""
        return self.sid

    def statement(self, tag: str, signer: int, *content: object) -> bytes:
        """What a party signs: CBOR of the round's tag, sid, the signer and the content."""
        return array([tag, self.sid, signer, *content])
