"""Columns that are the outcome under another name: a model that is handed its answer looks perfect, and is of no use.

What it does not protect: a column that is known only after the outcome, and does not tell it of every row.  It takes all sites'
rows at once, so it is for simulations.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securefl.data.columns import Column, Mask, some
from securefl.errors import UserError, quoted

FEWEST = 5
"""Rows of each class with a value that it takes: among fewer a feature can tell all of them by chance."""


def apart(known: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which features tell the classes apart by one cut, wherever they have a value, shape (features,).

    Args:
        known: shape (rows, features), NaN where there is no value.
        labels: 0 or 1, shape (rows,).
    """
    yes, no = known[labels == 1], known[labels == 0]
    if not (len(yes) and len(no)):
        return np.zeros(known.shape[1], dtype=bool)
    enough = np.minimum(*((~np.isnan(rows)).sum(axis=0) for rows in (yes, no))) >= FEWEST
    least = [np.where(np.isnan(rows), np.inf, rows).min(axis=0) for rows in (yes, no)]
    most = [np.where(np.isnan(rows), -np.inf, rows).max(axis=0) for rows in (yes, no)]
    return np.asarray(enough & ((least[0] > most[1]) | (least[1] > most[0])), dtype=np.bool_)


def same(column: Column, labels: NDArray[np.int64], rows: Mask) -> bool:
    """Whether a column is the label in other words: two numbers, or texts of which each goes with one label.

    Args:
        column: of the table.
        labels: 0 or 1, shape (rows of the file,).
        rows: which count, shape (rows of the file,).
    """
    there = rows & column.present
    if np.bincount(labels[there], minlength=2).min() < FEWEST:
        return False
    values = column.texts()[there].astype(str) if column.numbers is None else column.numbers[there]
    kinds, place = np.unique(values, return_inverse=True)
    shares = np.bincount(place, weights=labels[there]) / np.bincount(place)
    few = len(kinds) == 2 if column.numbers is not None else FEWEST * len(kinds) <= len(values)
    return few and bool(((shares == 0) | (shares == 1)).all())


def refuse_same(columns: Sequence[Column], labels: NDArray[np.int64], rows: Mask, path: Path) -> None:
    """Refuse columns that are the label in other words, as `same` finds them.

    Raises:
        UserError: naming them.
    """
    if found := [quoted(column.name) for column in columns if same(column, labels, rows)]:
        raise UserError(
            f"{some(found)} of {path} {'is' if len(found) == 1 else 'are each'} refused as a feature: it tells of every row its "
            "label, so it is the outcome; leave it out (--drop)"
        )


def telling(columns: Sequence[Column], labels: NDArray[np.int64], rows: Mask) -> list[str]:
    """A line for each column of numbers that tells the label of every row by one cut, as `apart`."""
    numeric = [(column.name, column.numbers) for column in columns if column.numbers is not None]
    if not numeric:
        return []
    cut = apart(np.column_stack([numbers for _, numbers in numeric])[rows], labels[rows])
    return [
        f"column {quoted(name)} tells by one cut the label of every row: if it is known with the outcome alone, leave it out "
        "(--drop)"
        for (name, _), tells in zip(numeric, cut, strict=True)
        if tells
    ]
