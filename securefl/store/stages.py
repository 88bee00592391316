"""Secure sums of a run beside its rounds, in the store: what they gave, and whether they may be tried again.

As with rounds, an attempt is on the disk before its first message leaves, and that inputs were asked for before the message after
which they leave.  A stage is one sum over the same rows whenever it is formed: of two of them over other parties the difference
would tell about one.  So once its inputs were asked for it is formed no more in this run, whatever became of it; its value is
written in the transaction that finishes it.

What it does not protect: as `securefl.store.runs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, select, update

from protocols.errors import Misuse
from securefl.store import tables

MOST_ATTEMPTS = 3
"""How often a round or a stage is begun that breaks off before its inputs were asked for."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at one round, from 1 and from 0."""

    round: int
    attempt: int


@dataclass(frozen=True)
class SoFar:
    """How far a stage has come.

    Attributes:
        attempts: that were begun.
        over: whether none may follow.
        value: what it gave, JSON; None where it gave nothing.
        contributors: parties in its sum.
        lost: whether it is over as a server was gone in it, and nobody has said so since (`HeldStage.give_up`).
    """

    attempts: int = 0
    over: bool = False
    value: str | None = None
    contributors: int = 0
    lost: bool = False


class Held(Protocol):
    """The run, as `securefl.store.held.HeldRun`."""

    run: str

    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction of the server that holds the run."""


class HeldStage:
    """One stage of a run that this server holds.  Made by `securefl.store.HeldRun.stage`."""

    def __init__(self, held: Held, name: str, now: Callable[[], datetime]) -> None:
        self._held, self.name, self._now = held, name, now

    def so_far(self) -> SoFar:
        """How far it has come."""
        with self._held.writing() as base:
            return so_far(base, self._held.run, self.name)

    def begin(self) -> Attempt:
        """The next attempt, written down.

        Raises:
            Misuse: where none may follow, or one has not ended.
        """
        with self._held.writing() as base:
            found = so_far(base, self._held.run, self.name)
            if found.over or any(row.ended is None for row in _rows(base, self._held.run, self.name)):
                raise Misuse(f"the stage {self.name} of {self._held.run} is over, or under way")
            values = {"run": self._held.run, "stage": self.name, "attempt": found.attempts}
            base.execute(tables.stages.insert().values(**values, began=self._now(), inputs_asked=False))
        return Attempt(1, found.attempts)

    def ask_inputs(self, attempt: Attempt, **_times: float) -> None:
        """To call before the message after which inputs leave: from now on no attempt follows."""
        self._change(attempt, inputs_asked=True)

    def finish(self, attempt: Attempt, value: str, *, contributors: int, seconds: float = 0.0) -> None:
        """The sum is open: what it gave is kept, all or nothing."""
        told = {"contributors": contributors, "seconds": seconds, "value": value}
        self._change(attempt, ended=self._now(), outcome="finished", inputs_asked=True, **told)

    def abort(self, attempt: Attempt, *, step: str, check: str, detail: str = "", seconds: float = 0.0) -> None:
        """The attempt is over without a sum."""
        why = {"step": step, "check_name": check, "detail": detail[:1000]}
        self._change(attempt, ended=self._now(), outcome="aborted", seconds=seconds, **why)

    def give_up(self) -> None:
        """Whoever goes on knows that the sum was lost: it is as one that was aborted."""
        s = tables.stages.c
        gone = (s.run == self._held.run, s.stage == self.name, s.outcome == "lost")
        with self._held.writing() as base:
            base.execute(update(tables.stages).where(*gone).values(outcome="aborted", check_name="lost"))

    def _change(self, attempt: Attempt, **values: Any) -> None:
        s = tables.stages.c
        mine = (s.run == self._held.run, s.stage == self.name, s.attempt == attempt.attempt, s.ended.is_(None))
        with self._held.writing() as base:
            if base.execute(update(tables.stages).where(*mine).values(**values)).rowcount != 1:
                raise Misuse(f"attempt {attempt.attempt} of {self.name} of {self._held.run} is not under way")


def so_far(base: Connection, run: str, stage: str) -> SoFar:
    """How far a stage of a run has come."""
    rows = [*_rows(base, run, stage)]
    done = next((row for row in rows if row.outcome == "finished"), None)
    over = any(row.inputs_asked for row in rows) or (len(rows) >= MOST_ATTEMPTS and rows[-1].ended is not None)
    if done is not None:
        return SoFar(len(rows), over, done.value, done.contributors)
    return SoFar(len(rows), over, lost=over and any(row.outcome in (None, "lost") for row in rows))


def _rows(base: Connection, run: str, stage: str) -> Iterator[Any]:
    s = tables.stages.c
    yield from base.execute(select(tables.stages).where(s.run == run, s.stage == stage).order_by(s.attempt))
