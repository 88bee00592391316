"""The database of a server: its runs, which a server that was killed goes on from (`securefl.store.held`).

Each server that takes a run up writes a fresh mark into it; one whose mark is gone may write nothing more.

What it does not protect: whoever may write the database may change it; parties trust their own journals, and never this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, create_engine, event, make_url, select, update
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from protocols.errors import Misuse
from protocols.rand import Entropy, fresh
from securefl.errors import UserError, quoted
from securefl.files import keep_to_the_owner
from securefl.store import tables
from securefl.store.held import HeldRun, Progress, progress_of
from securefl.store.migrate import bring_up
from securefl.store.stages import SoFar, so_far

PATIENCE = 60.0
"""Seconds that SQLite waits for another process."""

Clock = Callable[[], datetime]
"""Gives the time, with its zone."""


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
            keep_to_the_owner(f"the store {self.where}", Path(str(parsed.database)), create=create)
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
                progress = progress_of(base, name)
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
            return progress_of(base, run)

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


def _begin_ourselves(connection: Any, _record: object) -> None:
    """As SQLAlchemy's documentation has it: sqlite3 begins no transaction by itself; ours are immediate."""
    connection.isolation_level = None
    for pragma in ("synchronous = EXTRA", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
