"""The minimum cell count: what is withheld, that the sites do not even send it, and that no line gives it away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from securefl.errors import UserError
from securefl.statistics import Cells, Columns, SecureStatistics
from securefl.statistics.cells import Screen, minimum, withheld

shapes = st.one_of(st.tuples(st.integers(1, 8)), st.tuples(st.integers(1, 5), st.integers(1, 5)))


def lines(table: np.ndarray) -> list[np.ndarray]:
    return [table] if table.ndim == 1 else [*table, *table.T]


@given(st.data(), shapes, st.integers(2, 9))
def test_no_line_hides_one_cell_alone_or_so_few_records_that_its_total_betrays_them(data, shape, k):
    least = data.draw(arrays(np.int64, shape, elements=st.integers(0, 3 * k)))
    hidden = withheld(least, k)
    assert hidden[(least > 0) & (least < k)].all()
    for cells, bounds in zip(lines(hidden), lines(least), strict=True):
        assert not cells[bounds == 0].any(), "an empty cell hides nothing"
        if cells.any() and not cells[bounds > 0].all():
            assert cells.sum() >= 2
            assert bounds[cells].sum() >= k


@given(st.data(), shapes, st.integers(2, 9), st.integers(2, 5))
def test_screening_gives_lower_bounds_and_knows_empty_cells(data, shape, k, sites):
    own = data.draw(arrays(np.int64, (sites, *shape), elements=st.integers(0, 2 * k)))
    screen = Screen(shape, k)
    sums = {name: np.sum([screen.sums(mine)[name] for mine in own], axis=0) for name in ("screen.any", "screen.enough")}
    least = screen.least(sums)
    assert (least <= own.sum(axis=0)).all()
    assert ((least == 0) == (own.sum(axis=0) == 0)).all()
    assert (least[(own >= k).any(axis=0)] >= k).all()


def test_a_minimum_of_one_withholds_nothing_and_less_is_refused():
    assert not withheld(np.array([0, 1, 2]), 1).any()
    for k in (0, -1, 2.5, True, "5"):
        with pytest.raises(UserError, match="minimum cell count must be a whole number of at least 1"):
            minimum(k)
        with pytest.raises(UserError, match="minimum cell count"):
            made({"a": [1], "b": [2]}, min_cell=k)


class Watched(SecureStatistics):
    """Keeps what each sum opened."""

    def total(self, specs: Any, values: Any, *, with_sites: int | None = None) -> Any:
        sums, sites = super().total(specs, values, with_sites=with_sites)
        self.seen: list[dict[str, list[int]]] = [*getattr(self, "seen", []), {k: v.tolist() for k, v in sums.items()}]
        return sums, sites


LEVELS = (1, 2, 3, 4)


def made(classes: dict[str, list[Any]], **options: Any) -> Watched:
    tables = {name: pd.DataFrame({"class": values}) for name, values in classes.items()}
    return Watched.simulated(tables, Columns(levels={"class": LEVELS}), **options)


def test_small_cells_are_not_opened_and_a_second_one_covers_for_them():
    statistics = made({"north": [1] * 9 + [2] * 2 + [3] * 6, "south": [1] * 5 + [2] * 1 + [3] * 1})
    found = statistics.class_counts("class")
    assert found.counts.tolist() == [14, None, None, 0, 0]
    assert found.withheld == 2
    screening, counts = statistics.seen
    assert counts["cells"] == [14], "the server is sent no other cell"
    assert screening["screen.any"] == [2, 2, 2, 0, 0]
    assert screening["screen.enough"] == [2, 0, 1, 0, 0]
    assert [(event.rounds, event.coverage) for event in found.opened] == [(1, "exact"), (1, "exact")]
    assert "screening" in found.opened[0].what
    assert "1 of 5 cells" in found.opened[1].what


def test_a_cell_that_only_the_sum_lifts_over_the_minimum_is_withheld_too():
    """The price of deciding before anything is opened; with many sites that have any it is lifted all the same."""
    few = made({f"site {i}": [1] * 3 + [2] * 9 + [3] * 7 for i in range(4)}).class_counts("class")
    assert few.counts.tolist() == [None, None, 28, 0, 0]
    many = made({f"site {i}": [1] * 3 + [2] * 9 + [3] * 7 for i in range(5)}).class_counts("class")
    assert many.counts.tolist() == [15, 45, 35, 0, 0]


def test_all_small_cells_together_are_covered_by_a_larger_one_where_they_are_too_few():
    found = made({"north": [1, 2] + [3] * 20 + [4] * 30, "south": [3, 4] * 9}).class_counts("class")
    assert found.counts.tolist() == [None, None, None, 39, 0]


def test_with_a_minimum_of_one_every_cell_is_counted_in_one_sum():
    statistics = made({"north": [1, 2, None], "south": [2, 4, 4]}, min_cell=1)
    assert statistics.class_counts("class").counts.tolist() == [1, 2, 0, 2, 1]
    assert len(statistics.seen) == 1


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(1, 6))
def test_what_a_table_shows_is_what_pandas_counts(data, k):
    """And what it does not show is withheld from the sums as well."""
    cell = st.sampled_from(["x", "y", "z", None])
    tables = {}
    for site in range(data.draw(st.integers(2, 4))):
        rows = data.draw(st.integers(1, 40))
        tables[f"site {site}"] = pd.DataFrame(
            {name: pd.Series(data.draw(st.lists(cell, min_size=rows, max_size=rows)), dtype=object) for name in ("u", "v")}
        )
    known = Columns(levels=dict.fromkeys("uv", ("x", "y", "z")))
    statistics = Watched.simulated(tables, known, "plain-insecure", min_cell=k)
    found = statistics.crosstab("u", "v")
    every = pd.concat(tables.values()).fillna("missing")
    expected = pd.crosstab(every["u"], every["v"]).reindex(index=found.labels[0], columns=found.labels[1], fill_value=0)
    shown = found.counts != None  # noqa: E711
    assert (found.counts[shown] == expected.to_numpy()[shown]).all()
    assert not ((found.counts[shown] > 0) & (found.counts[shown] < k)).any()
    opened = [c for seen in statistics.seen for c in seen.get("cells", [])]
    assert sorted(opened) == sorted(c for c in found.counts[shown].tolist() if c or k == 1)
    assert (found.frame().isna().to_numpy() == ~shown).all()


def test_a_histogram_is_that_of_numpy_with_missing_values_apart():
    x = np.array([0.0, 1.0, 2.5, 2.5, 9.99, 10.0, np.nan, 12.0, -3.0])
    tables = {"north": {"x": x[:4]}, "south": {"x": x[4:]}}
    statistics = SecureStatistics.simulated(tables, Columns({"x": (0, 10)}), min_cell=1)
    for bins in (4, [0, 1, 2.5, 10]):
        found = statistics.histogram("x", bins)
        expected, edges = np.histogram(np.clip(x[~np.isnan(x)], 0, 10), bins=bins, range=(0, 10))
        assert found.counts.tolist() == [*expected, 1]
        assert found.edges.tolist() == edges.tolist()
    assert found.labels[0] == ("[0, 1)", "[1, 2.5)", "[2.5, 10]", "missing")
    assert isinstance(found, Cells)
    assert found.frame()["count"].tolist() == found.counts.tolist()


def described(column: list[Any], levels: tuple[Any, ...] = (), **options: Any) -> Any:
    half = len(column) // 2
    tables = {"north": pd.DataFrame({"x": column[:half]}, dtype=float), "south": pd.DataFrame({"x": column[half:]}, dtype=float)}
    known = Columns({"x": (0, 1)}, {"x": levels} if levels else {})
    return SecureStatistics.simulated(tables, known, **options).describe()


@pytest.mark.parametrize(("missing", "shown"), [(0, True), (1, False), (4, False), (5, True), (15, True), (16, False), (19, False)])
def test_counts_of_missing_values_and_their_complements_are_withheld_together(missing, shown):
    found = described([None] * missing + [0.5] * (20 - missing))
    assert found.rows == 20
    assert found.missing == ((missing,) if shown else (None,))
    assert found.count == ((20 - missing,) if shown else (None,))
    assert found.missing_rate == ((missing / 20,) if shown else (None,))
    assert np.isnan(found.mean[0]) == (20 - missing < 5)
    assert np.isnan(found.variance[0]) == (20 - missing < 5)


@pytest.mark.parametrize("ones", [0, 1, 4, 5, 15, 16, 19, 20])
def test_the_mean_of_a_column_of_two_levels_is_withheld_where_it_tells_a_small_cell(ones):
    column = [1] * ones + [0] * (20 - ones)
    assert np.isnan(described(column, (0, 1)).mean[0]) == (0 < ones < 5 or 15 < ones < 20)
    assert described(column).mean[0] == pytest.approx(ones / 20), "nobody has said that there are two levels"


def test_fewer_rows_than_the_minimum_are_not_described():
    with pytest.raises(UserError, match="fewer than 5 rows together: nothing is released"):
        described([0.5] * 4)
    assert described([0.5] * 4, min_cell=4).count == (4,)


def test_a_pair_with_fewer_rows_than_the_minimum_has_no_correlation():
    north = pd.DataFrame({"x": [0.1, 0.2, 0.3, 0.4], "y": [0.3, 0.1, 0.9, None], "z": [0.4, 0.3, 0.1, 0.2]})
    statistics = SecureStatistics.simulated({"north": north, "south": north}, Columns(dict.fromkeys("xyz", (0, 1))), min_cell=7)
    found = statistics.correlation()
    expected = pd.concat([north, north]).corr().to_numpy()
    assert np.isnan(found.matrix).tolist() == [[False, True, False], [True, False, True], [False, True, False]]
    assert found.matrix[0, 2] == pytest.approx(expected[0, 2], abs=found.error[0, 2])
