"""The server's side of one federation: who is connected, and the sums that they sit down to.

Nobody who is not on the newest roster has a seat.  A seat is one stream; who connects again takes the place of its older stream.
A stream holds at most one message that was read and not yet worked on, so `Limits` bound what parties can make the server hold.

What it does not protect: availability against the parties' network.  A party that is not there, or whose stream is cut in a sum, is
a dropout of that sum.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from protocols.errors import Refused, require
from protocols.schema import Message
from protocols.session import Address, Session, client
from protocols.suite import Occasion, Roster
from securefl.sampling import as_bits
from securefl.transport.clock import Clock
from securefl.transport.envelope import (
    FROM_PARTY,
    WIRE,
    Adjourn,
    Convene,
    Dismiss,
    Frame,
    Hello,
    Invite,
    Parcel,
    Ready,
    Welcome,
    control,
    expect,
    read,
)
from securefl.transport.log import Correlated, Log, correlation_id
from securefl.transport.roster import Entry, SignedRoster
from securefl.transport.sitting import Sitting, Watch

GREETING, PREPARING = 10.0, 900.0
"""Seconds within which a new stream must say what it wants, and within which the party must then be ready."""
WAITING = 256
"""Most letters that wait for a party that does not read them."""
STREAMS = 16
"""Most streams of one party at once: those that it lost and calls again for, until they are found dead."""
IDLE = 64 << 20
"""Bytes that a party may send to no sitting, such as late ones, before it is cut off."""

M = TypeVar("M", bound=Message)


class Stream(Protocol):
    """What the port hands over of a call: raw messages."""

    async def read(self) -> Any:
        """The next message, or something that is no bytes at the end."""

    async def write(self, message: bytes) -> None:
        """Send one; returns when there is room for the next."""


@dataclass(frozen=True)
class Limits:
    """What one federation may take of its server.

    Attributes:
        connections: most streams of all its parties at once.
        waiting: most bytes that wait for one party that does not read them, beside the newest letter.
    """

    connections: int = 4096
    waiting: int = 1 << 30


@dataclass(eq=False)
class Seat:
    """A party's stream.

    Attributes:
        name: the party's.
        most: bytes that may wait, as `Limits.waiting`.
        outgoing: what is to be sent; None ends the stream.
        waits: bytes in it.
    """

    name: str
    most: int = Limits.waiting
    outgoing: asyncio.Queue[Parcel | bytes | None] = field(default_factory=asyncio.Queue)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    waits: int = 0

    def post(self, what: Parcel | bytes | None) -> None:
        """Send something after what waits already; a party that reads nothing is cut off."""
        if self.outgoing.qsize() >= WAITING or self.waits > self.most:
            self.left.set()
            return
        self.waits += _size(what)
        self.outgoing.put_nowait(what)

    async def take(self) -> Parcel | bytes | None:
        """The next to be sent."""
        what = await self.outgoing.get()
        self.waits -= _size(what)
        return what

    def dismiss(self, check: str = "", detail: str = "") -> None:
        """The last word."""
        self.post(control(Dismiss(check, detail)))
        self.post(None)


class Hall:
    """One federation on a port.

    Args:
        run: name of the run.
        job: hash of the job.
        roster: gives the newest roster that the server has, at every call anew.
        worker: runs the sessions' steps.
        clock: for deadlines.
        log: for what happens.
        limits: what its parties may take.
        suite: the suite of its sums, for who comes with another job.

    Attributes:
        seats: the connected parties, by name.
        worker, clock, suite: as given.
    """

    def __init__(
        self,
        run: str,
        job: bytes,
        roster: Callable[[], SignedRoster],
        *,
        worker: Executor,
        clock: Clock,
        log: Log,
        limits: Limits = Limits(),
        suite: str = "",
    ) -> None:
        self.run, self.job, self.roster, self.log, self.limits = run, job, roster, Correlated.over(log), limits
        self.seats: dict[str, Seat] = {}
        self._streams = Counter[str]()
        self.members = roster()
        self._names = tuple(entry.name for entry in self.members.parties)
        self._lay(range(1, len(self._names) + 1))
        self.worker, self.clock, self.suite = worker, clock, suite
        self._sitting: Sitting | None = None
        self._sittings = 0
        self._changed = asyncio.Condition()
        self._waking: asyncio.Task[None] | None = None

    @property
    def cohort(self) -> Roster:
        """Those invited, fixed when the hall was opened."""
        return self.members.cohort

    @property
    def sitting(self) -> Sitting | None:
        """The sum under way."""
        return self._sitting

    # Parties

    async def attend(self, entry: Entry, stream: Stream) -> None:
        """A party's stream, from its first word to its end.

        Raises:
            Refused: for what is no word of this wire, and ``net-full`` where there are too many streams; it is over then.
        """
        full = self._streams[entry.name] >= STREAMS or self._streams.total() >= self.limits.connections
        require(not full, "net-full", f"{self._streams[entry.name]} streams of {entry.name}, {self._streams.total()} of all")
        self._streams[entry.name] += 1
        try:
            await self._attend(entry, stream)
        finally:
            self._streams[entry.name] -= 1

    async def _attend(self, entry: Entry, stream: Stream) -> None:
        hello = await self._hear(entry, stream, Hello, GREETING)
        self.log("calls", party=entry.name, software=hello.software, wire=hello.wire)
        try:
            self._admit(entry, hello)
        except Refused as error:
            await stream.write(control(Dismiss(error.check, error.detail)))
            raise
        await stream.write(control(Welcome(WIRE, self.run, self.members.document)))
        await self._hear(entry, stream, Ready, PREPARING)
        seat = Seat(entry.name, self.limits.waiting)
        if (older := self.seats.get(entry.name)) is not None:
            await self._leave(older, "replaced")
        await self._come(seat)
        tasks = [asyncio.ensure_future(work) for work in (self._listen(seat, stream), _write(seat, stream), seat.left.wait())]
        how = "cut"  # by gRPC, which ends the handler: a lost connection, or a message that is larger than it takes
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            how = "ended"
        finally:
            for task in tasks:
                task.cancel()
            await self._leave(seat, how)
            found = await asyncio.gather(*tasks, return_exceptions=True)
        for refused in (error for error in found if isinstance(error, Refused)):
            raise refused

    async def _hear(self, entry: Entry, stream: Stream, kind: type[M], within: float) -> M:
        """The message that must come now."""
        reading = asyncio.ensure_future(stream.read())
        await _first(reading, self.clock.until(self.clock.now() + within))
        require(reading.done(), "net-greeting", f"no {kind.__name__} in {within:g} s", sender=entry.name)
        return expect(_bytes(reading.result()), FROM_PARTY, kind)

    def _admit(self, entry: Entry, hello: Hello) -> None:
        require(hello.wire == WIRE, "net-wire", f"the server speaks wire {WIRE}, {entry.name} wire {hello.wire}")
        require(hello.roster <= self.members.serial, "roster-older", f"{entry.name} has seen roster {hello.roster}")
        require(entry.name in self._names, "net-uninvited", f"{entry.name} is not of this run")
        ours = f"the server runs job {self.job.hex()[:8]}{self.suite and f' under {self.suite}'}"
        require(hello.job == self.job, "net-job", f"{ours}, {entry.name} comes with job {hello.job.hex()[:8]}")

    async def _listen(self, seat: Seat, stream: Stream) -> None:
        idle = 0
        while isinstance(data := await stream.read(), bytes):
            message = read(data, FROM_PARTY)
            require(isinstance(message, Frame), "net-envelope", "a second greeting", sender=seat.name)
            if isinstance(message, Frame):
                sitting = self._sitting
                if sitting is not None and sitting.number == message.sitting and seat.name in self._table:
                    await sitting.feed(self._table[seat.name], message)
                else:
                    idle += len(data)
                    require(idle <= IDLE, "net-flood", "too many bytes that belong to no sum", sender=seat.name)

    async def _come(self, seat: Seat) -> None:
        async with self._changed:
            self.seats[seat.name] = seat
            self._changed.notify_all()
        self.log("seated", party=seat.name, present=len(self.seats))

    async def _leave(self, seat: Seat, how: str) -> None:
        seat.left.set()
        if self.seats.get(seat.name) is not seat:
            return
        async with self._changed:
            del self.seats[seat.name]
            self._changed.notify_all()
        if self._sitting is not None and seat.name in self._table:
            self._sitting.gone(self._table[seat.name])
        self.log("gone", party=seat.name, how=how, present=len(self.seats))

    # The driver of the run

    async def gather(self, wanted: int, least: int, patience: float) -> int:
        """Wait until ``wanted`` parties are seated, or, after ``patience`` seconds, until ``least`` are; how many are."""
        late = asyncio.ensure_future(self._wake_at(self.clock.now() + patience))
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: len(self.seats) >= (least if late.done() else wanted))
        finally:
            late.cancel()
        return len(self.seats)

    async def _wake_at(self, at: float) -> None:
        await self.clock.until(at)
        asyncio.get_running_loop().call_soon(self._wake)  # once this is done

    def _wake(self) -> None:
        async def wake() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._waking = asyncio.ensure_future(wake())

    async def sit(
        self, stage: str, occasion: Occasion, session: Session, watch: Watch | None = None, places: Sequence[int] | None = None
    ) -> Session:
        """Run one sum with those who are seated; the others of the invited are dropouts from the start.

        Args:
            stage: of which the parties know.
            occasion: of the sum.
            session: the server's.
            watch: called with letters before they leave, in the worker.
            places: of the invited on the roster, ascending; None invites everybody.  Who is not invited hears nothing of the sum.

        Raises:
            Exception: what the server's own code raised in a step.
        """
        self._sittings += 1
        number = self._sittings
        self.drop_revoked()
        self._lay(range(1, len(self._names) + 1) if places is None else places)
        begins: Message = Convene(number, stage, occasion.round, occasion.attempt)
        if places is not None:
            begins = Invite(number, stage, occasion.round, occasion.attempt, as_bits(places, len(self._names)))
        self.log.about = correlation_id(self.run, stage, occasion.round, occasion.attempt)
        try:
            await self._seated(number, session, watch, begins)
            for fault in session.faults:
                about = {"sender": self.named(fault.sender), "check": fault.check, "step": fault.step}
                self.log("fault", **about, round=occasion.round)
        finally:
            self.log.about = None
        return session

    async def _seated(self, number: int, session: Session, watch: Watch | None, begins: Message) -> None:
        """The sum itself, with those who are here now."""
        self.announce(begins)
        here = set(self.seats)
        sitting = self._sitting = Sitting(number, session, worker=self.worker, clock=self.clock, post=self._post, watch=watch)
        for name, address in self._table.items():
            if name not in here:
                sitting.gone(address)
        try:
            await sitting.outcome()
        finally:
            sitting.close()
            self._sitting = None
        ended = session.ended
        self.announce(Adjourn(number, "" if ended is None else ended.check))

    def named(self, sender: str | None) -> str | None:
        """The registered name behind ``client 3`` of the newest sum."""
        role, _, index = (sender or "").partition(" ")
        return self._invited[int(index) - 1] if role == "client" and index.isdigit() else sender

    def _lay(self, places: Sequence[int]) -> None:
        """Who is invited to a sum, and where each sits: its place among them."""
        self._invited = tuple(self._names[place - 1] for place in places)
        self._table = {name: client(at) for at, name in enumerate(self._invited, 1)}

    def announce(self, message: Message) -> None:
        """Tell those of the invited who are seated."""
        data = control(message)
        for seat in [self.seats[name] for name in self._invited if name in self.seats]:
            seat.post(data)

    def drop_revoked(self) -> None:
        """Cut off those whom a newer roster does not have any more."""
        good = {entry.name for entry in self.roster().parties}
        for name in [name for name in self.seats if name not in good]:
            self.log("refused", party=name, check="peer-revoked")
            self.seats[name].dismiss("peer-revoked", "revoked")

    def dismiss(self, check: str = "", detail: str = "") -> None:
        """Send everybody away."""
        for seat in self.seats.values():
            seat.dismiss(check, detail)

    def cut(self) -> None:
        """End all streams without a word: their parties call again."""
        for seat in self.seats.values():
            seat.left.set()

    def _post(self, parcel: Parcel, to: Sequence[Address]) -> None:
        for address in to:
            seat = self.seats.get(self._invited[address.index - 1])
            if seat is not None:
                seat.post(parcel)


async def _write(seat: Seat, stream: Stream) -> None:
    while (what := await seat.take()) is not None:
        for message in what.frames() if isinstance(what, Parcel) else (what,):
            await stream.write(message)


async def _first(one: asyncio.Future[Any], other: Any) -> None:
    """Wait for either; the second is forgotten."""
    late = asyncio.ensure_future(other)
    try:
        await asyncio.wait({one, late}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        late.cancel()
        if not one.done():
            one.cancel()
        with suppress(asyncio.CancelledError):
            await late


def _size(what: Parcel | bytes | None) -> int:
    if isinstance(what, Parcel):
        return sum(memoryview(part).nbytes for part in what.parts)
    return len(what or b"")


def _bytes(found: Any) -> bytes:
    if not isinstance(found, bytes):
        raise Refused("net-envelope", "the stream ended before it began")
    return found
