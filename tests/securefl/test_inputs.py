"""What a user hands to `Runner`: whatever cannot be trained on is refused when it is built, by site, feature and row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sites import FEATURES, job, rows, sites
from torch import nn
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from protocols.flow import Flow
from securefl import ClientTrainer, Fold, Job, Runner, ServerAggregator, UserError
from securefl.inputs import BLOCK
from securefl.round_types import Contribution, Task


class Unmeasured(ClientTrainer):
    """Trains, and measures nothing."""

    def sums(self) -> Any:
        return ()

    def evaluate(self, model: nn.Module, data: Any) -> Any:
        return {}

    def read(self, sums: Any) -> dict[str, float]:
        return {}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(rows(3, 1))


MECHANISMS = pytest.mark.parametrize("mechanism", ["none", "local-record"])


def linear(outputs: int = 1) -> nn.Module:
    return nn.Linear(FEATURES, outputs)


def refusal(data: Any, *, model: Callable[[], nn.Module] = linear, trainer: ClientTrainer | None = None, **privacy: object) -> str:
    with pytest.raises(UserError) as caught:
        Runner(model, data, trainer=trainer, job=job(**privacy))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Pairs(Dataset[Any]):
    """A data set of the user's own."""

    def __init__(self, *pairs: Any) -> None:
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, row: int) -> Any:
        return self._pairs[row]


@MECHANISMS
@settings(max_examples=15)
@given(
    site=st.integers(0, 4),
    row=st.integers(0, 19),
    feature=st.integers(0, FEATURES - 1),
    value=st.sampled_from([float("nan"), float("inf"), float("-inf")]),
    part=st.sampled_from(["training", "held-out"]),
    wrapped=st.booleans(),
)
def test_a_feature_that_is_not_finite_is_named_by_site_feature_and_row(
    mechanism: str, site: int, row: int, feature: int, value: float, part: str, wrapped: bool
) -> None:
    data = sites()
    fold = data[f"site-{site}"]
    own = fold.train if part == "training" else fold.test
    own.tensors[0][row, feature] = value  # type: ignore[union-attr]
    if wrapped:
        data[f"site-{site}"] = Fold(Subset(fold.train, range(len(fold.train))), fold.test)  # type: ignore[arg-type]
    line = refusal(data, mechanism=mechanism)
    assert line == f"site-{site}: feature {feature} is {value} in {part} row {row}: every value must be finite"


def test_the_row_is_right_beyond_the_first_block_and_in_features_of_more_dimensions() -> None:
    x, y = torch.zeros(BLOCK + 9, 2, 3), torch.zeros(BLOCK + 9)
    x[BLOCK + 5, 1, 2] = float("nan")
    data = {**sites(), "site-9": Fold(TensorDataset(x, y), None)}
    line = refusal(data, model=lambda: nn.Sequential(nn.Flatten(), linear()))
    assert line.startswith("site-9: feature (1, 2) is nan in training row 1029:")


def test_a_label_that_is_not_finite_is_named() -> None:
    for part in ("train", "test"):
        data = sites()
        getattr(data["site-3"], part).tensors[1][7] = float("nan")
        what = {"train": "training", "test": "held-out"}[part]
        assert refusal(data) == f"site-3: label is nan in {what} row 7: every value must be finite"


