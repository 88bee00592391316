"""SecAgg+ against the reference, bit by bit, and the checks that a sparse graph adds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from adversary import LyingServer, ending, faults, federation, run
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SEEDS, Case, play, wire_of

from protocols import reference, secagg, simulate, sums
from protocols.agreement import Agreed, Covering, Dropped, check_coverings, masked_statement
from protocols.errors import Misuse, Refused
from protocols.once import shared_work
from protocols.policy import Policy
from protocols.primitives.graph import Complete, Harary
from protocols.primitives.shamir import SHARE_SIZE
from protocols.ring import Ring
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import BOX, PINS, Boxes, Openings
from protocols.session import SERVER, Letter, client
from protocols.suite import Terms
from protocols.sums import secure_sum

SCHEME = sums.scheme("secagg+")
TRUSTING = Policy(min_corrupt=0, min_threshold=0.1, min_security=1, semi_honest=True)


def sparse(n: int, size: int, corrupt: int, dropouts: int, *, security: int = 10, semi_honest: bool = False) -> Parameters:
    return Parameters.sparse(n, size, 1000, corrupt=corrupt, dropouts=dropouts, security=security, semi_honest=semi_honest)


@st.composite
def sparse_cases(draw: st.DrawFn) -> Case:
    """Small rings, whose security is low, so that neighbourhoods run short and thin places happen."""
    n, trusted = draw(st.integers(10, 16)), draw(st.booleans())
    corrupt, lost = draw(st.integers(0, 1)), draw(st.integers(0, 2))
    try:
        p = sparse(n, draw(st.integers(1, 5)), corrupt, lost, security=draw(st.integers(1, 4)), semi_honest=trusted)
    except Misuse:
        p = sparse(16, 2, 0, 1, security=1)
    n = p.parties
    gone = draw(st.lists(st.integers(1, n), unique=True, max_size=n - p.threshold + 1))
    stages = {u: draw(st.sampled_from(reference.SECAGG_STAGES)) for u in gone}
    inputs = {u: draw(st.lists(st.integers(-1000, 1000), min_size=p.size, max_size=p.size)) for u in range(1, n + 1)}
    return Case(p, inputs, stages, draw(SEEDS))


@given(sparse_cases())
@settings(max_examples=80, deadline=None)
def test_the_flow_is_the_reference_bit_by_bit(case: Case) -> None:
    agrees_with_reference(case)


def agrees_with_reference(case: Case) -> reference.Transcript:
    expected, got = case.reference(), play(case, protocol="secagg+", policy=TRUSTING)
    said = {key: data for key, data in got.wire.items() if key[0] != "Farewell"}
    assert said == wire_of(expected, case.limits)
    if expected.total is None:
        assert got.total is None
        assert got.outcome.abort is not None
        assert got.outcome.abort.step == expected.aborted
    else:
        assert got.total is not None
        assert got.total.values.tolist() == list(expected.total) == case.sum_over(expected.survivors)
    noted = {fault.check for s in got.outcome.sessions.values() for fault in s.faults if s.me != SERVER}
    assert noted <= {"listed-neighbours", "sealed-neighbours", "dropped-neighbours"}
    return expected


@pytest.mark.parametrize(
    ("stage", "ends"),
    [("Advert", {None, "survey"}), ("Boxes", {None, "survey", "reveal"}), ("Masked", {None, "survey", "reveal"})],
)
def test_where_the_ring_gets_thin_flow_and_reference_lose_the_same_parties(stage: str, ends: set[str | None]) -> None:
    """Two of eleven vanish: who has too few neighbours left goes too, which a sum survives, or ends the run then or later."""
    p = Parameters(11, 1, 1000, Ring(15), 6, 0, Harary(11, 4, 3, 1, 0))
    pairs = [dict.fromkeys((1 + u, 1 + (u + 1) % 11), stage) for u in range(11)]
    assert {agrees_with_reference(Case(p, {v: [v - 5] for v in range(1, 12)}, gone)).aborted for gone in pairs} == ends


def test_a_dealer_of_whom_too_few_open_a_share_is_an_abort() -> None:
    """So many neighbours of one party leave that too few of its shares are opened, though threshold parties are left."""
    p = Parameters(11, 1, 1000, Ring(15), 6, 0, Harary(11, 4, 3, 1, 0))
    cases = (Case(p, {u: [0] for u in range(1, 12)}, {1: "Advert", v: "Boxes"}) for v in range(2, 12))
    case = next(case for case in cases if case.reference().aborted == "reveal")  # the order on the ring says whose neighbours go
    got = play(case, protocol="secagg+", policy=TRUSTING)
    assert got.outcome.abort is not None
    assert (got.outcome.abort.step, got.outcome.abort.check) == ("reveal", "openings-few")
    assert re.fullmatch(r"[12] shares of party \d+'s secret where 3 are needed", got.outcome.abort.detail)


def test_the_cases_reach_sums_and_every_kind_of_abort() -> None:
    """The property above is not about aborts only: what a fixed hundred of its cases come to."""
    ends = set[Any]()
    p = sparse(16, 2, 0, 1, security=1)
    for seed in range(120):
        gone = {1 + (seed * 7 + i * 5) % 16: reference.SECAGG_STAGES[(seed + i) % 5] for i in range(seed % 8)}
        ends.add(Case(p, {u: [u, -u] for u in range(1, 17)}, gone, seed).reference().aborted)
    assert {None, "reveal"} <= ends


def test_the_graph_is_sparse_and_t_counts_a_neighbourhood() -> None:
    p = sparse(40, 3, 2, 4)
    assert isinstance(p.graph, Harary)
    assert p.graph.degree < 39
    assert p.shares == p.graph.threshold < p.threshold
    assert 2 * p.threshold > 40 + 2
    case = Case(p, {u: [u, 2 * u, -u] for u in range(1, 41)})
    got = play(case, protocol="secagg+", policy=TRUSTING)
    boxes = [letter.message for letter in got.letters if isinstance(letter.message, Boxes)]
    assert {(len(message.boxes), len(message.hashes)) for message in boxes} == {(BOX * p.graph.degree, PINS * p.graph.degree)}
    assert {message.own_hash for message in boxes} == {b""}
    opened = [letter.message for letter in got.letters if isinstance(letter.message, Openings)]
    assert {len(message.shares) for message in opened} == {SHARE_SIZE * p.graph.degree}
    assert got.total is not None
    assert got.total.values.tolist() == case.sum_over(range(1, 41))


def test_secagg_takes_the_sparse_graph_where_it_is_cheaper() -> None:
    assert isinstance(sums.scheme("secagg").parameters(1000, 1, 1, corrupt=100).graph, Harary)  # type: ignore[attr-defined]
    assert isinstance(sums.scheme("secagg").parameters(63, 1, 1, corrupt=1).graph, Complete)  # type: ignore[attr-defined]
    assert isinstance(sums.scheme("secagg").parameters(100, 1, 1).graph, Complete)  # type: ignore[attr-defined]
    assert isinstance(sums.scheme("secagg").parameters(1000, 1, 1, threshold=700).graph, Complete)  # type: ignore[attr-defined]
    for n, kind in ((5, Complete), (14, Complete), (63, Complete), (64, Harary)):
        assert isinstance(sums.scheme("secagg+").parameters(n, 1, 1).graph, kind)  # type: ignore[attr-defined]
    assert isinstance(sums.scheme("secagg+").parameters(80, 1, 1, corrupt=70).graph, Complete)  # type: ignore[attr-defined]
    assert secure_sum([[u] for u in range(1, 6)], max_abs=9, protocol="secagg+").values.tolist() == [15]


def test_the_graph_that_was_taken_is_said_in_words() -> None:
    for name, n, says in (
        ("secagg", 399, "secagg takes the sparse graph for 399 parties: each masks with 194 others, 154 of whom rebuild a secret"),
        ("secagg+", 64, "secagg+ takes the sparse graph for 64 parties: each masks with 56 others"),
        ("secagg+", 6, "secagg+ takes the complete graph for 6 parties"),
        ("secagg", 64, ""),
        ("plain-insecure", 64, ""),
        ("lightsecagg", 64, ""),
    ):
        line = sums.notice(name, sums.scheme(name).parameters(n, 1, 1))
        assert line.startswith(says)
        assert bool(line) == bool(says)


def test_among_few_parties_secagg_plus_survives_as_many_dropouts_as_secagg() -> None:
    """A sparse graph of 14 parties would have 12 neighbours each, and stand one dropout."""
    lost = dict.fromkeys((2, 5, 9, 12), "Masked")
    assert secure_sum([[u] for u in range(1, 15)], max_abs=14, protocol="secagg+", dropouts=lost).contributors == 10


def test_parameters_that_break_a_bound_are_refused() -> None:
    good = sparse(40, 3, 2, 4, security=40)
    assert isinstance(good.graph, Harary)
    for graph in (
        replace(good.graph, threshold=2),
        replace(good.graph, degree=4, threshold=4, gap=1),
        replace(good.graph, parties=41),
    ):
        with pytest.raises(Misuse):
            replace(good, graph=graph)
    with pytest.raises(Misuse, match=r"2t > n \+ \|C\|"):
        replace(good, threshold=20)
    with pytest.raises(Misuse):
        Parameters(40, 3, 1000, Ring(20), 30, 20, good.graph)
    with pytest.raises(Misuse, match="graph of type Star"):
        replace(good, graph=Star())  # type: ignore[arg-type]


class Star(Complete):
    """A graph of whose safety nothing is known."""


def test_the_session_identity_holds_the_graph() -> None:
    p = sparse(40, 3, 2, 4)
    assert isinstance(p.graph, Harary)
    fed = federation(40, parameters=p, scheme=SCHEME)
    for graph in (replace(p.graph, security=9), replace(p.graph, threshold=p.graph.threshold + 1), Complete()):
        assert replace(fed.terms, parameters=replace(p, graph=graph)).sid != fed.terms.sid


# Checks


def fed(n: int = 24, **more: Any) -> Any:
    return federation(n, 2, parameters=sparse(n, 2, 1, 2, security=4, **more), scheme=SCHEME).with_policy(TRUSTING)


def test_less_security_than_the_own_policy_asks_for_is_refused_before_anything_leaves() -> None:
    for policy, check in (
        (Policy(min_corrupt=0), "policy-security"),
        (Policy(min_corrupt=0, min_security=1, semi_honest=False), "policy-server"),
    ):
        asked = fed(semi_honest=check == "policy-server").with_policy(policy)
        session = asked.session(1)
        letters = session.begin()
        assert ending(session) == (check, "advertise")
        assert [type(letter.message).__name__ for letter in letters] == ["Farewell"]


def neighbours(terms: Terms, L: bytes, u: int) -> Sequence[int]:
    return secagg.holders_of(terms, L, u, terms.roster.indexes)


def test_a_party_with_too_few_neighbours_leaves_in_every_round() -> None:
    """The server keeps the victim's neighbours from each list in turn, others are enough in number."""
    for stage, check in (("sealed", "sealed-neighbours"), ("dropped", "dropped-neighbours")):
        world = fed()
        server = LyingServer(world)
        L = secagg.list_hash(server.up_to_boxes())
        near = neighbours(world.terms, L, 1)
        most = world.terms.parameters.parties - world.terms.parameters.threshold
        away = set(near[: min(most, len(near) - world.terms.parameters.shares + 1)])
        assert len(set(near) - away) < world.terms.parameters.shares
        left = [u for u in world.parties if u not in away]
        if stage == "sealed":
            server.tell(1, server.sealed(1, left))
        else:
            server.tell(1, server.sealed(1, list(world.parties)))
            server.tell(1, Dropped(tuple(sorted(away))))
        assert ending(server.sessions[1]) is not None
        assert ending(server.sessions[1])[0] == check  # type: ignore[index]


