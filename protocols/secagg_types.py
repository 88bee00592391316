"""Messages and states of SecAgg (`protocols.secagg`): what travels, and what is remembered.

A state's type has room for what its party may still know, and for nothing else.  Symbols as in `protocols.secagg`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from protocols import handshake
from protocols.agreement import Covering
from protocols.bulk import Bulk
from protocols.primitives import agree, seal
from protocols.primitives.shamir import SHARE_SIZE
from protocols.rand import Seed
from protocols.ring import Accumulator
from protocols.schema import PARTIES, Count, Digest, Index, Message, PublicKey, Raw, Record, Signature, Size, Strings
from protocols.secagg_parameters import Parameters
from protocols.suite import Terms

BOX = 2 * 4 + 2 * SHARE_SIZE + seal.OVERHEAD
"""Bytes of a box: both ids, a share of s_sk, a share of b, sealed."""
PINS = 2 * 32
"""Bytes of the hashes of both shares in a box, that of s_sk first."""

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


@dataclass(frozen=True)
class Boxes(Message):
    """Round 1, u → server: a box for every holder but itself, a commitment to b, and the hash of every share, signed.

    Attributes:
        boxes: the boxes one after the other; whose each is follows from the list and the graph, in ascending order.
        hashes: `PINS` bytes for each box, in the same order.
        own_hash: of the share of b that u keeps; empty on a sparse graph, where it keeps none.
        commitment: to b.
        signature: over the commitment and all hashes.
    """

    boxes: Annotated[bytes, Strings(BOX, 1, PARTIES)]
    hashes: Annotated[bytes, Strings(PINS, 1, PARTIES)]
    own_hash: Annotated[bytes, Size(0, 32)]
    commitment: Digest
    signature: Signature


@dataclass(frozen=True)
class Sealed(Message):
    """Round 1, server → u: U2 and the boxes addressed to u; on a sparse graph there may be none, and u leaves.

    Attributes:
        u2: who dealt.
        boxes: one from each member of U2 whose shares u holds, but itself, ascending.
        hashes: `PINS` bytes for each.
    """

    u2: Annotated[tuple[Index, ...], Count(2, PARTIES)]
    boxes: Annotated[bytes, Strings(BOX, 0, PARTIES)]
    hashes: Annotated[bytes, Strings(PINS, 0, PARTIES)]


@dataclass(frozen=True)
class Masked(Message):
    """Round 2, u → server: y = x + PRG(b) ± Σ PRG(s_uv), and a signature over it, L, U2 and the accepted share hashes."""

    y: Annotated[Bulk, Raw("masked")]
    receipt: Digest
    signature: Signature


@dataclass(frozen=True)
class Openings(Message):
    """Round 4, u → server: exactly one share for every dealer in U2 whose shares u holds, ascending, signed.

    Of s_sk if the dealer dropped, of b if not.
    """

    shares: Annotated[bytes, Strings(SHARE_SIZE, 1, PARTIES)]
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
class Unsealed:
    """The boxes are open: all that one mask needs.

    Attributes:
        invited: who masks, under the terms of the one sum.
        L: hash of the list.
        u2: who dealt, and is to be in the sum.
        s: the pair for the masks of this sum.
        b: the seed of the second mask.
        s_pks: public keys for masks, of each member of U2 with whom it exchanged shares.
        held: shares of the secrets of this sum, by dealer.
        receipt: hash of the share hashes that they matched.
    """

    invited: Invited
    L: bytes
    u2: tuple[int, ...]
    s: agree.KeyPair
    b: Seed
    s_pks: Mapping[int, bytes]
    held: Mapping[int, Held]
    receipt: bytes


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
    near: Mapping[int, NDArray[np.int16]]
    """For each member of the list with whom it exchanges shares, ascending."""


@dataclass(frozen=True, slots=True)
class Pledge:
    """What the server keeps of a party's `Boxes`: all that it signed, the hash of its share hashes in their place."""

    commitment: bytes
    own_hash: bytes
    hashed: bytes
    signature: bytes


@dataclass(frozen=True)
class Summing:
    """Server: masked vectors come in and are added at once; two vectors of memory, whatever n.

    Attributes:
        terms: of the sum.
        L: hash of the list.
        s_pks: public keys for masks, of its members.
        u2: who dealt.
        dealt: what each of them pledged.
        near: for each of them the others of U2 with whom it exchanged shares, ascending.
        mail: for each the hashes of the shares that it was relayed, which their dealers signed: `PINS` bytes for each of ``near``.
        coverings: what came with each vector; grows with each.
        total: the sum so far.
    """

    terms: Terms
    L: bytes
    s_pks: Mapping[int, bytes]
    u2: tuple[int, ...]
    dealt: Mapping[int, Pledge]
    near: Mapping[int, NDArray[np.int16]]
    mail: Mapping[int, bytes]
    coverings: dict[int, Covering]
    total: Accumulator


@dataclass(frozen=True)
class Asking:
    """Server: the survivors agree on U3."""

    summing: Summing
    u3: tuple[int, ...]


@dataclass(frozen=True)
class Opened:
    """Server: shares come in; who agreed is remembered for the case that too few open."""

    summing: Summing
    u3: tuple[int, ...]
    said: Mapping[int, bytes]
