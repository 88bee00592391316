"""Groups are described as pandas describes them; sums of a group that is withheld are not opened; sites alone stay apart."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_runner import refused

from protocols import simulate
from protocols.errors import Abort
from protocols.session import client
from securefl.cli import main
from securefl.statistics import Columns, SecureStatistics, described_by
from securefl.statistics.groups import own_descriptions

KNOWN = Columns({"x": (0, 10)}, {"group": ["a", "b", "c"]})


@st.composite
def tables(draw: st.DrawFn) -> dict[str, pd.DataFrame]:
    out = {}
    for site in range(draw(st.integers(2, 3))):
        rows = draw(st.integers(1, 30))
        x = draw(st.lists(st.one_of(st.just(None), st.floats(0, 10)), min_size=rows, max_size=rows))
        group = draw(st.lists(st.sampled_from(["a", "a", "b", "c", None]), min_size=rows, max_size=rows))
        out[f"site {site}"] = pd.DataFrame({"x": pd.Series(x, dtype=float), "group": pd.Series(group, dtype=object)})
    return out


@settings(deadline=None, max_examples=50)
@given(tables(), st.integers(1, 6))
def test_groups_are_those_of_pandas_and_small_ones_are_not_described(sites, k):
    found = described_by(SecureStatistics.simulated(sites, KNOWN, "plain-insecure", min_cell=k), "group", ["x"])
    every = pd.concat(sites.values())
    for level, count in zip("abc", found.counts.counts.tolist(), strict=False):
        own = every.loc[every["group"] == level, "x"]
        assert (level in found.groups) == (count is not None and count >= max(k, 1))
        if level not in found.groups:
            continue
        description = found.groups[level]
        assert description.rows == len(own) >= k
        there = own.dropna()
        if len(there) < k or not len(there):
            assert np.isnan(description.mean[0])
            continue
        assert description.mean[0] == pytest.approx(there.mean(), abs=description.mean_error[0] + 1e-9)
        if len(there) > 1:
            assert description.variance[0] == pytest.approx(there.var(), abs=description.variance_error[0] + 1e-9)
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize("k", [1, 5])
def test_no_sum_is_opened_of_a_group_that_is_withheld(k, monkeypatch):
    """Control: with a minimum of 1 the two rows of b are a sum of their own."""
    site = pd.DataFrame({"x": [1.0] * 20 + [9.0], "group": ["a"] * 9 + ["c"] * 11 + ["b"]})
    opened = list[int]()
    total = SecureStatistics.total

    def watched(self: Any, specs: Any, values: Any, **how: Any) -> Any:
        if any(spec.name == "rows" for spec in specs):
            opened.append(sum(value["rows"][0] for value in values))
        return total(self, specs, values, **how)

    monkeypatch.setattr(SecureStatistics, "total", watched)
    found = described_by(SecureStatistics.simulated({"n": site, "s": site}, KNOWN, min_cell=k), "group")
    assert (2 in opened) == (k == 1)
    assert set(found.groups) == ({"a", "b", "c"} if k == 1 else {"c"})
    assert sum(event.rounds for event in found.opened) == len(opened) + (1 if k == 1 else 2)


def gone_for_groups() -> simulate.Network:
    """The second site is gone after screening and counts, before any group is described."""
    seen = 0

    def network(letter: Any) -> Any:
        nonlocal seen
        seen += type(letter.message).__name__ == "Masked"
        return () if seen > 8 and letter.sender == client(2) else (letter,)

    return network


FEW = {
    "n": pd.DataFrame({"x": [1.0] * 9, "group": ["a"] * 9}),
    "s": pd.DataFrame({"x": [1.0] * 14, "group": ["a"] * 9 + ["b"] * 5}),
    "w": pd.DataFrame({"x": [1.0] * 9 + [7.0], "group": ["a"] * 9 + ["b"]}),
    "e": pd.DataFrame({"x": [1.0] * 9, "group": ["a"] * 9}),
}
"""Five rows of b at one site, and one row at another."""


def test_a_group_is_described_over_as_many_sites_as_it_was_counted():
    """statistics-cohort: b was counted with the site that has five of its rows; without that site its sum is that of one row."""
    with pytest.raises(Abort, match="statistics-cohort .the sites open no sum over fewer than the 4"):
        described_by(SecureStatistics.simulated(FEW, KNOWN, min_cell=5, network=gone_for_groups()), "group")


def test_control_without_statistics_cohort_the_sums_of_one_row_are_opened(monkeypatch):
    opened, total = list[float](), SecureStatistics.total

    def unchecked(self: Any, specs: Any, values: Any, **_: Any) -> Any:
        sums, sites = total(self, specs, values)
        opened.extend(sums.get("rows", []))
        return sums, sites

    monkeypatch.setattr(SecureStatistics, "total", unchecked)
    refused = pytest.raises(Exception, match="fewer than 5 rows together")  # once the server has seen them
    with refused:
        described_by(SecureStatistics.simulated(FEW, KNOWN, min_cell=5, network=gone_for_groups()), "group")
    assert opened == [27, 1]


def test_a_site_alone_has_its_own_figures_less_small_counts():
    sites = {
        "n": pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0, 5.0, np.nan]}),
        "s": pd.DataFrame({"x": [1.0, 2.0, np.nan, np.nan, np.nan, np.nan, np.nan]}),
        "w": pd.DataFrame({"x": [1.0, 2.0]}),
    }
    north, south, west = own_descriptions(SecureStatistics.simulated(sites, Columns({"x": (0, 10)}), min_cell=5))
    assert (north.rows, north.columns["x"]) == (6, (None, 3.0, pytest.approx(2.5**0.5)))
    assert (south.rows, south.columns["x"]) == (7, (None, None, None))
    assert (west.rows, west.columns["x"]) == (None, (None, None, None))


def test_a_site_alone_has_no_mean_that_tells_a_small_cell():
    """A mean of 0 and 1 is a count: two of twenty are as few as two rows."""
    sites = {"n": pd.DataFrame({"x": [1.0] * 2 + [0.0] * 18}), "s": pd.DataFrame({"x": [1.0] * 8 + [0.0] * 12})}
    known = Columns({"x": (0, 1)}, {"x": [0, 1]})
    north, south = own_descriptions(SecureStatistics.simulated(sites, known, min_cell=5))
    assert north.columns["x"] == (20, None, None)
    assert south.columns["x"][1] == pytest.approx(0.4)
    assert own_descriptions(SecureStatistics.simulated(sites, known, min_cell=1))[0].columns["x"][1] == pytest.approx(0.1)


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "own.csv"
    rows = [{"clinic": f"c{n % 3}", "x": n % 11, "group": "ab"[n % 2]} for n in range(66)]
    pd.DataFrame(rows).to_csv(path, index=False)
    return ["--data", str(path), "--site", "clinic", "--range", "x=0:10", "--levels", "group=a,b"]


def test_the_command_describes_groups_and_shows_sites_alone_as_a_simulation(table, capsys):
    assert main(["stats", *table, "--by", "group", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert [(one["group"], one["rows"]) for one in tree["by"]["groups"]] == [("a", 33), ("b", 33)]
    assert "by_site" not in tree
    assert main(["stats", *table, "--by", "site", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert [one["site"] for one in tree["by_site"]] == ["c0", "c1", "c2"]
    assert tree["simulation_only"] == ["notices", "by_site"]
    assert main(["stats", *table, "--by", "group"]) == 0
    shown = capsys.readouterr().out
    assert "Columns where group is b" in shown
    assert shown.count("Rows by group") == 1
    assert main(["stats", *table, "--by", "site"]) == 0
    assert "Simulation only: each site has its own line" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--by", "x"], "the column x has no public levels"),
        (["--by", "group", "--epsilon", "1", "--delta", "1e-6"], "--by is refused with --epsilon"),
        (["--sites", "hospital"], "--sites and --data-dir are for named data"),
    ],
)
def test_the_command_refuses_in_one_line(table, more, line, capsys):
    assert line in refused(capsys, "stats", *table, *more)
