"""Whether noised means and variances help a private model: AUROC beside public ranges, as told in docs/privacy.md.

    SECUREFL_DATA=DIR nice -n 15 python benchmarks/noised_scaling.py [--share 0.25 --share 0.1] [--epsilon 3] [--data heart]

The jobs of benchmarks/privacy_utility.py with a third of their steps, five seeds and two learning rates, paired by seed: the same
splits, other noise.  Shown is the better learning rate of each by its mean, which looks at held-out rows.  ``exact`` is for
comparison, as no ε covers it: the same training with exact means and variances.
"""

from __future__ import annotations

from statistics import mean, stdev
from typing import Annotated, Any
from unittest import mock

import numpy as np
import typer
from privacy_utility import FOLDS, SEEDS, job

from securefl import data as datasets
from securefl import experiment, standardise
from securefl.data.types import Dataset
from securefl.experiment import run_job
from securefl.job import Job
from securefl.scaling import Scaler
from securefl.standardise import Scaled

MECHANISMS = ("local-record", "distributed-record", "central")
RATES, STEPS = (0.3, 1.0), 20


def exactly(_job: Job, loaded: Dataset, splits: dict[str, Any], *_: object) -> Scaled:
    """Pooled means and deviations, opened to nobody but this script."""
    low, high = loaded.ranges.T if loaded.ranges is not None else (-np.inf, np.inf)
    rows = np.concatenate([np.clip(site.x, low, high) for site in loaded.sites])
    deviation = rows.std(axis=0)
    scaler = Scaler(rows.mean(axis=0), np.where(deviation > 0, deviation, 1.0), low, high)
    return Scaled(loaded, [scaler] * len(next(iter(splits.values()))), [])


def score(how: str, loaded: Dataset, asked: Job) -> tuple[float, int]:
    """AUROC of one run, and how many features kept their public range."""
    noised = how.startswith("noised")
    asked = asked.model_copy(update={"data": asked.data.model_copy(update={"scaling": "noised" if noised else "auto"})})
    if how == "exact":
        with mock.patch.object(experiment, "prepared_features", exactly):
            return run_job(asked, dataset=loaded).metrics["auroc"], 0
    share = float(how.split()[1]) if noised else standardise.SHARE
    with mock.patch.object(standardise, "SHARE", share):
        result = run_job(asked, dataset=loaded)
    kept = [line for line in result.warnings if line.startswith("scaled by the public range")]
    return result.metrics["auroc"], kept[0].partition("variance: ")[2].count(",") + 1 if kept else 0


def main(
    share: Annotated[list[float] | None, typer.Option(help="Shares of ε for the statistics.")] = None,
    epsilon: Annotated[float, typer.Option(help="ε of a run.")] = 3.0,
    data: Annotated[str, typer.Option(help="Data set.")] = "heart",
) -> None:
    """Run and tell."""
    loaded = datasets.of_job(Job.parse({"data": {"name": data, "folds": FOLDS}}))
    rows = round(sum(len(s.y) for s in loaded.sites) * (1 - 1 / FOLDS) / len(loaded.sites))
    ways = ["ranges", *(f"noised {s:g}" for s in share or [standardise.SHARE]), "exact"]
    print(f"| {data}, ε = {epsilon:g} | " + " | ".join(ways) + " |\n|---|" + "---|" * len(ways))
    for mechanism in MECHANISMS:
        found = dict[str, list[float]]()
        kept = dict[str, float]()
        for how in ways:
            runs = {r: [score(how, loaded, job(data, mechanism, epsilon, r, seed, rows, STEPS)) for seed in SEEDS] for r in RATES}
            best = max(runs, key=lambda r: mean(auroc for auroc, _ in runs[r]))
            found[how], kept[how] = [auroc for auroc, _ in runs[best]], mean(count for _, count in runs[best])
        cells = []
        for how, scores in found.items():
            apart = [a - b for a, b in zip(scores, found["ranges"], strict=True)]
            cell = f"{mean(scores):.3f} ± {stdev(scores):.3f}"
            more = f" ({mean(apart):+.3f} ± {stdev(apart):.3f}" + (f", {kept[how]:.1f} kept)" if how.startswith("noised") else ")")
            cells.append(cell + ("" if how == "ranges" else more))
        print(f"| `{mechanism}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    typer.run(main)
