"""An attack runs in a child process: whatever the protocol does under attack, the harness goes on.

A copy of the process (fork) has all that was patched or registered, so a protocol that lives in a test or a notebook runs as it is.
A loop in Python, a library call that does not return and memory without end are all ended by killing the child, which a signal or a
thread could not do.  Its verdict comes back as JSON through a pipe.  What the process left behind is not collected in the copy: a
stopped gRPC server, taken down there, waits for threads that only the process has.  Where there is no fork, attacks run in the
process itself, bounded by deliveries alone.
"""

from __future__ import annotations

import gc
import json
import math
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from protocols.errors import Abort, SecureSumError
from securefl.audit.target import Bounds
from securefl.audit.verdict import AdversaryFault, Verdict, unavailable

Play = Callable[[], Verdict]
PATIENCE = 10
"""How much longer an attack may wait than compute: a busy machine is no reason to call a protocol unavailable."""


def bounded(play: Play, bounds: Bounds) -> tuple[Verdict, float]:
    """What an attack comes to, and the seconds that it took.

    A crash, a hang, a flood and memory without end are ``broken: unavailable``; so is an attack that fails itself, said as such.
    """
    began = time.perf_counter()
    verdict = _in_child(play, bounds) if hasattr(os, "fork") else outcome(play)
    return verdict, time.perf_counter() - began


def outcome(play: Play) -> Verdict:
    """The verdict of an attack in this process; what the protocol lets through as an exception is a verdict too."""
    try:
        return play()
    except Abort as error:
        return unavailable(f"a run did not end: {error}" if error.check == "flood" else f"it raised {error}")
    except MemoryError:
        return unavailable("it took more memory than an attack may use")
    except AdversaryFault as error:
        return Verdict("not applicable", misuse=str(error))
    except SecureSumError as error:
        return unavailable(f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001  (code of a protocol under attack may raise anything)
        whose = "the attack's own code failed" if _ours(error) else "it crashed"
        return unavailable(f"{whose}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _ours(error: Exception) -> bool:
    """Whether the innermost code that failed is the harness's, not the protocol's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(Path(__file__).parent)


def _in_child(play: Play, bounds: Bounds) -> Verdict:
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = _fork()
    if not child:
        _child(play, bounds, writing)
    os.close(writing)
    try:
        text = _read(reading, time.monotonic() + PATIENCE * bounds.seconds)
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if text is None or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return unavailable(f"no end within {bounds.seconds:g} s")
    try:
        return Verdict.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError):
        return unavailable(f"its process ended by itself (status {status})")


def _fork() -> int:
    """A copy of the process, in which nothing that lies here is ever collected; 0 in the copy."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: the child touches nothing of theirs
            child = os.fork()
        if not child:
            gc.freeze()
        return child
    finally:
        if collecting:
            gc.enable()


def _child(play: Play, bounds: Bounds, writing: int) -> None:
    """Run in the child, which never returns; what it prints goes nowhere, and waits for no lock of a thread that is not here."""
    code = 1
    try:
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  (until the process ends)
        _limit(bounds)
        data = json.dumps(outcome(play).as_json()).encode()
        while data:
            data = data[os.write(writing, data) :]
        code = 0
    finally:
        os._exit(code)


def _limit(bounds: Bounds) -> None:
    with suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415  (not on every system)

        with open("/proc/self/statm", encoding="ascii") as pages:  # noqa: PTH123  (not a file of the user's)
            used = int(pages.read().split()[0]) * resource.getpagesize()
        for kind, most in ((resource.RLIMIT_CPU, math.ceil(bounds.seconds)), (resource.RLIMIT_AS, used + bounds.memory)):
            resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def _read(reading: int, until: float) -> bytes | None:
    """All that comes before the time is over; None if that is not all."""
    parts = list[bytes]()
    while (left := until - time.monotonic()) > 0:
        if not select.select([reading], [], [], left)[0]:
            return None
        part = os.read(reading, 1 << 16)
        if not part:
            return b"".join(parts)
        parts.append(part)
    return None
