"""DP-SGD: what is released is the clipped sum plus the stated noise, and every step of it is charged.

The bits come from `Replay`, so every run sees the same draws; the stated false-alarm rate is that over the choice of its root.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from opacus.layers import DPLSTM
from opacus.optimizers import DPOptimizer
from private_training import DELTA, MODELS, TINY, Scaled, account, assert_plain, fit, flat, logistic, released, table
from scipy import stats
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.utils.data import Dataset, TensorDataset

from protocols.rand import Rand, Replay
from securefl.errors import UserError
from securefl.privacy.batches import sample
from securefl.privacy.dpsgd import LocalRecordDP, SecureDPOptimizer
from securefl.privacy.noise import gaussian, poisson_sample
from securefl.privacy.per_record import MOST_SLOTS

ALARM = 1e-6


def clipped_sum(model: nn.Module, x: torch.Tensor, y: torch.Tensor, clip: float) -> torch.Tensor:
    """The oracle: one record after the other."""
    total = torch.zeros_like(flat(model))
    for one, label in zip(x, y, strict=True):
        model.zero_grad()
        bce(model(one[None]), label[None]).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        total += gradient * min(1.0, clip / float(gradient.norm()))
    return total


@pytest.mark.parametrize("clip", [0.05, 0.7, 100.0])
@pytest.mark.parametrize("kind", MODELS)
def test_with_next_to_no_noise_a_step_is_the_clipped_sum_over_the_expected_batch(kind: str, clip: float) -> None:
    model, data = MODELS[kind](), table(40)
    start = flat(model)
    batch = poisson_sample(Replay("dp")(), "batch 0", 40, 0.5)
    assert len(batch) != 20, "the divisor must be the expected size, not this batch's"
    copy = MODELS[kind]()
    copy.load_state_dict(model.state_dict())
    oracle = clipped_sum(copy, *data[batch], clip) / (0.5 * 40)
    fit(account(noise_multiplier=TINY, clip=clip), model, data, 1)
    assert torch.allclose(released(model, start), oracle, rtol=1e-3, atol=1e-6)


def noise_of_one_step(rows: int, sigma: float, clip: float, rate: float) -> torch.Tensor:
    """What one step on features of zero releases for 20000 weights: their gradient is zero, so all of it is noise."""
    model = nn.Linear(20_000, 1)
    start = flat(model)
    fit(
        account(noise_multiplier=sigma, clip=clip, sample_rate=rate),
        model,
        TensorDataset(torch.zeros(rows, 20_000), torch.ones(rows, 1)),
        1,
    )
    return released(model, start)[:-1].double()


def check_noise(noise: torch.Tensor, std: float) -> None:
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], noise.numel())
    assert low < float((noise**2).sum()) / std**2 < high
    assert stats.kstest(noise.numpy(), stats.norm(0, std).cdf).pvalue > ALARM


@pytest.mark.parametrize(("rows", "sigma", "clip", "rate"), [(40, 1.5, 1.0, 0.5), (7, 30.0, 0.2, 0.3), (1, 2.0, 3.0, 1.0)])
def test_the_noise_of_a_step_is_sigma_times_clip_over_the_expected_batch(rows: int, sigma: float, clip: float, rate: float) -> None:
    check_noise(noise_of_one_step(rows, sigma, clip, rate), sigma * clip / (rate * rows))


@pytest.mark.parametrize("rows", [1, 40, 300])
def test_with_a_public_number_of_rows_the_noise_tells_nothing_of_the_sites_own(rows: int) -> None:
    model = nn.Linear(20_000, 1)
    start = flat(model)
    fit(account(expected_rows=50), model, TensorDataset(torch.zeros(rows, 20_000), torch.ones(rows, 1)), 1)
    check_noise(released(model, start)[:-1].double(), 1.5 / (0.5 * 50))


def test_the_noise_check_fails_for_less_noise_and_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        check_noise(noise_of_one_step(40, 1.4, 1.0, 0.5), 1.5 / 20)

    def no_noise(optimizer: SecureDPOptimizer) -> None:
        for p in optimizer.params:
            p.grad = p.summed_grad.to(p.dtype)

    monkeypatch.setattr(SecureDPOptimizer, "add_noise", no_noise)
    with pytest.raises(AssertionError):
        check_noise(noise_of_one_step(40, 1.5, 1.0, 0.5), 1.5 / 20)


def test_every_parameter_and_step_has_noise_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    steps = list[torch.Tensor]()
    data = TensorDataset(torch.zeros(4, 3), torch.ones(4, 3))

    def seen(_x: torch.Tensor, _y: torch.Tensor) -> None:
        steps.append(flat(model))

    fit(account(clip=TINY, noise_multiplier=1e12), model, data, 3, seen=seen)
    values = torch.cat([a - b for a, b in zip(steps, [*steps[1:], flat(model)], strict=True)])
    assert len(set(values.tolist())) == 3 * 18


def test_replay_repeats_and_torch_seeds_have_no_influence() -> None:
    def run(root: str, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        model = Scaled()
        fit(account(entropy=Replay(root)), model, table(30), 4)
        assert torch.equal(state, torch.get_rng_state())
        return flat(model)

    first = run("a", 0)
    assert torch.equal(first, run("a", 1))
    assert not torch.isclose(first, run("b", 0)).any()


def test_without_a_given_source_two_runs_differ() -> None:
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Scaled()
        dp = LocalRecordDP(noise_multiplier=1.5, sample_rate=0.5, clip=1.0, delta=DELTA, accountant="rdp", planned_steps=1)
        fit(dp, model, table(30), 1)
        results.append(flat(model))
    assert not torch.isclose(*results).any()


@pytest.mark.parametrize("kind", MODELS)
def test_an_empty_batch_releases_pure_noise_and_is_charged(kind: str) -> None:
    model, sizes = MODELS[kind](), list[tuple[torch.Size, torch.Size]]()
    start = flat(model)
    dp = account(sample_rate=1e-6, entropy=Replay("empty"))
    fit(dp, model, table(1), 1, seen=lambda x, y: sizes.append((x.shape, y.shape)))
    assert sizes == [((MOST_SLOTS, 3), (MOST_SLOTS, 1))], "as any other"
    assert dp.steps_taken == 1
    entropy = Replay("empty")
    entropy()  # the round's sampling
    rand = entropy()
    noise = [gaussian(rand, f"noise {i}", p.shape, 1.5, dtype=torch.float64) for i, p in enumerate(model.parameters())]
    assert torch.allclose(released(model, start), (torch.cat([n.flatten() for n in noise]) / 1e-6).float(), rtol=1e-5)


def test_many_batches_empty_ones_among_them_all_step() -> None:
    model, dp, weights = logistic(), account(sample_rate=0.3), list[tuple[float, ...]]()
    fit(dp, model, table(3), 60, rate=0.01, seen=lambda _x, _y: weights.append(tuple(flat(model).tolist())))
    assert len(set(weights)) == dp.steps_taken == 60
    rand = Replay("dp")()
    assert {len(poisson_sample(rand, f"batch {number}", 3, 0.3)) for number in range(60)} >= {0, 1, 2}


class Rows(Dataset[Any]):
    """A data set of the user's own: labels are plain numbers."""

    def __init__(self, source: TensorDataset) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, float]:
        x, y = self._source[index]
        return x, float(y)


