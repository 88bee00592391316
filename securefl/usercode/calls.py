"""What a child behind walls may not ask of the kernel, as a filter for seccomp (``bwrap --seccomp``).

Namespaces leave open what has none: keyrings, which a child inherits from the session of its party and in which one child could
leave rows for another; sockets of other families than the network's, such as those that lead to a virtual machine's host; and
memory that no limit of a process counts.  A refused call fails with EPERM.  Threads can be made and processes cannot, so that the
limit on the memory of a process is that of the child.

Source: Linux, Documentation/userspace-api/seccomp_filter.rst; numbers of calls from asm/unistd_64.h and asm-generic/unistd.h.

What it does not protect: it names what is refused, so a call that a later kernel adds passes.
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass

from securefl.errors import UserError


@dataclass(frozen=True)
class Machine:
    """Numbers of one architecture.

    Attributes:
        arch: the kernel's name of it (``AUDIT_ARCH_…``); a program of another one is refused every call.
        refused: numbers of calls, by name.
        clone: passes for a thread.
        socket: passes for AF_UNIX, which leads nowhere: the child shares no file and no name with others.
    """

    arch: int
    refused: dict[str, int]
    clone: int
    socket: int


_SAME = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        {
            "fork": 57, "vfork": 58, "add_key": 248, "request_key": 249, "keyctl": 250, "shmget": 29, "semget": 64, "msgget": 68,
            "mq_open": 240, "memfd_create": 319, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155,
            "chroot": 161, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "bpf": 321,
            "userfaultfd": 323, "perf_event_open": 298, "open_by_handle_at": 304, "name_to_handle_at": 303, "personality": 135,
            "modify_ldt": 154, "fanotify_init": 300, "quotactl": 179, "syslog": 103, **_SAME,
        },
        clone=56,
        socket=41,
    ),
    "aarch64": Machine(
        0xC00000B7,
        {
            "add_key": 217, "request_key": 218, "keyctl": 219, "shmget": 194, "semget": 190, "msgget": 186, "mq_open": 180,
            "memfd_create": 279, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51,
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "bpf": 280, "userfaultfd": 282,
            "perf_event_open": 241, "open_by_handle_at": 265, "name_to_handle_at": 264, "personality": 92, "fanotify_init": 262,
            "quotactl": 60, "syslog": 116, **_SAME,
        },
        clone=220,
        socket=198,
    ),
}  # fmt: skip
CLONE3 = 435
"""Answered as by a kernel that does not have it, as its flags lie in memory; the C library then takes clone."""
CLONE_THREAD, AF_UNIX, X32 = 0x10000, 1, 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST = 0, 4, 16
"""Offsets in ``struct seccomp_data``: the call's number, the architecture, the low half of the first argument."""
_PASS, _ERROR = 0x7FFF0000, 0x00050000


def program(machine: str | None = None) -> bytes:
    """The filter, as instructions of BPF.

    Args:
        machine: as ``uname -m`` has it; None for this one.

    Raises:
        UserError: for one whose numbers are not known here.
    """
    name = platform.machine() if machine is None else machine
    if name not in MACHINES:
        raise UserError(f"a job's code runs behind walls on {' and '.join(MACHINES)}, and this machine is {name}")
    of = MACHINES[name]
    lines: list[tuple[int, int, str, str]] = [
        (_LOAD, _ARCH, "", ""),
        (_EQUAL, of.arch, "", "refuse"),
        (_LOAD, _NUMBER, "", ""),
        (_AT_LEAST, X32, "refuse", ""),
        *((_EQUAL, number, "refuse", "") for number in of.refused.values()),
        (_EQUAL, CLONE3, "unknown", ""),
        (_EQUAL, of.clone, "clone", ""),
        (_EQUAL, of.socket, "socket", "pass"),
        (_LOAD, _FIRST, "", ""),
        (_ANY_BIT, CLONE_THREAD, "pass", "refuse"),
        (_LOAD, _FIRST, "", ""),
        (_EQUAL, AF_UNIX, "pass", "refuse"),
        (_RETURN, _PASS, "", ""),
        (_RETURN, _ERROR | errno.EPERM, "", ""),
        (_RETURN, _ERROR | errno.ENOSYS, "", ""),
    ]
    end = len(lines)
    where = {"clone": end - 7, "socket": end - 5, "pass": end - 3, "refuse": end - 2, "unknown": end - 1}
    jumps = [tuple(where[to] - at - 1 if to else 0 for to in (yes, no)) for at, (_, _, yes, no) in enumerate(lines)]
    return b"".join(struct.pack("=HBBI", code, *jump, value) for (code, value, _, _), jump in zip(lines, jumps, strict=True))
