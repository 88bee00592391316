"""Held-out metrics of a two-class model as sums over rows, so that they can go through the secure sum.

Source: the AUROC is the Mann–Whitney statistic (Hanley and McNeil, Radiology 1982), ties count half.  From histograms of the scores
it is off by at most half of the pairs (positive, negative) that share a bin.

Bins.  Scores crowd at ½ before training, at 0 and 1 after it.  So the inner edges are sigmoid(¼·sinh(u)), u evenly spaced, up to a
logit of ±32: narrow around ½, ever wider in the logit outwards.  With 64 bins the mean error over logistic regressions on two
medical data sets was 0.0002 to 0.0014 where they had learned anything, and 0.004 for a grossly overfitted one, against 0.022 with
as many bins of equal width.  128 coordinates are little beside the keys and shares of a round.

What it does not protect: the summed histograms are opened exactly, outside differential privacy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from securefl.encoding import SumSpec
from securefl.errors import UserError

LOSS_CAP = 16.0
"""Largest log loss of one row, in nats: a score of 10^-7 for the true class.  Greater losses count as this."""

ADDED = 16
"""How often the loss sums may at least be added up before encoding."""


@dataclass(frozen=True)
class BinaryMetrics:
    """AUROC, accuracy and log loss over the held-out rows of all parties.

    Attributes:
        bins: bins of the score histograms, 2 to 4096.
        limit: largest integer that travels exactly, ``Plan.limit``.
        folds: how many results of `sums` a party adds up before it encodes them.

    Raises:
        UserError: a value outside its range.
    """

    bins: int = 64
    limit: int = 2**15 - 1
    folds: int = 1

    def __post_init__(self) -> None:
        if not 2 <= self.bins <= 4096:
            raise UserError(f"a score histogram has 2 to 4096 bins, not {self.bins}")
        if not 1 <= self.folds <= self.limit:
            raise UserError(f"the number of folds must be 1 to {self.limit}, not {self.folds}")

    @property
    def max_rows(self) -> int:
        """Most rows that one call of `sums` counts: of more it takes evenly spaced ones, and `cut` says so."""
        return self.limit // self.folds

    def cut(self, rows: int) -> bool:
        """Whether `sums` would leave out some of so many rows: worth a warning."""
        return rows > self.max_rows

    def specs(self) -> tuple[SumSpec, ...]:
        """The coordinates for a plan.  The loss is cut in whole multiples of `LOSS_CAP` and the rest."""
        whole = float(self.limit)
        return (
            SumSpec("positives", self.bins, whole, integer=True),
            SumSpec("negatives", self.bins, whole, integer=True),
            SumSpec("correct", 1, whole, integer=True),
            SumSpec("loss.whole", 1, whole, integer=True),
            SumSpec("loss.rest", 1, LOSS_CAP * max(ADDED, self.folds)),
        )

    def sums(self, scores: ArrayLike, labels: ArrayLike) -> dict[str, NDArray[Any]]:
        """What one party adds.

        Args:
            scores: probability of class 1 of each row, shape (rows,), within [0, 1]; rows may be 0.
            labels: class of each row, shape (rows,), 0 or 1.

        Raises:
            UserError: unequal shapes, NaN, a score outside [0, 1], another label.
        """
        score, label = _checked(scores, labels)
        if self.cut(len(score)):
            kept = np.arange(self.max_rows) * len(score) // self.max_rows
            score, label = score[kept], label[kept]
        place = np.searchsorted(edges(self.bins), score, side="right")
        with np.errstate(divide="ignore"):
            row_loss = np.minimum(-np.log(np.where(label, score, 1 - score)), LOSS_CAP)
        loss = float(np.sum(row_loss))
        whole = math.floor(loss / LOSS_CAP)
        return {
            "positives": np.bincount(place[label], minlength=self.bins).astype(np.int64),
            "negatives": np.bincount(place[~label], minlength=self.bins).astype(np.int64),
            "correct": np.array([np.sum((score >= 0.5) == label)], dtype=np.int64),
            "loss.whole": np.array([whole], dtype=np.int64),
            "loss.rest": np.array([min(max(loss - whole * LOSS_CAP, 0.0), LOSS_CAP)]),
        }

    def read(self, sums: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Metrics from the sums over all parties.

        Returns:
            ``rows``; with any rows ``accuracy`` and ``loss`` (nats a row); with both classes ``auroc`` and its standard error
            ``auroc_se`` (`securefl.binned.auroc_variance`, for the held-out rows alone).  Never NaN.
        """
        from securefl.binned import auroc_variance  # noqa: PLC0415 - which reads histograms with what is here

        positives, negatives = (np.asarray(sums[name], dtype=np.float64) for name in ("positives", "negatives"))
        rows = float(positives.sum() + negatives.sum())
        out = {"rows": rows}
        if rows > 0:
            loss = float(sums["loss.whole"][0]) * LOSS_CAP + float(sums["loss.rest"][0])
            out["accuracy"] = float(sums["correct"][0]) / rows
            out["loss"] = max(loss, 0.0) / rows
        if positives.sum() > 0 and negatives.sum() > 0:
            out["auroc"], _ = binned_auroc(positives, negatives)
            out["auroc_se"] = math.sqrt(auroc_variance(positives, negatives))
        return out


