"""The catalogue through the port: the same scripts, with every piece between server and parties carried over gRPC on loopback.

A `Wire` is two processes (`securefl.audit.wire_ends`): a server's port, and the links of as many parties as a script has.  What a
script, a cheating server or an honest session sends to a party leaves at the port and is fed to that party's session as it came
out of its link, and the other way round; who sent it is what the port says, by the certificate of the stream.  Nothing else
changes, so each verdict can be held against that of the same script in one process.

What it does not show: letters of somebody who has no stream (`Passage.beside` counts them): the port has no place for a sender
that is no party.  Time is the script's, as in one process.  Sessions live with the adversary, who looks into those that collude.
"""

from __future__ import annotations

import mmap
import os
import re
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from protocols.rand import fresh
from protocols.session import SERVER, Address, Letter, Session, client
from securefl.audit import attacks
from securefl.audit.audit import scripts
from securefl.audit.bounded import bounded
from securefl.audit.registry import ROWS
from securefl.audit.target import COHORT, Target
from securefl.audit.verdict import Verdict
from securefl.audit.wire_ends import HEAD, name_of
from securefl.transport import enrolment
from securefl.transport.clock import SystemClock

PATIENCE = 60.0
"""Seconds within which a piece must have come."""
LARGEST_RING = 30
"""Parties of the largest ring on which a sparse graph is attacked."""
NOTHING_SENT: dict[int, str] = {
    10: "two sums are compared that are computed, not sent",
    16: "an update is looked at where it is encoded",
    21: "it is about the port itself: securefl audit --live HOST:PORT",
    35: "the width of the ring and the noise are looked at, no message",
}
"""Rows of which nothing goes through a port, and why."""
_COUNTS = struct.Struct("<QQ")


class Lost(RuntimeError):
    """A piece did not come out where it should."""


