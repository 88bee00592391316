"""The command ``securefl join``: a party's part in a run between machines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocols.errors import SecureSumError
from securefl.errors import UserError, printable, quoted
from securefl.network_process import address, until_stopped
from securefl.version import version as current_version

if TYPE_CHECKING:
    from securefl.bundles.signed import SignedBundle
    from securefl.data.types import Site
    from securefl.job import Job
    from securefl.policy_file import PolicyFile
    from securefl.transport.enrolment import Credentials
    from securefl.transport.link import Ending

OWN_OUTPUTS = ("model.safetensors", "figures.json")
"""What a party may write into its ``--out``."""


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
            ledger = PartyLedger(store, name, about, digest_of((rows.x, rows.y)))
            rules.set_lifetime(store, ledger.place)
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
                software=f"securefl {current_version()}"[:64],
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


def own_data(given: str | None, keys: Path) -> str:
    """What ``--data`` says, else the party's file in the folder of keys.

    Raises:
        UserError: where there is neither.
    """
    if given is None and not (keys / "data.toml").exists():
        raise UserError(f"where are the party's rows? Give --data, or say it in {keys / 'data.toml'}")
    return given or str(keys / "data.toml")


def own_rows(job: Job, data: str, party: str, site: str | None, parties: list[str]) -> Site:
    """The rows of one party: of its own table, or of one site of a data set that is public anyway, for trying out.

    Raises:
        UserError: for other data than the job's, or no rows for this party.
    """
    from securefl import data as datasets  # noqa: PLC0415
    from securefl.data.public import own_table  # noqa: PLC0415
    from securefl.data.sources import source_of  # noqa: PLC0415

    source = source_of(data) if job.data.is_table or data != job.data.name else None
    if source is not None and source.kind == "eicu" and source.path is not None and job.data.name == "eicu":
        return datasets.own_eicu(job, source.path, site, party)
    if (source is not None) != job.data.is_table or (source is None and data != job.data.name):
        wanted = "a table: a .csv, .parquet or .toml file, or python:module:function" if job.data.is_table else job.data.name
        wanted += ", by name, or a folder of its tables" * (job.data.name == "eicu")
        raise UserError(f"--data is {data!r}, and the job is about {wanted}")
    if source is not None:
        return own_table(source, job, site or party)
    every = {one.name: one for one in datasets.of_job(job).sites}
    wanted = site or party
    if wanted not in every and site is None and len(every) == len(parties):
        wanted = list(every)[parties.index(party)]
    if wanted not in every:
        raise UserError(f"{data} has no site {wanted!r}; give --site with one of {', '.join(map(quoted, every))}")
    return every[wanted]
