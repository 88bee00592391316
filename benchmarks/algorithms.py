"""Each algorithm on heart and eICU: rounds to an AUROC of 0.82, and the final AUROC, over seeds, as told in docs/algorithms.md.

    SECUREFL_DATA=DIR nice -n 15 python benchmarks/algorithms.py [--json] [--data heart] [--only fedprox] [--seeds 5]

Logistic regression without differential privacy, 5 folds side by side in one vector, full batches, 5 local steps (FedSGD: 1).  A
seed fixes the split into folds.  The AUROC of a round is that of the model it began with, out of the secure sum, over all folds
together; the final one is exact, the mean over folds.  Step sizes are the same for all; those of the adaptive servers are theirs.

Three have no key of a job, or a model of their own.  Private layers: an mlp whose last layer stays at each site.  Fine-tuned: each
site's model after FedAvg and as many steps at home as in a round, mixed half and half with the global one; its rows are scored by
it, and it has the rounds of FedAvg.  Buffered: sums over 3 parties in the order in which they are ready, after exponential times of
which the mean differs fourfold from the first site to the last; a round is a buffer, and its AUROC is of its parties' rows.
"""

from __future__ import annotations

import json as as_json
from statistics import mean, stdev
from typing import Annotated, Any
from unittest import mock

import numpy as np
import typer
from torch import nn

from securefl import data as datasets
from securefl import experiment
from securefl.algorithms.buffered import run_buffered
from securefl.algorithms.tuning import fine_tuned
from securefl.data.types import Dataset
from securefl.evaluation import measured, scored
from securefl.experiment import run_job
from securefl.job import Job
from securefl.round_types import Fold
from securefl.runner import Runner

GOAL = 0.82
ALGORITHMS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedavg, cosine": {"server_schedule": "cosine"},
    "fedsgd": {"algorithm": "fedsgd"},
    "fedprox": {"algorithm": "fedprox", "proximal": 0.1},
    "fednova": {"algorithm": "fednova", "step_rows": 300},
    "scaffold": {"algorithm": "scaffold"},
    "fedadam": {"algorithm": "fedadam", "server_learning_rate": 0.02},
    "fedyogi": {"algorithm": "fedyogi", "server_learning_rate": 0.02},
    "fedadagrad": {"algorithm": "fedadagrad", "server_learning_rate": 0.05},
    "qfedavg": {"algorithm": "qfedavg", "fairness": 1.0},
    "private layers": {},
    "fine-tuned": {},
    "buffered": {},
}
MODELS = {"private layers": {"name": "mlp", "hidden": 16, "shared": "0.*"}}
BUFFER = 3


def job(data: str, seed: int, rounds: int, algorithm: str) -> Job:
    """One run."""
    knobs = ALGORITHMS[algorithm]
    steps = 1 if knobs.get("algorithm") == "fedsgd" else 5
    privacy = {"mechanism": "none", "rounds": rounds, "local_steps": steps, "sample_rate": 1.0, "w_max": 1024}
    return Job.parse(
        {
            "data": {"name": data, "folds": 5},
            "model": MODELS.get(algorithm, {}),
            "privacy": privacy,
            "performance": {"learning_rate": 0.05, **knobs},
            "simulation": {"seed": seed, "baselines": False},
        }
    )


Found = tuple[int | None, float, float]
"""Rounds until the AUROC is the goal, the final AUROC, and the worst site's."""


def reached(curve: list[float]) -> int | None:
    """The first round with the goal."""
    return next((number for number, value in enumerate(curve) if value >= GOAL), None)


def one(loaded: Dataset, asked: Job, algorithm: str) -> Found:
    """One run of an algorithm."""
    made: list[Runner] = []

    class Kept(Runner):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            made.append(self)

    with mock.patch.object(experiment, "Runner", Kept):
        result = run_job(asked, dataset=loaded)
    if algorithm == "buffered":
        return buffered(made[0], asked)
    curve = [record.metrics.get("auroc", 0.0) for record in result.rounds]
    if algorithm == "fine-tuned":
        return reached(curve), *tuned(made[0], asked)
    return reached(curve), result.metrics["auroc"], min(result.site_metrics[name].get("auroc", 1.0) for name in result.sites)


