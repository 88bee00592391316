"""Each algorithm on heart and eICU: rounds to an AUROC of 0.82, and the final AUROC, over seeds, as told in docs/algorithms.md.

    SECUREFL_DATA=DIR nice -n 15 python benchmarks/algorithms.py [--json] [--data heart] [--only fedprox] [--seeds 5]

Logistic regression without differential privacy, 5 folds side by side in one vector, full batches, 5 local steps (FedSGD: 1).  A
seed fixes the split into folds.  The AUROC of a round is that of the model it began with, out of the secure sum, over all folds
together; the final one is exact, the mean over folds.  Step sizes are the same for all; those of the adaptive servers are theirs.
"""

from __future__ import annotations

import json as as_json
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from securefl import data as datasets
from securefl.data.types import Dataset
from securefl.experiment import run_job
from securefl.job import Job

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
}


def job(data: str, seed: int, rounds: int, knobs: dict[str, Any]) -> Job:
    """One run."""
    steps = 1 if knobs.get("algorithm") == "fedsgd" else 5
    privacy = {"mechanism": "none", "rounds": rounds, "local_steps": steps, "sample_rate": 1.0, "w_max": 1024}
    return Job.parse(
        {
            "data": {"name": data, "folds": 5},
            "privacy": privacy,
            "performance": {"learning_rate": 0.05, **knobs},
            "simulation": {"seed": seed, "baselines": False},
        }
    )


def one(loaded: Dataset, asked: Job) -> tuple[int | None, float, float]:
    """Rounds until the AUROC is the goal, the final AUROC, and the worst site's."""
    result = run_job(asked, dataset=loaded)
    curve = [record.metrics.get("auroc", 0.0) for record in result.rounds]
    reached = next((number for number, value in enumerate(curve) if value >= GOAL), None)
    sites = [found["auroc"] for found in result.site_metrics.values() if found.get("auroc") is not None]
    return reached, result.metrics["auroc"], min(sites)


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
        loaded = datasets.of_job(job(name, 0, rounds, {}))
        for algorithm, knobs in ((key, knobs) for key, knobs in ALGORITHMS.items() if not only or key in only):
            runs = [one(loaded, job(name, seed, rounds, knobs)) for seed in range(seeds)]
            reached, final, worst = zip(*runs, strict=True)
            spread = stdev(final) if seeds > 1 else 0.0
            found = {"rounds": reached, "auroc": mean(final), "spread": spread, "worst_site": mean(worst), "finals": final}
            out.setdefault(name, {})[algorithm] = found
            if not json:
                told = ", ".join("–" if r is None else str(r) for r in reached)
                typer.echo(f"{name:6} {algorithm:15} {told:20} {mean(final):.4f} ± {spread:.4f}   {mean(worst):.3f}")
    if json:
        typer.echo(as_json.dumps({"goal": GOAL, "seeds": seeds, "rounds": rounds, "data": out}))


if __name__ == "__main__":
    typer.run(main)
