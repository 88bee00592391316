"""Training while parties vanish: the result is that of a plain run over the same survivors, and aborted rounds are charged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sites import job, linear, replayed, sites, weights
from torch import nn

from securefl import Runner
from securefl.results import RunResult
from securefl.simulated_rounds import Dropouts


def weights_of(model: nn.Module) -> np.ndarray[Any, Any]:
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


def run(
    dropouts: Mapping[int, Mapping[str, str]] | Dropouts | None = None, *, dropout: float = 0.0, **privacy: object
) -> RunResult:
    """With a plan who vanishes in which round, or with a probability."""
    plan = dropouts or {}
    by_plan: Dropouts = plan if callable(plan) else lambda number, _stages: plan.get(number, {})
    settings = job(**privacy)
    settings = settings.model_copy(update={"simulation": settings.simulation.model_copy(update={"dropout": dropout})})
    return Runner(linear, sites(), job=settings, entropy=replayed, dropouts=None if dropout else by_plan).run()


def plain_run(masked: RunResult, **privacy: object) -> RunResult:
    """The run without protection over the parties that were in each sum of ``masked``; nobody where the round aborted."""
    everybody = dict.fromkeys(sites(), "Clear")
    gone = {
        r.number: everybody if r.aborted else {name: "Clear" for name, stage in r.dropped.items() if stage not in LATE}
        for r in masked.rounds
    }
    return run(gone, protocol="plain-insecure", **privacy)


STAGES = ("Advert", "Boxes", "Masked", "Agree", "Openings")
LATE = ("Agree", "Openings")


@settings(max_examples=12)
@given(
    st.dictionaries(
        st.integers(1, 3), st.dictionaries(st.sampled_from(list(sites())), st.sampled_from(STAGES), max_size=2), max_size=3
    )
)
def test_dropouts_give_the_plain_result_over_the_same_survivors(plan: dict[int, dict[str, str]]) -> None:
    """A party that vanishes after its masked vector is in the sum; with t = 4 of 5, two that vanish abort the round."""
    masked = run(plan)
    aborted = {number for number, gone in plan.items() if len(gone) > 1}
    assert {r.number for r in masked.rounds if r.aborted} == aborted
    plain = plain_run(masked)
    assert (weights(masked) == weights(plain)).all()
    for record in masked.rounds:
        gone = [s for s in plan.get(record.number, {}).values() if s not in LATE]
        assert record.contributors == (0 if record.aborted else 5 - len(gone))


def test_an_aborted_round_leaves_the_model_and_is_charged() -> None:
    two = {"site-0": "Masked", "site-1": "Masked"}
    privacy: dict[str, Any] = {"mechanism": "local-record", "rounds": 2, "sample_rate": 0.3}
    result = run({1: two, 2: two}, **privacy)
    assert result.aborted_rounds == 2
    assert (weights(result) == weights_of(linear())).all()
    spent = [list(r.epsilon.values()) for r in result.rounds]
    assert all(0 < first < second <= 3.0 for first, second in zip(*spent, strict=True))
    assert result.epsilon == pytest.approx(run(**privacy).epsilon)


@pytest.mark.parametrize("mechanism", ["none", "local-record"])
def test_twenty_rounds_at_a_dropout_of_three_in_ten_equal_plain_over_the_same_survivors(mechanism: str) -> None:
    privacy: dict[str, Any] = {"mechanism": mechanism, "rounds": 20, "sample_rate": 0.3}
    masked = run(dropout=0.3, **privacy)
    assert len(masked.rounds) == 20
    assert 0 < masked.aborted_rounds < 20, "about half of them: fewer than 10^-4 of such runs have none or all"
    plain = plain_run(masked, **privacy)
    assert (weights(masked) == weights(plain)).all()
    assert masked.metrics == plain.metrics
    assert masked.epsilon == plain.epsilon
    assert [r.contributors for r in masked.rounds] == [r.contributors for r in plain.rounds]
    if masked.aborted_rounds:
        assert (weights(masked) != weights(run(**privacy))).any(), "the dropouts matter"


def test_a_run_in_which_nothing_was_opened_says_so() -> None:
    result = run({1: dict.fromkeys(["site-0", "site-1"], "Masked")}, rounds=1)
    assert "every round was aborted: the model is the one that it began with" in result.warnings
    assert not any("every round" in line for line in run(rounds=1).warnings)
