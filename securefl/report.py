"""The outputs of a run as files: an HTML report that needs nothing else, the figures as JSON, the model as safetensors.

matplotlib and jinja2 are loaded on use.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
import shlex
from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from securefl import options, tables
from securefl.binned import Z
from securefl.job import Job
from securefl.results import NOTICE, Preparation, RunResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILES = ("report.html", "metrics.json", "model.safetensors")
PACKAGES = ("securefl", "torch", "opacus", "numpy", "scikit-learn", "cryptography", "cbor2")
INK, ACCENT, WARN, QUIET = "#1c2733", "#0b6e99", "#b3261e", "#8796a5"
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "securefl",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "text.color": INK,
    "axes.labelcolor": INK,
}


def outputs(result: RunResult) -> dict[str, bytes]:
    """The content of every output file, by name; nothing is written."""
    return dict(zip(FILES, (html(result).encode(), to_json(result, indent=2).encode(), weights(result)), strict=True))


def to_json(result: RunResult, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """`RunResult.as_json` as text that every JSON parser reads (no NaN), with a newline at the end."""
    return json.dumps(result.as_json(), indent=indent, allow_nan=False, ensure_ascii=ascii_only) + "\n"


def weights(result: RunResult) -> bytes:
    """The final model as safetensors; job and preparation stand in the file's metadata as JSON, for `securefl.load_model`."""
    return model_file(result.state, result.job, result.preparation)


def model_file(state: Mapping[str, Any], job: Mapping[str, Any], preparation: Preparation | None) -> bytes:
    """A model's arrays as safetensors, with the job and how rows become what it takes."""
    import numpy as np  # noqa: PLC0415 - slow imports wait for their use
    from safetensors.numpy import save  # noqa: PLC0415

    arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
    metadata = {"job": json.dumps(job), "notice": NOTICE}
    if preparation is not None:
        metadata["preparation"] = json.dumps(preparation.plain())
    content: bytes = save(arrays, metadata=metadata)
    return content


def html(result: RunResult) -> str:
    """The report: one page without scripts or links to anything outside."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415
    from markupsafe import Markup  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("securefl"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # The pictures are drawn by our own code from our own text; everything else is escaped.
    return environment.get_template("report.html.j2").render(
        result=result,
        outcome=tables.outcome(result),
        sentence=tables.sentence(result),
        figure=tables.figure,
        curves=Markup(curves(result)),  # noqa: S704
        calibration=Markup(calibration(result)),  # noqa: S704
        picture=Markup(bare(result.picture)) if result.picture else "",  # noqa: S704
        sheets=tables.sheets(result),
        notice=NOTICE,
        data=tables.data(result),
        rounds=tables.rounds(result),
        command=command(result),
        versions=versions() | _plugin(result),
    )


def command(result: RunResult) -> str:
    """The shell line that repeats the run; keys and noise will differ, as they must."""
    return shlex.join(options.command(Job.parse(result.job, ran=True)))


def versions() -> dict[str, str]:
    """Versions of Python, the machine's system and the packages that decide the result."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "run from source"
    return found


def _plugin(result: RunResult) -> dict[str, str]:
    """Name and version of the package that the protocol comes from, if it is not ours."""
    origin = result.plugin
    return {origin.distribution: f"{origin.version} (protocol)"} if origin is not None and origin.distribution else {}


