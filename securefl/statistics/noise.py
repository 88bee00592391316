"""How much noise every site adds to a vector of sums over records, and how one ε is split among the questions in it.

All questions are one vector, opened by one secure sum: each is scaled to the same squared sensitivity, as one Gaussian mechanism
would split its privacy loss.  Noise is Skellam noise in integers, sized for the honest of the fewest survivors, as for training
(`securefl.privacy.noise_plan`); sums over records are exact in integers, so neither rotation nor a failure of rounding is in it.

What it does not protect: the number of sites in the sum is public; everything else that leaves is noised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from securefl.errors import UserError
from securefl.privacy.divergence import SkellamEvent, epsilon_of_events
from securefl.privacy.noise_plan import BITS, LARGEST_SHARE, Cohort, Unreachable, least
from securefl.statistics.questions import Question

FINEST, COARSEST = 2**16, 2**6
"""Steps of the grid in the norm of one question: the first for which noise is not too large for its sampler."""
WRAP_LOG2 = -40
"""log2 of the largest probability that any sum wraps around."""


@dataclass(frozen=True)
class StatisticsPlan:
    """Public, the same for all sites.

    Attributes:
        cohort: sites invited, fewest survivors, corrupt.
        epsilon, delta: what the whole vector costs a record where the fewest survive.
        sizes, scales: of each question.
        squares: each question's squared L2 sensitivity, in squared steps.
        delta1: L1 sensitivity of the vector, in steps.
        share: variance of one site's noise a sum, in squared steps.
        bits: width of a sum.
    """

    cohort: Cohort
    epsilon: float
    delta: float
    sizes: tuple[int, ...]
    scales: tuple[int, ...]
    squares: tuple[int, ...]
    delta1: float
    share: float
    bits: int

    @property
    def size(self) -> int:
        """Number of sums."""
        return sum(self.sizes)

    @property
    def tail(self) -> int:
        """What is left of the ring: only the whole sum must fit."""
        return int(2 ** (self.bits - 1)) - 1 - self.cohort.clients

    @property
    def split(self) -> tuple[float, ...]:
        """Each question's share of the squared sensitivity, hence of what zCDP would call the budget; they add up to 1."""
        return tuple(square / sum(self.squares) for square in self.squares)

    def scaled(self, questions: Sequence[Question]) -> list[tuple[Question, int]]:
        """Each question with its scale."""
        return list(zip(questions, self.scales, strict=True))

    def event(self, survivors: int) -> SkellamEvent:
        """What the sum over so many sites costs a record."""
        honest = max(survivors - self.cohort.corrupt, 0)
        return SkellamEvent(honest * self.share, self.delta1, math.sqrt(sum(self.squares)) * (1 + 2.0**-50))

    def spent(self, survivors: int) -> float:
        """ε at the plan's δ."""
        return epsilon_of_events([self.event(survivors)], self.delta)

    def deviation(self, survivors: int, question: int) -> float:
        """Standard deviation of the noise in one sum of a question, in units of its sums."""
        return math.sqrt(survivors * self.share) / self.scales[question]


def planned(questions: Sequence[Question], cohort: Cohort, rows_max: int, *, epsilon: float, delta: float) -> StatisticsPlan:
    """The least noise for ε and δ, on the finest grid that its sampler allows.

    Args:
        questions: what is asked.
        cohort: who takes part.
        rows_max: public bound of a site's rows.
        epsilon: ε for one record, over all questions.
        delta: δ, likewise.

    Raises:
        UserError: for a value out of range, or an ε that cannot be reached.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise UserError(f"epsilon is {epsilon}: it must be finite and above 0")
    if not 0 < delta < 1:
        raise UserError(f"delta is {delta}: it must lie in (0, 1), both ends excluded")
    if not questions:
        raise UserError("nothing is asked")
    steps = FINEST
    while steps >= COARSEST:
        scales = tuple(max(2 * math.floor(steps / math.sqrt(question.square) / 2), 2) for question in questions)
        squares = tuple(math.ceil(question.square * scale**2) for question, scale in zip(questions, scales, strict=True))
        one = float(sum(question.one * scale for question, scale in zip(questions, scales, strict=True)))
        share = _share(math.sqrt(sum(squares)), one, cohort, epsilon, delta)
        if share <= LARGEST_SHARE:
            sizes = tuple(question.size for question in questions)
            bits = _bits(cohort, max(scales) * rows_max, share, sum(sizes))
            return StatisticsPlan(cohort, epsilon, delta, sizes, scales, squares, one, share, bits)
        steps //= 2
    raise UserError(f"epsilon {epsilon} needs more noise than there is a sampler for: ask less, or choose a larger epsilon")


def _share(two: float, one: float, cohort: Cohort, epsilon: float, delta: float) -> float:
    try:
        variance = least(lambda variance: epsilon_of_events([SkellamEvent(variance, one, two * (1 + 2.0**-50))], delta), epsilon)
    except Unreachable:
        raise UserError(f"epsilon {epsilon} with delta {delta} cannot be reached with any noise: choose a larger epsilon") from None
    return variance / cohort.honest * (1 + 2.0**-50)


def _bits(cohort: Cohort, largest: int, share: float, size: int) -> int:
    """Width in which every sum of all sites and its noise fit, but for `WRAP_LOG2`: a Chernoff bound of Skellam noise."""
    s, total = np.geomspace(2.0**-70, 30.0, 8000), cohort.clients * share
    growth = total * 2 * np.sinh(s / 2) ** 2  # cosh s − 1
    reach = float(((growth + math.log(2 * size) - WRAP_LOG2 * math.log(2)) / s).min())
    bits = (cohort.clients * (largest + 1) + math.ceil(reach)).bit_length() + 1
    if bits > BITS:
        raise UserError(f"sums would need {bits} bits, more than {BITS}: lower rows_max")
    return bits
