"""What a party brings to ``securefl join``: its job or approved bundle, its policy, its rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from securefl.errors import UserError, quoted

if TYPE_CHECKING:
    from securefl.bundles.signed import SignedBundle
    from securefl.data.types import Site
    from securefl.job import Job
    from securefl.policy_file import PolicyFile
    from securefl.transport.enrolment import Credentials


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
