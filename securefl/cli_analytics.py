"""The commands ``securefl survival`` and ``securefl association``: Kaplan–Meier curves and variants by phenotype, out of sums."""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securefl.errors import UserError, quoted

if TYPE_CHECKING:
    from securefl.statistics import SecureStatistics
    from securefl.tables import Sheet

Table = Annotated[Path, typer.Option("--data", metavar="FILE.csv", help="The table, a row a record.")]
Site = Annotated[str, typer.Option(metavar="COLUMN", help="Names each row's site.")]
Protocol = Annotated[str, typer.Option(metavar="NAME", help="How sums are formed.")]
MinCell = Annotated[int, typer.Option(metavar="K", help="Counts of fewer records, but some, are not released.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it: .svg, .png or .pdf.")]
LEVELS = "COLUMN[=A,B]"


def survival(
    data: Table,
    site: Site,
    time: Annotated[str, typer.Option(metavar="COLUMN", help="Time to the event or the end of observation, from 0.")],
    horizon: Annotated[float, typer.Option(metavar="T", help="Public end of the curve; what is later is censored there.")],
    event: Annotated[str, typer.Option(metavar=LEVELS, help="Its two values, censored and event (default: 0,1).")],
    intervals: Annotated[int, typer.Option(metavar="N", help="Intervals up to the horizon, before small ones are joined.")] = 20,
    by: Annotated[str | None, typer.Option(metavar=LEVELS, help="A curve for each value (default: 0,1).")] = None,
    protocol: Protocol = "secagg",
    min_cell: MinCell = 5,
    plot: Plot = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Kaplan–Meier curves over all sites by secure sums, and the log-rank test between groups; no row leaves its site."""
    from securefl.statistics import kaplan_meier, sheets_analytics  # noqa: PLC0415

    (event_name, events), groups = _levels("--event", event), None if by is None else _levels("--by", by)
    if len(events) != 2:
        raise UserError(f"--event {event}: two values are needed, censored and event, not {len(events)}")
    if not 0 < horizon < float("inf"):
        raise UserError(f"--horizon is {horizon:g}: a finite number above 0")

    def answer(statistics: SecureStatistics) -> Any:
        return kaplan_meier(statistics, time, event_name, intervals=intervals, by=None if groups is None else groups[0])

    levels = dict([(event_name, events), *([groups] if groups is not None else [])])
    if len({time, site, *levels}) < 2 + 1 + (groups is not None):
        raise UserError("--site, --time, --event and --by need a column each")
    _show(
        data,
        site,
        ({time: (0.0, horizon)}, levels),
        (protocol, min_cell),
        answer,
        sheets_analytics.survival,
        sheets_analytics.draw_survival,
        plot,
        json=json,
    )


def association(
    data: Table,
    site: Site,
    phenotype: Annotated[str, typer.Option(metavar=LEVELS, help="Its two values, control and case (default: 0,1).")],
    variants: Annotated[str, typer.Option(metavar="PATTERN", help="Columns of genotypes, 0, 1, 2 or empty, such as 'rs*'.")],
    protocol: Protocol = "secagg",
    min_cell: MinCell = 5,
    plot: Plot = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Allele counts, χ² and odds ratio of every variant over all sites by secure sums; no genotype leaves its site."""
    from securefl.data.columns import read, some  # noqa: PLC0415
    from securefl.statistics import associate, sheets_analytics  # noqa: PLC0415

    name, levels = _levels("--phenotype", phenotype)
    if len(levels) != 2:
        raise UserError(f"--phenotype {phenotype}: two values are needed, control and case, not {len(levels)}")
    columns = [column.name for column in read(data)]
    found = [one for one in columns if one not in {site, name, ""} and fnmatch.fnmatchcase(one, variants)]
    if not found:
        raise UserError(f"--variants {quoted(variants)} fits no column of {data}; its columns: {some(map(quoted, columns))}")
    _show(
        data,
        site,
        (dict.fromkeys(found, (0.0, 2.0)), {name: levels}),
        (protocol, min_cell),
        lambda statistics: associate(statistics, name, found),
        sheets_analytics.association,
        sheets_analytics.draw_association,
        plot,
        json=json,
    )


def _levels(option: str, text: str) -> tuple[str, tuple[str, ...]]:
    """A column with its values, 0 and 1 unless given."""
    from securefl.options import levels_of  # noqa: PLC0415

    ((column, levels),) = levels_of([text if "=" in text else f"{text}=0,1"], option).items()
    return column, levels


def _show(
    data: Path,
    site: str,
    public: tuple[dict[str, tuple[float, float]], dict[str, tuple[str, ...]]],
    how: tuple[str, int],
    answer: Callable[[SecureStatistics], Any],
    sheets: Callable[[Any], list[Sheet]],
    draw: Callable[[Any, Path], None],
    plot: Path | None,
    *,
    json: bool,
) -> None:
    from json import dumps  # noqa: PLC0415

    from rich.console import Console  # noqa: PLC0415

    from securefl import console, pictures  # noqa: PLC0415
    from securefl.statistics import SecureStatistics, sources  # noqa: PLC0415

    picture = None if plot is None else pictures.picture_file(plot)
    (protocol, min_cell), notices = how, list[str]()
    with Console(stderr=True, highlight=False).status("opening sums"):
        source = sources.of_csv(data, site, *public)
        statistics = SecureStatistics.simulated(
            source.tables, source.columns, protocol, min_cell=min_cell, on_notice=notices.append
        )
        found = answer(statistics)
    if picture is not None:
        draw(found, picture)
    if json:
        head = {"data": source.name, "sites_named": list(source.tables), "protocol": statistics.protocol.name}
        typer.echo(dumps({**head, **found.as_json(), "notices": notices, "simulation_only": ["notices"]}, allow_nan=False))
    else:
        screen = Console(highlight=False)
        for sheet in sheets(found):
            console.show_sheet(screen, sheet)
        console.show_trust(screen, statistics.protocol)
        console.show_told(screen, notices)
    if picture is not None:
        typer.echo(f"written: {picture}", file=sys.stderr if json else None)
