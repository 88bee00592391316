"""The command ``securefl stats``: statistics over all sites, without any training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from securefl.errors import UserError, quoted

if TYPE_CHECKING:
    from securefl.privacy.budget import Ledgers
    from securefl.statistics import SecureStatistics
    from securefl.statistics.groups import Own
    from securefl.statistics.noised import Asked
    from securefl.statistics.results import Released
    from securefl.statistics.results_noised import Release
    from securefl.statistics.sources import Source

SITE = "site"
CSV = "For a CSV"
ASKED = "What is asked"
NOISE = "Differential privacy"


def stats(
    data: Annotated[
        str, typer.Option(metavar="NAME|FILE.csv", help="breast-cancer, heart, eicu, or a CSV of one's own.")
    ] = "breast-cancer",
    data_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder with the files of heart or eicu.")] = None,
    clients: Annotated[int | None, typer.Option(metavar="N", help="Number of sites, for breast-cancer.")] = None,
    sites: Annotated[str | None, typer.Option(metavar="region|hospital", help="What a site of eicu is (default: region).")] = None,
    site: Annotated[str | None, typer.Option(metavar="COLUMN", help="Names each row's site.", rich_help_panel=CSV)] = None,
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", metavar="COLUMN=LOW:HIGH", help="Public range of a column of numbers.", rich_help_panel=CSV),
    ] = None,
    levels: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN=A,B,C", help="Public values of a column of classes.", rich_help_panel=CSV)
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN,COLUMN", help="Columns to describe (default: all with a range).", rich_help_panel=ASKED),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Count its classes (default: the label, or all with levels).", rich_help_panel=ASKED),
    ] = None,
    histogram: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="A histogram of it.", rich_help_panel=ASKED)] = None,
    bins: Annotated[int, typer.Option(metavar="N", help="Bins of a histogram.", rich_help_panel=ASKED)] = 10,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN|site",
            help="Describe each of its groups too; site: each site alone (simulation only).",
            rich_help_panel=ASKED,
        ),
    ] = None,
    correlation: Annotated[bool, typer.Option("--correlation", help="The correlation matrix.", rich_help_panel=ASKED)] = False,  # noqa: FBT002
    protocol: Annotated[str, typer.Option(metavar="NAME", help="How sums are formed.")] = "secagg",
    min_cell: Annotated[int, typer.Option(metavar="K", help="Cells with fewer records, but some, are not released.")] = 5,
    epsilon: Annotated[
        float | None,
        typer.Option(metavar="ε", help="Noise in every sum: ε of a record for all that is asked.", rich_help_panel=NOISE),
    ] = None,
    delta: Annotated[
        float | None, typer.Option(metavar="δ", help="Below 1 over the rows of each site.", rich_help_panel=NOISE)
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keeps what each site has spent and may spend.", rich_help_panel=NOISE)
    ] = None,
    ledger_data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What the ledger calls the data (default: their name).", rich_help_panel=NOISE),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,  # noqa: FBT002
) -> None:
    """Describe columns over all sites by secure sums: counts, means, quartiles, classes; no row leaves its site."""
    from rich.console import Console  # noqa: PLC0415

    if (epsilon is None) != (delta is None):
        raise UserError("--epsilon and --delta belong together: give both, or neither for exact sums")
    if ledger is None and ledger_data is not None:
        raise UserError("--ledger-data is refused without a ledger (--ledger), to which it belongs")
    if by is not None and epsilon is not None:
        raise UserError("--by is refused with --epsilon: groups are described by exact sums only")
    with Console(stderr=True, highlight=False).status("opening sums"):
        source = _source(data, data_dir, (clients, sites), site, ranges or [], levels or [])
        notices, warnings = list[str](), list[str]()
        with _ledgers(source, ledger, ledger_data, warnings) as ledgers:
            statistics = _statistics(source, protocol, min_cell, notices, ledgers)
            asked, names = {"classes": _classes(source, classes), "histograms": histogram or []}, _names(source, columns)
            release, own = None, _own(statistics, names, by)
            if epsilon is None or delta is None:
                parts = _results(statistics, names, asked, bins, correlation, by)
            else:
                release = statistics.noised(_asked(statistics, names, asked, bins, correlation), epsilon=epsilon, delta=delta)
                parts = dict(release.parts)
    if json:
        _print_json(source, statistics, parts, notices, warnings, release, own)
    else:
        _show(source, statistics, parts, notices, warnings, release, own)


@contextmanager
def _ledgers(source: Source, path: Path | None, name: str | None, warnings: list[str]) -> Iterator[Ledgers]:
    """Each site's own ledger, where a file is named."""
    if path is None:
        yield {}
        return
    from securefl.privacy.budget import ledgers_of, strangers  # noqa: PLC0415
    from securefl.privacy.store import Store  # noqa: PLC0415

    with Store(path) as store:
        data = name or source.name
        found = ledgers_of(store, {site: [*table.values()] for site, table in source.tables.items()}, data)
        warnings += filter(None, [strangers(store, data, list(found))])
        yield found


