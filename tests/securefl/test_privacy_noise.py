"""Noise and sampling: the right distribution, from the given randomness and nothing else.

The bits come from `Replay`, so every run sees the same draws; the stated false-alarm rates are those over the choice of its root.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from protocols.errors import Misuse
from protocols.rand import Rand, Replay, Seed
from securefl.privacy import noise
from securefl.privacy.noise import gaussian, poisson_sample

ALARM = 1e-6


def replay(number: int = 0) -> Rand:
    return Replay(f"noise {number}")()


@pytest.mark.parametrize("std", [0.25, 1.0, 40.0])
def test_noise_is_gaussian_with_the_asked_deviation(std: float) -> None:
    draws = gaussian(replay(), "n", (200_000,), std, dtype=torch.float64).numpy()
    assert stats.kstest(draws, stats.norm(0, std).cdf).pvalue > ALARM
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], len(draws))
    assert low < (draws**2).sum() / std**2 < high


def test_the_distribution_test_can_fail() -> None:
    draws = gaussian(replay(), "n", (200_000,), 1.0, dtype=torch.float64).numpy()
    assert stats.kstest(draws, stats.norm(0, 1.03).cdf).pvalue < ALARM
    assert stats.kstest(draws, stats.norm(0.02, 1).cdf).pvalue < ALARM


def test_neighbouring_and_far_values_are_uncorrelated() -> None:
    draws = gaussian(replay(), "n", (1 << 18,), 1.0, dtype=torch.float64).numpy()
    bound = stats.norm.isf(ALARM / 6) / np.sqrt(len(draws))
    for lag in (1, 2, 1 << 16):  # the last compares blocks
        assert abs(np.mean(draws * np.roll(draws, lag))) < bound


def test_a_value_is_half_the_sum_of_four_inverse_normals_of_the_stream() -> None:
    count = 50
    words = replay().child("n").words("block 0", 4 * count)

    def normal(word: int) -> float:
        lower = NormalDist().inv_cdf(((word >> 12) + 0.5) / 2**53)
        return -lower if word & 1 else lower

    expected = [3.0 * sum(normal(int(words[draw * count + i])) for draw in range(4)) / 2 for i in range(count)]
    assert gaussian(replay(), "n", (count,), 3.0, dtype=torch.float64).numpy() == pytest.approx(expected, rel=1e-9)


def test_the_extreme_words_give_finite_and_symmetric_values() -> None:
    words = np.array([0, 1, 2**64 - 2, 2**64 - 1], dtype=np.uint64)
    far, near = 8.29, 1e-15
    low, high, below, above = noise._normals(words)
    assert low == -high == pytest.approx(-far, abs=0.01)
    assert below == -above
    assert -near < below < 0


def test_the_asked_type_and_shape_come_back_and_the_cast_is_last() -> None:
    single = gaussian(replay(), "n", (3, 0, 2), 1.0)
    assert single.shape == (3, 0, 2)
    assert gaussian(replay(), "n", (), 1.0).shape == ()
    wide = gaussian(replay(), "n", (7, 5), 2.0, dtype=torch.float64)
    narrow = gaussian(replay(), "n", (7, 5), 2.0)
    assert narrow.dtype == torch.float32
    assert torch.equal(narrow, wide.to(torch.float32))
    assert torch.equal(gaussian(replay(), "n", (4,), 0.0), torch.zeros(4))


def test_replay_repeats_and_labels_and_seeds_differ() -> None:
    first = gaussian(replay(), "n", (100,), 1.0)
    assert torch.equal(first, gaussian(replay(), "n", (100,), 1.0))
    assert not torch.isclose(first, gaussian(replay(), "m", (100,), 1.0)).any()
    assert not torch.isclose(first, gaussian(replay(1), "n", (100,), 1.0)).any()


def test_torch_and_numpy_seeds_have_no_influence() -> None:
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        state = torch.get_rng_state()
        results.append((gaussian(replay(), "n", (100,), 1.0), poisson_sample(replay(), "p", 1000, 0.3)))
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(results[0][0], results[1][0])
    assert np.array_equal(results[0][1], results[1][1])


def test_a_label_is_drawn_once() -> None:
    rand = replay()
    gaussian(rand, "n", (3,), 1.0)
    with pytest.raises(Misuse, match="drawn before"):
        gaussian(rand, "n", (3,), 1.0)
    poisson_sample(rand, "p", 5, 0.5)
    with pytest.raises(Misuse, match="drawn before"):
        poisson_sample(rand, "p", 5, 0.5)


@pytest.mark.parametrize("std", [-1.0, float("nan"), float("inf")])
def test_a_deviation_out_of_range_is_refused(std: float) -> None:
    with pytest.raises(Misuse, match="standard deviation"):
        gaussian(replay(), "n", (3,), std)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(Misuse, match="sampling rate"):
        poisson_sample(replay(), "p", 3, rate)


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.9])
def test_rows_are_sampled_at_the_rate(rate: float) -> None:
    rows = 200_000
    drawn = poisson_sample(replay(), "p", rows, rate)
    assert stats.binomtest(len(drawn), rows, rate).pvalue > ALARM
    assert stats.binomtest(len(drawn), rows, min(1.0, rate * 1.1)).pvalue < ALARM


def test_every_row_is_as_likely_and_sizes_are_binomial() -> None:
    rows, rate, rounds = 20, 0.3, 4000
    rand = replay()
    batches = [poisson_sample(rand, f"p {i}", rows, rate) for i in range(rounds)]
    per_row = np.bincount(np.concatenate(batches), minlength=rows)
    assert all(stats.binomtest(int(count), rounds, rate).pvalue > ALARM / rows for count in per_row)
    sizes = np.array([len(batch) for batch in batches])
    # a batch of fixed size would have variance 0; independent rows have rows × rate × (1 − rate)
    expected = stats.binom(rows, rate).pmf(np.arange(2, 11)) * rounds
    seen = np.array([(sizes == size).sum() for size in range(2, 11)])
    rest = rounds - seen.sum(), rounds - expected.sum()
    assert stats.chisquare([*seen, rest[0]], [*expected, rest[1]]).pvalue > ALARM


@given(rows=st.integers(0, 300), rate=st.floats(0, 1, exclude_min=True), seed=st.binary(min_size=32, max_size=32))
def test_a_sample_is_a_set_of_rows(rows: int, rate: float, seed: bytes) -> None:
    drawn = poisson_sample(Rand(Seed(seed)), "p", rows, rate)
    assert drawn.dtype == np.int64
    assert all(np.diff(drawn) > 0)
    assert all((drawn >= 0) & (drawn < rows))
    if rate == 1:
        assert len(drawn) == rows


@given(seed=st.binary(min_size=32, max_size=32), low=st.floats(0.01, 1), high=st.floats(0.01, 1))
def test_a_higher_rate_keeps_the_rows_of_a_lower_one(seed: bytes, low: float, high: float) -> None:
    low, high = sorted((low, high))
    few, many = (set(poisson_sample(Rand(Seed(seed)), "p", 100, rate)) for rate in (low, high))
    assert few <= many
