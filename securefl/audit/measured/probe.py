"""A model of three tensors and a trainer that notes what each step takes and gives: how training is looked at from within.

Each record's features are its gradient: the model gives ⟨features, weights⟩ and the loss is its mean, so that a step releases the
clipped sum itself, coordinate by coordinate.  The weights are a matrix, a vector and one number, as those of real models are
several: what holds for the whole gradient (its norm, noise on all of it) can fail for one tensor alone.

Everything else is what trains: `securefl.trainer.ClientTrainer`, on what `Setting.training` gives a site.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from securefl.audit.measured.registry import Setting
from securefl.privacy.per_record import PerRecord
from securefl.privacy.plain import LocalTraining
from securefl.trainer import ClientTrainer


class Tensors(nn.Module):
    """⟨x, weights⟩ for records x of ``size`` ≥ 4 features; the weights, all zero, are a matrix, a vector and one element."""

    def __init__(self, size: int) -> None:
        super().__init__()
        columns = size // 4
        shapes = {"matrix": (2, columns), "vector": (size - 2 * columns - 1,), "bias": (1,)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape, dtype=torch.float64)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (records, size) to (records,)."""
        return x @ torch.cat([tensor.reshape(-1) for tensor in self.parameters()])


def tensors(size: int) -> dict[str, slice]:
    """Which coordinates of a gradient are whose: name of each tensor of `Tensors`, and its place."""
    places, start = dict[str, slice](), 0
    for name, tensor in Tensors(size).named_parameters():
        places[name], start = slice(start, start + tensor.numel()), start + tensor.numel()
    return places


class Probe(ClientTrainer):
    """The trainer, with a loss whose gradients are the features, and notes.

    Args:
        mean: whether the loss is the mean over the batch, as differential privacy wants it, or the sum.

    Attributes:
        released: what each step took off the weights, shape (d,).
        batches: labels of the records in each step's batch, shape (records,).
    """

    def __init__(self, *, mean: bool) -> None:
        super().__init__(learning_rate=1.0)
        self.mean = mean
        self.released = list[NDArray[np.float64]]()
        self.batches = list[NDArray[np.int64]]()
        self._training: LocalTraining | None = None
        self._held = list[NDArray[np.int64]]()

    def train(self, model: nn.Module, data: Dataset[Any], training: LocalTraining, steps: int) -> None:
        """As any trainer, with an eye on what the batches hold."""
        self._training = training
        super().train(model, data, training, steps)

    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean or sum of the outputs."""
        chunk = self._training.chunk if isinstance(self._training, PerRecord) else None
        self._held.append((y if chunk is None else y[chunk.present]).numpy().copy())
        if chunk is None or chunk.last:
            self.batches.append(np.concatenate(self._held))
            self._held.clear()
        return output.mean() if self.mean else output.sum()

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD that notes what its steps do."""
        return _Noting(model, self.learning_rate, self.released.append)


class _Noting(torch.optim.SGD):
    def __init__(self, model: nn.Module, learning_rate: float, note: Callable[[NDArray[np.float64]], None]) -> None:
        super().__init__(model.parameters(), lr=learning_rate)
        self._model, self._note = model, note

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        before = self._weights()
        super().step(closure)
        self._note(before - self._weights())

    def _weights(self) -> NDArray[np.float64]:
        return torch.cat([p.detach().reshape(-1) for p in self._model.parameters()]).numpy().copy()


def probed(
    setting: Setting, features: NDArray[np.float32], steps: int, *, label: str, rate: float | None = None, rows: int
) -> Probe:
    """The notes of a training of so many steps on these records; a record's label is its number.

    Args:
        setting: the mechanism.
        features: the records, which are their gradients, shape (records, d).
        steps: how many.
        label: of the randomness.
        rate: sampling rate; by default the job's.
        rows: public number of rows.
    """
    x = torch.from_numpy(features).to(torch.float64)
    probe = Probe(mean=setting.private)
    training = setting.training(rows, label=label, rate=rate, size=features.shape[1])
    probe.train(Tensors(features.shape[1]), TensorDataset(x, torch.arange(len(x))), training, steps)
    return probe


def released(
    setting: Setting, features: NDArray[np.float32], steps: int, *, label: str, rate: float | None = None, rows: int = 1000
) -> NDArray[np.float64]:
    """What each step releases: the clipped and noised sum of the records' gradients, in the gradients' units.

    Args: as `probed`.

    Returns:
        One sum a step, shape (steps, d).
    """
    scale = (setting.job.privacy.sample_rate if rate is None else rate) * rows if setting.private else 1.0
    return np.array(probed(setting, features, steps, label=label, rate=rate, rows=rows).released) * scale
