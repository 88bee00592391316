"""What is handed to `Runner` besides rows: objects of another kind, models that cannot learn, losses that mean something else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from made_sites import FEATURES, job, sites
from torch import nn

from securefl import ClientTrainer, Fold, Job, Runner, ServerAggregator
from securefl.cohort import expected_aborts
from securefl.errors import UserError
from securefl.privacy.mixing import refuse_mixing, refuse_mixing_loss
from securefl.privacy.models import ModelUnsupported, fix_model
from securefl.privacy.trials import refuse_dead_norms


def linear() -> nn.Module:
    return nn.Linear(FEATURES, 1)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"job": {"privacy": {"rounds": 1}}}, r"job must be a Job, not a dict: give Job\.parse"),
        ({"trainer": ClientTrainer}, "trainer must be a ClientTrainer, not the class ClientTrainer: give an instance"),
        ({"server": ServerAggregator}, "server must be a ServerAggregator, not the class ServerAggregator"),
        ({"model": lambda x: x}, "model must be a torch module, or make one when it is called without arguments"),
        ({"model": lambda: 3}, "it made a int"),
        ({"model": None}, "model must be a torch module"),
    ],
)
def test_objects_of_another_kind_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Runner(given.pop("model", linear), sites(), **given)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_model_that_starts_with_a_number_that_is_none_is_refused(name: str, value: float) -> None:
    model = linear()
    with torch.no_grad():
        getattr(model, name).view(-1)[0] = value
    with pytest.raises(UserError, match=f"^the model's {name} is not finite"):
        Runner(model, sites(), job=job())


class Fails(ClientTrainer):
    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        raise KeyError("weights")


class GivesRows(ClientTrainer):
    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(output.reshape(-1), y, reduction="none").reshape(-1)


class GivesNumber(ClientTrainer):
    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.0  # type: ignore[return-value]


class Total(ClientTrainer):
    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(output.reshape(-1), y, reduction="sum")


class Mean(ClientTrainer):
    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(output.reshape(-1), y)


@pytest.mark.parametrize(
    ("trainer", "words"),
    [
        (Fails(), r"site-0: Fails\.loss fails on its rows .*KeyError: 'weights'"),
        (GivesRows(), r"site-0: GivesRows\.loss gives a tensor of shape \(2,\): it must be one number"),
        (GivesNumber(), r"site-0: GivesNumber\.loss gives a float: it must be one number that depends on the model"),
    ],
)
def test_a_loss_of_ones_own_that_fails_is_blamed_itself(trainer: ClientTrainer, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Runner(linear, sites(), trainer=trainer, job=job())


def test_rows_of_another_precision_are_refused_with_what_mends_them() -> None:
    doubled = {
        name: Fold(torch.utils.data.TensorDataset(fold.train.tensors[0].double(), fold.train.tensors[1]), None)  # type: ignore[attr-defined]
        for name, fold in sites().items()
    }
    with pytest.raises(UserError, match=r"the model is torch\.float32: convert them, x\.to\(torch\.float32\)"):
        Runner(linear, doubled, job=job())


def warnings(model: Any, trainer: ClientTrainer | None = None, data: Any = None) -> str:
    return "\n".join(Runner(model, data or sites(), trainer=trainer, job=job(rounds=1)).warnings)


def test_a_sum_of_losses_over_rows_is_told_and_a_mean_is_not() -> None:
    assert "Total.loss is 1.386 for a row that comes twice" in warnings(zero, Total())
    assert warnings(zero, Mean()) == warnings(zero) == ""


def zero() -> nn.Module:
    model = linear()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def test_a_last_layer_that_the_built_in_loss_has_itself_is_told() -> None:
    model = nn.Sequential(linear(), nn.Sigmoid())
    assert "ends in Sigmoid(), and the built-in loss takes logits" in warnings(model)
    assert warnings(model, Mean()) == ""


def test_without_held_out_rows_the_run_says_that_there_are_no_metrics() -> None:
    data = {name: Fold(fold.train, None) for name, fold in sites().items()}
    assert "no site holds out any rows" in warnings(linear, data=data)
    one = {**data, "site-3": sites()["site-3"]}
    assert warnings(linear, data=one) == ""


@pytest.mark.parametrize("features", [4, 8, 16, 32, 64, 96])
def test_a_mended_batch_normalisation_of_flat_features_tells_records_apart(features: int) -> None:
    """One value to a group gives 0, two give ±1, whatever the record."""
    torch.manual_seed(features)
    fixed, _ = fix_model(nn.Sequential(nn.Linear(3, features), nn.BatchNorm1d(features)))
    refuse_dead_norms(fixed, torch.randn(2, 3))
    out = fixed(torch.randn(200, 3)).detach()
    assert not torch.allclose(out.abs(), torch.ones(()), atol=0.05)
    assert out.std(dim=0).median() > 0.3


@pytest.mark.parametrize("features", [1, 2, 3])
def test_no_mending_is_promised_for_too_few_features(features: int) -> None:
    model = nn.Sequential(nn.Linear(3, features), nn.BatchNorm1d(features))
    with pytest.raises(ModelUnsupported, match=r"no replacement is known for this layer: 1 .*fewer than 4 features"):
        fix_model(model)


def test_a_mended_model_learns() -> None:
    """The refused model, mended, trains as well as the one without the layer."""
    for features in (4, 16, 32):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(FEATURES, features), nn.BatchNorm1d(features), nn.Tanh(), nn.Linear(features, 1))
        settings = job(rounds=10)
        fixing = settings.model_copy(update={"model": settings.model.model_copy(update={"fix": True})})
        result = Runner(model, sites(), job=fixing).run()
        assert result.metrics["auroc"] > 0.8


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.GroupNorm(8, 8), (4, 8)),
        (nn.GroupNorm(4, 8), (4, 8)),
        (nn.GroupNorm(8, 8), (4, 8, 1, 2)),
        (nn.InstanceNorm2d(8), (4, 8, 1, 1)),
        (nn.InstanceNorm1d(8), (4, 8, 2)),
    ],
    ids=str,
)
def test_a_layer_that_normalises_too_few_values_is_named(layer: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelUnsupported, match=rf"^1 \({type(layer).__name__}\(.* normalises [12] of a record's values together"):
        refuse_dead_norms(nn.Sequential(nn.Identity(), layer), torch.randn(shape))
    if len(shape) > 2:
        refuse_dead_norms(nn.Sequential(nn.Identity(), layer), torch.randn(*shape[:-1], 24))


def test_layer_normalisation_counts_its_own_shape() -> None:
    with pytest.raises(ModelUnsupported, match="normalises 2 of"):
        refuse_dead_norms(nn.LayerNorm(2), torch.randn(4, 8, 2))
    refuse_dead_norms(nn.LayerNorm((8, 2)), torch.randn(4, 8, 2))


def test_such_a_layer_is_refused_before_training() -> None:
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.GroupNorm(8, 8), nn.Linear(8, 1))
    for rate in (0.2, 1.0):
        with pytest.raises(UserError, match=r"^site-0: 1 \(GroupNorm\(8, 8.* normalises 1 of"):
            Runner(model, sites(), job=job(sample_rate=rate))


class Standardises(nn.Module):
    """Takes the mean of the batch off every row: what one row does to the gradient has then no bound."""

    def __init__(self, *, detached: bool = False) -> None:
        super().__init__()
        self.last, self.detached = linear(), detached

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(0)
        out: torch.Tensor = self.last(nn.functional.dropout(x - (mean.detach() if self.detached else mean), 0.3, self.training))
        return out


@pytest.mark.parametrize("detached", [True, False])
def test_a_model_that_mixes_rows_is_refused_with_privacy(detached: bool) -> None:
    with pytest.raises(ModelUnsupported, match="Standardises mixes the records of a batch"):
        Runner(Standardises(detached=detached), sites(), job=job(mechanism="local-record", sample_rate=0.3))
    Runner(Standardises(detached=detached), sites(), job=job(mechanism="none"))


class Between(nn.Module):
    """A part of one's own before the last layer."""

    def __init__(self, inside: Any, *, several: bool = False) -> None:
        super().__init__()
        self.inside, self.last, self.several, self.seen = inside, linear(), several, torch.zeros(FEATURES)

    def forward(self, x: torch.Tensor) -> Any:
        out = self.last(self.inside(x, self) if self.training else x)
        return {"z": (out,)} if self.several else out


