"""What a session notes of others, whom it names, and how it ends, on flows of a few lines."""

from __future__ import annotations

import pytest
from asking import LIMITS, Ask, Reply, Start, Tip, asking, ended, party, said, server
from strategies import client
from values import A, B, C, D

from protocols.errors import Abort, Misuse, Refused
from protocols.flow import Broadcast, Flow, Input, Output
from protocols.schema import MAX_PARTIES
from protocols.session import SERVER, Address, Farewell, Letter, Session

# What is noted


def test_who_sends_what_is_none_of_its_messages_is_out_and_the_others_go_on() -> None:
    """Without waiting any longer for it; a party whose server does so ends."""
    session = server(asking(), A())
    session.begin()
    for u in (1, 2):
        session.feed(client(u), said(Reply(u)))
    assert len(session.feed(client(3), said(Ask(3)))) == 4
    (fault,) = session.faults
    assert (fault.check, fault.sender) == ("wire-kind", "client 3")
    assert (session.ended, session.outputs) == (None, [D(3)])

    flow = Flow("others")
    helper = flow.role("helper")

    @flow.server
    def ask(a: A) -> tuple[Broadcast[Ask], Tip]:
        return Broadcast(Ask(1), (2,)), Tip(1)

    @flow.client
    def take(c: C, ask: Ask) -> D:
        return D()

    @helper
    def help_out(c: C, tip: Tip) -> D:
        return D()

    own = party(flow.check(), C())
    own.begin()
    own.feed(SERVER, said(Tip(1)))
    assert ended(own)[0] == "wire-kind"


def test_an_abort_of_a_step_names_it_and_whom_it_found_out() -> None:
    flow = Flow("aborting")

    @flow.server
    def first(a: A) -> B:
        faults = [Refused("a-good", "no", sender="client 1"), Refused("b-good", "neither", sender="client 2", step="earlier")]
        raise Abort("too-few", "of them", faults=faults)

    @flow.server
    def other(c: C) -> D:
        raise Abort("too-few", "of them", step="inner")

    session = server(flow, A())
    assert session.begin() == []
    assert ended(session) == ("too-few", "of them", "first")
    assert session.ended is not None
    told = [("a-good", "client 1", "first"), ("b-good", "client 2", "earlier")]
    assert [(f.check, f.sender, f.step) for f in session.faults] == told
    assert [(f.check, f.sender, f.step) for f in session.ended.faults] == told
    assert all(f.__traceback__ is None for f in session.ended.faults)
    inner = server(flow, C())
    inner.begin()
    assert ended(inner) == ("too-few", "of them", "inner")


def test_a_refusal_names_the_step_and_the_sender_that_the_step_left_open() -> None:
    """Of a message: who sends that kind.  What the step itself says stands."""
    flow, more = Flow("refusing"), dict[str, str]()

    @flow.server
    def ask(a: A) -> Broadcast[Ask]:
        return Broadcast(Ask(1), (2,))

    @flow.client
    def take(c: C, ask: Ask) -> D:
        raise Refused("ask-good", "it is not", **more)  # type: ignore[arg-type]

    @flow.client
    def start(b: B) -> A:
        raise Refused("b-good", "it is not")

    def refused(**said_by_step: str) -> tuple[str | None, str | None, str | None]:
        more.clear()
        more.update(said_by_step)
        session = party(flow.check(), C())
        session.begin()
        session.feed(SERVER, said(Ask(1)))
        (fault,) = session.faults
        return fault.sender, fault.step, ended(session)[2]

    assert refused() == ("server", "take", "take")
    assert refused(sender="client 3", step="inner") == ("client 3", "inner", "inner")
    session = party(flow, B())
    session.begin()
    assert [(f.check, f.sender, f.step) for f in session.faults] == [("b-good", None, "start")]


def test_an_output_brings_what_its_step_found_out() -> None:
    flow = Flow("finding")

    @flow.server
    def find(a: A) -> Output[D]:
        return Output(D(3), (Refused("a-good", sender="client 1"), Refused("b-good", sender="client 2", step="earlier")))

    session = server(flow, A())
    session.begin()
    assert (session.outputs, session.ended) == ([D(3)], None)
    assert [(f.check, f.sender, f.step) for f in session.faults] == [
        ("a-good", "client 1", "find"),
        ("b-good", "client 2", "earlier"),
    ]


