"""Two jobs side by side: each figure is that of its own run, and what was set otherwise is named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from stub_runner import refused

from securefl.cli import main
from securefl.comparison import figures


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COLUMNS", "160")
    common = "[data]\nclients = 3\n[simulation]\nbaselines = false\n"
    for name, privacy in {"noised": "rounds = 2", "plain": 'rounds = 3\nmechanism = "none"'}.items():
        (tmp_path / f"{name}.toml").write_text(f"{common}[privacy]\n{privacy}\n")
    return ["run", "--compare", str(tmp_path / "noised.toml"), str(tmp_path / "plain.toml")]


def test_both_jobs_run_and_their_figures_stand_side_by_side(jobs, tmp_path, capsys):
    assert main([*jobs, "--json", "--out", str(tmp_path / "out")]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert tree["names"] == ["noised", "plain"]
    first, second = tree["runs"]
    assert (first["rounds"], second["rounds"]) == (2, 3)
    assert tree["figures"]["rounds"] == {"values": [2, 3], "difference": 1}
    auroc = tree["figures"]["AUROC"]
    assert auroc["values"] == [first["metrics"]["auroc"], second["metrics"]["auroc"]]
    assert auroc["difference"] == pytest.approx(second["metrics"]["auroc"] - first["metrics"]["auroc"])
    spent = tree["figures"]["ε of a record, largest of a site"]
    assert spent == {"values": [max(first["privacy"]["epsilon"]), None], "difference": None}
    picture = (tmp_path / "out" / "compare.svg").read_text()
    assert picture.count("<svg") == 1
    assert "loss" in first["history"][0]["metrics"]


def test_the_terminal_names_what_differs_and_nothing_else(jobs, capsys):
    assert main([*jobs, "--clients", "4"]) == 0
    out = capsys.readouterr().out
    differs = out[out.index("What differs") : out.index("Side by side")]
    assert ["privacy.mechanism", "local-record", "none"] in [line.split() for line in differs.splitlines()]
    assert "privacy.rounds" in differs
    assert "clients" not in differs
    assert "3 local steps on 4 sites" in out, "options go to both jobs"
    assert "hold out other rows" not in out


@pytest.mark.parametrize("line", ["[data]\nclients = 3\nholdout = 0.2", "[data]\nclients = 3\n[simulation]\nseed = 1"])
def test_scores_of_other_rows_are_said_to_be_so(line, jobs, tmp_path, capsys):
    (tmp_path / "plain.toml").write_text(f"{line}\n[privacy]\nrounds = 2\n")
    assert main([*jobs, "--no-baselines"]) == 0
    assert "The jobs hold out other rows" in capsys.readouterr().out


def test_the_time_is_without_what_only_the_first_run_of_a_process_loads():
    seconds = {"load_data": 1.0, "load_libraries": 2.0, "train": 3.0}
    run = SimpleNamespace(metrics={}, epsilon=[], unit=None, rounds=[], aborted_rounds=0, up={}, wall=6.5, seconds=seconds)
    ((label, values, _),) = [found for found in figures([run, run]) if "time" in found[0]]
    assert (label, values) == ("time, loading aside", (3.5, 3.5))


def test_what_cannot_be_compared_is_one_line(jobs, capsys, tmp_path):
    assert "needs another job file" in refused(capsys, *jobs[:-1])
    assert "--track are refused with --compare" in refused(capsys, *jobs, "--track", "csv:x.csv")
    assert "--track are refused with --compare" in refused(capsys, *jobs, "--tape", str(tmp_path / "t.tape"))
    (tmp_path / "noised.toml").write_text("[privacy]\nround = 1\n")
    assert "did you mean privacy.rounds?" in refused(capsys, *jobs)
