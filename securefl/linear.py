"""scikit-learn's linear models, trained over sites: the estimator says the objective, and gets the coefficients.

    model, trainer = securefl.linear.of_estimator(LogisticRegression(C=1.0), features=30, rows=1000)
    runner = Runner(model, folds, trainer=trainer, job=job)
    runner.run()
    estimator = securefl.linear.fitted(LogisticRegression(C=1.0), runner.final_models()[0])
    estimator.predict_proba(x)

The objective is the estimator's own, divided by the rows of all sites: a mean loss and a penalty of the weights, which is weight
decay of the local optimizer; the intercept is free of it.  What trains is SGD over sums, not the estimator's solver: coefficients
agree as far as training has converged, and no further than noise and clipping let them.

Not supported, as it would not be what it says: trees and boosting (a split opens a histogram of every feature in every node,
exactly or with an ε for each), kernels (they keep rows), penalties other than L2, class weights (they come from all rows).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from torch import nn
from torch.utils.data import DataLoader

from securefl.encoding import SumSpec
from securefl.errors import UserError
from securefl.trainer import ClientTrainer, Sums

E = TypeVar("E", LogisticRegression, LinearRegression, Ridge)
KINDS = (LogisticRegression, LinearRegression, Ridge)
"""What is supported; subclasses are not."""
ROWS_MAX = 10_000
"""Public bound of a site's held-out rows that count in what is reported of a regression; more are left out there."""


class LinearTrainer(ClientTrainer):
    """Logistic loss with L2 on the weights.

    Args:
        learning_rate: step size of the local optimizer.
        decay: weight of ‖w‖²/2 beside the mean loss.
    """

    def __init__(self, *, learning_rate: float = 0.5, decay: float = 0.0) -> None:
        super().__init__(learning_rate=learning_rate)
        self.decay = decay

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with the penalty on weights alone."""
        weights = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": self.decay}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.SGD([group for group in groups if group["params"]], lr=self.learning_rate)


class LinearRegressionTrainer(LinearTrainer):
    """Squared error, halved, with L2 on the weights.

    Args:
        learning_rate: as above.
        decay: as above.
        largest: public bound of the error of one row, in the target's unit; a larger one counts as that in what is reported.
    """

    def __init__(self, *, learning_rate: float = 0.5, decay: float = 0.0, largest: float = 10.0) -> None:
        super().__init__(learning_rate=learning_rate, decay=decay)
        if not (math.isfinite(largest) and largest > 0):
            raise UserError(f"largest is {largest}: the bound of a row's error is finite and above 0")
        self.largest = largest

    def loss(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean of half the squared error."""
        return nn.functional.mse_loss(output.reshape(-1), y.reshape(-1).to(output.dtype)) / 2

    def sums(self) -> tuple[SumSpec, ...]:
        """Squared errors in units of the largest, cut in whole ones and the rest, and rows."""
        whole = SumSpec("squared.whole", 1, ROWS_MAX, integer=True)
        return whole, SumSpec("squared.rest", 1, 1.0), SumSpec("rows", 1, ROWS_MAX, integer=True)

    def evaluate(self, model: nn.Module, data: Any) -> Sums:
        """Sums over the held-out rows."""
        x, y = next(iter(DataLoader(data, batch_size=ROWS_MAX)))
        with torch.no_grad():
            error = (model(x).reshape(-1) - y).double().clamp(-self.largest, self.largest) / self.largest
        rest, whole = math.modf(float((error**2).sum()))
        return {"squared.whole": np.array([int(whole)]), "squared.rest": np.array([rest]), "rows": np.array([len(y)])}

    def read(self, sums: Sums) -> dict[str, float]:
        """Mean squared error in the target's unit, and rows."""
        rows, squared = float(sums["rows"][0]), float(sums["squared.whole"][0]) + float(sums["squared.rest"][0])
        return {"rows": rows, **({"mse": max(squared, 0.0) / rows * self.largest**2} if rows else {})}


def of_estimator(
    estimator: LogisticRegression | LinearRegression | Ridge,
    *,
    features: int,
    rows: int,
    learning_rate: float = 0.5,
    largest: float = 10.0,
) -> tuple[nn.Module, LinearTrainer]:
    """A module that starts at zero, and the trainer of the estimator's objective.

    Args:
        estimator: unfitted or fitted; only its parameters count.
        features: columns.
        rows: public number of training rows of all sites together: the estimator's penalty is against the sum over rows.
        learning_rate: step size of the sites.
        largest: of a regression, the public bound of the error of one row.

    Raises:
        UserError: an estimator, a penalty or a parameter that is not supported.
    """
    decay = _decay(estimator, rows)
    model = nn.Linear(features, 1, bias=bool(estimator.fit_intercept))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    if isinstance(estimator, LogisticRegression):
        return model, LinearTrainer(learning_rate=learning_rate, decay=decay)
    return model, LinearRegressionTrainer(learning_rate=learning_rate, decay=decay, largest=largest)


def fitted(estimator: E, model: nn.Module, classes: Iterable[Any] = (0, 1)) -> E:
    """The estimator with the coefficients of a trained module, as if it had been fitted; it is changed and given back.

    Args:
        estimator: of the kind that the module was made for.
        model: from `of_estimator`, trained.
        classes: of a classifier, what 0 and 1 stand for.

    Raises:
        UserError: a module that is no single linear layer with one output, an estimator that is not supported.
    """
    if type(estimator) not in KINDS or not isinstance(model, nn.Linear) or model.out_features != 1:
        raise UserError(f"{type(estimator).__name__} gets its coefficients from one linear layer with one output alone")
    weights = model.weight.detach().cpu().double().numpy()
    bias = model.bias.detach().cpu().double().numpy() if model.bias is not None else np.zeros(1)
    logistic = isinstance(estimator, LogisticRegression)
    estimator.coef_ = weights if logistic else weights[0]
    estimator.intercept_ = bias if logistic else float(bias[0])
    estimator.n_features_in_ = weights.shape[1]
    if logistic:
        estimator.classes_ = np.array(list(classes))
        estimator.n_iter_ = np.array([0], dtype=np.int32)
    return estimator


def _decay(estimator: Any, rows: int) -> float:
    """The estimator's penalty beside a mean over ``rows`` rows."""
    if type(estimator) not in KINDS:
        names = ", ".join(kind.__name__ for kind in KINDS)
        raise UserError(f"{type(estimator).__name__} is not supported: {names} are")
    if rows < 1:
        raise UserError(f"rows is {rows}: it must be at least 1")
    for key in ("class_weight", "positive"):
        if getattr(estimator, key, None):
            raise UserError(f"{type(estimator).__name__}({key}=…) is not supported")
    if isinstance(estimator, LinearRegression):
        return 0.0
    if isinstance(estimator, Ridge):
        return float(estimator.alpha) / rows
    if getattr(estimator, "penalty", "l2") not in ("l2", "deprecated", None) or (getattr(estimator, "l1_ratio", 0) or 0) != 0:
        raise UserError("LogisticRegression is supported with an L2 penalty or none")
    if estimator.penalty is None or math.isinf(estimator.C):
        return 0.0
    return 1.0 / (float(estimator.C) * rows)
