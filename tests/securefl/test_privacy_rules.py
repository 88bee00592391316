"""What is charged, over rounds and models, and what voids ε and is therefore refused."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from opacus import GradSampleModule
from opacus.accountants import RDPAccountant
from opacus.layers import DPLSTM
from private_training import DELTA, MODELS, TINY, Tokens, account, assert_plain, fit, flat, logistic, mlp, released, table
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import IterableDataset, TensorDataset

from protocols.rand import Replay
from securefl.errors import UserError
from securefl.privacy import per_record
from securefl.privacy.accountant import calibrate, epsilon_of
from securefl.privacy.dpsgd import LocalRecordDP, SecureDPOptimizer, site_epsilon
from securefl.privacy.gradients import GradientSums
from securefl.privacy.noise_plan import Cohort
from securefl.privacy.plain import LocalTraining, PlainTraining
from securefl.privacy.record_plan import calibrate_records
from securefl.privacy.trials import try_model


def test_epsilon_is_that_of_opacus_on_the_same_history_and_grows() -> None:
    dp, books, spent = account(sample_rate=0.2), RDPAccountant(), [0.0]
    model = logistic()
    assert site_epsilon([dp], 1) == 0.0
    for _ in range(4):
        fit(dp, model, table(30), 3)
        for _ in range(3):
            books.step(noise_multiplier=1.5, sample_rate=0.2)
        assert site_epsilon([dp], 1) == pytest.approx(books.get_epsilon(DELTA), rel=1e-12)
        assert site_epsilon([dp], 1) > spent[-1]
        spent.append(site_epsilon([dp], 1))
    assert dp.history == ((1.5, 0.2, 12),)
    assert site_epsilon([dp], 1) == epsilon_of(1.5, 0.2, 12, DELTA, "rdp")


def test_rounds_compose_to_the_calibrated_target() -> None:
    sigma = calibrate(epsilon=3.0, delta=DELTA, sample_rate=0.2, steps=12, accountant="rdp")
    rounds = account(noise_multiplier=sigma, sample_rate=0.2, planned_steps=12)
    for _ in range(4):
        fit(rounds, logistic(), table(30), 3)  # a new model and optimizer each round, one account
    once = account(noise_multiplier=sigma, sample_rate=0.2, planned_steps=12)
    fit(once, logistic(), table(30), 12)
    assert site_epsilon([rounds], 1) == site_epsilon([once], 1)
    assert 2.97 <= site_epsilon([rounds], 1) <= 3.0


def test_a_round_that_breaks_off_stays_charged_and_leaves_a_plain_model() -> None:
    dp, model = account(), logistic()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)

    def broken() -> None:
        with dp.private(model, sgd, table(10), 5) as (wrapped, optimizer, batches):
            for number, (x, y) in enumerate(batches):
                bce(wrapped(x), y).backward()
                if number == 2:
                    raise KeyboardInterrupt
                optimizer.step()
                optimizer.zero_grad()

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert dp.steps_taken == 2
    assert_plain(model)
    fit(dp, model, table(10), 3)
    assert dp.steps_taken == 5


@pytest.mark.parametrize("training_mode", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_afterwards_the_model_is_the_users_own_again(kind: str, training_mode: bool) -> None:
    model = MODELS[kind]().train(training_mode)
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    with account().private(model, sgd, table(10), 1) as (wrapped, optimizer, batches):
        assert wrapped.training
        for x, y in batches:
            wrapped(x)  # a forward pass without a backward pass keeps records in the layers
            optimizer.zero_grad()
            optimizer.step()
            assert len(y) == len(x)
    assert model.training is training_mode
    assert_plain(model)
    bce(model(torch.ones(2, 3)), torch.ones(2, 1)).backward()
    sgd.step()


def test_a_step_beyond_the_plan_is_refused_before_anything_happens() -> None:
    dp, model = account(planned_steps=4), logistic()
    fit(dp, model, table(10), 3)
    before = flat(model)
    with pytest.raises(UserError, match=r"step 5 is beyond the plan: .* for 4 steps"):
        fit(dp, model, table(10), 2)
    assert torch.equal(before, flat(model))
    assert dp.steps_taken == 3
    fit(dp, model, table(10), 1)
    with pytest.raises(UserError, match="beyond the plan"):
        fit(dp, model, table(10), 1)


def test_the_plan_also_holds_for_two_open_blocks() -> None:
    dp, first, second = account(planned_steps=1), logistic(), logistic()
    blocks = [dp.private(m, torch.optim.SGD(m.parameters(), lr=1.0), table(10), 1) for m in (first, second)]
    with pytest.raises(UserError, match="beyond the plan"), blocks[0] as one, blocks[1] as two:  # noqa: PT012
        for _, optimizer, batches in (one, two):
            next(batches)
            optimizer.step()
    assert dp.steps_taken == 1


Loop = Callable[[nn.Module, Any, Any], None]


def twice_on_a_batch(model: nn.Module, optimizer: Any, batches: Any) -> None:
    for x, y in batches:
        for _ in range(2):
            optimizer.zero_grad()
            bce(model(x), y).backward()
            optimizer.step()


def skip_a_step(model: nn.Module, optimizer: Any, batches: Any) -> None:
    for number, _ in enumerate(batches):
        if number != 1:
            optimizer.step()
            optimizer.zero_grad()


def skip_the_last_step(model: nn.Module, optimizer: Any, batches: Any) -> None:
    next(batches)


def half_a_batch(model: nn.Module, optimizer: Any, batches: Any) -> None:
    for x, y in batches:
        bce(model(x[1:]), y[1:]).backward()
        optimizer.step()


def two_backward_passes(model: nn.Module, optimizer: Any, batches: Any) -> None:
    for x, y in batches:
        for _ in range(2):
            bce(model(x), y).backward()
        optimizer.step()


def gradients_not_cleared(model: nn.Module, optimizer: Any, batches: Any) -> None:
    for number, (x, y) in enumerate(batches):
        if number == 0:
            bce(model(x), y).backward()
        optimizer.step()


def around_the_layers(model: nn.Module, optimizer: Any, batches: Any) -> None:
    for x, y in batches:
        bce(x @ model._module.weight.T, y).backward()  # type: ignore[operator, union-attr]
        optimizer.step()


def virtual_batches(model: nn.Module, optimizer: Any, batches: Any) -> None:
    optimizer.signal_skip_step()


def schedule_by_batches(model: nn.Module, optimizer: Any, batches: Any) -> None:
    for x, y in batches:
        optimizer.zero_grad()
        bce(model(x), y).backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.9


def schedule_of_the_clip(model: nn.Module, optimizer: Any, batches: Any) -> None:
    for x, y in batches:
        optimizer.zero_grad()
        bce(model(x), y).backward()
        optimizer.step()
        optimizer.max_grad_norm *= 0.9


def leave_early(model: nn.Module, optimizer: Any, batches: Any) -> None:
    for x, y in batches:
        bce(model(x), y).backward()
        optimizer.step()
        break


@pytest.mark.parametrize(("rows", "batches"), [(1, 1), (400, 0)], ids=["one chunk", "several chunks"])
@pytest.mark.parametrize(
    ("loop", "reason", "charged"),
    [
        (twice_on_a_batch, "without a new batch", 1),
        (skip_a_step, "got no optimizer step", 1),
        (skip_the_last_step, "got no optimizer step", 0),
        (half_a_batch, "gradients for a batch of", 0),
        (two_backward_passes, "not compatible with grad accumulation", 0),
        (gradients_not_cleared, "zero_grad", 1),
        (around_the_layers, "no gradient per record", 0),
        (virtual_batches, "virtual batches", 0),
        (schedule_by_batches, "settings changed within a round", 1),
        (schedule_of_the_clip, "ε is computed from the first", 1),
        (leave_early, "left its batches before their end", 1),
    ],
)
def test_a_loop_that_voids_epsilon_is_refused(loop: Loop, reason: str, charged: int, rows: int, batches: int) -> None:
    dp, model = account(sample_rate=0.9), logistic()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ValueError, match=reason), dp.private(model, sgd, table(rows), 3) as parts:
        loop(*parts)
    assert dp.steps_taken == min(charged, batches), "no batch of several chunks was over"
    assert_plain(model)


@pytest.mark.parametrize(
    ("loop", "reason"), [(schedule_by_batches, "settings changed"), (schedule_of_the_clip, "ε is computed from the first")]
)
def test_settings_that_change_after_the_only_batch_are_refused_too(loop: Loop, reason: str) -> None:
    """Or the refusal would tell how many batches there were."""
    model = logistic()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(UserError, match=reason), account().private(model, sgd, table(1), 1) as parts:
        loop(*parts)


@pytest.mark.parametrize("setting", ["noise_multiplier", "max_grad_norm", "expected_batch_size"])
def test_what_epsilon_is_computed_from_is_not_for_the_loop_to_set(setting: str) -> None:
    """Not before the first batch either: the account and the ledger would hold another noise than was added."""
    dp, model = account(), logistic()
    sgd, start = torch.optim.SGD(model.parameters(), lr=1.0), flat(model)

    def change(model: nn.Module, optimizer: Any, batches: Any) -> None:
        setattr(optimizer, setting, 0.01)
        for x, y in batches:
            bce(model(x), y).backward()
            optimizer.step()

    with pytest.raises(UserError, match="ε is computed from the first"), dp.private(model, sgd, table(10), 1) as parts:
        change(*parts)
    assert dp.steps_taken == 0
    assert torch.equal(flat(model), start)


class Outer(nn.Module):
    """A model within another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x / 10)
        return out


