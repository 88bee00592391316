"""How flows run: states move, loops, branches, embedding, and a committee as a third role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import committee
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases, client, identities, play, simple_case
from values import A, B, C, D

from protocols import secagg, simulate
from protocols.errors import Misuse, Refused
from protocols.flow import Broadcast, Flow, Input, Output
from protocols.policy import Policy
from protocols.rand import Rand, Replay
from protocols.schema import Index, Message
from protocols.secagg_types import Collecting, Invited
from protocols.session import SERVER, Address, Letter, Session
from protocols.vector import Sum, Vector
from protocols.wire import Limits

NO_LIMITS = Limits(16, {})


def alone(flow: Flow, *start: object, role: str = "server", **more: Any) -> Session:
    return Session(flow.check(), Address(role), {}, start, NO_LIMITS, **more)


def test_a_state_is_moved_out_before_its_step_runs() -> None:
    flow, seen = Flow("moving"), list[tuple[object, ...]]()
    held = list[Session]()

    @flow.server
    def first(a: A) -> B:
        seen.append(held[0].remembers)
        return B(a.n + 1)

    @flow.server
    def second(b: B, x: Input[C]) -> D:
        seen.append(held[0].remembers)
        return D(b.n + x.n)

    held.append(alone(flow, A(1)))
    session = held[0]
    session.begin()
    assert seen == [()]
    assert session.remembers == (B(2),)
    assert not session.finished
    session.provide(C(5))
    assert seen == [(), ()]
    assert session.remembers == (D(7),)
    assert session.finished
    session.begin()
    session.tick(10.0)
    assert session.remembers == (D(7),)


def test_a_state_is_gone_when_its_step_refuses() -> None:
    flow = Flow("refusing")

    @flow.server
    def first(a: A, x: Input[C]) -> B:
        raise Refused("c-good", "it is not")

    session = alone(flow, A(1))
    session.begin()
    assert session.provide(C()) == []
    assert session.remembers == ()
    assert session.finished
    assert session.ended is not None
    assert (session.ended.check, session.ended.step) == ("c-good", "first")
    assert session.provide(C()) == []


def test_two_branches_run_in_parallel_and_are_joined() -> None:
    flow, order = Flow("branches"), list[str]()

    @dataclass(frozen=True)
    class Left:
        n: int

    @dataclass(frozen=True)
    class Right:
        n: int

    @flow.server
    def split(a: A) -> tuple[Left, Right]:
        order.append("split")
        return Left(a.n + 1), Right(a.n + 2)

    @flow.server
    def left(x: Left, wait: Input[D]) -> B:
        order.append("left")
        return B(10 * x.n * wait.n)

    @flow.server
    def right(x: Right) -> C:
        order.append("right")
        return C(100 * x.n)

    @flow.server
    def join(b: B, c: C) -> Output[Sum]:
        order.append("join")
        return Output(Sum(np.array([b.n, c.n]), 2))

    session = alone(flow, A(1))
    session.begin()
    assert order == ["split", "right"]
    assert session.outputs == []
    session.provide(D(3))
    assert order == ["split", "right", "left", "join"]
    assert [total.values.tolist() for total in session.outputs] == [[60, 300]]
    assert session.finished


def test_a_step_that_gives_another_number_of_results_than_it_declares_is_misuse() -> None:
    flow = Flow("short")

    @flow.server
    def first(a: A) -> tuple[B, C]:
        return (B(),)  # type: ignore[return-value]

    with pytest.raises(Misuse, match="first of short declares 2 results and gave 1"):
        alone(flow, A()).begin()


def test_an_output_that_no_step_awaits_leaves_the_flow() -> None:
    flow = Flow("out")

    @flow.server
    def first(a: A) -> tuple[Output[B], Output[C]]:
        return Output(B(4)), Output(C(5))

    @flow.server
    def second(b: B) -> D:
        return D(b.n)

    session = alone(flow, A())
    session.begin()
    assert session.outputs == [C(5)]
    assert session.remembers == (D(4),)


def test_every_step_with_randomness_gets_a_source_of_its_own() -> None:
    flow, drawn = Flow("rand"), list[bytes]()

    @flow.server
    def first(a: A, rand: Rand) -> B:
        drawn.append(rand.bytes("x", 16))
        return B()

    @flow.server
    def second(b: B) -> C:
        return C()

    @flow.server
    def third(c: C, rand: Rand) -> D:
        drawn.append(rand.bytes("x", 16))
        return D()

    alone(flow, A(), entropy=Replay("root")).begin()
    replay = Replay("root")
    assert drawn == [replay().bytes("x", 16), replay().bytes("x", 16)]
    assert drawn[0] != drawn[1]


# A third role, one setup, many sums


def committee_sessions(clients: int, helpers: int, seed: int) -> dict[Address, Session]:
    limits = Limits(clients, {})
    everybody, circle = tuple(range(1, clients + 1)), tuple(range(1, helpers + 1))
    out = {
        SERVER: Session(
            committee.flow, SERVER, {"client": everybody, "helper": circle}, [committee.NewServer(everybody, helpers)], limits
        )
    }
    for u in everybody:
        entropy = Replay(f"{seed} client {u}")
        peers = {"server": [0], "helper": circle}
        out[client(u)] = Session(committee.flow, client(u), peers, [committee.NewClient(u)], limits, entropy=entropy)
    for h in circle:
        me, entropy = Address("helper", h), Replay(f"{seed} helper {h}")
        peers = {"server": [0], "client": everybody}
        out[me] = Session(committee.flow, me, peers, [committee.NewHelper(h, everybody)], limits, entropy=entropy)
    return out


@given(st.integers(3, 5), st.integers(1, 4), st.integers(0, 2**32), st.data())
@settings(max_examples=25)
def test_a_committee_set_up_once_helps_with_many_sums(clients: int, helpers: int, seed: int, data: st.DataObject) -> None:
    """Two or three sums in the same sessions, on new inputs; a party may vanish in the last, before or after its parts leave."""
    sessions, sums = committee_sessions(clients, helpers, seed), data.draw(st.integers(2, 3))
    lost = data.draw(st.none() | st.integers(1, clients))
    stage = data.draw(st.sampled_from(["Part", "Rest"]))
    gone = list[Address]()

    def network(letter: Letter) -> tuple[Letter, ...]:
        if (
            letter.sender.role == "client"
            and letter.sender.index == lost
            and type(letter.message).__name__ == stage
            and letter.epoch == sums - 1
        ):
            gone.append(letter.sender)
        return () if letter.sender in gone else (letter,)

    for number in range(sums):
        inputs = {u: data.draw(st.integers(-(2**40), 2**40)) for u in range(1, clients + 1)}
        given_out = {client(u): [committee.Number(x)] for u, x in inputs.items()}
        outcome = simulate.run(sessions, {SERVER: [committee.Start()], **given_out}, network=network)
        assert outcome.abort is None
        there = tuple(u for u in inputs if number < sums - 1 or u != lost)
        assert outcome.outputs[number:] == [committee.Total(sum(inputs[u] for u in there), there)]
        setup = [name for name, *_ in outcome.traffic if name in ("HelperKey", "ClientKey")]
        assert len(setup) == (2 * clients * helpers if number == 0 else 0)
    assert all(s.ended is None and not s.faults for s in sessions.values())


def test_a_committee_member_that_is_lied_to_leaves_and_the_sum_is_not_opened() -> None:
    """A server that asks for one party's parts alone gets nothing: the loop carries its checks along."""

    def lonely(gathering: committee.Gathering, rests: Any) -> Any:
        waiting, said = committee.flow.step("gather").fn(gathering, rests)
        number = gathering.idle.done
        return waiting, Broadcast(committee.Members((1,)), said.to) if number == 1 else said

    sessions = committee_sessions(3, 2, 1)
    cheating = committee.flow.replace(gather=lonely)
    server = Session(cheating, SERVER, {"client": (1, 2, 3), "helper": (1, 2)}, [committee.NewServer((1, 2, 3), 2)], Limits(3, {}))
    sessions[SERVER] = server
    for _ in range(2):
        outcome = simulate.run(sessions, {SERVER: [committee.Start()], **{client(u): [committee.Number(u)] for u in (1, 2, 3)}})
    assert outcome.outputs == [committee.Total(6, (1, 2, 3))]
    for h in (1, 2):
        ended = sessions[Address("helper", h)].ended
        assert ended is not None
        assert (ended.check, ended.step) == ("members-set", "convened")
    assert outcome.abort is not None
    assert outcome.abort.check == "quorum"


