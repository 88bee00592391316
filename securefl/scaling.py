"""Scaling of features without seeing anybody's numbers: by public ranges, or by means and deviations out of secure sums.

With public ranges nothing is opened: `from_ranges`.  Without, two secure sums before training: `Exponents` gives every feature a
bound that is a power of two, `Moments` its mean and standard deviation over all rows of all parties.

Source: pooled moments Σx and Σx², about the centre of the range against cancellation; deviations have divisor n, as in
scikit-learn's StandardScaler.

What it does not protect: exponents and moments are opened exactly and lie outside differential privacy; with privacy use public
ranges.  `Exponents` tells how many parties have their largest value below which power of two.  See `securefl.fixed` for digits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.errors import Abort
from securefl.data.types import Coding, Site, Split
from securefl.encoding import SumSpec
from securefl.errors import UserError, quoted
from securefl.statistics.moments import Moments as ColumnMoments

RANGE_DIVISOR = 4.0
"""Parts of a public range that make one unit of a scaled feature: the range becomes [−2, 2].

Roughly the spread of a feature whose range is two standard deviations to each side.
"""

EXPONENTS = range(-30, 41)
"""Powers of two that may bound a feature.  Smaller values get the first; greater ones are refused."""

ROWS_MAX = 2**20
"""Public bound of a site's rows in the feature statistics."""
PRECISION = 48
"""Bits of one coordinate in the feature statistics: each value travels whole."""


@dataclass(frozen=True, eq=False)
class Scaler:
    """z = (x − shift) / scale, after x was clamped to [low, high] where these are given.

    Attributes:
        shift, scale: shape (features,), float64, finite; scale > 0.
        low, high: shape (features,), float64, or None.
    """

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None

    def apply(self, x: ArrayLike) -> NDArray[np.float32]:
        """Scaled rows, shape (rows, features), float32.

        Raises:
            UserError: another number of features; NaN or inf, before or after.
        """
        rows = _rows(x, len(self.shift))
        if self.low is not None or self.high is not None:
            rows = np.clip(rows, self.low, self.high)
        with np.errstate(over="ignore"):
            z = ((rows - self.shift) / self.scale).astype(np.float32)
        if not np.isfinite(z).all():
            raise UserError(f"feature {np.argwhere(~np.isfinite(z))[0, 1]} has values that are too far out to be scaled")
        return z


def from_ranges(ranges: ArrayLike) -> Scaler:
    """A scaler from public ranges: the middle becomes 0, a `RANGE_DIVISOR`-th of the width 1, values outside are clamped.

    Args:
        ranges: lower and upper bounds, shape (features, 2).  A width of 0 scales by 1.

    Raises:
        UserError: another shape, a bound that is not finite, a lower above an upper bound.
    """
    low, high = _ranges(ranges).T
    width = high - low
    return Scaler((low + high) / 2, np.where(width > 0, width / RANGE_DIVISOR, 1.0), low.copy(), high.copy())


def scaling_rows(site: Site, parts: Sequence[Split], *, known: bool) -> NDArray[np.float64]:
    """The rows that feature statistics are over: those of training, in cross-validation all.

    Args:
        site: the site.
        parts: its splits.
        known: whether missing numbers are left out (NaN), and not what publicly stands in for them.
    """
    x = site.known if known else site.x
    return x[parts[0].train] if len(parts) == 1 else x


def filled_codings(features: Sequence[str], codings: Sequence[Coding], fills: NDArray[np.float64]) -> tuple[Coding, ...]:
    """How columns are coded where ``fills``, shape (features,), stand in for missing numbers."""
    place = {name: at for at, name in enumerate(features)}
    return tuple(c if c.fill is None else replace(c, fill=float(fills[place[c.column]])) for c in codings)


