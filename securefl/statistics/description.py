"""Moments in the columns' own units, less what the minimum cell count forbids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from securefl.statistics.cells import small
from securefl.statistics.columns import Columns
from securefl.statistics.moments import Means, Moments
from securefl.statistics.results import Description


def described(
    columns: Columns, names: tuple[str, ...], rows: int, means: Means, moments: Moments, released: Mapping[str, Any]
) -> Description:
    """What may be released of the moments of ``names``.

    Args:
        columns: public levels.
        names: the columns of the moments.
        rows: of all sites.
        means: of u, for each column.
        moments: the shift and the scale of u.
        released: the fields of `Released`.
    """
    k, count = released["min_cell"], means.count
    partly = [small(c, k) or small(rows - c, k) for c in count.tolist()]
    mean = moments.middle + moments.half * means.first
    few = count < k
    few |= [tells(columns, name, c, m, k) for name, c, m in zip(names, count.tolist(), mean.tolist(), strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        unbiased = np.where(count > 1, moments.half**2 * count / (count - 1), np.nan)
    # Rounding alone puts a variance below 0, and 0 is never farther from the truth.
    numbers: dict[str, Any] = {
        "mean": mean,
        "mean_error": moments.half * means.off,
        "variance": np.maximum(means.variance, 0) * unbiased,
        "variance_error": means.variance_off * unbiased,
    }
    numbers = {key: np.where(few, np.nan, values) for key, values in numbers.items()}
    counts = [None if hidden else int(c) for c, hidden in zip(count, partly, strict=True)]
    return Description(
        **released,
        columns=names,
        rows=rows,
        count=tuple(counts),
        missing=tuple(None if c is None else rows - c for c in counts),
        **numbers,
    )


def tells(columns: Columns, name: str, count: float, mean: float, k: int) -> bool:
    """Whether the mean of a column with two numbers for levels tells how many have one of them, which is too few."""
    levels = [level for level in columns.levels.get(name, ()) if isinstance(level, int | float)]
    if len(levels) != 2 or len(columns.levels[name]) != 2 or not count:
        return False
    low, high = sorted(levels)
    ones = round(count * (mean - low) / (high - low))
    return small(ones, k) or small(count - ones, k)
