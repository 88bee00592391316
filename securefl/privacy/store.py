"""Budgets and events in one SQLite file: what a party may spend on a data set, and everything that it has taken part in.

A charge is on the disk before whatever it is for leaves: every change is one immediate transaction with a rollback journal that is
flushed (``synchronous=EXTRA``), so a crash leaves all of it or nothing, and two processes take turns.  The file has mode 0600.

What it does not protect: whoever may write the file may change it; it is a party's own memory, not a proof for others.  A copy that
is put back forgets what came after it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

from securefl.errors import UserError
from securefl.files import keep_to_the_owner
from securefl.privacy import events
from securefl.privacy.events import Event, Unit

APPLICATION, VERSION = 0x73666C65, 1
"""What SQLite's header says of our files: "sfle", and the version of the tables."""
PATIENCE = 60.0
"""Seconds that a process waits for another's transaction."""
EXACT = "exact"
"""Stands in the column of units for what no ε covers."""

TABLES = (
    """CREATE TABLE budgets (
    party TEXT NOT NULL, data TEXT NOT NULL, unit TEXT NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL,
    PRIMARY KEY (party, data, unit))""",
    """CREATE TABLE events (
    id INTEGER PRIMARY KEY, party TEXT NOT NULL, data TEXT NOT NULL, unit TEXT NOT NULL, run TEXT NOT NULL, what TEXT NOT NULL,
    event TEXT NOT NULL, times INTEGER NOT NULL CHECK (times > 0), UNIQUE (party, data, unit, run, what, event))""",
    "CREATE TABLE contents (party TEXT NOT NULL, digest TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY (party, digest))",
)


