"""Attacks on the sparse graph of SecAgg+: rows 22 and 23.

The rings are small and σ is 1 bit: whoever colludes sits where the attack wants it, but in no place more of them than the
parameters stand (but where the order is ground), so that it is the named check that holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from protocols import degree
from protocols.handshake import list_hash
from protocols.policy import Policy
from protocols.primitives.agree import KeyPair
from protocols.primitives.graph import Harary
from protocols.ring import Ring
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Advert, Masked
from protocols.sums import SCHEMES, Scheme
from securefl.audit.federation import MAX_ABS, Federation, federation
from securefl.audit.judging import of_set, stolen
from securefl.audit.registry import attack
from securefl.audit.secagg_server import SparseServer, pair_keys, places, unmask
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict

SIZE = 3
WEAK = Policy(min_corrupt=0, min_security=1)
TRUSTING = replace(WEAK, min_threshold=0.2, semi_honest=True)


def world(
    n: int, k: int, corrupt: int, policy: Policy = WEAK, *, dropouts: int | None = None, scheme: Scheme = SCHEMES["secagg+"]
) -> Federation:
    """``n`` parties on a ring of degree ``k`` with the least threshold and gap that σ = 1 allows against ``corrupt`` of them.

    With ``dropouts``: against a server that follows the protocol, connected while no more than those are lost.
    """
    trusted = dropouts is not None
    s = degree.Setting(n, corrupt, 0, 1, semi_honest=trusted)
    t, gap = max(degree.threshold_bound(s, k) + 1, 2), None if trusted else degree.gap(s, k)
    agree = n - dropouts if dropouts is not None else (n + corrupt) // 2 + 1
    parameters = Parameters(n, SIZE, MAX_ABS, Ring(20), agree, corrupt, Harary(n, k, t, 1, gap))
    return federation(n, SIZE, parameters=parameters, scheme=scheme).with_policy(policy)


def ring(target: Target, n: int, k: int, corrupt: int, policy: Policy = WEAK, *, dropouts: int | None = None) -> Federation:
    """`world` under the target's protocol."""
    return world(n, k, corrupt, policy, dropouts=dropouts, scheme=target.scheme)


# Views: the victim's neighbours are opened elsewhere while they open the victim's seed


def split(fed: Federation) -> tuple[SparseServer, set[int], set[int], list[int]]:
    """Tell the victim's neighbours that all survived, and their neighbours that they did not.

    k = 8, t = 5, the neighbour before the victim colludes.  The victim is shown the four outermost neighbours and the colluder;
    these four hear that everybody survived, and open the victim's b.  Everybody else hears that they dropped out, and opens their
    s_sk.

    Returns:
        The server, both groups, and the input of the victim if the server has it.
    """
    server = SparseServer(fed)
    server.deal()
    victim, colluder = places(server.order, 0, (0, -1))
    outer, inner = places(server.order, 0, (-4, -3, 3, 4)), places(server.order, 0, (-2, 1, 2))
    keys, everybody = server.keys(colluder), tuple(server.fed.parties)
    server.mask({victim: inner})
    helper = {colluder: server.collude(colluder)}
    others = [u for u in everybody if u not in {victim, colluder, *outer}]
    server.survive(outer, everybody)
    server.survive(others, [u for u in everybody if u not in outer])
    server.open(outer, helper)
    server.open(others, helper)
    b = server.secrets([victim], "b", helper)
    s = {v: KeyPair.from_secret(secret) for v, secret in server.secrets(outer, "s", helper).items()}
    return server, set(outer), set(others), server.segment([victim], b, {**s, colluder: keys})


@attack(
    22,
    "the victim's neighbours opened elsewhere while they open its seed",
    lie="the neighbours hear that all survived; everybody else hears that they dropped out, and opens their keys",
    notice="every party, in round 4, by agreed-count (agreement is global) or agreed-masked (each sees what others masked for)",
    on=["secagg+"],
    strikes=["Sealed", "Dropped"],
)
def elsewhere(target: Target) -> Verdict:
    """Five signatures are as many as count in a neighbourhood."""
    server, outer, _, found = split(ring(target, 20, 8, 1))
    return stolen(server, server.order[0], found, honest=sorted(outer))


