"""A session on flows of a few lines: what its waits are counted from, what leaves it and in which epoch, what it keeps."""

from __future__ import annotations

import pytest
from asking import LIMITS, Ask, Reply, Start, Tip, asking, ended, party, said, server
from strategies import client
from values import A, B, C, D

from protocols import session as module
from protocols.errors import Misuse, Refused
from protocols.flow import Broadcast, Flow, Inbox, Input
from protocols.session import SERVER, Farewell, Letter, Session


def test_all_that_the_module_names_is_there() -> None:
    assert all(hasattr(module, name) for name in module.__all__)


# Time


def test_without_a_time_it_is_nought() -> None:
    """Whatever happens: the next wait, five seconds, is counted from it."""

    def session() -> Session:
        one = server(asking(), A())
        one.begin()
        return one

    assert session().deadline == 5.0
    fed = session()
    for u in (1, 2, 3):
        fed.feed(client(u), said(Reply(u)))
    left = session()
    for u in (1, 2):
        left.feed(client(u), said(Reply(u)))
    left.gone(client(3))
    for one, total in ((fed, 6), (left, 3)):
        assert one.outputs == [D(total)]
        assert one.deadline == 5.0

    flow = Flow("given")

    @flow.server
    def ask(a: A, go: Input[C]) -> tuple[B, Broadcast[Ask]]:
        return B(), Broadcast(Ask(1), (1, 2, 3))

    @flow.client
    def reply(c: C, ask: Ask) -> tuple[C, Reply]:
        return c, Reply(ask.n)

    flow.add(asking().step("learn"))
    given = server(flow, A())
    given.begin()
    assert given.deadline is None
    given.provide(C())
    assert given.deadline == 5.0


def test_every_wait_is_counted_from_when_its_step_found_its_state() -> None:
    """In a loop as well: a second round has as many seconds as the first."""
    session = server(asking(), A())
    session.begin(100.0)
    for u in (1, 2):
        session.feed(client(u), said(Reply(u)), 101.0)
    assert session.deadline == 105.0
    session.feed(client(3), said(Reply(3)), 103.0)
    assert (session.outputs, session.deadline) == ([D(6)], 108.0)
    session.feed(client(1), said(Reply(1), 1), 104.0)
    session.feed(client(2), said(Reply(5), 1), 104.5)
    assert session.tick(107.5) == []
    letters = session.tick(108.0)
    assert [type(letter.message) for letter in letters] == [Ask, Tip, Tip, Tip]
    assert (session.outputs, session.deadline) == ([D(6), D(6)], 113.0)


def test_who_waits_for_one_ends_at_the_deadline_and_says_for_what() -> None:
    flow = Flow("waiting")

    @flow.server
    def ask(a: A) -> Broadcast[Ask]:
        return Broadcast(Ask(1), (2,))

    @flow.client(within=2.5)
    def take(c: C, ask: Ask) -> D:
        return D(ask.n)

    late, early = party(flow.check(), C()), party(flow, C())
    for session in (late, early):
        session.begin(1.0)
        assert session.deadline == 3.5
    early.feed(SERVER, said(Ask(7)), 3.25)
    assert (early.remembers, early.deadline, early.finished) == ((D(7),), None, True)
    assert late.tick(3.25) == []
    assert not late.finished
    assert late.tick(3.5) == []
    assert ended(late) == ("deadline", "no Ask in 2.5 s", "take")
    assert (late.deadline, late.finished) == (None, True)


def test_half_a_message_lets_time_pass_and_no_more() -> None:
    """At the deadline the step runs without the rest; where nobody waits, nothing happens."""
    session = server(asking(), A())
    session.begin()
    for u in (1, 2):
        session.feed(client(u), said(Reply(u)))
    assert session.feed(client(3), said(Reply(3))[:2], 4.75) == []
    assert session.outputs == []
    assert len(session.feed(client(3), said(Reply(3))[2:3], 5.0)) == 4
    assert session.outputs == [D(3)]
    own = party(asking(), C())
    own.begin()
    assert own.feed(SERVER, said(Ask(3))[:2]) == []
    assert (own.ended, own.deadline) == (None, None)


# Letters


def test_letters_say_from_whom_to_whom_and_the_how_manieth_of_their_kind() -> None:
    session = server(asking(), A(4))
    letters = [session.begin()]
    for epoch in range(2):
        for u in (1, 2, 3):
            more = session.feed(client(u), said(Reply(u), epoch))
        letters.append(more)
    everybody = tuple(client(u) for u in (1, 2, 3))
    for epoch in range(3):
        tips = [Letter(SERVER, (client(u),), Tip(10 * u), epoch, LIMITS) for u in (1, 2, 3)]
        assert letters[epoch] == [Letter(SERVER, everybody, Ask(4 + epoch), epoch, LIMITS), *tips]
        assert all(letter.limits is LIMITS for letter in letters[epoch])
    own = party(asking(), C())
    own.begin()
    for epoch in range(3):
        assert own.feed(SERVER, said(Tip(2), epoch)) == []
        assert own.feed(SERVER, said(Ask(3), epoch)) == [Letter(client(2), (SERVER,), Reply(5), epoch, LIMITS)]


