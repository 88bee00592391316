"""Whether two tables hold the same rows: a digest that the order of rows and columns, and the units of columns, do not change.

Of a column only the order of its values counts, up or down; of texts which rows share one.  Hence a table has the same digest with
columns in another order, with one in another unit, with an increasing function of one, with another one as the label, with one
twice or with a constant one.  Each column is ranked, columns are sorted by how often each rank occurs, the ranks of a row are
sorted where columns cannot be told apart, and rows are sorted.

What it does not protect: it finds what happens by accident.  A row more or fewer, a column more or fewer, or values rounded until
two become one, and the digest is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from numpy.typing import NDArray

MOST_LEVELS = 64
"""Texts with so many distinct values at most count as classes without an order; others are sorted."""
ENOUGH = 64
"""Bits that the ranks of a table must be able to tell; where they cannot, its values count as they are."""

Ranks = NDArray[np.int64]


def digest_of(columns: Sequence[NDArray[Any]]) -> str:
    """SHA-256 of what is said above, in hex.

    Args:
        columns: shape (rows,) or (rows, columns) each, of numbers (NaN is missing) or other values; all of as many rows.

    Returns:
        64 letters.  A table whose ranks tell less than `ENOUGH` bits, such as one of few rows or a single column, would be like
        others by chance: of it the values count, in any order of rows.
    """
    parts = [line for column in columns for line in column.reshape(len(column), -1).T]
    signed = sorted((_directed(ranks) for ranks in _distinct([r for part in parts for r in _ranks(part)])), key=lambda one: one[1])
    if _bits([ranks for ranks, _ in signed]) < ENOUGH:
        return _sha(b"values", _sorted([_words(part) for part in parts]))
    alike = [np.sort([ranks for ranks, _ in same], axis=0) for _, same in groupby(signed, key=lambda one: one[1])]
    kinds = [np.array(count, dtype=np.int64) for _, count in signed]
    return _sha(b"ranks", [*kinds, *_sorted([line for block in alike for line in block])])


def _ranks(column: NDArray[Any]) -> list[Ranks]:
    """Ranks from 0 for the values of a column, −1 where one is missing; of texts, for each value which rows have it."""
    if column.dtype.kind in "biuf":
        numbers = column.astype(np.float64)
        found = np.full(len(column), -1, dtype=np.int64)
        here = ~np.isnan(numbers)
        found[here] = np.unique(numbers[here], return_inverse=True)[1]
        return [found]
    values, ranks = np.unique(_words(column), return_inverse=True)
    if len(values) > MOST_LEVELS:
        return [ranks.astype(np.int64)]
    return [(ranks == level).astype(np.int64) for level in range(len(values))]


def _distinct(columns: Sequence[Ranks]) -> list[Ranks]:
    """Without those that are constant, or another one up or down."""
    kept = dict[bytes, Ranks]()
    for ranks in columns:
        top = int(ranks.max(initial=0))
        if (ranks != ranks[:1]).any():
            kept.setdefault(min(ranks.tobytes(), _down(ranks, top).tobytes()), ranks)
    return list(kept.values())


def _down(ranks: Ranks, top: int) -> Ranks:
    return np.where(ranks < 0, ranks, top - ranks)


def _directed(ranks: Ranks) -> tuple[Ranks, tuple[int, ...]]:
    """Ranks, and how many are missing and have each: of up and down the one that is less, else distances from the middle."""
    lost, *count = np.bincount(ranks + 1).tolist()
    up, down = (lost, *count), (lost, *count[::-1])
    if up == down:
        return np.where(ranks < 0, ranks, np.abs(2 * ranks - (len(count) - 1))), up
    return (ranks, up) if up < down else (_down(ranks, len(count) - 1), down)


def _bits(columns: Sequence[Ranks]) -> float:
    """log2 of how many tables have columns with these values, rows in any order."""
    if not columns:
        return 0.0
    factorial = np.concatenate([[0.0], np.cumsum(np.log2(np.arange(1, len(columns[0]) + 1)))])
    orders = [float(factorial[-1] - factorial[np.bincount(ranks + 1)].sum()) for ranks in columns]
    return sum(orders) - float(factorial[-1])


def _sorted(lines: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    order = np.lexsort(lines) if lines else np.arange(0)
    return [line[order] for line in lines]


def _words(line: NDArray[Any]) -> NDArray[Any]:
    """One column as numbers, or as texts."""
    if line.dtype.kind in "biuf":
        return line.astype(np.float64) + 0.0  # −0 is 0
    return np.array([repr(value).encode() for value in line.tolist()])


def _sha(kind: bytes, lines: Sequence[NDArray[Any]]) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(kind)
    for line in lines:
        digest.update(len(line).to_bytes(8, "big") + np.ascontiguousarray(line).tobytes())
    return digest.finalize().hex()
