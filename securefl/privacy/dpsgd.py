"""DP-SGD at one site with Opacus, on the package's own randomness, accounted over all rounds.

Source: Abadi et al., CCS 2016 (arXiv 1607.00133); per-example gradients, clipping and scaling are Opacus'.  Noise and Poisson
sampling come from AES-CTR (`securefl.privacy.noise`): torch's generators, which Opacus falls back to, can be predicted from
their output.

Opacus cannot see three mistakes that void ε, so they are refused here: a step without a batch of its own, a batch without a
step (an empty batch has no loss, but its noise must be released), and layers that see something else than records in
dimension 0, whose gradients would be clipped piecewise.

What it does not protect: ε covers the trained weights against adding or removing one record.  It does not cover the number of rows,
the loss that a trainer prints, or a forward pass or loss of the user's own that mixes records.  The clipping of norms and the sums
are in floating point, and their timing is not constant.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from opacus import GradSampleModule
from opacus.accountants import create_accountant
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from protocols.rand import Entropy, Rand, fresh
from securefl.errors import UserError
from securefl.privacy.accountant import History, check_accountant, epsilon_of_history
from securefl.privacy.batches import Batch, count_rows, sample
from securefl.privacy.models import check_model
from securefl.privacy.noise import gaussian
from securefl.privacy.plain import Trained, check_steps


class Observer(Protocol):
    """Watches the steps of a `SecureDPOptimizer`."""

    def admit(self) -> int:
        """Before a step: the number of records in its batch; raises where the step must not be taken."""

    def left_out(self, records: int) -> None:
        """So many records of the batch were left out, as their gradients are not finite."""

    def stepped(self) -> None:
        """After a step."""


class SecureDPOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus ships no types
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

    def pre_step(self, closure: Callable[[], float] | None = None) -> bool | None:
        """Check the gradients, then clip, add noise and scale.

        Raises:
            UserError: for gradients that were not cleared, come from several batches, or are not one a record.
        """
        seen = [len(p.grad_sample) for p in self.params if isinstance(p.grad_sample, torch.Tensor)]
        rows = self._observer.admit() if self._observer else max(seen, default=0)
        for number, parameter in enumerate(self.params):
            self._check_gradient(f"parameter {number} of shape {tuple(parameter.shape)}", parameter, rows)
        self._drop_unbounded()
        prepared: bool | None = super().pre_step(closure)
        return prepared

    def _drop_unbounded(self) -> None:
        """Leave out records whose gradient is not finite: no factor clips them, and whether they were there would show."""
        samples = [p.grad_sample for p in self.params]
        if not len(samples[0]):
            return
        bounded = torch.stack([torch.isfinite(g.reshape(len(g), -1)).all(dim=1).cpu() for g in samples]).all(dim=0)
        if not bool(bounded.all()):
            for p in self.params:
                keep = bounded.to(p.grad_sample.device).reshape(-1, *[1] * (p.grad_sample.ndim - 1))
                p.grad_sample = torch.where(keep, p.grad_sample, torch.zeros_like(p.grad_sample))
            if self._observer is not None:
                self._observer.left_out(int((~bounded).sum()))

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
        """Refused: a Poisson batch is taken in one piece."""
        raise UserError("virtual batches (BatchMemoryManager) are not supported: lower sample_rate to fit a batch in memory")

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


class LocalRecordDP:
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
        if not 0 < sample_rate <= 1:
            raise UserError(f"sample_rate is {sample_rate}: it must lie in (0, 1]")
        if not 0 < delta < 1:
            raise UserError(f"delta is {delta}: it must lie in (0, 1), both ends excluded")
        check_steps(planned_steps)
        if expected_rows is not None and expected_rows < 1:
            raise UserError(f"expected_rows is {expected_rows}: it must be at least 1")
        self.noise_multiplier, self.sample_rate, self.clip, self.delta = noise_multiplier, sample_rate, clip, delta
        self.accountant, self.planned_steps, self.expected_rows = accountant, planned_steps, expected_rows
        self.account = create_accountant(mechanism=accountant)
        self.left_out = 0
        self._entropy = entropy
        self._blocks: list[_Block] = []

    @property
    def steps_taken(self) -> int:
        """Steps charged so far."""
        return _steps(self.history)

    @property
    def history(self) -> History:
        """What happened: runs of equal steps."""
        return tuple((float(sigma), float(rate), int(steps)) for sigma, rate, steps in self.account.history)

    @property
    def planned(self) -> History:
        """What will have happened once all planned steps are taken."""
        left = self.planned_steps - self.steps_taken
        return (*self.history, (self.noise_multiplier, self.sample_rate, left)) if left else self.history

    @contextmanager
    def private(self, model: nn.Module, optimizer: Optimizer, data: Dataset[Any], steps: int) -> Iterator[Trained]:
        """Wrapped model and optimizer and exactly ``steps`` Poisson batches, empty ones included.

        Every batch is followed by one ``optimizer.step()``; the loss is a mean over the batch.  Afterwards ``model`` is
        trained, in its earlier mode, without hooks or gradients.

        Args:
            model: model to train in place.
            optimizer: optimizer over parameters of ``model``.
            data: map-style data set of pairs (features, label).
            steps: optimizer steps, at least 1.

        Raises:
            UserError: for no rows, a model that DP-SGD cannot train, parameters of another model, more steps than planned, or a
                batch without its step.
        """
        check_steps(steps)
        if self.steps_taken + steps > self.planned_steps:
            raise self.over_plan(self.steps_taken + steps)
        check_model(model)
        _check_parameters(model, optimizer)
        narrow = {str(p.dtype) for p in model.parameters() if p.dtype not in (torch.float32, torch.float64)}
        if narrow:
            raise UserError(f"the model has {', '.join(sorted(narrow))} weights: sums of clipped gradients need float32 or float64")
        rows, was_training = count_rows(data), model.training
        optimizer.zero_grad(set_to_none=True)
        model.train()
        before = {id(layer) for layer in model.modules() if "activations" in vars(layer)}
        block = _Block(self, model)
        wrapped = GradSampleModule(model, loss_reduction="mean")
        wrapped.forbid_grad_accumulation()
        noisy = SecureDPOptimizer(
            optimizer,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.clip,
            expected_batch_size=self.sample_rate * (self.expected_rows or rows),
            entropy=self._entropy,
            observer=block,
        )
        noisy.attach_step_hook(block.charge)
        self._blocks = [*(earlier for earlier in self._blocks if earlier.open), block]
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                yield wrapped, noisy, block.batches(data, self._entropy(), steps)
            block.check_stepped()
            self.check_untouched(model)
        finally:
            block.open = False
            wrapped.to_standard_module()
            _drop_records(model, before)
            model.train(was_training)

    def check_untouched(self, model: nn.Module) -> None:
        """The weights of ``model`` are those that the last noised step gave; a model that was not trained here passes.

        Raises:
            UserError: where something else changed them: ε would not cover that.
        """
        for block in self._blocks:
            if block.model is model:
                block.check_untouched()

    def over_plan(self, wanted: int) -> UserError:
        """The error for a step that the noise was not calibrated for."""
        return UserError(
            f"step {wanted} is beyond the plan: the noise was calibrated for {self.planned_steps} steps (rounds × local steps) "
            f"and {self.steps_taken} are taken"
        )


class _Block:
    """One ``with training.private(…)``: watches that every batch gets its one step, and that nothing else moves the weights."""

    def __init__(self, training: LocalRecordDP, model: nn.Module) -> None:
        self.training, self.model, self.open = training, model, True
        self._waiting: int | None = None
        self.stepped()

    def admit(self) -> int:
        self.check_untouched()
        if self.training.steps_taken >= self.training.planned_steps:
            raise self.training.over_plan(self.training.steps_taken + 1)
        if self._waiting is None:
            raise UserError("an optimizer step without a new batch: every step needs a Poisson batch of its own")
        return self._waiting

    def left_out(self, records: int) -> None:
        self.training.left_out += records

    def charge(self, optimizer: SecureDPOptimizer) -> None:
        self.training.account.step(noise_multiplier=optimizer.noise_multiplier, sample_rate=self.training.sample_rate)
        self._waiting = None

    def stepped(self) -> None:
        self._weights = [parameter.detach().clone() for parameter in self.model.parameters()]

    def batches(self, data: Dataset[Any], rand: Rand, steps: int) -> Iterator[Batch]:
        for number in range(steps):
            self.check_stepped()
            batch = sample(data, rand, f"batch {number}", self.training.sample_rate, self.model)
            self._waiting = len(batch[0])
            yield batch
        self.check_stepped()

    def check_stepped(self) -> None:
        if self._waiting is not None:
            raise UserError(f"a batch of {self._waiting} records got no optimizer step: every batch needs one, the empty one too")

    def check_untouched(self) -> None:
        same = (
            torch.allclose(now, then, rtol=0, atol=0, equal_nan=True)
            for now, then in zip(self.model.parameters(), self._weights, strict=True)
        )
        if not all(same):
            raise UserError("the weights were changed beside the noised steps: ε would not cover that change")


def site_epsilon(models: Sequence[LocalRecordDP], models_per_record: int, *, planned: bool = False) -> float:
    """ε of a site whose models, trained side by side, each leave out other records (cross-validation).

    A record takes part in ``models_per_record`` of them; the composition of those with the most steps bounds the ε of every record.

    Args:
        models: one account a model, with equal noise, rate, δ and accountant.
        models_per_record: in how many of them one record takes part, 1 … ``len(models)``.
        planned: whether to count every planned step, or those taken so far (0.0 before any).

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
    history = tuple((sigma, rate, steps) for (sigma, rate), steps in merged.items())
    return epsilon_of_history(history, models[0].delta, models[0].accountant)


def _steps(history: History) -> int:
    return sum(steps for _, _, steps in history)


def _check_parameters(model: nn.Module, optimizer: Optimizer) -> None:
    if isinstance(optimizer, DPOptimizer):
        raise UserError("the optimizer is wrapped for DP already: pass the plain torch optimizer")
    own = {id(parameter) for parameter in model.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    foreign = sum(id(parameter) not in own for parameter in held)
    if foreign or not any(parameter.requires_grad for parameter in held):
        raise UserError(
            f"the optimizer holds {foreign} parameters that are not the model's: build it over this model's parameters"
            if foreign
            else "the optimizer holds no trainable parameter: build it over this model's parameters"
        )


def _drop_records(model: nn.Module, before: set[int]) -> None:
    """Remove gradients without noise, and the inputs that a forward pass without a backward pass left in the layers."""
    for parameter in model.parameters():
        parameter.grad = None
        vars(parameter).pop("summed_grad", None)
    for layer in model.modules():
        for name in ("activations", "max_batch_len"):
            if name in vars(layer) and id(layer) not in before:
                delattr(layer, name)
