"""Counts, means, variances and correlations of columns as sums that add up over sites.

With u = (x − middle) / half width of the public range, in [−1, 1], a site adds for each column its count, Σ u and Σ u², and for
each pair of columns those over the rows that have both, and Σ u·v; divided by ``rows_max``, rounded to a multiple of `Fixed.unit`.
The shift to the middle keeps variances from cancelling: errors are relative to the half width, never to the values.

Source: the textbook two moments about a fixed point; the bound of the error is `rounding`.

What it does not protect: every one of these sums is opened exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from securefl.encoding import SumSpec
from securefl.errors import UserError
from securefl.fixed import Fixed

MOST_ROWS = 2**30
BITS = 45
"""Least bits of a moment; at a plan's 48 bits of precision it has 47."""
FLOAT = 2.0**-41
"""Bound of what float64 loses in a mean of values up to 1, blocks of `_BLOCK` rows summed one by one included."""
_BLOCK = 1024

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Means:
    """What the sums say of u; all of shape (columns,), float64, NaN where the count is 0.

    Attributes:
        count: values that are not missing, whole numbers.
        first: mean of u.
        second: mean of u².
        off: bound of the error of either mean.
    """

    count: Array
    first: Array
    second: Array
    off: Array

    @property
    def variance(self) -> Array:
        """Mean of (u − mean)², divisor n; below 0 by rounding alone."""
        return self.second - self.first**2

    @property
    def variance_off(self) -> Array:
        """Bound of the error of `variance`: |m₂ − m₁²| moves by off + 2·|m₁|·off + off²."""
        return self.off * (1 + 2 * np.abs(self.first) + self.off)


