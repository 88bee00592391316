"""What is publicly known of a job's data, without a row: what a server knows, and what all parties must see alike.

Of a table that is the columns that the job gives ranges for, in that order: over a network nobody can look at all rows for others.

What it does not protect: the ranges are the job's word.  Values outside are clamped to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from securefl.data.columns import Column, at_lines, check_finite, read, some
from securefl.data.types import Coding, Site
from securefl.errors import UserError, quoted

if TYPE_CHECKING:
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
    """

    name: str
    features: tuple[str, ...]
    ranges: NDArray[np.float64]
    codings: tuple[Coding, ...]
    classes: tuple[str, str] = ("0", "1")


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
    if job.data.name == "eicu":
        from securefl.data import eicu_features as eicu  # noqa: PLC0415

        return Public(name, tuple(eicu.bounds()), _bounds(eicu.bounds()), eicu.codings(), eicu.CLASSES)
    if not ranges:
        raise UserError(
            "data.ranges is missing: over a network the features of a table are the columns that the job gives ranges for"
        )
    middles = (Coding(column, fill=(low + high) / 2) for column, (low, high) in ranges.items())
    return Public(name, tuple(ranges), _bounds(ranges), tuple(middles))


def _bounds(ranges: Mapping[str, tuple[float, float]]) -> NDArray[np.float64]:
    return np.array(list(ranges.values()), dtype=np.float64)


def own_table(path: Path, job: Job, site: str) -> Site:
    """One site's rows of a CSV file of its own.

    Where the file has the job's site column, only the rows of this site are taken.  A missing number becomes the middle of its
    column's range; a row without a label is left out.

    Args:
        path: the file.
        job: names label column, site column and ranges.
        site: the site's name.

    Raises:
        UserError: a column of the job is missing, or holds no numbers; a label is neither 0 nor 1; no row is left.
    """
    columns = {column.name: column for column in read(path)}
    label, features = job.data.label or "", tuple(job.data.ranges)
    for name in (label, *features):
        if name not in columns:
            raise UserError(f"{path} has no column {name!r}, which the job names; its columns: {some(map(quoted, columns))}")
    rows = columns[label].present.copy()
    if (own := columns.get(job.data.site or "")) is not None:
        rows &= own.cells == site
        if not rows.any():
            raise UserError(f"{path} has no labelled row whose {own.name!r} is {site!r}")
    y = _numbers(columns[label], path)
    wrong = rows & ~np.isin(y, (0.0, 1.0))
    if wrong.any():
        where = at_lines(columns[label].lines[wrong])
        raise UserError(f"the label column {label!r} of {path} must hold 0 or 1, not something else, as in {where}")
    if not rows.any():
        raise UserError(f"{path} has no row with a label")
    middle = np.array([sum(job.data.ranges[name]) / 2 for name in features])
    x = np.column_stack([_numbers(columns[name], path) for name in features])[rows]
    gaps = np.isnan(x)
    return Site(site, np.where(gaps, middle, x), y[rows].astype(np.int64), gaps)


def _numbers(column: Column, path: Path) -> NDArray[np.float64]:
    if column.numbers is None:
        raise UserError(f"the column {column.name!r} of {path} holds text: over a network features and labels are numbers")
    check_finite(column)
    return column.numbers
