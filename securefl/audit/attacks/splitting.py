"""Two honest servers for one session, each for one half of the parties: equivocation as a black box.

Every honest party's letters go to both servers, but only one of them answers it; what one server is not shown it takes for a
dropout.  Parties that collude run twice, from the same entropy, once for each server.  So each half is told a story that is right
in itself, whatever the protocol: other lists, other survivors, other requests to open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from protocols import simulate
from protocols.errors import Abort
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.vector import Vector
from securefl.audit.federation import Federation
from securefl.audit.judging import Run


@dataclass(frozen=True)
class Half:
    """One server's world.

    Attributes:
        members: honest parties that hear this server.
        hides: (party, message): what this server is not shown of a party, from that message on.
    """

    members: frozenset[int]
    hides: Mapping[int, str]


class Split:
    """The two worlds of one session.

    Args:
        fed: the federation.
        halves: the two worlds.
        colluding: parties that take part in both.
    """

    def __init__(self, fed: Federation, halves: tuple[Half, Half], colluding: Collection[int]) -> None:
        self.fed, self.halves, self.colluding = fed, halves, frozenset(colluding)
        self.servers = [fed.server(), fed.server()]
        self.honest = {u: fed.session(u) for u in fed.parties if u not in self.colluding}
        self.twins = [{u: fed.session(u) for u in self.colluding} for _ in halves]
        self._queue = deque[tuple[int | None, Letter]]()
        self._hidden: list[set[int]] = [set(), set()]
        self._left = fed.deliveries
        self._now = 0.0

    def play(self) -> tuple[Run, Run]:
        """Run both worlds to their ends; what became of each."""
        for world, server in enumerate(self.servers):
            self._push(world, server.begin())
        for u, session in self.honest.items():
            self._push(None, [*session.begin(), *self._provide(u, session)])
        for world, twins in enumerate(self.twins):
            for u, session in twins.items():
                self._push(world, [*session.begin(), *self._provide(u, session)])
        self._drain()
        while self._advance():
            self._drain()
        return self._run(0), self._run(1)

    def _provide(self, u: int, session: Session) -> list[Letter]:
        return [] if session.ended is not None else session.provide(Vector(self.fed.vectors[u]))

    def _run(self, world: int) -> Run:
        sessions: dict[Address, Session] = {SERVER: self.servers[world]}
        sessions |= {client(u): s for u, s in self.honest.items() if u in self.halves[world].members}
        return self.fed, simulate.Outcome(sessions, list(self.servers[world].outputs))

    def _push(self, world: int | None, letters: list[Letter]) -> None:
        self._queue.extend((world, letter) for letter in letters)

    def _drain(self) -> None:
        while self._queue:
            world, letter = self._queue.popleft()
            for at, to, session in list(self._ends(world, letter)):
                self._left -= 1
                if self._left < 0:
                    raise Abort("flood", "the flow does not come to an end")
                origin = at if to == SERVER or to.index in self.colluding else None
                for frame in letter.chunks():
                    if session.open(letter.sender):
                        self._push(origin, session.feed(letter.sender, frame, self._now))

    def _ends(self, world: int | None, letter: Letter) -> Iterator[tuple[int, Address, Session]]:
        """Who gets a letter: for those of honest parties, both servers."""
        if letter.sender == SERVER and world is not None:
            for to in letter.to:
                if to.index in self.colluding:
                    yield world, to, self.twins[world][to.index]
                elif to.index in self.halves[world].members:
                    yield world, to, self.honest[to.index]
            return
        for at in (0, 1) if world is None else (world,):
            if self.halves[at].hides.get(letter.sender.index) == type(letter.message).__name__:
                self._hidden[at].add(letter.sender.index)
            if letter.sender.index not in self._hidden[at]:
                yield at, SERVER, self.servers[at]

    def _advance(self) -> bool:
        """Jump to the next deadline of a server; whether there was one."""
        waiting = [(at, world) for world, server in enumerate(self.servers) if (at := server.deadline) is not None]
        if not waiting:
            return False
        self._now = max(self._now, min(at for at, _ in waiting))
        for at, world in waiting:
            if at <= self._now:
                self._push(world, self.servers[world].tick(self._now))
        return True