def _asked(
    statistics: SecureStatistics,
    names: Sequence[str],
    cells: dict[str, list[str]],
    bins: int,
    correlation: bool,  # noqa: FBT001  (as the option is)
) -> Asked:
    """The same questions as without noise."""
    from securefl.statistics.noised import Asked  # noqa: PLC0415

    return Asked(
        describe=names,
        quantiles=[name for name in names if name not in statistics.columns.levels],
        classes=cells["classes"],
        histograms=dict.fromkeys(cells["histograms"], bins),
        correlation=names if correlation else (),
    )


def _source(
    data: str,
    directory: Path | None,
    dealt: tuple[int | None, str | None],
    site: str | None,
    ranges: Sequence[str],
    levels: Sequence[str],
) -> Source:
    from securefl.data import load  # noqa: PLC0415
    from securefl.options import levels_of, ranges_of  # noqa: PLC0415
    from securefl.statistics import sources  # noqa: PLC0415

    clients, sites = dealt
    if data.lower().endswith(".csv"):
        if clients is not None or directory is not None or sites is not None:
            raise UserError("--clients, --sites and --data-dir are for named data: the site column of a CSV gives its sites")
        return sources.of_csv(Path(data), site, ranges_of(ranges), levels_of(levels))
    for option, given in {"--site": site, "--range": ranges, "--levels": levels}.items():
        if given:
            raise UserError(f"{option} is given, but goes with a .csv file only: {data} has its own")
    return sources.of_dataset(load(data, clients=clients, directory=directory, sites=sites))


def _names(source: Source, given: Sequence[str] | None) -> list[str]:
    """The columns to describe.  A name with commas in it goes by ``--columns`` of its own."""
    known = source.columns.ranges
    return [name for text in given or known for name in ([text] if text in known else text.split(","))]


def _classes(source: Source, given: Sequence[str] | None) -> list[str]:
    from securefl.statistics.sources import LABEL  # noqa: PLC0415

    known = source.columns.levels
    return list(given) if given else [name for name in known if name == LABEL or LABEL not in known]


def _statistics(source: Source, protocol: str, min_cell: int, notices: list[str], ledgers: Ledgers) -> SecureStatistics:
    from securefl.statistics import SecureStatistics  # noqa: PLC0415

    return SecureStatistics.simulated(
        source.tables, source.columns, protocol, min_cell=min_cell, on_notice=notices.append, ledgers=ledgers
    )


def _results(
    statistics: SecureStatistics,
    names: Sequence[str],
    cells: dict[str, list[str]],
    bins: int,
    correlation: bool,  # noqa: FBT001  (as the option is)
    by: str | None,
) -> dict[str, Any]:
    """All that was asked, in the order in which it is shown; what cannot be is refused before the first sum."""
    from securefl.statistics.axes import bins_of  # noqa: PLC0415
    from securefl.statistics.groups import described_by  # noqa: PLC0415

    if correlation and len(names) < 2:
        raise UserError(f"--correlation needs at least two columns, not {', '.join(map(quoted, names)) or 'none'}")
    for column in names:
        statistics.columns.range(column)
    for column in cells["histograms"]:
        bins_of(column, bins, statistics.columns.range(column))
    groups = None if by is None or _alone(statistics, by) else by
    for column in (*cells["classes"], *([groups] if groups is not None else [])):
        statistics.columns.level(column)
    parts: dict[str, Any] = {}
    if names:
        parts["description"] = statistics.describe(names)
    numbers = [name for name in names if name not in statistics.columns.levels]
    if numbers:
        parts["quantiles"] = statistics.quantile(numbers)
    parts["classes"] = {column: statistics.class_counts(column) for column in cells["classes"]}
    parts["histograms"] = {column: statistics.histogram(column, bins) for column in cells["histograms"]}
    if correlation:
        parts["correlation"] = statistics.correlation(names)
    if groups is not None:
        parts["by"] = described_by(statistics, groups, names, counts=parts["classes"].get(groups))
    return parts


