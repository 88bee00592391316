"""What the measurements of an eICU table must hold: a site that reports mmol/l for mg/dl shows before anything is masked.

Ranges are those that features are cut to (`securefl.data.eicu_features.MEASURES`); the allowed medians are a clinician's, wide
enough for any case mix, as a unit moves a median by far more.  Nothing of it comes from rows.

What it does not protect: units whose usual values overlap; a measurement that is wrong and plausible.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securefl.data import eicu_features as public
from securefl.data.columns import Column, Mask
from securefl.data.contract import ColumnRule, Contract, Violation, violations
from securefl.errors import UserError

Measured = Mapping[str, NDArray[np.float64]]

OUTSIDE = 0.1
"""Largest share of the values of one site out of a range: artefacts, such as a pressure that was measured while flushing."""
FEWEST = 20
"""Values below which a site's median says nothing of its unit."""

UNITS: dict[str, tuple[str, float, float]] = {
    "eyes": ("points", 1, 4),
    "motor": ("points", 1, 6),
    "verbal": ("points", 1, 5),
    "urine": ("ml in 24 h", 200, 5000),
    "wbc": ("10³/µl", 4, 25),
    "temperature": ("°C", 34, 39.5),
    "respiratoryrate": ("1/min", 8, 45),
    "sodium": ("mmol/l", 125, 150),
    "heartrate": ("1/min", 50, 150),
    "meanbp": ("mm Hg", 40, 150),
    "ph": ("", 7.1, 7.6),
    "hematocrit": ("%", 20, 50),
    "creatinine": ("mg/dl", 0.4, 5),
    "albumin": ("g/dl", 1.5, 5),
    "pao2": ("mm Hg", 50, 300),
    "pco2": ("mm Hg", 25, 80),
    "bun": ("mg/dl", 8, 80),
    "glucose": ("mg/dl", 70, 350),
    "bilirubin": ("mg/dl", 0.2, 6),
    "fio2": ("%", 21, 100),
}
"""Measurement → unit, and where the median of a site's values must lie."""


def contract() -> Contract:
    """One rule for each measurement; any share may be missing, and OUTSIDE may lie out of the range."""
    return Contract(
        columns={
            name: ColumnRule(unit=UNITS[name][0], range=(m.low, m.high), median=UNITS[name][1:], missing=1.0, outside=OUTSIDE)
            for name, m in public.MEASURES.items()
        }
    )


def looked_through(directory: Path | None, sites: str, only: str | None = None) -> dict[str, tuple[int, list[Violation]]]:
    """For each site its number of stays, and in what its measurements are not what `contract` says.

    Args:
        directory: as for `securefl.data.eicu.load`.
        sites: what a site is.
        only: the name of the one site that is looked at.

    Raises:
        UserError: tables that are refused, or no such site.
    """
    from securefl.data.eicu import cohort_of, measurements_of, site_keys  # noqa: PLC0415  (a server has no polars)
    from securefl.data.eicu_tables import check_tables, folder_of  # noqa: PLC0415

    folder = folder_of(directory)
    check_tables(folder)
    cohort = cohort_of(folder)
    keys, found = site_keys(folder, cohort.frame, sites), measurements_of(folder, cohort.frame)
    names = sorted(set(keys.tolist())) if only is None else [only]
    if only is not None and only not in keys:
        raise UserError(f"{folder} has no stay of the site {only!r}")
    return broken_in(found, {name: np.flatnonzero(keys == name) for name in names})


def broken_in(measured: Measured, sites: Mapping[str, NDArray[np.intp]]) -> dict[str, tuple[int, list[Violation]]]:
    """The same of measurements that were read.

    Args:
        measured: by name, shape (rows,), NaN where missing.
        sites: by name, the numbers of its rows.
    """
    columns, out = {name: _column(name, values) for name, values in measured.items()}, dict[str, tuple[int, list[Violation]]]()
    for name, own in sites.items():
        rows = np.isin(np.arange(len(next(iter(measured.values())))), own)
        out[name] = len(own), [v for v in violations(contract(), columns, rows) if _telling(v, columns, rows)]
    return out


def _telling(violation: Violation, columns: dict[str, Column], rows: Mask) -> bool:
    """Whether a site has values enough for the rule; ranges and medians of a few say nothing."""
    return int((rows & columns[violation.column].present).sum()) >= FEWEST


def _column(name: str, values: NDArray[np.float64]) -> Column:
    cells, lines = np.empty(values.size, dtype=object), np.arange(1, values.size + 1)
    return Column(name, cells, ~np.isnan(values), values, lines, counted="stay", bare=True)
