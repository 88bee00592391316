"""Private layers: held against a plain re-computation, and what leaves a site against what must not."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from made_sites import FEATURES, job, replayed, sites
from torch import nn
from torch.utils.data import TensorDataset

from securefl import ClientTrainer, Runner, private_layers
from securefl.errors import UserError
from securefl.experiment import run_job
from securefl.job import Job
from securefl.models import initialise
from securefl.private_layers import shared_names
from securefl.round import local_flow
from securefl.round_types import Fold
from securefl.shared_job import SharedJob


class Headed(nn.Module):
    """A trunk, and a head of as many outputs as its site likes."""

    def __init__(self, outputs: int = 1, width: int = 4) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(FEATURES, width), nn.Tanh())
        self.head = nn.Linear(width, outputs)
        initialise(self, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x))


class Several(ClientTrainer):
    """Every output is asked for the one label."""

    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(output, y.reshape(-1, 1).expand_as(output))

    def scores(self, model: nn.Module, data: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        x, y = data.tensors
        with torch.no_grad():
            return torch.sigmoid(model(x)).mean(1).double().numpy(), y.long().numpy()


HEADS = {"site-0": 1, "site-1": 2, "site-2": 7, "site-3": 1, "site-4": 3}


def headed(**privacy: object) -> Runner:
    models = {name: Headed(outputs) for name, outputs in HEADS.items()}
    return Runner(models, sites(), trainer=Several(), job=job(**privacy), entropy=replayed, shared="trunk.*")


def parameters(model: nn.Module, part: str) -> np.ndarray[Any, Any]:
    return np.concatenate([p.detach().numpy().ravel() for name, p in model.named_parameters() if name.startswith(part)])


def recomputed(rounds: int, steps: int) -> dict[str, nn.Module]:
    """What three lines of the paper say: train everything, average the trunks by rows, keep the heads."""
    data, trainer = sites(), Several()
    models = {name: Headed(outputs) for name, outputs in HEADS.items()}
    trunk = copy.deepcopy(models["site-0"].trunk.state_dict())
    for _ in range(rounds):
        for name, model in models.items():
            model.trunk.load_state_dict(trunk)
            optimizer = trainer.optimizer(model)
            for _ in range(steps):
                optimizer.zero_grad()
                x, y = data[name].train.tensors  # type: ignore[attr-defined]
                trainer.loss(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        rows = {name: len(fold.train) for name, fold in data.items()}  # type: ignore[arg-type]
        states = {name: model.trunk.state_dict() for name, model in models.items()}
        trunk = {key: sum(rows[name] * states[name][key] for name in models) / sum(rows.values()) for key in trunk}  # type: ignore[misc]
    for model in models.values():
        model.trunk.load_state_dict(trunk)
    return models


def test_trunks_are_averaged_and_heads_are_kept_as_a_plain_loop_has_them() -> None:
    runner, expected = headed(rounds=4, local_steps=3), recomputed(4, 3)
    runner.run()
    for name, plain in expected.items():
        (mine,) = runner.final_models(name)
        assert np.abs(parameters(mine, "trunk") - parameters(plain, "trunk")).max() < 0.01
        assert np.abs(parameters(mine, "head") - parameters(plain, "head")).max() < 0.01
        assert np.abs(parameters(mine, "head") - parameters(Headed(HEADS[name]), "head")).max() > 0.05
    assert len({parameters(runner.final_models(name)[0], "trunk").tobytes() for name in HEADS}) == 1


def test_the_vector_has_one_length_for_all_and_nothing_of_a_head() -> None:
    runner, trunk = headed(protocol="plain-insecure"), parameters(Headed(), "trunk").size
    result = runner.run()
    assert runner.plan.blocks == (trunk,)
    assert {name.split(".")[0] for name in result.state} == {"trunk"}
    assert len(set(result.up.values())) == 1, "bytes would tell sites with more outputs"
    whole = Runner(Headed(7), sites(), trainer=Several(), job=job(protocol="plain-insecure"), entropy=replayed)
    assert whole.plan.blocks[0] > trunk, "without the pattern the head is in the sum"


def test_the_sum_over_secagg_is_bit_for_bit_that_without_masks() -> None:
    plain, masked = (headed(protocol=name, mechanism="local-record", sample_rate=0.3) for name in ("plain-insecure", "secagg"))
    states = [runner.run().state for runner in (plain, masked)]
    assert all((states[0][name] == states[1][name]).all() for name in states[0])
    for name in HEADS:
        assert (parameters(plain.final_models(name)[0], "head") == parameters(masked.final_models(name)[0], "head")).all()


def test_epsilon_is_that_of_the_same_steps_without_private_layers_and_heads_are_noised() -> None:
    tight: dict[str, Any] = {"mechanism": "local-record", "epsilon": 0.5, "sample_rate": 0.3, "rounds": 2}
    private, whole = headed(**tight), Runner(Headed(), sites(), job=job(**tight), entropy=replayed)
    private.run(), whole.run()
    assert private.epsilon() == whole.epsilon()
    assert private.noise_multiplier == whole.noise_multiplier
    still = {name: Fold(TensorDataset(torch.zeros(40, FEATURES), torch.full((40,), 0.5)), None) for name in HEADS}
    runner = Runner(Headed(), still, trainer=Silent(), job=job(**tight), entropy=replayed, shared="trunk.*")
    runner.run()
    for name in HEADS:  # without any gradient a head moves by its noise alone
        moved = parameters(runner.final_models(name)[0], "head") - parameters(Headed(), "head")
        assert np.abs(moved).max() > 0.05


class Silent(ClientTrainer):
    """A loss without a slope."""

    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (output.reshape(-1) * 0 + y * 0).mean()


def test_a_round_that_aborts_leaves_heads_as_they_were() -> None:
    models = {name: Headed(outputs) for name, outputs in HEADS.items()}

    def gone(number: int, stages: Any) -> dict[str, str]:
        return dict.fromkeys(list(HEADS)[:3], stages[-1]) if number == 2 else {}

    kept: dict[int, np.ndarray[Any, Any]] = {}
    runner = Runner(models, sites(), trainer=Several(), job=job(rounds=3), entropy=replayed, shared="trunk.*", dropouts=gone)
    result = runner.run(lambda record: kept.update({record.number: parameters(runner.final_models("site-4")[0], "head")}))
    assert [record.aborted is None for record in result.rounds] == [True, False, True]
    assert (kept[1] == kept[2]).all()
    assert (kept[2] != kept[3]).any()


@pytest.mark.parametrize("mechanism", ["none", "local-record"])
def test_a_head_keeps_nothing_of_rounds_whose_update_did_not_leave(mechanism: str) -> None:
    """They are in no ledger."""
    models = {name: Headed(outputs) for name, outputs in HEADS.items()}
    start = {name: parameters(model, "head") for name, model in models.items()}
    runner = Runner(
        models, sites(), trainer=Several(), job=job(mechanism=mechanism, sample_rate=0.5, rounds=2), entropy=replayed,
        shared="trunk.*", dropouts=lambda _number, stages: {"site-2": stages[1]},
    )  # fmt: skip
    runner.run()
    for name in HEADS:
        assert (parameters(runner.final_models(name)[0], "head") == start[name]).all() == (name == "site-2")


def test_distributed_party_noise_covers_what_leaves_and_no_head() -> None:
    runner = headed(mechanism="distributed-party", epsilon=8.0, rounds=2, protocol="secagg")
    runner.run()
    assert runner.plan.blocks == (parameters(Headed(), "trunk").size,)


class Tied(Headed):
    """One tensor under two names: the head's weights are those of a layer of the trunk."""

    def __init__(self) -> None:
        super().__init__(FEATURES, FEATURES)
        self.head.weight = next(self.trunk.parameters())


