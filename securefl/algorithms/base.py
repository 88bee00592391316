"""What an algorithm adds to a round of FedAvg: at a site, in the sum, and in the server's step.

Whatever a site adds travels inside the one masked vector: further vectors of d values as blocks beside the update, clipped and
encoded as it is, and scalars as named sums with a public bound.  There is no way to hand a single site's value to the server.

What it does not protect: what the sums themselves tell; each algorithm says which it needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from securefl.aggregator import ServerAggregator
from securefl.encoding import SumSpec
from securefl.errors import UserError
from securefl.models import trainable
from securefl.privacy.plain import LocalTraining, Trained

if TYPE_CHECKING:
    from securefl.job import Job
    from securefl.round_types import Contribution, Task

Direction = Callable[[Sequence[nn.Parameter]], Sequence[torch.Tensor]]
"""From the parameters as they are, what is added to their gradients before a step; it must not depend on the rows."""


class Algorithm:
    """FedAvg, and the base of the others.  Needs Σ w·x (d values a model) and Σ w.

    Attributes:
        name: value of ``performance.algorithm``.
        extra: vectors of d values that travel beside each model, to the sites and in the sum.
        steers: whether a site's steps are other than the trainer's own.
        reads_loss: whether a site measures its training loss.
        own_step: whether only the algorithm's own server step knows what to do with its sums.
        uniform: whether all sites weigh the same.
    """

    name = "fedavg"
    extra = 0
    steers = False
    reads_loss = False
    own_step = False
    uniform = False

    def knobs(self) -> dict[str, Any]:
        """The keys of ``performance`` that choose it."""
        return {"algorithm": self.name}

    def refuse(self, job: Job) -> None:
        """Raise `UserError` in one line, with the reason, for a job under which it is meaningless or unsafe."""

    def specs(self, job: Job, models: int) -> tuple[SumSpec, ...]:  # noqa: ARG002
        """Named sums beside the updates, for so many models side by side."""
        return ()

    def local(self) -> Local | None:
        """A site's part, new for each site; None where a site does as in FedAvg."""
        return None

    def server(self, learning_rate: float, parties: int) -> ServerAggregator:  # noqa: ARG002
        """The server's part, for so many invited parties."""
        return ServerAggregator(learning_rate=learning_rate)

    def opened(self) -> dict[str, str]:
        """What is opened beside the sums of FedAvg: what, and what it tells."""
        return {}


class Local:
    """One site's part of an algorithm, over all rounds: nothing of it leaves but by `contribute`."""

    def steps(self, rows: int, steps: int) -> int:  # noqa: ARG002
        """Optimizer steps of a round, for a site of so many rows."""
        return steps

    def training(self, task: Task, number: int, training: LocalTraining) -> LocalTraining:  # noqa: ARG002
        """What the trainer of model ``number`` is given in place of ``training``."""
        return training

    def work(self, task: Task, number: int, training: LocalTraining) -> tuple[int, LocalTraining]:
        """Steps and training of model ``number`` in this round."""
        rows = len(task.site.folds[number].train)  # type: ignore[arg-type]
        return self.steps(rows, task.site.steps), self.training(task, number, training)

    def contribute(self, task: Task, contribution: Contribution) -> Contribution:  # noqa: ARG002
        """What goes into the sum, out of updates, weights and metrics."""
        return contribution

    def over(self, *, left: bool) -> None:
        """The round is over for the site.  What it keeps of a round whose input has not ``left`` would be in no account."""


