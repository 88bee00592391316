"""Exact scores of finished models in a simulation, where held-out rows of all sites are at hand.

Within one fold, rows of all sites are pooled; over folds, values are averaged.  A site counts in ``auroc_site_mean`` if every fold
holds out at least five rows of each class there: below that, a site's AUROC is mostly noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from securefl.metrics import accuracy, auroc
from securefl.round import Fold
from securefl.trainer import ClientTrainer

SMALLEST_CLASS = 5
Scored = tuple[NDArray[np.float64], NDArray[np.int64]]


def evaluate(
    trainer: ClientTrainer, models: Sequence[nn.Module], sites: Mapping[str, Sequence[Fold]]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Scores of one model a fold, over all sites and for each site.

    Args:
        trainer: gives scores, or sums where it has metrics of its own.
        models: one trained model for each fold.
        sites: the folds of each site.

    Returns:
        Metrics over all held-out rows, and metrics by site.
    """
    if type(trainer).evaluate is not ClientTrainer.evaluate:
        return _from_sums(trainer, models, sites)
    scored = {name: [_scores(trainer, m, f) for m, f in zip(models, folds, strict=True)] for name, folds in sites.items()}
    pooled = [_concatenate([rows[number] for rows in scored.values()]) for number in range(len(models))]
    metrics, by_site = _binary(pooled), {name: _binary(rows) for name, rows in scored.items()}
    counted = [name for name, rows in scored.items() if _enough(rows)]
    if counted:
        metrics["auroc_site_mean"] = float(np.mean([by_site[name]["auroc"] for name in counted]))
    return metrics, by_site


def _scores(trainer: ClientTrainer, model: nn.Module, fold: Fold) -> Scored:
    if fold.test is None or not len(fold.test):  # type: ignore[arg-type]
        return np.empty(0), np.empty(0, dtype=np.int64)
    return trainer.scores(model, fold.test)


def _concatenate(rows: Sequence[Scored]) -> Scored:
    return np.concatenate([scores for scores, _ in rows]), np.concatenate([labels for _, labels in rows])


def _binary(folds: Sequence[Scored]) -> dict[str, float]:
    """Means over folds; a metric that no fold has is left out."""
    out: dict[str, float] = {}
    ranked = [value for s, y in folds if (value := auroc(s, y)) is not None]
    right = [value for s, y in folds if (value := accuracy(s, y)) is not None]
    if ranked:
        out["auroc"] = float(np.mean(ranked))
    if right:
        out["accuracy"] = float(np.mean(right))
    out["rows"] = float(sum(len(y) for _, y in folds))
    return out


def _enough(folds: Sequence[Scored]) -> bool:
    return all(min(int((y == 0).sum()), int((y == 1).sum())) >= SMALLEST_CLASS for _, y in folds)


def _from_sums(
    trainer: ClientTrainer, models: Sequence[nn.Module], sites: Mapping[str, Sequence[Fold]]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    total: dict[str, NDArray[Any]] = {}
    by_site: dict[str, dict[str, float]] = {}
    for name, folds in sites.items():
        own: dict[str, NDArray[Any]] = {}
        for model, fold in zip(models, folds, strict=True):
            if fold.test is not None and len(fold.test):  # type: ignore[arg-type]
                for key, values in trainer.evaluate(model, fold.test).items():
                    own[key] = own.get(key, 0) + np.asarray(values)
        if own:
            by_site[name] = trainer.read(own)
        for key, values in own.items():
            total[key] = total.get(key, 0) + values
    return (trainer.read(total) if total else {}), by_site
