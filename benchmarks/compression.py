"""Bytes of the masked vectors against AUROC, for sketches and few bits, on eICU's regions, as told in docs/algorithms.md.

    SECUREFL_DATA=DIR nice -n 15 python benchmarks/compression.py [--json] [--only "mask 0.25"] [--seeds 3]

An mlp of 64 hidden units without differential privacy, 5 folds side by side in one vector, full batches, 5 local steps.  Bytes are
those of the masked vector (coordinates × bits of the ring), and all that a site sends over the run, divided by rounds: with keys,
shares, the sums for scaling and those of the final scores.  A seed fixes the split and the initial model.
"""

from __future__ import annotations

import json as as_json
from statistics import mean, stdev
from typing import Annotated, Any
from unittest import mock

import typer

from securefl import data as datasets
from securefl import experiment
from securefl.experiment import run_job
from securefl.job import Job
from securefl.runner import Runner

WAYS: dict[str, dict[str, Any]] = {
    "whole, 16 bits": {},
    "12 bits": {"update_bits": 12},
    "8 bits": {"update_bits": 8},
    "mask 0.25": {"compression": "mask", "keep": 0.25},
    "mask 0.25, server step 3": {"compression": "mask", "keep": 0.25, "server_learning_rate": 3.0},
    "mask 0.1": {"compression": "mask", "keep": 0.1},
    "rank 8": {"compression": "low-rank", "rank": 8},
    "rank 2": {"compression": "low-rank", "rank": 2},
    "mask 0.25, 8 bits": {"compression": "mask", "keep": 0.25, "update_bits": 8},
    "rank 8, 8 bits": {"compression": "low-rank", "rank": 8, "update_bits": 8},
}


def job(seed: int, rounds: int, knobs: dict[str, Any]) -> Job:
    """One run."""
    return Job.parse(
        {
            "data": {"name": "eicu", "folds": 5},
            "model": {"name": "mlp", "hidden": 64},
            "privacy": {
                "mechanism": "none",
                "rounds": rounds,
                "local_steps": 5,
                "sample_rate": 1.0,
                "w_max": 1024,
                "update_clip": 2.0,
                "protocol": "secagg",
            },
            "performance": {"learning_rate": 0.2, **knobs},
            "simulation": {"seed": seed, "baselines": False},
        }
    )


def one(loaded: Any, asked: Job) -> tuple[float, float, float, str]:
    """AUROC, bytes of a site's vector and of all that it sends in a round, and the line on rounding."""
    made: list[Runner] = []

    class Kept(Runner):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    with mock.patch.object(experiment, "Runner", Kept):
        result = run_job(asked, dataset=loaded)
    plan, rounds, sites = made[0].plan, asked.privacy.rounds, len(made[0].folds)
    up = sum(result.up.values())
    line = next((w for w in result.warnings if w.startswith("updates of")), "")
    return result.metrics["auroc"], plan.size * plan.bits / 8, up / rounds / sites, line


def main(
    json: Annotated[bool, typer.Option(help="Print one JSON object.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="Ways.")] = None,
    seeds: Annotated[int, typer.Option(help="Splits and initial models.")] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds of a run.")] = 10,
) -> None:
    """Run and tell."""
    loaded, out = datasets.of_job(job(0, rounds, {})), dict[str, Any]()
    for way, knobs in ((key, knobs) for key, knobs in WAYS.items() if not only or key in only):
        found = [one(loaded, job(seed, rounds, knobs)) for seed in range(seeds)]
        scores = [score for score, *_ in found]
        spread = stdev(scores) if seeds > 1 else 0.0
        out[way] = {"auroc": mean(scores), "spread": spread, "vector": found[0][1], "sent": found[0][2], "rounding": found[0][3]}
        if not json:
            typer.echo(f"{way:25} {found[0][1]:9.0f} {found[0][2]:9.0f} {mean(scores):.4f} ± {spread:.4f}  {found[0][3]}")
    if json:
        typer.echo(as_json.dumps({"seeds": seeds, "rounds": rounds, "ways": out}))


if __name__ == "__main__":
    typer.run(main)
