"""What a data set is: sites with rows that stay theirs, and what is publicly known about the columns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

OTHER = "other"
"""Among public levels: takes every value that is none of the others."""


@dataclass(frozen=True)
class Site:
    """One site's table.

    Attributes:
        name: the site's name.
        x: features, shape (rows, features), float64, in their own units (not scaled).
        y: labels, shape (rows,), int64, 0 or 1.
        missing: which of ``x`` are missing, so that something public stands there, shape (rows, features), bool; None: none.
        owners: whose row each is, shape (rows,), uint64: rows of one owner stay together in every split, at all sites; None: each
            its own.
        compared: another model's probability of label 1, for comparison alone, shape (rows,), float64, NaN where it has none; or
            None.
    """

    name: str
    x: NDArray[np.float64] = field(repr=False)
    y: NDArray[np.int64] = field(repr=False)
    missing: NDArray[np.bool_] | None = field(default=None, repr=False)
    owners: NDArray[np.uint64] | None = field(default=None, repr=False)
    compared: NDArray[np.float64] | None = field(default=None, repr=False)

    @property
    def known(self) -> NDArray[np.float64]:
        """``x`` with NaN where it is missing."""
        return self.x if self.missing is None else np.where(self.missing, np.nan, self.x)


@dataclass(frozen=True)
class Coding:
    """How a column becomes features.

    Attributes:
        column: its name.
        values: () for a column of numbers, which is one feature; else all values that it has, the first of which has no feature and
            the others ``column=value``, 0 or 1.
        fill: what stands in for a missing number, or None.
        other: whether a value that is none of ``values`` counts as `OTHER`, which is one of them.
    """

    column: str
    values: tuple[str, ...] = ()
    fill: float | None = None
    other: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(f"{self.column}={value}" for value in self.values[1:]) if self.values else (self.column,)


@dataclass(frozen=True)
class Dataset:
    """Sites and public knowledge.

    Attributes:
        name: ``breast-cancer``, ``heart``, ``eicu`` or the file's name.
        features: names of the columns of `Site.x`.
        sites: the sites, in a fixed order.
        ranges: publicly known lower and upper bounds, shape (features, 2), float64, or None where nothing is public.
        fixed_sites: whether the data fix the sites (``--clients`` is refused).
        source: where the rows come from, and their licence.
        notes: lines that a user should see before training (types, missing values, constant columns).
        warnings: lines that a user must see: what in the rows may not be what was meant.
        codings: how columns became ``features``, in the same order; empty: each feature is a column of numbers.
        classes: what the labels 0 and 1 stand for.
        means: whether, without differential privacy, secure means stand in for missing numbers.
        compared: name of the model whose probabilities `Site.compared` holds, or empty; the final model is assessed beside it.
    """

    name: str
    features: tuple[str, ...]
    sites: tuple[Site, ...]
    ranges: NDArray[np.float64] | None
    fixed_sites: bool
    source: str
    notes: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())
    codings: tuple[Coding, ...] = field(default=())
    classes: tuple[str, str] = ("0", "1")
    means: bool = False
    compared: str = ""

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each site, by its name."""
        return {site.name: len(site.y) for site in self.sites}


@dataclass(frozen=True)
class Split:
    """Row numbers of one site for one fold: ``train`` and ``test``, each shape (rows of that part,), int64, disjoint."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
