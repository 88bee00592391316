"""A cheating server on the sparse graph: split views, a ring that is cut, an order that was ground.

Every attack is refused by a named check; with that taken out, the attack recovers the victim's input, or the sum of a segment of
the ring that nobody agreed to open.  The rings are small and σ is 1 bit: whoever colludes sits where the attack wants it, but in no
place more of them than the parameters stand (but where the order is ground), so that it is the named check that holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from adversary import Federation, LyingServer, pair_keys, run, unmask, without_check
from sparse_server import TRUSTING, WEAK, SparseServer, endings, places, world

from protocols import secagg
from protocols.agreement import Agree
from protocols.policy import Policy
from protocols.primitives.agree import KeyPair
from protocols.secagg_types import Advert, Masked, Openings, Shared

# --- views: the victim's neighbours are opened elsewhere while they open the victim's seed


def split() -> tuple[SparseServer, set[int], set[int], list[int]]:
    """Tell the victim's neighbours that all survived, and their neighbours that they did not.

    k = 8, t = 5, the neighbour before the victim colludes.  The victim is shown the four outermost neighbours and the colluder;
    these four hear that everybody survived, and open the victim's b.  Everybody else hears that they dropped out, and opens their
    s_sk.

    Returns:
        The server, both groups, and the input of the victim if the server has it.
    """
    server = SparseServer(world(20, 8, 1))
    server.deal()
    victim, colluder = places(server.order, 0, (0, -1))
    outer, inner = places(server.order, 0, (-4, -3, 3, 4)), places(server.order, 0, (-2, 1, 2))
    keys, everybody = server.keys(colluder), tuple(server.fed.parties)
    assert server.within_bounds([colluder])
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


def test_neighbours_opened_elsewhere_are_refused_by_global_agreement_and_by_the_shown_u2() -> None:
    server, outer, others, stolen = split()
    assert server.fed.terms.parameters.shares == 5
    assert endings(server, outer) == {("agreed-count", "open_shares")}
    assert endings(server, others) == {("agreed-masked", "open_shares")}
    assert server.all(Openings) == {}
    assert stolen == []


@pytest.mark.parametrize(
    ("without", "left", "opened"),
    [("agreed-count", ("agreed-masked", "agreed-masked"), 0), ("agreed-masked", ("agreed-count", None), 14)],
)
def test_either_of_the_two_is_enough(
    monkeypatch: pytest.MonkeyPatch, without: str, left: tuple[str | None, str | None], opened: int
) -> None:
    """Five signatures, as many as t counts in the neighbourhood, and the views of the others differ in U2."""
    without_check(monkeypatch, without)
    server, outer, others, stolen = split()
    for group, check in zip((outer, others), left, strict=True):
        assert endings(server, group) == {None if check is None else (check, "open_shares")}
    assert len(server.all(Openings)) == opened
    assert stolen == []


def test_control_with_agreement_among_neighbours_only_the_victims_input_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    without_check(monkeypatch, "agreed-count", "agreed-masked")
    server, _, _, stolen = split()
    victim = server.order[0]
    assert stolen == server.fed.vectors[victim].tolist()


# --- U2: parties at the ends of a segment are told a U2 without the places outside


def walled() -> tuple[SparseServer, list[int], list[int], list[int]]:
    """Everybody hears of one U3, that of all; but two honest parties at each end of a segment have masked for other sets.

    k = 8, t = 6.  Beyond each end sit two colluders, so every party of the segment has t neighbours in its own U2 and none in its
    masks that is honest and outside.

    Returns:
        The server, those who open, the segment, and its sum if the server has it.
    """
    server = SparseServer(world(28, 8, 4))
    server.deal()
    colluding = places(server.order, 0, (0, 1, 11 + 2, 11 + 3))
    segment = places(server.order, 0, range(2, 13))
    assert server.within_bounds(colluding)
    ends = [segment[0], segment[1], segment[-1], segment[-2]]
    outside = [u for u in server.fed.parties if u not in {*segment, *colluding}]
    keys = {u: server.keys(u) for u in colluding}
    server.mask({u: [v for v in server.near(u) if v in outside] for u in ends})
    helpers = {u: server.collude(u) for u in colluding}
    openers = [u for u in server.fed.parties if u not in {*ends, *colluding}]
    server.survive(openers, server.fed.parties)
    server.open(openers, helpers)
    return server, openers, segment, server.segment(segment, server.secrets(segment, "b", helpers), keys)


def test_a_segment_that_masked_for_another_u2_is_not_opened() -> None:
    server, openers, _, stolen = walled()
    assert endings(server, openers) == {("agreed-masked", "open_shares")}
    assert server.all(Openings) == {}
    assert stolen == []


def test_control_unless_everybody_sees_each_u2_the_segments_sum_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than half of all agree on one U3 and no place is thin; what opens is the sum of eleven, and thirteen were promised."""
    without_check(monkeypatch, "agreed-masked")
    server, _, segment, stolen = walled()
    parameters = server.fed.terms.parameters
    assert len(segment) < parameters.threshold - parameters.corrupt
    assert stolen == server.fed.sum(segment)


