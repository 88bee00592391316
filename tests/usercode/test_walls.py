"""What code in a child can reach: nothing of its party, in both ways that walls are put up. Without walls it reaches the key."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import NAMES, rows, wild

from securefl import UserError
from securefl.usercode import isolation
from securefl.usercode.frames import CodeFault
from securefl.usercode.isolation import Isolation
from securefl.usercode.process import Child

KEY = "the-identity-key-of-a-party"
SIZE = 3 * 4 + 3 + 3 + 1


class Place:
    """A party's files, a server on its loopback, and a child in which code does what it is told."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        (folder / "keys").mkdir()
        (folder / "ssh").mkdir()
        (folder / "keys" / "identity.key").write_text(KEY)
        (folder / "ssh" / "id_ed25519").write_text(KEY)
        for path in (folder, folder / "keys", folder / "ssh"):
            path.chmod(0o700)
        self.listening = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._serve, daemon=True).start()
        walls = Isolation("bubblewrap" if kind == "bubblewrap" else "none", memory=3 << 30, file=16 << 20, step=20.0)
        files = wild(folder / "keys" / "identity.key", folder / "ssh", self.listening.getsockname()[1])
        self.child = Child({"files": files, "entry": "wild:build", "learning_rate": 0.5}, walls)

    def _serve(self) -> None:
        while True:
            try:
                self.listening.accept()[0].sendall(KEY.encode())
            except OSError:
                return

    def deed(self, name: str, label: float | None = None) -> str:
        """What the code could do."""
        x, y = rows(10 + NAMES.index(name) if label is None else label)
        wanted = {"gradients": ("float32", (len(x), SIZE))}
        try:
            self.child.ask("gradients", {}, {"vector": np.zeros(SIZE, dtype=np.float32), "x": x, "y": y}, wanted)
        except CodeFault as error:
            return f"{error.check}: {error.detail}"
        return "answered"


@pytest.fixture(scope="module")
def walled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("walled"), "bubblewrap")
    yield place
    place.child.close()
    place.listening.close()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("bare"), "none")
    yield place
    place.child.close()
    place.listening.close()


@pytest.mark.parametrize("name", ["key", "folder", "ssh", "loopback", "outside", "memory", "large file", "many files", "write"])
def test_code_behind_walls_is_refused(walled: Place, name: str) -> None:
    found = walled.deed(name)
    assert found.startswith("code-error: the job's code failed: Told: refused: "), found
    assert KEY not in found
    assert "\n" not in found


def test_control_code_without_walls_reads_the_key_and_reaches_the_network(bare: Place) -> None:
    assert KEY in bare.deed("key")
    assert "identity.key" in bare.deed("folder")
    assert "id_ed25519" in bare.deed("ssh")
    assert KEY in bare.deed("loopback")


def test_code_cannot_start_a_process(walled: Place, bare: Place) -> None:
    assert "refused: PermissionError" in walled.deed("fork")
    assert "all forked" in bare.deed("fork")


def test_code_sees_no_environment_no_other_process_and_no_file_that_was_open(walled: Place, bare: Place) -> None:
    environment = walled.deed("environment")
    assert "PATH" not in environment
    assert "SECUREFL" not in environment
    seen = walled.deed("others")
    assert "pytest: 0" in seen
    assert "pytest: 0" not in bare.deed("others")
    opened = walled.deed("links")
    assert opened.count("pipe") == 2, opened
    assert "socket" not in opened


def test_code_that_prints_or_kills_harms_nobody(walled: Place) -> None:
    assert walled.deed("print") == "answered"
    walled.deed("kill")
    assert walled.deed("print") == "answered"


@pytest.mark.parametrize(("name", "check"), [("garbage", "code-"), ("exit", "code-gone"), ("sleep", "code-time")])
def test_code_that_does_not_answer_is_named_and_the_next_question_is_answered(walled: Place, name: str, check: str) -> None:
    walled.child._isolation = Isolation(memory=3 << 30, file=16 << 20, step=2.0 if name == "sleep" else 20.0)
    assert walled.deed(name).startswith(check)
    walled.child._isolation = Isolation(memory=3 << 30, file=16 << 20, step=20.0)
    assert walled.deed("print") == "answered"


def _children() -> int:
    """Processes of children, once their number stays the same."""

    def now() -> int:
        found = 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                found += "securefl.usercode.child" in path.read_text(errors="replace")
        return found

    counts = [now()]
    while len(counts) < 11 or len({*counts[-11:]}) > 1:
        threading.Event().wait(0.05)
        counts.append(now())
    return counts[-1]


PARTY = """
import threading
from securefl.usercode.isolation import Isolation
from securefl.usercode.process import Child
code = "import torch\\ndef build(): return torch.nn.Linear(2, 1)"
child = Child({"files": {"a.py": code}, "entry": "a:build", "learning_rate": 1.0}, Isolation())
child.start()
print("started", flush=True)
threading.Event().wait()
"""


