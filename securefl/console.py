"""What ``securefl run`` shows in a terminal: the plan, live progress, and the result in tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from protocols.errors import Misuse
from protocols.sums import Scheme, foreign, notice
from securefl.cohort import short_sums
from securefl.job import Job
from securefl.results import NOTICE, RoundRecord, RunResult
from securefl.tables import Sheet, brief, counted, figure, outcome

if TYPE_CHECKING:
    from securefl.data.types import Dataset

OnRound = Callable[[RoundRecord], None]


def _say(console: Console, heading: str, text: str, style: str = "") -> None:
    """A paragraph beside its heading; further lines start where the first does."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=9, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(heading, "bold"), Text(text, style))
    console.print(grid)


NOTES = "known to this simulation alone, which has all rows in one place:"
"""Before what is told of the sites' rows."""


def show_data(console: Console, dataset: Dataset) -> None:
    """The data set in one line, then what the user should know about it before training."""
    rows = [*dataset.rows.values()]
    size = f"{counted(sum(rows), 'row')}, {counted(len(dataset.features), 'feature')}"
    _say(console, "Data", f"{dataset.name}: {size}, {len(rows)} sites of {min(rows)} to {counted(max(rows), 'row')}")
    _say(console, "", dataset.source, "dim")
    if dataset.notes:
        _say(console, "", NOTES, "dim")
    for note in dataset.notes:
        _say(console, "", note, "dim")


def show_plan(console: Console, job: Job, *, parties: int) -> None:
    """What will happen, in a few lines.

    Args:
        console: where to.
        job: the job.
        parties: number of sites.
    """
    knobs, splits = job.privacy, job.data.splits
    hidden = counted(job.model.hidden, "hidden unit")
    models = {"logistic": "logistic regression", "multitask": f"a trunk of {hidden}, a head at each partner"}
    model = models.get(job.model.name, f"MLP with {hidden}")
    score = f"{splits}-fold cross-validation inside each site" if splits > 1 else f"{job.data.holdout:.0%} of the rows held out"
    each = "1 step over all sites" if knobs.summed else counted(knobs.local_steps, "local step")
    drawn = "" if knobs.clients_per_round is None else f", {knobs.clients_per_round} of them drawn at random for each round"
    work = f"{counted(knobs.rounds, 'round')} × {each} on {counted(parties, 'site')}{drawn}"
    _say(console, "Training", f"{model}, {work}; {score}; scores shown meanwhile are of the model before the round")
    chosen = short_sums(knobs)
    if not chosen.hides:
        _say(console, "Sum", f"{knobs.protocol}: the server sees every party's update", "bold red")
    elif chosen.origin is None:
        name = knobs.protocol if knobs.protocol == chosen.name else "secagg or kahe, whichever is cheaper for the model"
        _say(console, "Sum", f"{name}: the server opens the sum over enough parties, never one party's update")
    else:
        _say(console, "Sum", f"{knobs.protocol}: by its own word, the server opens the sum and nothing else")
    if chosen.origin is not None:
        _say(console, "", foreign(chosen), "yellow")
    if chosen.shared_key:
        _say(console, "", "all sites share one key: one that helps the server opens every site's update", "yellow")
    with suppress(Misuse):  # a threshold that is not safe is refused by the run
        line = notice(chosen.name, chosen.parameters(knobs.clients_per_round or parties, 1, 1, threshold=knobs.threshold))
        if line:
            _say(console, "", line, "dim")
    if knobs.mechanism == "none":
        _say(console, "Privacy", "no differential privacy: the model may show single records", "yellow")
    elif knobs.summed:
        central = knobs.mechanism == "central"
        who = "noise of the server, which is trusted with exact sums" if central else f"{knobs.noise} noise inside the sum"
        _say(
            console,
            "Privacy",
            f"{who}: ε = {knobs.epsilon:g}, δ = {knobs.delta:g} for one record over all rounds; clip {knobs.clip:g}, sampling rate "
            f"{knobs.sample_rate:g}, {knobs.rows} rows a site expected",
            "yellow" if central else "",
        )
    elif knobs.mechanism == "distributed-party":
        _say(
            console,
            "Privacy",
            f"{knobs.noise} noise inside the sum: ε = {knobs.epsilon:g}, δ = {knobs.delta:g} for one party over all rounds; "
            f"clip {knobs.update_clip:g}",
        )
    else:
        _say(
            console,
            "Privacy",
            f"DP-SGD on every site: ε = {knobs.epsilon:g}, δ = {knobs.delta:g} for one record over all rounds; "
            f"clip {knobs.clip:g}, sampling rate {knobs.sample_rate:g}, accountant {knobs.accountant}",
        )
    if job.simulation.dropout > 0:
        after = "it leaves the model as it was" + (", and is charged to ε" if knobs.mechanism != "none" else "")
        _say(
            console,
            "Dropout",
            f"an aborted round is not retried: {after}. Below, gone counts who vanished in a round, some after their vector was in "
            "the sum; aborts counts all so far",
        )


