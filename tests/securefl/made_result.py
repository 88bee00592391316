"""A result made by hand, for tests of what shows results."""

from __future__ import annotations

from typing import Any

import numpy as np

from securefl.job import Job
from securefl.results import DataSummary, Opened, Preparation, RoundRecord, RunResult, ServerSaw, SiteBaseline


def job(**sections: dict[str, Any]) -> Job:
    return Job.parse(sections)


def record(number: int, *, aborted: str | None = None, epsilon: float = 0.0, **metrics: float) -> RoundRecord:
    dropped = {"north": "cover"} if aborted else {}
    spent = {"north": epsilon, "south": epsilon / 2, "east": epsilon / 4} if epsilon else {}
    return RoundRecord(number, 3, 0 if aborted else 3, dropped, aborted, metrics, spent, {"train": 0.25})


def result(job: Job | None = None, **changes: Any) -> RunResult:
    """Three sites, four rounds of which the third aborted, with differential privacy: nothing of it is consistent."""
    job = job or Job()
    values: dict[str, Any] = {
        "job": job.plain(),
        "title": "made data, secagg",
        "protocol": "secagg",
        "choice": "auto takes secagg, which is cheaper",
        "rounds": [
            record(1, epsilon=1.0, auroc=0.5, accuracy=0.6),
            record(2, epsilon=1.75, auroc=0.81, accuracy=0.7),
            record(3, epsilon=2.25, aborted="too-few-survivors"),
            record(4, epsilon=2.75, auroc=0.8765, accuracy=0.8),
        ],
        "metrics": {"auroc": 0.91234, "accuracy": 0.85, "loss": 0.3, "rows": 60.0},
        "site_metrics": {"north": {"auroc": 0.9}, "south": {"auroc": 0.92}, "east": {"auroc": float("nan")}},
        "local": [
            SiteBaseline("north", 40, {"auroc": 0.71, "accuracy": 0.66}),
            SiteBaseline("south", 50, {"auroc": 0.72, "accuracy": 0.67}),
            SiteBaseline("east", 60, {"auroc": 0.73, "accuracy": 0.68}),
        ],
        "pooled": {"auroc": 0.95, "accuracy": 0.9},
        "epsilon": [2.75, 1.375, 0.6875],
        "delta": 1e-5,
        "unit": "record",
        "accountant": "rdp",
        "opened": [Opened("update", 3, "covered by ε"), Opened("metrics", 4, "exact", "held-out rows only")],
        "up": {"north": 1000, "south": 2000, "east": 3_000_000},
        "down": {"east": 30, "south": 20, "north": 10},
        "seconds": {"train": 1.5, "mask": 0.25},
        "server_saw": [ServerSaw("Masked", "survey", 9, 4321, "noise")],
        "warnings": ["site east has one class"],
        "wall": 2.0,
        "state": {"weight": np.arange(6, dtype=np.float32).reshape(2, 3).T, "bias": np.zeros(1, dtype=np.float32)},
        "noise_multiplier": 1.25,
        "data": DataSummary(
            "made by hand", ("age is made up",), {"north": 57, "south": 71, "east": 86}, {"north": 17, "south": 21, "east": 26}
        ),
        "preparation": Preparation(
            ("age", "sex=m"),
            ("well", "ill"),
            ({"column": "age", "values": (), "fill": None}, {"column": "sex", "values": ("f", "m"), "fill": None}),
            (50.0, 0.5),
            (10.0, 0.25),
        ),
        "picture": '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><text>the flow</text></svg>',
    }
    return RunResult(**{**values, **changes})
