"""What is publicly known of columns, and each site's own columns as numbers or as places among public levels.

Every refusal names the site and the column.  In a deployment these texts, and the counts of clipped values, stay at the site.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from securefl.data.columns import some
from securefl.errors import UserError, quoted

T = TypeVar("T")
Tell = Callable[[str], None]
"""Takes a line that a site's own operator must see, and nobody else."""


@dataclass(frozen=True)
class Columns:
    """Public knowledge about columns; nothing of it may come from the rows.

    Attributes:
        ranges: lower and upper bound of columns of numbers, finite, the lower one first.
        levels: all values that a column of classes may have, in order.  A column may have both.

    Raises:
        UserError: a range that is none, levels that are missing, doubled or none.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    levels: Mapping[str, Sequence[Hashable]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if not (math.isfinite(low) and math.isfinite(high) and low < high and math.isfinite(high - low)):
                raise UserError(f"the range of {quoted(name)} is {low:g} to {high:g}: two finite numbers, the smaller first")
        for name, values in self.levels.items():
            if isinstance(values, str) or not values or len(set(values)) < len(values):
                raise UserError(f"the levels of {quoted(name)} must be a list of values, each once, not {values!r}")
            if any(value is None or value != value for value in values):  # noqa: PLR0124  (NaN alone differs from itself)
                raise UserError(f"a level of {quoted(name)} is a missing value: missing values have a cell of their own")

    def range(self, name: str) -> tuple[float, float]:
        """The public range of a column.

        Raises:
            UserError: where it has none.
        """
        return _known(self.ranges, name, "range")

    def level(self, name: str) -> tuple[Hashable, ...]:
        """The public levels of a column.

        Raises:
            UserError: where it has none.
        """
        return tuple(_known(self.levels, name, "levels"))


def _known(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        have = some(map(quoted, known)) or "no column"
        raise UserError(f"the column {quoted(name)} has no public {what}; given for: {have}")
    return known[name]


@dataclass(frozen=True, eq=False)
class SiteTable:
    """One site's table.

    Attributes:
        name: the site's name.
        cells: each column's values, shape (rows,).  Private.
        rows: how many.
    """

    name: str
    cells: Mapping[str, NDArray[Any]] = field(repr=False)
    rows: int

    @classmethod
    def of(cls, name: str, table: Any) -> SiteTable:
        """A DataFrame, or one-dimensional arrays by column name.

        Raises:
            UserError: for something else, a column named twice, or columns of unequal length.
        """
        if not hasattr(table, "keys"):
            raise UserError(f"{quoted(name)}: a table is a DataFrame or arrays by column name, not a {type(table).__name__}")
        names = list(table.keys())
        twice = next((column for column in names if names.count(column) > 1), None)
        if twice is not None:
            raise UserError(f"{quoted(name)}: the column {quoted(str(twice))} is there more than once")
        cells = {str(column): _array(table[column]) for column in names}
        lengths = {len(values) for values in cells.values() if values.ndim == 1}
        if not cells or len(lengths) != 1 or any(values.ndim != 1 for values in cells.values()):
            raise UserError(f"{quoted(name)}: a table needs columns of one dimension and one length, at least one")
        return cls(name, cells, lengths.pop())

    def rows_of(self, mask: NDArray[np.bool_]) -> SiteTable:
        """Some of the rows; ``mask`` has shape (rows,)."""
        return SiteTable(self.name, {column: values[mask] for column, values in self.cells.items()}, int(mask.sum()))

    def _column(self, name: str) -> NDArray[Any]:
        if name not in self.cells:
            raise UserError(f"{quoted(self.name)} has no column {quoted(name)}; it has: {', '.join(map(quoted, self.cells))}")
        return self.cells[name]

    def numbers(self, name: str, bounds: tuple[float, float], tell: Tell) -> NDArray[np.float64]:
        """A column within its range, shape (rows,), NaN where missing; ``tell`` hears how many values were clipped.

        Raises:
            UserError: no such column, text or another thing that is no number, or inf.
        """
        values = _numbers(self._column(name), f"{quoted(self.name)}: the column {quoted(name)}")
        out = int(np.sum((values < bounds[0]) | (values > bounds[1])))
        if out:
            of = f"{out} of {int(np.sum(~np.isnan(values)))} values of {quoted(name)}"
            tell(f"{quoted(self.name)}: {of} lie outside {bounds[0]:g} to {bounds[1]:g} and are clipped to it")
        if self.rows and np.isnan(values).all():
            tell(f"{quoted(self.name)}: every value of {quoted(name)} is missing")
        return np.clip(values, *bounds)

    def places(self, name: str, levels: Sequence[Hashable]) -> NDArray[np.int64]:
        """For each row the place of its value among ``levels``, shape (rows,), int64; ``len(levels)`` where missing.

        Raises:
            UserError: no such column, or a value that is no level.
        """
        import pandas as pd  # noqa: PLC0415 - slow to import

        values = self._column(name).astype(object)
        missing = np.asarray(pd.isna(values), dtype=bool)
        out = np.where(missing, len(levels), -1).astype(np.int64)
        for place, level in enumerate(levels):
            out[~missing & np.asarray(values == level, dtype=bool)] = place
        if (out < 0).any():
            row = int(np.argmax(out < 0))
            known = ", ".join(map(repr, levels))
            raise UserError(
                f"{quoted(self.name)}: {quoted(name)} is {values[row]!r} in row {row}, which is no level of it ({known})"
            )
        return out


def site_tables(given: Mapping[str, Any], names: Iterable[str]) -> tuple[SiteTable, ...]:
    """The tables in the order of the roster.

    Raises:
        UserError: a site without a table, a table without a site, or a table that is refused.
    """
    order = list(names)
    odd = [quoted(str(name)) for name in (*given, *order) if (name in given) != (name in order)]
    if odd:
        raise UserError(f"every site of the consortium needs one table: {', '.join(odd)} is missing or unknown")
    return tuple(SiteTable.of(name, given[name]) for name in order)


def named(columns: Iterable[str], what: str) -> tuple[str, ...]:
    """The names of columns, each once.

    Raises:
        UserError: none, or one twice.
    """
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    twice = next((name for name in names if names.count(name) > 1), None)
    if not names or twice is not None:
        raise UserError(f"{what} needs columns, each once" + (f", not {quoted(twice)} twice" if twice is not None else ""))
    return names


def _array(values: Any) -> NDArray[Any]:
    if isinstance(values, np.ma.MaskedArray):
        return np.ma.filled(values.astype(np.float64), np.nan)
    return np.asarray(values)


def _numbers(values: NDArray[Any], what: str) -> NDArray[np.float64]:
    """A column of numbers as float64, NaN where missing."""
    import pandas as pd  # noqa: PLC0415 - slow to import

    out = np.full(values.shape, np.nan)
    present = ~np.asarray(pd.isna(values), dtype=bool)
    given = values[present]
    given = np.asarray(given.tolist()) if given.dtype == object else given
    if given.dtype.kind not in "biuf" and given.size:
        texts = [value for value in values[present].tolist() if isinstance(value, str)]
        first = f" (such as {texts[0]!r})" if texts else ""
        raise UserError(f"{what} holds {'text' if texts else 'other things than numbers'}{first}: numbers are needed")
    out[present] = given.astype(np.float64) if given.size else []
    if np.isinf(out).any():
        raise UserError(f"{what} holds an infinite number in row {int(np.argmax(np.isinf(out)))}: finite numbers are allowed")
    return out
