"""Many senders' vectors to one server, in pieces that interleave as a driver likes, with or without regard for turns."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import cycle

import numpy as np
from strategies import roster

from protocols.bulk import Bulk
from protocols.plain import Clear, flow
from protocols.session import SERVER, Letter, Session, client
from protocols.suite import Occasion, Terms
from protocols.sums import scheme
from protocols.wire import Limits, encode

PLAIN = scheme("plain-insecure")
MAX_ABS = 1000
SIZE = 100_000
VECTOR = 4 * (SIZE + 1)
"""Bytes of a vector of `SIZE` values and the count, in memory."""
THRESHOLD = flow.step("total").quorum


def adding(parties: int, size: int, *, terms: Terms | None = None, **session: int) -> Session:
    """A server of `protocols.plain` that waits for vectors: the cheapest protocol whose vectors are added up on arrival."""
    terms = terms or PLAIN.terms(Occasion("uploads", 0), roster(parties), PLAIN.parameters(parties, size, MAX_ABS))
    limits = Limits(parties, PLAIN.layouts(terms.parameters))
    server = Session(flow, SERVER, {"client": terms.roster.indexes}, [PLAIN.server_start(terms)], limits, **session)
    server.begin()
    return server


def vector(server: Session, value: int, epoch: int = 0) -> tuple[bytes, bytes]:
    """Control bytes and vector bytes of a party whose coordinates are all ``value``."""
    layout = server.limits.vectors["masked"]
    values = np.full(layout.size, value, dtype=layout.ring.dtype)  # type: ignore[attr-defined]
    values[-1] = 1
    control, *frames = encode(Clear(Bulk.of(layout, values)), epoch, server.limits)
    return control, b"".join(frames)


def cut(message: tuple[bytes, bytes], piece: int) -> list[bytes]:
    """The control bytes in one piece, the vector in pieces of that many bytes."""
    control, data = message
    return [control, *(data[at : at + piece] for at in range(0, len(data), piece))]


def interleave(server: Session, pieces: Mapping[int, Sequence[bytes]], order: Iterable[int] | None = None) -> list[Letter]:
    """Feed everybody's pieces by turns, or in the endless ``order``, holding back those of senders that are not open."""
    fed, held, letters = dict.fromkeys(pieces, 0), 0, list[Letter]()
    left = sum(map(len, pieces.values()))
    for u in cycle(pieces) if order is None else order:
        if not left:
            break
        if fed[u] == len(pieces[u]):
            continue
        if server.open(client(u)):
            letters += server.feed(client(u), pieces[u][fed[u]])
            fed[u], left, held = fed[u] + 1, left - 1, 0
        else:
            held += 1
        assert held < 10_000, "nobody is open"
    return letters


def peak(run: Callable[[], object]) -> int:
    """Most bytes that Python and numpy held at once while it ran, beyond what they held before."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