def scores(runner: Runner, models: dict[str, list[nn.Module]]) -> tuple[float, float]:
    """AUROC over all held-out rows, each scored by its own site's models, and the worst site's."""
    metrics, sites = measured(scored(runner.trainer, models, runner.folds))
    return metrics["auroc"], min(found.get("auroc", 1.0) for found in sites.values())


def tuned(runner: Runner, asked: Job) -> tuple[float, float]:
    """After training, each site's own models."""
    steps, final = asked.privacy.local_steps, runner.final_models()
    own = {
        name: [fine_tuned(m, fold, runner.trainer, steps=steps, keep=0.5) for m, fold in zip(final, folds, strict=True)]
        for name, folds in runner.folds.items()
    }
    return scores(runner, own)


def arrivals(names: list[str], seed: int, buffers: int) -> list[tuple[float, str]]:
    """Who is ready when, until so many buffers are full; nobody waits in a buffer twice."""
    rng, waiting, out = np.random.default_rng(seed), list[str](), list[tuple[float, str]]()
    pace = dict(zip(names, np.geomspace(1, 4, len(names)), strict=True))
    ready = {name: float(rng.exponential(pace[name])) for name in names}
    while len(out) < buffers * BUFFER:
        name = min((name for name in names if name not in waiting), key=ready.__getitem__)
        time = max(ready[name], out[-1][0] if out else 0.0)
        out, waiting = [*out, (time, name)], [*waiting, name]
        if len(waiting) == BUFFER:
            ready |= {one: time + float(rng.exponential(pace[one])) for one in waiting}
            waiting = []
    return out


def buffered(runner: Runner, asked: Job) -> Found:
    """Each fold by itself, on the rows and from the model that the other algorithms have."""
    order, folds, curves, models = list(runner.folds), asked.data.splits, [], []
    times = arrivals(order, asked.simulation.seed, asked.privacy.rounds)
    for fold in range(folds):
        rows: dict[str, Fold] = {name: parts[fold] for name, parts in runner.folds.items()}
        model, steps = run_buffered(runner.template, rows, job=asked, buffer=BUFFER, arrivals=times, trainer=runner.trainer)
        models.append(model)
        curves.append([step.metrics.get("auroc", 0.0) for step in steps])
    return reached(np.mean(curves, axis=0).tolist()), *scores(runner, dict.fromkeys(order, models))


def main(
    json: Annotated[bool, typer.Option(help="Print one JSON object.")] = False,
    data: Annotated[list[str] | None, typer.Option(help="Data sets.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Algorithms.")] = None,
    seeds: Annotated[int, typer.Option(help="Splits into folds.")] = 5,
    rounds: Annotated[int, typer.Option(help="Rounds of a run.")] = 20,
) -> None:
    """Run and tell."""
    out: dict[str, dict[str, Any]] = {}
    for name in data or ["heart", "eicu"]:
        loaded = datasets.of_job(job(name, 0, rounds, "fedavg"))
        for algorithm in (key for key in ALGORITHMS if not only or key in only):
            runs = [one(loaded, job(name, seed, rounds, algorithm), algorithm) for seed in range(seeds)]
            needed, final, worst = zip(*runs, strict=True)
            spread = stdev(final) if seeds > 1 else 0.0
            found = {"rounds": needed, "auroc": mean(final), "spread": spread, "worst_site": mean(worst), "finals": final}
            out.setdefault(name, {})[algorithm] = found
            if not json:
                told = ", ".join("–" if r is None else str(r) for r in needed)
                typer.echo(f"{name:6} {algorithm:15} {told:20} {mean(final):.4f} ± {spread:.4f}   {mean(worst):.3f}")
    if json:
        typer.echo(as_json.dumps({"goal": GOAL, "seeds": seeds, "rounds": rounds, "data": out}))


if __name__ == "__main__":
    typer.run(main)
