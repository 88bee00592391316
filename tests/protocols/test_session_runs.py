"""Whole runs with one thing wrong: the others finish with the right sum, and the culprit is named."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SEEDS, Case, cases, client, play, spoilt
from tapes import CASE, CUTS, ME, Delivery, at_state, check_sane, in_pieces, tape

from protocols import simulate
from protocols.agreement import Agree, Dropped
from protocols.bulk import Floats
from protocols.errors import Misuse
from protocols.rand import Replay
from protocols.schema import Message, strings
from protocols.secagg_types import BOX, Boxes, Openings
from protocols.session import SERVER, Address, Letter, Session
from protocols.sums import scheme
from protocols.wire import Limits, encode


class Driver:
    """Moves bytes between live sessions, in order, and lets something be fed in between."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.sessions = {address: case.session(address) for address in case.everybody}
        self.queue = deque[Delivery]()
        self.count, self.now = 0, 0.0
        self.survivors: set[int] = set()
        self.slow: set[Address] = set()

    def post(self, letters: list[Letter]) -> None:
        for letter in letters:
            data = b"".join(letter.chunks())
            self.queue.extend(Delivery(letter.sender, to, letter.message, data) for to in letter.to)
            if isinstance(letter.message, Dropped):
                self.survivors = {to.index for to in letter.to}

    def feed(self, sender: Address, to: Address, data: bytes) -> None:
        self.post(self.sessions[to].feed(sender, data, self.now))

    def run(self, at: int, inject: Callable[[Driver], None]) -> None:
        """Deliver everything; before delivery number ``at``, or at the end, ``inject``."""
        for address, session in self.sessions.items():
            self.post(session.begin())
            if address != SERVER:
                self.post(session.provide(self.case.vector(address.index)))
        done = False
        while True:
            if not done and (self.count == at or not self.queue):
                inject(self)
                done = True
            if self.queue:
                delivery = self.queue.popleft()
                self.count += 1
                self.feed(delivery.sender, delivery.to, delivery.data)
            elif (deadline := self.sessions[SERVER].deadline) is not None:
                self.now = max(self.now, deadline)
                self.slow |= {a for a in self.sessions if self.sessions[SERVER]._intake.reading(a)}
                self.post(self.sessions[SERVER].tick(self.now))
            elif done:
                return

    def check(self) -> Session:
        """No session is in a state that it may not be in, and what came out is the sum over the survivors."""
        for session in self.sessions.values():
            check_sane(session)
        server = self.sessions[SERVER]
        assert len(server.outputs) == (server.ended is None)
        if server.outputs:
            assert server.outputs[0].values.tolist() == self.case.sum_over(sorted(self.survivors))
            assert server.outputs[0].contributors == len(self.survivors)
        return server


LENGTH = len(tape())


