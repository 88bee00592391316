"""Noise of every party inside the sums of clipped gradients: one record moves a sum by no more than is accounted for.

The bits come from `Replay`, so every run sees the same draws; the stated false-alarm rates are those over the choice of its root.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sites import job, linear, replayed, sites, weights
from numpy.typing import NDArray
from scipy import stats
from torch import nn

from protocols.errors import Misuse
from protocols.rand import Rand, Replay
from protocols.suite import Occasion
from securefl import ClientTrainer, Fold, Runner, UserError
from securefl.ledger import COVERED, EXACT
from securefl.models import to_vector
from securefl.privacy import accountant, rounding
from securefl.privacy.divergence import SkellamEvent, epsilon_of_events
from securefl.privacy.gradients import GradientSums, whole_gradients
from securefl.privacy.noise_plan import KINDS, Cohort, Kind
from securefl.privacy.party import Account
from securefl.privacy.record import Central, CentralAccount, RecordLevel, central_plan
from securefl.privacy.record_plan import RecordPlan, calibrate_records
from securefl.results import RunResult

ROWS = 56
"""Public rows a site: the sites have 280 in all."""
RECORD: dict[str, Any] = {"mechanism": "distributed-record", "epsilon": 8.0, "rounds": 3, "rows": ROWS}
FIVE = Cohort(5, 4, 1)
"""What five parties of a run are: t = 4, |C| = 1."""
ALARM = 1e-6
AT = Occasion("record", 1)


def replay(number: int = 0) -> Rand:
    return Replay(f"record {number}")()


def run(gone: Mapping[int, Mapping[str, str]] | None = None, **privacy: object) -> RunResult:
    plan = gone or {}
    runner = Runner(
        linear, sites(), job=job(**{**RECORD, **privacy}), entropy=replayed, dropouts=lambda number, _: plan.get(number, {})
    )
    runner.run_name = "always the same"  # it enters the rotation
    return runner.run()


def plan(**changed: Any) -> RecordPlan:
    knobs = {"epsilon": 8.0, "delta": 1e-5, "cohort": FIVE, "rounds": 3, "size": 7, "clip": 1.0, "rate": 1.0, "rows": ROWS}
    return calibrate_records(**{**knobs, **changed})


def without_noise(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RecordLevel, "noise", lambda self, _: np.zeros(self.plan.dimension, dtype=np.int64))


def pooled(rounds: int, clip: float, rate: float) -> NDArray[np.float64]:
    """Clipped SGD on all rows in one place, every record's gradient by hand: (σ(w·x + b) − y)·(x, 1)."""
    x = torch.cat([fold.train.tensors[0] for fold in sites().values()]).double().numpy()  # type: ignore[attr-defined]
    y = torch.cat([fold.train.tensors[1] for fold in sites().values()]).double().numpy()  # type: ignore[attr-defined]
    x = np.column_stack([x, np.ones(len(x))])
    model = to_vector(linear()).astype(np.float64)
    for _ in range(rounds):
        gradients = (1 / (1 + np.exp(-x @ model)) - y)[:, None] * x
        norms = np.linalg.norm(gradients, axis=1, keepdims=True)
        model -= rate * (gradients * np.minimum(1, clip / norms)).sum(axis=0) / len(x)
    return model


