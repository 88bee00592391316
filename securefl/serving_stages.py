"""The server's driver of the sums beside the rounds: attempts in the store, what a sum gave in it before anything follows from it.

What it does not protect: as `securefl.transport.hall`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar, cast

from protocols.errors import Abort
from protocols.session import Session
from protocols.sums import server_session
from protocols.vector import Sum
from securefl.keeping import Watched
from securefl.stages import Stage
from securefl.transport.log import correlation_id

if TYPE_CHECKING:
    from securefl.audit.tape import Tape
    from securefl.shared_job import SharedJob
    from securefl.store import Attempt, HeldStage, SoFar
    from securefl.transport.hall import Hall

T = TypeVar("T")


class StageDriver:
    """Runs one stage of a run with the parties in a hall.

    Args:
        shared: the job.
        hall: who takes part.
        stage: the sum.
        held: it in the store.
        turns: how many vectors may be under way at once.
        tape: what the server sees is written on it.
        now: seconds, for the timings.
    """

    def __init__(
        self,
        shared: SharedJob,
        hall: Hall,
        stage: Stage,
        held: HeldStage,
        *,
        turns: int = 1,
        tape: Tape | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared, self._hall, self._stage, self._held = shared, hall, stage, held
        self._turns, self._tape, self._now = turns, tape, now

    async def run(
        self,
        read: Callable[[Sum], str],
        ready: Callable[[], Awaitable[bool]],
        model: bytes = bytes(32),
    ) -> SoFar:
        """Try until the sum is open, or may not be tried again; one that was finished before is not tried at all.

        Args:
            read: what the opened sum gives, as it is kept.
            ready: waits for enough parties before an attempt; where it gives False, nothing more is tried.
            model: hash of what the inputs are computed from.
        """
        while not (found := await self._aside(self._held.so_far)).over and await ready():
            await self._attempt(await self._aside(self._held.begin), read, model)
        return found

    async def _attempt(self, attempt: Attempt, read: Callable[[Sum], str], model: bytes) -> None:
        began, stage, hall = self._now(), self._stage, self._hall
        terms = stage.terms(stage.occasion(hall.run, attempt.attempt, model), hall.cohort)
        session = server_session(stage.protocol, terms, turns=self._turns)
        if self._tape is not None:
            from securefl.audit.recorded import Recorded  # noqa: PLC0415

            self._tape.begin(stage.protocol, terms)
            session = cast("Session", Recorded(session, self._tape))
        names = [member.name for member in hall.cohort.members]
        watched = Watched(self._held, attempt, stage.protocol.flow, session, names)
        if not watched.waits:  # inputs leave as soon as the parties are called
            await self._aside(lambda: self._held.ask_inputs(attempt))
        await hall.sit(stage.name, terms.occasion, session, watched)
        why = await self._aside(lambda: self._taken(attempt, session, read, self._now() - began))
        about = {"contributors": 0 if why else session.outputs[0].contributors, "aborted": why}
        known = correlation_id(hall.run, stage.name, terms.occasion.round, attempt.attempt)
        seconds = round(self._now() - began, 3)
        hall.log(stage.name, correlation_id=known, run=hall.run, attempt=attempt.attempt, **about, seconds=seconds)

    def _taken(self, attempt: Attempt, session: Session, read: Callable[[Sum], str], seconds: float) -> str | None:
        """What an attempt came to: in the store before it is told; why there is nothing, or None."""
        abort = session.ended
        if abort is None:
            total: Sum = session.outputs[0]
            try:
                self._held.finish(attempt, read(total), contributors=total.contributors, seconds=seconds)
            except Abort as error:
                abort = error
        if abort is None:
            return None
        about = {"step": abort.step or "", "check": abort.check, "detail": abort.detail}
        self._held.abort(attempt, **about, seconds=seconds)
        return f"{abort.step or self._stage.name}: {abort.check}"

    async def _aside(self, work: Callable[[], T]) -> T:
        """Off the event loop: the store may take a while."""
        return await asyncio.get_running_loop().run_in_executor(self._hall.worker, work)
