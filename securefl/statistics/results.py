"""What came out: frozen, with a pandas table and plain values for JSON, and the list of what was opened for it.

None and NaN stand for what is not released, or what there is not.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from securefl.results import Opened

if TYPE_CHECKING:
    import pandas as pd

MISSING = "missing"
"""Name of the cell of missing values."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Released:
    """What every result has.

    Attributes:
        sites: how many sites are in the sums.
        min_cell: the minimum cell count.
        opened: the events of the ledger, all exact.
    """

    sites: int
    min_cell: int
    opened: tuple[Opened, ...] = field(repr=False)

    def as_json(self) -> dict[str, Any]:
        """Plain values; None for what is not released."""
        return {"sites": self.sites, "min_cell": self.min_cell, "opened": [asdict(event) for event in self.opened]}


@dataclass(frozen=True, eq=False, kw_only=True)
class Description(Released):
    """Columns of numbers over all sites.

    Attributes:
        columns: names.
        rows: rows of all sites.
        count: values that are not missing, for each column; None where their number or that of the missing ones is below the
            minimum.
        missing: missing values, None in the same places.
        mean: shape (columns,), in the column's units; NaN where there are fewer values than the minimum.
        variance: divisor n − 1, as in pandas; NaN in the same places, and for a single value.
        mean_error, variance_error: bounds of what rounding did to them; float64's last bits included.
    """

    columns: tuple[str, ...]
    rows: int
    count: tuple[int | None, ...]
    missing: tuple[int | None, ...]
    mean: Array
    variance: Array
    mean_error: Array
    variance_error: Array

    @property
    def std(self) -> Array:
        """Standard deviation, the root of `variance`."""
        return np.sqrt(np.maximum(self.variance, 0))

    @property
    def std_error(self) -> Array:
        """Bound of the error of `std`."""
        low, high = (np.sqrt(np.maximum(self.variance + sign * self.variance_error, 0)) for sign in (-1, 1))
        return np.maximum(high - self.std, self.std - low)

    @property
    def missing_rate(self) -> tuple[float | None, ...]:
        """Share of missing values, None where their number is not released."""
        return tuple(None if number is None else number / self.rows for number in self.missing)

    def frame(self) -> pd.DataFrame:
        """One row a column."""
        import pandas as pd  # noqa: PLC0415 - slow to import

        whole = {key: pd.array(getattr(self, key), dtype="Int64") for key in ("count", "missing")}
        rate = {"missing_rate": np.array([math.nan if rate is None else rate for rate in self.missing_rate])}
        keys = ("mean", "mean_error", "variance", "variance_error", "std", "std_error")
        return pd.DataFrame({**whole, **rate, **{key: getattr(self, key) for key in keys}}, index=list(self.columns))

    def as_json(self) -> dict[str, Any]:
        """As `Released.as_json`, with ``rows`` and one object a column in ``columns``."""
        keys = ("count", "missing", "missing_rate", "mean", "mean_error", "variance", "variance_error", "std", "std_error")
        values = {key: list(getattr(self, key)) for key in keys}
        columns = {name: {key: plain(values[key][at]) for key in keys} for at, name in enumerate(self.columns)}
        return {**super().as_json(), "rows": self.rows, "columns": columns}