def test_a_list_without_enough_neighbours_is_refused() -> None:
    """Which ring a list gives is known only with the list: the server tries lists until one leaves the victim alone."""
    world = fed()
    p = world.terms.parameters
    for seed in range(400):
        server = LyingServer(world.at(attempt=seed))
        gone = {2 + (seed * 3 + i) % (p.parties - 1) for i in range(p.parties - p.threshold)}
        listed = server.listed([u for u in world.parties if u not in gone])
        L = secagg.list_hash(listed)
        if len(secagg.holders_of(server.fed.terms, L, 1, [e.index for e in listed.entries])) < p.shares:
            server.tell(1, listed)
            assert ending(server.sessions[1]) == ("listed-neighbours", "share")
            return
    raise AssertionError("no list was found")


def test_a_set_of_survivors_with_a_thin_place_is_not_signed() -> None:
    world = fed()
    server = LyingServer(world)
    L = secagg.list_hash(server.up_to_boxes())
    for u in world.parties:
        server.tell(u, server.sealed(u))
    graph, seed = world.terms.parameters.graph, world.terms.sid + L
    order = [int(u) + 1 for u in _ring(graph.parties, seed)]
    cut = order[1 : 1 + graph.parties - world.terms.parameters.threshold]
    assert graph.thin_place([u for u in order if u not in cut], seed) == order[0]
    far = order[len(order) // 2 + len(cut) // 2]
    server.tell(far, Dropped(tuple(sorted(cut))))
    assert ending(server.sessions[far]) in (("dropped-ring", "consent"), ("dropped-neighbours", "consent"))
    server.sessions.pop(far)


def test_the_server_ends_a_round_whose_survivors_left_a_thin_place() -> None:
    """As they would all refuse to sign, it says so itself, by the name of the check."""
    world = fed()
    seed = world.terms.sid + secagg.list_hash(LyingServer(world).up_to_boxes())
    graph, most = world.terms.parameters.graph, world.terms.parameters.parties - world.terms.parameters.threshold
    order = [int(u) + 1 for u in _ring(graph.parties, seed)]
    gone = order[1 : 1 + most]
    assert graph.thin_place([u for u in order if u not in gone], seed) == order[0]
    outcome = run(world, network=simulate.vanish({client(u): "Masked" for u in gone}))
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("dropped-ring", "survey")
    assert f"after party {order[0]} " in outcome.abort.detail


def _ring(parties: int, seed: bytes) -> Any:
    from protocols.primitives.graph import ring_order

    return ring_order(parties, seed)[0]


def bent(change: Any) -> simulate.Network:
    """A network that changes the round-3 list for party 1."""

    def network(letter: Letter) -> list[Letter]:
        if not isinstance(letter.message, Agreed):
            return [letter]
        others = tuple(to for to in letter.to if to != client(1))
        return [replace(letter, to=others), replace(letter, to=(client(1),), message=change(letter.message))]

    return network


def test_what_the_survivors_masked_for_is_shown_to_everybody() -> None:
    def without_one(message: Agreed) -> Agreed:
        return replace(message, coverings=message.coverings[1:])

    def other_vector(message: Agreed) -> Agreed:
        first, *rest = message.coverings
        return replace(message, coverings=(Covering(bytes(32), first.receipt, first.signature), *rest))

    def other_receipt(message: Agreed) -> Agreed:
        first, *rest = message.coverings
        return replace(message, coverings=(Covering(first.vector, bytes(32), first.signature), *rest))

    for change, check in ((without_one, "agreed-coverings"), (other_vector, "agreed-masked"), (other_receipt, "agreed-masked")):
        sessions: dict[Any, Any] = {}
        outcome = run(fed(), network=bent(change), sessions=sessions)
        assert ending(sessions[client(1)]) == (check, "open_shares")
        assert outcome.abort is None


def test_what_was_found_good_vouches_for_no_other_session_list_or_set() -> None:
    """Parties of one process that share their work: each holds what is shown to it to its own view."""
    world = fed()
    terms, L, u2, u3 = world.terms, bytes(32), tuple(world.parties), tuple(world.parties)[:-2]

    def covering(u: int) -> Covering:
        vector, receipt = bytes(32), bytes(32)
        signature = world.parties[u].identity.sign(masked_statement(terms, u, L, u2, vector, receipt))
        return Covering(vector, receipt, signature)

    shown = tuple(map(covering, u3))
    with shared_work():
        check_coverings(terms, L, u2, u3, shown)
        for view in (
            (world.at(attempt=1).terms, L, u2, u3),
            (terms, b"\1" * 32, u2, u3),
            (terms, L, u2[:-1], u3),
            (terms, L, u2, (*u3[:-1], u2[-1])),
        ):
            with pytest.raises(Refused) as told:
                check_coverings(*view, shown)
            assert told.value.check == "agreed-masked"


def test_nothing_is_shown_of_round_2_on_the_complete_graph() -> None:
    def more(message: Agreed) -> Agreed:
        return replace(message, coverings=(Covering(bytes(32), bytes(32), bytes(64)),))

    sessions: dict[Any, Any] = {}
    run(federation(6), network=bent(more), sessions=sessions)
    assert ending(sessions[client(1)]) == ("agreed-coverings", "open_shares")


def test_fewer_signatures_than_half_of_all_and_the_corrupt_are_not_enough() -> None:
    """t counts neighbours; who must agree counts everybody."""
    world = fed()
    p = world.terms.parameters

    def few(message: Agreed) -> Agreed:
        return replace(message, signatures=message.signatures[: p.shares + 1])

    assert p.shares + 1 < p.threshold
    sessions: dict[Any, Any] = {}
    run(world, network=bent(few), sessions=sessions)
    assert ending(sessions[client(1)]) == ("agreed-count", "open_shares")


def test_a_hash_of_an_own_share_where_none_is_kept_expels() -> None:
    world = fed()

    def network(letter: Letter) -> list[Letter]:
        if isinstance(letter.message, Boxes) and letter.sender == client(2):
            return [replace(letter, message=replace(letter.message, own_hash=bytes(32)))]
        return [letter]

    outcome = run(world, network=network)
    assert ("boxes-own", "client 2", "relay") in faults(outcome)
    assert outcome.abort is None


def test_too_few_openers_of_one_neighbourhood_abort_the_round() -> None:
    world = fed()
    terms = world.terms
    told: list[int] = []

    def network(letter: Letter) -> list[Letter]:
        if isinstance(letter.message, Openings):
            if not told:
                told.extend(_near(world, terms))
            return [] if letter.sender.index in told else [letter]
        return [letter]

    def _near(world: Any, terms: Terms) -> list[int]:
        state = next(s for s in sessions[SERVER].remembers if hasattr(s, "summing"))
        near = neighbours(terms, state.summing.L, 1)
        return list(near[: len(near) - terms.parameters.shares + 1])

    sessions: dict[Any, Any] = {}
    outcome = run(world, network=network, sessions=sessions)
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) in (("openings-few", "reveal"), ("quorum", "reveal"))
