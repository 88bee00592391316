"""A record's gradient depends on no other record, to the last bit: neither on what lies beside it nor on how many there are.

False alarms of the statistical tests: 1e-6 each, over the choice of the root of `Replay`.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from opacus.layers import DPLSTM
from private_training import Owning
from scipy import stats
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.utils.data import TensorDataset

from protocols.rand import Replay
from securefl.models import initialise
from securefl.privacy import per_record
from securefl.privacy.batches import Chunk, chunks
from securefl.privacy.noise import poisson_sample
from securefl.privacy.noise_plan import Cohort
from securefl.privacy.per_record import FEWEST_SLOTS, MOST_SLOTS, slots_for
from securefl.privacy.record_plan import calibrate_records

ALARM = 1e-6


def script() -> Any:
    """``benchmarks/float_leak.py``, which makes up the weights."""
    spec: Any = importlib.util.spec_from_file_location("float_leak", Path(__file__).parents[2] / "benchmarks" / "float_leak.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FLOAT_LEAK = script()


def drawn(rows: int, rate: float, slots: int, root: str = "a") -> list[Chunk]:
    data = TensorDataset(torch.arange(rows).reshape(-1, 1), torch.arange(rows))
    return [*chunks(data, Replay(root)(), "b", rate, slots, nn.Linear(1, 1))]


@pytest.mark.parametrize("slots", [1, 8, 256])
@pytest.mark.parametrize(("rows", "rate"), [(1, 1e-9), (1, 1.0), (40, 0.3), (900, 0.9)])
def test_chunks_hold_a_poisson_sample_each_record_once(rows: int, rate: float, slots: int) -> None:
    found = drawn(rows, rate, slots)
    assert {(tuple(c.x.shape), tuple(c.y.shape), tuple(c.present.shape)) for c in found} == {((slots, 1), (slots,), (slots,))}
    assert [c.last for c in found] == [False] * (len(found) - 1) + [True]
    held = torch.cat([c.y[c.present] for c in found])
    assert sorted(held.tolist()) == poisson_sample(Replay("a")(), "b", rows, rate).tolist()
    assert all(torch.equal(c.x[:, 0], c.y) for c in found)
    assert all((c.y[~c.present] == 0).all() for c in found), "an empty slot holds zeros"


def test_no_chunk_is_made_that_no_slot_needs() -> None:
    found = drawn(900, 0.9, 64)
    fullest = np.bincount(np.concatenate([np.flatnonzero(c.present.numpy()) for c in found])).max()
    assert len(found) == fullest


def where(rows: int, slots: int, root: str) -> np.ndarray[Any, Any]:
    """The slot of every row."""
    found = np.full(rows, -1)
    for chunk in drawn(rows, 1.0, slots, root):
        found[chunk.y[chunk.present].numpy()] = np.flatnonzero(chunk.present.numpy())
    return found


def test_slots_are_uniform_and_independent() -> None:
    """One record's, and the distance of two neighbours'."""
    found = where(40_000, 16, "law")
    for values in (found, (found[1:] - found[:-1]) % 16):
        assert stats.chisquare(np.bincount(values, minlength=16)).pvalue > ALARM
    packed = np.arange(40_000) % 16  # records that lie one after another are not independent
    assert stats.chisquare(np.bincount((packed[1:] - packed[:-1]) % 16, minlength=16)).pvalue < ALARM


@pytest.mark.parametrize("rows", [1, 30, 500])
def test_a_record_more_moves_no_other_to_another_slot(rows: int) -> None:
    assert (where(rows + 1, 64, "same")[:rows] == where(rows, 64, "same")).all()


def test_the_size_of_a_chunk_follows_from_the_model_alone() -> None:
    sizes = [slots_for(size) for size in (0, 1, 8192, 8193, 10**5, 10**6, 10**9)]
    assert sizes == [256, 256, 256, 128, 16, 8, 8]
    assert sizes[0] == MOST_SLOTS
    assert sizes[-1] == FEWEST_SLOTS


class Last(nn.Module):
    """A recurrent net."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = DPLSTM(1, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.recurrent(x[:, :, None])[0][:, -1])
        return out


def convolution(features: int) -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, features)), nn.Conv1d(1, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(), nn.LazyLinear(1)
    )


def normed(features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 40), nn.LayerNorm(40), nn.Tanh(), nn.Linear(40, 1))


NETS: dict[str, Callable[[int], nn.Module]] = {
    "mlp": lambda _: FLOAT_LEAK.net(),
    "made up": lambda _: FLOAT_LEAK.made_up(),
    "convolution": convolution,
    "layer norm": normed,
    "recurrent": lambda _: Last(),
    "parameter": lambda _: Owning(),
}


def gradient(model: nn.Module, x: torch.Tensor, y: torch.Tensor, row: int) -> torch.Tensor:
    wrapped = GradSampleModule(copy.deepcopy(model), loss_reduction="mean")
    bce(wrapped(x), y).backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad_sample[row].flatten() for p in wrapped.parameters()])


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("slots", [8, 64, 256])
@pytest.mark.parametrize("kind", NETS)
def test_a_gradient_is_the_same_bit_by_bit_whatever_lies_beside_the_record(kind: str, slots: int) -> None:
    features = 3 if kind == "parameter" else 13
    model, rng = NETS[kind](features), np.random.default_rng(3)
    model(torch.ones(2, features))
    if kind != "made up":
        initialise(model, 1)
    for row in (0, slots // 3, slots - 1):
        one = torch.from_numpy(rng.random(features, np.float32))
        found = list[torch.Tensor]()
        for size in (0.0, 1.0, 1e20):
            x, y = (
                torch.from_numpy(rng.normal(0, size, (slots, features))).float(),
                torch.from_numpy(rng.integers(0, 2, (slots, 1))).float(),
            )
            x[row], y[row] = one, 1.0
            found.append(gradient(model, x, y, row))
        assert found[0].any()
        assert all(torch.equal(found[0], other) for other in found[1:])


def moved() -> list[float]:
    """How far a record more moves the sum of a step at made-up weights, in clips, for each of `SIZES`."""
    rows, rng = max(SIZES) + 1, np.random.default_rng(1)
    x, y = torch.from_numpy(rng.random((rows, FLOAT_LEAK.FEATURES), np.float32)), (torch.arange(rows) % 2).float()
    model = FLOAT_LEAK.made_up()
    size = sum(p.numel() for p in model.parameters())
    plan = calibrate_records(epsilon=1.0, delta=1e-6, cohort=Cohort(4, 3, 1), rounds=10, size=size, clip=1.0, rate=1.0, rows=rows)
    return [*FLOAT_LEAK.moved(model, plan, x, y, SIZES)]


SIZES = (9, 20, 50, 100, 150, 185, 239, 400)


def test_made_up_weights_do_not_make_a_record_move_the_sum_by_more_than_a_clip() -> None:
    assert max(moved()) <= 1.0


def test_without_chunks_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_record, "chunks", FLOAT_LEAK.in_one_piece)
    assert max(moved()) > 5.0