@dataclass(frozen=True)
class Budget:
    """What all events of one unit together may cost: ``epsilon`` > 0 at ``delta`` in (0, 1)."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < float("inf"):
            raise UserError(f"the ε of a budget is {self.epsilon}: it must be finite and above 0")
        if not 0 < self.delta < 1:
            raise UserError(f"the δ of a budget is {self.delta}: it must lie in (0, 1), both ends excluded")


@dataclass(frozen=True)
class Entry:
    """An event of one party and data set.

    Attributes:
        run: name of the run or the question.
        what: what was opened.
        unit: what its ε protects; None where it was opened exactly.
        event: the event.
        times: how many times it happened in the run.
    """

    run: str
    what: str
    unit: Unit | None
    event: Event
    times: int = 1


Place = tuple[str, str]
"""Party and data set."""


class Store:
    """One ledger file, for as many parties and data sets as use it; without a path, in memory.

    Args:
        path: the file; made where it does not exist, unless ``create`` is False.
        create: whether it may be made.

    Raises:
        UserError: the file or its folder cannot be read or written, it is damaged, another program's or a later version's, or
            others may read it.
    """

    def __init__(self, path: Path | None = None, *, create: bool = True) -> None:
        self.path, self._lock = path, threading.RLock()
        if path is not None:
            keep_to_the_owner(f"the ledger {path}", path, create=create)
            if create and not os.access(path.parent, os.W_OK):  # to be found before training, not with the first charge
                raise UserError(
                    f"the ledger {path} cannot be used: its folder {path.parent} may not be written, and every charge needs a "
                    "journal beside the file"
                )
        with self._named():
            self._base = sqlite3.connect(
                str(path) if path is not None else ":memory:", timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            self._base.execute("PRAGMA synchronous = EXTRA")
        try:
            with self.transaction():
                self._adopt()
        except BaseException:
            self._base.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is done inside happens, or nothing; other processes wait."""
        with self._lock, self._named():
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:
                    self._base.execute("ROLLBACK")
                raise

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._bad(str(error)) from None

    def _bad(self, what: str) -> UserError:
        return UserError(f"the ledger {self.path or 'in memory'} cannot be used: {' '.join(what.split())}")

    def _adopt(self) -> None:
        """Make the tables in an empty file; refuse one that is not ours."""
        (found,), (version,) = (self._base.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version"))
        if (found, version) == (0, 0) and not self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for table in TABLES:
                self._base.execute(table)
            self._base.execute(f"PRAGMA application_id = {APPLICATION}")
            self._base.execute(f"PRAGMA user_version = {VERSION}")
        elif found != APPLICATION:
            raise self._bad("it is a database of another program")
        elif version != VERSION:
            raise self._bad(f"its tables are of version {version}, and this program knows version {VERSION}")
        elif (said := self._base.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise self._bad(f"it is damaged: {said}")

    def budget(self, place: Place, unit: Unit) -> Budget | None:
        """The budget of a party for a data set; None where none was set."""
        with self._named():
            row = self._base.execute(
                "SELECT epsilon, delta FROM budgets WHERE (party, data, unit) = (?, ?, ?)", (*place, unit)
            ).fetchone()
        if row is None:
            return None
        if not all(isinstance(value, float) for value in row):
            raise self._bad(f"the budget of {place[0]} for {place[1]} is no pair of numbers")
        return Budget(*row)

    def set_budget(self, place: Place, unit: Unit, budget: Budget) -> None:
        """Set or change a budget; what was spent stays spent.

        Raises:
            UserError: for an unknown unit, an empty name, or as `Store`.
        """
        with self.transaction():
            self._set_budget(place, unit, budget)

    def _set_budget(self, place: Place, unit: Unit, budget: Budget) -> None:
        if unit not in events.UNITS:
            raise UserError(f"the unit of a budget is {unit!r}: it must be one of {', '.join(events.UNITS)}")
        if not all(place):
            raise UserError("a budget needs the name of a party and of a data set: north/heart")
        self._base.execute(
            "INSERT OR REPLACE INTO budgets VALUES (?, ?, ?, ?, ?)", (*place, unit, float(budget.epsilon), float(budget.delta))
        )

    def lower_budget(self, place: Place, unit: Unit, most: Budget) -> None:
        """Make a budget at most so large; where the party has none for any data set yet, this is its first.

        A party that has one for another data set alone gets none here: a job may name the data, and a new name starts nothing anew.

        Raises:
            UserError: as `set_budget`.
        """
        with self.transaction():
            there = self.budget(place, unit)
            if there is None and any(party == place[0] and data != place[1] for party, data in self.budgeted()):
                return
            there = there or most
            self._set_budget(place, unit, Budget(min(there.epsilon, most.epsilon), min(there.delta, most.delta)))

    def places(self) -> list[Place]:
        """Every party and data set that has a budget or an event, in order."""
        with self._named():
            rows = self._base.execute("SELECT party, data FROM budgets UNION SELECT party, data FROM events ORDER BY 1, 2")
            return [(str(party), str(data)) for party, data in rows]

    def budgeted(self) -> list[Place]:
        """Every party and data set that has a budget, in order."""
        with self._named():
            rows = self._base.execute("SELECT DISTINCT party, data FROM budgets ORDER BY 1, 2")
            return [(str(party), str(data)) for party, data in rows]

    def entries(self, place: Place) -> list[Entry]:
        """All events of a party and data set, the oldest first.

        Raises:
            UserError: for an event of a kind that is not known, or damaged; or as `Store`.
        """
        with self._named():
            rows = self._base.execute(
                "SELECT id, run, what, unit, event, times FROM events WHERE (party, data) = (?, ?) ORDER BY id", place
            ).fetchall()
        return [self._entry(*row) for row in rows]

    def _entry(self, number: int, run: Any, what: Any, unit: Any, event: Any, times: Any) -> Entry:
        try:
            made = events.read(event if isinstance(event, str) else "")
        except UserError as error:
            raise self._bad(f"event {number}: {error}") from None
        known = unit in get_args(Unit) or unit == EXACT
        if not known or (unit == EXACT) != isinstance(made, events.ExactEvent) or not isinstance(times, int) or times < 1:
            raise self._bad(f"event {number}: its unit {unit!r} or its count {times!r} does not fit its kind")
        return Entry(str(run), str(what), None if unit == EXACT else unit, made, times)

    def add(self, place: Place, entry: Entry) -> None:
        """Count an event up; inside of `transaction`."""
        self._base.execute(
            "INSERT INTO events (party, data, unit, run, what, event, times) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (party, data, unit, run, what, event) DO UPDATE SET times = times + excluded.times",
            (*place, entry.unit or EXACT, entry.run, entry.what, events.written(entry.event), entry.times),
        )

    def remove(self, place: Place, entry: Entry) -> bool:
        """Count one event down, if it is there; inside of `transaction`."""
        key = (*place, entry.unit or EXACT, entry.run, entry.what, events.written(entry.event))
        at = "WHERE (party, data, unit, run, what, event) = (?, ?, ?, ?, ?, ?)"
        if self._base.execute(f"DELETE FROM events {at} AND times = 1", key).rowcount:  # noqa: S608  (our own text)
            return True
        return self._base.execute(f"UPDATE events SET times = times - 1 {at}", key).rowcount == 1  # noqa: S608

    def same_content(self, place: Place, digest: str) -> str:
        """Under which name the rows of this digest are in the ledger for the party; from now on that of ``place`` if under none."""
        with self.transaction():
            self._base.execute("INSERT OR IGNORE INTO contents VALUES (?, ?, ?)", (place[0], digest, place[1]))
            at = (place[0], digest)
            return str(self._base.execute("SELECT data FROM contents WHERE (party, digest) = (?, ?)", at).fetchone()[0])
