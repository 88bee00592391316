"""Statistics over many sites, in the field's terms; `SecureStatistics.total` is the one place where anything is opened."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols import simulate
from protocols.errors import Abort
from protocols.rand import Entropy, fresh
from protocols.suite import Occasion
from protocols.sums import Scheme, scheme
from securefl.encode import limit_of
from securefl.encoding import SumSpec
from securefl.errors import UserError, quoted
from securefl.ledger import opened_in_statistics, opened_with_noise
from securefl.parties import Consortium
from securefl.privacy.budget import Ledgers, charging, settle
from securefl.privacy.noise_plan import Cohort
from securefl.results import Opened
from securefl.statistics import cells, quantiles
from securefl.statistics.asking import Book
from securefl.statistics.axes import Axis, bins_of, count
from securefl.statistics.columns import Columns, Tell, named, site_tables
from securefl.statistics.description import described
from securefl.statistics.moments import MOST_ROWS, Moments, Products
from securefl.statistics.noise import StatisticsPlan, planned
from securefl.statistics.noised import Asked
from securefl.statistics.results import Cells, Correlation, Description, Quantiles
from securefl.statistics.results_noised import Release
from securefl.statistics.totals import noised_totals, secure_totals

if TYPE_CHECKING:
    from securefl.audit.recording import Recording

PRECISION = 48
"""Bits of one coordinate: each value travels whole."""
LIMIT = limit_of(PRECISION)
ROWS_MAX = 2**20
"""Public bound of a site's rows unless another is given."""

Sums = Mapping[str, NDArray[Any]]
Values = Sequence[Mapping[str, ArrayLike]]


