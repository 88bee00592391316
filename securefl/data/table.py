"""A newcomer's own table: a CSV file with a binary label and a column that names each row's site.

The table is pooled on one machine, so this is a simulation: which columns are constant and which values a text column
has is read off all sites together, unless the user names ranges and levels, as real parties must beforehand.  With differential
privacy levels are demanded: else one row's rare text would be a feature for all to see.  Nothing numeric is estimated:
a missing number becomes the middle of the column's public range where the user gave one, and otherwise the row is left
out, so no site's statistics enter another's rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securefl.data.columns import Column, Mask, check_finite, labels, ordered, read, site_names, some
from securefl.data.contract import Contract, violations
from securefl.data.levels import Levels, with_levels
from securefl.data.outcome import refuse_same, telling
from securefl.data.types import OTHER, Coding, Dataset, Site
from securefl.errors import UserError, quoted

MOST_VALUES = 20
"""A text column with more distinct values is not encoded."""
FEWEST_SITES = 2

Ranges = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class _Choice:
    """Which columns are features, and why the others are not (one phrase each)."""

    used: tuple[Column, ...]
    unusable: tuple[str, ...]
    constant: tuple[str, ...]


def load(
    path: Path,
    *,
    label: str | None,
    site: str | None,
    ranges: Ranges,
    levels: Levels | None = None,
    drop: Collection[str] = (),
    contract: Contract | None = None,
    later: bool = False,
    private: bool = False,
) -> Dataset:
    """Read, check and encode a table.

    Args:
        path: the file: UTF-8, comma-separated, one header line.
        label: column of the label: 0/1, true/false, yes/no or any two values, the larger one being 1.
        site: column that names each row's site.
        ranges: public lower and upper bounds of numeric columns, by name.
        levels: public values of columns of text, by name, at least two each; `OTHER` among them takes all that are not named.
        drop: columns to leave out.
        contract: what each site's rows must hold; its columns alone are features.
        private: whether no row may decide what is a feature: columns of text need levels, and what has a range is not left out.
        later: whether what stands in for missing numbers will be replaced by their mean; this changes a note alone.

    Returns:
        Sites in the order of their names (as numbers, if they are); numeric columns first, then one 0/1 column for
        every value but the first of a text column.  ``ranges`` is None unless every numeric feature has one.  ``notes``
        tells types, missing values and constant columns, in this order; ``warnings`` what may not be what was meant.

    Raises:
        UserError: the file cannot be read or has no rows; a column is missing, named twice or holds inf; the label is
            not binary or has one value over all sites, or a feature is the label; a site's name is blank, a site has no complete
            row, there are fewer than 2 sites, or no feature is left; a range names no numeric column or is none; levels name no
            feature column, a value is none of them, or are missing where ``private`` needs them; ``drop`` names no feature column.
    """
    columns = read(path)
    outcome, site_column, every = _roles(columns, label, site, path)
    features, levels = _without(every, drop, path), levels or {}
    if contract is not None:
        _hold(contract, features, site_column, path)
        features = tuple(column for column in features if column.name in contract.columns)
    features = with_levels(features, levels, path, needed=private)
    known = {*levels, *(ranges if private else ())}
    for column in (outcome, *features):
        check_finite(column)
    _check_ranges(ranges, features, path)
    names = site_names(site_column, FEWEST_SITES)
    y, classes = labels(outcome)

    first = _choose(features, np.ones(y.size, dtype=bool), known)
    rows = _complete(outcome, first.used, ranges)
    sites = {name: names == name for name in ordered(names)}
    _check_sites(sites, rows, first.used)
    if np.unique(y[rows]).size < 2:
        raise UserError(f"the label column {label!r} has one value over all sites once incomplete rows are left out")
    second = _choose(first.used, rows, known)
    choice = _Choice(second.used, first.unusable + second.unusable, first.constant + second.constant)
    if not choice.used:
        reasons = some((*choice.unusable, *choice.constant)) or "only label and site"
        raise UserError(f"{path} has no usable feature column: {reasons}")
    refuse_same(choice.used, y, rows, path)
    encoded = [part for column in choice.used for part in _encode(column, rows, ranges, levels)]
    titles = tuple(title for title, _, _ in encoded)
    if len(set(titles)) < len(titles):
        twice = sorted({title for title in titles if titles.count(title) > 1})
        raise UserError(f"{path} has a column named like an encoded value of another: {some(map(quoted, twice))}; rename it")
    x = np.column_stack([values for _, values, _ in encoded])
    gaps = np.column_stack([~column.present for column in choice.used for _ in _coding(column, rows, ranges, levels).features])
    bounds = [bound for _, _, bound in encoded if bound is not None]
    return Dataset(
        name=path.name,
        features=titles,
        sites=tuple(Site(name, x[rows & own], y[rows & own], gaps[rows & own]) for name, own in sites.items()),
        ranges=np.array(bounds, dtype=np.float64) if len(bounds) == len(encoded) else None,
        fixed_sites=True,
        source=f"{path}, the user's own table; its licence is not known",
        notes=(
            *(
                f"label {quoted(str(label))}: {i} is {quoted(name)} ({n} row{'s' * (n != 1)})"
                for i, (name, n) in enumerate(zip(classes, np.bincount(y[rows], minlength=2).tolist(), strict=True))
            ),
            *_type_notes(choice, rows, sum(not column.name for column in columns), levels),
            *_missing_notes((outcome, *features), choice.used, ranges, rows, sites, later=later),
            f"constant columns, not used: {some(choice.constant) or 'none'}",
            *([f"columns left out as asked: {some(map(quoted, drop))}"] if drop else []),
        ),
        warnings=(
            *_stray_warnings(features, choice.used),
            *_outside_warnings(choice.used, rows, ranges),
            *telling(choice.used, y, rows),
            *_site_warnings(sites),
        ),
        codings=tuple(_coding(column, rows, ranges, levels) for column in choice.used),
        classes=classes,
    )


def _roles(columns: Sequence[Column], label: str | None, site: str | None, path: Path) -> tuple[Column, Column, tuple[Column, ...]]:
    """The label, the site and the columns that may be features."""
    by_name = {column.name: column for column in columns if column.name}
    if label is None or site is None:
        raise UserError(f"{path} needs a label column and a site column; its columns: {some(map(quoted, by_name))}")
    for role, name in {"label": label, "site": site}.items():
        if name not in by_name:
            raise UserError(f"the {role} column {name!r} is not in {path}; its columns: {some(map(quoted, by_name))}")
    if label == site:
        raise UserError(f"the column {label!r} is named as label and as site: two columns are needed")
    return by_name[label], by_name[site], tuple(c for name, c in by_name.items() if name not in {label, site})


def _without(features: tuple[Column, ...], drop: Collection[str], path: Path) -> tuple[Column, ...]:
    """The columns that are not left out."""
    for name in drop:
        if name not in {column.name for column in features}:
            these = some(quoted(column.name) for column in features)
            raise UserError(f"the column {name!r} to leave out is no feature column of {path}; these are: {these}")
    return tuple(column for column in features if column.name not in drop)


def _hold(contract: Contract, features: Sequence[Column], sites: Column, path: Path) -> None:
    """Refuse a site whose rows are not what the contract says, each for itself, as it would be where they are."""
    for name in ordered(sites.cells):
        found = violations(contract, {column.name: column for column in features}, sites.cells == name)
        if found:
            raise UserError(f"{path}: site {name!r} is not what the schema says: {'; '.join(one.line for one in found)}")


def _check_ranges(ranges: Ranges, features: Sequence[Column], path: Path) -> None:
    by_name = {column.name: column for column in features}
    for name, (low, high) in ranges.items():
        if name not in by_name:
            raise UserError(f"a range is given for {name!r}, no feature column of {path}; these are: {some(map(quoted, by_name))}")
        if by_name[name].numbers is None and by_name[name].present.any():
            raise UserError(f"a range is given for {name!r}, which holds text: a range goes with a column of numbers")
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"the range of {name!r} is {low:g} to {high:g}: two finite numbers, the smaller first")


def _choose(columns: Sequence[Column], rows: Mask, known: Collection[str]) -> _Choice:
    """Which columns can be features by what they hold in ``rows``, those that are ``known`` whatever it is; numbers come first."""
    used, unusable, constant = [], [], []
    for column in columns:
        values = column.values(rows)
        if column.name in known:
            used.append(column)
        elif not values:
            unusable.append(f"{quoted(column.name)} (no values)")
        elif len(values) == 1:
            constant.append(f"{quoted(column.name)} (always {quoted(values[0])})")
        elif column.numbers is None and len(values) > MOST_VALUES:
            reason = column.stray or f"text with {len(values)} distinct values, at most {MOST_VALUES}"
            unusable.append(f"{quoted(column.name)} ({reason})")
        else:
            used.append(column)
    used.sort(key=lambda column: column.numbers is None)
    return _Choice(tuple(used), tuple(unusable), tuple(constant))


def _complete(label: Column, used: Sequence[Column], ranges: Ranges) -> Mask:
    """Which rows have a label and every feature that no range can stand in for."""
    rows = label.present.copy()
    for column in used:
        if column.name not in ranges:
            rows &= column.present
    return rows


def _check_sites(sites: Mapping[str, Mask], rows: Mask, used: Sequence[Column]) -> None:
    for name, own in sites.items():
        if not (rows & own).any():
            gaps = some((quoted(c.name) for c in used if not c.present[own].all()), 5) or "the label"
            raise UserError(f"site {name!r} is empty once rows with missing values are left out; missing in: {gaps}")


def _coding(column: Column, rows: Mask, ranges: Ranges, levels: Levels) -> Coding:
    bound = ranges.get(column.name)
    if (listed := levels.get(column.name)) is not None:
        return Coding(column.name, tuple(listed), None, OTHER in listed)
    values = tuple(column.values(rows)) if column.numbers is None else ()
    return Coding(column.name, values, None if bound is None or values else bound[0] / 2 + bound[1] / 2)


def _encode(
    column: Column, rows: Mask, ranges: Ranges, levels: Levels
) -> list[tuple[str, NDArray[np.float64], tuple[float, float] | None]]:
    """A column's features: name, values of all rows of the file, shape (rows,), and public range."""
    coding = _coding(column, rows, ranges, levels)
    if column.numbers is None:
        present = zip(coding.features, coding.values[1:], strict=True)
        return [(title, (column.cells == value).astype(np.float64), (0.0, 1.0)) for title, value in present]
    middle = math.nan if coding.fill is None else coding.fill
    return [(column.name, np.where(column.present, column.numbers, middle), ranges.get(column.name))]


