"""``securefl audit``: what is audited, what is shown, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from protocols import sums
from securefl import files
from securefl.audit.audit import Audit, audit_protocol, junit
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict
from securefl.errors import UserError

COLORS = {"broken": "bold red", "stated": "yellow", "refused": "green", "harmless": "green"}


@dataclass(frozen=True)
class Configured:
    """One protocol as a command line or a job names it.

    Attributes:
        protocol: its name.
        parties: n, or None for the default.
        threshold: t, or None for the default.
    """

    protocol: str
    parties: int | None = None
    threshold: int | None = None

    def target(self, *, quick: bool) -> Target:
        """What is attacked."""
        return Target.of(self.protocol, parties=self.parties, threshold=self.threshold, quick=quick)


def chosen(protocols: Sequence[str], *, every: bool, job: Path | None) -> list[Configured]:
    """What to audit: named protocols, a job's, or all that claim to hide single vectors.

    Raises:
        UserError: for both or none of them, or a job with more sites than an audit plays with.
        Misuse: for a protocol that does not exist.
    """
    if sum((bool(protocols), every, job is not None)) != 1:
        raise UserError("say what to audit: one or more PROTOCOLs, --all, or --job JOB.toml")
    if job is not None:
        return [_of_job(job)]
    if every:
        return [Configured(name) for name in sums.names() if sums.scheme(name).hides]
    for name in protocols:
        sums.scheme(name)
    return [Configured(name) for name in dict.fromkeys(protocols)]


def _of_job(path: Path) -> Configured:
    """The protocol of a job, with its threshold, for as many parties as its data set has sites."""
    from securefl.data import of_job  # noqa: PLC0415  (pandas takes its time)
    from securefl.options import read_job  # noqa: PLC0415  (reads what is installed)

    checked = read_job(path, {})
    sites = len(of_job(checked).sites)
    if not 3 <= sites <= 64:
        raise UserError(f"{path}: an audit plays with 3 to 64 parties, and the data have {sites} sites")
    return Configured(checked.privacy.protocol, sites, checked.privacy.threshold)


def run(configured: Iterable[Configured], *, quick: bool, tell: Callable[[str], None]) -> list[Audit]:
    """Audit one after another; ``tell`` is told what is tried."""
    targets = [one.target(quick=quick) for one in configured]  # what is refused is refused before anything is tried
    audits = []
    for target in targets:
        name = target.name
        audits.append(audit_protocol(target, tell=lambda attack, name=name: tell(f"{name}: {attack}")))  # type: ignore[misc]
    return audits


def as_json(audits: Sequence[Audit]) -> str:
    """One JSON object, ASCII alone."""
    tree: dict[str, Any] = {"passed": all(audit.passed for audit in audits), "audits": [audit.as_json() for audit in audits]}
    return json.dumps(tree)


def show(console: Console, audit: Audit) -> None:
    """The table of one protocol, what was not tried, the proofs of what is broken, and what a pass does not say."""
    p = audit.target.federation().terms.parameters
    table = Table(
        title=f"{audit.target.name}: {p.parties} parties, t = {p.threshold}, |C| = {p.corrupt}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("row", justify="right")
    table.add_column("attack", ratio=5)
    table.add_column("verdict", ratio=6)
    table.add_column("s", justify="right")
    for result in audit.results:
        if result.seconds:
            text = Text(told(result.verdict), COLORS.get(result.verdict.status, ""))
            table.add_row(str(result.row or ""), result.name, text, f"{result.seconds:.1f}")
    console.print(table)
    for status in ("not applicable", "no such part yet"):
        rows = [f"{r.row} ({r.verdict.why})" for r in audit.results if not r.seconds and r.verdict.status == status]
        if rows:
            console.print(f"{status}: {', '.join(rows)}", markup=False)
    for result in audit.broken:
        verdict, whose = result.verdict, result.verdict.whose or "the sum"
        console.print(Text(f"row {result.row}, {result.name}: {verdict.why}", "bold red"))
        if verdict.recovered:
            console.print(f"  recovered of {whose}: {list(verdict.recovered)}", markup=False)
            console.print(f"  true{' ' * (len(whose) + 10)}: {list(verdict.true)}", markup=False)
    console.print(f"{len(audit.broken) or 'nothing'} broken in {audit.seconds:.0f} s; a passed audit is not a proof")


def told(verdict: Verdict) -> str:
    """A verdict in a cell: who noticed, in which round, by which check; else why."""
    if not verdict.check:
        return f"{verdict.status}: {verdict.why}"
    step = f" in {verdict.step}" if verdict.step else ""
    number = f" of round {verdict.round}" if verdict.round is not None else ""
    return f"{verdict.status} by {verdict.who or 'its caller'}{step}{number}: {verdict.check}"


def check_outputs(report: Path | None, xml: Path | None) -> None:
    """Refuse what could not be written before anything is tried.

    Raises:
        UserError: naming the path.
    """
    if report is not None:
        files.check_folder(report, REPORT)
    if xml is not None and (xml.is_dir() or not xml.parent.is_dir()):
        raise UserError(f"{xml} cannot be written: it is a folder, or its folder does not exist")


REPORT = ("audit.html", "audit.json")
"""Files of a report."""


def write(audits: Sequence[Audit], report: Path | None, xml: Path | None) -> list[Path]:
    """Write what was asked for; the files."""
    written = list[Path]()
    if report is not None:
        from securefl.audit.page import html  # noqa: PLC0415  (it draws)
        from securefl.report import versions  # noqa: PLC0415

        contents = {"audit.html": html(audits, versions()).encode(), "audit.json": (as_json(audits) + "\n").encode()}
        written += files.write_all(report, contents)
    if xml is not None:
        files.atomic_write(xml, junit(audits))
        written.append(xml)
    return written