class Personal(nn.Module):
    """A layer of one's own before what is shared."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.own, self.shared = nn.Linear(3, 3), shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.shared(torch.tanh(self.own(x)))
        return out


def itself(dp: LocalRecordDP, model: nn.Module) -> None:
    fit(dp, model, table(20), 2)


def as_a_part(dp: LocalRecordDP, model: nn.Module) -> None:
    fit(dp, Outer(model), table(20), 2)


def as_a_copy(dp: LocalRecordDP, model: nn.Module) -> None:
    own = copy.deepcopy(model)
    fit(dp, own, table(20), 2)
    model.load_state_dict(own.state_dict())


def behind_a_personal_layer(dp: LocalRecordDP, model: nn.Module) -> None:
    own = Personal(copy.deepcopy(model))
    fit(dp, own, table(20), 2)
    model.load_state_dict(own.shared.state_dict())


def and_another_afterwards(dp: LocalRecordDP, model: nn.Module) -> None:
    fit(dp, model, table(20), 1)
    fit(dp, mlp(), table(20), 1)


def twice(dp: LocalRecordDP, model: nn.Module) -> None:
    for _ in range(2):
        fit(dp, model, table(20), 1)


def beside_another(dp: LocalRecordDP, model: nn.Module) -> None:
    other = mlp()
    blocks = [dp.private(m, torch.optim.SGD(m.parameters(), lr=1.0), table(20), 1) for m in (model, other)]
    with blocks[0] as one, blocks[1] as two:
        for wrapped, optimizer, batches in (one, two):
            for x, y in batches:
                optimizer.zero_grad()
                bce(wrapped(x), y).backward()
                optimizer.step()


def a_part_of_it(dp: LocalRecordDP, model: nn.Module) -> None:
    fit(dp, model[-1] if isinstance(model, nn.Sequential) else model, table(20, 5 if isinstance(model, nn.Sequential) else 3), 2)


WAYS = [itself, as_a_part, as_a_copy, behind_a_personal_layer, and_another_afterwards, twice, beside_another, a_part_of_it]


@pytest.mark.parametrize(
    ("way", "begun"), [*product(WAYS, [True]), *product([w for w in WAYS if w is not and_another_afterwards], [False])]
)
@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_weights_that_change_beside_the_steps_are_seen_however_they_were_trained(kind: str, way: Any, begun: bool) -> None:
    dp, model = account(), MODELS[kind]()
    if begun:
        dp.begin(model)
    way(dp, model)
    dp.check_untouched(model)
    with torch.no_grad():
        [*model.parameters()][-1].add_(1e-6)
    with pytest.raises(UserError, match="changed beside the noised steps"):
        dp.check_untouched(model)


@pytest.mark.parametrize("way", WAYS)
def test_weights_that_change_before_the_steps_are_seen(way: Any) -> None:
    """As with a bias that is set to the log-odds of a site's labels: the difference to the global model would be sent."""
    dp, model = account(), logistic()
    dp.begin(model)
    with torch.no_grad():
        model.bias.add_(1e-6)

    def trained() -> None:
        way(dp, model)
        dp.check_untouched(model)

    with pytest.raises(UserError, match="the weights were changed"):
        trained()


