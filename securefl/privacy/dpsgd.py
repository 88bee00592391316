"""DP-SGD at one site with Opacus, on the package's own randomness, accounted over all rounds.

Source: Abadi et al., CCS 2016 (arXiv 1607.00133); per-example gradients and scaling are Opacus', clipping is in float64.  Noise and
Poisson sampling come from AES-CTR (`securefl.privacy.noise`): torch's generators, which Opacus falls back to, can be predicted
from their output.

What it does not protect: ε covers the trained weights against adding or removing one record.  It does not cover the number of rows,
the loss that a trainer prints, or a forward pass or loss of the user's own that mixes records.  The clipping of norms and the sums
are in floating point, and their timing is not constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from opacus.accountants import create_accountant
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.optim import Optimizer

from protocols.rand import Entropy, fresh
from securefl.errors import UserError
from securefl.privacy.accountant import History, check_accountant
from securefl.privacy.composition import spent
from securefl.privacy.events import Covered, DpSgdEvent
from securefl.privacy.noise import gaussian
from securefl.privacy.per_record import AT_ONCE, Noised, Observer, PerRecord


class SecureDPOptimizer(Noised):
    """Opacus' optimizer with noise from AES-CTR, which also takes an empty batch and insists on one gradient a record.

    Args:
        optimizer: the optimizer to wrap.
        noise_multiplier: standard deviation of the noise divided by ``max_grad_norm``.
        max_grad_norm: L2 bound of a record's gradient over all parameters.
        expected_batch_size: sampling rate × rows; the noised sum is divided by it.
        entropy: gives fresh randomness for each step.
        observer: watches every step; None takes the size of the batch from the gradients.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        noise_multiplier: float,
        max_grad_norm: float,
        expected_batch_size: float,
        entropy: Entropy = fresh,
        observer: Observer | None = None,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_grad_norm,
            expected_batch_size=expected_batch_size,
        )
        self._entropy = entropy
        self._observer = observer
        self._noised = (noise_multiplier, max_grad_norm, expected_batch_size)
        self._settings: str | None = None
        self._sums: list[torch.Tensor] | None = None

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool:  # noqa: ARG002  (Opacus' signature)
        """Check the gradients and clip them; after the last chunk of a batch, add noise and scale.

        Sums over chunks are in float64, and here: what a loop does to the parameters' own does not reach them.

        Raises:
            UserError: for gradients that were not cleared, come from several batches, or are not one a record.
        """
        last = self.admit()
        self.check_settings()
        for p in self.params:
            p.summed_grad = None
        self.clip_and_accumulate()
        parts = [p.summed_grad for p in self.params]
        self._sums = parts if self._sums is None else [total + part for total, part in zip(self._sums, parts, strict=True)]
        if not last:
            return False
        for p, total in zip(self.params, self._sums, strict=True):
            p.summed_grad = total
        self._sums = None
        self.add_noise()
        self.scale_grad()
        if self.step_hook:
            self.step_hook(self)
        return True

    def clip_and_accumulate(self) -> None:
        """Set ``p.summed_grad`` to the sum of the clipped gradients of a chunk: norms, factors and sums in float64.

        In float32 a norm of 10^7 values is off by percents, and a sum rounds by all of its terms.
        """
        samples = [p.grad_sample.reshape(len(p.grad_sample), math.prod(p.shape)) for p in self.params]
        norms = torch.stack([torch.linalg.vector_norm(g, dim=1, dtype=torch.float64).cpu() for g in samples]).norm(dim=0)
        factors = (self.max_grad_norm / norms).clamp(max=1.0)  # 1 for a gradient of zeros
        for p, sample in zip(self.params, samples, strict=True):
            rows = max(1, AT_ONCE // max(1, sample.shape[1]))
            parts = zip(factors.to(sample.device).split(rows), sample.split(rows), strict=True)
            p.summed_grad = sum(f @ part.to(torch.float64) for f, part in parts).reshape(p.shape)
            p.grad_sample._processed = True  # noqa: SLF001  (Opacus' mark against using gradients twice)

    def admit(self) -> bool:
        """Check the gradients of a chunk, and leave out all but records with a finite gradient.

        Returns:
            Whether the batch ends here.
        """
        seen = [len(p.grad_sample) for p in self.params if isinstance(p.grad_sample, torch.Tensor)]
        chunk = self._observer.admit() if self._observer else None
        rows = len(chunk.present) if chunk else max(seen, default=0)
        for number, parameter in enumerate(self.params):
            self._check_gradient(f"parameter {number} of shape {tuple(parameter.shape)}", parameter, rows)
        present = torch.ones(rows, dtype=torch.bool) if chunk is None else chunk.present.cpu()
        bounded = self._bounded(rows)
        self._keep(present & bounded)
        if self._observer is not None:
            self._observer.left_out(int((present & ~bounded).sum()))
        return chunk is None or chunk.last

    def _bounded(self, rows: int) -> torch.Tensor:
        """Which gradients are finite, shape (rows,), bool: no factor clips others, and whether they were there would show."""
        finite = [torch.isfinite(p.grad_sample.reshape(rows, math.prod(p.shape))).all(dim=1).cpu() for p in self.params]
        return torch.stack(finite).all(dim=0)

    def _keep(self, kept: torch.Tensor) -> None:
        if not bool(kept.all()):
            for p in self.params:
                keep = kept.to(p.grad_sample.device).reshape(-1, *[1] * (p.grad_sample.ndim - 1))
                p.grad_sample = torch.where(keep, p.grad_sample, torch.zeros_like(p.grad_sample))

    def check_settings(self) -> None:
        """What changes from one chunk to the next would tell how many there were, which depends on the records.

        Raises:
            UserError: where noise, clip or batch size are not those that the optimizer was made with, or other settings not those
                of its first step.
        """
        own = (self.noise_multiplier, self.max_grad_norm, self.expected_batch_size)
        if own != self._noised:
            names = "(noise_multiplier, max_grad_norm, expected_batch_size)"
            raise UserError(f"the optimizer's {names} were changed from {self._noised} to {own}: ε is computed from the first")
        groups = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        exact = [{name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in g.items()} for g in groups]
        settings = repr(exact)
        if self._settings not in (None, settings):
            raise UserError(
                "the optimizer's settings changed within a round: a step may take several batches, so change them by rounds"
            )
        self._settings = settings

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One noised step."""
        result: float | None = super().step(closure)
        if self._observer is not None:
            self._observer.stepped()
        return result

    def add_noise(self) -> None:
        """Set ``p.grad`` to the clipped sum plus noise; they are added in float64, and the result is cast."""
        rand = self._entropy()
        std = self.noise_multiplier * self.max_grad_norm
        for number, p in enumerate(self.params):
            noise = gaussian(rand, f"noise {number}", p.shape, std, dtype=torch.float64).to(p.device)
            p.grad = (p.summed_grad.to(torch.float64) + noise).to(p.dtype).view_as(p)
            p.summed_grad._processed = True  # noqa: SLF001  (Opacus' mark against using a sum twice)

    def signal_skip_step(self, do_skip: bool = True) -> None:  # noqa: ARG002, FBT001, FBT002  (Opacus' signature)
        """Refused: batches come in chunks as it is."""
        raise UserError(
            "virtual batches (BatchMemoryManager) are not supported: batches come in parts of a size that fits as it is"
        )

    @staticmethod
    def _check_gradient(name: str, p: Any, rows: int) -> None:
        if isinstance(p.grad_sample, list):
            raise UserError(f"{name} has gradients of {len(p.grad_sample)} backward passes: a step takes exactly one")
        if p.grad_sample is None:
            if p.grad is not None and bool(p.grad.any()):
                raise UserError(f"{name} has no gradient per record: its layer must be called, not its weights used directly")
            p.grad_sample = p.new_zeros(()).expand(rows, *p.shape)
        elif hasattr(p.grad_sample, "_processed"):
            raise UserError(f"{name} still has the gradient of the last step: call optimizer.zero_grad() for each batch")
        elif len(p.grad_sample) != rows:
            raise UserError(
                f"{name} has {len(p.grad_sample)} gradients for a batch of {rows} records: use the whole batch, and keep records "
                "in dimension 0 of every layer's input"
            )


class LocalRecordDP(PerRecord):
    """Record-level DP-SGD of one model at one site, over all rounds: keep the instance, its account goes on.

    A step is charged when it happens, so an aborted round stays charged.

    Args:
        noise_multiplier: from `securefl.privacy.accountant.calibrate`, > 0.
        sample_rate: probability in (0, 1] with which a record is in a batch.
        clip: L2 bound of a record's gradient, > 0.
        delta: δ in (0, 1) at which ε is stated.
        accountant: ``rdp`` or ``prv``.
        planned_steps: steps over all rounds for which the noise was calibrated; one more is refused.
        expected_rows: public number by whose share the noised sum is divided; None: the site's rows, which its size then tells.
        entropy: gives fresh randomness for each round's sampling and each step's noise.

    Attributes:
        account: Opacus' accountant; its history is what happened.
        left_out: records, counted anew in every batch, that were left out as their gradients are not finite.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(
        self,
        *,
        noise_multiplier: float,
        sample_rate: float,
        clip: float,
        delta: float,
        accountant: str,
        planned_steps: int,
        expected_rows: int | None = None,
        entropy: Entropy = fresh,
    ) -> None:
        check_accountant(accountant)
        for name, value in (("noise_multiplier", noise_multiplier), ("clip", clip)):
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} is {value}: it must be finite and above 0")
        super().__init__(sample_rate=sample_rate, planned_steps=planned_steps, entropy=entropy)
        if not 0 < delta < 1:
            raise UserError(f"delta is {delta}: it must lie in (0, 1), both ends excluded")
        if expected_rows is not None and expected_rows < 1:
            raise UserError(f"expected_rows is {expected_rows}: it must be at least 1")
        self.noise_multiplier, self.clip, self.delta = noise_multiplier, clip, delta
        self.accountant, self.expected_rows = accountant, expected_rows
        self.account = create_accountant(mechanism=accountant)

    @property
    def steps_taken(self) -> int:
        """Steps charged so far."""
        return _steps(self.history)

    def restore(self, steps: int) -> None:
        """Charge steps of an earlier part of the run, which had the same noise and rate."""
        for _ in range(steps):
            self.account.step(noise_multiplier=self.noise_multiplier, sample_rate=self.sample_rate)

    def wrap(self, optimizer: Optimizer, model: nn.Module, rows: int, observer: Observer) -> SecureDPOptimizer:  # noqa: ARG002
        """The optimizer that clips, adds noise and scales."""
        return SecureDPOptimizer(
            optimizer,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.clip,
            expected_batch_size=self.sample_rate * (self.expected_rows or rows),
            entropy=self._entropy,
            observer=observer,
        )

    def charge(self, optimizer: DPOptimizer) -> None:
        """A step is taken with the optimizer's noise."""
        self.account.step(noise_multiplier=optimizer.noise_multiplier, sample_rate=self.sample_rate)

    @property
    def history(self) -> History:
        """What happened: runs of equal steps."""
        return tuple((float(sigma), float(rate), int(steps)) for sigma, rate, steps in self.account.history)

    @property
    def planned(self) -> History:
        """What will have happened once all planned steps are taken."""
        left = self.planned_steps - self.steps_taken
        return (*self.history, (self.noise_multiplier, self.sample_rate, left)) if left else self.history


