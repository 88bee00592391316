"""What ``securefl audit --through-port`` prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from securefl.audit.carried import NOTHING_SENT, Passage, through_port, wire_for
from securefl.audit.command import COLORS, Configured, told

Passages = Mapping[str, Sequence[Passage]]
"""By protocol."""


def play(configured: Sequence[Configured], *, quick: bool, tell: Callable[[str], None]) -> dict[str, list[Passage]]:
    """Play the catalogue in one process and through a port, one protocol after another; ``tell`` is told what is tried."""
    targets, found = [one.target(quick=quick) for one in configured], dict[str, list[Passage]]()
    for target in targets:
        tell(f"{target.name}: a port and its parties")
        with wire_for(target) as wire:
            found[target.name] = through_port(target, wire, tell=lambda name, of=target.name: tell(f"{of}: {name}"))  # type: ignore[misc]
    return found


def as_json(found: Passages) -> str:
    """One JSON object, ASCII alone."""
    protocols = {name: [one.as_json() for one in passages] for name, passages in found.items()}
    return json.dumps({"passed": not objection(found), "through_port": protocols})


def show(console: Console, found: Passages) -> None:
    """A table for each protocol, and what it comes to."""
    for name, passages in found.items():
        table = Table(
            title=f"{name}, through the port", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
        )
        table.add_column("row", justify="right")
        table.add_column("attack", ratio=5)
        table.add_column("verdict", ratio=6)
        table.add_column("pieces", justify="right")
        table.add_column("s", justify="right")
        for one in passages:
            text = Text(told(one.through), COLORS.get(one.through.status, ""))
            if not one.same:
                text.append(f"\nin one process: {told(one.alone)}", "bold red")
            beside = f" + {one.beside}" if one.beside else ""
            table.add_row(str(one.row), one.name, text, f"{one.carried}{beside}", f"{one.seconds:.1f}")
        console.print(table)
        rows = sorted({one.row for one in passages if not one.carried})
        if rows:
            console.print(f"nothing goes through the port in row {', '.join(map(str, rows))}", markup=False)
        if any(one.beside for one in passages):
            console.print("behind a +: pieces of senders without a stream, who have no place at a port", markup=False)
        same = sum(one.same for one in passages)
        console.print(f"{same} of {len(passages)} verdicts are those of one process; a passed audit is not a proof")


def objection(found: Passages) -> str:
    """Why the command fails; empty where nothing is broken or another through the port, and some of each protocol went through."""
    passages = [one for some in found.values() for one in some]
    broken, other = sum(one.through.broken for one in passages), sum(not one.same for one in passages)
    sent = [[one.carried for one in some if one.row not in NOTHING_SENT] for some in found.values()]
    past = sum(bool(pieces) and not any(pieces) for pieces in sent)
    counts = ((broken, "broken"), (other, "other than in one process"), (past, "of which nothing went through"))
    told = [f"{count} {what}" for count, what in counts if count]
    return f"through the port: {', '.join(told)}" if told else ""
