"""What the server does with the sum: FedAvg (McMahan et al., AISTATS 2017, arXiv 1602.05629), and the place to write another step.

There is no list of updates: the one type that comes up from the security layer holds the sum, the weights and a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a round opened.

    Attributes:
        updates: for each model trained side by side, the weighted mean update Σw·x / Σw, shape (d,), float64, or None where all
            weights were zero.
        weights: for each model, Σw.
        sums: sums of metrics, by name.
        contributors: how many parties are in it.
        round: number of the round, from 1; 0 outside a run.
    """

    updates: Sequence[NDArray[np.float64] | None]
    weights: Sequence[int]
    sums: Mapping[str, NDArray[Any]]
    contributors: int
    round: int = 0


class ServerAggregator:
    """Turns the mean update into the next global model.  Subclass it and override `step`, or a hook.

    Args:
        learning_rate: step size along the mean update; 1 is FedAvg.
    """

    def __init__(self, *, learning_rate: float = 1.0) -> None:
        self.learning_rate = learning_rate

    def on_before_step(self, aggregate: Aggregate) -> Aggregate:
        """Sees the aggregate before the step; what it returns is used."""
        return aggregate

    def step(self, models: Sequence[NDArray[np.float32]], aggregate: Aggregate) -> list[NDArray[np.float32]]:
        """The next parameters of each model, shapes as given; a model whose weights were all zero stays as it was."""
        return [
            model if update is None else (model + self.learning_rate * update).astype(np.float32)
            for model, update in zip(models, aggregate.updates, strict=True)
        ]

    def on_after_step(self, models: Sequence[NDArray[np.float32]], aggregate: Aggregate) -> None:
        """Sees the new models."""
