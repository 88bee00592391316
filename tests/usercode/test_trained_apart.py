"""Code in a child trains as it would here, bit by bit; and whatever it answers is clipped, noised and counted here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HONEST, rows
from torch import nn
from torch.utils.data import TensorDataset

from protocols.primitives.sign import SigningKey
from protocols.rand import Rand, Seed
from protocols.suite import Member, Roster
from securefl import ClientTrainer, UserError
from securefl.data.types import Site
from securefl.encode import Plan
from securefl.job import Job
from securefl.models import from_vector, to_vector
from securefl.modules import Copier
from securefl.own_rows import OwnRows, refuse_unfit
from securefl.privacy import gradients as whole
from securefl.privacy.dpsgd import LocalRecordDP
from securefl.privacy.gradients import GradientSums
from securefl.privacy.noise_plan import Cohort
from securefl.privacy.plain import LocalTraining, PlainTraining
from securefl.privacy.record_plan import calibrate_records
from securefl.shared_job import SharedJob
from securefl.usercode import remote
from securefl.usercode.frames import CodeFault
from securefl.usercode.isolation import Isolation
from securefl.usercode.remote import RemoteTrainer, trainer_of
from securefl.usercode.shell import model_file, shell_of

SIZE = 19
X, Y = rows(count=40)
DATA = TensorDataset(torch.from_numpy(X), torch.from_numpy((np.arange(40) % 2).astype(np.float32)))


def entropy() -> Any:
    count = iter(range(10**6))
    return lambda: Rand(Seed(f"{next(count)}".encode().ljust(32, b".")))


def built() -> nn.Module:
    scope: dict[str, Any] = {}
    exec(HONEST, scope)  # noqa: S102
    model: nn.Module = scope["build"]()
    return model


PLAN = calibrate_records(
    epsilon=8.0, delta=1e-5, cohort=Cohort(4, 3, 1), rounds=3, size=SIZE, clip=1.0, rate=0.5, rows=40, models=1,
    models_per_record=1, kind="skellam",
)  # fmt: skip


def trainings() -> dict[str, LocalTraining]:
    local: dict[str, Any] = {"sample_rate": 0.5, "clip": 1.0, "delta": 1e-5, "accountant": "rdp", "planned_steps": 3}
    return {
        "none": PlainTraining(sample_rate=1.0, entropy=entropy()),
        "local-record": LocalRecordDP(noise_multiplier=1.0, entropy=entropy(), **local),
        "distributed-record": GradientSums(PLAN, entropy()),
    }


def trained(trainer: ClientTrainer, model: nn.Module, training: LocalTraining, steps: int) -> np.ndarray[Any, Any]:
    trainer.train(model, DATA, training, steps)
    return training.take() if isinstance(training, GradientSums) else to_vector(model)


@pytest.mark.parametrize("mechanism", ["none", "local-record", "distributed-record"])
def test_a_child_trains_as_the_same_code_does_here(honest: RemoteTrainer, mechanism: str) -> None:
    steps = 1 if mechanism == "distributed-record" else 3
    here = trained(ClientTrainer(), built(), trainings()[mechanism], steps)
    apart = trained(honest, Copier(honest._code.template())(), trainings()[mechanism], steps)
    assert here.dtype == apart.dtype
    assert (here == apart).all()
    assert np.abs(here).sum() > 0


def test_held_out_rows_are_scored_as_here_by_another_child_that_sees_no_label(honest: RemoteTrainer) -> None:
    here, apart = (
        trainer.evaluate(model, DATA) for trainer, model in ((ClientTrainer(), built()), (honest, honest._code.template()))
    )
    assert here.keys() == apart.keys()
    assert all((np.asarray(here[name]) == np.asarray(apart[name])).all() for name in here)
    assert len({child._process.pid for child in honest._code._children.values() if child._process}) == 2


def test_a_model_file_takes_the_place_of_a_child_and_is_held_against_it() -> None:
    content = model_file(built())
    code = remote.Code({"honest.py": HONEST}, "honest:build", Isolation(), 0.5, content)
    shell = code.template()
    assert not code._children
    assert [name for name, _ in shell.named_parameters()] == [name for name, _ in built().named_parameters()]
    assert (to_vector(shell) == to_vector(built())).all()
    other = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 1))
    wrong = remote.Code({"honest.py": HONEST}, "honest:build", Isolation(), 0.5, model_file(other))
    wrong.template()
    with pytest.raises(CodeFault, match="code-parameters"):
        wrong.child("training")
    wrong.close()


HUGE = """
import numpy as np, sys
from honest import build

