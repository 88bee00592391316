"""The command ``securefl noise``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def noise(
    epsilon: Annotated[float, typer.Option(metavar="ε", help="Privacy loss of a party, or a record, over all rounds.")],
    clients: Annotated[int, typer.Option(metavar="N", help="Number of parties.")],
    rounds: Annotated[int, typer.Option(metavar="R", help="Number of sums that are opened.")],
    delta: Annotated[float, typer.Option(metavar="δ", help="Below 1 over the number of parties, or of records.")] = 1e-5,
    mechanism: Annotated[
        Literal["distributed-party", "distributed-record", "local-record", "central"], typer.Option(help="Whose noise.")
    ] = "distributed-party",
    law: Annotated[
        Literal["skellam", "discrete-gaussian"] | None,
        typer.Option("--noise", help="Law of it in the sum (default: skellam)."),
    ] = None,
    dimension: Annotated[int, typer.Option(metavar="D", help="Values of an update or gradient.")] = 1000,
    clip: Annotated[float, typer.Option(metavar="C", help="L2 bound of an update, or of a record's gradient.")] = 1.0,
    corrupt: Annotated[
        int | None, typer.Option(metavar="K", help="Parties that may omit their noise (default: ⌈N/3⌉ − 1, as in the protocols).")
    ] = None,
    dropouts: Annotated[
        int | None, typer.Option(metavar="K", help="Parties that may vanish (default: as many as the threshold allows).")
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--sample-rate", metavar="Q", help="For records: probability to be in a step (default: 1).")
    ] = None,
    rows: Annotated[int | None, typer.Option(metavar="K", help="For records: public number of rows a party.")] = None,
    local_steps: Annotated[
        int | None, typer.Option(metavar="S", help="With local-record: steps of a site in a round (default: 1).")
    ] = None,
    accountant: Annotated[Literal["rdp", "prv"] | None, typer.Option(help="With local-record and central (default: rdp).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,  # noqa: FBT002
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw error and bits against parties: .svg, .png or .pdf.")
    ] = None,
) -> None:
    """Compute the noise for a privacy loss: a party's share, bits of a value, error of the mean, against parties."""
    from json import dumps  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from securefl import console, params_gaussian, params_noise, pictures  # noqa: PLC0415
    from securefl.errors import UserError  # noqa: PLC0415

    gaussian = mechanism in params_gaussian.GAUSSIAN
    inside = {"--noise": law, "--corrupt": corrupt, "--dropouts": dropouts}
    for option, value in (inside if gaussian else {"--local-steps": local_steps, "--accountant": accountant}).items():
        if value is not None:
            belongs = "noise inside the sum" if gaussian else "local-record and central"
            raise UserError(f"{option} is refused with {mechanism}: it belongs to {belongs}")
    picture = None if plot is None else pictures.picture_file(plot)
    asked = {"mechanism": mechanism, "size": dimension, "clip": clip, "rate": rate, "rows": rows}
    told: Any = params_gaussian if gaussian else params_noise
    own = {"local_steps": local_steps, "accountant": accountant or "rdp"}
    summed = {"kind": law or "skellam", "corrupt": corrupt, "dropouts": dropouts}
    found = told.answer(epsilon, delta, clients, rounds, **asked, **(own if gaussian else summed))
    if picture is not None:
        told.draw(found, picture)
    if json:
        typer.echo(dumps(found.as_json(), ensure_ascii=False))
    else:
        for sheet in told.sheets(found):
            console.show_sheet(Console(highlight=False), sheet)
    if picture is not None:
        typer.echo(f"written: {picture}", file=sys.stderr if json else None)
