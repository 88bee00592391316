"""Poisson batches of a map-style data set, drawn with the package's own randomness."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from protocols.rand import Rand
from securefl.errors import UserError
from securefl.privacy.noise import poisson_sample

Batch = tuple[torch.Tensor, torch.Tensor]
"""Features, shape (rows, …), and labels, shape (rows, …)."""
BLOCK = 1024
"""Rows of a data set of the user's own that are looked at together."""


def count_rows(data: Dataset[Any]) -> int:
    """Number of rows of ``data``.

    Raises:
        UserError: if it has none, or no length (an iterable data set cannot be sampled by row).
    """
    try:
        rows = len(data)  # type: ignore[arg-type]
    except TypeError:
        raise UserError(f"the training data ({type(data).__name__}) has no length: a map-style Dataset is needed") from None
    if rows < 1:
        raise UserError("the training data has no rows: at least 1 is needed")
    return rows


def sample(data: Dataset[Any], rand: Rand, label: str, rate: float, model: nn.Module) -> Batch:
    """One Poisson batch: every row is in with probability ``rate``.  An empty one is two tensors with zero rows.

    It lies where the parameters of ``model`` do.
    """
    return beside(model, *take(data, poisson_sample(rand, label, count_rows(data), rate)))


@dataclass(frozen=True, eq=False)
class Chunk:
    """A part of a Poisson batch, always of the same number of rows.

    Attributes:
        x: features, shape (slots, …).
        y: labels, shape (slots, …).
        present: whether a slot holds a record of the batch, shape (slots,), bool; if not, what it holds counts for nothing.
        last: whether the batch ends here.
    """

    x: torch.Tensor
    y: torch.Tensor
    present: torch.Tensor
    last: bool


def chunks(data: Dataset[Any], rand: Rand, label: str, rate: float, slots: int, model: nn.Module) -> Iterator[Chunk]:
    """One Poisson batch in chunks of one shape, at least one.

    The last bits of what floating point makes of a row depend on the shape of the batch and on the row's place in it.  Here the
    shape is always the same, and the place, a uniform slot, is drawn for each record by itself: these bits, too, depend on no
    other record.  Records that draw one slot go to successive chunks; empty slots hold zeros.

    Args:
        data: map-style data set of pairs (features, label).
        rand: where the bits come from.
        label: name of the draws; good once per ``rand``.
        rate: probability with which a row is in.
        slots: rows of a chunk, a power of two.
        model: the chunks lie where its parameters do.
    """
    rows = poisson_sample(rand, label, count_rows(data), rate)
    slot = (rand.words(f"{label}, slots", len(rows)) & np.uint64(slots - 1)).astype(np.int64)
    order = np.argsort(slot, kind="stable")
    turn = np.empty_like(slot)
    turn[order] = np.arange(len(rows)) - np.searchsorted(slot[order], slot[order])
    places = np.zeros((int(turn.max(initial=0)) + 1, slots), dtype=np.int64)
    places[turn, slot] = np.arange(1, len(rows) + 1)
    x, y = (torch.cat([part.new_zeros((1, *part.shape[1:])), part]) for part in beside(model, *take(data, rows)))
    for number, place in enumerate(places, 1):
        index = torch.from_numpy(place).to(x.device)
        yield Chunk(x[index], y[index], index > 0, number == len(places))


def beside(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Batch:
    """A batch on the device of the model's parameters."""
    device = next((p.device for p in model.parameters()), x.device)
    return x.to(device), y.to(device)


def take(data: Dataset[Any], rows: NDArray[np.int64]) -> Batch:
    """The rows of these numbers, shape (rows,), as two tensors.

    Raises:
        UserError: where a row is no pair of features and label, or rows differ in shape.
    """
    if isinstance(data, TensorDataset):
        if len(data.tensors) != 2:
            raise UserError(f"the training data has {len(data.tensors)} tensors a row: 2 are needed, features and label")
        index = torch.from_numpy(rows)
        x, y = (tensor[index.to(tensor.device)] for tensor in data.tensors)
        return x, y
    pairs = [_pair(data, int(row)) for row in (rows if len(rows) else [0])]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"the training data gives {len(pairs[0])} values a row: 2 are needed, features and label")
    columns = list(zip(*pairs, strict=True))
    for what, column in zip(("features", "label"), columns, strict=True):
        odd = next((i for i, value in enumerate(column) if value.shape != column[0].shape), None)
        if odd is not None:
            shapes = f"{tuple(column[odd].shape)}, row {rows[0]} of shape {tuple(column[0].shape)}"
            raise UserError(f"the {what} of row {rows[odd]} are of shape {shapes}: all rows need one shape")
    x, y = (torch.stack(column)[: len(rows)] for column in columns)
    return x, y


def in_blocks(data: Dataset[Any]) -> Iterator[tuple[int, Batch]]:
    """All rows, `BLOCK` at a time, with the number of the first."""
    rows = len(data)  # type: ignore[arg-type]
    for start in range(0, rows, BLOCK):
        yield start, take(data, np.arange(start, min(start + BLOCK, rows)))


def _pair(data: Dataset[Any], row: int) -> tuple[torch.Tensor, ...]:
    values = data[row]
    try:
        return tuple(map(torch.as_tensor, values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"row {row} of the data is no pair of tensors or numbers: {' '.join(str(error).split())}") from error
