"""Survival and association in tables and pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from securefl.statistics.association import Association
from securefl.statistics.sheets import opened
from securefl.statistics.survival import Survival
from securefl.tables import Sheet

SHOWN = 20
"""Variants that are shown, those of the smallest p."""
GENOME_WIDE = 5e-8


def survival(found: Survival) -> list[Sheet]:
    """A table of each curve, the test, and what was opened."""
    out = list[Sheet]()
    for at, (group, median) in enumerate(zip(found.groups, found.median, strict=True)):
        rows = [
            [f"{edge:g}", str(n), str(d), str(c), _figure(s, 3), f"{_figure(low, 3)} – {_figure(high, 3)}"]
            for edge, n, d, c, s, low, high in zip(
                found.edges[1:],
                found.at_risk[at],
                found.events[at],
                found.censored[at],
                found.survival[at],
                found.low[at],
                found.high[at],
                strict=True,
            )
        ]
        half = "not reached" if median is None else f"{median:g}"
        title = f"Survival over {found.sites} sites" + ("" if found.by is None else f", {found.by} = {group}")
        headings = [f"{found.time} up to", "at risk", "events", "censored", "survival", "95 % interval"]
        out.append(Sheet(title, headings, rows, f"Median: {half}. Times count as the end of their interval.", frozenset(range(6))))
    if found.log_rank is not None:
        test = found.log_rank
        row = [_figure(test.statistic, 4), str(test.freedom), _figure(test.p, 3)]
        title, headings = "Log-rank test: all groups have one curve", ["χ²", "degrees of freedom", "p"]
        out.append(Sheet(title, headings, [row], figures=frozenset(range(3))))
    return [*out, opened(found.opened)]


def association(found: Association) -> list[Sheet]:
    """The variants of the smallest p, and what was opened."""
    order = [at for at in np.argsort(found.p, kind="stable").tolist() if math.isfinite(found.p[at])][:SHOWN]
    rows = [
        [
            found.variants[at],
            _figure(found.frequency[at], 3),
            _figure(found.odds_ratio[at], 3),
            f"{_figure(found.low[at], 3)} – {_figure(found.high[at], 3)}",
            _figure(found.chi2[at], 4),
            _figure(found.p[at], 3),
        ]
        for at in order
    ]
    tested, all_ = int(np.isfinite(found.p).sum()), len(found.variants)
    note = (
        f"{tested} of {all_} variants tested, the {len(rows)} of the smallest p shown; {found.withheld} not released, as "
        f"fewer than {found.min_cell}, but some, may carry an allele; λ = {_figure(found.inflation, 3)}."
    )
    title = f"Alternative alleles by {found.phenotype}, {found.sites} sites"
    headings = ["variant", "frequency", "odds ratio", "95 % interval", "χ²", "p"]
    return [Sheet(title, headings, rows, note, frozenset(range(1, 6))), opened(found.opened)]


def draw_survival(found: Survival, path: Path) -> None:
    """Steps of each curve with the band of its interval."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    from securefl.pictures import save  # noqa: PLC0415

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for at, group in enumerate(found.groups):
        label = None if found.by is None else f"{found.by} = {group}"
        (line,) = axes.step(found.edges, [1, *found.survival[at]], where="post", label=label)
        low, high = (np.array([1, *band[at]]) for band in (found.low, found.high))
        axes.fill_between(found.edges, low, high, step="post", alpha=0.2, color=line.get_color(), linewidth=0)
    axes.set(xlabel=found.time, ylabel="survival", ylim=(0, 1.02), xlim=(found.edges[0], found.edges[-1]))
    if found.by is not None:
        axes.legend()
    test = found.log_rank
    axes.set_title(f"{found.sites} sites" + ("" if test is None else f"; log-rank p = {test.p:.3g}"), fontsize=10)
    save(figure, path)


def draw_association(found: Association, path: Path) -> None:
    """−log10 p by the order of the variants."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    from securefl.pictures import save  # noqa: PLC0415

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    with np.errstate(divide="ignore"):
        axes.plot(-np.log10(np.maximum(found.p, np.finfo(np.float64).tiny)), ".", markersize=3)
    axes.axhline(-math.log10(GENOME_WIDE), color="gray", linewidth=0.8)
    axes.set(xlabel="variant, in the order of the table", ylabel="−log10 p", ylim=(0, None))
    axes.set_title(f"{found.phenotype}, {found.sites} sites; λ = {found.inflation:.3g}", fontsize=10)
    save(figure, path)


def _figure(value: float, digits: int) -> str:
    return f"{value:.{digits}g}" if math.isfinite(value) else ("∞" if value == math.inf else "–")
