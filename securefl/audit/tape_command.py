"""``securefl audit --tape``: what is looked at, shown and written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from securefl import files
from securefl.audit.evidence import write_evidence
from securefl.audit.findings import Finding, Status
from securefl.audit.kinds import expect
from securefl.audit.reconcile import checks_of, reconcile
from securefl.audit.tape_audit import CHECKS, TapeAudit, audit_tape
from securefl.errors import UserError, printable
from securefl.tables import counted

COLORS: Mapping[Status | None, str] = {"broken": "bold red", "named": "bold red", "open": "red", "stated": "yellow", "noted": "dim"}
WORDS: Mapping[Status, str] = {
    "broken": "broken",
    "named": "a party is named",
    "open": "differs, and nobody can be named",
    "stated": "stated",
    "noted": "holds, with notes",
}
LEFT = "left open: lines were changed"


def look(tape: Path, logs: Sequence[Path], evidence: Path | None) -> tuple[TapeAudit, list[Path]]:
    """Audit a tape, hold logs against it, write what convicts; the audit and the files written.

    Raises:
        UserError: for a file that cannot be read as one, naming the line, or a folder that cannot be written.
        OSError: where a file cannot be read.
    """
    for path in (tape, *logs):
        if not path.is_file():
            raise UserError(f"{path} is no file")
        expect(path, "tape" if path is tape else "log")
    if evidence is not None:
        files.check_folder(evidence)
    audit = audit_tape(tape, keep=bool(logs))
    if logs:
        reconcile(audit, logs)
    written = write_evidence(evidence, audit.findings.evidence) if evidence is not None else []
    return audit, written


def as_json(audit: TapeAudit, written: Sequence[Path]) -> str:
    """One JSON object, ASCII alone."""
    tree = audit.as_json()
    for check, about in checks_of(audit.findings).items():
        status, times = audit.findings.standing(check), audit.findings.applied[check]
        tree["checks"].append({"check": check, "about": about, "status": status, "looked_at": times})
    return json.dumps({**tree, "written": list(map(str, written))})


def show(console: Console, audit: TapeAudit) -> None:
    """The table of checks, then every finding, then what a pass does not say."""
    f = audit.findings
    title = (
        f"{printable(audit.path.name)}: {counted(audit.messages, 'message')}, {counted(audit.sums, 'sum')}, {audit.opened} opened"
    )
    table = Table(title=Text(printable(title)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("what is to hold", ratio=5)
    table.add_column("verdict", ratio=3)
    table.add_column("looked at", justify="right")
    for check, about in {**CHECKS, **checks_of(f)}.items():
        worst, times = f.worst(check), f.applied[check]
        word = WORDS[worst] if worst else LEFT if f.left[check] else "holds" if times else "nothing to look at"
        table.add_row(check, about, Text(word, COLORS.get(worst, "green" if times and not f.left[check] else "dim")), str(times))
    console.print(table)
    for finding in f.found:
        console.print(Text(told(finding), COLORS[finding.status]))
    for (check, status), times in f.count.items():
        kept = sum(finding.check == check and finding.status == status for finding in f.found)
        if times > kept:
            console.print(Text(f"{check}: {times - kept} more, {status}", "dim"))
    if f.left:
        what = ", ".join(f"{check} ({times})" for check, times in sorted(f.left.items()))
        console.print(Text(f"not told, as they may follow from lines that were changed: {what}", "dim"))
    console.print(f"hash of the last line: {audit.head}", markup=False, soft_wrap=True)
    if f.evidence:
        console.print(f"{counted(len(f.evidence), 'piece')} of evidence; --evidence DIR writes them", markup=False)
    failing = sum(finding.status in ("broken", "named", "open") for finding in f.found)
    console.print(f"{failing or 'nothing'} to object to; a tape is the server's word but for what parties signed in it")


def told(finding: Finding) -> str:
    """A finding in one line."""
    where = f"{finding.where}: " if finding.where else ""
    return f"{finding.status} ({finding.check}) {where}{finding.detail}"


def objection(audit: TapeAudit) -> str:
    """Why the command fails; empty where it does not."""
    counts = {status: sum(n for (_, s), n in audit.findings.count.items() if s == status) for status in ("broken", "named", "open")}
    parts = [
        f"{counts['broken']} broken" if counts["broken"] else "",
        f"{counted(counts['named'], 'time')} a party is named" if counts["named"] else "",
        f"{counted(counts['open'], 'difference')} without a culprit" if counts["open"] else "",
    ]
    return f"{audit.path}: {', '.join(part for part in parts if part)}" if any(parts) else ""
