"""What partners gain by a shared trunk, as consortia report it: each against its own model, by assay, then means over its assays.

Of classes: AUROC, AUPRC, and the share of predictions that conformal sets find confident (`securefl.conformal`); of values: R².
An assay whose held-out compounds have one class is left out; so is one with too few of a class for conformal sets.

It exists in a simulation alone: a partner knows its own row, and nobody another's.  Numbers of assays are in none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefl.conformal import ERROR, confident
from securefl.data.molecules import MISSING, Target
from securefl.metrics import auprc, auroc

FEWEST = 2
"""Held-out values that an assay's R² needs."""
FIGURES = {"auroc": "AUROC", "auprc": "AUPRC", "confident": "confident", "r2": "R²"}
"""Keys and headings."""
Scored = tuple[NDArray[np.float64], NDArray[np.float32]]
"""Scores and labels with `MISSING`, shapes (compounds, assays)."""


@dataclass(frozen=True)
class Gain:
    """One partner's figures, means over its assays.

    Attributes:
        own: of the model that it trained alone.
        federated: of the shared trunk with its own head.
    """

    own: Mapping[str, float]
    federated: Mapping[str, float]

    @property
    def gain(self) -> dict[str, float]:
        """Federated less own."""
        return {key: self.federated[key] - value for key, value in self.own.items() if key in self.federated}


@dataclass(frozen=True)
class Gains:
    """Gains of all partners, by name."""

    partners: Mapping[str, Gain]
    target: Target

    @property
    def mean(self) -> dict[str, float]:
        """Mean gain over partners."""
        keys = [key for key in FIGURES if any(key in one.gain for one in self.partners.values())]
        return {key: fmean(one.gain[key] for one in self.partners.values() if key in one.gain) for key in keys}

    @property
    def least(self) -> dict[str, float]:
        """Gain of the partner that gains least."""
        return {key: min(one.gain[key] for one in self.partners.values() if key in one.gain) for key in self.mean}

    def plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        each = {
            name: {"own": dict(one.own), "federated": dict(one.federated), "gain": one.gain} for name, one in self.partners.items()
        }
        return {
            "simulation_only": True,
            "target": self.target,
            "conformal_error": ERROR if self.target == "class" else None,
            "partners": each,
            "mean": self.mean,
            "least": self.least,
        }


def figures(scored: Scored, first: NDArray[np.bool_], target: Target) -> dict[str, float]:
    """Means over assays of one model's figures.

    Args:
        scored: scores and labels of held-out compounds.
        first: which compounds are the first half for conformal sets, shape (compounds,).
        target: what the labels are.
    """
    found: dict[str, list[float]] = {key: [] for key in FIGURES}
    single, sure = 0, 0
    for scores, labels in zip(scored[0].T, scored[1].T, strict=True):
        known = labels != MISSING
        if target == "value":
            found["r2"] += r2(scores[known], labels[known].astype(np.float64))
            continue
        s, y = scores[known], labels[known].astype(np.int64)
        for key, figure in (("auroc", auroc), ("auprc", auprc)):
            found[key] += [value] if (value := figure(s, y)) is not None else []
        if (counts := confident(s, y, first[known])) is not None:
            single, sure = single + counts[0], sure + counts[2]
    found["confident"] += [single / sure] if sure else []
    return {key: fmean(values) for key, values in found.items() if values}


def r2(scores: NDArray[np.float64], values: NDArray[np.float64]) -> list[float]:
    """1 − squared error over spread, in a list that is empty where values do not differ or are too few."""
    spread = float(((values - values.mean()) ** 2).sum()) if len(values) >= FEWEST else 0.0
    return [1 - float(((values - scores) ** 2).sum()) / spread] if spread > 0 else []
