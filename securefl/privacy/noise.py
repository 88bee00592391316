"""Gaussian noise and Poisson sampling from labelled AES-CTR randomness, in place of torch's generators.

Source: inverse normal of 53-bit uniforms; four draws summed and halved, which makes finding the noise from the bits of a result
cost 2^159 instead of 2^53 (Holohan and Braghin 2021, arXiv 2107.10138, section 5.1), as Opacus does in its secure mode.

What it does not protect: the noise is a float64 approximation of a Gaussian, cut at 8.2 standard deviations a draw, and its
timing is not constant.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from protocols.errors import Misuse
from protocols.rand import Rand

_BLOCK = 1 << 16
_DRAWS = 4


def gaussian(rand: Rand, label: str, shape: Sequence[int], std: float, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Independent draws from a centred Gaussian, computed in float64 and cast at the end.

    Args:
        rand: where the bits come from.
        label: name of the draw; good once per ``rand``.
        shape: shape of the result.
        std: standard deviation, finite and at least 0.
        dtype: floating type of the result.

    Returns:
        Tensor of ``shape`` and ``dtype`` on the CPU.

    Raises:
        Misuse: for a negative or not finite ``std``, or a label drawn before.
    """
    if not (math.isfinite(std) and std >= 0):
        raise Misuse(f"a standard deviation is finite and at least 0, not {std}")
    source, size = rand.child(label), math.prod(shape)
    out = np.empty(size, dtype=np.float64)
    for number, start in enumerate(range(0, size, _BLOCK)):
        block = out[start : start + _BLOCK]
        normals = _normals(source.words(f"block {number}", _DRAWS * block.size))
        np.multiply(normals.reshape(_DRAWS, -1).sum(axis=0), std / 2, out=block)
    return torch.from_numpy(out).reshape(tuple(shape)).to(dtype)


def poisson_sample(rand: Rand, label: str, rows: int, rate: float) -> NDArray[np.int64]:
    """Row numbers of a Poisson sample: each row is in independently with probability ``rate``.

    Args:
        rand: where the bits come from.
        label: name of the draw; good once per ``rand``.
        rows: number of rows, at least 0.
        rate: probability in (0, 1]; rounded down to a multiple of 2^-53, so never above what was asked.

    Returns:
        Ascending row numbers, shape (sampled,), int64; may be empty.

    Raises:
        Misuse: for a rate outside (0, 1] or a label drawn before.
    """
    if not 0 < rate <= 1:
        raise Misuse(f"a sampling rate lies in (0, 1], not {rate}")
    inside = (rand.words(label, rows) >> np.uint64(11)) < np.uint64(int(rate * 2**53))
    return np.flatnonzero(inside).astype(np.int64, copy=False)


def _normals(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Inverse normal of (k + 1/2) / 2^53 for uniform k in [0, 2^53).

    The half in k + 1/2 does not fit a float64 above 2^52 (the largest would round to 1, the normal to infinity), so 52 bits
    choose a point of the lower half, where it does, and one more bit chooses the sign.
    """
    lower: NDArray[np.float64] = ndtri(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-53)
    return np.where((words & np.uint64(1)).astype(np.bool_), -lower, lower)
