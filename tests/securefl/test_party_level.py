"""Noise of every party inside the sums of a run: the same whatever protocol adds it up, charged when an input leaves, and alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from made_sites import job, linear, replayed, sites, weights

from protocols import simulate
from protocols.policy import Policy
from protocols.rand import Replay
from protocols.suite import Occasion
from securefl import Runner, UserError
from securefl.ledger import COVERED, EXACT
from securefl.parties import Consortium
from securefl.privacy.noise_plan import Cohort, calibrate_distributed
from securefl.privacy.party import Account, PartyLevel, rotation
from securefl.results import RunResult

PARTY: dict[str, Any] = {"mechanism": "distributed-party", "epsilon": 8.0, "update_clip": 1.0, "rounds": 3}
FIVE = Cohort(5, 4, 1)
"""What five parties of a run are: t = 4, |C| = 1."""


def run(gone: Mapping[int, Mapping[str, str]] | None = None, **privacy: object) -> RunResult:
    plan = gone or {}
    runner = Runner(
        linear, sites(), job=job(**{**PARTY, **privacy}), entropy=replayed, dropouts=lambda number, _: plan.get(number, {})
    )
    runner.run_name = "always the same"  # it enters the rotation
    return runner.run()


def encoding(**changed: Any) -> PartyLevel:
    knobs = {"epsilon": 8.0, "delta": 1e-5, "cohort": FIVE, "rounds": 3, "size": 7, "clip": 1.0, **changed}
    return PartyLevel(calibrate_distributed(**knobs), (knobs["size"],))


def test_every_protocol_gives_the_same_model() -> None:
    models = {name: weights(run(protocol=name)) for name in ("secagg", "secagg+", "lightsecagg", "kahe")}
    for model in models.values():
        np.testing.assert_array_equal(model, models["secagg"])


@pytest.mark.parametrize("noise", ["skellam", "discrete-gaussian"])
def test_what_is_said_of_a_run(noise: str) -> None:
    result = run(noise=noise)
    assert (result.unit, result.delta, result.accountant) == ("party", 1e-5, "rdp")
    assert [(o.what, o.coverage) for o in result.opened] == [
        ("sum of updates, all parties alike", COVERED),
        ("number of parties in the sum", EXACT),
    ]
    assert all(not record.metrics for record in result.rounds)
    plan = encoding(kind=noise).plan
    assert result.epsilon == pytest.approx([plan.spent(5)] * 5)
    assert plan.spent(5) < plan.spent(4) <= 8.0
    assert any("error of norm" in line for line in result.warnings)


def test_fewer_survivors_cost_more_and_an_input_that_left_is_charged_whatever_became_of_it() -> None:
    plan = encoding().plan

    def cost(*survivors: int) -> float:
        account = Account(plan)
        for count in survivors:
            account.charge(count)
        return account.epsilon

    gone = {1: {"site-0": "Masked"}, 2: {"site-0": "Agree", "site-1": "Agree"}}
    spent = dict(zip(sites(), run(gone).epsilon, strict=True))
    assert spent["site-1"] == spent["site-2"] == pytest.approx(cost(4, 4, 5))  # the second round aborts, as if the fewest survived
    assert spent["site-0"] == pytest.approx(cost(4, 5, 4))  # its journal was asked, so its input may have left before it vanished
    early = dict(zip(sites(), run({1: {"site-0": "Boxes"}}).epsilon, strict=True))
    assert early["site-0"] == pytest.approx(cost(5, 5))
    assert early["site-1"] == pytest.approx(cost(4, 5, 5))


def test_a_round_that_breaks_off_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, real = Runner(linear, sites(), job=job(**PARTY), entropy=replayed), simulate.run

    def broken(*words: Any, **more: Any) -> Any:
        real(*words, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(simulate, "run", broken)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    assert list(runner.epsilon().values()) == pytest.approx([encoding().plan.spent(4, rounds=1)] * 5)


def test_the_mean_of_all_updates_comes_out_with_the_noise_that_was_planned() -> None:
    """Variance of 4000 coordinates, a χ² of false alarm below 1e-9; the control has half the noise."""
    plan = encoding(size=4000, epsilon=100.0)
    occasion, updates = Occasion("mean", 1), np.random.default_rng(1).normal(size=(5, 4000)) / 100
    sent = [plan.encode([u], [9], {}, occasion, Replay(f"{i}")()).vector for i, u in enumerate(updates)]
    total = np.sum(sent, axis=0)
    (found,) = plan.decode(total, 5, occasion).updates
    assert found is not None
    ratio = np.mean((found - updates.mean(axis=0)) ** 2) / plan.plan.deviation(5) ** 2
    slack = 6.5 * math.sqrt(2 / 4000)
    assert 1 - slack - 0.25 / plan.plan.share < ratio < 1 + slack
    assert not 1 - slack < ratio / 2 < 1 + slack
    (elsewhere,) = plan.decode(total, 5, Occasion("mean", 2)).updates
    assert elsewhere is not None
    assert np.abs(elsewhere - found).max() > 5 * plan.plan.deviation(5)  # another round turns another way
    assert rotation(occasion).reveal() != rotation(Occasion("mean", 1, attempt=1)).reveal()


def test_blocks_are_clipped_as_one_update() -> None:
    plan = PartyLevel(calibrate_distributed(epsilon=1e5, delta=1e-5, cohort=FIVE, rounds=1, size=6, clip=1.0), (2, 4))
    occasion, sent = Occasion("blocks", 1), [np.array([3.0, 0.0]), np.array([0.0, 4.0, 0.0, 0.0])]
    encoded = plan.encode(sent, [1, 1], {}, occasion, Replay("blocks")())
    first, second = plan.decode(encoded.vector, 1, occasion).updates
    assert encoded.clipped == (True,)
    assert first is not None
    assert second is not None
    assert np.abs(first - np.array([0.6, 0])).max() < 0.05
    assert np.abs(second - np.array([0, 0.8, 0, 0])).max() < 0.05


def test_nothing_exact_goes_along() -> None:
    with pytest.raises(UserError, match="loss: nothing exact leaves beside a noised sum"):
        encoding().encode([np.zeros(7)], [1], {"loss": [0.0]}, Occasion("sums", 1), Replay("x")())


@pytest.mark.parametrize(
    ("privacy", "why"),
    [
        ({"protocol": "plain-insecure"}, "plain-insecure shows every update"),
        ({"protocol": "bfv"}, "bfv carry no noise"),
        ({"delta": 0.2}, "delta is 0.2: it must lie below 1 over the number of parties"),
        ({"clip": 2.0}, "privacy.clip is refused with distributed-party"),
        ({"mechanism": "none", "noise": "skellam", "epsilon": None}, "refused"),
    ],
)
def test_what_cannot_be_is_refused_before_training(privacy: dict[str, Any], why: str) -> None:
    with pytest.raises(Exception, match=why):
        Runner(linear, sites(), job=job(**{k: v for k, v in {**PARTY, **privacy}.items() if v is not None}))


def test_a_party_holds_the_planned_epsilon_to_its_policy() -> None:
    consortium = Consortium.of(list(sites()), Policy(max_epsilon=7.9))
    result = Runner(linear, sites(), job=job(**PARTY), consortium=consortium).run()
    assert result.aborted_rounds == 3
    assert set(result.epsilon) == {0.0}  # nothing left any party
