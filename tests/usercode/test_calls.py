"""What code in a child may not ask of the kernel; with a filter that lets everything pass, each of it can be had."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import FEATURES

from securefl import UserError
from securefl.usercode import calls, process
from securefl.usercode.frames import CodeFault
from securefl.usercode.isolation import Isolation
from securefl.usercode.process import Child

NAMES = ("leave", "find", "shared memory", "memory file", "host", "users", "process", "watch", "thread", "pair")
CODE = """
import ctypes, errno, os, socket, threading
from torch import nn
from securefl import ClientTrainer

library = ctypes.CDLL(None, use_errno=True)
SESSION = ctypes.c_long(-3)

class Told(Exception):
    pass

def call(name, *words):
    found = getattr(library, name)(*words)
    if found < 0:
        raise OSError(ctypes.get_errno(), name)
    return found

def many():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)

def users():
    # a process of one thread is needed, and torch has several
    if os.fork() == 0:
        os._exit(0 if library.unshare(0x10000000) == 0 else 1)
    return "in" if os.wait()[1] == 0 else "out"

def thread():
    found = []
    one = threading.Thread(target=lambda: found.append(1))
    one.start()
    one.join()
    return found

def find():
    number = call("syscall", 249, b"user", b"rows", None, SESSION)
    held = ctypes.create_string_buffer(20)
    call("syscall", 250, 11, number, held, 20)
    return held.value

DEEDS = {
    "leave": lambda: call("syscall", 248, b"user", b"rows", b"a-training-row", 14, SESSION),
    "find": find,
    "shared memory": lambda: call("shmget", 0, ctypes.c_size_t(1 << 34), 0o1600),
    "memory file": lambda: os.memfd_create("more"),
    "host": lambda: socket.socket(40, socket.SOCK_STREAM).close(),
    "users": users,
    "process": many,
    "watch": lambda: call("ptrace", 0, 0, None, None),
    "thread": thread,
    "pair": lambda: [one.close() for one in socket.socketpair()],
}

class Wild(ClientTrainer):
    def loss(self, output, y):
        try:
            found = [*DEEDS.values()][int(y[0])]()
        except OSError as error:
            found = "refused: " + errno.errorcode[error.errno]
        raise Told(f"said {found}")

def build():
    return nn.Linear(4, 1), Wild()
"""


def pass_all() -> bytes:
    return struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)


def deed(child: Child, name: str) -> str:
    x, y = np.zeros((2, FEATURES), dtype=np.float32), np.full(2, NAMES.index(name), dtype=np.float32)
    vector = np.zeros(FEATURES + 1, dtype=np.float32)
    with pytest.raises(CodeFault, match="code-error") as found:
        child.ask("gradients", {}, {"vector": vector, "x": x, "y": y}, {"gradients": ("float32", (2, FEATURES + 1))})
    return str(found.value).partition("said ")[2]


def child() -> Child:
    return Child({"files": {"wild.py": CODE}, "entry": "wild:build", "learning_rate": 0.5}, Isolation(memory=3 << 30, step=30.0))


@pytest.fixture(scope="module")
def walled() -> Iterator[Child]:
    one = child()
    yield one
    one.close()


@pytest.mark.parametrize("name", NAMES[:-2])
def test_calls_that_lead_around_the_walls_are_refused(walled: Child, name: str) -> None:
    assert deed(walled, name) == "refused: EPERM"


def test_code_may_have_threads_and_pairs_of_sockets(walled: Child) -> None:
    assert deed(walled, "thread") == "[1]"
    assert deed(walled, "pair").startswith("[")


def test_control_without_the_filter_one_child_leaves_rows_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """And gets memory that is not counted, more users, processes, and a line to the host of a virtual machine."""
    monkeypatch.setattr(process, "program", pass_all)
    training, held_out = child(), child()

    def both() -> None:
        ctypes.CDLL(None).syscall(250, 1, None)  # a session's keyring of this thread's own, as a login has one
        training.start()
        held_out.start()

    try:
        with ThreadPoolExecutor(1) as login:  # its end would end the children with it
            login.submit(both).result()
            assert deed(training, "leave").isdigit()
            assert deed(held_out, "find") == "b'a-training-row'"
            for name in ("shared memory", "memory file", "users", "process", "watch"):
                assert not deed(training, name).startswith("refused"), name
            assert deed(training, "host") != "refused: EPERM"  # not every kernel has such sockets
    finally:
        training.close()
        held_out.close()


def _run(machine: str, number: int, first: int = 0, arch: int | None = None) -> int:
    """What the filter answers, by an interpreter of its instructions."""
    data = struct.pack("=IIQ6Q", number, calls.MACHINES[machine].arch if arch is None else arch, 0, first, 0, 0, 0, 0, 0)
    lines = [*struct.iter_unpack("=HBBI", calls.program(machine))]
    held, at = 0, 0
    tests: dict[int, Callable[[int, int], bool]] = {0x15: int.__eq__, 0x35: int.__ge__, 0x45: lambda a, b: bool(a & b)}
    while True:
        code, yes, no, value = lines[at]
        at += 1
        if code == 0x20:
            held = struct.unpack_from("=I", data, value)[0]
        elif code == 6:
            return int(value)
        else:
            at += yes if tests[code](held, value) else no


@pytest.mark.parametrize("machine", list(calls.MACHINES))
def test_the_filter_refuses_what_it_names_and_nothing_else(machine: str) -> None:
    of, passes, refused, unknown = calls.MACHINES[machine], 0x7FFF0000, 0x50001, 0x50026
    expected = dict.fromkeys(range(600), passes) | dict.fromkeys(of.refused.values(), refused)
    expected |= {calls.CLONE3: unknown, of.clone: refused, of.socket: refused}
    assert {number: _run(machine, number) for number in expected} == expected
    assert _run(machine, of.clone, calls.CLONE_THREAD | 0xF00) == passes
    assert _run(machine, of.clone, 0x10000000) == refused
    assert [_run(machine, of.socket, family) for family in (1, 2, 10, 16, 40)] == [passes, *[refused] * 4]
    assert _run(machine, 0, arch=0x40000003) == refused
    assert _run(machine, 0x40000000) == refused


def test_on_a_machine_whose_calls_are_not_known_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(UserError, match="this machine is riscv64"):
        child().start()