@contextmanager
def progress(console: Console, job: Job, *, lines: bool) -> Iterator[OnRound]:
    """Show rounds as they end: a live bar in a terminal; elsewhere about twenty plain lines, or nothing.

    Args:
        console: where to; usually stderr.
        job: the job.
        lines: whether to print plain lines where the console is no terminal.

    Yields:
        A function to call with each `RoundRecord`.
    """
    total, aborted = job.privacy.rounds, 0

    def tell(record: RoundRecord) -> str:
        nonlocal aborted
        aborted += record.aborted is not None
        return _state(record, aborted)

    if console.is_terminal:
        columns = (
            BarColumn(bar_width=None),  # what the others leave
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("Rounds", total=total, state="preparing")
            yield lambda record: bar.update(task, completed=record.number, state=tell(record))
        return

    def line(record: RoundRecord) -> None:
        state = tell(record)
        if lines and (record.number == total or record.number % max(1, total // 20) == 0):
            console.print(f"round {record.number}/{total}: {state}", markup=False, highlight=False, soft_wrap=True)

    yield line


def _state(record: RoundRecord, aborted: int) -> str:
    """One round in so few letters that a line of 80 has room for it."""
    parts = [f"{record.contributors}/{record.invited} in sum"]
    if record.dropped:
        parts.append(f"{len(record.dropped)} gone")
    if record.aborted:
        parts.append(f"aborted ({record.aborted})")
    if aborted:
        parts.append(f"aborts: {aborted}")
    if "auroc" in record.metrics:
        parts.append(f"AUROC {figure(record.metrics['auroc'])}")
    if record.epsilon:
        parts.append(f"ε {max(record.epsilon.values()):.2f}")
    return ", ".join(parts)


def show_warning(console: Console, warning: str) -> None:
    """A line that the user must see: when it happens, and again among the results where those go elsewhere."""
    console.print(f"[bold yellow]warning[/bold yellow]  {escape(warning)}")


def show_trust(console: Console, protocol: Scheme) -> None:
    """What a reader must know of a protocol whose sums were opened, where it is not as secure as the others."""
    if not protocol.hides:
        show_warning(console, f"{protocol.name}: the server sees every site's own values")
    if protocol.shared_key:
        show_warning(console, "all sites share one key: one that helps the server opens every site's values")
    if line := foreign(protocol):
        show_warning(console, line)


def show_told(console: Console, notices: Sequence[str]) -> None:
    """What sites alone would be told, in a simulation."""
    if notices:
        console.print("simulation only; each site alone would be told its own, which are exact and leave no site:", style="dim")
    for line in notices:
        show_warning(console, line)


def show_result(console: Console, result: RunResult, *, told: Collection[str] = ()) -> None:
    """What was seen, opened, sent and spent, and the scores at the end, where the eye is; then warnings that were not ``told``."""
    for sheet in brief(result):
        show_sheet(console, sheet)
    console.print(f"\n[bold]{escape(result.title)}[/bold]: {escape(outcome(result))}")
    if result.choice:
        console.print(escape(result.choice), style="dim")
    for warning in result.warnings:
        if warning not in told:
            show_warning(console, warning)
    console.print(f"\n{NOTICE}", style="dim")


WIDEST = 1000
"""Columns of the widest table."""


def show_sheet(console: Console, sheet: Sheet) -> None:
    """One table; where it has cells that stand on one line and they need more than the terminal's width, as wide as they need."""
    console.print(f"\n[bold]{escape(sheet.title)}[/bold]")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, heading in enumerate(sheet.columns):
        figures = number in sheet.figures
        whole = number in sheet.kept or (figures and bool(sheet.kept))
        widest = max(map(cell_len, [heading, *(row[number] for row in sheet.rows)])) if whole else None
        table.add_column(escape(heading), justify="right" if figures else "left", overflow="fold", no_wrap=whole, min_width=widest)
    for number, row in enumerate(sheet.rows):
        table.add_row(*map(escape, row), style="bold green" if number == sheet.strong else None)
    least = Measurement.get(console, console.options.update(max_width=WIDEST), table).minimum if sheet.kept else 0
    (console if least <= console.width else _wider(console, least)).print(table)
    if sheet.note:
        console.print(escape(sheet.note), style="dim")


def _wider(console: Console, width: int) -> Console:
    return Console(file=console.file, width=width, highlight=False, force_terminal=console.is_terminal)
