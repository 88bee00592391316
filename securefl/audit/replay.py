"""A tape told sum by sum: who sent what, how much, who dropped, what was opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from protocols.errors import Misuse
from protocols.suite import Roster
from protocols.sums import scheme
from securefl.audit.chain import LONGEST, Line, Unreadable, is_count, lines
from securefl.audit.seen import Seen
from securefl.audit.tape import Ending, ending, from_client, header, message, to_clients
from securefl.errors import UserError, printable, quoted
from securefl.tables import size


@dataclass
class Told:
    """Messages of one kind in one sum."""

    name: str
    up: bool
    lines: list[int] = field(default_factory=list)
    parties: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    total: int = 0


@dataclass
class Scene:
    """One sum.

    Attributes:
        line: where it began.
        tree: for what it was.
        kinds: its messages by kind, in the order of the first of each.
        end: how it ended; None where the tape ends before.
    """

    line: int
    tree: dict[str, Any]
    kinds: dict[tuple[str, bool], Told] = field(default_factory=dict)
    end: Ending | None = None

    def take(self, line: Line, seen: Seen) -> None:
        """One more message."""
        u, to = from_client(seen), to_clients(seen)
        told = self.kinds.setdefault((seen.name, u is not None), Told(seen.name, u is not None))
        told.lines.append(line.number)
        told.parties += to if u is None else (u,)
        told.sizes.append(seen.size)
        told.total += seen.size * (1 if u is not None else max(1, len(to)))


def scenes(path: Path, number: int | None = None) -> Iterator[tuple[Roster, Scene]]:
    """The sums of a tape, with its roster.

    Args:
        path: of the tape.
        number: of the round, or None for all.

    Raises:
        Unreadable: naming the first line that is none.
        OSError: where it cannot be read.
    """
    roster: Roster | None = None
    scene: Scene | None = None
    for line in lines(path):
        if roster is None:
            roster = header(path, line)
        elif line.kind == "session":
            if scene is not None:
                yield roster, scene
            _check(path, line)
            scene = Scene(line.number, line.tree) if number is None or line.tree.get("round") == number else None
        elif scene is not None and line.kind == "message":
            scene.take(line, message(path, line))
        elif scene is not None and line.kind == "end":
            scene.end = ending(path, line)
            yield roster, scene
            scene = None
    if roster is None:
        raise Unreadable(f"{path}, line 1 is refused: the file is empty")
    if scene is not None:
        yield roster, scene


def _check(path: Path, line: Line) -> None:
    tree, texts, numbers = line.tree, ("run", "protocol"), ("round", "attempt")
    told = all(type(tree.get(name)) is str for name in texts) and all(is_count(tree.get(name)) for name in numbers)
    if not told or not isinstance(tree.get("parameters"), dict):
        raise Unreadable(f"{path}, line {line.number} is refused: it begins no sum")


def replay(path: Path, number: int | None, console: Console) -> None:
    """Print a tape, or one round of it.

    Raises:
        UserError: where the tape has no such round.
        Unreadable, OSError: as `scenes`.
    """
    shown = 0
    for roster, scene in scenes(path, number):
        _show(roster, scene, console)
        shown += 1
    if not shown:
        raise UserError(f"{path} has no round {number}: {_rounds(path)}" if number is not None else f"{path} has no sum")
    console.print("told as the tape has it; whether it is sound says securefl audit --tape", markup=False, soft_wrap=True)


def _rounds(path: Path) -> str:
    """Which rounds a tape has."""
    known = sorted({line.tree["round"] for line in lines(path) if line.kind == "session"})
    if not known:
        return "it has none"
    whole = known == list(range(known[0], known[-1] + 1))
    shown = [str(known[0]), "to", str(known[-1])] if whole and len(known) > 1 else [", ".join(map(str, known[:20]))]
    return f"it has round{'s' * (len(known) > 1)} {' '.join(shown)}{', …' * (len(known) > 20 and not whole)}"


def _show(roster: Roster, scene: Scene, console: Console) -> None:
    tree, p = scene.tree, scene.tree["parameters"]
    title = f"round {tree['round']}, attempt {tree['attempt']} of {tree['run']} (line {scene.line}): {tree['protocol']}"
    title += f", {p.get('parties')} parties, threshold {p.get('threshold')}, vectors of {p.get('size')} values"
    title = printable(title[:LONGEST])
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("lines", "message", "from", "to"):
        table.add_column(heading)
    for heading in ("count", "bytes each", "in all"):
        table.add_column(heading, justify="right")
    everybody = set(roster.indexes)
    for told in scene.kinds.values():
        who, count = _parties(sorted(told.parties), everybody), str(len(told.lines))
        each = size(told.sizes[0]) if min(told.sizes) == max(told.sizes) else f"{size(min(told.sizes))} … {size(max(told.sizes))}"
        where = f"{told.lines[0]}" if len(told.lines) == 1 else f"{told.lines[0]} … {told.lines[-1]}"
        ends = (who, "server") if told.up else ("server", who)
        table.add_row(where, Text(told.name), *map(Text, ends), count, each, size(told.total))
    console.print(table)
    for line in _ending(roster, scene):
        console.print(line)
    console.print()


def _parties(parties: list[int], everybody: set[int]) -> str:
    """Roster indexes in few words."""
    if set(parties) == everybody and len(parties) == len(everybody):
        return f"all {len(everybody)}"
    missing = sorted(everybody - set(parties))
    if len(missing) < len(everybody) / 2 and len(parties) == len(set(parties)):
        return f"all but {', '.join(map(str, missing[:8]))}{', …' * (len(missing) > 8)}"
    return ", ".join(map(str, parties[:8])) + ", …" * (len(parties) > 8)


def _ending(roster: Roster, scene: Scene) -> Iterator[Text]:
    if gone := _quiet(roster, scene):
        words = [f"{quoted(roster.name(u))} (before {name})" for u, name in list(gone.items())[:12]]
        yield Text(f"did not stay: {', '.join(words)}{', …' * (len(gone) > 12)}", "yellow")
    if scene.end is None:
        yield Text("the tape has no end of this sum", "bold red")
        return
    for sender, check, step, provable in scene.end.faults:
        proof = "what it signed proves it" if provable else "not provable"
        yield Text(f"the server named {sender}: {check} in {step}; {proof}", "yellow")
    if scene.end.abort is not None:
        yield Text(f"aborted in {scene.end.abort[1]}: {scene.end.abort[0]}", "bold red")
    else:
        yield Text(f"opened: the sum over {scene.end.contributors} parties", "bold green")


def _quiet(roster: Roster, scene: Scene) -> dict[int, str]:
    """Who did not answer, and the message that was due."""
    try:
        flow = scheme(str(scene.tree.get("protocol"))).flow
    except Misuse:  # a plug-in that is not here
        return {}
    told = {name: set(kind.parties) for (name, up), kind in scene.kinds.items() if not up}
    sent = {name: set(kind.parties) for (name, up), kind in scene.kinds.items() if up}
    out = dict[int, str]()
    for kind in flow.messages("server"):
        due = set(roster.indexes).intersection(*(told.get(port.type.__name__, set()) for port in flow.sender(kind).awaits))
        out |= {u: kind.__name__ for u in sorted(due - sent.get(kind.__name__, set())) if u not in out}
    return dict(sorted(out.items()))
