"""A party's side of the stream: it calls, holds what it is told to its own view, and sits down to the sums that it agrees to.

What it does not protect: a server that says nothing.  The party then waits, and has sent nothing but what it sent before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc

from protocols.errors import Refused, require
from protocols.session import SERVER, Address, Session
from securefl.errors import UserError
from securefl.transport.clock import Clock
from securefl.transport.enrolment import Credentials
from securefl.transport.envelope import (
    FROM_SERVER,
    MOST_DOWN,
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
from securefl.transport.port import ALIVE, METHOD, SERVICE
from securefl.transport.roster import SignedRoster, not_older
from securefl.transport.sitting import Part, Sitting, Withdraws

OPTIONS = (*ALIVE, ("grpc.max_receive_message_length", MOST_DOWN), ("grpc.max_send_message_length", -1))

T = TypeVar("T")


class Attendant(Protocol):
    """What a party does in a run; every method may raise `Refused`."""

    def welcome(self, run: str, roster: SignedRoster) -> None:
        """The server names the run and the roster; called again after every reconnection."""

    def convene(self, stage: str, number: int, attempt: int, cohort: bytes = b"") -> Part:
        """The party's part in a sum of everybody, or of the ``cohort`` as `securefl.transport.envelope.Invite` has it."""

    def adjourn(self, session: Session) -> None:
        """A sum is over, or was broken off."""


@dataclass(frozen=True)
class Ending:
    """How a run ended for a party: ``check`` is empty where it is done; ``served`` says whether the server said so."""

    check: str
    detail: str = ""
    served: bool = True


