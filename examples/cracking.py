"""What the cheating servers of examples 04 to 04d do with what they heard, and the protocol with one check taken out."""

import contextlib
import sys
from unittest import mock

from lying_server import ALL

from protocols import errors
from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.primitives import agree, prg, shamir
from protocols.rand import Seed
from protocols.secagg_labels import pair_key
from protocols.secagg_types import Masked, Openings
from protocols.wire import canonical

SHARERS = dict.fromkeys(ALL, ALL) | {1: (1, 2, 3)}
DROPPED = {1: (), 2: (3,), 3: (2,), 4: (2, 3), 5: (2, 3)}
SETS = {u: tuple(v for v in SHARERS[u] if v not in DROPPED[u]) for u in ALL}
"""Who shared, who dropped out, and so who survived, as each party is told: the first always, 2 and 3 in two views each."""


def different_dropped_sets(server, signatures=None):
    """The first masks with 2 and 3 alone; the others hear that those dropped out, and open their keys.

    Shown to each party are the signatures of those whom it takes for the survivors, or the given ones of (signer, survivors).
    """
    server.share_keys(SHARERS)
    for u in ALL:
        server.tell(u, Dropped(DROPPED[u]))
    said = signatures or {(v, SETS[u]): server.heard[Agree, v].signature for u in ALL for v in SETS[u]}
    for u in ALL:
        server.tell(u, Agreed(tuple(Signed(v, said[v, SETS[u]]) for v in SETS[u])))
    if not any(kind is Openings for kind, _ in server.heard):
        return None
    pairs = {v: agree.KeyPair(combined(server.shares(v, openers))) for v, openers in ((2, (3, 4, 5)), (3, (2, 4, 5)))}
    return unmask(server, server.shares(1, (1, 4, 5)), pairs)


def combined(shares):
    """The secret behind t shares, by opener."""
    return Seed(shamir.Lagrange(list(shares)).combine(list(shares.values())))


def unmask(server, b_shares, pairs):
    """The first party's input, from shares of its seed b, and key pairs: its own, or of all with whom it masked."""
    terms, y = server.terms, server.heard[Masked, 1].y.values.copy()
    if 1 in pairs:
        keys = [pair_key(terms, server.L, pairs[1], server.keys[v], 1, v) for v in ALL if v != 1]
    else:
        keys = [pair_key(terms, server.L, pair, server.keys[1], v, 1) for v, pair in pairs.items()]
    prg.apply_masks(y, [], [agree.derive(combined(b_shares), canonical(["self", terms.sid, server.L, 1])), *keys])
    return terms.parameters.ring.centre(y)[:-1].tolist()


@contextlib.contextmanager
def without(check):
    """The protocol with one check taken out, wherever it stands."""

    def lenient(ok, name, *rest, **more):
        errors.require(ok or name == check, name, *rest, **more)

    with contextlib.ExitStack() as patches:
        for module in [m for name, m in sys.modules.items() if name.startswith("protocols.") and m is not errors]:
            if hasattr(module, "require"):
                patches.enter_context(mock.patch.object(module, "require", lenient))
        yield


if __name__ == "__main__":
    print("survivors, as each party is told:", SETS)
