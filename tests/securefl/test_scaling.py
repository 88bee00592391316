"""Scaling: parity with pooled numpy moments to 10^-6 of the range, through the encoder, without any site's numbers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

from protocols.errors import Abort
from protocols.rand import Rand, Seed
from securefl.encode import Plan, decode, encode, limit_of
from securefl.errors import UserError
from securefl.scaling import EXPONENTS, RANGE_DIVISOR, Exponents, Moments, Scaler, from_ranges


def opened(part: Exponents | Moments, sites: list[np.ndarray], precision: int = 16) -> dict[str, np.ndarray]:
    plan = Plan(parties=max(2, len(sites)), sums=part.specs(), precision=precision)
    rand = Rand(Seed(bytes(32)))
    vectors = [encode(plan, [], [], part.sums(x), rand.child(str(i))).vector for i, x in enumerate(sites)]
    return decode(plan, sum(vectors), len(sites)).sums


def securely(sites: list[np.ndarray], precision: int = 16, ranges: np.ndarray | None = None) -> tuple[Scaler, np.ndarray]:
    if ranges is None:
        exponents = Exponents(sites[0].shape[1])
        ranges = exponents.read(opened(exponents, sites, precision))
    moments = Moments(ranges, limit=limit_of(precision))
    return moments.scaler(opened(moments, sites, precision), len(sites)), ranges


@st.composite
def tables(draw: st.DrawFn) -> list[np.ndarray]:
    features, magnitude = draw(st.integers(1, 3)), draw(st.integers(-25, 38))
    sizes = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any))
    return [draw(arrays(np.float64, (rows, features), elements=st.floats(-1, 1))) * 2.0**magnitude for rows in sizes]


@settings(deadline=None, max_examples=60)
@given(tables(), st.sampled_from([8, 16, 24, 48]))
def test_mean_and_variance_equal_the_pooled_ones(sites, precision):
    scaler, ranges = securely(sites, precision)
    pooled = np.concatenate(sites)
    half = (ranges[:, 1] - ranges[:, 0]) / 2
    assert (np.abs(pooled) <= half).all()
    assert np.abs((scaler.shift - pooled.mean(axis=0)) / half).max() <= 1e-6
    variance = pooled.var(axis=0)
    kept = scaler.scale != 1
    assert (np.abs(scaler.scale**2 - variance)[kept] <= 1e-6 * half[kept] ** 2).all()
    assert (variance[~kept] <= 1e-6 * half[~kept] ** 2).all() or (np.abs(variance[~kept] - 1) <= 1e-6 * half[~kept] ** 2).all()


@pytest.mark.parametrize("precision", [16, 32])
def test_real_measurements_are_scaled_as_by_scikit_learn(precision):
    """Deviations here are down to 1/300 of the power of two above the values: still seven digits."""
    x = load_breast_cancer().data
    scaler, _ = securely(np.array_split(x, 5), precision)
    oracle = StandardScaler().fit(x)
    assert scaler.shift == pytest.approx(oracle.mean_, rel=1e-7)
    assert scaler.scale == pytest.approx(oracle.scale_, rel=1e-6)
    assert scaler.apply(x) == pytest.approx(oracle.transform(x), abs=1e-4)
    assert scaler.apply(x).dtype == np.float32


def test_constant_features_are_only_shifted():
    x = np.column_stack([np.full(700, 2000.1), np.zeros(700), np.arange(700.0), np.full(700, -1e-9)])
    scaler, _ = securely([x[:20], x[20:]])
    assert scaler.scale[[0, 1, 3]].tolist() == [1, 1, 1]
    assert scaler.scale[2] == pytest.approx(np.arange(700).std())
    assert np.abs(scaler.apply(x)[:, [0, 1, 3]]).max() < 1e-6


def test_no_constant_feature_seems_to_vary():
    """Whatever the last bits of its moments say: 400 features, tables of three sizes."""
    values = np.geomspace(1e-6, 3e9, 400) * np.where(np.arange(400) % 2, 1, -1)
    for rows in (2, 33, 740):
        scaler, _ = securely(np.array_split(np.tile(values, (rows, 1)), 2))
        assert (scaler.scale == 1).all()
        assert scaler.shift == pytest.approx(values, rel=1e-6)


def test_moments_about_public_ranges_clamp_to_them():
    ranges = np.array([[0.0, 10.0], [5.0, 5.0]])
    x = np.array([[-3.0, 5.0], [4.0, 5.0], [11.0, 5.0]])
    scaler, _ = securely([x[:1], x[1:]], ranges=ranges)
    assert scaler.shift == pytest.approx([14 / 3, 5])
    assert scaler.scale == pytest.approx([np.std([0, 4, 10]), 1])


def test_a_full_table_of_extreme_values_fits():
    """Also where the middle of a range is rounded, which puts its ends a last bit outside [−1, 1]."""
    ranges = np.stack([np.arange(1, 400) / 7, np.arange(1, 400) / 7 + 0.1], axis=1)
    moments = Moments(ranges, rows_max=7)
    for end in ranges.T:
        x = np.tile(end, (7, 1))
        scaler = moments.scaler(opened(moments, [x, x]), 2)
        assert scaler.shift == pytest.approx(end)
        assert (scaler.scale == 1).all()
    with pytest.raises(UserError, match="8 rows is larger than rows_max = 7"):
        moments.sums(np.zeros((8, 399)))


def test_no_rows_at_all_abort():
    moments = Moments([[0.0, 1.0]])
    with pytest.raises(Abort, match="weight-total"):
        moments.scaler(opened(moments, [np.zeros((0, 1))] * 2), 2)


@given(st.floats(2.0**-30, 2.0**40, exclude_max=True), st.sampled_from([-1, 1]))
def test_the_exponent_is_the_least_power_of_two_above(value, sign):
    exponents = Exponents(1)
    low, high = exponents.read(exponents.sums(np.array([[0.0], [sign * value]])))[0]
    assert low == -high
    assert high / 2 <= value < high


def test_exponents_take_the_largest_party_and_say_one_thing_a_party():
    exponents = Exponents(2)
    sites = [np.array([[1.0, 0.0], [-9.0, 0.0]]), np.array([[3.0, 1e-30]]), np.zeros((0, 2))]
    assert [exponents.sums(x)["exponents"].sum() for x in sites] == [2, 2, 0]
    assert exponents.read(opened(exponents, sites))[:, 1].tolist() == [16.0, 2.0 ** EXPONENTS[0]]
    with pytest.raises(UserError, match=r"feature 1 reaches 1\.09"):
        exponents.sums(np.array([[0.0, 2.0**40]]))


def test_public_ranges_become_minus_two_to_two():
    scaler = from_ranges([[20, 100], [-1, 1], [3, 3]])
    z = scaler.apply([[20, 0, 3], [100, 1, 3], [60, -0.5, 4], [1000, -7, 2]])
    half = RANGE_DIVISOR / 2
    assert z.tolist() == [[-half, 0, 0], [half, half, 0], [0, -half / 2, 0], [half, -half, 0]]


@pytest.mark.parametrize(
    ("ranges", "text"),
    [
        ([[1, 0]], "feature 0 must be finite and ascending"),
        ([[0, 1], [0, math.inf]], "feature 1"),
        ([[0, math.nan]], "feature 0"),
        ([1], "shape"),
    ],
)
def test_bad_ranges_are_refused(ranges, text):
    for make in (from_ranges, Moments):
        with pytest.raises(UserError, match=text):
            make(ranges)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_tables_with_what_is_no_number_are_refused_by_feature_and_row(bad):
    x = np.zeros((3, 2))
    x[2, 1] = bad
    for use in (Exponents(2).sums, Moments([[0, 1]] * 2).sums, from_ranges([[0, 1]] * 2).apply):
        with pytest.raises(UserError, match=r"feature 1 is .* in row 2"):
            use(x)
        with pytest.raises(UserError, match="2 features"):
            use(np.zeros((3, 1)))


def test_values_too_far_out_for_float32_are_refused():
    with pytest.raises(UserError, match="feature 0"):
        Scaler(np.zeros(1), np.full(1, 1e-30)).apply([[1e30]])


@pytest.mark.parametrize("rows_max", [0, 2**30 + 1])
def test_a_senseless_row_bound_is_refused(rows_max):
    with pytest.raises(UserError, match="rows_max"):
        Moments([[0, 1]], rows_max=rows_max)
