"""ε of events of several kinds together: on Rényi orders that all kinds have, or with the accountant of DP-SGD alone.

Sources: integer noise as in `securefl.privacy.divergence`; DP-SGD by Opacus' RDP and PRV (`securefl.privacy.accountant`).
Composition: RDP is added order by order.  PRV is for events of DP-SGD only, as nobody has one for the others here.

What is approximate: where kinds are mixed, the orders are whole numbers, which costs up to 10 % of an ε below 10; above order 512
no amplification by sampling is claimed.  Every answer is an upper bound.

What it does not protect: events of two units together have no ε here; the caller keeps them apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from securefl.errors import UserError
from securefl.privacy import events
from securefl.privacy.divergence import ORDERS, SAMPLED_ORDERS, epsilon_of_events, epsilon_of_rdp, rdp_of
from securefl.privacy.divergence import Event as IntegerNoise
from securefl.privacy.events import Covered, DpSgdEvent, Event, ExactEvent


@dataclass(frozen=True)
class Spent:
    """ε at some δ, and the accountant that says so."""

    epsilon: float
    accountant: str


NOTHING = Spent(0.0, "rdp")


@dataclass(frozen=True)
class Before:
    """What was opened with noise before training, under one ε with it and of the same unit.

    Attributes:
        planned: as if the fewest sites had survived; the noise of training is made beside these.
        happened: what they turned out to cost, at no order more.
    """

    planned: tuple[IntegerNoise, ...] = ()
    happened: tuple[IntegerNoise, ...] = ()


ALONE = Before()
"""Nothing."""


def merged(happened: Iterable[tuple[Event, int]]) -> list[Covered]:
    """Events that happened so many times each, equal ones as one.

    Raises:
        UserError: for an exact event, or a kind or number that is not known.
    """
    counts = dict[Covered, int]()
    for event, times in happened:
        events.check(event)
        if isinstance(event, ExactEvent):
            raise UserError(f"what was opened exactly has no ε: {event.shows}")
        if isinstance(times, bool) or times < 1:
            raise UserError(f"an event happened {times} times: it must be at least once")
        one, number = _single(event)
        counts[one] = counts.get(one, 0) + number * times
    return [_repeated(event, times) for event, times in counts.items()]


def _single(event: Covered) -> tuple[Covered, int]:
    """One step or round of the event, and how many it has."""
    if isinstance(event, DpSgdEvent):
        return replace(event, steps=1), event.steps
    return replace(event, rounds=1, failure=event.failure / event.rounds), event.rounds  # the failure is that over all rounds


def _repeated(event: Covered, times: int) -> Covered:
    if isinstance(event, DpSgdEvent):
        return replace(event, steps=times)
    return replace(event, rounds=times, failure=event.failure * times)


def spent(happened: Iterable[tuple[Event, int]], delta: float, accountant: str = "rdp") -> Spent:
    """What events cost together.

    Args:
        happened: events of one unit, and how many times each happened.
        delta: δ in (0, 1).
        accountant: ``rdp``, or ``prv``, which is taken where all events are of DP-SGD; the answer says which it was.

    Raises:
        UserError: as `merged`; for δ out of range.
    """
    if not 0 < delta < 1:
        raise UserError(f"delta is {delta}: it must lie in (0, 1), both ends excluded")
    all_of_them = merged(happened)
    steps = tuple(event for event in all_of_them if isinstance(event, DpSgdEvent))
    noised = [event for event in all_of_them if not isinstance(event, DpSgdEvent)]
    if not all_of_them:
        return NOTHING
    if sum(event.failure for event in noised) >= delta:
        return Spent(math.inf, "rdp")
    if not steps:
        return Spent(epsilon_of_events(noised, delta), "rdp")
    if not noised:
        from securefl.privacy.accountant import check_accountant, epsilon_of_history  # noqa: PLC0415

        check_accountant(accountant)
        history = tuple((event.noise_multiplier, event.sample_rate, event.steps) for event in steps)
        return Spent(epsilon_of_history(history, delta, accountant), accountant)
    total = np.zeros(ORDERS.size)
    for step in steps:
        total += step.steps * rdp_of_step(step.noise_multiplier, step.sample_rate)
    for event in noised:
        total += event.rounds * rdp_of(event)
    return Spent(epsilon_of_rdp(total, delta - sum(event.failure for event in noised)), "rdp")


@lru_cache(maxsize=64)
def noise_beside(before: tuple[IntegerNoise, ...], *, epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The least noise multiplier, to a millionth, with which steps of DP-SGD keep within (ε, δ) together with ``before``, by RDP.

    Args:
        before: other events of the same unit.
        epsilon: ε over everything, > 0 and finite.
        delta: δ in (0, 1).
        sample_rate: probability in (0, 1] with which a record is in a batch.
        steps: of all models that one record takes part in.

    Raises:
        UserError: for a value out of range, or where no noise does.
    """
    from securefl.privacy.noise_plan import Unreachable, least  # noqa: PLC0415  (scipy's transforms load with it)

    if not (math.isfinite(epsilon) and epsilon > 0):
        raise UserError(f"epsilon is {epsilon}: it must be finite and above 0")

    def cost(variance: float) -> float:
        step = DpSgdEvent(math.sqrt(variance), sample_rate, steps)
        return spent([*((event, 1) for event in before), (step, 1)], delta).epsilon

    try:
        return math.sqrt(least(cost, epsilon, reach=(-40.0, 60.0))) * (1 + 2.0**-50)
    except Unreachable:
        raise UserError(
            f"epsilon {epsilon} with delta {delta} cannot be reached beside the noised statistics over {steps} steps at sampling "
            f"rate {sample_rate}: choose a larger epsilon, a lower rate or fewer steps"
        ) from None


@lru_cache(maxsize=256)
def rdp_of_step(noise_multiplier: float, sample_rate: float) -> NDArray[np.float64]:
    """RDP of one step of DP-SGD at `divergence.ORDERS`: Opacus' to `SAMPLED_ORDERS`, without amplification above."""
    if noise_multiplier == 0:
        return np.full(ORDERS.size, math.inf)
    whole: NDArray[np.float64] = ORDERS / (2 * noise_multiplier**2)
    if sample_rate == 1:
        return whole
    from opacus.accountants.analysis.rdp import compute_rdp  # noqa: PLC0415  (loads in 3 s)

    low, out = ORDERS <= SAMPLED_ORDERS, whole.copy()
    orders = [int(order) for order in ORDERS[low]]
    found = np.asarray(compute_rdp(q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=orders), dtype=np.float64)
    out[low] = np.where(np.isfinite(found), np.minimum(found, whole[low]), whole[low])
    return out
