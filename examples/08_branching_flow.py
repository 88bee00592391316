"""A local flow of your own: standardise, then train and calibrate in parallel, then join; the secure sum follows as it is.

Steps connect by the types of their values, and a value is used once: to go on in parallel, a step gives two of different types.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from protocols.flow import Flow
from securefl import ClientTrainer, Fold, Job, Runner, SumSpec
from securefl.data import load
from securefl.round import held_out, local_update
from securefl.round_types import Contribution, Task

DATA, BINS = load("breast-cancer", clients=4), 10
LOW, HIGH = torch.from_numpy(DATA.ranges).T  # public; a site's own means would be outside ε
flow = Flow("standardise, then train and calibrate")


class Ready(Task): ...


class Unmeasured(Task): ...


class Trained(Contribution): ...


class Calibrated(dict[str, Any]): ...


def scaled(data: TensorDataset) -> TensorDataset:
    return TensorDataset((4 * (data.tensors[0] - LOW) / (HIGH - LOW) - 2).float(), data.tensors[1])


@flow.client
def standardise(task: Task) -> tuple[Ready, Unmeasured]:
    (fold,) = task.site.folds
    return Ready(replace(task.site, folds=(Fold(scaled(fold.train), None),)), task.models), Unmeasured(task.site, task.models)


@flow.client
def train(task: Ready) -> Trained:
    return Trained(task.site, [local_update(task, 0)], [len(task.site.folds[0].train)])


@flow.client
def calibrate(task: Unmeasured) -> Calibrated:
    return Calibrated(held_out(task))


@flow.client
def combine(trained: Trained, calibrated: Calibrated) -> Contribution:
    return Contribution(trained.site, trained.updates, trained.weights, calibrated)


class Calibration(ClientTrainer):
    def sums(self) -> tuple[SumSpec, ...]:
        return (SumSpec("excess", BINS, 1000),)  # a public bound: no site holds out more rows

    def evaluate(self, model: nn.Module, data: TensorDataset) -> dict[str, Any]:
        scores, labels = self.scores(model, scaled(data))
        return {"excess": np.bincount(np.minimum(scores * BINS, BINS - 1).astype(int), scores - labels, BINS)}

    def read(self, sums: dict[str, Any]) -> dict[str, float]:
        return {"off": float(np.abs(sums["excess"]).sum())}


tables = {s.name: (torch.from_numpy(s.x), torch.from_numpy(s.y).float()) for s in DATA.sites}
data = {name: Fold(TensorDataset(x[::2], y[::2]), TensorDataset(x[1::2], y[1::2])) for name, (x, y) in tables.items()}
runner = Runner(nn.Linear(30, 1), data, trainer=Calibration(), job=Job.parse({"privacy": {"rounds": 8}}), flow=flow)
print("a site's steps:", ", ".join(step.name for step in runner.flow.of("client")))
for record in runner.run().rounds:
    print(f"round {record.number}: predicted and seen cases are {record.metrics['off']:.1f} apart, over all bins of the score")
