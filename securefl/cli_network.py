"""The commands ``securefl serve`` and ``securefl join``: a run between machines."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocols.errors import Refused, SecureSumError
from securefl.cli_own import own_data, own_data_name, own_job, own_policy, own_rows
from securefl.errors import UserError, printable

if TYPE_CHECKING:
    from securefl.bundles.signed import SignedBundle
    from securefl.federations import Federation
    from securefl.job import Job
    from securefl.policy_file import PolicyFile
    from securefl.transport.health import Health
    from securefl.transport.link import Ending

OWN_OUTPUTS = ("model.safetensors", "figures.json")
"""What a party may write into its ``--out``."""
STOPPED = 143
"""Exit code after SIGTERM, as shells have it."""


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


def join(
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")],
    keys: Annotated[Path, typer.Option(metavar="DIR", help="The party's folder of keys; its journal and ledger lie there too.")],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="The party's own rows: a CSV or Parquet file, a folder of eICU's tables, a file that says where they are, or a "
            "named data set's site (default: data.toml in the folder).",
        ),
    ] = None,
    job: Annotated[
        Path | None, typer.Option(metavar="JOB.toml", help="The party's own copy of the job (default: job.toml in the folder).")
    ] = None,
    bundle: Annotated[
        str | None, typer.Option(metavar="HASH", help="A bundle that this party approved (default, without a job: the server's).")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the final model there.")] = None,
    site: Annotated[str | None, typer.Option(help="Whose rows of the data (default: the party's name, or place).")] = None,
    policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What the party takes part in (default: policy.toml in the folder, if there)."),
    ] = None,
    wait: Annotated[float, typer.Option(metavar="SECONDS", help="For how long the server may be out of reach.")] = 300.0,
) -> int:
    """Take part in a run with the own rows: nothing but the protocol's messages leaves this machine."""
    from securefl.transport.enrolment import Credentials  # noqa: PLC0415

    address(server)
    rules = own_policy(policy, keys)
    with rules.bounded():
        checked, signed = own_job(job, bundle, Credentials.load(keys, "party"), server, wait)
        return take_part(server, keys, checked, signed, rules, data=data, site=site, out=out, wait=wait)


