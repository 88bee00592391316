"""One gradient a record, chunk by chunk: what DP-SGD needs of training, whoever adds the noise.

A Poisson batch is walked in chunks of one public size, and a record takes a random slot in one of them (`batches.chunks`): its
gradient depends, to the last bit, on the weights, the record and the slot, and on no other record.  Without that a server could
make up weights that turn the rounding of float32 into whole gradients (``benchmarks/float_leak.py``).

Per-example gradients are Opacus'.  Opacus cannot see three mistakes that void ε, so they are refused here: a step without a batch
of its own, a batch without a step (an empty batch has no loss, but its noise must be released), and layers that see something else
than records in dimension 0, whose gradients would be clipped piecewise.

What it does not protect: a forward pass or loss of the user's own that mixes records, that counts the batches it is called for, or
whose shapes come from the data.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from protocols.rand import Entropy, Rand
from securefl.errors import UserError
from securefl.models import trainable
from securefl.privacy.batches import Batch, Chunk, beside, chunks, count_rows, take
from securefl.privacy.draws import secret_draws
from securefl.privacy.mixing import TRIED
from securefl.privacy.models import check_model
from securefl.privacy.plain import Trained, check_steps
from securefl.privacy.trials import refuse_packed, try_without_loss

MOST_SLOTS, FEWEST_SLOTS, AT_ONCE = 256, 8, 1 << 21
"""Rows of a chunk, and values of gradients that are held together."""


def slots_for(size: int) -> int:
    """Rows of a chunk for a model of ``size`` trainable values, a power of two: public, and the same for all data."""
    return int(min(max(1 << (AT_ONCE // max(size, 1)).bit_length() >> 1, FEWEST_SLOTS), MOST_SLOTS))


Kept = dict[int, tuple[nn.Parameter, torch.Tensor]]
"""Parameters by their ``id``, each with its weights at the last step."""
CHANGED = "the weights were changed beside the noised steps: ε would not cover that change"


class Observer(Protocol):
    """Watches the steps of a `SecureDPOptimizer`."""

    def admit(self) -> Chunk:
        """Before a step: what it is of; raises where the step must not be taken."""

    def left_out(self, records: int) -> None:
        """So many records of the batch were left out, as their gradients are not finite."""

    def stepped(self) -> None:
        """After a step."""


class Noised(DPOptimizer, ABC):  # type: ignore[misc]  # Opacus ships no types
    """An optimizer that can tell whether it was left as it was."""

    @abstractmethod
    def check_settings(self) -> None:
        """Raise `UserError` where its settings changed since its first step."""


class PerRecord(ABC):
    """Training of one model at one site with one gradient a record: keep the instance over all rounds.

    Args:
        sample_rate: probability in (0, 1] with which a record is in a batch.
        planned_steps: steps over all rounds; one more is refused.
        entropy: gives fresh randomness for each round's sampling.

    Attributes:
        left_out: records, counted anew in every batch, that were left out as their gradients are not finite.

    Raises:
        UserError: for a value out of range.
    """

    def __init__(self, *, sample_rate: float, planned_steps: int, entropy: Entropy) -> None:
        if not 0 < sample_rate <= 1:
            raise UserError(f"sample_rate is {sample_rate}: it must lie in (0, 1]")
        check_steps(planned_steps)
        self.sample_rate, self.planned_steps, self.left_out = sample_rate, planned_steps, 0
        self._entropy = entropy
        self._blocks: list[_Block] = []
        self._kept: Kept = {}
        self._begun: list[torch.Tensor] | None = None
        self._tried: set[str] = set()

    @property
    @abstractmethod
    def steps_taken(self) -> int:
        """Steps taken so far."""

    @abstractmethod
    def restore(self, steps: int) -> None:
        """Count steps of an earlier part of the run."""

    @abstractmethod
    def wrap(self, optimizer: Optimizer, model: nn.Module, rows: int, observer: Observer) -> Noised:
        """The optimizer that takes the clipped gradients of a site of ``rows`` rows."""

    @abstractmethod
    def charge(self, optimizer: DPOptimizer) -> None:
        """A step is taken."""

    def begin(self, model: nn.Module) -> None:
        """A round begins with these weights: from here on only noised steps may change what it sends."""
        self._blocks = [block for block in self._blocks if block.open]
        self._kept = {}
        self._begun = keep(self._kept, [*model.parameters()])

    @property
    def chunk(self) -> Chunk | None:
        """What the batch that waits for its step holds; None where none waits."""
        return next((block.waiting for block in self._blocks if block.open and block.waiting), None)

    @contextmanager
    def private(self, model: nn.Module, optimizer: Optimizer, data: Dataset[Any], steps: int) -> Iterator[Trained]:
        """Wrapped model and optimizer and exactly ``steps`` Poisson batches, empty ones included, each in one or more chunks.

        Every chunk is followed by one ``optimizer.step()``, which moves the weights after the last one of a batch; the loss is a
        mean over the chunk.  All chunks have the same number of rows; those that are no records of the batch count for nothing.
        Afterwards ``model`` is trained, in its earlier mode, without hooks or gradients.

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
        self._try(model, data, rows)
        if self._begun is None:  # what came before is another round's
            self._blocks = [block for block in self._blocks if block.open]
            self._kept = {id(p): self._kept[id(p)] for block in self._blocks for p in block.own}
        if not _as_kept([*model.parameters()], self._kept):
            raise UserError("the weights were changed before the noised steps: ε would not cover that change")
        optimizer.zero_grad(set_to_none=True)
        model.train()
        before = {id(layer) for layer in model.modules() if "activations" in vars(layer)}
        block = _Block(self, model, self._kept, self._begun)
        wrapped = GradSampleModule(model, loss_reduction="mean")
        wrapped.forbid_grad_accumulation()
        noisy = self.wrap(optimizer, model, rows, block)
        noisy.attach_step_hook(block.charge)
        self._blocks.append(block)
        rand = self._entropy()
        try:
            with warnings.catch_warnings(), secret_draws(rand), refuse_packed(model):
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                yield wrapped, noisy, block.batches(data, rand, steps)
            block.check_walked()
            noisy.check_settings()
            block.check_untouched()
        finally:
            block.open = False
            wrapped.to_standard_module()
            _drop_records(model, before)
            model.train(was_training)

    def check_untouched(self, model: nn.Module) -> None:
        """The weights of ``model`` are those that the last noised step gave, or the round began with.

        They may also be a copy of what was trained, or of a part of it in one piece, if that began with the round's.

        Raises:
            UserError: where something else changed them: ε would not cover that.
        """
        if not self._blocks:
            return  # no step: the account shows it
        own = [*model.parameters()]
        known = [p for p in own if id(p) in self._kept]
        if known and (self._begun is None or len(known) == len(own)) and _as_kept(known, self._kept):
            return
        trained = [block for block in self._blocks if block.from_the_start]
        if not any(_within(own, block.weights) for block in trained):
            raise UserError(CHANGED)

    def _try(self, model: nn.Module, data: Dataset[Any], rows: int) -> None:
        """Once for each kind of model, before its first step."""
        if repr(model) not in self._tried:
            x, _ = beside(model, *take(data, np.arange(min(rows, TRIED))))
            try_without_loss(model, x)
            self._tried.add(repr(model))

    def over_plan(self, wanted: int) -> UserError:
        """The error for a step that the noise was not calibrated for."""
        return UserError(
            f"step {wanted} is beyond the plan: the noise was calibrated for {self.planned_steps} steps (rounds × local steps) "
            f"and {self.steps_taken} are taken"
        )


