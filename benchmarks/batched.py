"""What one of many sums after one handshake costs beside a whole round: `protocols.batch` over `protocols.secagg`, one core.

    taskset -c 0 python benchmarks/batched.py --clients 10 --dim 50 --steps 100

A whole round, a handshake for S sums and some of its steps run by turns in one process; each figure is a median of CPU seconds,
each ratio one of medians.  Every party does all of its own work: nothing is shared in the process.  A step's share of the handshake
is a S-th of it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json as dumper
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from functools import partial
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from protocols import sums
from protocols.batch_sums import Batch, batch, client_handshake, client_step, server_handshake, server_step
from protocols.batch_types import Ready, ServerReady
from protocols.policy import MemoryJournal, Policy
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.suite import Occasion, SumParameters
from protocols.sums import Party
from protocols.vector import Sum, Vector

SIDES = ("party", "server")


class Wrong(RuntimeError):
    """The sum is not the sum of the inputs."""


def played(
    sessions: Mapping[Address, Session], inputs: Mapping[int, Vector] | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """CPU seconds by side, those of the mean party, and bytes that it sends and receives."""
    n, letters = len(sessions) - 1, deque[tuple[Letter, bytes]]()
    seconds, sizes = defaultdict[str, float](float), Counter[str]()

    def timed(me: Address, act: Any) -> None:
        began = time.process_time()
        out = [(letter, b"".join(letter.chunks())) for letter in act()]
        seconds["server" if me == SERVER else "party"] += time.process_time() - began
        for letter, data in out:
            sizes["sent" if me != SERVER else "received"] += len(data) * len(letter.to)
            letters.append((letter, data))

    for me, session in sessions.items():
        timed(me, session.begin)
    for u, x in (inputs or {}).items():
        timed(client(u), partial(sessions[client(u)].provide, x))
    while letters:
        letter, data = letters.popleft()
        for to in letter.to:
            timed(to, partial(sessions[to].feed, letter.sender, data))
    return {**seconds, "party": seconds["party"] / n}, {way: size / n for way, size in sizes.items()}


def made(kind: type[Any], values: Iterable[Any]) -> Any:
    """The first output of a kind."""
    return next(value for value in values if isinstance(value, kind))


class Bench:
    """One cohort with its inputs; every run is of a round of its own."""

    def __init__(self, protocol: str, clients: int, dim: int, steps: int) -> None:
        self.made: Batch = batch(protocol)
        self.roster, parties = sums.enrol(clients, policy=Policy())
        self.parties = {p.index: p for p in parties}
        self.parameters: SumParameters = self.made.scheme.parameters(clients, dim, 2**15 - 1)
        rng = np.random.default_rng(1)
        self.inputs = {u: Vector(rng.integers(-1000, 1000, dim)) for u in self.parties}
        self.steps, self.seconds, self.bytes = steps, defaultdict[str, list[float]](list), dict[str, float]()

    def party(self, u: int) -> Party:
        """As on its first day."""
        old = self.parties[u]
        return Party(u, old.identity, old.policy, MemoryJournal())

    def note(self, what: str, found: tuple[dict[str, float], dict[str, float]]) -> None:
        """Remember the figures of one run."""
        for side in SIDES:
            self.seconds[f"{what} {side}"].append(found[0][side])
        self.bytes |= {f"{what} {way}": found[1][way] for way in ("sent", "received")}

    def check(self, server: Session) -> None:
        """The sum is right."""
        if not np.array_equal(made(Sum, server.outputs).values, sum(x.values for x in self.inputs.values())):
            raise Wrong("a sum is wrong")

    def whole(self) -> None:
        """One whole round."""
        scheme = self.made.scheme
        terms = scheme.terms(Occasion("bench", 0), self.roster, self.parameters)
        sessions = {SERVER: sums.server_session(scheme, terms)}
        sessions |= {client(u): sums.client_session(scheme, self.party(u), terms) for u in self.parties}
        self.note("round", played(sessions, self.inputs))
        self.check(sessions[SERVER])

    def batched(self, turns: int) -> None:
        """A handshake, and the first of its steps."""
        terms = self.made.terms(Occasion("bench", 0), self.roster, self.parameters, self.steps)
        parties = {u: self.party(u) for u in self.parties}
        sessions = {SERVER: server_handshake(self.made, terms)}
        sessions |= {client(u): client_handshake(self.made, party, terms) for u, party in parties.items()}
        self.note("handshake", played(sessions))
        for _ in range(min(turns, self.steps)):
            ready = {u: made(Ready, sessions[client(u)].outputs) for u in parties}
            sessions = {SERVER: server_step(self.made, made(ServerReady, sessions[SERVER].outputs))} | {
                client(u): client_step(self.made, parties[u], ready[u]) for u in parties
            }
            self.note("step", played(sessions, self.inputs))
            self.check(sessions[SERVER])

    def result(self) -> dict[str, float]:
        """Medians, in ms, and what a step costs with its share of the handshake over a round."""
        found = {name: 1000 * median(values) for name, values in self.seconds.items()}
        for side in SIDES:
            found[f"step and share {side}"] = found[f"step {side}"] + found[f"handshake {side}"] / self.steps
            found[f"ratio {side}"] = found[f"step and share {side}"] / found[f"round {side}"]
        return found | self.bytes


def main(
    clients: Annotated[int, typer.Option(help="n.", min=2)] = 10,
    dim: Annotated[int, typer.Option(help="d.", min=1)] = 50,
    steps: Annotated[int, typer.Option(help="S, sums that a handshake prepares.", min=1)] = 100,
    protocol: Annotated[str, typer.Option(help="secagg, secagg+ or kahe.")] = "secagg",
    repeat: Annotated[int, typer.Option(help="Turns.", min=1)] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Measure whole rounds, handshakes and steps by turns."""
    bench = Bench(protocol, clients, dim, steps)
    for _ in range(repeat):
        for _ in range(3):
            bench.whole()
        bench.batched(3)
    found = bench.result()
    if json:
        print(dumper.dumps({"clients": clients, "dim": dim, "steps": steps, "protocol": protocol, "ms and bytes": found}))
        return
    print(f"{protocol}, n = {clients}, d = {dim}, S = {steps}")
    print(f"{'':16s}{'party, ms':>12s}{'server, ms':>12s}{'sent, B':>12s}{'received, B':>12s}")
    for what in ("round", "handshake", "step"):
        row = [found[f"{what} {column}"] for column in (*SIDES, "sent", "received")]
        print(f"{what:16s}{row[0]:12.2f}{row[1]:12.2f}{row[2]:12.0f}{row[3]:12.0f}")
    print(f"{'step and share':16s}" + "".join(f"{found[f'step and share {side}']:12.2f}" for side in SIDES))
    print(f"{'over a round':16s}" + "".join(f"{found[f'ratio {side}']:12.2f}" for side in SIDES))


if __name__ == "__main__":
    typer.run(main)
