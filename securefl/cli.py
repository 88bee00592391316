"""The command ``securefl``.

Bad input is one line on stderr and exit code 2, with nothing written; a failure of the run itself is one line and 1; an
interrupt is 130.  Learning libraries take seconds to import, so every command imports what it needs when it runs.
"""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from protocols.errors import Misuse, SecureSumError
from securefl import (
    cli_analytics,
    cli_audit,
    cli_budget,
    cli_bundles,
    cli_data,
    cli_join,
    cli_keys,
    cli_noise,
    cli_run,
    cli_runs,
    cli_serve,
    cli_statistics,
    cli_vectors,
    terminal,
)
from securefl.errors import UserError, printable
from securefl.options import with_job_options
from securefl.version import version as current_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from protocols.flow import Flow
    from securefl.tables import Sheet

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

app = typer.Typer(
    name="securefl",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    except (cli_run.Interrupted, typer.Abort) as stop:
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
        typer.echo(f"securefl {current_version()}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("run")(with_job_options(cli_run.run))


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

    with Recording(tape=tape, version=current_version()) as recording:
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
    cli_serve.serve,
    cli_join.join,
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
app.add_typer(cli_vectors.app, name="vectors")
