"""A server that asks three parties, over and over; and sessions of it, or of any flow of a few lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from strategies import client
from values import A, B, C, D

from protocols.flow import Broadcast, Fanout, Flow, Inbox, Output
from protocols.schema import Index, Message
from protocols.session import SERVER, Session
from protocols.wire import Limits, encode

LIMITS = Limits(3, {})
PEERS = {"client": (1, 2, 3)}


class Start: ...


@dataclass(frozen=True)
class Ask(Message):
    n: Index


@dataclass(frozen=True)
class Tip(Message):
    n: Index


@dataclass(frozen=True)
class Reply(Message):
    n: Index


def said(message: Message, epoch: int = 0) -> bytes:
    return b"".join(encode(message, epoch, LIMITS))


def asking(to: tuple[int, ...] = (1, 2, 3), quorum: Callable[[B], int] = lambda _: 2, tip: int | None = None) -> Flow:
    """The server asks, waits for the replies for five seconds, and asks again; for ever."""
    flow = Flow("asking")

    @flow.server
    def ask(a: A) -> tuple[B, Broadcast[Ask], Fanout[Tip]]:
        return B(a.n + 1), Broadcast(Ask(a.n), to), Fanout({u: Tip(10 * u) for u in (to if tip is None else (tip,))})

    @flow.server(quorum=quorum, within=5.0)
    def learn(b: B, replies: Inbox[Reply]) -> tuple[A, Output[D]]:
        return A(b.n), Output(D(sum(reply.n for reply in replies.values())))

    @flow.client
    def reply(c: C, ask: Ask, tip: Tip) -> tuple[C, Reply]:
        return c, Reply(ask.n + tip.n)

    return flow.check()


def server(flow: Flow, *start: object, **more: Any) -> Session:
    return Session(flow, SERVER, PEERS, start, LIMITS, **more)


def party(flow: Flow, *start: object, peers: Any = None, **more: Any) -> Session:
    return Session(flow, client(2), {"server": [0]} if peers is None else peers, start, LIMITS, **more)


def ended(session: Session) -> tuple[str, str, str | None]:
    assert session.ended is not None
    return session.ended.check, session.ended.detail, session.ended.step
