"""Which predictions are confident: Mondrian conformal sets, with their guarantee for each class by itself.

Source: inductive Mondrian conformal prediction, Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005).
A label is in the set of a compound if at least a share ``error`` of the calibration compounds of that class fit no better.  Where
compounds are exchangeable, the true label is missing from at most that share of the sets of each class.

Used in a simulation, on held-out compounds of one partner and assay; nothing is opened.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ERROR = 0.2
"""Share of true labels that may be missing from the sets of a class."""


def sets(
    scores: NDArray[np.float64], calibration: NDArray[np.float64], labels: NDArray[np.int64], error: float = ERROR
) -> NDArray[np.bool_] | None:
    """Which labels are in the set of each compound, shape (compounds, 2), or None where a class has too few to exclude any.

    Args:
        scores: probability of label 1, shape (compounds,).
        calibration: the same of compounds whose labels are known, shape (known,).
        labels: theirs, 0 or 1, shape (known,).
        error: as `ERROR`.
    """
    columns = []
    for label in (0, 1):
        strange = np.sort(np.abs(label - calibration[labels == label]))
        if 1 / (len(strange) + 1) > error:
            return None
        at_least = len(strange) - np.searchsorted(strange, np.abs(label - scores), side="left")
        columns.append((at_least + 1) / (len(strange) + 1) > error)
    return np.stack(columns, axis=1)


def confident(
    scores: NDArray[np.float64], labels: NDArray[np.int64], first: NDArray[np.bool_], error: float = ERROR
) -> tuple[int, int, int] | None:
    """Compounds with exactly one label in their set, those whose set holds the true one, and all; each half calibrates the other.

    Args:
        scores: probability of label 1, shape (compounds,).
        labels: 0 or 1, shape (compounds,).
        first: which compounds are the first half, shape (compounds,).
        error: as `ERROR`.

    Returns:
        None where a half has too few compounds of a class.
    """
    single, right = 0, 0
    for half in (first, ~first):
        found = sets(scores[half], scores[~half], labels[~half], error)
        if found is None:
            return None
        single += int((found.sum(axis=1) == 1).sum())
        right += int(found[np.arange(len(found)), labels[half]].sum())
    return single, right, len(labels)
