"""A cheating server of homomorphic sums: how their messages are made, and what a common key opens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from protocols import handshake, he, he_codec
from protocols.agreement import Agree
from protocols.bulk import Bulk
from protocols.errors import Refused
from protocols.he_parameters import layouts
from protocols.he_types import Committed, Dealt, Decrypted, Delivered, Encrypted, Summed, Upload, Waiting
from protocols.primitives import homomorphic
from protocols.primitives.homomorphic import Adder, Ciphertexts
from protocols.rand import Seed
from securefl.audit.cheating import KeyListServer
from securefl.audit.federation import Federation


@dataclass
class HeServer(KeyListServer):
    """A server played by an attack, against homomorphic sums."""

    def delivered(self, v: int, u2: Iterable[int] | None = None) -> Delivered:
        """U2 and the boxes for ``v``."""
        dealt = self.all(Dealt)
        members = tuple(dealt) if u2 is None else tuple(u2)
        boxes = tuple(replace(x, peer=u) for u in members if u != v for x in dealt[u].boxes if x.peer == v)
        return Delivered(members, boxes, tuple(Committed(u, dealt[u].commitment) for u in members if u != v))

    def up_to_uploads(self) -> bytes:
        """Rounds 0 to 2; L."""
        listed = self.up_to_boxes()
        for u in self.sessions:
            self.tell(u, self.delivered(u))
        return handshake.list_hash(listed)

    def collude(self, u: int) -> Encrypted:
        """What a colluding party hands over: its state with the common key."""
        return self.state(u, Encrypted)

    def total(self, members: Iterable[int], times: int = 1) -> NDArray[Any]:
        """The sum of the ciphertexts of these parties, each so many times."""
        p, uploads = self.fed.terms.parameters, self.all(Upload)
        adder = Adder(p.shape, p.ciphertexts)
        for u in members:
            for _ in range(times):
                adder.add(Ciphertexts(uploads[u].seeds.values, uploads[u].words.values))
        return adder.total()

    def agreed_openers(self, dropped: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Round 3; who opens."""
        self.agree_on(dropped)
        for u in self.all(Agree):
            self.tell(u, self.agreed())
        return tuple(u for u in self.sessions if any(isinstance(s, Waiting) and s.key for s in self.sessions[u].remembers))

    def show(self, u: int, total: NDArray[Any]) -> list[int] | None:
        """Ask an opener to decrypt; what comes."""
        self.tell(u, Summed(Bulk.of(layouts(self.fed.terms.parameters)["total"], total)))
        said = self.all(Decrypted).get(u)
        values: list[int] | None = None
        if said is not None:
            values = self.fed.terms.parameters.ring.centre(said.values.values)[:-1].tolist()
        return values


def opened(fed: Federation, key: Seed, u: int, upload: Any) -> list[int]:
    """The input behind one party's ciphertexts, by whoever has the common key; [] where it is not the key."""
    p = fed.terms.parameters
    adder = Adder(p.shape, p.ciphertexts)
    adder.add(Ciphertexts(upload.seeds.values, upload.words.values))
    try:
        values: list[int] = he_codec.decode(p, key, [u], homomorphic.decrypt(p.shape, key, adder.total()))[:-1].tolist()
    except Refused:
        return []
    return values


def signed(state: Encrypted, fresh: Ciphertexts, fed: Federation) -> Upload:
    """An upload in the name of the party whose state this is."""
    p, invited = fed.terms.parameters, state.invited
    seeds, words = Bulk.of(layouts(p)["seeds"], fresh.seeds), Bulk.of(layouts(p)["words"], fresh.words)
    statement = he.upload_statement(fed.terms, invited.me, state.L, state.u2, seeds.digest, words.digest)
    return Upload(seeds, words, invited.identity.sign(statement))
