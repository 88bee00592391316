"""One trunk, one output an assay: the model, its training on labels of which most are missing, and scores by assay.

Source: multitask networks on fingerprints as in Ma et al. (2015) and Ramsundar et al. (arXiv 1502.02072); private heads as in
`securefl.private_layers`.

What it does not protect: as `securefl.trainer`; the loss of a compound is a mean over the assays that measured it, so a record is a
compound with all that its partner measured of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset

from securefl.data.molecules import MISSING, THRESHOLD, Target
from securefl.encoding import SumSpec
from securefl.models import initialise
from securefl.trainer import ClientTrainer, Sums

DROPOUT = 0.5
MOMENTUM = 0.9
DECAY = 3e-4
LARGEST = 16.0
"""Bound of a value, −log10 of a molar activity, in the sums of metrics."""


class Bits(nn.Module):
    """0 and 1 in bytes, as numbers that a layer takes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same in float32."""
        return x.to(torch.float32)


class Multitask(nn.Module):
    """``trunk``, which partners share; ``head``, with an output for each assay of one partner; a private trunk ``own`` beside it.

    Args:
        bits: length of a fingerprint.
        hidden: width of the trunk.
        assays: outputs.
        seed: fixes the initial parameters.
        private: width of ``own``; 0: there is none.
    """

    def __init__(self, bits: int, hidden: int, assays: int, seed: int, private: int = 0) -> None:
        super().__init__()
        self.trunk = _trunk(bits, hidden)
        self.own = _trunk(bits, private) if private else None
        self.head = nn.Linear(hidden + private, assays)
        initialise(self, seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, or values less `THRESHOLD`, shape (rows, assays)."""
        shared = self.trunk(x)
        out: torch.Tensor = self.head(shared if self.own is None else torch.cat([shared, self.own(x)], dim=1))
        return out


def _trunk(bits: int, width: int) -> nn.Module:
    return nn.Sequential(Bits(), nn.Linear(bits, width), nn.ReLU(), nn.Dropout(DROPOUT))


class MultitaskTrainer(ClientTrainer):
    """Trains on what was measured: SGD with momentum and weight decay.

    Args:
        learning_rate: step size.
        target: classes, by cross-entropy, or values, by squared error.
        momentum: new in every round.
        decay: weight decay.
    """

    def __init__(
        self, *, learning_rate: float = 0.3, target: Target = "class", momentum: float = MOMENTUM, decay: float = DECAY
    ) -> None:
        super().__init__(learning_rate=learning_rate)
        self.target, self.momentum, self.decay = target, momentum, decay

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum and weight decay; both follow gradients that are noised already."""
        return torch.optim.SGD(model.parameters(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.decay)

    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean over rows of the mean over a row's measured assays; a row without any counts as 0."""
        known = y != MISSING
        if self.target == "value":
            each = (output - (y - THRESHOLD)) ** 2
        else:
            each = nn.functional.binary_cross_entropy_with_logits(output, y.clamp(min=0), reduction="none")
        return ((each * known).sum(1) / known.sum(1).clamp(min=1)).mean()

    def outputs(self, model: nn.Module, data: Dataset[Any]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Probabilities or values, and labels with `MISSING`, shapes (rows, assays)."""
        was_training = model.training
        model.eval()
        found, labels = [], []
        with torch.no_grad():
            for x, y in DataLoader(data, batch_size=4096):
                out = model(x).double()
                found.append((out + THRESHOLD if self.target == "value" else torch.sigmoid(out)).numpy())
                labels.append(y.numpy())
        model.train(was_training)
        return np.concatenate(found), np.concatenate(labels)

    def scores(self, model: nn.Module, data: Dataset[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Probability and label of every measurement, all assays together, shapes (measurements,)."""
        found, labels = self.outputs(model, data)
        known = labels != MISSING
        return found[known], labels[known].astype(np.int64)

    def sums(self) -> tuple[SumSpec, ...]:
        """What travels masked beside the update: of classes the histograms of `BinaryMetrics`, of values three sums."""
        if self.target == "class":
            return super().sums()
        most = float(self.metrics.limit)
        return (
            SumSpec("measured", 1, most, integer=True),
            SumSpec("values", 1, most * LARGEST),
            SumSpec("squares", 1, most * LARGEST**2),
            SumSpec("errors", 1, most * LARGEST**2),
        )

    def evaluate(self, model: nn.Module, data: Dataset[Any]) -> Sums:
        """Sums over measurements of held-out compounds."""
        if self.target == "class":
            return super().evaluate(model, data)
        found, labels = self.outputs(model, data)
        known = labels != MISSING
        y, s = labels[known].astype(np.float64), np.clip(found[known], 0, LARGEST)
        kept = slice(None, self.metrics.limit)
        y, s = np.clip(y[kept], 0, LARGEST), s[kept]
        sums = {"measured": len(y), "values": y.sum(), "squares": (y**2).sum(), "errors": ((y - s) ** 2).sum()}
        return {name: np.array([value], dtype=np.float64) for name, value in sums.items()}

    def read(self, sums: Sums) -> dict[str, float]:
        """Metrics over all partners and assays together."""
        if self.target == "class":
            return super().read(sums)
        rows, total, squares, errors = (float(sums[name][0]) for name in ("measured", "values", "squares", "errors"))
        out = {"rows": rows}
        if rows > 0:
            spread = squares - total**2 / rows
            out |= {"mse": max(errors, 0.0) / rows}
            out |= {"r2": 1 - max(errors, 0.0) / spread} if spread > 0 else {}
        return out
