"""Statistics out of noised sums: the same numbers as without noise, with the standard deviation of the noise in each.

What it does not protect: what is computed here is computed from noised sums alone, and costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefl.statistics.cells import small
from securefl.statistics.moments import Moments
from securefl.statistics.noise import StatisticsPlan
from securefl.statistics.questions import CellCounts, ColumnSums, PairSums, Question, Tree
from securefl.statistics.results_noised import NoisedCells, NoisedCorrelation, NoisedDescription, NoisedQuantiles

Array = NDArray[np.float64]
Probabilities = Sequence[float]

BITS = 8
"""Of the grid of quantiles: a finer one has more levels, each with its noise."""
DEVIATIONS = 2.0
"""Of the noise in a rank, to either side of a quantile's interval."""


@dataclass(frozen=True)
class Asked:
    """What is asked at once, for one ε: names of columns.

    Attributes:
        describe: counts, missing values, means and variances of columns with a range.
        quantiles: of columns with a range.
        probabilities: which quantiles.
        classes: counts of columns with levels.
        histograms: for columns with a range the number of bins, or edges.
        crosstabs: pairs of columns with levels.
        correlation: columns with a range, two or more; none for no matrix.
        bits: of the grid of quantiles, 1 to 16.
    """

    describe: Sequence[str] = ()
    quantiles: Sequence[str] = ()
    probabilities: Probabilities = (0.25, 0.5, 0.75)
    classes: Sequence[str] = ()
    histograms: Mapping[str, int | Sequence[float]] = field(default_factory=dict)
    crosstabs: Sequence[tuple[str, str]] = ()
    correlation: Sequence[str] = ()
    bits: int = BITS


class Answers:
    """The opened sum of a plan, in units of its questions.

    Args:
        plan: of the sum.
        questions: in its order.
        total: shape (plan.size,), int64.
        survivors: sites in it.
        released: the fields of `Released`.
    """

    def __init__(
        self,
        plan: StatisticsPlan,
        questions: Sequence[Question],
        total: NDArray[np.int64],
        survivors: int,
        released: Mapping[str, Any],
    ) -> None:
        parts = np.split(total, np.cumsum(plan.sizes)[:-1])
        self.released, self.k = released, int(released["min_cell"])
        self._questions, self._plan = list(questions), plan
        self._sums = {id(q): part / scale for q, part, scale in zip(questions, parts, plan.scales, strict=True)}
        self._noise = {id(q): plan.deviation(survivors, at) for at, q in enumerate(questions)}
        self._scale = {id(q): scale for q, scale in zip(questions, plan.scales, strict=True)}

    def of(self, question: Question) -> tuple[Array, float]:
        """Its sums, and the standard deviation of the noise in each."""
        return self._sums[id(question)], self._noise[id(question)]

    def description(self, rows: Question, columns: Sequence[ColumnSums], moments: Moments) -> NoisedDescription:
        """Moments of columns, in the order of ``moments``."""
        (total,), rows_noise = self.of(rows)
        sums = np.array([self.of(column)[0] for column in columns])
        noise = np.array([self.of(column)[1] for column in columns])
        step = np.array([0.5 / self._scale[id(column)] for column in columns])
        count, (first, second, variance) = sums[:, 0], _moments(*sums.T)
        few = np.rint(count) < max(self.k, 2)
        safe, half = np.where(few, np.nan, count), moments.half
        unbiased = half**2 * safe / (safe - 1)
        slope = np.sqrt(1 + 4 * first**2 + (2 * first**2 - second + 0.5) ** 2)  # of variance in Σ (u² − ½), Σ u and the count
        numbers: dict[str, Any] = {
            "mean": moments.middle + half * first,
            "mean_error": half * step,
            "mean_noise": half * noise / safe * np.sqrt(1 + first**2),
            "variance": np.maximum(variance, 0) * unbiased,
            "variance_error": unbiased * step * (1 + 2 * np.abs(first) + step),
            "variance_noise": unbiased * noise / safe * slope,
        }
        numbers = {key: np.where(few, np.nan, values) for key, values in numbers.items()}
        counts, all_rows = [self._count(value) for value in count], _whole(total)
        gone = [None if c is None or not all_rows else self._count(all_rows - c) for c in counts]
        return NoisedDescription(
            **self.released,
            columns=tuple(column.name for column in columns),
            rows=all_rows,
            count=tuple(counts),
            missing=tuple(gone),
            rows_noise=rows_noise,
            count_noise=noise,
            **numbers,
        )

    def cells(self, question: CellCounts) -> NoisedCells:
        """Counts of a table."""
        sums, noise = self.of(question)
        counts = np.array([self._count(value) for value in sums] + [None], dtype=object)[:-1].reshape(question.shape)
        return NoisedCells(
            **self.released, columns=question.columns, labels=question.labels, counts=counts, edges=question.edges, noise=noise
        )

    def quantiles(self, trees: Sequence[Tree], probabilities: Probabilities) -> NoisedQuantiles:
        """Quantiles by a walk down each tree."""
        shape = len(trees), len(probabilities)
        low, middle, high = np.full((3, *shape), np.nan)
        noise = 0.0
        for at, tree in enumerate(trees):
            sums, deviation = self.of(tree)
            noise = deviation * np.sqrt(tree.bits + 2)  # of the nodes on the way, and of the rank itself
            count = float(sums[:2].sum())
            for place, p in enumerate(probabilities if round(count) >= max(self.k, 1) else ()):
                reach = DEVIATIONS * noise
                cells = [_walk(sums, tree.bits, p * count + off) for off in (-reach, 0.0, reach)]
                low[at, place], high[at, place] = tree.edges[min(cells[:2])], tree.edges[max(cells[1:]) + 1]
                middle[at, place] = tree.edges[cells[1]] / 2 + tree.edges[cells[1] + 1] / 2
        names = tuple(tree.name for tree in trees)
        return NoisedQuantiles(
            **self.released,
            columns=names,
            probabilities=tuple(probabilities),
            low=low,
            high=high,
            middle=middle,
            rounds=1,
            rank_noise=float(noise),
        )

    def correlation(self, question: PairSums) -> NoisedCorrelation:
        """Pearson's correlation of each pair."""
        sums, noise = self.of(question)
        six = sums.reshape(6, -1)
        r, deviation = _linear(_pearson, six, noise)
        few = np.rint(six[0]) < max(self.k, 2)
        for first, second in ((1, 3), (2, 4)):
            variance, off = _linear(partial(_spread, first, second), six, noise)
            few |= ~(variance > 2 * off)
        size, (i, j) = len(question.columns), question.pairs
        matrix, spread, error = np.eye(size), np.zeros((size, size)), np.zeros((size, size))
        matrix[i, j] = matrix[j, i] = np.where(few, np.nan, np.clip(r, -1, 1))
        spread[i, j] = spread[j, i] = np.where(few, np.nan, deviation)
        error[i, j] = error[j, i] = np.where(few, np.nan, _linear(_pearson, six, 0.5 / self._scale[id(question)] * six[0])[1])
        return NoisedCorrelation(**self.released, columns=question.columns, matrix=matrix, error=error, noise=spread)

    def _count(self, value: float) -> int | None:
        """A count as it is released: whole, not below 0, None below the minimum."""
        count = _whole(value)
        return None if small(count, self.k) else count


