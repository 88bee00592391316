"""What a site refuses by its own policy, what its operator is told, and what a run does that was broken off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_sites import FEATURES, job, sites
from numpy.typing import NDArray
from torch import nn

from protocols import simulate
from protocols.flow import Flow
from protocols.policy import Policy
from protocols.rand import Replay
from protocols.session import Farewell, client
from securefl import Aggregate, ClientTrainer, Fold, Runner, ServerAggregator, SumSpec, UserError
from securefl.parties import Consortium
from securefl.results import RoundRecord, RunResult
from securefl.round import train
from securefl.round_types import Contribution, Task

PRIVATE: dict[str, Any] = {"mechanism": "local-record", "sample_rate": 0.3}


def linear() -> nn.Module:
    model = nn.Linear(FEATURES, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


# A site's own bound on ε

VICTIM = "site-2"


def consortium(**bounds: float) -> Consortium:
    """Everybody takes anything, but for one site with bounds of its own."""
    everybody = Consortium.of(list(sites()), Policy())
    own = [replace(p, policy=replace(p.policy, **bounds)) if p.index == 3 else p for p in everybody.parties]
    return replace(everybody, parties=tuple(own))


REFUSED: list[tuple[dict[str, float], dict[str, Any]]] = [
    ({"max_epsilon": 1.0}, {**PRIVATE, "epsilon": 3.0}),
    ({"max_epsilon": 1000.0}, {}),  # no differential privacy at all
    ({"max_epsilon": 3.0, "max_delta": 1e-6}, {**PRIVATE, "epsilon": 3.0, "delta": 1e-5}),
]


@pytest.mark.parametrize(("bounds", "privacy"), REFUSED)
def test_a_site_refuses_a_price_above_its_own_bound_before_anything_leaves(
    bounds: dict[str, float], privacy: dict[str, Any]
) -> None:
    runner = Runner(linear, sites(), job=job(**privacy), consortium=consortium(**bounds))
    sent: list[type] = []
    outcome = simulate.run(
        runner.rounds.sessions(1),
        watch=lambda letter, _to, _size: sent.append(type(letter.message)) if letter.sender == client(3) else None,
    )
    ended = outcome.sessions[client(3)].ended
    assert ended is not None
    assert (ended.check, ended.step) == ("policy-epsilon", "receive")
    assert set(sent) == {Farewell}
    assert outcome.outputs[0].aggregate.contributors == 4


@pytest.mark.parametrize(("bounds", "privacy"), REFUSED)
def test_the_others_go_on_and_the_refusing_site_spends_nothing(bounds: dict[str, float], privacy: dict[str, Any]) -> None:
    result = Runner(linear, sites(), job=job(**privacy), consortium=consortium(**bounds)).run()
    assert [record.contributors for record in result.rounds] == [4, 4, 4]
    assert [line for line in result.warnings if "policy-epsilon" in line and line.startswith(VICTIM)] == result.warnings
    assert len(result.warnings) == 1
    if privacy:
        spent = dict(zip(result.sites, result.epsilon, strict=True))
        assert spent.pop(VICTIM) == 0.0
        assert all(epsilon > 0 for epsilon in spent.values())


@pytest.mark.parametrize(("bounds", "expected"), [({"max_epsilon": 1000.0}, 4), ({}, 5)])
def test_a_bound_refuses_a_server_that_is_trusted_with_the_sums(bounds: dict[str, float], expected: int) -> None:
    """Towards the server, which has the sums before it adds noise, no ε holds."""
    trusting = job(mechanism="central", epsilon=3.0, rows=70)
    result = Runner(linear, sites(), job=trusting, consortium=consortium(**bounds)).run()
    assert {record.contributors for record in result.rounds} == {expected}
    told = [line for line in result.warnings if line.startswith(f"{VICTIM} does not take part, by its own policy: policy-epsilon")]
    assert len(told) == bool(bounds)
    assert (dict(zip(result.sites, result.epsilon, strict=True))[VICTIM] == 0.0) == bool(bounds)


def test_control_without_the_bound_the_site_spends_what_the_server_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Policy, "check_epsilon", lambda *_: None)
    result = Runner(linear, sites(), job=job(**PRIVATE, epsilon=50.0), consortium=consortium(max_epsilon=1.0)).run()
    assert [record.contributors for record in result.rounds] == [5, 5, 5]
    assert dict(zip(result.sites, result.epsilon, strict=True))[VICTIM] > 40


def test_a_price_within_the_bound_is_paid_and_never_passed() -> None:
    """The bound is on all rounds together, by the site's own account: also with folds, where a record is in several models."""
    for folds in (1, 3):
        data = {name: [fold] * folds for name, fold in sites().items()}
        runner = Runner(linear, data, job=job(**PRIVATE, epsilon=2.0), consortium=consortium(max_epsilon=2.0))
        result = runner.run()
        assert [record.contributors for record in result.rounds] == [5, 5, 5]
        assert all(1.9 < epsilon <= 2.0 for epsilon in result.epsilon)