class Wire:
    """Streams of some parties at a port, in two processes.

    A context: the processes live in it.

    Args:
        count: parties.

    Attributes:
        count: as given.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._folder = TemporaryDirectory(prefix="securefl-")
        self._ends: dict[str, subprocess.Popen[bytes]] = {}
        self._counted = mmap.mmap(-1, _COUNTS.size)  # shared with the children in which attacks run

    def __enter__(self) -> Self:
        names = [name_of(index) for index in range(1, self.count + 1)]
        enrolment.make_all(Path(self._folder.name) / "keys", names, fresh, SystemClock().utc(), ("localhost",))
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        self._folder.cleanup()

    def again(self) -> None:
        """New processes: what was under way is forgotten."""
        self._stop()
        self._start()

    def _start(self) -> None:
        _, port = self._read(self._end("server"))
        self._read(self._end("parties", port.decode()))

    def _end(self, which: str, *more: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "securefl.audit.wire_ends", which, f"{self._folder.name}/keys", str(self.count), *more]
        made = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)  # noqa: S603  (every word is ours)
        self._ends[which] = made
        return made

    def _stop(self) -> None:
        for end in self._ends.values():
            end.kill()
            for pipe in (end.stdin, end.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            end.wait()
        self._ends.clear()

    def carry(self, sender: Address, to: Address, chunk: bytes | memoryview) -> tuple[Address, bytes]:
        """Carry a piece: who sent it by the port's word, and its bytes as they came.

        Raises:
            Lost: where it does not come.
        """
        down, data = sender == SERVER, bytes(chunk)
        index = to.index if down else sender.index
        if not data or down == (to == SERVER) or not 1 <= index <= self.count:
            self._count(beside=1)
            return sender, data
        near, far = (self._ends[which] for which in (("server", "parties") if down else ("parties", "server")))
        _write(near, HEAD.pack(index, len(data)) + data)
        found = bytearray()
        while len(found) < len(data):
            place, piece = self._read(far)
            if place != index:
                raise Lost(f"a piece of {name_of(index)} came out at {name_of(place)}")
            found += piece
        self._count(carried=1)
        return SERVER if down else client(place), bytes(found)

    def _count(self, carried: int = 0, beside: int = 0) -> None:
        old = _COUNTS.unpack_from(self._counted)
        _COUNTS.pack_into(self._counted, 0, old[0] + carried, old[1] + beside)

    def counted(self) -> tuple[int, int]:
        """Pieces that were carried, and those that could not be, since this was asked last."""
        carried, beside = _COUNTS.unpack_from(self._counted)
        _COUNTS.pack_into(self._counted, 0, 0, 0)
        return int(carried), int(beside)

    def _read(self, end: subprocess.Popen[bytes]) -> tuple[int, bytes]:
        index, length = HEAD.unpack(_taken(end, HEAD.size))
        return index, _taken(end, length)


def _write(end: subprocess.Popen[bytes], data: bytes) -> None:
    if end.stdin is None:
        raise Lost("an end without a pipe")
    view = memoryview(data)
    while view:
        view = view[os.write(end.stdin.fileno(), view) :]


def _taken(end: subprocess.Popen[bytes], size: int) -> bytes:
    if end.stdout is None:
        raise Lost("an end without a pipe")
    pipe, found = end.stdout.fileno(), bytearray()
    while len(found) < size:
        ready, _, _ = select.select([pipe], [], [], PATIENCE)
        part = os.read(pipe, size - len(found)) if ready else b""
        if not part:
            raise Lost(f"nothing came within {PATIENCE:g} s" if not ready else "an end of the wire is gone")
        found += part
    return bytes(found)


@dataclass(frozen=True)
class Passage:
    """One attack, in one process and through the port.

    Attributes:
        row: of the catalogue.
        name: what was tried.
        alone: what came of it in one process.
        through: what came of it through the port.
        carried: pieces that went through the port.
        beside: pieces that could not.
        seconds: wall time of the latter.
    """

    row: int
    name: str
    alone: Verdict
    through: Verdict
    carried: int
    beside: int
    seconds: float

    @property
    def same(self) -> bool:
        """Whether who noticed, in which step and round, by which check is the same in every try.  Counts in a reason may differ."""
        one, other = (replace(found, measured=None, why=re.sub(r"\d+", "#", found.why)) for found in (self.alone, self.through))
        return one == other

    def as_json(self) -> dict[str, Any]:
        """As a tree that JSON holds."""
        return {
            "row": self.row,
            "attack": self.name,
            "same": self.same,
            "carried": self.carried,
            "beside": self.beside,
            "seconds": round(self.seconds, 3),
            "in_process": self.alone.as_json(),
            "through_port": self.through.as_json(),
        }


def wire_for(target: Target) -> Wire:
    """With a stream for every party that a script on this target has."""
    return Wire(max(target.parties, COHORT, LARGEST_RING if target.shape == "secagg+" else 0))


def through_port(
    target: Target, wire: Wire, *, rows: Collection[int] | None = None, tell: Callable[[str], None] = lambda _: None
) -> list[Passage]:
    """Play every script of these rows that is made for a target twice: in one process, and through the port.

    Args:
        target: what is attacked.
        wire: its port, with a stream for each party.
        rows: of the catalogue; by default all.
        tell: told the name of each attack.
    """
    found, carried_target = list[Passage](), replace(target, wire=wire)
    for row in sorted(ROWS if rows is None else rows):
        for known in scripts(target, row):
            tell(known.name)
            alone, _ = bounded(lambda play=known.play: play(target), target.bounds)  # type: ignore[misc]
            wire.counted()
            through, seconds = bounded(lambda play=known.play: play(carried_target), target.bounds)  # type: ignore[misc]
            found.append(Passage(row, known.name, alone, through, *wire.counted(), seconds))
            if through.why.startswith("unavailable"):
                wire.again()
    return found


class Carried:
    """A session that is fed through a wire: use this in its place.

    Args:
        session: before it begins.
        wire: through which.
    """

    __slots__ = ("_session", "_wire")
    _session: Session
    _wire: Wire

    def __init__(self, session: Session, wire: Wire) -> None:
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_wire", wire)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __setattr__(self, name: str, value: object) -> None:
        """A script that restores a party's memory writes into the session."""
        setattr(self._session, name, value)

    def feed(self, sender: Address, chunk: bytes | memoryview, now: float = 0.0, *, act: bool = True) -> list[Letter]:
        """As `Session.feed`, with what comes out of the wire."""
        by, data = self._wire.carry(sender, self._session.me, chunk)
        return self._session.feed(by, data, now, act=act)


__all__ = ["Carried", "Lost", "Passage", "Wire", "attacks", "through_port", "wire_for"]
