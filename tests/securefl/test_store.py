"""What a server remembers: no attempt twice, no finished round lost, one server at a time; over SQLite and over PostgreSQL."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from made_stores import JOB, clock, hold
from sqlalchemy import create_engine, inspect, make_url, text

from protocols.errors import Misuse
from protocols.rand import Replay
from securefl import UserError
from securefl.cli import main
from securefl.store import Attempt, Checkpoint, Checkpoints, HeldRun, Past, Progress, RunStore, tables
from securefl.store.stages import MOST_ATTEMPTS

OTHER = "cd" * 32
FATES = {"north": ("summed", ""), "south": ("dropped", "Masked")}
MODEL = [np.arange(5, dtype=np.float32), np.ones(2, dtype=np.float32)]
STATE = np.zeros(1, dtype=np.float32)


def made(number: int) -> Checkpoint:
    return Checkpoint(f"{number:064x}", f"{number:064x}.safetensors", 8)


def test_a_run_from_its_first_round_to_its_last(url: str) -> None:
    run = hold(url, rounds=2)
    run.start_from(made(0))
    assert run.progress() == Progress(0, 0, 2, (0, made(0)))
    first = run.begin()
    run.ask_inputs(first)
    run.finish(first, made(1), FATES, contributors=1)
    second = run.begin()
    run.ask_inputs(second)
    run.abort(second, {"north": ("left", "policy-cohort")}, step="gather", check="quorum", detail="1 of 3")
    assert (first, second) == (Attempt(1, 0), Attempt(2, 0))
    assert run.progress() == Progress(1, 2, 2, (1, made(1)))
    assert run.progress().done
    with pytest.raises(Misuse, match="all rounds of trial are used"):
        run.begin()
    with RunStore(url, clock=clock) as store:
        rows = store.rows("attempts", "trial")
        assert [(r["outcome"], r["contributors"], r["check_name"]) for r in rows] == [
            ("finished", 1, None),
            ("aborted", None, "quorum"),
        ]
        assert {r["ended"] for r in rows} == {datetime(2026, 1, 2, 3, 4, 5)}  # noqa: DTZ001  (as it is kept)
        assert {(r["round"], r["member"], r["fate"]) for r in store.rows("contributions")} == {
            (1, "north", "summed"), (1, "south", "dropped"), (2, "north", "left"),
        }  # fmt: skip


def test_an_attempt_that_broke_off_before_inputs_is_tried_again_and_never_after(url: str) -> None:
    run = hold(url)
    assert run.begin() == Attempt(1, 0)
    run = hold(url)  # the server was killed
    again = run.begin()
    assert again == Attempt(1, 1)
    run.abort(again, {}, step="listen", check="quorum", detail="")
    third = run.begin()
    assert third == Attempt(1, 2)
    assert MOST_ATTEMPTS == 3
    run.abort(third, {}, step="listen", check="quorum", detail="")
    second = run.begin()
    assert second == Attempt(2, 0)
    run.ask_inputs(second)
    assert hold(url).begin() == Attempt(3, 0)
    with RunStore(url, clock=clock) as store:
        assert [r["outcome"] for r in store.rows("attempts")] == ["lost", "aborted", "aborted", "lost", None]


def test_control_a_round_whose_inputs_were_not_written_down_as_asked_for_comes_again(url: str) -> None:
    """Why `ask_inputs` comes before the message: without it the next server asks for the same round's inputs."""
    run = hold(url)
    asked = run.begin()
    assert hold(url).begin() == Attempt(asked.round, 1)


def test_a_server_whose_run_was_taken_up_writes_nothing_more(url: str) -> None:
    old = hold(url)
    attempt = old.begin()
    new = hold(url)
    for late in (
        old.begin,
        lambda: old.ask_inputs(attempt),
        lambda: old.finish(attempt, made(1), FATES, contributors=1),
        lambda: old.abort(attempt, FATES, step="", check="", detail=""),
        lambda: old.start_from(made(0)),
    ):
        with pytest.raises(UserError, match="^another server has taken up the run trial: this one stops$"):
            late()
    again = new.begin()
    new.finish(again, made(2), FATES, contributors=1)
    assert new.progress() == Progress(1, 1, 3, (1, made(2)))


