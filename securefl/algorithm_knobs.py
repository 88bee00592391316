"""The keys of ``[performance]`` that choose an algorithm, with those that belong to one of them.

What it does not protect: a value in its range may still be a bad choice.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from securefl.knob_base import Knobs, Positive

AlgorithmName = Literal["fedavg", "fedsgd", "fedprox", "fednova", "scaffold", "fedadam", "fedyogi", "fedadagrad", "qfedavg"]
Decay = Annotated[float, Field(ge=0, lt=1)]
ADAPTIVE = ("fedadam", "fedyogi", "fedadagrad")


class AlgorithmKnobs(Knobs):
    """Which algorithm, and its parameters."""

    algorithm: AlgorithmName = Field(default="fedavg", description="what sites and server do")
    proximal: float = Field(default=0.01, ge=0, le=1e6, description="μ of fedprox: how strongly a site is held to the global model")
    step_rows: int = Field(
        default=100, ge=1, le=10**9, description="rows for which local_steps is meant with fednova; a larger site takes more steps"
    )
    fairness: float = Field(default=1.0, ge=0, le=10, description="q of qfedavg: how much more sites with a greater loss pull")
    decay_mean: Decay = Field(default=0.9, description="decay of the mean of updates, of fedadam, fedyogi and fedadagrad")
    decay_squares: Decay = Field(default=0.99, description="decay of the mean of their squares, of fedadam and fedyogi")
    adaptivity: Positive = Field(default=1e-3, description="τ of fedadam, fedyogi and fedadagrad, in units of an update")
    server_schedule: Literal["constant", "cosine", "inverse-sqrt"] = Field(
        default="constant", description="how the step size of the server falls over the rounds"
    )
    compression: Literal["none", "mask", "low-rank"] = Field(
        default="none", description="what is sent of an update: all, a random part of its values, or factors of its matrices"
    )
    keep: float = Field(default=0.1, gt=0, le=1, description="share of the values that a mask keeps in a round")
    rank: int = Field(default=2, ge=1, le=4096, description="rank of the factors of low-rank")
    update_bits: int | None = Field(
        default=None, ge=4, le=16, description="bits of one coordinate of an update, such as 8 or 12 (default: those of precision)"
    )
