"""The commands ``securefl keys …``: who belongs to a consortium, and how somebody comes into it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from securefl.errors import UserError, printable

app = typer.Typer()
Keys = Annotated[Path, typer.Option("--keys", metavar="DIR", help="Folder of keys.")]


@app.callback(invoke_without_command=True)
def _keys(context: typer.Context) -> None:
    """Make, issue, accept and revoke the keys of a consortium; private keys stay where they are made."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("init")
def init(
    name: Annotated[str, typer.Argument(help="Name of the consortium.")],
    keys: Keys = Path("operator"),
) -> None:
    """Make a consortium: its key, with which certificates and the roster are signed."""
    from securefl.transport import enrolment  # noqa: PLC0415
    from securefl.transport.clock import SystemClock  # noqa: PLC0415
    from securefl.transport.pki import fingerprint  # noqa: PLC0415

    authority = enrolment.init(keys, name, SystemClock().utc())
    typer.echo(f"made: the consortium {name} in {keys}; its fingerprint: {enrolment.said(fingerprint(authority.certificate))}")


@app.command("request")
def request(
    name: Annotated[str, typer.Argument(help="Name of the party or server.")],
    keys: Keys = Path("keys"),
    host: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="For a server: a host name or address under which it is reached.")
    ] = None,
    author: Annotated[bool, typer.Option("--author", help="For one who writes jobs and has no rows.")] = False,  # noqa: FBT002
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the request goes (default: NAME.request in the folder).")
    ] = None,
) -> None:
    """Make the keys of a party, with --host of a server, with --author of one who writes jobs, and a request for the operator."""
    from protocols.rand import fresh  # noqa: PLC0415
    from securefl import files  # noqa: PLC0415
    from securefl.transport import enrolment  # noqa: PLC0415

    if host and author:
        raise UserError("--host is for a server, --author for one who writes jobs: give one of them")
    document = enrolment.request(keys, name, fresh, host or (), author=author)
    path = out or keys / f"{name}.request"
    files.atomic_write(path, document)
    typer.echo(f"written: {path}; its fingerprint: {enrolment.said(enrolment.read(document).fingerprint)}")


@app.command("issue")
def issue(
    file: Annotated[Path, typer.Argument(metavar="REQUEST", help="A request that somebody sent.")],
    keys: Keys = Path("operator"),
    days: Annotated[int, typer.Option(help="For how many days the certificate is good.")] = 90,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the answer goes (default: beside the request, .answer).")
    ] = None,
) -> None:
    """Answer a request: a certificate, and the new roster.  Compare the fingerprint with what the applicant says first."""
    from securefl import files  # noqa: PLC0415
    from securefl.transport import enrolment, keyfiles  # noqa: PLC0415
    from securefl.transport.clock import SystemClock  # noqa: PLC0415

    if not 1 <= days <= 825:
        raise UserError(f"--days is {days}: 1 to 825 is allowed")
    wanted = enrolment.read(keyfiles.read_public(file, "the request"))
    path = out or file.with_suffix(".answer")
    files.atomic_write(path, enrolment.issue(keys, wanted, SystemClock().utc(), days))
    part = "an author" if wanted.part == "author" else f"a {wanted.part}"
    typer.echo(f"{wanted.name}, {part}, of fingerprint: {enrolment.said(wanted.fingerprint)}")
    typer.echo(f"written: {path}, and the roster {keys / keyfiles.ROSTER}, which the servers need (securefl keys accept)")


@app.command("accept")
def accept(
    file: Annotated[Path, typer.Argument(metavar="ANSWER", help="The operator's answer, or a newer roster.")],
    keys: Keys = Path("keys"),
) -> None:
    """Keep the operator's answer, or a newer roster, if it fits the own keys and consortium."""
    from securefl.transport import enrolment, keyfiles  # noqa: PLC0415
    from securefl.transport.pki import fingerprint  # noqa: PLC0415

    document = keyfiles.read_public(file, "the answer")
    if enrolment.is_answer(document):
        authority, roster = enrolment.accept(keys, document)
        typer.echo(f"accepted: {roster.consortium}; its fingerprint: {enrolment.said(fingerprint(authority))}")
    else:
        roster = enrolment.accept_roster(keys, document)
    typer.echo(f"roster {roster.serial} of {roster.consortium}: {', '.join(e.name for e in roster.parties) or 'no party yet'}")


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the party or server.")],
    keys: Keys = Path("operator"),
) -> None:
    """Shut somebody out, for good; the servers need the new roster."""
    from securefl.transport import enrolment, keyfiles  # noqa: PLC0415

    roster = enrolment.revoke(keys, name)
    typer.echo(f"revoked: {printable(name)}; roster {roster.serial} is {keys / keyfiles.ROSTER}, which the servers need")


@app.command("try")
def try_out(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for everybody's keys.")],
    parties: Annotated[list[str], typer.Argument(metavar="PARTY PARTY...", help="Names of the parties.")],
    host: Annotated[list[str] | None, typer.Option(metavar="HOST", help="Under which the server is reached.")] = None,
    author: Annotated[list[str] | None, typer.Option(metavar="NAME", help="One who writes jobs and has no rows.")] = None,
) -> None:
    """Make a whole consortium on this machine, for trying out: folders operator, server, and one for each party and author."""
    from protocols.rand import fresh  # noqa: PLC0415
    from securefl.transport import enrolment  # noqa: PLC0415
    from securefl.transport.clock import SystemClock  # noqa: PLC0415

    enrolment.make_all(folder, parties, fresh, SystemClock().utc(), host or ("localhost", "127.0.0.1", "::1"), author or ())
    typer.echo(f"made: {', '.join(str(folder / name) for name in ('operator', 'server', *parties, *(author or ())))}")
