"""The two ends of a wire, each a process: a server's port with its hall, and the links of parties that call it.

``python -m securefl.audit.wire_ends server FOLDER COUNT`` and ``… parties FOLDER COUNT PORT`` are started by
`securefl.audit.carried`.  What comes on stdin leaves on the stream of a party, and what comes there is written to stdout: an index
of the roster, a length (both 4 bytes, little-endian), bytes.  Certificates, greeting, seats, frames, sittings and the place of a
sender are those of every run (`securefl.transport`); only the session of a sitting is a `Tap`, which hands on what it is fed.

What it does not show: what sessions make of the bytes; they are where the adversary is.
"""

from __future__ import annotations

import asyncio
import os
import queue
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from protocols.errors import Abort
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.suite import Occasion
from protocols.sums import scheme
from protocols.wire import Limits
from securefl.transport.clock import SystemClock
from securefl.transport.enrolment import Credentials, RosterFile
from securefl.transport.hall import Hall
from securefl.transport.link import Link
from securefl.transport.log import silent
from securefl.transport.port import Port
from securefl.transport.roster import SignedRoster
from securefl.transport.sitting import Part

HEAD = struct.Struct("<II")
JOB, RUN, STAGE = bytes(32), "wire", "wire"
Told = Callable[[int, bytes], None]


def name_of(index: int) -> str:
    """A party's, so that the order of names is that of the roster."""
    return f"party-{index:03d}"


@dataclass(frozen=True)
class _Bytes:
    """A letter as it is."""

    to: tuple[Address, ...]
    chunk: bytes

    def chunks(self) -> Iterable[bytes]:
        return (self.chunk,)


class Tap:
    """In a session's place: it tells what it is fed, sends what it is given, and never ends.

    Args:
        me: whose session it would be.
        count: parties.
        told: called with the place of a sender and its bytes.
    """

    ended: Abort | None = None
    deadline: float | None = None
    finished = busy = crowded = False

    def __init__(self, me: Address, count: int, told: Told) -> None:
        plain = scheme("plain-insecure")
        self.me, self.flow, self._told = me, plain.flow, told
        self.limits = Limits(count, plain.layouts(plain.parameters(max(2, count), 1, 1)))
        self.outputs: list[object] = [self]  # each has one more piece fetched
        self.faults: list[Exception] = []

    def open(self, _sender: Address) -> bool:
        """Nobody waits for a turn."""
        return True

    def begin(self, _now: float = 0.0) -> list[Letter]:
        """Nothing leaves by itself."""
        return []

    tick = begin

    def gone(self, _peer: Address, _now: float = 0.0) -> list[Letter]:
        """Nothing follows."""
        return []

    def feed(self, sender: Address, chunk: bytes | memoryview, _now: float = 0.0) -> list[Letter]:
        """Tell it."""
        self._told(sender.index, bytes(chunk))
        return []

    def provide(self, value: tuple[int, bytes], _now: float = 0.0) -> list[Letter]:
        """Send it: to the party of that place, or to the server."""
        self.outputs.append(self)
        to = client(value[0]) if self.me == SERVER else SERVER
        return cast("list[Letter]", [_Bytes((to,), value[1])])


class Caller:
    """A party (`securefl.transport.link.Attendant`).

    Args:
        index: its place.
        count: parties.
        told: as of `Tap`.
        seated: called when it sits.
    """

    def __init__(self, index: int, count: int, told: Told, seated: Callable[[], None]) -> None:
        self.index, self._count, self._told, self._seated = index, count, told, seated
        self.pieces: queue.Queue[bytes] = queue.Queue()

    def welcome(self, _run: str, _roster: SignedRoster) -> None:
        """Any run."""

    def convene(self, _stage: str, _number: int, _attempt: int, _cohort: bytes = b"") -> Part:
        """A tap, which has a thread that fetches its pieces."""
        self._seated()
        tap = Tap(client(self.index), self._count, lambda _server, chunk: self._told(self.index, chunk))
        return Part(cast("Session", tap), outside=lambda _tap: (self.index, self.pieces.get()))

    def adjourn(self, _session: Session) -> None:
        """Nothing is kept."""


def told(index: int, chunk: bytes) -> None:
    """Write it to stdout."""
    data = memoryview(HEAD.pack(index, len(chunk)) + chunk)
    while data:
        data = data[os.write(1, data) :]


def pieces() -> Iterator[tuple[int, bytes]]:
    """What comes on stdin, until its end."""
    stdin = sys.stdin.buffer
    while len(head := stdin.read(HEAD.size)) == HEAD.size:
        index, length = HEAD.unpack(head)
        yield index, stdin.read(length)


def fetching(take: Callable[[int, bytes], object]) -> None:
    """A thread that takes what comes on stdin; the process ends with it."""

    def fetch() -> None:
        for index, chunk in pieces():
            take(index, chunk)
        os._exit(0)

    threading.Thread(target=fetch, daemon=True).start()


async def serve(folder: Path, count: int) -> None:
    """The server's end."""
    credentials, clock, loop = Credentials.load(folder / "server", "server"), SystemClock(), asyncio.get_running_loop()
    hall = Hall(RUN, JOB, RosterFile(credentials), worker=ThreadPoolExecutor(1), clock=clock, log=silent)
    key, certificate, authority = credentials.tls
    port = Port("127.0.0.1:0", [(key, certificate)], [authority], [hall], clock=clock, log=silent)
    await port.start()
    told(0, str(port.port).encode())
    await hall.gather(count, count, 0.0)
    tap = cast("Session", Tap(SERVER, count, told))

    sitting = asyncio.ensure_future(hall.sit(STAGE, Occasion(RUN, 0), tap))
    while (begun := hall.sitting) is None:
        await asyncio.sleep(0)
    provide = begun.provide
    fetching(lambda index, chunk: loop.call_soon_threadsafe(provide, (index, chunk)))
    await sitting


async def call(folder: Path, count: int, port: int) -> None:
    """The parties' end."""
    worker, beside, clock, seated = ThreadPoolExecutor(1), ThreadPoolExecutor(count), SystemClock(), list[int]()

    def sits() -> None:
        seated.append(1)
        if len(seated) == count:
            told(0, b"ready")

    callers = {index: Caller(index, count, told, sits) for index in range(1, count + 1)}
    fetching(lambda index, chunk: callers[index].pieces.put(chunk))
    about: dict[str, Any] = {"worker": worker, "clock": clock, "log": silent, "beside": beside}
    keys = {index: Credentials.load(folder / name_of(index), "party") for index in callers}
    links = [Link(f"localhost:{port}", keys[index], JOB, caller, **about) for index, caller in callers.items()]
    await asyncio.gather(*(link.attend() for link in links))


if __name__ == "__main__":
    end, where, many, *at = sys.argv[1:]
    asyncio.run(serve(Path(where), int(many)) if end == "server" else call(Path(where), int(many), int(at[0])))
