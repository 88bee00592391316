"""Cheats against LightSecAgg: six parties, and a server played by the test.

Unless a test says otherwise U = 4, T = 1, |C| = 1, and the victim is party 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from adversary import EVERYBODY, Federation, LyingServer, federation

from protocols import lagrange, lightsecagg, sums
from protocols.bulk import Bulk
from protocols.lightsecagg_parameters import LightParameters, layouts
from protocols.lightsecagg_types import (
    Answer,
    Covered,
    KeyAdvert,
    KeyEntry,
    KeyList,
    Padded,
    Relayed,
    ShareHash,
    Shares,
)
from protocols.ring import Ring

SCHEME = sums.scheme("lightsecagg")
VICTIM, BAD = 1, 6


def light(**parameters: int) -> Federation:
    return federation(parameters=LightParameters.of(6, 5, 1000, **parameters), scheme=SCHEME)


@dataclass
class LightServer(LyingServer):
    """A server played by the test, against LightSecAgg."""

    def key_list(self, members: Iterable[int] = EVERYBODY) -> KeyList:
        adverts = self.all(KeyAdvert)
        return KeyList(tuple(KeyEntry(u, adverts[u].c_pk, adverts[u].signature) for u in members))

    def relayed(self, v: int, u2: Iterable[int] = EVERYBODY) -> Relayed:
        p, dealt, members = self.fed.terms.parameters, self.all(Shares), tuple(u2)
        slots = lightsecagg.slots_of(p)
        for u in members:
            if u != v:
                data = np.frombuffer(dealt[u].boxes.data or b"", dtype=np.uint8).reshape(slots.shape)
                slots[lightsecagg.slot(v, u)] = data[lightsecagg.slot(u, v)]
        hashes = tuple(ShareHash(u, h.hash) for u in members if u != v for h in dealt[u].hashes if h.peer == v)
        return Relayed(Bulk.of(layouts(p)["boxes"], slots), members, hashes)

    def up_to_masks(self) -> bytes:
        listed = self.key_list()
        for u in self.sessions:
            self.tell(u, listed)
        for u in self.sessions:
            self.tell(u, self.relayed(u))
        return lightsecagg.list_hash(listed)

    def collude(self, u: int) -> Covered:  # type: ignore[override]
        return next(state for state in self.sessions[u].remembers if isinstance(state, Covered))

    def answers(self) -> dict[int, np.ndarray[Any, Any]]:
        return {u: said.share.values for u, said in self.all(Answer).items()}


def unmasked(p: LightParameters, y: Padded, shares: dict[int, Any]) -> list[int]:
    """The input behind a masked vector, from U shares of its mask."""
    chosen = dict(list(shares.items())[: p.threshold])
    matrix = lagrange.coefficients(p.ring, list(chosen), lagrange.alphas(p.parties, p.blocks))
    total = y.y.values.copy()
    p.ring.subtract_from(total, p.ring.product(matrix, np.stack(list(chosen.values()))).reshape(-1)[: p.size + 1])
    centred: list[int] = p.ring.centre(total).tolist()
    return centred[:-1] if centred[-1] == 1 else []


def too_large(count: int) -> bytes:
    """So many packed values that are q."""
    return bytes(Ring(31).pack(np.full(count, 2**31 - 1, dtype=np.uint32)))
