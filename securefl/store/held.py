"""One run in the store, for as long as no other server takes it up: its rounds and their attempts.

An attempt is on the disk before its first message leaves, so none comes twice, and no sid repeats.  A round is used up once it is
finished, or once its inputs were asked for: parties spend an input when its masked form leaves, and join no further attempt of
that round.  One that broke off before is tried again, up to `MOST_ATTEMPTS` times.  A finished round, its model and who was in it
are one transaction.

What it does not protect: as `securefl.store.runs`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Row, func, select, update

from protocols.errors import Misuse
from securefl.errors import UserError, quoted
from securefl.store import tables
from securefl.store.checkpoints import Checkpoint
from securefl.store.stages import MOST_ATTEMPTS, Attempt, HeldStage

if TYPE_CHECKING:
    from securefl.store.runs import RunStore

Fates = Mapping[str, tuple[str, str]]
"""By member, what became of it (`securefl.store.tables.FATES`), and details."""


@dataclass(frozen=True)
class Past:
    """An attempt that ended.

    Attributes:
        at: which.
        contributors: parties in the sum; 0 without one.
        aborted: why there was none, or None.
        metrics: what the sum gave.
        seconds: how long it took.
    """

    at: Attempt
    contributors: int
    aborted: str | None
    metrics: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        finished: rounds that were finished.
        used: rounds that are finished or can't be tried again.
        rounds: of the job.
        model: the newest checkpoint, with its round; round 0 is what the run starts from. None before that is written.
    """

    finished: int
    used: int
    rounds: int
    model: tuple[int, Checkpoint] | None

    @property
    def done(self) -> bool:
        """Whether no round is left."""
        return self.used >= self.rounds


