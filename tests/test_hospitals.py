"""examples/hospitals: from nothing to a model in one command; and the same topology in containers, held against it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from securefl import load_model
from securefl.cli import app

PLACE = Path(__file__).parents[1] / "examples" / "hospitals"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
needs_data = pytest.mark.skipif("SECUREFL_DATA" not in os.environ, reason="SECUREFL_DATA names no folder with heart_disease/")


def run(tmp_path: Path, **more: str) -> tuple[subprocess.CompletedProcess[str], Path, dict[str, str]]:
    """The script, the command that it calls, and the environment of both."""
    command = tmp_path / "securefl"
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom securefl.cli import main\nsys.exit(main())\n")
    command.chmod(0o755)
    env = {**os.environ, "SECUREFL": str(command), "PYTHONPATH": str(PLACE.parents[1]), "OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(
        [str(PLACE / "run.sh"), str(tmp_path / "all")], env=env, capture_output=True, encoding="utf-8", timeout=400, check=False
    )
    return done, command, env


def test_where_no_hospital_has_rows_the_script_ends_and_shows_why(tmp_path: Path) -> None:
    (tmp_path / "heart_disease").mkdir()
    done, _, _ = run(tmp_path, SECUREFL_DATA=str(tmp_path))
    assert done.returncode == 2
    assert "model and rounds" not in done.stdout
    for name in HOSPITALS:
        assert f"{name}.log" in done.stderr
    assert done.stderr.count("processed.cleveland.data") >= 4


@needs_data
def test_four_hospitals_train_from_nothing_in_one_command(tmp_path: Path) -> None:
    done, command, env = run(tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "20 of 20" in done.stdout
    rounds = json.loads((tmp_path / "all/result/metrics.json").read_text())["rounds"]
    assert [(record["number"], record["contributors"], record["aborted"]) for record in rounds] == [
        (number, 4, None) for number in range(1, 21)
    ]
    assert load_model(tmp_path / "all/result/model.safetensors").models
    for name in HOSPITALS:
        budget = subprocess.run(
            [str(command), "budget", str(tmp_path / f"all/keys/{name}/ledger.db"), "--json"],
            env=env, capture_output=True, encoding="utf-8", timeout=60, check=True,
        ).stdout  # fmt: skip
        (account,) = json.loads(budget)["accounts"]
        assert account["party"] == name
        (spent,) = account["privacy"]["epsilon"]
        assert 0 < spent <= 3.0 < account["privacy"]["planned"] == 8.0


def flags(line: str) -> list[str]:
    """The subcommand and its options, without their values."""
    words = shlex.split(line)
    return [words[0], *sorted(word for word in words if word.startswith("--"))]


def test_containers_run_the_same_commands_on_the_same_keys_as_the_script() -> None:
    services = yaml.safe_load((PLACE / "compose.yaml").read_text(encoding="utf-8"))["services"]
    script = re.sub(r"\\\n\s*", "", (PLACE / "run.sh").read_text(encoding="utf-8"))
    (serve,) = re.findall(r'"\$securefl" (serve .*?) *2>', script)
    (join,) = re.findall(r'"\$securefl" (join .*?) *2>', script)
    assert tuple(re.search(r"hospitals=\((.*?)\)", script)[1].split()) == HOSPITALS  # type: ignore[index]
    assert set(services) == {"server", *HOSPITALS}
    assert flags(services["server"]["command"]) == flags(serve)
    port = re.search(r"--listen 0\.0\.0\.0:(\d+)", services["server"]["command"])[1]  # type: ignore[index]
    assert services["server"]["expose"] == [port]
    for name in HOSPITALS:
        command, volumes = services[name]["command"], services[name]["volumes"]
        assert flags(command) == flags(join)
        assert f"--server server:{port}" in command
        assert f"--site {name}" in command
        assert f"./keys/{name}:/keys" in volumes
        assert not any(
            f"./keys/{other}:" in volume for other in (*HOSPITALS, "server", "operator") if other != name for volume in volumes
        )
    for name, service in services.items():
        mounted = {re.sub(r"\$\{\w+\}", "", volume).split(":")[1] for volume in service["volumes"]}
        paths = [word for word in shlex.split(service["command"]) if word.startswith("/")]
        assert all(any(path == at or path.startswith(at + "/") for at in mounted) for path in paths), name
        for local in (volume.split(":")[0] for volume in service["volumes"]):
            assert local.startswith(("./keys/", "$")) or (PLACE / local).is_file()
    known = {param.opts[0] for name in ("serve", "join") for param in get_command(app).commands[name].params}  # type: ignore[attr-defined]
    assert {word for line in (serve, join) for word in flags(line)[1:]} <= known


def test_the_image_copies_what_is_there() -> None:
    text = (PLACE / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE):
        for path in line.split()[:-1]:
            assert (PLACE.parents[1] / path).exists(), path
    assert f"torch=={re.search(r'^torch==(.*)$', (PLACE.parents[1] / 'constraints.txt').read_text(), re.MULTILINE)[1]} " in text  # type: ignore[index]
