"""Downgrade: a server tells five hospitals that none of them colludes, so that t = 3 would do; hospital 5 does.

By its own policy a hospital asks for a threshold that holds against one colluder, t = 4: refused by "policy-corrupt" before
anything leaves.  Without that check 1 and 2 hear that all survived, 3 and 4 that hospital 1 did not; hospital 5 signs both and
gives what it holds, and three shares of the seed *and* three of the key are together.
"""

from cracking import combined, unmask, without
from lying_server import ALL, SECRET, Server

from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.policy import Policy
from protocols.primitives.agree import KeyPair
from protocols.secagg_types import Advert


def open_twice(server):
    if not any(kind is Advert for kind, _ in server.heard):
        return None
    server.share_keys()
    (colluder,) = server.parties[5].remembers
    for group, dropped in (((1, 2), ()), ((3, 4), (1,))):
        survivors = [v for v in ALL if v not in dropped]
        for u in group:
            server.tell(u, Dropped(dropped))
        signed = [Signed(u, server.heard[Agree, u].signature) for u in group]
        statement = server.terms.statement("agree", 5, server.L, survivors)
        for u in group:
            server.tell(u, Agreed((*signed, Signed(5, colluder.invited.identity.sign(statement)))))
    seed = server.shares(1, (1, 2)) | {5: colluder.held[1].b_share}
    key = server.shares(1, (3, 4)) | {5: colluder.held[1].s_share}
    return unmask(server, seed, {1: KeyPair(combined(key))})


server = Server(policy=Policy())
print(f"with policy-corrupt: server reads {open_twice(server)}; hospital 1 {server.parties[1].ended}")
with without("policy-corrupt"):
    print(f"without policy-corrupt: server reads {open_twice(Server(policy=Policy()))}, hospital 1 has {SECRET}")
