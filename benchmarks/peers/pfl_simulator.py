"""Rounds of plain FedAvg in pfl-research's simulator (PyTorch, one process), timed: one JSON object.

The job of `digits_job.py`; pfl draws its own order of the rows.  CPU seconds of the median round, from the end of one to the end
of the next.  ``pip install torch==2.13.0``, then ``pip install pfl==0.6.0 numpy scikit-learn``.

usage: OMP_NUM_THREADS=1 DIR/pfl/bin/python benchmarks/peers/pfl_simulator.py --parties 50 --rounds 10
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import time
from statistics import median
from typing import Any

os.environ["PFL_PYTORCH_DEVICE"] = "cpu"

import numpy as np
import torch
from digits_job import BATCH, RATE, accuracy, begin, deal
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import nn


class Net(nn.Sequential):
    """The MLP of the job, as pfl wants it."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        with torch.no_grad():
            for parameter, part in zip(self.parameters(), begin(), strict=True):
                parameter.copy_(torch.from_numpy(part.T))

    def loss(self, x: torch.Tensor, y: torch.Tensor, *, eval: bool = False) -> torch.Tensor:  # noqa: A002  (pfl's name)
        """What SGD makes small."""
        self.train(not eval)
        return nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor, **_: Any) -> dict[str, Any]:
        """Share of rows whose digit is found."""
        with torch.no_grad():
            return {"accuracy": Weighted(int((self(x).argmax(1) == y).sum()), len(y))}


class Marks(TrainingProcessCallback):
    """When each round ended, in CPU seconds."""

    def __init__(self) -> None:
        self.seen = list[float]()

    def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Metrics]:
        """A round has ended."""
        self.seen.append(time.process_time())
        return False, Metrics()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parties", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts, test = deal(given.parties)
    held = {i: Dataset(raw_data=[torch.from_numpy(x), torch.from_numpy(y)], user_id=i) for i, (x, y) in enumerate(parts)}
    training = FederatedDataset(lambda i: held[i], get_user_sampler("minimize_reuse", list(held)))
    net = Net()
    marks = Marks()
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=given.rounds,
            evaluation_frequency=given.rounds + 1,
            train_cohort_size=given.parties,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=training, val_data=None),
        PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0)),
        NNTrainHyperParams(local_learning_rate=RATE, local_num_epochs=1, local_batch_size=BATCH),
        NNEvalHyperParams(local_batch_size=None),
        callbacks=[marks],
    )
    weights = [parameter.detach().numpy().T for parameter in net.parameters()]
    out = {
        "pfl": importlib.metadata.version("pfl"),
        "round_s": median(np.diff(marks.seen)),
        "rounds": len(marks.seen),
        "accuracy": accuracy(weights, test),
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main()
