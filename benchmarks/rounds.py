"""One secure sum in one process, every party measured: what `secure_sum.py` and `targets.py` report.

Parties take their turns one after another, and what they say goes to the server as bytes, so that no more than one vector is under
way: when all have spoken in a round, as the server has a machine and a cache of its own, or, where memory is measured, at once.  A
party's CPU seconds are those of taking a message, of its step, and of laying out its answer; the server's likewise.  Nothing is
remembered between parties: each checks all signatures and makes all key agreements, as on machines of their own.  Where only a few
parties' seconds are asked for (``alone``), the others share their public work; those few and the server do all of their own.  The
parties' objects are kept out of the sight of the garbage collector while the server runs: they lie in its process only here.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ctypes
import gc
import statistics
import sys
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols import sums
from protocols.errors import Abort
from protocols.handshake import list_hash
from protocols.once import own_work, shared_work
from protocols.policy import Policy
from protocols.schema import has_vector
from protocols.session import SERVER, Letter, Session, client
from protocols.suite import Occasion, SumParameters, Terms
from protocols.vector import Vector

MIB = 1 << 20
PERMISSIVE = Policy(min_threshold=0.0, min_corrupt=0, min_security=1, semi_honest=True)
"""Benchmarks run settings that a party would refuse."""


@dataclass
class Measured:
    """What one sum cost.

    Attributes:
        client_s: for each step, CPU seconds of every party that ran it.
        server_s: CPU seconds by step.
        sent: (messages, bytes) by kind, in both directions.
        server_peak: peak bytes that the server's steps allocated, or None.
        streams: keystreams as long as the vector that the server had to expand.
        masks: the same of every party.
        beside: seconds a byte of bare keystream and of bare additions, a take of both before each mask step that was measured.
        exact: whether the sum is right.
    """

    client_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    server_s: Counter[str] = field(default_factory=Counter)
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)
    upload: int = 0
    server_peak: int | None = None
    streams: int = 0
    masks: int = 0
    beside: list[tuple[float, float]] = field(default_factory=list)
    exact: bool = False

    def median(self, step: str) -> float:
        """CPU seconds of the median party in one step."""
        return statistics.median(self.client_s[step])


class _Memory:
    """Bytes that the server's calls allocate and keep, told apart from what parties in the same process hold."""

    def __init__(self, *, on: bool) -> None:
        self.on, self.held, self.peak = on, 0, 0
        if on:
            tracemalloc.start()

    def call(self, fn: Callable[[], Any]) -> Any:
        if not self.on:
            return fn()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        out = fn()
        after, peak = tracemalloc.get_traced_memory()
        self.peak = max(self.peak, self.held + peak - before)
        self.held += after - before
        return out

    def sent(self, letters: list[Letter]) -> None:
        """Let go of the last letter, as a server does that has written it out."""
        before = tracemalloc.get_traced_memory()[0] if self.on else 0
        letters.pop()
        self.held += (tracemalloc.get_traced_memory()[0] if self.on else 0) - before

    def stop(self) -> int | None:
        if not self.on:
            return None
        tracemalloc.stop()
        return self.peak


