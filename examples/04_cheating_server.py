"""A server cheats five hospitals, twice: refused by name; and with that one check taken out, it reads what hospital 1 has.

Different dropped sets for different hospitals, and swapped keys; 04a to 04d show the other ways in.
"""

from dataclasses import replace

from cracking import different_dropped_sets, unmask, without
from lying_server import ALL, SECRET, Server

from protocols import handshake, secagg
from protocols.primitives import agree, seal
from protocols.rand import fresh
from protocols.schema import strings
from protocols.secagg_types import BOX, Boxes, Listed, Sealed


def swapped_keys(server):
    """Hospital 1 gets a list in which all keys but its own are the server's, who so reads the shares meant for the others."""
    c, s = ({v: agree.KeyPair.generate(fresh(), "mine") for v in ALL[1:]} for _ in range(2))
    own, *others = server.listed.entries
    forged = Listed((own, *(replace(e, c_pk=c[e.index].public, s_pk=s[e.index].public) for e in others)))
    server.L, terms = secagg.list_hash(forged), server.terms
    server.tell(1, forged)
    if (Boxes, 1) not in server.heard:
        return None
    b_shares, answers, hashes, junk = {}, b"", b"", bytes(33)
    for v, box in zip(ALL[1:], strings(server.heard[Boxes, 1].boxes, BOX), strict=True):
        to, back = (handshake.box_key(terms, server.L, c[v], own.c_pk, *way, mine=v) for way in ((1, v), (v, 1)))
        b_shares[v] = seal.unseal(to, box, handshake.box_aad(terms, server.L, 1, v))[-33:]
        answers += seal.seal(back, secagg.box_content(v, 1, junk, junk), handshake.box_aad(terms, server.L, v, 1))
        hashes += b"".join(secagg.share_hash(terms, server.L, v, 1, which, junk) for which in ("s", "b"))
    server.tell(1, Sealed(ALL, answers, hashes))
    return unmask(server, dict(list(b_shares.items())[:3]), s)


for cheat, check in ((different_dropped_sets, "agreed-signature"), (swapped_keys, "listed-signature")):
    print(cheat.__name__.replace("_", " "))
    server = Server()
    print(f"  with {check}: server reads {cheat(server)}; hospital 1 {server.parties[1].ended}")
    with without(check):
        print(f"  without {check}: server reads {cheat(Server())}, hospital 1 has {SECRET}")
