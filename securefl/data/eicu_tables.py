"""The tables of an eICU folder as PhysioNet lays it out, read lazily: what is asked of a table streams through, whatever its size.

Needs polars (``securefl[eicu]``).  Every column is read as text and only those that are asked for, so that an outcome column that
nobody asks for never enters memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import polars as pl

from securefl.errors import UserError

VARIABLE = "SECUREFL_DATA"
TABLES = ("patient", "hospital", "apacheApsVar", "apachePredVar", "apachePatientResult", "admissionDx", "pastHistory")
ENDINGS = (".csv", ".csv.gz")
STAY = "patientunitstayid"
T = TypeVar("T")


def folder_of(directory: Path | None) -> Path:
    """The folder with the tables: the named one or SECUREFL_DATA's, or the one folder in it whose name begins with ``eicu``.

    Raises:
        UserError: none is named, has the table of patients, or several have.
    """
    variable = os.environ.get(VARIABLE)
    if directory is None and not variable:
        raise UserError(
            f"eicu needs the folder of its tables (--data-dir or {VARIABLE}); its open demo: physionet.org/content/eicu-crd-demo"
        )
    root, named = (directory, f"data directory {directory}") if directory else (Path(variable or ""), f"{VARIABLE}={variable}")
    if not root.is_dir():
        raise UserError(f"{named} is no folder")
    if _file(root, "patient") is not None:
        return root
    inside = [child for child in sorted(root.iterdir()) if child.name.lower().startswith("eicu") and child.is_dir()]
    found = [child for child in inside if _file(child, "patient") is not None]
    if not found:
        raise UserError(f"{named} has no patient.csv or patient.csv.gz, nor has a folder in it whose name begins with eicu")
    if len(found) > 1:
        raise UserError(f"{named} holds several eICU folders ({', '.join(child.name for child in found)}): name one (--data-dir)")
    return found[0]


def _file(folder: Path, table: str) -> Path | None:
    wanted = {(table + ending).lower() for ending in ENDINGS}
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() in wanted), None)


def check_tables(folder: Path) -> None:
    """Raise `UserError` where a table is missing."""
    missing = [table for table in TABLES if _file(folder, table) is None]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(f'{table}.csv[.gz]' for table in missing)}")


def scan(folder: Path, table: str, columns: Sequence[str]) -> pl.LazyFrame:
    """Some columns of a table, lazily, as text; an empty cell is null.

    Raises:
        UserError: the file is missing or cannot be read, is not divided by commas, or lacks a column.
    """
    path = _file(folder, table)
    if path is None:
        raise UserError(f"{folder} lacks {table}.csv[.gz]")
    frame = pl.scan_csv(path, infer_schema=False)
    names = reading(path, lambda: frame.collect_schema().names())
    if len(names) == 1 and (mark := next((mark for mark in ";\t|" if mark in names[0]), None)) is not None:
        raise UserError(f"{path} is divided by {mark!r}: the tables of eICU are divided by commas")
    if absent := [name for name in columns if name not in names]:
        raise UserError(f"{path} has no column {', '.join(map(repr, absent))}; its columns: {', '.join(names[:30])}")
    return frame.select(columns)


def reading(path: Path, read: Callable[[], T]) -> T:
    """What ``read`` gives; its failure as one line that names the file."""
    try:
        return read()
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path} cannot be read as a table: {reason}") from None


def collect(folder: Path, table: str, frame: pl.LazyFrame) -> pl.DataFrame:
    """The result of a query, streamed through.

    Raises:
        UserError: the file is damaged.
    """
    return reading(_file(folder, table) or folder, lambda: frame.collect(engine="streaming"))


def number(name: str) -> pl.Expr:
    """A column of text as numbers; null where it is empty or no number."""
    return pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)


def stray(name: str) -> pl.Expr:
    """Whether a cell that is not empty is no number."""
    return pl.col(name).is_not_null() & (pl.col(name).str.strip_chars() != "") & number(name).is_null()


def numbers(folder: Path, table: str, frame: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of text as numbers.

    Raises:
        UserError: for a cell that is none; the line names table, column and cell.
    """
    for name in columns:
        wrong = frame.filter(stray(name)).get_column(name)
        if len(wrong):
            raise UserError(
                f"{_file(folder, table)}: the column {name!r} holds {wrong[0]!r}, which is no number, in {len(wrong)} rows"
            )
    return frame.with_columns(number(name).alias(name) for name in columns)


def once(folder: Path, table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The same rows by stay, each stay once.

    Raises:
        UserError: for a stay with two rows, or one without number.
    """
    twice = frame.filter(pl.col(STAY).is_null() | pl.col(STAY).is_duplicated()).get_column(STAY)
    if len(twice):
        raise UserError(f"{_file(folder, table)} has no single row of the stay {twice[0]}: one row a stay is expected")
    return frame