# Embedding


@dataclass(frozen=True)
class Trainee:
    rows: int


@dataclass(frozen=True)
class Learner:
    scale: int


@dataclass(frozen=True)
class Model:
    values: tuple[float, ...]
    parties: int


def outer_flow() -> Flow:
    """Training around the secure sum: the server's factor goes out, vectors come from a step, the sum goes into one."""
    outer = Flow("training").include(secagg.flow)

    @dataclass(frozen=True)
    class Task(Message):
        factor: Index

    @dataclass(frozen=True)
    class Stepping:
        scale: int

    @outer.server
    def publish(learner: Learner) -> tuple[Stepping, Broadcast[Task]]:
        return Stepping(learner.scale), Broadcast(Task(learner.scale), (1, 2, 3, 4, 5))

    @outer.client
    def train(trainee: Trainee, task: Task) -> Vector:
        return Vector(np.array([trainee.rows * task.factor, task.factor, -trainee.rows]))

    @outer.server
    def learn(stepping: Stepping, total: Sum) -> Output[Model]:
        return Output(Model(tuple((total.values / stepping.scale).tolist()), total.contributors))

    return outer.check()


@given(
    st.dictionaries(st.integers(1, 5), st.sampled_from(["Advert", "Boxes", "Masked", "Agree", "Openings"]), max_size=1),
    st.integers(1, 100),
)
@settings(max_examples=15)
def test_the_secure_sum_is_embedded_in_a_flow_of_the_users_own(dropouts: dict[int, str], scale: int) -> None:
    flow, case = outer_flow(), simple_case(5, 3)
    assert flow.inputs("client") == []
    assert set(flow.starts("client")) == {Invited, Trainee}
    terms = case.terms()
    sessions = {SERVER: Session(flow, SERVER, {"client": range(1, 6)}, [Collecting(terms), Learner(scale)], case.limits)}
    for u in range(1, 6):
        start = [Invited(u, identities(5)[u], terms, Policy()), Trainee(u)]
        sessions[client(u)] = Session(flow, client(u), {"server": [0]}, start, case.limits)
    outcome = simulate.run(sessions, network=simulate.vanish({client(u): stage for u, stage in dropouts.items()}))
    there = [u for u in range(1, 6) if dropouts.get(u) not in ("Advert", "Boxes", "Masked")]
    assert outcome.abort is None
    assert outcome.outputs == [Model((float(sum(there)), float(len(there)), -sum(there) / scale), len(there))]


