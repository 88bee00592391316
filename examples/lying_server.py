"""The server of examples 04 to 04c: it runs no step of the protocol, but tells real parties what it likes.  Alone it is honest."""

from dataclasses import replace

import numpy as np

from protocols import secagg, sums
from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.policy import Policy
from protocols.primitives.shamir import SHARE_SIZE
from protocols.schema import strings
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import BOX, PINS, Advert, Boxes, Entry, Listed, Openings, Sealed
from protocols.session import SERVER, Letter, client
from protocols.suite import Occasion
from protocols.vector import Vector

ALL = (1, 2, 3, 4, 5)
SECRET = [7, -3, 42, 0]
TRUSTING = Policy(min_corrupt=0)


class Server:
    """Five parties with t = 3, of which the first has `SECRET`; and all that they said, by kind and sender."""

    def __init__(self, among=None, number=0, policy=TRUSTING, flow=None):
        scheme, self.among = sums.scheme("secagg"), among or sums.enrol(len(ALL))
        parameters = Parameters.of(len(ALL), len(SECRET), 100, corrupt=0, threshold=3)
        self.terms = scheme.terms(Occasion("example", number), self.among[0], parameters)
        self.parties = {
            p.index: sums.client_session(scheme, replace(p, policy=policy), self.terms, flow=flow) for p in self.among[1]
        }
        self.heard = {}
        for u, party in self.parties.items():
            self._hear(u, party.begin() + party.provide(Vector(np.array(SECRET if u == 1 else [u] * 4))))
        adverts = {u: self.heard[Advert, u] for u in ALL if (Advert, u) in self.heard}
        self.listed = Listed(tuple(Entry(u, a.c_pk, a.s_pk, a.signature) for u, a in adverts.items()))
        self.L, self.keys = secagg.list_hash(self.listed), {u: advert.s_pk for u, advert in adverts.items()}

    def _hear(self, u, letters):
        self.heard |= {(type(letter.message), u): letter.message for letter in letters}

    def tell(self, u, message):
        """Send one message to one party."""
        letter = Letter(SERVER, (client(u),), message, 0, self.parties[u].limits)
        self._hear(u, self.parties[u].feed(SERVER, b"".join(letter.chunks())))

    def share_keys(self, sharers=None):
        """Rounds 0 to 2: the list to everybody, and the boxes of those who are said to have shared; all mask."""
        for u in ALL:
            self.tell(u, self.listed)
        for u in ALL:
            members = ALL if sharers is None else sharers[u]
            dealt = [self.heard[Boxes, v] for v in members if v != u]
            at = [ALL.index(u) - (u > v) for v in members if v != u]  # a party's boxes are for the others, ascending
            boxes = b"".join(strings(one.boxes, BOX)[i] for one, i in zip(dealt, at, strict=True))
            hashes = b"".join(strings(one.hashes, PINS)[i] for one, i in zip(dealt, at, strict=True))
            self.tell(u, Sealed(tuple(members), boxes, hashes))

    def agreed(self, survivors=ALL):
        """The signatures of those who are said to have survived."""
        return Agreed(tuple(Signed(v, self.heard[Agree, v].signature) for v in survivors))

    def shares(self, dealer, openers):
        """The shares of one party's secret that these parties opened, by opener: one of each dealer, ascending."""
        sent = {u: strings(self.heard[Openings, u].shares, SHARE_SIZE) for u in openers if (Openings, u) in self.heard}
        return {u: shares[ALL.index(dealer)] for u, shares in sent.items()}


if __name__ == "__main__":
    server = Server()
    server.share_keys()
    for message in (Dropped(()), server.agreed):
        for u in ALL:
            server.tell(u, message() if callable(message) else message)
    print("shares of every seed b opened:", [len(server.shares(u, ALL)) for u in ALL])
