"""The command line: one line and exit code 2 for bad input, one JSON object for --json, and a cheap start."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_result import record, result
from rich.console import Console

import securefl.data
from protocols.errors import Abort, Misuse
from securefl import console, options
from securefl.cli import main
from securefl.data.types import Dataset, Site
from securefl.errors import UserError
from securefl.job import SECTIONS, Job
from securefl.results import RoundRecord, RunResult

ROOT = Path(__file__).resolve().parents[2]


class Runner:
    """Stands for securefl.experiment: remembers the job, tells two rounds, returns or raises what it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.answer: Callable[[Job], RunResult] = result

    def run_job(self, job: Job, *, dataset: Dataset, on_event: Callable[[RoundRecord], None] | None = None) -> RunResult:
        assert dataset.name == "made data"
        self.jobs.append(job)
        print("noise of a library")
        if on_event:
            on_event(record(1, auroc=0.5))
            on_event(record(job.privacy.rounds, aborted="too-few-survivors", epsilon=1.5))
        return self.answer(job)

    def expected_aborts(self, job: Job, parties: int) -> float:
        return parties * job.simulation.dropout


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    made, module = Runner(), ModuleType("securefl.experiment")
    module.run_job, module.expected_aborts = made.run_job, made.expected_aborts  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "securefl.experiment", module)
    sites = tuple(Site(name, np.zeros((4, 2)), np.array([0, 1, 0, 1])) for name in ("north", "south", "east"))
    notes = ("column [age] has 3 missing values",)
    data = Dataset("made data", ("a", "b"), sites, None, fixed_sites=True, source="made by hand", notes=notes)
    monkeypatch.setattr(securefl.data, "load", lambda *_, **__: data)
    monkeypatch.setenv("COLUMNS", "160")
    return made