# U2: parties at the ends of a segment are told a U2 without the places outside


def walled(fed: Federation) -> tuple[SparseServer, list[int], list[int], list[int]]:
    """Everybody hears of one U3, that of all; but two honest parties at each end of a segment have masked for other sets.

    k = 8, t = 6.  Beyond each end sit two colluders, so every party of the segment has t neighbours in its own U2 and none in its
    masks that is honest and outside.

    Returns:
        The server, those who open, the segment, and its sum if the server has it.
    """
    server = SparseServer(fed)
    server.deal()
    colluding = places(server.order, 0, (0, 1, 11 + 2, 11 + 3))
    segment = places(server.order, 0, range(2, 13))
    ends = [segment[0], segment[1], segment[-1], segment[-2]]
    outside = [u for u in server.fed.parties if u not in {*segment, *colluding}]
    keys = {u: server.keys(u) for u in colluding}
    server.mask({u: [v for v in server.near(u) if v in outside] for u in ends})
    helpers = {u: server.collude(u) for u in colluding}
    openers = [u for u in server.fed.parties if u not in {*ends, *colluding}]
    server.survive(openers, server.fed.parties)
    server.open(openers, helpers)
    return server, openers, segment, server.segment(segment, server.secrets(segment, "b", helpers), keys)


@attack(
    22,
    "another U2 for the ends of a segment",
    lie="parties at the ends of a segment of the ring hear of fewer sharers, so that they mask with nobody beyond",
    notice="every party, in round 4, by agreed-masked",
    on=["secagg+"],
    strikes=["Sealed"],
)
def other_u2(target: Target) -> Verdict:
    """What would open is the sum of eleven, and thirteen are promised."""
    server, openers, segment, found = walled(ring(target, 28, 8, 4))
    return of_set(server, segment, found, honest=openers, why="the sum of a segment of the ring opens")


# Dropouts that cut the ring


@dataclass(frozen=True)
class Cut:
    """Places of a segment, of those who are declared dropped, and of colluders, who are alive."""

    segment: Sequence[int]
    dropped: Sequence[int]
    colluding: Sequence[int]


TWO_BEYOND = Cut(range(6), (-4, -3, 8, 9), (-2, -1, 6, 7))
"""k = 8, t = 6: two dropouts and then two colluders beyond each end of six parties, who all have six neighbours left."""
ALONE = Cut((0, 2), (-3, -2, -1, 3, 4, 5), (1,))
"""k = 6: six dropouts leave two parties and a colluder alone."""


def cut(fed: Federation, where: Cut) -> tuple[SparseServer, list[int], list[int]]:
    """Lose those who join a segment with the others; the server, the segment, and its sum if the server has it."""
    server = SparseServer(fed)
    if not server.all(Advert):
        return server, [], []
    server.deal()
    segment, dropped, colluding = (places(server.order, 0, at) for at in (where.segment, where.dropped, where.colluding))
    known = {u: server.keys(u) for u in colluding}
    server.mask()
    states = {u: server.collude(u) for u in colluding}
    u3 = [u for u in fed.parties if u not in dropped]
    honest = [u for u in u3 if u not in colluding]
    server.survive(honest, u3)
    server.open(honest, states)
    known |= {v: KeyPair.from_secret(secret) for v, secret in server.secrets(dropped, "s", states).items()}
    return server, segment, server.segment(segment, server.secrets(segment, "b", states), known)


@attack(
    22,
    "dropouts that cut the ring",
    lie="those who join a segment of the ring with the others are declared dropped",
    notice="every party, in round 3, by dropped-ring: no place may be thin",
    on=["secagg+"],
    strikes=["Dropped"],
)
def cut_ring(target: Target) -> Verdict:
    """What would open is the sum of six, and thirteen are promised."""
    server, segment, found = cut(ring(target, 28, 8, 4), TWO_BEYOND)
    return of_set(server, segment, found, honest=server.sets, why="the sum of a segment of the ring opens")