def _whole(value: float) -> int:
    return max(round(value), 0)


def _moments(count: Array, one: Array, two: Array) -> tuple[Array, Array, Array]:
    """Mean of u, mean of u² and variance (divisor n) out of count, Σ u and Σ (u² − ½)."""
    safe = np.where(count >= 0.5, count, np.nan)
    first, second = np.clip(one / safe, -1, 1), np.clip(two / safe + 0.5, 0, 1)
    return first, second, second - first**2


def _spread(first: int, second: int, x: Array) -> Array:
    return _moments(x[0], x[first], x[second])[2]


def _pearson(x: Array) -> Array:
    count, u, v, uu, vv, uv = x
    safe = np.where(count >= 0.5, count, np.nan)
    a, b = u / safe, v / safe
    variances = (uu / safe + 0.5 - a * a) * (vv / safe + 0.5 - b * b)
    r: Array = (uv / safe - a * b) / np.sqrt(np.where(variances > 0, variances, np.nan))
    return r


def _linear(of: Callable[[Array], Array], sums: Array, noise: float | Array) -> tuple[Array, Array]:
    """A function of independent sums, shape (sums, …), and its standard deviation to first order, by central differences."""
    square = np.zeros(sums.shape[1:])
    step = 1e-6 * np.maximum(np.abs(sums[0]), 1.0)
    for at in range(len(sums)):
        moved = np.zeros_like(sums)
        moved[at] = step
        square += (noise * (of(sums + moved) - of(sums - moved)) / (2 * step)) ** 2
    return of(sums), np.sqrt(square)


def _walk(sums: Array, bits: int, rank: float) -> int:
    """The finest cell that holds a rank: left where the left half has as many, else right with the rest."""
    cell = 0
    for level in range(1, bits + 1):
        left = float(sums[2**level - 2 + 2 * cell])
        go_right = rank > left
        rank -= left if go_right else 0.0
        cell = 2 * cell + go_right
    return int(cell)
