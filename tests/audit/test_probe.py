"""Looking at training from within: the tests of noise and batches are as exact as they say, and the training is that of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import nn
from torch.utils.data import TensorDataset

from securefl.audit.measured import noise, probe, sampling
from securefl.audit.measured.registry import Setting
from securefl.job import Job
from securefl.round_types import Fold
from securefl.runner import Runner

Drawn = NDArray[np.bool_]
RNG = np.random.default_rng
STEPS, RECORDS, RATE = 200, 160, 0.2


def poisson(seed: int, rate: float = RATE, *, steps: int = STEPS, records: int = RECORDS) -> Drawn:
    return RNG(seed).random((steps, records)) < rate


@given(st.integers(1, 3000), st.floats(1e-4, 1.0))
def test_the_middle_of_a_binomial_holds_half_of_it_and_no_less_would(trials: int, rate: float) -> None:
    low, high, p = sampling.middle(trials, rate)
    mass = stats.binom(trials, rate)
    assert p == pytest.approx(mass.cdf(high) - mass.cdf(low - 1), abs=1e-9)
    assert p >= 0.5
    worst = low if trials * rate - low > high - trials * rate else high
    assert p - mass.pmf(worst) < 0.5 + 1e-9


@given(st.integers(1, 200), st.floats(0.01, 1.0), st.data())
def test_tails_are_those_of_a_binomial(trials: int, rate: float, data: st.DataObject) -> None:
    hits, p = data.draw(st.integers(0, trials)), Fraction(rate)
    mass = [math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(trials + 1)]
    exact = float(min(sum(mass[: hits + 1]), sum(mass[hits:])))
    assert sampling.chance(hits, trials, rate) == pytest.approx(exact, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.97])
def test_poisson_batches_are_flagged_as_seldom_as_stated(rate: float) -> None:
    """At 20 % over six tails; 100 of 300 have 2e-8 then."""
    wrong = sum(bool(sampling.fault(poisson(seed, rate, steps=60, records=80), rate, alarm=0.2)) for seed in range(300))
    assert wrong < 100


def fixed_size() -> Drawn:
    return np.argsort(RNG(1).random((STEPS, RECORDS)), axis=1).argsort(axis=1) < RATE * RECORDS


def half_of_the_records() -> Drawn:
    return poisson(3, 2 * RATE) & (np.arange(RECORDS) % 2 == 0)


def once_in_a_pass() -> Drawn:
    return np.concatenate([RNG(k).integers(0, 5, RECORDS)[None] == np.arange(5)[:, None] for k in range(STEPS // 5)])


@pytest.mark.parametrize(
    ("drawn", "rate", "said"),
    [
        (lambda: np.ones((STEPS, RECORDS), bool), RATE, "records are in a batch at rate 1, where 0.2 is accounted for"),
        (lambda: poisson(2, 0.25), RATE, "at rate 0.25"),
        (lambda: poisson(2, 0.16), RATE, "at rate 0.16"),
        (lambda: poisson(2, 0.99), 1.0, "at rate 0.99"),
        (fixed_size, RATE, "sizes of batches: 200 of 200 lie in"),
        (once_in_a_pass, RATE, "counts of how often a record is in: 160 of 160 lie in"),
        (half_of_the_records, RATE, "counts of how often a record is in: 0 of 160 lie in"),
        (lambda: np.repeat(poisson(4, steps=4000, records=1), RECORDS, axis=1), None, "sizes of batches: 0 of 4000"),
    ],
)
def test_each_test_of_the_batches_finds_its_own_fault(drawn: Callable[[], Drawn], rate: float | None, said: str) -> None:
    """Where no rate is named, that which was found: the test of the rate has nothing to say."""
    batches = drawn()
    assert said in sampling.fault(batches, float(batches.mean()) if rate is None else rate)


@given(st.integers(1, 5000), st.sampled_from([1e-10, 1e-4, 0.3]))
def test_the_smallest_variance_is_a_quantile_of_chi_square(values: int, alarm: float) -> None:
    assert noise.smallest(values, alarm) == pytest.approx(stats.chi2.ppf(alarm, values) / values, rel=1e-6)


def test_independent_noise_is_called_correlated_as_seldom_as_stated() -> None:
    """p-values of independent samples are uniform: Kolmogorov's distance over 1000 is above 0.1 with 4e-9."""
    values = [noise.by_chance(RNG(seed).normal(size=(2, 3)), RNG(seed + 5000).normal(size=(2, 3))) for seed in range(1000)]
    assert stats.kstest(values, "uniform").statistic < 0.1


