"""Rényi differential privacy of integer noise: events as data, and what they cost together.

Sources: Skellam by Agarwal, Kairouz and Liu (NeurIPS 2021, arXiv 2110.04995, section 3); sums of discrete Gaussians by Kairouz,
Liu and Steinke (ICML 2021, arXiv 2102.06387, theorem 1 and proposition 14); Poisson sampling by Zhu and Wang (ICML 2019, for
integer orders; see `sampled_rdp`); conversion to (ε, δ) by Balle et al. 2020 (arXiv 1905.09982, theorem 21), as in Opacus.

Units: variances and norms are in steps of the grid.  Neighbours differ by one party's (or record's) vector being there or not; to
replace one by another doubles both norms.  Only noise of honest survivors counts: an event is told how much that was.

What is approximate: the orders are a fixed set of whole numbers (the bounds of Skellam noise and of sampling hold for no others),
so ε is an upper bound; it is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from securefl.errors import UserError

ORDERS: NDArray[np.int64] = np.unique(np.concatenate([np.arange(2, 65), np.round(64 * 1.05 ** np.arange(1, 216)).astype(np.int64)]))
"""Rényi orders: all integers to 64, then by steps of 5 % to about 2 million."""

SAMPLED_ORDERS = 512
"""Above, no amplification by sampling is claimed: its sum has as many terms as the order."""


@dataclass(frozen=True)
class SkellamEvent:
    """Sums that were opened with Skellam noise.

    Attributes:
        variance: μ a coordinate, of the honest survivors' noise alone; 0 where none of it is left.
        delta1, delta2: largest L1 and L2 norm of one contribution; 0 where nothing was contributed.
        rounds: how many such sums.
        rate: probability of the Poisson sampling of whatever contributes, 1 without; only where nobody learns who was drawn.
        failure: probability over all rounds that a norm is larger; it goes off δ.
    """

    variance: float
    delta1: float
    delta2: float
    rounds: int = 1
    rate: float = 1.0
    failure: float = 0.0

    def rdp(self, orders: NDArray[np.int64]) -> NDArray[np.float64]:
        """RDP of one sum without sampling, at whole ``orders`` ≥ 2."""
        alpha, mu, square = orders.astype(np.float64), self.variance, self.delta2**2
        one, other = ((2 * alpha - 1) * square + 6 * self.delta1) / mu / mu / 4, 1.5 * self.delta1 / mu
        return alpha * square / (2 * mu) + np.minimum(one, other)


@dataclass(frozen=True)
class DiscreteGaussianEvent:
    """Sums that were opened with discrete Gaussian noise of several parties.

    Attributes:
        share: σ² of the noise of one party, a coordinate.
        honest: honest survivors, each with such noise; 0 where none is left.
        dimension: coordinates, after padding.
        delta1, delta2, rounds, rate, failure: as in `SkellamEvent`.
    """

    share: float
    honest: int
    dimension: int
    delta1: float
    delta2: float
    rounds: int = 1
    rate: float = 1.0
    failure: float = 0.0

    @property
    def variance(self) -> float:
        """Sum of the honest survivors' parameters σ²."""
        return self.share * self.honest

    def rdp(self, orders: NDArray[np.int64]) -> NDArray[np.float64]:
        """RDP of one sum without sampling, at ``orders`` > 1; infinite for several parties with σ < ½, which no theorem covers."""
        alpha = orders.astype(np.float64)
        if self.honest > 1 and self.share < 0.25:
            return np.full(alpha.shape, math.inf)
        far, root, across = self.tau, math.sqrt(self.dimension), self.delta2 / math.sqrt(self.variance)
        # The theorem has τd/2 inside ε², hence ατd/4; the published accountant of the authors adds τd: the larger of both.
        added = alpha / 2 * across**2 + np.maximum(alpha / 4, 1) * far * self.dimension
        mixed = across**2 + 2 * self.delta1 * far / math.sqrt(self.variance) + far**2 * self.dimension
        within: NDArray[np.float64] = np.minimum(added, alpha / 2 * min(mixed, (across + far * root) ** 2))
        return within

    @property
    def tau(self) -> float:
        """τ: how far a sum of discrete Gaussians is from one, 10·Σ_{k<n} exp(−2π²σ²·k/(k + 1))."""
        k = np.arange(1, self.honest, dtype=np.float64)
        return float(10 * np.exp(-2 * math.pi**2 * self.share * k / (k + 1)).sum())


Event = SkellamEvent | DiscreteGaussianEvent
"""Something that was opened, and covered by ε."""


def epsilon_of_events(events: Iterable[Any], delta: float) -> float:
    """ε at ``delta`` of all ``events`` together; 0.0 without any, infinity where one had no honest noise.

    Raises:
        UserError: for an event of a kind that is not known here, or a value out of range.
    """
    if not 0 < delta < 1:
        raise UserError(f"delta is {delta}: it must lie in (0, 1), both ends excluded")
    happened = tuple(events)
    for event in happened:
        check(event)
    return _epsilon(happened, delta)


