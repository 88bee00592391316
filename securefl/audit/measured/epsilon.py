"""From guesses and scores to an ε that is refuted: how much a mechanism gives away, measured.

Sources: Steinke, Nasr and Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023 (arXiv 2305.08846), with
abstentions; error rates in two worlds after Nasr et al. 2021 (arXiv 2101.04535), with the bounds of Clopper and Pearson 1934; the
trade-off of a Gaussian mechanism after Dong, Roth and Su 2022 (arXiv 1905.02383) and Balle and Wang 2018 (arXiv 1805.06530).

What it does not show: that ε is not larger.  A bound from below is as good as the attack that gave the guesses, and no number of
guesses shows more than its cap, which stands beside every bound.  The fit of μ has no cap, since it extrapolates: it holds for
noise that is Gaussian, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, betaincinv, chdtri, log_ndtr, ndtr, stdtrit

from protocols.errors import Misuse

LEVEL = 0.05
"""Probability with which a bound may lie above the true ε."""
STEP, MOST = 0.01, 40.0
"""The one-run bound is looked for in steps of this size, up to this ε."""

Scores = NDArray[np.float64]
Inside = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """An interval for ε.

    Attributes:
        method: how it was measured.
        lower: the largest ε that is refuted; 0.0 where none is.
        upper: the other end; infinite where the method bounds from below alone.
        cap: the most that so many trials could show; infinite where the method extrapolates.
        confidence: with which ``lower`` is at most the true ε.
        delta: δ at which ε is stated.
        trials: guesses, runs or scores that it rests on.
        claimed: the ε that is claimed for the same; infinite where none is.
    """

    method: str
    lower: float
    cap: float
    confidence: float
    delta: float
    trials: int
    upper: float = math.inf
    claimed: float = math.inf

    @property
    def line(self) -> str:
        """The interval in words."""
        most = "no cap: it extrapolates" if math.isinf(self.cap) else f"{self.trials} show at most {self.cap:.2f}"
        ends = f"ε ≥ {self.lower:.2f}" if math.isinf(self.upper) else f"ε in {self.lower:.2f} … {self.upper:.2f}"
        return f"{self.method}: {ends} at {100 * self.confidence:.10g} % ({most})"

    def as_json(self) -> dict[str, Any]:
        """As a tree that JSON holds; what is infinite is None."""
        numbers = {"lower": self.lower, "upper": self.upper, "cap": self.cap, "claimed": self.claimed}
        ends = {name: None if math.isinf(value) else round(value, 6) for name, value in numbers.items()}
        return {"method": self.method, **ends, "confidence": self.confidence, "delta": self.delta, "trials": self.trials}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Measured:
        """The inverse of `as_json`."""
        ends: dict[str, Any] = {name: math.inf if value is None else value for name, value in tree.items()}
        return cls(**ends)


def p_value(canaries: int, guesses: int, right: int, delta: float, epsilons: Scores) -> Scores:
    """How likely an (ε, δ)-private mechanism lets so many guesses be right, at most: β + 2mδα, and 1.

    Args:
        canaries: m, each in with probability ½, those without a guess too.
        guesses: r.
        right: v.
        delta: δ.
        epsilons: values of ε, shape (k,).

    Returns:
        The bound for each ε, shape (k,).
    """
    q = 1 / (1 + np.exp(-np.asarray(epsilons, np.float64)))
    chance = bdtrc(right - 1.0, guesses, q) if right else np.ones_like(q)
    if not right or not delta:
        return np.minimum(chance, 1.0)
    back = np.arange(1.0, right + 1)[:, None]
    lower = np.where(right - back - 1 < 0, 0.0, bdtr(np.maximum(right - back - 1, 0), guesses, q))
    alpha = ((bdtr(right - 1.0, guesses, q) - lower) / back).max(axis=0)
    return np.asarray(np.minimum(chance + 2 * canaries * delta * np.maximum(alpha, 0.0), 1.0), np.float64)


def one_run(canaries: int, guesses: int, right: int, delta: float, *, level: float = LEVEL) -> Measured:
    """The ε that one training run with m random canaries refutes.

    Args:
        canaries: m; abstentions count.
        guesses: r, chosen before anything was looked at.
        right: v of them right.
        delta: δ.
        level: probability of a bound above the true ε.

    Raises:
        Misuse: for numbers that cannot be.
    """
    if not 0 <= right <= guesses <= canaries or not canaries:
        raise Misuse(f"{right} of {guesses} guesses about {canaries} canaries: each must be at most the next")
    _check(delta, level)
    lower, cap = (_largest(canaries, guesses, v, delta, level) for v in (right, guesses))
    return Measured("one run", lower, cap, 1 - level, delta, guesses)


def _largest(canaries: int, guesses: int, right: int, delta: float, level: float) -> float:
    """The ε before the first that is not refuted: a claim beyond the true ε then needs that one value to be refuted wrongly."""
    grid = np.arange(0.0, MOST, STEP)
    kept = p_value(canaries, guesses, right, delta, grid) >= level
    first = int(kept.argmax()) if kept.any() else len(grid)
    return round(float(grid[first - 1]), 6) if first else 0.0


def guessed(scores: Scores, inside: Inside, k_in: int, k_out: int, delta: float, *, level: float = LEVEL) -> tuple[Measured, int]:
    """Guess "in" for the ``k_in`` highest scores and "out" for the ``k_out`` lowest; the bound, and how many were right.

    Args:
        scores: of each canary, shape (m,); larger speaks for "in".
        inside: which were in, shape (m,); each with probability ½, independently.
        k_in: number of guesses "in", chosen before looking.
        k_out: number of guesses "out", chosen before looking.
        delta: δ.
        level: probability of a bound above the true ε.
    """
    if k_in < 0 or k_out < 0 or k_in + k_out > len(scores):
        raise Misuse(f"{k_in} + {k_out} guesses about {len(scores)} canaries")
    order = np.argsort(scores, kind="stable")
    right = int(inside[order[len(order) - k_in :]].sum()) + int((~inside[order[:k_out]]).sum())
    return one_run(len(scores), k_in + k_out, right, delta, level=level), right


def least(successes: int, runs: int, level: float) -> float:
    """The lower Clopper–Pearson bound of a probability at confidence 1 − ``level``."""
    return float(betaincinv(successes, runs - successes + 1, level)) if successes else 0.0


def two_worlds(hits: int, false: int, runs: int, delta: float = 0.0, *, level: float = LEVEL, fixed: bool = False) -> Measured:
    """The ε that the error rates of a test between two neighbouring worlds refute.

    Args:
        hits: runs of the first world that the test takes for the first.
        false: runs of the second that it takes for the first.
        runs: N, in each world.
        delta: δ.
        level: probability of a bound above the true ε, over the four bounds of rates together.
        fixed: whether one of the two directions alone (hits over false) was chosen beforehand.

    Raises:
        Misuse: for numbers that cannot be.
    """
    if not (0 <= hits <= runs and 0 <= false <= runs and runs):
        raise Misuse(f"{hits} hits and {false} false alarms of {runs} runs in each world")
    _check(delta, level)
    each = level / (2 if fixed else 4)
    tpr, tnr = least(hits, runs, each), least(runs - false, runs, each)
    ways = [(tpr, 1 - tnr), (tnr, 1 - tpr)]  # the upper bound of an error is one less the lower bound of its opposite
    lower = max(0.0, *(_ratio(rate, error, delta) for rate, error in ways[: 1 if fixed else 2]))
    best = least(runs, runs, each)
    return Measured("two worlds", lower, max(0.0, _ratio(best, 1 - best, delta)), 1 - level, delta, runs)


def _ratio(rate: float, error: float, delta: float) -> float:
    return math.log((rate - delta) / error) if rate > delta else -math.inf


def delta_of(epsilon: float, mu: float) -> float:
    """δ(ε) of a Gaussian mechanism whose two worlds are μ standard deviations apart."""
    if mu <= 0:
        return 0.0
    return float(ndtr(mu / 2 - epsilon / mu) - math.exp(min(epsilon + float(log_ndtr(-epsilon / mu - mu / 2)), 0.0)))


def epsilon_of_mu(mu: float, delta: float) -> float:
    """ε at δ of a Gaussian mechanism: the ε with δ(ε) = δ, 0.0 where δ(0) is not above it."""
    _check(delta, LEVEL)
    if math.isinf(mu):
        return math.inf
    if not delta:
        return math.inf if mu > 0 else 0.0
    if delta_of(0.0, mu) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high, mu) > delta:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, mu) > delta else (low, middle)
    return high


def fit_mu(inside: Sequence[float] | Scores, outside: Sequence[float] | Scores, *, level: float = LEVEL) -> tuple[float, float]:
    """An interval for μ, the distance of the means of two samples of Gaussian scores in their common standard deviation.

    Student's bounds of the distance and χ² bounds of the deviation, each at ``level``/4, so that all four hold together with
    probability 1 − ``level``; wider than it must be, exact for any size.

    Args:
        inside: scores with the canary, at least 2.
        outside: scores without it, at least 2.
        level: probability that the interval misses μ.

    Returns:
        Both ends; infinite where nothing varies.

    Raises:
        Misuse: for fewer scores.
    """
    one, two = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if min(len(one), len(two)) < 2:
        raise Misuse("a fit needs two scores at least in each world")
    free = len(one) + len(two) - 2
    spread = math.sqrt((one.var() * len(one) + two.var() * len(two)) / free)
    distance = float(one.mean() - two.mean())
    if spread <= 1e-9 * abs(distance):  # nothing varies, but for rounding
        return (math.inf, math.inf) if distance > 0 else (0.0, 0.0)
    reach = float(stdtrit(free, 1 - level / 4)) * spread * math.sqrt(1 / len(one) + 1 / len(two))
    narrow = spread * math.sqrt(free / float(chdtri(free, level / 4)))
    wide = spread * math.sqrt(free / float(chdtri(free, 1 - level / 4)))
    low, high = distance - reach, distance + reach
    return max(0.0, low / (wide if low > 0 else narrow)), max(0.0, high / (narrow if high > 0 else wide))


def gaussian(inside: Scores, outside: Scores, delta: float, *, level: float = LEVEL) -> Measured:
    """ε of one Gaussian mechanism from white-box scores: the interval for μ, through δ(ε)."""
    low, high = fit_mu(inside, outside, level=level)
    ends = epsilon_of_mu(low, delta), epsilon_of_mu(high, delta)
    return Measured("Gaussian fit", ends[0], math.inf, 1 - level, delta, len(inside) + len(outside), ends[1])


def _check(delta: float, level: float) -> None:
    if not 0 <= delta < 1 or not 0 < level < 1:
        raise Misuse(f"delta is {delta} and the level {level}: they must lie in [0, 1) and (0, 1)")
