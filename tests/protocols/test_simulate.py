"""All parties in one process: what is delivered to whom, in which pieces, when time passes, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import simulate, sums
from protocols.errors import Abort
from protocols.policy import Policy
from protocols.session import SERVER, Address, Letter, client
from protocols.suite import Occasion
from protocols.vector import Vector

N, SIZE = 4, 3


def world(name: str = "secagg", size: int = SIZE, policies: dict[int, Policy] | None = None) -> tuple[dict[Address, Any], Any]:
    """Sessions and inputs; a session notes what it is fed, by whom, and when."""
    scheme = sums.scheme(name)
    roster, parties = sums.enrol(N)
    terms = scheme.terms(Occasion("simulate", 0), roster, scheme.parameters(N, size, 100))
    sessions: dict[Address, Any] = {SERVER: sums.server_session(scheme, terms)}
    for party in parties:
        own = sums.Party(party.index, party.identity, (policies or {}).get(party.index, Policy()))
        sessions[client(party.index)] = sums.client_session(scheme, own, terms)
    for session in sessions.values():
        session.fed = list[tuple[Address, int, float]]()

        def feed(sender: Address, chunk: Any, now: float, session: Any = session, feed: Any = session.feed, **more: bool) -> Any:
            session.fed.append((sender, len(chunk), now))
            return feed(sender, chunk, now, **more)

        session.feed = feed
    return sessions, {client(u): [Vector(np.full(size, u))] for u in range(1, N + 1)}


def test_everything_that_is_delivered_is_told_and_fed_as_it_was_sent() -> None:
    sessions, inputs = world()
    seen = list[tuple[str, Address, Address, int]]()
    outcome = simulate.run(
        sessions, inputs, watch=lambda letter, to, size: seen.append((type(letter.message).__name__, letter.sender, to, size))
    )
    assert (outcome.sessions, outcome.abort, outcome.reason) == (sessions, None, None)
    assert [total.values.tolist() for total in outcome.outputs] == [[10] * SIZE]
    assert outcome.traffic == seen
    kinds = list(dict.fromkeys(kind for kind, *_ in seen))
    assert kinds[0] == "Advert"
    assert kinds[-1] == "Openings"
    for to, session in sessions.items():
        assert [(sender, size) for sender, size, _ in session.fed] == [(s, size) for _, s, at, size in seen if at == to]
        assert {now for _, _, now in session.fed} == {0.0}


def test_outputs_are_those_of_roles_of_one_party() -> None:
    sessions, inputs = world()
    for u in range(1, N + 1):
        sessions[client(u)].outputs.append("a party's")
    sessions[SERVER].outputs.append("before")
    sessions[Address("server", 1)] = world()[0][SERVER]  # another, to whom nobody sends
    sessions[Address("server", 1)].outputs.append("another's")
    first, total, last = simulate.run(sessions, inputs).outputs
    assert (first, total.values.tolist(), last) == ("before", [10] * SIZE, "another's")


def test_who_holds_no_vectors_works_with_all_others() -> None:
    assert simulate._Loop(simulate.Outcome({}), None, None, 1)._together == simulate.TOGETHER


def test_who_vanishes_sends_nothing_from_that_message_on() -> None:
    sessions, inputs = world()
    outcome = simulate.run(sessions, inputs, network=simulate.vanish({client(2): "Masked"}))
    assert outcome.outputs[0].values.tolist() == [8] * SIZE
    assert [kind for kind, sender, _, _ in outcome.traffic if sender == client(2)] == ["Advert", "Boxes"]
    assert [kind for kind, sender, _, _ in outcome.traffic if sender == client(3)] == [
        "Advert",
        "Boxes",
        "Masked",
        "Agree",
        "Openings",
    ]


def test_time_jumps_to_the_next_deadline_when_nothing_moves() -> None:
    sessions, inputs = world()
    outcome = simulate.run(sessions, inputs, network=simulate.vanish({client(2): "Advert", client(3): "Masked"}))
    assert outcome.abort is not None
    sessions, inputs = world()
    simulate.run(sessions, inputs, network=simulate.vanish({client(2): "Masked"}))
    waits = [step.within for step in sessions[SERVER].flow.of("server") if step.within is not None]
    times = [now for _, _, now in sessions[client(1)].fed]
    assert times == sorted(times)
    assert set(times) <= {0.0, *(sum(waits[:i]) for i in range(len(waits) + 1)), *waits}
    assert times[0] == 0.0 < times[-1]


def test_the_network_says_what_is_delivered() -> None:
    sessions, inputs = world("plain-insecure")
    seen = list[Address]()

    def network(letter: Letter) -> Iterable[Letter]:
        seen.append(letter.sender)
        if letter.sender == client(1):
            return ()
        return (letter, replace(letter, to=(client(9),)))

    outcome = simulate.run(sessions, inputs, network=network)
    assert outcome.outputs[0].values.tolist() == [9] * SIZE
    assert sorted(seen, key=lambda a: a.index) == [client(u) for u in range(1, N + 1)]
    assert [to for _, _, to, _ in outcome.traffic].count(client(9)) == 3


def test_a_flow_without_end_is_cut_off() -> None:
    """Each delivery counts, and a letter to nobody as one."""
    sessions, inputs = world()
    deliveries = len(simulate.run(sessions, inputs).traffic)
    sessions, inputs = world()
    assert simulate.run(sessions, inputs, max_deliveries=deliveries).abort is None
    sessions, inputs = world()
    with pytest.raises(Abort, match="flood") as aborted:
        simulate.run(sessions, inputs, max_deliveries=deliveries - 1)
    assert aborted.value.check == "flood"
    sessions, inputs = world()

    def nobody(letter: Letter) -> Iterable[Letter]:
        while True:
            yield replace(letter, to=())

    with pytest.raises(Abort, match="flood"):
        simulate.run(sessions, inputs, network=nobody, max_deliveries=50)


def test_why_it_ended_is_the_server_s_reason_or_a_party_s_policy() -> None:
    sessions, inputs = world(policies={3: Policy(min_cohort=N + 1)})
    outcome = simulate.run(sessions, inputs)
    assert (outcome.abort, outcome.reason) == (None, None)  # the others are enough
    assert sessions[client(3)].ended.check == "policy-cohort"
    sessions, inputs = world(policies=dict.fromkeys((1, 2, 3), Policy(min_cohort=N + 1)))
    sessions[SERVER] = sessions.pop(SERVER)  # the last of all
    outcome = simulate.run(sessions, inputs)
    assert outcome.abort is not None
    assert outcome.reason is not None
    assert (outcome.abort.check, outcome.reason.check) == ("quorum", "policy-cohort")
    sessions, inputs = world()
    outcome = simulate.run(sessions, inputs, network=simulate.vanish(dict.fromkeys(map(client, (1, 2, 3)), "Masked")))
    assert outcome.reason is outcome.abort is sessions[SERVER].ended
    assert outcome.outputs == []


def test_letters_up_to_a_size_come_in_one_piece_and_longer_ones_in_frames() -> None:
    sessions, inputs = world("plain-insecure", size=100_000)
    outcome = simulate.run(sessions, inputs)
    assert outcome.outputs[0].values.tolist() == [10] * 100_000
    for u in range(1, N + 1):
        (letter,) = (size for _, sender, _, size in outcome.traffic if sender == client(u))
        pieces = [size for sender, size, _ in sessions[SERVER].fed if sender == client(u)]
        assert letter > simulate.SHORT
        assert len(pieces) > 1
        assert sum(pieces) == letter


@pytest.mark.parametrize("together", [1, 2, 3])
def test_as_many_parties_work_side_by_side_as_may(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "TOGETHER", together)
    sessions, inputs = world()
    at_work: list[list[Any]] = []
    work = simulate._Loop._work

    def counted(loop: Any, awake: list[Any]) -> None:
        at_work.append(list(awake))
        work(loop, awake)

    monkeypatch.setattr(simulate._Loop, "_work", counted)
    assert simulate.run(sessions, inputs).outputs[0].values.tolist() == [10] * SIZE
    assert max(map(len, at_work)) == together
    assert all(len(set(map(id, awake))) == len(awake) and all(session.me != SERVER for session in awake) for awake in at_work)


class Half(Letter):
    """A letter whose sender stops in the middle of its vector."""

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The control fields, and half of the one frame of the vector."""
        control, vector = super().chunks()
        yield from (control, vector[: len(vector) // 2])


def test_whoever_waits_for_a_turn_is_fed_in_pieces() -> None:
    """One party holds the only turn until its time is over; the vectors of the others wait, and are in the sum."""
    scheme = sums.scheme("plain-insecure")
    sessions, inputs = world("plain-insecure")
    terms = next(value.terms for value in sessions[SERVER].remembers if hasattr(value, "terms"))
    sessions[SERVER] = sums.server_session(scheme, terms, turns=1)

    def network(letter: Letter) -> Iterable[Letter]:
        return [
            Half(letter.sender, letter.to, letter.message, letter.epoch, letter.limits) if letter.sender == client(1) else letter
        ]

    outcome = simulate.run(sessions, inputs, network=network)
    assert outcome.outputs[0].values.tolist() == [9] * SIZE
    assert [str(fault.sender) for fault in sessions[SERVER].faults] == ["client 1"]
