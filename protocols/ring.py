"""The ring Z_2^b of the masked vectors: signed values in, b bits a value on the wire, sums out.

Source: Bonawitz et al., CCS 2017 (eprint 2017/281), section 4 (masked sums modulo R).  In memory a vector is uint32 for
b <= 32, else uint64, and arithmetic wraps; 2^b divides 2^32 and 2^64, so one reduction at the end of a sum is enough.

Packing.  L = 32 for b <= 32, else 64, is both the bits of a word and the number of lanes.  A vector is cut in blocks of
L·m values: full blocks have L·m = 262144; the last one, if values remain, has the smallest m that holds them and is
filled with zeros.  Lane j of a block is its values j·m to (j+1)·m.  The block's bytes are b planes of m little-endian
words: at position i of the lanes, the L values form a string of L·b bits, lane 0 lowest, and word i of plane w holds
its bits L·w to L·(w+1).  So every block has exactly b bits a value, is packed by shifts of whole lanes, and is decoded
from its own bytes alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse, Refused, require
from protocols.lanes import BLOCK, SMALL, SPARE, Piece, add_block, filling, pack_block, pieces, unpack_block, unweave, weave

Write = Callable[[int, NDArray[Any]], None]
"""Writes the values of a vector from a position on into an array."""
Read = Callable[[int, int], NDArray[np.int64]]
"""Gives so many values of a vector from a position on, to be read and not kept."""


class Group(Protocol):
    """What masked vectors are made of: `Ring`, or a field (`protocols.field.Field`)."""

    @property
    def bits(self) -> int:
        """Width of a value on the wire."""

    @property
    def dtype(self) -> type[np.uint32 | np.uint64]:
        """Type of a value in memory."""

    @property
    def modulus(self) -> int:
        """Number of elements."""

    @property
    def title(self) -> str:
        """The modulus as a formula."""

    def lift(self, values: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Signed integers as elements, in ``out`` if it is given; shape kept, dtype `dtype`."""

    def centre(self, vector: NDArray[Any]) -> NDArray[np.int64]:
        """Elements as signed integers around zero; shape kept."""

    def reduce(self, vector: NDArray[Any]) -> None:
        """Reduce ``vector`` in place."""

    def add_into(self, total: NDArray[Any], vector: NDArray[Any]) -> None:
        """``total`` + ``vector`` in place, reduced or not."""

    def packed_size(self, count: int) -> int:
        """Bytes of ``count`` packed values."""

    def pack(self, vector: NDArray[Any]) -> memoryview:
        """The bytes of ``vector``."""

    def pack_by(self, count: int, write: Write) -> memoryview:
        """The bytes of ``count`` values that ``write`` gives piece by piece."""

    def unpack(self, data: bytes | bytearray | memoryview, count: int) -> NDArray[Any]:
        """The ``count`` values packed in ``data``."""

    def unpacker(self, count: int) -> Unpacker:
        """Decodes ``count`` values that come in chunks."""


