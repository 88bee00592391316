"""A child that runs a job's code, as the party sees it: asked one thing at a time, within a time, and believed nothing.

What it does not protect: see `securefl.usercode.remote`.
"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

from securefl.errors import UserError, printable
from securefl.usercode.calls import program
from securefl.usercode.frames import Arrays, CodeFault, Kind, fault, packed, read
from securefl.usercode.isolation import Isolation, remedy

PIECE = 1 << 20
PROGRAM = ["-m", "securefl.usercode.child"]


class Child:
    """One child, started on the first question and again after it has failed.

    Args:
        code: what it is started with: files, entry, learning rate.
        isolation: its walls.

    Attributes:
        facts: what it said when it was started: names and shapes of its parameters, and what its trainer has of its own.
    """

    def __init__(self, code: Mapping[str, Any], isolation: Isolation) -> None:
        self._code, self._isolation = dict(code), isolation
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._until, self._lock, self._closed = 0.0, threading.Lock(), False
        self.facts: dict[str, Any] = {}

    def ask(self, what: str, facts: Mapping[str, Any], arrays: Arrays, wanted: Mapping[str, Kind]) -> Arrays:
        """One answer: the arrays that are wanted, and no others.

        Raises:
            CodeFault: ``code-time`` where it does not come in time, ``code-gone`` where the child ended, ``code-error`` where the
                code says that it failed, and as `securefl.usercode.frames.read`.
            UserError: where no child can be started.
        """
        with self._lock:
            self._start()
            return self._asked(what, facts, arrays, wanted, self._isolation.step)[1]

    def start(self) -> None:
        """Start it, unless it runs; errors as for `ask`."""
        with self._lock:
            self._start()

    def close(self) -> None:
        """End it for good, also while another thread waits for an answer: that one is refused."""
        self._closed = True
        if (process := self._process) is not None:
            process.kill()
        with self._lock:
            self.end()

    def _start(self) -> None:
        if self._closed:
            raise fault("code-gone", "the child of the job's code was ended")
        if self._process is not None and self._process.poll() is None:
            return
        self.end()
        self._folder = tempfile.TemporaryDirectory(prefix="securefl-")
        # Where there are walls the child has a folder of its own behind them.
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as calls:
            passed = self._calls(calls)
            words = self._isolation.command(PROGRAM, *passed)
            self._process = subprocess.Popen(  # noqa: S603  (no shell; every word is ours)
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                env={},
                cwd=self._folder.name,
                start_new_session=True,
                pass_fds=passed,
            )
            for pipe in (self._process.stdin, self._process.stdout):
                os.set_blocking(_pipe(pipe).fileno(), False)
            self._until = time.monotonic() + self._isolation.start
            try:
                ready, _ = read(self._take, lambda _facts: {})
            except CodeFault:
                ready = {}
            if ready != {"ready": True}:
                self.end()
                said.seek(0)
                line = printable(" ".join(said.read(400).decode(errors="replace").split()))
                raise UserError(f"no child could be started behind walls ({line}){remedy()}")
        self.facts, _ = self._asked("start", {**self._code, "threads": self._isolation.threads}, {}, {}, self._isolation.start)

    def _calls(self, file: IO[bytes]) -> tuple[int, ...]:
        """The file with the filter of the kernel's calls, which bubblewrap reads; nothing where there are no walls."""
        if self._isolation.kind == "none":
            return ()
        file.write(program())
        file.seek(0)
        return (file.fileno(),)

    def end(self) -> None:
        """End it, with all that it started; the next question starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                _pipe(pipe).close()
            process.wait()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _asked(
        self, what: str, facts: Mapping[str, Any], arrays: Arrays, wanted: Mapping[str, Kind], seconds: float
    ) -> tuple[dict[str, Any], Arrays]:
        self._until = time.monotonic() + seconds
        try:
            self._give(packed({"ask": what, **facts}, arrays))
            found, got = read(self._take, lambda said: {} if "error" in said else wanted)
        except CodeFault:
            self.end()
            raise
        if "error" in found:
            raise fault("code-error", f"the job's code failed: {printable(str(found['error'])[:300])}")
        return found, got

    def _give(self, parts: list[bytes | memoryview]) -> None:
        pipe = self._pipe("stdin").fileno()
        for part in parts:
            rest = memoryview(part)
            while rest:
                self._wait(pipe, select.POLLOUT)
                try:
                    rest = rest[os.write(pipe, rest[:PIECE]) :]
                except BlockingIOError:
                    continue
                except OSError:
                    raise fault("code-gone", "the child of the job's code has ended") from None

    def _take(self, count: int) -> bytearray:
        pipe, found, at = self._pipe("stdout").fileno(), bytearray(count), 0
        while at < count:
            self._wait(pipe, select.POLLIN)
            try:
                got = os.readv(pipe, [memoryview(found)[at : at + PIECE]])
            except BlockingIOError:
                continue
            if not got:
                raise fault("code-gone", "the child of the job's code has ended")
            at += got
        return found

    def _wait(self, pipe: int, event: int) -> None:
        poll = select.poll()
        poll.register(pipe, event)
        left = self._until - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise fault("code-time", "the job's code has not answered in time")

    def _pipe(self, name: str) -> IO[bytes]:
        if self._process is None:
            raise fault("code-gone", "the child of the job's code was ended")
        return _pipe(getattr(self._process, name))


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the child was started without a pipe")
    return pipe
