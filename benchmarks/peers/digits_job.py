"""The job that every simulator runs: digits dealt out to parties, an MLP of 64, 32 and 10 units, FedAvg.

In a round each party makes one pass over its rows with SGD (batches of 16, learning rate 0.1).  Only numpy and scikit-learn, so
that it is the same file in every environment.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

RATE, BATCH = 0.1, 16
SHAPES = ((64, 32), (32,), (32, 10), (10,))
Weights = list[NDArray[np.float32]]
Rows = tuple[NDArray[np.float32], NDArray[np.int64]]


@cache
def deal(parties: int) -> tuple[list[Rows], Rows]:
    """Rows of each party, and those that nobody has; read once in a process, as reading is not what is measured."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    most = int(0.8 * len(y))
    return [(x[:most][i::parties], y[:most][i::parties]) for i in range(parties)], (x[most:], y[most:])


def begin() -> Weights:
    """The model that training starts from."""
    rng = np.random.default_rng(0)
    return [(rng.normal(0, 0.2, shape) if len(shape) == 2 else np.zeros(shape)).astype(np.float32) for shape in SHAPES]


def passes(weights: Weights, x: NDArray[np.float32], y: NDArray[np.int64], seed: int) -> Weights:
    """One pass over the rows, in numpy: new weights."""
    new = [part.copy() for part in weights]
    descend(new, x, y, seed)
    return new


def descend(weights: Weights, x: NDArray[np.float32], y: NDArray[np.int64], seed: int) -> None:
    """The same in place."""
    w1, b1, w2, b2 = weights
    order = np.random.default_rng(seed).permutation(len(y))
    for start in range(0, len(y), BATCH):
        rows = order[start : start + BATCH]
        hidden = np.maximum(x[rows] @ w1 + b1, 0)
        out = hidden @ w2 + b2
        out = np.exp(out - out.max(1, keepdims=True))
        out /= out.sum(1, keepdims=True)
        out[np.arange(len(rows)), y[rows]] -= 1
        out /= len(rows)
        back = (out @ w2.T) * (hidden > 0)
        w1 -= RATE * (x[rows].T @ back)
        b1 -= RATE * back.sum(0)
        w2 -= RATE * (hidden.T @ out)
        b2 -= RATE * out.sum(0)


def flat(weights: Weights) -> NDArray[np.float32]:
    """All weights in one vector."""
    return np.concatenate([part.ravel() for part in weights])


def unflat(vector: NDArray[np.float32]) -> Weights:
    """The weights of one vector."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])
    return [part.reshape(shape) for part, shape in zip(np.split(vector, ends[:-1]), SHAPES, strict=True)]


def accuracy(weights: Weights, rows: Rows) -> float:
    """Share of rows whose digit is found."""
    w1, b1, w2, b2 = weights
    return float((np.argmax(np.maximum(rows[0] @ w1 + b1, 0) @ w2 + b2, 1) == rows[1]).mean())
