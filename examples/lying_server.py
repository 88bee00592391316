"""The server of example 04: it runs no step of the protocol, but tells real parties what it likes.  Run by itself, it is honest."""

from dataclasses import replace

import numpy as np

from protocols import sums
from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.policy import Policy
from protocols.primitives import agree, prg, shamir
from protocols.rand import Seed
from protocols.secagg import list_hash, pair_key
from protocols.secagg_types import Advert, Boxes, Entry, Listed, Masked, Openings, Sealed
from protocols.session import SERVER, Letter, client
from protocols.suite import Occasion, Parameters
from protocols.vector import Vector
from protocols.wire import canonical

ALL = (1, 2, 3, 4, 5)


class Server:
    """Five parties with t = 3, and all that they said, by kind and sender."""

    def __init__(self, inputs):
        scheme, (roster, parties) = sums.scheme("secagg"), sums.enrol(len(ALL))
        parties = [replace(party, policy=Policy(min_corrupt=0)) for party in parties]
        parameters = Parameters.of(len(ALL), 4, 100, corrupt=0, threshold=3)
        self.terms = scheme.terms(Occasion("example", 0), roster, parameters)
        self.parties = {p.index: sums.client_session(scheme, p, self.terms) for p in parties}
        self.heard = {}
        for u, party in self.parties.items():
            self._hear(u, party.begin() + party.provide(Vector(np.array(inputs[u]))))
        adverts = [(u, self.heard[Advert, u]) for u in ALL]
        self.listed = Listed(tuple(Entry(u, a.c_pk, a.s_pk, a.signature) for u, a in adverts))
        self.keys = {u: advert.s_pk for u, advert in adverts}

    def _hear(self, u, letters):
        self.heard |= {(type(letter.message), u): letter.message for letter in letters}

    def tell(self, u, message):
        """Send one message to one party."""
        letter = Letter(SERVER, (client(u),), message, 0, self.parties[u].limits)
        self._hear(u, self.parties[u].feed(SERVER, b"".join(letter.chunks())))

    def tell_sharers(self, u, members=ALL):
        """U2, and the boxes that its members sealed for ``u``."""
        boxes = [replace(b, peer=v) for v in members for b in self.heard[Boxes, v].boxes if b.peer == u]
        self.tell(u, Sealed(tuple(members), tuple(boxes)))

    def tell_agreement(self, u, survivors=ALL):
        """The signatures of those whom ``u`` takes for the survivors."""
        self.tell(u, Agreed(tuple(Signed(v, self.heard[Agree, v].signature) for v in survivors)))

    def rebuild(self, dealer, openers):
        """The secret of ``dealer`` that these parties opened, or None if they did not."""
        opened = {u: self.heard[Openings, u] for u in openers if (Openings, u) in self.heard}
        shares = {u: share.share for u, sent in opened.items() for share in sent.shares if share.index == dealer}
        return self.combine(shares) if shares else None

    def combine(self, shares):
        """The secret behind t shares, by holder."""
        return Seed(shamir.Lagrange(list(shares)).combine(list(shares.values())))

    def unmask(self, u, b, pairs, L):
        """The input of ``u``, from its seed b and the key pairs of all with whom it masked."""
        y, signs = self.heard[Masked, u].y.values.copy(), {True: [], False: []}
        for v, pair in pairs.items():
            signs[u > v].append(pair_key(self.terms, L, pair, self.keys[u], v, u))
        prg.apply_masks(y, signs[True], [agree.derive(b, canonical(["self", self.terms.sid, L, u])), *signs[False]])
        return self.terms.parameters.ring.centre(y)[:-1].tolist()


if __name__ == "__main__":
    server = Server({u: [u] * 4 for u in ALL})
    for message in (server.listed, server.tell_sharers, Dropped(()), server.tell_agreement):
        for u in ALL:
            message(u) if callable(message) else server.tell(u, message)
    print("list", list_hash(server.listed).hex()[:16], "and every seed b opened:", all(server.rebuild(u, ALL[:3]) for u in ALL))