class Steered:
    """Training that adds a direction to the gradient of every optimizer step.

    The direction is added after clipping and noise, where there are any: it depends on no row, so ε holds as it is.

    Args:
        inner: how the site trains.
        name: of the algorithm, for errors.
        direction: what is added.

    Attributes:
        taken: steps that were steered.
    """

    def __init__(self, inner: LocalTraining, name: str, direction: Direction) -> None:
        self._inner, self._name, self._direction, self.taken = inner, name, direction, 0

    @contextmanager
    def private(self, model: nn.Module, optimizer: Optimizer, data: Dataset[Any], steps: int) -> Iterator[Trained]:
        """As `LocalTraining.private`.

        Raises:
            UserError: where the trainer takes other steps than the optimizer's.
        """
        parameters = trainable(model)

        def add(*_step: object) -> None:
            self.taken += 1
            with torch.no_grad():
                for p, more in zip(parameters, self._direction(parameters), strict=True):
                    p.grad = more.clone() if p.grad is None else p.grad + more

        hook = optimizer.register_step_pre_hook(add)
        try:
            with self._inner.private(model, optimizer, data, steps) as trained:
                yield trained
        finally:
            hook.remove()

    def check(self, steps: int) -> None:
        """Raise `UserError` unless every step was steered: another loop would silently be FedAvg."""
        if self.taken != steps:
            raise UserError(
                f"{self._name} steers every step of the optimizer, and {self.taken} of {steps} were taken by it: "
                "train with the optimizer that training.private gives, or without the algorithm"
            )


def as_parameters(vector: NDArray[np.floating[Any]], parameters: Sequence[nn.Parameter]) -> list[torch.Tensor]:
    """A copy of a vector, shape (d,), in the shapes, dtypes and places of parameters."""
    flat = torch.from_numpy(np.array(vector, dtype=np.float32))
    parts = torch.split(flat, [p.numel() for p in parameters])
    return [part.view_as(p).to(p) for part, p in zip(parts, parameters, strict=True)]


class Pair:
    """Real numbers in [0, bound], each as two coordinates, a whole multiple of a unit and the rest: far finer than one.

    Args:
        name: of the sum.
        size: how many such numbers.
        bound: largest value of one party, > 0; more is cut to it.
        limit: largest whole number of a coordinate.
    """

    def __init__(self, name: str, size: int, bound: float, limit: int) -> None:
        self.name, self.size, self.bound, self.limit = name, size, bound, limit
        self.unit = bound / limit

    def specs(self) -> tuple[SumSpec, SumSpec]:
        """The two coordinates."""
        whole = SumSpec(f"{self.name}.whole", self.size, float(self.limit), integer=True)
        return whole, SumSpec(f"{self.name}.rest", self.size, self.unit)

    def sums(self, values: ArrayLike) -> dict[str, NDArray[np.float64]]:
        """What a party adds; values of shape (size,).

        Raises:
            UserError: for a value that is negative or not finite.
        """
        real = np.asarray(values, dtype=np.float64)
        if not (np.isfinite(real).all() and (real >= 0).all()):
            raise UserError(f"{self.name} is {real[~(real >= 0)][:1]}: it must be finite and at least 0")
        real = np.minimum(real, self.bound)
        whole = np.minimum(np.floor(real / self.unit), self.limit)
        return {f"{self.name}.whole": whole, f"{self.name}.rest": np.clip(real - whole * self.unit, 0.0, self.unit)}

    def read(self, sums: Any) -> NDArray[np.float64]:
        """The sums over all parties, shape (size,)."""
        whole = np.asarray(sums[f"{self.name}.whole"], dtype=np.float64)
        return np.asarray(whole * self.unit + np.asarray(sums[f"{self.name}.rest"]), dtype=np.float64)


def refuse_mechanism(job: Job, name: str, reasons: dict[str, str]) -> None:
    """Raise `UserError` where the job's mechanism has a reason against the algorithm."""
    mechanism = job.privacy.mechanism
    if mechanism in reasons:
        raise UserError(f"performance.algorithm = {name} is refused with {mechanism}: {reasons[mechanism]}")


def cut(vector: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """``vector`` scaled to an L2 norm of at most ``bound``."""
    norm = math.sqrt(float(np.vdot(vector, vector)))
    return vector * (bound / norm) if norm > bound else vector


def refuse_optimizer(name: str, trainer: object) -> None:
    """Raise `UserError` for a trainer with an optimizer of its own, where the algorithm's arithmetic is that of plain SGD."""
    from securefl.trainer import ClientTrainer  # noqa: PLC0415

    if isinstance(trainer, ClientTrainer) and type(trainer).optimizer is not ClientTrainer.optimizer:
        raise UserError(f"{name} is for plain SGD at the sites, and {type(trainer).__name__} has an optimizer of its own")