def test_what_is_not_under_way_cannot_end_and_only_one_attempt_is(url: str) -> None:
    run = hold(url)
    attempt = run.begin()
    with pytest.raises(Misuse, match="attempt 0 of round 1 has not ended"):
        run.begin()
    for other in (Attempt(1, 1), Attempt(2, 0)):
        with pytest.raises(Misuse, match="is not under way"):
            run.finish(other, made(1), FATES, contributors=1)
    run.finish(attempt, made(1), FATES, contributors=1)
    with pytest.raises(Misuse, match="is not under way"):
        run.finish(attempt, made(2), FATES, contributors=1)
    with pytest.raises(Misuse, match="starts from|is not under way"):
        run.ask_inputs(attempt)


def test_what_finishes_a_round_happens_whole_or_not_at_all(url: str) -> None:
    run = hold(url)
    attempt = run.begin()
    with pytest.raises(UserError, match=r"cannot be used"):
        run.finish(attempt, made(1), {"north": ("summed", ""), "south": ("away", "")}, contributors=1)
    assert run.progress() == Progress(0, 0, 3, None)
    with RunStore(url, clock=clock) as store:
        assert [(r["outcome"], r["inputs_asked"]) for r in store.rows("attempts")] == [(None, False)]
        assert store.rows("contributions") == []
    run.finish(attempt, made(1), FATES, contributors=1)


def test_a_run_keeps_its_job_its_rounds_and_its_first_model(url: str) -> None:
    run = hold(url)
    run.start_from(made(0))
    run.start_from(made(0))
    with pytest.raises(Misuse, match="starts from"):
        run.start_from(made(1))
    for changed, what in (({"job": OTHER}, "another job"), ({"cohort": OTHER}, "another cohort"), ({"rounds": 4}, "3 rounds")):
        with pytest.raises(UserError, match=f"with {what}: give another run another name"):
            hold(url, **changed)
    hold(url, "another", job=OTHER)


def test_the_newest_run_with_a_round_left_is_found_again(url: str) -> None:
    with RunStore(url, clock=clock) as store:
        assert store.unfinished(JOB, JOB) is None
        for name, cohort in (("first", JOB), ("second", OTHER)):
            hold(url, name, rounds=1, cohort=cohort)
        assert [store.unfinished(JOB, cohort) for cohort in (JOB, OTHER)] == ["first", "second"]
        assert store.unfinished(OTHER, JOB) is None
        run = hold(url, "first", rounds=1)
        run.finish(run.begin(), None, FATES, contributors=1, metrics={"auroc": 0.5}, seconds=2.0)
        assert store.unfinished(JOB, JOB) is None
        assert run.past() == [Past(Attempt(1, 0), 1, None, {"auroc": 0.5}, 2.0)]


def test_members_follow_the_newest_roster(url: str) -> None:
    with RunStore(url, clock=clock) as store:
        store.know({"north": b"\1" * 32, "south": b"\2" * 32}, 4)
        store.know({"north": b"\3" * 32}, 5, frozenset({"north"}))
        store.know({"north": b"\1" * 32, "south": b"\4" * 32}, 3)
        assert [(r["name"], r["identity"][:2], r["serial"], r["revoked"]) for r in store.rows("members")] == [
            ("north", "03", 5, True),
            ("south", "02", 4, False),
        ]


KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from securefl.cli import main
from securefl.store import Checkpoint, RunStore
url, after = sys.argv[1:]
store = RunStore(url, clock=lambda: datetime(2026, 1, 2, tzinfo=UTC))
run = store.hold("trial", job="ab" * 32, cohort="ab" * 32, text="", rounds=9)
die = lambda step: os.kill(os.getpid(), signal.SIGKILL) if step == after else None
attempt = run.begin()
die("begun")
run.ask_inputs(attempt)
die("asked")
run.finish(attempt, Checkpoint("1" * 64, "1" * 64 + ".safetensors", 8), {"north": ("summed", "")}, contributors=1)
die("finished")
"""


@pytest.mark.parametrize(("after", "then", "finished"), [("begun", (1, 1), 0), ("asked", (2, 0), 0), ("finished", (2, 0), 1)])
def test_a_server_that_is_killed_goes_on_where_it_was(url: str, after: str, then: tuple[int, int], finished: int) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, url, after], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    run = hold(url, rounds=9)
    assert run.progress().finished == finished
    assert run.begin() == Attempt(*then)


class Servers(RuleBasedStateMachine):
    """Servers that come, die and are replaced, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.store = RunStore("sqlite://", clock=clock, entropy=Replay("servers"))
        self.run = self.held()
        self.open: Attempt | None = None
        self.begun, self.spent, self.finished = list[Attempt](), set[int](), dict[int, Checkpoint]()

    def held(self) -> HeldRun:
        return self.store.hold("trial", job=JOB, cohort=JOB, text="", rounds=6)

    @rule()
    def die(self) -> None:
        self.run, self.open = self.held(), None

    @precondition(lambda self: self.open is None and not self.run.progress().done)
    @rule()
    def begin(self) -> None:
        self.open = begun = self.run.begin()
        assert begun.round not in self.spent, "inputs of a round are asked for in one attempt alone"
        assert not self.begun or (begun.round, begun.attempt) > (self.begun[-1].round, self.begun[-1].attempt)
        self.begun.append(begun)

    @precondition(lambda self: self.open is not None)
    @rule()
    def ask(self) -> None:
        self.run.ask_inputs(self.open)  # type: ignore[arg-type]
        self.spent.add(self.open.round)  # type: ignore[union-attr]

    @precondition(lambda self: self.open is not None and self.open.round in self.spent)
    @rule(number=st.integers(1, 2**32))
    def finish(self, number: int) -> None:
        self.run.finish(self.open, made(number), FATES, contributors=1)  # type: ignore[arg-type]
        self.finished[self.open.round], self.open = made(number), None  # type: ignore[union-attr]

    @precondition(lambda self: self.open is not None)
    @rule()
    def abort(self) -> None:
        self.run.abort(self.open, {}, step="", check="quorum", detail="")  # type: ignore[arg-type]
        self.open = None

    @invariant()
    def nothing_finished_is_lost(self) -> None:
        progress, newest = self.run.progress(), max(self.finished, default=None)
        assert progress.finished == len(self.finished)
        assert progress.model == (None if newest is None else (newest, self.finished[newest]))

    def teardown(self) -> None:
        self.store.close()


Servers.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestServers = Servers.TestCase


def test_the_migrations_make_the_tables_of_this_version(url: str) -> None:
    RunStore(url, clock=clock).close()
    engine = create_engine(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []
    engine.dispose()


def test_stores_that_are_made_at_the_same_time_in_one_process_have_all_tables(tmp_path: Path) -> None:
    """Alembic keeps what it migrates in globals."""

    def make(number: int) -> set[str]:
        with RunStore(f"sqlite:///{tmp_path / f'{number}.db'}", clock=clock) as store, store.transaction() as base:
            return set(inspect(base).get_table_names())

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(make, range(24)))
    assert all(one == {*tables.metadata.tables, "alembic_version"} for one in found)


def test_a_database_of_another_program_or_a_later_version_is_refused(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as base:
        base.execute(text("CREATE TABLE weather (degrees INTEGER)"))
    if url.startswith("sqlite"):
        Path(make_url(url).database or "").chmod(0o600)
    with pytest.raises(UserError, match="cannot be used: it is a database of another program"):
        RunStore(url, clock=clock)
    with engine.begin() as base:
        base.execute(text("DROP TABLE weather"))
    hold(url)
    with engine.begin() as base:
        base.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(UserError, match="its tables are of version 9999, and this program knows 0004"):
        RunStore(url, clock=clock)


def test_a_file_that_others_may_read_or_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "server.db"
    hold(f"sqlite:///{path}")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(UserError, match=r"others may read or write it \(mode 0640\); chmod 600 it"):
        RunStore(f"sqlite:///{path}", clock=clock)
    path.chmod(0o600)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="cannot be used: file is not a database"):
        RunStore(f"sqlite:///{path}", clock=clock)
    with pytest.raises(UserError, match="cannot be used"):
        RunStore(f"sqlite:///{tmp_path}", clock=clock)


