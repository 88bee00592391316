"""A protocol of another package on the command line: run, told and drawn like ours, and named as what it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made_package import install
from made_result import result
from torch.utils.data import TensorDataset

from protocols import sums
from protocols.plugins import Origin
from securefl import Fold, Runner, load_model, options, report
from securefl.errors import UserError
from securefl.job import Job
from securefl.knobs import allowed, choices

ROOT = Path(__file__).parents[2]
TINY = ["run", "--protocol", "ring", "--clients", "4", "--rounds", "2", "--no-dp", "--no-baselines"]
TOLD = "the protocol ring is code of ring-protocol 0.1 (ring_protocol:SCHEME), not of securefl"


def command(*words: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (path, ROOT))),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "PYTHONIOENCODING": "utf-8",
    }
    line = [sys.executable, "-m", "securefl", *words]
    return subprocess.run(line, env=environment, cwd=cwd, capture_output=True, encoding="utf-8", check=False, timeout=240)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def ran(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("ran")
    ended = command(*TINY, "--json", "--out", "out", path=installed, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), folder / "out"


def test_a_run_over_a_plug_in_ends_with_its_sums_and_says_whose_code_it_was(ran: tuple[dict[str, Any], Path]) -> None:
    tree, out = ran
    assert tree["protocol"] == tree["job"]["privacy"]["protocol"] == "ring"
    assert tree["plugin"] == {"distribution": "ring-protocol", "version": "0.1", "entry_point": "ring_protocol:SCHEME"}
    assert [warning for warning in tree["warnings"] if TOLD in warning] == [f"{TOLD}: what its sums hide is that author's word"]
    assert (tree["aborted_rounds"], {record["contributors"] for record in tree["history"]}) == (0, {4})
    assert tree["metrics"]["auroc"] > 0.9
    saw = {row["message"]: row for row in tree["server_saw"]}
    assert (saw["Padded"]["count"], saw["Padded"]["step"]) == (12, "total")  # two rounds, and the sum of the features' moments
    assert json.loads((out / "metrics.json").read_text(encoding="utf-8")) == tree
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "ring-protocol 0.1 (protocol)" in page
    assert TOLD in page
    assert "introduce" in page


def test_the_saved_model_and_the_command_need_no_plug_in(ran: tuple[dict[str, Any], Path]) -> None:
    """Here the package is not installed."""
    tree, out = ran
    model = load_model(out / "model.safetensors")
    assert model.job.privacy.protocol == "ring"
    assert "--protocol=ring" in options.command(Job.parse(tree["job"], ran=True))
    with pytest.raises(UserError, match="privacy.protocol = 'ring' is refused"):
        Job.parse(tree["job"])


def test_the_terminal_says_it_before_training(installed: Path, tmp_path: Path) -> None:
    ended = command(*TINY[:5], "--rounds", "1", "--no-dp", "--no-baselines", path=installed, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    before, _, after = ended.stdout.partition("What was opened")
    plan = " ".join(before.split())
    assert "ring: by its own word, the server opens the sum and nothing else" in plan
    assert TOLD in plan
    assert TOLD in " ".join(after.split())


def test_a_site_s_policy_holds_in_training_too(installed: Path, tmp_path: Path) -> None:
    """Seven sites ask for two corrupt parties, and a ring holds against one."""
    words = ["run", "--protocol", "ring", "--clients", "7", "--rounds", "1", "--no-baselines", "--json"]
    ended = command(*words, path=installed, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    tree = json.loads(ended.stdout)
    assert tree["aborted_rounds"] == 1
    assert sum("does not take part, by its own policy: policy-corrupt (|C| = 1, own least 2)" in w for w in tree["warnings"]) == 7
    assert not {"Hello", "Padded"} & {row["message"] for row in tree["server_saw"]}


def test_demo_draw_and_help_know_it(installed: Path, tmp_path: Path) -> None:
    told = command("demo", "ring", "--clients", "4", path=installed, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    for words in ("greet", "introduce", "pad", "Hello", "Beside", "Padded", "looks like noise", "value by value: yes", TOLD[1:]):
        assert words in " ".join(told.stdout.split())
    table = command("draw", "ring", "--format", "table", path=installed, cwd=tmp_path)
    assert table.returncode == 0, table.stderr
    assert "Waiting" in table.stdout
    picture = command("draw", "ring", path=installed, cwd=tmp_path)
    assert "<svg" in picture.stdout
    assert "#fdf0df" not in picture.stdout.lower(), "no step of it is drawn as one of the learning layer"
    made = command("vectors", "write", "made", "ring", path=installed, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    checked = command("vectors", "check", "made", path=installed, cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "files match" in checked.stdout
    listed = " ".join(command("run", "--help", path=installed, cwd=tmp_path).stdout.split())
    assert "ckks, ring" in listed


@pytest.mark.parametrize(
    ("points", "source", "words", "reason"),
    [
        ({"ring": "ring_protocol:SCHEME"}, "import nosuch", ["run", "--protocol", "ring"], "No module named 'nosuch'"),
        ({"ring": "ring_protocol:SCHEME"}, "SCHEME = 3", ["draw", "ring"], "it is a int, not a protocols.sums.Scheme"),
        ({"ring": "ring_protocol:SCHEME"}, "SCHEME = 3", ["demo", "ring"], "it is a int, not a protocols.sums.Scheme"),
        ({"secagg": "ring_protocol:SCHEME"}, "print('run')", ["run"], "the protocol 'secagg' is securefl's own"),
        ({"secagg": "ring_protocol:SCHEME"}, "print('run')", ["draw"], "the protocol 'secagg' is securefl's own"),
        ({"fedavg": "ring_protocol:SCHEME"}, "print('run')", ["draw", "fedavg"], "the protocol 'fedavg' is securefl's own"),
        ({"secagg": "ring_protocol:SCHEME"}, "print('run')", ["draw", "fedavg"], "the protocol 'secagg' is securefl's own"),
        ({"ring": "ring_protocol:SCHEME"}, "print('run')", ["run", "--protocol", "rong"], "did you mean ring?"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    tmp_path: Path, points: dict[str, str], source: str, words: list[str], reason: str
) -> None:
    site, folder = install(tmp_path / "site", points, source=source), tmp_path / "empty"
    folder.mkdir()
    ended = command(*words, *(["--out", "out"] if words[0] == "run" else []), path=site, cwd=folder)
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("securefl: ")]
    assert reason in line
    assert "ring-protocol 0.1" in line or "ring?" in line
    assert "run" not in ended.stdout.split()
    assert not list(folder.iterdir())


def test_jobs_list_what_is_installed_and_documents_what_is_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours = "auto or secagg or secagg+ or plain-insecure or lightsecagg or kahe or bfv or ckks"
    assert allowed("privacy", "protocol") == ours
    with pytest.raises(UserError) as caught:
        Job.parse({"privacy": {"protocol": "ring"}})
    assert str(caught.value) == f"privacy.protocol = 'ring' is refused; allowed: {ours}"
    monkeypatch.syspath_prepend(install(tmp_path))
    assert Job.parse({"privacy": {"protocol": "ring"}}).privacy.protocol == "ring"
    assert allowed("privacy", "protocol") == ours
    assert choices("privacy", "protocol")[-1] == "ring"


def test_a_protocol_that_a_program_registered_has_no_package_to_name() -> None:
    made = result(plugin=Origin())
    assert made.as_json()["plugin"] == {"distribution": None, "version": None, "entry_point": None}
    assert "(protocol)" not in report.html(made)
    assert result().as_json()["plugin"] is None


def test_a_layout_that_the_learning_flow_needs_is_refused() -> None:
    ours = sums.SCHEMES["secagg"]
    taken = replace(ours, layouts=lambda p: {**ours.layouts(p), "model": None})
    rows = TensorDataset(torch.randn(20, 2), torch.arange(20) % 2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sums.SCHEMES, "secagg", taken)
        with pytest.raises(UserError, match="a layout named 'model'"):
            Runner(
                torch.nn.Linear(2, 1), {name: Fold(rows, rows) for name in "abc"}, job=Job.parse({"privacy": {"mechanism": "none"}})
            )
