"""Cells of a table of counts: which rows of a site fall where, by level or by bin, missing values last."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from securefl.errors import UserError, quoted
from securefl.statistics.results import MISSING

MOST_BINS = 1000


@dataclass(frozen=True, eq=False)
class Axis:
    """One dimension of a table of counts.

    Attributes:
        column: whose values are counted.
        labels: names of the cells; the last is `MISSING`.
        places: for each site the cell of each row, shape (rows,), int64.  Private.
    """

    column: str
    labels: tuple[Hashable, ...]
    places: Sequence[NDArray[np.int64]] = field(repr=False)

    @classmethod
    def of_levels(cls, column: str, levels: Sequence[Hashable], places: Sequence[NDArray[np.int64]]) -> Axis:
        """A cell for each level."""
        return cls(column, (*levels, MISSING), places)

    @classmethod
    def binned(cls, column: str, edges: NDArray[np.float64], values: Sequence[NDArray[np.float64]]) -> Axis:
        """A cell for each bin, which has its lower edge, and the last one both; NaN is missing."""
        bins = len(edges) - 1
        places = [np.minimum(np.searchsorted(edges, own, side="right") - 1, bins - 1) for own in values]
        cells = [np.where(np.isnan(own), bins, place).astype(np.int64) for own, place in zip(values, places, strict=True)]
        ends = ")" * (bins - 1) + "]"
        names = [f"[{low:.12g}, {high:.12g}{end}" for low, high, end in zip(edges[:-1], edges[1:], ends, strict=True)]
        return cls(column, (*names, MISSING), cells)


def bins_of(column: str, bins: int | Sequence[float], bounds: tuple[float, float]) -> NDArray[np.float64]:
    """Edges of a histogram, shape (bins + 1,), float64, ascending from the lower to the upper end of the range.

    Raises:
        UserError: for a number of bins that is out of range, or edges that do not ascend over the whole range.
    """
    if isinstance(bins, int | np.integer):
        if not 1 <= bins <= MOST_BINS:
            raise UserError(f"a histogram of {quoted(column)} has 1 to {MOST_BINS} bins, not {bins}")
        edges = np.linspace(*bounds, int(bins) + 1)
    else:
        edges = np.asarray(bins, dtype=np.float64)
    if edges.ndim != 1 or not 2 <= len(edges) <= MOST_BINS + 1 or not (np.diff(edges) > 0).all():
        raise UserError(f"the edges of a histogram of {quoted(column)} must be 2 to {MOST_BINS + 1} numbers that ascend")
    if (edges[0], edges[-1]) != bounds:
        low, high = bounds
        raise UserError(f"the edges of a histogram of {quoted(column)} must lead from {low:g} to {high:g}, its public range")
    return edges


def count(shape: tuple[int, ...], places: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """A site's counts: how many of its rows fall in each cell, given their places in each dimension."""
    flat = np.ravel_multi_index(tuple(places), shape)
    return np.bincount(flat, minlength=int(np.prod(shape))).astype(np.int64).reshape(shape)