@pytest.mark.parametrize(
    "bad", ["server.db", "oracle9://x", "sqlite:////nowhere/at/all/x.db", "postgresql+psycopg://u:hidden@127.0.0.1:1/x"]
)
def test_a_store_that_cannot_be_reached_is_one_line_without_a_password(bad: str) -> None:
    with pytest.raises(UserError) as caught:
        RunStore(bad, clock=clock)
    assert "\n" not in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.fixture(params=["folder", "memory"])
def checkpoints(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    return Checkpoints(str(tmp_path / "models [1]") if request.param == "folder" else "memory://checkpoints")


def test_a_checkpoint_is_read_back_and_one_that_changed_is_refused(checkpoints: Checkpoints) -> None:
    first, other = checkpoints.save(MODEL, STATE), checkpoints.save(MODEL[:1], STATE)
    assert checkpoints.save(MODEL, STATE) == first != other
    models, state = checkpoints.load(first)
    for found, was in zip([*models, state], [*MODEL, STATE], strict=True):
        np.testing.assert_array_equal(found, was)
    files: Any = checkpoints._files
    place = checkpoints._at(first.path)
    blob = bytearray(files.cat_file(place))
    blob[-1] ^= 1
    files.pipe_file(place, bytes(blob))
    with pytest.raises(UserError, match="is not what was written: its digest differs"):
        checkpoints.load(first)
    files.rm_file(place)
    for gone in (first, Checkpoint("0" * 64, "../../etc/passwd", 1)):
        with pytest.raises(UserError, match="cannot be used"):
            checkpoints.load(gone)


FULL = """
import resource, signal, sys
import numpy as np
from securefl import UserError
from securefl.cli import main
from securefl.store import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    Checkpoints(sys.argv[1]).save([np.zeros(10**5, np.float32)], np.zeros(1, np.float32))
except UserError as error:
    print(error)
"""


def test_where_a_file_cannot_be_written_whole_none_is_there(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], check=True, timeout=120, capture_output=True, text=True)
    assert f"the checkpoints {tmp_path} cannot be used: " in done.stdout
    assert "File too large" in done.stdout
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("bad", ["/dev/null/models", "nothing://x"])
def test_a_folder_that_cannot_be_made_is_one_line(bad: str) -> None:
    with pytest.raises(UserError, match=f"^the checkpoints {bad} cannot be used: "):
        Checkpoints(bad)


def test_sqlite_writes_through(tmp_path: Path) -> None:
    """A transaction is flushed to the disk, and a foreign key holds."""
    run = hold(f"sqlite:///{tmp_path / 'server.db'}")
    with run._store.transaction() as base:
        assert base.execute(text("PRAGMA synchronous")).scalar() == 3
        assert base.execute(text("PRAGMA foreign_keys")).scalar() == 1
    assert sqlite3.connect(tmp_path / "server.db").execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_the_commands_tell_what_the_store_knows_and_make_no_file(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = hold(url, "first-run", rounds=2)
    run.start_from(made(0))
    run.finish(run.begin(), made(1), FATES, contributors=1)
    run.abort(run.begin(), {"north": ("left", "policy-cohort")}, step="gather", check="quorum", detail="1 of 3")
    hold(url, "second-run")
    assert main(["jobs", "--store", url, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["jobs"]
    assert [(r["run"], r["rounds"], r["finished"], r["used"]) for r in listed] == [("first-run", 2, 1, 1), ("second-run", 3, 0, 0)]
    assert main(["status", "first", "--store", url, "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert [(a["round"], a["outcome"], a["check"]) for a in tree["attempts"]] == [(1, "finished", None), (2, "aborted", "quorum")]
    assert {m["member"]: (m["summed"], m["dropped"], m["left"]) for m in tree["members"]} == {
        "north": (1, 0, 1),
        "south": (0, 1, 0),
    }
    assert tree["model"] == {"round": 1, "digest": made(1).digest}
    assert main(["status", "--store", url]) == 0
    assert "has rounds left" in capsys.readouterr().out
    for wrong, words in (("third", "no run of"), ("", "2 runs of")):
        assert main(["status", wrong, "--store", url]) != 0
        assert words in capsys.readouterr().err


def test_who_asks_for_a_store_that_is_not_there_makes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--keys", str(tmp_path)], [], ["--keys", "x", "--store", "y"]):
        assert main(["jobs", *arguments]) != 0
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert [*tmp_path.iterdir()] == []
