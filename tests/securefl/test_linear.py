"""Estimators of scikit-learn over sites: the coefficients that their own solver finds on the pooled rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import Lasso, LinearRegression, LogisticRegression, Ridge
from torch import nn
from torch.utils.data import TensorDataset

from securefl import Fold, Job, Runner, UserError
from securefl.linear import fitted, of_estimator

SITES, ROWS = 3, 80


def rows(*, binary: bool) -> tuple[np.ndarray, np.ndarray]:
    made = np.random.default_rng(3)
    x = made.normal(size=(SITES * ROWS, 4))
    score = x @ [1.0, -0.5, 0.25, 0.0] + 0.3 + 0.5 * made.normal(size=len(x))
    return x.astype(np.float32), (score > 0).astype(np.float32) if binary else score.astype(np.float32)


def trained(estimator: object, x: np.ndarray, y: np.ndarray, rate: float) -> tuple[nn.Module, dict[str, float]]:
    model, trainer = of_estimator(estimator, features=4, rows=len(x), learning_rate=rate)
    tables = [TensorDataset(torch.tensor(x[at::SITES]), torch.tensor(y[at::SITES])) for at in range(SITES)]
    knobs = {"mechanism": "none", "rounds": 150, "local_steps": 1, "sample_rate": 1.0, "precision": 24}
    folds = {f"site {at}": Fold(table, table) for at, table in enumerate(tables)}
    runner = Runner(model, folds, trainer=trainer, job=Job.parse({"privacy": knobs}))
    result = runner.run()
    return runner.final_models()[0], result.rounds[-1].metrics


@pytest.mark.parametrize(
    ("estimator", "binary", "rate"),
    [
        (LogisticRegression(C=0.05, tol=1e-8), True, 1.0),
        (LogisticRegression(C=0.2, fit_intercept=False, tol=1e-8), True, 1.0),
        (Ridge(alpha=30.0), False, 0.3),
        (LinearRegression(), False, 0.3),
        (LinearRegression(fit_intercept=False), False, 0.3),
    ],
)
def test_coefficients_are_those_of_the_estimator_on_pooled_rows(estimator, binary, rate):
    x, y = rows(binary=binary)
    model, metrics = trained(estimator, x, y, rate)
    ours = fitted(type(estimator)(**estimator.get_params()), model)
    pooled = type(estimator)(**estimator.get_params()).fit(x, y)
    assert ours.coef_ == pytest.approx(pooled.coef_, abs=2e-3)
    assert ours.intercept_ == pytest.approx(pooled.intercept_, abs=2e-3)
    assert ours.predict(x) == pytest.approx(pooled.predict(x), abs=2e-2)
    if binary:
        assert ours.predict_proba(x) == pytest.approx(pooled.predict_proba(x), abs=2e-3)
        assert metrics["auroc"] > 0.9
    else:
        assert metrics["mse"] == pytest.approx(np.mean((pooled.predict(x) - y) ** 2), rel=0.02)


def test_control_the_penalty_matters():
    x, y = rows(binary=True)
    assert np.abs(LogisticRegression(C=0.05).fit(x, y).coef_ - LogisticRegression(C=1e6).fit(x, y).coef_).max() > 0.5


@pytest.mark.parametrize(
    ("estimator", "line"),
    [
        (HistGradientBoostingClassifier(), "HistGradientBoostingClassifier is not supported"),
        (Lasso(), "Lasso is not supported"),
        (LogisticRegression(l1_ratio=0.5), "with an L2 penalty or none"),
        (LogisticRegression(class_weight="balanced"), "class_weight=…\\) is not supported"),
        (Ridge(positive=True), "positive=…\\) is not supported"),
    ],
)
def test_what_would_not_be_what_it_says_is_refused(estimator, line):
    with pytest.raises(UserError, match=line):
        of_estimator(estimator, features=2, rows=10)


def test_rows_and_layers_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="rows is 0"):
        of_estimator(Ridge(), features=2, rows=0)
    with pytest.raises(UserError, match="largest is -1"):
        of_estimator(Ridge(), features=2, rows=5, largest=-1)
    with pytest.raises(UserError, match="one linear layer with one output"):
        fitted(Ridge(), nn.Linear(3, 2))
