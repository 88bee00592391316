"""What privacy costs in AUROC, mechanism by mechanism: the table and the picture in docs/privacy.md.

    SECUREFL_DATA=DIR nice -n 15 python benchmarks/privacy_utility.py docs/privacy-utility.json --picture docs/privacy-utility.svg

Two data sets, four mechanisms, ε ∈ {1, 3, 8, ∞} (∞ is an ε of 1000: clipped, hardly noised), five seeds of the split, five folds
in each; all mechanisms see the same splits.  A logistic regression takes 60 training steps at sampling rate ½ under each of them,
at each learning rate of `RATES`; the best of a mechanism at an ε, by its mean over the seeds, is what is told.  That choice looks
at held-out rows and no ε covers it.  Finished runs stand in the JSON, and are not run again.
"""

from __future__ import annotations

import json
import os
import time
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import matplotlib as mpl
import typer

from securefl import data as datasets
from securefl.experiment import run_job
from securefl.job import Job

mpl.use("svg")
from matplotlib import pyplot as plt

DATA = ("heart", "breast-cancer")
MECHANISMS = ("central", "distributed-record", "local-record", "distributed-party")
EPSILONS = (1.0, 3.0, 8.0, 1e3)
RATES = (0.3, 1.0, 3.0)
SEEDS = range(5)
STEPS, LOCAL = 60, 2
FOLDS = 5
Runs = dict[str, dict[str, float]]


def job(data: str, mechanism: str, epsilon: float, rate: float, seed: int, rows: int, steps: int = STEPS) -> Job:
    """One run; ``rows`` is the public number of training rows a site."""
    summed = mechanism in ("central", "distributed-record")
    privacy: dict[str, Any] = {"mechanism": mechanism, "epsilon": epsilon, "sample_rate": 0.5, "protocol": "secagg"}
    privacy["rounds"] = steps if summed else steps // LOCAL
    if not summed:
        privacy["local_steps"] = LOCAL
    if mechanism == "distributed-party":
        privacy["update_clip"] = 1.0
    else:
        privacy["rows"] = rows
    return Job.parse(
        {
            "data": {"name": data, "folds": FOLDS},
            "privacy": privacy,
            "performance": {"learning_rate": rate},
            "simulation": {"seed": seed, "baselines": False},
        }
    )


def key(data: str, mechanism: str, epsilon: float, rate: float, seed: int) -> str:
    """How a run is called in the JSON."""
    return f"{data} {mechanism} {epsilon:g} {rate:g} {seed}"


def best(runs: Runs, data: str, mechanism: str, epsilon: float, seeds: range) -> tuple[float, list[float]]:
    """The best learning rate, and its AUROC seed by seed."""
    found = {rate: [runs[key(data, mechanism, epsilon, rate, s)]["auroc"] for s in seeds] for rate in RATES}
    rate = max(found, key=lambda r: mean(found[r]))
    return rate, found[rate]


def report(runs: Runs, seeds: range, epsilons: tuple[float, ...]) -> dict[str, Any]:
    """For each data set, mechanism and ε: mean, spread, learning rate, and the paired difference to central."""
    out: dict[str, Any] = {}
    for data, epsilon in product(DATA, epsilons):
        _, reference = best(runs, data, "central", epsilon, seeds)
        for mechanism in MECHANISMS:
            rate, scores = best(runs, data, mechanism, epsilon, seeds)
            apart = [a - b for a, b in zip(scores, reference, strict=True)]
            spread = (stdev(scores), stdev(apart)) if len(scores) > 1 else (0.0, 0.0)
            out.setdefault(data, {}).setdefault(mechanism, {})[f"{epsilon:g}"] = {
                "auroc": mean(scores), "spread": spread[0], "learning_rate": rate,
                "minus_central": mean(apart), "minus_central_spread": spread[1],
            }  # fmt: skip
    return out


