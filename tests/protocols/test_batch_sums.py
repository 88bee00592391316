"""Many sums after one handshake, entered by name: who gets what, what is kept between two sums, whose randomness it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocols import batch, batch_sums, kahe_batch, kahe_types, simulate, sums
from protocols.batch_sums import Batch, Group, handshake, opened
from protocols.batch_terms import HandshakeTerms
from protocols.errors import Abort, Misuse
from protocols.kahe_parameters import KaheParameters
from protocols.policy import Policy
from protocols.rand import Entropy, Replay, fresh
from protocols.secagg_parameters import Parameters
from protocols.session import SERVER, Address, client
from protocols.suite import Occasion, Terms
from protocols.vector import Vector

N, STEPS = 4, 3
OCCASION = Occasion("many", 5)
HASH = bytes(range(32))


def setting(name: str = "secagg", policy: Policy | None = None) -> tuple[Batch, list[sums.Party], HandshakeTerms[Parameters]]:
    made = batch_sums.batch(name)
    roster, parties = sums.enrol(N, policy=policy, entropy=Replay("keys"))
    return made, parties, made.terms(OCCASION, roster, made.scheme.parameters(N, 2, 100), STEPS)


def inputs(step: int = 0) -> dict[int, Vector]:
    return {u: Vector(np.array([u, -step])) for u in range(1, N + 1)}


def seeded(seed: str) -> Any:
    return lambda address: Replay(f"{seed} {address}")


def test_protocols_for_many_sums_by_name() -> None:
    assert batch_sums.NAMES == ("secagg", "secagg+", "kahe")
    for name in batch_sums.NAMES:
        made = batch_sums.batch(name)
        assert (made.scheme, made.handshake) == (sums.scheme(name), batch.handshake)
        assert made.steps is (kahe_batch.steps if name == "kahe" else batch.steps)
        p: Any = made.scheme.parameters(N, 2, 100)
        assert made.whole(made.masked(p)) == p
        assert made.masked(p) == (kahe_types.KeyParameters.within(p) if name == "kahe" else p)
    for name in ("lightsecagg", "plain-insecure", "bfv"):
        with pytest.raises(Misuse, match=rf"{name} has no handshake for many sums: take one of secagg, secagg\+, kahe$"):
            batch_sums.batch(name)


@pytest.mark.parametrize("name", batch_sums.NAMES)
def test_terms_and_sizes_are_those_of_the_sums(name: str) -> None:
    made, _, terms = setting(name)
    p: Any = made.scheme.parameters(N, 2, 100)
    assert (terms.suite, terms.occasion, terms.steps) == (made.scheme.suite(p), OCCASION, STEPS)
    limits = made.limits(terms)
    assert (limits.parties, limits.vectors, limits.steps) == (N, made.scheme.layouts(p), STEPS)
    assert isinstance(p, KaheParameters) == (name == "kahe")


@pytest.mark.parametrize("name", ["secagg", "kahe"])
def test_sums_follow_each_other_with_those_who_are_left(name: str) -> None:
    made, parties, terms = setting(name)
    group = handshake(made, parties, terms)
    assert (group.made, sorted(group.parties), sorted(group.ready)) == (made, [1, 2, 3, 4], [1, 2, 3, 4])
    masked = "Enciphered" if name == "kahe" else "Masked"
    for step, lost in enumerate(({}, {client(2): masked}, {})):
        total = opened(group.step(inputs(step), HASH, network=simulate.vanish(lost)))
        left = [1, 2, 3, 4] if step == 0 else [1, 3, 4]
        assert (total.values.tolist(), total.contributors) == ([sum(left), -step * len(left)], len(left))
        assert sorted(group.ready) == left
        assert group.server is not None
        assert group.server.step == step + 1
        assert {group.party(u).standing.step for u in left} == {step + 1}
    with pytest.raises(Misuse):
        group.step(inputs())


def test_a_party_s_bounds_and_journal_hold_in_the_handshake_and_after_it() -> None:
    made, parties, terms = setting(policy=Policy(min_cohort=N + 1))
    with pytest.raises(Abort, match="policy-cohort"):
        handshake(made, parties, terms)
    made, parties, terms = setting()
    group = handshake(made, parties, terms)
    journals: list[Any] = [party.journal for party in parties]
    assert [journal.joined for journal in journals] == [{"many": (5, 0)}] * N
    again = batch_sums.client_handshake(made, parties[0], terms)
    again.begin()
    assert again.ended is not None
    assert again.ended.check == "journal-replay"
    opened(group.step(inputs(), HASH))
    assert [journal.spent for journal in journals] == [{"many": 5}] * N
    journals[0].spent["many"] = 6  # by another session: the next sum is not this party's any more
    late = group.sessions(HASH)[client(1)]
    late.begin()
    if late.ended is None:
        late.provide(inputs()[1])
    assert late.ended is not None
    assert late.ended.check == "journal-spent"


def test_sessions_are_those_of_their_addresses() -> None:
    made, parties, terms = setting()
    group = handshake(made, parties, terms)
    sessions = group.sessions(HASH)
    _, parties, terms = setting()
    assert list(sessions) == [SERVER, *map(client, range(1, N + 1))]
    starts = {SERVER: batch_sums.server_handshake(made, terms)}
    starts |= {client(p.index): batch_sums.client_handshake(made, p, terms) for p in parties}
    for me, session in (*sessions.items(), *starts.items()):
        assert session.me == me
        assert (session.limits.parties, session.limits.steps) == (N, STEPS)
        assert session.flow is (made.steps if session in sessions.values() else made.handshake)
        session.begin()
        heard, stranger = (client(3), client(N + 1)) if me == SERVER else (SERVER, client(3))
        for sender in (stranger, heard):
            session.feed(sender, b"\xff" * 8)
        assert [fault.check for fault in session.faults] == ["wire-stranger", "wire-bound"]
    other = dict.fromkeys((SERVER, client(2)), sums.SCHEMES["plain-insecure"].flow)
    assert group.sessions(HASH, other)[client(1)].flow is made.steps
    for me, flow in other.items():
        assert group.sessions(HASH, other)[me].flow is flow
    flow = other[SERVER]
    assert batch_sums.server_handshake(made, terms, flow=flow).flow is flow
    assert batch_sums.client_handshake(made, parties[0], terms, flow=flow).flow is flow


def test_who_is_lost_gives_no_input_and_gets_no_session() -> None:
    made, parties, terms = setting()
    group = handshake(made, parties[:3], terms)
    assert (sorted(group.parties), sorted(group.ready)) == ([1, 2, 3], [1, 2, 3])
    assert sorted(group.sessions(HASH)) == sorted([SERVER, client(1), client(2), client(3)])
    assert opened(group.step(inputs(), HASH)).values.tolist() == [6, 0]
    with pytest.raises(KeyError):
        group.party(4)


def test_after_an_abort_nothing_follows_and_too_few_make_no_group() -> None:
    made, parties, terms = setting()
    group = handshake(made, parties, terms)
    outcome = group.step(inputs(), HASH, network=simulate.vanish(dict.fromkeys(map(client, (1, 2, 3)), "Masked")))
    with pytest.raises(Abort, match="quorum"):
        opened(outcome)
    assert group.server is None
    with pytest.raises(Misuse, match="was aborted: no other follows"):
        group.step(inputs(), HASH)
    made, parties, terms = setting()
    with pytest.raises(Abort, match="quorum"):
        handshake(made, parties, terms, network=simulate.vanish(dict.fromkeys(map(client, (1, 2, 3)), "BatchAdvert")))


def told(seed: str, model: bytes) -> list[list[bytes]]:
    """Every byte of a handshake and two sums."""
    made, parties, terms = setting()
    seen: list[list[bytes]] = [[], []]

    def watch(letter: Any, to: Address, size: int) -> None:
        seen[1 if seen[0] and begun else 0].append(b"".join(letter.chunks()))

    begun = False
    group = handshake(made, parties, terms, entropy=seeded(seed), watch=watch)
    begun = True
    for step in range(2):
        opened(group.step(inputs(step), model, watch=watch))
    assert len(seen[0]) == len(set(seen[0])) + N - 1  # nobody says what another says; one message goes to all
    return seen


def test_all_bytes_follow_from_what_everybody_draws_from_and_the_model() -> None:
    one = told("a", HASH)
    assert told("a", HASH) == one
    other = told("a", bytes(32))
    assert (other[0], other[1] == one[1]) == (one[0], False)
    assert told("b", HASH)[0] != one[0]


def test_everybody_draws_from_a_source_of_their_own() -> None:
    asked = list[Address]()

    def entropy(address: Address) -> Entropy:
        asked.append(address)
        return fresh

    made, parties, terms = setting()
    all_of_them = [SERVER, *map(client, range(1, N + 1))]
    group = handshake(made, parties, terms, entropy=entropy)
    assert asked == all_of_them
    opened(group.step(inputs(), HASH))
    assert asked == 2 * all_of_them


def test_a_step_runs_the_flows_that_it_is_given() -> None:
    """A party that runs another protocol's flow sends nothing."""
    made, parties, terms = setting()
    group = handshake(made, parties, terms)
    total = opened(group.step(inputs(), HASH, flows={client(2): sums.SCHEMES["plain-insecure"].flow}))
    assert (total.values.tolist(), sorted(group.ready)) == ([8, 0], [1, 3, 4])


