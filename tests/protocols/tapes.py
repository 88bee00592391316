"""A recorded run of four parties, and sessions that are brought to any of its states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from hypothesis import strategies as st
from strategies import client, play, simple_case

from protocols.errors import Abort, Refused
from protocols.schema import Message
from protocols.session import SERVER, Address, Session

CASE = simple_case(4, 6)  # t = 3: one party may be lost
ME = client(2)


@dataclass(frozen=True)
class Delivery:
    sender: Address
    to: Address
    message: Message
    data: bytes


@lru_cache
def tape(case_seed: int = 0) -> tuple[Delivery, ...]:
    """Every delivery of an undisturbed run, in order."""
    case = replace(CASE, seed=case_seed)
    letters = play(case).letters
    out, seen = list[Delivery](), set[tuple[int, Address]]()
    for letter in letters:
        for to in letter.to:
            if (id(letter), to) not in seen:
                seen.add((id(letter), to))
                out.append(Delivery(letter.sender, to, letter.message, b"".join(letter.chunks())))
    return tuple(out)


def at_state(address: Address, count: int) -> Session:
    """The party's session after its first ``count`` deliveries."""
    session = CASE.session(address)
    session.begin()
    if address != SERVER:
        session.provide(CASE.vector(address.index))
    for delivery in [d for d in tape() if d.to == address][:count]:
        session.feed(delivery.sender, delivery.data)
        assert session.ended is None
    return session


def in_pieces(data: bytes, cuts: Sequence[float]) -> Iterator[bytes]:
    for begin, end in pairwise([0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]):
        yield data[begin:end]


CUTS = st.lists(st.floats(0, 1), max_size=3)


def check_sane(session: Session) -> None:
    """What holds for every session, whatever it was fed."""
    assert session.ended is None or type(session.ended) is Abort
    assert all(type(fault) is Refused and fault.check and fault.sender for fault in session.faults)
    if session.ended is not None:
        assert session.finished
        assert session.remembers == ()
        assert session.deadline is None
        assert session.ended.check
        assert session.begin() == session.tick(1e9) == session.feed(SERVER, b"more") == []