@pytest.mark.parametrize("rate", [1e-9, 0.4, 1.0])
def test_a_data_set_of_the_users_own_gives_the_same_batches(rate: float) -> None:
    def draw(data: Dataset[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        return sample(data, Replay("rows")(), "b", rate, nn.Linear(1, 1))

    (x, y), (own_x, own_y) = draw(table(20)), draw(Rows(table(20)))
    assert torch.equal(x, own_x)
    assert torch.equal(y.flatten(), own_y)
    assert own_x.shape[1:] == (3,)


def test_a_parameter_that_no_loss_uses_gets_noise_only() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Spare()
    before = model.spare.weight.detach().clone()
    fit(account(noise_multiplier=TINY), model, table(20), 1)
    assert torch.allclose(before, model.spare.weight)
    fit(account(), model, table(20), 1)
    assert not torch.isclose(before, model.spare.weight).any()


def test_recurrent_models_and_frozen_layers_train() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = DPLSTM(3, 4, batch_first=True), nn.Linear(4, 1)
            self.head.bias.requires_grad_(requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.recurrent(x)[0][:, -1])

    model, dp = Last(), account()
    bias, start = model.head.bias.clone(), flat(model)
    fit(dp, model, TensorDataset(torch.ones(10, 6, 3), torch.ones(10, 1)), 2)
    assert torch.equal(bias, model.head.bias)
    assert (flat(model) != start).sum() == start.numel() - 1
    assert_plain(model)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_weights_keep_their_type(precision: torch.dtype) -> None:
    model, data = logistic().to(precision), table(20)
    fit(account(), model, TensorDataset(*(tensor.to(precision) for tensor in data.tensors)), 1)
    assert model.weight.dtype == precision


def test_half_precision_is_refused() -> None:
    """Its sums of clipped gradients round by more than the clip allows."""
    with pytest.raises(UserError, match="bfloat16"):
        fit(account(), logistic().to(torch.bfloat16), table(20), 1)


def test_a_record_whose_gradient_is_not_finite_is_left_out() -> None:
    """No factor clips it: with it, and with the check removed, every weight becomes NaN."""
    x, y = (tensor.clone() for tensor in table(20).tensors)
    x[3] = float("inf")
    for removed in (False, True):
        model, dp = logistic(), account(sample_rate=1.0)
        with pytest.MonkeyPatch.context() as patch:
            if removed:
                patch.setattr(SecureDPOptimizer, "_bounded", lambda _self, rows: torch.ones(rows, dtype=torch.bool))
            fit(dp, model, TensorDataset(x, y), 2, rate=1e-3)
        assert torch.isfinite(flat(model)).all() != removed
        assert dp.left_out == (0 if removed else 2), "one record in each of two batches"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_noise_of_the_cpu() -> None:
    results = []
    for device in ("cpu", "cuda"):
        model = logistic().to(device)
        fit(account(noise_multiplier=50.0), model, TensorDataset(*(t.to(device) for t in table(20).tensors)), 2)
        results.append(flat(model).cpu())
    assert torch.allclose(*results, rtol=1e-4)


def test_an_optimizer_of_its_own_takes_noise_from_the_given_source() -> None:
    sources = list[Rand]()

    def entropy() -> Rand:
        sources.append(Replay(f"step {len(sources)}")())
        return sources[-1]

    parameter = nn.Parameter(torch.zeros(4))
    sgd = torch.optim.SGD([parameter], lr=1.0)
    optimizer = SecureDPOptimizer(sgd, noise_multiplier=2.0, max_grad_norm=3.0, expected_batch_size=10, entropy=entropy)
    parameter.grad_sample = torch.ones(5, 4)  # type: ignore[attr-defined]
    optimizer.step()
    noise = gaussian(Replay("step 0")(), "noise 0", (4,), 6.0)
    assert len(sources) == 1
    assert torch.allclose(parameter.detach(), -(5 * torch.ones(4) + noise) / 10)


def test_a_clip_holds_for_a_gradient_of_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, as Opacus takes it, the norm of so many equal values is too small."""

    def length() -> float:
        weight = nn.Parameter(torch.zeros(1 << 22))
        weight.grad_sample = torch.full((2, 1 << 22), 0.1)  # type: ignore[attr-defined]
        sgd = torch.optim.SGD([weight], lr=1.0)
        SecureDPOptimizer(sgd, noise_multiplier=0.0, max_grad_norm=1.0, expected_batch_size=2.0, entropy=Replay("dp")).step()
        return float(weight.detach().double().norm())

    assert abs(length() - 1.0) < 1e-7
    monkeypatch.setattr(SecureDPOptimizer, "clip_and_accumulate", DPOptimizer.clip_and_accumulate)
    assert length() > 1.0001