def edges(bins: int) -> NDArray[np.float64]:
    """Inner edges of the score bins, shape (bins − 1,), ascending in (0, 1); a score at an edge is in the upper bin."""
    logit = np.sinh(np.linspace(-1, 1, bins - 1) * math.asinh(128)) / 4 if bins > 2 else np.zeros(1)
    return np.asarray(1 / (1 + np.exp(-logit)), dtype=np.float64)


def binned_auroc(positives: ArrayLike, negatives: ArrayLike) -> tuple[float, float]:
    """AUROC from histograms of the scores of both classes, shapes (bins,), and how far it can be from the exact one.

    Raises:
        UserError: a class without rows.
    """
    p, n = np.asarray(positives, dtype=np.float64), np.asarray(negatives, dtype=np.float64)
    pairs = float(p.sum() * n.sum())
    if not pairs > 0:
        raise UserError("an AUROC needs rows of both classes")
    below = np.cumsum(n) - n
    return float(np.sum(p * (below + n / 2))) / pairs, float(np.sum(p * n)) / 2 / pairs


def auroc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Exact AUROC, ties counting half; None where a class is missing.

    Arguments as for `BinaryMetrics.sums`; scores of any finite size.

    Raises:
        UserError: unequal shapes, NaN, another label than 0 or 1.
    """
    score, label = _checked(scores, labels, bounded=False)
    values, place = np.unique(score, return_inverse=True)
    p, n = (np.bincount(place[mask], minlength=len(values)) for mask in (label, ~label))
    return binned_auroc(p, n)[0] if p.sum() and n.sum() else None


def accuracy(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Share of rows whose score is on the label's side of ½ (½ counts as class 1); None without rows.  Arguments as for `auroc`.

    Raises:
        UserError: unequal shapes, NaN, another label than 0 or 1.
    """
    score, label = _checked(scores, labels, bounded=False)
    return float(np.mean((score >= 0.5) == label)) if len(score) else None


def auprc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Average precision Σ (gain of recall) · precision over all thresholds, as scikit-learn; None where a class is missing.

    Arguments and errors as for `auroc`.
    """
    score, label = _checked(scores, labels, bounded=False)
    values, place = np.unique(-score, return_inverse=True)
    p, n = (np.bincount(place[mask], minlength=len(values)) for mask in (label, ~label))
    if not (p.sum() and n.sum()):
        return None
    return float(np.sum(p * np.cumsum(p) / np.cumsum(p + n)) / p.sum())


def brier(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Mean squared difference of score and label; None without rows.  Arguments and errors as for `auroc`."""
    score, label = _checked(scores, labels, bounded=False)
    return float(np.mean((score - label) ** 2)) if len(score) else None


def _checked(scores: ArrayLike, labels: ArrayLike, *, bounded: bool = True) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    score, label = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if score.ndim != 1 or score.shape != label.shape:
        raise UserError(f"scores and labels must be two vectors of equal length, not {score.shape} and {label.shape}")
    bad = np.flatnonzero(~np.isfinite(score) | (bounded & ((score < 0) | (score > 1))))
    if bad.size:
        allowed = "within [0, 1]" if bounded else "finite"
        raise UserError(f"the score of row {bad[0]} is {score[bad[0]]}: it must be {allowed}")
    wrong = np.flatnonzero((label != 0) & (label != 1))
    if wrong.size:
        raise UserError(f"the label of row {wrong[0]} is {label[wrong[0]]}: it must be 0 or 1")
    return score, label == 1


def best_of(rounds: Sequence[Mapping[str, float]]) -> tuple[str, int | None]:
    """By which metric rounds are compared, and the place of the first best one: the highest AUROC, or the least loss without any.

    None where no round has either.
    """
    for key, sign in (("auroc", 1.0), ("loss", -1.0)):
        scored = [(sign * metrics[key], -place) for place, metrics in enumerate(rounds) if key in metrics]
        if scored:
            return key, -max(scored)[1]
    return "", None