@given(st.integers(0, LENGTH), st.integers(1, 4), st.data())
@settings(max_examples=200)
def test_whatever_one_client_sends_the_others_finish_and_it_is_named(at: int, u: int, data: st.DataObject) -> None:
    """Honest bytes of its own or another's, whole, spoilt, cut or of another run, or garbage: at any moment."""
    source = data.draw(st.sampled_from([d for d in tape(data.draw(st.integers(0, 1))) if d.to == SERVER]))
    message = data.draw(st.just(source.message) | spoilt(source.message, CASE.limits))
    whole = b"".join(encode(message, data.draw(st.sampled_from([0, 0, 0, 1, 2, 7])), CASE.limits))
    sent = data.draw(st.sampled_from([whole, whole, whole[: len(whole) // 2], whole + b"\0"]) | st.binary(min_size=1, max_size=40))
    driver = Driver(CASE)
    driver.run(at, lambda d: d.feed(client(u), SERVER, sent))
    server = driver.check()
    if len(server.accused) > 1:  # boxes that two or more cannot open drive them out, and too few are left: an abort that names it
        assert isinstance(message, Boxes)
        assert server.ended is not None
        assert server.ended.check == "quorum"
        assert set(server.accused.values()) == {u}
        return
    assert server.ended is None
    assert {1, 2, 3, 4} - driver.survivors <= {u, *(v.index for v in server.accused)}
    assert {fault.sender for fault in server.faults} <= {f"client {u}"}
    for leaver, blamed in server.accused.items():  # who finds that the server tells other keys in its name blames nobody else
        assert blamed == (0 if leaver.index == u else u)
    if u not in driver.survivors:
        assert server.faults or client(u) in driver.slow  # its honest bytes were taken for the rest of a longer message: a dropout


@given(st.integers(0, LENGTH), st.integers(1, 4), st.data())
@settings(max_examples=100)
def test_whatever_one_client_is_told_the_others_finish(at: int, v: int, data: st.DataObject) -> None:
    source = data.draw(st.sampled_from([d for d in tape(data.draw(st.integers(0, 1))) if d.sender == SERVER]))
    message = data.draw(st.just(source.message) | spoilt(source.message, CASE.limits))
    whole = b"".join(encode(message, data.draw(st.sampled_from([0, 0, 0, 1, 7])), CASE.limits))
    sent = data.draw(st.sampled_from([whole, whole, whole[: len(whole) // 2], whole + b"\0"]) | st.binary(min_size=1, max_size=40))
    driver = Driver(CASE)
    driver.run(at, lambda d: d.feed(SERVER, client(v), sent))
    server = driver.check()
    assert server.ended is None
    assert {1, 2, 3, 4} - driver.survivors <= {v}
    for u in {1, 2, 3, 4} - {v}:
        assert driver.sessions[client(u)].ended is None
        assert driver.sessions[client(u)].faults == []


def other_boxes(honest: Message, said: Message, holders: list[int]) -> list[int]:
    """Who gets another box than the honest one, where the server takes the message."""
    if not (isinstance(honest, Boxes) and isinstance(said, Boxes) and len(honest.boxes) == len(said.boxes)):
        return []
    if replace(said, boxes=honest.boxes) != honest:
        return []
    pairs = zip(strings(honest.boxes, BOX), strings(said.boxes, BOX), strict=True)
    return [v for v, (a, b) in zip(holders, pairs, strict=True) if a != b]


@given(st.sampled_from([d for d in tape() if d.to == SERVER]), st.data())
@settings(max_examples=200)
def test_a_spoilt_message_in_place_of_the_honest_one_names_its_sender(honest: Delivery, data: st.DataObject) -> None:
    """Refused by the server on arrival, or, where the addressee alone can tell, by the addressee, who leaves and names it."""
    said = data.draw(spoilt(honest.message, CASE.limits))

    def network(letter: Letter) -> tuple[Letter, ...]:
        if letter.sender == honest.sender and type(letter.message) is type(honest.message):
            return (replace(letter, message=said),)
        return (letter,)

    got = play(CASE, network=network)
    server, u = got.outcome.sessions[SERVER], honest.sender.index
    bad = other_boxes(honest.message, said, [v for v in CASE.inputs if v != u])
    if len(CASE.inputs) - len(bad) >= CASE.parameters.threshold:
        assert got.total is not None
        assert got.total.values.tolist() == CASE.sum_over(got.survivors())
    else:  # one bad dealer is as many dropouts as it has bad boxes
        assert server.ended is not None
        assert server.ended.check == "quorum"
    for session in got.outcome.sessions.values():
        check_sane(session)
    if server.faults:
        assert {fault.sender for fault in server.faults} == {str(honest.sender)}
        assert server.accused == {}
        assert not server.faults[0].check.startswith("wire-")
    elif isinstance(honest.message, Boxes):
        assert bad
        accused = dict.fromkeys(map(client, bad), u)
        assert server.accused == accused if server.ended is None else server.accused.items() <= accused.items()
        assert {ended.check for v in bad if (ended := got.outcome.sessions[client(v)].ended)} == {"box-opens"}
    else:  # a signature or share that the sum does without
        assert isinstance(honest.message, Agree | Openings)
        assert got.survivors() == list(CASE.inputs)


@given(st.integers(1, 4), st.integers(0, LENGTH), st.sampled_from(["Masked", "Boxes", "Openings"]), st.floats(0, 0.999))
@settings(max_examples=40)
def test_half_a_message_leaves_no_trace(u: int, at: int, stage: str, part: float) -> None:
    """A party that is gone in the middle of its message is as one that is gone before it."""
    server = CASE.session(SERVER)
    sessions = {client(v): CASE.session(client(v)) for v in CASE.inputs}
    queue = deque(letter for s in (server, *sessions.values()) for letter in s.begin())
    for v, session in sessions.items():
        session.provide(CASE.vector(v.index))
    gone = False
    while queue:
        letter = queue.popleft()
        data = b"".join(letter.chunks())
        if letter.sender == client(u) and (gone or type(letter.message).__name__ == stage):
            if not gone:
                gone = True
                queue.extend(server.feed(letter.sender, data[: int(part * len(data))]))
                queue.extend(server.gone(letter.sender))
            continue
        for to in letter.to:
            queue.extend((server if to == SERVER else sessions[to]).feed(letter.sender, data))
    expected = replace(CASE, dropouts={u: stage}).reference()
    assert server.ended is None
    assert server.outputs[0].values.tolist() == list(expected.total or ())
    assert server.faults == []


@given(cases(parties=(2, 4), size=(1, 4)), CUTS)
@settings(max_examples=20)
def test_sessions_do_not_care_how_bytes_are_cut(case: Case, cuts: list[float]) -> None:
    driver = Driver(replace(case, dropouts={}))
    feed = driver.feed

    def chopped(sender: Address, to: Address, data: bytes) -> None:
        for piece in in_pieces(data, cuts):
            feed(sender, to, piece)

    driver.feed = chopped  # type: ignore[method-assign]
    driver.run(10**9, lambda _: None)
    assert driver.check().outputs[0].values.tolist() == case.sum_over(list(case.inputs))
    assert not any(s.faults for s in driver.sessions.values())


@given(cases(parties=(3, 6), size=(1, 40)), st.integers(1, 3), st.integers(1, 200), SEEDS)
@settings(max_examples=25)
def test_sessions_do_not_care_how_uploads_interleave(case: Case, turns: int, piece: int, seed: int) -> None:
    """Every line between two parties moves on its own, a piece at a time; lines of those that wait for their turn stand still."""
    chosen, terms = scheme("secagg"), case.terms()
    peers, start = {"client": terms.roster.indexes}, [chosen.server_start(terms)]
    sessions = {client(u): case.session(client(u)) for u in case.inputs}
    sessions[SERVER] = Session(chosen.flow, SERVER, peers, start, case.limits, turns=turns)
    lines: dict[tuple[Address, Address], deque[bytes]] = {}

    def post(letters: list[Letter]) -> None:
        for letter in letters:
            control, *frames = letter.chunks()
            data = b"".join(frames)
            pieces = [control[:-1], control[-1:], *(data[at : at + piece] for at in range(0, len(data), piece))]
            for to in letter.to:
                lines.setdefault((letter.sender, to), deque()).extend(pieces)

    for address, session in sessions.items():
        post(session.begin())
        if address != SERVER:
            post(session.provide(case.vector(address.index)))
    draws = cycle(Replay(f"{seed}")().words("order", 500).tolist())
    while moving := [(sender, to) for (sender, to), line in lines.items() if line and sessions[to].open(sender)]:
        sender, to = moving[next(draws) % len(moving)]
        post(sessions[to].feed(sender, lines[sender, to].popleft()))
        assert len(sessions[SERVER]._intake._turns) <= turns
    assert not any(lines.values())
    assert not any(s.faults for s in sessions.values())
    assert sessions[SERVER].outputs[0].values.tolist() == case.sum_over(list(case.inputs))


@settings(max_examples=30, deadline=None)
@given(cases(), st.sampled_from([2, 3, 64]))
def test_parties_that_work_side_by_side_say_what_they_say_one_after_the_other(case: Case, together: int) -> None:
    """Every byte between every two parties, every output, every fault; letters fed in one piece or in frames."""

    def told(most: int) -> object:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(simulate, "TOGETHER", most)
            patched.setattr(simulate, "SHORT", 0 if most == 1 else simulate.SHORT)
            played = play(case)
        ends = {a: (s.ended and s.ended.check, [f.check for f in s.faults]) for a, s in played.outcome.sessions.items()}
        order = {to: [kind for kind, sender, at, _ in played.outcome.traffic if at == to and sender == SERVER] for to in ends}
        return played.wire, [(sum_.values.tolist(), sum_.contributors) for sum_ in played.outcome.outputs], ends, order

    assert told(1) == told(together)


@given(st.integers(0, 3))
def test_steps_that_are_got_ready_and_performed_are_those_that_run_at_once(count: int) -> None:
    at_once, stepwise = at_state(ME, count), at_state(ME, count)
    message = [d for d in tape() if d.to == ME][count]
    letters = at_once.feed(SERVER, message.data)
    assert not at_once.busy
    assert stepwise.feed(SERVER, message.data, act=False) == []
    assert stepwise.busy
    ran = list[Letter]()
    while stepwise.busy:
        ran += stepwise.poise(0.0)
        if stepwise.busy:
            stepwise.perform()
    with pytest.raises(Misuse, match="no step"):
        stepwise.perform()
    assert [b"".join(letter.chunks()) for letter in ran] == [b"".join(letter.chunks()) for letter in letters]
    assert {type(value) for value in stepwise.remembers} == {type(value) for value in at_once.remembers}


@given(st.integers(0, 3), st.data())
@settings(max_examples=100)
def test_a_step_that_fails_when_it_is_performed_ends_the_session_as_at_once(count: int, data: st.DataObject) -> None:
    """Same check, same faults, same farewell, nothing kept."""
    honest = [d for d in tape() if d.to == ME][count]
    said = b"".join(encode(data.draw(spoilt(honest.message, CASE.limits)), 0, CASE.limits))
    at_once, stepwise = at_state(ME, count), at_state(ME, count)
    letters = at_once.feed(SERVER, said)
    ran = stepwise.feed(SERVER, said, act=False)
    while stepwise.busy:
        ran += stepwise.poise(0.0)
        if stepwise.busy:
            stepwise.perform()
    assert [(letter.to, b"".join(letter.chunks())) for letter in ran] == [
        (letter.to, b"".join(letter.chunks())) for letter in letters
    ]
    assert [(f.check, f.step, f.sender) for f in stepwise.faults] == [(f.check, f.step, f.sender) for f in at_once.faults]
    assert str(stepwise.ended) == str(at_once.ended)
    check_sane(stepwise)


def test_what_a_step_that_was_got_ready_takes_is_gone_when_it_fails() -> None:
    session = at_state(ME, 0)
    session.feed(SERVER, next(d for d in tape() if d.to == ME).data, act=False)
    session.poise(0.0)
    assert session._poised is not None
    step, arguments = session._poised

    def fails(**_: object) -> None:
        raise ValueError("own code")

    session._poised = replace(step, fn=fails), arguments
    with pytest.raises(ValueError, match="own code"):
        session.perform()
    assert session.ended is not None
    assert session.ended.check == "misuse"
    assert (session.busy, session.remembers, session._poised, session._performed) == (False, (), None, None)
    assert session.poise(0.0) == []


def test_how_many_work_side_by_side_is_bounded_by_what_they_hold() -> None:
    """Two vectors of 24 MiB fit in 64 MiB: with them at most two parties hold what they made between two steps."""
    for size, most in ((24 << 18, 2), (64 << 18, 1), (128 << 18, 1), (1, simulate.TOGETHER)):
        session = at_state(ME, 0)
        session.limits = Limits(4, {"masked": Floats(size)})
        assert simulate._Loop(simulate.Outcome({ME: session}), None, None, 1)._together == most
