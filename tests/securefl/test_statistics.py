"""Means, variances, correlations and quantiles are those of the pooled rows, within the bounds that the results state."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.errors import UserError
from securefl.statistics import Columns, SecureStatistics

NAN = float("nan")


@st.composite
def pooled(draw: st.DrawFn) -> tuple[dict[str, pd.DataFrame], Columns]:
    """Two or three sites with two columns of any range, values outside it and missing ones among them."""
    ranges = {}
    for name in ("a", "b"):
        low = draw(st.floats(-1e6, 1e6))
        ranges[name] = (low, low + draw(st.sampled_from([1e-3, 1.0, 100.0, 1e7])))
    tables = {}
    for site in range(draw(st.integers(2, 3))):
        rows = draw(st.integers(1, 12))
        tables[f"site {site}"] = pd.DataFrame(
            {
                name: draw(st.lists(st.one_of(st.just(NAN), values(bounds)), min_size=rows, max_size=rows))
                for name, bounds in ranges.items()
            },
            dtype=float,
        )
    return tables, Columns(ranges)


def values(bounds: tuple[float, float]) -> st.SearchStrategy[float]:
    low, high = bounds
    near = st.sampled_from([low, high, low / 2 + high / 2, low - 1, high + 1])
    return st.one_of(near, st.floats(low, high))


def clipped(tables: dict[str, pd.DataFrame], columns: Columns) -> pd.DataFrame:
    every = pd.concat(tables.values(), ignore_index=True)
    return pd.DataFrame({name: every[name].clip(*bounds) for name, bounds in columns.ranges.items()})


def exact_moments(column: pd.Series) -> tuple[Fraction, Fraction | None]:
    """Mean and variance (divisor n − 1) without any rounding."""
    numbers = [Fraction(value) for value in column.dropna()]
    mean = sum(numbers) / len(numbers)
    return mean, sum((x - mean) ** 2 for x in numbers) / (len(numbers) - 1) if len(numbers) > 1 else None


@settings(deadline=None, max_examples=60)
@given(pooled())
def test_means_and_variances_are_within_the_stated_bounds_of_the_exact_ones(case):
    tables, columns = case
    every = clipped(tables, columns)
    statistics = SecureStatistics.simulated(tables, columns, "plain-insecure", min_cell=1)
    if every.isna().all().any():
        with pytest.raises(UserError, match="every value of [ab] is missing at every site"):
            statistics.describe()
        return
    found = statistics.describe()
    assert found.rows == len(every)
    assert list(found.count) == every.count().tolist()
    assert list(found.missing) == every.isna().sum().tolist()
    for at, name in enumerate(found.columns):
        mean, variance = exact_moments(every[name])
        assert abs(Fraction(found.mean[at]) - mean) <= found.mean_error[at]
        width = columns.ranges[name][1] - columns.ranges[name][0]
        assert found.mean_error[at] <= 1e-7 * width + 1e-9 * max(map(abs, columns.ranges[name]))
        if variance is None:
            assert np.isnan(found.variance[at])
            continue
        assert abs(Fraction(found.variance[at]) - variance) <= found.variance_error[at]
        assert abs(found.std[at] - float(variance) ** 0.5) <= found.std_error[at] * (1 + 1e-9) + 1e-15
        assert found.variance_error[at] <= 1e-6 * width**2 + 1e-6 * max(map(abs, columns.ranges[name])) * width


@settings(deadline=None, max_examples=60)
@given(pooled())
def test_correlations_are_within_the_stated_bounds_of_the_exact_ones(case):
    tables, columns = case
    found = SecureStatistics.simulated(tables, columns, "plain-insecure", min_cell=2).correlation()
    both = clipped(tables, columns).dropna()
    r, bound = found.matrix[0, 1], found.error[0, 1]
    assert (found.matrix == found.matrix.T)[~np.isnan(found.matrix)].all()
    if len(both) < 2 or both.nunique().min() == 1:
        assert np.isnan(r)
        return
    if np.isnan(r):  # a variance below what the sums can tell from 0
        halves = [(high - low) / 2 for low, high in columns.ranges.values()]
        assert min((both[name].var() / half**2 for name, half in zip(both, halves, strict=True))) < 1e-5
        return
    a, b = ([Fraction(value) for value in both[name]] for name in both)
    a, b = ([x - sum(v) / len(v) for x in v] for v in (a, b))
    product = sum(x * y for x, y in zip(a, b, strict=True))
    squares = sum(x * x for x in a) * sum(y * y for y in b)
    true = float(product) / float(squares) ** 0.5
    assert abs(r - true) <= bound * (1 + 1e-9) + 1e-14


@settings(deadline=None, max_examples=60)
@given(pooled(), st.integers(1, 9), st.integers(1, 8), st.lists(st.sampled_from([0.0, 0.05, 0.25, 0.5, 0.9, 1.0]), min_size=1))
def test_the_interval_of_a_quantile_holds_it_and_the_minimum_of_values(case, bits, k, probabilities):
    tables, columns = case
    every = clipped(tables, columns)
    if every.isna().all().any():
        return
    statistics = SecureStatistics.simulated(tables, columns, "plain-insecure", min_cell=k)
    found = statistics.quantile(probabilities=probabilities, bits=bits)
    grid = statistics.quantile(probabilities=probabilities, bits=bits, method="grid")
    assert found.rounds <= bits
    assert grid.rounds == 1
    for key in ("low", "high"):
        assert np.array_equal(getattr(found, key), getattr(grid, key), equal_nan=True)
    for at, name in enumerate(found.columns):
        numbers = np.sort(every[name].dropna().to_numpy())
        edges = np.linspace(*columns.ranges[name], 2**bits + 1)
        for place, p in enumerate(probabilities):
            low, high = found.low[at, place], found.high[at, place]
            if len(numbers) < k:
                assert np.isnan([low, high]).all()
                continue
            true = numbers[max(1, int(np.ceil(Fraction(repr(p)) * len(numbers)))) - 1]
            assert low < true <= high or true == low == edges[0]
            inside = (numbers > low) & (numbers <= high) | (low == edges[0]) & (numbers == low)
            assert inside.sum() >= k
            if k == 1:
                assert high == edges[np.searchsorted(edges, low) + 1]


def test_a_quantile_of_evenly_spread_values_is_theirs_to_the_resolution():
    tables = {"a": {"x": np.arange(0, 500)}, "b": {"x": np.arange(500, 1000)}}
    found = SecureStatistics.simulated(tables, Columns({"x": (0, 1024)})).quantile(bits=10, probabilities=(0.1, 0.5))
    assert found.rounds == 8, "the search is over where the halves are too small"
    pooled_quantiles = np.quantile(np.arange(1000), [0.1, 0.5], method="inverted_cdf")
    assert (np.abs(found.value[0] - pooled_quantiles) <= found.error[0]).all()
    assert (found.high - found.low).tolist() == [[8.0, 8.0]], "the half would hold 4 values, fewer than 5"


def test_many_rows_keep_the_bounds():
    """Several blocks of rows a site, a narrow range far from 0, and a site as full of extreme values as rows_max allows."""
    at = np.arange(7000)
    x = 1e6 + np.sin(at * 1.3)
    table = pd.DataFrame({"x": x, "y": np.where(at % 5, 0.3 * (x - 1e6) + np.cos(at * 2.9), NAN), "z": np.where(at % 3, 1.0, -1.0)})
    columns = Columns({"x": (1e6 - 1, 1e6 + 1), "y": (-2, 2), "z": (-1, 1)})
    tables = {"a": table[:5000], "b": table[5000:], "c": pd.DataFrame(dict.fromkeys("xyz", np.full(5000, 1e9)))}
    statistics = SecureStatistics.simulated(tables, columns, rows_max=5000)
    every = clipped(tables, columns)
    found, correlation = statistics.describe(), statistics.correlation()
    for position, name in enumerate("xyz"):
        mean, variance = exact_moments(every[name])
        assert abs(Fraction(found.mean[position]) - mean) <= found.mean_error[position] < 1e-8
        assert abs(Fraction(found.variance[position]) - variance) <= found.variance_error[position] < 1e-8
    assert (np.abs(correlation.frame() - (every - [1e6, 0, 0]).corr()) <= correlation.error + 1e-12).all(axis=None)
    assert correlation.error.max() < 1e-8
