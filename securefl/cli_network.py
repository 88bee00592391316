"""The commands ``securefl serve`` and ``securefl join``: a run between machines."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocols.errors import Refused, SecureSumError
from securefl.errors import UserError, printable, quoted

if TYPE_CHECKING:
    from securefl.bundles.signed import SignedBundle
    from securefl.data.types import Site
    from securefl.job import Job
    from securefl.keeping import Keeper
    from securefl.policy_file import PolicyFile
    from securefl.shared_job import SharedJob
    from securefl.store import RunStore, Shelf
    from securefl.transport.enrolment import Credentials
    from securefl.transport.link import Ending
    from securefl.transport.log import Log
    from securefl.transport.port import Port
    from securefl.transport.roster import SignedRoster

STOPPED = 143
"""Exit code after SIGTERM, as shells have it."""


def serve(
    keys: Annotated[Path, typer.Option(metavar="DIR", help="The server's folder of keys.")],
    job: Annotated[Path | None, typer.Option(metavar="JOB.toml", help="Job file.")] = None,
    bundle: Annotated[
        str | None,
        typer.Option(metavar="HASH|FILE", help="A bundle that was submitted, or its file (without it and --job: take bundles in)."),
    ] = None,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = "127.0.0.1:7443",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write the model and what became of the rounds there.")] = None,
    wait: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for all parties before the first round.")
    ] = 300.0,
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
    metrics: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Show /metrics for Prometheus there, in clear.")] = None,
) -> int:
    """Run a job's rounds with the parties that join; the server sees no row, no update and no key of theirs."""
    from securefl import files  # noqa: PLC0415
    from securefl.store import RunStore, Shelf  # noqa: PLC0415
    from securefl.transport.clock import SystemClock  # noqa: PLC0415
    from securefl.transport.desk import Desk  # noqa: PLC0415
    from securefl.transport.enrolment import Credentials, RosterFile  # noqa: PLC0415
    from securefl.transport.hall import Hall  # noqa: PLC0415
    from securefl.transport.log import JsonLog  # noqa: PLC0415
    from securefl.transport.metrics import Metered, shown  # noqa: PLC0415
    from securefl.transport.port import Port, refuse_taken  # noqa: PLC0415

    credentials, clock = Credentials.load(keys, "server"), SystemClock()
    check_serve(job, bundle, listen, metrics, within)
    refuse_taken(listen)
    if out is not None:
        files.check_folder(out, ("metrics.json", "model.safetensors"))
    roster, log = RosterFile(credentials), Metered(JsonLog(clock))
    key, certificate, authority = credentials.tls
    base = RunStore(store or f"sqlite:///{keys / 'server.db'}", clock=clock.utc)
    checked, signed = served_job(job, bundle, credentials, roster(), Shelf(base))
    desk = Desk(Shelf(base), roster, credentials.authority, log=log, running=b"" if signed is None else signed.hash)
    if checked is None:
        return until_stopped(
            lambda: desk_alone(Port(listen, (key, certificate), [authority], [], clock=clock, log=log, desks=[desk]), log)
        )
    from securefl.audit.tape import Tape  # noqa: PLC0415
    from securefl.serving import Serving  # noqa: PLC0415  (loads torch)
    from securefl.shared_job import SharedJob  # noqa: PLC0415

    shared = SharedJob.of(checked, roster().cohort, None if signed is None else signed.hash)
    keeper = kept_run(shared, roster(), base, models or str(keys / "models"), log, anew=anew)
    run = keeper.held.run

    async def work() -> int:
        with ThreadPoolExecutor(1, "session") as worker, shown(log, metrics) as page:
            hall = Hall(run, shared.hash, roster, worker=worker, clock=clock, log=log)
            port = Port(listen, (key, certificate), [authority], [hall], clock=clock, log=log, desks=[desk])
            await port.start()
            log("listening", run=run, port=port.port, metrics=page, parties=[entry.name for entry in hall.members.parties])
            recorded = None if tape is None else Tape(unused(tape))
            serving, why = Serving(shared, hall, keeper=keeper, within=within, tape=recorded), "stopped"
            try:
                await serving.run(patience=wait)
                why = ""
            except SecureSumError as error:
                why = str(error)
                raise
            finally:
                hall.dismiss("" if not why else "net-stopped", why[:200])
                await port.stop()
                if recorded is not None:
                    recorded.seal()
                if out is not None and serving.records:
                    for path in files.write_all(out, serving.files()):
                        log("written", path=str(path))
            log("done", run=run, rounds=len(serving.records), aborted=sum(r.aborted is not None for r in serving.records))
            return 1 if all(record.aborted for record in serving.records) else 0

    return until_stopped(work)