@dataclass(frozen=True, eq=False, kw_only=True)
class Cells(Released):
    """Counts by class, by bin, or by two of these.

    Attributes:
        columns: one name, or two.
        labels: for each column the names of its cells, the last of which is `MISSING`.
        counts: shape of the table, object: numbers, None where withheld.
        edges: for a histogram its edges, shape (bins + 1,): a bin has its lower edge, and the last one both.
    """

    columns: tuple[str, ...]
    labels: tuple[tuple[Hashable, ...], ...]
    counts: NDArray[np.object_]
    edges: Array | None = None

    @property
    def withheld(self) -> int:
        """Number of cells that are not released."""
        return sum(count is None for count in self.counts.ravel().tolist())

    def frame(self) -> pd.DataFrame:
        """Counts as nullable integers: a column ``count``, or the table of two columns."""
        import pandas as pd  # noqa: PLC0415 - slow to import

        index = pd.Index(list(self.labels[0]), name=self.columns[0], dtype=object)
        if len(self.columns) == 1:
            return pd.DataFrame({"count": pd.array(self.counts.tolist(), dtype="Int64")}, index=index)
        across = pd.Index(list(self.labels[1]), name=self.columns[1], dtype=object)
        return pd.DataFrame(self.counts, index=index, columns=across).astype("Int64")

    def as_json(self) -> dict[str, Any]:
        """As `Released.as_json`, with names, labels and counts; a histogram with its edges."""
        edges = {} if self.edges is None else {"edges": self.edges.tolist()}
        labels = [[plain(label) for label in axis] for axis in self.labels]
        return {**super().as_json(), "columns": list(self.columns), "labels": labels, **edges, "counts": self.counts.tolist()}


@dataclass(frozen=True, eq=False, kw_only=True)
class Quantiles(Released):
    """Intervals that hold the quantiles of columns, each with at least the minimum of values.

    Attributes:
        columns: names.
        probabilities: which quantiles.
        low, high: shape (columns, probabilities), in the column's units: the quantile is above ``low`` and at most ``high``, or is
            the lower end of the range.  NaN for a column with fewer values than the minimum.
        rounds: how many secure sums the search took.
    """

    columns: tuple[str, ...]
    probabilities: tuple[float, ...]
    low: Array
    high: Array
    rounds: int

    @property
    def value(self) -> Array:
        """The middles of the intervals."""
        return self.low / 2 + self.high / 2

    @property
    def error(self) -> Array:
        """Half their widths, the bound of the error of `value`."""
        return self.high / 2 - self.low / 2

    def frame(self) -> pd.DataFrame:
        """The middles: one row a column, one column a probability."""
        import pandas as pd  # noqa: PLC0415 - slow to import

        return pd.DataFrame(self.value, index=list(self.columns), columns=list(self.probabilities))

    def as_json(self) -> dict[str, Any]:
        """As `Released.as_json`, with ``rounds`` and for each column a list of intervals in ``columns``."""
        columns = {
            name: [
                {"p": p, "low": plain(low), "high": plain(high)}
                for p, low, high in zip(self.probabilities, self.low[at], self.high[at], strict=True)
            ]
            for at, name in enumerate(self.columns)
        }
        return {**super().as_json(), "rounds": self.rounds, "columns": columns}


@dataclass(frozen=True, eq=False, kw_only=True)
class Correlation(Released):
    """Pearson's correlation of each pair of columns, over the rows that have both, as in pandas.

    Attributes:
        columns: names.
        matrix: shape (columns, columns); NaN for a pair with fewer rows than the minimum, or a column that does not vary among them
            beyond rounding.  The diagonal is 1.
        error: bounds of what rounding did to it, same shape.
    """

    columns: tuple[str, ...]
    matrix: Array
    error: Array

    def frame(self) -> pd.DataFrame:
        """The matrix with its names."""
        import pandas as pd  # noqa: PLC0415 - slow to import

        return pd.DataFrame(self.matrix, index=list(self.columns), columns=list(self.columns))

    def as_json(self) -> dict[str, Any]:
        """As `Released.as_json`, with names, matrix and errors as lists of rows."""
        matrix, error = ([[plain(value) for value in row] for row in table] for table in (self.matrix, self.error))
        return {**super().as_json(), "columns": list(self.columns), "matrix": matrix, "error": error}


def events(*parts: Iterable[Opened]) -> tuple[Opened, ...]:
    """Several lists of events as one."""
    return tuple(event for part in parts for event in part)


def by_name(results: Mapping[str, Released]) -> dict[str, Any]:
    """Several results as plain values, by name."""
    return {name: result.as_json() for name, result in results.items()}


def plain(value: Any) -> Any:
    """A value for JSON: Python's own number, None for NaN and infinity."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
