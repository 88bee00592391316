"""How far one record more moves a site's sum of clipped gradients: at weights of training, and at those that a server makes up.

    python benchmarks/float_leak.py

A table, in clips.  What is promised, and what noise is made for, is 1: gradients are clipped, turned into whole numbers and added
exactly.  But they are float32 before, and their last bits depend on the shape of the batch and the place in it.  The made-up
weights have two halves that cancel in the backward pass, so that nothing but those bits is left.  Batches come in chunks of one
size, in which each record has a place of its own draw (docs/privacy.md, sharp edges); "in one piece" is what would be without.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
import typer
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from protocols.rand import Rand, Replay
from securefl.models import initialise
from securefl.privacy import per_record
from securefl.privacy.batches import Chunk, take
from securefl.privacy.gradients import GradientSums
from securefl.privacy.noise_plan import Cohort
from securefl.privacy.record_plan import RecordPlan, calibrate_records

FEATURES, HIDDEN, HUGE = 13, 32, 1e12
ROWS = (9, 20, 50, 100, 150, 185, 199, 239)


def net() -> nn.Module:
    """Three layers, at the start of a training."""
    model = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))
    initialise(model, 0)
    return model


def trained(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """The same after 50 steps."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(-1), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def made_up() -> nn.Module:
    """Every neuron of the second layer is there twice, with opposite weights in the last one, in another order."""
    model, rng = net(), np.random.default_rng(0)
    first, second, last = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    half, ends, order = rng.random((HIDDEN // 2, HIDDEN)), rng.random(HIDDEN // 2), rng.permutation(HIDDEN)
    with torch.no_grad():
        first.weight.mul_(0.1), first.bias.fill_(5.0)
        second.weight.copy_(torch.from_numpy(HUGE * np.concatenate([half, half])[order])), second.bias.fill_(1.0)
        last.weight.copy_(torch.from_numpy(HUGE * np.concatenate([ends, -ends])[order])[None]), last.bias.fill_(-1e30)
    return model


def moved(model: nn.Module, plan: RecordPlan, x: torch.Tensor, y: torch.Tensor, sizes: Sequence[int] = ROWS) -> Iterator[float]:
    """For each size, how far one record more moves the sum over so many, in clips, with the same draws."""
    for rows in sizes:
        sums = list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]()
        for count in (rows, rows + 1):
            own, training = copy.deepcopy(model), GradientSums(plan, Replay("the same draws"))
            data, optimizer = TensorDataset(x[:count], y[:count]), torch.optim.SGD(own.parameters(), lr=1.0)
            with training.private(own, optimizer, data, 1) as (wrapped, step, batches):
                for features, labels in batches:
                    step.zero_grad()
                    output = wrapped(features).squeeze(-1)
                    nn.functional.binary_cross_entropy_with_logits(output, labels).backward()  # type: ignore[no-untyped-call]
                    step.step()
            sums.append(training.take())
        yield float(np.linalg.norm((sums[1] - sums[0]).astype(np.float64))) / plan.fixed


def in_one_piece(data: Dataset[Any], _rand: Rand, _label: str, _rate: float, _slots: int, _model: nn.Module) -> Iterator[Chunk]:
    """All rows, packed: what `securefl.privacy.batches.chunks` is there to prevent."""
    x, y = take(data, np.arange(len(data)))  # type: ignore[arg-type]
    yield Chunk(x, y, torch.ones(len(x), dtype=torch.bool), last=True)


def main() -> None:
    """Measure and tell."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(1)
    x, y = torch.from_numpy(rng.random((max(ROWS) + 1, FEATURES), np.float32)), (torch.arange(max(ROWS) + 1) % 2).float()
    size = sum(p.numel() for p in net().parameters())
    plan = calibrate_records(
        epsilon=1.0, delta=1e-6, cohort=Cohort(4, 3, 1), rounds=10, size=size, clip=1.0, rate=1.0, rows=max(ROWS)
    )
    print("| rows, and one more |", " | ".join(map(str, ROWS)), "|\n|---|" + "---|" * len(ROWS))
    for name, model in (("at the start", net()), ("trained", trained(x, y)), ("made up by a server", made_up())):
        print(f"| {name} |", " | ".join(f"{far:.3g}" for far in moved(model, plan, x, y)), "|")
        with mock.patch.object(per_record, "chunks", in_one_piece):
            print(f"| {name}, in one piece |", " | ".join(f"{far:.3g}" for far in moved(model, plan, x, y)), "|")


if __name__ == "__main__":
    typer.run(main)
