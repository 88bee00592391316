"""Training end to end: against pooled training, against plain sums, under dropouts and aborts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from made_sites import FEATURES, job, linear, replayed, sites, weights
from torch import nn
from torch.utils.data import TensorDataset

from protocols import simulate, sums
from protocols.errors import Misuse
from protocols.flow import Flow
from protocols.policy import Policy
from protocols.rand import Rand, Replay
from protocols.session import client
from protocols.sums import Scheme
from protocols.vector import Vector
from securefl import ClientTrainer, Runner, ServerAggregator, in_clear
from securefl.aggregator import Aggregate
from securefl.errors import UserError
from securefl.parties import Consortium
from securefl.privacy.models import ModelUnsupported
from securefl.results import RunResult
from securefl.round import local_update
from securefl.round_types import Contribution, Fold, Joined, Task
from securefl.simulated_rounds import SimulatedRounds


def run(data: Mapping[str, Fold], dropouts: Mapping[int, Mapping[str, str]] | None = None, **privacy: object) -> RunResult:
    plan = dropouts or {}
    runner = Runner(linear, data, job=job(**privacy), entropy=replayed, dropouts=lambda number, _stages: plan.get(number, {}))
    return runner.run()


def test_a_round_is_one_step_on_the_pooled_rows() -> None:
    """Full batches, one local step: FedAvg equals a gradient step on all rows, to the quantisation of the sum."""
    data = sites()
    result = run(data, rounds=1, local_steps=1)
    model = linear()
    xs, ys = zip(*(fold.train.tensors for fold in data.values()), strict=True)  # type: ignore[attr-defined]
    x, y = torch.cat(xs), torch.cat(ys)
    loss = nn.functional.binary_cross_entropy_with_logits(model(x).reshape(-1), y)
    loss.backward()  # type: ignore[no-untyped-call]
    pooled = np.concatenate([(p - 0.5 * p.grad).detach().numpy().ravel() for p in model.parameters()])  # type: ignore[operator]
    quantum = 256 * 8.0 / (2**15 - 1) * len(data) / len(x)
    assert np.abs(weights(result) - pooled).max() <= quantum
    assert np.abs(pooled - weights_of(linear())).max() > 20 * quantum


def weights_of(model: nn.Module) -> np.ndarray[Any, Any]:
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


def test_training_does_not_reach_the_global_model() -> None:
    """Local training works on a copy: else the update, a difference, would be zero."""
    seen: list[np.ndarray[Any, Any]] = []

    class Watching(ClientTrainer):
        def train(self, model: nn.Module, data: Any, training: Any, steps: int) -> None:
            before = weights_of(model)
            super().train(model, data, training, steps)
            seen.append(weights_of(model) - before)

    runner = Runner(linear, sites(), trainer=Watching(), job=job(rounds=1))
    start = weights_of(linear())
    result = runner.run()
    assert all(np.abs(step).max() > 1e-3 for step in seen)
    assert np.abs(weights(result) - start).max() > 1e-3
    assert np.abs(weights_of(runner.template) - start).max() == 0


@pytest.mark.parametrize("protocol", ["secagg", "kahe", "lightsecagg", "bfv", "ckks"])
@pytest.mark.parametrize("mechanism", ["none", "local-record"])
def test_every_secure_protocol_trains_the_same_bits_as_plain(mechanism: str, protocol: str) -> None:
    privacy = {"mechanism": mechanism, "sample_rate": 0.3}
    masked, plain = run(sites(), protocol=protocol, **privacy), run(sites(), protocol="plain-insecure", **privacy)
    assert (weights(masked) == weights(plain)).all()
    assert [r.metrics for r in masked.rounds] == [r.metrics for r in plain.rounds]


def test_what_a_trainer_keeps_of_its_model_is_its_own() -> None:
    """One copy of the model serves party after party, but not where something of it is kept."""

    class Keeping(ClientTrainer):
        def train(self, model: nn.Module, data: Any, training: Any, steps: int) -> None:
            super().train(model, data, training, steps)
            self.kept, self.copied = model.state_dict(), weights_of(model)
            seen.append(self)

    seen = list[Keeping]()
    kept = Runner(linear, sites(), trainer=Keeping(learning_rate=0.5), job=job(rounds=2), entropy=replayed).run()
    assert len(seen) == 2 * len(sites())
    for trainer in seen:
        assert np.concatenate([tensor.numpy().ravel() for tensor in trainer.kept.values()]).tolist() == trainer.copied.tolist()
    assert len({tuple(trainer.copied) for trainer in seen}) == len(sites())
    usual = Runner(linear, sites(), trainer=ClientTrainer(learning_rate=0.5), job=job(rounds=2), entropy=replayed).run()
    assert weights(kept).tolist() == weights(usual).tolist()


def test_whoever_runs_a_protocol_is_told_which_graph_was_taken_for_it() -> None:
    """Among few parties secagg+ takes the complete graph, and gives the same bits; plain says what it leaves out."""
    privacy = {"mechanism": "none", "rounds": 1}
    plus, plain = run(sites(), protocol="secagg+", **privacy), run(sites(), protocol="plain-insecure", **privacy)
    assert plus.warnings == ["secagg+ takes the complete graph for 5 parties: no sparser one is safe and worth it"]
    assert (weights(plus) == weights(plain)).all()
    assert run(sites(), **privacy).warnings == []
    assert plain.warnings == [in_clear.notice(sums.scheme("plain-insecure"))]


def test_two_models_for_two_parties_give_no_sum() -> None:
    """A server that shows one party another model: its session identity differs, and the model stays as it was."""
    from protocols import simulate
    from protocols.bulk import Bulk
    from protocols.session import SERVER
    from securefl.round_types import GlobalModel

    runner = Runner(linear, sites(), job=job(rounds=1))
    sessions = runner.rounds.sessions(1)
    layout = sessions[SERVER].limits.vectors["model"]

    def lie(letter: Any) -> Any:
        if not isinstance(letter.message, GlobalModel):
            return [letter]
        zeros = np.zeros_like(letter.message.weights.values)
        other = replace(letter.message, weights=Bulk.of(layout, zeros))
        return [replace(letter, to=letter.to[:2]), replace(letter, message=other, to=letter.to[2:])]

    outcome = simulate.run(sessions, network=lie)
    assert outcome.outputs == []
    assert outcome.abort is not None
    refused = {fault.check for fault in sessions[SERVER].faults}
    assert refused == {"advert-signature"}
    assert simulate.run(runner.rounds.sessions(2)).outputs  # without the lie the round goes through


def test_a_trainer_that_leaves_the_private_path_is_refused() -> None:
    class Leaving(ClientTrainer):
        def train(self, model: nn.Module, data: Any, training: Any, steps: int) -> None:
            x, y = data.tensors
            optimizer = self.optimizer(model)
            self.loss(model(x), y).backward()
            optimizer.step()

    runner = Runner(linear, sites(), trainer=Leaving(), job=job(mechanism="local-record", sample_rate=0.3))
    with pytest.raises(UserError, match="^site-0: 0 of 3 steps went through training.private"):
        runner.run()


def test_a_local_flow_that_leaves_the_private_path_is_refused() -> None:
    flow = Flow("bypass")

    @flow.client
    def invent(task: Task) -> Contribution:
        return Contribution(
            task.site, [m.astype(np.float64) for m in task.models], [30], {s.name: np.zeros(s.size) for s in task.site.plan.sums}
        )

    Runner(linear, sites(), job=job(), flow=flow).run()
    with pytest.raises(UserError, match="^site-0: 0 of 3 steps"):
        Runner(linear, sites(), job=job(mechanism="local-record", sample_rate=0.3), flow=flow).run()


def test_an_update_that_is_not_finite_is_refused() -> None:
    class Broken(ClientTrainer):
        def on_after_training(self, model: nn.Module, data: Any) -> None:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))

    with pytest.raises(UserError, match="^site-0: the update has a value that is not finite"):
        Runner(linear, sites(), trainer=Broken(), job=job()).run()


def test_running_statistics_are_refused_with_and_without_privacy_and_fixed_on_request() -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(FEATURES, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    for mechanism in ("none", "local-record"):
        with pytest.raises(ModelUnsupported, match="BatchNorm1d") as refused:
            Runner(normed, sites(), job=job(mechanism=mechanism))
        assert "GroupNorm" in refused.value.diff
    knobs = job(rounds=1)
    fixing = knobs.model_copy(update={"model": knobs.model.model_copy(update={"fix": True})})
    runner = Runner(normed, sites(), job=fixing)
    assert any("GroupNorm" in line for line in runner.warnings)
    result = runner.run()
    assert result.rounds[0].contributors == 5
    assert not any("running" in name for name in result.state)


def test_bad_input_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="at least 2 sites"):
        Runner(linear, sites((30,)), job=job())
    with pytest.raises(UserError, match="same number of folds"):
        Runner(linear, {"a": list(sites().values())[:2], "b": list(sites().values())[:1]}, job=job())
    with pytest.raises(Misuse, match="t = 9 is above n = 5"):
        Runner(linear, sites(), job=job(threshold=9))
    with pytest.raises(Misuse, match=r"t = 2 breaks 2t > n"):
        Runner(linear, sites(), job=job(threshold=2))
    with pytest.raises(UserError, match="no trainable parameter"):
        Runner(lambda: nn.Flatten(), sites(), job=job())
    with pytest.raises(UserError, match="must lead from Task to Contribution"):
        Runner(linear, sites(), job=job(), flow=Flow("empty"))
    data = sites()
    data["site-2"] = Fold(TensorDataset(torch.empty(0, FEATURES), torch.empty(0)), None)
    with pytest.raises(UserError, match="no rows"):
        Runner(linear, data, job=job()).run()


@pytest.mark.parametrize("own", [False, True], ids=["of the class", "of the object"])
def test_a_trainer_that_changes_the_global_model_before_training_is_refused(own: bool) -> None:
    def nudge(model: nn.Module, _data: Any) -> None:
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)

    class Nudging(ClientTrainer):
        def on_before_training(self, model: nn.Module, data: Any) -> None:
            nudge(model, data)

    trainer = ClientTrainer() if own else Nudging()
    if own:
        trainer.on_before_training = nudge  # type: ignore[method-assign]
    with pytest.raises(UserError, match="^site-0: the trainer changed the global model before training"):
        Runner(linear, sites(), trainer=trainer, job=job(rounds=1)).run()


class LogOdds(ClientTrainer):
    """Begins with what the labels say, which no noise covers."""

    def train(self, model: nn.Module, data: Any, training: Any, steps: int) -> None:
        with torch.no_grad():
            [*model.parameters()][-1].add_(data[:][1].float().mean())
        super().train(model, data, training, steps)


@pytest.mark.parametrize("mechanism", ["local-record", "distributed-record"])
def test_a_loop_that_changes_the_weights_before_the_noised_steps_is_refused(mechanism: str) -> None:
    knobs = job(mechanism=mechanism, sample_rate=0.3, rounds=2, **({"rows": 60} if mechanism != "local-record" else {}))
    Runner(linear, sites(), job=knobs).run()
    with pytest.raises(UserError, match="changed before the noised steps"):
        Runner(linear, sites(), trainer=LogOdds(), job=knobs).run()
    Runner(linear, sites(), trainer=LogOdds(), job=job(rounds=1)).run()  # without ε a loop does as it likes


def test_terms_are_made_once_for_all_parties_of_a_round_and_anew_in_each(monkeypatch: pytest.MonkeyPatch) -> None:
    made, usual = [], Scheme.terms
    monkeypatch.setattr(Scheme, "terms", lambda self, at, *rest: (made.append(at.round), usual(self, at, *rest))[1])
    Runner(linear, sites(), job=job(rounds=2)).run()
    assert made == [1, 2]


def test_settings_under_which_no_round_could_finish_are_refused() -> None:
    with pytest.raises(UserError, match="min_cohort is 6, but only 5 sites"):
        run(sites(), min_cohort=6)
    with pytest.raises(UserError, match="models_per_record is 0"):
        Runner(linear, sites(), job=job(), models_per_record=0)
    others = Consortium.of([f"other-{i}" for i in range(5)], Policy())
    with pytest.raises(UserError, match="other names than the data"):
        Runner(linear, sites(), job=job(), consortium=others)


def test_each_sites_randomness_goes_on_over_folds_and_rounds() -> None:
    """One source a site, asked again and again: two folds never get the same noise."""
    seen: list[bytes] = []

    class Recording(Replay):
        def __call__(self) -> Rand:
            seen.append(Replay.__call__(self).bytes("probe", 16))
            return super().__call__()

    data = {name: (fold, fold) for name, fold in sites().items()}
    knobs = job(mechanism="local-record", sample_rate=0.3, rounds=2)
    Runner(linear, data, job=knobs, entropy=lambda name: Recording(name)).run()
    assert len(seen) > 40
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("where", ["before", "after", "beside", "second step"])
def test_with_privacy_the_weights_change_in_noised_steps_only(where: str) -> None:
    def nudge(model: nn.Module) -> None:
        with torch.no_grad():
            next(model.parameters()).add_(0.01)

    class Nudging(ClientTrainer):
        def on_before_training(self, model: nn.Module, data: Any) -> None:
            if where == "before":
                nudge(model)

        def on_after_training(self, model: nn.Module, data: Any) -> None:
            if where == "after":
                nudge(model)

        def train(self, model: nn.Module, data: Any, training: Any, steps: int) -> None:
            plain = self.optimizer(model)
            with training.private(model, plain, data, steps) as (private, optimizer, batches):
                for x, y in batches:
                    optimizer.zero_grad()
                    if len(x):
                        self.loss(private(x), y).backward()
                    optimizer.step()
                    if where == "beside":
                        nudge(model)
                    if where == "second step":
                        plain.step()

    knobs = job(mechanism="local-record", sample_rate=0.3)
    with pytest.raises(UserError, match="changed"):
        Runner(linear, sites(), trainer=Nudging(), job=knobs).run()


def test_a_global_model_that_is_not_finite_is_refused_by_every_party() -> None:
    runner = Runner(linear, sites(), job=job(rounds=1))
    runner.models[0][0] = np.inf
    outcome = simulate.run(runner.rounds.sessions(1))
    ended = {s.ended.check for a, s in outcome.sessions.items() if a.role == "client" and s.ended is not None}
    assert ended == {"model-finite"}
    assert outcome.outputs == []


def test_a_sum_that_was_opened_counts_as_opened_even_if_the_round_then_aborts() -> None:
    """One party sends a vector with a negative weight in its own name: the sum opens, and decoding refuses it."""
    runner = Runner(linear, sites(), job=job(rounds=1))
    flow = runner.rounds.timed

    def poison(contribution: Contribution, joined: Joined) -> Vector:
        values = np.full(runner.plan.size, runner.plan.limit, dtype=np.int64)
        values[dict(runner.plan.layout)["weights"]] = -sum(len(f.train) for f in list(sites().values())[1:]) + 1  # type: ignore[arg-type]
        return Vector(values)

    real = SimulatedRounds.sessions

    def sessions(self: SimulatedRounds, number: int) -> Any:
        out = real(self, number)
        out[client(1)].flow = flow.replace(encode_update=poison)
        out[client(1)]._steps = out[client(1)].flow.of("client")
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedRounds, "sessions", sessions)
        result = runner.run()
    assert result.rounds[0].aborted == "decode_sum: sum-range"
    assert result.opened[0].rounds == 1
    assert (weights(result) == weights_of(linear())).all()


def test_a_server_step_of_ones_own() -> None:
    class Momentum(ServerAggregator):
        kept: np.ndarray[Any, Any] | float = 0.0

        def step(self, models: Sequence[np.ndarray[Any, Any]], aggregate: Aggregate) -> list[np.ndarray[Any, Any]]:
            (model,), (update,) = models, aggregate.updates
            assert update is not None
            self.kept = 0.5 * self.kept + update
            return [(model + self.kept).astype(np.float32)]

    runner = Runner(linear, sites(), server=Momentum(), job=job(), entropy=replayed)
    assert not np.allclose(weights(runner.run()), weights(run(sites())))


def test_metrics_of_ones_own_travel_in_the_sum() -> None:
    from securefl.encoding import SumSpec

    class Regression(ClientTrainer):
        def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return nn.functional.mse_loss(output.reshape(-1), y)

        def sums(self) -> tuple[SumSpec, ...]:
            return (SumSpec("squared", 1, 1000.0), SumSpec("rows", 1, 1000, integer=True))

        def evaluate(self, model: nn.Module, data: Any) -> dict[str, Any]:
            x, y = data.tensors
            return {"squared": np.array([((model(x).reshape(-1) - y) ** 2).sum().item()]), "rows": np.array([len(y)])}

        def read(self, sums: Mapping[str, Any]) -> dict[str, float]:
            return {"mse": float(sums["squared"][0] / sums["rows"][0])}

    result = Runner(linear, sites(), trainer=Regression(learning_rate=0.1), job=job(rounds=8)).run()
    assert result.metrics["mse"] < result.rounds[0].metrics["mse"]
    assert set(result.site_metrics) == set(sites())


def test_a_local_flow_with_parallel_steps() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Half:
        task: Task

    @dataclass(frozen=True)
    class Other:
        rows: int

    @dataclass(frozen=True)
    class Update:
        task: Task
        values: Any

    @dataclass(frozen=True)
    class Weight:
        rows: int

    flow = Flow("branching")

    @flow.client
    def divide(task: Task) -> tuple[Half, Other]:
        return Half(task), Other(len(task.site.folds[0].train))  # type: ignore[arg-type]

    @flow.client
    def train_half(half: Half) -> Update:
        return Update(half.task, local_update(half.task, 0))

    @flow.client
    def weigh(other: Other) -> Weight:
        return Weight(other.rows)

    @flow.client
    def join_both(update: Update, weight: Weight) -> Contribution:
        from securefl.round import held_out

        return Contribution(update.task.site, [update.values], [weight.rows], held_out(update.task))

    runner = Runner(linear, sites(), job=job(), flow=flow, entropy=replayed)
    assert (weights(runner.run()) == weights(run(sites()))).all()


def test_bytes_and_seconds_are_counted() -> None:
    result = run(sites())
    assert list(result.up) == list(result.down) == list(sites())
    seen = {row.message: row for row in result.server_saw}
    assert sum(row.size for name, row in seen.items() if name != "Sum") == sum(result.up.values())
    assert seen["Masked"].count == 15
    assert set(result.seconds) >= {"train", "mask", "reveal"}
    assert result.picture.startswith("<svg")


def test_without_protection_the_run_says_that_the_server_saw_everything() -> None:
    plain, masked = run(sites(), protocol="plain-insecure"), run(sites())
    assert [o.what for o in plain.opened][:2] == ["every site's update", "every site's weight (its rows)"]
    assert not any("every site" in o.what for o in masked.opened)
    assert "the one thing" in masked.server_saw[-1].shows
    assert "in clear" in plain.server_saw[-1].shows


@pytest.mark.parametrize("wrong", [np.full(FEATURES + 1, np.nan), np.zeros(2)])
def test_a_server_step_that_gives_no_model_is_refused(wrong: np.ndarray[Any, Any]) -> None:
    class Broken(ServerAggregator):
        def step(self, models: Sequence[np.ndarray[Any, Any]], aggregate: Aggregate) -> list[np.ndarray[Any, Any]]:
            return [wrong]

    with pytest.raises(UserError, match="server's step must give finite parameters"):
        Runner(linear, sites(), server=Broken(), job=job()).run()
