"""A trained model out of ``model.safetensors``, with how rows must be prepared for it: load it and predict.

The file holds numbers and text alone; nothing in it is run.  What it does not say: whether the model is any good for rows that come
from elsewhere than its sites did.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from securefl.data.types import OTHER, Coding
from securefl.errors import UserError
from securefl.job import Job
from securefl.models import build
from securefl.results import Preparation
from securefl.scaling import Scaler


@dataclass(frozen=True)
class SavedModel:
    """A trained model and its preparation.

    Attributes:
        job: the job that trained it.
        features: names of the columns of ``x``, in order.
        classes: what 0 and 1 stand for.
        codings: how a table's columns become features.
        scaler: how features are scaled.
        models: the trained modules: one, or with cross-validation one for each fold.
    """

    job: Job = field(repr=False)
    features: tuple[str, ...]
    classes: tuple[str, str]
    codings: tuple[Coding, ...] = field(repr=False)
    scaler: Scaler = field(repr=False)
    models: tuple[nn.Module, ...] = field(repr=False)

    def encode(self, table: Mapping[str, Sequence[Any]]) -> NDArray[np.float64]:
        """Rows of a table, such as a dict of lists or a pandas ``DataFrame``, as ``x``; other columns are ignored.

        Returns:
            Shape (rows, features), float64, unscaled.

        Raises:
            UserError: a column is missing or of another length, a cell is no number, a value was not there in training, or a number
                is missing and the job had no public range for its column.
        """
        columns = [_column(coding, table) for coding in self.codings]
        if len({len(part) for parts in columns for part in parts}) != 1:
            raise UserError(f"the columns differ in length; needed are: {', '.join(c.column for c in self.codings)}")
        return np.column_stack([part for parts in columns for part in parts])

    def scores(self, x: ArrayLike | Mapping[str, Sequence[Any]]) -> NDArray[np.float64]:
        """Probability of ``classes[1]`` of every row, shape (rows,); over several models their mean.

        Args:
            x: a table as `encode` takes it, or unscaled features in the order of ``features``, shape (rows, features).

        Raises:
            UserError: another number of features, or a value that is not finite.
        """
        table: Any = x if isinstance(x, Mapping) or hasattr(x, "columns") else None
        scaled = torch.from_numpy(self.scaler.apply(x if table is None else self.encode(table)))  # type: ignore[arg-type]
        with torch.no_grad():
            every = [torch.sigmoid(model(scaled).reshape(-1).double()) for model in self.models]
        return np.asarray(torch.stack(every).mean(0).numpy(), dtype=np.float64)


def load_model(path: Path | str) -> SavedModel:
    """Read a ``model.safetensors`` that ``securefl run --out`` wrote.

    Raises:
        UserError: the file is missing, damaged, or was not written by ``securefl run``.
    """
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415

    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata, state = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise UserError(f"{path}: cannot read the model: {error.strerror or 'there is no such file'}") from None
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file: {' '.join(str(error).split())}") from None
    if not {"job", "preparation"} <= set(metadata):
        raise UserError(f"{path} was not written by securefl run: job and preparation are missing in its metadata")
    try:
        return _assembled(
            Job.parse(json.loads(metadata["job"]), ran=True), Preparation(**json.loads(metadata["preparation"])), state
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def _assembled(job: Job, made: Preparation, state: Mapping[str, torch.Tensor]) -> SavedModel:
    folds = sorted({int(name.split(".")[0].removeprefix("fold")) for name in state if name.startswith("fold")})
    if job.model.shared is not None:
        raise UserError(
            f"the file holds the shared layers alone (model.shared = {job.model.shared!r}): the others are at the sites; read it "
            "by safetensors"
        )
    models = tuple(_module(job, made, state, prefix) for prefix in ([f"fold{k}." for k in folds] or [""]))
    codings = tuple(Coding(c["column"], tuple(c["values"]), c["fill"], c.get("other", False)) for c in made.columns)
    bounds = (None if part is None else np.array(part, dtype=np.float64) for part in (made.low, made.high))
    scaler = Scaler(np.array(made.shift, dtype=np.float64), np.array(made.scale, dtype=np.float64), *bounds)
    (first, second), features = made.classes, tuple(made.features)
    if not len(scaler.shift) == len(scaler.scale) == len(features) or features != tuple(f for c in codings for f in c.features):
        raise ValueError("features, scaling and columns do not fit together")
    return SavedModel(job, features, (first, second), codings, scaler, models)


def _module(job: Job, made: Preparation, state: Mapping[str, torch.Tensor], prefix: str) -> nn.Module:
    model = build(job.model, len(made.features), job.simulation.seed)
    layers = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if set(layers) - set(model.state_dict()):
        raise UserError("the file holds other layers than the job names: a model of a bundle's own code is read by safetensors")
    model.load_state_dict(layers)
    return model.eval()


def _column(coding: Coding, table: Mapping[str, Sequence[Any]]) -> list[NDArray[np.float64]]:
    """The features of one column, shape (rows,) each."""
    if coding.column not in table:
        raise UserError(f"the column {coding.column!r} is missing")
    given = table[coding.column]
    if isinstance(given, str) or not hasattr(given, "__len__") or not hasattr(given, "__iter__"):
        raise UserError(f"column {coding.column!r} is one {type(given).__name__}: a table has a list of cells in every column")
    cells = list(given)
    if not coding.values:
        return [np.array([_number(coding, cell, row) for row, cell in enumerate(cells, 1)], dtype=np.float64)]
    spelled = [_spelled(cell) for cell in cells]
    if coding.other:
        spelled = [cell if cell in coding.values else OTHER for cell in spelled]
    for row, cell in enumerate(spelled, 1):
        if cell not in coding.values:
            raise UserError(f"column {coding.column!r} is {cell!r} in row {row}; allowed: {', '.join(map(repr, coding.values))}")
    return [np.array([cell == value for cell in spelled], dtype=np.float64) for value in coding.values[1:]]


def _number(coding: Coding, cell: Any, row: int) -> float:
    try:
        value = math.nan if cell is None or cell == "" else float(cell)
    except (TypeError, ValueError):
        raise UserError(f"column {coding.column!r} is {cell!r} in row {row}: a number is needed") from None
    if not math.isnan(value):
        return value
    if coding.fill is None:
        raise UserError(f"column {coding.column!r} is missing in row {row}, and the job gave no public range to stand in for it")
    return coding.fill


def _spelled(cell: Any) -> str:
    """A cell of text as training saw it: without needless space; a number as a whole one where it is."""
    number = isinstance(cell, int | float | np.number) and not isinstance(cell, bool)
    return f"{cell:.12g}" if number else " ".join(str(cell).split())
