"""One server process for one federation or several: ports, and for each federation a hall, a thread and a store of its own.

What fails in one federation ends in it: it is closed, its parties' streams are cut, and after a pause it is opened again from its
store, as a server that was killed is; the others know nothing of it.

What it does not protect: federations share one process: its memory, its event loop and its cores.  Load of one slows the others,
turn by turn; it does not stop them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from protocols.errors import SecureSumError
from securefl import files
from securefl.bundles.running import code_of, of_server
from securefl.bundles.signed import SignedBundle
from securefl.errors import UserError
from securefl.federations import Federation, addresses, unused
from securefl.job import Job
from securefl.sampling import refuse_recording
from securefl.store import Checkpoints, RunStore, Shelf
from securefl.transport.clock import Clock
from securefl.transport.desk import Desk
from securefl.transport.enrolment import RosterFile
from securefl.transport.hall import Hall
from securefl.transport.health import Health
from securefl.transport.log import Log
from securefl.transport.port import Port
from securefl.transport.roster import SignedRoster
from securefl.usercode.isolation import Isolation

if TYPE_CHECKING:
    from securefl.audit.tape import Tape
    from securefl.serving import Serving

T = TypeVar("T")
PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds until a federation that failed is opened again: at first, and at most."""


class Hosted:
    """One federation.

    Args:
        federation: what it is run with.
        clock: for deadlines and pauses.
        log: for what happens in it.
        told: said beside the port when it is open.

    Attributes:
        roster: the newest, at every call.
        port: where it listens; given once that is there.
        health: told when it is open.
    """

    port: Port
    health: Health

    def __init__(self, federation: Federation, *, clock: Clock, log: Log, told: dict[str, int | None]) -> None:
        self.federation, self._clock, self._log, self._told = federation, clock, log, told
        self.roster = RosterFile(federation.credentials)
        self._serving: Serving | None = None
        self._drained = asyncio.Event()

    def drain(self) -> None:
        """Begin no further round."""
        self._drained.set()
        if self._serving is not None:
            self._serving.drain()

    async def run(self) -> int:
        """Open it, and again where it failed, until it is done; 1 where it came to nothing, else 0.

        Raises:
            Exception: what it failed with, where it has no number of restarts.
        """
        tries, most = 0, self.federation.restarts
        while not self._drained.is_set():
            before = self._finished
            try:
                return await self._once(last=most is None or tries >= most)
            except Exception as error:
                if most is None:
                    raise
                tries = 1 if self._finished > before else tries + 1
                why = str(error) if isinstance(error, UserError | SecureSumError) else type(error).__name__
                if tries > most:
                    self._log("given up", error=why)
                    return 1
                pause = min(PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)
                self._log("failed", error=why, again=pause)
                await self._clock.until(self._clock.now() + pause)
        return 0

    @property
    def _finished(self) -> int:
        return 0 if self._serving is None else sum(record.aborted is None for record in self._serving.records)

    async def _once(self, *, last: bool) -> int:
        """From the store to the last round; where it fails and is not tried again, its parties are sent away."""
        name = self.federation.name
        worker, beside = ThreadPoolExecutor(1, f"session-{name}"), ThreadPoolExecutor(2, f"desk-{name}")
        closing = ExitStack()
        try:
            base = await _in(worker, lambda: RunStore(self.federation.store, clock=self._clock.utc))
            closing.callback(worker.submit, base.close)
            job, signed = await _in(worker, lambda: self._job(base))
            running = b"" if signed is None else signed.hash
            authority = self.federation.credentials.authority
            desk = Desk(Shelf(base), self.roster, authority, log=self._log, running=running, worker=beside)
            self.port.open_desk(desk)
            try:
                if job is None:
                    return await self._desk_alone()
                return await self._rounds(worker, base, job, signed, last=last)
            finally:
                self.port.shut_desk(desk)
                self.health.set(name, serving=False)
        finally:
            closing.close()  # the last thing that the worker does, whenever it comes to it
            worker.shutdown(wait=False)
            beside.shutdown(wait=False)

    def _job(self, base: RunStore) -> tuple[Job | None, SignedBundle | None]:
        """The job that runs, and the bundle that it came in."""
        federation = self.federation
        if federation.bundle is None:
            return federation.job, None
        signed = of_server(federation.bundle, federation.credentials, self.roster(), Shelf(base))
        return signed.bundle.job, signed

    async def _desk_alone(self) -> int:
        """Take in bundles and decisions until it is drained or stopped; nothing runs."""
        self.health.set(self.federation.name, serving=True)
        self._log("listening", run=None, port=self.port.port, **self._told)
        await self._drained.wait()
        return 0

    async def _rounds(
        self, worker: ThreadPoolExecutor, base: RunStore, job: Job, signed: SignedBundle | None, *, last: bool
    ) -> int:
        """All rounds, or those that are left."""
        federation = self.federation
        hall, serving, tape = await _in(worker, lambda: self._opened(worker, base, job, signed))
        if self._drained.is_set():
            serving.drain()
        self._serving, why = serving, "stopped"
        self.port.open(hall)
        self.health.set(federation.name, serving=True)
        self._log("listening", run=hall.run, port=self.port.port, **self._told, parties=_names(hall.members))
        try:
            await serving.run(patience=federation.wait)
            why = ""
        except (SecureSumError, UserError) as error:
            why = str(error)
            raise
        finally:
            self.port.shut(hall)
            if serving.drained or (why not in ("", "stopped") and not last):
                hall.cut()
            else:
                hall.dismiss("" if not why else "net-stopped", why[:200])
            await _in(worker, lambda: self._written(serving, tape))
        aborted = [record.aborted is not None for record in serving.records]
        self._log("done", run=hall.run, rounds=len(aborted), aborted=sum(aborted))
        return 1 if all(aborted) else 0

    def _opened(
        self, worker: ThreadPoolExecutor, base: RunStore, job: Job, signed: SignedBundle | None
    ) -> tuple[Hall, Serving, Tape | None]:
        """In the worker: the run of the job in the store, begun or taken up, over the parties of the roster."""
        from securefl.audit.tape import Tape  # noqa: PLC0415
        from securefl.keeping import Keeper, held_run  # noqa: PLC0415
        from securefl.serving import Serving  # noqa: PLC0415  (loads torch)
        from securefl.shared_job import SharedJob  # noqa: PLC0415

        federation, roster = self.federation, self.roster()
        code = None if signed is None else code_of(signed.bundle, Isolation(private=(federation.credentials.folder,)))
        if code is not None:
            code[0].close()  # it has said what the model at the start is, and a server asks nothing else
        shared = SharedJob.of(job, roster.cohort, None if signed is None else signed.hash, code)
        places = Checkpoints(federation.models)
        base.know({entry.name: entry.identity for entry in roster.parties}, roster.serial)
        held, goes_on = held_run(base, shared, anew=federation.anew)
        if goes_on:
            self._log("resumed", run=held.run, finished=held.progress().finished, rounds=held.progress().rounds)
        if federation.tape is not None:
            refuse_recording(job, "a tape")
        about: Any = {"worker": worker, "clock": self._clock, "log": self._log, "limits": federation.limits}
        hall = Hall(held.run, shared.hash, self.roster, **about, suite=shared.suite)
        tape = None if federation.tape is None else Tape(unused(federation.tape))
        return hall, Serving(shared, hall, keeper=Keeper(held, places), within=federation.within, tape=tape), tape

    def _written(self, serving: Serving, tape: Tape | None) -> None:
        if tape is not None:
            tape.seal()
        if self.federation.out is not None and serving.records:
            for path in files.write_all(self.federation.out, serving.files()):
                self._log("written", path=str(path))


async def host(hosted: Sequence[Hosted], health: Health, clock: Clock, log: Log) -> int:
    """Serve federations until all have ended; the largest of their exit codes.

    Args:
        hosted: the federations.
        health: told what is open.
        clock: for the ports.
        log: for who was refused before it was known whose call it is.

    Raises:
        UserError: where nobody can listen.
    """
    ports = list[Port]()
    try:
        for listen, group in addresses([one.federation for one in hosted]).items():
            here = [one for one in hosted if one.federation in group]
            tls = [one.federation.credentials.tls for one in here]
            rosters = [one.roster for one in here]
            port = Port(listen, [own[:2] for own in tls], [own[2] for own in tls], clock=clock, log=log, rosters=rosters)
            await port.start()
            ports.append(port)
            for one in here:
                one.port, one.health = port, health
        health.set("", serving=True)
        return max(await asyncio.gather(*(one.run() for one in hosted)))
    finally:
        health.drain()
        await asyncio.gather(*(port.stop() for port in ports))


async def _in(worker: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(worker, work)


def _names(roster: SignedRoster) -> list[str]:
    return [entry.name for entry in roster.parties]
