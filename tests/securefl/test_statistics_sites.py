"""Secure statistics over sites: every protocol gives the same, the hospitals as pandas has them, what is refused, what is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from protocols import simulate
from protocols.errors import Abort, Misuse
from protocols.session import client
from protocols.sums import scheme
from securefl.data import heart
from securefl.encoding import SumSpec
from securefl.errors import UserError
from securefl.ledger import EXACT
from securefl.parties import Consortium
from securefl.statistics import Columns, SecureStatistics, opening, secure_totals

PROTOCOLS = ["secagg", "secagg+", "kahe", "lightsecagg", "bfv", "ckks", "plain-insecure"]
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
NAMES = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal", "num"]
RANGES = {name: heart.RANGES[name] for name in NAMES if name in heart.RANGES} | {"slope": (1.0, 3.0), "ca": (0.0, 3.0)}
COLUMNS = Columns(RANGES, {"cp": (1, 2, 3, 4), "num": (0, 1, 2, 3, 4), "thal": (3, 6, 7)})
needs_data = pytest.mark.skipif("SECUREFL_DATA" not in os.environ, reason="SECUREFL_DATA names no folder with heart_disease/")


def hospitals() -> dict[str, pd.DataFrame]:
    """All columns and rows of the four files, missing values and all."""
    folder = Path(os.environ["SECUREFL_DATA"]) / heart.FOLDER
    return {name: pd.read_csv(folder / file, names=NAMES, na_values="?") for name, (file, _) in heart.FILES.items()}


def made(rows: int = 30, sites: int = 4) -> dict[str, pd.DataFrame]:
    """Two columns of numbers and one of classes, spread without chance, with missing values."""
    out = {}
    for site in range(sites):
        at = np.arange(rows) + rows * site
        x = np.where(at % 11 == 0, np.nan, np.sin(at * 1.7) * 40 + 50)
        out[f"site {site}"] = pd.DataFrame(
            {"x": x, "y": np.cos(at * 0.9) + x / 50, "c": np.array(["u", "v", "w"])[at % 3], "d": at % 7 % 2}
        )
    return out


KNOWN = Columns({"x": (0, 100), "y": (-2, 4)}, {"c": ("u", "v", "w"), "d": (0, 1)})


def everything(statistics: SecureStatistics) -> dict[str, Any]:
    parts = {
        "describe": statistics.describe(),
        "quantile": statistics.quantile(bits=8),
        "grid": statistics.quantile(bits=4, method="grid"),
        "correlation": statistics.correlation(),
        "histogram": statistics.histogram("x", 6),
        "class_counts": statistics.class_counts("c"),
        "crosstab": statistics.crosstab("c", "d"),
    }
    return {name: part.as_json() for name, part in parts.items()}


@each_protocol
def test_every_protocol_gives_the_same_bits(protocol):
    plain = everything(SecureStatistics.simulated(made(), KNOWN, "plain-insecure"))
    found = everything(SecureStatistics.simulated(made(), KNOWN, protocol))
    for name, part in found.items():
        assert {k: v for k, v in part.items() if k != "opened"} == {k: v for k, v in plain[name].items() if k != "opened"}
    json.dumps(found, allow_nan=False)


def test_the_plain_sum_says_that_every_site_is_seen():
    for protocol, lines in {"secagg": 1, "plain-insecure": 2}.items():
        opened = SecureStatistics.simulated(made(), KNOWN, protocol).describe().opened
        assert len(opened) == lines
        assert any("in clear" in event.note for event in opened) == (lines == 2)


@needs_data
@pytest.mark.parametrize("protocol", ["secagg", "kahe", "lightsecagg", "bfv", "plain-insecure"])
def test_the_hospitals_are_described_as_by_pandas(protocol):
    tables = hospitals()
    pooled = pd.concat(tables.values(), ignore_index=True)
    clipped = pd.DataFrame({name: pooled[name].clip(*bounds) for name, bounds in RANGES.items()})
    statistics = SecureStatistics.simulated(tables, COLUMNS, protocol)

    found = statistics.describe()
    assert (found.rows, found.sites) == (920, 4)
    assert list(found.count) == clipped.count().tolist()
    assert list(found.missing) == clipped.isna().sum().tolist()
    last_bits = 1e-13 * np.abs(clipped).max().to_numpy()  # pandas' own
    assert (np.abs(found.mean - clipped.mean()) <= found.mean_error + last_bits).all()
    assert (np.abs(found.variance - clipped.var()) <= found.variance_error + last_bits**2 + 1e-12 * clipped.var()).all()
    assert (np.abs(found.std - clipped.std()) <= found.std_error + 1e-12 * clipped.std()).all()
    widths = np.array([high - low for low, high in RANGES.values()])
    assert (found.mean_error <= 1e-10 * widths).all()

    correlation = statistics.correlation()
    assert (np.abs(correlation.frame() - clipped.corr()) <= correlation.error + 1e-12).all(axis=None)
    assert correlation.error.max() < 1e-7

    quantiles = statistics.quantile(probabilities=(0.1, 0.25, 0.5, 0.75, 0.9))
    true = np.array([np.quantile(clipped[n].dropna(), quantiles.probabilities, method="inverted_cdf") for n in RANGES])
    assert (np.abs(quantiles.value - true) <= quantiles.error * (1 + 1e-12)).all()
    assert quantiles.rounds == 12

    for cells, column in ((statistics.class_counts("num"), "num"), (statistics.class_counts("thal"), "thal")):
        expected = pooled[column].value_counts(dropna=False).reindex([*COLUMNS.levels[column], np.nan], fill_value=0).tolist()
        assert all(count in (None, true) for count, true in zip(cells.counts.tolist(), expected, strict=True))
        assert sum(count is not None for count in cells.counts.tolist()) >= 3


@needs_data
def test_the_hospitals_are_the_same_without_the_protocol_in_between():
    """Counts of a histogram: what secagg opens is what numpy counts over all rows, where it is opened."""
    tables = hospitals()
    found = SecureStatistics.simulated(tables, COLUMNS).histogram("age", 7)
    ages = pd.concat(tables.values())["age"].clip(*RANGES["age"])
    true = [*np.histogram(ages, 7, RANGES["age"])[0].tolist(), 0]
    assert [shown in (None, count) for shown, count in zip(found.counts.tolist(), true, strict=True)] == [True] * 8
    assert found.withheld <= 3


def test_sites_learn_how_many_values_were_clipped_and_nobody_else():
    tables, told = {"north": {"x": [-1.0, 5, 200, 101]}, "south": {"x": [1.0, 2, 3, None]}}, list[str]()
    statistics = SecureStatistics.simulated(tables, KNOWN, min_cell=1, on_notice=told.append)
    found = statistics.describe(["x"])
    assert told == ["north: 3 of 4 values of x lie outside 0 to 100 and are clipped to it"]
    assert found.mean[0] == pytest.approx((0 + 5 + 100 + 100 + 1 + 2 + 3) / 7)
    statistics.quantile(["x"])
    assert len(told) == 1, "once is enough"
    assert not any("clipped" in str(event) for event in found.opened)


def test_a_site_without_any_value_of_a_column_is_told_and_the_others_go_on():
    tables, told = {"north": {"x": [None] * 3}, "south": {"x": [1.0, 2, 3, 4, 5]}}, list[str]()
    found = SecureStatistics.simulated(tables, KNOWN, min_cell=3, on_notice=told.append).describe(["x"])
    assert (found.count, found.missing) == ((5,), (3,))
    assert told == ["north: every value of x is missing"]


@pytest.mark.parametrize("sort", [np.float32, np.int16, bool, "Int64", "boolean", "Float64", object])
def test_columns_of_all_number_types_are_taken(sort):
    tables = {name: pd.DataFrame({"x": pd.Series([1, 0, 1], dtype=sort)}) for name in ("north", "south")}
    assert SecureStatistics.simulated(tables, KNOWN, min_cell=1).describe(["x"]).mean[0] == pytest.approx(2 / 3)


def test_missing_values_of_all_kinds_count_as_missing():
    north = pd.DataFrame({"x": pd.Series([1, None, pd.NA, np.nan], dtype=object), "c": ["u", None, pd.NA, np.nan]})
    south = pd.DataFrame({"x": pd.Series([1, pd.NA], dtype="Int64"), "c": pd.Series(["u", None], dtype="category")})
    masked = {"x": np.ma.array([1.0, 7.0], mask=[False, True]), "c": np.array(["v", "w"])}
    statistics = SecureStatistics.simulated({"north": north, "south": south, "west": masked}, KNOWN, min_cell=1)
    assert (statistics.describe(["x"]).count, statistics.describe(["x"]).missing) == ((3,), (5,))
    assert statistics.class_counts("c").counts.tolist() == [2, 1, 1, 4]


def with_column(column: Any, name: str = "x") -> dict[str, Any]:
    tables = made(8, 2)
    return {**tables, "site 1": tables["site 1"].assign(**{name: column})}


REFUSED: dict[str, tuple[Any, str]] = {
    "no such column at a site": (
        lambda: SecureStatistics.simulated({**made(8, 2), "site 1": {"y": [1.0]}}, KNOWN).describe(),
        "'?site 1'? has no column x; it has: y",
    ),
    "all missing": (
        lambda: SecureStatistics.simulated({n: {"x": [None] * 9} for n in "ab"}, KNOWN).describe(["x"]),
        "every value of x",
    ),
    "all missing, quantile": (
        lambda: SecureStatistics.simulated({n: {"x": [None] * 9} for n in "ab"}, KNOWN).quantile(["x"]),
        "every value of x is missing at every site",
    ),
    "text": (lambda: SecureStatistics.simulated(with_column("7 mg"), KNOWN).describe(), "column x holds text .such as '7 mg'"),
    "one text": (
        lambda: SecureStatistics.simulated(with_column([4, "soon", *[5] * (len(made(8, 2)["site 1"]) - 2)]), KNOWN).describe(),
        "column x holds text .such as 'soon'",
    ),
    "dates": (
        lambda: SecureStatistics.simulated(with_column(pd.Timestamp(2020, 1, 1)), KNOWN).describe(),
        "column x holds other things than numbers",
    ),
    "inf": (lambda: SecureStatistics.simulated(with_column(np.inf), KNOWN).describe(), "infinite number in row 0"),
    "no range": (
        lambda: SecureStatistics.simulated(made(), KNOWN).describe(["c"]),
        "column c has no public range; given for: x, y",
    ),
    "no levels": (
        lambda: SecureStatistics.simulated(made(), KNOWN).class_counts("x"),
        "column x has no public levels; given for: c, d",
    ),
    "no level": (
        lambda: SecureStatistics.simulated(with_column("z", "c"), KNOWN).class_counts("c"),
        "is 'z' in row 0, which is no level of it",
    ),
    "reversed": (lambda: Columns({"x": (3, 1)}), "range of x is 3 to 1: two finite numbers, the smaller first"),
    "no width": (lambda: Columns({"x": (1, 1)}), "range of x is 1 to 1"),
    "nan in a range": (lambda: Columns({"x": (0, np.nan)}), "range of x is 0 to nan"),
    "doubled level": (lambda: Columns(levels={"c": (1, 1)}), "levels of c must be a list of values, each once"),
    "a missing level": (lambda: Columns(levels={"c": (1, None)}), "a level of c is a missing value"),
    "one site": (lambda: SecureStatistics.simulated(made(sites=1), KNOWN), "at least 2 sites"),
    "no columns": (lambda: SecureStatistics.simulated(made(), KNOWN).describe([]), "a description needs columns"),
    "a column twice": (lambda: SecureStatistics.simulated(made(), KNOWN).describe(["x", "x"]), "not x twice"),
    "one column": (lambda: SecureStatistics.simulated(made(), KNOWN).correlation(["x"]), "at least two columns, not x alone"),
    "same column": (lambda: SecureStatistics.simulated(made(), KNOWN).crosstab("c", "c"), "not c twice"),
    "p": (lambda: SecureStatistics.simulated(made(), KNOWN).quantile(probabilities=[1.5]), "probability from 0 to 1, not 1.5"),
    "no p": (lambda: SecureStatistics.simulated(made(), KNOWN).quantile(probabilities=[]), "at least one probability"),
    "bits": (lambda: SecureStatistics.simulated(made(), KNOWN).quantile(bits=17), "bits of a grid must be 1 to 16, not 17"),
    "narrow": (
        lambda: SecureStatistics.simulated(made(), Columns({"x": (1, 1 + 2e-16)})).quantile(bits=8),
        "too narrow for a grid of 8 bits",
    ),
    "bins": (lambda: SecureStatistics.simulated(made(), KNOWN).histogram("x", 0), "1 to 1000 bins, not 0"),
    "edges": (lambda: SecureStatistics.simulated(made(), KNOWN).histogram("x", [0, 60, 50, 100]), "numbers that ascend"),
    "edges within": (lambda: SecureStatistics.simulated(made(), KNOWN).histogram("x", [0, 50]), "must lead from 0 to 100"),
    "rows": (lambda: SecureStatistics.simulated(made(), KNOWN, rows_max=29), "30 rows is larger than rows_max = 29"),
    "rows_max": (lambda: SecureStatistics.simulated(made(), KNOWN, rows_max=0), "rows_max must be 1 to"),
    "no table": (lambda: SecureStatistics.simulated({"a": 3, "b": 4}, KNOWN), "a table is a DataFrame or arrays by column name"),
    "lengths": (lambda: SecureStatistics.simulated({"a": {"x": [1], "y": []}, "b": {"x": [1]}}, KNOWN), "one length"),
    "dimensions": (lambda: SecureStatistics.simulated({"a": {"x": [[1]]}, "b": {"x": [1]}}, KNOWN), "one dimension"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line_that_names_it(case):
    act, line = REFUSED[case]
    with pytest.raises(UserError, match=line) as caught:
        act()
    assert "\n" not in str(caught.value)


def test_nothing_is_opened_for_what_is_refused(monkeypatch):
    monkeypatch.setattr(SecureStatistics, "total", lambda *_, **__: pytest.fail("a sum was opened"))
    for case, (act, _) in REFUSED.items():
        if not case.startswith("all missing"):
            with pytest.raises(UserError):
                act()


def test_a_table_that_names_a_column_twice_and_sites_that_do_not_fit_are_refused():
    twice = pd.DataFrame([[1, 2]], columns=["x", "x"])
    with pytest.raises(UserError, match="column x is there more than once"):
        SecureStatistics.simulated({"a": twice, "b": twice}, KNOWN)
    consortium = Consortium.of(["a", "b"], SecureStatistics.simulated(made(), KNOWN).protocol.policy)
    with pytest.raises(UserError, match="b, c is missing or unknown|c, b is missing or unknown"):
        SecureStatistics(consortium, "secagg", {"a": {"x": [1]}, "c": {"x": [1]}}, KNOWN)
    with pytest.raises(Misuse, match="auto is secagg or kahe"):
        SecureStatistics(consortium, "auto", {"a": {"x": [1]}, "b": {"x": [1]}}, KNOWN)


def test_a_site_that_vanishes_is_not_in_the_sums():
    tables = made()
    network = simulate.vanish({client(2): "Masked"})
    found = SecureStatistics.simulated(tables, KNOWN, network=network).describe()
    rest = pd.concat([table for name, table in tables.items() if name != "site 1"])
    assert (found.sites, found.rows) == (3, len(rest))
    assert found.mean[0] == pytest.approx(rest["x"].mean(), abs=found.mean_error[0] + 1e-12)
    assert found.variance[0] == pytest.approx(rest["x"].var(), abs=found.variance_error[0] + 1e-9)


def vanishing_after(letters: int, protocol: str = "secagg") -> simulate.Network:
    """The second site is gone once so many letters with inputs were sent."""
    steps = scheme(protocol).flow.of("client")
    spent = next(port.type.__name__ for step in steps if step.spends for port in step.gives if port.carrier == "message")
    seen = 0

    def network(letter: Any) -> Any:
        nonlocal seen
        seen += type(letter.message).__name__ == spent
        return () if seen > letters and letter.sender == client(2) else (letter,)

    return network


def test_control_without_statistics_cohort_a_small_cell_is_opened(monkeypatch):
    """What the check stops: class w is screened as 5 or more with the site that has them, and counted without it."""
    classes = {"a": ["u"] * 9, "b": ["u"] * 9 + ["w"] * 5, "c": ["u"] * 9 + ["w"], "d": ["u"] * 9}
    tables = {name: {"c": values} for name, values in classes.items()}
    total = SecureStatistics.total
    monkeypatch.setattr(SecureStatistics, "total", lambda self, specs, values, **_: total(self, specs, values))
    found = SecureStatistics.simulated(tables, KNOWN, network=vanishing_after(4)).class_counts("c")
    assert found.counts.tolist() == [27, 0, 1, 0]


@pytest.mark.parametrize("protocol", ["secagg", "kahe", "lightsecagg", "bfv", "ckks", "plain-insecure"])
@pytest.mark.parametrize("method", ["class_counts", "quantile"])
def test_sums_that_belong_together_are_over_as_many_sites(method, protocol, monkeypatch):
    """statistics-cohort: else a cell screened over all could be small over the rest, and two rounds of a search disagree.

    The sites themselves do not open the smaller sum; where a protocol has no such step, it is not released.
    """
    opened, totals = [], opening.secure_totals
    monkeypatch.setattr(opening, "secure_totals", lambda *given, **how: opened.append(totals(*given, **how)) or opened[-1])
    statistics = SecureStatistics.simulated(made(), KNOWN, protocol, network=vanishing_after(4, protocol))
    with pytest.raises(Abort, match=r"statistics-cohort") as caught:
        getattr(statistics, method)("c" if method == "class_counts" else ["x"])
    assert caught.value.check == "statistics-cohort"
    assert len(opened) == (2 if protocol == "plain-insecure" else 1)


def test_the_list_of_what_was_opened_is_all_that_was_opened():
    """Every sum of a run is an event: as many as occasions were joined."""
    statistics, opened = SecureStatistics.simulated(made(), KNOWN), 0
    for act in (
        statistics.describe,
        statistics.correlation,
        statistics.quantile,
        lambda: statistics.quantile(bits=3, method="grid"),
        lambda: statistics.histogram("x"),
        lambda: statistics.class_counts("c"),
    ):
        result = act()
        assert all(event.coverage == EXACT for event in result.opened)
        opened += sum(event.rounds for event in result.opened)
        (joined,) = {last for party in statistics.consortium.parties for last, _ in party.journal.joined.values()}
        assert joined + 1 == opened


def test_results_become_tables():
    statistics = SecureStatistics.simulated(made(), KNOWN)
    assert statistics.describe().frame().loc["x", "count"] == sum(table["x"].count() for table in made().values())
    assert statistics.correlation().frame().loc["x", "y"] == statistics.correlation().matrix[0, 1]
    assert statistics.quantile().frame().loc["y", 0.5] == statistics.quantile().value[1, 1]
    assert statistics.class_counts("c").frame().loc["u", "count"] == 40


def test_sums_of_ones_own_go_through_the_same_place():
    statistics = SecureStatistics.simulated(made(), KNOWN)
    sums, sites = statistics.total([SumSpec("beds", 1, 100, integer=True)], [{"beds": [n]} for n in (3, 4, 5, 6)])
    assert (sums["beds"].tolist(), sites) == ([18], 4)
    assert callable(secure_totals)
