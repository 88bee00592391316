"""Messages and states of a handshake for many sums (`protocols.batch`): what travels, and what is remembered between two sums.

A string that holds something for every sum has S parts of one length, that of sum 0 first.  Symbols as in `protocols.secagg`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, NoReturn

import numpy as np
from numpy.typing import NDArray

from protocols import handshake
from protocols.batch_terms import HandshakeTerms, StepTerms
from protocols.errors import Misuse
from protocols.primitives import agree, seal
from protocols.primitives.shamir import SHARE_SIZE
from protocols.rand import Seed
from protocols.schema import PARTIES, STEPS, Count, Index, Message, PublicKey, Record, Signature, Strings, strings
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import PINS, Invited, Pledge

EMPTY_BOX = 2 * 4 + seal.OVERHEAD
"""Bytes of a box beside its shares: both ids, sealed."""
PAIR = 2 * SHARE_SIZE
"""Bytes of the shares of one sum in a box, of s_sk and of b."""

# What travels


@dataclass(frozen=True)
class BatchAdvert(Message):
    """Round 0, u → server: one public key for the boxes, one for the masks of every sum, and one signature over all of them."""

    c_pk: PublicKey
    s_pks: Annotated[bytes, Strings(32, STEPS, STEPS)]
    signature: Signature

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All public keys."""
        return self.c_pk, *strings(self.s_pks, 32)


@dataclass(frozen=True, slots=True)
class BatchEntry(Record):
    """One line of the round-0 list."""

    index: Index
    c_pk: PublicKey
    s_pks: Annotated[bytes, Strings(32, STEPS, STEPS)]
    signature: Signature

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All public keys."""
        return self.c_pk, *strings(self.s_pks, 32)


@dataclass(frozen=True)
class BatchListed(Message):
    """Round 0, server → everybody in U1: the list, the same for all."""

    entries: Annotated[tuple[BatchEntry, ...], Count(2, PARTIES)]


@dataclass(frozen=True)
class BatchBoxes(Message):
    """Round 1, u → server: one box for every holder but itself, with the shares of all sums, signed once.

    Attributes:
        boxes: one after the other, by holder, ascending.
        hashes: for each box `PINS` bytes for every sum.
        own_hashes: for every sum the hash of the share of b that u keeps; empty on a sparse graph, where it keeps none.
        commitments: to b, for every sum.
        signature: over the commitments and all hashes.
    """

    boxes: Annotated[bytes, Strings(EMPTY_BOX, 1, PARTIES, each=PAIR)]
    hashes: Annotated[bytes, Strings(0, 1, PARTIES, each=PINS)]
    own_hashes: Annotated[bytes, Strings(32, 0, STEPS)]
    commitments: Annotated[bytes, Strings(32, STEPS, STEPS)]
    signature: Signature


@dataclass(frozen=True)
class BatchSealed(Message):
    """Round 1, server → u: U2 and the boxes addressed to u, with their hashes; as `protocols.secagg_types.Sealed`."""

    u2: Annotated[tuple[Index, ...], Count(2, PARTIES)]
    boxes: Annotated[bytes, Strings(EMPTY_BOX, 0, PARTIES, each=PAIR)]
    hashes: Annotated[bytes, Strings(0, 0, PARTIES, each=PINS)]


# What is remembered


@dataclass(frozen=True)
class BatchAdvertised:
    """Round 0 is out: the fresh key pairs, for the masks one for every sum."""

    invited: Invited
    c: agree.KeyPair
    s: tuple[agree.KeyPair, ...]


@dataclass(frozen=True)
class BatchShared:
    """Round 1 is out: what opens the boxes, and what the masks need."""

    invited: Invited
    L: bytes
    entries: Mapping[int, BatchEntry]
    c: agree.KeyPair
    s: tuple[agree.KeyPair, ...]
    b: tuple[Seed, ...]
    own_shares: tuple[bytes | None, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a party knows of the secrets of one sum.

    Attributes:
        s: its pair for the masks.
        b: its seed of the second mask.
        own_share: of b, where it keeps one.
        shares: for each dealer, ascending, a share of s_sk and one of b.
        pins: the hashes that they matched.
    """

    s: agree.KeyPair
    b: Seed
    own_share: bytes | None = field(repr=False)
    shares: bytes = field(repr=False)
    pins: bytes = field(repr=False)