# --- dropouts that cut the ring


@dataclass(frozen=True)
class Cut:
    """Places of a segment, of those who are declared dropped, and of colluders, who are alive."""

    segment: Sequence[int]
    dropped: Sequence[int]
    colluding: Sequence[int]


TWO_BEYOND = Cut(range(6), (-4, -3, 8, 9), (-2, -1, 6, 7))
"""k = 8, t = 6: two dropouts and then two colluders beyond each end of six parties, who all have six neighbours left."""


def cut(fed: Federation, where: Cut) -> tuple[SparseServer, list[int], list[int]]:
    """Lose those who join a segment with the others; the server, the segment, and its sum if the server has it."""
    server = SparseServer(fed)
    server.deal()
    segment, dropped, colluding = (places(server.order, 0, at) for at in (where.segment, where.dropped, where.colluding))
    assert server.within_bounds(colluding)
    known = {u: server.keys(u) for u in colluding}
    server.mask()
    states = {u: server.collude(u) for u in colluding}
    u3 = [u for u in fed.parties if u not in dropped]
    honest = [u for u in u3 if u not in colluding]
    server.survive(honest, u3)
    server.open(honest, states)
    known |= {v: KeyPair.from_secret(secret) for v, secret in server.secrets(dropped, "s", states).items()}
    return server, segment, server.segment(segment, server.secrets(segment, "b", states), known)


def test_dropouts_that_cut_the_ring_are_refused() -> None:
    server, _, stolen = cut(world(28, 8, 4), TWO_BEYOND)
    assert endings(server, server.sets) == {("dropped-ring", "consent")}
    assert server.all(Agree) == {}
    assert stolen == []


def test_control_without_the_ring_check_the_sum_of_a_segment_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """All agree on one U2 and one U3, and everybody has t neighbours; what opens is the sum of six, and thirteen were promised."""
    without_check(monkeypatch, "dropped-ring")
    server, segment, stolen = cut(world(28, 8, 4), TWO_BEYOND)
    parameters = server.fed.terms.parameters
    assert len(segment) < parameters.threshold - parameters.corrupt
    assert stolen == server.fed.sum(segment)


def test_as_many_dropouts_in_other_places_are_no_hindrance() -> None:
    """The check is on places, not on numbers; and without a cut a segment's masks stay closed."""
    server, _, stolen = cut(world(28, 8, 4), replace(TWO_BEYOND, dropped=(-7, -3, 8, 15)))
    assert endings(server, server.sets) == {None}
    assert sorted(server.all(Openings)) == sorted(server.sets)
    assert stolen == []


# --- parameters that trust the server


def test_parameters_that_trust_the_server_are_refused_unless_the_party_asked_for_them() -> None:
    server = SparseServer(world(20, 6, 1, replace(TRUSTING, semi_honest=False), dropouts=6))
    assert endings(server, server.sessions) == {("policy-server", "advertise")}
    assert server.all(Advert) == {}
    assert run(world(20, 6, 1, TRUSTING, dropouts=6)).abort is None