class SecureStatistics:
    """Statistics of tables that stay at their sites.

    Args:
        consortium: the sites.
        protocol: how sums are formed, or its name: any but ``auto``, whose choice depends on the size of each sum.
        tables: for each site, by its name in the roster, a DataFrame, or one-dimensional arrays by column name.  NaN, None and
            pandas' NA are missing values.  The sites need not have the same columns beside those that are asked for.
        columns: public ranges and levels.  Values outside a range are clipped to it, and their number is told to the site alone.
        min_cell: the minimum cell count k, at least 1; see `securefl.statistics.cells`.
        rows_max: public bound of a site's rows, 1 to 2^30; a larger one rounds means more coarsely.
        threshold: sites needed to open a sum; by default the least that is safe.
        on_notice: takes what the operator of a site must see (clipped values, a column without any), once.
        watch: called on every delivery.
        network: what happens to letters; by default all arrive.
        entropy: randomness of the run's name and of the rounding.
        recording: writes down what the server and each party saw.
        ledgers: by site name, its own `securefl.privacy.budget.PartyLedger`, charged before each of its inputs leaves.

    Every method but `noised` opens exact sums, and none of a site's own; what it opened stands in its result.  Raised by each:
    `UserError` for bad input, before anything leaves, and where there is nothing to describe; `Abort` where a sum cannot be
    opened, or other sites than before are in it (``statistics-cohort``).
    """

    def __init__(
        self,
        consortium: Consortium,
        protocol: Scheme | str,
        tables: Mapping[str, Any],
        columns: Columns,
        *,
        min_cell: int = cells.DEFAULT,
        rows_max: int = ROWS_MAX,
        threshold: int | None = None,
        on_notice: Tell | None = None,
        watch: simulate.Watch | None = None,
        network: simulate.Network | None = None,
        entropy: Entropy = fresh,
        recording: Recording | None = None,
        ledgers: Ledgers | None = None,
    ) -> None:
        if not 1 <= rows_max <= MOST_ROWS:
            raise UserError(f"rows_max must be 1 to {MOST_ROWS}, not {rows_max}")
        self.consortium, self.columns, self.min_cell, self.rows_max = consortium, columns, cells.minimum(min_cell), rows_max
        self.protocol = scheme(protocol) if isinstance(protocol, str) else protocol
        self.sites = site_tables(tables, [member.name for member in consortium.roster.members])
        large = next((site for site in self.sites if site.rows > rows_max), None)
        if large is not None:
            raise UserError(f"{quoted(large.name)}: a table of {large.rows} rows is larger than rows_max = {rows_max}")
        self._threshold, self._watch, self._network = threshold, watch, network
        self._entropy, self._recording, self._ledgers = entropy, recording, ledgers or {}
        self._told, self._on_notice = set[str](), on_notice
        self._run, self._sums = f"statistics-{entropy().bytes('run', 8).hex()}", 0

    @classmethod
    def simulated(cls, tables: Mapping[str, Any], columns: Columns, protocol: str = "secagg", **options: Any) -> SecureStatistics:
        """The same with made-up identities for the sites of ``tables``; ``options`` as for the class.

        Raises:
            UserError: also for fewer than two sites.
        """
        found = scheme(protocol)
        return cls(Consortium.of(list(tables), found.policy), found, tables, columns, **options)

    def total(self, specs: Iterable[SumSpec], values: Values, *, with_sites: int | None = None) -> tuple[Sums, int]:
        """Open one secure sum; nothing of this class is opened elsewhere.

        Args:
            specs: names, sizes and public bounds of the sums.
            values: for each site, in the order of the roster, what it adds.
            with_sites: of how many sites the sum must be, if an earlier one belongs to the same statistic.

        Returns:
            The sums by name, and how many sites are in them.

        Raises:
            Abort: ``statistics-cohort`` where their number is another; else as `secure_totals`.
        """
        specs = tuple(specs)
        counted = (*specs, SumSpec("sites", 1, 1, integer=True))
        own = [{**value, "sites": [1]} for value in values]
        occasion, self._sums = Occasion(self._run, self._sums), self._sums + 1
        note = "the difference of two such sums over cohorts or tables that differ by one tells about that one"
        what = opened_in_statistics(f"sums for statistics ({', '.join(spec.name for spec in specs)})", 1, note)
        try:
            decoded = secure_totals(
                _all_of(charging(self.consortium, self._ledgers, self._run, what), with_sites),
                self.protocol,
                occasion,
                counted,
                own,
                precision=PRECISION,
                threshold=self._threshold,
                watch=self._watch,
                network=self._network,
                entropy=self._entropy,
                recording=self._recording,
            )
        except Abort as error:
            if with_sites is None or error.check != "quorum":
                raise
            line = f"the sites open no sum over fewer than the {with_sites} of the one that it belongs to"
            raise Abort("statistics-cohort", line) from error
        sites = int(decoded.sums["sites"][0])
        if with_sites is not None and sites != with_sites:
            raise Abort("statistics-cohort", f"{sites} sites are in a sum that belongs to one of {with_sites}")
        return decoded.sums, sites

    def noised(self, asked: Asked, *, epsilon: float, delta: float) -> Release:
        """Everything that is asked, with noise of every site inside one secure sum: (ε, δ) of a record for all of it.

        The minimum cell count applies to the noised counts.  A site's ledger is charged as if the fewest sites were in the sum
        before its part leaves, and by those that were afterwards.

        Args:
            asked: the questions.
            epsilon: ε, finite and above 0.
            delta: δ, below 1 over the rows of each site.

        Raises:
            UserError: also for a protocol that shows each site's part to the server, or a budget that does not suffice.
        """
        book, plan = self._planned(asked, epsilon, delta)
        opened = opened_with_noise(book.names, plan.event(plan.cohort.smallest))
        parties = charging(self.consortium, self._ledgers, self._run, opened)
        occasion, self._sums = Occasion(self._run, self._sums), self._sums + 1
        values = [np.concatenate([q.sums(at, s) for q, s in plan.scaled(book.questions)]) for at in range(len(self.sites))]
        found = noised_totals(
            parties,
            self.protocol,
            occasion,
            plan,
            values,
            threshold=self._threshold,
            watch=self._watch,
            network=self._network,
            entropy=self._entropy,
            recording=self._recording,
        )
        settle(parties, plan.event(found.contributors))
        released = {"sites": found.contributors, "min_cell": self.min_cell, "opened": tuple(opened)}
        return book.release(plan, found.values, found.contributors, released)

    def noise(self, asked: Asked, *, epsilon: float, delta: float) -> StatisticsPlan:
        """The noise that `noised` would add, without opening anything; arguments and errors as there."""
        return self._planned(asked, epsilon, delta)[1]

    def _planned(self, asked: Asked, epsilon: float, delta: float) -> tuple[Book, StatisticsPlan]:
        if not self.protocol.hides:
            raise UserError(
                f"{self.protocol.name} shows every site's sums with a share of the noise alone: take one that hides them"
            )
        large = next((site for site in self.sites if site.rows * delta >= 1), None)
        if large is not None:
            raise UserError(f"{quoted(large.name)}: delta is {delta:g}: it must be below 1 over its rows, or could give one away")
        of_sum: Any = self.protocol.parameters(len(self.sites), 1, 1, threshold=self._threshold)
        cohort = Cohort(len(self.sites), of_sum.threshold, of_sum.corrupt)
        book = Book(asked, self.columns, self.sites, self.tell)
        return book, planned(book.questions, cohort, self.rows_max, epsilon=epsilon, delta=delta)

    def part(self, rows: Sequence[NDArray[np.bool_]]) -> SecureStatistics:
        """The same of some rows of every site; ``rows`` are masks, one a site.  Its sums are a run of their own."""
        part = copy.copy(self)
        part.sites = tuple(site.rows_of(mask) for site, mask in zip(self.sites, rows, strict=True))
        part._run, part._sums = f"statistics-{self._entropy().bytes('run', 8).hex()}", 0  # noqa: SLF001
        return part

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

    def _ranges(self, names: Sequence[str]) -> NDArray[np.float64]:
        return np.array([self.columns.range(name) for name in names], dtype=np.float64)

    def numbers(self, names: Sequence[str]) -> list[NDArray[np.float64]]:
        """For each site its columns within their ranges, shape (rows, columns)."""
        bounds = [self.columns.range(name) for name in names]
        return [
            np.column_stack([site.numbers(name, bound, self.tell) for name, bound in zip(names, bounds, strict=True)])
            for site in self.sites
        ]

    def axis(self, column: str) -> Axis:
        """The public levels of a column, and where each site's rows fall."""
        levels = self.columns.level(column)
        return Axis.of_levels(column, levels, [site.places(column, levels) for site in self.sites])

    def _refuse_empty(self, names: Sequence[str], counts: Iterable[float]) -> None:
        for name, number in zip(names, counts, strict=True):
            if not number:
                raise UserError(f"every value of {quoted(name)} is missing at every site")

    def tell(self, line: str) -> None:
        """Tell a site's operator a line, once."""
        if self._on_notice is not None and line not in self._told:
            self._told.add(line)
            self._on_notice(line)

    def event(self, what: str, sums: int, note: str) -> list[Opened]:
        """Exact sums for the list of what was opened."""
        return opened_in_statistics(what, sums, note, hidden=self.protocol.hides)

    def released(self, sites: int, opened: Sequence[Opened]) -> dict[str, Any]:
        """What every result has."""
        return {"sites": sites, "min_cell": self.min_cell, "opened": tuple(opened)}


def _all_of(consortium: Consortium, sites: int | None) -> Consortium:
    """The same parties, none of which opens a sum over fewer than so many sites."""
    if sites is None:
        return consortium
    parties = (replace(p, policy=replace(p.policy, min_cohort=max(p.policy.min_cohort, sites))) for p in consortium.parties)
    return replace(consortium, parties=tuple(parties))