def _type_notes(choice: _Choice, rows: Mask, nameless: int, levels: Levels) -> list[str]:
    numeric = [quoted(column.name) for column in choice.used if column.numbers is not None]
    text = [f"{quoted(c.name)} ({len(levels.get(c.name) or c.values(rows))} values)" for c in choice.used if c.numbers is None]
    notes = [
        f"columns of numbers: {some(numeric) or 'none'}",
        f"columns of text, one 0/1 feature for every value but the first: {some(text) or 'none'}",
    ]
    if nameless:
        notes.append(f"columns without a name, not used: {nameless}")
    if choice.unusable:
        notes.append(f"columns not used: {some(choice.unusable)}")
    return notes


def _missing_notes(
    columns: Sequence[Column],
    used: Sequence[Column],
    ranges: Ranges,
    rows: Mask,
    sites: Mapping[str, Mask],
    *,
    later: bool,
) -> list[str]:
    counts = {column.name: int(np.sum(~column.present)) for column in columns}
    notes = ["missing values: " + (some(f"{quoted(name)} {count}" for name, count in counts.items() if count) or "none")]
    filled = [f"{quoted(c.name)} {sum(ranges[c.name]) / 2:g}" for c in used if c.name in ranges and not c.present[rows].all()]
    if filled:
        mean = "the column's noised mean, or where noise hides it " if later else ""
        notes.append(f"missing numbers replaced by {mean}the middle of the public range: {some(filled)}")
    if not rows.all():
        lost = [f"{quoted(name)} {np.sum(own & ~rows)} of {np.sum(own)}" for name, own in sites.items() if (own & ~rows).any()]
        notes.append(f"rows with missing values, left out: {some(lost)}")
    return notes


