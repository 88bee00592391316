"""Curves out of sums are those of the pooled records, by scipy; no interval is opened that holds a small count."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_runner import refused

from securefl.cli import main
from securefl.errors import UserError
from securefl.statistics import Columns, SecureStatistics, Survival, kaplan_meier
from securefl.statistics.survival import joined

HORIZON = 24
KNOWN = Columns({"month": (0, HORIZON)}, {"event": [0, 1], "arm": ["a", "b", "c"]})


@st.composite
def trials(draw: st.DrawFn, *, most: int = 40) -> dict[str, pd.DataFrame]:
    """Two to four sites with whole months past the horizon too, ties, and missing values."""
    month = st.one_of(st.just(None), st.integers(0, HORIZON + 6))
    tables = {}
    for site in range(draw(st.integers(2, 4))):
        rows = draw(st.integers(1, most))
        tables[f"site {site}"] = pd.DataFrame(
            {
                "month": pd.Series(draw(st.lists(month, min_size=rows, max_size=rows)), dtype=float),
                "event": pd.Series(draw(st.lists(st.sampled_from([0, 1, None]), min_size=rows, max_size=rows)), dtype=object),
                "arm": pd.Series(draw(st.lists(st.sampled_from("abc"), min_size=rows, max_size=rows)), dtype=object),
            }
        )
    return tables


def pooled(tables: dict[str, pd.DataFrame], edges: Any) -> pd.DataFrame:
    """All records whose time and event are known, with the end of the interval as their time."""
    every = pd.concat(tables.values()).dropna().astype({"event": int})
    late = every["month"] > HORIZON
    every.loc[late, ["event", "month"]] = 0, HORIZON
    every["month"] = np.asarray(edges)[np.maximum(np.searchsorted(edges, every["month"]), 1)]
    return every


def censored(records: pd.DataFrame) -> Any:
    return scipy.stats.CensoredData.right_censored(records["month"], records["event"] == 0)


def made(tables: dict[str, pd.DataFrame], **options: Any) -> SecureStatistics:
    return SecureStatistics.simulated(tables, KNOWN, **options)


def agrees(found: Survival, tables: dict[str, pd.DataFrame]) -> None:
    every, ends = pooled(tables, found.edges), found.edges[1:]
    for at, group in enumerate(found.groups):
        own = every if found.by is None else every[every[found.by] == group]
        assert found.events[at].sum() == own["event"].sum()
        assert found.censored[at].sum() == (own["event"] == 0).sum()
        assert found.at_risk[at].tolist() == [int((own["month"] >= end).sum()) for end in ends]
        if own.empty:
            assert np.isnan(found.survival[at]).all()
            continue
        curve = scipy.stats.ecdf(censored(own)).sf
        known = found.at_risk[at] > 0
        assert found.survival[at][known] == pytest.approx(curve.evaluate(ends)[known], abs=1e-12)
        assert np.isnan(found.survival[at][~known]).all()


@settings(deadline=None, max_examples=60)
@given(trials(), st.booleans())
def test_with_an_interval_a_month_the_curve_is_that_of_the_pooled_records(tables, split):
    statistics = made(tables, protocol="plain-insecure", min_cell=1)
    agrees(kaplan_meier(statistics, "month", "event", intervals=HORIZON, by="arm" if split else None), tables)


@settings(deadline=None, max_examples=60)
@given(trials(most=80), st.integers(2, 6), st.sampled_from([None, "arm"]))
def test_a_released_curve_is_the_pooled_one_over_joined_intervals_and_tells_no_small_count(tables, k, by):
    statistics = made(tables, protocol="plain-insecure", min_cell=k)
    try:
        found = kaplan_meier(statistics, "month", "event", intervals=HORIZON, by=by)
    except UserError as error:
        assert "no curve is released" in str(error)  # noqa: PT017  (either is right; which, the bounds below say)
        return
    agrees(found, tables)
    for counts in (found.events, found.censored):
        assert not ((counts > 0) & (counts < k)).any()


def test_the_interval_is_that_of_log_minus_log():
    tables = spread(3, 120)
    found = kaplan_meier(made(tables, min_cell=1), "month", "event", intervals=HORIZON)
    band = scipy.stats.ecdf(censored(pooled(tables, found.edges))).sf.confidence_interval(method="log-log")
    inside = ~np.isnan(found.low[0])
    assert inside.sum() >= HORIZON - 2
    assert found.low[0][inside] == pytest.approx(band.low.evaluate(found.edges[1:])[inside], abs=1e-12)
    assert found.high[0][inside] == pytest.approx(band.high.evaluate(found.edges[1:])[inside], abs=1e-12)


def spread(sites: int, rows: int, arms: str = "ab") -> dict[str, pd.DataFrame]:
    """Arms of different survival, in a fixed pattern."""
    number = np.arange(rows)
    return {
        f"site {site}": pd.DataFrame(
            {
                "month": (7 * number + 3 * site + 5 * (number % len(arms))) % (HORIZON + 3),
                "event": ((number + site) % 3 > 0).astype(int),
                "arm": [arms[n % len(arms)] for n in number],
            }
        )
        for site in range(sites)
    }


def test_the_log_rank_test_is_that_of_scipy():
    tables = spread(3, 90)
    known = Columns(KNOWN.ranges, {"event": [0, 1], "arm": ["a", "b"]})
    statistics = SecureStatistics.simulated(tables, known, "plain-insecure", min_cell=1)
    found = kaplan_meier(statistics, "month", "event", intervals=HORIZON, by="arm")
    every = pooled(tables, found.edges)
    expected = scipy.stats.logrank(*(censored(every[every["arm"] == arm]) for arm in "ab"))
    assert found.log_rank.statistic == pytest.approx(expected.statistic**2)
    assert found.log_rank.p == pytest.approx(expected.pvalue)
    assert 0 < found.log_rank.p < 1


def test_the_log_rank_test_of_three_groups_does_not_depend_on_their_order():
    tables, found = spread(3, 120, "abc"), []
    for order in (["a", "b", "c"], ["c", "a", "b"]):
        known = Columns(KNOWN.ranges, {"event": [0, 1], "arm": order})
        statistics = SecureStatistics.simulated(tables, known, "plain-insecure", min_cell=1)
        found.append(kaplan_meier(statistics, "month", "event", by="arm").log_rank)
    assert found[0].freedom == 2
    assert found[0].statistic == pytest.approx(found[1].statistic)
    assert found[0].p == pytest.approx(scipy.stats.chi2.sf(found[0].statistic, 2))


def test_the_server_opens_nothing_of_an_interval_with_a_small_count():
    """Control: without joining (a minimum of 1) the same sums hold the small counts."""
    tables = spread(3, 40)
    opened = {}
    for k in (1, 5):
        statistics = made(tables, protocol="plain-insecure", min_cell=k)
        counted, seen = statistics.counted, []
        statistics.counted = lambda own, counted=counted, seen=seen, **how: seen.append(sum(own)) or counted(own, **how)
        kaplan_meier(statistics, "month", "event", intervals=HORIZON)
        opened[k] = np.concatenate(seen)
    assert ((opened[1] > 0) & (opened[1] < 5)).any()
    assert not ((opened[5] > 0) & (opened[5] < 5)).any()
    assert opened[1].sum() == opened[5].sum()


@given(st.data(), st.integers(1, 9))
def test_joined_intervals_are_whole_cover_all_and_are_as_many_as_can_be_from_the_left(data, k):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 8)))
    least = np.array(data.draw(st.lists(st.integers(0, 6), min_size=2 * shape[0] * shape[1], max_size=2 * shape[0] * shape[1])))
    least = least.reshape(*shape, 2)
    starts = joined(least, k)
    whole = least.sum(axis=1)
    if starts is None:
        assert ((whole > 0) & (whole < k)).any()
        return
    sums = np.add.reduceat(least, starts, axis=1)
    assert starts[0] == 0
    assert (np.diff(starts) > 0).all()
    assert ((sums == 0) | (sums >= k)).all()
    for start, end in itertools.pairwise(starts):
        shorter = [least[:, start:stop].sum(axis=1) for stop in range(start + 1, end)]
        assert all(((one > 0) & (one < k)).any() for one in shorter), "a shorter interval would have done"


def test_what_a_site_leaves_out_is_told_to_it_alone():
    tables, told = spread(2, 30), []
    tables["site 1"]["month"] = tables["site 1"]["month"].astype(float)
    tables["site 1"].loc[:3, "month"] = None
    kaplan_meier(made(tables, on_notice=told.append), "month", "event")
    assert told == ["site 1: 4 of 30 rows lack a time, event or group and are left out"]


def test_a_time_before_time_begins_is_refused_and_not_taken_for_the_first_interval():
    tables = spread(2, 10)
    tables["site 1"].loc[[2, 5], "month"] = -1
    statistics = made(tables)
    statistics.total = None
    with pytest.raises(UserError, match="site 1: 2 of 10 values of month lie below 0, where time begins"):
        kaplan_meier(statistics, "month", "event")


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        ({"time": "arm"}, "no public range"),
        ({"event": "month"}, "no public levels"),
        ({"event": "arm"}, "arm needs two levels, censored and event, not 3"),
        ({"intervals": 0}, "1 to 10000 intervals, not 0"),
        ({"intervals": [0, 5, 5, 24]}, "must ascend from 0 to 24"),
        ({"intervals": [0, 5, 20]}, "must ascend from 0 to 24"),
        ({"by": "month"}, "no public levels"),
    ],
)
def test_bad_questions_are_refused_before_anything_is_opened(ask, line):
    statistics = made(spread(2, 10))
    statistics.total = None
    with pytest.raises(UserError, match=line):
        kaplan_meier(statistics, **{"time": "month", "event": "event", **ask})


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "trial.csv"
    frames = [table.assign(site=name, event=table["event"].map({0: "alive", 1: "dead"})) for name, table in spread(3, 80).items()]
    pd.concat(frames).to_csv(path, index=False)
    return path


def asked(path: Any, *more: str) -> list[str]:
    return [
        "survival",
        "--data",
        str(path),
        "--site",
        "site",
        "--time",
        "month",
        "--horizon",
        "24",
        "--event",
        "event=alive,dead",
        *more,
    ]


def test_the_command_gives_the_curves_and_draws_them(table, tmp_path, capsys):
    assert main(asked(table, "--by", "arm=a,b", "--json", "--plot", str(tmp_path / "curve.svg"))) == 0
    tree = json.loads(capsys.readouterr().out)
    statistics = SecureStatistics.simulated(spread(3, 80), Columns(KNOWN.ranges, {"event": [0, 1], "arm": ["a", "b"]}))
    expected = kaplan_meier(statistics, "month", "event", by="arm").as_json()
    assert {key: tree[key] for key in expected} == expected
    assert [curve["group"] for curve in tree["curves"]] == ["a", "b"]
    assert "log-rank p" in (tmp_path / "curve.svg").read_text()
    assert main(asked(table)) == 0
    shown = capsys.readouterr().out
    assert "Survival over 3 sites" in shown
    assert "screening of 20 intervals" in shown


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--horizon", "-1"], "--horizon is -1: a finite number above 0"),
        (["--event", "event=alive,dead,lost"], "two values are needed, censored and event, not 3"),
        (["--event", "event=alive,gone"], "event is 'dead' in line"),
        (["--by", "month"], "need a column each"),
        (["--time", "weeks"], "the column weeks is not in"),
        (["--plot", "curve.bmp"], "a picture ends in"),
        (["--min-cell", "0"], "at least 1, not 0"),
        (["--protocol", "none"], "none"),
    ],
)
def test_the_command_refuses_in_one_line(table, more, line, capsys):
    assert line in refused(capsys, *asked(table, *more))
