"""The command line: one line and exit code 2 for bad input, one JSON object for --json, and a cheap start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import ANY

import pytest
from made_result import result
from stub_runner import Runner, refused

from protocols import draw as pictures
from protocols import secagg
from protocols.errors import Abort, Misuse
from securefl import demo
from securefl.cli import main
from securefl.errors import UserError
from securefl.job import Job
from securefl.results import RunResult

ROOT = Path(__file__).resolve().parents[2]


def printed(text: str) -> dict[str, Any]:
    """The object that was printed, without the seconds, which hold those of loading."""
    tree = json.loads(text)
    assert tree.pop("seconds") >= result().wall
    assert set(tree.pop("seconds_by_step")) == {"train", "mask", "load_data", "load_libraries"}
    return tree


def expected(runner: Runner) -> dict[str, Any]:
    tree = json.loads(json.dumps(result(runner.jobs[0]).as_json()))
    return {key: value for key, value in tree.items() if not key.startswith("seconds")}


def test_json_prints_one_object_and_nothing_else(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--json"]) == 0
    captured = capsys.readouterr()
    assert printed(captured.out) == expected(runner)
    assert captured.out.count("\n") == 1
    assert captured.err == "warning  told when it happens\nnoise of a library\n"


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
    assert (tree["bytes"]["up_per_client"], tree["bytes"]["down_per_client"]) == (1_001_000, 20)
    assert (tree["bytes"]["up"], tree["bytes"]["down"]) == ([1000, 2000, 3_000_000], [10, 20, 30])
    assert (tree["rounds"], tree["aborted_rounds"], tree["protocol"]) == (4, 1, "secagg")
    assert tree["choice"] == "auto takes secagg, which is cheaper"
    assert isinstance(tree["seconds"], float)
    assert tree["seconds_by_step"]["train"] == 1.5


def test_the_terminal_shows_the_plan_first_and_every_table_after(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--dropout", "0.5"]) == 0
    out = capsys.readouterr().out
    plan, _, tables = out.partition("noise of a library")
    assert plan.index("column [age] has 3 missing values") < plan.index("Training")
    for word in ("12 rows", "3 sites", "20 rounds", "ε = 3", "not retried"):
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


def test_the_plan_says_which_graph_is_taken(runner: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--protocol", "secagg+"])
    assert "secagg+ takes the complete graph for 3 parties" in capsys.readouterr().out
    main(["run"])
    assert "graph" not in capsys.readouterr().out


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


def test_an_interrupt_is_one_line_and_130(runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def stop(job: Job) -> RunResult:
        capsys.readouterr()
        raise KeyboardInterrupt

    runner.answer = stop
    assert refused(capsys, "run", "--json", "--out", str(tmp_path / "out"), code=130) == "securefl: interrupted; nothing written\n"
    assert not list(tmp_path.iterdir())


def test_an_interrupt_between_two_files_leaves_none(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, list[int]()

    def stop(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(descriptor)

    monkeypatch.setattr(os, "fsync", stop)
    assert main(["run", "--json", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.endswith("securefl: interrupted; nothing written\n")
    assert not list((tmp_path / "out").iterdir())


def test_an_interrupt_after_the_files_says_where_they_are(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("securefl.console.show_result", stop)
    out = tmp_path / "out"
    assert main(["run", "--out", str(out)]) == 130
    assert capsys.readouterr().err.endswith(f"securefl: interrupted; written: {out}\n")
    assert len(list(out.iterdir())) == 3


def test_ctrl_c_at_a_process(tmp_path: Path) -> None:
    """A real signal, in the middle of training."""
    words = ["run", "--no-dp", "--no-baselines", "--rounds", "2000", "--out", "out"]
    with subprocess.Popen(
        [sys.executable, "-m", "securefl", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 — a shell's background jobs ignore it
    ) as process:
        assert process.stderr is not None
        while not (line := process.stderr.readline()).startswith("round "):
            assert line, "ended before its first round"
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in rest.splitlines() if not line.startswith("round ")] == ["securefl: interrupted; nothing written"]
    assert list(tmp_path.iterdir()) == []


def test_out_writes_three_complete_files(runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    assert main(["run", "--out", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {"report.html", "metrics.json", "model.safetensors"}
    assert printed((folder / "metrics.json").read_text()) == expected(runner)
    assert str(folder / "report.html") in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_refused_before_training(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out" / "metrics.json").mkdir(parents=True)
    assert "is not a folder" in refused(capsys, "run", "--out", str(tmp_path / "file" / "out"))
    assert "metrics.json is a folder" in refused(capsys, "run", "--out", str(tmp_path / "out"))
    assert runner.jobs == []


def test_draw_and_demo_hand_on_what_they_were_given(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[Any] = []
    story = ModuleType("securefl.demo")
    story.run = lambda protocol, **rest: calls.append((protocol, rest))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "securefl.demo", story)
    monkeypatch.setattr(sys.modules["securefl"], "demo", story, raising=False)
    for form, picture in {"svg": pictures.svg, "mermaid": pictures.mermaid, "table": pictures.table}.items():
        assert main(["draw", "secagg", "--format", form]) == 0
        assert capsys.readouterr().out == picture(secagg.flow).rstrip("\n") + "\n"
    assert main(["demo", "secagg", "--clients", "5", "--dropout", "1", "--step"]) == 0
    assert main(["demo"]) == 0
    assert calls == [
        ("secagg", {"clients": 5, "dropout": 1, "step": True, "recording": ANY}),
        ("secagg", {"clients": 6, "dropout": None, "step": False, "recording": ANY}),
    ]
    assert "--format" in refused(capsys, "draw", "secagg", "--format", "png")


def test_demo_says_its_limits_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--help"]) == 0
    assert f"2 to {demo.MOST}" in " ".join(capsys.readouterr().out.split())
    assert f"2..{demo.MOST}" in refused(capsys, "demo", "--clients", str(demo.MOST + 1))
    assert "0..2 with 6 clients and threshold 4, not 5" in refused(capsys, "demo", "--dropout", "5")


def test_draw_names_every_flow(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "draw", "nosuch")
    for name in ("secagg", "plain-insecure", "lightsecagg", "fedavg"):
        assert name in line
        assert main(["draw", name, "--format", "table"]) == 0
        assert capsys.readouterr().out


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


MINE = "import pathlib\npathlib.Path({ran!r}).write_text('ran')\nraise RuntimeError('of the user')\n"
"""A package of the user's own that fails as soon as anything imports it, and tells that it ran."""


