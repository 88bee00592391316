"""A server and parties as real processes, killed, frozen, cut off and started again at random; every opened sum is checked.

    python -P tests/soak.py --minutes 10 [--parties 5] [--size 20000] [--protocol secagg] [--seed 1] [--json]

Each party adds a vector that follows from its name and the number of the sum, with a coordinate of its own that is 1: the sum
tells who is in it, and must be exactly theirs.  Between parties and server stands a proxy that delays, and cuts everything now and
then.  (-P, as folders beside this file have the names of packages.)
Exit code 1 for a wrong sum, and where no sum opened for `STALL` seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from protocols.errors import Abort
from protocols.rand import Rand, Seed, fresh
from securefl.journal import FileJournal
from securefl.transport import enrolment
from securefl.transport.clock import SystemClock
from securefl.transport.enrolment import Credentials, RosterFile
from securefl.transport.envelope import Parcel
from securefl.transport.hall import Hall
from securefl.transport.link import Link
from securefl.transport.log import silent
from securefl.transport.port import Port
from securefl.transport.sitting import Part
from securefl.transport.sums import Adder, Adding

STALL = 120.0
MOST = 1000
SUMS = 1 << 20
FAULTS = ("kill a party", "freeze a party", "cut all", "delay", "kill the server")
"""What happens, one every few seconds; the server is killed half as often as the others."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def vector(names: list[str], name: str, number: int, size: int) -> NDArray[np.int64]:
    """What a party adds to a sum, shape (size,); its own coordinate is 1, those of the others 0."""
    seed = Seed(f"{name} {number}".encode().ljust(32, b".")[:32])
    values = (Rand(seed).words("soak", size) % np.uint64(2 * MOST + 1)).astype(np.int64) - MOST
    values[: len(names)] = [other == name for other in names]
    return values


def right(names: list[str], number: int, total: NDArray[np.int64], contributors: int) -> bool:
    """Whether a sum is exactly that of those whose coordinate is 1."""
    inside = [name for name, one in zip(names, total, strict=False) if one == 1]
    wanted = sum((vector(names, name, number, len(total)) for name in inside), np.zeros(len(total), np.int64))
    return len(inside) == contributors and bool((total == wanted).all())


class Quick(SystemClock):
    """A clock by which deadlines are over sooner."""

    def __init__(self, speed: float) -> None:
        self._speed = speed

    def now(self) -> float:
        return super().now() * self._speed

    async def until(self, at: float) -> None:
        while (left := at - self.now()) > 0:
            await asyncio.sleep(left / self._speed)


@app.command()
def server(folder: Path, port: int, protocol: str, size: int, start: int, host: str = "127.0.0.1", speed: float = 1.0) -> None:
    """Open sums, one after another, from number ``start`` on; a JSON line for each."""

    async def work() -> None:
        credentials, clock, adding = (
            Credentials.load(folder / "server", "server"),
            Quick(speed),
            Adding(protocol, size, MOST, SUMS),
        )
        with ThreadPoolExecutor(1) as worker:
            hall = Hall(fresh().bytes("run", 8).hex(), adding.hash, RosterFile(credentials), worker=worker, clock=clock, log=silent)
            key, certificate, authority = credentials.tls
            await Port(f"{host}:{port}", [(key, certificate)], [authority], [hall], clock=clock, log=silent).start()
            names = [member.name for member in hall.cohort.members]
            for number in range(start, SUMS):
                await hall.gather(len(names), len(names) - 1, 2.0)
                told: dict[str, Any] = {"number": number}
                try:
                    found = await adding.open(hall, number)
                    told |= {"contributors": found.contributors, "right": right(names, number, found.values, found.contributors)}
                except Abort as error:
                    told |= {"aborted": error.check}
                sys.stdout.write(json.dumps(told) + "\n")
                sys.stdout.flush()

    asyncio.run(work())


class Dying(Link):
    """Is killed before the message of a kind leaves."""

    before = ""

    def _sit(self, number: int, part: Part, outgoing: asyncio.Queue[Parcel]) -> None:
        before = self.before.encode()

        class Last(asyncio.Queue):  # type: ignore[type-arg]
            def put_nowait(self, parcel: Parcel) -> None:
                if before in bytes(parcel.parts[0])[:64]:
                    os.kill(os.getpid(), signal.SIGKILL)
                outgoing.put_nowait(parcel)

        super()._sit(number, part, Last() if before else outgoing)


@app.command()
def party(folder: Path, name: str, port: int, protocol: str, size: int, host: str = "localhost", dies_before: str = "") -> None:
    """Add to every sum; a JSON line for every stream that is cut.  ``dies_before`` a kind of message: by SIGKILL."""

    def cut(event: str, **about: Any) -> None:
        if event == "cut":
            sys.stdout.write(json.dumps(about) + "\n")
            sys.stdout.flush()

    async def work() -> None:
        credentials, adding = Credentials.load(folder / name, "party"), Adding(protocol, size, MOST, SUMS)
        names = [entry.name for entry in credentials.roster.parties]
        with ThreadPoolExecutor(1) as worker, FileJournal(folder / name / "journal.json") as journal:
            adder = Adder(adding, credentials, journal, lambda number: vector(names, name, number, size))
            about: dict[str, Any] = {"worker": worker, "clock": SystemClock(), "log": cut}
            link = Dying(f"{host}:{port}", credentials, adding.hash, adder, **about)
            link.before = dies_before
            await link.attend(patience=3600.0)

    asyncio.run(work())


