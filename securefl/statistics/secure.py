"""Statistics over many sites, in the field's terms; `SecureStatistics.total` is the one place where anything exact is opened.

What it does not protect: as `securefl.statistics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from securefl.encoding import SumSpec
from securefl.errors import UserError, quoted
from securefl.results import Opened
from securefl.statistics import cells, quantiles
from securefl.statistics.axes import Axis, bins_of, count
from securefl.statistics.columns import named
from securefl.statistics.description import described
from securefl.statistics.moments import Moments, Products
from securefl.statistics.opening import LIMIT, Opening
from securefl.statistics.results import Cells, Correlation, Description, Quantiles


class SecureStatistics(Opening):
    """Statistics of tables that stay at their sites; arguments as for `Opening`.

    Every method but `noised` opens exact sums, and none of a site's own; what it opened stands in its result.  Raised by each:
    `UserError` for bad input, before anything leaves, and where there is nothing to describe; `Abort` where a sum cannot be
    opened, or other sites than before are in it (``statistics-cohort``).
    """

    def describe(self, columns: Sequence[str] | None = None, *, empty: bool = False, with_sites: int | None = None) -> Description:
        """Rows, counts, missing values, means and variances of columns with a range (all of them unless named): one secure sum.

        Where a column has two levels that are numbers, its mean is withheld if it tells a cell below the minimum.

        Args:
            columns: names.
            empty: whether a column may be without any value; it then has no mean.
            with_sites: as `total`.

        Raises:
            UserError: also where the sites have fewer rows than the minimum together, or a column has no value.
        """
        names = named(self.columns.ranges if columns is None else columns, "a description")
        moments = Moments(self._ranges(names), limit=LIMIT, rows_max=self.rows_max)
        rows = SumSpec("rows", 1, self.rows_max, integer=True)
        values: list[dict[str, ArrayLike]] = [
            {"rows": [site.rows], **moments.sums(own)} for site, own in zip(self.sites, self.numbers(names), strict=True)
        ]
        sums, sites = self.total((rows, *moments.specs()), values, with_sites=with_sites)
        total, means = int(sums["rows"][0]), moments.read(sums, sites)
        if total < self.min_cell:
            raise UserError(f"the sites have fewer than {self.min_cell} rows together: nothing is released")
        if not empty:
            self._refuse_empty(names, means.count)
        what = f"rows, counts, sums and sums of squares of {', '.join(map(quoted, names))}"
        note = "a cell below the minimum is left out of the result, not of the sum"
        return described(self.columns, names, total, means, moments, self.released(sites, self.event(what, 1, note)))

    def class_counts(self, column: str) -> Cells:
        """Rows of each level of a column, and missing values: two secure sums, or one where the minimum is 1."""
        return self._count((self.axis(column),))

    def crosstab(self, first: str, second: str) -> Cells:
        """Rows of each pair of levels of two columns, missing values included: two secure sums, or one."""
        named((first, second), "a table")
        return self._count((self.axis(first), self.axis(second)))

    def histogram(self, column: str, bins: int | Sequence[float] = 10) -> Cells:
        """Values of a column in bins, as numpy's histogram counts them, and missing values: two secure sums, or one.

        Args:
            column: one with a range.
            bins: how many equal ones over the range, 1 to 1000; or edges, ascending, from the lower to the upper end of the range.
        """
        edges = bins_of(column, bins, self.columns.range(column))
        axis = Axis.binned(column, edges, [own[:, 0] for own in self.numbers((column,))])
        return self._count((axis,), edges)

    def quantile(
        self,
        columns: Sequence[str] | None = None,
        probabilities: Sequence[float] = (0.25, 0.5, 0.75),
        *,
        bits: int = 12,
        method: Literal["bisection", "grid"] = "bisection",
    ) -> Quantiles:
        """Quantiles of columns with a range (all of them unless named), to a 2^-bits-th of the range; see `quantiles`.

        Args:
            columns: names.
            probabilities: which, from 0 to 1.
            bits: of the public grid, 1 to 16.
            method: ``bisection`` takes at most ``bits`` secure sums of a few counts, whatever the number of columns and quantiles;
                ``grid`` opens the counts of all cells of the grid in one.  Both give the same intervals.

        Raises:
            UserError: also where a column has no value.
        """
        names = named(self.columns.ranges if columns is None else columns, "a quantile")
        wanted = tuple(quantiles.probability(p) for p in probabilities)
        if method not in {"bisection", "grid"} or not wanted:
            raise UserError(
                f"quantiles are found by bisection or grid, for at least one probability, not by {method!r} for {wanted}"
            )
        edges = [quantiles.grid(self.columns.range(name), bits) for name in names]
        own, every, top = self.numbers(names), range(len(names)), 2**bits
        below = [[quantiles.at_most(table[:, at], edges[at]) for at in every] for table in own]
        ask = quantiles.Asking(self.total, below, self.rows_max)
        ask([(c, e) for c in every for e in (range(top + 1) if method == "grid" else (top // 2, top))])
        counts = ask([(c, top) for c in every])
        self._refuse_empty(names, counts)
        found = quantiles.search(ask, counts, wanted, bits, self.min_cell)
        low, high = np.full((2, len(names), len(wanted)), np.nan)
        for (column, place), interval in found.items():
            low[column, place], high[column, place] = edges[column][interval.lo], edges[column][interval.hi]
        asked = "every one" if method == "grid" else "some"
        what = f"counts of values at most {asked} of {top} points of the range of {', '.join(map(quoted, names))}"
        return Quantiles(
            **self.released(ask.sites, self.event(what, ask.sums, "differences of counts may be below the minimum")),
            columns=names,
            probabilities=wanted,
            low=low,
            high=high,
            rounds=ask.sums,
        )

    def correlation(self, columns: Sequence[str] | None = None) -> Correlation:
        """Pearson's correlation of each pair of columns with a range (all of them unless named), over the rows that have both.

        One secure sum.  A pair with fewer rows than the minimum has none.

        Raises:
            UserError: also for fewer than two columns.
        """
        names = named(self.columns.ranges if columns is None else columns, "a correlation")
        if len(names) < 2:
            raise UserError(f"a correlation needs at least two columns, not {quoted(names[0])} alone")
        products = Products(self._ranges(names), limit=LIMIT, rows_max=self.rows_max)
        sums, sites = self.total(products.specs(), [products.sums(own) for own in self.numbers(names)])
        counts, r, off = products.correlation(sums, sites)
        matrix, error = np.eye(len(names)), np.zeros((len(names), len(names)))
        i, j = products.pairs
        matrix[i, j] = matrix[j, i] = np.where(counts < self.min_cell, np.nan, r)
        error[i, j] = error[j, i] = np.where(counts < self.min_cell, np.nan, off)
        what = f"counts, sums, sums of squares and of products of each pair of {', '.join(map(quoted, names))}"
        note = "a pair below the minimum is left out of the result, not of the sum"
        return Correlation(**self.released(sites, self.event(what, 1, note)), columns=names, matrix=matrix, error=error)

    def _count(self, axes: tuple[Axis, ...], edges: NDArray[np.float64] | None = None) -> Cells:
        """Screen the cells, then count those that may be released."""
        shape = tuple(len(axis.labels) for axis in axes)
        own = [count(shape, [axis.places[at] for axis in axes]) for at in range(len(self.sites))]
        names, k, sites, opened = tuple(axis.column for axis in axes), self.min_cell, None, list[Opened]()
        table, of = np.full(shape, None, dtype=object), f"of {' by '.join(map(quoted, names))}"
        shown = np.ones(shape, dtype=bool)
        if k > 1:
            least, sites, opened = self.screened(own, f"the cells {of}")
            hidden = cells.withheld(least, k)
            table[least == 0], shown = 0, (least > 0) & ~hidden
        if shown.any():
            counts, sites = self.counted([mine[shown] for mine in own], with_sites=sites)
            table[shown] = counts.tolist()
            what = f"counts of {counts.size} of {shown.size} cells {of}"
            opened += self.event(what, 1, f"each is {k} or more" if k > 1 else "")
        labels = tuple(axis.labels for axis in axes)
        return Cells(**self.released(sites or 0, opened), columns=names, labels=labels, counts=table, edges=edges)

    def screened(self, own: Sequence[NDArray[np.int64]], of: str) -> tuple[NDArray[np.int64], int, list[Opened]]:
        """The sum before counts: for each cell a number of records that it surely has (`securefl.statistics.cells`).

        Args:
            own: for each site its counts, all of one shape.
            of: what is screened, in words.

        Returns:
            Lower bounds of that shape, how many sites are in them, and the event.
        """
        screen = cells.Screen(own[0].shape, self.min_cell)
        sums, sites = self.total(screen.specs(), [screen.sums(mine) for mine in own])
        note = "how many sites have any record there, and how many have the minimum"
        return screen.least(sums), sites, self.event(f"screening of {of}", 1, note)

    def counted(
        self, own: Sequence[NDArray[np.int64]], *, with_sites: int | None = None, each: int = 1
    ) -> tuple[NDArray[np.int64], int]:
        """Counts over all sites.

        Args:
            own: for each site its counts, shape (cells,).
            with_sites: as `total`.
            each: what one record can add to one count.

        Returns:
            The counts, shape (cells,), and how many sites are in them.
        """
        spec = SumSpec("cells", own[0].size, each * self.rows_max, integer=True)
        sums, sites = self.total((spec,), [{spec.name: mine} for mine in own], with_sites=with_sites)
        return np.asarray(sums[spec.name], dtype=np.int64), sites

    def _refuse_empty(self, names: Sequence[str], counts: Iterable[float]) -> None:
        for name, number in zip(names, counts, strict=True):
            if not number:
                raise UserError(f"every value of {quoted(name)} is missing at every site")

    def _ranges(self, names: Sequence[str]) -> NDArray[np.float64]:
        return np.array([self.columns.range(name) for name in names], dtype=np.float64)
