"""The command ``securefl``.

Bad input is one line on stderr and exit code 2, with nothing written; a failure of the run itself is one line and 1; an
interrupt is 130.  Learning libraries take seconds to import, so every command imports what it needs when it runs.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from protocols.errors import Misuse, SecureSumError
from securefl import (
    cli_analytics,
    cli_audit,
    cli_budget,
    cli_bundles,
    cli_data,
    cli_keys,
    cli_network,
    cli_noise,
    cli_runs,
    cli_statistics,
    terminal,
)
from securefl.errors import UserError, printable
from securefl.options import NO_DP, PANELS, read_job, with_job_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from protocols.flow import Flow
    from securefl.audit.recording import Recording
    from securefl.job import Job
    from securefl.results import RoundRecord, RunResult
    from securefl.tables import Sheet
    from securefl.tracking import Tracking

RECORDS = "For later audits"
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

app = typer.Typer(
    name="securefl",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Interrupted(Exception):
    """Ctrl-C, with what was written until then."""


def main(args: list[str] | None = None) -> int:
    """Run the command line and return its exit code; ``args`` are those of the process unless given."""
    terminal.spell_out(sys.stdout, sys.stderr)
    try:
        code = int(app(args, prog_name="securefl", standalone_mode=False) or 0)
    except (UserError, Misuse) as error:
        _complain(error)
        return 2
    except typer.TyperException as error:
        _complain(error.format_message().replace("Value error, ", ""))
        return 2
    except (SecureSumError, OSError) as error:
        _complain(error)
        return 1
    except (_Interrupted, typer.Abort) as stop:
        _complain(str(stop) or "interrupted")
        return INTERRUPTED
    if code == INTERRUPTED:  # what typer makes of Ctrl-C
        _complain("interrupted")
    return code


def _complain(what: object) -> None:
    """One line on stderr, whatever the text holds; a diff that an error carries follows it."""
    line = " ".join(str(what).split())
    sys.stderr.write(f"securefl: {printable(line)}\n")
    diff = getattr(what, "diff", "")
    if diff:
        sys.stderr.write(f"{diff}\n")


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,  # noqa: FBT002
) -> None:
    """Train a model over many sites; the server opens the sum over enough of them, and nothing else."""
    if version:
        typer.echo(f"securefl {version_here()}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def version_here() -> str:
    """The package's version, where it is installed."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("securefl")
    except PackageNotFoundError:
        return "(run from source)"


