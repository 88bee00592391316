"""Every algorithm against a plain re-computation by its paper: logistic regression in numpy, no masks, one list of updates."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from made_sites import linear, replayed, sites, weights
from torch import nn

from securefl import ClientTrainer, Runner, ServerAggregator, algorithms
from securefl.aggregator import Aggregate
from securefl.algorithms import Algorithm, FedNova, FedOpt, FedProx, QFedAvg, Scaffold, of_job
from securefl.algorithms.base import Pair
from securefl.algorithms.server import factor
from securefl.errors import UserError
from securefl.job import Job
from securefl.results import RunResult
from securefl.round_types import Fold

ROUNDS, STEPS, RATE = 4, 3, 0.5
Array = np.ndarray[Any, Any]
Rows = list[tuple[Array, Array]]


def plain_rows(data: Mapping[str, Fold]) -> Rows:
    out = []
    for fold in data.values():
        x, y = (t.numpy().astype(np.float64) for t in fold.train.tensors)  # type: ignore[attr-defined]
        out.append((np.column_stack([x, np.ones(len(x))]), y))
    return out


def gradient(w: Array, x: Array, y: Array) -> Array:
    p = 1 / (1 + np.exp(-(x @ w)))
    return x.T @ (p - y) / len(y)


def loss(w: Array, x: Array, y: Array) -> float:
    z = x @ w
    return float(np.mean(np.logaddexp(0, z) - y * z))


def descend(w: Array, x: Array, y: Array, steps: int, more: Callable[[Array], Array] = np.zeros_like) -> Array:
    for _ in range(steps):
        w = w - RATE * (gradient(w, x, y) + more(w))
    return w


def start() -> Array:
    return np.concatenate([p.detach().numpy().ravel() for p in linear().parameters()]).astype(np.float64)


def mean(vectors: list[Array], of: list[float]) -> Array:
    return np.asarray(np.average(vectors, axis=0, weights=of))


def run(data: Mapping[str, Fold], algorithm: str = "fedavg", dropouts: Any = None, **keys: Any) -> RunResult:
    return runner(data, algorithm, dropouts, **keys).run()


def runner(data: Mapping[str, Fold], algorithm: str = "fedavg", dropouts: Any = None, **keys: Any) -> Runner:
    privacy = {"mechanism": "none", "rounds": ROUNDS, "local_steps": STEPS, "sample_rate": 1.0, "precision": 24}
    names = {name for name in keys if name in Job().performance.model_fields_set or name in type(Job().performance).model_fields}
    performance = {"algorithm": algorithm, **{name: keys.pop(name) for name in names}}
    job = Job.parse({"privacy": {**privacy, **keys}, "performance": performance})
    return Runner(linear, data, job=job, entropy=replayed, dropouts=dropouts)


def near(result: RunResult, expected: Array) -> None:
    """Equal up to 24-bit rounding of a few rounds; and something was learnt."""
    assert np.abs(weights(result) - expected).max() < 2e-4
    assert np.abs(expected - start()).max() > 0.1


def test_fedprox_is_the_proximal_objective() -> None:
    data, w = sites(), start()
    for _ in range(ROUNDS):
        here = w.copy()
        ends = [descend(here, x, y, STEPS, lambda v, here=here: 0.7 * (v - here)) for x, y in plain_rows(data)]
        w = here + mean([e - here for e in ends], [len(y) for _, y in plain_rows(data)])
    near(run(data, "fedprox", proximal=0.7), w)
    assert np.abs(weights(run(data)) - w).max() > 1e-2  # FedAvg is another model


def test_fedprox_without_a_pull_is_fedavg() -> None:
    assert (weights(run(sites(), "fedprox", proximal=0.0)) == weights(run(sites()))).all()


def test_fednova_averages_steps_of_equal_length() -> None:
    data, w = sites(), start()
    for _ in range(ROUNDS):
        rows = plain_rows(data)
        taus = [max(1, round(STEPS * len(y) / 30)) for _, y in rows]
        share = np.array([len(y) for _, y in rows]) / sum(len(y) for _, y in rows)
        each = [(descend(w, x, y, tau) - w) / tau for (x, y), tau in zip(rows, taus, strict=True)]
        w = w + float(share @ taus) * sum(p * d for p, d in zip(share, each, strict=True))
    assert len(set(taus)) > 2
    near(run(data, "fednova", step_rows=30), w)


def test_scaffold_is_option_two_of_the_paper() -> None:
    data, w = sites(), start()
    rows = plain_rows(data)
    n, c = [float(len(y)) for _, y in rows], np.zeros_like(w)
    own = [np.zeros_like(w) for _ in rows]
    for _ in range(ROUNDS):
        ends = [descend(w, x, y, STEPS, lambda _v, d=c - ci: d) for (x, y), ci in zip(rows, own, strict=True)]
        renewed = [ci - c + (w - e) / (STEPS * RATE) for ci, e in zip(own, ends, strict=True)]
        w, c = w + mean([e - w for e in ends], n), c + mean([a - b for a, b in zip(renewed, own, strict=True)], n)
        own = renewed
    near(run(data, "scaffold"), w)
    assert np.abs(weights(run(data)) - w).max() > 1e-3


def test_scaffold_keeps_its_controls_through_an_aborted_round() -> None:
    """A round that all but one leave changes neither model nor controls: the other four are those of a run without it."""
    data = sites()
    gone = {2: dict.fromkeys([*data][1:], "Masked")}
    broken = run(data, "scaffold", lambda number, stages: dict.fromkeys(gone.get(number, {}), stages[-2]), rounds=ROUNDS + 1)
    assert [bool(r.aborted) for r in broken.rounds] == [False, True, False, False, False]
    assert np.abs(weights(broken) - weights(run(data, "scaffold"))).max() < 1e-5


@pytest.mark.parametrize("stage", [0, 1])
def test_scaffold_keeps_nothing_of_rounds_whose_vector_did_not_leave(stage: int) -> None:
    """They are in no account: until the first round that it is in, a site's C_i is zero."""
    data, w = sites(), start()
    rows = plain_rows(data)
    n, c, own = [float(len(y)) for _, y in rows], np.zeros_like(w), [np.zeros_like(w) for _ in rows]
    for number in range(1, ROUNDS + 1):
        here = [*range(number < ROUNDS, len(rows))]
        ends = {i: descend(w, *rows[i], STEPS, lambda _v, d=c - own[i]: d) for i in here}
        renewed = {i: own[i] - c + (w - ends[i]) / (STEPS * RATE) for i in here}
        some = [n[i] for i in here]
        w, c = (
            w + mean([ends[i] - w for i in here], some),
            c + len(here) / len(rows) * mean([renewed[i] - own[i] for i in here], some),
        )
        own = [renewed.get(i, own[i]) for i in range(len(rows))]
    first = next(iter(data))
    near(run(data, "scaffold", lambda number, stages: {first: stages[stage]} if number < ROUNDS else {}), w)