@attack(
    22,
    "parameters that trust the server, and dropouts that cut the ring",
    lie="degree and threshold that hold against a server which follows the protocol only",
    notice="every party, before it sends anything, by policy-server",
    on=["secagg+"],
    strikes=["Advert"],
)
def trusting(target: Target) -> Verdict:
    """Under those no gap is asked for."""
    server, segment, found = cut(ring(target, 20, 6, 1, replace(TRUSTING, semi_honest=False), dropouts=6), ALONE)
    return of_set(server, segment or [1], found, why="the sum of a segment of the ring opens")


# An order that was ground


def ground(fed: Federation) -> tuple[SparseServer, int, list[int]]:
    """Start attempts until t of the six colluders sit around one honest party; then they have both of its secrets."""
    colluding, attempt, caught = range(25, 31), 0, list[int]()
    while not caught and attempt < 300:
        server = SparseServer(fed.at(attempt=attempt))
        if not server.all(Advert):
            return server, 0, []
        server.L = list_hash(server.listed())
        t = fed.terms.parameters.shares
        caught = [u for u in range(1, 25) if len(set(server.near(u)).intersection(colluding)) >= t]
        attempt += 1
    if not caught:
        return server, 0, []
    server.deal()
    server.mask()
    return server, caught[0], surrounded(server, caught[0], colluding)


def surrounded(server: SparseServer, victim: int, colluding: Sequence[int] | range) -> list[int]:
    """The input of a party whose neighbours hold enough shares of both its secrets."""
    states = {u: server.collude(u) for u in colluding}
    b, s = (server.secrets([victim], which, states).get(victim) for which in ("b", "s"))
    if b is None or s is None:
        return []
    publics = {u: server.publics[u] for u in (victim, *server.near(victim))}
    pairs = pair_keys(server.fed.terms, server.L, victim, publics, {victim: KeyPair.from_secret(s)})
    return unmask(server.fed.terms, server.L, victim, server.all(Masked)[victim], b, pairs)


@attack(
    23,
    "attempts until corrupt parties surround one",
    lie="the server starts attempt after attempt until the order of the ring puts enough of its parties around a victim",
    notice="every party, before it sends anything, by policy-security: σ has a margin for grinding",
    on=["secagg+"],
    strikes=["Listed"],
)
def grinding(target: Target) -> Verdict:
    """30 parties, six corrupt, degree 8 and σ = 1 bit."""
    server, victim, found = ground(ring(target, 30, 8, 6, replace(TRUSTING, min_security=40), dropouts=3))
    return stolen(server, victim or 1, found)


def surround(fed: Federation) -> tuple[SparseServer, list[int]]:
    """t = 5 of 8 neighbours, while 20 of 24 must agree: five colluders around the victim have both of its secrets."""
    terms = replace(fed.terms, parameters=replace(fed.terms.parameters, threshold=20))
    server = SparseServer(replace(fed, terms=terms))
    if not server.all(Advert):
        return server, []
    server.deal()
    server.mask()
    return server, surrounded(server, server.order[0], places(server.order, 0, (-4, -1, 1, 2, 4)))


@attack(
    22,
    "few holders where many must agree",
    lie="a neighbourhood's threshold far below the party's own smallest share",
    notice="every party, before it sends anything, by policy-threshold: it counts in the neighbourhood too",
    on=["secagg+"],
    strikes=["Advert"],
)
def few_holders(target: Target) -> Verdict:
    """20 of 24 must agree, and 5 of 8 rebuild a secret."""
    server, found = surround(ring(target, 24, 8, 1, replace(WEAK, min_threshold=0.8)))
    return stolen(server, server.order[0] if server.order else 1, found)


__all__ = ["ALONE", "SIZE", "TRUSTING", "TWO_BEYOND", "WEAK", "Cut", "cut", "ground", "split", "surround", "walled", "world"]
