"""``securefl stats``: tables in a terminal, one JSON object, and one line for what is refused."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from stub_runner import refused

from securefl import data
from securefl.cli import main
from securefl.statistics import SecureStatistics

needs_data = pytest.mark.skipif("SECUREFL_DATA" not in os.environ, reason="SECUREFL_DATA names no folder with heart_disease/")
TABLE = pd.DataFrame(
    {
        "hospital": ["north"] * 20 + ["south"] * 20,
        "age": [20 + n for n in range(38)] + [None, None],
        "sex": ["f", "m"] * 19 + ["f", ""],
        "stage": [1, 2] * 20,
        "unused": ["?"] * 40,
    }
)
PUBLIC = ["--site", "hospital", "--range", "age=0:50", "--levels", "sex=f,m", "--levels", "stage=1,2,3"]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "own.csv"
    TABLE.to_csv(path, index=False)
    return str(path)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["stats", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert captured.err == ""
    return json.loads(captured.out)


def test_a_table_of_ones_own_is_described_with_its_missing_values(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    tree = told(capsys, "--data", table, *PUBLIC, "--min-cell", "2", "--histogram", "age", "--bins", "5")
    age = tree["description"]["columns"]["age"]
    pooled = TABLE["age"].clip(0, 50)
    assert (age["count"], age["missing"], tree["description"]["rows"]) == (38, 2, 40)
    assert age["mean"] == pytest.approx(pooled.mean(), abs=age["mean_error"])
    assert age["variance"] == pytest.approx(pooled.var(), abs=age["variance_error"] + 1e-9)
    median = tree["quantiles"]["columns"]["age"][1]
    assert median["low"] < 38 <= median["high"]
    assert tree["classes"]["sex"]["counts"] == [None, 19, None]
    assert tree["classes"]["stage"]["counts"] == [20, 20, 0, 0]
    shown = tree["histograms"]["age"]["counts"]
    assert [count for count in shown if count is not None] == [0, 0, 10, 10, 18, 2]
    assert tree["notices"] == ["south: 7 of 18 values of age lie outside 0 to 50 and are clipped to it"]
    assert tree["simulation_only"] == ["notices"]
    privacy, opened = tree["privacy"], tree["description"]["opened"]
    assert {key: privacy[key] for key in ("unit", "epsilon", "delta", "accountant")} == {
        "unit": None, "epsilon": [], "delta": None, "accountant": None
    }  # fmt: skip
    assert privacy["opened"][: len(opened)] == opened
    assert (tree["data"], tree["sites"], tree["protocol"], tree["min_cell"]) == ("own.csv", ["north", "south"], "secagg", 2)


def test_the_terminal_shows_every_table_what_is_withheld_and_what_was_opened(
    table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stats", "--data", table, *PUBLIC, "--range", "stage=1:3", "--correlation"]) == 0
    out = capsys.readouterr().out
    for words in (
        "Columns over all sites", "40 rows of 2 sites", "Rows by sex", "Correlation", "What was opened", "exact", "by secagg",
        "* is not released: fewer than 5", "7 of 18 values of age", "screening of the cells of sex",
    ):  # fmt: skip
        assert words in out, words
    assert "server sees every site" not in out
    assert out.index("each site alone would be told its own") < out.index("7 of 18 values of age")


def test_weaker_protocols_come_with_a_warning(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    for protocol, words in {"plain-insecure": "the server sees every site's own values", "bfv": "all sites share one key"}.items():
        assert main(["stats", "--data", table, *PUBLIC, "--protocol", protocol]) == 0
        assert words in capsys.readouterr().out


@needs_data
def test_the_hospitals_are_described(capsys: pytest.CaptureFixture[str]) -> None:
    tree = told(capsys, "--data", "heart", "--correlation", "--columns", "age,chol", "--columns", "oldpeak", "--histogram", "age")
    loaded = data.load("heart")
    pooled = pd.DataFrame(np.concatenate([site.x for site in loaded.sites]), columns=list(loaded.features))
    pooled = pooled.clip(*loaded.ranges.T)[["age", "chol", "oldpeak"]]
    for name, column in tree["description"]["columns"].items():
        assert column["mean"] == pytest.approx(pooled[name].mean(), abs=column["mean_error"] + 1e-12)
        assert column["std"] == pytest.approx(pooled[name].std(), abs=column["std_error"] + 1e-12)
    assert tree["correlation"]["columns"] == ["age", "chol", "oldpeak"]
    assert np.abs(np.array(tree["correlation"]["matrix"]) - pooled.corr().to_numpy()).max() < 1e-8
    assert tree["classes"]["label"] == {
        **tree["classes"]["label"], "labels": [["no heart disease", "heart disease", "missing"]], "counts": [357, 383, 0],
    }  # fmt: skip
    assert list(tree["classes"]) == ["label"]
    sums = [event["rounds"] for event in tree["description"]["opened"]]
    assert sums == [1]
    assert not any(isinstance(value, float) and math.isnan(value) for value in tree["description"]["columns"]["age"].values())


def test_breast_cancer_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    tree = told(capsys, "--clients", "3", "--columns", "mean radius")
    assert (tree["data"], len(tree["sites"])) == ("breast-cancer", 3)
    assert tree["classes"]["label"]["counts"] == [357, 212, 0]


REFUSED = {
    "unknown column": (["--columns", "agee"], "the column agee has no public range; given for: age"),
    "no range of this column": (["--columns", "stage"], "the column stage has no public range; given for: age"),
    "reversed": (["--range", "stage=3:1"], "range of stage is 3 to 1: two finite numbers, the smaller first"),
    "range of what is not there": (["--range", "bmi=10:60"], "the column bmi is not in"),
    "text": (["--range", "hospital=0:1"], "north: the column hospital holds text (such as 'north')"),
    "no range": (["--range", "age"], "--range 'age' is refused; allowed: COLUMN=LOW:HIGH"),
    "range twice": (["--range", "age=0:9"], "--range is refused twice for the column 'age'"),
    "levels": (["--levels", "=f"], "--levels '=f' is refused; allowed: COLUMN=VALUE,VALUE"),
    "levels of numbers": (["--levels", "age=old,young"], "the levels of age must be numbers"),
    "all missing": (["--range", "unused=0:1"], "every value of unused is missing at every site"),
    "min cell": (["--min-cell", "0"], "minimum cell count must be a whole number of at least 1, not 0"),
    "too few rows": (["--min-cell", "41"], "the sites have fewer than 41 rows together: nothing is released"),
    "protocol": (["--protocol", "secag"], "no protocol 'secag'"),
    "correlation": (["--columns", "age", "--correlation"], "--correlation needs at least two columns, not age"),
    "bins": (["--histogram", "age", "--bins", "0"], "1 to 1000 bins, not 0"),
    "classes": (["--classes", "age"], "the column age has no public levels"),
    "clients": (["--clients", "3"], "--clients, --sites and --data-dir are for named data"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_nothing_is_printed(case: str, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words = REFUSED[case]
    assert words in refused(capsys, "stats", "--data", table, *PUBLIC, *arguments)


def test_a_table_without_what_is_public_is_refused(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "needs a site column (--site); its columns: hospital, age" in refused(capsys, "stats", "--data", table)
    line = refused(capsys, "stats", "--data", table, "--site", "hospital")
    assert "--range COLUMN=LOW:HIGH for numbers, --levels COLUMN=VALUE,VALUE for classes" in line
    assert "names 1 site: at least 2" in refused(capsys, "stats", "--data", table, "--site", "unused", "--range", "age=0:9")
    assert "goes with a .csv file only" in refused(capsys, "stats", "--range", "age=0:9")


def test_what_cannot_be_is_refused_before_the_first_sum(
    table: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SecureStatistics, "total", lambda *_, **__: pytest.fail("a sum was opened"))
    for case, (arguments, words) in REFUSED.items():
        if case not in {"all missing", "too few rows"}:
            assert words in refused(capsys, "stats", "--data", table, *PUBLIC, *arguments)
