"""Results as tables of plain text, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from securefl.results import Opened
from securefl.statistics.groups import Grouped, Own
from securefl.statistics.results import Cells, Correlation, Description, Quantiles, Released
from securefl.statistics.results_noised import NoisedCells, NoisedCorrelation, NoisedDescription, NoisedQuantiles
from securefl.tables import Sheet

Noised = NoisedDescription | NoisedCells | NoisedQuantiles | NoisedCorrelation

WITHHELD = "*"
"""Stands for a cell that is not released: below the minimum, or hiding one that is."""

MOST_COLUMNS, STRONGEST = 6, 10
"""Columns of the largest matrix that is shown whole, and pairs that are shown of a larger one."""


def sheets(results: Sequence[Released]) -> list[Sheet]:
    """Every table, in reading order; quantiles of described columns stand beside their means."""
    description = next((result for result in results if isinstance(result, Description)), None)
    quantiles = next((result for result in results if isinstance(result, Quantiles)), None)
    out = list[Sheet]()
    if description is not None:
        out.append(_columns(description, quantiles))
    for grouped in (result for result in results if isinstance(result, Grouped)):
        if not any(result is grouped.counts for result in results):
            out.append(_cells(grouped.counts))
        by = grouped.counts.columns[0]
        out += [replace(_columns(found, None), title=f"Columns where {by} is {level}") for level, found in grouped.groups.items()]
    out += [_cells(result) for result in results if isinstance(result, Cells)]
    out += [_correlation(result) for result in results if isinstance(result, Correlation)]
    # A noised sum answers all questions, and stands once.
    together = any(isinstance(result, Noised) for result in results)
    return [*out, opened(results[0].opened if together else (event for result in results for event in result.opened))]


def _columns(found: Description, quantiles: Quantiles | None) -> Sheet:
    headings, note = ["column", "values", "missing", "mean", "std"], ""
    middles = dict[str, list[float]]()
    if quantiles is not None:
        headings += [f"{p:.0%}" for p in quantiles.probabilities]
        middles = dict(zip(quantiles.columns, quantiles.value.tolist(), strict=True))
        note = f" Quantiles are middles of intervals that hold them and {found.min_cell} values or more."
        if isinstance(quantiles, NoisedQuantiles):
            note = f" The rank of a quantile has noise of standard deviation {quantiles.rank_noise:.2g} values."
    rows = list[list[str]]()
    for at, name in enumerate(found.columns):
        numbers = [_number(float(found.mean[at])), _number(float(found.std[at]))]
        counts = [_count(found.count[at]), _count(found.missing[at])]
        if isinstance(found, NoisedDescription):
            counts = [_with(text, off[at]) for text, off in zip(counts, (found.count_noise, found.missing_noise), strict=True)]
            numbers = [_with(text, off[at]) for text, off in zip(numbers, (found.mean_noise, found.std_noise), strict=True)]
        figures = [*numbers, *map(_number, middles.get(name, []))]
        rows.append([name, *counts, *figures, *[""] * (len(headings) - 3 - len(figures))])
    relative = found.mean_error / np.maximum(np.abs(found.mean), found.mean_error)
    off = f" Rounding moved no mean by more than {np.nanmax(relative):.0e} of it." if np.isfinite(relative).any() else ""
    size = f"{found.rows} rows"
    if isinstance(found, NoisedDescription):
        size, off = f"{found.rows} ± {found.rows_noise:.2g} rows", " ± is the standard deviation of the noise."
    first = f"{size} of {found.sites} sites. Std has divisor n − 1.{off}{note}"
    return Sheet(
        "Columns over all sites", headings, rows, first + _legend(rows, found.min_cell), frozenset(range(1, len(headings)))
    )


def _cells(found: Cells) -> Sheet:
    title = f"Rows by {' and '.join(found.columns)}"
    if isinstance(found, NoisedCells):
        title += f", each ± {found.noise:.2g}"
    if len(found.columns) == 1:
        rows = [[str(label), _count(count)] for label, count in zip(found.labels[0], found.counts.tolist(), strict=True)]
        return Sheet(title, [found.columns[0], "rows"], rows, _legend(rows, found.min_cell).strip(), frozenset({1}))
    rows = [[str(label), *map(_count, counts)] for label, counts in zip(found.labels[0], found.counts.tolist(), strict=True)]
    headings = [found.columns[0], *map(str, found.labels[1])]
    return Sheet(title, headings, rows, _legend(rows, found.min_cell).strip(), frozenset(range(1, len(headings))))


def _correlation(found: Correlation) -> Sheet:
    note = f"A dash: fewer than {found.min_cell} rows have both, or one does not vary."
    if len(found.columns) > MOST_COLUMNS:
        return _strongest(found)
    rows = [[name, *cells] for name, cells in zip(found.columns, _correlations(found), strict=True)]
    return Sheet("Correlation", ["", *found.columns], rows, note, frozenset(range(1, len(found.columns) + 1)))


def _correlations(found: Correlation) -> list[list[str]]:
    """The matrix as texts, with the noise where there is some."""
    cells = [[_rounded(r) for r in line] for line in found.matrix.tolist()]
    if not isinstance(found, NoisedCorrelation):
        return cells
    return [
        [_with(text, off) if off else text for text, off in zip(*line, strict=True)]
        for line in zip(cells, found.noise.tolist(), strict=True)
    ]


def _strongest(found: Correlation) -> Sheet:
    pairs = [(first, second) for second in range(len(found.columns)) for first in range(second)]
    known = [pair for pair in pairs if np.isfinite(found.matrix[pair])]
    known.sort(key=lambda pair: -abs(found.matrix[pair]))
    rows = [[found.columns[i], found.columns[j], _correlations(found)[i][j]] for i, j in known[:STRONGEST]]
    note = f"The strongest of {len(pairs)} pairs; all are in the JSON object."
    return Sheet("Correlation", ["column", "column", "r"], rows, note, frozenset({2}))


def own(found: Sequence[Own]) -> Sheet:
    """Each site's own means, which only a simulation has in one place."""
    every = list(found[0].columns)
    names = every[:MOST_COLUMNS]
    rows = [
        [one.site, _count(one.rows), *(_number(math.nan if (m := one.columns[name][1]) is None else m) for name in names)]
        for one in found
    ]
    more = f" {len(names)} of {len(every)} columns; all are in the JSON object." if len(every) > len(names) else ""
    note = f"Simulation only: each site has its own line, and no other. A dash: too few values.{more}"
    return Sheet("Means of each site alone", ["site", "rows", *names], rows, note, frozenset(range(1, len(names) + 2)))


def opened(events: Iterable[Opened]) -> Sheet:
    """What was opened."""
    rows = [[event.what, str(event.rounds), event.coverage, event.note] for event in events]
    return Sheet("What was opened", ["what", "sums", "covered", "note"], rows, figures=frozenset({1}))


def _legend(rows: Sequence[Sequence[str]], k: int) -> str:
    if not any(cell == WITHHELD for row in rows for cell in row[1:]):
        return ""
    return f" {WITHHELD} is not released: fewer than {k}, or a cell that would give away one of fewer than {k}."


def _count(count: int | None) -> str:
    return WITHHELD if count is None else str(count)


def _with(text: str, noise: float) -> str:
    """A number with the standard deviation of its noise."""
    return f"{text} ± {noise:.2g}" if text not in {WITHHELD, "–"} and math.isfinite(noise) else text


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _rounded(r: float) -> str:
    return f"{r:.2f}" if math.isfinite(r) else "–"
