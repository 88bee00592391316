"""The server's memory while vectors come: a sum, as many vectors as there are turns, and control messages, whatever n."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SEEDS, client, simple_case
from uploads import SIZE, THRESHOLD, VECTOR, adding, cut, interleave, peak, vector

from protocols import intake, ring, simulate
from protocols.errors import Misuse
from protocols.intake import Intake
from protocols.rand import Replay
from protocols.session import SERVER, Letter, Session

PACKED, FEW = 18 / 32, 15 / 32
"""Packed bytes of a vector over those in memory, for 80 parties and for 10."""


def upload_peak(parties: int, turns: int) -> float:
    """Peak of a server from its making until all but one byte has come, in vectors; all uploads interleave, in pieces of 4 KiB."""
    control, data = vector(adding(parties, SIZE), 7)
    pieces, last, servers = cut((control, data[:-1]), 1 << 14), data[-1:], list[Session]()
    whole = [*pieces, last]
    everybody = {u: whole if u < parties else pieces for u in range(1, parties + 1)}

    def run() -> None:
        servers.append(adding(parties, SIZE, turns=turns))
        interleave(servers[0], everybody)

    size = peak(run) / VECTOR
    servers[0].feed(client(parties), last)
    assert (servers[0].outputs[0].values == 7 * parties).all()
    return size


def test_memory_while_vectors_come_is_the_sum_and_a_vector_for_each_turn_whatever_n(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector under way costs its packed bytes, a party the control fields that it has sent; none waits to be added here."""
    monkeypatch.setattr(ring, "PENDING", 0)
    control = 4096 / VECTOR
    for turns in (1, 4):
        few, many = upload_peak(10, turns), upload_peak(80, turns)
        assert many < 1.05 * (1 + turns * PACKED) + 80 * control
        assert many - few < 70 * control


def test_control_without_turns_memory_grows_with_n() -> None:
    assert upload_peak(10, 80) > 1 + 10 * FEW
    assert upload_peak(80, 80) > 1 + 79 * PACKED


@given(st.integers(2, 9), st.integers(1, 4), st.integers(1, 90), SEEDS)
@settings(max_examples=40)
def test_whoever_is_fed_next_the_sum_is_exact_and_no_more_than_turns_are_under_way(
    parties: int, turns: int, piece: int, seed: int
) -> None:
    server, size = adding(parties, 20, turns=turns), 20
    pieces = {u: cut(vector(server, 3**u % 1000), piece) for u in range(1, parties + 1)}

    def order() -> Iterator[int]:
        for draw in cycle(Replay(f"{seed}")().words("order", 1000).tolist()):
            yield 1 + draw % parties
            halves = sum(body is not None and body.waiting[0].parser is not None for body in bodies(server))
            assert halves <= turns

    interleave(server, pieces, order())
    assert server.outputs[0].values.tolist() == [sum(3**u % 1000 for u in pieces)] * size
    assert server.outputs[0].contributors == parties
    assert server.faults == []


def bodies(server: Session) -> list[Any]:
    return [decoder._body for decoder in server._intake._reading.values()]


def test_a_driver_that_feeds_a_sender_out_of_turn_is_told_and_nothing_is_lost() -> None:
    server = adding(3, 20, turns=1)
    (first, *_), (second, rest) = cut(vector(server, 1), 9), vector(server, 2)
    assert not server.crowded
    server.feed(client(1), first)
    assert server.crowded
    server.feed(client(2), second)
    assert server.open(client(1))
    assert not server.open(client(2))
    assert server.open(client(3))
    with pytest.raises(Misuse, match="client 2 waits for its turn"):
        server.feed(client(2), rest)
    assert server.ended is None
    server.feed(client(1), vector(server, 1)[1])
    assert server.open(client(2))
    server.feed(client(2), rest)
    assert not server.crowded
    server.feed(client(3), b"".join(vector(server, 3)))
    assert server.outputs[0].values.tolist() == [6] * 20


@pytest.mark.parametrize("leaves", ["gone", "refused", "left out"])
def test_a_turn_goes_on_to_who_has_waited_longest(leaves: str) -> None:
    server = adding(6, 20, turns=1)
    control, data = vector(server, 1)
    for u in (2, 4, 3, 1):
        server.feed(client(u), control)
    assert [server.open(client(u)) for u in (2, 4, 3, 1)] == [True, False, False, False]
    if leaves == "gone":
        server.gone(client(4))
        server.gone(client(2))
    elif leaves == "refused":
        server.gone(client(4))
        server.feed(client(2), data[:-1] + b"\xff")  # bits in the filling
        assert [fault.check for fault in server.faults] == ["vector-padding"]
    else:
        server._arrivals.await_only("client", (1, 3, 5, 6))
    assert [server.open(client(u)) for u in (3, 1)] == [True, False]


@pytest.mark.parametrize("size", [1, None])
def test_vector_bytes_behind_the_control_fields_wait_for_no_turn_and_expel(size: int | None) -> None:
    """Else every sender could park a frame in the server's memory."""
    server = adding(3, 20, turns=1)
    control, data = vector(server, 1)
    server.feed(client(1), control)
    server.feed(client(2), control + data[:size])
    assert [(fault.check, fault.sender) for fault in server.faults] == [("wire-turn", "client 2")]
    server.feed(client(1), data)
    server.feed(client(3), control + data)
    assert server.outputs[0].contributors == 2