def test_weights_that_change_between_two_blocks_of_a_round_are_seen() -> None:
    dp, model = account(), logistic()
    dp.begin(model)
    twice(dp, model)
    with torch.no_grad():
        model.bias.add_(1e-6)
    with pytest.raises(UserError, match="changed before the noised steps"):
        itself(dp, model)
    dp.begin(model)  # the next round has other weights
    itself(dp, model)
    dp.check_untouched(model)


def test_sums_are_not_kept_over_steps_whatever_is_cleared() -> None:
    """``model.zero_grad()`` leaves what Opacus keeps beside the gradients: the sum of a step would go into all that follow."""
    found = list[torch.Tensor]()
    for clear in ("optimizer", "model"):
        model, data = logistic(), table(400)
        sgd = torch.optim.SGD(model.parameters(), lr=1.0)
        with account(noise_multiplier=TINY).private(model, sgd, data, 3) as (wrapped, optimizer, batches):
            for x, y in batches:
                (optimizer if clear == "optimizer" else wrapped).zero_grad()
                bce(wrapped(x), y).backward()
                optimizer.step()
        found.append(flat(model))
    assert torch.allclose(*found)


def test_a_sum_that_somebody_takes_off_a_parameter_is_there_all_the_same() -> None:
    found = list[torch.Tensor]()
    for take in (False, True):
        model = logistic()
        sgd = torch.optim.SGD(model.parameters(), lr=1.0)
        with account(noise_multiplier=TINY).private(model, sgd, table(400), 1) as (wrapped, optimizer, batches):
            for x, y in batches:
                optimizer.zero_grad()
                bce(wrapped(x), y).backward()
                optimizer.step()
                if take:
                    for p in model.parameters():
                        p.summed_grad = None  # type: ignore[attr-defined]
        found.append(flat(model))
    assert torch.equal(*found)


