"""From an update to integers of bounded norm and back: isometry, unbiased rounding, a bound that holds because it is checked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import linalg, stats

from protocols.errors import Misuse
from protocols.rand import Rand, Replay, Seed
from securefl.errors import UserError
from securefl.privacy import rounding

ALARM = 1e-6


def replay(number: int = 0) -> Rand:
    return Replay(f"rounding {number}")()


def normal(size: int, number: int = 0) -> NDArray[np.float64]:
    return stats.norm.ppf((replay(number).words("values", size) >> np.uint64(11)) * 2.0**-53 + 2.0**-54)


def signs(number: int = 0) -> Seed:
    return replay(number).seed("signs")


@pytest.mark.parametrize("bits", range(11))
def test_the_transform_is_that_of_the_matrix(bits: int) -> None:
    x = normal(1 << bits)
    assert rounding.hadamard(x) == pytest.approx(linalg.hadamard(1 << bits) @ x / 2 ** (bits / 2), abs=1e-12)


@given(st.integers(1, 5000), st.floats(-200, 200))
def test_rotation_keeps_the_norm_and_is_undone(size: int, exponent: float) -> None:
    x = normal(size) * 2.0**exponent
    turned = rounding.rotate(x, signs())
    assert turned.shape == (rounding.padded(size),)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(x), rel=1e-12)
    assert rounding.rotate_back(turned, signs(), size) == pytest.approx(x, rel=1e-9, abs=1e-12 * np.abs(x).max())


def test_the_transform_without_signs_is_its_own_inverse() -> None:
    x = normal(1 << 13)
    assert rounding.hadamard(rounding.hadamard(x)) == pytest.approx(x, abs=1e-12)


def test_a_rotation_spreads_a_peak_evenly_and_other_signs_turn_another_way() -> None:
    peak = np.zeros(1000)
    peak[17] = 3.0
    turned = rounding.rotate(peak, signs())
    assert np.abs(turned) == pytest.approx(np.full(1024, 3 / 32))
    x = normal(1000)
    assert not np.allclose(rounding.rotate(x, signs()), rounding.rotate(x, signs(1)))
    assert not np.allclose(rounding.rotate_back(rounding.rotate(x, signs()), signs(1), 1000), x)


def test_the_signs_follow_from_the_name_of_the_round() -> None:
    x = normal(100)
    turned = rounding.rotate(x, rounding.round_signs(b"sid 1"))
    assert (turned == rounding.rotate(x, rounding.round_signs(b"sid 1"))).all()
    assert not np.allclose(turned, rounding.rotate(x, rounding.round_signs(b"sid 2")))


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=8), st.floats(1e-3, 1e3))
def test_clipping(values: list[float], bound: float) -> None:
    x = np.array(values)
    out = rounding.clip(x, bound)
    assert math.hypot(*out) <= bound * (1 + 1e-12)
    if math.hypot(*values) < bound * (1 - 1e-12):
        assert out is x


@pytest.mark.parametrize("whole", [False, True])
def test_rounding_is_unbiased_and_less_than_a_step_away(whole: bool) -> None:
    """Mean of 20 000 roundings within ALARM; conditionally only where the condition nearly always holds."""
    x = np.array([-2.75, -0.5, 0.0, 0.1, 3.0, 7.999])
    many = [rounding.round_sum(x, replay(i)) if whole else rounding.round_within(x, 10_000, replay(i)) for i in range(20_000)]
    draws = np.array(many)
    assert (np.abs(draws - x) < 1).all()
    part = x - np.floor(x)
    bound = stats.norm.isf(ALARM / 12) * np.sqrt(part * (1 - part) / len(draws))
    assert (np.abs(draws.mean(axis=0) - x) <= bound + 1e-12).all()


def test_a_sum_is_rounded_by_the_same_shift_for_every_vector() -> None:
    """Adding a record moves ⌊s + U⌋ by ⌊x + V⌋ with V = U + s mod 1: less than a step from x in every coordinate."""
    s, x = 20 * normal(3000), normal(3000, 1)
    moved = rounding.round_sum(s + x, replay(2)) - rounding.round_sum(s, replay(2))
    assert (np.abs(moved - x) < 1).all()


RADII = [(1.0, 1), (3.0, 64), (40.0, 256), (200.0, 4096), (5.0, 4096)]


@pytest.mark.parametrize(("radius", "dimension"), RADII)
def test_the_norm_bound_holds_and_is_kept_by_most_roundings(radius: float, dimension: int) -> None:
    """One rounding exceeds the bound with probability at most β, which the count of retries cannot contradict (ALARM)."""
    square, norm, absolute = rounding.norm_bounds(radius, dimension)
    x = normal(dimension)
    x *= radius / np.linalg.norm(x)
    tries = 200
    within = 0
    for i in range(tries):
        out = rounding.round_within(x, square, replay(i))
        assert rounding.squared_norm(out) <= square <= norm**2
        assert np.abs(out).sum() <= absolute
        within += rounding.squared_norm(rounding.round_sum(x, replay(i))) <= square
    assert within >= stats.binom.ppf(ALARM, tries, 1 - rounding.BETA)


def test_a_rounding_without_the_condition_breaks_a_bound_that_the_condition_keeps() -> None:
    """The mean squared norm after rounding is Δ² + Σ p(1 − p), here d/4: half of the roundings are above it."""
    dimension = 4096
    x = np.where(replay().words("signs", dimension) & np.uint64(1), 0.5, -0.5)  # every coordinate as far off as can be
    square = math.floor(float(x @ x) + dimension / 4)
    alone = [rounding.squared_norm(rounding.round_sum(x, replay(i))) for i in range(100)]
    conditional = [rounding.squared_norm(rounding.round_within(x, square, replay(i))) for i in range(100)]
    assert max(alone) > square
    assert max(conditional) <= square


def test_bounds_by_hand() -> None:
    """Δ = 10, d = 64, β = e^-1/2: min(100 + 16 + 1·(10 + 4), 18²) = 130; without β 18² = 324."""
    assert rounding.norm_bounds(10.0, 64) == (130, pytest.approx(math.sqrt(130)), pytest.approx(8 * math.sqrt(130)))
    assert rounding.norm_bounds(10.0, 64, 0.0)[0] == 324
    assert rounding.norm_bounds(1.0, 64)[0] == 22  # 1 + 16 + 5
    assert rounding.norm_bounds(1.0, 64)[2] == 22  # √64·√22 = 37.5 is more
    assert rounding.norm_bounds(0.1, 1)[0] == 1  # 0.86, but zero alone is no result
    assert rounding.norm_bounds(0.1, 1, 0.0)[0] == 1


def test_squares_beyond_64_bits_are_added_exactly() -> None:
    assert rounding.squared_norm(np.array([2**40, -(2**40), 3])) == 2**81 + 9
    assert rounding.squared_norm(np.array([3, -4])) == 25
    assert rounding.squared_norm(np.zeros(0, dtype=np.int64)) == 0


def test_what_cannot_be_rounded_is_refused() -> None:
    with pytest.raises(Misuse, match="256 roundings"):
        rounding.round_within(np.full(4, 10.0), 100, replay())
    for bad in (math.nan, math.inf, 2.0**48):
        with pytest.raises(UserError, match="2\\^48"):
            rounding.round_sum(np.array([0.0, bad]), replay())
    with pytest.raises(Misuse, match="power of two"):
        rounding.hadamard(np.ones(3))
    with pytest.raises(Misuse, match="rotated"):
        rounding.rotate_back(np.ones(4), signs(), 5)
    for args in ((0.0, 4), (1.0, 0), (math.nan, 4)):
        with pytest.raises(Misuse, match="cannot be rounded"):
            rounding.norm_bounds(*args)
