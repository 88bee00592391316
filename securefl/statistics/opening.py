"""Tables of many sites, and where sums over them are opened: `Opening.total` exact ones, `Opening.noised` those with noise.

What it does not protect: as `securefl.statistics`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

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
from securefl.statistics import cells
from securefl.statistics.asking import Book
from securefl.statistics.axes import Axis
from securefl.statistics.columns import Columns, Tell, site_tables
from securefl.statistics.moments import MOST_ROWS
from securefl.statistics.noise import StatisticsPlan, planned
from securefl.statistics.noised import Asked
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


class Opening:
    """Tables that stay at their sites, and the sums over them.

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
    def simulated(cls, tables: Mapping[str, Any], columns: Columns, protocol: str = "secagg", **options: Any) -> Self:
        """The same with made-up identities for the sites of ``tables``; ``options`` as for the class.

        Raises:
            UserError: also for fewer than two sites.
        """
        found = scheme(protocol)
        return cls(Consortium.of(list(tables), found.policy), found, tables, columns, **options)

    def total(self, specs: Iterable[SumSpec], values: Values, *, with_sites: int | None = None) -> tuple[Sums, int]:
        """Open one secure sum; nothing exact is opened elsewhere.

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

    def part(self, rows: Sequence[NDArray[np.bool_]]) -> Self:
        """The same of some rows of every site; ``rows`` are masks, one a site.  Its sums are a run of their own."""
        part = copy.copy(self)
        part.sites = tuple(site.rows_of(mask) for site, mask in zip(self.sites, rows, strict=True))
        part._run, part._sums = f"statistics-{self._entropy().bytes('run', 8).hex()}", 0  # noqa: SLF001
        return part

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
