"""Mutants of sums over records, as patches of this process: clipping, adding up, rounding, noise, accounts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from protocols.errors import require
from protocols.rand import Rand, Replay
from securefl.audit.measured.probe import tensors
from securefl.privacy import gradients, noise, record
from securefl.privacy.record_plan import RecordPlan
from securefl.privacy.rounding import round_sum, squared_norm

Patch = pytest.MonkeyPatch
Whole = NDArray[np.int64]
Reals = NDArray[np.float64]
NOISE, BLOCK, ENCODE, EVENT = record.RecordLevel.noise, record.RecordLevel._block, record.RecordLevel.encode, RecordPlan.event
DRAWN = record.drawn
WHOLE, PRE_STEP, GAUSSIAN = gradients.whole_gradients, gradients.SummingOptimizer.pre_step, noise.gaussian


def noise_off(patch: Patch) -> None:
    patch.setattr(record.RecordLevel, "noise", lambda self, _rand: np.zeros(self.plan.dimension, np.int64))


def sigma_halved(patch: Patch) -> None:
    patch.setattr(record, "drawn", lambda kind, rand, label, size, share: DRAWN(kind, rand, label, size, share / 4))


def half_of_the_parties(patch: Patch) -> None:
    calls = iter(range(10**9))

    def half(self: Any, updates: Any, weights: Any, sums: Any, occasion: Any, rand: Rand) -> Any:
        bare = replace(self, plan=replace(self.plan, share=0.0))
        silent = next(calls) % 2
        if silent:
            patch.setattr(record.RecordLevel, "noise", lambda one, _rand: np.zeros(one.plan.dimension, np.int64))
        try:
            return ENCODE(bare if silent else self, updates, weights, sums, occasion, rand)
        finally:
            patch.setattr(record.RecordLevel, "noise", NOISE)

    patch.setattr(record.RecordLevel, "encode", half)


def the_same_in_both_models(patch: Patch) -> None:
    said = list[str]()

    def same(self: Any, total: Any, signs: Any, _rand: Rand) -> Any:
        return BLOCK(self, total, signs, Replay(said[-1])())

    def noting(self: Any, updates: Any, weights: Any, sums: Any, occasion: Any, rand: Rand) -> Any:
        said.append(rand.bytes("both", 16).hex())
        return ENCODE(self, updates, weights, sums, occasion, rand)

    patch.setattr(record.RecordLevel, "_block", same)
    patch.setattr(record.RecordLevel, "encode", noting)


def unclipped(gradients_: Reals, plan: RecordPlan) -> Whole:
    return np.rint(np.clip(gradients_ / plan.clip * plan.inner, -1e12, 1e12)).astype(np.int64)


def clipping_off(patch: Patch) -> None:
    patch.setattr(gradients, "whole_gradients", unclipped)


def clip_by_tensor(patch: Patch) -> None:
    def each(gradients_: Reals, plan: RecordPlan) -> Whole:
        parts = [WHOLE(gradients_[:, place], plan) for place in tensors(gradients_.shape[1]).values()]
        return np.concatenate(parts, axis=1)

    patch.setattr(gradients, "whole_gradients", each)


def clip_too_far(patch: Patch) -> None:
    """Clipped to a little more than the bound, as sums of floats are."""
    patch.setattr(gradients, "whole_gradients", lambda g, plan: np.rint(WHOLE(g, plan) * 1.00001).astype(np.int64))


def float_sums(patch: Patch) -> None:
    """Clipped and added up in float32, turned into whole numbers afterwards."""

    def added(self: Any, closure: Any = None) -> bool:
        last = self.admit()
        parts = [p.grad_sample.detach().to(torch.float32).flatten(1) for p in self.params]
        for p in self.params:
            p.grad_sample._processed = True
        flat = torch.cat(parts, dim=1)
        factors = (self.plan.clip / (flat.norm(dim=1) + 1e-6)).clamp(max=1.0)
        self.floats = getattr(self, "floats", 0.0) + (flat * factors[:, None]).sum(dim=0)
        if last:
            summed = self.floats.to(torch.float64).numpy()
            self.total += np.rint(summed / self.plan.clip * self.plan.inner).astype(np.int64)
            self.floats = 0.0
            if self.step_hook:
                self.step_hook(self)
        return False

    patch.setattr(gradients.SummingOptimizer, "pre_step", added)


def divided_by_the_true_size(patch: Patch) -> None:
    """A mean over the batch, times the size that is expected."""

    def mean(self: Any, closure: Any = None) -> bool:
        chunk = self._observer.admit()
        self.size = getattr(self, "size", 0) + int(chunk.present.sum())
        taken = PRE_STEP(self, closure)
        if chunk.last and self.size:
            self.total = np.rint(self.total * (self.plan.rate * self.plan.rows / self.size)).astype(np.int64)
        return bool(taken)

    patch.setattr(gradients.SummingOptimizer, "pre_step", mean)


def rounded_until_it_fits(patch: Patch) -> None:
    """Repeated until the squared norm is no larger than it is on average, which follows from the data."""

    def conditional(scaled: Reals, rand: Rand) -> Whole:
        most = float(np.sum(scaled**2)) + scaled.size / 4
        for attempt in range(64):
            whole = round_sum(scaled, rand.child(f"attempt {attempt}"))
            if squared_norm(whole) <= most:
                return whole
        return whole

    patch.setattr(record, "round_sum", conditional)


def finer_grid(patch: Patch) -> None:
    def finer(self: Any, total: Any, signs: Any, rand: Rand) -> Any:
        return BLOCK(replace(self, plan=replace(self.plan, shift=self.plan.shift - 1)), total, signs, rand)

    patch.setattr(record.RecordLevel, "_block", finer)


def nothing_to_say(self: Any, updates: Any) -> bool:
    return not any(np.any(update) for update in updates)


def silent_batches(patch: Patch) -> None:
    def silent(self: Any, updates: Any, weights: Any, sums: Any, occasion: Any, rand: Rand) -> Any:
        require(not nothing_to_say(self, updates), "batch-empty", "there is nothing to say")
        return ENCODE(self, updates, weights, sums, occasion, rand)

    patch.setattr(record.RecordLevel, "encode", silent)


def empty_batches_without_noise(patch: Patch) -> None:
    def bare(self: Any, updates: Any, weights: Any, sums: Any, occasion: Any, rand: Rand) -> Any:
        encoded = ENCODE(self, updates, weights, sums, occasion, rand)
        return replace(encoded, vector=np.zeros_like(encoded.vector)) if nothing_to_say(self, updates) else encoded

    patch.setattr(record.RecordLevel, "encode", bare)


def corrupt_counted(patch: Patch) -> None:
    patch.setattr(RecordPlan, "event", lambda self, s, rounds=1: EVENT(self, s + self.cohort.corrupt, rounds))


def amplified_twice(patch: Patch) -> None:
    patch.setattr(RecordPlan, "event", lambda self, s, rounds=1: replace(EVENT(self, s, rounds), rate=self.rate / 2))


def one_model_counted(patch: Patch) -> None:
    patch.setattr(RecordPlan, "event", lambda self, s, rounds=1: replace(EVENT(self, s, rounds), rounds=rounds))


def metrics_taken(patch: Patch) -> None:
    def taking(self: Any, updates: Any, weights: Any, _sums: Any, occasion: Any, rand: Rand) -> Any:
        return ENCODE(self, updates, weights, {}, occasion, rand)

    patch.setattr(record.RecordLevel, "encode", taking)


def server_noise(std: Callable[[float], float]) -> Callable[[Patch], None]:
    """The server's noise with another deviation."""

    def other(rand: Rand, label: str, shape: Any, deviation: float, **kind: Any) -> torch.Tensor:
        return GAUSSIAN(rand, label, shape, std(deviation), **kind)

    return lambda patch: patch.setattr(noise, "gaussian", other)


def server_repeats(patch: Patch) -> None:
    def same(_rand: Rand, label: str, shape: Any, deviation: float, **kind: Any) -> torch.Tensor:
        return GAUSSIAN(Replay("always the same")(), label, shape, deviation, **kind)

    patch.setattr(noise, "gaussian", same)


def trust_unsaid(patch: Patch) -> None:
    patch.setattr(record.Central, "forecast", lambda _self: "central: noise is added")