def test_a_step_may_give_nothing_one_thing_or_several() -> None:
    flow, ran = Flow("giving"), list[str]()

    @flow.server
    def nothing(a: A) -> None:
        ran.append("nothing")

    @flow.server
    def several(b: B) -> tuple[C, D]:
        return C(1), D(2)

    @flow.server
    def waits(c: C, d: D, go: Input[A]) -> B:
        return B()

    session = server(flow, A(), B())
    assert session.begin() == []
    assert ran == ["nothing"]
    assert session.remembers == (C(1), D(2))
    assert not session.finished


def test_what_a_step_gives_is_kept_under_the_type_that_it_declares_and_an_output_that_a_step_takes_too() -> None:
    class Better(B): ...

    flow, got = Flow("kept"), list[object]()

    @flow.server
    def give(a: A) -> tuple[B, Output[C]]:
        return Better(3), Output(C(4))

    @flow.server
    def take(b: B, go: Input[D]) -> Output[D]:
        return Output(D(b.n))

    @flow.server
    def use(c: C) -> Output[Start]:
        got.append(c)
        return Output(Start())

    session = server(flow.check(), A())
    session.begin()
    assert got == [C(4)]
    assert session.remembers == (Better(3),)
    session.provide(D())
    assert [type(value) for value in session.outputs] == [Start]
    assert session.remembers == (D(3),)


# The end


def parting(sender: str | None, role: str = "client", many: bool = True) -> list[Letter]:
    """What a party says whose step refuses what ``sender`` sent."""
    flow = Flow("parting")
    flow.role("auditor")
    flow.role("witness")
    flow.role("helper", many=True)

    def refuse(c: C) -> D:
        raise Refused("c-good", "it is not", sender=sender)

    flow.role(role, many=many)(refuse)
    peers = {"server": [0], "auditor": [0], "helper": [1, 2]}
    return Session(flow, Address(role, 2), peers, [C()], LIMITS).begin()


@pytest.mark.parametrize(
    ("sender", "blamed"),
    [
        ("client 3", (3,)),
        (f"client {MAX_PARTIES}", (MAX_PARTIES,)),
        (f"client {MAX_PARTIES + 1}", ()),
        ("helper 3", ()),
        ("client", ()),
        ("server", ()),
        (None, ()),
    ],
)
def test_who_leaves_tells_each_role_of_one_whom_it_blames(sender: str | None, blamed: tuple[int, ...]) -> None:
    """Only those of its own role, by index; those who are not in the session, and roles of many, are told nothing."""
    everybody = [Letter(client(2), (to,), Farewell(blamed), 0, LIMITS) for to in (SERVER, Address("auditor"))]
    assert parting(sender) == everybody
    assert all(letter.limits is LIMITS for letter in parting(sender))
    assert parting(sender, role="witness", many=False) == []


def test_a_role_may_have_a_name_of_several_words() -> None:
    assert {letter.message for letter in parting("key helper 3", role="key helper")} == {Farewell((3,))}
    assert {letter.message for letter in parting("helper 3", role="key helper")} == {Farewell(())}


def test_a_farewell_is_remembered_with_whom_it_blames() -> None:
    session = server(asking(), A())
    session.begin()
    session.feed(client(1), said(Farewell((3,))))
    session.feed(client(3), said(Farewell(())))
    assert session.accused == {client(1): 3, client(3): 0}
    assert ended(session)[:2] == ("quorum", "0 Reply where 2 are needed")


def test_who_loses_the_only_one_of_a_role_ends() -> None:
    session = party(asking(), C())
    session.begin()
    assert session.gone(SERVER) == []
    assert ended(session) == ("peer-gone", "server is gone", None)


def test_a_stranger_that_is_gone_changes_nothing() -> None:
    session = server(asking(), A())
    session.begin()
    assert session.gone(client(9)) == session.gone(Address("helper", 1)) == []
    assert (session.ended, session.faults, session.deadline) == (None, [], 5.0)


def test_what_the_partys_own_code_raises_comes_out_and_ends_the_session() -> None:
    flow = Flow("failing")

    @flow.server
    def fail(a: A) -> B:
        raise KeyError("own")

    session = server(flow, A())
    with pytest.raises(KeyError, match="own"):
        session.begin()
    assert ended(session)[0] == "misuse"
    assert (session.remembers, session.busy, session.begin()) == ((), False, [])
    halves = server(flow, A())
    halves._run(0.0, lambda: True, act=False)
    halves.poise(0.0)
    with pytest.raises(KeyError, match="own"):
        halves.perform()
    assert ended(halves)[0] == "misuse"
    assert halves.poise(0.0) == []
    with pytest.raises(Misuse, match="no step was got ready"):
        halves.perform()