def take_part(
    server: str,
    keys: Path,
    checked: Job,
    signed: SignedBundle | None,
    rules: PolicyFile,
    *,
    data: str | None,
    site: str | None,
    out: Path | None,
    wait: float,
) -> int:
    """What `join` does once it has a job."""
    from securefl import files  # noqa: PLC0415
    from securefl.journal import FileJournal  # noqa: PLC0415
    from securefl.privacy.store import Store  # noqa: PLC0415
    from securefl.transport.clock import SystemClock  # noqa: PLC0415
    from securefl.transport.enrolment import Credentials  # noqa: PLC0415
    from securefl.transport.keyfiles import keep_roster  # noqa: PLC0415
    from securefl.transport.log import Correlated, JsonLog  # noqa: PLC0415

    credentials, clock = Credentials.load(keys, "party"), SystemClock()
    if out is not None:
        files.check_folder(out, OWN_OUTPUTS)
    name, where = credentials.entry.name, own_data(data, keys)
    rows = own_rows(checked, where, name, site, [entry.name for entry in credentials.roster.parties])
    from securefl.attending import Attending  # noqa: PLC0415  (loads torch)
    from securefl.bundles.running import code_of  # noqa: PLC0415
    from securefl.cli import version_here  # noqa: PLC0415
    from securefl.data.sources import own_places  # noqa: PLC0415
    from securefl.own_rows import OwnRows, refuse_unfit  # noqa: PLC0415
    from securefl.privacy.budget import PartyLedger  # noqa: PLC0415
    from securefl.privacy.rows import digest_of  # noqa: PLC0415
    from securefl.transport.link import Link  # noqa: PLC0415

    log, identity = Correlated(JsonLog(clock, party=name)), credentials.identity
    if identity is None:
        raise UserError(f"{keys} holds no identity")
    own = OwnRows.of(checked, rows)
    code = None if signed is None else code_of(signed.bundle, rules.isolation(keys, *own_places(where)))

    def warn(line: str) -> None:
        log("notice", text=line)

    if (soon := credentials.runs_out(clock.utc())) is not None:
        warn(soon)

    async def work() -> int:
        with ExitStack() as stack:
            worker, beside = (stack.enter_context(ThreadPoolExecutor(1, name)) for name in ("session", "training"))
            journal = stack.enter_context(FileJournal(keys / "journal.json"))
            store = stack.enter_context(Store(keys / "ledger.db"))
            about = own_data_name(checked, where, signed)
            rules.set_lifetime(store, (name, about))
            ledger = PartyLedger(store, name, about, digest_of((rows.x, rows.y)))
            attending = Attending(
                checked,
                name,
                identity,
                journal,
                own,
                ledger=ledger,
                notices=warn,
                policy=rules,
                logs=keys / "logs",
                check=lambda s: refuse_unfit(s, own),
                bundle=signed,
                code=code,
            )
            stack.callback(attending.close)
            link = Link(
                server,
                credentials,
                attending.hash,
                attending,
                worker=worker,
                clock=clock,
                log=log,
                keep=lambda roster: keep_roster(keys, roster, credentials.authority),
                beside=beside,
                software=f"securefl {version_here()}"[:64],
            )
            ending = await link.attend(patience=wait)
            model, figures = attending.model(), attending.figures()
            if figures is not None:
                log("figures", **brief(figures))
            if out is not None and model is not None:
                made = {"model.safetensors": model}
                made |= {"figures.json": (json.dumps(figures, indent=2) + "\n").encode()} if figures is not None else {}
                for path in files.write_all(out, made):
                    log("written", path=str(path))
            cohort = credentials.roster.cohort
            return ended(ending, lambda: f"; the own job {attending.hash.hex()[:8]} is under {attending.suite(cohort)}")

    return until_stopped(work)


def brief(figures: Mapping[str, Any]) -> dict[str, Any]:
    """A party's own figures of the final model, for its log."""
    found = figures["federated"]
    return {"rows": found["rows"], **{key: found[key] and round(found[key]["value"], 4) for key in ("auroc", "auprc", "brier")}}


def ended(ending: Ending, own: Callable[[], str]) -> int:
    """The exit code of a party: 0 where the run is done.

    Args:
        ending: by the server's word.
        own: what the own job is, where the server's is another.

    Raises:
        SecureSumError: where it is not, with the server's reason.
    """
    if ending.check:
        beside = own() if ending.check == "net-job" else ""
        raise SecureSumError(f"the run ended: {printable(ending.check)} ({printable(ending.detail)}){beside}")
    return 0


def address(text: str) -> None:
    """Refuse what is no HOST:PORT.

    Raises:
        UserError: for anything else.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"{text!r} is no HOST:PORT, such as 127.0.0.1:7443")


def until_stopped(work: Callable[[], Coroutine[Any, Any, int]], draining: Callable[[], float] = lambda: 0.0) -> int:
    """Run it; SIGTERM and Ctrl-C let it end in good order.

    Args:
        work: what is run.
        draining: called on the first SIGTERM; for so many seconds more the work may come to an end by itself.
    """

    async def watched() -> int:
        task, loop = asyncio.ensure_future(work()), asyncio.get_running_loop()
        got = list[int]()

        def stop(number: int) -> None:
            got.append(number)
            left = draining() if len(got) == 1 and number == signal.SIGTERM else 0.0
            loop.call_later(left, task.cancel)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        try:
            code = await task
        except asyncio.CancelledError:
            if not got:
                raise
        if not got:
            return code
        sys.stderr.write("securefl: stopped\n")
        return STOPPED if got[0] == signal.SIGTERM else 130

    try:
        return asyncio.run(watched())
    except Refused as error:
        raise SecureSumError(f"what the server said is refused: {error.check} ({printable(error.detail)})") from None
