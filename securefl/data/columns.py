"""Columns of a user's CSV file: read as text, then understood as numbers, text, a binary label or the names of sites.

Errors name lines of the file, as an editor counts them: the header is line 1.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securefl.errors import UserError

MISSING = frozenset({"", "?", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null"})
"""Cells that count as missing, whatever their case; not in the site column, where only blank does.

``none`` does so in a column of numbers; among text it is a value, as in "medication: none".
"""
WORDS = frozenset({"true", "false", "yes", "no"})
"""Label values whose case is ignored."""

FIGURE = re.compile(r"[-+]?[.,]?[0-9]")
"""How a cell begins that may have been meant as a number, such as ``65,3`` or ``65 %``."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its name in the header, "" if it has none.
        cells: text without surrounding space, shape (rows,), object.
        present: which cells are not missing, shape (rows,), bool.
        numbers: the cells as float64, shape (rows,), NaN where missing; None if a present cell is no number.
        lines: the line of the file in which each row begins, shape (rows,), int64.
        stray: what kept a column from being one of numbers in which most cells begin like one, else "".
        counted: what ``lines`` counts: lines of a file, or rows of another table.
        bare: whether the table held numbers, so that no cell has a text.
    """

    name: str
    cells: NDArray[np.object_]
    present: Mask
    numbers: NDArray[np.float64] | None
    lines: NDArray[np.int64]
    stray: str = ""
    counted: str = "line"
    bare: bool = False

    def texts(self) -> NDArray[np.object_]:
        """The cells as text, shape (rows,), object; of a table that held numbers, as these are written shortest."""
        if not self.bare or self.numbers is None:
            return self.cells
        return np.array([f"{number:.12g}" for number in self.numbers], dtype=object)

    def values(self, rows: Mask) -> list[str]:
        """Distinct present values among ``rows``, smallest first, as text; ``rows`` has shape (rows,)."""
        if self.numbers is not None:
            return [f"{number:.12g}" for number in np.unique(self.numbers[rows & self.present])]
        return sorted(set(self.cells[rows & self.present].tolist()))


def some(items: Iterable[str], most: int = 20) -> str:
    """The first ``most`` of the items in one line, and how many there are more."""
    every = list(items)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def at_lines(lines: Iterable[int], counted: str = "line") -> str:
    """Some lines of a file, for an error: ``line 3`` or ``lines 3, 5``."""
    numbers = [str(line) for line in lines]
    return f"{counted}{'s' * (len(numbers) != 1)} {some(numbers, 5)}"


def read(path: Path) -> tuple[Column, ...]:
    """Every column of a UTF-8, comma-separated file with one header line; blank lines are passed over.

    Raises:
        UserError: the file is missing, unreadable, no table or without rows, a row has fewer or more fields than the header, or a
            column is named twice.
    """
    records = _records(path)
    if not records:
        raise UserError(f"{path} is empty: a header line and rows are needed")
    (_, header), *rows = records
    for line, cells in rows:
        if len(cells) != len(header):
            fields = f"{len(cells)} field{'s' * (len(cells) != 1)}"
            raise UserError(f"{path} has {fields} in line {line} and {len(header)} in its header: every row needs as many")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise UserError(f"{path} has more than one column named {some(map(repr, twice))}: each name once")
    if not rows:
        raise UserError(f"{path} has a header but no rows")
    lines = np.array([line for line, _ in rows], dtype=np.int64)
    columns = zip(*(cells for _, cells in rows), strict=True)
    return tuple(column_of(name, cells, lines) for name, cells in zip(header, columns, strict=True))


def _records(path: Path) -> list[tuple[int, list[str]]]:
    """The records of a file that are not blank, each with the line in which it begins; space in and around cells is one space."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: the path of a CSV file is needed")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    records, line = list[tuple[int, list[str]]](), 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for record in reader:
                other = "" if records or len(record) != 1 else next((sign for sign in ";\t|" if sign in record[0]), "")
                if other:
                    raise UserError(f"{path} separates its columns by {other!r}: save it with commas")
                cells = [" ".join(cell.split()) for cell in record]
                strange = next((cell for cell in cells if not cell.isprintable()), None)
                if strange is not None:
                    raise UserError(f"{path} has a control character in line {line}, {strange!r}: text must be printable")
                if any(cells) or len(cells) > 1:
                    records.append((line, cells))
                line = reader.line_num + 1
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    except csv.Error as error:
        raise UserError(f"{path} is not a comma-separated table: {error}, in the row that begins in line {line}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    return records


def column_of(name: str, raw: Sequence[str], lines: NDArray[np.int64]) -> Column:
    """A column of texts without surrounding space: one of numbers where every cell that is there is one."""
    import pandas as pd  # noqa: PLC0415 - slow to import

    cells = np.array(raw, dtype=object)
    folded = [cell.casefold() for cell in raw]
    present = np.array([cell not in MISSING for cell in folded], dtype=bool)
    given = present & np.array([cell != "none" for cell in folded], dtype=bool)
    numbers = np.full(cells.size, np.nan)
    numbers[given] = pd.to_numeric(pd.Series(cells[given], dtype=object), errors="coerce").to_numpy(np.float64)
    parsed = ~np.isnan(numbers)
    if given.any() and parsed[given].all():
        return Column(name, cells, given, numbers, lines)
    strays = present & ~parsed
    figures = np.array([bool(FIGURE.match(cell)) for cell in raw], dtype=bool)
    few = 2 * int((figures & present).sum()) > int(present.sum())
    stray = f"{cells[strays][0]!r} is no number ({at_lines(lines[strays])})" if few else ""
    return Column(name, cells, present, None, lines, stray)


def check_finite(column: Column) -> None:
    """Refuse an infinite number.

    Raises:
        UserError: the column holds one.
    """
    if column.numbers is not None and np.isinf(column.numbers).any():
        where = at_lines(column.lines[np.isinf(column.numbers)], column.counted)
        raise UserError(f"the column {column.name!r} holds an infinite number in {where}: finite numbers are allowed")


def site_names(column: Column, least: int) -> NDArray[np.object_]:
    """The name of every row's site, shape (rows,), object.

    Raises:
        UserError: a name is blank, or there are fewer than ``least`` sites.
    """
    blank = column.cells == ""
    if blank.any():
        raise UserError(f"the site column {column.name!r} is blank in {at_lines(column.lines[blank])}: every row needs a site")
    count = len(set(column.cells.tolist()))
    if count < least:
        raise UserError(f"the site column {column.name!r} names {count} site: at least {least} are needed")
    return column.cells


def ordered(names: NDArray[np.object_]) -> list[str]:
    """The distinct names of sites, as numbers if all are numbers, else alphabetically."""
    distinct = sorted(set(names.tolist()))
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return distinct


def labels(column: Column) -> tuple[NDArray[np.int64], tuple[str, str]]:
    """The label as numbers.

    Returns:
        0 or 1 for every row, shape (rows,), int64 (0 where the label is missing), and what 0 and 1 stand for.

    Raises:
        UserError: the column does not have two distinct values.
    """
    if column.numbers is None and {cell.casefold() for cell in column.cells[column.present]} <= WORDS:
        lower = np.array([cell.casefold() for cell in column.cells], dtype=object)
        column = Column(column.name, lower, column.present, None, column.lines)
    values = column.values(np.ones(column.present.size, dtype=bool))
    found = np.unique(column.numbers[column.present]) if column.numbers is not None else np.array(values, dtype=object)
    if found.size == 1:
        raise UserError(f"the label column {column.name!r} is {values[0]} over all sites: two values are needed")
    if found.size != 2:
        raise UserError(f"the label column {column.name!r} has {found.size} distinct values: two are needed")
    cells = column.cells if column.numbers is None else column.numbers
    return (column.present & (cells == found[1])).astype(np.int64), (values[0], values[1])
