"""Server steps along the mean update: FedAdam, FedYogi and FedAdagrad, and a learning rate that follows a schedule.

Source: Reddi et al., *Adaptive Federated Optimization* (ICLR 2021, arXiv 2003.00295), algorithm 2; like that without bias
correction.

Need the sums of FedAvg, Σ w·u (d values) and Σ w: they see the opened mean alone, so they run with every protocol and mechanism,
and cost no ε.

What it does not protect: moments live in the server's memory; a server that is restarted begins them anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from securefl.aggregator import Aggregate, ServerAggregator
from securefl.algorithms.base import Algorithm
from securefl.errors import UserError

Kind = Literal["fedadam", "fedyogi", "fedadagrad"]
Schedule = Literal["constant", "cosine", "inverse-sqrt"]


class AdaptiveServer(ServerAggregator):
    """One of the three steps; m and v are kept for each model.

    With Δ the mean update: m ← β1·m + (1 − β1)·Δ; v ← v + Δ² (FedAdagrad), v − (1 − β2)·Δ²·sign(v − Δ²) (FedYogi) or
    β2·v + (1 − β2)·Δ² (FedAdam); x ← x + η·m / (√v + τ).  m starts at 0, v at τ².

    Args:
        kind: which.
        learning_rate: η; a coordinate moves by about so much in a round.
        beta1: β1, in [0, 1).
        beta2: β2, in [0, 1).
        adaptivity: τ, > 0, in units of the update.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(
        self, kind: Kind, *, learning_rate: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, adaptivity: float = 1e-3
    ) -> None:
        super().__init__(learning_rate=learning_rate)
        if kind not in get_args(Kind):
            raise UserError(f"kind is {kind!r}: it must be {' or '.join(get_args(Kind))}")
        for name, value in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= value < 1:
                raise UserError(f"{name} is {value}: it must lie in [0, 1)")
        if not 0 < adaptivity < math.inf:
            raise UserError(f"adaptivity is {adaptivity}: it must be finite and above 0")
        self.kind, self.beta1, self.beta2, self.adaptivity = kind, beta1, beta2, adaptivity
        self._moments: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def step(self, models: Sequence[NDArray[np.float32]], aggregate: Aggregate) -> list[NDArray[np.float32]]:
        """The next parameters; a model whose weights were all zero stays as it was, and so do its moments."""
        return [
            model if update is None else (model + self.learning_rate * self._along(number, update)).astype(np.float32)
            for number, (model, update) in enumerate(zip(models, aggregate.updates, strict=True))
        ]

    def _along(self, number: int, update: NDArray[np.float64]) -> NDArray[np.float64]:
        m, v = self._moments.get(number, (np.zeros_like(update), np.full_like(update, self.adaptivity**2)))
        square = update * update
        m = self.beta1 * m + (1 - self.beta1) * update
        if self.kind == "fedadagrad":
            v = v + square
        elif self.kind == "fedyogi":
            v = v - (1 - self.beta2) * square * np.sign(v - square)
        else:
            v = self.beta2 * v + (1 - self.beta2) * square
        self._moments[number] = m, v
        along: NDArray[np.float64] = m / (np.sqrt(v) + self.adaptivity)
        return along


class FedOpt(Algorithm):
    """FedAdam, FedYogi or FedAdagrad: `AdaptiveServer` over the sums of FedAvg; arguments as there."""

    own_step = True

    def __init__(self, kind: Kind, *, beta1: float = 0.9, beta2: float = 0.99, adaptivity: float = 1e-3) -> None:
        self.name, self.beta1, self.beta2, self.adaptivity = str(kind), beta1, beta2, adaptivity
        self._kind: Kind = kind
        self.server(1.0, 2)

    def knobs(self) -> dict[str, object]:
        """The keys that choose it."""
        return {"algorithm": self.name, "decay_mean": self.beta1, "decay_squares": self.beta2, "adaptivity": self.adaptivity}

    def server(self, learning_rate: float, parties: int) -> ServerAggregator:  # noqa: ARG002
        """The step."""
        return AdaptiveServer(
            self._kind, learning_rate=learning_rate, beta1=self.beta1, beta2=self.beta2, adaptivity=self.adaptivity
        )


class Scheduled(ServerAggregator):
    """Another server step, whose learning rate follows the number of the round.

    Args:
        inner: the step.
        schedule: ``cosine`` falls from the rate to 0 over all rounds as ½(1 + cos(π(t − 1)/T)); ``inverse-sqrt`` divides by √t.
        rounds: T, planned rounds.
    """

    def __init__(self, inner: ServerAggregator, schedule: Schedule, rounds: int) -> None:
        super().__init__(learning_rate=inner.learning_rate)
        self.inner, self.schedule, self.rounds = inner, schedule, rounds

    def on_before_step(self, aggregate: Aggregate) -> Aggregate:
        """As the inner one's."""
        return self.inner.on_before_step(aggregate)

    def step(self, models: Sequence[NDArray[np.float32]], aggregate: Aggregate) -> list[NDArray[np.float32]]:
        """The inner step at this round's rate."""
        self.inner.learning_rate = self.learning_rate * factor(self.schedule, aggregate.round, self.rounds)
        return self.inner.step(models, aggregate)

    def on_after_step(self, models: Sequence[NDArray[np.float32]], aggregate: Aggregate) -> None:
        """As the inner one's."""
        self.inner.on_after_step(models, aggregate)


def factor(schedule: Schedule, number: int, rounds: int) -> float:
    """What the learning rate is multiplied with in round ``number``, from 1, of ``rounds``; aborted rounds count."""
    if schedule == "cosine":
        return (1 + math.cos(math.pi * (number - 1) / rounds)) / 2
    return 1 / math.sqrt(number) if schedule == "inverse-sqrt" else 1.0
