"""The file of a ledger: two processes at once, crashes, damaged and foreign files, what it refuses to read."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from securefl.errors import UserError
from securefl.privacy.budget import Charge, PartyLedger
from securefl.privacy.divergence import SkellamEvent
from securefl.privacy.events import DpSgdEvent, ExactEvent
from securefl.privacy.store import Budget, Entry, Store

PLACE = ("north", "heart")
STEP = DpSgdEvent(2.0, 0.1, 3)
CHARGE = Charge("sum of updates", STEP, "record")

CHARGES = """
import sys, time
from pathlib import Path
from protocols.errors import Refused
from securefl.privacy.budget import Charge, PartyLedger
from securefl.privacy.events import DpSgdEvent
from securefl.privacy.divergence import SkellamEvent
from securefl.privacy.store import Store
ledger = PartyLedger(Store(Path(sys.argv[1])), "north", "heart")
print("ready", flush=True)
sys.stdin.readline()
done = 0
for _ in range(int(sys.argv[2])):
    try:
        ledger.charge("run", [Charge("sum of updates", SkellamEvent(1000.0, 10.0, 10.0), "record")])
        done += 1
    except Refused:
        pass
print(done, flush=True)
if len(sys.argv) > 3:
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


def started(path: Path, times: int, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CHARGES, str(path), str(times), *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str]) -> int:
    out, _ = process.communicate("\n", timeout=60)
    return int(out)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def refused(path: Path, **options: bool) -> str:
    with pytest.raises(UserError) as caught:
        Store(path, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def test_what_was_written_is_there_for_the_next_process_and_for_nobody_else(path: Path) -> None:
    with Store(path) as store:
        store.set_budget(PLACE, "record", Budget(3.0, 1e-5))
        PartyLedger(store, *PLACE).charge("a", [CHARGE, Charge("weights", ExactEvent("rows"), None)])
        PartyLedger(store, *PLACE).charge("a", [CHARGE])
    with Store(path, create=False) as store:
        assert store.budget(PLACE, "record") == Budget(3.0, 1e-5)
        assert store.budget(PLACE, "party") is None
        assert store.places() == [PLACE]
        assert store.entries(PLACE) == [
            Entry("a", "sum of updates", "record", STEP, 2),
            Entry("a", "weights", None, ExactEvent("rows"), 1),
        ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_changed_budget_keeps_what_was_spent(path: Path) -> None:
    with Store(path) as store:
        ledger = PartyLedger(store, *PLACE)
        ledger.charge("a", [CHARGE])
        spent = ledger.statement("record").spent
        store.set_budget(PLACE, "record", Budget(9.0, 1e-5))
        assert ledger.statement("record").spent == spent
        assert ledger.statement("record").left == pytest.approx(9.0 - spent.epsilon)


def test_two_processes_that_charge_at_once_lose_nothing(path: Path) -> None:
    Store(path).close()
    processes = [started(path, 20) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [ended(process) for process in processes] == [20, 20]
    with Store(path) as store:
        assert [entry.times for entry in store.entries(PLACE)] == [40]


def test_two_processes_at_once_cannot_overdraw_a_budget(path: Path) -> None:
    with Store(path) as store:
        ledger = PartyLedger(store, *PLACE)
        event = SkellamEvent(1000.0, 10.0, 10.0)
        while len(store.entries(PLACE)) == 0 or store.entries(PLACE)[0].times < 10:
            ledger.charge("run", [Charge("sum of updates", event, "record")])
        allowed = ledger.statement("record").spent.epsilon
    path.unlink()
    with Store(path) as store:
        store.set_budget(PLACE, "record", Budget(allowed * 1.0001, 1e-5))
    processes = [started(path, 9) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert sum(ended(process) for process in processes) == 10
    with Store(path) as store:
        assert [entry.times for entry in store.entries(PLACE)] == [10]


def test_what_a_process_charged_before_it_was_killed_is_charged(path: Path) -> None:
    process = started(path, 3, "killed")
    assert ended(process) == 3
    assert process.returncode == -9
    with Store(path) as store:
        assert [entry.times for entry in store.entries(PLACE)] == [3]


def test_a_transaction_that_breaks_off_leaves_nothing(path: Path) -> None:
    def broken_off(store: Store) -> None:
        with store.transaction():
            store.add(PLACE, Entry("a", "sum", "record", STEP))
            raise RuntimeError

    with Store(path) as store:
        with pytest.raises(RuntimeError):
            broken_off(store)
        assert store.entries(PLACE) == []
        store.set_budget(PLACE, "record", Budget(1.0, 1e-5))
    with Store(path) as store:
        assert store.entries(PLACE) == []


def test_a_killed_transaction_leaves_nothing(path: Path) -> None:
    Store(path).close()
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom securefl.privacy.store import Entry, Store\n"
        "from securefl.privacy.events import DpSgdEvent\nstore = Store(Path(sys.argv[1]))\n"
        "with store.transaction():\n    store._base.execute('PRAGMA cache_size = 1')\n"
        "    for i in range(2000):\n"
        "        store.add(('north', 'heart'), Entry(str(i) * 50, 's', 'record', DpSgdEvent(2.0, 0.1)))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert Path(f"{path}-journal").exists()
    with Store(path) as store:
        assert store.entries(PLACE) == []


@pytest.mark.parametrize(
    "content", [b"not a database at all, but a text of some length" * 40, b"SQLite format 3\0" + b"\xff" * 4096]
)
def test_a_file_that_is_none_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)
    refused(path)
    assert path.read_bytes() == content


def test_a_damaged_ledger_is_refused(path: Path) -> None:
    with Store(path) as store:
        for run in range(500):
            with store.transaction():
                store.add(PLACE, Entry(f"run {run}", "sum", "record", STEP))
    content = bytearray(path.read_bytes())
    content[8192 : len(content) - 4096] = os.urandom(len(content) - 4096 - 8192)
    path.write_bytes(content)
    refused(path)
    path.write_bytes(content[: len(content) // 2])
    refused(path)


def test_a_database_of_another_program_and_a_later_version_are_refused(path: Path) -> None:
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE patients (name TEXT)")
    base.close()
    path.chmod(0o600)
    assert "another program" in refused(path)
    path.unlink()
    Store(path).close()
    base = sqlite3.connect(path)
    base.execute("PRAGMA user_version = 7")
    base.close()
    assert "version 7" in refused(path)


def test_files_that_cannot_be_used_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No such file" in refused(path, create=False)
    assert "No such file" in refused(path.parent / "nowhere" / "ledger.db")
    assert "directory" in refused(path.parent).lower()
    Store(path).close()
    path.chmod(0o640)
    assert "chmod 600" in refused(path)
    path.unlink()
    Store(path).close()
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda place, how: not (place == path.parent and how == os.W_OK))
        assert f"its folder {path.parent} may not be written" in refused(path)
        Store(path, create=False).close()  # to look is allowed
    path.unlink()

    def read_only(*_: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", read_only)
    assert "Read-only file system" in refused(path)


def test_a_folder_that_may_not_be_written_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite makes its journal beside the file; where it cannot, nothing is charged."""
    with Store(path) as store:
        store._base.execute("PRAGMA query_only = ON")
        with pytest.raises(UserError, match=r"cannot be used: attempt to write a readonly database"):
            PartyLedger(store, *PLACE).charge("a", [CHARGE])


@pytest.mark.parametrize(
    ("column", "value", "word"),
    [
        ("event", '{"kind": "laplace", "scale": 2.0}', "laplace"),
        ("event", '{"kind": "dp-sgd"}', "missing"),
        ("event", "{", "JSON"),
        ("event", b"\xff\xfe", "JSON"),
        ("event", '{"kind": "exact", "shows": "all"}', "unit"),
        ("unit", "exact", "unit"),
        ("unit", "household", "household"),
        ("times", "many", "many"),
    ],
)
def test_an_event_that_is_not_known_is_refused_when_it_is_read(path: Path, column: str, value: object, word: str) -> None:
    with Store(path) as store:
        PartyLedger(store, *PLACE).charge("a", [CHARGE])
    base = sqlite3.connect(path)
    base.execute(f"UPDATE events SET {column} = ?", (value,))  # noqa: S608
    base.commit()
    base.close()
    with Store(path) as store, pytest.raises(UserError) as caught:
        PartyLedger(store, *PLACE).statement("record")
    assert word in str(caught.value)
    assert str(path) in str(caught.value)
    assert "event 1" in str(caught.value)


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, 1e-5), (-1.0, 1e-5), (float("inf"), 1e-5), (float("nan"), 1e-5), (1.0, 0.0), (1.0, 1.0)]
)
def test_a_budget_that_is_none_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(UserError, match="budget"):
        Budget(epsilon, delta)
