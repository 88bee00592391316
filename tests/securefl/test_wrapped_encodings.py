"""Groups, sketches and few bits: encodings around an encoding, each against plain arithmetic on the list of updates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_sites import linear, replayed, sites, weights
from torch import nn

from protocols.errors import Abort, Misuse
from protocols.rand import Rand, Replay, Seed
from protocols.suite import Occasion
from securefl import Runner
from securefl.algorithms.groups import LONELY, Grouped, lonely, refuse_lonely
from securefl.algorithms.quantised import WEIGHTS, Quantised
from securefl.algorithms.sketches import LowRank, Mask, Sketched, shared
from securefl.encode import Plan
from securefl.encoding import Encoding, SumSpec
from securefl.errors import UserError
from securefl.job import Job
from securefl.models import initialise

Array = np.ndarray[Any, Any]
SUMS = (SumSpec("rows", 2, 30_000.0, integer=True), SumSpec("loss", 1, 5.0))
AT = Occasion("run", 3, 0, b"m" * 32)


def rand(label: object) -> Rand:
    return Rand(Seed(f"{label}".encode().ljust(32, b".")))


def total(plan: Encoding, updates: list[Array], loads: list[int], at: Occasion = AT) -> Array:
    """The sum of all parties' vectors; every party has the same metrics."""
    metrics = {"rows": [3, 4], "loss": [1.25]}
    made = [plan.encode([u], [w], metrics, at, rand(i)) for i, (u, w) in enumerate(zip(updates, loads, strict=True))]
    assert max(int(np.abs(e.vector).max()) for e in made) <= plan.limit
    assert plan.parties * plan.limit < 2 ** (plan.bits - 1)
    assert {e.vector.shape for e in made} == {(plan.size,)}
    return np.sum([e.vector for e in made], axis=0)


def some(n: int, d: int, seed: int = 0, norm: float = 0.9) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [norm * v / np.linalg.norm(v) for v in rng.normal(size=(n, d))]


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_few_bits_give_the_mean_to_their_grid_and_the_sums_exactly(bits: int) -> None:
    n, d = 7, 300
    plan = Quantised((d,), 1.0, 256, bits, Plan(n, (), 1.0, 1, (SumSpec(WEIGHTS, 1, 256.0, integer=True), *SUMS), 16))
    updates, loads = some(n, d), [256, 200, 1, 77, 256, 13, 150]
    found = plan.decode(total(plan, updates, loads), n, AT)
    assert found.weights == (sum(loads),)
    assert found.sums["rows"].tolist() == [3 * n, 4 * n]
    assert found.sums["loss"][0] == pytest.approx(1.25 * n, abs=n * 5 / 32767)
    error = found.updates[0] - np.average(updates, axis=0, weights=loads)  # type: ignore[operator]
    assert np.abs(error).max() <= n * plan.step / sum(loads)
    assert math.sqrt(float(np.mean(error**2))) < math.sqrt(n) / 2 * plan.step / sum(
        loads
    )  # the variance of a rounding is at most ¼
    assert plan.size == d + plan.digits * 4
    assert plan.digits == {4: 5, 8: 3, 12: 2}[bits]


@settings(max_examples=50, deadline=None)
@given(st.integers(4, 15), st.lists(st.integers(-30_000, 30_000), min_size=2, max_size=9))
def test_digits_add_up(bits: int, values: list[int]) -> None:
    n = len(values)
    plan = Quantised((1,), 1.0, 7, bits, Plan(n, (), 1.0, 1, (SumSpec(WEIGHTS, 1, 7.0, integer=True), SUMS[0]), 16))
    made = [plan.encode([[0.1]], [7], {"rows": [v, -v]}, AT, rand(i)).vector for i, v in enumerate(values)]
    assert max(int(np.abs(v).max()) for v in made) <= plan.limit
    assert plan.decode(np.sum(made, axis=0), n, AT).sums["rows"].tolist() == [sum(values), -sum(values)]


