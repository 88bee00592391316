"""The command ``securefl serve``: the server of one run between machines, or of several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from securefl.errors import UserError
from securefl.network_process import address, until_stopped

if TYPE_CHECKING:
    from securefl.federations import Federation
    from securefl.transport.health import Health


def serve(
    job: Annotated[Path | None, typer.Option(metavar="JOB.toml", help="Job file.")] = None,
    keys: Annotated[Path | None, typer.Option(metavar="DIR", help="The server's folder of keys.")] = None,
    bundle: Annotated[
        str | None,
        typer.Option(metavar="HASH|FILE", help="A bundle that was submitted, or its file (without it and --job: take bundles in)."),
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = "127.0.0.1:7443",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the model and what became of the rounds there.")] = None,
    wait: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long to wait for all parties before the first round (default: 300)."),
    ] = None,
    store: Annotated[
        str | None, typer.Option(metavar="URL", help="Database of the runs (default: SQLite, server.db in the folder of keys).")
    ] = None,
    models: Annotated[
        str | None, typer.Option(metavar="URL", help="Where models go round by round (default: models in the folder of keys).")
    ] = None,
    anew: Annotated[bool, typer.Option("--anew", help="Begin a new run, even if one of this job has rounds left.")] = False,  # noqa: FBT002
    within: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long a party may train in a round (default: 300).")
    ] = None,
    tape: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Record what the server sees; a file that exists gets a number.")
    ] = None,
    federations: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Host several federations: their jobs, keys, stores and limits.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Show /metrics for Prometheus there, in clear.")] = None,
    health: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Answer gRPC health checks there, in clear.")] = None,
    drain: Annotated[
        float, typer.Option(metavar="SECONDS", help="After SIGTERM, how long the round that is under way may take.")
    ] = 0.0,
) -> int:
    """Run a job's rounds with the parties that join; the server sees no row, no update and no key of theirs."""
    from securefl import files  # noqa: PLC0415
    from securefl.federations import OUTPUTS, WITHIN, Federation, addresses, load  # noqa: PLC0415
    from securefl.job import Job  # noqa: PLC0415
    from securefl.transport.enrolment import Credentials  # noqa: PLC0415
    from securefl.transport.port import refuse_taken  # noqa: PLC0415

    for each in filter(None, (listen, metrics, health)):
        address(each)
    if within is not None and not WITHIN[0] <= within <= WITHIN[1]:
        raise UserError(f"--within is {within:g}: {WITHIN[0]:g} to {WITHIN[1]:g} seconds are allowed")
    if drain < 0:
        raise UserError(f"--drain is {drain:g}: no negative number of seconds")
    if federations is not None:
        own = {"job": job, "bundle": bundle, "keys": keys, "out": out, "store": store, "models": models, "tape": tape}
        more = {"wait": wait, "within": within, "anew": anew or None}
        given = [f"--{name}" for name, value in {**own, **more}.items() if value is not None]
        if given:
            raise UserError(f"{', '.join(given)} beside --federations: each federation has its own in the file")
        found = load(federations, listen)
    elif keys is None:
        raise UserError("give --keys with --job or --bundle, or --federations with several")
    elif job is not None and bundle is not None:
        raise UserError("give --job or --bundle, not both")
    else:
        checked, credentials = None if job is None else Job.load(job), Credentials.load(keys, "server")
        if out is not None:
            files.check_folder(out, OUTPUTS)
        places = store or f"sqlite:///{keys / 'server.db'}", models or str(keys / "models")
        patience = 300.0 if wait is None else wait
        found = [Federation("", checked, bundle, credentials, listen, *places, out, tape, patience, within, anew)]
    for each in addresses(found):
        address(each)
        refuse_taken(each)
    return host_all(found, metrics, health, drain)


def host_all(found: list[Federation], metrics: str | None, health: str | None, drain: float) -> int:
    """Serve federations until all are done, or the process is told to stop; the exit code."""
    from securefl.hosting import Hosted, host  # noqa: PLC0415
    from securefl.transport.clock import SystemClock  # noqa: PLC0415
    from securefl.transport.health import Health  # noqa: PLC0415
    from securefl.transport.log import JsonLog  # noqa: PLC0415
    from securefl.transport.metrics import Metered, Together, shown  # noqa: PLC0415

    clock = SystemClock()
    for one in found:
        if one.job is not None:
            from securefl.shared_job import SharedJob  # noqa: PLC0415  (loads torch)

            SharedJob.of(one.job, one.credentials.roster.cohort)  # refused here, before anything begins
    logs = {one.name: Metered(JsonLog(clock, federation=one.name or None)) for one in found}
    alone = logs.get("") or Metered(JsonLog(clock))
    for one in found:
        if (soon := one.credentials.runs_out(clock.utc())) is not None:
            logs[one.name]("notice", text=soon)
    hosted = list[Hosted]()
    answers: list[Health] = []

    def draining() -> float:
        for one in answers:
            one.drain()
        for each in hosted if drain else ():
            each.drain()
        return drain

    async def work() -> int:
        page = alone if alone in logs.values() else Together({"": alone, **logs})
        with shown(page, metrics) as shown_at:
            known = Health(one.name for one in found)
            answers.append(known)
            try:
                told = {"metrics": shown_at, "health": None if health is None else await known.start(health)}
                hosted.extend(Hosted(one, clock=clock, log=logs[one.name], told=told) for one in found)
                return await host(hosted, known, clock, alone)
            finally:
                await known.stop()

    return until_stopped(work, draining)
