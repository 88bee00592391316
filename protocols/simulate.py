"""All parties in one process: the same sessions as over a network, moved by a loop, with a hook for the network or an adversary.

Sessions of a role of many take turns, step by step (`TOGETHER`): what one session does and in which order is as if it ran alone.
Bytes are real: every letter is encoded, and fed in frames to a decoder.  When nothing moves any more, the clock jumps to the next
deadline, so a party that vanished costs no time.  Public work that all parties would repeat, such as checking the list of keys, is
done once (`protocols.once`).

Channel played: letters arrive whole, in order, from whom they say, unless the hook does otherwise.

What it does not protect: anything.  All parties' secrets lie in one process, and nothing here separates them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from protocols.errors import Abort
from protocols.once import shared_work
from protocols.session import Address, Letter, Session
from protocols.wire import Limits

Network = Callable[[Letter], Iterable[Letter]]
"""Sees every letter and says what is delivered instead: itself, others, or nothing."""
Watch = Callable[[Letter, Address, int], None]
"""Told of every delivery: the letter, its recipient, its size in bytes."""


SHORT = 64 << 10
"""Up to how many bytes a letter is fed in one piece, as a transport would bring it."""
TOGETHER, HELD = 64, 64 << 20
"""How many of the many parties work side by side, step by step, at most, and how many bytes of vectors they may hold meanwhile."""


@dataclass
class Outcome:
    """What became of all sessions.

    Attributes:
        sessions: all of them, for inspection.
        outputs: outputs of the roles of one party, in order.
        traffic: (message, sender, recipient, bytes) of every delivery, in order.
    """

    sessions: Mapping[Address, Session]
    outputs: list[Any] = field(default_factory=list)
    traffic: list[tuple[str, Address, Address, int]] = field(default_factory=list)

    @property
    def abort(self) -> Abort | None:
        """Why a role of one party ended without a result, or None."""
        return next((s.ended for s in self.sessions.values() if s.ended is not None and not s.flow.roles[s.me.role].many), None)

    @property
    def reason(self) -> Abort | None:
        """As `abort`; where a party stayed away by its own policy, that, since too few others is what follows from it."""
        policies = (s.ended for s in self.sessions.values() if s.ended is not None and s.ended.check.startswith("policy-"))
        return None if self.abort is None else next(policies, self.abort)


def together(limits: Limits) -> int:
    """How many parties of a session with these sizes work side by side."""
    held = max((layout.nbytes for layout in limits.vectors.values()), default=0)
    return max(1, min(TOGETHER, HELD // max(1, held)))


def vanish(stages: Mapping[Address, str]) -> Network:
    """A network in which each party of ``stages`` is gone before it sends the message of that name."""
    gone = set[Address]()

    def network(letter: Letter) -> Iterable[Letter]:
        if stages.get(letter.sender) == type(letter.message).__name__:
            gone.add(letter.sender)
        return () if letter.sender in gone else (letter,)

    return network


def run(
    sessions: Mapping[Address, Session],
    inputs: Mapping[Address, Iterable[object]] | None = None,
    *,
    network: Network | None = None,
    watch: Watch | None = None,
    max_deliveries: int = 10_000_000,
) -> Outcome:
    """Run sessions against each other until nothing moves.

    Args:
        sessions: every party's session.
        inputs: values from outside for each party, given at the start.
        network: what happens to letters; by default all arrive.
        watch: called on every delivery.
        max_deliveries: bound against a flow that never ends.

    Returns:
        The outcome; an abort is in it, not raised.

    Raises:
        Misuse: where an input is wrong.
    """
    with shared_work():
        return _run(_Loop(Outcome(sessions), network, watch, max_deliveries), sessions, inputs or {})


def _run(loop: _Loop, sessions: Mapping[Address, Session], inputs: Mapping[Address, Iterable[object]]) -> Outcome:
    for address, session in sessions.items():
        loop.queue.extend(session.begin())
        for value in inputs.get(address, ()):
            loop.queue.extend(session.provide(value))
    loop.drain()
    while loop.advance():
        loop.drain()
    for session in sessions.values():
        if not session.flow.roles[session.me.role].many:
            loop.outcome.outputs += session.outputs
    return loop.outcome


class _Loop:
    """The letters on their way and the clock."""

    def __init__(self, outcome: Outcome, network: Network | None, watch: Watch | None, most: int) -> None:
        self.outcome, self.queue, self.now = outcome, deque[Letter](), 0.0
        self._lines: dict[tuple[Address, Address], deque[bytes | memoryview]] = {}
        self._network, self._watch, self._left = network, watch, most
        self._together = min((together(session.limits) for session in outcome.sessions.values()), default=TOGETHER)

    def drain(self) -> None:
        """Deliver until nothing moves."""
        while self.queue:
            letter = self.queue.popleft()
            for arriving in (letter,) if self._network is None else self._network(letter):
                self._deliver(arriving)
                self._left -= max(1, len(arriving.to))
                if self._left < 0:
                    raise Abort("flood", "the flow does not come to an end")

    def advance(self) -> bool:
        """Jump to the next deadline; whether there was one."""
        waiting = [(at, s) for s in self.outcome.sessions.values() if (at := s.deadline) is not None]
        self.now = max(self.now, min((at for at, _ in waiting), default=self.now))
        for at, session in waiting:
            if at <= self.now:
                self.queue.extend(session.tick(self.now))
        self._move()
        return bool(waiting)

    def _deliver(self, letter: Letter) -> None:
        frames = list(letter.chunks())
        size = sum(map(len, frames))
        at_once = [b"".join(frames)] if size <= SHORT else frames
        for address in letter.to:
            self.outcome.traffic.append((type(letter.message).__name__, letter.sender, address, size))
            if self._watch is not None:
                self._watch(letter, address, size)
            if (session := self.outcome.sessions.get(address)) is not None:
                line = self._lines.setdefault((letter.sender, address), deque())
                line.extend(frames if line or session.busy or session.crowded else at_once)
        self._move()

    def _move(self) -> None:
        """Feed the frames on the lines; those of a sender that must wait for its turn stay there."""
        moved = True
        while moved:
            moved, awake = False, list[Session]()
            for (sender, to), line in list(self._lines.items()):
                session = self.outcome.sessions[to]
                many = session.flow.roles[to.role].many
                while line and session.open(sender) and not session.busy:
                    self.queue.extend(session.feed(sender, line.popleft(), self.now, act=not many))
                    moved = True
                if not line:
                    del self._lines[sender, to]
                if session.busy and session not in awake:
                    awake.append(session)
                if len(awake) == self._together:
                    self._work(awake)
            self._work(awake)

    def _work(self, awake: list[Session]) -> None:
        """Let sessions run a step each, in turn, until none has one left: the same code for all of them in a row is in cache."""
        while awake:
            for session in awake:
                self.queue.extend(session.poise(self.now))
            awake[:] = [session for session in awake if session.busy]
            for session in awake:
                session.perform()
