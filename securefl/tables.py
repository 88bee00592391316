"""The result in tables of plain text, once for the terminal and the HTML report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import fmean

from rich.filesize import decimal

from securefl import places
from securefl.assessment import METHOD, MIN_CELL
from securefl.binned import Figure
from securefl.conformal import ERROR
from securefl.data.columns import some
from securefl.errors import quoted
from securefl.gains import FIGURES as GAINED
from securefl.results import RunResult, SiteBaseline

SCORES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier",
    "accuracy": "accuracy",
    "auroc_site_mean": "AUROC, mean of sites",
    "loss": "loss",
}
"""Metrics that are shown, in this order, with their headings."""

MOST_ALONE = 20
"""With more sites, their own models share a row."""
WITHHELD = "few"
"""In the place of a count of a site's rows that is below the minimum cell."""


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        title: heading.
        columns: headings of the columns; those in ``figures`` are set to the right.
        rows: cells as text, one list a row.
        note: a line below, or empty.
        figures: numbers of the columns that hold figures.
        strong: number of the row that stands out, or None.
        kept: numbers of the columns whose cells stand on one line in a terminal, however narrow, such as names.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    figures: frozenset[int] = frozenset()
    strong: int | None = None
    kept: frozenset[int] = frozenset()


def sheets(result: RunResult) -> list[Sheet]:
    """Every table of a result, in reading order; empty ones are left out."""
    makers = (gains, assessed, by_group, _scores, _by_site, calibration, standing, _privacy, _opened, _traffic, _time, _server_saw)
    return [sheet for sheet in (maker(result) for maker in makers) if sheet.rows]


def brief(result: RunResult) -> list[Sheet]:
    """The tables for a terminal, what matters most at the end; parties with equal rows share one, and so do short steps."""
    makers = (_server_saw, _opened, _short_time, _traffic, _privacy, standing, calibration, _scores, by_group, assessed, gains)
    return [_together(sheet) for sheet in (maker(result) for maker in makers) if sheet.rows]


def _together(sheet: Sheet) -> Sheet:
    """The sheet with neighbouring rows that differ in their name alone as one, under the first and the last name."""
    if sheet.columns[0] not in {"site", "party"}:
        return sheet
    rows = list[list[str]]()
    for _, same in groupby(sheet.rows, key=lambda row: row[1:]):
        first, *more = same
        rows.append([f"{first[0]} … {more[-1][0]} ({len(more) + 1})" if more else first[0], *first[1:]])
    return replace(sheet, rows=rows)


def figure(value: float | None) -> str:
    """A score with three decimals; a dash where there is none (a class is missing)."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def size(count: float) -> str:
    """Bytes with a decimal unit."""
    return decimal(round(count))


def duration(seconds: float) -> str:
    """Seconds with a fitting precision."""
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the singular where it is 1."""
    return f"{number} {noun}{'s' * (number != 1)}"


def sentence(result: RunResult) -> str:
    """What was done and what came out, for a reader who reads nothing else."""
    knobs, private = result.job["privacy"], bool(result.epsilon)
    out = f"{counted(len(result.sites), 'site')} trained one model together"
    out += ", none of which showed anybody a row or an update: " if knobs["protocol"] != "plain-insecure" else ": "
    assessed = result.assessment.federated.auroc if result.assessment is not None else None
    if assessed is not None:
        out += f"AUROC {figure(assessed.value)} (95 % interval {figure(assessed.low)} to {figure(assessed.high)}) on held-out rows"
    elif "auroc" in result.metrics:
        out += f"AUROC {figure(result.metrics['auroc'])} on held-out rows"
    else:
        out += f"{counted(len(result.rounds) - result.aborted_rounds, 'round')} changed it"
    alone = [site.metrics["auroc"] for site in result.local if math.isfinite(site.metrics.get("auroc", math.nan))]
    beside = [f"all rows in one place {figure(result.pooled['auroc'])}"] if "auroc" in result.pooled else []
    if alone:
        beside.append(
            f"a site alone {figure(min(alone))} to {figure(max(alone))}" if len(alone) > 1 else f"a site alone {figure(alone[0])}"
        )
    out += f" ({', '.join(beside)})" if beside else ""
    if private:
        return f"{out}; for one {result.unit} ε = {max(result.epsilon):.3g} at most, at δ = {result.delta:g}."
    return f"{out}; without differential privacy, so the model may tell of single records."


