"""Quantiles by bisection of a public grid: every round asks how many values are at most so large, for all columns at once.

The range of a column is cut in 2^bits cells (e_j, e_{j+1}], the first with its lower end.  The p-quantile is the value of rank
⌈p·n⌉, as ``inverted_cdf`` in numpy; the search narrows the interval that holds it by half a round, and stops where the half would
hold fewer than k values.

Source: definition 1 of R. J. Hyndman and Y. Fan, Sample Quantiles in Statistical Packages (The American Statistician 50, 1996).

What it does not protect: the counts are opened exactly; the difference of two is the count of the values between two points of
the grid, which may be below k, also where the interval that is reported is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from securefl.encoding import SumSpec
from securefl.errors import UserError

BITS = range(1, 17)
"""Bits of a grid."""

Asked = list[tuple[int, int]]
"""Column and edge, by their places."""


class Total(Protocol):
    """`securefl.statistics.secure.SecureStatistics.total`."""

    def __call__(
        self, specs: Iterable[SumSpec], values: Sequence[Mapping[str, ArrayLike]], *, with_sites: int | None = None
    ) -> tuple[Mapping[str, NDArray[Any]], int]:
        """Open one secure sum."""


@dataclass(frozen=True)
class Interval:
    """Where a quantile is: edges lo and hi of the grid, ``below`` values at most edge lo and ``upto`` at most edge hi."""

    lo: int
    hi: int
    below: int
    upto: int
    final: bool = field(default=False)

    @property
    def middle(self) -> int:
        """The edge that halves it."""
        return (self.lo + self.hi) // 2

    def narrowed(self, rank: int, count: int, k: int) -> Interval:
        """The half with the value of this rank, where ``count`` values are at most `middle`; final if that holds fewer than k."""
        left = replace(self, hi=self.middle, upto=count)
        half = left if rank <= count else replace(self, lo=self.middle, below=count)
        if half.upto - half.below < k:
            return replace(self, final=True)
        return replace(half, final=half.hi - half.lo == 1)


def probability(p: float) -> float:
    """``p``, if it is a probability.

    Raises:
        UserError: where it is not within 0 to 1.
    """
    if not 0 <= p <= 1:
        raise UserError(f"a quantile must be for a probability from 0 to 1, not {p!r}")
    return float(p)


def grid(bounds: tuple[float, float], bits: int) -> NDArray[np.float64]:
    """The edges, shape (2^bits + 1,), float64, ascending.

    Raises:
        UserError: bits outside `BITS`, or a range too narrow for so many edges.
    """
    if bits not in BITS:
        raise UserError(f"the bits of a grid must be {BITS[0]} to {BITS[-1]}, not {bits!r}")
    edges = np.linspace(*bounds, 2**bits + 1)
    if (np.diff(edges) <= 0).any():
        raise UserError(f"the range {bounds[0]!r} to {bounds[1]!r} is too narrow for a grid of {bits} bits")
    return edges


def rank(p: float, count: int) -> int:
    """⌈p·count⌉ of the decimal p, at least 1."""
    return max(1, math.ceil(Fraction(repr(p)) * count))


def search(
    ask: Callable[[Asked], Sequence[int]], counts: Sequence[int], probabilities: Sequence[float], bits: int, k: int
) -> dict[tuple[int, int], Interval]:
    """Bisect for all columns and probabilities at once.

    Args:
        ask: for pairs of column and edge, each once, how many values of all sites are at most there; one secure sum.
        counts: for each column how many values it has.
        probabilities: which quantiles.
        bits: of the grid.
        k: fewest values of an interval.

    Returns:
        The interval of each pair of column and place of the probability, but of columns with fewer than k values.
    """
    found = {
        (column, place): Interval(0, 2**bits, 0, count)
        for column, count in enumerate(counts)
        for place in range(len(probabilities))
        if count >= max(k, 1)
    }
    while open_ := {at: interval for at, interval in found.items() if not interval.final}:
        pairs = sorted({(column, interval.middle) for (column, _), interval in open_.items()})
        answers = dict(zip(pairs, ask(pairs), strict=True))
        for (column, place), interval in open_.items():
            wanted = rank(probabilities[place], counts[column])
            found[column, place] = interval.narrowed(wanted, answers[column, interval.middle], k)
    return found


class Asking:
    """Answers of secure sums, each pair of column and edge asked once.

    Args:
        total: opens a sum of one spec, given what each site adds, and of how many sites it must be; as `SecureStatistics.total`.
        below: for each site and column how many of its values are at most each edge.
        rows_max: public bound of a site's rows.

    Attributes:
        sums: how many secure sums were opened.
        sites: how many sites are in them.
    """

    def __init__(self, total: Total, below: Sequence[Sequence[NDArray[np.int64]]], rows_max: int) -> None:
        self._total, self._below, self._rows_max = total, below, rows_max
        self._known = dict[tuple[int, int], int]()
        self.sums, self.sites = 0, 0

    def __call__(self, pairs: Asked) -> list[int]:
        """How many values of all sites are at most there, for each pair; one secure sum of those that are new."""
        new = [pair for pair in pairs if pair not in self._known]
        if new:
            spec = SumSpec("at most", len(new), self._rows_max, integer=True)
            own = [{spec.name: [int(site[column][edge]) for column, edge in new]} for site in self._below]
            opened, self.sites = self._total((spec,), own, with_sites=self.sites or None)
            self._known.update(zip(new, opened[spec.name].tolist(), strict=True))
            self.sums += 1
        return [self._known[pair] for pair in pairs]


def at_most(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of the values, NaN left out, are at most each edge."""
    present = np.sort(values[~np.isnan(values)])
    return np.searchsorted(present, edges, side="right").astype(np.int64)