def test_a_child_ends_with_its_party_however_that_ends(walled: Place) -> None:
    walled.child.end()
    before = _children()
    assert walled.deed("print") == "answered"
    assert _children() > before
    walled.child.end()
    assert _children() == before
    with subprocess.Popen([sys.executable, "-c", PARTY], stdout=subprocess.PIPE, text=True) as party:
        assert party.stdout is not None
        assert party.stdout.readline() == "started\n"
        assert _children() > before
        party.kill()
    assert _children() == before


PROBE = """
import os, socket, time
def tell(what, work):
    try:
        print(what, work())
    except OSError as error:
        print(what, "refused", type(error).__name__)
def many():
    children = []
    try:
        for _ in range(100):
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            children.append(child)
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)
tell("key", lambda: open({key!r}).read())
tell("net", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 80)))
tell("fork", many)
tell("first", lambda: [line.split()[2] for line in open("/proc/1/limits") if line.startswith("Max processes")])
tell("write", lambda: open("/proc/1/mem", "r+b").close())
tell("caps", lambda: [line for line in open("/proc/self/status") if line.startswith("CapEff")])
"""


def test_the_walls_of_a_party_that_is_not_root_hold_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its child has a user namespace in place of another user."""
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "identity.key"
        key.write_text(KEY)
        key.chmod(0o644)
        Path(folder).chmod(0o755)
        monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
        monkeypatch.setattr(isolation, "visible", lambda: iter([Path("/usr")]))
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        words = Isolation().command(["-c", PROBE.format(key=str(key))])
        assert "--unshare-user" in words
        assert not any(word.startswith("--reuid") for word in words)
        other = ["setpriv", "--reuid=64999", "--regid=64999", "--clear-groups", "--"] if os.getuid() == 0 else []

        def ran(command: list[str]) -> list[str]:
            done = subprocess.run([*other, *command], capture_output=True, text=True, cwd="/", env={}, timeout=60, check=False)
            return done.stdout.splitlines() or [done.stderr]

        lines = ran(words)
        assert [line.split()[:2] for line in lines[:3]] == [["key", "refused"], ["net", "refused"], ["fork", "refused"]], lines
        assert lines[3] == "first ['16']"
        assert "0000000000000000" in lines[5]
        # Bubblewrap's own process, which has no limits and no filter of its own, would be the code's to write.
        without = ran([word for word in words if word != "--as-pid-1"])
        assert without[3] != lines[3]
        assert without[4] == "write None"
        assert ran(words[words.index("--") + 1 :])[0] == f"key {KEY}"  # the same limits without walls


def test_an_interpreter_in_the_folder_of_temporary_files_runs_behind_walls_and_its_neighbours_are_hidden() -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)
        (Path(folder) / "key").write_text(KEY)
        venv = Path(folder) / "env"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=60)
        patch.setattr(sys, "executable", str(venv / "bin" / "python"))
        patch.setattr(sys, "prefix", str(venv))
        probe = f"import os; print(os.listdir({folder!r})); open({str(venv / 'new')!r}, 'w')"
        done = subprocess.run(Isolation().command(["-c", probe]), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "['env']\n", done.stderr
    assert "Read-only file system" in done.stderr


def test_without_walls_nothing_runs_unless_the_party_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match='bwrap, prlimit, setpriv is not installed.*isolation = "none"') as found:
        Child({"files": {}, "entry": "a:b", "learning_rate": 1.0}, Isolation()).start()
    assert "\n" not in str(found.value)
    for name in ("bwrap", "prlimit", "setpriv"):
        (tmp_path / name).write_text("#!/bin/sh\necho bwrap: no permission to create a namespace >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(UserError, match='no permission to create a namespace.*isolation = "none"'):
        Child({"files": {}, "entry": "a:b", "learning_rate": 1.0}, Isolation()).start()


def test_keys_in_a_folder_that_the_child_sees_are_refused() -> None:
    shown = next(isolation.visible())
    for path in (shown, shown / "share" / "keys", Path(isolation.__file__)):
        with pytest.raises(UserError, match="move it elsewhere"):
            Isolation(private=(path,)).command([])
    Isolation(private=(Path("/somewhere"),)).command([])


def test_children_are_users_of_their_own_also_beside_another_process_of_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits on threads are a user's. All alike by chance: (20/4000)^4, less than 10^-9."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def users() -> frozenset[int]:
        words = [word for _ in range(10) for word in Isolation().command([]) if word.startswith("--reuid=")]
        return frozenset(int(word.partition("=")[2]) for word in words)

    first, overlaps = users(), 0
    assert len(first) == 10
    for _ in range(4):
        isolation._place.cache_clear()
        overlaps += bool(first & users())
    assert overlaps < 4
    assert all(61184 <= user <= 65519 for user in first)
