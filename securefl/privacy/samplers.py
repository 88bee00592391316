"""Integer noise from labelled AES-CTR randomness: discrete Gaussian and Skellam draws, vectorised and exact.

Source: rejection under a staircase with integer weights (the ziggurat's idea, for any log-concave law on the integers).  The
Skellam law is the difference of two Poisson draws (Agarwal, Kairouz and Liu, NeurIPS 2021), the discrete Gaussian that of Canonne,
Kamath and Steinke (NeurIPS 2020), whose sampler is exact too but draws one value at a time.

How a draw goes.  g(k) = p(k)/p(mode).  Blocks of B integers lie to both sides of the mode until g < 2^-26, block j with an integer
weight w_j ≥ W·max g; beyond them blocks of 8B with weights 1, ½, ¼, … .  16 random bits choose a block in proportion to its
weight, 48 the place in it, 64 more are the first digits of a uniform U, and k stays if U < W·g(k)/w_j: every k stays with
probability W·g(k)/(2^16·B) a try, so what stays has law p, exactly.

Exactly means: U is compared in float64, whose error is below 2^-42, only where it lies more than 2^-36 from the threshold, and
with 320 bits against decimals of 80 digits elsewhere and in the outer blocks.  The distance from the law, in total variation, is
below 2^-180 a draw, if numpy's log and exp are good to a few last places.

What it does not protect: time and memory accesses depend on the noise drawn.  None of it is constant-time.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from protocols.rand import Rand, Stream
from securefl.privacy.laws import CONTEXT, DiscreteGaussian, Law, Poisson

GUARD = 2.0**-36
"""Float decisions closer to the threshold than this are taken again in decimals."""

_SLOTS = 1 << 16
_OUTER = 8
"""Width of an outer block in inner ones."""
_END = Decimal(2) ** -26
_CHUNK = 1 << 15
_EXTRA = 4
"""Further words of U where 64 bits do not decide."""
_LOW48, _ELEVEN = np.uint64((1 << 48) - 1), np.uint64(11)


@dataclass(frozen=True)
class Staircase:
    """What the draws from one law have in common.

    Attributes:
        law: the law.
        scale: W.
        shift: log2 of the width B of an inner block.
        right, left: inner blocks to the right of the mode (which they hold) and to its left.
        slots: block by the upper 16 bits, shape (65536,), int16: right blocks, left blocks, the two outer ends, and the void.
        first: offset from the mode of the nearest integer of a block, shape (blocks + 3,), int64; 0 for the last three.
        factor: W/w_j, shape (blocks + 3,), float64; 0 for the last three.
        weights: w_j, shape (blocks + 3,), int64.
        surely, hardly: U below the one stays, from the other on does not, by block; the outer ends are never decided by them.
    """

    law: Law
    scale: int
    shift: int
    right: int
    left: int
    slots: NDArray[np.int16]
    first: NDArray[np.int64]
    factor: NDArray[np.float64]
    weights: NDArray[np.int64]
    surely: NDArray[np.float64]
    hardly: NDArray[np.float64]

    @property
    def blocks(self) -> int:
        """Inner blocks."""
        return self.right + self.left


def skellam(rand: Rand, label: str, size: int, variance: float) -> NDArray[np.int64]:
    """Independent draws from the Skellam law: a Poisson draw of mean variance/2 less another one.

    Sums of such draws are Skellam again, with the variances added up, exactly.

    Args:
        rand: where the bits come from.
        label: name of the draw; good once per ``rand``.
        size: number of draws, at least 0.
        variance: μ, in (0, 2^51]; 0 gives zeros.

    Returns:
        Integers, shape (size,), int64.

    Raises:
        Misuse: for a variance out of range, or a label drawn before.
    """
    source = rand.child(label)
    if variance == 0:
        return np.zeros(size, dtype=np.int64)
    law = staircase(Poisson(variance / 2))
    out = draw(source, "plus", size, law)
    out -= draw(source, "minus", size, law)
    return out


def drawn(kind: str, rand: Rand, label: str, size: int, variance: float) -> NDArray[np.int64]:
    """Draws from the law of a plan, ``skellam`` or ``discrete-gaussian``; the rest as for `skellam`."""
    return (skellam if kind == "skellam" else discrete_gaussian)(rand, label, size, variance)


def discrete_gaussian(rand: Rand, label: str, size: int, variance: float) -> NDArray[np.int64]:
    """Independent draws from N_Z(0, variance), P[k] ∝ exp(−k²/(2·variance)).

    Args:
        rand: where the bits come from.
        label: name of the draw; good once per ``rand``.
        size: number of draws, at least 0.
        variance: σ², in (0, 2^80]; 0 gives zeros.

    Returns:
        Integers, shape (size,), int64.

    Raises:
        Misuse: for a variance out of range, or a label drawn before.
    """
    source = rand.child(label)
    if variance == 0:
        return np.zeros(size, dtype=np.int64)
    return draw(source, "draws", size, staircase(DiscreteGaussian(variance)))


@lru_cache(maxsize=64)
def staircase(law: Law) -> Staircase:
    """The staircase over ``law``; its heights come from `Law.exact` alone.

    A side has at most 208 inner blocks, so that log2 g falls by 1/8 a block on the average and, the law being log-concave, by more
    further out: an outer block has at most half of what the one before it has, as its weight wants.
    """
    shift = max((law.spread // 8).bit_length() - 1, 0)
    width = 1 << shift
    ends = [_edges(law, width, side) for side in (1, -1)]
    top = np.array([float(near) for side in ends for near, _ in side]) * (1 + 2.0**-40)
    low = np.array([float(far) for side in ends for _, far in side])
    right, left = map(len, ends)
    scale = int((_SLOTS - 2 - len(top)) / top.sum()) - 1
    weights = np.floor(scale * top).astype(np.int64) + 1
    outer = [weights.sum(), weights.sum() + 1]
    slots = np.full(_SLOTS, len(top) + 2, dtype=np.int16)
    slots[: outer[0]] = np.repeat(np.arange(len(top)), weights)
    slots[outer[0]], slots[outer[1]] = len(top), len(top) + 1
    first = np.concatenate([np.arange(right) * width, -1 - np.arange(left) * width])
    factor, beyond = scale / weights, np.array([0.0, 0.0, 0.0])
    return Staircase(
        law, scale, shift, right, left, slots,
        first=np.append(first, [0, 0, 0]),
        factor=np.append(factor, beyond),
        weights=np.append(weights, [1, 1, 1]),
        surely=np.append(low * factor - GUARD, [-1.0, -1.0, -1.0]),
        hardly=np.append(top * factor + GUARD, [2.0, 2.0, -1.0]),
    )  # fmt: skip


def _edges(law: Law, width: int, side: int) -> list[tuple[Decimal, Decimal]]:
    """g at the ends of every inner block of one side, nearer end first."""
    found = list[tuple[Decimal, Decimal]]()
    at = law.mode if side > 0 else law.mode - 1
    while True:
        near, far = ratio(law, at), ratio(law, at + side * (width - 1))
        if near < _END:
            return found
        found.append((near, far))
        at += side * width


def ratio(law: Law, k: int) -> Decimal:
    """p(k)/p(mode)."""
    exponent = law.exact(k)
    return Decimal(0) if exponent is None else CONTEXT.exp(exponent)


def draw(source: Rand, label: str, size: int, stairs: Staircase) -> NDArray[np.int64]:
    """``size`` draws from the law under ``stairs``, shape (size,), int64."""
    out = np.empty(size, dtype=np.int64)
    child = source.child(label)
    words, outer, ties = child.stream("words"), child.stream("outer"), child.stream("ties")
    buffer = np.empty(2 * min(_CHUNK, size + size // 8 + 64), dtype=np.uint64)
    done = 0
    while done < size:
        words.fill(buffer)
        kept = _some(buffer[: buffer.size // 2], buffer[buffer.size // 2 :], stairs, outer, ties)
        kept = kept[: size - done]
        out[done : done + kept.size] = kept
        done += kept.size
    return out


def _some(
    places: NDArray[np.uint64], digits: NDArray[np.uint64], stairs: Staircase, outer: Stream, ties: Stream
) -> NDArray[np.int64]:
    """What stays of one chunk of tries."""
    block = stairs.slots[(places >> np.uint64(48)).astype(np.intp)]
    offset = ((places & _LOW48) >> np.uint64(48 - stairs.shift)).astype(np.int64)
    backwards = stairs.right <= block
    np.negative(offset, out=offset, where=backwards)
    offset += stairs.first[block]
    uniform = (digits >> _ELEVEN).astype(np.float64)
    uniform *= 2.0**-53  # rounded down: U lies in [uniform, uniform + 2^-53)
    stays = uniform < stairs.surely[block]
    open_ = np.flatnonzero(~stays & (uniform < stairs.hardly[block]))
    if open_.size:
        _decide(open_, block, offset, uniform, digits, stays, stairs, outer, ties)
    kept: NDArray[np.int64] = offset[stays]
    kept += stairs.law.mode
    return kept


def _decide(
    open_: NDArray[np.intp],
    block: NDArray[np.int16],
    offset: NDArray[np.int64],
    uniform: NDArray[np.float64],
    digits: NDArray[np.uint64],
    stays: NDArray[np.bool_],
    stairs: Staircase,
    outer: Stream,
    ties: Stream,
) -> None:
    """Settle the tries that the ends of their block do not: in float64, or where that is too close, one by one in decimals."""
    inner = block[open_] < stairs.blocks
    left = open_[~inner]
    if stairs.shift:  # else a block is one integer, and the float is no nearer than its ends
        asked = open_[inner]
        threshold = np.exp(stairs.law.near(offset[asked])) * stairs.factor[block[asked]]
        distance = uniform[asked] - threshold
        stays[asked] = distance < 0
        left = np.concatenate([asked[np.abs(distance) < GUARD], left])
    else:
        left = open_
    for i in left.tolist():  # about one in 30 000
        stays[i] = _settle(i, block, offset, digits, stairs, outer, ties)


def _settle(
    i: int,
    block: NDArray[np.int16],
    offset: NDArray[np.int64],
    digits: NDArray[np.uint64],
    stairs: Staircase,
    outer: Stream,
    ties: Stream,
) -> bool:
    """Whether try number ``i`` stays, in decimals; an outer one first gets its place."""
    law, j = stairs.law, int(block[i])
    if j < stairs.blocks:
        k, factor = law.mode + int(offset[i]), CONTEXT.divide(Decimal(stairs.scale), Decimal(int(stairs.weights[j])))
    else:
        further, place = _outer_place(outer, stairs.shift + 3)
        away = (further << (stairs.shift + 3)) + place
        side = (stairs.right << stairs.shift) + away if j == stairs.blocks else -((stairs.left << stairs.shift) + 1 + away)
        k, factor = law.mode + side, Decimal(stairs.scale * _OUTER << (further + 1))
        offset[i] = side
    extra = np.empty(_EXTRA, dtype=np.uint64)
    ties.fill(extra)
    numerator = 2 * int.from_bytes(int(digits[i]).to_bytes(8, "big") + extra.astype(">u8").tobytes(), "big") + 1
    threshold = CONTEXT.multiply(factor, ratio(law, k))
    return Decimal(numerator) < CONTEXT.multiply(threshold, Decimal(2 ** (64 * (_EXTRA + 1) + 1)))


def _outer_place(outer: Stream, bits: int) -> tuple[int, int]:
    """How many outer blocks further out, each with half the chance of the one before, and the place in it."""
    words, further = np.empty(1, dtype=np.uint64), 0
    while True:
        outer.fill(words)
        word = int(words[0])
        if word:
            further += 64 - word.bit_length()
            break
        further += 64
    outer.fill(words)
    return further, int(words[0]) & ((1 << bits) - 1)