@pytest.mark.parametrize("kind", ["fedadam", "fedyogi", "fedadagrad"])
def test_adaptive_servers_are_algorithm_two_of_the_paper(kind: str) -> None:
    data, w = sites(), start()
    m, v = np.zeros_like(w), np.full_like(w, 0.05**2)
    for _ in range(ROUNDS):
        d = mean([descend(w, x, y, STEPS) - w for x, y in plain_rows(data)], [len(y) for _, y in plain_rows(data)])
        m = 0.8 * m + 0.2 * d
        if kind == "fedadagrad":
            v = v + d**2
        elif kind == "fedyogi":
            v = v - 0.05 * d**2 * np.sign(v - d**2)
        else:
            v = 0.95 * v + 0.05 * d**2
        w = w + 0.3 * m / (np.sqrt(v) + 0.05)
    beta2 = {} if kind == "fedadagrad" else {"decay_squares": 0.95}
    near(run(data, kind, decay_mean=0.8, adaptivity=0.05, server_learning_rate=0.3, **beta2), w)


@pytest.mark.parametrize("q", [0.0, 1.0, 2.5])
def test_qfedavg_is_algorithm_two_of_the_paper(q: float) -> None:
    data, w = sites(), start()
    for _ in range(ROUNDS):
        rows, lipschitz = plain_rows(data), 1 / RATE
        losses = [loss(w, x, y) for x, y in rows]
        moved = [lipschitz * (w - descend(w, x, y, STEPS)) for x, y in rows]
        deltas = [f**q * d for f, d in zip(losses, moved, strict=True)]
        h = [q * f ** (q - 1) * float(d @ d) + lipschitz * f**q for f, d in zip(losses, moved, strict=True)]
        w = w - sum(deltas) / sum(h)
    result = run(data, "qfedavg", fairness=q)
    assert np.abs(weights(result) - w).max() < 2e-3
    assert np.abs(w - start()).max() > 0.1


def test_fedsgd_is_one_step_on_all_rows() -> None:
    data, w = sites(), start()
    for _ in range(ROUNDS):
        x, y = (np.concatenate(parts) for parts in zip(*plain_rows(data), strict=True))
        w = descend(w, x, y, 1)
    near(run(data, "fedsgd", local_steps=1), w)


