"""The page of a run between machines, out of the server's store and its models: what a server knows, and nothing else.

matplotlib and jinja2 are loaded on use.  The page needs nothing else, and has no scripts.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from securefl.binned import Figure
from securefl.errors import printable
from securefl.privacy.differencing import Cohorts
from securefl.report import ACCENT, INK, QUIET, WARN, bare, versions
from securefl.results import NOTICE
from securefl.stages import ASSESSMENT
from securefl.store import Checkpoint, Checkpoints, RunStore
from securefl.tables import SCORES, Sheet, counted, duration, figure, interval, size

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SHOWN = 40
"""Attempts in the timeline: the newest."""
FATES = {"summed": "in the sum", "dropped": "dropped out", "left": "left", "blamed": "blamed"}


@dataclass(frozen=True)
class Told:
    """What the store has of a run.

    Attributes:
        run: its row.
        job: what all had alike of its job.
        attempts: rows, in order.
        contributions: rows.
        checkpoints: rows; round 0 is what the run started from.
        stages: rows: sums beside the rounds.
    """

    run: dict[str, Any]
    job: dict[str, Any]
    attempts: list[dict[str, Any]]
    contributions: list[dict[str, Any]]
    checkpoints: list[dict[str, Any]]
    stages: list[dict[str, Any]]

    @classmethod
    def of(cls, base: RunStore, run: dict[str, Any]) -> Told:
        """Read a run."""
        text = next(row["text"] for row in base.rows("jobs") if row["digest"] == run["job"])
        rows = (base.rows(table, run["name"]) for table in ("attempts", "contributions", "checkpoints", "stages"))
        return cls(run, json.loads(text), *rows)

    @property
    def finished(self) -> list[dict[str, Any]]:
        """The attempts that gave a model."""
        return [row for row in self.attempts if row["outcome"] == "finished"]

    @property
    def figures(self) -> dict[str, Any] | None:
        """Of the final model, out of the sum over its scores; None without one."""
        found = next((row["value"] for row in self.stages if row["stage"] == ASSESSMENT and row["value"] is not None), None)
        return None if found is None else dict(json.loads(found))

    @property
    def metrics(self) -> list[tuple[int, dict[str, float]]]:
        """By round, what the sum said of the model before it."""
        return [(row["round"], json.loads(row["metrics"] or "{}")) for row in self.finished]


def html(told: Told, models: Checkpoints | None = None) -> str:
    """The page.

    Args:
        told: what the store has.
        models: where the models are, to be looked at; None leaves them alone.

    Raises:
        UserError: where the newest model, or that of the start, is missing or was changed.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("securefl"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    privacy, last = told.job["privacy"], told.metrics[-1][1] if told.metrics else {}
    heads = {
        "rounds finished": f"{len(told.finished)} of {told.run['rounds']}",
        "attempts aborted or lost": str(sum(row["outcome"] in ("aborted", "lost") for row in told.attempts)),
        "ε of the job": f"{privacy['epsilon']:g}" if privacy.get("epsilon") is not None else "none",
        "AUROC, last sum": figure(last.get("auroc")),
    }
    sheets = [_figures(told), _job(told), _rounds(told), _beside(told), _parties(told), _together(told), _models(told, models)]
    # Both pictures are drawn by our own code from numbers; everything else is escaped.
    return environment.get_template("run.html.j2").render(
        title=f"{told.job['data']['name']}, run {told.run['name'][:16]}",
        outcome=_outcome(told),
        notice=NOTICE,
        heads=heads,
        curves=Markup(_curves(told)) if any(metrics for _, metrics in told.metrics) else "",  # noqa: S704
        timeline=Markup(_timeline(told)) if _timed(told) else "",  # noqa: S704
        sheets=[sheet for sheet in sheets if sheet.rows],
        versions=versions(),
    )


def _outcome(told: Told) -> str:
    wall = sum(row["seconds"] or 0.0 for row in told.attempts)
    line = f"{counted(len(told.attempts), 'attempt')} in {duration(wall)} of rounds, begun {told.run['created']:%Y-%m-%d %H:%M} UTC"
    why = Counter(row["check_name"] or row["outcome"] for row in told.attempts if row["outcome"] in ("aborted", "lost"))
    if why:
        line += "; without a model: " + ", ".join(f"{check} ×{count}" for check, count in why.most_common())
    return line


def _job(told: Told) -> Sheet:
    rows = [["SHA-256", told.run["job"]], ["run", told.run["name"]]]
    for section in ("data", "model", "privacy", "performance"):
        given = {key: value for key, value in told.job[section].items() if value not in (None, {}, [])}
        rows += [[f"{section}.{key}", printable(json.dumps(value, ensure_ascii=False))] for key, value in given.items()]
    return Sheet("The job", ["key", "value"], rows, "What all parties and the server had alike.")


def _rounds(told: Told) -> Sheet:
    keys = [key for key in SCORES if any(key in metrics for _, metrics in told.metrics)]
    rows = []
    for row in told.attempts:
        metrics = json.loads(row["metrics"] or "{}")
        why = ": ".join(filter(None, (row["step"], row["check_name"])))
        count = "" if row["contributors"] is None else str(row["contributors"])
        spent = "" if row["seconds"] is None else duration(row["seconds"])
        scores = [figure(metrics[key]) if key in metrics else "" for key in keys]
        rows.append([str(row["round"]), str(row["attempt"]), row["outcome"] or "under way", count, *scores, spent, printable(why)])
    columns = ["round", "attempt", "outcome", "in the sum", *(SCORES[key] for key in keys), "time", "why"]
    return Sheet("Rounds", columns, rows, figures=frozenset({0, 1, *range(3, len(columns) - 1)}))


def _figures(told: Told) -> Sheet:
    """The final model's figures with their intervals, beside the other model's."""
    found, rows = told.figures, list[list[str]]()
    names = {"federated": "federated", "same_rows": "federated, same rows", "compared": "" if found is None else found["name"]}
    for key, name in names.items():
        if found is not None and key in found:
            one = found[key]
            cells = (interval(None if one[score] is None else Figure(**one[score])) for score in ("auroc", "auprc", "brier"))
            rows.append([name, str(one["rows"]), *cells])
    columns = ["model", "rows", "AUROC (95 %)", "AUPRC (95 %)", "Brier (95 %)"]
    note = "" if found is None else f"Held-out rows of all sites, out of one secure sum. {found['method']}."
    return Sheet("The final model", columns, rows, note, frozenset({1, 2, 3, 4}))


def _beside(told: Told) -> Sheet:
    rows = [
        [
            row["stage"],
            str(row["attempt"]),
            row["outcome"] or "under way",
            "" if row["contributors"] is None else str(row["contributors"]),
            "" if row["seconds"] is None else duration(row["seconds"]),
            printable(": ".join(filter(None, (row["step"], row["check_name"])))),
        ]
        for row in told.stages
    ]
    note = "Secure sums before the rounds and after them. One whose inputs were asked for is not tried again."
    return Sheet(
        "Sums beside the rounds",
        ["sum", "attempt", "outcome", "in the sum", "time", "why"],
        rows,
        note,
        frozenset({1, 3, 4}),
    )


def _parties(told: Told) -> Sheet:
    counts = dict[str, Counter[str]]()
    for row in told.contributions:
        counts.setdefault(row["member"], Counter())[row["fate"]] += 1
    rows = [[printable(name), *(str(found[fate]) for fate in FATES)] for name, found in counts.items()]
    return Sheet("Parties, by attempts", ["party", *FATES.values()], rows, figures=frozenset(range(1, len(FATES) + 1)))


def _together(told: Told) -> Sheet:
    """What exact sums over different sets of parties show together; no rows where there is nothing to say."""
    sets = dict[tuple[int, int], list[str]]()
    for row in told.contributions:
        if row["fate"] == "summed":
            sets.setdefault((row["round"], row["attempt"]), []).append(row["member"])
    cohorts = Cohorts(sorted({row["member"] for row in told.contributions}))
    for (number, _), names in sorted(sets.items()):
        cohorts.note(number, names)
    exact = told.job["privacy"]["mechanism"] not in ("distributed-party", "distributed-record")
    rows = [[one.what, printable(one.note)] for one in cohorts.shown()] if exact else []
    return Sheet("Sums over different sets", ["what", "what it shows"], rows, "Nobody needs more than the sums to work it out.")


def _models(told: Told, models: Checkpoints | None) -> Sheet:
    rows = [[str(row["round"]), row["digest"], size(row["size"])] for row in told.checkpoints]
    note = "SHA-256 of each model's file."
    if models is not None and told.checkpoints:
        first, newest = (models.load(_checkpoint(row))[0] for row in (told.checkpoints[0], told.checkpoints[-1]))
        moved = float(np.sqrt(sum(float(((b - a) ** 2).sum()) for a, b in zip(first, newest, strict=True))))
        values = sum(model.size for model in newest)
        note += f" The newest is whole: {counted(values, 'value')}, at distance {moved:.3g} from the start."
    return Sheet("Models", ["round", "digest", "size"], rows, note, frozenset({0, 2}))


def _checkpoint(row: dict[str, Any]) -> Checkpoint:
    return Checkpoint(row["digest"], row["path"], row["size"])


def _curves(told: Told) -> str:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    canvas = _canvas(3.2)
    axes = canvas.subplots()
    for key, colour in (("auroc", ACCENT), ("accuracy", QUIET)):
        points = [(number - 1, metrics[key]) for number, metrics in told.metrics if key in metrics]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=SCORES[key])
    axes.set_xlabel("rounds done")
    axes.set_ylabel("held-out rows, out of the sum")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    return _drawn(canvas)


