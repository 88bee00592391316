"""The server's driver: it runs the rounds of a job, and the sums before and after them, with the parties in a hall.

A run whose keeper has a store and a place for models goes on where a server that was killed left it: after the last finished round,
with the next attempt of the one that broke off, or the round after it where its inputs had been asked for.

What it does not protect: as `securefl.transport.hall`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from protocols.errors import SecureSumError
from protocols.flow import Flow, is_message
from protocols.rand import Entropy, fresh
from protocols.session import Session
from protocols.suite import Occasion, SumParameters
from protocols.sums import Scheme
from protocols.vector import Sum
from securefl import delivery
from securefl.aggregator import ServerAggregator
from securefl.algorithms import server_of
from securefl.cohort import smallest_cohort
from securefl.keeping import Keeper, Watched, in_memory
from securefl.models import to_vector
from securefl.results import RoundRecord
from securefl.sampling import among, invitation, refuse_recording
from securefl.server_side import ServerSide
from securefl.serving_stages import StageDriver
from securefl.shared_job import SharedJob
from securefl.shared_scaling import Scaling
from securefl.stages import Stage
from securefl.store import Attempt
from securefl.transport.hall import Hall
from securefl.transport.log import correlation_id

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from securefl.audit.tape import Tape

T = TypeVar("T")
LARGE = 64 << 20
"""Bytes of vectors that may be under way at once; where one has more, they come one at a time."""
MOST_TURNS = 8


def turns_for(largest: int) -> int:
    """How many vectors of so many bytes may be under way at once."""
    return max(1, min(MOST_TURNS, LARGE // max(1, largest)))


def turns_of(protocol: Scheme, parameters: SumParameters) -> int:
    """`turns_for` the vectors of a sum."""
    return turns_for(max((layout.nbytes for layout in protocol.layouts(parameters).values()), default=1))


def waiting(flow: Flow, seconds: float) -> Flow:
    """The flow with so many seconds for the message that spends a party's input, which waits for its training."""
    (spending,) = (step for step in flow.of("client") if step.spends)
    step = next(flow.receiver(port.type) for port in spending.gives if is_message(port))
    return flow.swap(**{step.name: replace(step, within=seconds)})


