"""Matrix products modulo 2^31 − 1 or 2^61 − 1, exact, through float64 BLAS.

Factors are split into limbs small enough for every sum of products to stay below 2^53, where float64 is exact.  Columns and
inner dimension are walked in blocks, in buffers that are used again: beside the result little memory is needed, and little is asked
of the operating system, whatever the length of the vectors.

Channel assumed: none.

What it does not protect: anything; it computes (`protocols.field`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import require
from protocols.lanes import columns

COLUMNS = 4096
"""Columns of a product that are formed at once."""


@dataclass(frozen=True)
class Split:
    """How factors are cut for float64: limbs of so many bits, and inner terms of a matrix product that may be added."""

    limb: int
    terms: int


SPLITS = {31: Split(16, 127), 61: Split(21, 2048)}
"""By bits of the modulus.  Modulo 2^31 − 1 the right factor of a matrix product is taken whole (`_Narrow`)."""


@dataclass(frozen=True)
class PackedRows:
    """The rows of a right factor, as their packed bytes (`protocols.ring`): unpacked where they are used, never whole in memory.

    Attributes:
        rows: the packed bytes of every row, each of the right length.
        count: values of a row.
    """

    rows: Sequence[bytes | memoryview]
    count: int


Right = NDArray[Any] | Sequence[NDArray[Any]] | PackedRows
"""A right factor: shape (u, c), or its u rows of shape (c,) wherever they lie, or packed."""


def _blocks(right: Right, bits: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """The columns, some at a time: the first one, and values of shape (rows, lanes, m); of packed rows also filling at the end."""
    match right:
        case PackedRows(rows, count):
            for start, values in columns(rows, bits, count, 2 * COLUMNS):
                require(int(values.max()) < 2**bits - 1, "field-range", f"a value is not below {2**bits - 1}")
                yield start, values.transpose(1, 0, 2)
        case np.ndarray():
            yield from ((at, right[:, None, at : at + COLUMNS]) for at in range(0, right.shape[1], COLUMNS))
        case _:
            whole = np.empty((len(right), min(COLUMNS, right[0].size)), dtype=right[0].dtype)
            for at in range(0, right[0].size, COLUMNS):
                some = whole[:, : right[0].size - at]
                yield at, np.stack([row[at : at + COLUMNS] for row in right], out=some)[:, None]


def product(bits: int, left: NDArray[Any], right: Right) -> NDArray[Any]:
    """The product of ``left``, shape (r, u), and ``right``; shape (r, c), dtype of ``left``.

    Raises:
        Refused: ``vector-padding`` or ``field-range`` for packed rows that hold something else than field elements.
    """
    (rows, inner), terms, kind = left.shape, SPLITS[bits].terms, _Narrow if bits == 31 else _Wide
    count = right.count if isinstance(right, PackedRows) else right[0].size
    factors = [kind(bits, left[:, k : k + terms]) for k in range(0, inner, terms)]
    out = np.empty((rows, count), dtype=left.dtype)
    for start, values in _blocks(right, bits):
        target = out[:, start : start + values.shape[1] * values.shape[2]]
        factors[0].times(values[:terms], target)
        for k, factor in enumerate(factors[1:], 1):
            part = np.empty_like(target)
            factor.times(values[k * terms : (k + 1) * terms], part)
            np.add(target, part, out=target)
            np.minimum(target, target - target.dtype.type(2**bits - 1), out=target)  # wraps below zero
    return out


class _Narrow:
    """Some columns of a left factor modulo 2^31 − 1, by blocks of a right one, in buffers that are used again.

    A right block is taken whole, moved down by 2^30 where more terms are added than stay exact as they are; what that takes away
    is added to the result, and with it a multiple of q that keeps everything above zero.
    """

    def __init__(self, bits: int, left: NDArray[Any]) -> None:
        limb, self._q, (self._rows, self._terms) = SPLITS[bits].limb, 2**bits - 1, left.shape
        self._limb, self._bits = limb, bits
        self._left = np.concatenate([left >> limb, left & left.dtype.type(2**limb - 1)]).astype(np.float64)
        self._moved = float(2 ** (bits - 1)) if self._terms << (limb + bits) > 2**53 else 0.0
        moved = [sum(row) * int(self._moved) % self._q for row in left.tolist()]
        self._back = np.array(moved, dtype=np.int64)[:, None] + (self._q << 22)
        self._right, self._sums, self._whole = np.empty(0), np.empty(0), np.empty(0, dtype=np.int64)

    def times(self, right: NDArray[Any], out: NDArray[Any]) -> None:
        """The first columns of the product with values of shape (terms, lanes, m), into ``out``, shape (rows, up to lanes·m)."""
        width, rows, q = right.shape[1] * right.shape[2], self._rows, self._q
        if self._right.size < self._terms * width:
            self._right, self._sums = np.empty(self._terms * width), np.empty(2 * rows * width)
            self._whole = np.empty(3 * rows * width, dtype=np.int64)
        x = self._right[: self._terms * width].reshape(right.shape)
        np.copyto(x, right.view(np.int32))  # below 2^31, and cheaper to convert than uint32
        if self._moved:
            x -= self._moved
        sums = self._sums[: 2 * rows * width].reshape(2 * rows, width)
        np.matmul(self._left, x.reshape(self._terms, width), out=sums)
        whole = self._whole[: 3 * rows * width].reshape(3 * rows, width)
        np.copyto(whole[: 2 * rows], sums, casting="unsafe")
        high, low, spare = whole[:rows], whole[rows : 2 * rows], whole[2 * rows :]
        _fold(high, spare, self._bits, q)
        high <<= self._limb
        high += low
        high += self._back
        _fold(high, spare, self._bits, q)  # below q + 2^24
        np.copyto(out, high[:, : out.shape[1]], casting="unsafe")
        np.minimum(out, out - out.dtype.type(q), out=out)  # wraps below zero


def _fold(values: NDArray[np.int64], spare: NDArray[np.int64], bits: int, q: int) -> None:
    """Add what is above 2^bits to what is below, in place: the same modulo q, and close to [0, q]."""
    np.right_shift(values, bits, out=spare)
    values &= q
    values += spare


class _Wide:
    """The same modulo 2^61 − 1: three limbs on either side."""

    def __init__(self, bits: int, left: NDArray[Any]) -> None:
        self._bits, self._limb, self._left = bits, SPLITS[bits].limb, limbs(bits, left)

    def times(self, right: NDArray[Any], out: NDArray[Any]) -> None:
        """Limb products by powers of 2^limb, highest first (Horner)."""
        a, b = self._left, limbs(self._bits, right.reshape(len(right), -1))
        total = np.zeros((len(a[0]), b[0].shape[1]), dtype=np.int64)
        for power in reversed(range(2 * len(a) - 1)):
            total = shifted(total, self._limb, self._bits)
            for i in range(max(0, power - len(a) + 1), min(len(a), power + 1)):
                total += (a[i] @ b[power - i]).astype(np.int64)
            settle(total, self._bits)
        np.copyto(out, total[:, : out.shape[1]], casting="unsafe")


def dots(bits: int, rows: NDArray[Any], vectors: NDArray[Any]) -> NDArray[Any]:
    """The dot products of ``rows``, shape (m, c), with ``vectors``, shape (v, c): shape (m, v), dtype of ``rows``."""
    size = SPLITS[bits].limb
    longest = 2 ** (53 - 2 * size)
    sums = [np.zeros((len(rows), len(vectors)), dtype=np.int64) for _ in range(2 * -(-bits // size) - 1)]
    for start in range(0, rows.shape[1], longest):
        a, b = limbs(bits, rows[:, start : start + longest]), limbs(bits, vectors[:, start : start + longest])
        for i, one in enumerate(a):
            for j, other in enumerate(b):
                sums[i + j] += (one @ other.T).astype(np.int64)
                settle(sums[i + j], bits)
    total = sums[-1]
    for lower in reversed(sums[:-1]):
        total = shifted(total, size, bits) + lower
        settle(total, bits)
    return total.astype(rows.dtype)


def limbs(bits: int, matrix: NDArray[Any]) -> list[NDArray[np.float64]]:
    """The digits of every value modulo 2^bits − 1 to the base 2^limb (`SPLITS`), lowest first; shape kept."""
    size, kind = SPLITS[bits].limb, matrix.dtype.type
    return [(matrix >> kind(at) & kind(2**size - 1)).astype(np.float64) for at in range(0, bits, size)]


def shifted(values: NDArray[np.int64], by: int, bits: int) -> NDArray[np.int64]:
    """values·2^by mod q for values in [0, q): a rotation of their bits; below 2^bits.  ``values`` are used up."""
    high = values >> (bits - by)
    values <<= by
    values &= 2**bits - 1
    values += high
    return values


def settle(values: NDArray[np.int64], bits: int) -> None:
    """Reduce signed integers of absolute value below 2^62 into [0, q), in place."""
    q = 2**bits - 1
    for _ in range(2 if bits == 31 else 1):
        high = values >> bits
        values &= q
        values += high
    values += (values >> 63) & q
    values -= ((q - 1 - values) >> 63) & q
