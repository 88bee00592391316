"""AUROC, area under the precision-recall curve, Brier score and calibration out of histograms of scores, with confidence intervals.

Sources.  AUROC and its variance: Hanley and McNeil, Radiology 143:29 (1982), with Q1 and Q2 from the histogram as in their table
for ratings.  Average precision as scikit-learn defines it, all rows of a bin at one threshold; its interval is the logit one of
Boyd, Eng and Page, ECML PKDD 2013.  Brier, Monthly Weather Review 78:1 (1950), by the middle of each bin.  Observed rates of a
calibration curve: Wilson's interval (1927).  All intervals are of 95 %, for the held-out rows alone: that a model would come out
otherwise with other rows to train on is not in them.

Each figure states how far the bins can move it.  What it does not protect: whoever holds a histogram knows these figures, and more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from securefl.errors import UserError
from securefl.metrics import binned_auroc

Z = 1.959963984540054
"""Of a two-sided interval of 95 %."""
BINS = 512
"""Of one histogram."""
NEAR, FAR = 8.0, 30.0
"""Logits between which edges lie close, and of the outermost ones: a model that is all too sure has its scores beyond the first."""
GROUPS = 10
"""Most points of a calibration curve."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        value: of the histogram.
        low, high: 95 % interval.
        off: how far the value of the scores themselves can lie from ``value``.
    """

    value: float
    low: float
    high: float
    off: float


@dataclass(frozen=True)
class Group:
    """One point of a calibration curve.

    Attributes:
        predicted: mean score, by the middles of the bins.
        observed: share of positive rows.
        low, high: 95 % interval of the share.
        rows: how many.
    """

    predicted: float
    observed: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Figures:
    """What histograms say of scores.

    Attributes:
        rows, positives: how many; None where fewer than the minimum cell, but not none.
        auroc, auprc, brier: None where a class is missing or too small to show (``brier``: without rows).
        calibration: groups of rows by ascending score, each with the minimum cell of both classes; may be empty.
    """

    rows: int
    positives: int | None
    auroc: Figure | None
    auprc: Figure | None
    brier: Figure | None
    calibration: tuple[Group, ...] = ()


def figures(positives: ArrayLike, negatives: ArrayLike, *, min_cell: int = 1) -> Figures:
    """Figures out of histograms by `edges`.

    Over folds, AUROC and average precision are means over those with both classes, as in cross-validation; the Brier score and the
    curve are of all rows.

    Args:
        positives: rows of label 1 by fold and bin, shape (folds, bins), whole numbers ≥ 0.
        negatives: the same of label 0.
        min_cell: fewest rows of a class, and of a class in a group of the curve, that are told of.

    Raises:
        UserError: unequal or wrong shapes, a negative count.
    """
    p, n = (np.asarray(counts, dtype=np.float64) for counts in (positives, negatives))
    if p.ndim != 2 or p.shape != n.shape or p.shape[1] < 2 or (p < 0).any() or (n < 0).any():
        raise UserError(f"histograms must be two arrays of equal shape (folds, bins) of counts, not {p.shape} and {n.shape}")
    total, rows = int(p.sum()), int(p.sum() + n.sum())
    if 0 < min(total, rows - total) < min_cell:
        return Figures(rows, None, None, None, None)
    both = [(a, b) for a, b in zip(p, n, strict=True) if a.any() and b.any()]
    return Figures(
        rows,
        total,
        _auroc(both) if both else None,
        _auprc(both, total) if both else None,
        _brier(p.sum(axis=0), n.sum(axis=0)) if rows else None,
        _calibration(p.sum(axis=0), n.sum(axis=0), max(min_cell, 1)),
    )


def edges(bins: int) -> Array:
    """Inner edges of the bins, shape (bins − 1,), evenly spaced in the logit: a rare outcome has its scores near 0.

    Seven eighths lie up to ±`NEAR`, the others from there to ±`FAR`.
    """
    tail = bins // 16
    outer = np.linspace(NEAR, FAR, tail + 1)[1:]
    logits = np.concatenate([-outer[::-1], np.linspace(-NEAR, NEAR, bins - 1 - 2 * tail), outer])
    return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float64)


def histogram(scores: ArrayLike, labels: ArrayLike, bins: int = BINS) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of label 1 and of label 0 by bin of their score, each of shape (bins,); scores lie in [0, 1], labels are 0 or 1."""
    place, label = np.searchsorted(edges(bins), np.asarray(scores), side="right"), np.asarray(labels) == 1
    counted = (np.bincount(place[mask], minlength=bins).astype(np.int64) for mask in (label, ~label))
    return next(counted), next(counted)


def auroc_variance(positives: Array, negatives: Array) -> float:
    """Of the AUROC of one histogram with rows of both classes."""
    p, n = positives.sum(), negatives.sum()
    above, below = positives.sum() - np.cumsum(positives), np.cumsum(negatives) - negatives
    first = np.sum(negatives * (above**2 + above * positives + positives**2 / 3)) / (n * p**2)
    second = np.sum(positives * (below**2 + below * negatives + negatives**2 / 3)) / (p * n**2)
    area = binned_auroc(positives, negatives)[0]
    variance = (area * (1 - area) + (p - 1) * (first - area**2) + (n - 1) * (second - area**2)) / (p * n)
    return max(float(variance), 0.0)


