"""How many sites a round needs, and how likely it is that too few stay."""

from __future__ import annotations

from protocols.he_parameters import OPENERS, HeParameters
from protocols.plugins import AUTO
from protocols.primitives.graph import Harary
from protocols.suite import SumParameters
from protocols.sums import Scheme, scheme
from securefl.errors import UserError
from securefl.job import Job
from securefl.knobs import PrivacyKnobs


def cohort_size(knobs: PrivacyKnobs, registered: int) -> int:
    """How many of the registered a round invites.

    Raises:
        UserError: where that is more than there are.
    """
    count = knobs.clients_per_round or registered
    if count > registered:
        raise UserError(f"privacy.clients_per_round is {count}: it must be 2 to {registered}, the number of sites")
    return count


def smallest_cohort(knobs: PrivacyKnobs, parties: int) -> int:
    """The smallest set of parties that every party goes along with: the threshold, or a larger ``min_cohort``.

    Raises:
        UserError: where that is more than there are.
        Misuse: for a threshold that is not safe with so many parties.
    """
    if (knobs.min_cohort or 0) > parties:
        raise UserError(f"privacy.min_cohort is {knobs.min_cohort}, but only {parties} sites are invited: no round could finish")
    return max(_parameters(knobs, parties).threshold, knobs.min_cohort or 0)


def expected_aborts(job: Job, parties: int) -> float:
    """How many of the job's rounds are expected to abort because too few parties stay; errors as for `abort_probability`."""
    return job.privacy.rounds * abort_probability(job.privacy, parties, job.simulation.dropout)


def abort_probability(knobs: PrivacyKnobs, parties: int, dropout: float) -> float:
    """Probability that a round aborts if each party vanishes with probability ``dropout``, before a random one of its messages.

    Who vanishes before the masked vector leaves is not in the sum; who vanishes later is, and does not help to open it.  A round
    ends well if the smallest cohort is in the sum and the threshold stays to the end, or, under homomorphic encryption, agrees and
    two openers answer.  On a sparse graph it is an upper bound, as neighbourhoods may run short too.

    Raises:
        UserError, Misuse: as for `smallest_cohort`.
    """
    from scipy.stats import binom  # noqa: PLC0415

    parameters = _parameters(knobs, parties)
    cohort, threshold, early = smallest_cohort(knobs, parties), parameters.threshold, _share_before_the_sum(knobs)
    least = cohort if early < 1 else threshold  # who sends nothing after its vector never hears who stayed
    in_sum, stay = 1 - dropout * early, 1 - dropout
    well = 0.0
    for k in range(least, parties + 1):
        in_time = float(binom.pmf(k, parties, in_sum))
        if isinstance(parameters, HeParameters):  # who agreed, and enough of those chosen to open
            agreed = 1 - dropout * (1 - 1 / len(short_sums(knobs).flow.messages("server")))
            for m in range(threshold, k + 1):
                opened = float(binom.sf(1, min(OPENERS, m), stay / agreed))
                well += in_time * float(binom.pmf(m, k, agreed / in_sum)) * opened
        else:
            well += in_time * float(binom.sf(threshold - 1, k, stay / in_sum))
    bound = max(0.0, 1 - well)
    graph = getattr(parameters, "graph", None)
    if isinstance(graph, Harary):  # too few in some neighbourhood, or at some place of the ring
        bound += parties * float(binom.cdf(graph.threshold - 1, graph.degree, stay))
        bound += parties * float(binom.cdf(graph.gap, graph.degree // 2, stay)) if graph.gap is not None else 0.0
    return min(1.0, bound)


def _parameters(knobs: PrivacyKnobs, parties: int) -> SumParameters:
    return short_sums(knobs).parameters(parties, 1, 1, threshold=knobs.threshold)


def short_sums(knobs: PrivacyKnobs) -> Scheme:
    """The protocol of a job's short sums: with ``auto`` that is secagg.

    What ``auto`` takes for long ones has the same thresholds, number of stages and policy.
    """
    return scheme("secagg" if knobs.protocol == AUTO else knobs.protocol)


def _share_before_the_sum(knobs: PrivacyKnobs) -> float:
    """Share of a party's messages up to the one that spends its input."""
    flow = short_sums(knobs).flow
    stages = flow.messages("server")
    (spending,) = (step for step in flow.of("client") if step.spends)
    last = max(stages.index(port.type) for port in spending.gives if port.type in stages)
    return (last + 1) / len(stages)