@pytest.mark.parametrize("mechanism", ["distributed-record", "central"])
def test_without_noise_every_protocol_trains_the_model_that_clipped_sgd_on_all_rows_does(
    mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the rounding of n parties: √d steps each, over the batch.  A second clip is the control."""
    without_noise(monkeypatch)
    monkeypatch.setattr(Central, "deviation", 0.0)
    p = plan()
    slack = 3 * 0.5 * 5 * math.sqrt(p.dimension) * p.granularity / 280
    found = [weights(run(mechanism=mechanism, protocol=name)) for name in ("secagg", "secagg+", "lightsecagg", "kahe")]
    for model in found:
        np.testing.assert_array_equal(model, found[0])
    assert np.linalg.norm(found[0] - pooled(3, 1.0, 0.5)) < slack
    assert np.linalg.norm(found[0] - pooled(3, 0.9, 0.5)) > 3 * slack


@pytest.mark.parametrize("noise", ["skellam", "discrete-gaussian"])
def test_what_is_said_of_a_run(noise: str) -> None:
    result = run(noise=noise, sample_rate=0.5)
    assert (result.unit, result.delta, result.accountant) == ("record", 1e-5, "rdp")
    assert [(o.what, o.coverage) for o in result.opened] == [
        ("sum of clipped gradients over all sites", COVERED),
        ("number of parties in the sum", EXACT),
    ]
    assert all(not record.metrics for record in result.rounds)
    p = plan(kind=noise, rate=0.5)
    assert result.epsilon == pytest.approx([p.spent(5)] * 5)
    assert p.spent(5) < p.spent(4) <= 8.0
    assert any("error of norm" in line for line in result.warnings)


def test_every_protocol_gives_the_same_model() -> None:
    models = {name: weights(run(protocol=name, sample_rate=0.5)) for name in ("secagg", "secagg+", "lightsecagg", "kahe")}
    for model in models.values():
        np.testing.assert_array_equal(model, models["secagg"])


def test_fewer_survivors_cost_more_and_an_input_that_left_is_charged_whatever_became_of_it() -> None:
    p = plan(rate=0.5)

    def cost(*survivors: int) -> float:
        account = Account(p)
        for count in survivors:
            account.charge(count)
        return account.epsilon

    gone = {1: {"site-0": "Masked"}, 2: {"site-0": "Agree", "site-1": "Agree"}}
    spent = dict(zip(sites(), run(gone, sample_rate=0.5).epsilon, strict=True))
    assert spent["site-1"] == spent["site-2"] == pytest.approx(cost(4, 4, 5))  # the second round aborts, as if the fewest survived
    early = dict(zip(sites(), run({1: {"site-0": "Boxes"}}, sample_rate=0.5).epsilon, strict=True))
    assert early["site-0"] == pytest.approx(cost(5, 5))
    assert early["site-1"] == pytest.approx(cost(4, 5, 5))
    assert cost(5, 5, 5) < cost(4, 5, 5) < cost(4, 4, 5)


def test_an_empty_batch_sends_its_noise() -> None:
    result = run(sample_rate=1e-6, delta=1e-6)
    assert result.aborted_rounds == 0
    assert np.linalg.norm(weights(result) - to_vector(linear())) > 0
    p = plan()
    sums = GradientSums(replace(p, rate=1e-9), Replay("empty"))
    model, fold = linear(), sites()["site-0"]
    ClientTrainer().train(model, fold.train, sums, 1)
    total = sums.take()
    assert not total.any()
    sent = RecordLevel(p, 0.5).encode([total], [], {}, AT, replay()).vector
    assert np.abs(sent).min() > 0
    with pytest.raises(UserError, match="no step went through"):
        sums.take()


VECTORS = st.integers(1, 40).flatmap(
    lambda size: st.tuples(st.just(size), st.integers(0, 8), st.floats(0.01, 1e3), st.integers(0, 2**32 - 1))
)


@given(VECTORS, st.sampled_from([0.5, 3.0, 100.0]))
@settings(max_examples=60, deadline=None)
def test_one_record_moves_the_integer_sum_by_no_more_than_is_accounted_for(
    drawn: tuple[int, int, float, int], epsilon: float
) -> None:
    """For the same U; the control is a record that is not clipped."""
    size, records, scale, seed = drawn
    level = RecordLevel(plan(size=size, epsilon=epsilon), 0.5)
    square, _, absolute = level.plan.bounds
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(records + 1, size)) * scale
    whole = whole_gradients(gradients, level.plan)

    def rounded(total: NDArray[np.int64]) -> NDArray[np.int64]:
        scaled = rounding.rotate_whole(total, replay(1).seed("signs")) * 2.0**-level.plan.shift
        return rounding.round_sum(scaled, replay(2))

    moved = rounded(whole.sum(axis=0)) - rounded(whole[1:].sum(axis=0))
    assert rounding.squared_norm(moved) <= square
    assert np.abs(moved).sum() <= absolute
    twice = rounded(whole.sum(axis=0) + whole[0]) - rounded(whole[1:].sum(axis=0))
    if np.linalg.norm(gradients[0]) >= 1:
        assert rounding.squared_norm(twice) > square


def test_gradients_become_whole_numbers_of_bounded_norm() -> None:
    p = plan(size=3, clip=2.0)
    given_ = np.array([[0.0, 0, 0], [1e300, 1e300, -1e300], [1e-300, 0, 0], [0.3, -0.4, 1.2], [5, 0, 0]])
    found = whole_gradients(given_, p)
    assert (np.einsum("ij,ij->i", found, found) <= p.fixed**2).all()
    real = found * (p.clip / p.inner)
    clipped = given_ / np.maximum(np.max(np.abs(given_), axis=1, keepdims=True), 1e-300)
    clipped *= (
        np.minimum(np.linalg.norm(clipped, axis=1) * np.max(np.abs(given_), axis=1), 2.0)
        / np.maximum(np.linalg.norm(clipped, axis=1), 1e-9)
    )[:, None]
    np.testing.assert_allclose(real, clipped, atol=2 * p.clip / p.inner)


def test_a_rotation_of_whole_numbers_is_exact() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(-(2**40), 2**40, (2, 900))
    seed = replay().seed("signs")
    np.testing.assert_array_equal(
        rounding.rotate_whole(one + other, seed), rounding.rotate_whole(one, seed) + rounding.rotate_whole(other, seed)
    )
    np.testing.assert_allclose(rounding.rotate_whole(one, seed) / 32, rounding.rotate(one.astype(float), seed), rtol=1e-12)
    with pytest.raises(Misuse, match="2\\^52"):
        rounding.rotate_whole(np.full(4, 2**50), seed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropouts", [0, 1, 2])
def test_the_decoded_sum_carries_the_noise_that_was_planned(kind: Kind, dropouts: int) -> None:
    """A χ² test of 4096 coordinates, false alarm 1e-6 a case; the control has a party's noise less."""
    cohort, size = Cohort(6, 4, 1), 4096
    level = RecordLevel(plan(cohort=cohort, size=size, kind=kind, rate=0.2), -1.0)
    survivors = 6 - dropouts
    sent = [level.encode([np.zeros(size, dtype=np.int64)], [], {}, AT, replay(i)).vector for i in range(survivors)]
    (found,) = level.decode(np.sum(sent, axis=0), survivors, AT).updates
    assert found is not None
    promised = level.plan.granularity * math.sqrt(survivors * level.plan.share) / level.plan.expected_batch(survivors)
    statistic = float(np.sum(found**2)) / promised**2
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], size)
    assert low < statistic < high
    assert not low < statistic * (survivors - 1) / survivors < high
    assert survivors * level.plan.share * (survivors - 1) / survivors >= (cohort.honest * level.plan.share) * (1 - 1e-12)