class _Run:
    def __init__(
        self, scheme: sums.Scheme, terms: Terms[Any], lost: set[int], stage: str, *, memory: bool, alone: Collection[int] | None
    ) -> None:
        self.alone = alone
        self.scheme, self.terms, self.lost, self.stage = scheme, terms, lost, stage
        self.out, self.letters, self.now = Measured(), list[Letter](), 0.0
        self.memory, self.floor = _Memory(on=memory), Floor()
        self.server = sums.server_session(scheme, terms)
        self.clients: dict[int, Session] = {}
        self.mail: list[tuple[str, int, bytes]] = []
        self.ready: dict[int, list[bytes | memoryview]] = {}

    def turn(self, u: int, step: str, act: Callable[[], list[Letter]]) -> None:
        """One party acts; what it says waits for the server."""
        own = self.alone is None or u in self.alone
        if own and step == "mask":  # beside it, as the speed of a machine that others use changes within a round
            self.out.beside.append(self.floor.take(8))
        began = time.process_time()
        with own_work() if own else nullcontext():
            frames = [(letter, list(letter.chunks())) for letter in act()]
        if own:
            self.out.client_s[step].append(time.process_time() - began)
        for letter, chunks in frames:
            kind = type(letter.message)
            if kind.__name__ == self.stage and u in self.lost:
                continue
            self.count(kind.__name__, sum(map(len, chunks)))
            if kind.__name__ == self.stage:
                self.out.upload = sum(map(len, chunks))
            name = "leaves" if kind.__name__ == "Farewell" else self.scheme.flow.receiver(kind).name
            self.mail += [(name, u, bytes(chunk)) for chunk in chunks]
        if self.memory.on:
            self.flush()

    def flush(self) -> None:
        """The server gets what waits for it."""
        gc.freeze()
        self.mail.reverse()
        while self.mail:
            if self.memory.on:  # what a message takes before it is fed is not the server's
                step, u, chunk = self.mail.pop()
                self.serve(step, lambda chunk=chunk, u=u: self.server.feed(client(u), chunk, self.now))
            else:
                self.serve(step := self.mail[-1][0], lambda step=step: self.feed(step))

    def feed(self, step: str) -> list[Letter]:
        """The next messages of one step, up to the first of another: a reading of the clock costs a tenth of a short one."""
        letters = list[Letter]()
        while self.mail and self.mail[-1][0] == step:
            _, u, chunk = self.mail.pop()
            letters += self.server.feed(client(u), chunk, self.now)
        return letters

    def serve(self, step: str, act: Callable[[], list[Letter]]) -> None:
        """The server acts; its letters wait."""
        with own_work():
            began = time.process_time()
            letters = self.memory.call(act)
            self.out.server_s[step] += time.process_time() - began
        self.letters += letters

    def written(self, letters: list[Letter]) -> None:
        """The server writes its letters out, but for those with vectors, which would fill the memory: each when it is delivered."""
        for letter in letters:
            if not self.memory.on and not has_vector(type(letter.message)):
                self.ready[id(letter)] = self.write(letter)

    def write(self, letter: Letter) -> list[bytes | memoryview]:
        """The bytes of one letter."""
        began = time.process_time()
        chunks = list(letter.chunks())
        self.out.server_s[self.scheme.flow.sender(type(letter.message)).name] += time.process_time() - began
        return chunks

    def deliver(self, letter: Letter, vector: Any) -> None:
        """Bytes of one letter to all who get it."""
        kind = type(letter.message)
        chunks = self.ready.pop(id(letter), None) or self.write(letter)
        step = self.scheme.flow.receiver(kind).name
        for to in letter.to:
            self.count(kind.__name__, sum(map(len, chunks)))
            session = self.clients[to.index]
            if any(port.carrier == "input" for port in self.scheme.flow.receiver(kind).takes):
                session.provide(vector)

            def act(session: Session = session) -> list[Letter]:
                return [letter for chunk in chunks for letter in session.feed(SERVER, chunk, self.now)]

            self.turn(to.index, step, act)

    def count(self, kind: str, size: int) -> None:
        messages, total = self.out.sent.get(kind, (0, 0))
        self.out.sent[kind] = messages + 1, total + size


def measure(
    protocol: str,
    parameters: SumParameters,
    *,
    dropout: float = 0.0,
    memory: bool = False,
    value: int | None = None,
    alone: Collection[int] | None = None,
) -> Measured:
    """Run one sum and measure it.

    Args:
        protocol: name of a scheme.
        parameters: of the sum.
        dropout: share of the parties that vanish with their vector in hand.
        memory: trace the server's allocations (slows everything down; seconds are then of no use).
        value: bound of the inputs; by default the largest that is allowed.
        alone: parties that do all of their own work, and whose seconds are kept; by default all.
    """
    _keep_freed_memory()
    with nullcontext() if alone is None else shared_work():
        return _measure(protocol, parameters, dropout, value, memory=memory, alone=alone)


def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed: it would hand the parties' memory back in the middle of a step of the server's.

    Both limits are set, as either alone fixes the other at its start: every buffer of 128 KiB would be mapped, zeroed and unmapped
    anew in each step, where a process that has freed one such buffer keeps it.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD, the largest that there is


