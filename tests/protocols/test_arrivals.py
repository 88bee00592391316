"""What others send to one party: whose messages still count, who pays for a fault, and what sessions of one process share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import committee
import pytest
from strategies import client
from uploads import SIZE, VECTOR, adding, peak, vector
from values import A, B, C, D

from protocols.arrivals import PATIENCE
from protocols.errors import Refused
from protocols.evidence import Evidence
from protocols.flow import Arrived, Broadcast, Flow, Inbox, Input, Output
from protocols.once import shared_work
from protocols.schema import STEPS, Index, Message, Strings
from protocols.session import SERVER, Address, Farewell, Session
from protocols.wire import Limits, encode

LIMITS = Limits(5, {})
QUORUM = 4
PROOF = Evidence("share", 2, (), {})


@dataclass(frozen=True)
class Ask(Message):
    note: Annotated[bytes, Strings(1, 0, STEPS)]


@dataclass(frozen=True)
class Vote(Message):
    number: Index


@dataclass(frozen=True)
class Noted(Message):
    note: Annotated[bytes, Strings(1, 0, STEPS)]


def voting(**options: Any) -> Flow:
    """The server asks when it is told to, and counts the votes; they may come before it has asked."""
    flow = Flow("voting")

    @flow.server
    def ask(a: A, go: Input[C]) -> tuple[B, Broadcast[Ask]]:
        return B(a.n), Broadcast(Ask(b""), (1, 2, 3, 4, 5))

    @flow.client
    def answer(a: A, asked: Ask) -> Vote:
        return Vote(a.n)

    @flow.server(quorum=lambda b: b.n, within=10.0, **options)
    def count(b: B, votes: Inbox[Vote]) -> Output[D]:
        return Output(D(sum(vote.number for vote in votes.values())))

    return flow.check()


def noting() -> Flow:
    """The same roles; what parties send is longer."""
    flow = Flow("noting")

    @flow.client
    def write(a: A) -> Noted:
        return Noted(b"")

    @flow.server(quorum=lambda a: a.n)
    def read(a: A, notes: Inbox[Noted]) -> Output[D]:
        return Output(D(sum(len(noted.note) for noted in notes.values())))

    return flow.check()


def said(message: Message, limits: Limits = LIMITS) -> bytes:
    return b"".join(encode(message, 0, limits))


def server(flow: Flow, limits: Limits = LIMITS, need: int = QUORUM) -> Session:
    session = Session(flow, SERVER, {"client": range(1, 6)}, [A(need)], limits)
    session.begin()
    return session


def faults(session: Session) -> list[tuple[str, str | None]]:
    return [(fault.check, fault.sender) for fault in session.faults]


# Who still counts


def test_who_left_and_who_is_refused_take_nobody_else_along() -> None:
    """Five votes wait for the step that counts: one sender has left since, one vote is refused; the other three count."""

    def admit(b: B, sender: int, vote: Vote) -> None:
        if vote.number == 20:
            raise Refused("c-good", "not twenty", evidence=PROOF)

    session = server(voting(admit=admit), need=3)
    for u in range(1, 6):
        assert session.feed(client(u), said(Vote(10 * u))) == []
    session.gone(client(1))
    assert session.faults == []
    session.provide(C())
    assert session.outputs == [D(30 + 40 + 50)]
    assert faults(session) == [("wire-late", "client 1"), ("c-good", "client 2")]
    assert session.faults[1].step == "count"
    assert session.faults[1].evidence == PROOF


def test_what_came_of_those_who_then_left_counts_for_the_quorum() -> None:
    """Exactly as many as are needed: neither those who sent nor those who still may are enough by themselves."""
    session = server(voting())
    session.provide(C())
    for u in (1, 2):
        session.feed(client(u), said(Vote(u)))
        session.gone(client(u))
    session.feed(client(5), said(Farewell(())))
    for u in (3, 4):
        assert session.ended is None
        session.feed(client(u), said(Vote(u)))
    assert session.outputs == [D(1 + 2 + 3 + 4)]
    kept = session._arrivals
    assert not any((kept._inbox, kept._fresh, kept._admitted, kept._missing))  # of a step that has run, and of who left


def test_a_quorum_that_nobody_can_reach_any_more_ends_the_session_at_once_and_names_whom_the_step_blames() -> None:
    blamed = voting(blames=lambda b: [Refused("c-good", f"{b.n} were needed", sender="client 3")])
    for flow, blames in ((voting(), []), (blamed, [("c-good", "4 were needed", "client 3")])):
        session = server(flow)
        session.provide(C())
        session.gone(client(1))
        assert session.ended is None
        session.gone(client(2))
        assert session.ended is not None
        assert (session.ended.check, session.ended.step) == ("quorum", "count")
        assert [(f.check, f.detail, f.sender) for f in session.ended.faults] == blames
        assert [(f.check, f.detail, f.sender) for f in session.faults] == blames


def test_a_fold_may_return_another_state_and_its_step_gets_the_senders_alone() -> None:
    flow, seen = Flow("folding"), list[object]()

    @flow.client
    def answer(a: A) -> Vote:
        return Vote(a.n)

    def fold(a: A, sender: int, vote: Vote) -> A:
        return A(100 * a.n + 10 * sender + vote.number)

    @flow.server(quorum=lambda _: 3, within=10.0, fold=fold)
    def count(a: A, arrived: Arrived[Vote]) -> Output[D]:
        seen.append(arrived)
        return Output(D(a.n))

    session = server(flow.check())
    for u in (5, 1, 3):
        session.feed(client(u), said(Vote(2 + u)))
    session.tick(10.0)
    assert session.outputs == [D(((4 * 100 + 57) * 100 + 13) * 100 + 35)]
    assert seen == [(1, 3, 5)]
    assert type(seen[0]) is Arrived


# Who may send what


def test_a_server_that_says_farewell_is_refused() -> None:
    """Only one of many can leave and have the others go on."""
    session = Session(voting(), client(1), {"server": [0]}, [A()], LIMITS)
    session.begin()
    session.feed(SERVER, said(Farewell(())))
    assert session.ended is not None
    assert session.ended.check == "wire-kind"


def test_a_message_for_another_role_is_refused() -> None:
    session = Session(committee.flow, SERVER, {"client": (1, 2, 3), "helper": (1, 2)}, [committee.NewServer((1, 2, 3), 2)], LIMITS)
    session.begin()
    session.feed(client(1), said(committee.ClientKey(bytes(32))))
    session.feed(Address("helper", 1), said(committee.HelperKey(bytes(32))))
    assert faults(session) == [("wire-kind", "client 1"), ("wire-kind", "helper 1")]


def test_a_vector_that_comes_after_its_step_ran_is_not_set_aside() -> None:
    """Of every party that was late one would be kept for as long as the session lasts."""
    session = adding(4, SIZE)
    control, data = vector(session, 1)
    for u in (2, 3, 4):
        session.feed(client(u), control)
        session.feed(client(u), data)
    session.tick(300.0)
    assert session.outputs[0].contributors == 3
    buffer = bytearray(data)
    assert peak(lambda: [session.feed(client(1), part) for part in (control, buffer)]) < VECTOR / 20
    session.feed(client(1), control + data)
    assert faults(session) == 2 * [("wire-late", "client 1")]
    assert not any(session._arrivals._inbox.values())


# Patience


@pytest.mark.parametrize("nuisance", [client(1), client(9), Address("nobody", 1)])
def test_the_patience_that_one_uses_up_is_its_own(nuisance: Address) -> None:
    """A stranger, or a party that sends everything twice, costs nobody else a place."""
    session = server(voting())
    session.provide(C())
    for u in (1, 2):
        session.feed(client(u), said(Vote(u)))
    for _ in range(2 * PATIENCE):
        session.feed(nuisance, said(Vote(1)))
    noted = len(session.faults)
    session.feed(client(2), said(Vote(2)))
    assert faults(session)[noted:] == [("wire-duplicate", "client 2")]
    for u in (3, 4, 5):
        session.feed(client(u), said(Vote(u)))
    assert session.outputs == [D(1 + 2 + 3 + 4 + 5)]
    assert noted == PATIENCE + (nuisance == client(1))


# Sessions of one process


def test_sessions_that_share_work_know_the_messages_of_their_own_flow_role_and_sizes() -> None:
    with shared_work():
        for steps in (1, 300):
            limits = Limits(5, {}, steps)
            for flow, message in ((voting(), Vote(7)), (noting(), Noted(bytes(steps)))):
                session = server(flow, limits, need=1)
                session.feed(client(1), said(message, limits))
                assert session.faults == []
                assert session._arrivals._inbox
            asked = Session(voting(), client(1), {"server": [0]}, [A(3)], limits)
            asked.begin()
            assert [letter.message for letter in asked.feed(SERVER, said(Ask(bytes(steps)), limits))] == [Vote(3)]


def test_sessions_of_one_flow_share_nothing_of_other_roles_and_sizes() -> None:
    """The same flow object in all of them."""
    both, notes = voting(), noting()
    with shared_work():
        for steps in (1, 300):
            limits = Limits(5, {}, steps)
            server(both, limits)
            asked = Session(both, client(1), {"server": [0]}, [A(3)], limits)
            asked.begin()
            assert [letter.message for letter in asked.feed(SERVER, said(Ask(bytes(steps)), limits))] == [Vote(3)]
            session = server(notes, limits, need=1)
            session.feed(client(1), said(Noted(bytes(steps)), limits))
            assert session.outputs == []
            session.tick(0.0)
            assert session.faults == []


def test_each_session_shares_out_the_time_among_its_own_senders() -> None:
    """300 s and 2 turns: 150 s each for 4 senders, 60 s for 10."""
    with shared_work():
        for parties, turns, share in ((4, 2, 150.0), (10, 2, 60.0), (10, 1, 30.0)):
            session = adding(parties, 20, turns=turns)
            for u in range(1, turns + 2):
                session.feed(client(u), vector(session, 1)[0])
            assert session.deadline == pytest.approx(share)
