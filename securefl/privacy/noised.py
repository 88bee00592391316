"""One party's update as noised integers, and the mean out of their sum.

Source: Kairouz, Liu and Steinke (ICML 2021, arXiv 2102.06387), algorithms 1 and 2.  The order of the steps is that of their names:
clip, rotate, scale, round conditionally, add noise.  What comes out is neither clamped nor refused: only the sum must fit, and
whoever refused large values would tell about the noise.

What it does not protect: a single contribution carries a share of the noise alone; it is to be masked.  All parties weigh the same,
and nothing exact may be opened beside the sum.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.errors import Misuse
from protocols.rand import Rand, Seed
from securefl.encode import finite_vector
from securefl.privacy.noise_plan import NoisePlan
from securefl.privacy.rounding import clip, rotate, rotate_back, round_within
from securefl.privacy.samplers import drawn


def contribution(plan: NoisePlan, update: ArrayLike, signs: Seed, rand: Rand) -> NDArray[np.int64]:
    """What one party adds to the sum.

    Args:
        plan: the public plan.
        update: shape (plan.size,), real; scaled down where its L2 norm is above ``plan.clip``.
        signs: public seed of the round's rotation.
        rand: source of rounding and noise; its labels ``rounding`` and ``noise`` are drawn.

    Returns:
        Integers, shape (plan.dimension,), int64, to be added modulo 2^plan.bits.

    Raises:
        UserError: for another shape, NaN or inf.
    """
    real = clip(finite_vector(update, plan.size, "the update"), plan.clip)
    scaled = rotate(real / plan.granularity, signs)
    whole = round_within(scaled, plan.bounds[0], rand.child("rounding"))
    whole += noise(plan, rand)
    return whole


def noise(plan: NoisePlan, rand: Rand) -> NDArray[np.int64]:
    """One party's share of the noise, shape (plan.dimension,), int64; the label ``noise`` of ``rand`` is drawn."""
    return drawn(plan.kind, rand, "noise", plan.dimension, plan.share)


def centred(plan: NoisePlan, total: NDArray[np.integer]) -> NDArray[np.int64]:
    """Values modulo 2^plan.bits as integers in [−2^(bits−1), 2^(bits−1)), int64."""
    half = 1 << (plan.bits - 1)
    signed: NDArray[np.int64] = ((total.astype(np.int64) + half) & ((1 << plan.bits) - 1)) - half
    return signed


def mean(plan: NoisePlan, total: NDArray[np.int64], survivors: int, signs: Seed) -> NDArray[np.float64]:
    """The mean update out of the opened sum.

    Args:
        plan: the plan of all who contributed.
        total: the sum, centred, shape (plan.dimension,), int64.
        survivors: how many contributions are in it.
        signs: seed of the round's rotation.

    Returns:
        Shape (plan.size,), float64.

    Raises:
        Misuse: for another shape or dtype, or an impossible number of survivors.
    """
    if total.shape != (plan.dimension,) or total.dtype != np.int64:
        raise Misuse(f"a total has shape ({plan.dimension},) and dtype int64, not {total.shape} and {total.dtype}")
    if not 1 <= survivors <= plan.cohort.clients:
        raise Misuse(f"survivors must be 1 to {plan.cohort.clients}, not {survivors}")
    return rotate_back(total.astype(np.float64) * (plan.granularity / survivors), signs, plan.size)


def tail(plan: NoisePlan, failure: float = 2.0**-40) -> float:
    """What the noise of all parties in one value of one sum exceeds with probability at most ``failure``, over all coordinates.

    Two-sided Chernoff bound, in steps of the grid.
    """
    total, log = plan.cohort.clients * plan.share, math.log(2 * plan.dimension / failure)
    s = np.geomspace(2.0**-70, 30.0, 8000)
    growth = total * 2 * np.sinh(s / 2) ** 2 if plan.kind == "skellam" else total * s**2 / 2
    return float(((growth + log) / s).min())
