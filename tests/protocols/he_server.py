"""A federation over homomorphic sums, and a server for it that is played by the test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from adversary import Federation, LyingServer, federation

from protocols import handshake, he, sums
from protocols.agreement import Agree
from protocols.bulk import Bulk
from protocols.he_parameters import HeParameters, layouts
from protocols.he_types import Committed, Dealt, Decrypted, Delivered, Encrypted, Summed, Upload, Waiting
from protocols.lightsecagg_types import KeyAdvert, KeyEntry, KeyList
from protocols.policy import Policy
from protocols.primitives.homomorphic import Adder, Ciphertexts
from protocols.schema import Message

SCHEME = sums.scheme("bfv")
EVERYBODY = (1, 2, 3, 4, 5, 6)
VICTIM, BAD = 1, 6
P = HeParameters.bfv(6, 5, 1000, threshold=4)
EITHER = pytest.mark.parametrize("name", ["bfv", "ckks"])


def shared(name: str = "bfv") -> Federation:
    make = HeParameters.bfv if name == "bfv" else HeParameters.ckks
    return federation(parameters=make(6, 5, 1000, threshold=4), scheme=sums.scheme(name)).with_policy(Policy(min_corrupt=0))


@dataclass
class HeServer(LyingServer):
    """A server played by the test, against homomorphic sums."""

    def key_list(self, members: Iterable[int] = EVERYBODY) -> KeyList:
        adverts = self.all(KeyAdvert)
        return KeyList(tuple(KeyEntry(u, adverts[u].c_pk, adverts[u].signature) for u in members))

    def delivered(self, v: int, u2: Iterable[int] = EVERYBODY) -> Delivered:
        dealt, members = self.all(Dealt), tuple(u2)
        boxes = tuple(replace(x, peer=u) for u in members if u != v for x in dealt[u].boxes if x.peer == v)
        return Delivered(members, boxes, tuple(Committed(u, dealt[u].commitment) for u in members if u != v))

    def up_to_uploads(self) -> bytes:
        listed = self.key_list()
        for u in self.sessions:
            self.tell(u, listed)
        for u in self.sessions:
            self.tell(u, self.delivered(u))
        return handshake.list_hash(listed)

    def collude(self, u: int) -> Encrypted:  # type: ignore[override]
        return next(state for state in self.sessions[u].remembers if isinstance(state, Encrypted))

    def total(self, members: Iterable[int], times: int = 1) -> np.ndarray[Any, Any]:
        p, uploads = self.fed.terms.parameters, self.all(Upload)
        adder = Adder(p.shape, p.ciphertexts)
        for u in members:
            for _ in range(times):
                adder.add(Ciphertexts(uploads[u].seeds.values, uploads[u].words.values))
        return adder.total()

    def agreed_openers(self, dropped: tuple[int, ...] = ()) -> tuple[int, ...]:
        self.agree_on(dropped)
        for u in self.all(Agree):
            self.tell(u, self.agreed())
        return tuple(u for u in self.sessions if any(isinstance(s, Waiting) and s.key for s in self.sessions[u].remembers))

    def show(self, u: int, total: np.ndarray[Any, Any]) -> list[int] | None:
        """Ask an opener to decrypt; what comes."""
        self.tell(u, Summed(Bulk.of(layouts(self.fed.terms.parameters)["total"], total)))
        said = self.all(Decrypted).get(u)
        return None if said is None else self.fed.terms.parameters.ring.centre(said.values.values)[:-1].tolist()


def signed(state: Encrypted, fresh: Ciphertexts, fed: Federation) -> Upload:
    """An upload in the name of the party whose state this is."""
    p, invited = fed.terms.parameters, state.invited
    seeds, words = Bulk.of(layouts(p)["seeds"], fresh.seeds), Bulk.of(layouts(p)["words"], fresh.words)
    statement = he.upload_statement(fed.terms, invited.me, state.L, state.u2, seeds.digest, words.digest)
    return Upload(seeds, words, invited.identity.sign(statement))


def flipped(message: Any, *_: object) -> Message:
    return replace(message, signature=bytes([message.signature[0] ^ 1]) + message.signature[1:])
