"""Training without differential privacy, in the same shape as with it, so that a trainer is written once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from protocols.rand import Entropy, fresh
from securefl.errors import UserError
from securefl.privacy.batches import Batch, count_rows, sample
from securefl.privacy.models import refuse_running_statistics

Trained = tuple[nn.Module, Optimizer, Iterator[Batch]]
"""What a trainer works with: the model to call, the optimizer to step, the batches to walk."""


class LocalTraining(Protocol):
    """How one site trains: with differential privacy (`LocalRecordDP`) or without (`PlainTraining`).

    A trainer's loop, the same for both; with privacy a step takes several batches of one size, and `step` acts after the last::

        with training.private(model, optimizer, data, steps) as (model, optimizer, batches):
            for x, y in batches:
                optimizer.zero_grad()
                if len(x):  # without privacy a batch may be empty: it has no loss, but gets its step
                    loss(model(x), y).backward()
                optimizer.step()
    """

    def private(self, model: nn.Module, optimizer: Optimizer, data: Dataset[Any], steps: int) -> AbstractContextManager[Trained]:
        """Model, optimizer and the batches of exactly ``steps`` steps, for the time of a ``with`` block."""


class Watched(Protocol):
    """Training that knows which weights it gave.

    Attributes:
        left_out: records, counted anew in every batch, that were left out as their gradients are not finite.
    """

    left_out: int

    def begin(self, model: nn.Module) -> None:
        """A round begins with the weights of ``model``."""

    def check_untouched(self, model: nn.Module) -> None:
        """Raise `UserError` where the weights of ``model`` are others."""


def watched(training: LocalTraining) -> TypeGuard[Watched]:
    """Whether this training knows which weights it gave."""
    return hasattr(training, "check_untouched")


class Counted(Protocol):
    """Training that counts its steps in an account."""

    @property
    def steps_taken(self) -> int:
        """Steps taken so far."""

    def restore(self, steps: int) -> None:
        """Count steps that an earlier part of the run has taken."""


def counted(training: LocalTraining) -> TypeGuard[Counted]:
    """Whether this training counts its steps."""
    return hasattr(training, "steps_taken")


class Summed(Protocol):
    """Training that moves no weights, and gives the sum of its clipped gradients instead."""

    def take(self) -> NDArray[np.int64]:
        """The sum of the last step, in whole numbers, shape (d,); once."""


def summed(training: LocalTraining) -> TypeGuard[Summed]:
    """Whether this training gives sums of gradients."""
    return hasattr(training, "take")


class PlainTraining:
    """No clipping, no noise, no ε: what leaves training may reveal single records.

    Args:
        sample_rate: probability in (0, 1] with which a row is in a batch; 1 gives full batches.
        entropy: gives fresh randomness for each `private` block.

    Raises:
        UserError: for a sampling rate outside (0, 1].
    """

    def __init__(self, *, sample_rate: float, entropy: Entropy = fresh) -> None:
        if not 0 < sample_rate <= 1:
            raise UserError(f"sample_rate is {sample_rate}: it must lie in (0, 1]")
        self.sample_rate = sample_rate
        self._entropy = entropy

    @contextmanager
    def private(self, model: nn.Module, optimizer: Optimizer, data: Dataset[Any], steps: int) -> Iterator[Trained]:
        """The given model in training mode, the given optimizer, and ``steps`` batches.

        Args:
            model: model to train; its mode (training or evaluation) is restored afterwards.
            optimizer: optimizer over the model's parameters.
            data: map-style data set of pairs (features, label).
            steps: number of batches, at least 1.

        Raises:
            UserError: for no rows, ``steps`` below 1 or a model with running statistics.
        """
        check_steps(steps)
        refuse_running_statistics(model)
        count_rows(data)
        rand, was_training = self._entropy(), model.training
        model.train()
        try:
            yield model, optimizer, (sample(data, rand, f"batch {number}", self.sample_rate, model) for number in range(steps))
        finally:
            model.train(was_training)


def check_steps(steps: int) -> None:
    """Raise `UserError` unless ``steps`` is a whole number of at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise UserError(f"steps is {steps}: it must be a whole number of at least 1")
