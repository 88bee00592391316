"""Rounds over the network on loopback: a server and parties as processes of their own, mutual TLS, no torch loaded.

    python benchmarks/network.py [--parties 50] [--dim 1000000] [--protocol secagg] [--only round --only delay] [--json]

`round` is the wall time of a sum against that of the same sum in one process (`secure_sum`) and that of the bare transfer of the
same bytes: gRPC with the same certificates, options and frames, and no protocol.  `small` is how many sums of short vectors there
are a minute.  `memory` is by how much the server's resident memory grows in one sum of 10^8 values.  `delay` puts a proxy between
that hands every byte on later by a fixed time, each way.  Seconds are those of the clock on the wall; a sum's are the server's,
from the first message of the sum to the last; medians over ``--sums``, after one that is not counted.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import typer
from rich.console import Console
from rounds import measure

from protocols.rand import fresh
from protocols.sums import chosen, scheme, secure_sum
from protocols.wire import FRAME
from securefl.journal import FileJournal
from securefl.transport import enrolment, port
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


# Processes


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


# What starts them


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


def consortium(folder: Path, parties: int) -> list[str]:
    """Keys for a server and so many parties; the parties' names."""
    names = [f"party-{index:03}" for index in range(1, parties + 1)]
    enrolment.make_all(folder, names, fresh, datetime.now(UTC), ("localhost", "127.0.0.1"))
    return names


def networked(parties: int, size: int, protocol: str, sums: int, delay: float = 0.0) -> dict[str, Any]:
    """So many sums between processes: median seconds, the server's memory and a party's."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "keys"
        names = consortium(folder, parties)
        serving = start("server", folder, protocol, size, sums)
        with between(heard(serving)["port"], delay) as at:
            joined = [start("party", folder, name, at, protocol, size, sums) for name in names]
            told = [heard(serving) for _ in range(sums)]
            memory = [heard(one)["memory"] for one in joined]
        for process in (serving, *joined):
            process.wait()
    if not all(one["right"] and one["contributors"] == parties for one in told):
        raise SystemExit(f"a sum is wrong or lacks parties: {told}")
    return {
        "seconds": statistics.median(one["seconds"] for one in told[1:] or told),
        "server_grown_bytes": told[0]["grown"],
        "party_memory_bytes": statistics.median(memory),
    }


def bare(parties: int, up: int, down: int, sums: int) -> float:
    """Median seconds of the bare transfer."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "keys"
        names = consortium(folder, parties)
        serving = start("bare-server", folder, parties, up, down, sums)
        at = heard(serving)["port"]
        joined = [start("bare-party", folder, name, at, up, down, sums) for name in names]
        told = [float(heard(serving)["seconds"]) for _ in range(sums)]
        for process in (serving, *joined):
            process.wait()
    return float(statistics.median(told[1:] or told))


def in_process(parties: int, size: int, protocol: str, sums: int) -> tuple[float, int, int]:
    """The same sum in this process: median seconds, and the bytes that a party sends and gets."""
    vectors, seconds = [vector(index, size) for index in range(parties)], list[float]()
    for _ in range(sums):
        began = time.monotonic()
        out = secure_sum(vectors, max_abs=MAX_ABS, protocol=protocol)
        seconds.append(time.monotonic() - began)
        if not (out.values == total(parties, size)).all():
            raise SystemExit("the sum in one process is wrong")
    taken = scheme(protocol)
    found = measure(protocol, taken.parameters(parties, size, MAX_ABS), alone=())
    kinds = {kind.__name__ for kind in taken.flow.messages("server")}
    up = sum(size for kind, (_count, size) in found.sent.items() if kind in kinds)
    down = sum(size for kind, (_count, size) in found.sent.items() if kind not in kinds)
    return statistics.median(seconds[1:] or seconds), up // parties, down // parties


# What is measured


def whole_round(parties: int, dim: int, protocol: str, sums: int) -> dict[str, Any]:
    """A round against its two parts."""
    alone, up, down = in_process(parties, dim, protocol, sums)
    transfer = bare(parties, up, down, sums)
    found = networked(parties, dim, protocol, sums)
    return {
        "parties": parties,
        "dim": dim,
        "protocol": protocol,
        "seconds": found["seconds"],
        "in_process_s": alone,
        "bare_transfer_s": transfer,
        "ratio": found["seconds"] / (alone + transfer),
        "bytes_up": up,
        "bytes_down": down,
        "party_memory_mib": found["party_memory_bytes"] / 2**20,
    }


def small(parties: int, protocol: str, sums: int) -> dict[str, Any]:
    """Sums a minute of a small model."""
    found = networked(parties, 1000, protocol, 4 * sums)
    return {"parties": parties, "dim": 1000, "seconds": found["seconds"], "rounds_per_minute": 60 / found["seconds"]}


def memory(dim: int, protocol: str) -> dict[str, Any]:
    """What a server of large vectors needs, for three parties."""
    taken, _ = chosen(protocol, 3, dim, MAX_ABS)
    bits = taken.parameters(3, dim, MAX_ABS).ring.bits
    found = networked(3, dim, protocol, 1)
    packed = dim * bits / 8
    return {
        "parties": 3,
        "dim": dim,
        "packed_vector_bytes": packed,
        "server_grown_bytes": found["server_grown_bytes"],
        "vectors": found["server_grown_bytes"] / packed,
        "seconds": found["seconds"],
    }


def delays(dim: int, protocol: str, sums: int) -> list[dict[str, Any]]:
    """Rounds of ten parties at delays each way."""
    return [
        {"parties": 10, "dim": dim, "delay_ms": delay, "seconds": networked(10, dim, protocol, sums, delay / 1000)["seconds"]}
        for delay in (0, 50, 150)
    ]


@app.command("measure")
def main(
    parties: Annotated[int, typer.Option(min=3, max=200)] = 50,
    dim: Annotated[int, typer.Option(min=1000)] = 1_000_000,
    large: Annotated[int, typer.Option(min=1000, help="Values of a vector in `memory`.")] = 100_000_000,
    protocol: str = "secagg",
    sums: Annotated[int, typer.Option(min=1, help="Sums of which the median counts.")] = 4,
    only: Annotated[list[str] | None, typer.Option(help="round, small, memory, delay.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure."""
    works: dict[str, Callable[[], Any]] = {
        "round": lambda: whole_round(parties, dim, protocol, sums),
        "small": lambda: small(10, protocol, sums),
        "memory": lambda: memory(large, protocol),
        "delay": lambda: delays(100_000, protocol, sums),
    }
    unknown = set(only or ()) - set(works)
    if unknown:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}; there are {', '.join(works)}")
    found = {name: work() for name, work in works.items() if only is None or name in only}
    if as_json:
        typer.echo(json.dumps(found))
        return
    Console().print(found)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.argv.insert(1, "measure")
    app()
