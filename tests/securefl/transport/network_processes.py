"""Commands as real processes on loopback, and three hospitals to run them for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from securefl.cli import main

LIMIT = 240
"""Seconds after which a process that should have ended has failed."""
COMMAND = (sys.executable, "-c", "import sys; from securefl.cli import main; sys.exit(main())")
JOB = """
[data]
name = "own.csv"
label = "ill"
site = "hospital"
ranges = {{ age = [20, 90], pressure = [80, 200] }}
[privacy]
mechanism = "none"
rounds = {rounds}
local_steps = 1
"""


def table(path: Path, seed: int) -> None:
    """Rows of one site."""
    at = np.arange(40)
    age, pressure = 30 + (at * 7 + seed) % 50, 100 + (at * 11 + 3 * seed) % 80
    ill = (age + pressure > 190 + seed).astype(int)
    lines = [f"{a},{p},{i}" for a, p, i in zip(age, pressure, ill, strict=True)]
    path.write_text("\n".join(["age,pressure,ill", *lines]) + "\n")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Keys of three hospitals, their tables and a job."""
    assert main(["keys", "try", str(tmp_path / "keys"), "north", "south", "west"]) == 0
    for seed, name in enumerate(("north", "south", "west")):
        table(tmp_path / f"{name}.csv", seed)
    (tmp_path / "job.toml").write_text(JOB.format(rounds=40))
    return tmp_path


class Process:
    """A command under way; its log is read line by line."""

    def __init__(self, *args: object, command: tuple[str, ...] = COMMAND) -> None:
        self.running = subprocess.Popen([*command, *map(str, args)], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.lines: list[str] = []

    def until(self, event: str) -> dict[str, Any]:
        """The next line about this event."""
        assert self.running.stderr is not None
        for line in self.running.stderr:
            self.lines.append(line)
            if line.startswith("{") and json.loads(line)["event"] == event:
                return dict(json.loads(line))
        raise AssertionError(f"no {event}: {self.lines}")

    def end(self) -> int:
        """Its exit code."""
        assert self.running.stderr is not None
        self.lines += self.running.stderr.readlines()
        return self.running.wait(LIMIT)


@contextmanager
def processes() -> Iterator[list[Process]]:
    """Whatever happens, none is left; one that hangs is killed, and its test fails."""
    made: list[Process] = []
    try:
        yield made
    finally:
        for process in made:
            if process.running.poll() is None:
                process.running.kill()
            process.running.wait()
            if process.running.stderr is not None:
                process.running.stderr.close()