def test_the_plan_is_held_to_the_bound_in_every_round() -> None:
    """A site that lowers its bound during a run leaves at the next round."""
    runner = Runner(linear, sites(), job=job(**PRIVATE, epsilon=2.0), consortium=consortium(max_epsilon=2.0))

    def lower(record: RoundRecord) -> None:
        if record.number == 1:
            parties = [replace(p, policy=replace(p.policy, max_epsilon=0.5)) for p in runner.consortium.parties[2:3]]
            runner.consortium = replace(
                runner.consortium, parties=(*runner.consortium.parties[:2], *parties, *runner.consortium.parties[3:])
            )

    assert [record.contributors for record in runner.run(lower).rounds] == [5, 4, 4]


# A run that was broken off


@pytest.mark.parametrize("last", [2, 4])
def test_a_run_that_was_broken_off_goes_on_after_the_round_that_broke_off(last: int) -> None:
    whole = Runner(linear, sites(), job=job(**PRIVATE, rounds=4)).run()
    runner, seen = Runner(linear, sites(), job=job(**PRIVATE, rounds=4)), list[int]()

    def stop(record: RoundRecord) -> None:
        seen.append(record.number)
        if record.number == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(stop)
    halfway = runner.epsilon()
    result = runner.run(lambda record: seen.append(record.number))
    assert seen == [1, 2, 3, 4]
    assert [record.number for record in result.rounds] == [1, 2, 3, 4]
    assert result.aborted_rounds == 0
    assert result.epsilon == pytest.approx(whole.epsilon)
    assert all(0 < before <= after for before, after in zip(halfway.values(), result.epsilon, strict=True))
    assert result.server_saw[-1].count == 4


@pytest.mark.parametrize("privacy", [{}, PRIVATE])
def test_rounds_beyond_the_plan_are_refused_with_the_reason(privacy: dict[str, Any]) -> None:
    runner = Runner(linear, sites(), job=job(**privacy))
    result = runner.run()
    before = [model.copy() for model in runner.models]
    with pytest.raises(UserError, match=r"all 3 rounds have run, .* new Runner that starts from final_models\(\)"):
        runner.run()
    assert all((a == b).all() for a, b in zip(before, runner.models, strict=True))
    again = Runner(runner.final_models()[0], sites(), job=job(**privacy))
    assert (again.models[0] == runner.models[0]).all()
    assert result.aborted_rounds == 0


# What an operator is told


def test_what_is_known_beforehand_is_said_once_a_site_and_first() -> None:
    told: list[str] = []
    runner = Runner(linear, sites(), job=job(**PRIVATE, w_max=60, rounds=2), on_notice=told.append)
    beforehand = list(told)
    heavy = [line for line in beforehand if "w_max" in line]
    assert [line.partition(":")[0] for line in heavy] == ["site-1", "site-3"]
    assert all("a larger w_max would" in line for line in heavy)
    assert not any(str(len(fold.train)) in line for line in beforehand for fold in sites().values())  # type: ignore[arg-type]
    result = runner.run()
    assert result.warnings == told
    assert told[: len(beforehand)] == beforehand
    assert len(set(told)) == len(told)
    assert sum("w_max" in line for line in told) == 2


@pytest.mark.parametrize("rows", [99, 100])
def test_a_delta_that_is_not_below_one_over_a_sites_rows_is_refused(rows: int) -> None:
    data, private = sites((80, 70, rows, 90, 60)), job(**PRIVATE, delta=1 / 100)
    if rows < 100:
        Runner(linear, data, job=private)
        return
    with pytest.raises(UserError, match="^site-2 has 100 training rows and privacy.delta = 0.01: it must be below one"):
        Runner(linear, data, job=private)
    Runner(linear, data, job=job(mechanism="none"))
    assert not Runner(linear, data, job=job()).warnings


