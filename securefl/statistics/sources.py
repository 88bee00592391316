"""Tables and public knowledge for the command: a named data set, or the user's own CSV as it is, with its missing values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from securefl.data.columns import Column, check_finite, ordered, read, site_names, some
from securefl.data.types import Dataset
from securefl.errors import UserError, quoted
from securefl.statistics.columns import Columns

LABEL = "label"
"""The column of classes of a named data set."""


@dataclass(frozen=True, eq=False)
class Source:
    """What statistics are made of.

    Attributes:
        name: of the data.
        tables: for each site its columns.  Private.
        columns: what is publicly known.
        notes: lines that the user should see.
    """

    name: str
    tables: Mapping[str, Mapping[str, Any]] = field(repr=False)
    columns: Columns
    notes: tuple[str, ...] = ()


def of_dataset(data: Dataset) -> Source:
    """A named data set with its public ranges, and its label as classes.  A range from 0 to 1 belongs to a column of yes and no.

    Raises:
        UserError: where the data have no public ranges.
    """
    if data.ranges is None:
        raise UserError(f"{data.name} has no public ranges: statistics need one for every column")
    ranges = {name: (float(low), float(high)) for name, (low, high) in zip(data.features, data.ranges, strict=True)}
    yes_no = {name: (0, 1) for name, bounds in ranges.items() if bounds == (0.0, 1.0)}
    classes = np.array(data.classes, dtype=object)
    tables = {
        site.name: {**dict(zip(data.features, site.known.T, strict=True)), LABEL: classes[site.y].astype(object)}
        for site in data.sites
    }
    return Source(data.name, tables, Columns(ranges, {**yes_no, LABEL: data.classes}), data.notes)


def of_csv(path: Path, site: str | None, ranges: Mapping[str, tuple[float, float]], levels: Mapping[str, Sequence[str]]) -> Source:
    """A table with a column that names each row's site; missing values stay missing.

    Args:
        path: the file, as for ``securefl run``.
        site: the column of sites.
        ranges: public ranges of columns of numbers.
        levels: public levels of columns of classes, as text.

    Raises:
        UserError: the file cannot be read, a named column is not there, a column holds inf, a level of a column of numbers is none,
            or fewer than two sites.
    """
    columns = {column.name: column for column in read(path) if column.name}
    if site is None:
        raise UserError(f"{path} needs a site column (--site); its columns: {some(map(quoted, columns))}")
    for name in (site, *ranges, *levels):
        if name not in columns:
            raise UserError(f"the column {quoted(name)} is not in {path}; its columns: {some(map(quoted, columns))}")
    if not ranges and not levels:
        raise UserError(
            f"statistics of {path} need what is publicly known of columns: --range COLUMN=LOW:HIGH for numbers, "
            "--levels COLUMN=VALUE,VALUE for classes"
        )
    sites, cells = site_names(columns[site], 2), dict[str, Any]()
    for name in {**ranges, **levels}:
        check_finite(columns[name])
        numbers = columns[name].numbers
        if numbers is None and name in ranges and columns[name].stray:
            raise UserError(f"{path}: {quoted(name)} must be numbers: {columns[name].stray}")
        cells[name] = np.where(columns[name].present, columns[name].cells, np.nan) if numbers is None else numbers
    known = {name: _typed(name, values, columns[name].numbers is not None) for name, values in levels.items()}
    for name, values in known.items():
        _check_levels(columns[name], values, path)
    tables = {name: {column: values[sites == name] for column, values in cells.items()} for name in ordered(sites)}
    return Source(path.name, tables, Columns(ranges, known))


def _check_levels(column: Column, known: tuple[Any, ...], path: Path) -> None:
    values = column.cells if column.numbers is None else column.numbers
    strays = np.flatnonzero(column.present & ~np.isin(values.astype(object), np.array(known, dtype=object)))
    if strays.size:
        row, name = strays[0], quoted(column.name)
        raise UserError(
            f"{path}: {name} is {str(column.cells[row])!r} in line {column.lines[row]}, which is no level of it "
            f"({', '.join(map(str, known))}): name all of them, {name}=VALUE,VALUE"
        )


def _typed(name: str, values: Sequence[str], numbers: bool) -> tuple[Any, ...]:  # noqa: FBT001
    """Levels as the column has them: numbers, or text."""
    if not numbers:
        return tuple(values)
    try:
        found = [float(value) for value in values]
    except ValueError:
        raise UserError(f"the levels of {quoted(name)} must be numbers, as its values are, not {', '.join(values)}") from None
    return tuple(int(value) if value.is_integer() else value for value in found)