@lru_cache(maxsize=4096)
def _epsilon(events: tuple[Event, ...], delta: float) -> float:
    total, left = np.zeros(ORDERS.size), delta
    for event in events:
        left -= event.failure
        total += event.rounds * rdp_of(event)
    if not events:
        return 0.0
    return epsilon_of_rdp(total, left)


def epsilon_of_rdp(total: NDArray[np.float64], delta: float) -> float:
    """ε at ``delta`` of an RDP at `ORDERS`, as in the module's docstring; infinity where nothing is left of δ."""
    if delta <= 0:
        return math.inf
    alpha = ORDERS.astype(np.float64)
    epsilon = total + np.log1p(-1 / alpha) - (math.log(delta) + np.log(alpha)) / (alpha - 1)
    return max(float(epsilon.min()), 0.0)


def rdp_of(event: Event, orders: NDArray[np.int64] = ORDERS) -> NDArray[np.float64]:
    """RDP of one sum with its sampling, shape of ``orders``; never more than without sampling."""
    if event.delta2 == 0 or event.rate == 0:
        return np.zeros(orders.size)
    if not event.variance > 0:
        return np.full(orders.size, math.inf)
    whole = event.rdp(orders)
    if event.rate == 1:
        return whole
    steps = event.rdp(np.arange(2, SAMPLED_ORDERS + 1))
    if not np.isfinite(steps).all():
        return whole
    low = orders <= SAMPLED_ORDERS
    sampled = whole.copy()
    sampled[low] = sampled_rdp(steps, tuple(orders[low].tolist()), event.rate)
    return np.minimum(sampled, whole)


def sampled_rdp(steps: NDArray[np.float64], orders: tuple[int, ...], rate: float) -> NDArray[np.float64]:
    """RDP under Poisson sampling of symmetric additive noise.

    Zhu and Wang's bound without its factor 3.  With Q the noise and P the noise moved by one contribution, the mixture
    (1−γ)·Q + γ·P against Q has exactly the moments below, with D_l(P‖Q) for ε(l).  The factor pays for the other direction, Q
    against the mixture, and that is never more where a reflection swaps P and Q (as Mironov, Talwar and Zhang 2019 have it for
    Gaussian noise; docs/privacy.md has the proof for whole numbers).  Symmetric noise has one: k ↦ v − k.

    Args:
        steps: RDP without sampling at orders 2, 3, …, at least to the largest of ``orders``.
        orders: whole numbers α of at least 2.
        rate: γ in (0, 1).

    Returns:
        For each α: log( (1−γ)^(α−1)·(αγ−γ+1) + Σ_{l=2}^α C(α,l)·γ^l·(1−γ)^(α−l)·e^((l−1)·ε(l)) ) / (α − 1).
    """
    none, some = _binomial_logs(orders, rate)
    size = np.arange(2, max(orders) + 1, dtype=np.float64)
    terms = np.column_stack([none, some + (size - 1) * steps[: len(size)]])
    found: NDArray[np.float64] = np.maximum(logsumexp(terms, axis=1), 0.0) / (np.asarray(orders) - 1)
    return found


@lru_cache(maxsize=16)
def _binomial_logs(orders: tuple[int, ...], rate: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each α, logs of P[Bin(α, γ) = l] summed over l = 0, 1, and for l = 2, 3, …, shape (orders, largest − 1)."""
    drawn, not_drawn = math.log(rate), math.log1p(-rate)
    alpha = np.asarray(orders, dtype=np.float64)[:, None]
    size = np.arange(2, max(orders) + 1, dtype=np.float64)[None, :]
    inside = size <= alpha
    left = np.where(inside, alpha - size, 0.0)
    binomial = gammaln(alpha + 1) - gammaln(size + 1) - gammaln(left + 1)
    some = np.where(inside, binomial + size * drawn + left * not_drawn, -math.inf)
    none = (alpha - 1) * not_drawn + np.log1p((alpha - 1) * rate)
    return none[:, 0], some


def check(event: Any) -> None:
    """Raise `UserError` unless ``event`` is of a known kind and its numbers are possible."""
    if not isinstance(event, SkellamEvent | DiscreteGaussianEvent):
        raise UserError(f"an event of type {type(event).__name__} has no accountant: it cannot be covered by ε")
    numbers = {"variance": event.variance, "delta1": event.delta1, "delta2": event.delta2}
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"{name} of an event is {value}: it must be finite and at least 0")
    if not (0 <= event.rate <= 1 and 0 <= event.failure < 1 and event.rounds >= 1):
        raise UserError(f"an event has a rate in [0, 1], a failure in [0, 1) and at least one round: {event}")
    if isinstance(event, DiscreteGaussianEvent) and not (event.honest >= 0 and event.dimension >= 1 and event.share >= 0):
        raise UserError(f"an event has at least 0 honest parties and one coordinate: {event}")
