"""How many sites a round needs, and how likely it is that too few stay."""

from __future__ import annotations

from protocols.sums import scheme
from securefl.errors import UserError
from securefl.job import PrivacyKnobs


def smallest_cohort(knobs: PrivacyKnobs, parties: int) -> int:
    """The smallest set of parties that every party goes along with: the threshold, or a larger ``min_cohort``.

    Raises:
        UserError: where that is more than there are.
        Misuse: for a threshold that is not safe with so many parties.
    """
    if (knobs.min_cohort or 0) > parties:
        raise UserError(f"privacy.min_cohort is {knobs.min_cohort}, but only {parties} sites are invited: no round could finish")
    return max(_threshold(knobs, parties), knobs.min_cohort or 0)


def abort_probability(knobs: PrivacyKnobs, parties: int, dropout: float) -> float:
    """Probability that a round aborts if each party vanishes with probability ``dropout``, before a random one of its messages.

    Who vanishes before the masked vector leaves is not in the sum; who vanishes later is, and does not help to open it.  A round
    ends well if the smallest cohort is in the sum and the threshold stays to the end.

    Raises:
        UserError, Misuse: as for `smallest_cohort`.
    """
    from scipy.stats import binom  # noqa: PLC0415

    cohort, threshold, early = smallest_cohort(knobs, parties), _threshold(knobs, parties), _share_before_the_sum(knobs)
    least = cohort if early < 1 else threshold  # who sends nothing after its vector never hears who stayed
    in_sum = 1 - dropout * early
    sizes = range(least, parties + 1)
    well = sum(binom.pmf(k, parties, in_sum) * binom.sf(threshold - 1, k, (1 - dropout) / in_sum) for k in sizes)
    return max(0.0, 1 - float(well))


def _threshold(knobs: PrivacyKnobs, parties: int) -> int:
    return scheme(knobs.protocol).parameters(parties, 1, 1, threshold=knobs.threshold).threshold


def _share_before_the_sum(knobs: PrivacyKnobs) -> float:
    """Share of a party's messages up to the one that spends its input."""
    flow = scheme(knobs.protocol).flow
    stages = flow.messages("server")
    (spending,) = (step for step in flow.of("client") if step.spends)
    last = max(stages.index(port.type) for port in spending.gives if port.type in stages)
    return (last + 1) / len(stages)