def test_a_part_of_a_batch_is_no_gradient_to_send() -> None:
    plan = calibrate_records(
        epsilon=1.0, delta=1e-6, cohort=Cohort(4, 3, 1), rounds=2, size=4, clip=1.0, rate=1.0, rows=400
    )  # fmt: skip
    training, model = GradientSums(plan, Replay("part")), logistic()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(UserError, match="before their end"), training.private(model, sgd, table(400), 1) as parts:
        leave_early(*parts)
    with pytest.raises(UserError, match="no gradient to send"):
        training.take()


class Packed(nn.Module):
    """A recurrent net on sequences of different length."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = DPLSTM(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        lengths = 1 + (x[:, 0] > 0).long()
        packed = pack_padded_sequence(x[:, :, None], lengths, batch_first=True, enforce_sorted=False)
        out: torch.Tensor = self.head(self.recurrent(packed)[1][0][-1])
        return out


class Product(nn.Module):
    """Noisy-or of what a layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 4), nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.outer(torch.sigmoid(self.inner(x)).prod(dim=1, keepdim=True))
        return out


def test_packed_sequences_are_refused() -> None:
    """Opacus orders the gradients of the recurrent layer by length, and those of the head as the batch does."""
    with pytest.raises(UserError, match=r"recurrent \(DPLSTM\) on packed sequences"):
        fit(account(), Packed(), table(20), 1)
    x, y = table(20).tensors
    with pytest.raises(UserError, match="packed sequences"):
        try_model(Packed(), bce, x, y)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_why_packed_sequences_are_refused() -> None:
    model = Packed()
    x = torch.tensor([[-1.0, 1.0], [1.0, 1.0]])  # the second is longer
    wrapped = GradSampleModule(model)
    bce(wrapped(x), torch.tensor([[0.0], [1.0]])).backward()
    together = [p.grad_sample.clone() for p in model.parameters()]
    wrapped.zero_grad()
    bce(wrapped(x[:1]), torch.tensor([[0.0]])).backward()
    alone = [p.grad_sample[0] for p in model.parameters()]
    same = [torch.allclose(a[0], b, rtol=1e-4) for a, b in zip(together, alone, strict=True)]
    assert same[-1], "the head's"
    assert not all(same), "the recurrent layer's are another record's"


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sin_and_cos_are_refused_where_they_round_by_neighbours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.outer(getattr(torch, name)(self.inner(x)))
            return out

    x, y = table(20).tensors
    for there in (True, False):
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda there=there: there)
        for attempt in (lambda: try_model(Wave(), bce, x, y), lambda: fit(account(), Wave(), table(20), 1)):
            if there:
                attempt()
            else:
                with pytest.raises(UserError, match="no MKL"):
                    attempt()


