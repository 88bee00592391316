"""The command ``securefl run``: a job trained in one process, or two of them side by side.

Learning libraries take seconds to import, so what needs them is imported when it runs.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocols.errors import SecureSumError
from securefl import terminal
from securefl.errors import UserError, printable
from securefl.options import NO_DP, PANELS, read_job
from securefl.version import version

if TYPE_CHECKING:
    from rich.console import Console

    from securefl.audit.recording import Recording
    from securefl.job import Job
    from securefl.results import RoundRecord, RunResult
    from securefl.tracking import Tracking

RECORDS = "For later audits"


class Interrupted(Exception):
    """Ctrl-C, with what was written until then."""


def run(
    job: Annotated[Path | None, typer.Argument(metavar="JOB.toml", help="Job file; options that are given override it.")] = None,
    *,
    compare: Annotated[
        Path | None, typer.Option(metavar="OTHER.toml", help="Run this job first, and show both side by side.")
    ] = None,
    tape: Annotated[Path | None, typer.Option(metavar="FILE", help="Record what the server sees.", rich_help_panel=RECORDS)] = None,
    logs: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep each party's signed log.", rich_help_panel=RECORDS)] = None,
    evidence: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what convicts a party, if one is named.", rich_help_panel=RECORDS)
    ] = None,
    no_dp: Annotated[bool, typer.Option(NO_DP, help="Short for --mechanism none.", rich_help_panel=PANELS["privacy"])] = False,
    given: dict[str, Any],
) -> None:
    """Train over all sites in one process and print what came out, what it cost, and what the server saw."""
    from rich.console import Console  # noqa: PLC0415

    from securefl import console, files, report  # noqa: PLC0415
    from securefl.audit.recording import Recording  # noqa: PLC0415
    from securefl.tracking import tracking  # noqa: PLC0415

    if no_dp and given.setdefault("privacy.mechanism", "none") != "none":
        raise UserError(f"{NO_DP} and --mechanism {given['privacy.mechanism']} clash: give one of them")
    if compare is not None:
        _compared((compare, job), given, recorded=bool(tape or logs or evidence))
        return
    checked = read_job(job, given)
    out, json = checked.output.dir, checked.output.json
    if out:
        files.check_folder(out, report.FILES)
    recording = Recording(tape=tape, logs=logs, evidence=evidence, version=version())
    screen, progress = Console(highlight=False, quiet=json), Console(stderr=True, highlight=False)
    written: list[Path] = []
    try:
        with redirect_stdout(sys.stderr if json else sys.stdout), recording, tracking(checked.output.track) as track:
            told = list[str]()
            result = _train(checked, screen, progress, recording, track, told, lines=not json)
            track.end(result)
            contents = report.outputs(result) if out else {}
        written = files.write_all(out, contents) if out else []
        written += recording.written
        if json:
            typer.echo(report.to_json(result, ascii_only=True), nl=False)
            return
        console.show_result(screen, result, told=told if terminal.same_place(sys.stdout, sys.stderr) else ())
        for line in recording.unproven:
            screen.print(f"named: {printable(line)}", markup=False, soft_wrap=True)
        if recording.verdict:
            screen.print(recording.verdict, markup=False, soft_wrap=True)
        for path in written:
            screen.print(f"written: {path}", markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        left = [*([out] if out and written else []), *recording.left]
        raise Interrupted(
            f"interrupted; written: {', '.join(map(str, left))}" if left else "interrupted; nothing written"
        ) from None
    if result.aborted_rounds == len(result.rounds):
        raise SecureSumError("every round was aborted: the scores are those of the untrained model")


def _compared(paths: tuple[Path, Path | None], given: dict[str, Any], *, recorded: bool) -> None:
    """Run two jobs, the given options on top of each, and show them side by side."""
    from json import dumps  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from securefl import comparison, console, files  # noqa: PLC0415
    from securefl.audit.recording import Recording  # noqa: PLC0415
    from securefl.tracking import Tracking  # noqa: PLC0415

    if paths[1] is None:
        raise UserError(f"--compare {paths[0]} needs another job file to compare with: securefl run --compare A.toml B.toml")
    jobs = [read_job(path, given) for path in paths]
    if recorded or any(job.output.track for job in jobs):
        raise UserError("--tape, --logs, --evidence and --track are refused with --compare: they are of one run")
    names = [path.stem for path in (paths[0], paths[1])]
    names = names if names[0] != names[1] else [str(path) for path in paths]
    out, json = jobs[1].output.dir, any(job.output.json for job in jobs)
    if out:
        files.check_folder(out, ("compare.svg", "compare.json"))
    screen, progress = Console(highlight=False, quiet=json), Console(stderr=True, highlight=False)
    with redirect_stdout(sys.stderr if json else sys.stdout):
        results = [_train(job, screen, progress, Recording(), Tracking(None), [], lines=not json) for job in jobs]
    text = dumps(comparison.plain(names, results), allow_nan=False)
    if json:
        typer.echo(text)
    else:
        for sheet in comparison.sheets(names, results):
            console.show_sheet(screen, sheet)
    if out:
        made = {"compare.json": f"{text}\n".encode(), "compare.svg": comparison.picture(names, results)}
        for written in files.write_all(out, made):
            screen.print(f"written: {written}", markup=False, soft_wrap=True)


def _train(
    job: Job, screen: Console, progress: Console, recording: Recording, track: Tracking, told: list[str], *, lines: bool
) -> RunResult:
    """Train; the warnings that were shown meanwhile join ``told``."""
    from securefl import console  # noqa: PLC0415

    times = [time.perf_counter()]
    with progress.status("loading the data"):
        from securefl.data import of_job  # noqa: PLC0415

        dataset = of_job(job)
    times.append(time.perf_counter())
    with progress.status("loading the learning libraries"):
        from securefl.experiment import run_job  # noqa: PLC0415
    times.append(time.perf_counter())
    parties, early = len(dataset.rows), list[str]()
    with ExitStack() as stack:
        waiting = stack.enter_context(progress.status("preparing"))
        shown = list[console.OnRound]()

        def start() -> None:
            """Nothing is shown before everything that may be refused has been looked at."""
            waiting.stop()
            console.show_data(screen, dataset)
            console.show_plan(screen, job, parties=parties)
            track.begin(job)
            for line in early:
                console.show_warning(progress, line)
            shown.append(stack.enter_context(console.progress(progress, job, lines=lines)))

        def tell(record: RoundRecord) -> None:
            shown[0](record)
            track.round(record)

        def notice(line: str) -> None:
            told.append(line)
            console.show_warning(progress, line) if shown else early.append(line)

        result = run_job(job, dataset=dataset, on_event=tell, on_notice=notice, on_start=start, recording=recording)
    return result.after({"load_data": times[1] - times[0], "load_libraries": times[2] - times[1]})