child = sys.modules["__main__"]
usual = child.packed

def packed(facts, arrays):
    return usual(facts, {name: np.full_like(values, 1e15) for name, values in arrays.items()})

child.packed = packed
"""
MIXED = """
import torch
from torch import nn
from securefl import ClientTrainer
from honest import build as plain

class Mixed(ClientTrainer):
    def loss(self, output, y):
        return super().loss(output - output.mean(), y)

class Own(ClientTrainer):
    def optimizer(self, model):
        return torch.optim.Adam(model.parameters())

class Scores(ClientTrainer):
    def evaluate(self, model, data):
        return {}

def mixed():
    return plain(), Mixed()

def own():
    return plain(), Own()

def scores():
    return plain(), Scores()

def nothing():
    return 3

def broken():
    raise ValueError("no\\nsuch thing")
"""


@pytest.fixture(scope="module")
def huge() -> Iterator[RemoteTrainer]:
    trainer, _ = trainer_of({"honest.py": HONEST, "huge.py": HUGE}, "huge:build", Isolation(), initial=model_file(built()))
    yield trainer
    trainer.close()


def test_huge_gradients_are_clipped_here(huge: RemoteTrainer) -> None:
    training = GradientSums(PLAN, entropy())
    total = trained(huge, huge._code.template(), training, 1)
    assert 0 < np.linalg.norm(total) <= 40 * PLAN.fixed
    local = trainings()["local-record"]
    assert isinstance(local, LocalRecordDP)
    object.__setattr__(local, "noise_multiplier", 1e-9)
    moved = trained(huge, huge._code.template(), local, 1) - to_vector(built())
    assert 0 < np.linalg.norm(moved) <= 40 * 0.5 / (0.5 * 40) + 1e-6  # as far as 40 records of norm 1 go


def test_control_without_clipping_here_huge_gradients_go_through(huge: RemoteTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "whole_gradients", lambda found, _plan: np.rint(np.minimum(found, 1e12)).astype(np.int64))
    total = trained(huge, huge._code.template(), GradientSums(PLAN, entropy()), 1)
    assert np.linalg.norm(total) > 1000 * 40 * PLAN.fixed


def test_a_huge_update_is_clipped_here(huge: RemoteTrainer) -> None:
    from protocols.suite import Occasion

    model = huge._code.template()
    start = to_vector(model)
    huge.train(model, DATA, PlainTraining(sample_rate=1.0), 1)
    update = np.subtract(to_vector(model), start, dtype=np.float64)
    assert np.linalg.norm(update) > 1e14

    def sent(clip: float) -> np.ndarray[Any, Any]:
        plan = Plan(3, (SIZE,), clip, 1, (), 16)
        coded = plan.encode([update], [1], {}, Occasion("run", 1), entropy()())
        return plan.decode(np.asarray(coded.vector), 1, Occasion("run", 1)).updates[0]  # type: ignore[return-value]

    assert np.linalg.norm(sent(8.0)) <= 8.1
    assert np.linalg.norm(sent(1e6)) > 9e5  # a bound that lets it through, as a control


def code_of(entry: str) -> RemoteTrainer:
    files = {"honest.py": HONEST, "mixed.py": MIXED}
    return trainer_of(files, f"mixed:{entry}", Isolation(), initial=model_file(built()))[0]


@pytest.mark.parametrize(
    ("entry", "mechanism", "error", "why"),
    [
        ("mixed", "local-record", CodeFault, "code-mixing"),
        ("mixed", "none", None, ""),
        ("own", "distributed-record", UserError, "has optimizer of its own"),
        ("own", "none", None, ""),
        ("scores", "none", UserError, "has evaluate of its own"),
        ("nothing", "none", CodeFault, "must return a torch module"),
        ("broken", "none", CodeFault, "code failed: ValueError: no such thing"),
        ("absent", "none", CodeFault, "code failed: AttributeError"),
    ],
)
def test_code_that_does_not_fit_the_mechanism_is_refused_in_one_line(
    entry: str, mechanism: str, error: type[Exception] | None, why: str
) -> None:
    trainer = code_of(entry)
    try:
        model = trainer._code.template()
        if error is None:
            assert np.isfinite(trained(trainer, model, trainings()[mechanism], 1)).all()
            return
        with pytest.raises(error, match=why) as found:
            trained(trainer, model, trainings()[mechanism], 1)
        assert "\n" not in str(found.value)
    finally:
        trainer.close()


def test_gradients_come_in_parts_where_they_are_many(honest: RemoteTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = trained(honest, honest._code.template(), trainings()["distributed-record"], 1)
    monkeypatch.setattr(remote, "AT_ONCE", 3 * SIZE)
    parts = trained(honest, honest._code.template(), trainings()["distributed-record"], 1)
    assert np.abs(parts - at_once).max() <= 40 * PLAN.fixed * 2.0**-20  # a product over fewer rows rounds otherwise


MASKED = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(0.5), nn.Linear(3, 1))
    torch.manual_seed(0)
    return model
"""


