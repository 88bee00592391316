"""Messages and states of SecAgg (`protocols.secagg`): what travels, and what is remembered.

A state's type has room for what its party may still know, and for nothing else.  Symbols as in `protocols.secagg`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from protocols import handshake
from protocols.agreement import Covering
from protocols.bulk import Bulk
from protocols.primitives import agree, seal
from protocols.primitives.shamir import SHARE_SIZE
from protocols.rand import Seed
from protocols.ring import Accumulator
from protocols.schema import PARTIES, Count, Digest, Index, Message, PublicKey, Raw, Record, Signature, Size
from protocols.suite import Parameters, Terms

BOX = 2 * 9 + 2 * (SHARE_SIZE + 3) + seal.OVERHEAD

# What travels


@dataclass(frozen=True)
class Advert(Message):
    """Round 0, u → server: fresh public keys, signed under the long-term identity."""

    c_pk: PublicKey
    s_pk: PublicKey
    signature: Signature

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Both public keys."""
        return self.c_pk, self.s_pk


@dataclass(frozen=True, slots=True)
class Entry(Record):
    """One line of the round-0 list."""

    index: Index
    c_pk: PublicKey
    s_pk: PublicKey
    signature: Signature

    @property
    def keys(self) -> tuple[bytes, ...]:
        """Both public keys."""
        return self.c_pk, self.s_pk


@dataclass(frozen=True)
class Listed(Message):
    """Round 0, server → everybody in U1: the list, the same for all."""

    entries: Annotated[tuple[Entry, ...], Count(2, PARTIES)]


@dataclass(frozen=True, slots=True)
class Box(Record):
    """Both shares for one holder, sealed end to end, and their hashes."""

    peer: Index
    box: Annotated[bytes, Size(1, BOX)]
    s_hash: Digest
    b_hash: Digest


@dataclass(frozen=True)
class Boxes(Message):
    """Round 1, u → server: a box for every holder, a commitment to b, and the hash of every share, signed.

    ``own_hash`` is of the share of b that u keeps; empty on a sparse graph, where it keeps none.
    """

    boxes: Annotated[tuple[Box, ...], Count(1, PARTIES)]
    own_hash: Annotated[bytes, Size(0, 32)]
    commitment: Digest
    signature: Signature


@dataclass(frozen=True)
class Sealed(Message):
    """Round 1, server → u: U2 and the boxes addressed to u; on a sparse graph there may be none, and u leaves."""

    u2: Annotated[tuple[Index, ...], Count(2, PARTIES)]
    boxes: Annotated[tuple[Box, ...], Count(0, PARTIES)]


@dataclass(frozen=True)
class Masked(Message):
    """Round 2, u → server: y = x + PRG(b) ± Σ PRG(s_uv), and a signature over it, L, U2 and the accepted share hashes."""

    y: Annotated[Bulk, Raw("masked")]
    receipt: Digest
    signature: Signature


@dataclass(frozen=True, slots=True)
class Opening(Record):
    """One share of one secret of one party: of s_sk if it dropped, of b if not."""

    index: Index
    share: Annotated[bytes, Size(SHARE_SIZE)]


@dataclass(frozen=True)
class Openings(Message):
    """Round 4, u → server: exactly one share for every dealer whose shares u holds, signed."""

    shares: Annotated[tuple[Opening, ...], Count(1, PARTIES)]
    signature: Signature


# What is remembered


@dataclass(frozen=True)
class Invited(handshake.Invited[Parameters]):
    """A party that has been invited."""


@dataclass(frozen=True)
class Advertised:
    """Round 0 is out: the fresh key pairs."""

    invited: Invited
    c: agree.KeyPair
    s: agree.KeyPair


@dataclass(frozen=True)
class Shared:
    """Round 1 is out: all that the mask needs."""

    invited: Invited
    L: bytes
    entries: Mapping[int, Entry]
    c: agree.KeyPair
    s: agree.KeyPair
    b: Seed
    own_share: bytes | None = field(repr=False)


@dataclass(frozen=True)
class Held:
    """Shares held for one dealer; never both are opened, and never one's own s_sk (it is not kept).

    On a sparse graph a party holds none of its own.
    """

    s_share: bytes | None
    b_share: bytes

    def __repr__(self) -> str:
        return "Held([redacted])"


@dataclass(frozen=True)
class Covered:
    """Round 2 is out: keys, seed and input are forgotten; this type has no room for them."""

    invited: Invited
    L: bytes
    u2: tuple[int, ...]
    held: Mapping[int, Held]


@dataclass(frozen=True)
class Consenting:
    """Round 3 is out: one U3 was signed, and no other will be."""

    invited: Invited
    L: bytes
    u2: tuple[int, ...]
    u3: tuple[int, ...]
    held: Mapping[int, Held]


@dataclass(frozen=True)
class Finished:
    """The party is done and remembers nothing of the session."""

    me: int


@dataclass(frozen=True)
class Collecting:
    """Server: adverts come in."""

    terms: Terms
    adverts: handshake.Register[Advert] = field(default_factory=handshake.Register)


@dataclass(frozen=True)
class Relaying:
    """Server: boxes come in."""

    terms: Terms
    L: bytes
    adverts: Mapping[int, Advert]


@dataclass(frozen=True, slots=True)
class Pins:
    """What the server keeps of the boxes that it has relayed to a party: the hashes of their shares, which their dealers signed.

    Attributes:
        peers: the dealers, ascending.
        hashes: for each its s_hash and b_hash, 64 bytes.
    """

    peers: tuple[int, ...]
    hashes: bytes

    @classmethod
    def of(cls, boxes: Sequence[Box]) -> Pins:
        """Of the boxes for one party."""
        return cls(tuple([box.peer for box in boxes]), b"".join([box.s_hash + box.b_hash for box in boxes]))

    def __iter__(self) -> Iterator[tuple[int, bytes, bytes]]:
        for i, peer in enumerate(self.peers):
            yield peer, self.hashes[64 * i : 64 * i + 32], self.hashes[64 * i + 32 : 64 * i + 64]


@dataclass(frozen=True, slots=True)
class Pledge:
    """What the server keeps of a party's `Boxes`: its commitment to b, and the hash of the share that it kept itself."""

    commitment: bytes
    own_hash: bytes


@dataclass(frozen=True)
class Summing:
    """Server: masked vectors come in and are added at once; two vectors of memory, whatever n."""

    terms: Terms
    L: bytes
    adverts: Mapping[int, Advert]
    dealt: Mapping[int, Pledge]
    mail: Mapping[int, Pins]
    coverings: Mapping[int, Covering]
    total: Accumulator


@dataclass(frozen=True)
class Asking:
    """Server: the survivors agree on U3."""

    summing: Summing
    u3: tuple[int, ...]


@dataclass(frozen=True)
class Opened:
    """Server: shares come in."""

    summing: Summing
    u3: tuple[int, ...]