@dataclass(frozen=True)
class Exponents:
    """First secure sum: how many parties have their largest absolute value of a feature below which power of two.

    Attributes:
        features: number of features, ≥ 1.
        names: theirs, for errors.
    """

    features: int
    names: tuple[str, ...] = ()

    def specs(self) -> tuple[SumSpec, ...]:
        """The coordinates for a plan: one a feature and exponent, features first."""
        return (SumSpec("exponents", self.features * len(EXPONENTS), 1, integer=True),)

    def sums(self, x: ArrayLike) -> dict[str, NDArray[np.int64]]:
        """What one party adds: for each feature a 1 at the exponent of its bound; nothing without rows.

        Args:
            x: shape (rows, features).

        Raises:
            UserError: wrong shape, NaN or inf, a value of 2^40 or more.
        """
        rows = _rows(x, self.features)
        out = np.zeros((self.features, len(EXPONENTS)), dtype=np.int64)
        if len(rows):
            largest = np.max(np.abs(rows), axis=0)
            _, exponent = np.frexp(largest)
            too_large = np.flatnonzero((exponent > EXPONENTS[-1]) & (largest > 0))
            if too_large.size:
                at = int(too_large[0])
                name = f"the column {quoted(self.names[at])}" if self.names else f"feature {at}"
                raise UserError(f"{name} reaches {largest[at]:g}: values must be below 2^{EXPONENTS[-1]} (about 1e12)")
            place = np.where(largest > 0, np.maximum(exponent - EXPONENTS[0], 0), 0)
            out[np.arange(self.features), place] = 1
        return {"exponents": out.ravel()}

    def read(self, sums: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Ranges (−2^e, 2^e) that hold all values of all contributors, shape (features, 2)."""
        counts = np.asarray(sums["exponents"]).reshape(self.features, len(EXPONENTS))
        highest = len(EXPONENTS) - 1 - np.argmax(counts[:, ::-1] > 0, axis=1)
        bound = np.ldexp(1.0, np.where(counts.any(axis=1), highest, 0) + EXPONENTS[0])
        return np.stack([-bound, bound], axis=1)


class Moments(ColumnMoments):
    """Second secure sum: rows, Σ u and Σ u² of every feature, as `securefl.statistics.moments`, without missing values.

    Fixed point of 45 bits or more, so that mean and deviation are exact to far below 10^-6 of the range.

    Args:
        ranges: bounds of every feature, shape (features, 2): public ones or those of `Exponents`.  Values outside are clamped.
        limit: ``Plan.limit`` of the plan.
        rows_max: public bound of a party's rows, 1 to 2^30.

    Raises:
        UserError: as for `from_ranges`; ``rows_max`` outside its range.
    """

    def __init__(self, ranges: ArrayLike, *, limit: int = 2**15 - 1, rows_max: int = 2**16) -> None:
        super().__init__(_ranges(ranges), limit=limit, rows_max=rows_max)

    def sums(self, x: ArrayLike) -> dict[str, NDArray[np.int64]]:
        """What one party adds.

        Args:
            x: shape (rows, features); rows may be 0.

        Raises:
            UserError: wrong shape, NaN or inf, more than ``rows_max`` rows.
        """
        return super().sums(_rows(x, len(self.middle)))

    def scaler(self, sums: Mapping[str, NDArray[Any]], contributors: int) -> Scaler:
        """Mean and standard deviation over all contributors' rows; the deviation of a constant feature counts as 1.

        A feature is constant where its variance is below what the fixed point can tell from 0.

        Args:
            sums: the opened sums.
            contributors: how many parties are in them.

        Raises:
            Abort: ``weight-total`` where no contributor has rows.
        """
        means = self.read(sums, contributors)
        if not means.count.all():
            raise Abort("weight-total", "no rows in the feature statistics")
        known = means.variance > 4 * means.off
        deviation = np.sqrt(np.where(known, means.variance, 1.0)) * self.half
        return Scaler(self.middle + means.first * self.half, np.where(known, deviation, 1.0))

    def sums_known(self, x: ArrayLike) -> dict[str, NDArray[np.int64]]:
        """What one party adds where NaN stands for a missing value; arguments and errors as for `sums` but for that."""
        rows = np.asarray(x, dtype=np.float64)
        _rows(np.where(np.isnan(rows), self.middle, rows), len(self.middle))
        return super().sums(rows)

    def filling(self, sums: Mapping[str, NDArray[Any]], contributors: int, fills: ArrayLike) -> tuple[Scaler, NDArray[np.float64]]:
        """What stands in for missing values, and the scaler of the rows with that in them, out of the sums of `sums_known`.

        A missing value becomes the mean of those that are there, so the mean stays, and the variance falls by their share of the
        rows: as many as the column with the fewest gaps has values.

        Args:
            sums: the opened sums.
            contributors: how many parties are in them.
            fills: stands in where no party has a value, shape (features,).

        Raises:
            Abort: ``weight-total`` where no contributor has rows.
        """
        means = self.read(sums, contributors)
        if not means.count.any():
            raise Abort("weight-total", "no rows in the feature statistics")
        there = means.count > 0
        varies = there & (means.variance > 4 * means.off)
        variance = means.variance * means.count / np.max(means.count)
        deviation = np.sqrt(np.where(varies, variance, 1.0)) * self.half
        mean = np.where(there, self.middle + means.first * self.half, fills)
        return Scaler(mean, np.where(varies, deviation, 1.0)), mean


def _rows(x: ArrayLike, features: int) -> NDArray[np.float64]:
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != features:
        raise UserError(f"a table must have {features} features, not shape {rows.shape}")
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        raise UserError(f"feature {bad[0, 1]} is {rows[tuple(bad[0])]} in row {bad[0, 0]}: every value must be finite")
    return rows


def _ranges(ranges: ArrayLike) -> NDArray[np.float64]:
    array = np.array(ranges, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise UserError(f"ranges must have shape (features, 2), not {array.shape}")
    bad = np.flatnonzero(~(np.isfinite(array).all(axis=1) & (array[:, 0] <= array[:, 1])))
    if bad.size:
        low, high = array[bad[0]]
        raise UserError(f"the range of feature {bad[0]} must be finite and ascending, not {low} to {high}")
    return array
