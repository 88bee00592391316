"""The command ``securefl doctor``: a party's table held against the schema of a job, where the rows are."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated

import typer

from securefl.errors import UserError


def doctor(
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE|eicu",
            help="The party's own rows: a CSV or Parquet file, a file that says where they are (data.toml), or tables of eicu.",
        ),
    ],
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with the tables of eicu.")] = None,
    sites: Annotated[str | None, typer.Option(metavar="region|hospital", help="What a site of eicu is (default: region).")] = None,
    schema: Annotated[Path | None, typer.Option(metavar="SCHEMA.toml", help="What a table must hold.")] = None,
    job: Annotated[Path | None, typer.Option(metavar="JOB.toml", help="The job whose schema it is, in place of --schema.")] = None,
    site: Annotated[
        str | None, typer.Option(help="Look at the rows of this site alone; a file needs --job, which names the column.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,  # noqa: FBT002
) -> int:
    """Check the own table against a schema; nothing leaves this machine. Exit code 2 where it is not what the schema says."""
    if data == "eicu":
        if schema is not None or job is not None:
            raise UserError("--schema and --job are refused with eicu, which has a schema of its own")
        return _eicu(data_dir, sites or "region", site, json=json)
    if data_dir is not None or sites is not None:
        raise UserError("--data-dir and --sites belong to eicu")
    return _table(data, schema, job, site, json=json)


def _table(data: str, schema: Path | None, job: Path | None, site: str | None, *, json: bool) -> int:
    """A table of the party's own against the schema of a job."""
    import numpy as np  # noqa: PLC0415

    from securefl.data.contract import read_contract, violations  # noqa: PLC0415
    from securefl.data.sources import source_of  # noqa: PLC0415
    from securefl.job import Job  # noqa: PLC0415

    if (schema is None) == (job is None):
        raise UserError("give --schema or --job, one of them")
    knobs = None if job is None else Job.load(job).data
    contract = None if knobs is None else knobs.contract
    if schema is not None:
        contract = read_contract(schema)
    if contract is None:
        raise UserError(f"{job} has no schema (data.contract)")
    source = source_of(data)
    if source is None:
        raise UserError(f"--data is {data!r}: a .csv, .parquet or .toml file, or python:module:function is allowed")
    chosen = [name for name in (knobs.label, knobs.site) if name] if knobs is not None else []
    columns = source.read([*contract.columns, *chosen])
    if not columns:
        raise UserError(f"{source} has none of the {len(contract.columns)} columns of the schema")
    rows = np.ones(len(next(iter(columns.values())).present), dtype=bool)
    if knobs is not None and site is not None and (own := columns.get(knobs.site or "")) is not None:
        rows &= own.texts() == site
    if not rows.any():
        raise UserError(f"{source} has no row of the site {site!r}")
    found = violations(contract, columns, rows)
    if json:
        listed = [{"column": v.column, "rule": v.rule, "found": v.found, "allowed": v.allowed} for v in found]
        tree = {"schema": contract.digest, "rows": int(rows.sum()), "columns": len(contract.columns), "violations": listed}
        typer.echo(json_text.dumps(tree, indent=2))
        return 2 if found else 0
    for violation in found:
        typer.echo(violation.line)
    typer.echo(
        f"{int(rows.sum())} rows, {len(contract.columns)} columns, {len(found)} violations of the schema {contract.digest[:16]}"
    )
    return 2 if found else 0


def _eicu(directory: Path | None, sites: str, only: str | None, *, json: bool) -> int:
    """The measurements of each site against their units; a real site has its own alone."""
    from securefl.data.eicu import KEYS  # noqa: PLC0415
    from securefl.data.eicu_contract import contract, looked_through  # noqa: PLC0415

    if sites not in KEYS:
        raise UserError(f"--sites is {sites!r}: {' or '.join(KEYS)} is allowed")
    found, schema = looked_through(directory, sites, only), contract()
    broken = sum(len(of_site) for _, of_site in found.values())
    if json:
        listed = [
            {"site": name, "column": v.column, "rule": v.rule, "found": v.found, "allowed": v.allowed}
            for name, (_, of_site) in found.items()
            for v in of_site
        ]
        stays = {name: count for name, (count, _) in found.items()}
        typer.echo(json_text.dumps({"schema": schema.digest, "rows": stays, "columns": len(schema.columns), "violations": listed}))
        return 2 if broken else 0
    for name, (_, of_site) in found.items():
        for violation in of_site:
            typer.echo(f"{name}: {violation.line}")
    rows = sum(count for count, _ in found.values())
    told = f"{rows} stays of {len(found)} sites, {len(schema.columns)} measurements"
    typer.echo(f"{told}, {broken} violations of the schema {schema.digest[:16]}")
    return 2 if broken else 0
