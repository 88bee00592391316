"""Federated training as a library: your model, your trainer, your server step; four sites, and the server sees sums alone.

Run it with ``python examples/05_federated_training.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.utils.data import Subset, TensorDataset

from securefl import Aggregate, ClientTrainer, Fold, Job, Runner, ServerAggregator
from securefl.data.breast_cancer import RANGES

SITES = ("north", "east", "south", "west")


def sites() -> dict[str, Fold]:
    """The rows of four made-up sites, scaled by ranges that are published with the data: nothing is opened for it."""
    x, y = load_breast_cancer(return_X_y=True)
    low, high = np.array(list(RANGES.values())).T
    rows = TensorDataset(torch.tensor(4 * (x - low) / (high - low) - 2).float(), torch.tensor(1 - y).float())
    own = [range(number, len(y), len(SITES)) for number in range(len(SITES))]
    cut = min(map(len, own)) * 7 // 10  # the first 70 % of a site's rows are for training
    return {name: Fold(Subset(rows, r[:cut]), Subset(rows, r[cut:])) for name, r in zip(SITES, own, strict=True)}


class MissedCasesWeighMore(ClientTrainer):
    """A site's training: a malignant row that is missed costs twice."""

    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(output.reshape(-1), y, pos_weight=torch.tensor(2.0))


class ServerMomentum(ServerAggregator):
    """The server's step: FedAvgM (Hsu et al. 2019), all of it out of the mean update."""

    def __init__(self, *, learning_rate: float = 0.5, momentum: float = 0.5) -> None:
        super().__init__(learning_rate=learning_rate)
        self.momentum, self.velocity = momentum, 0.0

    def step(self, models: Sequence[NDArray[np.float32]], aggregate: Aggregate) -> list[NDArray[np.float32]]:
        update = aggregate.updates[0]
        if update is None:
            return list(models)
        self.velocity = self.momentum * self.velocity + update
        return [(models[0] + self.learning_rate * self.velocity).astype(np.float32)]


def main() -> float:
    job = Job.parse({"privacy": {"epsilon": 3.0, "rounds": 10}, "simulation": {"dropout": 0.05}})
    runner = Runner(nn.Linear(30, 1), sites(), trainer=MissedCasesWeighMore(), server=ServerMomentum(), job=job)
    result = runner.run(lambda r: print(f"round {r.number}: {r.contributors} of {r.invited} in the sum", r.aborted or ""))
    print(f"AUROC on held-out rows: {result.metrics['auroc']:.3f}; ε spent by a site: {max(result.epsilon):.2f} of 3")
    print("what the server could open:", ", ".join(f"{event.what} ({event.coverage})" for event in result.opened))
    return result.metrics["auroc"]


if __name__ == "__main__":
    main()
