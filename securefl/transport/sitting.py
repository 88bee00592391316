"""One session and what feeds it, at a party or at the server: the driver of a sum.

A task of its own owns the session.  What comes waits in its queue: who feeds a frame is answered when the session has taken it, so
a stream is read no faster than its session works, and a sender whose turn has not come is not read at all.  Steps run in a worker
thread; all sessions of a process may share one.

Channel assumed: as `protocols.session`: frames of one sender in order, and the sender known.

What it does not protect: a step that never ends holds its sitting, and all that share the worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from protocols.session import Address, Letter, Session
from protocols.wire import longest
from securefl.transport.clock import Clock
from securefl.transport.envelope import Frame, Parcel, split


@dataclass(frozen=True)
class Part:
    """What a party puts into a sitting.

    Attributes:
        session: not begun.
        inputs: values from outside that the session waits for, at hand already.
        outside: works on what the session hands out, such as a training task, in a thread of its own, while the session goes on;
            what it gives back is an input of the session.
    """

    session: Session
    inputs: tuple[object, ...] = ()
    outside: Callable[[Any], object] | None = None


Post = Callable[[Parcel, Sequence[Address]], None]
"""Takes a letter that leaves, and to whom."""
Watch = Callable[[Sequence[Letter]], None]
"""Looks at letters before they leave."""


@dataclass(eq=False)
class _Fed:
    """Bytes of a sender; ``taken`` is set when the session has them all, or needs none any more."""

    sender: Address
    chunk: memoryview
    begins: bool
    taken: asyncio.Event = field(default_factory=asyncio.Event)


class Sitting:
    """A session under way.

    Args:
        number: of the sitting on its server.
        session: not begun.
        worker: runs its steps, one thread.
        clock: for its deadlines.
        post: called with every letter that leaves.
        watch: called in the worker with the letters of a step, before any of them leaves; where it raises, none does.
        outside: as `Part.outside`.
        beside: the threads in which that runs.
    """

    def __init__(
        self,
        number: int,
        session: Session,
        *,
        worker: Executor,
        clock: Clock,
        post: Post,
        watch: Watch | None = None,
        outside: Callable[[Any], object] | None = None,
        beside: Executor | None = None,
    ) -> None:
        self.number, self.session, self._watch = number, session, watch
        self._outside, self._beside = outside, beside or worker
        self._handed = 0
        self._works = set[asyncio.Future[None]]()
        self._worker, self._clock, self._post = worker, clock, post
        self._queue: asyncio.Queue[Callable[[], list[Letter]] | _Fed | None] = asyncio.Queue()
        self._held: dict[Address, _Fed] = {}
        self._over = False
        kinds = {k.__name__: k for k in session.flow.messages(session.me.role)}
        self._longest = longest(kinds, session.limits)
        self._task = asyncio.ensure_future(self._run())

    @property
    def task(self) -> asyncio.Future[None]:
        """Done when the session has ended, or a party's own code failed in a step."""
        return self._task

    async def outcome(self) -> Session:
        """The session when it has ended, or was closed.

        Raises:
            Exception: what a party's own code raised in a step.
        """
        await asyncio.shield(self._task)
        return self.session

    async def settled(self) -> Session:
        """As `outcome`, and what runs beside the session has ended too: nothing of it goes into the next sitting."""
        try:
            return await self.outcome()
        finally:
            await asyncio.gather(*self._works, return_exceptions=True)

    async def feed(self, sender: Address, frame: Frame) -> None:
        """Give the next bytes of a sender; returns when they are taken, which may be much later."""
        if self._over:
            return
        fed = _Fed(sender, frame.chunk, frame.begins)
        self._queue.put_nowait(fed)
        await fed.taken.wait()

    def gone(self, peer: Address) -> None:
        """Nothing more comes from this peer."""

        def leave() -> list[Letter]:
            return self.session.gone(peer, self._clock.now())

        self._queue.put_nowait(_Leaves(peer, leave))

    def provide(self, value: object) -> None:
        """A value from outside for the session."""
        self._queue.put_nowait(lambda: self.session.provide(value, self._clock.now()))

    def close(self) -> None:
        """End it, whatever its state: what is under way is forgotten."""
        self._queue.put_nowait(None)

    # Inside

    async def _run(self) -> None:
        alarm: asyncio.Task[None] | None = None
        try:
            await self._act(lambda: self.session.begin(self._clock.now()))
            while not self.session.finished:
                if (due := self.session.deadline) is not None:
                    alarm = asyncio.ensure_future(self._ring(due))
                event = await self._queue.get()
                if alarm is not None:
                    alarm.cancel()
                if event is None:
                    break
                await self._take(event)
                await self._release()
        finally:
            self._over = True
            if alarm is not None:
                alarm.cancel()
            self._let_go()

    async def _take(self, event: Callable[[], list[Letter]] | _Fed) -> None:
        if isinstance(event, _Fed):
            await self._give(event)
            return
        if isinstance(event, _Leaves) and (held := self._held.pop(event.peer, None)) is not None:
            held.taken.set()
        await self._act(event)

    async def _give(self, fed: _Fed) -> None:
        """Feed a chunk, or as much of it as its sender's turn allows; the rest is held, and nothing more is read of the sender."""
        if not self.session.open(fed.sender):
            self._held[fed.sender] = fed
            return
        first, *rest = split(fed.chunk, self._longest) if fed.begins and self.session.crowded else (fed.chunk,)
        await self._act(lambda: self.session.feed(fed.sender, first, self._clock.now()))
        if rest:
            fed.chunk, fed.begins = rest[0], False
            self._held[fed.sender] = fed
        else:
            fed.taken.set()

    async def _release(self) -> None:
        """Go on with those whose turn has come."""
        ready = [sender for sender in self._held if self.session.open(sender)]
        while ready and not self.session.finished:
            await self._give(self._held.pop(ready[0]))
            ready = [sender for sender in self._held if self.session.open(sender)]

    async def _act(self, event: Callable[[], list[Letter]]) -> None:
        def work() -> list[tuple[Parcel, Sequence[Address]]]:
            letters = event()
            if self._watch is not None:
                self._watch(letters)
            return [(Parcel.of(letter, self.number), letter.to) for letter in letters]

        for parcel, to in await asyncio.get_running_loop().run_in_executor(self._worker, work):
            self._post(parcel, to)
        if self._outside is not None:
            for value in self.session.outputs[self._handed :]:
                self._works.add(asyncio.ensure_future(self._work(self._outside, value)))
            self._handed = len(self.session.outputs)

    async def _work(self, outside: Callable[[Any], object], value: object) -> None:
        """What the session handed out, worked on beside it."""
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._beside, outside, value)
        except Exception as error:  # noqa: BLE001  (raised again where the session's own errors are)
            self._queue.put_nowait(_Fails(error))
        else:
            self.provide(found)

    async def _ring(self, at: float) -> None:
        await self._clock.until(at)
        self._queue.put_nowait(lambda: self.session.tick(self._clock.now()))

    def _let_go(self) -> None:
        for fed in self._held.values():
            fed.taken.set()
        self._held.clear()
        while not self._queue.empty():
            if isinstance(event := self._queue.get_nowait(), _Fed):
                event.taken.set()


class Withdraws(Exception):
    """What runs beside a session gives it up: its party leaves, so that nobody waits for it, and comes back for the next sum."""


@dataclass(frozen=True, eq=False)
class _Fails:
    """What ran beside the session has failed."""

    error: Exception

    def __call__(self) -> list[Letter]:
        raise self.error


@dataclass(frozen=True, eq=False)
class _Leaves:
    """A peer is gone."""

    peer: Address
    act: Callable[[], list[Letter]]

    def __call__(self) -> list[Letter]:
        return self.act()