def copied(place: tuple[Any, Any], source: tuple[Any, Any]) -> Callable[[dict[str, NDArray[np.float64]]], None]:
    def change(values: dict[str, NDArray[np.float64]]) -> None:
        values[place[0]][place[1]] = values[source[0]][source[1]]

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (copied(("bias", np.s_[1::2]), ("bias", np.s_[::2])), "bias in one step and in the next"),
        (copied(("vector", np.s_[2::2]), ("vector", np.s_[1:-1:2])), "vector in one step and in the next"),
        (copied(("vector", np.s_[:, :1]), ("bias", np.s_[:])), "vector and on the bias"),
        (copied(("vector", np.s_[:, 1::2]), ("vector", np.s_[:, ::2])), "neighbouring values of the noise on the vector"),
        (copied(("matrix", np.s_[:, 10:]), ("matrix", np.s_[:, :10])), "the halves of the noise on the matrix"),
    ],
)
def test_a_value_that_tells_another_is_found(change: Callable[[dict[str, NDArray[np.float64]]], None], what: str) -> None:
    values = {name: RNG(size).normal(size=(200, size)) for name, size in (("matrix", 20), ("vector", 10), ("bias", 1))}
    compared = list(noise.pairs(values))
    assert min(noise.by_chance(one, two) for _, one, two in compared) > 1e-4
    change(values)
    found = [name for name, one, two in noise.pairs(values) if noise.by_chance(one, two) < noise.FALSE_ALARM / len(compared)]
    assert len(found) == 1
    assert what in found[0]


@given(st.integers(4, 200))
def test_the_tensors_are_a_matrix_a_vector_and_one_element_and_share_out_all_coordinates(size: int) -> None:
    shapes = [tuple(tensor.shape) for tensor in probe.Tensors(size).parameters()]
    assert [len(shape) for shape in shapes] == [2, 1, 1]
    assert shapes[2] == (1,)
    assert np.concatenate([np.arange(size)[place] for place in probe.tensors(size).values()]).tolist() == list(range(size))


def test_notes_tell_the_batches_and_the_sums_of_their_gradients() -> None:
    """Without noise: what a step releases is the sum of the features of the records that it took."""
    on = Setting(Job.parse({"privacy": {"mechanism": "none"}}))
    features = RNG(6).normal(size=(7, 5)).astype(np.float32)
    notes = probe.probed(on, features, 30, label="t", rate=0.1, rows=7)
    sums = [features[batch].sum(axis=0, dtype=np.float64) for batch in notes.batches]
    assert len(sums) < len(notes.released) == 30
    assert np.array([x for x in notes.released if x.any()]) == pytest.approx(np.array(sums))


@pytest.mark.parametrize("knobs", [{"mechanism": "local-record", "epsilon": 2.0, "clip": 0.7, "rows": 50}, {"mechanism": "none"}])
def test_what_is_measured_is_what_a_run_trains_with(knobs: dict[str, Any]) -> None:
    job = Job.parse({"privacy": {"sample_rate": 0.3, "rounds": 3, **knobs}})
    x = RNG(7).normal(size=(20, 4)).astype(np.float32)
    data = TensorDataset(torch.from_numpy(x), torch.from_numpy((x[:, 0] > 0).astype(np.float32)))
    runner = Runner(nn.Linear(4, 1), {name: Fold(data, None) for name in "abc"}, job=job)
    theirs, ours = vars(runner.sites["a"].training[0]), vars(Setting(job).training(50, label="t"))
    differ = {"_entropy", "account", "planned_steps"}
    assert {k: v for k, v in theirs.items() if k not in differ} == {k: v for k, v in ours.items() if k not in differ}
    assert theirs.keys() == ours.keys()
