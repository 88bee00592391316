"""What torch, numpy and `random` draw while records are trained on is known to nobody, and nobody else's draws are touched."""

# ruff: noqa: NPY002, S311  (the old generators are what this is about)

from __future__ import annotations

import itertools
import random
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from private_training import fit
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from protocols.rand import Rand, Replay, fresh
from securefl.models import initialise
from securefl.privacy import per_record
from securefl.privacy.draws import secret_draws
from securefl.privacy.gradients import GradientSums
from securefl.privacy.noise_plan import Cohort
from securefl.privacy.record_plan import calibrate_records

ROWS, FEATURES = 60, 5


def one_step(model: nn.Module, data: Dataset[Any], entropy: Any) -> np.ndarray[Any, Any]:
    """The sum of one step over all rows, in clips."""
    size = sum(p.numel() for p in model.parameters())
    plan = calibrate_records(epsilon=1.0, delta=1e-6, cohort=Cohort(4, 3, 1), rounds=10, size=size, clip=1.0, rate=1.0, rows=ROWS)
    training = GradientSums(plan, entropy)
    fit(training, model, data, 1)
    return np.asarray(training.take() / plan.fixed)


def summed(entropy: Any, seed: int) -> np.ndarray[Any, Any]:
    """The sum of one step over all rows, of a model with a dropout layer, in a script that sets a seed."""
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))
    initialise(model, 1)
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.random((ROWS, FEATURES), np.float32)), torch.arange(ROWS) % 2
    torch.manual_seed(seed)
    return one_step(model, TensorDataset(x, y.float()[:, None]), entropy)


def apart(one: np.ndarray[Any, Any], two: np.ndarray[Any, Any]) -> float:
    """In clips; other slots alone move last bits."""
    return float(np.linalg.norm(one - two))


def test_masks_do_not_follow_from_the_seed_of_a_script() -> None:
    assert apart(*(summed(fresh, 0) for _ in range(2))) > 0.1
    a, b = (summed(Replay("the same"), seed) for seed in (0, 1))
    assert (a == b).all()


class Augmented(Dataset[Any]):
    """Rows with noise of numpy's and of `random`."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        noise = np.random.normal(0, 3, FEATURES) + random.gauss(0, 3)
        return self.x[row] + torch.from_numpy(noise).float(), self.y[row]


def augmented(entropy: Any, rows: slice, seed: int = 0) -> np.ndarray[Any, Any]:
    """The sum of a step over rows, each with noise of its own, in a script that sets seeds."""
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 1))
    initialise(model, 1)
    x, y = torch.linspace(-1, 1, ROWS * FEATURES).reshape(ROWS, FEATURES), (torch.arange(ROWS) % 2).float()[:, None]
    np.random.seed(seed)
    random.seed(seed)
    return one_step(model, Augmented(x[rows], y[rows]), entropy)


def test_augmentation_does_not_follow_from_the_seed_of_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise of all others' rows is drawn after the first one's: with known draws it moves them all, by many clips."""
    everybody, others = slice(0, None), slice(1, None)
    assert apart(*(augmented(fresh, everybody) for _ in range(2))) > 0.1
    a, b = (augmented(Replay("the same"), everybody, seed) for seed in (0, 1))
    assert (a == b).all()
    monkeypatch.setattr(per_record, "secret_draws", lambda _: nullcontext())
    assert apart(*(augmented(fresh, everybody) for _ in range(2))) < 1e-3
    assert apart(*(augmented(Replay("the same"), rows) for rows in (everybody, others))) > 2.0


def test_whatever_else_draws_goes_on_as_if_nothing_had_been_drawn() -> None:
    def seed() -> None:
        torch.manual_seed(7), np.random.seed(7), random.seed(7)

    def drawn() -> list[float]:
        return [*torch.rand(4).tolist(), *np.random.normal(size=3), random.gauss(0, 1), random.random()]

    seed()
    expected = drawn()
    seed()
    inside = list[np.ndarray[Any, Any]]()

    def broken_off() -> None:
        with secret_draws(fresh()):
            inside.extend([torch.rand(1000).numpy(), np.random.random(1000), np.array([random.random() for _ in range(1000)])])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert drawn() == expected
    assert all(abs(float(one.mean()) - 0.5) < 0.06 for one in inside)  # six standard deviations
    assert all((one != other).any() for one, other in itertools.combinations(inside, 2))


def test_the_state_is_the_draw_of_its_source() -> None:
    """All of it: the words of the generator are those of the source, where a seed would fix them by 32 bits."""
    words = Replay("a")().words("torch", 626)
    with secret_draws(Replay("a")()):
        state = torch.get_rng_state().numpy().tobytes()
    assert state[24 : 24 + 8 * 624] == (words[2:] & np.uint64(2**32 - 1)).astype("<u8").tobytes()
    with secret_draws(Replay("a")()):
        ours = np.random.get_state()[1], random.getstate()[1][:-1]
    source = Replay("a")()
    for name, state in zip(("numpy", "random"), ours, strict=True):
        assert [*state] == (source.words(name, 624) & np.uint64(2**32 - 1)).tolist()
    drawn = [draw(Replay(name)()) for name in ("a", "a", "b")]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def draw(rand: Rand) -> torch.Tensor:
    with secret_draws(rand):
        return torch.rand(8)
