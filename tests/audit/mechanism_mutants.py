"""Mutants of a mechanism, as patches of this process: noise, clipping, sampling and masks with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer

from protocols import secagg
from protocols.errors import require
from protocols.primitives import prg
from protocols.rand import Rand, Replay
from securefl.encode import Plan
from securefl.privacy import accountant, batches, dpsgd

Patch = pytest.MonkeyPatch
GAUSSIAN, CALIBRATE = dpsgd.gaussian, accountant.calibrate


def noise_off(patch: Patch) -> None:
    patch.setattr(dpsgd, "gaussian", lambda rand, label, shape, std, **kind: GAUSSIAN(rand, label, shape, 0.0, **kind))


def sigma_halved(patch: Patch) -> None:
    patch.setattr(dpsgd, "gaussian", lambda rand, label, shape, std, **kind: GAUSSIAN(rand, label, shape, std / 2, **kind))


def calibration_halved(patch: Patch) -> None:
    patch.setattr(accountant, "calibrate", lambda **knobs: CALIBRATE(**knobs) / 2)


def noise_repeated(patch: Patch) -> None:
    def same(rand: Any, label: str, shape: Any, std: float, **kind: Any) -> torch.Tensor:
        return GAUSSIAN(Replay("always the same")(), label, shape, std, **kind)

    patch.setattr(dpsgd, "gaussian", same)


def noise_on_the_first_tensor(patch: Patch) -> None:
    def first(rand: Rand, label: str, shape: Any, std: float, **kind: Any) -> torch.Tensor:
        return GAUSSIAN(rand, label, shape, std if label == "noise 0" else 0.0, **kind)

    patch.setattr(dpsgd, "gaussian", first)


def noise_from_the_second_step_on(patch: Patch) -> None:
    real = dpsgd.SecureDPOptimizer.add_noise

    def later(self: Any) -> None:
        sigma = self.noise_multiplier
        self.noise_multiplier = sigma if hasattr(self, "begun") else 0.0
        real(self)
        self.begun, self.noise_multiplier = True, sigma

    patch.setattr(dpsgd.SecureDPOptimizer, "add_noise", later)


def noise_shared_by_tensors(patch: Patch) -> None:
    drawn = dict[str, torch.Tensor]()

    def shared(rand: Rand, label: str, shape: Sequence[int], std: float, **kind: Any) -> torch.Tensor:
        if label == "noise 0":
            drawn[label] = GAUSSIAN(rand, label, shape, std, **kind)
        return torch.from_numpy(np.resize(drawn["noise 0"].numpy(), tuple(shape)))

    patch.setattr(dpsgd, "gaussian", shared)


def noise_of_one_value(patch: Patch) -> None:
    def flat(rand: Rand, label: str, shape: Sequence[int], std: float, **kind: Any) -> torch.Tensor:
        return GAUSSIAN(rand, label, (1,), std, **kind).expand(tuple(shape))

    patch.setattr(dpsgd, "gaussian", flat)


def added_up(p: Any, more: torch.Tensor) -> None:
    """To what the chunks before gave."""
    p.summed_grad = more if p.summed_grad is None else p.summed_grad + more


def no_clipping(patch: Patch) -> None:
    def summed(self: DPOptimizer) -> None:
        for p in self.params:
            added_up(p, self._get_flat_grad_sample(p).sum(dim=0))

    patch.setattr(dpsgd.SecureDPOptimizer, "clip_and_accumulate", summed)


def clip_of_each_layer(patch: Patch) -> None:
    def summed(self: DPOptimizer) -> None:
        for p in self.params:
            g = self._get_flat_grad_sample(p)
            norms = g.reshape(len(g), -1).abs().max(dim=1).values if len(g) else g.new_zeros(0)
            factors = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
            added_up(p, torch.einsum("i,i...", factors, g))

    patch.setattr(dpsgd.SecureDPOptimizer, "clip_and_accumulate", summed)


def clip_in_the_first_step(patch: Patch) -> None:
    real = dpsgd.SecureDPOptimizer.clip_and_accumulate

    def first(self: Any) -> None:
        clip = self.max_grad_norm
        self.max_grad_norm = 1e9 if hasattr(self, "begun") else clip
        real(self)
        self.max_grad_norm = clip
        if self._observer.admit().last:
            self.begun = True

    patch.setattr(dpsgd.SecureDPOptimizer, "clip_and_accumulate", first)


def clip_by_tensor(patch: Patch) -> None:
    def summed(self: DPOptimizer) -> None:
        for p in self.params:
            g = self._get_flat_grad_sample(p)
            norms = g.reshape(len(g), -1).norm(2, dim=1) if len(g) else g.new_zeros(0)
            added_up(p, torch.einsum("i,i...", (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0), g))

    patch.setattr(dpsgd.SecureDPOptimizer, "clip_and_accumulate", summed)


def drawn_by(pick: Callable[[Rand, int, int, float], NDArray[np.int64]]) -> Callable[[Patch], None]:
    """Batches drawn otherwise: ``pick`` gets randomness, the number of the step, of the rows, and the rate."""

    def sample(rand: Rand, label: str, rows: int, rate: float) -> NDArray[np.int64]:
        return np.asarray(pick(rand, int(label.removeprefix("batch ")), rows, rate), np.int64)

    return lambda patch: patch.setattr(batches, "poisson_sample", sample)


def shuffled(rand: Rand, label: str, rows: int) -> NDArray[np.int64]:
    return np.argsort(rand.words(label, rows), kind="stable").astype(np.int64)


def whole(_rand: Rand, _step: int, rows: int, _rate: float) -> NDArray[np.int64]:
    return np.arange(rows)


def fixed_size(rand: Rand, step: int, rows: int, rate: float) -> NDArray[np.int64]:
    return shuffled(rand, f"batch {step}", rows)[: round(rate * rows)]


def in_turn(_rand: Rand, step: int, rows: int, rate: float) -> NDArray[np.int64]:
    """Passes over shuffled rows, cut by coins into batches whose sizes vary as those of a Poisson sample do."""
    turns = round(1 / rate)
    rand = Replay(f"pass {step // turns}")()
    return np.flatnonzero(np.array(rand.below("turns", turns, rows)) == step % turns)


def the_same(_rand: Rand, _step: int, rows: int, rate: float) -> NDArray[np.int64]:
    return np.flatnonzero(Replay("always the same")().words("batch", rows) < rate * 2.0**64)


def all_or_none(rand: Rand, step: int, rows: int, rate: float) -> NDArray[np.int64]:
    return np.arange(rows) if rand.words(f"batch {step}", 1)[0] < rate * 2.0**64 else np.arange(0)


def with_replacement(rand: Rand, step: int, rows: int, rate: float) -> NDArray[np.int64]:
    return np.array(rand.below(f"batch {step}", rows, round(rate * rows)))


def masks_off(patch: Patch) -> None:
    masks = prg.Masks.__init__
    patch.setattr(prg.Masks, "__init__", lambda self, _plus, _minus, dtype: masks(self, [], [], dtype))
    patch.setattr(secagg, "apply_masks", lambda *_args, **_options: None)


def silent_with_few_rows(patch: Patch) -> None:
    encode = Plan.encode

    def silent(self: Plan, updates: Any, weights: Any, sums: Any, occasion: Any, rand: Rand) -> Any:
        require(not weights or min(weights) > 1, "rows-few", "there is little to say")
        return encode(self, updates, weights, sums, occasion, rand)

    patch.setattr(Plan, "encode", silent)


def amplified_by_who_takes_part(patch: Patch) -> None:
    spent = dpsgd.site_epsilon
    patch.setattr(dpsgd, "site_epsilon", lambda *args, **kind: 0.9 * spent(*args, **kind))
