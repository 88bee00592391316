"""The processes of `network.py`: server and party of sums and of a bare transfer, and a line that delays; and what starts them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import typer

from protocols.rand import fresh
from protocols.wire import FRAME
from securefl.journal import FileJournal
from securefl.transport import port
from securefl.transport.clock import SystemClock
from securefl.transport.enrolment import Credentials, RosterFile
from securefl.transport.hall import Hall
from securefl.transport.link import OPTIONS, Link
from securefl.transport.log import silent
from securefl.transport.port import Port
from securefl.transport.sums import Adder, Adding

MAX_ABS = 32767
RUN_OUT = 1800.0
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def vector(index: int, size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """What party ``index`` adds, shape (size,)."""
    return (np.arange(size, dtype=np.int64) * (2 * index + 1)) % MAX_ABS


def total(parties: int, size: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The sum over all parties, shape (size,)."""
    return sum((vector(index, size) for index in range(parties)), np.zeros(size, np.int64))


@app.command()
def server(folder: Path, protocol: str, size: int, sums: int) -> None:
    """Open sums of all parties: a JSON line with the port, then one for each sum."""

    async def work() -> None:
        credentials, clock = Credentials.load(folder / "server", "server"), SystemClock()
        adding = Adding(protocol, size, MAX_ABS, sums)
        with ThreadPoolExecutor(1) as worker:
            hall = Hall(fresh().bytes("run", 8).hex(), adding.hash, RosterFile(credentials), worker=worker, clock=clock, log=silent)
            key, certificate, authority = credentials.tls
            listening = Port("127.0.0.1:0", [(key, certificate)], [authority], [hall], clock=clock, log=silent)
            await listening.start()
            tell(port=listening.port)
            names = len(hall.cohort.members)
            await hall.gather(names, names, RUN_OUT)
            for number in range(1, sums + 1):
                before, began = peak_memory(), time.monotonic()
                found = await adding.open(hall, number)
                seconds, grown = time.monotonic() - began, peak_memory() - before
                tell(
                    seconds=seconds,
                    grown=grown,
                    contributors=found.contributors,
                    right=bool((found.values == total(names, size)).all()),
                )
                await hall.gather(names, names, RUN_OUT)
            hall.dismiss()
            await listening.stop()

    asyncio.run(work())


@app.command()
def party(folder: Path, name: str, at: int, protocol: str, size: int, sums: int) -> None:
    """Add to every sum; the last line tells the process's largest memory."""

    async def work() -> None:
        credentials, adding = Credentials.load(folder / name, "party"), Adding(protocol, size, MAX_ABS, sums)
        index = [entry.name for entry in credentials.roster.parties].index(name)
        with ThreadPoolExecutor(1) as worker, FileJournal(folder / name / "journal.json") as journal:
            adder = Adder(adding, credentials, journal, lambda _number: vector(index, size))
            link = Link(f"localhost:{at}", credentials, adding.hash, adder, worker=worker, clock=SystemClock(), log=silent)
            await link.attend(patience=60.0)

    asyncio.run(work())
    tell(memory=peak_memory())


@app.command()
def bare_server(folder: Path, parties: int, up: int, down: int, sums: int) -> None:
    """The bare transfer: when all are there, each sends ``up`` bytes, and then gets ``down``."""

    async def work() -> None:
        key, certificate, authority = Credentials.load(folder / "server", "server").tls
        gate, done = asyncio.Barrier(parties + 1), asyncio.Barrier(parties + 1)

        async def attend(_messages: AsyncIterator[bytes], context: Any) -> None:
            for _ in range(sums):
                await gate.wait()
                await context.write(b"go")
                left = up
                while left > 0:
                    left -= len(await context.read())
                for piece in pieces(down):
                    await context.write(piece)
                await done.wait()

        listening = grpc.aio.server(options=port.OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(attend)
        listening.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {"Attend": handler}),))
        secure = grpc.ssl_server_credentials([(key, certificate)], root_certificates=authority, require_client_auth=True)
        number = listening.add_secure_port("127.0.0.1:0", secure)
        await listening.start()
        tell(port=number)
        for _ in range(sums):
            await gate.wait()
            began = time.monotonic()
            await done.wait()
            tell(seconds=time.monotonic() - began)
        await listening.stop(5.0)

    asyncio.run(work())


@app.command()
def bare_party(folder: Path, name: str, at: int, up: int, down: int, sums: int) -> None:
    """A party of the bare transfer."""

    async def work() -> None:
        key, certificate, authority = Credentials.load(folder / name, "party").tls
        secure = grpc.ssl_channel_credentials(root_certificates=authority, private_key=key, certificate_chain=certificate)
        async with grpc.aio.secure_channel(f"localhost:{at}", secure, options=OPTIONS) as channel:
            call = channel.stream_stream("/bench/Attend")()
            for _ in range(sums):
                await call.read()
                for piece in pieces(up):
                    await call.write(piece)
                left = down
                while left > 0:
                    left -= len(await call.read())
            await call.read()  # the server ends the stream when all have theirs

    asyncio.run(work())


def pieces(count: int) -> Iterator[bytes]:
    """So many bytes in frames."""
    whole = bytes(FRAME)
    for at in range(0, count, FRAME):
        yield whole[: min(FRAME, count - at)]


def peak_memory() -> int:
    """Bytes: the largest resident memory of this process so far, by Linux; that of `getrusage` counts the parent's before exec."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def tell(**about: object) -> None:
    """A line for who started the process."""
    sys.stdout.write(json.dumps(about) + "\n")
    sys.stdout.flush()


class DelayLine:
    """A proxy that hands every byte on ``delay`` seconds after it came, in both directions."""

    def __init__(self, to: int, delay: float) -> None:
        self._to, self._delay = to, delay

    async def start(self) -> int:
        """Listen; gives the port."""
        self._listening = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return int(self._listening.sockets[0].getsockname()[1])

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(self._hand(reader, back), self._hand(there, writer), return_exceptions=True)

    async def _hand(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while (due := await line.get())[1]:
                await asyncio.sleep(due[0] - time.monotonic())
                writer.write(due[1])
                await writer.drain()
            writer.close()

        delivering = asyncio.ensure_future(deliver())
        try:
            while data := await reader.read(1 << 18):
                line.put_nowait((time.monotonic() + self._delay, data))
        finally:
            line.put_nowait((time.monotonic() + self._delay, b""))
            await delivering


def start(*arguments: object) -> subprocess.Popen[str]:
    """This script, as another process."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE)  # noqa: S603  (this script)


def heard(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line that it tells."""
    if process.stdout is None or not (line := process.stdout.readline()):
        raise SystemExit(f"a process ended early, with exit code {process.wait()}")
    found: dict[str, Any] = json.loads(line)
    return found


@contextmanager
def between(at: int, delay: float) -> Iterator[int]:
    """The port to call: that of a delay line where there is a delay."""
    if not delay:
        yield at
        return
    line = start("delay-line", at, delay)
    try:
        yield heard(line)["port"]
    finally:
        line.kill()
        line.wait()


@app.command()
def delay_line(to: int, delay: float) -> None:
    """A delay line as a process."""

    async def work() -> None:
        tell(port=await DelayLine(to, delay).start())
        await asyncio.Event().wait()

    asyncio.run(work())


if __name__ == "__main__":
    app()
