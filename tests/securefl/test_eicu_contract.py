"""``securefl doctor --data eicu``: a region that reports another unit is named; nobody else is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import made_eicu
import numpy as np
import pandas as pd
import pytest
from stub_runner import refused

from securefl.cli import main
from securefl.data import eicu_features as public
from securefl.data.eicu_contract import contract

UNITS = {
    "glucose": 1 / 18.016,
    "creatinine": 88.42,
    "bun": 0.357,
    "bilirubin": 17.1,
    "albumin": 10.0,
    "hematocrit": 0.01,
    "fio2": 0.01,
    "pao2": 0.1333,
    "pco2": 0.1333,
    "wbc": 1000.0,
    "urine": 0.001,
}
"""Measurement → factor to the other unit that it is told in."""


def plausible(made: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The same tables with values near normal ones."""
    aps, spread = made["apacheApsVar"], np.random.default_rng(1)
    for name, m in public.MEASURES.items():
        near = np.clip(m.normal * (1 + 0.01 * spread.random(len(aps))), m.low, m.high)
        aps[name] = np.where(aps[name] == -1, -1, near)
    return made


def stays(made: dict[str, pd.DataFrame], region: str) -> pd.Series:
    hospital = made["hospital"].query("region == @region")["hospitalid"]
    return made["patient"].loc[made["patient"]["hospitalid"].isin(hospital), "patientunitstayid"]


def told(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, object]]:
    code = main(["doctor", "--data", "eicu", "--data-dir", str(folder), "--json", *more])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("measure", UNITS)
def test_a_region_that_reports_another_unit_is_named_and_no_other(measure, tmp_path, capsys):
    made = plausible(made_eicu.tables())
    assert told(made_eicu.write(tmp_path / "eicu-right", made), capsys)[0] == 0, "control: with one unit nothing is found"
    aps = made["apacheApsVar"]
    own = aps["patientunitstayid"].isin(stays(made, "South")) & (aps[measure] != -1)
    aps.loc[own, measure] *= UNITS[measure]
    folder = made_eicu.write(tmp_path / "eicu-wrong", made)
    code, tree = told(folder, capsys)
    assert code == 2
    assert {(v["site"], v["column"]) for v in tree["violations"]} == {("South", measure)}
    assert told(folder, capsys, "--site", "West")[0] == 0
    assert main(["doctor", "--data", "eicu", "--data-dir", str(folder), "--site", "South"]) == 2
    shown = capsys.readouterr().out
    assert f"South: column {measure}: " in shown
    assert contract().digest[:16] in shown


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--site", "Mars"], "has no stay of the site 'Mars'"),
        (["--sites", "ward"], "--sites is 'ward': region or hospital is allowed"),
        (["--schema", "s.toml"], "--schema and --job are refused with eicu"),
    ],
)
def test_bad_questions_are_one_line(more, line, tmp_path, capsys):
    folder = made_eicu.write(tmp_path / "eicu", made_eicu.tables())
    assert line in refused(capsys, "doctor", "--data", "eicu", "--data-dir", str(folder), *more)


def test_options_of_eicu_are_refused_with_a_file(capsys):
    line = refused(capsys, "doctor", "--data", "own.csv", "--sites", "region", "--schema", "s.toml")
    assert "--data-dir and --sites belong to eicu" in line


@pytest.mark.skipif("SECUREFL_DATA" not in os.environ, reason="SECUREFL_DATA names no folder with eicu_demo")
@pytest.mark.parametrize("sites", ["region", "hospital"])
def test_the_demo_keeps_to_its_units(sites, capsys):
    code, tree = told(Path(os.environ["SECUREFL_DATA"]) / "eicu_demo", capsys, "--sites", sites)
    assert (code, tree["violations"]) == (0, [])
    assert len(tree["rows"]) == {"region": 5, "hospital": 186}[sites]
