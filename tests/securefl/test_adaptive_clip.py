"""The clipping bound that follows a private quantile: it goes to the quantile, through the one noised sum, at no ε beside it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_sites import job, linear, replayed, sites, weights

from protocols.errors import Refused
from protocols.rand import Replay
from protocols.suite import Occasion
from securefl import Runner, UserError
from securefl.privacy import adaptive
from securefl.privacy.adaptive import RATE, SHARE, AdaptiveClip
from securefl.privacy.noise_plan import Cohort, calibrate_distributed
from securefl.privacy.party import PartyLevel
from securefl.privacy.prepared import encoding_of

PARTY: dict[str, Any] = {"mechanism": "distributed-party", "epsilon": 8.0, "update_clip": 1.0, "rounds": 3}
COHORT = Cohort(40, 30, 5)


def encoding(bound: float, quantile: float = 0.5, epsilon: float = 1000.0, size: int = 3) -> PartyLevel:
    plan = calibrate_distributed(epsilon=epsilon, delta=1e-5, cohort=COHORT, rounds=60, size=size + 1, clip=1.0)
    return PartyLevel(plan, (size,), AdaptiveClip(bound, quantile))


def one_round(plan: PartyLevel, updates: np.ndarray, number: int) -> tuple[np.ndarray, PartyLevel]:
    """The mean update, and the encoding of the next round."""
    occasion = Occasion("adaptive", number)
    sent = [plan.encode([u], [1], {}, occasion, Replay(f"{number} {i}")()).vector for i, u in enumerate(updates)]
    decoded = plan.decode(np.sum(sent, axis=0), len(updates), occasion)
    assert decoded.updates[0] is not None
    return decoded.updates[0], plan.at(np.array(decoded.state, dtype=np.float32))


@pytest.mark.parametrize("quantile", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("start", [5.0, 100.0])
def test_the_bound_goes_to_the_quantile_of_the_norms(start: float, quantile: float) -> None:
    """40 parties with norms 1 to 40: after 60 rounds the bound is at the quantile, within what noise and step size move it."""
    plan, directions = encoding(start, quantile), np.random.default_rng(7).normal(size=(40, 3))
    updates = directions / np.linalg.norm(directions, axis=1)[:, None] * np.arange(1, 41)[:, None]
    for number in range(60):
        _, plan = one_round(plan, updates, number)
    within = np.mean(np.arange(1, 41) <= plan.clip)
    assert abs(within - quantile) <= 0.15


@given(
    bound=st.floats(2.0**-20, 2.0**20, width=32),
    update=st.lists(st.floats(-1e8, 1e8), min_size=1, max_size=9),
    quantile=st.floats(0.01, 0.99),
)
def test_update_and_bit_together_have_norm_one_at_most(bound: float, update: list[float], quantile: float) -> None:
    one, whole = AdaptiveClip(bound, quantile), np.array(update)
    packed, clipped = one.packed(whole)
    assert np.linalg.norm(packed) <= 1 + 1e-12
    assert packed[-1] ** 2 == pytest.approx(SHARE)
    back, within = one.unpacked(packed)
    assert (within == 0) == clipped
    assert within in (0, 1) or within == pytest.approx(1)
    assert np.linalg.norm(back) <= one.bound * (1 + 1e-12)
    if not clipped:
        np.testing.assert_allclose(back, whole, rtol=1e-9, atol=1e-9 * bound)


def test_a_bound_moves_by_a_factor_and_stays_within_its_limits() -> None:
    one = AdaptiveClip(2.0, 0.5)
    assert one.after(0.5) == 2.0
    assert one.after(1.0) == pytest.approx(2 * math.exp(-RATE / 2))
    assert one.after(0.0) == pytest.approx(2 * math.exp(RATE / 2))
    assert AdaptiveClip(adaptive.LARGEST, 0.9).after(0.0) == adaptive.LARGEST
    assert AdaptiveClip(adaptive.SMALLEST, 0.1).after(1.0) == adaptive.SMALLEST
    assert one.unpacked(np.array([0.0, 77.0]))[1] == 1.0  # noise tells no share beyond all


def test_it_costs_what_a_fixed_bound_costs_and_three_percent_of_noise() -> None:
    fixed = encoding_of(job(**PARTY).privacy, 5, (7,), ())
    moving = encoding_of(job(**PARTY, clip_quantile=0.5).privacy, 5, (7,), ())
    assert isinstance(fixed, PartyLevel)
    assert isinstance(moving, PartyLevel)
    assert moving.plan.spent(4) == pytest.approx(fixed.plan.spent(4), rel=1e-5)
    assert moving.plan.deviation(5) / math.sqrt(1 - SHARE) == pytest.approx(fixed.plan.deviation(5) * 1.033, rel=0.01)
    assert (fixed.state, moving.state) == ((), (1.0,))


def test_a_mean_comes_out_under_whatever_bound() -> None:
    updates = np.random.default_rng(3).normal(size=(40, 3))
    for bound in (1.0, 8.0, 1000.0):
        plan = encoding(bound, epsilon=1e5)
        found, _ = one_round(plan, updates, 1)
        norms = np.linalg.norm(updates, axis=1)
        expected = (updates * np.minimum(1, bound / norms)[:, None]).mean(axis=0)
        assert np.abs(found - expected).max() < 6 * bound * plan.plan.deviation(40) / math.sqrt(1 - SHARE)


@pytest.mark.parametrize("bound", [0.0, -1.0, 2.0**70, math.inf])
def test_a_bound_that_is_none_is_refused_by_every_party(bound: float) -> None:
    with pytest.raises(Refused) as refused:
        encoding(1.0).at(np.array([bound], dtype=np.float32))
    assert refused.value.check == "clip-range"


def test_a_server_that_sends_such_a_bound_gets_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check ``clip-range`` at every party.  The control: a bound within the range is taken, whatever the server chose it for."""

    def run(sent: float) -> set[str | None]:
        runner = Runner(linear, sites(), job=job(**{**PARTY, "rounds": 1}, clip_quantile=0.5), entropy=replayed)
        monkeypatch.setattr(PartyLevel, "state", property(lambda self: () if self.adaptive is None else (sent,)))
        return {record.aborted for record in runner.run().rounds}

    assert run(0.0) != {None}
    assert run(0.25) == {None}


@pytest.mark.parametrize("quantile", [0.0, 1.0])
def test_a_quantile_lies_between_none_and_all(quantile: float) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        AdaptiveClip(1.0, quantile)


def test_every_protocol_gives_the_same_model_and_the_bound_moves() -> None:
    def run(protocol: str) -> tuple[np.ndarray, float]:
        runner = Runner(linear, sites(), job=job(**PARTY, protocol=protocol, clip_quantile=0.5), entropy=replayed)
        runner.run_name = "always the same"
        return weights(runner.run()), runner.plan.clip

    (model, bound), *others = (run(name) for name in ("secagg", "lightsecagg", "kahe"))
    assert bound != 1.0
    for other, its in others:
        np.testing.assert_array_equal(other, model)
        assert its == bound


def test_it_belongs_to_noise_inside_the_sum() -> None:
    with pytest.raises(UserError, match=r"privacy\.clip_quantile is refused without noise on whole updates"):
        job(mechanism="local-record", clip_quantile=0.5)
