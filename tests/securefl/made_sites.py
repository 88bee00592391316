"""Small made-up sites for tests of training: two classes, linearly separable with noise, unequal sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from protocols.rand import Replay
from securefl.job import Job
from securefl.models import initialise
from securefl.results import RunResult
from securefl.round_types import Fold

FEATURES = 6


def rows(count: int, seed: int) -> TensorDataset:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, FEATURES)).astype(np.float32)
    y = (x @ np.linspace(-1, 1, FEATURES) + rng.normal(size=count) * 0.3 > 0).astype(np.float32)
    return TensorDataset(torch.from_numpy(x), torch.from_numpy(y))


def sites(sizes: tuple[int, ...] = (40, 70, 25, 90, 55)) -> dict[str, Fold]:
    return {f"site-{i}": Fold(rows(size, i), rows(20, 100 + i)) for i, size in enumerate(sizes)}


def linear() -> nn.Module:
    """A logistic regression that always starts from the same parameters."""
    model = nn.Linear(FEATURES, 1)
    initialise(nn.ModuleList([model]), 3)
    return model


def replayed(name: str) -> Replay:
    """The same randomness for a site in every run."""
    return Replay(f"test {name}")


def weights(result: RunResult) -> np.ndarray[Any, Any]:
    """All parameters of the final model."""
    return np.concatenate([np.ravel(v) for v in result.state.values()])


def job(**privacy: object) -> Job:
    knobs: dict[str, object] = {"mechanism": "none", "rounds": 3, "sample_rate": 1.0}
    return Job.parse({"privacy": {**knobs, **privacy}})