def test_few_bits_refuse_what_cannot_be() -> None:
    plan = Quantised((3,), 1.0, 256, 8, Plan(2, (), 1.0, 1, (SumSpec(WEIGHTS, 1, 256.0, integer=True),), 16))
    with pytest.raises(Abort, match="beyond"):
        plan.decode(np.full(plan.size, 255), 2, AT)
    with pytest.raises(Abort, match="weight"):
        plan.decode(np.zeros(plan.size, dtype=np.int64), 2, AT)
    with pytest.raises(Misuse, match="shape"):
        plan.decode(np.zeros(3, dtype=np.int64), 2, AT)
    with pytest.raises(UserError, match="finite"):
        plan.encode([[0.0, np.nan, 0.0]], [1], {}, AT, rand(0))
    long = plan.encode([[3.0, 0.0, 4.0]], [300], {}, AT, rand(0))
    assert (long.clipped, long.cut) == ((True,), (0,))
    with pytest.raises(UserError, match=r"update_bits is 16: it must be below privacy.precision, 16"):
        Quantised.of(Job().privacy, 3, (3,), (), 16)


def test_a_mask_sums_the_kept_values_and_leaves_the_others() -> None:
    n, d, kept = 5, 40, 12
    updates, loads = some(n, d), [10, 20, 30, 40, 50]
    plan = Sketched(Plan(n, (kept,), 1.0, 64, SUMS, 24), (d,), Mask(d, kept))
    found = plan.decode(total(plan, updates, loads), n, AT)
    assert found.updates[0] is not None
    where = np.flatnonzero(found.updates[0])
    assert len(where) == kept
    assert np.abs(found.updates[0] - np.average(updates, axis=0, weights=loads))[where].max() < 1e-5
    assert plan.size == kept + 1 + 3
    other = Occasion("run", 4, 0, b"m" * 32)
    again = plan.decode(total(plan, updates, loads, other), n, other).updates[0]
    assert again is not None
    assert set(np.flatnonzero(again)) != set(where)


def test_every_value_is_kept_as_often_as_another() -> None:
    """4000 masks of 5 of 20: each value is in 1000; 4.5 standard deviations, false alarm below 2e-4."""
    mask, count = Mask(20, 5), np.zeros(20)
    for number in range(4000):
        count += mask.up(np.ones(5), shared(Occasion("r", number, 0, b"m" * 32), 0))
    assert np.abs(count - 1000).max() < 4.5 * math.sqrt(4000 * 0.25 * 0.75)


@pytest.mark.parametrize("shapes", [((12, 30), (12,)), ((30, 12), (12,)), ((6, 3, 3, 3), (4,), ())])
def test_low_rank_factors_are_the_projection_on_a_shared_subspace(shapes: tuple[tuple[int, ...], ...]) -> None:
    d = sum(math.prod(s) for s in shapes)
    sketch, n = LowRank(shapes, 2), 4
    assert sketch.size < d
    updates, loads = some(n, d, 1), [1, 2, 3, 4]
    plan = Sketched(Plan(n, (sketch.size,), 1.0, 4, SUMS, 24), (d,), sketch)
    found, mean = plan.decode(total(plan, updates, loads), n, AT).updates[0], np.average(updates, axis=0, weights=loads)
    assert found is not None
    again = sketch.up(sketch.down(found, shared(AT, 0)), shared(AT, 0))
    assert np.abs(again - found).max() < 1e-12  # a projection
    assert abs(float((mean - found) @ found)) < 1e-3  # an orthogonal one
    first = math.prod(shapes[0])
    assert np.abs(found - mean)[first:].max() < 1e-5
    matrix = found[:first].reshape(shapes[0][0], -1)
    assert np.linalg.matrix_rank(matrix, tol=1e-4) == 2
    assert all(np.linalg.norm(sketch.down(u, shared(AT, 0))) <= np.linalg.norm(u) + 1e-12 for u in updates)


