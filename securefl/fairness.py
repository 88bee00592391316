"""How the final model does for whom: its figures by sex and by age group, out of secure sums.

Two sums after the training.  The first screens (`securefl.statistics.cells`): each site says for every group and class whether it
holds any held-out row of it, and whether it holds the minimum cell.  An attribute is opened whole or not at all: if in any of its
groups a class surely holds rows and does not surely hold the minimum cell, its histograms are left out by every site, as they could
else be computed from those of all rows.  The second adds up histograms of scores by group, class and fold; AUROC, average
precision, Brier score and calibration follow as in `securefl.assessment`.

What it does not protect: the summed counts are exact and outside differential privacy; screening opens how many sites have rows of
a group and class, and how many have the minimum cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Abort
from securefl.assessment import LIMIT, MIN_CELL, PRECISION, Scored, hindrance
from securefl.binned import Figures, figures, histogram
from securefl.encoding import SumSpec
from securefl.results import Opened
from securefl.statistics.cells import Screen

if TYPE_CHECKING:
    from securefl.data.types import Dataset, Split
    from securefl.exact_sums import ExactSums

BINS = 128
"""Of one histogram of one group."""


@dataclass(frozen=True)
class Attribute:
    """A public way to part rows into groups.

    Attributes:
        name: of the attribute.
        features: names that a data set may give the column.
        edges: a value at an edge is in the upper group.
        groups: names, one more than edges.
    """

    name: str
    features: tuple[str, ...]
    edges: tuple[float, ...]
    groups: tuple[str, ...]

    def place(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Group of each value, shape (rows,); a missing one counts as the first."""
        return np.searchsorted(np.array(self.edges), np.nan_to_num(values, nan=-np.inf), side="right").astype(np.int64)


ATTRIBUTES = (
    Attribute("sex", ("male", "sex"), (0.5,), ("not male", "male")),
    Attribute("age", ("age",), (50.0, 65.0, 80.0), ("below 50", "50 to 64", "65 to 79", "80 or more")),
)


@dataclass(frozen=True)
class ByGroup:
    """The final model by group.

    Attributes:
        figures: attribute → group → figures.
        withheld: attribute → why it was not opened.
    """

    figures: Mapping[str, Mapping[str, Figures]]
    withheld: Mapping[str, str]


@dataclass(frozen=True)
class _Held:
    """One site's held-out rows of an attribute: for each fold group, class and score."""

    attribute: Attribute
    folds: tuple[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]], ...]

    def cells(self) -> NDArray[np.int64]:
        """Rows by group and class, shape (groups, 2)."""
        out = np.zeros((len(self.attribute.groups), 2), dtype=np.int64)
        for group, label, _score in self.folds:
            np.add.at(out, (group, label), 1)
        return out

    def counts(self) -> NDArray[np.int64]:
        """Rows by group, class (1, then 0), fold and bin, flat."""
        shape = (len(self.attribute.groups), 2, len(self.folds), BINS)
        out = np.zeros(shape, dtype=np.int64)
        for fold, (group, label, score) in enumerate(self.folds):
            for number in range(shape[0]):
                inside = group == number
                out[number, 0, fold], out[number, 1, fold] = histogram(score[inside], label[inside], BINS)
        return out.reshape(-1)


def by_group(
    loaded: Dataset,
    splits: Mapping[str, Sequence[Split]],
    scores: Mapping[str, Scored],
    exact: ExactSums,
    *,
    attributes: Sequence[Attribute] = ATTRIBUTES,
    min_cell: int = MIN_CELL,
) -> ByGroup | None:
    """The final model's figures by group; None where no attribute is among the features.

    Args:
        loaded: the data, whose features hold the attributes in their own units.
        splits: by site.
        scores: by site, of the model on the held-out rows.
        exact: opens the two sums, as its numbers 1 and 2.
        attributes: which groups.
        min_cell: fewest rows of a class of a group that are told of.
    """
    held = [(a, _held(a, loaded, splits, scores)) for a in attributes if set(a.features) & set(loaded.features)]
    if not held:
        return None
    screened = Opened(
        "sites with rows, and with enough, by group and class",
        1,
        "exact",
        "held-out rows of all sites by sex and age, before any count",
    )
    counted = Opened("histograms of the final model's scores by group", 1, "exact", "held-out rows of all sites by sex and age")
    if why := hindrance(exact, screened):
        return ByGroup({}, {a.name: why for a, _ in held})
    try:
        withheld = _screened(held, exact, screened, min_cell)
        shown = [(a, sites) for a, sites in held if a.name not in withheld]
        found = _opened(shown, exact, counted, min_cell) if shown else {}
    except Abort as abort:
        return ByGroup({}, {a.name: f"the sum was aborted by {abort.check}" for a, _ in held})
    return ByGroup(found, withheld)


def _held(
    attribute: Attribute, loaded: Dataset, splits: Mapping[str, Sequence[Split]], scores: Mapping[str, Scored]
) -> list[_Held]:
    column = next(i for i, name in enumerate(loaded.features) if name in attribute.features)
    out = []
    for site in loaded.sites:
        group = attribute.place(site.known[:, column])
        parts = zip(splits[site.name], scores[site.name], strict=True)
        out.append(_Held(attribute, tuple((group[part.test], labels, score) for part, (score, labels) in parts)))
    return out


Held = Sequence[tuple[Attribute, list[_Held]]]


def _screened(held: Held, exact: ExactSums, what: Opened, min_cell: int) -> dict[str, str]:
    """Which attributes are not opened, and why."""
    screens = {a.name: Screen((len(a.groups), 2), min_cell) for a, _ in held}
    specs = [SumSpec(f"{name}.{s.name}", s.size, s.max, integer=True) for name, screen in screens.items() for s in screen.specs()]
    values: list[dict[str, Any]] = [
        {f"{a.name}.{key}": v for a, sites in held for key, v in screens[a.name].sums(sites[at].cells()).items()}
        for at in range(len(held[0][1]))
    ]
    sums = exact.total(1, what, specs, values, precision=PRECISION).sums
    out = {}
    for name, screen in screens.items():
        own = {key.removeprefix(f"{name}."): v for key, v in sums.items() if key.startswith(f"{name}.")}
        least = screen.least(own)
        if ((least > 0) & (least < min_cell)).any():
            out[name] = f"a group does not surely hold {min_cell} rows of each class"
    return out


def _opened(held: Held, exact: ExactSums, what: Opened, min_cell: int) -> dict[str, dict[str, Figures]]:
    folds = len(held[0][1][0].folds)
    specs = [SumSpec(a.name, len(a.groups) * 2 * folds * BINS, LIMIT, integer=True) for a, _ in held]
    values = [{a.name: sites[at].counts() for a, sites in held} for at in range(len(held[0][1]))]
    sums = exact.total(2, what, specs, values, precision=PRECISION).sums
    out = {}
    for a, _ in held:
        counts = np.asarray(sums[a.name]).reshape(len(a.groups), 2, folds, BINS)
        out[a.name] = {name: figures(*counts[i], min_cell=min_cell) for i, name in enumerate(a.groups)}
    return out
