"""A server and parties as light processes (tests/soak.py), each where a test puts it, and the sums that the server tells."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import Queue
from types import ModuleType, TracebackType
from typing import Any, Self

from protocols.rand import fresh
from securefl.transport import enrolment

SCRIPT = Path(__file__).parents[2] / "soak.py"
NAMES = ("a", "b", "c", "d")
SPEED = 20.0
"""By the server's clock, against which a step's minute is over after three seconds."""
LIMIT = 60.0


def soak() -> ModuleType:
    """The script as a module, for its proxy."""
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commanded(*line: str) -> bool:
    """Whether a command works here."""
    try:
        return subprocess.run(line, capture_output=True, timeout=30, check=False).returncode == 0
    except OSError:
        return False


class Machines:
    """Processes of one federation; whatever happens, none is left.

    Args:
        folder: for the keys.
        hosts: of the server's certificate.
        issued: how long ago certificates were made.
    """

    def __init__(self, folder: Path, hosts: Sequence[str] = ("localhost",), issued: timedelta = timedelta(0)) -> None:
        self.folder, self._made = folder / "keys", list[subprocess.Popen[str]]()
        enrolment.make_all(self.folder, [*NAMES], fresh, datetime.now(UTC) - issued, hosts)
        self._told: Queue[dict[str, Any]] = Queue()
        self.sums = list[dict[str, Any]]()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for one in self._made:
            one.kill()
            one.wait()

    def _start(self, *arguments: object, inside: Sequence[str] = (), env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        command = [*inside, sys.executable, "-P", str(SCRIPT), *map(str, arguments)]
        made = subprocess.Popen(
            command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **(env or {})}
        )
        self._made.append(made)
        return made

    def server(
        self, port: int, host: str = "127.0.0.1", protocol: str = "secagg", start: int = 1, **where: Any
    ) -> subprocess.Popen[str]:
        """It opens sums for as long as it lives, from number ``start`` on."""
        made = self._start("server", self.folder, port, protocol, 200, start, "--host", host, "--speed", SPEED, **where)

        def read() -> None:
            assert made.stdout is not None
            for line in made.stdout:
                self._told.put(json.loads(line))

        threading.Thread(target=read, daemon=True).start()
        return made

    def party(
        self, name: str, port: int, host: str = "localhost", dies_before: str = "", protocol: str = "secagg", **where: Any
    ) -> subprocess.Popen[str]:
        """It adds to every sum that it is there for, until a message of the kind ``dies_before`` would leave."""
        more = ("--host", host, "--dies-before", dies_before)
        return self._start("party", self.folder, name, port, protocol, 200, *more, **where)

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next sum that is as wanted; every one before it that was opened was right."""
        while True:
            told = self._told.get(timeout=LIMIT)
            self.sums.append(told)
            assert told.get("right", True), told
            if wanted(told):
                return told

    def until_number(self, number: int) -> dict[str, Any]:
        """A sum of at least that number."""
        return self.until(lambda told: int(told["number"]) >= number)

    def over(self, count: int) -> dict[str, Any]:
        """The next sum over so many."""
        return self.until(lambda told: told.get("contributors") == count)
