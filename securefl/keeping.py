"""How a run between machines outlives its server: attempts in the store before their messages, models before the rounds they end.

What it does not protect: see `securefl.store.runs`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Abort, Misuse
from protocols.flow import Flow, is_message
from protocols.rand import Entropy, fresh
from protocols.session import Letter, Session
from protocols.suite import Roster
from protocols.wire import canonical
from securefl.shared_job import SharedJob, run_name, shared_text
from securefl.store import Attempt, Checkpoints, Fates, HeldRun, HeldStage, Past, RunStore

if TYPE_CHECKING:
    from securefl.round_types import NextModel


def cohort_digest(cohort: Roster) -> str:
    """SHA-256 of names and identities in their order, hexadecimal."""
    return hashlib.sha256(canonical([[member.name, member.identity] for member in cohort.members])).hexdigest()


def held_run(store: RunStore, shared: SharedJob, *, anew: bool = False, entropy: Entropy = fresh) -> tuple[HeldRun, bool]:
    """The newest run of this job and cohort that has a round left, or a new one; and whether it is one that goes on.

    Args:
        store: of the server.
        shared: the job, over its cohort.
        anew: whether to begin a new one in any case.
        entropy: gives a new run its name.
    """
    job, cohort = shared.hash.hex(), cohort_digest(shared.cohort)
    before, after = (None if one is None else one.stage.name for one in (shared.scaling, shared.assessment))
    found = None if anew else store.unfinished(job, cohort, before, after)
    name = found or run_name(shared.hash, entropy)
    rounds = shared.job.privacy.rounds
    return store.hold(name, job=job, cohort=cohort, text=shared_text(shared.job), rounds=rounds), found is not None


def in_memory(shared: SharedJob, run: str, clock: Callable[[], datetime]) -> Keeper:
    """Of a run that ends with its process."""
    store, job, cohort = RunStore("sqlite://", clock=clock), shared.hash.hex(), cohort_digest(shared.cohort)
    return Keeper(store.hold(run, job=job, cohort=cohort, text=shared_text(shared.job), rounds=shared.job.privacy.rounds))


class Keeper:
    """What a run's driver tells the store, round by round.

    Args:
        held: the run.
        checkpoints: where models go; None keeps none, and then a run cannot go on after its server is gone.
    """

    def __init__(self, held: HeldRun, checkpoints: Checkpoints | None = None) -> None:
        self.held, self._checkpoints = held, checkpoints

    def start(
        self, models: Sequence[NDArray[np.float32]], state: Sequence[float]
    ) -> tuple[Sequence[NDArray[np.float32]], Sequence[float]]:
        """The models and the public values that the next round begins with: those given, or of the last finished round.

        Raises:
            Misuse: where a finished round's model was not kept.
            UserError: where its file is missing or was changed.
        """
        progress = self.held.progress()
        if progress.model is None or self._checkpoints is None:
            if progress.finished:
                raise Misuse(f"{self.held.run} has finished rounds, and no model was kept")
            if self._checkpoints is not None:
                self.held.start_from(self._save(models, state))
            return models, state
        found, values = self._checkpoints.load(progress.model[1])
        return found, values.tolist()

    def begin(self) -> Attempt | None:
        """The next attempt, written down; None where no round is left."""
        return None if self.held.progress().done else self.held.begin()

    def finish(self, watched: Watched, opened: NextModel, metrics: Mapping[str, float], seconds: float) -> None:
        """A round gave a model."""
        made = None if self._checkpoints is None else self._save(opened.models, opened.state)
        count = opened.aggregate.contributors
        fates = watched.fates(count)
        self.held.finish(watched.attempt, made, fates, contributors=count, metrics=metrics, seconds=seconds, times=watched.times)

    def abort(self, watched: Watched, why: Abort, seconds: float) -> None:
        """An attempt gave none."""
        self.held.abort(
            watched.attempt,
            watched.fates(None),
            step=why.step or "",
            check=why.check,
            detail=why.detail[:1000],
            seconds=seconds,
            times=watched.times,
        )

    def past(self) -> list[Past]:
        """What ended before."""
        return self.held.past()

    def _save(self, models: Sequence[NDArray[np.float32]], state: Sequence[float]) -> Any:
        if self._checkpoints is None:
            raise Misuse("nowhere to keep a model")
        return self._checkpoints.save(models, np.array(state, dtype=np.float32))


class Watched:
    """One attempt, seen through the letters that the server is about to send.

    A letter after which inputs leave is written down as asked for before it does; who is sent what follows the inputs is in the
    sum.

    Args:
        held: the run.
        attempt: of it.
        flow: of the round.
        session: the server's.
        names: of the invited, in the order of the roster.
        passed: gives the seconds since the attempt began.

    Attributes:
        times: as `securefl.store.HeldRun.finish` takes them.
        waits: whether inputs wait for a message of the server, or leave as soon as parties are called.
    """

    def __init__(
        self,
        held: HeldRun | HeldStage,
        attempt: Attempt,
        flow: Flow,
        session: Session,
        names: Sequence[str],
        passed: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.attempt, self.times, self._passed = attempt, dict[str, float](), passed
        self._held, self._session, self._names = held, session, names
        self._asking, self._after = asking(flow)
        self.waits = self._asking is not None
        self._told, self._inside = dict[str, str](), list[str]()

    def __call__(self, letters: Sequence[Letter]) -> None:
        """Before they leave."""
        for letter in letters:
            kind, to = type(letter.message), [self._names[address.index - 1] for address in letter.to]
            self.times.setdefault("sent", self._passed())
            if kind is self._asking:
                self.times.setdefault("asked", self._passed())
                self._held.ask_inputs(self.attempt, **self.times)
            if kind is self._after:
                self.times.setdefault("taken", self._passed())
                self._inside += to
            self._told |= dict.fromkeys(to, kind.__name__)

    def fates(self, contributors: int | None) -> Fates:
        """What became of every party, as far as the server can tell.

        Args:
            contributors: parties in the sum; None where there is none.
        """
        blamed = {fault.sender: fault.check for fault in self._session.faults}
        inside = self._inside if self._after is not None else list(self._told)
        summed = set(inside) if contributors is not None and len(inside) == contributors else set[str]()
        out = dict[str, tuple[str, str]]()
        for index, name in enumerate(self._names, 1):
            if name in summed:
                out[name] = ("summed", "")
            elif (check := blamed.get(f"client {index}")) is not None:
                out[name] = ("blamed", check)
            else:
                out[name] = ("dropped", self._told.get(name, "not there"))
        return out


def asking(flow: Flow) -> tuple[type | None, type | None]:
    """The server's message after which parties' inputs leave, and the first one after it, which goes to those in the sum.

    The first is None where inputs wait for no message.
    """
    steps, told = flow.of("client"), flow.messages("client")
    (spending,) = (step for step in steps if step.spends)
    before = {port.type for step in steps[: steps.index(spending) + 1] for port in step.takes if is_message(port)}
    last = max((at for at, kind in enumerate(told) if kind in before), default=-1)
    return told[last] if last >= 0 else None, told[last + 1] if last + 1 < len(told) else None
