"""Metrics of a run where the user looks at runs: the same numbers as in the JSON object, read back by the trackers' own readers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from stub_runner import refused

from securefl.cli import main

RUN = ["run", "--clients", "3", "--rounds", "3", "--no-baselines", "--json"]


def ran(capsys: pytest.CaptureFixture[str], track: str) -> dict[str, Any]:
    assert main([*RUN, "--track", track]) == 0
    return json.loads(capsys.readouterr().out)


def expected(tree: dict[str, Any]) -> list[dict[str, float]]:
    rows = [
        {"contributors": record["contributors"], "aborted": float(record["aborted"] is not None), **record["metrics"]}
        for record in tree["history"]
    ]
    rows[-1]["epsilon"] = max(tree["privacy"]["epsilon"])
    return [*rows, {f"simulation/{name}": value for name, value in tree["metrics"].items() if value is not None}]


def test_a_csv_has_a_line_a_round_and_one_for_the_end(tmp_path, capsys):
    tree = ran(capsys, f"csv:{tmp_path / 'm.csv'}")
    table = pd.read_csv(tmp_path / "m.csv")
    assert table["step"].tolist() == [1, 2, 3, 4]
    for row, numbers in zip(table.to_dict("records"), expected(tree), strict=True):
        assert {name: row[name] for name in numbers} == pytest.approx(numbers)
    assert not [name for name in table.columns if "site" in name and not name.startswith("simulation/")]


def test_tensorboard_reads_the_same_numbers(tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tree = ran(capsys, f"tensorboard:{tmp_path / 'runs'}")
    found = EventAccumulator(str(tmp_path / "runs"))
    found.Reload()
    for step, numbers in enumerate(expected(tree), start=1):
        for name, value in numbers.items():
            assert {e.step: e.value for e in found.Scalars(name)}[step] == pytest.approx(value, rel=1e-6)


def test_mlflow_reads_the_same_numbers_and_the_job(tmp_path, capsys, monkeypatch):
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    tree = ran(capsys, f"mlflow:{uri}")
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("securefl").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["privacy.rounds"] == "3"
    for step, numbers in enumerate(expected(tree), start=1):
        for name, value in numbers.items():
            assert {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)}[step] == pytest.approx(value)


@pytest.mark.parametrize(
    "place", ["https://me:hunter2@host/x", "http://hunter2@host", "//me:hunter2@host", "postgresql://me:hunter2@db/x"]
)
def test_an_address_with_a_password_is_refused_and_not_shown(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The job is in the JSON object, the report, the model's file, and in MLflow's own parameters."""
    line = refused(capsys, *RUN, "--track", f"mlflow:{place}")
    assert "MLFLOW_TRACKING_USERNAME" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("track", "line"),
    [
        ("wandb:x", "no place for metrics; allowed: csv:FILE, tensorboard:DIR, mlflow:URI"),
        ("csv:", "no place for metrics"),
        ("csv:missing/m.csv", "its folder is missing"),
        ("csv:/", "or it is one"),
        (f"tensorboard:{Path(__file__)}", "it is no folder"),
        ("mlflow:nowhere://x", "--track mlflow:nowhere://x"),
    ],
)
def test_a_place_that_cannot_be_is_one_line_before_training(track, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert line in refused(capsys, *RUN, "--track", track)


@pytest.mark.parametrize(("track", "package"), [("tensorboard:x", "torch.utils.tensorboard"), ("mlflow:x", "mlflow.tracking")])
def test_a_missing_package_is_named(track, package, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install 'securefl[{track.partition(':')[0]}]'" in refused(capsys, *RUN, "--track", track)


def test_a_run_that_breaks_off_keeps_its_rounds_and_is_told_as_failed(tmp_path, capsys, monkeypatch):
    from mlflow.tracking import MlflowClient

    from securefl.simulated_rounds import SimulatedRounds

    whole = SimulatedRounds._round

    def breaking(self: SimulatedRounds, number: int) -> Any:
        if number == 2:
            raise KeyboardInterrupt
        return whole(self, number)

    monkeypatch.setattr(SimulatedRounds, "_round", breaking)
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, "--track", "csv:m.csv"]) == 130
    assert pd.read_csv("m.csv")["step"].tolist() == [1]
    uri = f"sqlite:///{tmp_path / 'm.db'}"
    assert main([*RUN, "--track", f"mlflow:{uri}"]) == 130
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("securefl").experiment_id])
    assert run.info.status == "FAILED"