def test_the_median_of_group_means_is_that_of_the_list() -> None:
    n, d, groups = 40, 6, 5
    updates, loads = some(n, d, 2), [1 + i % 7 for i in range(n)]
    plan = Grouped(Plan(n, (d,) * groups, 1.0, 8, SUMS, 24), (d,), groups)
    found = plan.decode(total(plan, updates, loads), n, AT)
    own = [rand(i).below("group", groups, 1)[0] for i in range(n)]
    means = []
    for group in range(groups):
        inside = [i for i in range(n) if own[i] == group]
        assert inside
        means.append(np.average([updates[i] for i in inside], axis=0, weights=[loads[i] for i in inside]))
    assert found.updates[0] == pytest.approx(np.median(means, axis=0), abs=1e-5)
    assert found.weights == (sum(loads),)
    assert found.sums["rows"].tolist() == [3 * n, 4 * n]


def test_broken_sites_move_the_mean_and_not_the_median() -> None:
    n, d, groups = 90, 4, 5
    good = [0.1 + u for u in some(n, d, 3, 0.02)]
    bad = [np.full(d, -0.5) if i < 2 else u for i, u in enumerate(good)]
    grouped, plain = Grouped(Plan(n, (d,) * groups, 1.0, 1, SUMS, 16), (d,), groups), Plan(n, (d,), 1.0, 1, SUMS, 16)
    median, mean = (plan.decode(total(plan, bad, [1] * n), n, AT).updates[0] for plan in (grouped, plain))
    assert median is not None and mean is not None  # noqa: PT018
    assert np.abs(mean - 0.1).min() > 0.008
    assert np.abs(median - 0.1).max() < 0.006


def test_how_likely_a_party_is_alone_in_its_group() -> None:
    """Against 200 000 draws, where it is likely enough to be seen; the bound holds, and is close."""
    rng, honest, groups = np.random.default_rng(5), 20, 3
    counts = np.apply_along_axis(np.bincount, 1, rng.integers(0, groups, size=(200_000, honest)), minlength=groups)
    seen = float(np.mean((counts == 1).any(axis=1)))
    assert seen <= lonely(groups, honest, 1) * 1.05
    assert seen >= lonely(groups, honest, 1) * 0.9
    assert lonely(3, 2, 100) == 1.0


def test_groups_of_too_few_parties_are_refused() -> None:
    with pytest.raises(UserError, match=r"privacy.groups = 3 is refused: .* it takes \d+ of them, which is about \d+ parties"):
        Runner(linear, sites(), job=Job.parse({"privacy": {"mechanism": "none", "groups": 3}}))
    refuse_lonely(3, 124, 61, 20)  # 186 hospitals
    assert lonely(3, 124 - 61, 20) <= LONELY < lonely(5, 124 - 61, 20)
    with pytest.raises(UserError, match="groups = 5"):
        refuse_lonely(5, 124, 61, 20)


@pytest.mark.parametrize("mechanism", ["distributed-party", "distributed-record", "central"])
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("privacy", "groups", 3), ("performance", "update_bits", 8), ("performance", "compression", "mask")],
)
def test_what_noise_excludes_is_refused(mechanism: str, section: str, key: str, value: object) -> None:
    tree: dict[str, dict[str, object]] = {"privacy": {"mechanism": mechanism, "epsilon": 30.0}, "performance": {}}
    if mechanism != "distributed-party":
        tree["privacy"]["rows"] = 60
    tree[section][key] = value
    if (mechanism, key) == ("distributed-party", "compression"):  # fewer values, and less noise over all of them
        assert Runner(linear, sites(), job=Job.parse(tree)).plan.size == 1
        return
    with pytest.raises(UserError, match=f"{section}.{key} is refused with {mechanism}: ") as caught:
        Runner(linear, sites(), job=Job.parse(tree))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("algorithm", ["scaffold", "qfedavg"])
