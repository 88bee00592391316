"""A server cheats five hospitals, twice: refused by name; and with that one check taken out, it reads what hospital 1 has."""

from dataclasses import replace
from unittest import mock

from lying_server import ALL, Server

from protocols import errors, secagg
from protocols.agreement import Dropped
from protocols.primitives import agree, seal
from protocols.rand import fresh
from protocols.secagg_types import Boxes, Listed, Sealed
from protocols.wire import canonical

SECRET = [7, -3, 42, 0]


def different_dropped_sets(server):
    """Hospital 1 hears that it masks with 2 and 3 alone; the others hear that those two dropped out, and open their keys."""
    dropped = {1: (), 2: (3,), 3: (2,), 4: (2, 3), 5: (2, 3)}
    sharers = {u: (1, 2, 3) if u == 1 else ALL for u in ALL}
    for u in ALL:
        server.tell(u, server.listed)
    for u in ALL:
        server.tell_sharers(u, sharers[u])
    for u in ALL:
        server.tell(u, Dropped(dropped[u]))
    for u in ALL:
        server.tell_agreement(u, [v for v in sharers[u] if v not in dropped[u]])
    b, s2, s3 = server.rebuild(1, (1, 4, 5)), server.rebuild(2, (3, 4, 5)), server.rebuild(3, (2, 4, 5))
    if b is None:
        return None
    return server.unmask(1, b, {2: agree.KeyPair(s2), 3: agree.KeyPair(s3)}, secagg.list_hash(server.listed))


def swapped_keys(server):
    """Hospital 1 gets a list in which all keys but its own are the server's, who so reads the shares meant for the others."""
    c, s = ({v: agree.KeyPair.generate(fresh(), "mine") for v in ALL[1:]} for _ in range(2))
    own, *others = server.listed.entries
    forged = Listed((own, *(replace(e, c_pk=c[e.index].public, s_pk=s[e.index].public) for e in others)))
    L, terms = secagg.list_hash(forged), server.terms
    server.tell(1, forged)
    if (Boxes, 1) not in server.heard:
        return None
    b_shares, answers, junk = {}, [], bytes(33)
    for box in server.heard[Boxes, 1].boxes:
        v = box.peer
        to, back = (secagg.box_key(terms, L, c[v], own.c_pk, *way, mine=v) for way in ((1, v), (v, 1)))
        b_shares[v] = seal.unseal(to, box.box, secagg.box_aad(terms, L, 1, v))[-33:]
        answer = seal.seal(back, canonical([v, 1, junk, junk]), secagg.box_aad(terms, L, v, 1))
        hashes = {f"{k}_hash": secagg.share_hash(terms, L, v, 1, k, junk) for k in ("s", "b")}
        answers.append(replace(box, box=answer, **hashes))
    server.tell(1, Sealed(ALL, tuple(answers)))
    return server.unmask(1, server.combine(dict(list(b_shares.items())[:3])), s, L)


def without(check):
    """The protocol with one check taken out."""
    return mock.patch.object(secagg, "require", lambda ok, name, *rest: errors.require(ok or name == check, name, *rest))


for cheat, check in ((different_dropped_sets, "agreed-signature"), (swapped_keys, "listed-signature")):
    print(cheat.__name__.replace("_", " "))
    server = Server({u: SECRET if u == 1 else [u] * 4 for u in ALL})
    print(f"  with {check}: server reads {cheat(server)}; hospital 1 {server.parties[1].ended}")
    with without(check):
        server = Server({u: SECRET if u == 1 else [u] * 4 for u in ALL})
        print(f"  without {check}: server reads {cheat(server)}, hospital 1 has {SECRET}")