def _timed(told: Told) -> list[dict[str, Any]]:
    """The newest attempts of which the times are known."""
    return [row for row in told.attempts if row["sent"] is not None and row["seconds"]][-SHOWN:]


def bars(row: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """From when to when, in seconds from an attempt's beginning; what never came about is left out.

    Args:
        row: of the table of attempts.
    """
    sent, asked, taken, end = row["sent"], row["asked"], row["taken"], row["seconds"]
    found = {
        "keys and shares": (sent, end if asked is None else asked),
        "training and vectors": (sent, end if taken is None else taken),
    }
    if taken is not None:
        found["agreement and opening"] = (taken, end)
    return found


def _timeline(told: Told) -> str:
    rows = _timed(told)
    canvas = _canvas(0.9 + 0.34 * len(rows))
    axes = canvas.subplots()
    styles = {"training and vectors": (ACCENT, 0.0), "keys and shares": (WARN, 0.34), "agreement and opening": (INK, 0.0)}
    for at, row in enumerate(rows):
        for name, (begin, end) in bars(row).items():
            colour, shift = styles[name]
            label = name if at == 0 or name not in axes.get_legend_handles_labels()[1] else None
            axes.barh(at + shift - 0.17, end - begin, left=begin, height=0.3, color=colour, label=label)
    axes.set_yticks(range(len(rows)), [f"{row['round']}" + (f".{row['attempt']}" if row["attempt"] else "") for row in rows])
    axes.invert_yaxis()
    axes.set_ylabel("round")
    axes.set_xlabel("seconds")
    canvas.legend(*_once(axes.get_legend_handles_labels()), frameon=False, fontsize=8, loc="outside upper center", ncols=3)
    return _drawn(canvas)


def _once(found: tuple[Sequence[Any], Sequence[str]]) -> tuple[list[Any], list[str]]:
    named = dict(zip(found[1], found[0], strict=True))
    return [*named.values()], [*named]


def _canvas(height: float) -> Canvas:
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415

    return Canvas(figsize=(5.6, height), layout="constrained")


def _drawn(canvas: Canvas) -> str:
    import matplotlib as mpl  # noqa: PLC0415

    target = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "securefl"}):
        canvas.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    return bare(target.getvalue())
