"""Messages and states of the homomorphic sums (`protocols.he`): what travels, and what is remembered.

A state's type has room for what its party may still know, and for nothing else; no state of the server has room for a key.
Symbols as in `protocols.he`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from protocols import handshake
from protocols.bulk import Bulk
from protocols.he_parameters import HeParameters
from protocols.lightsecagg_types import KeyAdvert, KeyEntry
from protocols.primitives import agree, seal
from protocols.primitives.homomorphic import Adder
from protocols.rand import Seed
from protocols.schema import PARTIES, Count, Digest, Index, Message, Raw, Record, Signature, Size
from protocols.suite import Terms

BOX = 2 * 4 + 32 + seal.OVERHEAD
"""Bytes of a box: both ids and a seed, sealed."""

# What travels


@dataclass(frozen=True)
class SeedBox(Record):
    """A seed of the common key, sealed for, or by, a peer."""

    peer: Index
    box: Annotated[bytes, Size(BOX)]


@dataclass(frozen=True)
class Dealt(Message):
    """Round 1, u → server: u's seed of the common key, sealed for every other party, and a commitment to it, signed."""

    boxes: Annotated[tuple[SeedBox, ...], Count(1, PARTIES)]
    commitment: Digest
    signature: Signature


@dataclass(frozen=True)
class Committed(Record):
    """A dealer's commitment to its seed."""

    peer: Index
    commitment: Digest


@dataclass(frozen=True)
class Delivered(Message):
    """Round 1, server → u: U2, and the boxes and commitments of the others."""

    u2: Annotated[tuple[Index, ...], Count(2, PARTIES)]
    boxes: Annotated[tuple[SeedBox, ...], Count(1, PARTIES)]
    commitments: Annotated[tuple[Committed, ...], Count(1, PARTIES)]


@dataclass(frozen=True)
class Upload(Message):
    """Round 2, u → server: the encrypted vector, and a signature over its digests, L and U2."""

    seeds: Annotated[Bulk, Raw("seeds")]
    words: Annotated[Bulk, Raw("words")]
    signature: Signature


@dataclass(frozen=True)
class Summed(Message):
    """Round 4, server → the openers: the sum of the ciphertexts of U3."""

    total: Annotated[Bulk, Raw("total")]


@dataclass(frozen=True)
class Decrypted(Message):
    """Round 4, opener → server: the sum in clear, with the coordinate that counts, and a signature over it, L and U3."""

    values: Annotated[Bulk, Raw("opened")]
    signature: Signature


# What is remembered


@dataclass(frozen=True)
class Invited(handshake.Invited[HeParameters]):
    """A party that has been invited."""


@dataclass(frozen=True)
class Advertised:
    """Round 0 is out: the fresh key pair."""

    invited: Invited
    c: agree.KeyPair


@dataclass(frozen=True)
class Shared:
    """Round 1 is out: the key that opens boxes, and the own seed of the common key."""

    invited: Invited
    L: bytes
    entries: Mapping[int, KeyEntry]
    c: agree.KeyPair
    seed: Seed


@dataclass(frozen=True)
class Encrypted:
    """Round 2 is out: key pair, seeds and input are forgotten; the common key stays until it is known who opens."""

    invited: Invited
    L: bytes
    u2: tuple[int, ...]
    key: Seed


@dataclass(frozen=True)
class Consenting:
    """Round 3 is out: one U3 was signed, and no other will be."""

    invited: Invited
    L: bytes
    u3: tuple[int, ...]
    key: Seed


@dataclass(frozen=True)
class Waiting:
    """U3 is agreed on.  Who opens keeps the common key; the others have no key and wait for nothing."""

    invited: Invited
    L: bytes
    u3: tuple[int, ...]
    key: Seed | None


@dataclass(frozen=True)
class Finished:
    """The party is done and remembers nothing of the session."""

    me: int


@dataclass(frozen=True)
class Collecting:
    """Server: adverts come in."""

    terms: Terms[HeParameters]
    adverts: handshake.Register[KeyAdvert] = field(default_factory=handshake.Register)


@dataclass(frozen=True)
class Relaying:
    """Server: boxes come in."""

    terms: Terms[HeParameters]
    L: bytes
    adverts: Mapping[int, KeyAdvert]


@dataclass(frozen=True)
class Summing:
    """Server: encrypted vectors come in and are added at once."""

    terms: Terms[HeParameters]
    L: bytes
    u2: tuple[int, ...]
    total: Adder


@dataclass(frozen=True)
class Asking:
    """Server: the survivors agree on U3."""

    summing: Summing
    u3: tuple[int, ...]


@dataclass(frozen=True)
class Opening:
    """Server: the openers decrypt."""

    terms: Terms[HeParameters]
    L: bytes
    u3: tuple[int, ...]
