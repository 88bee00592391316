"""Public levels of columns of text: named beforehand, so that no row's value becomes a feature that all sites see.

What it does not protect: which levels are named, and the two values of the label, are public.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from securefl.data.columns import Column, at_lines, some
from securefl.data.types import OTHER
from securefl.errors import UserError, quoted

Levels = Mapping[str, Sequence[str]]


def with_levels(features: Sequence[Column], levels: Levels, path: object, *, needed: bool) -> tuple[Column, ...]:
    """The columns, those with levels as text in which a value that is not named is `OTHER`, if that is a level.

    Args:
        features: the columns that may be features.
        levels: by name.
        path: of the table, as errors name it.
        needed: whether every column of text needs levels.

    Raises:
        UserError: levels name no feature column; a value is none of the levels, and `OTHER` is none either; a column of text has no
            levels where they are needed.
    """
    names = [column.name for column in features]
    for name in levels:
        if name not in names:
            raise UserError(f"levels are given for {name!r}, no feature column of {path}; these are: {some(map(quoted, names))}")
    bare = [column for column in features if column.numbers is None and column.name not in levels]
    if needed and bare:
        strays = "".join(f"; {quoted(column.name)}: {column.stray}" for column in bare if column.stray)
        raise UserError(
            f"{path} has text in {some(quoted(column.name) for column in bare)}: its values would become features, and a rare one "
            "show its row to all sites, which no ε covers; name the public values of each (--levels COLUMN=A,B,other, where other "
            f"takes the rest) or leave it out (--drop COLUMN){strays}"
        )
    return tuple(_folded(column, levels[column.name]) if column.name in levels else column for column in features)


def _folded(column: Column, levels: Sequence[str]) -> Column:
    known = np.isin(column.cells.astype(str), list(levels)) | ~column.present
    if not known.all() and OTHER not in levels:
        raise UserError(
            f"the column {column.name!r} has a value that is none of its public levels ({', '.join(map(quoted, levels))}) in "
            f"{at_lines(column.lines[~known], column.counted)}: name it, or the level {OTHER}, which takes all values that are not "
            "named"
        )
    return replace(column, cells=np.where(known, column.cells, OTHER), numbers=None, stray="")