def outcome(result: RunResult) -> str:
    """One line: rounds, aborts with their checks, and time."""
    line = f"{counted(len(result.rounds), 'round')} in {duration(result.wall)}"
    if result.aborted_rounds:
        checks = Counter(record.aborted for record in result.rounds if record.aborted)
        why = ", ".join(f"{check} ×{count}" for check, count in checks.most_common())
        line += f"; {result.aborted_rounds} aborted ({why}): each left the model as it was"
        line += " and its training is charged to ε" if result.epsilon else ""
    return line


def _scores(result: RunResult) -> Sheet:
    every = [result.metrics, result.pooled, *(site.metrics for site in result.local)]
    shown = [key for key in SCORES if key != "loss" and any(key in metrics for metrics in every)]
    rows = [["federated, all sites", "", *(figure(result.metrics.get(key)) for key in shown)]]
    trained = [_train_rows(result, site) for site in result.local]
    if result.pooled:  # the total would tell the one that is withheld
        total = str(sum(site.rows for site in result.local)) if result.local and WITHHELD not in trained else ""
        rows.append(["pooled, all rows", total, *(figure(result.pooled.get(key)) for key in shown)])
    if len(result.local) > MOST_ALONE:
        rows.append([f"a site alone, mean of {len(result.local)}", *_mean_alone(result.local, shown)])
    else:
        rows += [
            [f"{site.name} alone", told, *(figure(site.metrics.get(key)) for key in shown)]
            for site, told in zip(result.local, trained, strict=True)
        ]
    note = "Simulation only: exact, from the rows of all sites in one place. Scores of single rounds come out of the secure sum."
    if result.pooled or result.local:
        note += " The pooled model and the sites' own are trained without noise."
    note += _withheld(rows)
    return Sheet(
        "Score on held-out rows (simulation only)",
        ["model", "rows to train on", *(SCORES[key] for key in shown)],
        rows,
        note,
        frozenset(range(1, 2 + len(shown))),
        strong=0,
    )


def _few(*counts: int) -> bool:
    """Whether one of them is below the minimum cell, and not none."""
    return any(0 < count < MIN_CELL for count in counts)


def _withheld(rows: list[list[str]]) -> str:
    """A sentence for the note of a table that leaves out small counts."""
    return f" {WITHHELD}: fewer than {MIN_CELL}, or all but fewer." if any(WITHHELD in row[1:] for row in rows) else ""


def _train_rows(result: RunResult, site: SiteBaseline) -> str:
    """How many rows a site trained its own model on; held-out rows follow from it, so they must not be few either."""
    every = site.rows if result.data is None else result.data.rows.get(site.name, site.rows)
    return WITHHELD if _few(site.rows, every, every - site.rows) else str(site.rows)


def _mean_alone(local: Sequence[SiteBaseline], shown: Sequence[str]) -> list[str]:
    values = {key: [site.metrics[key] for site in local if key in site.metrics] for key in shown}
    return [f"{fmean(site.rows for site in local):.1f}", *(figure(fmean(found) if found else None) for found in values.values())]


def assessed(result: RunResult) -> Sheet:
    """The final model's figures with their intervals, beside the other model's."""
    found, columns = result.assessment, ["model", "rows", "AUROC (95 %)", "AUPRC (95 %)", "Brier (95 %)"]
    if found is None:
        return Sheet("", columns, [])
    many = len(found.sites) > MOST_ALONE
    models = [
        ("federated, all rows", found.federated),
        (f"federated, with {found.name}", found.same_rows),
        (f"{found.name}, the same", found.compared),
        ("pooled, all rows *", found.pooled),
        *((f"{name} *", one) for name, one in ({} if many else found.sites).items()),
    ]
    shown = [(name, one) for name, one in models if one is not None]
    rows = [
        [name, WITHHELD if _few(one.rows) else str(one.rows), *map(interval, (one.auroc, one.auprc, one.brier))]
        for name, one in shown
    ]
    blurred = any(map(_blurred, (figure for _, of in shown for figure in (of.auroc, of.auprc, of.brier))))
    how = "Out of one secure sum of counts by score" if found.secure else f"Simulation only: {found.insecure}"
    note = (
        f"{how}. * simulation only: pooled training, and the federated model at each site. A dash: a class is missing, or has "
        f"fewer than {MIN_CELL} rows there. {METHOD}."
    )
    if blurred:
        note += (
            " ~: the bins can hide more than half the interval: such a figure can be far from that of the scores; "
            "off in the JSON object bounds it."
        )
    return Sheet("The final model on held-out rows", columns, rows, note, frozenset({1, 2, 3, 4}), strong=0)


