"""The graph: what `Flow.check` refuses, and what it reads off the annotations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from values import A, B, C, D

from protocols import plain, secagg
from protocols.errors import Misuse
from protocols.flow import Arrived, Broadcast, Fanout, Flow, Inbox, Input
from protocols.rand import Rand
from protocols.schema import Index, Message
from protocols.secagg_types import Collecting, Invited
from protocols.vector import Vector


@dataclass(frozen=True)
class Ping(Message):
    value: Index


@dataclass(frozen=True)
class Pong(Message):
    value: Index


def one(_: Any) -> int:
    return 1


# What check refuses


def send(flow: Flow) -> None:
    @flow.client
    def send(a: A) -> Ping: ...


def receive(flow: Flow) -> None:
    @flow.server(quorum=one)
    def receive(b: B, pings: Inbox[Ping]) -> None: ...


def no_receiver(flow: Flow) -> None:
    send(flow)


def nobody_sends(flow: Flow) -> None:
    receive(flow)


def two_receivers(flow: Flow) -> None:
    send(flow)
    receive(flow)

    @flow.server(quorum=one)
    def also(c: C, pings: Inbox[Ping]) -> None: ...


def two_senders(flow: Flow) -> None:
    send(flow)
    receive(flow)

    @flow.client
    def also(c: C) -> Ping: ...


def value_twice(flow: Flow) -> None:
    @flow.client
    def first(a: A) -> B: ...

    @flow.client
    def second(a: A) -> C: ...


def input_twice(flow: Flow) -> None:
    @flow.client
    def first(a: A, x: Input[D]) -> B: ...

    @flow.client
    def second(b: B, x: Input[D]) -> C: ...


def state_and_input_of_one_type(flow: Flow) -> None:
    @flow.client
    def first(a: A, x: Input[A]) -> B: ...


def two_values_of_a_type(flow: Flow) -> None:
    @flow.client
    def first(a: A, again: A) -> B: ...


def two_results_of_a_type(flow: Flow) -> None:
    @flow.client
    def first(a: A) -> tuple[B, B]: ...


def plain_to_many(flow: Flow) -> None:
    @flow.server
    def say(b: B) -> Ping: ...

    @flow.client
    def hear(a: A, ping: Ping) -> None: ...


def broadcast_to_one(flow: Flow) -> None:
    @flow.client
    def say(a: A) -> Broadcast[Ping]: ...

    receive(flow)


def fanout_to_one(flow: Flow) -> None:
    @flow.client
    def say(a: A) -> Fanout[Ping]: ...

    receive(flow)


def one_taken_from_many(flow: Flow) -> None:
    send(flow)

    @flow.server
    def receive(b: B, ping: Ping) -> None: ...


def inbox_from_one(flow: Flow) -> None:
    @flow.server
    def say(b: B) -> Broadcast[Ping]: ...

    @flow.client(quorum=one)
    def hear(a: A, pings: Inbox[Ping]) -> None: ...


def to_own_role(flow: Flow) -> None:
    @flow.client
    def say(a: A) -> Broadcast[Ping]: ...

    @flow.client(quorum=one)
    def hear(b: B, pings: Inbox[Ping]) -> None: ...


def arrived_without_fold(flow: Flow) -> None:
    send(flow)

    @flow.server(quorum=one)
    def receive(b: B, pings: Arrived[Ping]) -> None: ...


def fold_without_arrived(flow: Flow) -> None:
    send(flow)

    @flow.server(quorum=one, fold=lambda b, _u, _p: b)
    def receive(b: B, pings: Inbox[Ping]) -> None: ...


def no_quorum(flow: Flow) -> None:
    send(flow)

    @flow.server
    def receive(b: B, pings: Inbox[Ping]) -> None: ...


def no_quorum_of_those_that_arrive(flow: Flow) -> None:
    send(flow)

    @flow.server(fold=lambda b, _u, _p: b)
    def receive(b: B, pings: Arrived[Ping]) -> None: ...


def no_state_for_those_that_arrive(flow: Flow) -> None:
    send(flow)

    @flow.server(quorum=one, fold=lambda b, _u, _p: b)
    def receive(pings: Arrived[Ping]) -> B: ...


def two_inputs_of_a_type(flow: Flow) -> None:
    @flow.client
    def first(a: A, x: Input[D], y: Input[D]) -> B: ...


def a_farewell_of_its_own(flow: Flow) -> None:
    @dataclass(frozen=True)
    class Farewell(Message):
        n: Index

    @flow.client
    def say(a: A) -> Farewell: ...

    @flow.server(quorum=one)
    def hear(b: B, said: Inbox[Farewell]) -> None: ...


def no_state(flow: Flow) -> None:
    send(flow)

    @flow.server(quorum=one)
    def receive(pings: Inbox[Ping]) -> B: ...


def takes_nothing(flow: Flow) -> None:
    @flow.client
    def spring() -> A: ...


def no_type_on_a_parameter(flow: Flow) -> None:
    @flow.client
    def first(a) -> B: ...  # type: ignore[no-untyped-def]


def no_type_on_the_result(flow: Flow) -> None:
    @flow.client
    def first(a: A): ...  # type: ignore[no-untyped-def]


def bare_type(flow: Flow) -> None:
    @flow.client
    def first(a: A) -> int: ...


def bare_input(flow: Flow) -> None:
    @flow.client
    def first(a: A, x: Input[list[int]]) -> B: ...


def two_names(flow: Flow) -> None:
    send(flow)
    send(flow)


def no_message_in_the_inbox(flow: Flow) -> None:
    @flow.server(quorum=one)
    def receive(b: B, pings: Inbox[C]) -> None: ...  # type: ignore[type-var]


def role_of_one_and_many(flow: Flow) -> None:
    flow.role("helper", many=True)
    flow.role("helper")


def unbounded_field(flow: Flow) -> None:
    @dataclass(frozen=True)
    class Loose(Message):
        text: bytes

    @flow.client
    def say(a: A) -> Loose: ...

    @flow.server(quorum=one)
    def hear(b: B, said: Inbox[Loose]) -> None: ...


REFUSED: list[tuple[Callable[[Flow], None], str]] = [
    (no_receiver, "Ping, sent by send, has no receiver"),
    (nobody_sends, "Ping, awaited by receive, is sent by nobody"),
    (two_receivers, "Ping has two receivers, receive and also"),
    (two_senders, "Ping is sent by two steps, send and also"),
    (value_twice, "A is consumed by first and second"),
    (input_twice, "D is consumed by first and second"),
    (state_and_input_of_one_type, "first has two values of type A"),
    (two_values_of_a_type, "first has two values of type A"),
    (two_results_of_a_type, "first has two values of type B"),
    (plain_to_many, "say must give it as Broadcast or Fanout"),
    (broadcast_to_one, "say must give it as a plain message"),
    (fanout_to_one, "say must give it as a plain message"),
    (one_taken_from_many, "receive must take it as Inbox or Arrived"),
    (inbox_from_one, "hear must take it as a plain message"),
    (to_own_role, "is sent by say to its own role"),
    (arrived_without_fold, "exactly if it has a fold"),
    (fold_without_arrived, "exactly if it has a fold"),
    (no_quorum, "declares no quorum"),
    (no_state, "has no state"),
    (no_quorum_of_those_that_arrive, "declares no quorum"),
    (no_state_for_those_that_arrive, "has no state"),
    (two_inputs_of_a_type, "first has two values of type D"),
    (a_farewell_of_its_own, "Farewell"),
    (takes_nothing, "spring takes nothing"),
    (no_type_on_a_parameter, "first needs a type on every parameter"),
    (no_type_on_the_result, "first needs a type on every parameter and on what it returns"),
    (bare_type, "classes of their own"),
    (bare_input, "classes of their own"),
    (two_names, "two steps named send"),
    (no_message_in_the_inbox, "C in receive is no message"),
    (role_of_one_and_many, "the role helper of bad is declared twice"),
    (unbounded_field, "Loose.text has no bound"),
]


@pytest.mark.parametrize(("build", "says"), REFUSED, ids=[build.__name__ for build, _ in REFUSED])
def test_a_flow_that_does_not_connect_is_refused(build: Callable[[Flow], None], says: str) -> None:
    flow = Flow("bad")

    def declare() -> None:
        build(flow)
        flow.check()

    with pytest.raises(Misuse) as misuse:
        declare()
    assert says in str(misuse.value)
    assert "bad" in str(misuse.value) or "step" in str(misuse.value) or "field" in str(misuse.value)


def test_a_flow_that_connects_is_accepted() -> None:
    flow = Flow("good")
    send(flow)
    receive(flow)
    assert flow.check() is flow
    assert (flow.starts("client"), flow.starts("server")) == ([A], [B])
    assert flow.sender(Ping).name == "send"
    assert flow.receiver(Ping).name == "receive"
    assert flow.messages("server") == [Ping]
    assert flow.messages("client") == []


def test_a_step_may_wait_for_many_and_for_one_of_another_role() -> None:
    flow = Flow("both")
    dealer = flow.role("dealer")
    send(flow)

    @dealer
    def deal(c: C) -> Pong: ...

    @flow.server(quorum=one)
    def receive(b: B, pings: Inbox[Ping], pong: Pong) -> None: ...

    assert flow.check() is flow
    assert flow.receiver(Pong) is flow.receiver(Ping)


def test_only_known_steps_are_replaced_and_the_original_stays() -> None:
    flow = Flow("good")
    send(flow)
    receive(flow)
    before = flow.step("send").fn
    other = flow.replace(send=lambda a: Ping(a.n))
    assert other.step("send").fn is not before
    assert flow.step("send").fn is before
    assert [s.name for s in other.steps] == [s.name for s in flow.steps]
    with pytest.raises(Misuse, match="no step nosuch; it has send, receive"):
        flow.replace(nosuch=before)


def test_the_graph_of_secagg_is_the_papers() -> None:
    names = [kind.__name__ for kind in secagg.flow.messages()]
    assert names == ["Advert", "Listed", "Boxes", "Sealed", "Masked", "Dropped", "Agree", "Agreed", "Openings"]
    assert secagg.flow.inputs("client") == [Vector]
    assert secagg.flow.starts("client") == [Invited]
    assert secagg.flow.starts("server") == [Collecting]
    assert [s.name for s in secagg.flow.steps if s.spends] == ["mask"]
    assert all(s.doc for s in (*secagg.flow.steps, *plain.flow.steps))


def test_a_circle_of_steps_that_wait_for_nothing_is_refused() -> None:
    """Randomness is there at once."""

    class A: ...

    class B: ...

    flow = Flow("spinning")

    @flow.client
    def forth(a: A) -> B:
        raise NotImplementedError

    @flow.client
    def back(b: B, rand: Rand) -> A:
        raise NotImplementedError

    with pytest.raises(Misuse, match="runs in a circle that waits for nothing"):
        flow.check()