@pytest.mark.parametrize(
    ("schedule", "factors"), [("cosine", [1, 0.85355339, 0.5, 0.14644661]), ("inverse-sqrt", [1, 2**-0.5, 3**-0.5, 0.5])]
)
def test_the_server_follows_its_schedule(schedule: Any, factors: list[float]) -> None:
    data, w = sites(), start()
    for each in factors:
        d = mean([descend(w, x, y, STEPS) - w for x, y in plain_rows(data)], [len(y) for _, y in plain_rows(data)])
        w = w + 0.9 * each * d
    near(run(data, server_schedule=schedule, server_learning_rate=0.9), w)
    assert [factor(schedule, t, 4) for t in (1, 2, 3, 4)] == pytest.approx(factors)


@pytest.mark.parametrize("algorithm", [FedProx(0.3), FedNova(40), Scaffold(), QFedAvg(0.5), FedOpt("fedyogi", beta1=0.5)])
def test_an_object_is_the_job_with_its_keys(algorithm: Algorithm) -> None:
    """What `Runner` is handed and what the job file names are one algorithm, with the same models."""
    by_key = Job.parse({"performance": algorithm.knobs()})
    assert of_job(by_key).knobs() == algorithm.knobs()
    job = Job.parse({"privacy": {"mechanism": "none", "rounds": 2, "sample_rate": 1.0}})
    made = Runner(linear, sites(), job=job, entropy=replayed, algorithm=algorithm)
    assert made.job.performance.algorithm == algorithm.name
    again = Job.parse(made.job.plain())
    named = Runner(linear, sites(), job=again, entropy=replayed)
    assert (weights(made.run()) == weights(named.run())).all()


@pytest.mark.parametrize("protocol", ["secagg", "secagg+", "kahe", "lightsecagg", "bfv", "ckks"])
@pytest.mark.parametrize("algorithm", ["fednova", "scaffold", "qfedavg"])
def test_sums_are_exact_under_every_protocol(algorithm: str, protocol: str) -> None:
    masked, bare = (run(sites((20, 30, 25)), algorithm, rounds=2, precision=16, protocol=p) for p in (protocol, "plain-insecure"))
    assert (weights(masked) == weights(bare)).all()


@pytest.mark.parametrize(
    ("algorithm", "mechanism"),
    [
        ("fedprox", "local-record"),
        ("scaffold", "local-record"),
        ("fedprox", "distributed-party"),
        ("scaffold", "distributed-party"),
        ("fedadam", "distributed-party"),
        ("fedyogi", "distributed-record"),
        ("fedadagrad", "central"),
        ("fedsgd", "distributed-record"),
    ],
)
def test_what_makes_sense_runs_under_differential_privacy(algorithm: str, mechanism: str) -> None:
    rows = {"rows": 60} if mechanism in ("distributed-record", "central") else {}
    knobs = {"mechanism": mechanism, "rounds": 2, "epsilon": 50.0, **rows}
    job = Job.parse({"privacy": knobs, "performance": {"algorithm": algorithm, "server_learning_rate": 0.1}})
    result = Runner(linear, sites(), job=job).run()
    assert [r.aborted for r in result.rounds] == [None, None]
    assert 0 < max(result.epsilon) <= 50.0
    assert all(o.coverage != "exact" or "control" not in o.what for o in result.opened)


REFUSED = [
    ("fedprox", "distributed-record", "the proximal term is zero"),
    ("fedprox", "central", "the proximal term is zero"),
    ("fednova", "local-record", "exactly privacy.local_steps"),
    ("fednova", "distributed-party", "beside a sum that noise protects"),
    ("fednova", "distributed-record", "one step"),
    ("scaffold", "distributed-record", "no noise covers"),
    ("scaffold", "central", "no noise covers"),
    ("qfedavg", "local-record", "no noise covers"),
    ("qfedavg", "distributed-party", "no noise covers"),
    ("qfedavg", "distributed-record", "no noise covers"),
]


@pytest.mark.parametrize(("algorithm", "mechanism", "why"), REFUSED)
def test_what_makes_none_is_refused_with_the_reason(algorithm: str, mechanism: str, why: str) -> None:
    rows = {"rows": 60} if mechanism in ("distributed-record", "central") else {}
    job = Job.parse({"privacy": {"mechanism": mechanism, **rows}, "performance": {"algorithm": algorithm}})
    with pytest.raises(UserError, match=f"performance.algorithm = {algorithm} is refused with {mechanism}: .*{why}") as caught:
        Runner(linear, sites(), job=job)
    assert "\n" not in str(caught.value)


