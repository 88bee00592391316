"""What a flow is: its steps as they were declared, what they wait for, and what becomes of them in other flows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import pytest
from values import A, B, C, D

from protocols.errors import Misuse, Refused
from protocols.flow import Arrived, Broadcast, Fanout, Flow, Inbox, Input, Output, Port, is_message
from protocols.rand import Rand
from protocols.schema import Index, Message

T = TypeVar("T")


@dataclass(frozen=True)
class Ping(Message):
    value: Index


@dataclass(frozen=True)
class Pong(Message):
    value: Index


@dataclass(frozen=True)
class Pang(Message):
    value: Index


def one(_: Any) -> int:
    return 1


def options() -> dict[str, Any]:
    return {"quorum": one, "within": 7.0, "admit": lambda *_: None, "fold": lambda *_: None, "blames": lambda _: (), "spends": True}


def test_a_step_is_its_annotations_and_what_it_was_declared_with() -> None:
    flow, said = Flow("all"), options()

    @flow.server(quorum=one, within=7.0, admit=said["admit"], fold=said["fold"], blames=said["blames"], spends=True)
    def everything(
        b: B, x: Input[C], rand: Rand, pings: Inbox[Ping], pong: Pong, there: Arrived[Pang], other: Rand
    ) -> tuple[A, Broadcast[Ping], Fanout[Pong], Output[D], Pang]:
        """The first line,
        the second,
        and the third.
        """
        raise NotImplementedError

    @flow.client
    def bare(a: A) -> None: ...

    step, plainly = flow.steps
    assert (step.name, step.role, step.fn, step.layer) == ("everything", "server", everything, "")
    assert step.takes == (
        Port("value", B, "b"),
        Port("input", C, "x"),
        Port("rand", Rand, "rand"),
        Port("inbox", Ping, "pings"),
        Port("message", Pong, "pong"),
        Port("arrived", Pang, "there"),
        Port("rand", Rand, "other"),
    )
    carried = [("value", A), ("broadcast", Ping), ("fanout", Pong), ("output", D), ("message", Pang)]
    assert [(port.carrier, port.type, port.name) for port in step.gives] == [(*item, "") for item in carried]
    assert {name: getattr(step, name) for name in said} == said
    assert (step.doc, step.state) == ("The first line,", Port("value", B, "b"))
    assert step.values == step.takes[:2]
    assert step.moved == (("b", B), ("x", C))
    assert step.random == ("rand", "other")
    assert step.awaits == step.takes[3:6]
    assert [is_message(port) for port in (*step.takes, *step.gives)] == [False] * 3 + [True] * 3 + [False] * 2 + [True] * 2 + [
        False,
        True,
    ]
    assert (plainly.role, plainly.takes, plainly.gives, plainly.doc) == ("client", (Port("value", A, "a"),), (), "")
    assert {name: getattr(plainly, name) for name in said} == {**dict.fromkeys(said), "spends": False}
    assert (plainly.layer, replace(plainly, takes=()).state) == ("", None)
    assert Output(1).faults == ()
    assert repr(flow.client) == "Role(name='client', many=True)"
    assert flow.role("helper") == flow.role("helper", many=False)
    assert (flow.role("helper").flow, flow.role("helper").name, flow.role("helper").many) == (flow, "helper", False)
    assert list(flow.roles) == ["client", "server", "helper"]
    assert (flow.of("client"), flow.of("server"), flow.of("helper")) == ([plainly], [step], [])


def pair(name: str = "inner") -> Flow:
    """A client sends its state, the server gives a result and keeps its state."""
    flow = Flow(name)

    @flow.client
    def send(a: A, x: Input[C]) -> tuple[Ping, D]:
        raise NotImplementedError

    @flow.server(quorum=one)
    def add(b: B, pings: Inbox[Ping]) -> tuple[B, Output[C]]:
        return b, Output(C(len(pings)), (Refused("why", "so"),))

    return flow


@dataclass(frozen=True)
class Inner:
    c: C


def test_values_that_a_step_makes_are_not_waited_for() -> None:
    flow = pair()
    assert (flow.starts("client"), flow.inputs("client")) == ([A], [C])
    assert (flow.starts("server"), flow.inputs("server")) == ([], [])  # its state is its own again

    @flow.server
    def more(c: C, d: Input[D]) -> None: ...

    assert (flow.starts("server"), flow.inputs("server")) == ([], [D])  # an output enters the step that asks for it
    other = pair()

    @other.server
    def embedding(c: Input[C]) -> None: ...

    assert (other.starts("server"), other.inputs("server")) == ([], [])
    assert flow.messages() == flow.messages("server") == [Ping]

    @flow.server
    def last(d: D) -> Broadcast[Pong]:
        raise NotImplementedError

    @flow.client
    def hear(d: D, pong: Pong) -> None: ...

    assert (flow.messages(), flow.messages("server"), flow.messages("client")) == ([Ping, Pong], [Ping], [Pong])
    assert (flow.sender(Pong).name, flow.receiver(Pong).name) == ("last", "hear")
    flow.messages().clear()
    assert flow.messages() == [Ping, Pong]


def test_a_flow_that_is_embedded_stays_as_it_is() -> None:
    inner, outer = pair(), Flow("outer")
    inner.role("helper", many=True)
    assert outer.include(inner) is outer
    assert (outer.steps, outer.roles["helper"].many, outer.roles["helper"].flow) == (inner.steps, True, outer)
    assert outer.name == "outer"
    instead = [replace(inner.step("send"), name="one"), replace(inner.step("send"), name="two")]
    other = Flow("other").include(inner, instead={"send": instead}, ends={C: Inner})
    assert [step.name for step in other.steps] == ["one", "two", "add"]
    assert [step.name for step in inner.steps] == ["send", "add"]
    with pytest.raises(Misuse, match="the flow inner has no step nosuch; it has send, add"):
        Flow("third").include(inner, instead={"nosuch": []})


def test_outputs_of_a_flow_that_is_embedded_come_under_another_type() -> None:
    inner = pair()
    outer = Flow("outer").include(inner, ends={C: Inner, A: Inner, B: Inner})
    assert outer.step("send") is inner.step("send")  # the value C that it takes is no output
    step = outer.step("add")
    assert step.gives == (Port("value", B), Port("output", Inner))
    assert (step.takes, step.quorum, step.name) == (inner.step("add").takes, one, "add")
    assert step.fn.__name__ == "add"
    state, given = step.fn(b=B(5), pings={1: Ping(1), 2: Ping(2)})
    assert (state, given.value, given.faults[0].check) == (B(5), Inner(C(2)), "why")

    two = Flow("two")

    @two.server
    def both(b: B) -> tuple[Output[C], Output[D]]:
        raise NotImplementedError

    assert [port.type for port in Flow("around").include(two, ends={C: Inner}).step("both").gives] == [Inner, D]
    single = Flow("single")

    @single.client
    def give(a: A) -> Output[C]:
        return Output(C(a.n))

    assert Flow("around").include(single, ends={C: Inner}).step("give").fn(a=A(3)) == Output(Inner(C(3)))
    assert Flow("around").include(single, ends={D: Inner}).step("give") is single.step("give")
    assert Flow("around").include(single).step("give") is single.step("give")


def test_a_copy_has_the_roles_of_the_original_and_the_steps_that_were_put_in() -> None:
    flow = Flow("good")
    flow.role("helper", many=True)

    @flow.client
    def send(a: A) -> Ping:
        raise NotImplementedError

    @flow.server(quorum=one)
    def receive(b: B, pings: Inbox[Ping]) -> None: ...

    other = replace(flow.step("receive"), within=3.0)
    copy = flow.swap(receive=other)
    assert (copy.name, list(copy.roles), copy.roles["helper"].many) == ("good", ["client", "server", "helper"], True)
    assert copy.steps == [flow.step("send"), other]
    assert flow.step("receive").within is None
    with pytest.raises(Misuse, match="has no step"):
        flow.step("Send")
    with pytest.raises(Misuse, match="the role client of good is declared twice"):
        flow.role("client")


def test_a_bare_type_is_refused_wherever_it_stands() -> None:
    def inbox(b: B, pings: Inbox[int]) -> None: ...  # type: ignore[type-var]

    def arrived(b: B, pings: Arrived[int]) -> None: ...  # type: ignore[type-var]

    def plain(b: int) -> None: ...

    def given(b: B) -> Output[int]:
        raise NotImplementedError

    for step in (inbox, arrived, plain, given):
        with pytest.raises(Misuse, match=f"the step {step.__name__} uses <class 'int'>: values and messages have classes"):
            Flow("bare").server(step)


class Held(Generic[T]):
    """A value of somebody's own, of any type."""


def test_a_generic_value_connects_by_its_class() -> None:
    flow = Flow("generic")

    @flow.client
    def hold(held: Held[int]) -> Held[str]:
        raise NotImplementedError

    assert [port.type for port in (*flow.step("hold").takes, *flow.step("hold").gives)] == [Held, Held]
