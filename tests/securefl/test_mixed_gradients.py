"""Gradients that Opacus puts together from several records: refused before training, and what they would do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from private_training import account, fit, mlp
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.utils.data import TensorDataset

from protocols.rand import Replay
from securefl import inputs
from securefl.errors import UserError
from securefl.inputs import try_step
from securefl.privacy import per_record
from securefl.privacy.gradients import GradientSums
from securefl.privacy.mixing import refuse_mixed_gradients, refuse_mixing
from securefl.privacy.noise_plan import Cohort
from securefl.privacy.per_record import slots_for
from securefl.privacy.record_plan import calibrate_records
from securefl.privacy.trials import try_without_loss
from securefl.round_types import Fold
from securefl.trainer import ClientTrainer

ROWS = 100


class TimeFirst(nn.Module):
    """Its layer sees time in dimension 0."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(torch.tanh(self.embed(x.transpose(0, 1))).mean(0))
        return out


class Sorting(nn.Module):
    """Sorts a padded batch by length and puts it back, as recurrent nets do."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mid, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = (x != 0).sum(1).argsort(descending=True, stable=True)
        out: torch.Tensor = self.head(torch.tanh(self.mid(torch.tanh(self.embed(x))[order]))[order.argsort()])
        return out


def time_first() -> tuple[nn.Module, torch.Tensor]:
    """As long as a chunk has rows, so that no count of gradients shows it; weights for which one record stands out."""
    torch.manual_seed(0)
    model = TimeFirst()
    slots = slots_for(sum(p.numel() for p in model.parameters()))
    x = torch.from_numpy(np.random.default_rng(0).random((ROWS + 1, slots, 3), np.float32))
    x[:, :, 0] = 0
    x[ROWS, :, 0] = 1
    with torch.no_grad():
        model.embed.weight.zero_()
        model.embed.weight[:, 0] = -20.0
        model.embed.bias.fill_(20.0)
        model.head.weight.fill_(1e5)
        model.head.bias.zero_()
    return model, x


def sorting() -> tuple[nn.Module, torch.Tensor]:
    """The record that comes or goes is the longest."""
    torch.manual_seed(0)
    model, rng = Sorting(), np.random.default_rng(0)
    values, lengths = rng.normal(size=(ROWS + 1, 8)), rng.integers(1, 8, ROWS + 1)
    values[np.arange(8)[None] >= lengths[:, None]] = 0
    values[ROWS] = 1
    with torch.no_grad():
        model.head.weight.mul_(20)
        model.mid.weight.mul_(3)
    return model, torch.from_numpy(values).float()


def moved(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """How far the last record moves the sum, in clips, with the same draws."""
    size, sums = sum(p.numel() for p in model.parameters()), list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]()
    plan = calibrate_records(
        epsilon=1.0, delta=1e-6, cohort=Cohort(4, 3, 1), rounds=1, size=size, clip=1.0, rate=1.0, rows=len(x)
    )  # fmt: skip
    for rows in (len(x) - 1, len(x)):
        training = GradientSums(plan, Replay("the same"))
        fit(training, copy.deepcopy(model), TensorDataset(x[:rows], y[:rows]), 1)
        sums.append(training.take())
    return float(np.linalg.norm((sums[1] - sums[0]).astype(float))) / plan.fixed


@pytest.mark.parametrize("case", [time_first, sorting])
def test_gradients_of_several_records_are_refused_and_without_that_one_moves_the_sum_by_clips(
    case: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = case()  # type: ignore[operator]
    y = (torch.arange(len(x)) % 2).float()[:, None]
    sites = {"a": (Fold(TensorDataset(x, y), None),)}
    with pytest.raises(UserError, match="keep records in dimension 0"):
        try_step(sites, ClientTrainer(), model, sample_rate=0.5, private=True)
    with pytest.raises(UserError, match="keep records in dimension 0"):  # a loop of one's own tries nothing before
        fit(account(), model, TensorDataset(x, y), 1)
    monkeypatch.setattr(inputs, "try_without_loss", lambda *_: None)
    try_step(sites, ClientTrainer(), model, sample_rate=0.5, private=True)
    monkeypatch.setattr(per_record, "try_without_loss", lambda *_: None)
    assert moved(model, x, y) > 2.0, "clips"
    assert moved(mlp(), x.reshape(len(x), -1)[:, :3], y) <= 1.0 + 1e-9


@pytest.mark.parametrize("layers", [1, 4, 12])
@pytest.mark.parametrize("width", [32, 256])
@pytest.mark.parametrize("order", ["as they come", "ascending", "descending", "equal"])
def test_sorting_is_found_in_deep_nets_and_among_sorted_rows(order: str, width: int, layers: int) -> None:
    x = sorting()[1][:4]
    lengths = (x != 0).sum(1)
    rows = {"ascending": lengths.argsort(), "descending": lengths.argsort(descending=True), "equal": torch.tensor([0, 0, 0, 0])}
    x = x[rows.get(order, torch.arange(4))]
    x = x + torch.arange(4)[:, None] * 0.1 * (x != 0)
    model = Sorting()
    model.mid = nn.Sequential(nn.Linear(8, width), nn.ReLU(), *[nn.Linear(width, width), nn.ReLU()] * layers, nn.Linear(width, 8))  # type: ignore[assignment]
    with pytest.raises(UserError, match="in the order of the batch"):
        try_without_loss(model, x)


def test_every_kind_of_model_is_tried_not_only_the_first() -> None:
    dp, (model, x) = account(), sorting()
    data = TensorDataset(x, torch.ones(len(x), 1))
    fit(dp, nn.Linear(8, 1), data, 1)
    with pytest.raises(UserError, match="in the order of the batch"):
        fit(dp, model, data, 1)


def test_a_model_that_cannot_be_copied_is_named() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last: torch.Tensor = self.inner(x)
            return self.last

    model = Keeps()
    model(torch.ones(2, 3))
    with pytest.raises(UserError, match=r"Keeps cannot be copied .*: keep no outputs in its attributes"):
        fit(account(), model, TensorDataset(torch.ones(4, 3), torch.ones(4, 1)), 1)


class Wave(nn.Module):
    """A sine of large values turns the rounding of float32 into whole differences."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(13, 32), nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.outer(torch.sin(self.inner(x)))
        return out


class Noisy(nn.Module):
    """Draws in every pass, as a variational net does."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop, self.outer = nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.drop(self.inner(x))
        out: torch.Tensor = self.outer(h + torch.randn_like(h))
        return out


class OfNumpy(nn.Module):
    """Draws from numpy, and counts in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x.float() + torch.from_numpy(np.random.normal(size=x.shape)).float())  # noqa: NPY002
        return out


class Pair(nn.Module):
    """Takes what a loop of one's own gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 1)

    def forward(self, x: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(torch.cat([x, more], dim=1))
        return out


def test_what_draws_or_is_called_otherwise_is_trained() -> None:
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    for model in (Noisy(), nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.9), nn.Linear(4, 1)), mlp()):
        refuse_mixed_gradients(model, x)
        refuse_mixed_gradients(model, x[:1])
    try_without_loss(Wave(), 1e6 + 1e6 * torch.linspace(-1, 1, 52).reshape(4, 13))
    try_without_loss(OfNumpy(), x)
    refuse_mixing(OfNumpy(), x)
    data, model = TensorDataset(x[:, :1], torch.ones(4, 1)), Pair()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    with account().private(model, sgd, data, 1) as (wrapped, optimizer, batches):
        for rows, y in batches:
            bce(wrapped(rows, rows), y).backward()
            optimizer.step()