@pytest.mark.parametrize("source", ["", MINE], ids=["empty", "raises"])
@pytest.mark.parametrize("kind", ["package", "module"])
def test_a_foreign_package_named_protocols_is_named_in_one_line_and_not_run(tmp_path: Path, kind: str, source: str) -> None:
    place, ran = tmp_path / "mine" / ("protocols/__init__.py" if kind == "package" else "protocols.py"), tmp_path / "ran"
    place.parent.mkdir(parents=True)
    place.write_text(source.format(ran=str(ran)))
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
    assert not ran.exists()


def test_a_shadow_that_was_imported_before_is_named_too(tmp_path: Path) -> None:
    place = tmp_path / "protocols.py"
    place.write_text("")
    ended = python("-c", "import protocols, securefl", path=[tmp_path, ROOT], cwd=tmp_path)
    assert ended.stderr.splitlines()[-1].startswith(f"ImportError: {place} shadows ")
    made = "import sys, types; sys.modules['protocols'] = types.ModuleType('protocols'); import securefl"
    ended = python("-c", made, path=[ROOT], cwd=tmp_path / "..")
    assert "made by hand, shadows" in ended.stderr.splitlines()[-1]


def test_a_folder_of_data_named_protocols_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "protocols").mkdir()
    ended = python("-m", "securefl", "--version", path=[ROOT], cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