def average_precision(positives: Array, negatives: Array) -> tuple[float, float, float]:
    """Σ (gain of recall) · precision with each bin at one threshold, and the least and most that scores within bins make of it.

    Most: the positive rows of a bin share a score above its negative ones, so that each has the precision of all of them.  Least:
    they follow the negative ones, one by one.
    """
    p, n = positives[::-1], negatives[::-1]
    hits, rows, total = np.cumsum(p), np.cumsum(p + n), p.sum()
    value, most = (float(np.sum(p * _ratio(hits, below)) / total) for below in (rows, rows - n))
    least = float(_one_by_one(p, hits - p, rows - p) / total)
    return value, min(least, value), max(most, value)


def _ratio(hits: Array, rows: Array) -> Array:
    return np.divide(hits, rows, out=np.zeros_like(hits), where=rows > 0)


def _one_by_one(count: Array, hits: Array, rows: Array) -> float:
    """Σ over bins and i = 1 … count of (hits + i) / (rows + i)."""
    times = count.astype(np.int64)
    step = np.arange(1, times.sum() + 1) - np.repeat(np.cumsum(times) - times, times)
    return float(np.sum((np.repeat(hits, times) + step) / (np.repeat(rows, times) + step)))


def _auroc(folds: Sequence[tuple[Array, Array]]) -> Figure:
    values, offs = zip(*(binned_auroc(p, n) for p, n in folds), strict=True)
    value, error = float(np.mean(values)), math.sqrt(sum(auroc_variance(p, n) for p, n in folds)) / len(folds)
    return Figure(value, max(0.0, value - Z * error), min(1.0, value + Z * error), float(np.mean(offs)))


def _auprc(folds: Sequence[tuple[Array, Array]], positives: int) -> Figure:
    found = np.array([average_precision(p, n) for p, n in folds])
    value, least, most = (float(part) for part in found.mean(axis=0))
    off = max(value - least, most - value)
    if not 0 < value < 1:
        return Figure(value, value, value, off)
    logit, error = math.log(value / (1 - value)), 1 / math.sqrt(positives * value * (1 - value))
    low, high = (1 / (1 + math.exp(-(logit + sign * Z * error))) for sign in (-1, 1))
    return Figure(value, low, high, off)


def _sides(bins: int) -> tuple[Array, Array]:
    inner = edges(bins)
    return np.concatenate([[0.0], inner]), np.concatenate([inner, [1.0]])


def _brier(p: Array, n: Array) -> Figure:
    low, high = _sides(len(p))
    middle, rows = (low + high) / 2, p.sum() + n.sum()
    terms = ((1 - middle) ** 2, middle**2)
    value = float((p @ terms[0] + n @ terms[1]) / rows)
    spread = float((p @ terms[0] ** 2 + n @ terms[1] ** 2) / rows) - value**2
    error = math.sqrt(max(spread, 0.0) / rows)
    most = float((p @ ((1 - low) ** 2 - terms[0]) + n @ (high**2 - terms[1])) / rows)
    least = float((p @ (terms[0] - (1 - high) ** 2) + n @ (terms[1] - low**2)) / rows)
    return Figure(value, max(0.0, value - Z * error), min(1.0, value + Z * error), max(most, least))


def _calibration(p: Array, n: Array, min_cell: int) -> tuple[Group, ...]:
    """Bins joined from below into at most `GROUPS` groups of about as many rows; what is left joins the last."""
    low, high = _sides(len(p))
    middle, least = (low + high) / 2, (p.sum() + n.sum()) / GROUPS
    starts, yes, no = [0], 0.0, 0.0
    for at, (a, b) in enumerate(zip(p.tolist(), n.tolist(), strict=True)):
        yes, no = yes + a, no + b
        if yes + no >= least and min(yes, no) >= min_cell:
            starts, yes, no = [*starts, at + 1], 0.0, 0.0
    if len(starts) == 1:
        return ()
    ends = [*starts[1:-1], len(p)]
    return tuple(_group(p[a:b], n[a:b], middle[a:b]) for a, b in zip(starts[:-1], ends, strict=True))


def _group(p: Array, n: Array, middle: Array) -> Group:
    yes, rows = float(p.sum()), float(p.sum() + n.sum())
    low, high = wilson(yes, rows)
    return Group(float((p + n) @ middle) / rows, yes / rows, low, high, int(rows))


def wilson(yes: float, rows: float) -> tuple[float, float]:
    """95 % interval of a share of ``rows`` > 0."""
    share, z2 = yes / rows, Z * Z
    centre, half = share + z2 / (2 * rows), Z * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows * rows))
    return max(0.0, (centre - half) / (1 + z2 / rows)), min(1.0, (centre + half) / (1 + z2 / rows))