def _run(
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
    recording = Recording(tape=tape, logs=logs, evidence=evidence, version=version_here())
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
        raise _Interrupted(
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


app.command("run")(with_job_options(_run))


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


@app.command()
def draw(
    protocol: Annotated[str, typer.Argument(help="A protocol, such as secagg; or fedavg, a round of training.")] = "secagg",
    form: Annotated[
        Literal["svg", "mermaid", "table"] | None,
        typer.Option("--format", help="Form of the picture (default: table in a terminal, else svg)."),
    ] = None,
) -> None:
    """Print a protocol's picture, drawn from its code: who sends what to whom, who remembers what."""
    from protocols import draw as pictures  # noqa: PLC0415
    from securefl.secure import flow  # noqa: PLC0415

    form = form or ("table" if sys.stdout.isatty() else "svg")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    table = partial(pictures.table, width=width)
    makers: dict[str, Callable[[Flow], str]] = {"svg": pictures.svg, "mermaid": pictures.mermaid, "table": table}
    text = makers[form](flow(protocol)).rstrip("\n")
    if form == "svg":  # XML has a spelling of its own for letters that the terminal lacks
        coding = sys.stdout.encoding or "utf-8"
        text = text.encode(coding, "xmlcharrefreplace").decode(coding)
    typer.echo(text)


@app.command()
def demo(
    protocol: Annotated[str, typer.Argument(help="Name of the protocol, such as secagg.")] = "secagg",
    clients: Annotated[int, typer.Option(help="Number of parties, 2 to 100.")] = 6,
    dropout: Annotated[
        int | None,
        typer.Option(help="Number of parties that vanish; at most what the threshold allows (default: 2, or fewer where it must)."),
    ] = None,
    step: Annotated[bool, typer.Option("--step", help="Wait for the return key after every step.")] = False,  # noqa: FBT002
    tape: Annotated[Path | None, typer.Option(metavar="FILE", help="Record what the server sees.")] = None,
) -> None:
    """Tell a protocol round by round with real bytes: who sends what to whom, and what each party remembers."""
    from securefl import demo as story  # noqa: PLC0415
    from securefl.audit.recording import Recording  # noqa: PLC0415

    with Recording(tape=tape, version=version_here()) as recording:
        story.run(protocol, clients=clients, dropout=dropout, step=step, recording=recording)
    for path in recording.written:
        typer.echo(f"written: {path}")


@app.command()
def params(
    clients: Annotated[int, typer.Option(metavar="N", help="Number of parties.")],
    corrupt: Annotated[
        float | None,
        typer.Option(metavar="γ", help="Share of the parties that may collude with the server; kahe: ⌈n/3⌉ − 1 of them."),
    ] = None,
    dropout: Annotated[float | None, typer.Option(metavar="δ", help="Share of the parties that may vanish (secagg+).")] = None,
    semi_honest: Annotated[bool, typer.Option("--semi-honest", help="Trust the server to follow the protocol (secagg+).")] = False,  # noqa: FBT002
    protocol: Annotated[Literal["secagg+", "kahe"], typer.Option(help="Whose parameters.")] = "secagg+",
    dim: Annotated[int, typer.Option(metavar="D", help="Values of a vector.")] = 100_000,
    bits: Annotated[
        int | None,
        typer.Option(metavar="B", help="Bits of one value of the masked vector (23), or at least so many of the sum (kahe)."),
    ] = None,
    precision: Annotated[int | None, typer.Option(metavar="B", help="Bits of one value of a party (kahe; 16).")] = None,
    max_abs: Annotated[int | None, typer.Option(metavar="M", help="Bound of a value, in place of its bits (kahe).")] = None,
    noise: Annotated[float, typer.Option(metavar="σ", help="Standard deviation of the noise in the sum (kahe).")] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,  # noqa: FBT002
) -> None:
    """Compute for a cohort the graph of SecAgg+, how likely it fails and what a party pays, or the widths and security of kahe."""
    from json import dumps  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from protocols.degree import Infeasible  # noqa: PLC0415
    from securefl import console, params_kahe  # noqa: PLC0415
    from securefl import params as parameters  # noqa: PLC0415

    tables: list[Sheet]
    kahe = protocol == "kahe"
    if kahe and (dropout is not None or semi_honest):
        raise UserError("--dropout and --semi-honest are not for kahe: whoever may vanish costs it nothing")
    if not kahe and (precision is not None or max_abs is not None or noise):
        raise UserError("--precision, --max-abs and --noise are for kahe; secagg+ takes --bits")
    integers = {"--clients": clients, "--dim": dim, "--bits": bits, "--precision": precision, "--max-abs": max_abs}
    parameters.check_options(integers, {"--corrupt": corrupt, "--dropout": dropout}, noise, kahe=kahe)
    if kahe:
        ours = params_kahe.answer(clients, dim, precision=precision, max_abs=max_abs, noise=noise, corrupt=corrupt, bits=bits)
        data, tables = ours.as_json(), params_kahe.sheets(ours)
    else:
        shares = (corrupt or 0.0, dropout or 0.0)  # neither is missing
        try:
            found = parameters.answer(clients, *shares, semi_honest=semi_honest, dim=dim, bits=23 if bits is None else bits)
        except Infeasible as error:
            raise UserError(f"--corrupt and --dropout: {error}") from None
        data, tables = found.as_json(), parameters.sheets(found)
    if json:
        typer.echo(dumps(data, ensure_ascii=False))
        return
    for sheet in tables:
        console.show_sheet(Console(highlight=False), sheet)


for _command in (
    cli_network.serve,
    cli_network.join,
    cli_bundles.submit,
    cli_bundles.review,
    cli_bundles.approve,
    cli_bundles.refuse,
    cli_data.doctor,
    cli_runs.jobs,
    cli_runs.status,
    cli_runs.report,
    cli_statistics.stats,
    cli_analytics.survival,
    cli_analytics.association,
    cli_noise.noise,
    cli_budget.budget,
    cli_audit.audit,
    cli_audit.replay,
    cli_audit.verify,
):
    app.command()(_command)

app.add_typer(cli_keys.app, name="keys")
vectors_app = typer.Typer()
app.add_typer(vectors_app, name="vectors")


@vectors_app.callback(invoke_without_command=True)
def _vectors(context: typer.Context) -> None:
    """Write the test vectors of the protocols, or check a folder of them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@vectors_app.command("write")
def write_vectors(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the files; made where it does not exist.")],
    protocols: Annotated[
        list[str] | None, typer.Argument(metavar="[PROTOCOL]...", help="Protocols, or primitives; all unless given.")
    ] = None,
) -> None:
    """Write test vectors as JSON, one file a case: every message of every protocol, good and bad."""
    from rich.console import Console  # noqa: PLC0415

    from securefl import vectors  # noqa: PLC0415

    with Console(stderr=True, highlight=False).status("writing") as status:
        written = vectors.write(folder, protocols or (), tell=lambda name: status.update(f"making {name}"))
    typer.echo(f"written: {len(written)} files in {folder}")


@vectors_app.command("check")
def check_vectors(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of vectors.")]) -> None:
    """Make every vector of a folder again from its own seeds, and compare; exit code 1 where one differs."""
    from rich.console import Console  # noqa: PLC0415

    from securefl import vectors  # noqa: PLC0415

    with Console(stderr=True, highlight=False).status("checking") as status:
        report = vectors.check(folder, tell=lambda name: status.update(f"checking {name}"))
    for protocol, count in report.files.items():
        typer.echo(f"{protocol}: {count} files, {report.operations[protocol]} operations")
    for path, what in report.mismatches:
        typer.echo(f"{path}: {what}", err=True)
    files, operations = report.files.total(), report.operations.total()
    if report.mismatches:
        raise SecureSumError(f"{len(report.mismatches)} of {files + len(report.mismatches)} files differ from what was made")
    typer.echo(f"all {files} files match: {operations} operations")
