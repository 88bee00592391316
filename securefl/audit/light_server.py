"""A cheating server of LightSecAgg: how its messages are made, and how a mask comes off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols import lagrange, lightsecagg
from protocols.bulk import Bulk
from protocols.handshake import list_hash
from protocols.lightsecagg_parameters import LightParameters, layouts
from protocols.lightsecagg_types import Answer, Covered, Padded, Relayed, ShareHash, Shares
from securefl.audit.cheating import KeyListServer


@dataclass
class LightServer(KeyListServer):
    """A server played by an attack, against LightSecAgg."""

    def relayed(self, v: int, u2: Iterable[int] | None = None) -> Relayed:
        """U2 and the boxes for ``v``."""
        p, dealt = self.fed.terms.parameters, self.all(Shares)
        members = tuple(dealt) if u2 is None else tuple(u2)
        slots = lightsecagg.slots_of(p)
        for u in members:
            if u != v:
                slots[lightsecagg.slot(v, u)] = boxes_of(dealt[u], p)[lightsecagg.slot(u, v)]
        hashes = tuple(ShareHash(u, h.hash) for u in members if u != v for h in dealt[u].hashes if h.peer == v)
        return Relayed(Bulk.of(layouts(p)["boxes"], slots), members, hashes)

    def up_to_masks(self) -> bytes:
        """Rounds 0 to 2; L."""
        listed = self.up_to_boxes()
        for u in self.sessions:
            self.tell(u, self.relayed(u))
        return list_hash(listed)

    def collude(self, u: int) -> Covered:
        """What a colluding party hands over after masking."""
        return self.state(u, Covered)

    def answers(self) -> dict[int, NDArray[Any]]:
        """The answers that came, by helper."""
        return {u: said.share.values for u, said in self.all(Answer).items()}


def boxes_of(dealt: Shares, p: LightParameters) -> NDArray[np.uint8]:
    """The boxes of one dealer, one a row."""
    data = dealt.boxes.data  # None of a message that came out of a wire, whose boxes are an array
    boxes: NDArray[np.uint8] = dealt.boxes.values if data is None else np.frombuffer(data, dtype=np.uint8)
    return boxes.reshape(lightsecagg.slots_of(p).shape)


def unmasked(p: LightParameters, y: Padded, shares: Mapping[int, NDArray[Any]]) -> list[int]:
    """The input behind a masked vector, from U shares of its mask; [] where they do not fit."""
    chosen = dict(list(shares.items())[: p.threshold])
    if len(chosen) < p.threshold:
        return []
    matrix = lagrange.coefficients(p.ring, list(chosen), lagrange.alphas(p.parties, p.blocks))
    total = y.y.values.copy()
    p.ring.subtract_from(total, p.ring.product(matrix, np.stack(list(chosen.values()))).reshape(-1)[: p.size + 1])
    centred: list[int] = p.ring.centre(total).tolist()
    return centred[:-1] if centred[-1] == 1 else []
