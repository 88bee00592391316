"""Packed vectors by lanes and planes: the shifts behind `protocols.ring`, whose docstring says how the bytes lie.

Channel assumed: none.  Bytes are unpacked as they come; what must be refused about them is refused by who asks for the values.

What it does not protect: anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from protocols.errors import require

BLOCK = 256 * 1024
"""Values in a full block: lanes are long, as each shift of a lane is one call."""
SMALL = 8 * 1024  # values up to which few wide operations beat one a lane
SPARE = 128 * 1024
"""Bytes that `add_block` unpacks at once: many lanes in one call, and still in cache."""


_ROW = 256  # numpy's buffer, in values, within `by_rows`; rows of as many or more are not copied


@contextmanager
def by_rows() -> Iterator[None]:
    """Within, passes over arrays with gaps, or with one row for many, go row by row: numpy copies rows shorter than its buffer."""
    with np.errstate():  # which has numpy's buffer as it was, at its end
        np.setbufsize(_ROW)
        yield


class Piece(NamedTuple):
    """Values ``start`` to ``start + size`` of a vector: one block, of ``padded`` values."""

    start: int
    size: int
    padded: int


@lru_cache(maxsize=64)
def pieces(count: int, lanes: int) -> tuple[Piece, ...]:
    """A vector in full blocks, then the last one if it is not full."""
    full, rest = divmod(count, BLOCK)
    out = [Piece(i * BLOCK, BLOCK, BLOCK) for i in range(full)]
    return (*out, *[Piece(full * BLOCK, rest, -(-rest // lanes) * lanes)] * (rest > 0))


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


class _Part(NamedTuple):
    """The k-th lanes of all planes that have so many: the lane and how far it is shifted, by plane; ``planes`` None for all."""

    planes: NDArray[np.intp] | None
    lanes: NDArray[np.intp]
    shift: NDArray[Any]


@lru_cache
def _parts(bits: int, word: int) -> tuple[_Part, ...]:
    """What planes are made of: their first lanes, which are shifted right, then the others, shifted left."""
    begin, out = np.arange(bits) * word, list[_Part]()
    for lane in (begin // bits + k for k in range(word)):
        place = lane * bits - begin
        (planes,) = np.nonzero(place < word)
        if not planes.size:
            break
        shift = np.abs(place[planes]).astype(f"u{word // 8}")[:, None]
        out.append(_Part(None if planes.size == bits else planes, lane[planes], shift))
    return tuple(out)


class _Spread(NamedTuple):
    """By lane, its first plane and the shift there, the next plane and the shift there."""

    plane: NDArray[np.intp]
    right: NDArray[Any]
    after: NDArray[np.intp]
    left: NDArray[Any]


@lru_cache
def _spread(bits: int, word: int) -> _Spread:
    plane, right = np.divmod(np.arange(word) * bits, word)
    left = np.where(right > 0, word - right, bits % word)  # where a lane ends in its first plane, above its bits
    right, left = (shift.astype(f"u{word // 8}")[:, None] for shift in (right, left))
    return _Spread(plane, right, np.minimum(plane + 1, bits - 1), left)


@lru_cache
def _cycle(bits: int, word: int) -> tuple[_Move, ...]:
    """The moves of the first lanes that fill whole planes; the same ones follow for the next lanes."""
    return tuple(move for move in _moves(bits, word) if move.lane < word // math.gcd(bits, word))


def _cycles(rows: NDArray[Any], bits: int, word: int) -> NDArray[Any]:
    """Lanes or planes, shape (r, m), as (g, r/g, m): g groups that have the same moves."""
    groups = math.gcd(bits, word)
    return rows.reshape(groups, len(rows) // groups, -1)


def pack_block(lanes: NDArray[Any], bits: int, out: NDArray[np.uint8]) -> None:
    """Pack ``lanes``, shape (L, m), values below 2^bits, into ``out``."""
    word = len(lanes)
    planes, shifts = out.view(lanes.dtype.newbyteorder("<")).reshape(bits, -1), _shifts(word)
    if lanes.size <= SMALL:
        whole, *others = _parts(bits, word)
        np.right_shift(lanes.take(whole.lanes, 0), whole.shift, planes)
        for part in others:
            shifted = lanes.take(part.lanes, 0)
            shifted <<= part.shift
            if part.planes is None:
                planes |= shifted
            else:
                planes[part.planes] |= shifted
        return
    lanes, planes = _cycles(lanes, bits, word), _cycles(planes, bits, word)
    spill = np.empty(planes[:, 0].shape, planes.dtype)
    with by_rows():
        for plane, lane, left, right, first in _cycle(bits, word):
            target = planes[:, plane] if first else spill
            if right:
                np.right_shift(lanes[:, lane], shifts[right], target)
            else:
                np.left_shift(lanes[:, lane], shifts[left], target)
            if not first:
                np.bitwise_or(planes[:, plane], spill, planes[:, plane])


def unpack_block(data: NDArray[np.uint8], bits: int, out: NDArray[Any]) -> None:
    """Unpack ``data`` into ``out``, shape (L, m); bits above the value's are left dirty."""
    word = len(out)
    planes, shifts = _planes(data, bits, out.dtype), _shifts(word)
    if out.size <= SMALL:
        spread = _spread(bits, word)
        np.right_shift(planes.take(spread.plane, 0), spread.right, out)
        if bits < word:
            out |= planes.take(spread.after, 0) << spread.left
        return
    out, planes = _cycles(out, bits, word), _cycles(planes, bits, word)
    spill = np.empty(out[:, 0].shape, out.dtype)
    with by_rows():
        for plane, lane, left, right, _ in _cycle(bits, word):
            if right:
                np.left_shift(planes[:, plane], shifts[right], spill)
                np.bitwise_or(out[:, lane], spill, out[:, lane])
            else:
                np.right_shift(planes[:, plane], shifts[left], out[:, lane])


