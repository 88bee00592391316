"""A federation on loopback in one process: a port, its hall, and parties that call it, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from protocols.policy import MemoryJournal
from protocols.rand import fresh
from protocols.vector import Sum
from securefl.transport import enrolment
from securefl.transport.clock import SystemClock
from securefl.transport.enrolment import Credentials, RosterFile
from securefl.transport.envelope import FROM_SERVER, WIRE, Convene, Hello, Parcel, Ready, Welcome, control, read
from securefl.transport.hall import Hall
from securefl.transport.link import Attendant, Link
from securefl.transport.port import METHOD, SERVICE, Port
from securefl.transport.sitting import Part
from securefl.transport.sums import Adder, Adding

NAMES = ("a", "b", "c", "d")
LIMIT = 60.0
"""Seconds after which a test that waits has failed."""


def vector(name: str, size: int, max_abs: int) -> NDArray[np.int64]:
    """What a party adds; every coordinate differs."""
    at = np.arange(1, size + 1, dtype=np.int64)
    return (at * (7 + ord(name[0])) ** 2) % (2 * max_abs + 1) - max_abs


class Jumping(SystemClock):
    """The machine's clock, with a calendar and deadlines that a test moves."""

    def __init__(self, days: float = 0.0) -> None:
        self.ahead, self.days = 0.0, days
        self._moved = asyncio.Event()

    def now(self) -> float:
        return super().now() + self.ahead

    def utc(self) -> datetime:
        return super().utc() + timedelta(days=self.days)

    def jump(self, seconds: float) -> None:
        """Let so much time be over."""
        self.ahead += seconds
        self._moved.set()
        self._moved = asyncio.Event()

    async def until(self, at: float) -> None:
        while (left := at - self.now()) > 0:
            moved = asyncio.ensure_future(self._moved.wait())
            await asyncio.wait([moved], timeout=left)
            moved.cancel()