def test_without_the_check_such_a_row_trains_silently_with_privacy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check is for: DP-SGD leaves the record out, and the run ends as if nothing were wrong, but for a notice."""
    monkeypatch.setattr("securefl.inputs._refuse_not_finite", lambda *_: None)
    data = sites()
    data["site-2"].train.tensors[0][3, 4] = float("nan")  # type: ignore[attr-defined]
    result = Runner(linear, data, job=job(mechanism="local-record", rounds=2)).run()
    assert result.aborted_rounds == 0
    told = [line for line in result.warnings if "not finite" in line]
    assert len(told) == 1
    assert told[0].startswith("site-2: ")


def test_a_local_flow_of_ones_own_may_mend_its_rows() -> None:
    flow = Flow("mending")

    @flow.client
    def mend(task: Task) -> Contribution:
        return Contribution(
            task.site, [m.astype(float) for m in task.models], [30], {s.name: [0.0] * s.size for s in task.site.plan.sums}
        )  # type: ignore[misc]

    data = sites()
    data["site-2"].train.tensors[0][3, 4] = float("nan")  # type: ignore[attr-defined]
    Runner(linear, data, job=job(rounds=1), flow=flow).run()
    assert refusal(data)


def odd(x: torch.Tensor, y: torch.Tensor) -> dict[str, Fold]:
    return {**sites(), "site-3": Fold(TensorDataset(x, y), None)}


SOFT = TensorDataset(torch.zeros(2, FEATURES), torch.tensor([0.0, 0.5]))


@MECHANISMS
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (odd(torch.zeros(5, FEATURES + 1), torch.zeros(5)), "shapes cannot be multiplied"),
        (odd(torch.zeros(5, FEATURES, dtype=torch.float64), torch.zeros(5)), "torch.float64"),
        (odd(torch.zeros(5, FEATURES, dtype=torch.int64), torch.zeros(5)), "torch.int64"),
        (odd(torch.zeros(5, FEATURES), torch.zeros(5, 3)), "labels of shape"),
        (odd(torch.empty(0, FEATURES), torch.empty(0)), "no rows"),
        (odd(torch.zeros(5, FEATURES), torch.full((5,), 2.0)), "the label is 2 in training row 0: it must be 0, 1 or between"),
        (odd(torch.zeros(5, FEATURES), torch.tensor([0.0, 1, -1, 0, 0])), "the label is -1 in training row 2"),
        ({**sites(), "site-3": rows(5, 1)}, r"must be a Fold\(train, test\), or a list of them, not a TensorDataset"),
        ({**sites(), "site-3": Fold(TensorDataset(torch.zeros(5, FEATURES)), None)}, "1 tensors a row"),
        ({**sites(), "site-3": Fold(Pairs((torch.zeros(FEATURES), 0.0), (torch.zeros(2), 0.0)), None)}, "row 1 .* one shape"),
        ({**sites(), "site-3": Fold(Pairs({"x": 1, "y": 2}), None)}, "row 0 of the data is no pair"),
        ({**sites(), "site-3": Fold(Pairs((torch.zeros(FEATURES), "sick")), None)}, "row 0 of the data is no pair"),
        ({**sites(), "site-3": Fold(Stream(), None)}, "has no length"),
        ({**sites(), "site-3": Fold(rows(5, 1), SOFT)}, "held-out row 1: it must be 0 or 1"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused_by_site_before_training(data: Any, words: str, mechanism: str) -> None:
    with pytest.raises(UserError, match=f"^site-3: .*{words}"):
        Runner(linear, data, job=job(mechanism=mechanism))


@pytest.mark.parametrize("data", [[], {}, {1: None}, list(sites().values())])
def test_what_is_no_data_by_site_is_refused(data: Any) -> None:
    assert "site" in refusal(data)


def test_a_loss_that_would_spread_labels_over_outputs_is_refused() -> None:
    """Outputs of shape (n, 1) and labels of shape (n,) give n × n differences; torch only warns."""

    class Spreading(ClientTrainer):
        def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return nn.functional.mse_loss(output, y)

    assert refusal(sites(), trainer=Spreading()).startswith("site-0: Spreading.loss fails on its rows")


def test_a_loss_that_takes_no_single_row_is_refused_where_a_batch_may_have_one() -> None:
    class Squeezing(ClientTrainer):
        def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return nn.functional.binary_cross_entropy_with_logits(output.squeeze(), y)

    assert "features of shape (1, 6)" in refusal(sites(), trainer=Squeezing(), sample_rate=0.5)
    Runner(linear, sites(), trainer=Squeezing(), job=job(sample_rate=1.0, rounds=1)).run()


def test_a_model_of_many_classes_needs_metrics_of_its_own_and_labels_that_it_has() -> None:
    assert "gives 3 outputs a row: override evaluate" in refusal(sites(), model=lambda: linear(3))
    Runner(lambda: linear(3), sites(), trainer=Unmeasured(), job=job(rounds=1)).run()
    for wrong in (3.0, 0.5, -1.0):
        data = sites()
        data["site-1"].train.tensors[1][4] = wrong  # type: ignore[attr-defined]
        line = refusal(data, model=lambda: linear(3), trainer=Unmeasured())
        assert line.startswith(f"site-1: the label is {wrong:g} in training row 4: it must be a whole number from 0 to 2")


@MECHANISMS
def test_one_class_over_all_sites_is_refused_and_at_one_site_is_normal(mechanism: str) -> None:
    def labelled(*names: str) -> dict[str, Fold]:
        return {
            name: Fold(TensorDataset(fold.train.tensors[0], torch.ones(len(fold.train))), fold.test) if name in names else fold  # type: ignore[attr-defined, arg-type]
            for name, fold in sites().items()
        }

    assert "every training row of all sites has the label 1" in refusal(labelled(*sites()), mechanism=mechanism)
    Runner(linear, labelled(*list(sites())[:4]), job=job(mechanism=mechanism, rounds=1)).run()

    class Regression(Unmeasured):
        def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return nn.functional.mse_loss(output.reshape(-1), y)

    Runner(linear, labelled(*sites()), trainer=Regression(), job=job(mechanism=mechanism, rounds=1)).run()


def test_looking_through_leaves_model_trainer_and_data_as_they_are() -> None:
    model, trainer, data = linear(), ClientTrainer(), sites()
    metrics, before = trainer.metrics, [p.clone() for p in model.parameters()]
    runner = Runner(model, data, trainer=trainer, job=job(precision=12))
    assert trainer.metrics is metrics
    assert runner.trainer.metrics.limit == 2**11 - 1
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    assert all(p.grad is None for p in [*model.parameters(), *runner.template.parameters()])


# Keys of the job


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"data": {"name": "heart"}}, "data.name"),
        ({"data": {"clients": 3}}, "data.clients"),
        ({"model": {"name": "mlp"}}, "model.name"),
        ({"simulation": {"seed": 1}}, "simulation.seed"),
        ({"simulation": {"baselines": False}}, "simulation.baselines"),
    ],
)
def test_a_key_that_only_the_command_acts_upon_is_refused(tree: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=f"^{key} is for securefl run"):
        Runner(linear, sites(), job=Job.parse(tree))


def test_a_learning_rate_is_named_once() -> None:
    knobs = Job.parse({"performance": {"learning_rate": 0.1, "server_learning_rate": 0.7}, "privacy": {"mechanism": "none"}})
    for own in ({"trainer": ClientTrainer(learning_rate=0.2)}, {"trainer": ClientTrainer()}, {"server": ServerAggregator()}):
        with pytest.raises(UserError, match="name it once"):
            Runner(linear, sites(), job=knobs, **own)  # type: ignore[arg-type]
    runner = Runner(linear, sites(), job=knobs)
    assert (runner.trainer.learning_rate, runner.server.learning_rate) == (0.1, 0.7)
    Runner(linear, sites(), job=knobs, trainer=ClientTrainer(learning_rate=0.1), server=ServerAggregator(learning_rate=0.7))


def test_the_job_of_the_result_has_the_learning_rate_that_was_used_and_reads_back() -> None:
    runner = Runner(linear, sites(), job=job(rounds=1), trainer=ClientTrainer(learning_rate=0.03))
    again = Job.parse(runner.run().job)
    assert again.performance.learning_rate == 0.03
    Runner(linear, sites(), job=again, trainer=ClientTrainer(learning_rate=0.03))


def test_dropouts_of_ones_own_and_a_probability_are_not_both_taken() -> None:
    knobs = Job.parse({"simulation": {"dropout": 0.5}})
    with pytest.raises(UserError, match="simulation.dropout"):
        Runner(linear, sites(), job=knobs, dropouts=lambda _number, _stages: {})


def test_bins_of_the_metrics_are_the_trainers_own() -> None:
    trainer = ClientTrainer()
    trainer.metrics = type(trainer.metrics)(bins=8)
    runner = Runner(linear, sites(), job=job(), trainer=trainer)
    assert {spec.name: spec.size for spec in runner.plan.sums}["positives"] == 8


def test_the_result_is_not_named_after_data_that_were_not_used() -> None:
    for options, name in (({}, "own data"), ({"name": "registry"}, "registry")):
        result = Runner(linear, sites(), job=job(rounds=1), **options).run()  # type: ignore[arg-type]
        assert result.title == f"{name} · secagg"
        assert result.as_json()["data"] == name
