"""From what is asked to questions over the sites' own columns, and from their answers to results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefl.encode import limit_of
from securefl.errors import UserError, quoted
from securefl.statistics import quantiles
from securefl.statistics.axes import Axis, bins_of
from securefl.statistics.columns import Columns, SiteTable, Tell, named
from securefl.statistics.moments import MOST_ROWS, Moments
from securefl.statistics.noise import StatisticsPlan
from securefl.statistics.noised import Answers, Asked
from securefl.statistics.questions import CellCounts, ColumnSums, PairSums, Question, Rows, Tree
from securefl.statistics.results import Released
from securefl.statistics.results_noised import Release

GROUPS = ("classes", "histograms", "crosstabs")


class Book:
    """The questions of one release.

    Args:
        asked: what is asked.
        columns: public ranges and levels.
        sites: the tables.
        tell: takes what the operator of a site must see.

    Attributes:
        questions: in the order of the sum.

    Raises:
        UserError: for a column without a range or levels, one that a site lacks, or nothing asked.
    """

    def __init__(self, asked: Asked, columns: Columns, sites: Sequence[SiteTable], tell: Tell) -> None:
        self._asked, self._columns, self._sites, self._tell = asked, columns, sites, tell
        self._probabilities = tuple(quantiles.probability(p) for p in asked.probabilities)
        if asked.quantiles and not self._probabilities:
            raise UserError("quantiles are found for at least one probability")
        if len(asked.correlation) == 1:
            raise UserError(f"a correlation needs at least two columns, not {quoted(asked.correlation[0])} alone")
        names = {
            key: named(getattr(asked, key), "a noised statistic")
            for key in ("describe", "quantiles", "classes", "correlation")
            if getattr(asked, key)
        }
        self._rows = Rows([site.rows for site in sites])
        self._described = [self._column(name) for name in names.get("describe", ())]
        self._trees = [self._tree(name, asked.bits) for name in names.get("quantiles", ())]
        self._cells = {
            "classes": {name: self._counts((self._levels(name),)) for name in names.get("classes", ())},
            "histograms": {name: self._histogram(name, bins) for name, bins in asked.histograms.items()},
            "crosstabs": {f"{a} by {b}": self._counts((self._levels(a), self._levels(b))) for a, b in asked.crosstabs},
        }
        self._pairs = self._paired(names["correlation"]) if "correlation" in names else None
        self.questions: list[Question] = [
            *([self._rows] if self._described else []),
            *self._described,
            *self._trees,
            *(question for group in GROUPS for question in self._cells[group].values()),
            *([self._pairs] if self._pairs is not None else []),
        ]
        if not self.questions:
            raise UserError("nothing is asked")

    @property
    def names(self) -> list[str]:
        """Of the questions, each once."""
        kinds = {ColumnSums: "moments of ", Tree: "quantiles of ", CellCounts: "cells of ", PairSums: "correlation of "}
        return [kinds.get(type(question), "") + question.name for question in self.questions]

    def release(self, plan: StatisticsPlan, total: NDArray[np.int64], survivors: int, released: Mapping[str, Any]) -> Release:
        """The results, out of the opened sum of so many sites."""
        answers, parts = Answers(plan, self.questions, total, survivors, released), dict[str, Any]()
        if self._described:
            parts["description"] = answers.description(self._rows, self._described, self._moments(self._asked.describe))
        if self._trees:
            parts["quantiles"] = answers.quantiles(self._trees, self._probabilities)
        for group in GROUPS:
            found: dict[str, Released] = {name: answers.cells(question) for name, question in self._cells[group].items()}
            parts |= {group: found} if found else {}
        if self._pairs is not None:
            parts["correlation"] = answers.correlation(self._pairs)
        return Release(
            epsilon=plan.spent(survivors),
            planned=plan.epsilon,
            delta=plan.delta,
            split=dict(zip(self.names, plan.split, strict=True)),
            parts=parts,
            opened=released["opened"],
            event=plan.event(survivors),
        )

    def _moments(self, names: Sequence[str]) -> Moments:
        return Moments(np.array([self._columns.range(name) for name in names]), limit=limit_of(48), rows_max=MOST_ROWS)

    def _numbers(self, name: str) -> list[NDArray[np.float64]]:
        return [site.numbers(name, self._columns.range(name), self._tell) for site in self._sites]

    def _unit(self, names: Sequence[str]) -> list[NDArray[np.float64]]:
        """u of each site, shape (rows, columns), NaN where missing."""
        moments, columns = self._moments(names), [self._numbers(name) for name in names]
        out = []
        for own in zip(*columns, strict=True):
            u, present = moments.shifted(np.column_stack(own))
            out.append(np.where(present, u, np.nan))
        return out

    def _column(self, name: str) -> ColumnSums:
        return ColumnSums(name, [u[:, 0] for u in self._unit((name,))])

    def _paired(self, names: Sequence[str]) -> PairSums:
        return PairSums(", ".join(map(quoted, names)), tuple(names), self._unit(names))

    def _tree(self, name: str, bits: int) -> Tree:
        edges = quantiles.grid(self._columns.range(name), bits)
        present = [values[~np.isnan(values)] for values in self._numbers(name)]
        places = [np.searchsorted(edges[1:-1], values, side="left").astype(np.int64) for values in present]
        return Tree(name, bits, edges, places)

    def _levels(self, name: str) -> Axis:
        levels = self._columns.level(name)
        return Axis.of_levels(name, levels, [site.places(name, levels) for site in self._sites])

    def _histogram(self, name: str, bins: int | Sequence[float]) -> CellCounts:
        edges = bins_of(name, bins, self._columns.range(name))
        return self._counts((Axis.binned(name, edges, self._numbers(name)),), edges)

    def _counts(self, axes: tuple[Axis, ...], edges: NDArray[np.float64] | None = None) -> CellCounts:
        shape = tuple(len(axis.labels) for axis in axes)
        places = [np.ravel_multi_index(tuple(axis.places[at] for axis in axes), shape) for at in range(len(self._sites))]
        columns = tuple(axis.column for axis in axes)
        name = " by ".join(map(quoted, columns)) + (f" in {shape[0] - 1} bins" if edges is not None else "")
        return CellCounts(
            name, columns, tuple(axis.labels for axis in axes), [np.asarray(p, dtype=np.int64) for p in places], edges
        )