@dataclass(frozen=True)
class Ring:
    """The integers modulo 2^bits.

    Attributes:
        bits: width of a value, 2 to 64.

    Raises:
        Misuse: for another width.
    """

    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 64:
            raise Misuse(f"a ring has 2 to 64 bits, not {self.bits}")

    @property
    def dtype(self) -> type[np.uint32 | np.uint64]:
        """Type of a value in memory."""
        return np.uint32 if self.bits <= 32 else np.uint64

    @property
    def modulus(self) -> int:
        """2^bits."""
        return 1 << self.bits

    @property
    def title(self) -> str:
        """The modulus as a formula."""
        return f"2^{self.bits}"

    @property
    def half(self) -> int:
        """2^(bits-1): a sum of absolute value below it is decoded exactly."""
        return 1 << (self.bits - 1)

    @property
    def lanes(self) -> int:
        """Bits of a word in memory, and number of lanes of a packed block."""
        return 32 if self.bits <= 32 else 64

    def lift(self, values: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Signed integers as ring elements (two's complement), in ``out`` if it is given; shape kept, dtype `dtype`, reduced.

        Bounds are the encoder's business: a value outside the ring is reduced.

        Raises:
            Misuse: for another dtype than int64.
        """
        if values.dtype != np.int64:
            raise Misuse(f"values are lifted from int64, not {values.dtype}")
        lifted = np.empty(values.shape, dtype=self.dtype) if out is None else out
        np.copyto(lifted, values, casting="unsafe")
        self.reduce(lifted)
        return lifted

    def centre(self, vector: NDArray[Any]) -> NDArray[np.int64]:
        """Ring elements as signed integers in [-2^(bits-1), 2^(bits-1)); shape kept, reduced or not on entry."""
        self._check(vector)
        spare = self.lanes - self.bits
        signed = np.left_shift(vector, spare).view(np.int32 if self.lanes == 32 else np.int64)
        centred: NDArray[np.int64] = np.right_shift(signed, spare, out=signed).astype(np.int64, copy=False)
        return centred

    def reduce(self, vector: NDArray[Any]) -> None:
        """Reduce ``vector``, dtype `dtype`, modulo 2^bits in place."""
        self._check(vector)
        np.bitwise_and(vector, self.dtype(self.modulus - 1), out=vector)

    def add_into(self, total: NDArray[Any], vector: NDArray[Any]) -> None:
        """``total`` + ``vector`` in place; not reduced."""
        np.add(total, vector, out=total)

    def packed_size(self, count: int) -> int:
        """Bytes of ``count`` packed values."""
        return _packed_size(self.bits, self.lanes, count)

    def pack(self, vector: NDArray[Any]) -> memoryview:
        """The `packed_size` bytes of ``vector``, shape (d,), dtype `dtype`, each value taken modulo 2^bits; read-only."""
        self._check(vector)
        if vector.ndim != 1:
            raise Misuse(f"a packed vector has one dimension, not {vector.ndim}")
        return self.pack_by(vector.size, lambda start, out: np.copyto(out, vector[start : start + out.size]))

    def pack_by(self, count: int, write: Write) -> memoryview:
        """The `packed_size` bytes of ``count`` values, each taken modulo 2^bits; read-only.

        Args:
            count: number of values.
            write: called with a first position and an array, dtype `dtype`, for the values from there on, piece after piece; the
                array is used again for the next piece, so that the vector is never whole in memory.
        """
        packed = np.empty(self.packed_size(count), dtype=np.uint8)
        parts, used = pieces(count, self.lanes), 0
        scratch = np.empty(max((piece.padded for piece in parts), default=0), dtype=self.dtype)
        for piece in parts:
            values, size = scratch[: piece.padded], piece.padded * self.bits // 8
            write(piece.start, values[: piece.size])
            if piece.padded > piece.size:
                values[piece.size :] = 0
            self.reduce(values)
            pack_block(values.reshape(self.lanes, -1), self.bits, packed[used : used + size])
            used += size
        return packed.data.toreadonly()

    def unpack(self, data: bytes | bytearray | memoryview, count: int) -> NDArray[Any]:
        """The ``count`` values packed in ``data``, shape (count,), dtype `dtype`, below the modulus.

        Raises:
            Refused: ``vector-length`` if ``data`` has not `packed_size` bytes, ``vector-padding`` if the filling is not
                zero.
        """
        unpacker = self.unpacker(count)
        unpacker.feed(data)
        return unpacker.vector()

    def unpacker(self, count: int) -> Unpacker:
        """Decodes ``count`` packed values that come in chunks of any sizes."""
        return Unpacker(self, count)

    def _check(self, vector: NDArray[Any]) -> None:
        if vector.dtype != self.dtype:
            raise Misuse(f"a vector modulo 2^{self.bits} has dtype {np.dtype(self.dtype)}, not {vector.dtype}")


@lru_cache(maxsize=256)
def _packed_size(bits: int, lanes: int, count: int) -> int:
    full, rest = divmod(count, BLOCK)
    return (full * BLOCK // lanes + -(-rest // lanes)) * bits * lanes // 8


class Unpacker:
    """Decodes a packed vector that comes in chunks of any sizes; holds the vector and about 4 MiB at most beside it.

    Args:
        ring: the ring of the values.
        count: number of values.
    """

    __slots__ = ("_at", "_filled", "_left", "_pieces", "_ring", "_stage", "_vector")

    def __init__(self, ring: Ring, count: int) -> None:
        self._ring = ring
        self._pieces = pieces(count, ring.lanes)
        self._left = ring.packed_size(count)
        self._vector = np.empty(count, dtype=ring.dtype)
        self._stage = np.empty(max(map(self._bytes, self._pieces), default=0), dtype=np.uint8)
        self._at = self._filled = 0

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes.

        Raises:
            Refused: ``vector-length`` for more bytes than the vector has, of which none is taken; ``vector-padding`` if
                the filling of the last block is not zero, after which the vector is never done.
        """
        data = np.frombuffer(chunk, dtype=np.uint8) if len(chunk) else np.empty(0, dtype=np.uint8)
        require(data.size <= self._left, "vector-length", f"{data.size - self._left} bytes too many")
        while data.size:
            piece = self._pieces[self._at]
            taken = min(data.size, self._bytes(piece) - self._filled)
            self._stage[self._filled : self._filled + taken] = data[:taken]
            self._filled, data = self._filled + taken, data[taken:]
            if self._filled == self._bytes(piece):
                self._decode(piece)
                self._at, self._filled = self._at + 1, 0
            self._left -= taken

    @property
    def done(self) -> bool:
        """Whether the whole vector has come."""
        return self._left == 0

    def vector(self) -> NDArray[Any]:
        """The vector, shape (count,), dtype of the ring.

        Raises:
            Refused: ``vector-length`` unless it is `done`.
        """
        require(self.done, "vector-length", f"{self._left} bytes are missing")
        return self._vector

    def _bytes(self, piece: Piece) -> int:
        return piece.padded * self._ring.bits // 8

    def _decode(self, piece: Piece) -> None:
        ring = self._ring
        target = self._vector[piece.start : piece.start + piece.size]
        values = target if piece.padded == piece.size else np.empty(piece.padded, dtype=ring.dtype)
        unpack_block(self._stage[: self._filled], ring.bits, values.reshape(ring.lanes, -1))
        ring.reduce(values)
        if values is not target:
            require(not values[piece.size :].any(), "vector-padding", "the filling of the last block is not zero")
            target[:] = values[: piece.size]


PENDING = 2 * 2**20
"""Bytes of packed vectors that an `Accumulator` keeps before it adds them."""


class Accumulator:
    """The running sum of vectors; holds one vector, 128 KiB to unpack in, and packed vectors of up to `PENDING` bytes.

    Short packed vectors wait for others, so that a block of the sum is brought into the cache once for all of them.

    Args:
        ring: the ring of the values.
        size: number of values.
    """

    __slots__ = ("_pending", "_pieces", "_ring", "_size", "_spare", "_spent", "_sum", "_woven")

    def __init__(self, ring: Group, size: int) -> None:
        self._ring, self._size, self._spent = ring, size, False
        parts = pieces(size, ring.lanes) if isinstance(ring, Ring) else ()
        self._pieces = parts if parts and parts[0].padded > SMALL else ()
        self._woven = bool(self._pieces)
        self._sum = np.zeros(max(size, sum(piece.padded for piece in self._pieces)), dtype=ring.dtype)
        self._pending = list[NDArray[np.uint8]]()
        self._spare = np.empty(SPARE if self._pieces else 0, dtype=np.uint8).view(ring.dtype)

    def add(self, vector: NDArray[Any]) -> None:
        """Add ``vector``, shape (size,), dtype of the ring, reduced or not.

        Raises:
            Misuse: for another shape or dtype, or after `total`.
        """
        self._check_open()
        if vector.shape != (self._size,) or vector.dtype != self._sum.dtype:
            raise Misuse(f"the sum takes {self._sum.dtype}({self._size},), not {vector.dtype}{vector.shape}")
        self._stand(woven=False)
        self._ring.add_into(self._sum[: self._size], vector)

    def add_packed(self, data: bytes | bytearray | memoryview) -> None:
        """Add a packed vector that is here whole, as it is unpacked, now or later; if it is refused, nothing is added.

        Args:
            data: its bytes, which must not change.

        Raises:
            Refused: as `Ring.unpack`, or that of a field.
            Misuse: after `total`.
        """
        self._check_open()
        ring, size = self._ring, self._size
        if not isinstance(ring, Ring):
            self.add(ring.unpack(data, size))
            return
        whole = ring.packed_size(size)
        if len(data) != whole:
            raise Refused("vector-length", f"{len(data)} bytes where {whole} are needed")
        packed = np.frombuffer(data, dtype=np.uint8)
        if not self._pieces:
            values = np.empty(8 * whole // ring.bits, dtype=ring.dtype)
            unpack_block(packed, ring.bits, values.reshape(ring.lanes, -1))  # bits above a value's are left dirty
            if (values[size:] & ring.dtype(ring.modulus - 1)).any():
                raise Refused("vector-padding", "the filling of the last block is not zero")
            self.add(values[:size])
            return
        if (last := self._pieces[-1]).padded > last.size:
            tail = packed[whole - last.padded * ring.bits // 8 :]
            require(
                not filling(tail, ring.bits, last, self._sum.dtype).any(),
                "vector-padding",
                "the filling of the last block is not zero",
            )
        self._pending.append(packed)
        if (len(self._pending) + 1) * whole > PENDING:
            self._add_pending()

    def _add_pending(self) -> None:
        if not self._pending:
            return
        self._stand(woven=True)
        for start, _, padded in self._pieces:
            part = slice(start * self._ring.bits // 8, (start + padded) * self._ring.bits // 8)
            add_block(self._sum[start : start + padded], [packed[part] for packed in self._pending], self._ring.bits, self._spare)
        self._pending.clear()

    def _stand(self, *, woven: bool) -> None:
        """Put the lanes of the blocks in the order in which `add_block` adds to them, or back in their own."""
        if woven != self._woven:
            for start, _, padded in self._pieces:
                (weave if woven else unweave)(self._sum[start : start + padded], self._ring.bits)
            self._woven = woven

    def _check_open(self) -> None:
        if self._spent:
            raise Misuse("nothing is added after the total was taken")

    def total(self) -> NDArray[Any]:
        """The reduced sum, shape (size,), handed over without a copy."""
        self._spent = True
        self._add_pending()
        self._stand(woven=False)
        total = self._sum[: self._size]
        self._ring.reduce(total)
        return total