def running(x: torch.Tensor, model: Between) -> torch.Tensor:
    """Less the mean of all batches before."""
    out = x - model.seen
    model.seen = 0.9 * model.seen + 0.1 * x.mean(0)
    return out


MIXERS = {
    "those before": (lambda x, _: torch.cumsum(x, 0), "mixes the records"),
    "the first": (lambda x, _: x - x[:1], "mixes the records"),
    "three and more": (lambda x, _: x - x.mean(0) if len(x) > 2 else x, "mixes the records"),
    "the mean": (lambda x, _: x - x.mean(0), "mixes the records"),
    "the batch before": (running, "remembers the records"),
}


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize(("inside", "found"), MIXERS.values(), ids=MIXERS)
def test_a_model_of_any_output_and_weights_that_mixes_rows_in_any_order_is_refused(
    inside: Any, found: str, zeros: bool, several: bool
) -> None:
    model = Between(inside, several=several)
    if zeros:
        nn.init.zeros_(model.last.weight)
    with pytest.raises(ModelUnsupported, match=f"^Between {found}"):
        refuse_mixing(model, torch.randn(4, FEATURES))
    refuse_mixing(Between(lambda x, _: torch.tanh(x), several=several), torch.randn(4, FEATURES))


def test_a_run_tries_more_than_two_rows_together() -> None:
    inside, found = MIXERS["three and more"]
    with pytest.raises(ModelUnsupported, match=f"Between {found}"):
        Runner(Between(inside), sites(), job=job(mechanism="local-record", sample_rate=0.3))
    Runner(Between(inside), sites(), job=job(mechanism="none"))


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.GroupNorm(1, 4), nn.Linear(4, 1)),
        nn.Sequential(nn.Embedding(9, 2), nn.Flatten()),
    ],
)
def test_a_model_that_sees_rows_by_themselves_passes(model: nn.Module, rows: int) -> None:
    x = torch.randint(0, 9, (rows, 3)) if isinstance(model[0], nn.Embedding) else torch.randn(rows, 3)  # type: ignore[index]
    refuse_mixing(model, x)