class Proxy:
    """Stands between parties and server: hands bytes on, after a delay, until it cuts; or hands nothing on for a while."""

    def __init__(self, to: int) -> None:
        self._to, self.delay = to, 0.0
        self._open = set[asyncio.StreamWriter]()
        self._goes = asyncio.Event()
        self._goes.set()

    async def start(self) -> int:
        """Listen; gives the port."""
        listening = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return int(listening.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """End all connections, without a word."""
        for writer in self._open:
            writer.transport.abort()

    def stall(self) -> None:
        """Hand nothing on, and end nothing, as a network that is parted does."""
        self._goes.clear()

    def go_on(self) -> None:
        """Hand on what waits, and all that comes."""
        self._goes.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
            await asyncio.gather(self._hand(reader, back), self._hand(there, writer))
        writer.transport.abort()

    async def _hand(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while data := await reader.read(1 << 16):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._goes.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()


class Soak:
    """The processes, what happens to them, and what came of it."""

    def __init__(self, folder: Path, names: list[str], protocol: str, size: int, seed: int) -> None:
        self.folder, self.names, self._protocol, self._size = folder, names, protocol, size
        self.random = random.Random(seed)  # noqa: S311  (which fault comes next)
        self.parties = dict[str, subprocess.Popen[str]]()
        self.counts, self.contributors, self.numbers = Counter[str](), Counter[int](), [0]
        self.last = time.monotonic()

    def _python(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", __file__, *map(str, arguments)]
        return subprocess.Popen(command, text=True, stderr=subprocess.DEVNULL, **options)

    def start_server(self, port: int) -> None:
        """The next server, which goes on with the number after the last that was told."""
        about = (self.folder, port, self._protocol, self._size, self.numbers[-1] + 1)
        self.server = self._python("server", *about, stdout=subprocess.PIPE)
        self._reading = asyncio.ensure_future(self._read(self.server))

    def start_party(self, name: str) -> None:
        """A party."""
        self.parties[name] = self._python(
            "party", self.folder, name, self.port, self._protocol, self._size, stdout=subprocess.DEVNULL
        )

    async def _read(self, process: subprocess.Popen[str]) -> None:
        loop, lines = asyncio.get_running_loop(), process.stdout
        while lines is not None and (line := await loop.run_in_executor(None, lines.readline)):
            told = json.loads(line)
            self.numbers.append(told["number"])
            if "aborted" in told:
                self.counts[f"aborted: {told['aborted']}"] += 1
                continue
            self.last = time.monotonic()
            self.counts["right" if told["right"] else "WRONG"] += 1
            self.contributors[told["contributors"]] += 1

    async def fault(self, proxy: Proxy, port: int) -> None:
        """One of `FAULTS`."""
        what = self.random.choices(FAULTS, (2, 2, 2, 2, 1))[0]
        self.counts[what] += 1
        name = self.random.choice(self.names)
        if what == "kill a party":
            self.parties[name].kill()
            self.parties[name].wait()
            await asyncio.sleep(self.random.random() * 2)
            self.start_party(name)
        elif what == "freeze a party":
            self.parties[name].send_signal(signal.SIGSTOP)
            await asyncio.sleep(self.random.random() * 3)
            self.parties[name].send_signal(signal.SIGCONT)
        elif what == "cut all":
            proxy.cut()
        elif what == "delay":
            proxy.delay = self.random.choice((0.0, 0.0, 0.025, 0.075))
        else:
            self.server.kill()
            self.server.wait()
            await self._reading
            self.start_server(port)

    async def run(self, minutes: float) -> bool:
        """All of it; whether it went well."""
        proxy = Proxy(free := _free())
        self.port = await proxy.start()
        self.start_server(free)
        for name in self.names:
            self.start_party(name)
        end = time.monotonic() + 60 * minutes
        self.last = time.monotonic()
        try:
            while time.monotonic() < end and time.monotonic() - self.last < STALL and not self.counts["WRONG"]:
                await asyncio.sleep(1 + 3 * self.random.random())
                await self.fault(proxy, free)
        finally:
            for process in (self.server, *self.parties.values()):
                process.kill()
                process.wait()
        return time.monotonic() >= end and not self.counts["WRONG"] and self.counts["right"] > 0


def _free() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@app.command("soak")
def main(
    minutes: Annotated[float, typer.Option(min=0.1)] = 10.0,
    parties: Annotated[int, typer.Option(min=3, max=50)] = 5,
    size: Annotated[int, typer.Option(min=100)] = 20_000,
    protocol: str = "secagg",
    seed: int = 1,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Let it run."""
    names = [f"party-{u}" for u in range(1, parties + 1)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "keys"
        enrolment.make_all(folder, names, fresh, datetime.now(UTC), ("localhost", "127.0.0.1"))
        made = Soak(folder, names, protocol, size, seed)
        well = asyncio.run(made.run(minutes))
    tree = {"minutes": minutes, "well": well, "counts": dict(made.counts), "contributors": dict(made.contributors)}
    typer.echo(json.dumps(tree) if as_json else "\n".join(f"{value:6}  {key}" for key, value in sorted(made.counts.items())))
    raise typer.Exit(0 if well else 1)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.argv.insert(1, "soak")
    app()
