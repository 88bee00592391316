"""Columns of a user's CSV file: read as text, then understood as numbers, text, a binary label or the names of sites.

Rows are counted from 1, the first below the header.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
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

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its name in the header, "" if it has none.
        cells: text without surrounding space, shape (rows,), object.
        present: which cells are not missing, shape (rows,), bool.
        numbers: the cells as float64, shape (rows,), NaN where missing; None if a present cell is no number.
        stray: what kept a column that is mostly numbers from being one, else "".
    """

    name: str
    cells: NDArray[np.object_]
    present: Mask
    numbers: NDArray[np.float64] | None
    stray: str = ""

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


def at_rows(rows: Mask) -> str:
    """The numbers of the rows that are marked, for an error: ``row 3`` or ``rows 3, 5``."""
    numbers = [str(number + 1) for number in np.flatnonzero(rows)]
    return f"row{'s' * (len(numbers) != 1)} {some(numbers, 5)}"


def read(path: Path) -> tuple[Column, ...]:
    """Every column of a UTF-8, comma-separated file with one header line.

    Raises:
        UserError: the file is missing, unreadable, no table or without rows, or a column is named twice.
    """
    import pandas as pd  # noqa: PLC0415 - slow to import

    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty: a header line and rows are needed") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
        raise UserError(f"{path} is not a comma-separated table: {reason}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    table = frame.fillna("").to_numpy(dtype=object)
    cells = ((row, cell.strip()) for row, line in enumerate(table, 1) for cell in line)
    strange = next(((row, cell) for row, cell in cells if not cell.isprintable()), None)
    if strange is not None:
        raise UserError(f"{path} has a control character in row {strange[0]}, {strange[1]!r}: text must be printable")
    header = [" ".join(str(name).split()) for name in table[0]]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise UserError(f"{path} has more than one column named {some(map(repr, twice))}: each name once")
    if len(table) < 2:
        raise UserError(f"{path} has a header but no rows")
    return tuple(_column(name, table[1:, i]) for i, name in enumerate(header))


def _column(name: str, raw: NDArray[np.object_]) -> Column:
    import pandas as pd  # noqa: PLC0415 - slow to import

    cells = np.array([" ".join(str(cell).split()) for cell in raw], dtype=object)
    folded = [cell.casefold() for cell in cells]
    present = np.array([cell not in MISSING for cell in folded], dtype=bool)
    given = present & np.array([cell != "none" for cell in folded], dtype=bool)
    numbers = np.full(cells.size, np.nan)
    numbers[given] = pd.to_numeric(pd.Series(cells[given], dtype=object), errors="coerce").to_numpy(np.float64)
    parsed = ~np.isnan(numbers)
    if given.any() and parsed[given].all():
        return Column(name, cells, given, numbers)
    strays = present & ~parsed
    few = 0 < int(strays.sum()) < int(parsed.sum())
    return Column(name, cells, present, None, f"no number in {at_rows(strays)}" if few else "")


def check_finite(column: Column) -> None:
    """Refuse an infinite number.

    Raises:
        UserError: the column holds one.
    """
    if column.numbers is not None and np.isinf(column.numbers).any():
        where = at_rows(np.isinf(column.numbers))
        raise UserError(f"the column {column.name!r} holds an infinite number in {where}: finite numbers are allowed")


def site_names(column: Column, least: int) -> NDArray[np.object_]:
    """The name of every row's site, shape (rows,), object.

    Raises:
        UserError: a name is blank, or there are fewer than ``least`` sites.
    """
    blank = column.cells == ""
    if blank.any():
        raise UserError(f"the site column {column.name!r} is blank in {at_rows(blank)}: every row needs a site")
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
        column = Column(column.name, lower, column.present, None)
    values = column.values(np.ones(column.present.size, dtype=bool))
    found = np.unique(column.numbers[column.present]) if column.numbers is not None else np.array(values, dtype=object)
    if found.size == 1:
        raise UserError(f"the label column {column.name!r} is {values[0]} over all sites: two values are needed")
    if found.size != 2:
        raise UserError(f"the label column {column.name!r} has {found.size} distinct values: two are needed")
    cells = column.cells if column.numbers is None else column.numbers
    return (column.present & (cells == found[1])).astype(np.int64), (values[0], values[1])