def _measure(
    protocol: str, parameters: SumParameters, dropout: float, value: int | None, *, memory: bool, alone: Collection[int] | None
) -> Measured:
    scheme, n = sums.scheme(protocol), parameters.parties
    roster, parties = sums.enrol(n)
    terms = scheme.terms(Occasion("benchmark", 0), roster, parameters)
    kinds = {kind.__name__ for kind in scheme.flow.messages("server")}
    stage = next(name for name in ("Masked", "Enciphered", "Padded", "Upload", "Clear", "Sealed") if name in kinds)
    gone = round(dropout * n)
    lost = {1 + i * n // gone for i in range(gone)} if gone else set[int]()
    run = _Run(scheme, terms, lost, stage, memory=memory, alone=alone)
    bound = parameters.max_abs if value is None else value
    x = np.random.default_rng(0).integers(-bound, bound, parameters.size, endpoint=True)
    vector, listed = Vector(x), b""
    for party in parties:
        run.clients[party.index] = sums.client_session(scheme, replace(party, policy=PERMISSIVE), terms)
        run.turn(party.index, "advertise", run.clients[party.index].begin)
    run.flush()
    while not run.server.finished:
        waiting, run.letters = run.letters, []
        if not waiting and (at := run.server.deadline) is not None:
            run.now = at
            step = next(name for name, since in run.server._armed.items() if since is not None)  # noqa: SLF001
            run.serve(step, lambda: run.server.tick(run.now))
            continue
        if not waiting:
            break
        run.written(waiting)
        waiting.reverse()
        while waiting:
            if type(waiting[-1].message).__name__ == "Listed":
                listed = list_hash(waiting[-1].message)
            run.deliver(waiting[-1], vector)
            run.memory.sent(waiting)
        run.flush()
    out = run.out
    out.server_peak = run.memory.stop()
    if run.server.ended is not None:
        raise run.server.ended
    total = run.server.outputs[0]
    out.exact = bool(np.array_equal(total.values, x * (n - gone))) and total.contributors == n - gone
    if listed:
        _count_streams(out, terms, listed, lost)
    return out


def _count_streams(out: Measured, terms: Terms[Any], L: bytes, lost: set[int]) -> None:
    """Keystreams of a masked sum: of each survivor's own mask, and of each pair of a lost party and a survivor."""
    everybody = list(terms.roster.indexes)
    graph, seed = terms.parameters.graph, terms.sid + L
    near = {v: [u for u in graph.holders(v, everybody, seed) if u != v] for v in (lost | {1})}
    out.masks = 1 + len(near[1])
    out.streams = len(everybody) - len(lost) + sum(u not in lost for v in lost for u in near[v])


class Floor:
    """The floor of masking, bare, on reused buffers: AES-256-CTR by `update_into` into 1 MiB, and additions of uint32 in cache."""

    def __init__(self) -> None:
        self._stream = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
        self._zeros, self._out = bytes(MIB), bytearray(MIB)
        self._total, self._words = np.zeros(MIB // 32, np.uint32), np.ones(MIB // 32, np.uint32)

    def take(self, mib: int) -> tuple[float, float]:
        """CPU seconds a byte of keystream and of additions, over so many MiB of both."""
        return self._rate(self._encrypt, MIB, mib), self._rate(self._add, self._total.nbytes, mib)

    def _encrypt(self) -> None:
        self._stream.update_into(self._zeros, self._out)

    def _add(self) -> None:
        np.add(self._total, self._words, out=self._total)

    @staticmethod
    def _rate(act: Callable[[], object], nbytes: int, mib: int) -> float:
        act()
        began, times = time.process_time(), mib * MIB // nbytes
        for _ in range(times):
            act()
        return (time.process_time() - began) / (times * nbytes)


def floor(streams: int, nbytes: int, takes: Sequence[tuple[float, float]] = ()) -> tuple[float, float]:
    """Seconds of keystream and of additions for so many streams of so many bytes: medians of ``takes``, or of seven new ones."""
    if not takes:
        bare = Floor()
        takes = [bare.take(32) for _ in range(7)]
    keystream, additions = (streams * nbytes * statistics.median(rates) for rates in zip(*takes, strict=True))
    return keystream, additions


__all__ = ["Abort", "Measured", "floor", "measure"]
