"""Reading a party's log: lines that the party signed, sum by sum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocols.primitives.sign import verify
from protocols.statements import Told
from protocols.suite import Roster
from securefl.audit.chain import Line, Tree, Unreadable, is_count, lines
from securefl.audit.findings import Findings
from securefl.audit.party_log import FORMAT
from securefl.audit.seen import kind_name, why_bad
from securefl.audit.tape import fingerprint

Key = tuple[str, int]
"""Kind and epoch of a message."""


@dataclass
class LoggedSum:
    """What a log says of one sum.

    Attributes:
        line: where it began.
        tree: for what it was.
        sent: messages that left, by kind and epoch.
        told: messages that came.
        order: all of them in their order, with whether they were sent.
        last: the last line about it.
    """

    line: int
    tree: dict[str, Any]
    sent: dict[Key, Line] = field(default_factory=dict)
    told: dict[Key, Line] = field(default_factory=dict)
    order: list[tuple[bool, Line]] = field(default_factory=list)
    last: int = 0

    @property
    def at(self) -> tuple[str, int, int]:
        """Run, round and attempt."""
        return self.tree["run"], self.tree["round"], self.tree["attempt"]

    def received(self) -> Iterator[tuple[Key, Line]]:
        """Every message that came, repeated ones too."""
        for was_sent, line in self.order:
            if not was_sent:
                yield (line.tree["type"], line.tree["epoch"]), line

    def view(self) -> Told:
        """What the party says that it was told."""
        sets = dict[str, Any]()
        for line in self.told.values():
            sets |= line.tree["sets"]
        parties = {name: tuple(sets[name]) if name in sets else None for name in ("u1", "u2", "dropped")}
        receipt = sets.get("receipt")
        return Told(
            L=bytes.fromhex(sets.get("L", "")),
            u1=parties["u1"] or (),
            u2=parties["u2"],
            receipt=None if receipt is None else bytes.fromhex(receipt),
            dropped=parties["dropped"],
        )


@dataclass
class LogFile:
    """A party's log.

    Attributes:
        path: of the file.
        party: roster index.
        name: the random name of the log.
        sums: by session identity.
        lines: by number, hash of the line before and hash of the line, with the line.
        sealed: whether it ends in a seal.
        last: number of its last line.
    """

    path: Path
    party: int
    name: str
    sums: dict[bytes, LoggedSum] = field(default_factory=dict)
    lines: dict[tuple[int, str], Line] = field(default_factory=dict)
    sealed: bool = False
    last: int = 0

    def complete(self, after: int) -> bool:
        """Whether the party vouches that nothing is missing after that line: it signed a later one, or the seal."""
        return self.sealed or self.last > after


def read_log(path: Path, roster: Roster, findings: Findings) -> LogFile | None:
    """A log, or None where it is not its party's, about which `findings` are told.

    Raises:
        Unreadable: naming the first line that is none.
        OSError: where it cannot be read.
    """
    found: LogFile | None = None
    current: LoggedSum | None = None
    for line in lines(path):
        if found is None:
            found = _header(path, line, roster, findings)
            if found is None:
                return None
        findings.looked("log-signature")
        if not _signed(line, roster.identity(found.party)):
            detail = f"client {found.party} has not signed this line: the file was changed, and nothing follows about anybody"
            findings.report("log-signature", "broken", line.number, detail, file=path.name)
            return None
        if line.broken:
            detail = f"{line.broken}; each line is signed, so whoever took lines out or moved them cannot be said"
            findings.report("log-chain", "broken", line.number, detail, file=path.name)
            return None
        current = _take(path, found, current, line)
    if found is None:
        raise Unreadable(f"{path}, line 1 is refused: the file is empty")
    findings.looked("log-chain", found.last)
    findings.looked("log-seal")
    if not found.sealed:
        findings.report(
            "log-seal", "noted", 0, "it has no seal: its party was cut off, or the end of the log is gone", file=path.name
        )
    return found


def _header(path: Path, line: Line, roster: Roster, findings: Findings) -> LogFile | None:
    tree = line.tree
    if (
        line.kind != "header"
        or tree.get("format") != FORMAT
        or type(tree.get("party")) is not int
        or type(tree.get("log")) is not str
    ):
        raise Unreadable(f"{path}, line {line.number} is refused: it is no header of a log ({FORMAT!r})")
    index = tree["party"]
    findings.looked("log-roster")
    known = 1 <= index <= len(roster) and tree.get("identity") == roster.identity(index).hex()
    if not known or tree.get("roster") != fingerprint(roster):
        detail = "it is of a party, or of a roster, that the tape does not have"
        findings.report("log-roster", "broken", line.number, detail, file=path.name)
        return None
    return LogFile(path, index, tree["log"])


def _signed(line: Line, identity: bytes) -> bool:
    signature = line.tree.get("signature")
    try:
        return isinstance(signature, str) and verify(identity, bytes.fromhex(signature), line.body)
    except ValueError:
        return False


def _need(tree: Tree, **kinds: type) -> None:
    for name, kind in kinds.items():
        if type(tree[name]) is not kind:
            raise TypeError(f"{name} is no {kind.__name__}")


def _check(tree: Tree) -> None:
    """A line about a message: everything in it is of the type that a log gives it."""
    _need(tree, control=str, vectors=dict, sid=str)
    kind_name(tree["type"])
    if not is_count(tree["epoch"]) or not is_count(tree["size"]):
        raise ValueError("epoch and size are counted")
    if tree["kind"] == "sent":
        _need(tree, statement=str if tree["statement"] is not None else type(None))
        return
    _need(tree, counts=bool, sets=dict)
    for name, value in tree["sets"].items():
        parties = type(value) is list and all(type(u) is int for u in value)
        if name in ("u1", "u2", "u4", "dropped") and not parties:
            raise TypeError(f"{name} is no set of parties")
        if name == "L" or (name == "receipt" and value is not None):
            bytes.fromhex(value)


def _take(path: Path, log: LogFile, current: LoggedSum | None, line: Line) -> LoggedSum | None:
    """Keep a line; the sum that is under way after it."""
    log.last, tree = line.number, line.tree
    log.lines[line.number, tree["prev"]] = line
    try:
        if line.kind == "session":
            _need(tree, run=str, round=int, attempt=int, sid=str)
            current = LoggedSum(line.number, tree)  # of one that is proposed again, and refused, the first time stands
            log.sums.setdefault(bytes.fromhex(tree["sid"]), current)
        elif line.kind in ("sent", "told") and current is not None:
            _check(tree)
            known = current.sent if line.kind == "sent" else current.told
            known.setdefault((tree["type"], tree["epoch"]), line)
            current.order.append((line.kind == "sent", line))
        elif line.kind == "seal":
            log.sealed = True
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"{path}, line {line.number} is refused: it is no line of a log: {why_bad(error)}") from None
    if current is not None:
        current.last = line.number
    return current