@dataclass(frozen=True)
class Standing:
    """What a party knows of all sums that are left, secrets aside.

    Attributes:
        invited: who it is, under the terms of the handshake.
        L: hash of the list.
        s_pks: public keys for masks, of each of ``dealers``, for every sum.
        dealers: whose shares it holds, ascending, without itself.
        step: the next sum.
        u2: who is to be in it: who dealt, from the second sum on those who survived the one before.
    """

    invited: Invited
    L: bytes
    s_pks: Mapping[int, bytes]
    dealers: tuple[int, ...]
    step: int
    u2: tuple[int, ...]


class Ready:
    """A party between two sums: who is in the next one, and secrets of each sum that is left.

    Its secrets are taken once, for the next sum.  It prints without them and is never pickled or copied: a party that is restored
    to an earlier state could be led to open both secrets of another.

    Args:
        standing: what is known beside the secrets.
        secrets: of the sums that are left, that of the next one first.

    Attributes:
        standing: as given.
    """

    __slots__ = ("_secrets", "standing")

    def __init__(self, standing: Standing, secrets: tuple[Secrets, ...]) -> None:
        self.standing = standing
        self._secrets: tuple[Secrets, ...] | None = secrets

    @property
    def left(self) -> int:
        """For how many sums secrets are left; 0 where they were taken."""
        return len(self._secrets or ())

    def take(self) -> tuple[Secrets, tuple[Secrets, ...]]:
        """The secrets of the next sum, and those of the sums after it; nothing of them stays here.

        Raises:
            Misuse: where they were taken before, or no sum is left.
        """
        if not self._secrets:
            why = "no sum is left of this handshake" if self._secrets == () else "its secrets were taken"
            raise Misuse(f"party {self.standing.invited.me} is not ready for step {self.standing.step}: {why}")
        (now, *later), self._secrets = self._secrets, None
        return now, tuple(later)

    def __repr__(self) -> str:
        return f"Ready(party {self.standing.invited.me}, step {self.standing.step}, [redacted])"

    def __reduce__(self) -> NoReturn:
        raise TypeError("what a party holds between two sums is never pickled or copied")


@dataclass(frozen=True)
class Turn:
    """A party is about to enter one sum.

    Attributes:
        ready: what it holds.
        terms: of the sum: the model is known by now.
    """

    ready: Ready
    terms: StepTerms[Parameters]


@dataclass(frozen=True)
class Later:
    """Beside the state of one sum: what the sums after it need."""

    standing: Standing
    secrets: tuple[Secrets, ...] = field(repr=False)


@dataclass(frozen=True)
class BatchCollecting:
    """Server: adverts come in."""

    terms: HandshakeTerms[Parameters]
    adverts: handshake.Register[BatchAdvert] = field(default_factory=handshake.Register)


@dataclass(frozen=True)
class BatchRelaying:
    """Server: boxes come in."""

    terms: HandshakeTerms[Parameters]
    L: bytes
    adverts: Mapping[int, BatchAdvert]
    near: Mapping[int, NDArray[np.int16]]


@dataclass(frozen=True)
class ServerReady:
    """The server between two sums; it holds nothing that is secret.

    Attributes:
        terms: of the handshake.
        step: the next sum.
        L: hash of the list.
        s_pks: public keys for masks of its members, for every sum.
        u2: who is to be in the next sum.
        dealt: what each dealer pledged for all sums.
        near: for each who dealt the other dealers with whom it exchanged shares, ascending.
        mail: for each the hashes of the shares that it was relayed, shape (dealers, S, `PINS`), uint8.
    """

    terms: HandshakeTerms[Parameters]
    step: int
    L: bytes
    s_pks: Mapping[int, bytes]
    u2: tuple[int, ...]
    dealt: Mapping[int, Pledge]
    near: Mapping[int, NDArray[np.int16]]
    mail: Mapping[int, NDArray[np.uint8]]

    @property
    def left(self) -> int:
        """How many sums are left."""
        return self.terms.steps - self.step


@dataclass(frozen=True)
class ServerTurn:
    """The server is about to open one sum."""

    ready: ServerReady
    terms: StepTerms[Parameters]


@dataclass(frozen=True)
class Resting:
    """Server, beside the state of one sum: what the sums after it need."""

    ready: ServerReady
