"""What ``securefl audit --live`` prints."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from securefl.audit.command import COLORS, told
from securefl.audit.live import Peer, Tried, play
from securefl.transport.clock import SystemClock
from securefl.transport.enrolment import Credentials


def attack(target: str, keys: Path, job: Path | None, refused: Sequence[Path], tell: Callable[[str], None]) -> list[Tried]:
    """Play row 21 on a server.

    Args:
        target: HOST:PORT.
        keys: a party's folder.
        job: file of the job that the server runs; None leaves out what comes behind the greeting.
        refused: folders of keys that the server must not welcome.
        tell: is told what is tried.

    Raises:
        UserError: for keys or a job that cannot be read, or a server out of reach.
    """
    from securefl.job import Job  # noqa: PLC0415
    from securefl.shared_job import job_hash  # noqa: PLC0415

    digest = None if job is None else job_hash(Job.load(job))
    peer = Peer(target, Credentials.load(keys, "party"), digest, refused, clock=SystemClock())
    return asyncio.run(play(peer, tell))


def as_json(target: str, found: Sequence[Tried]) -> str:
    """One JSON object, ASCII alone."""
    return json.dumps({"passed": not lost(found), "server": target, "attacks": [one.as_json() for one in found]})


def show(console: Console, target: str, found: Sequence[Tried]) -> None:
    """The table, and of what is broken every try."""
    table = Table(title=f"row 21 at {target}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("attack", ratio=5)
    table.add_column("verdict", ratio=6)
    table.add_column("s", justify="right")
    for one in found:
        table.add_row(one.name, Text(told(one.verdict), COLORS.get(one.verdict.status, "")), f"{one.seconds:.1f}")
    console.print(table)
    for one in lost(found):
        console.print(Text(f"{one.name}: {one.verdict.why}", "bold red"))
        for part in one.verdict.parts:
            console.print(f"  {part}", markup=False)
    console.print(f"{len(lost(found)) or 'nothing'} broken; a passed audit is not a proof")


def lost(found: Sequence[Tried]) -> list[Tried]:
    """The attacks that succeed."""
    return [one for one in found if one.verdict.broken]