def test_other_refusals_name_the_key() -> None:
    with pytest.raises(UserError, match=r"fedsgd is one step a round, and privacy.local_steps is 3"):
        run(sites(), "fedsgd")
    with pytest.raises(UserError, match=r"performance.proximal is refused with algorithm = fedavg: it belongs to fedprox"):
        Job.parse({"performance": {"proximal": 0.1}})
    with pytest.raises(UserError, match=r"performance.algorithm = 'fedpro' is refused; allowed: fedavg or .*did you mean fedprox"):
        Job.parse({"performance": {"algorithm": "fedpro"}})
    with pytest.raises(UserError, match=r"fednova has a server step of its own: leave out ServerAggregator"):
        Runner(linear, sites(), algorithm=FedNova(), server=ServerAggregator(), job=Job.parse({"privacy": {"mechanism": "none"}}))
    with pytest.raises(UserError, match=r"performance.algorithm is fedprox, and scaffold is given"):
        Runner(linear, sites(), algorithm=Scaffold(), job=Job.parse({"performance": {"algorithm": "fedprox"}}))
    privacy = {"mechanism": "distributed-party", "clip_quantile": 0.5}
    with pytest.raises(UserError, match=r"scaffold is refused with privacy.clip_quantile"):
        Runner(linear, sites(), job=Job.parse({"privacy": privacy, "performance": {"algorithm": "scaffold"}}))


class ByHand(ClientTrainer):
    """Takes its steps without an optimizer."""

    def train(self, model: nn.Module, data: Any, training: Any, steps: int) -> None:
        with training.private(model, self.optimizer(model), data, steps) as (_, _optimizer, batches):
            for x, y in batches:
                gradients = torch.autograd.grad(self.loss(model(x), y), [*model.parameters()])
                with torch.no_grad():
                    torch._foreach_sub_([*model.parameters()], [0.1 * g for g in gradients])


class Momentum(ClientTrainer):
    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)


@pytest.mark.parametrize(
    ("trainer", "algorithm", "why"),
    [(ByHand(), FedProx(), "0 of 3 were taken by it"), (Momentum(), Scaffold(), "plain SGD"), (Momentum(), FedNova(), "plain SGD")],
)
def test_a_trainer_that_would_not_be_steered_is_refused(trainer: ClientTrainer, algorithm: Algorithm, why: str) -> None:
    job = Job.parse({"privacy": {"mechanism": "none", "sample_rate": 1.0}})
    with pytest.raises(UserError, match=why):
        Runner(linear, sites(), trainer=trainer, algorithm=algorithm, job=job).run()


def test_models_beside_each_other_keep_their_own_controls() -> None:
    """Two folds of one data set in one vector give what each gives alone."""
    first, second = sites(), sites((30, 35, 60, 20, 45))
    both = run({k: (first[k], second[k]) for k in first}, "scaffold")  # type: ignore[misc]
    alone = np.concatenate([weights(run(first, "scaffold")), weights(run(second, "scaffold"))])
    assert np.abs(weights(both) - alone).max() < 1e-4


def test_only_the_sum_goes_to_a_server_of_ones_own() -> None:
    seen: list[Aggregate] = []

    class Watching(ServerAggregator):
        def step(self, models: Any, aggregate: Aggregate) -> Any:
            seen.append(aggregate)
            return super().step(models, aggregate)

    job = Job.parse({"privacy": {"mechanism": "none", "rounds": 2}})
    Runner(linear, sites(), server=Watching(), algorithm=FedProx(), job=job).run()
    assert [(a.round, a.contributors, len(a.updates)) for a in seen] == [(1, 5, 1), (2, 5, 1)]


def test_every_algorithm_names_its_paper_and_the_sums_that_it_needs() -> None:
    modules = [importlib.import_module(f"securefl.algorithms.{found.name}") for found in pkgutil.iter_modules(algorithms.__path__)]
    own = {module.__name__.rpartition(".")[2]: module.__doc__ or "" for module in modules}
    for name in own.keys() - {"base", "wrapped"}:  # what they are made of
        assert re.search(r"Source|et al\.|Lee \(", own[name]), name
        assert re.search(r"^Needs? ", own[name], re.MULTILINE), name


def test_a_pair_is_finer_than_one_coordinate() -> None:
    pair, values = Pair("x", 3, 1000.0, 32767), np.array([0.0, 3.14159, 2000.0])
    whole, rest = pair.specs()
    sums = pair.sums(values)
    assert np.abs(pair.read(sums) - np.minimum(values, 1000.0)).max() < 1e-9
    assert whole.max == 32767
    assert whole.integer
    assert rest.max == pytest.approx(1000 / 32767)
    assert (sums["x.whole"] <= whole.max).all()
    assert (sums["x.rest"] <= rest.max).all()
    with pytest.raises(UserError, match="at least 0"):
        pair.sums([-1.0, 0, 0])