def test_a_step_needs_its_own_terms_and_what_was_left() -> None:
    made, parties, terms = setting()
    group = handshake(made, parties, terms)
    at = terms.at(0, HASH)
    ready, server = group.party(1), group.server
    assert batch_sums.client_turn(ready, at).ready is ready
    assert batch_sums.server_turn(server, at).ready is server
    assert (batch_sums.client_turn(ready, at).terms, batch_sums.server_turn(server, at).terms) == (at, at)
    single: Terms[Any] = made.scheme.terms(OCCASION, terms.roster, terms.parameters)
    turns: list[tuple[Any, Any]] = [(batch_sums.client_turn, ready), (batch_sums.server_turn, server)]
    for turn, left in turns:
        for bad in ((None, at), (left, single), (None, single)):
            with pytest.raises(Misuse, match="needs the terms of a step"):
                turn(*bad)
    with pytest.raises(Misuse, match="what party 1 holds between two sums is not for party 2"):
        batch_sums.client_step(made, parties[1], ready, HASH)


def test_randomness_is_the_machine_s_unless_it_is_given() -> None:
    made, parties, terms = setting()
    entropy: Entropy = handshake(made, parties, terms).entropy(SERVER)
    assert entropy is fresh
    assert Group(made, {}, None, {}).entropy(client(1)) is fresh
    assert sums.scheme("secagg").policy == Policy()