def test_a_weight_of_a_flow_of_ones_own_that_is_cut_is_said_when_it_happens() -> None:
    flow = Flow("heavy")

    @flow.client
    def heavy(task: Task) -> Contribution:
        return replace(train(task), weights=[1000 if task.site.name == VICTIM else 256])

    runner = Runner(linear, sites(), job=job(), flow=flow)
    assert runner.warnings == []
    assert [line.partition(":")[0] for line in runner.run().warnings] == [VICTIM]


def test_an_update_beyond_its_bound_is_cut_and_said_once() -> None:
    result = Runner(linear, sites(), job=job(update_clip=0.01)).run()
    assert [line.partition(":")[0] for line in result.warnings] == list(sites())
    assert all("privacy.update_clip = 0.01" in line for line in result.warnings)
    assert not Runner(linear, sites(), job=job()).run().warnings


# Errors name the site


class Failing(ClientTrainer):
    """Fails at the site with 25 rows."""

    def __init__(self, where: str, error: Exception) -> None:
        super().__init__()
        self.where, self.error = where, error

    def fail(self, where: str, data: Any) -> None:
        if where == self.where and len(data) == 25:
            raise self.error

    def on_before_training(self, model: nn.Module, data: Any) -> None:
        self.fail("before", data)

    def train(self, model: nn.Module, data: Any, training: Any, steps: int) -> None:
        self.fail("train", data)
        super().train(model, data, training, steps)

    def on_after_training(self, model: nn.Module, data: Any) -> None:
        self.fail("after", data)


def test_a_round_that_breaks_off_inside_counts_as_aborted_and_is_charged() -> None:
    class Once(ClientTrainer):
        calls = 0

        def on_after_training(self, model: nn.Module, data: Any) -> None:
            Once.calls += 1
            if Once.calls == 7:  # of the 4 sites, in round 2
                raise ZeroDivisionError

    whole = Runner(linear, sites(), job=job(**PRIVATE, rounds=4)).run()
    runner = Runner(linear, sites(), trainer=Once(), job=job(**PRIVATE, rounds=4))
    with pytest.raises(ZeroDivisionError):
        runner.run()
    result = runner.run()
    ends = {record.number: record.aborted for record in result.rounds}
    assert ends == {1: None, 2: "round: broken off", 3: None, 4: None}
    assert result.aborted_rounds == 1
    assert result.epsilon[:2] == pytest.approx(whole.epsilon[:2])
    assert all(spent < planned for spent, planned in zip(result.epsilon[2:], whole.epsilon[2:], strict=True))


