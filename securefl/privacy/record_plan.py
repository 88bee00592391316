"""How much integer noise every party adds to a sum over records, on which grid, and how many bits a value then needs.

One step of secure DP-SGD: every party adds up the clipped gradients of a Poisson sample of its records in whole numbers, rotates
the sum exactly, rounds it without a condition, and adds its share of noise.  Neighbours differ in one record, there or not.

Sources: as `securefl.privacy.noise_plan`; Poisson sampling by Zhu and Wang (ICML 2019).

What is exact: the norm of a record's whole numbers, their sum, its rotation and rounding; so the sensitivity holds but for the
probability `RecordPlan.beta` a sum over the rounding, which goes off δ.

What it does not protect: amplification by sampling holds against those who do not learn who was drawn; each site knows its own
draw.  A wrapped-around value spoils a coordinate and no privacy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from securefl.errors import UserError
from securefl.privacy.divergence import Event, SkellamEvent, epsilon_of_events
from securefl.privacy.noise_plan import (
    BITS,
    LARGEST_SHARE,
    LOSS,
    WRAP,
    Cohort,
    Kind,
    SumPlan,
    Unreachable,
    least,
    wrap_probability,
)
from securefl.privacy.rounding import norm_bounds

FIXED = 2.0**22
"""The bound of a record's gradient is between half of this and this many whole numbers."""
BETA = 2.0**-40
"""Largest probability, a sum, that rounding makes more of a record than the accountant is told."""
OFF_DELTA = 2.0**-10
"""Largest share of δ that such roundings may take, over all rounds."""
HEADROOM = 2
"""The width has room for a sample of this many times the public number of rows."""


@dataclass(frozen=True)
class RecordPlan(SumPlan):
    """Public, the same for all parties, fixed before training.

    Attributes:
        kind: ``skellam`` or ``discrete-gaussian``.
        cohort: who takes part.
        epsilon, delta: what all rounds cost one record where the fewest survive.
        rounds: steps; each opens one sum a model.
        size: coordinates of a gradient.
        clip: L2 bound of a record's gradient, > 0.
        rate: probability with which a record is in a step's sample, in (0, 1].
        rows: public, expected number of rows a party.
        models: trained side by side, each with a sample, a rounding and noise of its own.
        models_per_record: in how many of them a record takes part.
        fixed: bound of the L2 norm of a record's gradient in whole numbers.
        shift: log2 of √d times a step of the grid, in whole numbers.
        share: variance of one party's noise a coordinate, in squared steps.
        bits: width of a value of the sum.
        wrap: bound of the probability that any value of any round wraps around.
        before: what ε covers beside the rounds, for every record once.
    """

    kind: Kind
    cohort: Cohort
    epsilon: float
    delta: float
    rounds: int
    size: int
    clip: float
    rate: float
    rows: int
    models: int = 1
    models_per_record: int = 1
    fixed: int = int(FIXED)
    shift: int = 0
    share: float = 0.0
    bits: int = 0
    wrap: float = 1.0
    before: tuple[Event, ...] = ()

    @property
    def inner(self) -> float:
        """What the clipping bound is in whole numbers: rounding to them adds at most √d/2 to a norm."""
        return self.fixed - math.sqrt(self.dimension) / 2 - 1

    @property
    def radius(self) -> float:
        """Δ: the bound of a record's gradient in steps of the grid."""
        return math.sqrt(self.dimension) * self.fixed * 2.0**-self.shift

    @property
    def granularity(self) -> float:
        """g, one step of the grid, in units of the gradient."""
        return self.clip / self.inner * 2.0**self.shift / math.sqrt(self.dimension)

    @property
    def steps(self) -> int:
        """Sums over all rounds that a record may be in."""
        return self.rounds * self.models_per_record

    @property
    def beta(self) -> float:
        """Probability, a sum, over the rounding, that a record moves it by more than `bounds`."""
        return min(BETA, OFF_DELTA * self.delta / self.steps)

    @property
    def sampled(self) -> tuple[int, float, float]:
        """In how many sums of a round a record may be, at which rate, and `beta`."""
        return self.models_per_record, self.rate, self.beta

    @property
    def earlier(self) -> tuple[Event, ...]:
        """`before`."""
        return self.before

    @property
    def records(self) -> int:
        """N: public, expected number of rows of all parties."""
        return self.rows * self.cohort.clients

    @cached_property
    def bounds(self) -> tuple[int, float, float]:
        """⌊Δ2²⌋, Δ2 and Δ1 of what one record moves a sum by, in steps."""
        return norm_bounds(self.radius, self.dimension, self.beta)

    def expected_batch(self, survivors: int) -> float:
        """What the noised sum is divided by: the rate times the public number of rows of those in the sum."""
        return self.rate * self.rows * survivors

    def noise_multiplier(self, survivors: int) -> float:
        """Standard deviation of the noise in a sum over ``survivors``, divided by the clip."""
        return self.granularity * math.sqrt(self.share * survivors) / self.clip

    def deviation(self, survivors: int) -> float:
        """Standard deviation of one coordinate of the mean gradient: noise, and rounding at its worst (¼ a party)."""
        return self.granularity * math.sqrt((self.share + 0.25) * survivors) / self.expected_batch(survivors)


