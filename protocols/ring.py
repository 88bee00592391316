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
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse, require

_BLOCK = 256 * 1024  # values in a full block: long lanes, as each shift of a lane is one call
_SMALL = 8 * 1024  # values up to which few wide operations beat one a lane

Write = Callable[[int, NDArray[Any]], None]
"""Writes the values of a vector from a position on into an array."""


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
        full, rest = divmod(count, _BLOCK)
        return (full * _BLOCK // self.lanes + -(-rest // self.lanes)) * self.bits * self.lanes // 8

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
        pieces, used = _pieces(count, self.lanes), 0
        scratch = np.empty(max((piece.padded for piece in pieces), default=0), dtype=self.dtype)
        for piece in pieces:
            values, size = scratch[: piece.padded], piece.padded * self.bits // 8
            write(piece.start, values[: piece.size])
            values[piece.size :] = 0
            self.reduce(values)
            _pack_block(values.reshape(self.lanes, -1), self.bits, packed[used : used + size])
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


class Unpacker:
    """Decodes a packed vector that comes in chunks of any sizes; holds the vector and about 4 MiB at most beside it.

    Args:
        ring: the ring of the values.
        count: number of values.
    """

    __slots__ = ("_at", "_filled", "_left", "_pieces", "_ring", "_stage", "_vector")

    def __init__(self, ring: Ring, count: int) -> None:
        self._ring = ring
        self._pieces = _pieces(count, ring.lanes)
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

    def _bytes(self, piece: _Piece) -> int:
        return piece.padded * self._ring.bits // 8

    def _decode(self, piece: _Piece) -> None:
        ring = self._ring
        target = self._vector[piece.start : piece.start + piece.size]
        values = target if piece.padded == piece.size else np.empty(piece.padded, dtype=ring.dtype)
        _unpack_block(self._stage[: self._filled], ring.bits, values.reshape(ring.lanes, -1))
        ring.reduce(values)
        if values is not target:
            require(not values[piece.size :].any(), "vector-padding", "the filling of the last block is not zero")
            target[:] = values[: piece.size]


class Accumulator:
    """The running sum of vectors; holds one vector.

    Args:
        ring: the ring of the values.
        size: number of values.
    """

    __slots__ = ("_ring", "_spent", "_sum")

    def __init__(self, ring: Group, size: int) -> None:
        self._ring = ring
        self._sum = np.zeros(size, dtype=ring.dtype)
        self._spent = False

    def add(self, vector: NDArray[Any]) -> None:
        """Add ``vector``, shape (size,), dtype of the ring, reduced or not.

        Raises:
            Misuse: for another shape or dtype, or after `total`.
        """
        self._check_open()
        if vector.shape != self._sum.shape or vector.dtype != self._sum.dtype:
            raise Misuse(f"the sum takes {self._sum.dtype}{self._sum.shape}, not {vector.dtype}{vector.shape}")
        self._ring.add_into(self._sum, vector)

    def add_packed(self, data: bytes | bytearray | memoryview) -> None:
        """Add a packed vector that is here whole, as it is unpacked; if it is refused, nothing was added.

        Raises:
            Refused: as `Ring.unpack`, or that of a field.
            Misuse: after `total`.
        """
        self._check_open()
        ring, size = self._ring, self._sum.size
        if not isinstance(ring, Ring):
            ring.add_into(self._sum, ring.unpack(data, size))
            return
        whole = ring.packed_size(size)
        require(len(data) == whole, "vector-length", f"{len(data)} bytes where {whole} are needed")
        packed, pieces, used = np.frombuffer(data, dtype=np.uint8), _pieces(size, ring.lanes), 0
        if pieces and (last := pieces[-1]).padded > last.size:
            filling = _filling(packed[whole - last.padded * ring.bits // 8 :], ring, last)
            require(not np.count_nonzero(filling), "vector-padding", "the filling of the last block is not zero")
        for piece in pieces:
            end = used + piece.padded * ring.bits // 8
            _add_block(self._sum[piece.start : piece.start + piece.size], packed[used:end], ring.bits)
            used = end

    def _check_open(self) -> None:
        if self._spent:
            raise Misuse("nothing is added after the total was taken")

    def total(self) -> NDArray[Any]:
        """The reduced sum, shape (size,), handed over without a copy."""
        self._spent = True
        self._ring.reduce(self._sum)
        return self._sum


class _Piece(NamedTuple):
    """Values ``start`` to ``start + size`` of a vector: one block, of ``padded`` values."""

    start: int
    size: int
    padded: int


@lru_cache(maxsize=64)
def _pieces(count: int, lanes: int) -> tuple[_Piece, ...]:
    """A vector in full blocks, then the last one if it is not full."""
    full, rest = divmod(count, _BLOCK)
    pieces = [_Piece(i * _BLOCK, _BLOCK, _BLOCK) for i in range(full)]
    return (*pieces, *[_Piece(full * _BLOCK, rest, -(-rest // lanes) * lanes)] * (rest > 0))


class _Move(NamedTuple):
    """A lane's part in a plane: shifted ``left``, or ``right`` if it began in the plane before."""

    plane: int
    lane: int
    left: int
    right: int
    first: bool  # of the lanes in its plane


@lru_cache
def _moves(bits: int, word: int) -> tuple[_Move, ...]:
    moves = list[_Move]()
    for lane in range(word):
        plane, offset = divmod(lane * bits, word)
        moves.append(_Move(plane, lane, offset, 0, first=offset == 0))
        if offset + bits > word:
            moves.append(_Move(plane + 1, lane, 0, word - offset, first=True))
    return tuple(moves)


@lru_cache
def _shifts(lanes: int) -> list[NDArray[Any]]:
    return [np.array(by, dtype=f"u{lanes // 8}") for by in range(lanes)]  # cheaper operands than Python integers


class _Table(NamedTuple):
    """All moves of a width at once: by lane its first plane and shift, by plane its first lane, and the lanes that spill over."""

    plane: NDArray[np.intp]
    left: NDArray[Any]
    starts: NDArray[np.intp]
    lane_over: NDArray[np.intp]
    plane_over: NDArray[np.intp]
    right: NDArray[Any]


@lru_cache
def _table(bits: int, word: int) -> _Table:
    plane, left = np.divmod(np.arange(word) * bits, word)
    (over,) = np.nonzero(left + bits > word)
    left, right = (shift.astype(f"u{word // 8}")[:, None] for shift in (left, word - left[over]))
    return _Table(plane, left, np.searchsorted(plane, np.arange(bits)), over, plane[over] + 1, right)


def _pack_block(lanes: NDArray[Any], bits: int, out: NDArray[np.uint8]) -> None:
    """Pack ``lanes``, shape (L, m), values below 2^bits, into ``out``."""
    count = len(lanes)
    planes, shifts = out.view(lanes.dtype.newbyteorder("<")).reshape(bits, -1), _shifts(count)
    if lanes.size <= _SMALL:
        table = _table(bits, count)
        np.bitwise_or.reduceat(lanes << table.left, table.starts, axis=0, out=planes)
        planes[table.plane_over] |= lanes[table.lane_over] >> table.right
        return
    spill = np.empty_like(planes[0])
    for plane, lane, left, right, first in _moves(bits, count):
        target = planes[plane] if first else spill
        if right:
            np.right_shift(lanes[lane], shifts[right], target)
        else:
            np.left_shift(lanes[lane], shifts[left], target)
        if not first:
            np.bitwise_or(planes[plane], spill, planes[plane])


def _unpack_block(data: NDArray[np.uint8], bits: int, out: NDArray[Any]) -> None:
    """Unpack ``data`` into ``out``, shape (L, m); bits above the value's are left dirty."""
    count = len(out)
    planes, shifts = _planes(data, bits, out.dtype), _shifts(count)
    if out.size <= _SMALL:
        table = _table(bits, count)
        np.right_shift(planes[table.plane], table.left, out=out)
        out[table.lane_over] |= planes[table.plane_over] << table.right
        return
    spill = np.empty_like(out[0])
    for plane, lane, left, right, _ in _moves(bits, count):
        if right:
            np.left_shift(planes[plane], shifts[right], spill)
            np.bitwise_or(out[lane], spill, out[lane])
        else:
            np.right_shift(planes[plane], shifts[left], out[lane])


def _planes(data: NDArray[np.uint8], bits: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return data.view(dtype.newbyteorder("<")).reshape(bits, -1)


def _add_block(total: NDArray[Any], data: NDArray[np.uint8], bits: int) -> None:
    """Unpack ``data`` and add it to ``total``, shape (size,), lane by lane: what is unpacked stays in the nearest cache.

    Bits above a value's are left dirty: they are multiples of the modulus.  Of a lane that is cut in two both parts are added.
    """
    count = 8 * total.itemsize
    planes, shifts = list(_planes(data, bits, total.dtype)), _shifts(count)
    part = np.empty_like(planes[0], dtype=total.dtype)
    lanes = [total[at : at + part.size] for at in range(0, total.size, part.size)]
    short = len(lanes) - 1  # the last lane may be shorter, and some of few values empty
    for plane, lane, left, right, _ in _moves(bits, count):
        if lane > short:
            break
        if right:
            np.left_shift(planes[plane], shifts[right], part)
        else:
            np.right_shift(planes[plane], shifts[left], part)
        target = lanes[lane]
        np.add(target, part if lane < short else part[: target.size], target)


class _Gather(NamedTuple):
    """Where some values of a block lie: their plane, the next one, their position in both, and how these are shifted."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    at: NDArray[np.intp]
    right: NDArray[Any]
    left: NDArray[Any]


@lru_cache(maxsize=64)
def _gather(bits: int, word: int, size: int, padded: int) -> _Gather:
    lane, at = np.divmod(np.arange(size, padded), padded // word)
    plane, offset = np.divmod(lane * bits, word)
    dtype, over = f"u{word // 8}", offset + bits > word  # of a value in one plane the second part is shifted out of reach
    return _Gather(plane, plane + over, at, offset.astype(dtype), np.where(over, word - offset, bits).astype(dtype))


def _filling(data: NDArray[np.uint8], ring: Ring, piece: _Piece) -> NDArray[Any]:
    """The values of a packed block past the end of the vector; shape (padded − size,)."""
    planes, where = _planes(data, ring.bits, np.dtype(ring.dtype)), _gather(ring.bits, ring.lanes, piece.size, piece.padded)
    filling: NDArray[Any] = planes[where.low, where.at] >> where.right
    filling |= planes[where.high, where.at] << where.left
    return filling & ring.dtype(ring.modulus - 1)