class Moments:
    """Count, Σ u and Σ u² of every column, missing values left out.

    Args:
        ranges: lower and upper bounds, shape (columns, 2), ascending; values outside are clipped.
        limit: ``Plan.limit`` of the plan.
        rows_max: public bound of a party's rows, 1 to 2^30.

    Raises:
        UserError: ``rows_max`` outside its range.
    """

    def __init__(self, ranges: Array, *, limit: int, rows_max: int) -> None:
        if not 1 <= rows_max <= MOST_ROWS:
            raise UserError(f"rows_max must be 1 to {MOST_ROWS}, not {rows_max}")
        self.low, self.high = np.asarray(ranges, dtype=np.float64).T
        self.rows_max, size = rows_max, len(self.low)
        self.middle = self.low / 2 + self.high / 2
        self.half = np.where(self.high > self.low, self.high / 2 - self.low / 2, 1.0)
        self._parts = (
            Fixed("moments.count", size, rows_max, limit, BITS),
            Fixed("moments.first", size, 1.0, limit, BITS),
            Fixed("moments.second", size, 1.0, limit, BITS),
        )

    def specs(self) -> tuple[SumSpec, ...]:
        """The coordinates for a plan."""
        return tuple(spec for part in self._parts for spec in part.specs())

    def shifted(self, x: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
        """u, 0 where missing, and which values are there; both of shape (rows, columns).

        Raises:
            UserError: more than ``rows_max`` rows.
        """
        rows = np.asarray(x, dtype=np.float64)
        if len(rows) > self.rows_max:
            raise UserError(f"a table of {len(rows)} rows is larger than rows_max = {self.rows_max}")
        # Clipped again, as the middle of a range is rounded; then no sum of n values is above n.
        u = np.clip((np.clip(rows, self.low, self.high) - self.middle) / self.half, -1, 1)
        present = ~np.isnan(u)
        return np.where(present, u, 0.0), present

    def sums(self, x: ArrayLike) -> dict[str, NDArray[np.int64]]:
        """What one party adds; ``x`` has shape (rows, columns), NaN where missing.

        Raises:
            UserError: more than ``rows_max`` rows.
        """
        u, present = self.shifted(x)
        columns = np.ascontiguousarray(u.T)  # summed pairwise: a constant column must not seem to vary
        first, second = (np.sum(v, axis=1) / self.rows_max for v in (columns, columns * columns))
        count, one, two = self._parts
        return {**count.split(present.sum(axis=0)), **one.split(first), **two.split(second)}

    def read(self, sums: Mapping[str, NDArray[Any]], contributors: int) -> Means:
        """Means out of the opened sums of so many contributors."""
        count, one, two = self._parts
        counts = np.rint(count.join(sums))
        first, second = (_mean(part, sums, counts, self.rows_max) for part in (one, two))
        return Means(counts, first, second, rounding(one, counts, contributors, self.rows_max) + self._range_off())

    def _range_off(self) -> Array:
        """What float64 loses of u where a narrow range lies far from 0."""
        far: Array = np.maximum(np.abs(self.low), np.abs(self.high)) / self.half
        return far * 2.0**-51


class Products(Moments):
    """For each pair of columns count, Σ u, Σ v, Σ u², Σ v² and Σ u·v over the rows that have both.

    Arguments and errors as for `Moments`; there are d·(d − 1)/2 pairs of d columns, in the order of `numpy.triu_indices`.
    """

    def __init__(self, ranges: Array, *, limit: int, rows_max: int) -> None:
        super().__init__(ranges, limit=limit, rows_max=rows_max)
        self.pairs = np.triu_indices(len(self.low), 1)
        size = len(self.pairs[0])
        names = ("first.u", "first.v", "second.u", "second.v", "product")
        self._count = Fixed("pairs.count", size, rows_max, limit, BITS)
        self._of_pairs = tuple(Fixed(f"pairs.{name}", size, 1.0, limit, BITS) for name in names)

    def specs(self) -> tuple[SumSpec, ...]:
        """The coordinates for a plan."""
        return tuple(spec for part in (self._count, *self._of_pairs) for spec in part.specs())

    def sums(self, x: ArrayLike) -> dict[str, NDArray[np.int64]]:
        """What one party adds; ``x`` has shape (rows, columns), NaN where missing.

        Raises:
            UserError: more than ``rows_max`` rows.
        """
        u, present = self.shifted(x)
        there, (i, j) = present.astype(np.float64), self.pairs
        first, second, product = (_gram(a, b) for a, b in ((u, there), (u * u, there), (u, u)))
        values = (first[i, j], first[j, i], second[i, j], second[j, i], product[i, j])
        digits = self._count.split(_gram(there, there)[i, j])
        for part, value in zip(self._of_pairs, values, strict=True):
            # No |sum| is above the rows, but float64 may round it there.
            digits |= part.split(np.clip(value / self.rows_max, -1, 1))
        return digits

    def correlation(self, sums: Mapping[str, NDArray[Any]], contributors: int) -> tuple[Array, Array, Array]:
        """For each pair the count, Pearson's r and a bound of its error, shape (pairs,), float64.

        r is NaN where a variance cannot be told from 0.
        """
        counts = np.rint(self._count.join(sums))
        u1, v1, u2, v2, uv = (_mean(part, sums, counts, self.rows_max) for part in self._of_pairs)
        off, far = rounding(self._of_pairs[0], counts, contributors, self.rows_max), self._range_off()
        u, v = (
            Means(counts, first, second, off + far[index])
            for first, second, index in zip((u1, v1), (u2, v2), self.pairs, strict=True)
        )
        most = np.maximum(u.off, v.off)
        covariance = uv - u1 * v1
        covariance_off = most * (1 + np.abs(u1) + np.abs(v1) + most)
        return counts, *_ratio(covariance, covariance_off, u, v)


def rounding(part: Fixed, counts: Array, contributors: int, rows_max: int) -> Array:
    """Bound of the error of a mean of values up to 1: half a unit a contributor, and what float64 loses."""
    with np.errstate(divide="ignore"):
        return np.where(counts > 0, contributors * part.unit / 2 * rows_max / counts, np.nan) + FLOAT


def _mean(part: Fixed, sums: Mapping[str, NDArray[Any]], counts: Array, rows_max: int) -> Array:
    return part.join(sums) * rows_max / np.where(counts > 0, counts, np.nan)


def _gram(a: Array, b: Array) -> Array:
    """aᵀb in blocks of rows, so that float64 loses no more than `FLOAT` of a mean."""
    out = np.zeros((a.shape[1], b.shape[1]))
    for start in range(0, len(a), _BLOCK):
        out += a[start : start + _BLOCK].T @ b[start : start + _BLOCK]
    return out


def _ratio(covariance: Array, off: Array, u: Means, v: Means) -> tuple[Array, Array]:
    """r = covariance / √(variances), and how far the ends of its interval lie from it."""
    known = (u.variance > 2 * u.variance_off) & (v.variance > 2 * v.variance_off)
    products = [(u.variance + s * u.variance_off) * (v.variance + s * v.variance_off) for s in (-1, 0, 1)]
    scale = [np.sqrt(np.where(known, product, 1.0)) for product in products]
    r = np.clip(covariance / scale[1], -1, 1)
    ends = [(covariance + sign * off) / at for sign in (-1, 1) for at in scale]
    bound = np.max([np.abs(end - r) for end in ends], axis=0) + 2.0**-50
    return np.where(known, r, np.nan), np.where(known, np.minimum(bound, 2.0), np.nan)
