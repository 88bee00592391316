"""Two runs side by side: what was set otherwise, what came out, what it cost, and both curves in one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from securefl.job import flat
from securefl.results import RunResult
from securefl.tables import SCORES, Sheet, duration, size

CURVES = ("auroc", "loss")
"""Metrics out of the secure sums that are drawn, in this order."""
NOTE = (
    "One run each: keys and noise are fresh in every run, so a small difference may be chance. Scores need the rows of all sites. "
    "In one process the first run also warms up the libraries."
)
ROWS = {f"data.{key}" for key in ("name", "dir", "label", "site", "sites", "clients", "folds", "target", "group", "holdout")}
"""Keys that, like the seed, decide which rows are held out at which site."""
OTHER_ROWS = " The jobs hold out other rows: a difference of scores is not one of the models alone."
LOADING = ("load_data", "load_libraries")
"""Steps that only the first run of a process pays in full."""
Number = Callable[[float], str]


def sheets(names: Sequence[str], results: Sequence[RunResult]) -> list[Sheet]:
    """What the two jobs set otherwise, and what came out.

    Args:
        names: of the two runs, for headings.
        results: the two.
    """
    first, second = (flat(result.job) for result in results)
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key) and not key.startswith("output.")]
    set_ = [[key, _setting(first.get(key)), _setting(second.get(key))] for key in keys]
    rows = [_row(*found) for found in figures(results)]
    note = NOTE + OTHER_ROWS * bool((ROWS | {"simulation.seed"}) & set(keys))
    made = [
        Sheet("What differs", ["key", *names], set_, kept=frozenset({0})),
        Sheet("Side by side", ["", *names, "difference"], rows, note, frozenset({1, 2, 3})),
    ]
    return [sheet for sheet in made if sheet.rows]


def plain(names: Sequence[str], results: Sequence[RunResult]) -> dict[str, Any]:
    """The two JSON objects, and the figures with their difference by name."""
    pairs = {
        label: {"values": [first, second], "difference": None if first is None or second is None else second - first}
        for label, (first, second), _ in figures(results)
    }
    return {"names": list(names), "figures": pairs, "runs": [result.as_json() for result in results]}


def figures(results: Sequence[RunResult]) -> list[tuple[str, tuple[float | None, float | None], Number]]:
    """Label, both values, and how one is written; None where a run does not have it."""
    out = list[tuple[str, tuple[float | None, float | None], Number]]()

    def take(label: str, of: Callable[[RunResult], float | None], written: Number) -> None:
        values = [of(result) for result in results]
        first, second = (None if value is None or not math.isfinite(value) else value for value in values)
        if (first, second) != (None, None):
            out.append((label, (first, second), written))

    for key, label in SCORES.items():
        if key != "loss":
            take(label, lambda result, key=key: result.metrics.get(key), _score)  # type: ignore[misc]
    units = " and ".join(f"of a {unit}" for unit in dict.fromkeys(result.unit for result in results) if unit)
    take(f"ε {units}, largest of a site", lambda result: max(result.epsilon, default=None), _three)
    take("rounds", lambda result: float(len(result.rounds)), _whole)
    take("aborted rounds", lambda result: float(result.aborted_rounds), _whole)
    take("sent by a party", lambda result: sum(result.up.values()) / max(1, len(result.up)), size)
    take("time, loading aside", lambda result: result.wall - sum(result.seconds.get(step, 0.0) for step in LOADING), duration)
    return out


def picture(names: Sequence[str], results: Sequence[RunResult]) -> bytes:
    """Metrics of both runs over rounds, out of the secure sums, as SVG."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    from securefl.pictures import drawn  # noqa: PLC0415

    shown = [key for key in CURVES if any(key in record.metrics for result in results for record in result.rounds)]
    figure = Figure(figsize=(4.5 * max(1, len(shown)), 3.4), layout="constrained")
    for axes, key in zip(figure.subplots(1, max(1, len(shown)), squeeze=False)[0], shown or [""], strict=True):
        for name, result in zip(names, results, strict=True):
            points = [(record.number, record.metrics[key]) for record in result.rounds if key in record.metrics]
            axes.plot(*zip(*points, strict=True), marker=".", label=name) if points else axes.plot([], label=f"{name}: none opened")
        axes.set(xlabel="round (of the model before it)", ylabel=SCORES.get(key, ""))
        axes.legend()
    return drawn(figure, "svg")


def _row(label: str, pair: tuple[float | None, float | None], written: Number) -> list[str]:
    first, second = pair
    texts = ["–" if value is None else written(value) for value in pair]
    if first is None or second is None:
        return [label, *texts, ""]
    sign = "−" if second < first else "+"
    return [label, *texts, f"{sign}{written(abs(second - first))}" if second != first else "0"]


def _setting(value: Any) -> str:
    return "–" if value is None else str(value)


def _score(value: float) -> str:
    return f"{value:.3f}"


def _three(value: float) -> str:
    return f"{value:.3g}"


def _whole(value: float) -> str:
    return f"{value:.0f}"