@given(cases(parties=(2, 4), size=(1, 5)))
@settings(max_examples=15)
def test_a_copy_of_a_flow_runs_as_the_flow(case: Case) -> None:
    assert play(case, flow=secagg.flow.replace()).wire == play(case).wire


@pytest.mark.parametrize("dropouts", [{1: "Maskd"}, {9: "Masked"}, {0: "Masked"}])
def test_a_dropout_that_cannot_happen_is_refused(dropouts: dict[int, str]) -> None:
    from protocols import secure_sum

    with pytest.raises(Misuse, match="drops out before"):
        secure_sum([[1], [2], [3]], max_abs=5, dropouts=dropouts)


@dataclass(frozen=True)
class Half:
    """An output of the embedded flow under another name."""

    of: B


def halving() -> Flow:
    """A flow with an output of its own, and one that waits for its input."""
    inner = Flow("inner")

    @inner.server
    def begin(a: A) -> C:
        return C(a.n)

    @inner.server
    def end(c: C) -> Output[B]:
        """The inner output."""
        return Output(B(c.n))

    return inner.check()


def test_steps_of_an_embedded_flow_are_left_for_others_and_its_output_is_taken_under_another_type() -> None:
    """Two flows with one output type each: without ``ends`` the outer step would take what it gives."""
    inner, outer = halving(), Flow("outer")

    @outer.server
    def longer(a: A) -> D:
        return D(10 * a.n)

    @outer.server
    def still(d: D) -> C:
        return C(d.n + 1)

    own = Flow("own")

    @own.server
    def finish(half: Input[Half]) -> Output[B]:
        return Output(B(2 * half.of.n))

    both = Flow("both").include(inner, instead={"begin": [outer.step("longer"), outer.step("still")]}, ends={B: Half}).include(own)
    assert [step.name for step in both.check().steps] == ["longer", "still", "end", "finish"]
    session = alone(both, A(4))
    session.begin()
    assert session.outputs == [B(82)]
    assert both.step("end").doc == inner.step("end").doc == "The inner output."
    assert [port.type for port in both.step("end").gives] == [Half]
    assert [port.type for port in inner.step("end").gives] == [B]
    with pytest.raises(Misuse, match="no step middle; it has begin, end"):
        Flow("both").include(inner, instead={"middle": []})


def test_an_output_under_another_type_is_one_of_several_results() -> None:
    inner = Flow("inner")

    @inner.server
    def begin(a: A) -> tuple[C, Output[B]]:
        return C(a.n), Output(B(3))

    @inner.server
    def keep(c: C, d: Input[D]) -> Output[C]:
        return Output(c)

    session = alone(Flow("outer").include(inner, ends={B: Half}), A(1))
    session.begin()
    assert session.outputs == [Half(B(3))]
    assert session.remembers == (C(1),)