def standing(result: RunResult) -> Sheet:
    """How many sites had an update and a loss of which size in the last round that opened it, and which (simulation only)."""
    columns = ["", "range", "sites", "which (simulation only)"]
    last = next((r for r in reversed(result.rounds) if places.counts(r.metrics, places.NORM)), None)
    if last is None:
        return Sheet("", columns, [])
    rows, clip = list[list[str]](), result.job["privacy"]["update_clip"]
    for at, (kind, label) in enumerate({places.NORM: "norm of the update", places.LOSS: "loss before the round"}.items()):
        counts = places.counts(last.metrics, kind)
        for place, (words, count) in enumerate(zip(places.ranges(kind, clip), counts, strict=True)):
            if count:
                names = [name for name, found in result.places.items() if found[at] == place]
                rows.append([label, words, str(count), some(map(quoted, names), 5)])
    note = f"Round {last.number}. Counts of sites out of the secure sum; each site knows its own range, and no other's."
    return Sheet("Where sites stand", columns, rows, note, frozenset({2}))


def by_group(result: RunResult) -> Sheet:
    """The final model's figures for groups of patients."""
    columns, found = ["group", "rows", "AUROC (95 %)", "AUPRC (95 %)", "Brier (95 %)"], None
    if result.assessment is not None:
        found = result.assessment.groups
    if found is None:
        return Sheet("", columns, [])
    rows = [
        [f"{attribute}: {group}", str(one.rows), *map(interval, (one.auroc, one.auprc, one.brier))]
        for attribute, groups in found.figures.items()
        for group, one in groups.items()
    ] + [[attribute, *["–"] * 4] for attribute in found.withheld]
    withheld = "".join(f" {attribute} is withheld: {why}." for attribute, why in found.withheld.items())
    note = f"Out of secure sums; an attribute is opened only where every group has {MIN_CELL} rows of each class.{withheld}"
    return Sheet("The final model by group", columns, rows, note, frozenset({1, 2, 3, 4}))


def gains(result: RunResult) -> Sheet:
    """What each partner gains over its own model, and the mean."""
    found = result.gains
    if found is None:
        return Sheet("", [], [])
    keys = [*found.mean]
    rows = [
        [
            name,
            *(f"{one.own[key]:.3f} → {one.federated[key]:.3f} ({one.gain[key]:+.3f})" if key in one.gain else "–" for key in keys),
        ]
        for name, one in found.partners.items()
    ]
    rows.append(["mean gain", *(f"{found.mean[key]:+.3f}" for key in keys)])
    note = (
        "Simulation only, for whoever runs the experiment: no partner learns another's row. Own model → shared trunk with its own "
        "head, means over a partner's assays, both trained in the same rounds, steps and batches."
    )
    if "confident" in keys:
        note += f" Confident: share of predictions whose Mondrian conformal set holds one label, with at most {ERROR:.0%} wrong."
    return Sheet("What partners gain", ["partner", *(GAINED[key] for key in keys)], rows, note, strong=len(rows) - 1)


def calibration(result: RunResult) -> Sheet:
    """Groups of held-out rows by score: what was predicted, and what came."""
    groups = () if result.assessment is None else result.assessment.federated.calibration
    rows = [[f"{g.predicted:.3f}", f"{g.observed:.3f} ({g.low:.3f}–{g.high:.3f})", str(g.rows)] for g in groups]
    note = f"Every group has {MIN_CELL} rows or more of both classes."
    return Sheet("Calibration of the final model", ["predicted", "observed (95 %)", "rows"], rows, note, frozenset({0, 1, 2}))


def interval(one: Figure | None) -> str:
    """A figure with its interval, marked where the bins hide too much for it; a dash where there is none."""
    if one is None:
        return "–"
    return f"{'~' if _blurred(one) else ''}{one.value:.3f} ({one.low:.3f}–{one.high:.3f})"


def _blurred(one: Figure | None) -> bool:
    """Whether the bins can move a figure by more than half the width of its interval, as where all scores are next to 0."""
    return one is not None and one.off > (one.high - one.low) / 2


def _by_site(result: RunResult) -> Sheet:
    shown = [key for key in SCORES if any(key in metrics for metrics in result.site_metrics.values())]
    rows = [[name, *(figure(metrics.get(key)) for key in shown)] for name, metrics in result.site_metrics.items()]
    return Sheet(
        "The federated model on each site's held-out rows (simulation only)",
        ["site", *(SCORES[key] for key in shown)],
        rows,
        f"A dash: a class is missing there, or has fewer than {MIN_CELL} held-out rows.",
        frozenset(range(1, 1 + len(shown))),
    )


