"""The two built-in models, and how a model becomes one vector and back.

A model is initialised from the job's seed through `protocols.rand`, so that the same seed gives the same model whatever else ran.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from protocols.rand import Rand, Seed
from securefl.errors import UserError
from securefl.knobs import ModelKnobs
from securefl.recycled import Lent, known


class ModelFactory(Protocol):
    """Makes models of one architecture."""

    def __call__(self, vector: NDArray[np.float32] | None = None) -> nn.Module:
        """A new model, untrained, or with a copy of ``vector``, shape (d,), as its trainable parameters."""

    def read(self, model: nn.Module) -> NDArray[np.float32]:
        """As `to_vector`, of a model that this has made; possibly in its memory."""

    def lend(self, vector: NDArray[np.float32]) -> Lent:
        """As a call, of a model that goes to `take` when nobody uses it any more."""

    def take(self, lent: Lent) -> NDArray[np.float32]:
        """As `read`, of a model that was lent; nothing else holds it, or it is not given again."""


SMALL = 100_000
"""Parameters below which one thread is faster than several."""


def build(knobs: ModelKnobs, features: int, seed: int) -> nn.Module:
    """The model that a job names: one logit for each row of ``features`` columns.

    Args:
        knobs: name and size.
        features: number of input columns.
        seed: fixes the initial parameters (logistic regression starts at zero).
    """
    if knobs.name == "logistic":
        model: nn.Module = nn.Linear(features, 1)
        nn.init.zeros_(model.weight)  # type: ignore[arg-type]
        nn.init.zeros_(model.bias)  # type: ignore[arg-type]
        return model
    model = nn.Sequential(nn.Linear(features, knobs.hidden), nn.Tanh(), nn.Linear(knobs.hidden, 1))
    initialise(model, seed)
    return model


def initialise(model: nn.Module, seed: int) -> None:
    """Set every linear layer of ``model`` to uniform values in ±1/√fan_in, drawn from ``seed``."""
    rand = Rand(Seed(hashlib.sha256(f"securefl initial model {seed}".encode()).digest()))
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.in_features)
            for part in (layer.weight, layer.bias):
                words = rand.words(f"{name} {tuple(part.shape)}", part.numel())
                uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
                with torch.no_grad():
                    part.copy_(torch.from_numpy((2 * uniform - 1) * bound).reshape(part.shape))


def to_vector(model: nn.Module) -> NDArray[np.float32]:
    """All trainable parameters in order, shape (d,), dtype float32, on the CPU."""
    parts = [p.detach() for p in trainable(model)]
    if not all(p.is_cpu and p.dtype is torch.float32 for p in parts):
        parts = [p.float().cpu() for p in parts]
    return np.concatenate([p.numpy().reshape(-1) for p in parts])


def shapes_of(model: nn.Module) -> tuple[tuple[int, ...], ...]:
    """Shapes of the trainable parameters in order."""
    return tuple(tuple(p.shape) for p in trainable(model))


def arrays(model: nn.Module) -> list[NDArray[np.float32]]:
    """The trainable parameters in order, each as an array in its memory: what is written there is in the model.

    For trainers whose loop is not one of torch.  Hold the arrays no longer than the model.

    Raises:
        UserError: for a parameter that is not float32 on the CPU.
    """
    if (again := known(model)) is not None and (own := again.arrays()) is not None:
        return own
    parts = [p.detach() for p in trainable(model)]
    if not all(p.is_cpu and p.dtype is torch.float32 for p in parts):
        raise UserError("only float32 parameters on the CPU are arrays")
    return [p.numpy() for p in parts]


def from_vector(model: nn.Module, vector: NDArray[np.float32]) -> None:
    """Set all trainable parameters from a copy of a vector of shape (d,): training must not reach the vector."""
    own, start = torch.from_numpy(np.array(vector, dtype=np.float32)), 0
    for parameter in trainable(model):
        values = own[start : start + parameter.numel()].view_as(parameter)
        parameter.data = values.to(parameter.device)  # on the processor a view of one tensor
        start += parameter.numel()


@contextmanager
def threads_for(model: nn.Module) -> Iterator[None]:
    """One thread for a small model, whose operations cost less than waking the others; restored afterwards."""
    before = torch.get_num_threads()
    if sum(p.numel() for p in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained and shared.

    Raises:
        UserError: where there are none.
    """
    out = [p for p in model.parameters() if p.requires_grad]
    if not out:
        raise UserError(f"the model {type(model).__name__} has no trainable parameter")
    return out