def _planes(data: NDArray[np.uint8], bits: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return data.view(dtype.newbyteorder("<")).reshape(bits, -1)


class Weave(NamedTuple):
    """How the lanes of a block are kept while vectors are added up.

    In each cycle of planes the lanes that are cut in two stand first: the c-th begins in plane c and ends in plane c + 1, so that
    many are shifted and added in one call.  The other lanes follow.

    Attributes:
        right: how far the first part of each cut lane is shifted; shape (cut, 1).
        left: the same of its second part.
        whole: of each other lane, its plane and its shift.
        order: where each lane of a cycle stands.
    """

    right: NDArray[Any]
    left: NDArray[Any]
    whole: tuple[tuple[int, int], ...]
    order: NDArray[np.intp]


@lru_cache
def _weave(bits: int, word: int) -> Weave:
    groups, dtype = math.gcd(bits, word), f"u{word // 8}"
    planes = bits // groups
    cut = [c * word // bits for c in range(1, planes)]  # the lanes across the ends of all planes but the last
    whole = [lane for lane in range(word // groups) if lane not in cut]
    right = np.array([lane * bits - c * word for c, lane in enumerate(cut)], dtype=dtype)[:, None]
    left = (word - right).astype(dtype)
    return Weave(right, left, tuple(divmod(lane * bits, word) for lane in whole), np.argsort([*cut, *whole]))


@by_rows()
def add_block(woven: NDArray[Any], blocks: Sequence[NDArray[np.uint8]], bits: int, spare: NDArray[Any]) -> None:
    """Unpack a block of each of some vectors and add them to ``woven``, whose lanes stand as `Weave` says until `unweave`.

    Bits above a value's are left dirty: they are multiples of the modulus.  Of a lane that is cut in two both parts are added; the
    second ones, which end up at its top, are added up before they are shifted there.

    Args:
        woven: the block's sum so far, shape (padded,).
        blocks: the packed blocks, one or more.
        bits: width of a value.
        spare: room for what is unpacked, shape (`SPARE` bytes,) of the same dtype.
    """
    word = 8 * woven.itemsize
    lanes = _cycles(woven.reshape(word, -1), bits, word)
    planes = [_cycles(_planes(data, bits, woven.dtype), bits, word) for data in blocks]
    step = max(1, spare.size // lanes.shape[2])
    for at in range(0, len(lanes), step):
        _add_cycles(lanes[at : at + step], [each[at : at + step] for each in planes], _weave(bits, word), spare)


def _add_cycles(lanes: NDArray[Any], planes: Sequence[NDArray[Any]], weave: Weave, spare: NDArray[Any]) -> None:
    """Add some cycles: lanes, and planes of each vector, have the shape (cycles, lanes or planes of one, m)."""
    cycles, _, long = lanes.shape
    cut, step, shifts = len(weave.right), max(1, spare.size // (cycles * long)), _shifts(8 * lanes.itemsize)
    for at in range(0, cut, step):
        end = min(cut, at + step)
        part, target = spare[: cycles * (end - at) * long].reshape(cycles, end - at, long), lanes[:, at:end]
        for each in planes:
            np.right_shift(each[:, at:end], weave.right[at:end], part)
            np.add(target, part, target)
        tops, first = part, planes[0][:, at + 1 : end + 1]
        for each in planes[1:]:
            first = np.add(first, each[:, at + 1 : end + 1], tops)
        np.left_shift(first, weave.left[at:end], tops)
        np.add(target, tops, target)
    shifted = spare[: cycles * long].reshape(cycles, long)
    for lane, (plane, shift) in enumerate(weave.whole, cut):
        for each in planes:
            values = np.right_shift(each[:, plane], shifts[shift], shifted) if shift else each[:, plane]
            np.add(lanes[:, lane], values, lanes[:, lane])


def weave(block: NDArray[Any], bits: int) -> None:
    """Put the lanes of a block's sum where `add_block` wants them."""
    lanes, order = _lanes(block, bits)
    lanes[:] = lanes[:, np.argsort(order)]


def unweave(woven: NDArray[Any], bits: int) -> None:
    """Put the lanes of a block's sum back in their order."""
    lanes, order = _lanes(woven, bits)
    lanes[:] = lanes[:, order]


def _lanes(block: NDArray[Any], bits: int) -> tuple[NDArray[Any], NDArray[np.intp]]:
    word = 8 * block.itemsize
    return _cycles(block.reshape(word, -1), bits, word), _weave(bits, word).order


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


def filling(data: NDArray[np.uint8], bits: int, piece: Piece, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values of a packed block past the end of the vector; shape (padded − size,)."""
    word, count = dtype.newbyteorder("<"), piece.padded - piece.size
    if count <= piece.padded // (8 * word.itemsize):  # all in the last lane, which is the top of the last plane
        top: NDArray[Any] = data[-count * word.itemsize :].view(word) >> dtype.type(8 * word.itemsize - bits)
        return top
    where = _gather(bits, 8 * dtype.itemsize, piece.size, piece.padded)
    planes = _planes(data, bits, dtype)
    out: NDArray[Any] = planes[where.low, where.at] >> where.right
    out |= planes[where.high, where.at] << where.left
    np.bitwise_and(out, dtype.type(2**bits - 1), out=out)
    return out


def columns(rows: Sequence[bytes | memoryview], bits: int, count: int, most: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Several packed vectors, a few lanes at a time, so that what is unpacked stays in cache and every shift is one run.

    Args:
        rows: the packed bytes of every vector, each of the right length.
        bits: width of a value.
        count: values of a vector.
        most: values of a vector that are unpacked at once, rounded down to whole lanes; at least one lane.

    Yields:
        The first column, and the values from there on, the filling of the last block included: shape (lanes, rows, m), uint32 or
        uint64; valid until the next is asked for.

    Raises:
        Refused: ``vector-padding`` if the filling of a vector is not zero.
    """
    word = 32 if bits <= 32 else 64
    dtype, used, views = np.dtype(f"u{word // 8}"), 0, [memoryview(row) for row in rows]
    for piece in pieces(count, word):
        long, step = piece.padded // word, max(1, min(word, most * word // piece.padded))
        out, spill = np.empty((step, len(rows), long), dtype=dtype), np.empty((len(rows), long), dtype=dtype)
        end = used + piece.padded * bits // 8
        for lane in range(0, word, step):
            lanes = out[: min(step, word - lane)]
            _unpack_lanes([view[used:end] for view in views], bits, lane, lanes, spill)
            if (start := piece.start + lane * long) < count:
                yield start, lanes
            _check_filling(lanes, count - start)
        used = end


def _unpack_lanes(rows: Sequence[bytes | memoryview], bits: int, lane: int, out: NDArray[Any], spill: NDArray[Any]) -> None:
    """Unpack the lanes from ``lane`` on of one block of every row into ``out``, shape (lanes, rows, m)."""
    word, (lanes, count, long) = 8 * out.itemsize, out.shape
    first, last, size = lane * bits // word, -(-(lane + lanes) * bits // word), long * out.itemsize
    data = b"".join([row[plane * size : (plane + 1) * size] for plane in range(first, last) for row in rows])
    planes = np.frombuffer(data, dtype=out.dtype.newbyteorder("<")).reshape(last - first, count, long)
    moves, shifts = _moves(bits, word), _shifts(word)
    for move in moves[_first_move(bits, word, lane) : _first_move(bits, word, lane + lanes)]:
        if move.right:
            np.left_shift(planes[move.plane - first], shifts[move.right], spill)
            np.bitwise_or(out[move.lane - lane], spill, out[move.lane - lane])
        else:
            np.right_shift(planes[move.plane - first], shifts[move.left], out[move.lane - lane])
    np.bitwise_and(out, out.dtype.type(2**bits - 1), out)


def _check_filling(values: NDArray[Any], wanted: int) -> None:
    """Refuse lanes with something in them beyond their first ``wanted`` values."""
    lanes, _, long = values.shape
    if wanted < lanes * long:
        lane, within = divmod(max(0, wanted), long)
        filled = values[lane + 1 :].any() or (lane < lanes and values[lane, :, within:].any())
        require(not filled, "vector-padding", "the filling of the last block is not zero")


@lru_cache
def _first_move(bits: int, word: int, lane: int) -> int:
    """Where the moves of a lane begin."""
    return sum(move.lane < lane for move in _moves(bits, word))
