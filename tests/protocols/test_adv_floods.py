"""One sender that keeps within every bound of a message and sends as much as it can: memory and work stay bounded, it is named."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from strategies import client
from tapes import CASE, ME, at_state, check_sane, tape
from uploads import SIZE, THRESHOLD, VECTOR, adding, cut, interleave, peak, vector

from protocols import wire
from protocols.arrivals import PATIENCE
from protocols.errors import Refused
from protocols.flow import Arrived, Flow, Input, Output
from protocols.plain import Adding, Clear, absorb_clear
from protocols.secagg_types import Advert, Boxes, Listed
from protocols.session import SERVER, Address, Session
from protocols.vector import Sum
from protocols.wire import Limits, canonical, parse_control


def checks(session: Session) -> list[str]:
    return [fault.check for fault in session.faults]


# Messages without end


def test_patience_with_doubled_messages_ends_and_the_others_go_on() -> None:
    server = CASE.session(SERVER)
    server.begin()
    adverts = [d for d in tape() if isinstance(d.message, Advert)]
    for _ in range(1 + 2 * PATIENCE):
        server.feed(client(1), adverts[0].data)
    assert checks(server) == ["wire-duplicate"] * PATIENCE + ["wire-flood"]
    assert {fault.sender for fault in server.faults} == {"client 1"}
    for delivery in adverts[1:]:
        letters = server.feed(delivery.sender, delivery.data)
    assert [letter.to for letter in letters] == [tuple(map(client, (1, 2, 3, 4)))]  # its advert had come; it is awaited no more
    server.feed(client(1), next(d.data for d in tape() if isinstance(d.message, Boxes) and d.sender == client(1)))
    assert len(server.faults) == PATIENCE + 1


def test_patience_with_the_server_ends_the_session() -> None:
    session = at_state(ME, 1)
    listed = next(d for d in tape() if d.to == ME and isinstance(d.message, Listed))
    letters = [letter for _ in range(PATIENCE + 1) for letter in session.feed(SERVER, listed.data)]
    check_sane(session)
    assert checks(session) == ["wire-late"] * PATIENCE + ["wire-flood"]
    assert session.ended is not None
    assert session.ended.check == "wire-flood"
    assert [type(letter.message).__name__ for letter in letters] == ["Farewell"]


@pytest.mark.parametrize("who", ["strangers", "one who has left", "one who was expelled"])
def test_what_nobody_waits_for_leaves_a_bounded_trace(who: str) -> None:
    server = adding(4, 20)
    if who == "one who has left":
        server.gone(client(2))
    elif who == "one who was expelled":
        server.feed(client(2), bytes(4))

    def flood() -> None:
        for number in range(20_000):
            server.feed(client(5 + number) if who == "strangers" else client(2), b"more")

    assert peak(flood) < 50_000
    assert len(server.faults) <= PATIENCE
    assert server.ended is None


# Vectors that are of no use


def useless(kind: str) -> tuple[Session, bytes, bytes]:
    """A server and a whole vector of client 1 that it does not want."""
    server = adding(4, SIZE)
    control, data = vector(server, 1)
    if kind == "doubled":
        for piece in (control, data):
            server.feed(client(1), piece)
    elif kind == "far out of turn":
        control, _ = vector(server, 1, epoch=2)
    elif kind == "of the next sum":
        control, _ = vector(server, 1, epoch=1)
    return server, control, data


@pytest.mark.parametrize(
    ("kind", "check"), [("doubled", "wire-duplicate"), ("far out of turn", "wire-epoch"), ("of the next sum", "wire-early")]
)
def test_a_vector_that_is_not_wanted_is_judged_before_anything_is_set_aside_for_it(kind: str, check: str) -> None:
    server, control, data = useless(kind)
    server.feed(client(1), control)
    assert checks(server) == [check]
    assert peak(lambda: server.feed(client(1), data)) < VECTOR / 20
    assert checks(server) == [check]
    wanted = adding(4, SIZE)
    wanted.feed(client(1), control if kind == "doubled" else vector(wanted, 1)[0])
    buffer = bytearray(data)  # of a transport that will use it again; whole `bytes` would be kept as they are
    assert peak(lambda: wanted.feed(client(1), buffer)) > len(data)


def test_half_vectors_of_those_left_out_at_the_deadline_are_forgotten() -> None:
    server = adding(8, SIZE)
    control, data = vector(server, 1)
    for u in (1, 2, 3, 4, 5, 6):
        server.feed(client(u), control)
        server.feed(client(u), data)

    def halves() -> None:
        for u in (7, 8):
            server.feed(client(u), control)
            server.feed(client(u), data[:-1])

    tracemalloc.start()
    halves()
    assert tracemalloc.get_traced_memory()[0] > 2 * len(data)
    server.tick(300.0)
    assert tracemalloc.get_traced_memory()[0] < 2.1 * VECTOR  # the sum, in 64 bits
    tracemalloc.stop()
    assert server.outputs[0].contributors == 6
    assert not server._intake._turns
    late = ("wire-late", "client 7")
    server.feed(client(7), data[-1:])
    assert [(fault.check, fault.sender) for fault in server.faults] == [late]
    server.feed(client(7), control)
    server.feed(client(7), data)  # too late altogether: noted once as well
    assert [(fault.check, fault.sender) for fault in server.faults] == [late, late]


@dataclass(frozen=True)
class Factor:
    """What the adding step awaits beside the vectors."""

    value: int


def test_vectors_are_added_up_though_their_step_waits_for_something_else() -> None:
    """Else a late input would make a list of n vectors of them."""
    plain = adding(4, SIZE)
    flow = Flow("scaled")

    @flow.client
    def submit(factor: Factor) -> Clear: ...

    @flow.server(fold=absorb_clear, quorum=THRESHOLD, within=300.0)
    def total(srv: Adding, factor: Input[Factor], arrived: Arrived[Clear]) -> Output[Sum]:
        return Output(Sum(srv.total.total() * factor.value, len(arrived)))

    server = Session(flow.check(), SERVER, {"client": range(1, 5)}, plain.remembers, plain.limits)
    server.begin()
    control, data = vector(server, 1)

    def one_after_another() -> None:
        for u in (1, 2, 3, 4):
            server.feed(client(u), control)
            server.feed(client(u), data)

    assert peak(one_after_another) < 1.3 * len(data)
    assert not server.finished
    server.provide(Factor(3))
    assert (server.outputs[0].values == 12).all()


# Work


def test_a_message_in_tiny_pieces_does_not_set_the_steps_going_with_each() -> None:
    """All parties' messages are counted when one is complete, or time is up, not when a byte has come."""
    asked = list[int]()
    plain = adding(4, 200)
    flow = Flow("counted")

    @flow.client
    def submit(factor: Factor) -> Clear: ...

    def quorum(srv: Adding) -> int:
        asked.append(1)
        return THRESHOLD(srv)

    @flow.server(fold=absorb_clear, quorum=quorum, within=300.0)
    def total(srv: Adding, arrived: Arrived[Clear]) -> Output[Sum]:
        return Output(Sum(srv.total.total(), len(arrived)))

    server = Session(flow.check(), SERVER, {"client": range(1, 5)}, plain.remembers, plain.limits)
    server.begin()
    interleave(server, {u: cut(vector(server, u), 1) for u in (1, 2, 3)})
    assert len(asked) == 4
    server.feed(client(4), vector(server, 1)[0], 300.0)
    assert len(asked) == 5
    assert server.outputs[0].contributors == 3


def odd_shapes(size: int) -> Iterator[bytes]:
    """Control bytes of that size which unfold to many small things: the costly ones to encode again."""
    for item in (b"\x80", b"\xa0", b"\x81\x81\x81\x80", b"\x40"):
        count = size // len(item)
        yield b"\x9a" + count.to_bytes(4, "big") + item * count
        yield b"\x83\x65Boxes\x00\x9a" + count.to_bytes(4, "big") + item * count


def test_a_tree_of_odd_shapes_is_refused_before_it_is_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding 3.5 MB of empty maps takes seconds, decoding them a tenth of that."""
    encoded = list[object]()
    monkeypatch.setattr(wire, "canonical", lambda tree: encoded.append(tree) or canonical(tree))
    for data in odd_shapes(2000):
        with pytest.raises(Refused):
            parse_control(data, {"Boxes": Boxes}, Limits(5, {}))
    assert encoded == []


@pytest.mark.parametrize("peer", [Address("server", 5), Address("client", 1), Address("nobody")])
def test_who_has_no_part_can_be_gone(peer: Address) -> None:
    session = at_state(ME, 1)
    assert session.gone(peer) == []
    assert session.ended is None
