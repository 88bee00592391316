"""Code that does what the first feature of a row tells it, in real children."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from securefl.usercode.isolation import Isolation
from securefl.usercode.remote import RemoteTrainer, trainer_of

FEATURES = 4
HONEST = f"""
from torch import nn

def build():
    model = nn.Sequential(nn.Linear({FEATURES}, 3), nn.Tanh(), nn.Linear(3, 1))
    for number, parameter in enumerate(model.parameters()):
        nn.init.constant_(parameter, 0.1 * (number + 1))
    return model
"""
WILD = """
import os, socket, sys, time
from torch import nn
from securefl import ClientTrainer

KEY, PORT, SSH = {key!r}, {port}, {ssh!r}

class Told(Exception):
    pass

def attempt(work):
    try:
        return repr(work())
    except OSError as error:
        return "refused: " + type(error).__name__
    except MemoryError:
        return "refused: MemoryError"

def read(path):
    with open(path) as file:
        return file.read()

def call(host, port):
    with socket.create_connection((host, port), timeout=3) as link:
        return link.recv(40)

def datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        return link.sendto(b"x", ("192.0.2.1", 53))

def many():
    children = []
    try:
        for _ in range(40):
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            children.append(child)
        return "all forked"
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)

def large_file():
    with open("large", "wb") as file:
        for _ in range(200):
            file.write(bytes(1 << 20))
    return "written"

def many_files():
    for number in range(200):
        with open("large%d" % number, "wb") as file:
            file.write(bytes(1 << 20))
    return "written"

def links():
    paths = ["/proc/self/fd/" + fd for fd in os.listdir("/proc/self/fd")]
    return [os.readlink(path).split(":")[0] for path in paths if os.path.islink(path)]

def others():
    names = [read("/proc/" + pid + "/cmdline") for pid in os.listdir("/proc") if pid.isdigit()]
    return "pytest: %d, children: %d" % (sum("pytest" in n for n in names), sum("usercode.child" in n for n in names))

DEEDS = {{
    "key": lambda: read(KEY),
    "folder": lambda: os.listdir(os.path.dirname(KEY)),
    "ssh": lambda: os.listdir(SSH),
    "environment": lambda: dict(os.environ),
    "loopback": lambda: call("127.0.0.1", PORT),
    "outside": datagram,
    "fork": many,
    "memory": lambda: len(bytearray(64 << 30)),
    "large file": large_file,
    "many files": many_files,
    "write": lambda: open({package!r} + "/written", "w"),
    "links": links,
    "others": others,
    "kill": lambda: os.kill(os.getppid(), 9),
}}
NAMES = [*DEEDS, "print", "garbage", "sleep", "exit", "orphan"]

class Wild(ClientTrainer):
    def loss(self, output, y):
        deed = int(y.reshape(-1)[0])
        if deed < 10:
            return super().loss(output, y)
        name = NAMES[deed - 10]
        if name in DEEDS:
            raise Told(attempt(DEEDS[name]))
        if name == "print":
            print("x" * 5000, flush=True)
            os.write(1, b"y" * 5000)
            os.write(2, b"z" * 5000)
            return super().loss(output, y * 0)
        if name == "garbage":
            for fd in range(3, 20):
                try:
                    os.write(fd, b"g" * 4000)
                except OSError:
                    pass
            return super().loss(output, y * 0)
        if name == "orphan":
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
            raise Told(repr(os.getpid()))
        if name == "sleep":
            time.sleep(600)
        os._exit(3)

def build():
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    return model, Wild()
"""
NAMES = (
    "key", "folder", "ssh", "environment", "loopback", "outside", "fork", "memory", "large file", "many files", "write", "links",
    "others", "kill", "print", "garbage", "sleep", "exit", "orphan",
)  # fmt: skip


def wild(key: Path, ssh: Path, port: int = 1) -> dict[str, str]:
    package = str(Path(__file__).parents[2] / "securefl")
    return {"wild.py": WILD.format(key=str(key), port=port, ssh=str(ssh), package=package)}


def rows(label: float = 0.0, count: int = 6) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    x = np.sin(np.arange(count * FEATURES, dtype=np.float32)).reshape(count, FEATURES)
    return x, np.full(count, label, dtype=np.float32)


@pytest.fixture(scope="session", autouse=True)
def walls() -> None:
    """Bubblewrap; .ci/run installs it."""
    if shutil.which("bwrap") is None:
        pytest.skip("these tests run code behind walls: apt-get install bubblewrap")


@pytest.fixture(scope="session")
def honest() -> Iterator[RemoteTrainer]:
    trainer, _ = trainer_of({"honest.py": HONEST}, "honest:build", Isolation())
    yield trainer
    trainer.close()
