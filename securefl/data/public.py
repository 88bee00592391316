"""What is publicly known of a job's data, without a row: what a server knows, and what all parties must see alike.

Of a table that is the columns that the job gives ranges for, in that order, and those that it gives levels for: over a network
nobody can look at all rows for others.

What it does not protect: the ranges are the job's word.  Values outside are clamped to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from securefl.data.columns import Column, at_lines, check_finite, some
from securefl.data.contract import Violation, violations
from securefl.data.levels import with_levels
from securefl.data.types import OTHER, Coding, Site
from securefl.errors import UserError, quoted

if TYPE_CHECKING:
    from securefl.data.sources import Source
    from securefl.job import Job


@dataclass(frozen=True)
class Public:
    """Of one job's data.

    Attributes:
        name: what the data are called.
        features: names of the columns of a site's rows.
        ranges: lower and upper bounds, shape (features, 2), float64.
        codings: how columns become features.
        classes: what the labels 0 and 1 stand for.
        means: as `securefl.data.types.Dataset.means`.
        compared: as `securefl.data.types.Dataset.compared`.
    """

    name: str
    features: tuple[str, ...]
    ranges: NDArray[np.float64]
    codings: tuple[Coding, ...]
    classes: tuple[str, str] = ("0", "1")
    means: bool = False
    compared: str = ""


def public_of(job: Job) -> Public:
    """What is publicly known of a job's data.

    Raises:
        UserError: for a table without public ranges.
    """
    name, ranges = Path(job.data.name).name, dict(job.data.ranges)
    if job.data.name == "heart":
        from securefl.data import heart  # noqa: PLC0415

        return Public(name, tuple(heart.RANGES), _bounds(heart.RANGES), heart.CODINGS, heart.CLASSES)
    if job.data.name == "breast-cancer":
        from securefl.data import breast_cancer  # noqa: PLC0415

        ranges = dict(breast_cancer.RANGES)
        return Public(name, tuple(ranges), _bounds(ranges), (*map(Coding, ranges),), breast_cancer.CLASSES)
    if job.data.assays:
        raise UserError(f"data.name = {job.data.name} is refused over a network: private layers are for simulations yet")
    if job.data.name == "eicu":
        from securefl.data import eicu_features as eicu  # noqa: PLC0415

        bounds = eicu.bounds()
        return Public(name, tuple(bounds), _bounds(bounds), eicu.codings(), eicu.CLASSES, means=True, compared=eicu.COMPARED)
    if not ranges and not job.data.levels:
        raise UserError(
            "data.ranges is missing: over a network the features of a table are the columns that the job gives ranges or levels for"
        )
    numbers = (Coding(column, fill=(low + high) / 2) for column, (low, high) in ranges.items())
    words = (Coding(column, tuple(values), other=OTHER in values) for column, values in job.data.levels.items())
    codings = (*numbers, *words)
    features = tuple(feature for coding in codings for feature in coding.features)
    return Public(name, features, _bounds({feature: ranges.get(feature, (0.0, 1.0)) for feature in features}), codings)


def _bounds(ranges: Mapping[str, tuple[float, float]]) -> NDArray[np.float64]:
    return np.array(list(ranges.values()), dtype=np.float64)


def own_table(source: Source, job: Job, site: str) -> Site:
    """One site's rows of its own table.

    Where the table has the job's site column, only the rows of this site are taken.  A missing number becomes the middle of its
    column's range; a row without a label or without a value in a column of text is left out.

    Args:
        source: of the table.
        job: names label column, site column, ranges and levels, and may have a contract.
        site: the site's name.

    Raises:
        UserError: a column of the job is missing, or holds no numbers; a label is neither 0 nor 1; a value is none of its levels;
            no row is left; the table is not what the contract says, with all that it is not.
    """
    data, label = job.data, job.data.label or ""
    columns = source.read((*dict.fromkeys((label, *data.ranges, *data.levels, data.site or "")),))
    _refuse_absent((label,), columns, source)
    rows = _rows_of(site, columns, job, source)
    if data.contract is not None:
        refuse_violations(violations(data.contract, columns, rows), source)
    _refuse_absent((*data.ranges, *data.levels), columns, source)
    texts = tuple(replace(columns[name], cells=columns[name].texts()) for name in data.levels)
    texts = with_levels(texts, data.levels, source, needed=False)
    for column in texts:
        rows &= column.present
    y = _numbers(columns[label], source)
    wrong = rows & ~np.isin(y, (0.0, 1.0))
    if wrong.any():
        where = at_lines(columns[label].lines[wrong], columns[label].counted)
        raise UserError(f"the label column {label!r} of {source} must hold 0 or 1, not something else, as in {where}")
    if not rows.any():
        raise UserError(f"{source} has no row with a label and a value in every column of text")
    middle = np.array([sum(bounds) / 2 for bounds in data.ranges.values()])
    given = np.column_stack([_numbers(columns[name], source) for name in data.ranges] or [np.empty((y.size, 0))])[rows]
    gaps = np.isnan(given)
    coded = [(column.cells[rows] == value).astype(np.float64) for column in texts for value in data.levels[column.name][1:]]
    x = np.column_stack([np.where(gaps, middle, given), *coded])
    missing = np.column_stack([gaps, *(np.zeros(len(x), dtype=bool) for _ in coded)])
    return Site(site, x, y[rows].astype(np.int64), missing)


def refuse_violations(found: Sequence[Violation], source: Source) -> None:
    """Refuse a table that is not what its contract says.

    Raises:
        UserError: with every violation.
    """
    if found:
        each = "; ".join(violation.line for violation in found)
        raise UserError(f"{source} is not what the schema says, and nothing of it leaves: {each}")


def _rows_of(site: str, columns: Mapping[str, Column], job: Job, source: Source) -> NDArray[np.bool_]:
    rows = columns[job.data.label or ""].present.copy()
    if (own := columns.get(job.data.site or "")) is not None:
        rows &= own.texts() == site
        if not rows.any():
            raise UserError(f"{source} has no labelled row whose {own.name!r} is {site!r}")
    return rows


def _refuse_absent(names: Sequence[str], columns: Mapping[str, Column], source: Source) -> None:
    for name in names:
        if name not in columns:
            also = f" ({source.names()})" if source.columns else ""
            found = some(map(quoted, columns)) or "none"
            raise UserError(f"{source} has no column {name!r}, which the job names{also}; of those that it names it has: {found}")


def _numbers(column: Column, source: Source) -> NDArray[np.float64]:
    if not column.present.any():
        return np.full(column.present.size, np.nan)
    if column.numbers is None:
        text = f"the column {column.name!r} of {source} holds text: over a network features and labels are numbers"
        raise UserError(f"{text}, or have public levels (data.levels)")
    check_finite(column)
    return column.numbers