class Serving:
    """A run of a job.

    Args:
        shared: the job.
        hall: who takes part.
        keeper: of the run; by default one that ends with this process.
        aggregator: what is done with the sum; by default as the job says.
        within: seconds that a party has for training and its vector; by default as the protocol says.
        tape: what the server sees is written on it.
        now: seconds, for the timings of the rounds.
        sampling: where cohorts of rounds are drawn from.

    Attributes:
        records: of the rounds until now.
        scaling: how rows become features, once it is known; None where public ranges scale.
        figures: of the final model, JSON, once its scores were summed.
    """

    scaling: Scaling | None = None
    figures: str | None = None

    def __init__(
        self,
        shared: SharedJob,
        hall: Hall,
        *,
        keeper: Keeper | None = None,
        aggregator: ServerAggregator | None = None,
        within: float | None = None,
        tape: Tape | None = None,
        now: Callable[[], float] = time.monotonic,
        sampling: Entropy = fresh,
    ) -> None:
        if tape is not None:
            refuse_recording(shared.job, "a tape")
        self._sampling = sampling
        self.shared, self.hall, self._tape, self._now = shared, hall, tape, now
        about = shared.about
        start = about.start(to_vector(shared.template))
        self.side = ServerSide(about, start, server_of(about.algorithm, shared.job, about.parties, aggregator))
        self.keeper = keeper or in_memory(shared, hall.run, hall.clock.utc)
        self.side.restore(*self.keeper.start(start, self.side.plan.state))
        past = self.keeper.past()
        self.records = [self._record(p.at.round, p.contributors, p.metrics, p.aborted, p.seconds) for p in past]
        self._flow = shared.flow if within is None else waiting(shared.flow, within)
        self._asked_to_end = asyncio.Event()
        self._least, self._patience = smallest_cohort(shared.job.privacy, shared.about.parties), 0.0
        self._first, self._turns = True, turns_of(shared.about.protocol, shared.about.parameters)

    @property
    def models(self) -> list[NDArray[Any]]:
        """The global models as they are now."""
        return self.side.models[: self.shared.about.models]

    def files(self) -> dict[str, bytes]:
        """What a run leaves behind, by file name: the model as `securefl.load_model` reads it, and the rounds, of sums alone."""
        shared = self.shared
        rounds, job = [asdict(record) for record in self.records], shared.job.plain()
        tree = {"run": self.hall.run, "roster": self.hall.members.serial, "protocol": shared.about.protocol.name, "rounds": rounds}
        found = {} if self.figures is None else {"assessment": json.loads(self.figures)}
        return {
            "metrics.json": (json.dumps({**tree, **found, "job": job}, indent=2) + "\n").encode(),
            "model.safetensors": delivery.file_of(shared, self.models, self.scaling),
        }

    def drain(self) -> None:
        """Begin no further round; one that is under way is run to its end."""
        self._asked_to_end.set()

    @property
    def drained(self) -> bool:
        """Whether `drain` was called."""
        return self._asked_to_end.is_set()

    async def run(self, *, patience: float, on_round: Callable[[RoundRecord], None] = lambda _record: None) -> list[RoundRecord]:
        """Run all rounds and the sums beside them, or those that are left; until `drain` is called.

        Args:
            patience: seconds to wait for all parties before the first sum; after that, and before any other, for enough of them.
            on_round: called after each round.

        Raises:
            SecureSumError: where somebody who is invited was revoked meanwhile: the run cannot go on as it was agreed; and where
                the sum for scaling is spent and gave nothing.
            UserError: what the server's own step refused.
        """
        self._patience = patience
        if not await self._scaled():
            return self.records
        while not self.drained and (attempt := await self._aside(self.keeper.begin)) is not None:
            if not await self._enough(round=attempt.round, attempt=attempt.attempt):
                return self.records
            self.records.append(await self._round(attempt))
            on_round(self.records[-1])
        if (self.drained and not self.keeper.held.progress().done) or not await self._assessed():
            return self.records
        await self._deliver()
        return self.records

    async def _enough(self, **about: Any) -> bool:
        """Wait for all parties the first time, else for enough of them; False where `drain` was called first."""
        self.hall.log("waiting", **about, present=len(self.hall.seats), least=self._least)
        wanted, patient = (len(self.shared.cohort), self._patience) if self._first else (self._least, 0.0)
        if not await self._unless_drained(self.hall.gather(wanted, self._least, patient)):
            return False
        self._first = False
        self._check_roster()
        return True

    async def _scaled(self) -> bool:
        """Open the sum for scaling, or take what it gave before; whether the rounds may begin."""
        if (scaling := self.shared.scaling) is None:
            return True

        def read(total: Sum) -> str:
            found, lines = scaling.read(total)
            for line in lines:
                self.hall.log("notice", text=line)
            return found.text()

        found = await self._driver(scaling.stage).run(read, lambda: self._enough(stage=scaling.stage.name))
        if found.value is None and not found.over:
            return False
        if found.value is None:
            raise SecureSumError(
                "the sum for scaling gave nothing, and a run has one: the next start of the server begins a run for parties to join"
            )
        self.scaling = Scaling.read(found.value)
        self.side.beside = self.scaling.values()
        return True

    async def _assessed(self) -> bool:
        """Open the sum over the final model's scores, if there is one, or take what it gave; whether the run can end."""
        if (summed := self.shared.assessment) is None:
            return True

        async def ready() -> bool:
            if not await self._enough(stage=summed.stage.name):
                return False
            await self._deliver()
            return True

        digest = delivery.delivered(self.models, self.scaling).digest
        found = await self._driver(summed.stage).run(summed.read, ready, digest)
        self.figures = found.value
        if found.lost:
            await self._aside(self.keeper.held.stage(summed.stage.name).give_up)
        return found.over

    def _driver(self, stage: Stage) -> StageDriver:
        held, turns = self.keeper.held.stage(stage.name), turns_of(stage.protocol, stage.parameters)
        return StageDriver(self.shared, self.hall, stage, held, turns=turns, tape=self._tape, now=self._now)

    async def _deliver(self) -> None:
        last, what = Occasion(self.hall.run, self.shared.job.privacy.rounds), delivery.delivered(self.models, self.scaling)
        await self.hall.sit(delivery.STAGE, last, delivery.at_server(self.shared, what))

    async def _round(self, attempt: Attempt) -> RoundRecord:
        began, number = self._now(), attempt.round
        occasion = self.side.occasion(self.hall.run, number, attempt.attempt)
        places = self._places()
        cohort = self.shared.cohort if places is None else among(self.shared.cohort, places)
        terms = self.shared.terms(occasion, cohort)
        session = self.side.session(self._flow, occasion, terms, turns=self._turns)
        if self._tape is not None:
            from securefl.audit.recorded import Recorded  # noqa: PLC0415

            self._tape.begin(self.shared.about.protocol, terms)
            session = cast("Session", Recorded(session, self._tape))
        names = [member.name for member in cohort.members]
        watched = Watched(self.keeper.held, attempt, self._flow, session, names, lambda: self._now() - began)
        await self.hall.sit("round", occasion, session, watched, places)
        record = await self._aside(lambda: self._taken(watched, session, self._now() - began))
        about = {"contributors": record.contributors, "aborted": record.aborted, "seconds": round(self._now() - began, 3)}
        known = correlation_id(self.hall.run, "round", number, attempt.attempt)
        self.hall.log("round", correlation_id=known, run=self.hall.run, round=number, attempt=attempt.attempt, **about)
        return record

    def _places(self) -> list[int] | None:
        """Of those invited to a round, drawn among those who are there; None where the job invites all."""
        count, members = self.shared.job.privacy.clients_per_round, self.shared.cohort.members
        if count is None:
            return None
        there = [place for place, member in enumerate(members, 1) if member.name in self.hall.seats]
        return invitation(there, [place for place in self.shared.cohort.indexes if place not in there], count, self._sampling())

    def _taken(self, watched: Watched, session: Session, seconds: float) -> RoundRecord:
        """What a round came to: in the store before it is told."""
        number, abort = watched.attempt.round, session.ended
        if abort is not None:
            self.keeper.abort(watched, abort, seconds)
            return self._record(number, 0, {}, f"{abort.step or 'round'}: {abort.check}", seconds)
        opened = self.side.opened(session.outputs)
        metrics = self.shared.about.metrics(self.shared.trainer, opened.aggregate.sums)
        self.keeper.finish(watched, opened, metrics, seconds)
        self.side.restore(opened.models, opened.state)
        return self._record(number, opened.aggregate.contributors, metrics, None, seconds)

    def _record(
        self, number: int, contributors: int, metrics: Mapping[str, float], aborted: str | None, seconds: float
    ) -> RoundRecord:
        return RoundRecord(number, self.shared.about.parties, contributors, {}, aborted, dict(metrics), {}, {"round": seconds})

    async def _unless_drained(self, waiting: Coroutine[Any, Any, int]) -> bool:
        """Wait for it; False where `drain` was called first."""
        tasks = [asyncio.ensure_future(waiting), asyncio.ensure_future(self._asked_to_end.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return tasks[0].done()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _aside(self, work: Callable[[], T]) -> T:
        """Off the event loop: the store may take a while."""
        return await asyncio.get_running_loop().run_in_executor(self.hall.worker, work)

    def _check_roster(self) -> None:
        good = {entry.name for entry in self.hall.roster().parties}
        out = [member.name for member in self.shared.cohort.members if member.name not in good]
        if out:
            raise SecureSumError(f"revoked since the run began: {', '.join(out)}; a new run is over the roster as it is now")