def _alone(statistics: SecureStatistics, by: str) -> bool:
    """Whether ``by`` means each site alone, and no column of that name."""
    return by == SITE and SITE not in statistics.columns.levels


def _own(statistics: SecureStatistics, names: Sequence[str], by: str | None) -> list[Own]:
    from securefl.statistics.groups import own_descriptions  # noqa: PLC0415

    return own_descriptions(statistics, names) if by is not None and _alone(statistics, by) else []


def _flat(parts: dict[str, Any]) -> list[Released]:
    return [one for part in parts.values() for one in (part.values() if isinstance(part, dict) else [part])]


def _print_json(
    source: Source,
    statistics: SecureStatistics,
    parts: dict[str, Any],
    notices: list[str],
    warnings: list[str],
    release: Release | None,
    own: list[Own],
) -> None:
    from dataclasses import asdict  # noqa: PLC0415
    from json import dumps  # noqa: PLC0415

    from securefl.results import privacy_tree  # noqa: PLC0415
    from securefl.statistics.results import by_name  # noqa: PLC0415

    if release is None:
        privacy = privacy_tree(None, [], None, None, opened=[asdict(event) for one in _flat(parts) for event in one.opened])
    else:
        found = release.as_json()
        spent = [found.pop("epsilon")] * len(source.tables)
        privacy = privacy_tree(found.pop("unit"), spent, found.pop("delta"), found.pop("accountant"), **found)

    tree = {name: by_name(part) if isinstance(part, dict) else part.as_json() for name, part in parts.items()}
    head = {
        "data": source.name,
        "sites": list(source.tables),
        "protocol": statistics.protocol.name,
        "min_cell": statistics.min_cell,
        "privacy": privacy,
    }
    alone = {"by_site": [one.as_json() for one in own]} if own else {}
    beside = {**alone, "notices": notices, "warnings": warnings, "simulation_only": ["notices", *alone]}
    typer.echo(dumps({**head, **tree, **beside}, allow_nan=False))


def _show(
    source: Source,
    statistics: SecureStatistics,
    parts: dict[str, Any],
    notices: list[str],
    warnings: list[str],
    release: Release | None,
    own: list[Own],
) -> None:
    from rich.console import Console  # noqa: PLC0415

    from securefl import console  # noqa: PLC0415
    from securefl.statistics.sheets import own as own_sheet  # noqa: PLC0415
    from securefl.statistics.sheets import sheets  # noqa: PLC0415
    from securefl.tables import counted  # noqa: PLC0415

    screen, protocol, results = Console(highlight=False), statistics.protocol, _flat(parts)
    if source.notes:
        screen.print(console.NOTES, style="dim", markup=False)
    for note in source.notes:
        screen.print(note, style="dim", markup=False)
    for sheet in (*sheets(results), *([own_sheet(own)] if own else [])):
        console.show_sheet(screen, sheet)
    sums = (
        1
        if release is not None
        else sum(event.rounds for result in results for event in result.opened if "in clear" not in event.note)
    )
    screen.print(f"\n{source.name}: {counted(sums, 'sum')} over {len(source.tables)} sites by {protocol.name}", markup=False)
    if release is not None:
        share = f"each of {counted(len(release.split), 'question')} has {1 / len(release.split):.1%} of the squared sensitivity"
        screen.print(
            f"ε = {release.epsilon:.4g} of {release.planned:g} for one record, δ = {release.delta:g}, accountant rdp; {share}",
            markup=False,
        )
    console.show_trust(screen, protocol)
    for line in warnings:
        console.show_warning(screen, line)
    console.show_told(screen, notices)