def bce(z: torch.Tensor, y: torch.Tensor, **options: Any) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(z.reshape(-1), y.reshape(-1).to(z.dtype), **options)


MIXING = {
    "maximum": lambda z, y: bce(z - z.max().detach(), y),
    "mean": lambda z, y: bce(z - z.mean(), y),
    "norm": lambda z, y: bce(z / (1 + z.norm()), y),
    "weights by softmax": lambda z, y: (bce(z, y, reduction="none") * torch.softmax(z.detach().reshape(-1), 0)).sum(),
    "weights by class": lambda z, y: bce(z, y, pos_weight=(1 + (1 - y).sum()) / (1 + y.sum())),
    "hardest row": lambda z, y: bce(z, y, reduction="none").max(),
    "sum": lambda z, y: bce(z, y, reduction="sum"),
    "not a number": lambda z, y: bce((z - z.mean()) / z.var(correction=0), y),
}
TERM_BY_TERM = {
    "built in": ClientTrainer().loss,
    "public weights": lambda z, y: bce(z, y, pos_weight=torch.tensor(3.0)),
    "focal": lambda z, y: (bce(z, y, reduction="none") * torch.sigmoid(-z.reshape(-1)) ** 2).mean(),
    "hinge": lambda z, y: torch.relu(1 - z.reshape(-1) * (2 * y - 1)).mean(),
    "with noise": lambda z, y: bce(z + 0 * torch.randn_like(z), y),
    "and a penalty": lambda z, y: bce(z, y) + 0.01 * (z**2).mean(),
}


@pytest.mark.parametrize("zeros", [True, False])
@pytest.mark.parametrize("loss", MIXING.values(), ids=MIXING)
def test_a_loss_that_mixes_rows_is_refused_with_privacy(loss: Any, zeros: bool) -> None:
    trainer, model = ClientTrainer(), linear()
    if zeros:
        nn.init.zeros_(model.weight)  # type: ignore[arg-type]
    trainer.__class__ = type("Mixes", (ClientTrainer,), {"loss": lambda _self, z, y: loss(z, y)})
    with pytest.raises(ModelUnsupported, match="is no mean of one term a record"):
        Runner(model, sites(), trainer=trainer, job=job(mechanism="local-record", sample_rate=0.3))
    Runner(model, sites(), trainer=trainer, job=job(mechanism="none"))


@pytest.mark.parametrize("loss", TERM_BY_TERM.values(), ids=TERM_BY_TERM)
def test_a_loss_of_one_term_a_row_passes(loss: Any) -> None:
    x, y = torch.randn(6, 3), torch.tensor([0.0, 1, 1, 0, 1, 0])
    refuse_mixing_loss(nn.Linear(3, 1), loss, x, y)
    refuse_mixing_loss(nn.Linear(3, 1), loss, x[:1], y[:1])


class Forgetful(ClientTrainer):
    def __init__(self) -> None:
        """Without super().__init__()."""


class Steps(ServerAggregator):
    def __init__(self, hook: str) -> None:
        super().__init__()
        setattr(self, hook, lambda *_: None)


def test_what_a_subclass_leaves_out_is_named() -> None:
    with pytest.raises(UserError, match=r"Forgetful.__init__ must call super\(\).__init__\(\)"):
        Runner(linear, sites(), trainer=Forgetful(), job=job())
    for hook, words in {"step": "a list of parameters, not None", "on_before_step": "an Aggregate, not None"}.items():
        with pytest.raises(UserError, match=f"{hook} of Steps must give {words}"):
            Runner(linear, sites(), server=Steps(hook), job=job(mechanism="none")).run()


def test_the_expected_aborts_are_told_before_training() -> None:
    told: list[str] = []
    some = Job.parse({"privacy": {"mechanism": "none", "rounds": 20}, "simulation": {"dropout": 0.3}})
    runner = Runner(linear, sites(), job=some, on_notice=told.append)
    (line,) = [line for line in told if "abort" in line]
    assert f"expect about {expected_aborts(some, len(runner.folds)):.1f} of 20 rounds to abort" in line