def unused(tape: Path) -> Path:
    """The file, or where it exists the first of its name with a number: what was recorded is never written over."""
    numbered = (tape.with_name(f"{tape.stem}-{number}{tape.suffix}") for number in itertools.count(2))
    return next(path for path in itertools.chain([tape], numbered) if not path.exists())


def check_serve(job: Path | None, bundle: str | None, listen: str, metrics: str | None, within: float | None) -> None:
    """Refuse options that clash or are out of range, and a job file that is not there, before anything is opened."""
    if job is not None and bundle is not None:
        raise UserError("give --job or --bundle, not both")
    if job is not None:
        from securefl.job import Job  # noqa: PLC0415

        Job.load(job)
    for where in (listen, metrics):
        if where is not None:
            address(where)
    if within is not None and not 1 <= within <= 7 * 86400:
        raise UserError(f"--within is {within:g}: 1 to {7 * 86400} seconds are allowed")


def served_job(
    job: Path | None, bundle: str | None, credentials: Credentials, roster: SignedRoster, shelf: Shelf
) -> tuple[Job | None, SignedBundle | None]:
    """The job that a server runs, and the bundle that it came in; without either it takes bundles in, and runs nothing.

    Raises:
        UserError: as `Job.load` and `securefl.bundles.running.of_server`.
    """
    from securefl.bundles.running import of_server  # noqa: PLC0415
    from securefl.job import Job  # noqa: PLC0415

    if job is not None:
        return Job.load(job), None
    if bundle is None:
        return None, None
    signed = of_server(bundle, credentials, roster, shelf)
    return signed.bundle.job, signed


async def desk_alone(port: Port, log: Log) -> int:
    """Take in bundles and decisions until it is stopped; nothing runs."""
    await port.start()
    log("listening", run=None, port=port.port)
    try:
        await asyncio.Event().wait()
    finally:
        await port.stop()
    return 0


def kept_run(shared: SharedJob, roster: SignedRoster, base: RunStore, models: str, log: Log, *, anew: bool) -> Keeper:
    """The run of a job in the store, begun or taken up, over the parties of the roster."""
    from securefl.keeping import Keeper, held_run  # noqa: PLC0415
    from securefl.store import Checkpoints  # noqa: PLC0415

    places = Checkpoints(models)
    base.know({entry.name: entry.identity for entry in roster.parties}, roster.serial)
    held, goes_on = held_run(base, shared, anew=anew)
    if goes_on:
        log("resumed", run=held.run, finished=held.progress().finished, rounds=held.progress().rounds)
    return Keeper(held, places)


def join(
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="The server.")],
    keys: Annotated[Path, typer.Option(metavar="DIR", help="The party's folder of keys; its journal and ledger lie there too.")],
    data: Annotated[str, typer.Option(metavar="NAME|FILE", help="The party's own rows: a CSV file, or a named data set's site.")],
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
    credentials = Credentials.load(keys, "party")
    rules = own_policy(policy, keys)
    checked, signed = own_job(job, bundle, credentials, server, wait)
    credentials = Credentials.load(keys, "party")  # the roster may be newer now
    with rules.bounded():
        return take_part(server, keys, credentials, checked, rules, data=data, site=site, out=out, wait=wait, bundle=signed)


def take_part(
    server: str,
    keys: Path,
    credentials: Credentials,
    checked: Job,
    rules: PolicyFile,
    *,
    data: str,
    site: str | None,
    out: Path | None,
    wait: float,
    bundle: SignedBundle | None = None,
) -> int:
    """What `join` does, within the policy's resources."""
    from securefl import files  # noqa: PLC0415
    from securefl.journal import FileJournal  # noqa: PLC0415
    from securefl.privacy.store import Store  # noqa: PLC0415
    from securefl.transport.clock import SystemClock  # noqa: PLC0415
    from securefl.transport.keyfiles import keep_roster  # noqa: PLC0415
    from securefl.transport.log import JsonLog  # noqa: PLC0415

    clock = SystemClock()
    if out is not None:
        files.check_folder(out, ("model.safetensors",))
    name = credentials.entry.name
    rows = own_rows(checked, data, name, site, [entry.name for entry in credentials.roster.parties])
    from securefl.attending import Attending  # noqa: PLC0415  (loads torch)
    from securefl.own_rows import own_folds, refuse_unfit  # noqa: PLC0415
    from securefl.privacy.budget import PartyLedger  # noqa: PLC0415
    from securefl.privacy.rows import digest_of  # noqa: PLC0415
    from securefl.transport.link import Link  # noqa: PLC0415

    log, identity = JsonLog(clock, party=name), credentials.identity
    if identity is None:
        raise UserError(f"{keys} holds no identity")
    folds = own_folds(checked, rows)

    def warn(line: str) -> None:
        log("notice", text=line)

    async def work() -> int:
        with ExitStack() as stack:
            worker, beside = (stack.enter_context(ThreadPoolExecutor(1, name)) for name in ("session", "training"))
            journal = stack.enter_context(FileJournal(keys / "journal.json"))
            store = stack.enter_context(Store(keys / "ledger.db"))
            about = own_data_name(checked, data, bundle)
            rules.set_lifetime(store, (name, about))
            ledger = PartyLedger(store, name, about, digest_of((rows.x, rows.y)))
            attending = Attending(
                checked,
                name,
                identity,
                journal,
                folds,
                ledger=ledger,
                notices=warn,
                policy=rules,
                logs=keys / "logs",
                check=lambda s: refuse_unfit(s, name, folds),
                bundle=bundle,
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
            )
            ending = await link.attend(patience=wait)
            model = attending.model()
            if out is not None and model is not None:
                for path in files.write_all(out, {"model.safetensors": model}):
                    log("written", path=str(path))
            return ended(ending)

    return until_stopped(work)