def _stray_warnings(features: Sequence[Column], used: Sequence[Column]) -> list[str]:
    """Columns of numbers that a word keeps from being used as such."""
    what = {True: "taken as text, not as numbers", False: "not used"}
    return [
        f"column {quoted(column.name)} is {what[column in used]}: {column.stray}; mend the cell, blank it, or leave the column out "
        "(--drop)"
        for column in features
        if column.stray
    ]


def _outside_warnings(used: Sequence[Column], rows: Mask, ranges: Ranges) -> list[str]:
    warnings = []
    for column in used:
        if column.numbers is None or column.name not in ranges:
            continue
        low, high = ranges[column.name]
        numbers = column.numbers[rows & column.present]
        count = int(np.sum((numbers < low) | (numbers > high)))
        if count:
            lie = f"{count} of {numbers.size} values lie outside its public range {low:g} to {high:g}"
            warnings.append(f"column {quoted(column.name)}: {lie} and are cut to it")
    return warnings


def _site_warnings(sites: Mapping[str, Mask]) -> list[str]:
    """Names of sites that differ by case alone."""
    alike = Counter(name.casefold() for name in sites)
    groups = [[quoted(name) for name in sites if name.casefold() == folded] for folded, count in alike.items() if count > 1]
    return [f"the names of sites {' and '.join(group)} differ by case alone, and count as {len(group)} sites" for group in groups]
