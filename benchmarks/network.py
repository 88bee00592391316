"""Rounds over the network on loopback: a server and parties as processes of their own, mutual TLS, no torch loaded.

    python benchmarks/network.py [--parties 50] [--dim 1000000] [--protocol secagg] [--only round --only delay] [--json]

`round` is the wall time of a sum against that of the same sum in one process (`secure_sum`) and that of the bare transfer of the
same bytes: gRPC with the same certificates, options and frames, and no protocol.  `small` is how many sums of short vectors there
are a minute.  `memory` is by how much the server's resident memory grows in one sum of 10^8 values.  `delay` puts a proxy between
that hands every byte on later by a fixed time, each way.  Seconds are those of the clock on the wall; a sum's are the server's,
from the first message of the sum to the last; medians over ``--sums``, after one that is not counted.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from network_processes import MAX_ABS, between, heard, start, total, vector
from rich.console import Console
from rounds import measure

from protocols.rand import fresh
from protocols.sums import chosen, scheme, secure_sum
from securefl.transport import enrolment


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
    typer.run(main)