def test_masks_in_a_child_do_not_follow_from_the_seed_of_its_code() -> None:
    found = list[np.ndarray[Any, Any]]()
    for _ in range(2):
        trainer, model = trainer_of({"masked.py": MASKED}, "masked:build", Isolation())
        try:
            found.append(remote._gradients(trainer._code.child("training"), to_vector(model), X, np.ones(len(X), np.float32)))
        finally:
            trainer.close()
    assert (found[0] != found[1]).any(axis=1).mean() > 0.5, "three masked neurons differ in 7 of 8 records"


def test_code_is_looked_at_before_anything_leaves_and_a_closed_trainer_starts_no_child_again() -> None:
    trainer = code_of("own")
    columns = {f"c{at}": (-1.0, 1.0) for at in range(4)}
    cohort = Roster(tuple(Member(f"site {at}", SigningKey(Seed(bytes([at]) * 32)).public) for at in range(3)))

    def looked(mechanism: str) -> list[str]:
        tree = {"data": {"name": "t.csv", "label": "y", "site": "s", "ranges": columns}, "privacy": {"mechanism": mechanism}}
        job = Job.parse(tree)
        shared = SharedJob.of(job, cohort, code=(trainer, trainer._code.template()))
        x, y = (part.numpy() for part in DATA.tensors)
        return refuse_unfit(shared, OwnRows.of(job, Site("site 0", x.astype(np.float64), y.astype(np.int64))))

    assert looked("none") == []
    with pytest.raises(UserError, match="has optimizer of its own"):
        looked("local-record")
    child = trainer._code.child("training")
    trainer.close()
    assert child._process is None
    with pytest.raises(CodeFault, match="was ended"):
        child.ask("initial", {}, {}, {})


def test_a_shell_is_copied_like_any_model() -> None:
    shell = shell_of([("0.weight", (3, 4)), ("0.bias", (3,)), ("2.weight", (1, 3)), ("2.bias", (1,))])
    vector = np.arange(SIZE, dtype=np.float32)
    assert (to_vector(Copier(shell)(vector)) == vector).all()
    from_vector(shell, vector)
    assert replace(PLAN, size=SIZE).size == to_vector(shell).size
