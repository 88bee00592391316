"""A cheating server on the sparse graph: split views, a ring that is cut, an order that was ground.

Every attack is refused by a named check; with that taken out, the attack recovers the victim's input, or the sum of a segment of
the ring that nobody agreed to open.  The rings are small and σ is 1 bit: whoever colludes sits where the attack wants it, but in no
place more of them than the parameters stand (but where the order is ground), so that it is the named check that holds.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from adversary import Federation, run, without_check
from sparse_server import TRUSTING, WEAK, SparseServer, endings, places, world

from protocols.agreement import Agree
from protocols.secagg_types import Advert, Openings, Shared
from securefl.audit.attacks import sparse
from securefl.audit.attacks.sparse import TWO_BEYOND, Cut


def split() -> tuple[SparseServer, set[int], set[int], list[int]]:
    server, outer, others, stolen = sparse.split(world(20, 8, 1))
    assert server.within_bounds([server.order[-1]])
    return server, outer, others, stolen


def walled() -> tuple[SparseServer, list[int], list[int], list[int]]:
    server, openers, segment, stolen = sparse.walled(world(28, 8, 4))
    assert server.within_bounds(places(server.order, 0, (0, 1, 13, 14)))
    return server, openers, segment, stolen


def cut(fed: Federation, where: Cut) -> tuple[SparseServer, list[int], list[int]]:
    server, segment, stolen = sparse.cut(fed, where)
    assert server.within_bounds(places(server.order, 0, where.colluding))
    return server, segment, stolen


# --- views: the victim's neighbours are opened elsewhere while they open the victim's seed


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


def test_an_order_that_can_be_ground_is_refused() -> None:
    server, _, stolen = sparse.ground(world(30, 8, 6, replace(TRUSTING, min_security=40), dropouts=3))
    assert endings(server, server.sessions) == {("policy-security", "advertise")}
    assert stolen == []


def test_control_with_few_bits_of_security_the_server_grinds_until_its_parties_surround_the_victim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_check(monkeypatch, "policy-security")
    server, victim, stolen = sparse.ground(world(30, 8, 6, replace(TRUSTING, min_security=40), dropouts=3))
    assert stolen == server.fed.vectors[victim].tolist()


# --- a threshold of the neighbourhood that is lower than the party's own


def test_the_own_smallest_threshold_counts_in_the_neighbourhood_too() -> None:
    server, stolen = sparse.surround(world(24, 8, 1, replace(WEAK, min_threshold=0.8)))
    assert endings(server, server.sessions) == {("policy-threshold", "advertise")}
    assert stolen == []


def test_control_with_the_threshold_of_the_agreement_alone_a_neighbourhood_opens_both_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the complete graph 20 of 24 would be needed; here five are."""
    without_check(monkeypatch, "policy-threshold")
    server, stolen = sparse.surround(world(24, 8, 1, replace(WEAK, min_threshold=0.8)))
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