class Link:
    """A party's connection.

    Args:
        target: HOST:PORT of the server.
        credentials: the party's.
        job: hash of its job.
        attendant: what it does.
        worker: runs the sessions' steps.
        clock: for deadlines.
        log: for what happens.
        software: name and version, told to the server.
        keep: keeps a newer roster.
        beside: runs what a session hands out, such as training; by default the same thread as its steps.
    """

    def __init__(
        self,
        target: str,
        credentials: Credentials,
        job: bytes,
        attendant: Attendant,
        *,
        worker: Executor,
        clock: Clock,
        log: Log,
        software: str = "securefl",
        keep: Callable[[SignedRoster], object] = lambda _: None,
        beside: Executor | None = None,
    ) -> None:
        self._target, self._credentials, self._job, self._attendant = target, credentials, job, attendant
        self._worker, self._clock, self._log, self._software, self._keep = worker, clock, Correlated.over(log), software, keep
        self._beside = beside
        self._roster = credentials.roster
        self._sitting: Sitting | None = None
        self._heard, self._run = 0.0, ""

    async def attend(self, *, patience: float = 60.0) -> Ending:
        """Take part until the server says that the run is done, calling again where the stream is cut.

        Args:
            patience: seconds for which the server may be out of reach.

        Raises:
            Refused: what the server said does not fit the party's own view.
            UserError: where the server is out of reach for longer.
        """
        self._heard, tries = self._clock.now(), 0
        while True:
            heard = self._heard
            try:
                async with self._channel() as channel:
                    ending = await self._call(channel.stream_stream(f"/{SERVICE}/{METHOD}")())
                    if ending is not None:
                        return ending
            except grpc.aio.AioRpcError as error:
                if error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION):
                    return Ending(str(error.details() or "refused"), "the server refuses this party")
                self._log("cut", server=self._target, status=error.code().name)
                why = str(error.details())
            except Withdraws:
                why = "this party has left the sum"
                self._log("withdrawn", server=self._target)
            else:
                why = "the stream ended"
            self._log.about = None
            tries = 0 if self._heard > heard else tries + 1
            if self._clock.now() - self._heard > patience:
                raise UserError(f"the server {self._target} cannot be reached: {' '.join(why.split())[:200]}")
            await self._clock.until(self._clock.now() + min(0.2 * 2 ** min(tries, 5), 5.0))

    def _channel(self) -> Any:
        key, certificate, authority = self._credentials.tls
        secure = grpc.ssl_channel_credentials(root_certificates=authority, private_key=key, certificate_chain=certificate)
        return grpc.aio.secure_channel(self._target, secure, options=OPTIONS)

    async def _call(self, call: Any) -> Ending | None:
        """One stream; None where it was cut after it had begun."""
        outgoing: asyncio.Queue[Parcel] = asyncio.Queue()
        await call.write(control(Hello(WIRE, self._software, self._job, self._roster.serial)))
        first = await call.read()
        if not isinstance(first, bytes):
            await _raise(call)
            return None
        told = read(first, FROM_SERVER)
        if isinstance(told, Dismiss):
            return Ending(told.check, told.detail)
        await self._welcome(expect(first, FROM_SERVER, Welcome))
        await call.write(control(Ready()))
        writer = asyncio.ensure_future(_write(call, outgoing))
        try:
            return await self._listen(call, outgoing)
        finally:
            self._heard = self._clock.now()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)  # why it could not go on, the reader knows
            await self._rise()
            call.cancel()

    async def _at_work(self, what: Callable[..., T], *args: Any) -> T:
        """Call the attendant in the worker: what it works out may take a while."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, what, *args)

    async def _welcome(self, told: Welcome) -> None:
        require(told.wire == WIRE, "net-wire", f"the server speaks wire {told.wire}, this party wire {WIRE}")
        roster = not_older(SignedRoster.read(told.roster, self._credentials.authority), self._roster)
        await self._at_work(self._attendant.welcome, told.run, roster)
        self._keep(roster)
        self._roster, self._run = roster, told.run
        self._log("welcome", run=told.run, roster=roster.serial)

    async def _listen(self, call: Any, outgoing: asyncio.Queue[Parcel]) -> Ending | None:
        while isinstance(data := await self._next(call), bytes):
            match read(data, FROM_SERVER):
                case Frame() as frame:
                    if self._sitting is not None and self._sitting.number == frame.sitting:
                        await self._sitting.feed(SERVER, frame)
                case Convene(sitting, stage, number, attempt):
                    await self._convene(outgoing, sitting, stage, number, attempt)
                case Invite(sitting, stage, number, attempt, cohort):
                    await self._convene(outgoing, sitting, stage, number, attempt, cohort)
                case Adjourn():
                    await self._rise()
                    self._log.about = None
                case Dismiss(check, detail):
                    return Ending(check, detail)
                case _:
                    raise Refused("net-envelope", "a second welcome")
        await _raise(call)
        return None

    async def _convene(
        self, outgoing: asyncio.Queue[Parcel], sitting: int, stage: str, number: int, attempt: int, *cohort: bytes
    ) -> None:
        await self._rise()
        self._log.about = correlation_id(self._run, stage, number, attempt)
        self._sit(sitting, await self._at_work(self._attendant.convene, stage, number, attempt, *cohort), outgoing)
        self._log("convened", stage=stage, round=number, attempt=attempt)

    async def _next(self, call: Any) -> Any:
        """The next message; what fails in a step of the own session meanwhile is raised at once."""
        reading = asyncio.ensure_future(call.read())
        try:
            while not reading.done():
                await asyncio.wait([reading, *await self._ours()], return_when=asyncio.FIRST_COMPLETED)
            await self._ours()
            return reading.result()
        finally:
            reading.cancel()

    async def _ours(self) -> list[asyncio.Future[None]]:
        """What runs of the own session; raises what has failed in it, also while a frame waited for its turn."""
        if self._sitting is None or not self._sitting.task.done():
            return [] if self._sitting is None else [self._sitting.task]
        await self._sitting.outcome()
        return []

    def _sit(self, number: int, part: Part, outgoing: asyncio.Queue[Parcel]) -> None:
        def post(parcel: Parcel, _to: Sequence[Address]) -> None:
            outgoing.put_nowait(parcel)

        self._sitting = Sitting(
            number,
            part.session,
            worker=self._worker,
            clock=self._clock,
            post=post,
            outside=part.outside,
            beside=self._beside,
        )
        for value in part.inputs:
            self._sitting.provide(value)

    async def _rise(self) -> None:
        """The sum is over, or the stream is."""
        sitting, self._sitting = self._sitting, None
        if sitting is None:
            return
        sitting.close()
        try:
            await sitting.settled()
        finally:
            self._attendant.adjourn(sitting.session)
        if (ended := sitting.session.ended) is not None:
            self._log("left", check=ended.check, step=ended.step)


async def _write(call: Any, outgoing: asyncio.Queue[Parcel]) -> None:
    while True:
        for message in (await outgoing.get()).frames():
            await call.write(message)


async def _raise(call: Any) -> None:
    """Why a stream ended, where gRPC has a reason."""
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(code, await call.initial_metadata(), await call.trailing_metadata(), await call.details())
