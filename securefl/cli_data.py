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
            metavar="FILE", help="The party's own rows: a CSV or Parquet file, a file that says where they are (data.toml)."
        ),
    ],
    schema: Annotated[Path | None, typer.Option(metavar="SCHEMA.toml", help="What a table must hold.")] = None,
    job: Annotated[Path | None, typer.Option(metavar="JOB.toml", help="The job whose schema it is, in place of --schema.")] = None,
    site: Annotated[
        str | None, typer.Option(help="Look at the rows that name this site alone; with --job, which names the column.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,  # noqa: FBT002
) -> int:
    """Check the own table against a schema; nothing leaves this machine. Exit code 2 where it is not what the schema says."""
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
