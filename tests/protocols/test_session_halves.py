"""A session whose steps run in two halves: a driver that mixes them up with anything else is refused, and nothing is lost by it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tapes import CASE, ME, at_state, check_sane, tape

from protocols.errors import Misuse
from protocols.secagg_types import Masked
from protocols.session import SERVER, Letter, Session
from protocols.vector import Vector
from securefl.audit.recorded import Recorded
from securefl.audit.seen import Seen

HAPPENINGS: dict[str, Callable[[Session], list[Letter]]] = {
    "feed": lambda s: s.feed(SERVER, b"\x01"),
    "feed, to act later": lambda s: s.feed(SERVER, b"\x01", act=False),
    "provide": lambda s: s.provide(Vector(np.zeros(CASE.parameters.size, np.int64))),
    "begin": lambda s: s.begin(),
    "tick": lambda s: s.tick(1.0),
    "gone": lambda s: s.gone(SERVER),
}


def told() -> list[bytes]:
    """What the party is sent, in order."""
    return [delivery.data for delivery in tape() if delivery.to == ME]


def raw(letters: list[Letter]) -> list[bytes]:
    return [b"".join(letter.chunks()) for letter in letters]


@pytest.mark.parametrize("what", HAPPENINGS)
def test_nothing_happens_to_a_session_between_the_halves_of_a_step(what: str) -> None:
    """Fed, ready and performed: it is refused as misuse, and the session goes on as if nobody had tried."""
    state = 1 if what == "provide" else 0  # from then on its vector is not waiting
    at_once, session = at_state(ME, state), at_state(ME, state)
    letters = at_once.feed(SERVER, told()[state])

    def refuses() -> None:
        assert not session.finished
        with pytest.raises(Misuse, match="is busy|already waiting"):
            HAPPENINGS[what](session)
        assert session.busy
        assert session.ended is None

    assert session.feed(SERVER, told()[state], act=False) == []
    refuses()
    assert session.poise(0.0) == []
    refuses()
    session.perform()
    refuses()
    assert raw(session.poise(0.0)) == raw(letters)
    assert {type(value) for value in session.remembers} == {type(value) for value in at_once.remembers}
    assert not session.busy
    check_sane(session)


def test_a_step_that_is_ready_is_not_got_ready_again() -> None:
    """A second `poise` would throw away what the step takes, and with it the session, unseen."""
    at_once, session = at_state(ME, 0), at_state(ME, 0)
    session.feed(SERVER, told()[0], act=False)
    session.poise(0.0)
    with pytest.raises(Misuse, match="the step share is ready"):
        session.poise(0.0)
    assert not session.finished
    session.perform()
    assert not session.finished  # its letters are not out yet
    assert raw(session.poise(0.0)) == raw(at_once.feed(SERVER, told()[0]))


def test_a_server_that_acts_later_holds_one_message_at_a_time() -> None:
    """What is added up on arrival is added up before the next one is taken: nobody's vector waits beside another's."""
    server = CASE.session(SERVER)
    server.begin()
    vectors = 0
    for delivery in (d for d in tape() if d.to == SERVER):
        server.feed(delivery.sender, delivery.data, act=False)
        with pytest.raises(Misuse, match="is busy"):
            server.feed(delivery.sender, delivery.data, act=False)
        while server.busy:
            server.poise(0.0)
            if server.busy:
                server.perform()
        held = [message for box in server._arrivals._inbox.values() for message in box.values()]
        assert not any(isinstance(message, Masked) for message in held)
        vectors += isinstance(delivery.message, Masked)
    assert vectors == len(CASE.inputs)
    assert server.outputs[0].values.tolist() == CASE.sum_over(list(CASE.inputs))


class Counting:
    """A book that counts what came."""

    def __init__(self) -> None:
        self.count = 0

    def sent(self, seen: Seen) -> None:
        """Nothing."""

    def was_told(self, seen: Seen, *, ended: bool = False) -> None:
        """One more."""
        self.count += 1

    def over(self, session: Session) -> None:
        """Nothing."""


def test_a_book_has_nothing_of_a_message_that_the_session_did_not_take() -> None:
    book = Counting()
    session = Recorded(at_state(ME, 0), book)
    session.feed(SERVER, told()[0], act=False)
    with pytest.raises(Misuse, match="is busy"):
        session.feed(SERVER, told()[1])
    assert book.count == 1
