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
from protocols.cost import EXPECTED
from securefl import files
from securefl.audit.audit import Audit, audit_protocol, junit
from securefl.audit.measured.run import Measurement, measure_mechanism, setting_of
from securefl.audit.measured.run import show as show_measured
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict
from securefl.cohort import cohort_size
from securefl.errors import UserError
from securefl.job import Job

COLORS = {"broken": "bold red", "stated": "yellow", "cannot tell": "yellow", "refused": "green", "harmless": "green"}


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


def chosen(protocols: Sequence[str], *, every: bool, job: Path | None, mechanism: str | None = None) -> list[Configured]:
    """What to audit: named protocols, a job's, or all that claim to hide single vectors; with a mechanism perhaps none.

    Raises:
        UserError: for both or none of them, or a job with more sites than an audit plays with.
        Misuse: for a protocol that does not exist.
    """
    if mechanism is not None and not protocols and not every and job is None:
        return []
    given = [
        word for word, is_given in ((" ".join(protocols), protocols), ("--all", every), ("--job", job is not None)) if is_given
    ]
    if not given:
        raise UserError("say what to audit: one or more PROTOCOLs, --all, --job JOB.toml, or --mechanism M")
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} do not go together: each says which protocols to audit; leave all but one out")
    if job is not None:
        return [_of_job(job)]
    if every:
        return [Configured(name) for name in sums.names() if sums.scheme(name).hides]
    for name in protocols:
        sums.scheme(name)
    return [Configured(name) for name in dict.fromkeys(protocols)]


def _of_job(path: Path) -> Configured:
    """The protocol of a job, with its threshold, for as many parties as a round invites: all sites of its data, or fewer."""
    from securefl.data import of_job  # noqa: PLC0415  (pandas takes its time)
    from securefl.options import read_job  # noqa: PLC0415  (reads what is installed)

    checked = read_job(path, {})
    data = of_job(checked)
    sites = cohort_size(checked.privacy, len(data.sites))
    if not 3 <= sites <= 64:
        raise UserError(f"{path}: an audit plays with 3 to 64 parties, and a round has {sites} sites")
    return Configured(_protocol(checked, sites, len(data.features)), sites, checked.privacy.threshold)


def _protocol(job: Job, sites: int, features: int) -> str:
    """The protocol that a job runs: by name, or what ``auto`` takes for the sum that its model needs."""
    from securefl.encode import limit_of  # noqa: PLC0415
    from securefl.metrics import BinaryMetrics  # noqa: PLC0415
    from securefl.models import build, to_vector  # noqa: PLC0415
    from securefl.privacy.prepared import encoding_of  # noqa: PLC0415

    knobs, folds = job.privacy, job.data.splits
    specs = BinaryMetrics(limit=limit_of(knobs.precision), folds=folds).specs()
    blocks = (to_vector(build(job.model, features, 0)).size,) * folds
    plan = encoding_of(knobs, sites, blocks, tuple(specs))
    options = {"bits": plan.bits, "threshold": knobs.threshold, **({"tail": plan.tail} if plan.tail else {})}
    lost = job.simulation.dropout or EXPECTED
    return sums.chosen(knobs.protocol, sites, plan.size, plan.limit, dropout=lost, **options)[0].name


def run(configured: Iterable[Configured], *, quick: bool, tell: Callable[[str], None]) -> list[Audit]:
    """Audit one after another; ``tell`` is told what is tried."""
    targets = [one.target(quick=quick) for one in configured]  # what is refused is refused before anything is tried
    audits = []
    for target in targets:
        name = target.name
        audits.append(audit_protocol(target, tell=lambda attack, name=name: tell(f"{name}: {attack}")))  # type: ignore[misc]
    return audits


def measured(
    mechanism: str | None, job: Path | None, *, quick: bool, noise: str | None = None, every: bool = False
) -> Callable[[Callable[[str], None]], list[Measurement]]:
    """What measures a named mechanism, a job's own, or with ``every`` all that claim an ε; nothing where none of them is given.

    Args:
        mechanism: its name.
        job: whose other knobs hold.
        quick: whether less is tried; else, of ``every``, the noise inside the sum is measured for both of its laws.
        noise: law of the noise inside the sum.
        every: whether all are measured where none is named.

    Raises:
        UserError: for a mechanism that does not exist yet, or a noise that cannot be, before anything is tried.
    """
    if mechanism is None and job is None and not every:
        return lambda _: []
    named = [(mechanism, noise)] if mechanism is not None or job is not None else _claiming(quick=quick)
    settings = [setting_of(one, job, quick=quick, noise=law) for one, law in named]
    return lambda tell: [measure_mechanism(setting, tell=tell) for setting in settings]


def _claiming(*, quick: bool) -> list[tuple[str | None, str | None]]:
    """Every mechanism that claims an ε, with a law of its noise: its default, and unless ``quick`` the other one."""
    from securefl.audit.measured.registry import IN_SUM, MECHANISMS  # noqa: PLC0415  (loads torch)

    claiming = [name for name in MECHANISMS if name != "none"]
    return [(name, None) for name in claiming] + [(name, "discrete-gaussian") for name in IN_SUM if not quick]


def as_json(audits: Sequence[Audit], measurements: Sequence[Measurement] = ()) -> str:
    """One JSON object, ASCII alone."""
    tree: dict[str, Any] = {"passed": all(one.passed for one in audits) and all(one.passed for one in measurements)}
    return json.dumps({**tree, "audits": [one.as_json() for one in audits], "measured": [one.as_json() for one in measurements]})


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


def show_all(console: Console, audits: Sequence[Audit], measurements: Sequence[Measurement], written: Sequence[Path]) -> None:
    """Every table, and the files that were written."""
    for audit in audits:
        show(console, audit)
    for measurement in measurements:
        show_measured(console, measurement, COLORS)
    for path in written:
        console.print(f"written: {path}", markup=False, soft_wrap=True)


def verdict(audits: Sequence[Audit], measurements: Sequence[Measurement]) -> str:
    """The line with which a command fails; empty where nothing is broken and no claim refuted."""
    lost = [audit for audit in audits if not audit.passed]
    lines = (
        [f"{sum(len(audit.broken) for audit in lost)} attacks succeed against {', '.join(one.name for one in lost)}"]
        if lost
        else []
    )
    lines += [f"{len(one.broken)} measurements refute the {one.name}" for one in measurements if one.broken]
    return "; ".join(lines)


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


def write(audits: Sequence[Audit], report: Path | None, xml: Path | None, measurements: Sequence[Measurement] = ()) -> list[Path]:
    """Write what was asked for; the files."""
    written = list[Path]()
    if report is not None:
        from securefl.audit.page import html  # noqa: PLC0415  (it draws)
        from securefl.report import versions  # noqa: PLC0415

        page = html(audits, versions(), measurements)
        contents = {"audit.html": page.encode(), "audit.json": (as_json(audits, measurements) + "\n").encode()}
        written += files.write_all(report, contents)
    if xml is not None:
        files.atomic_write(xml, junit([*audits, *measurements]))
        written.append(xml)
    return written