def site_epsilon(
    models: Sequence[LocalRecordDP], models_per_record: int, *, planned: bool = False, before: Sequence[Covered] = ()
) -> float:
    """ε of a site whose models, trained side by side, each leave out other records (cross-validation).

    A record takes part in ``models_per_record`` of them; the composition of those with the most steps bounds the ε of every record.

    Args:
        models: one account a model, with equal noise, rate, δ and accountant.
        models_per_record: in how many of them one record takes part, 1 … ``len(models)``.
        planned: whether to count every planned step, or those taken so far.
        before: what was opened before, under the same ε.

    Raises:
        UserError: for accounts that differ or a number out of range.
    """
    if not 1 <= models_per_record <= len(models):
        raise UserError(f"models_per_record is {models_per_record}: it must lie in 1 … {len(models)}, the number of models")
    if len({(m.noise_multiplier, m.sample_rate, m.delta, m.accountant) for m in models}) > 1:
        raise UserError("the models of a site differ in noise, sampling rate, delta or accountant: they must be equal")
    histories = sorted((m.planned if planned else m.history for m in models), key=_steps, reverse=True)
    merged: dict[tuple[float, float], int] = {}
    for sigma, rate, steps in (run for history in histories[:models_per_record] for run in history):
        merged[sigma, rate] = merged.get((sigma, rate), 0) + steps
    trained = [DpSgdEvent(sigma, rate, steps) for (sigma, rate), steps in merged.items()]
    return spent([(event, 1) for event in (*before, *trained)], models[0].delta, models[0].accountant).epsilon


def _steps(history: History) -> int:
    return sum(steps for _, _, steps in history)
