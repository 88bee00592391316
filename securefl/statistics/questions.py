"""Questions that are answered with noise: what each record adds, as integers, and how far one record can move the answer.

Every record's own part is rounded to the grid before anything is summed, so sums are exact and a bound of one record's part is the
sensitivity of the sum, without exception.  ``square`` and ``one`` bound the squared L2 norm and the L1 norm of a record's part
before it is scaled by a question's whole, even ``scale``: u = (x − middle) / half width lies in [−1, 1], and u² is taken less ½.

Source: the Gaussian mechanism on a vector of sums; counts of a grid as a tree (M. Hay et al., Boosting the Accuracy of
Differentially Private Histograms Through Consistency, VLDB 2010), whose prefixes are sums of few nodes.

What it does not protect: bounds hold towards adding or removing one record at one site; a person with several is several.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

_BLOCK = 4096

Whole = NDArray[np.int64]
Table = NDArray[np.float64]


class Question(Protocol):
    """Sums that are asked for."""

    @property
    def name(self) -> str:
        """In words."""

    @property
    def size(self) -> int:
        """Number of sums."""

    @property
    def square(self) -> float:
        """Largest squared L2 norm of what one record adds, at scale 1; a multiple of ¼."""

    @property
    def one(self) -> float:
        """Largest L1 norm of it."""

    def sums(self, site: int, scale: int) -> Whole:
        """What a site adds, shape (size,); no record's part of one sum is above ``scale``."""


@dataclass(frozen=True, eq=False)
class Rows:
    """How many records there are; ``counts`` for each site."""

    counts: Sequence[int] = field(repr=False)
    name: str = "rows"
    size: int = 1
    square: float = 1.0
    one: float = 1.0

    def sums(self, site: int, scale: int) -> Whole:
        """As `Question.sums`."""
        return np.array([self.counts[site] * scale], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class ColumnSums:
    """How many values a column has, Σ u and Σ (u² − ½); ``values`` for each site, u, NaN where missing."""

    name: str
    values: Sequence[Table] = field(repr=False)
    size: int = 3
    square: float = 2.25
    one: float = 2.5

    def sums(self, site: int, scale: int) -> Whole:
        """As `Question.sums`."""
        u = self.values[site][~np.isnan(self.values[site])]
        return np.array([len(u) * scale, _rounded(scale * u).sum(), _rounded(scale * (u * u - 0.5)).sum()], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class CellCounts:
    """How many records fall in each cell of a table; ``places`` for each site, in the flat table."""

    name: str
    columns: tuple[str, ...]
    labels: tuple[tuple[Hashable, ...], ...]
    places: Sequence[Whole] = field(repr=False)
    edges: Table | None = None
    square: float = 1.0
    one: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the table."""
        return tuple(len(axis) for axis in self.labels)

    @property
    def size(self) -> int:
        """Number of cells."""
        return int(np.prod(self.shape))

    def sums(self, site: int, scale: int) -> Whole:
        """As `Question.sums`."""
        return np.bincount(self.places[site], minlength=self.size).astype(np.int64) * scale


@dataclass(frozen=True, eq=False)
class Tree:
    """Counts of the halves, quarters … 2^bits-ths of a range; ``cells`` for each site, of the finest ones, missing values left out.

    Levels come one after the other, the coarsest first: level l has 2^l sums, and starts at 2^l − 2.
    """

    name: str
    bits: int
    edges: Table
    cells: Sequence[Whole] = field(repr=False)

    @property
    def size(self) -> int:
        """Nodes without the root."""
        return int(2 ** (self.bits + 1)) - 2

    @property
    def square(self) -> float:
        """One node a level."""
        return float(self.bits)

    @property
    def one(self) -> float:
        """One node a level."""
        return float(self.bits)

    def sums(self, site: int, scale: int) -> Whole:
        """As `Question.sums`."""
        level = np.bincount(self.cells[site], minlength=2**self.bits).astype(np.int64)
        levels = [level]
        while len(levels[0]) > 2:
            levels.insert(0, levels[0].reshape(-1, 2).sum(axis=1))
        return np.concatenate(levels) * scale


@dataclass(frozen=True, eq=False)
class PairSums:
    """For each pair of columns, over the records that have both: how many, Σ u, Σ v, Σ (u² − ½), Σ (v² − ½), Σ u·v.

    ``values`` for each site: u of all columns, shape (rows, columns), NaN where missing.  Pairs are in the order of
    `numpy.triu_indices`, sums first.
    """

    name: str
    columns: tuple[str, ...]
    values: Sequence[Table] = field(repr=False)

    @property
    def pairs(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Their places among the columns."""
        first, second = np.triu_indices(len(self.columns), 1)
        return first, second

    @property
    def size(self) -> int:
        """Six sums a pair."""
        return 6 * len(self.pairs[0])

    @property
    def square(self) -> float:
        """1 + 1 + 1 + ¼ + ¼ + 1 a pair."""
        return 4.5 * len(self.pairs[0])

    @property
    def one(self) -> float:
        """1 + 1 + 1 + ½ + ½ + 1 a pair."""
        return 5.0 * len(self.pairs[0])

    def sums(self, site: int, scale: int) -> Whole:
        """As `Question.sums`."""
        (i, j), table = self.pairs, self.values[site]
        out = np.zeros((6, len(i)), dtype=np.int64)
        for start in range(0, len(table), _BLOCK):  # of rows: memory for all pairs of all rows could be missing
            block = table[start : start + _BLOCK]
            u, v = block[:, i], block[:, j]
            both = ~np.isnan(u) & ~np.isnan(v)
            u, v = np.where(both, u, 0.0), np.where(both, v, 0.0)
            half = np.where(both, 0.5, 0.0)
            parts = (both.astype(np.float64), u, v, u * u - half, v * v - half, u * v)
            out += np.stack([_rounded(scale * part).sum(axis=0) for part in parts])
        return out.ravel()


def _rounded(values: NDArray[np.float64]) -> Whole:
    return np.rint(values).astype(np.int64)
