"""What a site does with the global model: the object that a data scientist subclasses.

A trainer is written as for a stand-alone program.  Differential privacy, clipping, rounding and masking happen around it: it asks
for its batches with ``training.private(…)``, and gets them sampled, with gradients clipped and noised, where the job says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset

from securefl.encoding import SumSpec
from securefl.errors import UserError
from securefl.metrics import BinaryMetrics
from securefl.privacy.batches import beside
from securefl.privacy.plain import LocalTraining

Sums = Mapping[str, NDArray[Any]]


class ClientTrainer:
    """Trains and evaluates one model on one site's rows.  Subclass it and override what differs.

    Args:
        learning_rate: step size of the local optimizer.

    A subclass may override `loss`, `optimizer`, `train`, `evaluate` with `sums` and `read`, and the hooks `on_before_training` and
    `on_after_training`.
    """

    def __init__(self, *, learning_rate: float = 0.5) -> None:
        self.learning_rate = learning_rate
        self.metrics = BinaryMetrics()

    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean loss of one batch: binary cross-entropy for one logit a row, else cross-entropy over classes.

        A loss of your own must be a mean of one term a row: one that divides by something else (``weight=`` of
        ``cross_entropy``), or mixes rows, moves by more than the clip when one row changes, and ε does not hold.
        """
        if output.ndim == 1 or output.shape[-1] == 1:
            return nn.functional.binary_cross_entropy_with_logits(output.reshape(-1), y.reshape(-1).to(output.dtype))
        return nn.functional.cross_entropy(output, y.long())

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The local optimizer, new in every round: plain SGD."""
        return torch.optim.SGD(model.parameters(), lr=self.learning_rate)

    def on_before_training(self, model: nn.Module, data: Dataset[Any]) -> None:
        """Called before each local training; it must leave the model as it is."""

    def on_after_training(self, model: nn.Module, data: Dataset[Any]) -> None:
        """Called after each local training; with differential privacy it must leave the model as it is."""

    def train(self, model: nn.Module, data: Dataset[Any], training: LocalTraining, steps: int) -> None:
        """Train ``model`` in place.

        Args:
            model: starts as the global model.
            data: the site's training rows, a map-style data set of (features, label).
            training: where batches come from; see `securefl.privacy.plain.LocalTraining`.
            steps: optimizer steps in this round.
        """
        with training.private(model, self.optimizer(model), data, steps) as (private, optimizer, batches):
            for x, y in batches:
                optimizer.zero_grad()
                if len(x):
                    self.loss(private(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()

    def close(self) -> None:
        """Called when a run is over."""

    def sums(self) -> tuple[SumSpec, ...]:
        """Names, sizes and bounds of the sums that `evaluate` gives: they travel in the masked vector."""
        return self.metrics.specs()

    def evaluate(self, model: nn.Module, data: Dataset[Any]) -> Sums:
        """Sums over the held-out rows, as declared by `sums`."""
        return self.metrics.sums(*self.scores(model, data))

    def read(self, sums: Sums) -> dict[str, float]:
        """Metrics from the sums over all sites."""
        return self.metrics.read(sums)

    def scores(self, model: nn.Module, data: Dataset[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Probability of class 1 and label of every row, shapes (rows,).

        Raises:
            UserError: where the model gives more than one logit a row.
        """
        was_training = model.training
        model.eval()
        scores, labels = [np.empty(0)], [np.empty(0, dtype=np.int64)]
        with torch.no_grad():
            for x, y in DataLoader(data, batch_size=4096):
                output = model(beside(model, x, y)[0]).cpu()
                if output.ndim > 1 and output.shape[-1] != 1:
                    raise UserError(f"the model gives {output.shape[-1]} outputs a row: override evaluate, sums and read for it")
                scores.append(torch.nan_to_num(torch.sigmoid(output.reshape(-1).double()), nan=0.5).numpy())
                labels.append(y.reshape(-1).long().cpu().numpy())
        model.train(was_training)
        return np.concatenate(scores), np.concatenate(labels)
