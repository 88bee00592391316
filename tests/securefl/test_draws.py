"""What torch draws while single records are trained on is known to nobody, and nobody else's draws are touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from private_training import fit
from torch import nn
from torch.utils.data import TensorDataset

from protocols.rand import Rand, Replay, fresh
from securefl.models import initialise
from securefl.privacy.draws import secret_draws
from securefl.privacy.gradients import GradientSums
from securefl.privacy.noise_plan import Cohort
from securefl.privacy.record_plan import calibrate_records

ROWS, FEATURES = 60, 5


def summed(entropy: Any, seed: int) -> np.ndarray[Any, Any]:
    """The sum of one step over all rows, of a model with a dropout layer, in a script that sets a seed."""
    model = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))
    initialise(model, 1)
    size = sum(p.numel() for p in model.parameters())
    plan = calibrate_records(epsilon=1.0, delta=1e-6, cohort=Cohort(4, 3, 1), rounds=10, size=size, clip=1.0, rate=1.0, rows=ROWS)
    training = GradientSums(plan, entropy)
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.random((ROWS, FEATURES), np.float32)), torch.arange(ROWS) % 2
    torch.manual_seed(seed)
    fit(training, model, TensorDataset(x, y.float()[:, None]), 1)
    return training.take()


def test_masks_do_not_follow_from_the_seed_of_a_script() -> None:
    one, two = (summed(fresh, 0) for _ in range(2))
    assert (one != two).any()
    a, b = (summed(Replay("the same"), seed) for seed in (0, 1))
    assert (a == b).all()


def test_whatever_else_draws_goes_on_as_if_nothing_had_been_drawn() -> None:
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    with secret_draws(fresh()):
        inside = torch.rand(1000)
    assert torch.equal(torch.rand(4), expected)
    assert abs(float(inside.mean()) - 0.5) < 0.06  # six standard deviations


def test_the_state_is_the_draw_of_its_source() -> None:
    """All of it: the words of the generator are those of the source, where a seed would fix them by 32 bits."""
    words = Replay("a")().words("torch", 626)
    with secret_draws(Replay("a")()):
        state = torch.get_rng_state().numpy().tobytes()
    assert state[24 : 24 + 8 * 624] == (words[2:] & np.uint64(2**32 - 1)).astype("<u8").tobytes()
    drawn = [draw(Replay(name)()) for name in ("a", "a", "b")]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def draw(rand: Rand) -> torch.Tensor:
    with secret_draws(rand):
        return torch.rand(8)
