"""Two laws on the integers, each as log p(k)/p(mode): to 60 digits in decimals, and in float64 with a proven error near the mode.

Source: Loader 2000, "Fast and accurate computation of binomial probabilities" (deviance form of the Poisson law, which does not
cancel); Stirling's series for log k!, whose error is below its first omitted term.

`exact` rests on the standard library's decimal arithmetic, whose exp and ln are correctly rounded; `near` on numpy's log, log1p
and exp being wrong by at most a few units in the last place.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from functools import cached_property
from math import factorial, floor, isqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse

DIGITS = 80
"""Working precision: log k! of k below 2^60 then has more than 60 digits behind the point that are right."""

NEAR_ERROR = 2.0**-42
"""Largest absolute error of `Law.near`, at most half of what the sampler allows for."""

CONTEXT = Context(prec=DIGITS)
_HALF = Decimal("0.5")
_LOG_2PI = CONTEXT.ln(Decimal("6.283185307179586476925286766559005768394338798750211641949889184615632812572417997256069651"))
_BERNOULLI = (
    Fraction(1, 6), Fraction(-1, 30), Fraction(1, 42), Fraction(-1, 30), Fraction(5, 66), Fraction(-691, 2730), Fraction(7, 6),
    Fraction(-3617, 510), Fraction(43867, 798), Fraction(-174611, 330), Fraction(854513, 138), Fraction(-236364091, 2730),
    Fraction(8553103, 6), Fraction(-23749461029, 870), Fraction(8615841276005, 14322),
)  # fmt: skip
_STIRLING = tuple(
    CONTEXT.divide(Decimal(b.numerator), Decimal(b.denominator * 2 * n * (2 * n - 1))) for n, b in enumerate(_BERNOULLI, 1)
)
_FACTORIALS = 512
"""Below, log k! is the logarithm of the integer; from here on fifteen terms of the series are good to 10^-66."""


class Law(Protocol):
    """A law on the integers that is log-concave, hence falls away from its mode on both sides."""

    @property
    def mode(self) -> int:
        """A k with the largest probability."""

    @property
    def spread(self) -> int:
        """Standard deviation, rounded down."""

    def exact(self, k: int) -> Decimal | None:
        """log p(k)/p(mode), wrong by less than 10^-60; None where p(k) = 0."""

    def near(self, offset: NDArray[np.int64]) -> NDArray[np.float64]:
        """log p(mode + offset)/p(mode), wrong by at most `NEAR_ERROR`; for spreads from 16 and offsets within 7 spreads."""


@dataclass(frozen=True)
class DiscreteGaussian:
    """p(k) ∝ exp(−k²/(2·variance)) on all integers: N_Z(0, variance).  Its variance is ``variance`` up to 10^-8 where that is ≥ 1.

    Attributes:
        variance: σ², in (0, 2^80]; taken as the rational number that the float is.
    """

    variance: float

    def __post_init__(self) -> None:
        if not 0 < self.variance <= 2.0**80:
            raise Misuse(f"the variance of a discrete Gaussian lies in (0, 2^80], not {self.variance}")

    @property
    def mode(self) -> int:
        """0."""
        return 0

    @cached_property
    def spread(self) -> int:
        """⌊σ⌋."""
        return isqrt(floor(self.variance))

    def exact(self, k: int) -> Decimal:
        """−k²/(2σ²)."""
        return CONTEXT.divide(Decimal(-k * k), CONTEXT.multiply(Decimal(2), Decimal(self.variance)))

    def near(self, offset: NDArray[np.int64]) -> NDArray[np.float64]:
        """At most 24.5, with three roundings."""
        k: NDArray[np.float64] = offset.astype(np.float64)
        k *= k
        k /= -2 * self.variance
        return k


@dataclass(frozen=True)
class Poisson:
    """p(k) = e^−λ λ^k / k! on the integers from 0.

    Attributes:
        mean: λ, in (0, 2^50]; taken as the rational number that the float is.
    """

    mean: float

    def __post_init__(self) -> None:
        if not 0 < self.mean <= 2.0**50:
            raise Misuse(f"the mean of a Poisson law lies in (0, 2^50], not {self.mean}")

    @cached_property
    def mode(self) -> int:
        """⌊λ⌋."""
        return floor(self.mean)

    @cached_property
    def spread(self) -> int:
        """⌊√λ⌋."""
        return isqrt(self.mode)

    @cached_property
    def _log_mean(self) -> Decimal:
        return CONTEXT.ln(Decimal(self.mean))

    @cached_property
    def _log_factorial_of_mode(self) -> Decimal:
        return log_factorial(self.mode)

    def exact(self, k: int) -> Decimal | None:
        """(k − m) log λ − log k! + log m!."""
        if k < 0:
            return None
        c = CONTEXT
        return c.subtract(
            c.multiply(Decimal(k - self.mode), self._log_mean), c.subtract(log_factorial(k), self._log_factorial_of_mode)
        )

    def near(self, offset: NDArray[np.int64]) -> NDArray[np.float64]:
        """−D(k) + D(m) − ½ log(k/m) − s(k) + s(m), with deviance D at most 30 and s what Stirling's formula leaves out."""
        k = (offset + self.mode).astype(np.float64)
        out: NDArray[np.float64] = self._far_of_mode - self._far(k)
        out -= 0.5 * np.log(k / self.mode)
        return out

    @cached_property
    def _far_of_mode(self) -> np.float64:
        far: np.float64 = self._far(np.array([float(self.mode)]))[0]
        return far

    def _far(self, k: NDArray[np.float64]) -> NDArray[np.float64]:
        """D(k) + s(k), D(k) = k log(k/λ) + λ − k by the series in v = (k − λ)/(k + λ), |v| < 0.2; k at least 100."""
        difference = k - self.mean  # exact: both lie within a factor of 2, or are below 2^53 units of the smaller
        v = difference / (k + self.mean)
        square = v * v
        tail = np.full_like(v, 1 / 27)
        for odd in range(25, 1, -2):
            tail *= square
            tail += 1 / odd
        inverse = 1 / k
        left_out = ((inverse * inverse / 1260 - 1 / 360) * inverse * inverse + 1 / 12) * inverse
        far: NDArray[np.float64] = difference * v + 2 * k * v * square * tail + left_out
        return far


def log_factorial(k: int) -> Decimal:
    """log k!, with an absolute error below 10^-60 for k up to 2^60."""
    c = CONTEXT
    if k < _FACTORIALS:
        return c.ln(Decimal(factorial(k)))
    x = Decimal(k)
    inverse = c.divide(Decimal(1), x)
    square = c.multiply(inverse, inverse)
    series = Decimal(0)
    for term in reversed(_STIRLING):
        series = c.add(c.multiply(series, square), term)
    head = c.subtract(c.multiply(c.add(x, _HALF), c.ln(x)), x)
    return c.add(c.add(head, c.multiply(_HALF, _LOG_2PI)), c.multiply(series, inverse))
