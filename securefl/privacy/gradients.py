"""One step's clipped gradients of one site, added up in whole numbers: what a party puts into a sum over records.

A record's gradient becomes whole numbers by itself, with a norm that is checked in integers, so what it adds to the sum depends on
no other record, and on the order of no float.

What it does not protect: the sum is exact.  It leaves only with noise and masked, or to a server that is trusted with it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.optim import Optimizer

from protocols.errors import Misuse
from protocols.rand import Entropy, fresh
from securefl.errors import UserError
from securefl.models import trainable
from securefl.privacy.dpsgd import SecureDPOptimizer
from securefl.privacy.per_record import Observer, PerRecord
from securefl.privacy.record_plan import RecordPlan

_BLOCK = 1 << 22
"""Values that are turned into whole numbers together."""


def whole_gradients(gradients: NDArray[np.float64], plan: RecordPlan) -> NDArray[np.int64]:
    """Every record's gradient, clipped, in whole numbers.

    Args:
        gradients: shape (records, plan.size), finite.
        plan: the clip, and the bound in whole numbers.

    Returns:
        Shape (records, plan.size), int64; no squared norm of a row is above ``plan.fixed`` squared.
    """
    largest = np.max(np.abs(gradients), axis=1, initial=0.0)
    unit = gradients / np.where(largest > 0, largest, 1.0)[:, None]  # squares may overflow or vanish
    norm = np.sqrt(np.einsum("ij,ij->i", unit, unit))
    length = np.minimum(norm * (largest / plan.clip), 1.0)
    found: NDArray[np.int64] = np.rint(unit * (length / np.where(norm > 0, norm, 1.0) * plan.inner)[:, None]).astype(np.int64)
    within = np.einsum("ij,ij->i", found, found) <= plan.fixed**2
    if not within.all():
        raise Misuse("a gradient is longer in whole numbers than its bound")
    return found


class SummingOptimizer(SecureDPOptimizer):
    """Adds up clipped gradients in place of a step: the weights stay as they are.

    Args:
        optimizer: the optimizer to wrap; it takes no step.
        model: whose trainable parameters the sum is over.
        plan: clip and whole numbers.
        observer: watches every step.

    Attributes:
        total: sum over the batches so far, shape (plan.size,), int64.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module, plan: RecordPlan, observer: Observer) -> None:
        super().__init__(optimizer, noise_multiplier=0.0, max_grad_norm=plan.clip, expected_batch_size=1.0, observer=observer)
        self.plan, self._own = plan, trainable(model)
        self.total = np.zeros(plan.size, dtype=np.int64)

    def pre_step(self, closure: Any = None) -> bool:  # noqa: ARG002  (Opacus' signature)
        """Check the gradients, and add them up; False: there is nothing to step along."""
        last = self.admit()
        held = {id(p): p.grad_sample for p in self.params}
        missing = sum(id(p) not in held for p in self._own)
        if missing:
            raise UserError(f"the optimizer lacks {missing} trainable parameters: a step over sites takes the whole gradient")
        samples = [held[id(p)] for p in self._own]
        at_once = max(1, _BLOCK // self.plan.size)
        for start in range(0, len(samples[0]), at_once):
            parts = [g[start : start + at_once].detach().to(torch.float64).cpu().flatten(1).numpy() for g in samples]
            self.total += whole_gradients(np.concatenate(parts, axis=1), self.plan).sum(axis=0)
        for sample in samples:
            sample._processed = True  # noqa: SLF001  (Opacus' mark against using gradients twice)
        if last and self.step_hook:
            self.step_hook(self)
        return False


class GradientSums(PerRecord):
    """Sums of one model's clipped gradients at one site, a Poisson sample a step.

    Args:
        plan: rate, clip, whole numbers, and how many rounds there are.
        entropy: gives fresh randomness for each step's sample.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(self, plan: RecordPlan, entropy: Entropy = fresh) -> None:
        super().__init__(sample_rate=plan.rate, planned_steps=plan.rounds, entropy=entropy)
        self.plan, self._steps, self._whole = plan, 0, False
        self._summing: SummingOptimizer | None = None

    @property
    def steps_taken(self) -> int:
        """Steps taken so far."""
        return self._steps

    def restore(self, steps: int) -> None:
        """Count steps of an earlier part of the run."""
        self._steps += steps

    def wrap(self, optimizer: Optimizer, model: nn.Module, rows: int, observer: Observer) -> SummingOptimizer:
        """The optimizer that adds up.

        Raises:
            UserError: for so many rows that a sum of all would not be exact.
        """
        most = 2.0**52 / (self.plan.fixed * math.sqrt(self.plan.dimension))
        if rows > most:
            raise UserError(f"{rows} rows are more than sums over {self.plan.size} values can hold exactly: at most {int(most)}")
        self._summing, self._whole = SummingOptimizer(optimizer, model, self.plan, observer), False
        return self._summing

    def charge(self, optimizer: DPOptimizer) -> None:  # noqa: ARG002
        """A step is taken."""
        self._steps += 1
        self._whole = True

    def take(self) -> NDArray[np.int64]:
        """The sum of the last step's gradients, shape (plan.size,), int64; once.

        Raises:
            UserError: where no step was taken.
        """
        if self._summing is None or not self._whole:
            raise UserError("no step went through training.private: there is no gradient to send")
        summing, self._summing = self._summing, None
        return summing.total
