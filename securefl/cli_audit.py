"""The commands that look for lies: ``securefl audit``, ``replay`` and ``verify``."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from protocols.errors import SecureSumError
from securefl.errors import UserError, printable

RECORDED = "Of an old run"
RUNNING = "Of a server that runs"


def audit(
    protocols: Annotated[list[str] | None, typer.Argument(metavar="[PROTOCOL]...", help="Protocols, such as secagg.")] = None,
    every: Annotated[  # noqa: FBT002  (a flag)
        bool, typer.Option("--all", help="All protocols that claim to hide single vectors, plug-ins too, and all mechanisms.")
    ] = False,
    job: Annotated[
        Path | None, typer.Option(metavar="JOB.toml", help="The protocol of a job, for as many parties as a round has.")
    ] = None,
    mechanism: Annotated[
        str | None,
        typer.Option(
            metavar="M",
            help="Measure what a mechanism gives away: local-record, distributed-record, distributed-party, central or none "
            "(default: the job's).",
        ),
    ] = None,
    noise: Annotated[
        str | None, typer.Option(metavar="LAW", help="Law of the noise inside the sum: skellam or discrete-gaussian.")
    ] = None,
    port: Annotated[bool, typer.Option("--through-port", help="Play each script over gRPC on loopback too, and compare.")] = False,  # noqa: FBT002
    full: Annotated[bool, typer.Option("--full/--quick", help="Try everything, or what fits in a minute a protocol.")] = False,  # noqa: FBT002
    report: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for a report; made where it does not exist.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the results as JUnit XML.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,  # noqa: FBT002
    tape: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Look through the tape of a run instead.", rich_help_panel=RECORDED)
    ] = None,
    log: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A party's log, held against the tape.", rich_help_panel=RECORDED)
    ] = None,
    evidence: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what convicts a party.", rich_help_panel=RECORDED)
    ] = None,
    live: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Attack the port of a server instead (row 21).", rich_help_panel=RUNNING),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keys of a party, which plays; with its --job.", rich_help_panel=RUNNING)
    ] = None,
    refused: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Keys that the server must not welcome.", rich_help_panel=RUNNING),
    ] = None,
) -> None:
    """Play the cheating server, the cheating party and the curious reader; exit code 1 where one of them succeeds."""
    if live is not None or keys is not None or refused:
        others = (protocols, every, port, mechanism, noise, full, report, junit, tape, log, evidence)
        if live is None or keys is None or any(others):
            raise UserError("--live HOST:PORT and --keys DIR go together, with --job, --refused and --json alone")
        _of_port(live, keys, job, refused or [], json=json)
        return
    if tape is not None:
        if protocols or every or port or job is not None or mechanism or noise or full or report is not None or junit is not None:
            raise UserError("--tape looks at a run that has been: it goes with --log, --evidence and --json alone")
        _of_tape(tape, log or [], evidence, json=json)
        return
    if log or evidence is not None:
        raise UserError("--log and --evidence are about a tape: name it with --tape FILE")
    if port:
        if mechanism is not None or noise is not None or report is not None or junit is not None:
            raise UserError("--through-port plays protocols: it goes with PROTOCOLs, --all or --job, --full and --json alone")
        _through_port(protocols or [], every, job, full, json=json)
        return
    if noise is not None and mechanism is None and job is None:
        raise UserError("--noise is about a mechanism: name it with --mechanism distributed-party, or a job with --job")
    _of_protocols(protocols or [], every, job, mechanism, noise, full, report, junit, json)


def _of_protocols(
    protocols: list[str],
    every: bool,  # noqa: FBT001  (as the options are)
    job: Path | None,
    mechanism: str | None,
    noise: str | None,
    full: bool,  # noqa: FBT001
    report: Path | None,
    junit: Path | None,
    json: bool,  # noqa: FBT001
) -> None:
    from rich.console import Console  # noqa: PLC0415

    from securefl.audit import command  # noqa: PLC0415

    configured = command.chosen(protocols, every=every, job=job, mechanism=mechanism)
    measure = command.measured(mechanism, job, quick=not full, noise=noise, every=every)
    command.check_outputs(report, junit)
    with Console(stderr=True, highlight=False).status("auditing") as status, redirect_stdout(sys.stderr if json else sys.stdout):
        audits = command.run(configured, quick=not full, tell=status.update)
        measurements = measure(status.update)
    written = command.write(audits, report, junit, measurements)
    if json:
        typer.echo(command.as_json(audits, measurements))
    else:
        command.show_all(Console(highlight=False), audits, measurements, written)
    if line := command.verdict(audits, measurements):
        raise SecureSumError(line)


def _through_port(protocols: list[str], every: bool, job: Path | None, full: bool, *, json: bool) -> None:  # noqa: FBT001
    from rich.console import Console  # noqa: PLC0415

    from securefl.audit import carried_command, command  # noqa: PLC0415

    configured = command.chosen(protocols, every=every, job=job)
    with Console(stderr=True, highlight=False).status("auditing") as status, redirect_stdout(sys.stderr if json else sys.stdout):
        found = carried_command.play(configured, quick=not full, tell=status.update)
    if json:
        typer.echo(carried_command.as_json(found))
    else:
        carried_command.show(Console(highlight=False), found)
    if line := carried_command.objection(found):
        raise SecureSumError(line)


def _of_port(target: str, keys: Path, job: Path | None, refused: list[Path], *, json: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from securefl.audit import live_command  # noqa: PLC0415
    from securefl.network_process import address  # noqa: PLC0415

    address(target)
    with Console(stderr=True, highlight=False).status("attacking") as status:
        found = live_command.attack(target, keys, job, refused, status.update)
    if json:
        typer.echo(live_command.as_json(target, found))
    else:
        live_command.show(Console(highlight=False), target, found)
    if lost := live_command.lost(found):
        raise SecureSumError(f"{len(lost)} attacks succeed at {target}")


def _of_tape(tape: Path, logs: list[Path], evidence: Path | None, *, json: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from securefl.audit import tape_command  # noqa: PLC0415

    found, written = tape_command.look(tape, logs, evidence)
    if json:
        typer.echo(tape_command.as_json(found, written))
    else:
        screen = Console(highlight=False)
        tape_command.show(screen, found)
        for path in written:
            screen.print(f"written: {path}", markup=False, soft_wrap=True)
    if objection := tape_command.objection(found):
        raise SecureSumError(objection)


def replay(
    tape: Annotated[Path, typer.Argument(metavar="FILE", help="Tape of a run.")],
    number: Annotated[int | None, typer.Option("--round", metavar="N", help="This round alone.")] = None,
) -> None:
    """Tell a tape round by round: who sent what, how much, who dropped, what was opened."""
    from rich.console import Console  # noqa: PLC0415

    from securefl.audit import replay as story  # noqa: PLC0415
    from securefl.audit.kinds import expect  # noqa: PLC0415

    if not tape.is_file():
        raise UserError(f"{tape} is no file")
    expect(tape, "tape")
    story.replay(tape, number, Console(highlight=False))


def verify(
    evidence: Annotated[Path, typer.Argument(metavar="EVIDENCE", help="File that convicts a party.")],
    roster: Annotated[
        Path | None, typer.Option(metavar="ROSTER", help="The roster that you trust: a JSON file, or a tape that has it.")
    ] = None,
) -> None:
    """Check evidence against a party, with the public roster alone; exit code 1 where it proves nothing."""
    from securefl.audit import evidence as proof  # noqa: PLC0415
    from securefl.audit.kinds import expect  # noqa: PLC0415
    from securefl.audit.tape import fingerprint  # noqa: PLC0415

    for path in (evidence, roster):
        if path is not None and not path.is_file():
            raise UserError(f"{path} is no file")
    expect(evidence, "evidence")
    known = None if roster is None else proof.read_roster(roster)
    typer.echo(printable(proof.proven(evidence, known)))
    if known is None:
        own = fingerprint(proof.read_roster(evidence))
        typer.echo(
            f"by the roster that the evidence carries, of hash {own}: see that it is the one you know, or name yours by --roster"
        )