@pytest.mark.parametrize("pattern", ["trunk.*", "head.*"])
def test_a_parameter_that_is_both_shared_and_private_is_refused(pattern: str) -> None:
    """By its first name alone a head that is tied to the trunk would leave its site, or a layer that is to be shared would not."""
    with pytest.raises(UserError, match=r"trunk\.0\.weight and head\.weight are one parameter, and only one of them matches"):
        Runner(Tied(), sites(), job=job(), shared=pattern)
    assert shared_names(Tied(), "*[th]*.weight") == ("trunk.0.weight",)


def test_control_by_the_first_name_alone_a_tied_head_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_layers, "_refuse_torn", lambda _model, _pattern: None)
    runner = Runner(Tied(), sites(), trainer=Several(), job=job(), entropy=replayed, shared="trunk.*")
    state = runner.run().state
    (mine,) = runner.final_models("site-2")
    assert (state["trunk.0.weight"] == mine.head.weight.detach().numpy()).all()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"shared": "body.*"}, r"matches no parameter of the model, whose parameters are trunk\.0\.weight"),
        ({"shared": "*"}, "matches every parameter of the model, so nothing is private"),
        ({"shared": "TRUNK.*"}, "matches no parameter"),
        ({"shared": None}, 'a model for each site needs shared="…"'),
        ({"model": {"elsewhere": Headed()}}, "not for the sites of the data: elsewhere"),
        (
            {"model": {**dict.fromkeys(HEADS, Headed()), "site-2": Headed(width=5)}},
            r"site-2: the shared parameters must be those of",
        ),
        ({"flow": local_flow()}, "refused beside a local flow of your own"),
        (
            {"job": job(mechanism="distributed-record", protocol="secagg", rows=60)},
            "model.shared is refused with distributed-record",
        ),
        ({"job": job(mechanism="central", protocol="secagg", rows=60)}, "model.shared is refused with central"),
        ({"job": Job.parse({"model": {"shared": "head.*"}})}, "name it once"),
        (
            {"job": Job.parse({"performance": {"algorithm": "scaffold"}, "privacy": {"mechanism": "none"}})},
            "performance.algorithm = scaffold is refused with model.shared",
        ),
        (
            {"job": Job.parse({"performance": {"compression": "low-rank"}, "privacy": {"mechanism": "none"}})},
            "performance.compression = low-rank is refused with model.shared",
        ),
    ],
)
def test_what_cannot_work_is_one_line_before_training(arguments: dict[str, Any], line: str) -> None:
    given = {"model": dict.fromkeys(HEADS, Headed()), "job": job(), "shared": "trunk.*", **arguments}
    with pytest.raises(UserError, match=line) as refused:
        Runner(data=sites(), **given)
    assert "\n" not in str(refused.value)


def test_a_model_by_site_is_named_and_over_a_network_private_layers_are_refused() -> None:
    with pytest.raises(UserError, match="every site has a model of its own: name one of site-0"):
        headed().final_models()
    with pytest.raises(UserError, match=r"model.shared is refused over a network"):
        SharedJob.of(Job.parse({"model": {"name": "mlp", "shared": "0.*"}}), headed().consortium.roster)


def test_one_line_in_a_job_keeps_the_last_layer_of_a_built_in_model_at_the_sites() -> None:
    tree: dict[str, Any] = {
        "model": {"name": "mlp", "shared": "0.*"},
        "data": {"folds": 2},
        "privacy": {"mechanism": "none", "rounds": 2},
        "simulation": {"baselines": False},
    }
    result = run_job(Job.parse(tree))
    assert {*result.state} == {f"fold{fold}.0.{part}" for fold in range(2) for part in ("weight", "bias")}
    assert 0.5 < result.metrics["auroc"] <= 1
