"""The contract of a job's data: what every site's table must hold, column by column, checked where the rows are.

A contract is a file that all have alike, ``schema.toml``: its digest is part of the job's hash, so of every session identity.  A
range in it is the column's public range, by which its values are scaled: a job with a contract takes ranges and levels from there.

What it does not protect: a table may keep to the contract and be wrong.  A unit is found by a range that its values miss, or by
where the median lies; two units whose usual values overlap are not told apart.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from securefl.data.columns import Column, Mask
from securefl.errors import UserError, quoted

Share = Annotated[float, Field(ge=0, le=1)]
Bounds = Annotated[tuple[float, float], Field(strict=False)]
Word = Annotated[str, Field(min_length=1, max_length=200)]
TELLING = 2.0
"""A median that is further than this factor from the allowed ones is told with the factor: most units differ by more."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class ColumnRule(_Strict):
    """What one column holds.

    Attributes:
        dtype: numbers, whole numbers, or one of some values.
        unit: of the numbers, in words.
        range: least and largest number, and what is made 0 and 1.
        values: of a category, as text.
        missing: largest share of the rows without a value.
        outside: largest share of the numbers that may lie out of ``range``; they are cut to it.
        median: where the site's median must lie, as a wrong unit moves it.
    """

    dtype: Literal["float", "int", "category"] = "float"
    unit: Annotated[str, Field(max_length=40)] = ""
    range: Bounds | None = None
    values: Annotated[tuple[Word, ...], Field(strict=False, min_length=2)] | None = None
    missing: Share = 0.0
    outside: Share = 0.0
    median: Bounds | None = None

    @model_validator(mode="after")
    def _fitting(self) -> ColumnRule:
        if self.dtype == "category":
            if self.values is None or len(set(self.values)) < len(self.values):
                raise ValueError("a category needs its values, two texts or more, each once")
            if any(value != " ".join(value.split()) for value in self.values):
                raise ValueError("the values of a category are texts without needless space")
            if self.range is not None or self.median is not None or self.outside or self.unit:
                raise ValueError("a category has values, and neither unit, range, median nor outside")
            return self
        if self.values is not None:
            raise ValueError(f'values belong to dtype = "category", not to {self.dtype}')
        if self.range is None or not self.range[0] < self.range[1]:
            raise ValueError("numbers need a range, [least, largest], the least first")
        if self.median is not None and not self.range[0] <= self.median[0] < self.median[1] <= self.range[1]:
            raise ValueError("the median is [least, largest] within the range")
        return self