def test_the_plan_by_hand() -> None:
    p = plan(rate=0.3, models=5, models_per_record=4)
    assert (p.dimension, p.records, p.steps) == (8, 280, 12)
    assert p.expected_batch(5) == pytest.approx(84.0)
    assert p.beta == pytest.approx(1e-5 / 1024 / 12) or p.beta == 2.0**-40
    delta_ = math.sqrt(8) * p.fixed / 2**p.shift
    assert p.bounds[0] == rounding.norm_bounds(delta_, 8, p.beta)[0]
    assert p.event(4, 2) == SkellamEvent(3 * p.share, p.bounds[2], p.bounds[1], 8, 0.3, 8 * p.beta)
    assert p.event(1).variance == 0
    assert p.spent(1) == math.inf
    assert p.deviation(4) == pytest.approx(p.granularity * math.sqrt(4 * (p.share + 0.25)) / (0.3 * 56 * 4))
    assert p.error(4) == pytest.approx(p.deviation(4) * math.sqrt(7))


@pytest.mark.parametrize(("rate", "rounds"), [(1.0, 10), (0.5, 40), (0.1, 100)])
@pytest.mark.parametrize("epsilon", [1.0, 3.0, 8.0])
def test_beside_opacus_the_honest_survivors_carry_the_noise_of_central_dp_sgd(rate: float, rounds: int, epsilon: float) -> None:
    """At most 2 % more, for the grid and whole orders; never less by more than the tolerance of its search (1 % of ε)."""
    p = plan(epsilon=epsilon, rate=rate, rounds=rounds, size=20)
    gaussian = accountant.calibrate(epsilon=epsilon, delta=1e-5, sample_rate=rate, steps=rounds, accountant="rdp")
    assert 0.985 * gaussian < p.noise_multiplier(p.cohort.honest) < 1.02 * gaussian


def test_models_side_by_side_compose_with_a_sample_of_their_own() -> None:
    once = plan(rate=0.5, rounds=8)
    side = plan(rate=0.5, rounds=2, models=5, models_per_record=4)
    assert side.noise_multiplier(4) == pytest.approx(once.noise_multiplier(4), rel=1e-4)
    level = RecordLevel(side, 0.5)
    assert level.blocks == (7,) * 5
    sent = level.encode([np.zeros(7, dtype=np.int64)] * 5, [], {}, AT, replay()).vector
    assert len(np.unique(sent)) > 35  # noise of its own in every model
    two = [Fold(fold.train, fold.test) for fold in (sites()["site-0"], sites()["site-1"])]
    result = Runner(linear, {"a": two, "b": two, "c": two}, models_per_record=1, job=job(**{**RECORD, "sample_rate": 0.5})).run()
    assert result.epsilon[0] == pytest.approx(plan(cohort=Cohort(3, 2, 0), models=2, rate=0.5).spent(3), rel=0.01)