def own_job(
    job: Path | None, bundle: str | None, credentials: Credentials, server: str, wait: float
) -> tuple[Job, SignedBundle | None]:
    """The job that a party takes part in: a file of its own, or a bundle that it approved.

    Raises:
        UserError: where it has neither, or as `securefl.bundles.running.of_party`.
    """
    from securefl.bundles.kept import Kept  # noqa: PLC0415
    from securefl.bundles.running import of_party  # noqa: PLC0415
    from securefl.job import Job  # noqa: PLC0415
    from securefl.transport.asking import Asking  # noqa: PLC0415

    if job is not None and bundle is not None:
        raise UserError("give --job or --bundle, not both")
    usual = credentials.folder / "job.toml"
    if bundle is None and (job is not None or usual.exists()):
        return Job.load(job or usual), None
    if bundle is None and not Kept(credentials).decisions():
        raise UserError(
            f"a party holds the server to its own copy of the job: give --job, or put it into {usual}, or decide about a bundle "
            "(securefl review)"
        )
    signed = of_party(bundle, credentials, lambda: Asking(server, credentials).listed(wait)[0])
    return signed.bundle.job, signed


def own_data_name(job: Job, data: str, signed: SignedBundle | None) -> str:
    """What the ledger calls the rows; the author of a bundle has no say in it."""
    return Path(data).name if signed is not None else job.privacy.ledger_data or Path(job.data.name).name


def own_policy(given: Path | None, keys: Path) -> PolicyFile:
    """The policy that is named, else the one in the folder of keys, else one that asks nothing."""
    from securefl.policy_file import PolicyFile  # noqa: PLC0415

    usual = keys / "policy.toml"
    if given is None and not usual.exists():
        return PolicyFile("")
    return PolicyFile.load(given or usual)


def ended(ending: Ending) -> int:
    """The exit code of a party: 0 where the run is done.

    Raises:
        SecureSumError: where it is not, with the server's reason.
    """
    if ending.check:
        raise SecureSumError(f"the run ended: {printable(ending.check)} ({printable(ending.detail)})")
    return 0


def own_rows(job: Job, data: str, party: str, site: str | None, parties: list[str]) -> Site:
    """The rows of one party: of its own CSV file, or of one site of a data set that is public anyway, for trying out.

    Raises:
        UserError: for other data than the job's, or no rows for this party.
    """
    from securefl import data as datasets  # noqa: PLC0415
    from securefl.data.public import own_table  # noqa: PLC0415

    if data.lower().endswith(".csv") != job.data.is_table or (not job.data.is_table and data != job.data.name):
        wanted = "a .csv file" if job.data.is_table else job.data.name
        raise UserError(f"--data is {data!r}, and the job is about {wanted}")
    if job.data.is_table:
        return own_table(Path(data), job, site or party)
    every = {one.name: one for one in datasets.of_job(job).sites}
    wanted = site or party
    if wanted not in every and site is None and len(every) == len(parties):
        wanted = list(every)[parties.index(party)]
    if wanted not in every:
        raise UserError(f"{data} has no site {wanted!r}; give --site with one of {', '.join(map(quoted, every))}")
    return every[wanted]


def address(text: str) -> None:
    """Refuse what is no HOST:PORT.

    Raises:
        UserError: for anything else.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"{text!r} is no HOST:PORT, such as 127.0.0.1:7443")


def until_stopped(work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run it; SIGTERM and Ctrl-C let it end in good order."""

    async def watched() -> int:
        task, loop = asyncio.ensure_future(work()), asyncio.get_running_loop()
        got = list[int]()

        def stop(number: int) -> None:
            got.append(number)
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        try:
            return await task
        except asyncio.CancelledError:
            if not got:
                raise
            sys.stderr.write("securefl: stopped\n")
            return STOPPED if got[0] == signal.SIGTERM else 130

    try:
        return asyncio.run(watched())
    except Refused as error:
        raise SecureSumError(f"what the server said is refused: {error.check} ({printable(error.detail)})") from None