def test_steps_without_a_state_run_when_what_they_take_is_there_and_letters_of_several_leave_in_order() -> None:
    flow = Flow("stateless")

    @flow.server
    def ask(a: A) -> Broadcast[Ask]:
        return Broadcast(Ask(1), (2,))

    @flow.client
    def first(ask: Ask) -> tuple[B, Tip]:
        return B(ask.n), Tip(ask.n + 1)

    @flow.client
    def second(b: B) -> Reply:
        return Reply(b.n + 2)

    @flow.server(quorum=lambda _: 1)
    def hear(c: C, tips: Inbox[Tip], replies: Inbox[Reply]) -> D:
        return D()

    session = party(flow.check())
    assert session.begin() == []
    assert [letter.message for letter in session.feed(SERVER, said(Ask(1)))] == [Tip(2), Reply(3)]


def test_a_value_that_waits_is_not_replaced() -> None:
    flow = Flow("waiting")

    @flow.server
    def use(a: A, go: Input[C]) -> D:
        return D(go.n)

    session = server(flow.check())
    session.provide(C(1))
    with pytest.raises(Misuse, match="a C is already waiting to be used"):
        session.provide(C(2))
    with pytest.raises(Misuse, match="no step of server in waiting awaits a B"):
        session.provide(B())
    assert session.remembers == (C(1),)


@pytest.mark.parametrize(("to", "tip"), [((1, 2), None), ((1, 2, 3), 1)])
def test_who_is_told_nothing_is_not_waited_for(to: tuple[int, ...], tip: int | None) -> None:
    session = server(asking(to, quorum=lambda _: 1, tip=tip), A())
    session.begin()
    heard = to if tip is None else (tip,)
    for u in heard:
        assert session.outputs == []
        session.feed(client(u), said(Reply(u)))
    assert session.outputs == [D(sum(heard))]


class Book:
    """A guard that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked = list[str]()

    def join(self) -> None:
        self.asked.append("join")

    def spend(self) -> None:
        self.asked.append("spend")


def test_the_guard_is_asked_once_for_what_a_step_sends_and_not_where_nothing_leaves() -> None:
    flow, book = Flow("guarded"), Book()

    @flow.client
    def hold(start: Start) -> B:
        return B()

    @flow.client
    def join(b: B, go: Input[A]) -> tuple[C, Reply]:
        return C(), Reply(1)

    @flow.client(spends=True)
    def spend(c: C, go: Input[D]) -> Ask:
        return Ask(2)

    @flow.server(quorum=lambda _: 1)
    def hear(b: B, asks: Inbox[Ask], replies: Inbox[Reply]) -> C:
        return C()

    session = party(flow.check(), Start(), guard=book)
    assert session.begin() == []
    assert book.asked == []
    assert len(session.provide(A())) == 1
    assert book.asked == ["join"]
    assert len(session.provide(D())) == 1
    assert book.asked == ["join", "spend"]


@pytest.mark.parametrize("halves", [False, True])
def test_what_a_step_sent_leaves_though_the_next_one_cannot_run(halves: bool) -> None:
    """By a refusal it leaves before the farewell; with an abort, alone."""
    flow = Flow("refusing")

    @flow.client
    def greet(c: C, ask: Ask) -> tuple[D, Reply]:
        return D(), Reply(1)

    @flow.client
    def think(d: D) -> A:
        raise Refused("d-good", "it is not", sender="client 3")

    flow.add(asking().step("learn"))

    @flow.server
    def ask(a: A) -> Broadcast[Ask]:
        return Broadcast(Ask(1), (1, 2, 3))

    one = party(flow, C())
    one.begin()
    many = server(asking(quorum=lambda b: 1 if b.n == 2 else 4), A())
    many.begin()
    many.gone(client(1))
    many.gone(client(2))
    for session, sender, data, kinds in (
        (one, SERVER, said(Ask(1)), [Reply, Farewell]),
        (many, client(3), said(Reply(1)), [Ask, Tip, Tip, Tip]),
    ):
        letters = session.feed(sender, data, act=not halves)
        while session.busy:
            letters += session.poise(0.0)
            if session.busy:
                session.perform()
        assert [type(letter.message) for letter in letters] == kinds