def test_control_with_parameters_that_trust_it_a_server_cuts_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gap is demanded then: six dropouts of its choice, as many as may be lost, leave two parties and a colluder alone."""
    without_check(monkeypatch, "policy-server")
    fed = world(20, 6, 1, replace(TRUSTING, semi_honest=False), dropouts=6)
    _, segment, stolen = cut(fed, Cut((0, 2), (-3, -2, -1, 3, 4, 5), (1,)))
    assert stolen == fed.sum(segment)


# --- an order that was ground


def ground(policy: Policy) -> tuple[LyingServer, int, list[int]]:
    """Start attempts until t of the six colluders sit around one honest party; then they have both of its secrets."""
    fed = world(30, 8, 6, policy, dropouts=3)
    colluding = range(25, 31)
    for attempt in range(300):
        server = SparseServer(fed.at(attempt=attempt))
        if not server.all(Advert):
            return server, 0, []
        server.L = secagg.list_hash(server.listed())
        caught = [u for u in range(1, 25) if len(set(server.near(u)).intersection(colluding)) >= fed.terms.parameters.shares]
        if caught:
            break
    server.deal()
    server.mask()
    states, victim = {u: server.collude(u) for u in colluding}, caught[0]
    b, s = (server.secrets([victim], which, states)[victim] for which in ("b", "s"))
    publics = {u: server.all(Advert)[u].s_pk for u in (victim, *server.near(victim))}
    pairs = pair_keys(server.fed.terms, server.L, victim, publics, {victim: KeyPair.from_secret(s)})
    return server, victim, unmask(server.fed.terms, server.L, victim, server.all(Masked)[victim], b, pairs)


def test_an_order_that_can_be_ground_is_refused() -> None:
    server, _, stolen = ground(replace(TRUSTING, min_security=40))
    assert endings(server, server.sessions) == {("policy-security", "advertise")}
    assert stolen == []


def test_control_with_few_bits_of_security_the_server_grinds_until_its_parties_surround_the_victim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_check(monkeypatch, "policy-security")
    server, victim, stolen = ground(replace(TRUSTING, min_security=40))
    assert stolen == server.fed.vectors[victim].tolist()


# --- a threshold of the neighbourhood that is lower than the party's own


def surround(policy: Policy) -> tuple[SparseServer, list[int]]:
    """t = 5 of 8 neighbours, while 20 of 24 must agree: five colluders around the victim have both of its secrets."""
    fed = world(24, 8, 1, policy)
    terms = replace(fed.terms, parameters=replace(fed.terms.parameters, threshold=20))
    server = SparseServer(replace(fed, terms=terms))
    if not server.all(Advert):
        return server, []
    server.deal()
    server.mask()
    victim = server.order[0]
    states = {u: server.collude(u) for u in places(server.order, 0, (-4, -1, 1, 2, 4))}
    b, s = (server.secrets([victim], which, states)[victim] for which in ("b", "s"))
    publics = {u: server.all(Advert)[u].s_pk for u in (victim, *server.near(victim))}
    pairs = pair_keys(terms, server.L, victim, publics, {victim: KeyPair.from_secret(s)})
    return server, unmask(terms, server.L, victim, server.all(Masked)[victim], b, pairs)


def test_the_own_smallest_threshold_counts_in_the_neighbourhood_too() -> None:
    server, stolen = surround(replace(WEAK, min_threshold=0.8))
    assert endings(server, server.sessions) == {("policy-threshold", "advertise")}
    assert stolen == []


def test_control_with_the_threshold_of_the_agreement_alone_a_neighbourhood_opens_both_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the complete graph 20 of 24 would be needed; here five are."""
    without_check(monkeypatch, "policy-threshold")
    server, stolen = surround(replace(WEAK, min_threshold=0.8))
    assert stolen == server.fed.vectors[server.order[0]].tolist()


# --- holders


def test_nobody_holds_a_share_of_its_own_secrets() -> None:
    server = SparseServer(world(20, 8, 1))
    server.deal()
    for u, session in server.sessions.items():
        (state,) = [state for state in session.remembers if isinstance(state, Shared)]
        assert state.own_share is None
        assert u not in server.near(u)
    server.mask()
    for u in server.sessions:
        assert set(server.collude(u).held) == set(server.near(u))
