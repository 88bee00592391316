"""Columns described for each group of rows, and what each site alone has.

`described_by` counts the groups first, with the minimum cell count; a group whose count is withheld is not described, so that the
sums of small groups are not opened.  Each other group is one secure sum more, over as many sites.

What it does not protect: the description of all rows less those of the groups that are shown is that of the groups that are not;
they hold the minimum together (`securefl.statistics.cells.withheld`).  Within a column nothing is completed: where one group's mean
or count of values is left out as it is of few, those of all rows less the other groups' are the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from securefl.statistics.cells import small
from securefl.statistics.columns import named
from securefl.statistics.description import tells
from securefl.statistics.results import Cells, Description, Released, plain

if TYPE_CHECKING:
    from securefl.statistics.secure import SecureStatistics


@dataclass(frozen=True, eq=False, kw_only=True)
class Grouped(Released):
    """Descriptions by group.

    Attributes:
        counts: rows of each group.
        groups: description of each that is shown.
    """

    counts: Cells
    groups: Mapping[Hashable, Description]

    def as_json(self) -> dict[str, Any]:
        """As `Released.as_json`, with ``counts`` and a list ``groups``."""
        groups = [{"group": plain(level), **found.as_json()} for level, found in self.groups.items()]
        return {**super().as_json(), "counts": self.counts.as_json(), "groups": groups}


def described_by(
    statistics: SecureStatistics, by: str, columns: Sequence[str] | None = None, *, counts: Cells | None = None
) -> Grouped:
    """Rows, counts, missing values, means and variances for each level of a column: a secure sum each beside those of the counts.

    Args:
        statistics: the sites.
        by: column with levels.  Rows without one are in no group.
        columns: as for `SecureStatistics.describe`.  One without any value in a group has no figures there.
        counts: of the same statistics and column, where they have been opened already.

    Raises:
        UserError: bad input, before anything leaves.
        Abort: as for every sum; ``statistics-cohort`` for a group that is described over another number of sites than it was
            counted over.
    """
    axis = statistics.axis(by)
    names = named(statistics.columns.ranges if columns is None else columns, "a description")
    for name in names:
        statistics.columns.range(name)
    again, groups = counts is not None, dict[Hashable, Description]()
    counts = statistics.class_counts(by) if counts is None else counts
    for place, (level, count) in enumerate(zip(axis.labels[:-1], counts.counts.tolist(), strict=False)):
        if count is not None and count >= statistics.min_cell:
            part = statistics.part([own == place for own in axis.places])
            groups[level] = part.describe(names, empty=True, with_sites=counts.sites)
    events = (*(() if again else counts.opened), *(event for found in groups.values() for event in found.opened))
    return Grouped(**statistics.released(counts.sites, events), counts=counts, groups=groups)


@dataclass(frozen=True)
class Own:
    """What one site has: its own rows, exact; it leaves no site.

    Attributes:
        site: its name.
        rows: how many; None below the minimum.
        columns: for each column count, mean and standard deviation (divisor n − 1); None where fewer than the minimum.
    """

    site: str
    rows: int | None
    columns: Mapping[str, tuple[int | None, float | None, float | None]]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        keys = ("count", "mean", "std")
        return {**asdict(self), "columns": {name: dict(zip(keys, found, strict=True)) for name, found in self.columns.items()}}


def own_descriptions(statistics: SecureStatistics, columns: Sequence[str] | None = None) -> list[Own]:
    """Each site's own figures, with the minimum cell count: a simulation shows them, a federation never has them in one place."""
    names, k = named(statistics.columns.ranges if columns is None else columns, "a description"), statistics.min_cell
    out = list[Own]()
    for site, table in zip(statistics.sites, statistics.numbers(names), strict=True):
        found = dict[str, tuple[int | None, float | None, float | None]]()
        for name, values in zip(names, table.T, strict=True):
            there = values[~np.isnan(values)]
            mean, std = _moments(there) if len(there) >= k else (None, None)
            if mean is not None and tells(statistics.columns, name, len(there), mean, k):
                mean, std = None, None
            partly = small(len(there), k) or small(site.rows - len(there), k)
            found[name] = (None if partly else len(there), mean, std)
        out.append(Own(site.name, site.rows if site.rows >= k else None, found))
    return out


def _moments(values: Any) -> tuple[float | None, float | None]:
    return plain(np.mean(values)), plain(np.std(values, ddof=1)) if len(values) > 1 else None