@dataclass
class Lines:
    """A log that a test reads."""

    events: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, event: str, **about: Any) -> None:
        self.events.append({"event": event, **about})

    def of(self, event: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [line for line in self.events if line["event"] == event]


@dataclass
class Wired:
    """What a test has at hand."""

    folder: Path
    hall: Hall
    port: Port
    adding: Adding
    clock: Jumping
    log: Lines
    worker: Executor

    @property
    def target(self) -> str:
        return f"localhost:{self.port.port}"

    @property
    def authority(self) -> bytes:
        """The consortium's certificate."""
        return (self.folder / "server" / "ca.pem").read_bytes()

    def link(self, name: str, *, stage: str | None = None, attendant: Attendant | None = None, folder: Path | None = None) -> Link:
        """A party; with a ``stage`` it vanishes before the message of that name leaves."""
        credentials = Credentials.load(folder or self.folder / name, "party")
        own = vector(name, self.adding.size, self.adding.max_abs)
        adder = attendant or Adder(self.adding, credentials, MemoryJournal(), lambda number: own * (1 if number % 2 else -1))
        kind: Callable[..., Link] = Link if stage is None else _vanishing(stage)
        return kind(self.target, credentials, self.adding.hash, adder, worker=self.worker, clock=self.clock, log=Lines())

    async def present(self, count: int) -> None:
        """Wait until so many have a seat."""
        async with asyncio.timeout(LIMIT):
            while len(self.hall.seats) != count:
                await asyncio.sleep(0.01)

    async def total(self, gone: Mapping[str, str] | None = None, *, names: tuple[str, ...] = NAMES) -> tuple[Sum, list[Any]]:
        """One sum of the named parties, of whom some vanish; and what the parties' calls came to."""
        calls = [asyncio.ensure_future(self.link(name, stage=(gone or {}).get(name)).attend(patience=0.0)) for name in names]
        await self.present(len(names))
        async with asyncio.timeout(LIMIT):
            found = await self.adding.open(self.hall, 1)
        self.hall.dismiss()
        async with asyncio.timeout(LIMIT):
            return found, await asyncio.gather(*calls, return_exceptions=True)


class Vanished(Exception):
    """A party that a test lets vanish."""


def _vanishing(stage: str) -> type[Link]:
    class Vanishing(Link):
        """Cuts its stream in the place of one message."""

        def _sit(self, number: int, part: Part, outgoing: asyncio.Queue[Parcel]) -> None:
            class Cut(asyncio.Queue):  # type: ignore[type-arg]
                def put_nowait(self, parcel: Parcel) -> None:
                    if stage.encode() in bytes(parcel.parts[0])[:64]:
                        me.cancel()
                    elif not me.cancelling():
                        outgoing.put_nowait(parcel)

            me = asyncio.current_task()
            assert me is not None
            super()._sit(number, part, Cut())

    return Vanishing


@asynccontextmanager
async def wired(
    tmp_path: Path,
    protocol: str = "secagg",
    *,
    names: tuple[str, ...] = NAMES,
    size: int = 50,
    max_abs: int = 1000,
    sums: int = 1,
    clock_days: float = 0.0,
    issued: timedelta = timedelta(0),
) -> AsyncIterator[Wired]:
    """A server that listens, and the keys of its parties."""
    folder = tmp_path / "keys"
    now = datetime.now(UTC) + issued
    if not folder.exists():
        enrolment.make_all(folder, list(names), fresh, now, ("localhost", "127.0.0.1"))
    credentials = Credentials.load(folder / "server", "server")
    clock, log, adding = Jumping(clock_days), Lines(), Adding(protocol, size, max_abs, sums)
    with ThreadPoolExecutor(1) as worker:
        run = f"{fresh().bytes('run', 8).hex()}-test"
        hall = Hall(run, adding.hash, RosterFile(credentials), worker=worker, clock=clock, log=log)
        key, certificate, authority = credentials.tls
        port = Port("127.0.0.1:0", [(key, certificate)], [authority], [hall], clock=clock, log=log)
        await port.start()
        try:
            yield Wired(folder, hall, port, adding, clock, log, worker)
        finally:
            hall.dismiss()
            await port.stop(0)


Tls = tuple[bytes | None, bytes | None]


def tls_of(folder: Path) -> Tls:
    return (folder / "tls.key").read_bytes(), (folder / "tls.pem").read_bytes()


def hello(net: Wired, **changed: Any) -> bytes:
    return control(replace(Hello(WIRE, "test", net.adding.hash, 0), **changed))


def channel(target: str, authority: bytes, key: bytes | None = None, certificate: bytes | None = None) -> Any:
    """A raw channel, for what no honest party does."""
    secure = grpc.ssl_channel_credentials(root_certificates=authority, private_key=key, certificate_chain=certificate)
    return grpc.aio.secure_channel(target, secure, options=(("grpc.max_send_message_length", -1),))


@asynccontextmanager
async def raw_among_honest(net: Wired) -> AsyncIterator[tuple[Any, asyncio.Future[Sum], list[asyncio.Future[Any]]]]:
    """A sum that has begun with three honest parties and b, who has a seat: b's raw stream, the sum, the others' calls."""
    honest = [asyncio.ensure_future(net.link(name).attend(patience=0.0)) for name in "acd"]
    authority = (net.folder / "server" / "ca.pem").read_bytes()
    async with channel(net.target, authority, *tls_of(net.folder / "b")) as line:
        stream = line.stream_stream(f"/{SERVICE}/{METHOD}")()
        await stream.write(hello(net))
        assert isinstance(read(await stream.read(), FROM_SERVER), Welcome)
        await stream.write(control(Ready()))
        await net.present(4)
        total = asyncio.ensure_future(net.adding.open(net.hall, 1))
        assert isinstance(read(await stream.read(), FROM_SERVER), Convene)
        yield stream, total, honest