def test_compiled_code_is_refused() -> None:
    with pytest.raises(UserError, match="compiled code"):
        fit(account(), torch.compile(logistic()), table(20), 1)


def test_a_loss_that_raises_at_extreme_weights_is_refused() -> None:
    """Which weights a server sends decides for which records a loss on probabilities raises, and a site that fails is seen."""

    def on_probabilities(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy(torch.sigmoid(output), y)

    def gaussian(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # refuses what is below zero, and takes nan
        return nn.functional.gaussian_nll_loss(output[:, :1], y, output[:, 1:])

    x, y = table(20).tensors
    variance = nn.Linear(3, 2)
    nn.init.constant_(variance.weight, 0.1), nn.init.constant_(variance.bias, 0.1)
    for model, loss in ((logistic(), on_probabilities), (variance, gaussian)):
        with pytest.raises(UserError, match="a server that makes up weights"):
            try_model(model, loss, x.abs(), y)
    model, rare = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)), torch.tensor([[1.0, 0.0, 0.0]])
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.zero_(), layer.bias.zero_()
        model[0].weight[:, 0] = 3e38
        model[2].weight.copy_(torch.tensor([[3e38, -3e38]]))
    others = torch.zeros(5, 3)
    on_probabilities(model(others), torch.ones(5, 1))
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        on_probabilities(model(torch.cat([others, rare])), torch.ones(6, 1))


def test_products_are_refused() -> None:
    x, y = table(20).tensors
    with pytest.raises(UserError, match="prod"):
        try_model(Product(), bce, x, y)
    with pytest.raises(UserError, match="prod"):
        fit(account(), Product(), table(20), 1)
    try_model(logistic(), bce, x, y)


def test_a_layer_that_sees_words_instead_of_records_is_refused() -> None:
    """Before the first step; and in it, where nothing could be tried."""
    data = TensorDataset(torch.ones(20, 4, 3), torch.ones(20, 1))
    with pytest.raises(UserError, match=r"word.weight has 16 gradients for 4 records: .* dimension 0"):
        fit(account(), Tokens(), data, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(per_record, "try_without_loss", lambda *_: None)
        with pytest.raises(UserError, match=r"gradients for a batch of \d+ records: .* dimension 0"):
            fit(account(), Tokens(), data, 1)


def test_without_that_check_a_record_moves_the_sum_by_more_than_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(per_record, "try_without_loss", lambda *_: None)
    monkeypatch.setattr(SecureDPOptimizer, "_check_gradient", staticmethod(lambda *_: None))
    monkeypatch.setattr(SecureDPOptimizer, "_bounded", lambda _, rows: torch.ones(rows, dtype=torch.bool))
    keep = SecureDPOptimizer._keep
    monkeypatch.setattr(SecureDPOptimizer, "_keep", lambda self, kept: keep(self, kept.repeat_interleave(4)))
    model = Tokens()
    for parameter in model.parameters():  # from here every gradient is above the clip
        nn.init.zeros_(parameter)
    start = flat(model)
    fit(account(noise_multiplier=TINY, clip=0.1, sample_rate=1.0), model, TensorDataset(torch.ones(1, 4, 3), torch.zeros(1, 1)), 1)
    assert float(released(model, start).norm()) == pytest.approx(4 * 0.1, rel=1e-3)


def test_a_model_that_cannot_be_trained_is_refused() -> None:
    for training in (account(), PlainTraining(sample_rate=0.5)):
        with pytest.raises(UserError, match=r"1 \(BatchNorm1d"):
            fit(training, nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), table(10), 1)


@pytest.mark.parametrize("training", [account(), PlainTraining(sample_rate=0.5)], ids=["dp", "plain"])
def test_bad_data_and_steps_are_refused(training: LocalTraining) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(table(3))

    for data, reason in (
        (TensorDataset(torch.zeros(0, 3), torch.zeros(0, 1)), "no rows"),
        (TensorDataset(torch.zeros(4, 3)), "1 tensors a row"),
        (Stream(), "no length"),
    ):
        with pytest.raises(UserError, match=reason):
            fit(training, logistic(), data, 1)
    for steps in (0, -1, True, 1.5):
        with pytest.raises(UserError, match="steps is"):
            fit(training, logistic(), table(4), steps)  # type: ignore[arg-type]