def draw(told: dict[str, Any], epsilons: tuple[float, ...], picture: Path) -> None:
    """AUROC over ε, one column a data set; below without the mechanism whose unit is a party."""
    figure, panels = plt.subplots(2, len(DATA), figsize=(9, 6.4), layout="constrained")
    places = range(len(epsilons))
    for (row, shown), (column, data) in product(enumerate((MECHANISMS, MECHANISMS[:3])), enumerate(DATA)):
        panel = panels[row][column]
        for number, mechanism in enumerate(shown):
            cells = [told[data][mechanism][f"{e:g}"] for e in epsilons]
            shifted = [p + 0.06 * (number - 1.5) for p in places]
            means, spread = [c["auroc"] for c in cells], [c["spread"] for c in cells]
            panel.errorbar(shifted, means, spread, marker="o", markersize=4, capsize=2, label=mechanism)
        panel.set_xticks(list(places), ["∞" if e > 100 else f"{e:g}" for e in epsilons])
        panel.set(title=data if row == 0 else f"{data}, ε of a record alone", ylabel="AUROC, held-out rows of all sites")
        panel.set_xlabel("ε, δ = 10⁻⁵" + (" (distributed-party: of a whole site)" if row == 0 else ""))
        panel.grid(alpha=0.3)
    panels[0][0].legend(fontsize=8)
    with mpl.rc_context({"svg.hashsalt": "securefl"}):
        figure.savefig(picture, metadata={"Date": None})


def table(told: dict[str, Any], epsilons: tuple[float, ...]) -> None:
    """The figures as a table in Markdown."""
    print("| data | mechanism |", " | ".join("ε = ∞" if e > 100 else f"ε = {e:g}" for e in epsilons), "|")
    print("|---|---|" + "---|" * len(epsilons))
    for data, mechanism in product(DATA, MECHANISMS):
        cells = [told[data][mechanism][f"{e:g}"] for e in epsilons]
        words = [f"{c['auroc']:.3f} ± {c['spread']:.3f} ({c['minus_central']:+.3f})" for c in cells]
        print(f"| {data} | `{mechanism}` |", " | ".join(words), "|")


def save(path: Path, tree: dict[str, Any]) -> None:
    """Write it whole or not at all."""
    half = path.with_suffix(f".{os.getpid()}")
    half.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    half.replace(path)


def main(
    out: Annotated[Path, typer.Argument(help="The JSON to write, and to go on from.")],
    picture: Annotated[Path | None, typer.Option(help="The SVG to write.")] = None,
    quick: Annotated[bool, typer.Option(help="One seed, ε = 3 alone.")] = False,
) -> None:
    """Run what is missing, then tell."""
    seeds, epsilons = (range(1), (3.0,)) if quick else (SEEDS, EPSILONS)
    runs: Runs = json.loads(out.read_text(encoding="utf-8"))["runs"] if out.exists() else {}
    for seed, data in product(seeds, DATA):
        loaded = datasets.of_job(Job.parse({"data": {"name": data, "folds": FOLDS}}))
        rows = round(sum(len(s.y) for s in loaded.sites) * (1 - 1 / FOLDS) / len(loaded.sites))
        for epsilon, mechanism, rate in product(epsilons, MECHANISMS, RATES):
            name = key(data, mechanism, epsilon, rate, seed)
            if name in runs:
                continue
            began = time.process_time()
            result = run_job(job(data, mechanism, epsilon, rate, seed, rows), dataset=loaded)
            spent = max(result.epsilon) if result.epsilon else float("inf")
            runs[name] = {"auroc": result.metrics["auroc"], "epsilon": spent, "cpu_s": time.process_time() - began}
            save(out, {"runs": runs})
    told = report(runs, seeds, epsilons)
    save(out, {"told": told, "runs": runs})
    table(told, epsilons)
    print(f"{sum(run['cpu_s'] for run in runs.values()):.0f} CPU seconds in all")
    if picture is not None:
        draw(told, epsilons, picture)


if __name__ == "__main__":
    typer.run(main)
