"""The walls around a job's code: a child without files, keys, network and privileges, by bubblewrap.

The child sees the interpreter, its packages and this package, all read-only, and an empty folder in memory; it has namespaces of
its own for mounts, processes, network, IPC and host name, no capability, an empty environment, and limits on memory, threads and
file sizes (``prlimit``); calls of the kernel that lead around these are refused (`securefl.usercode.calls`).  Where the party is
root the child is another user (``setpriv``): limits and modes do not bind root.

What it does not protect: a hole in the kernel, and what the processor's timing tells (caches, load).  Whatever lies in the folders
of the interpreter and its packages can be read: keys must not lie there, which is checked for those that are named.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from protocols.rand import fresh
from securefl.errors import UserError

Kind = Literal["bubblewrap", "none"]
TOOLS = ("bwrap", "prlimit", "setpriv")
FIRST_USER, USERS = 61184, 4000
"""Users that nobody is: systemd's range for services, where the party is root."""
_turn = itertools.count()


@dataclass(frozen=True)
class Isolation:
    """How a job's code runs.

    Attributes:
        kind: ``bubblewrap``, or ``none``: then the code can read what the party can, its keys among it, and reach the network.
        memory: bytes of address space of the child, which is one process; without walls, of each of its processes.
        threads: that compute.
        processes: most threads of the child at once.
        cpu: seconds of a processor, of the child.
        file: bytes of its largest file, and of all files in its folder together.
        start: seconds for the child to start and load the code.
        step: seconds for one answer.
        private: files and folders that the child must not see, such as the folder of keys.
    """

    kind: Kind = "bubblewrap"
    memory: int = 8 << 30
    threads: int = 1
    processes: int = 16
    cpu: int = 7 * 86400
    file: int = 64 << 20
    start: float = 120.0
    step: float = 600.0
    private: tuple[Path, ...] = ()

    def command(self, program: list[str], calls: int | None = None) -> list[str]:
        """The words that run a program of Python behind the walls.

        Args:
            program: what Python is told.
            calls: an open file that holds `securefl.usercode.calls.program`, which bubblewrap reads and closes.

        Raises:
            UserError: where a tool is missing, or a private path lies in a folder that the child would see: nothing runs then.
        """
        limits = {"as": self.memory, "cpu": self.cpu, "fsize": self.file, "nproc": self.processes, "nofile": 64, "core": 0}
        run = [f"--{name}={value}" for name, value in limits.items()]
        python = [sys.executable, "-I", *program]
        if self.kind == "none":
            tool = shutil.which("prlimit")
            return python if tool is None else [tool, *(word for word in run if not word.startswith("--nproc")), "--", *python]
        where = {name: shutil.which(name) for name in TOOLS}
        missing = [name for name, found in where.items() if found is None]
        if missing:
            first = remedy("install bubblewrap and util-linux, or ")
            raise UserError(f"a job's code runs behind walls, and {', '.join(missing)} is not installed{first}")
        shown = list(visible())
        self._refuse_shown(shown)
        walls = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        root = os.geteuid() == 0
        # Where the child has the party's user, bubblewrap's own process would be the child's to write, and it has no limits.
        walls += [] if root else ["--unshare-user", "--as-pid-1"]
        walls += ["--hostname", "child", "--clearenv", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        walls += [word for name in ("SETUID", "SETGID", "SETPCAP") if root for word in ("--cap-add", f"CAP_{name}")]
        walls += [] if calls is None else ["--seccomp", str(calls)]
        # Before what is shown, which may lie under it: a virtual environment in /tmp.
        walls += ["--size", str(self.file), "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108  (the child's own)
        for folder in dict.fromkeys(parent for path in shown for parent in reversed(path.parents) if parent != Path("/")):
            walls += ["--dir", str(folder)]
        for path in shown:
            walls += ["--ro-bind", str(path), str(path)]
        for name in ("bin", "lib", "lib64", "sbin"):
            walls += _system(Path("/", name))
        walls += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
        walls += ["--remount-ro", "/", "--chdir", "/tmp", "--"]  # noqa: S108
        drop = ["--no-new-privs", "--inh-caps=-all", *(() if root else ("--pdeathsig=KILL",))]
        if root:
            user = FIRST_USER + (_place() + next(_turn)) % USERS
            drop += [f"--reuid={user}", f"--regid={user}", "--clear-groups", "--bounding-set=-all"]
        return [str(where["bwrap"]), *walls, str(where["prlimit"]), *run, "--", str(where["setpriv"]), *drop, "--", *python]

    def _refuse_shown(self, shown: list[Path]) -> None:
        for path in self.private:
            inside = next((folder for folder in shown if path.resolve().is_relative_to(folder.resolve())), None)
            if inside is not None:
                raise UserError(f"{path} lies in {inside}, which a job's code can read: move it elsewhere")


@cache
def _place() -> int:
    """Where this process begins to count users: parties in containers have like process numbers, and a user's limits in common."""
    return fresh().below("user", USERS, 1)[0]


def visible() -> Iterator[Path]:
    """Folders that the child sees: the system's programs, the interpreter, its packages, this package."""
    own = [Path(__file__).parents[1], Path(__file__).parents[2] / "protocols"]
    folders = [Path("/usr"), *(Path(prefix) for prefix in dict.fromkeys((sys.base_prefix, sys.prefix))), *own]
    kept = list[Path]()
    for folder in folders:
        if folder == Path("/") or folder == Path.home():
            raise UserError(f"the interpreter's folder is {folder}: a job's code would see all of it; use a virtual environment")
        if not any(folder.is_relative_to(other) for other in kept):
            kept.append(folder)
    yield from kept


def _system(path: Path) -> list[str]:
    """``/lib`` and its like as they are here: a link into ``/usr``, or a folder."""
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind", str(path), str(path)] if path.is_dir() else []


def remedy(first: str = "") -> str:
    """What can be done where no walls can be had; ``first`` is what should be tried before."""
    return (
        f': {first}let policy.toml say isolation = "none", whereupon the code can read what this account can, keys and rows among '
        "it, and reach the network"
    )
