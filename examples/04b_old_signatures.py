"""Replay: a server tells hospitals different dropped sets, and shows each the signatures that its set got in an earlier round.

In every earlier round all was in order: the hospitals that a set leaves out had dropped out, and the others signed it.  Refused by
"agreed-signature", as the session identity (run, round, attempt, …) is in what is signed; without it, the old signatures serve.
"""

from unittest import mock

from cracking import SETS, different_dropped_sets
from lying_server import ALL, SECRET, Server

from protocols.agreement import Agree, Dropped
from protocols.suite import Terms
from protocols.wire import canonical

bound = Terms.statement


def unbound(terms, tag, signer, *content):
    """What is signed in the round of agreement, without session identity and list hash: the survivors alone."""
    return canonical([tag, signer, content[1]]) if tag == "agree" else bound(terms, tag, signer, *content)


def replay(among=None):
    """Rounds 0 to 3 give the signatures, round 4 is the attack; the hospitals are the same in all."""
    signatures = {}
    for number, survivors in enumerate(sorted(set(SETS.values()))):
        server = Server(among, number)
        among = server.among
        server.share_keys()
        for u in survivors:
            server.tell(u, Dropped(tuple(v for v in ALL if v not in survivors)))
            signatures[u, survivors] = server.heard[Agree, u].signature
    server = Server(among, 4)
    return server, different_dropped_sets(server, signatures)


server, stolen = replay()
print(f"with the session in what is signed: server reads {stolen}; hospital 1 {server.parties[1].ended}")
with mock.patch.object(Terms, "statement", unbound):
    print(f"without: server reads {replay()[1]}, hospital 1 has {SECRET}")
