"""What came out with noise: the results of `securefl.statistics.results`, with the standard deviation of the noise in each number.

Counts are rounded to whole numbers and not below 0.  Deviations of what is computed from several sums (means, variances,
correlations) are to first order in the noise, with the noised values for the true ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from securefl.privacy.divergence import SkellamEvent
from securefl.results import Opened
from securefl.statistics.results import Array, Cells, Correlation, Description, Quantiles, Released


@dataclass(frozen=True, eq=False, kw_only=True)
class NoisedDescription(Description):
    """Columns of numbers; NaN and None where the noised count is below the minimum.

    Attributes:
        rows_noise: standard deviation of the noise in ``rows``.
        count_noise, mean_noise, variance_noise: of these, shape (columns,).
    """

    rows_noise: float
    count_noise: Array
    mean_noise: Array
    variance_noise: Array

    @property
    def missing_noise(self) -> Array:
        """Of the missing values, which are rows less count."""
        return np.hypot(self.rows_noise, self.count_noise)

    @property
    def missing_rate_noise(self) -> Array:
        """Of the missing rate, 1 − count/rows."""
        rows = float(self.rows) if self.rows else np.nan
        part = np.array([np.nan if count is None else count / rows for count in self.count], dtype=np.float64)
        return np.hypot(self.count_noise, part * self.rows_noise) / rows

    @property
    def std_noise(self) -> Array:
        """Of the standard deviation."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.std > 0, self.variance_noise / (2 * self.std), np.nan)

    def as_json(self) -> dict[str, Any]:
        """As `Description.as_json`, with ``…_noise`` beside each number."""
        tree = super().as_json()
        keys = ("count_noise", "missing_noise", "missing_rate_noise", "mean_noise", "variance_noise", "std_noise")
        values = {key: getattr(self, key) for key in keys}
        for at, name in enumerate(self.columns):
            tree["columns"][name] |= {key: _finite(values[key][at]) for key in keys}
        return {**tree, "rows_noise": self.rows_noise}


@dataclass(frozen=True, eq=False, kw_only=True)
class NoisedCells(Cells):
    """Counts by class, by bin, or by two of these; None where the noised count is at least 1 and below the minimum.

    Attributes:
        noise: standard deviation of the noise in each count.
    """

    noise: float

    def as_json(self) -> dict[str, Any]:
        """As `Cells.as_json`, with ``noise``."""
        return {**super().as_json(), "noise": self.noise}


@dataclass(frozen=True, eq=False, kw_only=True)
class NoisedQuantiles(Quantiles):
    """Quantiles, each between ``low`` and ``high`` unless the noise in its rank is above two standard deviations.

    Attributes:
        middle: shape (columns, probabilities), the middle of the cell of the grid at the noised rank.
        rank_noise: standard deviation of the noise in a rank, in values.
    """

    middle: Array
    rank_noise: float

    @property
    def value(self) -> Array:
        """`middle`."""
        return self.middle

    def as_json(self) -> dict[str, Any]:
        """As `Quantiles.as_json`, with ``value`` and ``rank_noise``."""
        tree = super().as_json()
        for at, name in enumerate(self.columns):
            for entry, value in zip(tree["columns"][name], self.middle[at], strict=True):
                entry["value"] = _finite(value)
        return {**tree, "rank_noise": self.rank_noise}


@dataclass(frozen=True, eq=False, kw_only=True)
class NoisedCorrelation(Correlation):
    """Pearson's correlation of each pair; NaN also where the noise hides whether a column varies.

    Attributes:
        noise: standard deviation of the noise, shape of ``matrix``.
    """

    noise: Array

    def as_json(self) -> dict[str, Any]:
        """As `Correlation.as_json`, with ``noise``."""
        return {**super().as_json(), "noise": [[_finite(value) for value in row] for row in self.noise]}


@dataclass(frozen=True, eq=False, kw_only=True)
class Release:
    """Everything that was asked at once.

    Attributes:
        epsilon: ε that it cost a record, by the sites that were in the sum.
        planned: ε that was allowed for it.
        delta: δ.
        split: each question's share of the squared sensitivity; they add up to 1.
        parts: results by the name of their kind: ``description``, ``quantiles``, ``correlation``, and by column in ``classes``,
            ``histograms`` and ``crosstabs``.
        opened: the one sum, as the ledger has it.
        event: what it cost, by the sites that were in it.
    """

    epsilon: float
    planned: float
    delta: float
    split: Mapping[str, float]
    parts: Mapping[str, Released | Mapping[str, Released]]
    opened: tuple[Opened, ...] = field(repr=False)
    event: SkellamEvent = field(repr=False)
    unit: str = "record"

    def __getitem__(self, kind: str) -> Any:
        """The results of a kind."""
        return self.parts[kind]

    def as_json(self) -> dict[str, Any]:
        """ε, δ, unit, split and what was opened; the parts stand for themselves."""
        return {
            "unit": self.unit,
            "epsilon": self.epsilon,
            "planned": self.planned,
            "delta": self.delta,
            "accountant": "rdp",
            "split": dict(self.split),
            "opened": [asdict(event) for event in self.opened],
        }


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
