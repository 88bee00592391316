"""What a federated model is compared with: the pooled model, and each site's own.

They exist in a simulation only: the pooled model needs all rows in one place, which is what a federation avoids.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils.data import TensorDataset

from securefl.evaluation import Scored, evaluate, measured, pooled_rows, scored
from securefl.job import Job
from securefl.privacy.plain import PlainTraining
from securefl.results import SiteBaseline
from securefl.round_types import Fold
from securefl.trainer import ClientTrainer

Folds = Mapping[str, tuple[Fold, ...]]


@dataclass(frozen=True, eq=False)
class Baselines:
    """Scores of models that were trained like the federated one (same trainer, same number of steps) without noise.

    Attributes:
        pooled: metrics of the model trained on all rows.
        local: each site's own, on all held-out rows, and on its own (``own_auroc``, ``own_accuracy``).
        pooled_scores: for each fold the pooled model's scores and labels of all held-out rows; empty where a trainer has its own
            metrics.
        local_scores: the same of each site's own model.
    """

    pooled: dict[str, float] = field(default_factory=dict)
    local: list[SiteBaseline] = field(default_factory=list)
    pooled_scores: list[Scored] = field(default_factory=list)
    local_scores: dict[str, list[Scored]] = field(default_factory=dict)


def baselines(job: Job, trainer: ClientTrainer, template: nn.Module, folds: Folds) -> Baselines:
    """Train and score them."""
    count, out = len(next(iter(folds.values()))), Baselines()
    together = [_pool([parts[number] for parts in folds.values()]) for number in range(count)]
    metrics, _, scores = _evaluated(trainer, [_train(job, trainer, template, f) for f in together], folds)
    out.pooled.update(metrics)
    out.pooled_scores.extend(scores)
    for name, parts in folds.items():
        metrics, by_site, scores = _evaluated(trainer, [_train(job, trainer, template, fold) for fold in parts], folds)
        own = {f"own_{key}": value for key, value in by_site[name].items()}
        out.local.append(SiteBaseline(name, len(parts[0].train), metrics | own))  # type: ignore[arg-type]
        out.local_scores[name] = scores
    return out


def _evaluated(
    trainer: ClientTrainer, models: Sequence[nn.Module], folds: Folds
) -> tuple[dict[str, float], dict[str, dict[str, float]], list[Scored]]:
    if type(trainer).evaluate is not ClientTrainer.evaluate:
        return *evaluate(trainer, models, folds), []
    scores = scored(trainer, models, folds)
    return *measured(scores), pooled_rows(scores)


def _pool(parts: Sequence[Fold]) -> Fold:
    tensors = [fold.train.tensors for fold in parts]  # type: ignore[attr-defined]
    return Fold(TensorDataset(*(torch.cat(columns) for columns in zip(*tensors, strict=True))), None)


def _train(job: Job, trainer: ClientTrainer, template: nn.Module, fold: Fold) -> nn.Module:
    model = copy.deepcopy(template)
    steps = job.privacy.rounds * job.privacy.steps
    trainer.train(model, fold.train, PlainTraining(sample_rate=1.0), steps)
    return model