class OwnOptimizer(ClientTrainer):
    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


class Leaky(ClientTrainer):
    """Takes its own step beside the sum."""

    def on_after_training(self, model: nn.Module, data: Any) -> None:
        with torch.no_grad():
            next(model.parameters()).add_(1.0)


@pytest.mark.parametrize("mechanism", ["distributed-record", "central"])
@pytest.mark.parametrize(
    ("privacy", "why"),
    [
        ({"rows": None}, "privacy.rows is missing"),
        ({"protocol": "plain-insecure"}, "plain-insecure shows every update"),
        ({"protocol": "bfv"}, "bfv carry no noise"),
        ({"delta": 0.01}, "delta is 0.01: it must lie below 1 over the number of records, 0.00357143"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"clip": 0.0}, "clip"),
        ({"local_steps": 2}, "privacy.local_steps is refused with"),
        ({"update_clip": 2.0}, "privacy.update_clip is refused with"),
        ({"w_max": 2}, "privacy.w_max is refused with"),
    ],
)
def test_what_cannot_be_is_refused_before_training(mechanism: str, privacy: dict[str, Any], why: str) -> None:
    with pytest.raises(Exception, match=why):
        Runner(
            linear, sites(), job=job(**{k: v for k, v in {**RECORD, "mechanism": mechanism, **privacy}.items() if v is not None})
        )


def test_further_refusals() -> None:
    with pytest.raises(UserError, match="privacy.accountant is refused with distributed-record"):
        job(**RECORD, accountant="prv")
    with pytest.raises(UserError, match="privacy.noise is refused without noise inside the sum"):
        job(**{**RECORD, "mechanism": "central"}, noise="skellam")
    with pytest.raises(UserError, match="momentum and the like belong into the step of a ServerAggregator"):
        Runner(linear, sites(), trainer=OwnOptimizer(), job=job(**RECORD))
    with pytest.raises(UserError, match="running statistics|batch"):
        Runner(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), sites(), job=job(**RECORD))
    with pytest.raises(UserError, match="beside the noised steps"):
        Runner(linear, sites(), trainer=Leaky(), job=job(**RECORD)).run()
    with pytest.raises(UserError, match="no honest noise is left"):
        plan(cohort=Cohort(5, 1, 1))
    with pytest.raises(UserError, match="rows are more than sums"):
        GradientSums(replace(plan(), fixed=2**49)).wrap(torch.optim.SGD(linear().parameters(), 0.1), linear(), 9, None)  # type: ignore[arg-type]
    level = RecordLevel(plan(), 0.5)
    with pytest.raises(UserError, match="loss: nothing exact leaves"):
        level.encode([np.zeros(7, dtype=np.int64)], [], {"loss": [0.0]}, AT, replay())
    with pytest.raises(Misuse, match="whole numbers are encoded"):
        level.encode([np.zeros(7)], [], {}, AT, replay())


def test_central_adds_the_noise_of_opacus_at_the_server_and_says_whom_it_trusts() -> None:
    """χ² of 4096 coordinates, false alarm 1e-6; the control is half the variance."""
    draft = RecordPlan("skellam", FIVE, 3.0, 1e-5, 10, 4096, 2.0, 0.2, ROWS)
    level = Central(central_plan(draft), -1.0, 1.7, Replay("server"))
    assert level.deviation == pytest.approx(1.7 * 2.0, rel=1e-4)
    assert level.deviation >= 1.7 * 2.0
    sent = level.encode([np.zeros(4096, dtype=np.int64)], [], {}, AT, replay()).vector
    assert not sent.any()
    (found,) = level.decode(sent, 5, AT).updates
    assert found is not None
    statistic = float(np.sum((found * level.plan.expected_batch(5)) ** 2)) / level.deviation**2
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], 4096)
    assert low < statistic < high
    assert not low < statistic / 2 < high
    account = CentralAccount(level, "rdp")
    assert account.epsilon == 0
    account.charge(None)
    account.charge(5)
    assert account.epsilon == accountant.epsilon_of(1.7, 0.2, 2, 1e-5, "rdp")
    result = run(mechanism="central", sample_rate=0.5)
    assert (result.unit, result.accountant) == ("record", "rdp")
    assert max(result.epsilon) <= 8
    assert any("against the server, which is trusted" in line for line in result.warnings)
    assert [o.coverage for o in result.opened] == [EXACT, COVERED, EXACT]


def test_spent_epsilon_is_that_of_what_happened() -> None:
    account = Account(plan(rate=0.5))
    account.charge(5)
    account.charge(None)
    p = plan(rate=0.5)
    assert account.epsilon == epsilon_of_events([p.event(4), p.event(5)], 1e-5)