class _Block:
    """One ``with training.private(…)``: watches that every batch gets its one step, and that nothing else moves the weights."""

    def __init__(self, training: PerRecord, model: nn.Module, kept: Kept, begun: list[torch.Tensor] | None) -> None:
        self.training, self.model, self.open, self._walked, self._kept = training, model, True, False, kept
        self.slots = slots_for(sum(p.numel() for p in trainable(model)))
        self.waiting: Chunk | None = None
        self.own = [*model.parameters()]
        new = [p for p in self.own if id(p) not in kept]
        self.from_the_start = begun is None or not new or _within(begun, self.own)
        keep(kept, new)

    @property
    def weights(self) -> list[torch.Tensor]:
        """As the last step left them."""
        return [self._kept[id(p)][1] for p in self.own]

    def admit(self) -> Chunk:
        self.check_untouched()
        if self.training.steps_taken >= self.training.planned_steps:
            raise self.training.over_plan(self.training.steps_taken + 1)
        if self.waiting is None:
            raise UserError("an optimizer step without a new batch: every step needs a Poisson batch of its own")
        return self.waiting

    def left_out(self, records: int) -> None:
        self.training.left_out += records

    def charge(self, optimizer: DPOptimizer) -> None:
        self.training.charge(optimizer)
        self.waiting = None

    def stepped(self) -> None:
        if self.waiting is None:  # charged: the weights moved
            self._keep_weights()
        self.waiting = None

    def _keep_weights(self) -> None:
        keep(self._kept, self.own)

    def batches(self, data: Dataset[Any], rand: Rand, steps: int) -> Iterator[Batch]:
        for number in range(steps):
            for chunk in chunks(data, rand, f"batch {number}", self.training.sample_rate, self.slots, self.model):
                self.waiting = chunk
                yield chunk.x, chunk.y
                self.check_stepped()
        self._walked = True

    def check_walked(self) -> None:
        self.check_stepped()
        if not self._walked:
            raise UserError("the loop left its batches before their end, and may have left a part of one: walk all of them")

    def check_stepped(self) -> None:
        if self.waiting is not None:
            raise UserError("a batch got no optimizer step: every batch needs one, the empty one too")

    def check_untouched(self) -> None:
        if not _as_kept(self.own, self._kept):
            raise UserError(CHANGED)


def keep(kept: Kept, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    """Put copies of the weights into ``kept``, and return them."""
    copies = [p.detach().clone() for p in parameters]
    kept |= {id(p): (p, then) for p, then in zip(parameters, copies, strict=True)}
    return copies


def _as_kept(parameters: list[nn.Parameter], kept: Kept) -> bool:
    """Whether all of them that were kept are as they were."""
    return all(_same(p, kept[id(p)][1]) for p in parameters if id(p) in kept)


def _within(weights: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    """Whether these stand among the others, one after another."""
    starts = range(len(others) - len(weights) + 1)
    return any(all(map(_same, weights, others[start : start + len(weights)])) for start in starts)


def _same(now: torch.Tensor, then: torch.Tensor) -> bool:
    return now.shape == then.shape and torch.allclose(now, then.to(now), rtol=0, atol=0, equal_nan=True)


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
