"""The commands ``securefl vectors``: write the test vectors of the protocols, and check them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from protocols.errors import SecureSumError

app = typer.Typer()


@app.callback(invoke_without_command=True)
def _vectors(context: typer.Context) -> None:
    """Write the test vectors of the protocols, or check a folder of them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("write")
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


@app.command("check")
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