class HeldRun:
    """One run, for as long as no other server takes it up.  Made by `RunStore.hold`."""

    def __init__(self, store: RunStore, run: str, mark: str) -> None:
        self._store, self.run, self._mark = store, run, mark

    def stage(self, name: str) -> HeldStage:
        """A secure sum of the run beside its rounds."""
        return HeldStage(self, name, self._store.now)

    def progress(self) -> Progress:
        """How far the run has come."""
        with self._store.transaction() as base:
            return progress_of(base, self.run)

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Write down the model that the run starts from; once.

        Raises:
            Misuse: where that is another than the one written before.
        """
        with self.writing() as base:
            found = progress_of(base, self.run).model
            if found is None:
                self._keep(base, 0, checkpoint)
            elif found[0] == 0 and found[1] != checkpoint:
                raise Misuse(f"{self.run} starts from {found[1].digest[:12]}, not from {checkpoint.digest[:12]}")

    def begin(self) -> Attempt:
        """The next attempt, written down: none of its round and number was begun before.

        Raises:
            Misuse: where no round is left, or an attempt of this server's has not ended.
        """
        with self.writing() as base:
            last = _last(base, self.run)
            if last is not None and last.ended is None:
                raise Misuse(f"attempt {last.attempt} of round {last.round} has not ended")
            if last is None or _used(last):
                made = Attempt(1 if last is None else last.round + 1, 0)
            else:
                made = Attempt(last.round, last.attempt + 1)
            if made.round > progress_of(base, self.run).rounds:
                raise Misuse(f"all rounds of {self.run} are used")
            values = {"run": self.run, "round": made.round, "attempt": made.attempt}
            base.execute(tables.attempts.insert().values(**values, began=self._store.now(), inputs_asked=False))
        return made

    def ask_inputs(self, attempt: Attempt, **times: float) -> None:
        """To call before the message after which inputs leave: from now on the round is not tried again.

        Args:
            attempt: that was begun.
            times: as for `finish`.
        """
        with self.writing() as base:
            self._change(base, attempt, inputs_asked=True, **times)

    def finish(
        self,
        attempt: Attempt,
        checkpoint: Checkpoint | None,
        fates: Fates,
        *,
        contributors: int,
        metrics: Mapping[str, float] | None = None,
        seconds: float = 0.0,
        times: Mapping[str, float] | None = None,
    ) -> None:
        """The round is finished: its model and who was in it, all or nothing.

        Args:
            attempt: that was begun.
            checkpoint: of the model after the round, already written; None where models are not kept.
            fates: by member: one of `securefl.store.tables.FATES`, and details.
            contributors: parties in the sum.
            metrics: what the sum gave.
            seconds: how long it took.
            times: seconds from the beginning at which the first message left (``sent``), that which inputs wait for (``asked``),
                and the first one after they were in (``taken``).
        """
        told = json.dumps(dict(metrics or {}))
        with self.writing() as base:
            values = {"contributors": contributors, "metrics": told, "seconds": seconds, **(times or {})}
            self._end(base, attempt, fates, outcome="finished", inputs_asked=True, **values)
            if checkpoint is not None:
                self._keep(base, attempt.round, checkpoint)

    def abort(
        self,
        attempt: Attempt,
        fates: Fates,
        *,
        step: str,
        check: str,
        detail: str = "",
        seconds: float = 0.0,
        times: Mapping[str, float] | None = None,
    ) -> None:
        """The attempt is over without a model; arguments as for `finish`, with where and why."""
        with self.writing() as base:
            why = {"step": step, "check_name": check, "detail": detail, **(times or {})}
            self._end(base, attempt, fates, outcome="aborted", seconds=seconds, **why)

    def past(self) -> list[Past]:
        """The attempts that ended, in order."""
        rows = [row for row in self._store.rows("attempts", self.run) if row["ended"] is not None]
        return [
            Past(
                Attempt(row["round"], row["attempt"]),
                row["contributors"] or 0,
                None if row["outcome"] == "finished" else f"{row['step'] or 'round'}: {row['check_name'] or row['outcome']}",
                json.loads(row["metrics"] or "{}"),
                row["seconds"] or 0.0,
            )
            for row in rows
        ]

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction of the server that holds the run.

        Raises:
            UserError: where another one has taken it up.
        """
        with self._store.transaction() as base:
            # The update locks the row until the end, so two servers take turns.
            mine = update(tables.runs).where(tables.runs.c.name == self.run, tables.runs.c.holder == self._mark)
            if base.execute(mine.values(holder=self._mark)).rowcount != 1:
                raise UserError(f"another server has taken up the run {quoted(self.run)}: this one stops")
            yield base

    def _change(self, base: Connection, attempt: Attempt, **values: Any) -> None:
        a = tables.attempts.c
        open_one = update(tables.attempts).where(
            a.run == self.run, a.round == attempt.round, a.attempt == attempt.attempt, a.ended.is_(None)
        )
        if base.execute(open_one.values(**values)).rowcount != 1:
            raise Misuse(f"attempt {attempt.attempt} of round {attempt.round} of {self.run} is not under way")

    def _end(self, base: Connection, attempt: Attempt, fates: Fates, **values: Any) -> None:
        self._change(base, attempt, ended=self._store.now(), **values)
        at = {"run": self.run, "round": attempt.round, "attempt": attempt.attempt}
        rows = [{**at, "member": name, "fate": fate, "detail": detail} for name, (fate, detail) in fates.items()]
        if rows:
            base.execute(tables.contributions.insert(), rows)

    def _keep(self, base: Connection, number: int, made: Checkpoint) -> None:
        values = {"run": self.run, "round": number, "digest": made.digest, "path": made.path, "size": made.size}
        base.execute(tables.checkpoints.insert().values(**values))


def progress_of(base: Connection, run: str) -> Progress:
    """How far a run has come."""
    a, c = tables.attempts.c, tables.checkpoints.c
    rounds = base.execute(select(tables.runs.c.rounds).where(tables.runs.c.name == run)).scalar_one()
    finished = base.execute(select(func.count()).where(a.run == run, a.outcome == "finished")).scalar_one()
    newest = base.execute(select(tables.checkpoints).where(c.run == run).order_by(c.round.desc()).limit(1)).one_or_none()
    model = None if newest is None else (newest.round, Checkpoint(newest.digest, newest.path, newest.size))
    last = _last(base, run)
    return Progress(finished, 0 if last is None else last.round - (not _used(last)), rounds, model)


def _last(base: Connection, run: str) -> Row[Any] | None:
    a = tables.attempts.c
    query = select(tables.attempts).where(a.run == run).order_by(a.round.desc(), a.attempt.desc()).limit(1)
    return base.execute(query).one_or_none()


def _used(last: Row[Any]) -> bool:
    return bool(last.inputs_asked) or last.outcome == "finished" or last.attempt + 1 >= MOST_ATTEMPTS
