"""Runs, rounds and attempts of a server: what a server that was killed goes on from.

An attempt is on the disk before its first message leaves, so none comes twice, and no sid repeats.  A round is used up once it is
finished, or once its inputs were asked for: parties spend an input when its masked form leaves, and join no further attempt of
that round.  One that broke off before is tried again, up to `MOST_ATTEMPTS` times.  A finished round, its model and who was in it
are one transaction.  Each server that takes a run up writes a fresh mark into it; one whose mark is gone may write nothing more.

What it does not protect: whoever may write the database may change it; parties trust their own journals, and never this.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Row, create_engine, event, func, make_url, select, update
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from protocols.errors import Misuse
from protocols.rand import Entropy, fresh
from securefl.errors import UserError, quoted
from securefl.store import tables
from securefl.store.checkpoints import Checkpoint
from securefl.store.migrate import bring_up
from securefl.store.stages import MOST_ATTEMPTS, Attempt, HeldStage, SoFar, so_far

PATIENCE = 60.0
"""Seconds that SQLite waits for another process."""

Clock = Callable[[], datetime]
"""Gives the time, with its zone."""


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


class RunStore:
    """A server's database.

    Args:
        url: for SQLAlchemy: ``sqlite:///server.db``, ``postgresql+psycopg://…``.
        clock: gives the time in UTC.
        entropy: gives the marks of servers.
        create: whether an SQLite file may be made.

    Raises:
        UserError: the database cannot be reached, is another program's, or of a later version; a password is not shown.
    """

    def __init__(self, url: str, *, clock: Clock, entropy: Entropy = fresh, create: bool = True) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError:
            raise UserError("the store needs a URL of a database, such as sqlite:///server.db") from None
        self.where, self._clock, self._entropy = parsed.render_as_string(hide_password=True), clock, entropy
        sqlite, self._turn = parsed.get_backend_name() == "sqlite", threading.RLock()
        options: dict[str, Any] = {"connect_args": {"timeout": PATIENCE}} if sqlite else {}
        if sqlite and parsed.database in (None, "", ":memory:"):
            options = {"connect_args": {"check_same_thread": False}, "poolclass": StaticPool}  # one database for all threads
        elif sqlite:
            self._keep_to_the_owner(Path(str(parsed.database)), create=create)
        with self._named():
            self._engine = create_engine(parsed, **options)
            if sqlite:
                event.listen(self._engine, "connect", _begin_ourselves)
                event.listen(self._engine, "begin", _immediate)
            with self._engine.begin() as connection:
                bring_up(connection, self.where)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All that is done inside happens, or nothing.

        Raises:
            UserError: for what goes wrong at the database.
        """
        with self._turn, self._named(), self._engine.begin() as connection:
            yield connection

    def know(self, members: Mapping[str, bytes], serial: int, revoked: frozenset[str] = frozenset()) -> None:
        """Write down who the roster of this serial names, by name with identity; an older roster changes nothing."""
        with self.transaction() as base:
            for name, identity in members.items():
                values = {"identity": identity.hex(), "serial": serial, "revoked": name in revoked}
                found = base.execute(select(tables.members.c.serial).where(tables.members.c.name == name)).scalar()
                if found is None:
                    base.execute(tables.members.insert().values(name=name, **values))
                elif found <= serial:
                    base.execute(update(tables.members).where(tables.members.c.name == name).values(**values))

    def unfinished(self, job: str, cohort: str, before: str | None = None, after: str | None = None) -> str | None:
        """The newest run of this job over this cohort in which something is left; None where there is none.

        Args:
            job: SHA-256 of the job, hexadecimal.
            cohort: SHA-256 of who is invited, hexadecimal.
            before: the stage that comes before its rounds: a run that lost what that gave cannot go on.
            after: the stage that comes after them.
        """
        with self.transaction() as base:
            r = tables.runs.c
            newest = select(r.name).where(r.job == job, r.cohort == cohort).order_by(r.created.desc(), r.name)
            for name in base.execute(newest).scalars():
                progress = _progress(base, name)
                if before is not None and (first := so_far(base, name, before)).value is None and (first.over or progress.used):
                    continue
                last = so_far(base, name, after) if after is not None else SoFar(over=True)
                if not progress.done or not last.over or last.lost:
                    return str(name)
        return None

    def hold(self, run: str, *, job: str, cohort: str, text: str, rounds: int) -> HeldRun:
        """Begin a run, or take up one that was begun: what another server has under way there is lost to it.

        Args:
            run: its name, 1 … 128 characters.
            job: SHA-256 of the job, hexadecimal.
            cohort: SHA-256 of who is invited, hexadecimal.
            text: the job.
            rounds: how many it asks for.

        Raises:
            UserError: where the run exists with another job, cohort or number of rounds.
        """
        if not 1 <= len(run) <= 128 or rounds < 1:
            raise Misuse(f"a run has a name of 1 to 128 characters and at least one round: {run!r}, {rounds}")
        mark, now = self._entropy().bytes("holder", 16).hex(), self.now()
        with self.transaction() as base:
            if base.execute(select(tables.jobs.c.digest).where(tables.jobs.c.digest == job)).scalar() is None:
                base.execute(tables.jobs.insert().values(digest=job, text=text, added=now))
            r = tables.runs.c
            there = base.execute(select(r.job, r.cohort, r.rounds).where(r.name == run)).one_or_none()
            if there is None:
                values = {"job": job, "cohort": cohort, "rounds": rounds}
                base.execute(tables.runs.insert().values(name=run, holder=mark, created=now, **values))
            elif there != (job, cohort, rounds):
                wanted = {"another job": job, "another cohort": cohort, f"{there.rounds} rounds": rounds}
                what = next(name for (name, value), found in zip(wanted.items(), there, strict=True) if value != found)
                raise UserError(f"the run {quoted(run)} is in the store {self.where} with {what}: give another run another name")
            else:
                base.execute(update(tables.runs).where(tables.runs.c.name == run).values(holder=mark))
            for table in (tables.attempts, tables.stages):
                base.execute(update(table).where(table.c.run == run, table.c.ended.is_(None)).values(ended=now, outcome="lost"))
        return HeldRun(self, run, mark)

    def progress(self, run: str) -> Progress:
        """How far a run has come."""
        with self.transaction() as base:
            return _progress(base, run)

    def rows(self, table: str, run: str | None = None) -> list[dict[str, Any]]:
        """Rows of a table, in the order of its key; of one run alone, if it is named."""
        made = tables.metadata.tables[table]
        query = select(made).order_by(*made.primary_key.columns)
        if run is not None:
            query = query.where((made.c.name if table == "runs" else made.c.run) == run)
        with self.transaction() as base:
            return [dict(row) for row in base.execute(query).mappings()]

    def now(self) -> datetime:
        """The time in UTC, without a zone."""
        return self._clock().astimezone(UTC).replace(tzinfo=None)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, NoSuchModuleError, ImportError) as error:
            cause = getattr(error, "orig", None) or error
            raise UserError(f"the store {self.where} cannot be used: {' '.join(str(cause).split())}") from None

    def _keep_to_the_owner(self, path: Path, *, create: bool) -> None:
        try:
            os.close(os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o600))
            mode = path.stat().st_mode
        except OSError as error:
            raise UserError(f"the store {self.where} cannot be used: {error.strerror or error}") from None
        if not stat.S_ISREG(mode) or mode & 0o077:
            why = "others may read or write it: chmod 600" if stat.S_ISREG(mode) else "it is no file"
            raise UserError(f"the store {self.where} cannot be used: {why}")


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
            return _progress(base, self.run)

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Write down the model that the run starts from; once.

        Raises:
            Misuse: where that is another than the one written before.
        """
        with self.writing() as base:
            found = _progress(base, self.run).model
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
            if made.round > _progress(base, self.run).rounds:
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


def _progress(base: Connection, run: str) -> Progress:
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


def _begin_ourselves(connection: Any, _record: object) -> None:
    """As SQLAlchemy's documentation has it: sqlite3 begins no transaction by itself; ours are immediate."""
    connection.isolation_level = None
    for pragma in ("synchronous = EXTRA", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