class Breaking(ServerAggregator):
    """Breaks off in its second step, before, inside or after it."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.calls = where, 0

    def on_before_step(self, aggregate: Aggregate) -> Aggregate:
        self.calls += 1
        self.fail("before")
        return aggregate

    def step(self, models: Sequence[NDArray[np.float32]], aggregate: Aggregate) -> list[NDArray[np.float32]]:
        self.fail("inside")
        return super().step(models, aggregate)

    def on_after_step(self, _models: Sequence[NDArray[np.float32]], _aggregate: Aggregate) -> None:
        self.fail("after")

    def fail(self, where: str) -> None:
        if self.calls == 2 and where == self.where:
            raise ZeroDivisionError


@pytest.mark.parametrize("where", ["before", "inside", "after"])
@pytest.mark.parametrize("mechanism", ["local-record", "distributed-party", "none"])
def test_a_sum_that_was_open_when_the_servers_step_broke_off_is_among_what_was_opened(where: str, mechanism: str) -> None:
    privacy = {"epsilon": 8.0} if mechanism != "none" else {}
    wanted = job(mechanism=mechanism, rounds=3, **privacy)
    gone = {2: {"site-1": "Masked"}}
    runner = Runner(linear, sites(), job=wanted, server=Breaking(where), dropouts=lambda number, _: gone.get(number, {}))
    with pytest.raises(ZeroDivisionError):
        runner.run()
    result = runner.run()
    assert [record.aborted for record in result.rounds] == [None, "round: broken off", None]
    differences = [row for row in result.opened if row.what.endswith("of these exact sums")]
    assert {row.rounds for row in result.opened if row not in differences} == {3}
    assert bool(differences) == (mechanism != "distributed-party")
    assert next(row.count for row in result.server_saw if row.message == "Sum") == 3


def test_a_round_that_broke_off_before_its_sum_was_open_opened_nothing() -> None:
    class Once(ClientTrainer):
        calls = 0

        def on_after_training(self, _model: nn.Module, _data: Any) -> None:
            Once.calls += 1
            if Once.calls == 7:  # of the 4 sites, in round 2
                raise ZeroDivisionError

    runner = Runner(linear, sites(), trainer=Once(), job=job(rounds=3))
    with pytest.raises(ZeroDivisionError):
        runner.run()
    result = runner.run()
    assert {row.rounds for row in result.opened} == {2}


@pytest.mark.parametrize("where", ["before", "train", "after"])
def test_an_error_inside_a_sites_training_names_the_site(where: str) -> None:
    with pytest.raises(UserError, match="^site-2: no good$"):
        Runner(linear, sites(), trainer=Failing(where, UserError("no good")), job=job()).run()
    with pytest.raises(ZeroDivisionError) as caught:
        Runner(linear, sites(), trainer=Failing(where, ZeroDivisionError("mine")), job=job()).run()
    assert caught.value.__notes__ == ["This was raised at the site site-2."]


@pytest.mark.parametrize(("given", "odd"), [({"mine": [1.0], "yours": [1.0]}, "yours"), ({}, "mine")])
def test_metrics_other_than_declared_are_refused_by_site(given: Mapping[str, Any], odd: str) -> None:
    class Wrong(ClientTrainer):
        def sums(self) -> tuple[SumSpec, ...]:
            return (SumSpec("mine", 1, 10.0),)

        def evaluate(self, model: nn.Module, data: Any) -> Mapping[str, Any]:
            return {name: np.array(value) for name, value in given.items()}

    with pytest.raises(UserError, match=f"^site-0: .* {odd} is missing or unknown"):
        Runner(linear, sites(), trainer=Wrong(), job=job()).run()


# A public number of rows


def opened(runner: Runner) -> tuple[list[Aggregate], RunResult]:
    """The aggregates that the server saw, and the result."""
    seen: list[Aggregate] = []
    runner.server.on_after_step = lambda _models, aggregate: seen.append(aggregate)  # type: ignore[method-assign]
    return seen, runner.run()


def test_with_public_rows_the_mean_update_is_the_clipped_sum_over_all_rows_by_that_number() -> None:
    """Next to no noise, full batches, no clipping: (1/n) Σ over all rows of all sites of the gradient, divided by the number."""
    knobs = job(mechanism="local-record", sample_rate=1.0, rounds=1, local_steps=1, epsilon=1e6, clip=100.0, rows=120)
    seen, _ = opened(Runner(linear, sites(), job=knobs, entropy=Replay))
    model = linear()
    pairs = [fold.train.tensors for fold in sites().values()]  # type: ignore[attr-defined]
    x, y = (torch.cat(column) for column in zip(*pairs, strict=True))
    nn.functional.binary_cross_entropy_with_logits(model(x).reshape(-1), y, reduction="sum").backward()  # type: ignore[no-untyped-call]
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()]).numpy()  # type: ignore[union-attr]
    update = seen[0].updates[0]
    assert update is not None
    assert np.abs(update).max() > 0.05
    assert update == pytest.approx(-0.5 * gradient / 120 / 5, abs=0.005)


def test_with_public_rows_nothing_that_is_opened_follows_the_rows() -> None:
    for sizes in ((40, 70, 25, 90, 55), (30, 30, 30, 30, 30)):
        seen, result = opened(Runner(linear, sites(sizes), job=job(**PRIVATE, rows=60)))
        assert {tuple(aggregate.weights) for aggregate in seen} == {(5 * 256,)}
        assert not any("row" in event.what or "weight" in event.what.replace("weighted", "") for event in result.opened)
        assert not result.warnings
    bare = Runner(linear, sites(), job=job(**PRIVATE, rows=60, protocol="plain-insecure")).run()
    assert not any("its rows" in event.what for event in bare.opened)


def test_without_them_or_with_a_flow_of_ones_own_the_ledger_says_that_rows_are_opened() -> None:
    flow = Flow("own")

    @flow.client
    def own(task: Task) -> Contribution:
        return replace(train(task), weights=[len(task.site.folds[0].train)])  # type: ignore[arg-type]

    for options in ({"job": job(**PRIVATE)}, {"job": job(**PRIVATE, rows=60), "flow": flow}):
        seen, result = opened(Runner(linear, sites(), **options))  # type: ignore[arg-type]
        assert {tuple(aggregate.weights) for aggregate in seen} == {(280,)}
        assert "sum of weights (row total)" in {event.what for event in result.opened}


def test_held_out_rows_are_no_part_of_it() -> None:
    data = {name: Fold(fold.train, None) for name, fold in sites().items()}
    assert Runner(linear, data, job=job(**PRIVATE, rows=60, rounds=1)).run().rounds[0].contributors == 5