def curves(result: RunResult) -> str:
    """Scores over the rounds beside the pooled model, ε over the rounds, and aborted rounds marked, as one SVG element."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    private = any(record.epsilon for record in result.rounds)
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(5.6, 5.0 if private else 3.2), layout="constrained")
        axes = canvas.subplots(2 if private else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 2] if private else [1])
        _draw_scores(axes[0, 0], result)
        if private:
            _draw_epsilon(axes[1, 0], result)
        axes[-1, 0].set_xlabel("rounds done")
        axes[-1, 0].xaxis.get_major_locator().set_params(integer=True)
        return _drawn(canvas)


def calibration(result: RunResult) -> str:
    """Observed over predicted shares, the other model's beside them, as one SVG element; empty where nothing was assessed."""
    found = result.assessment
    if found is None or not found.federated.calibration:
        return ""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({**STYLE, "svg.hashsalt": "securefl calibration"}):
        canvas = Figure(figsize=(5.6, 3.6), layout="constrained")
        axes, most = canvas.subplots(), 0.0
        for name, one, colour in (("federated", found.federated, ACCENT), (found.name, found.compared, QUIET)):
            groups = () if one is None else one.calibration
            if groups:
                observed = [group.observed for group in groups]
                sides = [[max(0.0, g.observed - g.low) for g in groups], [max(0.0, g.high - g.observed) for g in groups]]
                predicted = [group.predicted for group in groups]
                axes.errorbar(predicted, observed, yerr=sides, color=colour, marker="o", markersize=4, capsize=2, label=name)
                most = max(most, *predicted, *(group.high for group in groups))
        axes.plot([0, most], [0, most], color=INK, linewidth=1, linestyle="--", label="perfect")
        axes.set_xlabel("predicted")
        axes.set_ylabel("observed")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        return _drawn(canvas)


def _drawn(canvas: Figure) -> str:
    target = io.StringIO()
    canvas.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    return bare(target.getvalue())


def _draw_scores(axes: Axes, result: RunResult) -> None:
    """Metrics of a record are those of the model before its round; the final metrics close the curve."""
    for key, colour in (("auroc", ACCENT), ("accuracy", QUIET)):
        points = [(record.number - 1, record.metrics[key]) for record in result.rounds if key in record.metrics]
        if key in result.metrics:
            points.append((len(result.rounds), result.metrics[key]))
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=f"{tables.SCORES[key]}, federated")
    told = [r for r in result.rounds if {"auroc", "auroc_se"} <= set(r.metrics)]
    if told:
        low, high = ([min(1.0, max(0.0, r.metrics["auroc"] + sign * Z * r.metrics["auroc_se"])) for r in told] for sign in (-1, 1))
        at = [r.number - 1 for r in told]
        axes.fill_between(at, low, high, color=ACCENT, alpha=0.15, linewidth=0, label="95 % interval of AUROC")
    if "auroc" in result.pooled:
        axes.axhline(result.pooled["auroc"], color=INK, linewidth=1, linestyle="--", label="AUROC, pooled (simulation)")
    alone = [site.metrics["auroc"] for site in result.local if "auroc" in site.metrics]
    many = len(alone) > tables.MOST_ALONE
    name = f"AUROC, a site alone, mean of {len(alone)}" if many else "AUROC, each site alone"
    for number, value in enumerate([fmean(alone)] if many else alone):
        axes.axhline(value, color=QUIET, linewidth=0.8, linestyle=":", label=f"{name} (simulation)" if number == 0 else None)
    for number, record in enumerate(record for record in result.rounds if record.aborted):
        axes.axvspan(
            record.number - 1, record.number, color=WARN, alpha=0.12, linewidth=0, label="aborted round" if number == 0 else None
        )
    axes.set_ylabel("held-out rows")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def _draw_epsilon(axes: Axes, result: RunResult) -> None:
    points = [(0, 0.0), *((record.number, max(record.epsilon.values())) for record in result.rounds if record.epsilon)]
    axes.step(*zip(*points, strict=True), where="post", color=ACCENT)
    limit = result.job["privacy"]["epsilon"]
    axes.axhline(limit, color=WARN, linewidth=1, linestyle="--", label=f"limit: ε = {limit:g}")
    axes.set_ylabel(f"{result.spent}, largest site")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def bare(svg: str) -> str:
    """The SVG element alone, without the XML prologue that has no place inside HTML."""
    return svg[max(svg.find("<svg"), 0) :].strip()
