"""Scores of sites in one go are those of each site by itself, whatever their data sets are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from securefl.evaluation import evaluate, pooled_rows, scored
from securefl.metrics import auprc, auroc, brier
from securefl.round_types import Fold
from securefl.trainer import ClientTrainer


class Doubled(TensorDataset):
    """What it gives is not what its tensors hold."""

    def __getitem__(self, at: int) -> Any:
        x, y = super().__getitem__(at)
        return 2 * x, y


def rows(seed: int, count: int, kind: type[TensorDataset] = TensorDataset, column: bool = False) -> Dataset[Any]:
    rng = np.random.default_rng(seed)
    y = torch.from_numpy(rng.integers(0, 2, count).astype("float32"))
    return kind(torch.from_numpy(rng.normal(size=(count, 3)).astype("float32")), y[:, None] if column else y)


def models() -> list[nn.Module]:
    out = []
    for seed in (1, 2):
        model = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 3)).astype("float32")))
        out.append(model)
    return out


PLAIN = {"a": [rows(0, 9), rows(1, 5)], "b": [rows(2, 0), rows(3, 7)], "c": [rows(4, 11), rows(5, 1)]}


@pytest.mark.parametrize(
    "sites",
    [
        PLAIN,
        {**PLAIN, "d": [rows(6, 8, Doubled), rows(7, 8, Doubled)]},
        {**PLAIN, "d": [rows(6, 8, column=True), rows(7, 8, column=True)]},
        {**PLAIN, "d": [rows(6, 8), None]},
    ],
)
def test_scores_in_one_go_are_those_of_each_site(sites: dict[str, list[Any]]) -> None:
    trainer = ClientTrainer()
    found = scored(trainer, models(), {name: [Fold(test, test) for test in tests] for name, tests in sites.items()})
    for name, tests in sites.items():
        for model, test, (scores, labels) in zip(models(), tests, found[name], strict=True):
            if test is None or not len(test):
                assert len(scores) == len(labels) == 0
                continue
            want = trainer.scores(model, test)
            assert np.allclose(scores, want[0], rtol=1e-6)
            assert np.array_equal(labels, want[1])


def test_metrics_over_all_rows_are_means_over_folds() -> None:
    sites = {name: [Fold(test, test) for test in tests] for name, tests in PLAIN.items()}
    metrics, by_site = evaluate(ClientTrainer(), models(), sites)
    folds = pooled_rows(scored(ClientTrainer(), models(), sites))
    for name, figure in {"auroc": auroc, "auprc": auprc, "brier": brier}.items():
        assert metrics[name] == pytest.approx(np.mean([figure(*fold) for fold in folds]))
    assert by_site["b"]["rows"] == 7
