"""A run that was stopped goes on as if nothing had happened: the same models, records, account of ε and list of what was opened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from stub_runner import refused

from protocols.rand import Rand, Seed
from securefl.cli import main
from securefl.experiment import run_job
from securefl.job import Job
from securefl.results import RunResult
from securefl.runner import Runner

ROUNDS, STOPPED = 5, 3
PLAIN = {"mechanism": "none", "sample_rate": 1.0}


class Stopped(Exception):
    """Somebody pulled the plug."""


def job(folder: Path | None, *, resume: bool = False, **privacy: Any) -> Job:
    output = {} if folder is None else {"dir": str(folder), "checkpoint": 1, "resume": resume}
    tree = {"data": {"clients": 3}, "simulation": {"baselines": False}, "output": output}
    return Job.parse({**tree, "privacy": {"rounds": ROUNDS, "protocol": "secagg", **privacy}})


def stopping(record: Any) -> None:
    if record.number == STOPPED:
        raise Stopped


def stopped_and_resumed(folder: Path, **privacy: Any) -> RunResult:
    with pytest.raises(Stopped):
        run_job(job(folder, **privacy), on_event=stopping)
    return run_job(job(folder, resume=True, **privacy))


def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites round by the number of the round alone, so that two runs may be compared bit by bit."""
    made = Runner.__init__

    def seeded(self: Runner, *args: Any, **more: Any) -> None:
        def entropy(name: str) -> Any:
            return lambda: Rand(Seed(f"{name} {self.progress.begun}".encode().ljust(32, b" ")))

        made(self, *args, entropy=entropy, **more)

    monkeypatch.setattr(Runner, "__init__", seeded)


def test_a_resumed_run_ends_with_the_models_of_one_that_was_not_stopped(tmp_path, monkeypatch):
    repeatable(monkeypatch)
    whole, resumed = run_job(job(None, **PLAIN)), stopped_and_resumed(tmp_path, **PLAIN)
    for name, array in whole.state.items():
        assert (resumed.state[name] == array).all()
    assert [r.metrics for r in resumed.rounds] == [r.metrics for r in whole.rounds]
    assert resumed.opened == whole.opened
    line = f"resumed after round {STOPPED}: bytes, messages and times are those since then"
    assert line in resumed.warnings
    assert not [text for text in resumed.warnings if "spent before" in text]


@pytest.mark.parametrize(
    "privacy",
    [
        {"mechanism": "local-record", "epsilon": 3.0},
        {"mechanism": "distributed-record", "epsilon": 3.0, "rows": 80},
        {"mechanism": "distributed-party", "epsilon": 50.0, "update_clip": 1.0},
    ],
    ids=["local-record", "distributed-record", "distributed-party"],
)
def test_the_account_is_that_of_all_rounds(privacy, tmp_path):
    """Control: a run of the last rounds alone spends less."""
    whole, resumed = run_job(job(None, **privacy)), stopped_and_resumed(tmp_path, **privacy)
    assert resumed.epsilon == pytest.approx(whole.epsilon)
    assert [max(r.epsilon.values()) for r in resumed.rounds] == pytest.approx([max(r.epsilon.values()) for r in whole.rounds])
    assert max(resumed.rounds[ROUNDS - STOPPED - 1].epsilon.values()) < max(resumed.epsilon)
    assert [text for text in resumed.warnings if "spent before the run was stopped is not in ε" in text]


def test_the_clipping_bound_that_follows_a_quantile_goes_on(tmp_path, monkeypatch):
    repeatable(monkeypatch)
    privacy = {"mechanism": "distributed-party", "epsilon": 50.0, "update_clip": 1.0, "clip_quantile": 0.5}
    run_job(job(tmp_path / "whole", **privacy))
    stopped_and_resumed(tmp_path / "resumed", **privacy)
    states = [load_file(tmp_path / name / "checkpoint.safetensors")["state"] for name in ("whole", "resumed")]
    assert states[0] == pytest.approx(states[1], rel=0.5)
    assert states[1][0] != 1.0


def test_the_command_goes_on_and_begins_where_there_is_nothing_yet(tmp_path, capsys):
    line = [
        "run",
        "--clients",
        "3",
        "--rounds",
        "4",
        "--no-dp",
        "--no-baselines",
        "--json",
        "--out",
        str(tmp_path),
        "--checkpoint",
        "2",
    ]
    assert main([*line, "--resume"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["rounds"] == 4
    assert not [text for text in tree["warnings"] if "resumed" in text]
    assert main([*line, "--resume"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["rounds"] == 4
    assert "resumed after round 4: bytes, messages and times are those since then" in tree["warnings"]


RUN = ("run", "--clients", "3", "--rounds", "2", "--no-baselines", "--checkpoint", "1")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ((), "--checkpoint and --resume need a folder (--out)"),
        (("--no-dp", "--algorithm", "scaffold", "--out", "x"), "performance.algorithm = scaffold is refused with checkpoints"),
        (("--no-dp", "--algorithm", "fedadam", "--out", "x"), "performance.algorithm = fedadam is refused with checkpoints"),
        (("--scaling", "noised", "--out", "x"), "data.scaling = noised is refused with checkpoints"),
        (("--ledger", "l.db", "--out", "x"), "privacy.ledger is refused with checkpoints"),
        (("--model", "mlp", "--shared", "0.*", "--out", "x"), "model.shared is refused with checkpoints"),
        (("--resume", "--tape", "t.tape", "--out", "x"), "--resume is refused with a tape"),
    ],
)
def test_what_cannot_be_is_one_line(more, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert line in refused(capsys, *RUN, *more)
    assert not (tmp_path / "x" / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_another_job_of_other_rows_or_damaged_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = [*RUN, "--no-dp", "--out", "x"]
    assert main(line) == 0
    capsys.readouterr()
    path = tmp_path / "x" / "checkpoint.safetensors"
    told = refused(capsys, *line, "--resume", "--local-steps", "9")
    assert "is of another job: privacy.local_steps is 3 there and 9 here" in told
    whole = path.read_bytes()
    about = json.loads(load_metadata(path))
    about["data"] = "0" * 64
    save_file(load_file(path), path, metadata={"checkpoint": json.dumps(about)})
    assert "is of other rows" in refused(capsys, *line, "--resume")
    about["version"] = 9
    save_file(load_file(path), path, metadata={"checkpoint": json.dumps(about)})
    assert "is a checkpoint of version 9: this software reads 1" in refused(capsys, *line, "--resume")
    path.write_bytes(whole[: len(whole) // 2])
    assert "is no checkpoint" in refused(capsys, *line, "--resume")


def load_metadata(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return file.metadata()["checkpoint"]


def test_a_failed_write_leaves_the_checkpoint_before_it(tmp_path, monkeypatch):
    from securefl import files

    with pytest.raises(Stopped):
        run_job(job(tmp_path, **PLAIN), on_event=stopping)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    staged = files._staged

    def full(path: Path, content: bytes, **how: Any) -> Path:
        if path.name == "checkpoint.safetensors":
            raise OSError(28, "No space left on device")
        return staged(path, content, **how)

    monkeypatch.setattr(files, "_staged", full)
    with pytest.raises(OSError, match="No space left"):
        run_job(job(tmp_path, resume=True, **PLAIN))
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert np.isfinite(load_file(tmp_path / "checkpoint.safetensors")["model.0"]).all()