def _privacy(result: RunResult) -> Sheet:
    title = "Differential privacy"
    if not result.epsilon:
        line = "none: the sum and the model show what exact sums show"
        return Sheet(title, ["mechanism"], [[line]])
    rows = [
        [name, f"{epsilon:.3f}", f"{result.delta:g}", f"one {result.unit}", str(result.accountant)]
        for name, epsilon in zip(result.sites, result.epsilon, strict=False)
    ]
    note = "Spent over all rounds, aborted ones included. What ε leaves out is called exact under What was opened."
    if result.noise_multiplier is not None:
        note += f" Noise on the sum of a step's gradients: {result.noise_multiplier:.3f} times the clip."
    if result.job["privacy"]["mechanism"] == "central":
        note += " The server is trusted: it sees the exact sums, and ε holds against whoever gets the model."
    return Sheet(title, ["site", "ε", "δ", "protects", "accountant"], rows, note, frozenset({1, 2}))


def _opened(result: RunResult) -> Sheet:
    rows = [[event.what, str(event.rounds), event.coverage, event.note] for event in result.opened]
    return Sheet("What was opened", ["what", "rounds", "covered", "note"], rows, figures=frozenset({1}))


def _traffic(result: RunResult) -> Sheet:
    rows = [[name, size(up), size(result.down.get(name, 0))] for name, up in result.up.items()]
    return Sheet("Bytes by party, over the whole run", ["party", "up", "down"], rows, figures=frozenset({1, 2}))


def _time(result: RunResult) -> Sheet:
    longest_first = sorted(result.seconds.items(), key=lambda item: -item[1])
    rest = result.wall - sum(result.seconds.values())
    longest_first += [("everything else", rest)] if result.seconds and rest > 0 else []
    rows = [[step, duration(seconds), f"{seconds / result.wall:.0%}" if result.wall else "–"] for step, seconds in longest_first]
    return Sheet("Time by step, all parties together", ["step", "time", "share"], rows, figures=frozenset({1, 2}))


def _short_time(result: RunResult) -> Sheet:
    sheet, least = _time(result), result.wall / 50
    small = [seconds for seconds in result.seconds.values() if seconds < least]
    if len(small) < 2:
        return sheet
    shown = len(result.seconds) - len(small)
    rest = [f"{len(small)} shorter steps", duration(sum(small)), f"{sum(small) / result.wall:.0%}"]
    return replace(sheet, rows=[*sheet.rows[:shown], rest, *sheet.rows[len(result.seconds) :]])


def _server_saw(result: RunResult) -> Sheet:
    rows = [[row.message, row.step, str(row.count), size(row.size), row.shows] for row in result.server_saw]
    columns = ["message", "step", "count", "size", "what the server can read from it"]
    return Sheet("What the server saw", columns, rows, figures=frozenset({2, 3}))


def data(result: RunResult) -> Sheet:
    """Rows of each site, for the report."""
    counts = [] if result.data is None else [(name, n, result.data.held_out[name]) for name, n in result.data.rows.items()]
    rows = [[name, WITHHELD if _few(n) else str(n), WITHHELD if _few(n, h, n - h) else str(h)] for name, n, h in counts]
    columns = ["site", "rows", "held out"]
    return Sheet("Rows by site (simulation only)", columns, rows, _withheld(rows).strip(), figures=frozenset({1, 2}))


def rounds(result: RunResult) -> Sheet:
    """One row a round, for the report.  Metrics are those of the model before the round."""
    shown = [key for key in SCORES if any(key in record.metrics for record in result.rounds)]
    rows = [
        [
            str(record.number),
            f"{record.contributors} of {record.invited}",
            ", ".join(f"{quoted(name)} ({stage})" for name, stage in record.dropped.items()),
            record.aborted or "",
            *(figure(record.metrics.get(key)) if record.metrics else "–" for key in shown),
            f"{max(record.epsilon.values()):.3f}" if record.epsilon else "–",
        ]
        for record in result.rounds
    ]
    columns = ["round", "in the sum", "vanished (stage)", "aborted by", *(SCORES[key] for key in shown), f"{result.spent}, largest"]
    return Sheet(
        "Round by round",
        columns,
        rows,
        "Scores are those of the model before the round, out of the secure sum.",
        frozenset({0, 1, *range(4, 5 + len(shown))}),
    )
