"""Sites with few labels: rows without one are taught by the model's own confident guesses.

Source: pseudo-labels, Lee (ICML workshop 2013), with the confidence threshold of Sohn et al. (FixMatch, NeurIPS 2020, arXiv
2001.07685).  In a federation the guesses are those of a model that all sites' labels have made.

Needs the sums of FedAvg and of the metrics.  A row's loss depends on that row alone, so clipping one gradient a record bounds it,
and differential privacy covers labelled and unlabelled rows alike.

What it does not protect: confident mistakes are learnt too; it helps where rows of a class lie together.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from securefl.encoding import SumSpec
from securefl.errors import UserError
from securefl.privacy.batches import beside, in_blocks
from securefl.trainer import ClientTrainer, Sums

NO_LABEL = -1
"""Label of a row without one."""


class PseudoLabels(ClientTrainer):
    """Trainer for several classes, where rows may have the label `NO_LABEL`.

    The loss of a labelled row is ``labelled`` times its cross-entropy.  That of another is ``unlabelled`` times the cross-entropy
    to the class that the model guesses, if the guess has a probability of at least ``threshold``, else 0.

    Args:
        threshold: confidence, in (0, 1]; above 1 rows without labels say nothing.
        labelled: weight of a labelled row: about one over their share, as the loss is a mean over all rows.
        unlabelled: weight of the others.
        learning_rate: step size of the local optimizer.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(
        self, *, threshold: float = 0.95, labelled: float = 20.0, unlabelled: float = 3.0, learning_rate: float = 0.5
    ) -> None:
        super().__init__(learning_rate=learning_rate)
        for name, value in (("threshold", threshold), ("labelled", labelled), ("unlabelled", unlabelled)):
            if not 0 < value < math.inf:
                raise UserError(f"{name} is {value}: it must be finite and above 0")
        self.threshold, self.labelled, self.unlabelled = threshold, labelled, unlabelled

    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean over rows; outputs of shape (rows, classes), labels of shape (rows,)."""
        known = y >= 0
        sure, guess = torch.softmax(output.detach(), dim=-1).max(dim=-1)
        weight = torch.where(known, self.labelled, self.unlabelled * (sure >= self.threshold).to(output.dtype))
        return (weight * nn.functional.cross_entropy(output, torch.where(known, y.long(), guess), reduction="none")).mean()

    def sums(self) -> tuple[SumSpec, ...]:
        """Held-out rows with a label, and how many are right."""
        return tuple(SumSpec(name, 1, float(self.metrics.limit), integer=True) for name in ("labelled", "right"))

    def evaluate(self, model: nn.Module, data: Dataset[Any]) -> Sums:
        """Counts over held-out rows."""
        labelled, right = 0, 0
        with torch.no_grad():
            for _start, block in in_blocks(data):
                x, y = beside(model, *block)
                known = y >= 0
                labelled += int(known.sum())
                right += int((model(x).argmax(dim=-1) == y)[known].sum())
        most = self.metrics.max_rows
        return {"labelled": np.array([min(labelled, most)]), "right": np.array([min(right, most)])}

    def read(self, sums: Sums) -> dict[str, float]:
        """Rows and accuracy."""
        rows = float(sums["labelled"][0])
        return {"rows": rows, **({"accuracy": float(sums["right"][0]) / rows} if rows else {})}