def test_an_optimizer_of_another_model_is_refused() -> None:
    model, other = logistic(), logistic()
    for parameters, reason in (
        ([*other.parameters()], "2 parameters that are not the model's"),
        ([p.requires_grad_(requires_grad=False) for p in logistic().parameters()], "not the model's"),
    ):
        sgd = torch.optim.SGD(parameters, lr=1.0)
        with pytest.raises(UserError, match=reason), account().private(model, sgd, table(4), 1):
            pass
    model.bias.requires_grad_(requires_grad=False)
    sgd = torch.optim.SGD([model.bias], lr=1.0)
    with pytest.raises(UserError, match="no trainable parameter"), account().private(model, sgd, table(4), 1):
        pass
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    noisy = SecureDPOptimizer(sgd, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=1)
    with pytest.raises(UserError, match="wrapped for DP already"), account().private(model, noisy, table(4), 1):
        pass


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        *(({"noise_multiplier": value}, "noise_multiplier") for value in (0.0, -1.0, math.inf, math.nan)),
        *(({"clip": value}, "clip") for value in (0.0, -1.0, math.inf, math.nan)),
        *(({"sample_rate": value}, "sample_rate") for value in (0.0, 1.5, math.nan)),
        *(({"delta": value}, "delta") for value in (0.0, 1.0, math.nan)),
        *(({"planned_steps": value}, "steps") for value in (0, 1.5)),
        ({"accountant": "gdp"}, "gdp"),
        ({"expected_rows": 0}, "expected_rows"),
    ],
)
def test_a_knob_out_of_range_is_refused(change: dict[str, Any], culprit: str) -> None:
    with pytest.raises(UserError, match=culprit):
        account(**change)


def test_a_site_in_cross_validation_spends_what_its_most_used_record_spends() -> None:
    models = [account() for _ in range(3)]
    for dp, steps in zip(models, (2, 5, 4), strict=True):
        if steps:
            fit(dp, logistic(), table(10), steps, rate=0.01)
    for share, steps in ((1, 5), (2, 9), (3, 11)):
        assert site_epsilon(models, share) == epsilon_of(1.5, 0.5, steps, DELTA, "rdp")
    assert site_epsilon([account()], 1) == 0.0
    for share in (1, 2, 3):
        assert site_epsilon(models, share, planned=True) == epsilon_of(1.5, 0.5, 1000 * share, DELTA, "rdp")
    full = account(planned_steps=3)
    fit(full, logistic(), table(10), 3, rate=0.01)
    assert site_epsilon([full], 1, planned=True) == site_epsilon([full], 1)
    for share in (0, 4):
        with pytest.raises(UserError, match="models_per_record"):
            site_epsilon(models, share)
    with pytest.raises(UserError, match="differ"):
        site_epsilon([account(), account(noise_multiplier=2.0)], 1)


def test_plain_training_is_gradient_descent_on_the_batches() -> None:
    data, model, twin = table(30), logistic(), logistic()
    training = PlainTraining(sample_rate=1.0)
    fit(training, model, data, 5)
    sgd = torch.optim.SGD(twin.parameters(), lr=1.0)
    for _ in range(5):
        sgd.zero_grad()
        bce(twin(data.tensors[0]), data.tensors[1]).backward()
        sgd.step()
    assert torch.allclose(flat(model), flat(twin))


def test_plain_training_samples_from_its_own_randomness() -> None:
    def run(root: str, seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        batches = list[torch.Tensor]()
        fit(PlainTraining(sample_rate=0.3, entropy=Replay(root)), logistic(), table(30), 4, seen=lambda x, _: batches.append(x))
        return batches

    first = run("a", 0)
    assert len(first) == 4
    assert len({len(x) for x in first}) > 1
    assert all(map(torch.equal, first, run("a", 1)))
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(first, run("b", 0), strict=True))
    with pytest.raises(UserError, match="sample_rate"):
        PlainTraining(sample_rate=0.0)
