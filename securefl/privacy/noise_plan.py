"""How much integer noise every party adds, on which grid, and how many bits a value then needs: computed, or refused.

Source: Kairouz, Liu and Steinke (ICML 2021, arXiv 2102.06387), Agarwal, Kairouz and Liu (NeurIPS 2021).  Different here: the
granularity follows from what it costs in noise and not from a number of bits; the width from a Chernoff bound over signal and
noise together, with rounding taken at its worst.

Only honest survivors' noise counts, as colluders omit or subtract theirs: shares are sized for the smallest number of survivors
that opens a sum, less the corrupt.  Fewer survivors cost more ε, and `NoisePlan.event` says it.

What it does not protect: a wrapped-around value spoils a coordinate and no privacy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from securefl.errors import UserError
from securefl.privacy.divergence import DiscreteGaussianEvent, Event, SkellamEvent, epsilon_of_events
from securefl.privacy.rounding import norm_bounds, padded

Kind = Literal["skellam", "discrete-gaussian"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WRAP = 2.0**-20
"""Largest probability that any value of any round wraps around."""
LOSS = 0.01
"""What grid and rounding may add to the standard deviation, as a share of that of continuous noise."""
BITS = 62
"""Widest ring."""
LARGEST_SHARE = 2.0**51
"""Largest variance, in squared steps, that there is a sampler of every kind for."""


@dataclass(frozen=True)
class Cohort:
    """Who takes part.

    Attributes:
        clients: n, parties invited, at least 2.
        smallest: survivors below whom no sum is opened.
        corrupt: |C|, parties that may omit their noise.

    Raises:
        UserError: where that leaves no honest survivor, or is impossible.
    """

    clients: int
    smallest: int
    corrupt: int = 0

    def __post_init__(self) -> None:
        if self.clients < 2:
            raise UserError(f"a secure sum needs at least 2 parties, not {self.clients}")
        if not 0 <= self.corrupt < self.clients:
            raise UserError(f"of {self.clients} parties 0 to {self.clients - 1} may be corrupt, not {self.corrupt}")
        if not 1 <= self.smallest <= self.clients:
            raise UserError(f"of {self.clients} parties 1 to {self.clients} may be the fewest survivors, not {self.smallest}")
        if self.honest < 1:
            raise UserError(
                f"{self.smallest} of {self.clients} parties survive at least and {self.corrupt} may be corrupt: "
                f"no honest noise is left; at least {self.corrupt + 1} must survive"
            )

    @classmethod
    def of(cls, clients: int, *, corrupt: int = 0, dropouts: int = 0) -> Cohort:
        """At most ``dropouts`` of the parties vanish."""
        if dropouts < 0:
            raise UserError(f"the number of dropouts is {dropouts}: 0 to {clients - 1} of {clients} parties are allowed")
        if clients >= 2 and dropouts + corrupt >= clients:
            raise UserError(
                f"{corrupt} corrupt parties and {dropouts} dropouts leave no honest noise of {clients} parties: "
                f"together they must be at most {clients - 1}"
            )
        return cls(clients, clients - dropouts, corrupt)

    @property
    def honest(self) -> int:
        """Parties whose noise is counted on."""
        return self.smallest - self.corrupt


class SumPlan:
    """What plans of noise in a sum have in common, whatever one ε protects: `NoisePlan`, and `RecordPlan` of the module beside."""

    kind: Kind
    cohort: Cohort
    epsilon: float
    delta: float
    rounds: int
    size: int
    share: float

    @property
    def dimension(self) -> int:
        """d, coordinates after padding."""
        return padded(self.size)

    @property
    def sampled(self) -> tuple[int, float, float]:
        """Of what ε protects: in how many sums of a round it is, at which rate, and how probably it is more than `bounds`."""
        return 1, 1.0, 0.0

    @property
    def earlier(self) -> tuple[Event, ...]:
        """What ε covers beside the rounds."""
        return ()

    @property
    def bounds(self) -> tuple[int, float, float]:
        """⌊Δ2²⌋, Δ2 and Δ1 of what is protected, in steps."""
        raise NotImplementedError

    def deviation(self, survivors: int) -> float:
        """Standard deviation of one coordinate of the mean over ``survivors``."""
        raise NotImplementedError

    def event(self, survivors: int, rounds: int = 1) -> Event:
        """What ``rounds`` sums over ``survivors`` parties cost: infinitely much where no honest noise is left."""
        _, delta2, delta1 = self.bounds
        each, rate, beta = self.sampled
        sums, honest = rounds * each, max(survivors - self.cohort.corrupt, 0)
        if self.kind == "skellam":
            return SkellamEvent(honest * self.share, delta1, delta2, sums, rate, sums * beta)
        return DiscreteGaussianEvent(self.share, honest, self.dimension, delta1, delta2, sums, rate, sums * beta)

    def spent(self, survivors: int, rounds: int | None = None) -> float:
        """ε at the plan's δ after so many rounds (all of them by default) in which so many survived, and what was before."""
        return epsilon_of_events([*self.earlier, self.event(survivors, rounds or self.rounds)], self.delta)

    def error(self, survivors: int) -> float:
        """Root of the expected squared L2 norm of the error of the mean."""
        return self.deviation(survivors) * math.sqrt(self.size)

    def check(self, units: int, of: str, clip: float) -> None:
        """Raise `UserError` where a number is out of its range; ``units`` of what ε protects, named ``of``."""
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise UserError(f"epsilon is {self.epsilon}: it must be finite and above 0")
        if not 0 < self.delta < 1 / units:
            raise UserError(f"delta is {self.delta}: it must lie below 1 over the number of {of}, {1 / units:g}, and above 0")
        if not 1 <= self.size <= 1 << 30:
            raise UserError(f"the dimension is {self.size}: it must be 1 to 2^30")
        if not 2.0**-200 < clip < 2.0**200:
            raise UserError(f"the clipping bound is {clip}: it must be above 0 and finite")
        if self.kind not in KINDS:
            raise UserError(f"the noise is {self.kind!r}: it must be one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class NoisePlan(SumPlan):
    """Public, the same for all parties, fixed before a round.

    Attributes:
        kind: ``skellam`` or ``discrete-gaussian``.
        cohort: who takes part.
        epsilon, delta: what all rounds together cost where the fewest survive; the unit is a party, added or removed.
        rounds: sums that are opened.
        size: coordinates of an update.
        clip: L2 bound of an update, > 0, in units of the update.
        granularity: g, one step of the grid, in units of the update.
        share: variance of one party's noise a coordinate, in squared steps.
        bits: width of a value of the sum.
        wrap: bound of the probability that any value of any round wraps around.
    """

    kind: Kind
    cohort: Cohort
    epsilon: float
    delta: float
    rounds: int
    size: int
    clip: float
    granularity: float
    share: float
    bits: int = 0
    wrap: float = 1.0

    @property
    def radius(self) -> float:
        """Δ: the clipping bound in steps of the grid."""
        return self.clip / self.granularity

    @cached_property
    def bounds(self) -> tuple[int, float, float]:
        """⌊Δ2²⌋, Δ2 and Δ1 of a rounded update, in steps."""
        return norm_bounds(self.radius, self.dimension)

    def deviation(self, survivors: int) -> float:
        """Standard deviation of one coordinate of the mean update over ``survivors``, in units of the update.

        Noise of all of them, and rounding at its worst (¼ a party); clipping and the bias of the condition on the rounding are
        not in it.
        """
        return self.granularity * math.sqrt((self.share + 0.25) / survivors)


def calibrate_distributed(
    *,
    epsilon: float,
    delta: float,
    cohort: Cohort,
    rounds: int,
    size: int,
    clip: float,
    kind: Kind = "skellam",
    bits: int | None = None,
    granularity: float | None = None,
) -> NoisePlan:
    """The least noise that keeps all rounds within (ε, δ) for a party, and the grid and width for it.

    Args:
        epsilon: ε over all rounds, > 0 and finite.
        delta: δ in (0, 1/n): with more, giving away a party now and then would pass for private.
        cohort: who takes part.
        rounds: sums that are opened, at least 1.
        size: coordinates of an update, at least 1.
        clip: L2 bound of an update, > 0 and finite.
        kind: law of the noise.
        bits: width of a value; None for the least that does.
        granularity: step of the grid; None for the coarsest that costs at most `LOSS` of the standard deviation.

    Raises:
        UserError: for a value out of range, an ε that cannot be reached, or a width in which a value would wrap around with a
            probability above `WRAP`.
    """
    draft = NoisePlan(kind, cohort, epsilon, delta, rounds, size, clip, 1.0, 1.0)
    draft.check(cohort.clients, "parties", clip)
    if rounds < 1:
        raise UserError(f"rounds is {rounds}: it must be at least 1")
    try:
        plan = _on_grid(draft, granularity) if granularity is not None else _coarsest(draft)
    except Unreachable:
        raise UserError(
            f"epsilon {epsilon} with delta {delta} cannot be reached over {rounds} rounds of {kind} noise: "
            f"choose a larger epsilon or fewer rounds"
        ) from None
    return _wide_enough(plan, bits)


class Unreachable(Exception):
    """No amount of noise does."""


def _on_grid(draft: NoisePlan, granularity: float) -> NoisePlan:
    """The draft with this granularity and the least share for it."""
    if not (math.isfinite(granularity) and granularity > 0 and draft.clip / granularity < 2.0**30):
        raise UserError(f"the granularity is {granularity}: it must lie between {draft.clip * 2.0**-30:g} and infinity")
    plan = replace(draft, granularity=granularity)
    fewest = plan.cohort.smallest
    share = least(lambda share: replace(plan, share=share).spent(fewest), plan.epsilon)
    if share > LARGEST_SHARE:
        raise UserError(
            f"every party's noise would have a standard deviation of {math.sqrt(share):.3g} steps, more than "
            f"{math.sqrt(LARGEST_SHARE):.3g}: choose a larger epsilon, fewer rounds or a coarser granularity"
        )
    return replace(plan, share=share)


def _coarsest(draft: NoisePlan) -> NoisePlan:
    """The coarsest grid, by factors of √2, on which noise and rounding exceed continuous noise by at most `LOSS`."""
    continuous = draft.clip**2 * continuous_variance(draft.epsilon, draft.delta, draft.rounds) / draft.cohort.honest
    start = max(math.sqrt(draft.dimension) / 2, 1.0)
    for step in range(60):
        plan = _on_grid(draft, draft.clip / (start * 2 ** (step / 2)))
        if plan.granularity**2 * (plan.share + 0.25) <= (1 + LOSS) ** 2 * continuous:
            break
    return plan


def continuous_variance(epsilon: float, delta: float, rounds: int) -> float:
    """Variance of Gaussian noise for sensitivity 1 at the same (ε, δ), by the same accountant."""
    return least(
        lambda variance: epsilon_of_events([DiscreteGaussianEvent(variance, 1, 1, 1.0, 1.0, rounds)], delta),
        epsilon,
    )


def least(cost: Callable[[float], float], epsilon: float, reach: tuple[float, float] = (-60.0, 200.0)) -> float:
    """The least variance with ``cost`` at most ``epsilon``, to a millionth, never below it.

    Args:
        cost: ε of a variance, not increasing.
        epsilon: target.
        reach: log2 of the smallest and the largest variance that are looked at.

    Raises:
        Unreachable: where no noise does.
    """
    low, high = reach
    if not cost(2.0**high) <= epsilon:
        raise Unreachable
    while high - low > 2.0**-20:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(2.0**middle) <= epsilon else (middle, high)
    return float(2.0**high)


def _wide_enough(plan: NoisePlan, bits: int | None) -> NoisePlan:
    """The plan with its width: ``bits``, or the least that does."""
    least = next((b for b in range(2, BITS + 1) if wrap_bound(plan, b) <= WRAP), None)
    if least is None:
        raise UserError(
            f"values would need more than {BITS} bits: {plan.cohort.clients} updates of norm {plan.radius:.3g} steps each, "
            f"and noise of standard deviation {math.sqrt(plan.share * plan.cohort.clients):.3g}; choose a coarser granularity"
        )
    if bits is not None and not least <= bits <= BITS:
        raise UserError(f"{bits} bits are not enough or too many: this noise needs {least} to {BITS}, for wrap-around below 2^-20")
    width = least if bits is None else bits
    return replace(plan, bits=width, wrap=wrap_bound(plan, width))


def wrap_bound(plan: NoisePlan, bits: int) -> float:
    """Bound of the probability that any of all rounds' values leaves ±2^(bits−1), where all parties survive."""
    n = plan.cohort.clients
    return wrap_probability(plan.kind, n, n * plan.share, n * plan.radius, plan.dimension, plan.rounds, bits)


def wrap_probability(kind: Kind, parties: int, noise: float, signal: float, dimension: int, sums: int, bits: int) -> float:
    """Bound of the probability that any value of any sum leaves ±2^(bits−1).

    Chernoff, over the random signs of the rotation (which make a coordinate of the rotated sum sub-Gaussian with variance
    signal²/d, and at most signal) and the noise of all parties; rounding moves a sum by less than their number.

    Args:
        kind: law of the noise.
        parties: n.
        noise: variance of all noise in a value.
        signal: L2 norm of what is added up, in steps.
        dimension: values of a sum, after padding.
        sums: how many.
        bits: width of a value.
    """
    room = 2.0 ** (bits - 1) - 1 - parties
    if room <= 0:
        return 1.0
    s = np.geomspace(2.0**-70, 30.0, 8000)
    grown = np.minimum(s * signal, (s * signal) ** 2 / (2 * dimension))
    spread = noise * 2 * np.sinh(s / 2) ** 2 if kind == "skellam" else noise * s**2 / 2  # cosh s − 1 = 2 sinh²(s/2)
    exponent = float((grown + spread - s * room).min())
    return min(1.0, math.exp(min(exponent + math.log(2.0 * dimension * sums), 0.0)))
