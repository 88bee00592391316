"""The simulator beside bare loops: rounds of plain FedAvg over 50 parties, and the same with secure sums.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/simulator.py [--parties 50] [--rounds 10] [--json]

The job is that of `benchmarks/peers/digits_job.py`.  A bare loop trains one party after another and takes the weighted mean.
Ours trains with the same code as a `ClientTrainer`, without differential privacy.  A plain round sends no messages
(`securefl.in_clear`); with `secagg` all bytes of all messages are written and parsed.
Wall seconds of a round, medians, on one thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from peers.digits_job import BATCH, RATE, Rows, Weights, accuracy, begin, deal, descend, passes
from torch import nn
from torch.utils.data import TensorDataset

from securefl import ClientTrainer, Fold, Job, Runner
from securefl.models import arrays

Clock = Callable[[], float]


def passes_in_torch(model: nn.Module, x: torch.Tensor, y: torch.Tensor, seed: int) -> None:
    """The same in torch, in place."""
    order, parameters = torch.from_numpy(np.random.default_rng(seed).permutation(len(y))), list(model.parameters())
    for rows in order.split(BATCH):
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=RATE)


def model_of(weights: Weights) -> nn.Module:
    """The weights as a torch model."""
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    put(model, weights)
    return model


def put(model: nn.Module, weights: Weights) -> None:
    """Write the weights into a model; torch has matrices the other way round."""
    with torch.no_grad():
        for parameter, part in zip(model.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(part.T))


def got(model: nn.Module) -> Weights:
    """The weights of a model."""
    return [parameter.detach().numpy().T for parameter in model.parameters()]


class Arrays(nn.Module):
    """The weights as the loop in numpy has them: a module that only holds them."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for name, part in zip(("w1", "b1", "w2", "b2"), weights, strict=True):
            self.register_parameter(name, nn.Parameter(torch.from_numpy(part)))


class Passes(ClientTrainer):
    """One pass in a round, in numpy or torch; nothing is scored."""

    def __init__(self, *, in_torch: bool) -> None:
        super().__init__()
        self.in_torch, self.seed = in_torch, 0
        self.rows: Rows | None = None

    def train(self, model: nn.Module, data: Any, training: Any, steps: int) -> None:  # noqa: ARG002
        """One pass."""
        if self.in_torch:
            passes_in_torch(model, *data.tensors, self.seed)
        else:
            if self.rows is None:
                self.rows = tuple(part.numpy() for part in data.tensors)
            descend(arrays(model), *self.rows, self.seed)  # the model is the party's own copy already
        self.seed += 1

    def sums(self) -> tuple[Any, ...]:
        """None."""
        return ()

    def read(self, sums: Any) -> dict[str, float]:  # noqa: ARG002
        """None."""
        return {}


def bare(parts: list[Rows], rounds: int, step: Callable[[Weights, Rows, int], Weights]) -> tuple[float, Weights]:
    """Median seconds of a round of a bare loop, and its model."""
    weights, seconds, total = begin(), list[float](), sum(len(y) for _, y in parts)
    for number in range(rounds):
        began = time.perf_counter()
        updates = [(step(weights, rows, number), len(rows[1]) / total) for rows in parts]
        weights = [sum(update[i] * share for update, share in updates) for i in range(4)]  # type: ignore[misc]
        seconds.append(time.perf_counter() - began)
    return median(seconds), weights


def step_in_torch(weights: Weights, rows: Rows, seed: int) -> Weights:
    """One party's pass in torch."""
    model = model_of(weights)
    passes_in_torch(model, torch.from_numpy(rows[0]), torch.from_numpy(rows[1]), seed)
    return got(model)


def ours(
    parts: list[Rows], rounds: int, protocol: str, *, in_torch: bool, clock: Clock = time.perf_counter
) -> tuple[float, Weights]:
    """Median seconds of a round of `Runner`, wall time unless another clock is given, and its model."""
    knobs = {"mechanism": "none", "protocol": protocol, "rounds": rounds, "w_max": 64, "precision": 24, "local_steps": 1}
    folds = {f"site {i}": Fold(TensorDataset(*map(torch.from_numpy, rows)), None) for i, rows in enumerate(parts, 1)}
    model = model_of(begin()) if in_torch else Arrays(begin())
    runner = Runner(model, folds, trainer=Passes(in_torch=in_torch), job=Job.parse({"privacy": knobs}))
    marks = [clock()]
    runner.run(lambda _: marks.append(clock()))
    (final,) = runner.final_models()
    return median(np.diff(marks)), got(final) if in_torch else arrays(final)


def figures(parties: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a round, accuracies and ratios."""
    torch.set_num_threads(1)
    parts, test = deal(parties)
    runs = {
        "bare numpy": lambda: bare(parts, rounds, lambda weights, rows, seed: passes(weights, *rows, seed)),
        "bare torch": lambda: bare(parts, rounds, step_in_torch),
        "plain, numpy": lambda: ours(parts, rounds, "plain-insecure", in_torch=False),
        "plain, torch": lambda: ours(parts, rounds, "plain-insecure", in_torch=True),
        "secagg, numpy": lambda: ours(parts, rounds, "secagg", in_torch=False),
    }
    out = dict[str, float]()
    for name, run in runs.items():
        seconds, weights = run()
        out[f"{name}: ms a round"], out[f"{name}: accuracy"] = 1e3 * seconds, accuracy(weights, test)
    for name in ("numpy", "torch"):
        out[f"plain, {name} over bare {name}"] = out[f"plain, {name}: ms a round"] / out[f"bare {name}: ms a round"]
    return out


def main(
    parties: Annotated[int, typer.Option(min=3, max=1000)] = 50,
    rounds: Annotated[int, typer.Option(min=1)] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure."""
    out = figures(parties, rounds)
    if as_json:
        print(json.dumps(out))
        return
    for name, value in out.items():
        print(f"{name}: {value:.3g}")


if __name__ == "__main__":
    typer.run(main)