@given(st.lists(st.tuples(st.sampled_from(["flip", "cut", "more"]), st.floats(0, 1), st.integers(1, 255)), max_size=2))
@settings(max_examples=150)
def test_a_whole_message_fares_as_one_that_a_decoder_reads(damage: list[tuple[str, float, int]]) -> None:
    """Vectors and all: the same is refused, added or waited for."""
    control, data = vector(adding(3, 20), 5)
    said = bytearray(bytes(control) + data)
    for how, where, what in damage:
        at = int(where * (len(said) - 1))
        if how == "flip":
            said[at] ^= what
        elif how == "cut":
            del said[at]
        else:
            said.insert(at, what)

    def end() -> object:
        server = adding(3, 20)
        server.feed(client(1), bytes(said))
        for u in (2, 3):
            server.feed(client(u), control + data)
        server.tick(300.0)
        faults = [(fault.check, fault.detail, fault.sender, fault.step) for fault in server.faults]
        return faults, [(out.values.tolist(), out.contributors) for out in server.outputs], str(server.ended)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(intake, "whole", lambda *_: None)
        by_decoder = end()
    assert end() == by_decoder


# Turns end


def test_who_takes_longer_than_its_share_of_the_time_is_expelled_if_others_wait() -> None:
    """300 s and 2 turns for 4 senders: 150 s each."""
    server = adding(4, 20, turns=2)
    control, data = vector(server, 1)
    for u in (1, 2, 3):
        server.feed(client(u), control, 10.0 * u)
    assert server.deadline == pytest.approx(160.0)
    server.feed(client(1), data[:5], 159.0)
    assert server.tick(159.9) == []
    assert not server.open(client(3))
    server.tick(160.0)
    assert [(fault.check, fault.sender) for fault in server.faults] == [("wire-slow", "client 1")]
    assert server.open(client(3))
    assert server.deadline == pytest.approx(300.0)  # client 2's turn is over at 170, which is nothing to anybody
    server.feed(client(1), data[5:], 161.0)
    assert len(server.faults) == 1
    server.feed(client(2), data, 299.0)  # longer than its share, but nobody waits
    server.feed(client(3), data, 299.0)
    server.feed(client(4), control + data, 299.0)
    assert server.outputs[0].contributors == 3


@given(st.integers(1, 3), st.integers(4, 12), st.data())
@settings(max_examples=30)
def test_senders_that_stall_on_their_turns_do_not_keep_the_others_out(turns: int, parties: int, data: st.DataObject) -> None:
    """As many as the step can lose; they are first in the queue, and everybody else has sent before the step's time is over."""
    server = adding(parties, 20, turns=turns)
    most = parties - THRESHOLD(next(iter(server.remembers)))
    stalling = data.draw(st.sets(st.integers(1, parties), max_size=most))
    control, body = vector(server, 1)
    honest = [u for u in range(1, parties + 1) if u not in stalling]
    for u in [*sorted(stalling), *honest]:
        server.feed(client(u), control)
    at = 0.0
    while honest:
        while (u := next((u for u in honest if server.open(client(u))), None)) is not None:
            server.feed(client(u), body, at)
            honest.remove(u)
        if honest:
            assert server.deadline is not None
            at = server.deadline
            server.tick(at)
    assert at < 300.0
    server.tick(300.0)
    assert server.outputs[0].contributors == parties - len(stalling)


class Stalled(Letter):
    """A letter whose sender vanishes after the control fields, and is not known to be gone."""

    def chunks(self) -> Iterator[bytes]:
        yield next(super().chunks())


def test_the_simulation_holds_back_whose_turn_it_is_not() -> None:
    case = simple_case(6, 20)
    sessions = {a: case.session(a, protocol="plain-insecure") for a in case.everybody}
    sessions[SERVER] = adding(6, 20, turns=1, terms=case.terms("plain-insecure"))

    def network(letter: Letter) -> tuple[Letter, ...]:
        return (Stalled(**vars(letter)),) if letter.sender in (client(1), client(4)) else (letter,)

    outcome = simulate.run(sessions, {client(u): [case.vector(u)] for u in case.inputs}, network=network)
    assert [(f.check, f.sender) for f in sessions[SERVER].faults] == [("wire-slow", "client 1"), ("wire-slow", "client 4")]
    assert outcome.outputs[0].values.tolist() == case.sum_over([2, 3, 5, 6])


def test_control_without_an_end_to_turns_one_stalling_sender_keeps_everybody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Intake, "overdue", lambda _: [])
    server = adding(4, 20, turns=1)
    for u in (1, 2, 3, 4):
        server.feed(client(u), vector(server, 1)[0])
    server.tick(299.0)
    assert not any(server.open(client(u)) for u in (2, 3, 4))
    server.tick(300.0)
    assert server.ended is not None
    assert server.ended.check == "quorum"


def test_a_session_has_a_turn_at_least() -> None:
    with pytest.raises(Misuse, match="at least 1 turn"):
        adding(3, 20, turns=0)