def test_sums_of_whole_updates_are_not_compressed(algorithm: str) -> None:
    job = Job.parse({"privacy": {"mechanism": "none"}, "performance": {"algorithm": algorithm, "compression": "mask"}})
    with pytest.raises(UserError, match=f"performance.compression is refused with {algorithm}"):
        Runner(linear, sites(), job=job)


def wide() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 96), nn.Tanh(), nn.Linear(96, 1))
    initialise(model, 1)
    return model


@pytest.mark.parametrize("mechanism", ["none", "local-record"])
@pytest.mark.parametrize(
    "knobs",
    [
        {"compression": "mask", "keep": 0.3},
        {"compression": "low-rank", "rank": 2},
        {"update_bits": 8},
        {"compression": "low-rank", "rank": 1, "update_bits": 12},
    ],
    ids=str,
)
def test_less_is_sent_and_the_sum_has_the_same_bits_as_plain(mechanism: str, knobs: dict[str, Any]) -> None:
    def run(protocol: str, some: dict[str, Any]) -> tuple[Runner, Array]:
        privacy = {"mechanism": mechanism, "rounds": 3, "protocol": protocol}
        runner = Runner(wide, sites(), job=Job.parse({"privacy": privacy, "performance": some}), entropy=replayed)
        runner.run_name = "the same"  # a run's name decides its masks and subspaces
        return runner, weights(runner.run())

    (masked, one), (_, two) = run("secagg", knobs), run("plain-insecure", knobs)
    whole, _ = run("secagg", {})
    assert (one == two).all()
    assert masked.plan.size * masked.plan.bits < 0.9 * whole.plan.size * whole.plan.bits
    if "update_bits" in knobs:
        assert any(f"updates of {knobs['update_bits']} bits: rounding moves" in line for line in masked.warnings)


def test_another_groups_draw_is_another_sites_secret() -> None:
    """The group follows a site's own randomness and nothing public."""
    drawn = {Replay(f"site {i}")().below("group", 3, 1)[0] for i in range(20)}
    assert drawn == {0, 1, 2}


def test_control_without_the_bound_a_group_sum_is_one_sites_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five sites in three groups: one of them is alone, and the mean is what that site sent.  The bound refuses this job."""
    n, d, groups = 5, 6, 3
    updates, own = some(n, d, 4), [rand(i).below("group", groups, 1)[0] for i in range(n)]
    alone = next(i for i in range(n) if own.count(own[i]) == 1)
    plan = Grouped(Plan(n, (d,) * groups, 1.0, 8, SUMS, 24), (d,), groups)
    opened = plan.inner.decode(total(plan, updates, [1] * n), n, AT)
    assert opened.updates[own[alone]] == pytest.approx(updates[alone], abs=1e-5)

    job = Job.parse({"privacy": {"mechanism": "none", "rounds": 2, "groups": 3}})
    with pytest.raises(UserError, match="privacy.groups = 3 is refused"):
        Runner(linear, sites(), job=job)
    monkeypatch.setattr("securefl.algorithms.groups.LONELY", 1.0)
    runner = Runner(linear, sites(), job=job)
    result = runner.run()
    assert [record.contributors for record in result.rounds] == [5, 5]
    assert any(o.what == "sum of weights of each random group" and o.rounds == 2 for o in result.opened)
    assert runner.plan.size == 3 * 7 + 3 + sum(spec.size for spec in runner.plan.sums)


def test_groups_go_with_algorithms_whose_server_needs_the_mean_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("securefl.algorithms.groups.LONELY", 1.0)
    for algorithm, fits in (("fedprox", True), ("fedyogi", True), ("scaffold", False), ("fednova", False), ("qfedavg", False)):
        job = Job.parse({"privacy": {"mechanism": "none", "groups": 3}, "performance": {"algorithm": algorithm}})
        if fits:
            Runner(linear, sites(), job=job)
            continue
        with pytest.raises(UserError, match=f"privacy.groups is refused with {algorithm}"):
            Runner(linear, sites(), job=job)