def refused(capsys: pytest.CaptureFixture[str], *args: str, code: int = 2) -> str:
    """The one line of a refusal; stdout stays empty."""
    assert main(list(args)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("securefl: ")
    assert captured.err.count("\n") == 1
    assert captured.err.endswith("\n")
    return captured.err


def test_json_prints_one_object_and_nothing_else(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json.loads(json.dumps(result().as_json()))
    assert captured.out.count("\n") == 1
    assert captured.err == "noise of a library\n"


def test_the_published_keys_are_there(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--json"])
    tree = json.loads(capsys.readouterr().out)
    assert tree["metrics"]["auroc"] == 0.91234
    assert tree["metrics"]["accuracy"] == 0.85
    assert tree["baselines"]["pooled"]["auroc"] == 0.95
    assert tree["baselines"]["local"]["auroc"] == [0.71, 0.72, 0.73]
    assert tree["privacy"]["epsilon"] == [2.75, 1.375, 0.6875]
    assert tree["privacy"]["delta"] == 1e-5
    assert tree["sites"] == ["north", "south", "east"]
    assert tree["bytes"] == {"up_per_client": [1000, 2000, 3_000_000], "down_per_client": [10, 20, 30]}
    assert (tree["rounds"], tree["aborted_rounds"], tree["protocol"]) == (4, 1, "secagg")
    assert tree["seconds"]["total"] == 2.0


def test_the_terminal_shows_the_plan_first_and_every_table_after(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--dropout", "0.5"]) == 0
    out = capsys.readouterr().out
    plan, _, tables = out.partition("noise of a library")
    assert plan.index("column [age] has 3 missing values") < plan.index("Training")
    for word in ("12 rows", "3 sites", "20 rounds", "ε = 3", "1.5 of 20 rounds to abort"):
        assert word in plan
    for word in (
        "0.912", "0.850", "0.950", "0.710", "north alone", "simulation only", "without noise",
        "2.750", "1e-05", "one record", "rdp", "covered by ε", "exact", "held-out rows only",
        "3.0 MB", "Masked", "survey", "4.3 kB", "site east has one class", "too-few-survivors",
    ):  # fmt: skip
        assert word in tables, word


def test_without_noise_or_masks_the_plan_says_so(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--no-dp", "--protocol", "plain-insecure"])
    out = capsys.readouterr().out
    assert "no differential privacy" in out
    assert "the server sees every party's update" in out
    assert "expect" not in out


def test_options_override_the_file_only_where_given(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("[privacy]\nrounds = 7\nepsilon = 2\n[model]\nname = 'mlp'\n[simulation]\nbaselines = false\n")
    assert main(["run", str(path), "--rounds", "9", "--seed", "3"]) == 0
    job = runner.jobs[0]
    assert (job.privacy.rounds, job.privacy.epsilon, job.model.name) == (9, 2.0, "mlp")
    assert (job.simulation.seed, job.simulation.baselines) == (3, False)


def test_every_key_of_a_job_has_an_option(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["run", "--help"]) == 0
    out = capsys.readouterr().out
    flags = [
        name for section, knobs in SECTIONS.items() for key in knobs.model_fields for name in options.flag(section, key).split("/")
    ]
    assert len(flags) == len(set(flags))
    for flag in flags:
        assert f" {flag} " in out


TEXT = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=8)
NUMBERS = st.floats(-1e9, 1e9)
TABLE = st.fixed_dictionaries(
    {"name": TEXT.map(lambda text: f"{text}.csv"), "label": TEXT, "site": TEXT},
    optional={
        "ranges": st.dictionaries(TEXT, st.tuples(NUMBERS, NUMBERS).map(sorted).filter(lambda ends: ends[0] < ends[1]), max_size=3)
    },
)
HEART = st.fixed_dictionaries({"name": st.just("heart")}, optional={"dir": TEXT})
JOBS = st.fixed_dictionaries(
    {},
    optional={
        "data": st.tuples(TABLE | HEART, st.integers(2, 9) | st.none()).map(lambda pair: {**pair[0], "folds": pair[1]}),
        "model": st.fixed_dictionaries({"name": st.sampled_from(["logistic", "mlp"]), "fix": st.booleans()}),
        "privacy": st.fixed_dictionaries(
            {},
            optional={
                "protocol": st.sampled_from(["secagg", "plain-insecure", "lightsecagg"]),
                "mechanism": st.sampled_from(["local-record", "none"]),
                "delta": st.floats(0, 1, exclude_min=True, exclude_max=True),
                "clip": st.floats(1e-6, 1e6),
                "w_max": st.integers(1, 32767),
                "threshold": st.integers(2, 9),
            },
        ),
        "simulation": st.fixed_dictionaries({"seed": st.integers(0, 2**63 - 1), "baselines": st.booleans()}),
    },
)


@given(JOBS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_command_that_repeats_a_job_gives_that_job(runner: Runner, tree: dict[str, Any]) -> None:
    job = Job.parse(tree)
    words = options.command(job)
    if job.privacy.mechanism == "none":  # what noise needs says nothing without noise, and is left out
        job = Job.parse({**tree, "privacy": {k: v for k, v in tree["privacy"].items() if k not in options.NEEDS_DP}})
    runner.jobs.clear()
    assert main([*words[1:], "--json"]) == 0
    assert runner.jobs == [job]
    assert shlex.split(shlex.join(words)) == words


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--rounds", "0"], ["--rounds", "0", ">= 1"]),
        (["--rounds", "many"], ["--rounds", "integer"]),
        (["--epsilon", "nan"], ["--epsilon", "nan"]),
        (["--epsilon", "-1"], ["--epsilon", "-1", "> 0"]),
        (["--dropout", "1"], ["--dropout", "< 1"]),
        (["--protocol", "secag"], ["--protocol", "secagg or plain-insecure", "did you mean secagg?"]),
        (["--data", "hearts"], ["--data", "did you mean heart?"]),
        (["--data", "heart", "--clients", "4"], ["clients", "heart"]),
        (["--data", "heart", "--holdout", "0.2"], ["--holdout", "5 folds", "--folds 1"]),
        (["--data", "rows.csv"], ["--label"]),
        (["--no-dp", "--epsilon", "2"], ["--epsilon", "--no-dp"]),
        (["--range", "age=1"], ["--range", "COLUMN=LOW:HIGH"]),
        (["--range", "age=a:b"], ["--range", "COLUMN=LOW:HIGH"]),
        (["--epsilonn", "3"], ["--epsilonn", "--epsilon"]),
        (["a.toml", "b.toml"], ["b.toml"]),
        (["none.toml"], ["none.toml", "cannot read"]),
    ],
)
def test_bad_options_are_one_line_and_nothing_runs(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path, args: list[str], words: list[str]
) -> None:
    out = tmp_path / "out"
    line = refused(capsys, "run", *args, "--out", str(out))
    for word in words:
        assert word in line
    assert runner.jobs == []
    assert not out.exists()


def test_a_bad_job_file_is_one_line_with_file_and_key(runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("[privacy]\nepsilonn = 1\n")
    line = refused(capsys, "run", str(path))
    assert str(path) in line
    assert "privacy.epsilonn" in line
    path.write_text("[privacy]\nepsilon = \n")
    assert "line 2" in refused(capsys, "run", str(path))
    path.write_text('"\\u001b[31m" = 1\n')
    assert "\x1b" not in refused(capsys, "run", str(path))
    assert runner.jobs == []


@pytest.mark.parametrize(
    ("error", "code"),
    [(UserError("site x\nis empty"), 2), (Misuse("n·max is too large"), 2), (Abort("all-rounds"), 1), (OSError("disk full"), 1)],
)
def test_errors_of_the_run_are_one_line_and_nothing_is_written(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path, error: Exception, code: int
) -> None:
    def fail(job: Job) -> RunResult:
        capsys.readouterr()
        raise error

    runner.answer = fail
    refused(capsys, "run", "--json", "--out", str(tmp_path / "out"), code=code)
    assert not list(tmp_path.iterdir())


def test_a_refused_models_diff_follows_the_line(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(job: Job) -> RunResult:
        error = UserError("BatchNorm1d is refused")
        error.diff = "-BatchNorm1d\n+GroupNorm"  # type: ignore[attr-defined]
        raise error

    runner.answer = fail
    assert main(["run", "--json"]) == 2
    assert capsys.readouterr().err.endswith("securefl: BatchNorm1d is refused\n-BatchNorm1d\n+GroupNorm\n")


def test_an_interrupt_is_130(runner: Runner, tmp_path: Path) -> None:
    def stop(job: Job) -> RunResult:
        raise KeyboardInterrupt

    runner.answer = stop
    assert main(["run", "--json", "--out", str(tmp_path / "out")]) == 130
    assert not list(tmp_path.iterdir())


def test_out_writes_three_complete_files(runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    assert main(["run", "--out", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {"report.html", "metrics.json", "model.safetensors"}
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(result().as_json()))
    assert str(folder / "report.html") in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_refused_before_training(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out" / "metrics.json").mkdir(parents=True)
    assert "is not a folder" in refused(capsys, "run", "--out", str(tmp_path / "file" / "out"))
    assert "metrics.json is a folder" in refused(capsys, "run", "--out", str(tmp_path / "out"))
    assert runner.jobs == []


def test_progress_is_live_in_a_terminal_and_plain_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    told = [record(1, auroc=0.5), record(2, aborted="too-few-survivors", epsilon=1.5), record(20, auroc=0.75, epsilon=2.0)]
    for terminal in (True, False):
        target = io.StringIO()
        with console.progress(Console(file=target, force_terminal=terminal, width=160), Job(), lines=True) as tell:
            for event in told:
                tell(event)
        text = target.getvalue()
        assert ("\x1b" in text) is terminal
        for word in ("AUROC 0.750", "ε 2.00", "3 of 3 parties", "1 aborted so far", "20/20"):
            assert word in text
    target = io.StringIO()
    with console.progress(Console(file=target, force_terminal=False), Job(), lines=False) as tell:
        tell(told[0])
    assert target.getvalue() == ""


def test_draw_and_demo_hand_on_what_they_were_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[Any] = []
    pictures, secure, story = ModuleType("protocols.draw"), ModuleType("securefl.secure"), ModuleType("securefl.demo")
    for form in ("svg", "mermaid", "table"):
        setattr(pictures, form, lambda flow, form=form: f"{form} of {flow}\n")
    secure.flow = lambda name: f"the flow {name}"  # type: ignore[attr-defined]
    story.run = lambda protocol, **rest: calls.append((protocol, rest))  # type: ignore[attr-defined]
    for name, module in {"protocols.draw": pictures, "securefl.secure": secure, "securefl.demo": story}.items():
        monkeypatch.setitem(sys.modules, name, module)
        package, _, leaf = name.rpartition(".")
        monkeypatch.setattr(sys.modules[package], leaf, module, raising=False)
    for form in ("svg", "mermaid", "table"):
        assert main(["draw", "secagg", "--format", form]) == 0
        assert capsys.readouterr().out == f"{form} of the flow secagg\n"
    assert main(["demo", "secagg", "--clients", "5", "--dropout", "1", "--step"]) == 0
    assert main(["demo"]) == 0
    assert calls == [
        ("secagg", {"clients": 5, "dropout": 1, "step": True}),
        ("secagg", {"clients": 6, "dropout": 2, "step": False}),
    ]
    assert "--dropout 3" in refused(capsys, "demo", "--clients", "3", "--dropout", "3")
    assert "--format" in refused(capsys, "draw", "secagg", "--format", "png")


def python(*args: str, path: list[Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, *args], env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )


def test_help_and_version_import_no_learning_library(tmp_path: Path) -> None:
    heavy = ["torch", "opacus", "sklearn", "matplotlib", "pandas", "scipy", "jinja2", "safetensors"]
    for args in (["--help"], ["run", "--help"], ["--version"], ["run", "--rounds", "0"]):
        script = (
            f"import sys; from securefl.cli import main; code = main({args!r}); "
            f"sys.stderr.write(repr(sorted(set({heavy!r}) & set(sys.modules)))); sys.exit(code)"
        )
        ended = python("-c", script, path=[ROOT], cwd=tmp_path)
        assert ended.stderr.endswith("[]"), ended.stderr
        assert ended.returncode == (2 if "0" in args else 0)
        assert "securefl" in (ended.stdout or ended.stderr)


def test_the_module_runs_as_a_command(tmp_path: Path) -> None:
    ended = python("-m", "securefl", "run", "--rounds", "0", path=[ROOT], cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("securefl: --rounds = 0 ")


@pytest.mark.parametrize("kind", ["package", "module"])
def test_a_foreign_package_named_protocols_is_named_in_one_line(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "mine" / ("protocols/__init__.py" if kind == "package" else "protocols.py")
    place.parent.mkdir(parents=True)
    place.write_text("")
    script = tmp_path / "bin" / "securefl"
    script.parent.mkdir()
    script.write_text("import sys\nfrom securefl.cli import main\nsys.exit(main())\n")
    for args in (["-m", "securefl", "--version"], [str(script), "--version"]):
        ended = python(*args, path=[tmp_path / "mine", ROOT], cwd=tmp_path)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.count("\n") == 1
        assert ended.stderr.startswith(f"securefl: {place} shadows ")
    for line in ("import securefl", "from securefl.job import Job"):
        ended = python("-c", line, path=[tmp_path / "mine", ROOT], cwd=tmp_path)
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1].startswith(f"ImportError: {place} shadows ")
