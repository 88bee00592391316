"""Messages and states of LightSecAgg (`protocols.lightsecagg`): what travels, and what is remembered.

A state's type has room for what its party may still know, and for nothing else.  Symbols as in `protocols.lightsecagg`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from numpy.typing import NDArray

from protocols import handshake
from protocols.bulk import Bulk
from protocols.lightsecagg_parameters import LightParameters
from protocols.primitives import agree
from protocols.ring import Accumulator
from protocols.schema import PARTIES, Count, Digest, Index, Message, PublicKey, Raw, Record, Signature
from protocols.suite import Terms

# What travels


@dataclass(frozen=True)
class KeyAdvert(Message):
    """Round 0, u → server: a fresh public key for boxes, signed under the long-term identity."""

    c_pk: PublicKey
    signature: Signature

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The public key."""
        return (self.c_pk,)


@dataclass(frozen=True)
class KeyEntry(Record):
    """One line of the round-0 list."""

    index: Index
    c_pk: PublicKey
    signature: Signature

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The public key."""
        return (self.c_pk,)


@dataclass(frozen=True)
class KeyList(Message):
    """Round 0, server → everybody in U1: the list, the same for all."""

    entries: Annotated[tuple[KeyEntry, ...], Count(2, PARTIES)]


@dataclass(frozen=True)
class ShareHash(Record):
    """Salted hash of the share that goes to, or comes from, a peer."""

    peer: Index
    hash: Digest


@dataclass(frozen=True)
class Shares(Message):
    """Round 1, u → server: a sealed share of the mask for every other party, and the hash of every share, signed."""

    boxes: Annotated[Bulk, Raw("boxes")]
    hashes: Annotated[tuple[ShareHash, ...], Count(1, PARTIES)]
    own_hash: Digest
    signature: Signature


@dataclass(frozen=True)
class Relayed(Message):
    """Round 1, server → u: U2, and the boxes and hashes addressed to u."""

    boxes: Annotated[Bulk, Raw("boxes")]
    u2: Annotated[tuple[Index, ...], Count(2, PARTIES)]
    hashes: Annotated[tuple[ShareHash, ...], Count(1, PARTIES)]


@dataclass(frozen=True)
class Padded(Message):
    """Round 2, u → server: y = x + z, and a signature over it, L, U2 and the accepted share hashes."""

    y: Annotated[Bulk, Raw("masked")]
    receipt: Digest
    signature: Signature


@dataclass(frozen=True)
class Answer(Message):
    """Round 4, u → server: the sum of the shares that u holds of the survivors' masks, signed."""

    share: Annotated[Bulk, Raw("answer")]
    signature: Signature


# What is remembered


@dataclass(frozen=True)
class Invited(handshake.Invited[LightParameters]):
    """A party that has been invited."""


@dataclass(frozen=True)
class Advertised:
    """Round 0 is out: the fresh key pair."""

    invited: Invited
    c: agree.KeyPair


@dataclass(frozen=True, eq=False)
class Mask:
    """The mask z, shape (d + 1,), dtype of the field."""

    values: NDArray[Any]

    def __repr__(self) -> str:
        return "Mask([redacted])"


@dataclass(frozen=True, eq=False)
class Held:
    """A share held for one dealer, shape (block,), dtype of the field."""

    share: NDArray[Any]

    def __repr__(self) -> str:
        return "Held([redacted])"


@dataclass(frozen=True)
class Shared:
    """Round 1 is out: the mask, and the key that opens boxes."""

    invited: Invited
    L: bytes
    entries: Mapping[int, KeyEntry]
    c: agree.KeyPair
    z: Mask
    own: Held


@dataclass(frozen=True)
class Covered:
    """Round 2 is out: key, mask and input are forgotten; this type has no room for them."""

    invited: Invited
    L: bytes
    u2: tuple[int, ...]
    held: Mapping[int, Held]


@dataclass(frozen=True)
class Consenting:
    """Round 3 is out: one U3 was signed, and no other will be."""

    invited: Invited
    L: bytes
    u3: tuple[int, ...]
    held: Mapping[int, Held]


@dataclass(frozen=True)
class Finished:
    """The party is done and remembers nothing of the session."""

    me: int


@dataclass(frozen=True)
class Collecting:
    """Server: adverts come in."""

    terms: Terms[LightParameters]
    adverts: handshake.Register[KeyAdvert] = field(default_factory=handshake.Register)


@dataclass(frozen=True)
class Relaying:
    """Server: boxes come in."""

    terms: Terms[LightParameters]
    L: bytes
    adverts: Mapping[int, KeyAdvert]


@dataclass(frozen=True)
class Summing:
    """Server: masked vectors come in and are added at once; boxes are gone, their hashes stay."""

    terms: Terms[LightParameters]
    L: bytes
    u2: tuple[int, ...]
    hashes: Mapping[int, tuple[ShareHash, ...]]
    total: Accumulator


@dataclass(frozen=True)
class Asking:
    """Server: the survivors agree on U3."""

    summing: Summing
    u3: tuple[int, ...]


@dataclass(frozen=True)
class Opened:
    """Server: answers come in."""

    summing: Summing
    u3: tuple[int, ...]