def calibrate_records(
    *,
    epsilon: float,
    delta: float,
    cohort: Cohort,
    rounds: int,
    size: int,
    clip: float,
    rate: float,
    rows: int,
    models: int = 1,
    models_per_record: int = 1,
    kind: Kind = "skellam",
    before: tuple[Event, ...] = (),
) -> RecordPlan:
    """The least noise that keeps all rounds within (ε, δ) for a record, and the grid and width for it.

    Args:
        epsilon: ε over all rounds, > 0 and finite.
        delta: δ in (0, 1/N): with more, giving away a record now and then would pass for private.
        cohort: who takes part.
        rounds: steps, at least 1.
        size: coordinates of a gradient, at least 1.
        clip: L2 bound of a record's gradient, > 0 and finite.
        rate: probability in (0, 1] with which a record is in a step's sample.
        rows: public, expected number of rows a party, at least 1.
        models: trained side by side.
        models_per_record: in how many of them a record takes part.
        kind: law of the noise.
        before: what ε covers beside the rounds, for every record once.

    Raises:
        UserError: for a value out of range, or an ε that cannot be reached.
    """
    draft = RecordPlan(kind, cohort, epsilon, delta, rounds, size, clip, rate, rows, models, models_per_record, before=before)
    check_records(draft)
    try:
        plan = _coarsest(draft)
    except Unreachable:
        raise UserError(
            f"epsilon {epsilon} with delta {delta} cannot be reached over {draft.steps} steps of {kind} noise at "
            f"sampling rate {rate}: choose a larger epsilon, a lower rate or fewer rounds"
        ) from None
    return wide_enough(plan)


def check_records(draft: RecordPlan) -> None:
    """Raise `UserError` where a number of the plan is out of its range."""
    if not 0 < draft.rate <= 1:
        raise UserError(f"the sampling rate is {draft.rate}: it must lie in (0, 1]")
    if draft.rows < 1:
        raise UserError(f"the public number of rows a party is {draft.rows}: it must be at least 1")
    draft.check(draft.records, "records", draft.clip)
    if draft.rounds < 1 or not 1 <= draft.models_per_record <= draft.models:
        raise UserError(
            f"{draft.rounds} rounds of {draft.models} models, {draft.models_per_record} of them with a record: at least 1 each, "
            "and no more with a record than there are"
        )


def on_radius(draft: RecordPlan, radius: float) -> RecordPlan:
    """The draft on the grid on which a record's bound is about ``radius`` steps.

    Raises:
        UserError: for a grid finer than the whole numbers.
    """
    root = math.sqrt(draft.dimension)
    shift = math.floor(math.log2(FIXED * root / radius))
    if shift < 0:
        raise UserError(f"a record's bound would be {radius:.3g} steps of the grid: choose a smaller epsilon or more rounds")
    return replace(draft, fixed=math.floor(radius * 2.0**shift / root), shift=shift)


def _coarsest(draft: RecordPlan) -> RecordPlan:
    """The coarsest grid, by factors of √2, on which noise and rounding exceed continuous noise by at most `LOSS`."""
    fewest, honest = draft.cohort.smallest, draft.cohort.honest
    continuous = draft.clip**2 * continuous_variance(draft) / honest
    start = max(math.sqrt(draft.dimension), 1.0)
    for step in range(60):
        plan = on_radius(draft, start * 2 ** (step / 2))
        if plan.bounds[1] > (1 + LOSS) * plan.radius and step < 59:
            continue  # the noise follows the norm after rounding
        share = least(lambda share, on=plan: replace(on, share=share).spent(fewest), plan.epsilon)  # type: ignore[misc]
        plan = replace(plan, share=share)
        if plan.granularity**2 * (share + 0.25) <= (1 + LOSS) ** 2 * continuous:
            break
    if plan.share > LARGEST_SHARE:
        raise Unreachable
    return plan


def continuous_variance(draft: RecordPlan) -> float:
    """Variance of Gaussian noise for sensitivity 1 at the same (ε, δ), steps and rate, beside the same, by the same accountant."""

    def cost(variance: float) -> float:
        return epsilon_of_events([*draft.before, SkellamEvent(variance, 0.0, 1.0, draft.steps, draft.rate)], draft.delta)

    return least(cost, draft.epsilon)


def wide_enough(plan: RecordPlan) -> RecordPlan:
    """The plan with the least width in which values wrap around with probability at most `WRAP`.

    Raises:
        UserError: where that is more than `BITS`.
    """
    sums = plan.rounds * plan.models
    log = math.log(sums * 2 / WRAP)  # half of WRAP is for larger samples
    mean = HEADROOM * plan.rate * plan.records
    most = mean + math.sqrt(2 * mean * log) + log  # Bernstein, for a Poisson sample
    n = plan.cohort.clients
    for bits in range(2, BITS + 1):
        wrap = wrap_probability(plan.kind, n, n * plan.share, most * plan.radius, plan.dimension, sums, bits) + WRAP / 2
        if wrap <= WRAP:
            return replace(plan, bits=bits, wrap=wrap)
    raise UserError(
        f"values would need more than {BITS} bits: a sample of up to {most:.0f} records, each of {plan.radius:.3g} steps, and "
        f"noise of standard deviation {math.sqrt(plan.share * n):.3g}"
    )