class Contract(_Strict):
    """The columns that are features, in this order.

    Attributes:
        columns: rule by name.
    """

    columns: Annotated[dict[str, ColumnRule], Field(min_length=1, max_length=100_000)]

    @field_validator("columns")
    @classmethod
    def _named(cls, columns: dict[str, ColumnRule]) -> dict[str, ColumnRule]:
        for name in columns:
            if not name or "=" in name or name != " ".join(name.split()) or not name.isprintable():
                raise ValueError(f"a column is named by printable text without =, not {name!r}")
        return columns

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Public ranges of the columns of numbers, by name."""
        return {name: rule.range for name, rule in self.columns.items() if rule.range is not None}

    @property
    def levels(self) -> dict[str, tuple[str, ...]]:
        """Public values of the categories, by name."""
        return {name: rule.values for name, rule in self.columns.items() if rule.values is not None}

    @property
    def digest(self) -> str:
        """SHA-256 of all rules in their order, hexadecimal: of what the file says, not of its spaces and comments."""
        rules = [[name, rule.model_dump(mode="json")] for name, rule in self.columns.items()]
        return hashlib.sha256(json.dumps(rules, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def contract_of(text: str, where: str = "schema") -> Contract:
    """The contract of a file's text.

    Raises:
        UserError: it is no TOML, or a rule is not allowed; one line.
    """
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{where} is no TOML: {error}") from None
    return of_tree(tree, where)


def of_tree(tree: Mapping[str, Any], where: str = "schema") -> Contract:
    """The contract of plain data; errors as for `contract_of`."""
    try:
        return Contract.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        named = ".".join(str(part) for part in first["loc"])
        kind = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise UserError(f"{where}: {named}: {kind}" if named else f"{where}: {kind}") from None


def read_contract(path: Path) -> Contract:
    """The contract in a file; errors as for `contract_of`, and where it cannot be read."""
    try:
        return contract_of(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the schema {path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None


@dataclass(frozen=True)
class Violation:
    """One way in which a table is not what the contract says: counts and bounds, no row.

    Attributes:
        column: its name.
        rule: ``column``, ``dtype``, ``missing``, ``range``, ``median`` or ``values``.
        found: in the table.
        allowed: by the contract.
    """

    column: str
    rule: str
    found: str
    allowed: str

    @property
    def line(self) -> str:
        """In one line."""
        return f"column {quoted(self.column)}: {self.found}; allowed: {self.allowed}"


def violations(contract: Contract, columns: Mapping[str, Column], rows: Mask) -> list[Violation]:
    """Everything in which a table is not what the contract says.

    Args:
        contract: the rules.
        columns: of the table, by name; others than those of the contract are not looked at.
        rows: which rows count, shape (rows,).
    """
    found = list[Violation]()
    for name, rule in contract.columns.items():
        if name not in columns:
            found.append(Violation(name, "column", "the table does not have it", f"a column of {_kind(rule)}"))
            continue
        found += _missing(name, rule, columns[name], rows)
        look = _category if rule.dtype == "category" else _numbers
        found += look(name, rule, columns[name], rows)
    return found


def _kind(rule: ColumnRule) -> str:
    if rule.range is None:
        return f"{len(rule.values or ())} values"
    return f"{'whole ' * (rule.dtype == 'int')}numbers from {_span(rule.range, rule.unit)}"


def _span(bounds: tuple[float, float], unit: str) -> str:
    return f"{bounds[0]:g} to {bounds[1]:g}{' ' * bool(unit)}{unit}"


def _missing(name: str, rule: ColumnRule, column: Column, rows: Mask) -> list[Violation]:
    count, of = int((rows & ~column.present).sum()), int(rows.sum())
    if count <= rule.missing * of:
        return []
    return [Violation(name, "missing", f"{count} of {of} rows have no value", f"at most a share of {rule.missing:g}")]


def _category(name: str, rule: ColumnRule, column: Column, rows: Mask) -> list[Violation]:
    cells = column.texts()[rows & column.present].astype(str)
    other = int((~np.isin(cells, list(rule.values or ()))).sum())
    if not other:
        return []
    listed = ", ".join(map(quoted, rule.values or ()))
    return [Violation(name, "values", f"{other} of {cells.size} values are none of the {len(rule.values or ())} listed", listed)]


def _numbers(name: str, rule: ColumnRule, column: Column, rows: Mask) -> list[Violation]:
    if not (rows & column.present).any():
        return []
    if column.numbers is None:
        return [Violation(name, "dtype", f"it holds text{f' ({column.stray})' if column.stray else ''}", _kind(rule))]
    values, bounds = column.numbers[rows & column.present], rule.range or (-math.inf, math.inf)
    if not np.isfinite(values).all():
        return [Violation(name, "dtype", f"{int((~np.isfinite(values)).sum())} values are infinite", _kind(rule))]
    found, broken = list[Violation](), int((values != np.rint(values)).sum())
    if rule.dtype == "int" and broken:
        found.append(Violation(name, "dtype", f"{broken} of {values.size} values are no whole numbers", _kind(rule)))
    outside = int(((values < bounds[0]) | (values > bounds[1])).sum())
    if outside > rule.outside * values.size:
        about = f"{outside} of {values.size} values lie outside; found {values.min():.3g} to {values.max():.3g}"
        more = f", and at most a share of {rule.outside:g} outside" if rule.outside else ""
        found.append(Violation(name, "range", about + _factor(values, rule, bounds), _span(bounds, rule.unit) + more))
    if rule.median is not None and not rule.median[0] <= (middle := float(np.median(values))) <= rule.median[1]:
        about = f"the median is {middle:.3g}{_factor(values, rule, rule.median)}"
        found.append(Violation(name, "median", about, f"a median of {_span(rule.median, rule.unit)}"))
    return found


def _factor(values: NDArray[np.float64], rule: ColumnRule, bounds: tuple[float, float]) -> str:
    """How far the median is from what is allowed, where that looks like another unit."""
    middle, (low, high) = float(np.median(values)), rule.median or bounds
    if middle <= 0 or low <= 0 or low / TELLING <= middle <= high * TELLING:
        return ""
    usual = math.sqrt(low * high)
    times = usual / middle if middle < usual else middle / usual
    which, unit = "small" if middle < usual else "large", rule.unit or "the unit of the schema"
    return f", about {times:.2g} times too {which}: is it in {unit}?"
