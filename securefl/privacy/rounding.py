"""Clip → rotate → scale → round: an update as a vector of integers whose L2 norm is bounded exactly, and back.

Source: Kairouz, Liu and Steinke (ICML 2021, arXiv 2102.06387), proposition 22 for the norm: random signs and a Walsh–Hadamard
transform spread an update evenly over the coordinates, conditional stochastic rounding is repeated until the norm bound holds.

What is exact: the norm of the integers is compared with its bound in integers, so the sensitivity of the sum to one party is what
the accountant is told, whatever the floating-point steps before it did.  What is not: clipping, rotation and scaling are in
float64 (relative error about 10^-15), which moves the result and no ε.

What it does not protect: the number of repetitions depends on the update, and so does the time it takes.  Rounding conditionally
is for whole updates of one party; a sum over records is rounded by `round_sum`, without a condition, as the condition would
depend on the other records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from numpy.typing import NDArray

from protocols.errors import Misuse
from protocols.rand import Rand, Seed
from securefl.errors import UserError

BETA = math.exp(-0.5)
"""Largest probability that one rounding exceeds the bound, and is repeated."""

TRIES = 256
"""Roundings before one gives up: each fails with probability at most `BETA`, all with e^-128."""

_RADIX = 6
"""log2 of the matrices that the transform is a product of: BLAS does them in one call each."""


def padded(size: int) -> int:
    """The least power of two that is at least ``size``.

    Raises:
        Misuse: below 1, or above 2^30.
    """
    if not 1 <= size <= 1 << 30:
        raise Misuse(f"a vector to be rotated has 1 to 2^30 coordinates, not {size}")
    return 1 << (size - 1).bit_length()


def norm_bounds(radius: float, dimension: int, beta: float = BETA) -> tuple[int, float, float]:
    """What rounding makes of an L2 norm of at most ``radius``, on the grid.

    Args:
        radius: Δ = clip/granularity, > 0.
        dimension: d, coordinates after padding.
        beta: probability with which a rounding may exceed the bound, in [0, 1); 0 for a bound that always holds.

    Returns:
        ⌊Δ2²⌋, Δ2 and Δ1 with Δ2² = min(Δ² + d/4 + √(2 ln(1/β))·(Δ + √d/2), (Δ + √d)²) rounded down to a whole
        number of at least 1, as squared norms of integers are whole, and Δ1 = min(√d·Δ2, Δ2²).

    Raises:
        Misuse: for a value out of range.
    """
    if not (0 < radius < 2.0**40 and 1 <= dimension <= 1 << 30 and 0 <= beta < 1):
        raise Misuse(f"a norm of {radius} on {dimension} coordinates with β = {beta} cannot be rounded")
    root = math.sqrt(dimension)
    always = (radius + root) ** 2
    likely = math.inf if beta == 0 else radius**2 + dimension / 4 + math.sqrt(2 * math.log(1 / beta)) * (radius + root / 2)
    square = max(math.floor(min(always, likely) * (1 + 2.0**-40)), 1)
    norm = math.sqrt(square) * (1 + 2.0**-50)
    return square, norm, min(root * norm, float(square))


def clip(update: NDArray[np.float64], bound: float) -> NDArray[np.float64]:
    """``update`` scaled to an L2 norm of at most ``bound``, to the last bits; itself where it is within."""
    largest = float(np.max(np.abs(update), initial=0.0))
    if largest == 0:
        return update
    unit = update / largest  # squares of the update may overflow or vanish
    norm = math.sqrt(float(np.vdot(unit, unit)))
    return unit * (bound / norm) if norm * largest > bound else update


def round_signs(context: bytes) -> Seed:
    """Public seed of a round's signs: SHA-256 of what names the round, such as its ``sid``."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(b"securefl rotation\0" + context)
    return Seed(digest.finalize())


def rotate(update: NDArray[np.float64], signs: Seed) -> NDArray[np.float64]:
    """Random signs, then the Walsh–Hadamard transform over √d: an isometry, d = `padded` (update.size).

    Args:
        update: shape (size,).
        signs: public seed of the signs, one for a round; the same for all parties.

    Returns:
        Shape (d,), float64.
    """
    out = np.zeros(padded(update.size))
    out[: update.size] = update
    out *= _signs(signs, out.size)
    return hadamard(out)


def rotate_back(rotated: NDArray[np.float64], signs: Seed, size: int) -> NDArray[np.float64]:
    """The inverse of `rotate`: the first ``size`` coordinates; ``rotated`` has shape (padded(size),)."""
    if rotated.shape != (padded(size),):
        raise Misuse(f"{size} values were rotated to {padded(size)}, not to shape {rotated.shape}")
    out = hadamard(rotated)
    out *= _signs(signs, out.size)
    return out[:size]


def rotate_whole(whole: NDArray[np.int64], signs: Seed) -> NDArray[np.float64]:
    """√d times `rotate`, exactly: whole numbers, held in float64.

    What one vector adds to a sum it adds to the result, whatever else is in the sum.

    Args:
        whole: shape (size,), int64, Σ|v| below 2^53.
        signs: seed of the round.

    Returns:
        Shape (padded(size),), float64.

    Raises:
        Misuse: for larger sums.
    """
    out = np.zeros(padded(whole.size))
    out[: whole.size] = whole
    if not float(np.abs(out).sum()) < 2.0**52:  # a sum of floats, which may be a little off
        raise Misuse("the values add up to 2^52 or more: float64 would round them")
    out *= _signs(signs, out.size)
    return _walsh_times(out)


def hadamard(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """H·x/√d with the Walsh–Hadamard matrix H in natural order, its own inverse; x has shape (d,), d a power of two."""
    scaled: NDArray[np.float64] = _walsh_times(x) * 2.0 ** (-(x.size.bit_length() - 1) / 2)
    return scaled


def _walsh_times(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """H·x: additions and subtractions alone, hence exact for whole numbers whose sums a float64 holds."""
    bits = x.size.bit_length() - 1
    if x.size != 1 << bits:
        raise Misuse(f"a Walsh–Hadamard transform takes a power of two of values, not {x.size}")
    out: NDArray[Any] = x
    for at in range(0, bits, _RADIX):
        width = min(_RADIX, bits - at)
        out = np.matmul(_walsh(width), out.reshape(-1, 1 << width, 1 << at))
    return out.reshape(-1)


def round_within(scaled: NDArray[np.float64], square: int, rand: Rand) -> NDArray[np.int64]:
    """Conditional stochastic rounding: repeated until the squared norm is at most ``square``.

    Args:
        scaled: shape (d,), in units of the grid.
        square: bound of the squared L2 norm of the result, from `norm_bounds`.
        rand: source of the uniforms; labels ``rounding 0``, ``rounding 1``, … are drawn.

    Returns:
        Integers, each less than one away, shape (d,), int64.

    Raises:
        Misuse: where `TRIES` roundings exceed the bound, which happens with probability below e^-128 for a norm that
            ``square`` was made for.
    """
    for whole in _roundings(scaled, rand):
        if squared_norm(whole) <= square:
            return whole
    raise Misuse(f"{TRIES} roundings have a squared norm above {square}: the vector is longer than its bound")


def round_sum(scaled: NDArray[np.float64], rand: Rand) -> NDArray[np.int64]:
    """⌊s + U⌋ with U uniform on [0, 1)^d, independent of s: for sums over records.

    Given U, adding one record moves the result by a stochastic rounding of that record's vector.

    Args:
        scaled: s, shape (d,), in units of the grid; |s| below 2^48.
        rand: source of U; label ``rounding 0`` is drawn.
    """
    return next(_roundings(scaled, rand))


def squared_norm(whole: NDArray[np.int64]) -> int:
    """Σ k², exactly."""
    largest = max(int(whole.max(initial=0)), -int(whole.min(initial=0)))
    if largest < 1 << 31 and largest * largest * whole.size < 1 << 63:
        return int(np.vdot(whole, whole))
    return int(np.vdot(whole.astype(object), whole.astype(object)))


def _roundings(scaled: NDArray[np.float64], rand: Rand) -> Iterator[NDArray[np.int64]]:
    if scaled.size and not float(np.max(np.abs(scaled))) < 2.0**48:
        raise UserError("a value is 2^48 steps of the grid or more: the granularity is too fine for its clipping bound")
    down = np.floor(scaled)
    part = scaled - down  # exact: no |value| is above 2^48
    base = down.astype(np.int64)
    for attempt in range(TRIES):
        words = rand.words(f"rounding {attempt}", scaled.size)
        yield base + ((words >> np.uint64(11)) * 2.0**-53 >= 1 - part)


def _signs(seed: Seed, size: int) -> NDArray[np.float64]:
    words = np.frombuffer(Rand(seed).bytes("signs", (size + 7) // 8), dtype=np.uint8)
    signs = np.unpackbits(words, count=size, bitorder="little").astype(np.float64)
    signs *= -2
    signs += 1
    return signs


@cache
def _walsh(bits: int) -> NDArray[np.float64]:
    matrix: NDArray[np.float64] = np.ones((1, 1))
    for _ in range(bits):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    matrix.flags.writeable = False
    return matrix
