"""How many parties a round needs, against all outcomes of small federations and against real rounds."""

from __future__ import annotations

from itertools import combinations, product
from math import prod

import pytest
from made_sites import FEATURES, job, sites
from torch import nn

from protocols.errors import Misuse
from protocols.sums import SCHEMES, scheme
from securefl import Runner, UserError
from securefl.cohort import abort_probability, expected_aborts, smallest_cohort

EARLY = {"secagg": ("Advert", "Boxes", "Masked"), "lightsecagg": ("KeyAdvert", "Shares", "Padded"), "plain-insecure": ("Clear",)}
LATE = {"secagg": ("Agree", "Openings"), "lightsecagg": ("Agree", "Answer"), "plain-insecure": ()}
EARLY["secagg+"], LATE["secagg+"] = EARLY["secagg"], LATE["secagg"]
EARLY["kahe"], LATE["kahe"] = ("Advert", "Boxes", "Enciphered"), LATE["secagg"]
for homomorphic in ("bfv", "ckks"):
    EARLY[homomorphic], LATE[homomorphic] = ("KeyAdvert", "Dealt", "Upload"), ("Agree", "Decrypted")


def opened_by_three(parties: int, threshold: int, cohort: int, dropout: float) -> float:
    """The same where the three openers are drawn from those who agreed, and two of them must answer: over all 4^n ways."""
    chance = {"stays": 1 - dropout, "early": dropout * 3 / 5, "agree": dropout / 5, "open": dropout / 5}
    total = 0.0
    for fates in product(chance, repeat=parties):
        agreed = [fate for fate in fates if fate in ("stays", "open")]
        fails = 1.0
        if parties - fates.count("early") >= cohort and len(agreed) >= threshold:
            draws = list(combinations(agreed, min(3, len(agreed))))
            fails = sum(draw.count("stays") < 2 for draw in draws) / len(draws)
        total += fails * prod(chance[fate] for fate in fates)
    return total


def by_enumeration(parties: int, threshold: int, cohort: int, dropout: float, early: float) -> float:
    """Over all 3^n ways in which n parties stay, vanish before their vector, or after it."""
    chance = {"stays": 1 - dropout, "early": dropout * early, "late": dropout * (1 - early)}
    total = 0.0
    for fates in product(chance, repeat=parties):
        if parties - fates.count("early") < cohort or fates.count("stays") < threshold:
            weight = 1.0
            for fate in fates:
                weight *= chance[fate]
            total += weight
    return total


@pytest.mark.parametrize("protocol", SCHEMES)
@pytest.mark.parametrize(("parties", "cohort"), [(2, None), (5, None), (5, 2), (5, 5), (7, 6), (7, 7)])
@pytest.mark.parametrize("dropout", [0.0, 0.1, 0.7])
def test_the_probability_is_that_of_all_outcomes(protocol: str, parties: int, cohort: int | None, dropout: float) -> None:
    threshold = {2: 2, 5: 4, 7: 5}[parties]
    early = len(EARLY[protocol]) / len(EARLY[protocol] + LATE[protocol])
    needed = max(threshold, cohort or 0) if LATE[protocol] else threshold
    if protocol in ("bfv", "ckks"):
        threshold = scheme(protocol).parameters(parties, 1, 1).threshold
        want = opened_by_three(parties, threshold, max(threshold, cohort or 0), dropout)
    else:
        want = by_enumeration(parties, threshold, needed, dropout, early)
    knobs = job(protocol=protocol, min_cohort=cohort).privacy
    assert abort_probability(knobs, parties, dropout) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("protocol", SCHEMES)
@pytest.mark.parametrize("cohort", [None, 5])
def test_rounds_abort_where_the_probability_says_so(protocol: str, cohort: int | None) -> None:
    """One party vanishes before each of its messages in turn, then one before its vector and one after: t = 4 of 5, or 3 of 5."""
    early, late = EARLY[protocol], LATE[protocol]
    plans = [{"site-1": stage} for stage in early + late] + [{"site-1": e, "site-2": s} for e in early for s in late]
    runner = Runner(
        lambda: nn.Linear(FEATURES, 1),
        sites(),
        job=job(protocol=protocol, min_cohort=cohort, rounds=len(plans)),
        dropouts=lambda number, _stages: plans[number - 1],
    )
    assert runner.stages == [*early, *late]
    for plan, record in zip(plans, runner.run().rounds, strict=True):
        vectors = 5 - sum(stage in early for stage in plan.values())
        helpers, t = 5 - len(plan), runner.parameters.threshold
        if protocol in ("bfv", "ckks"):  # one opener less is borne
            helpers += "Decrypted" in plan.values()
        aborts = helpers < t or (bool(late) and vectors < (cohort or t))
        assert (record.aborted is not None) == aborts, plan


def test_the_smallest_cohort_is_the_threshold_or_more_and_no_more_than_there_are() -> None:
    assert smallest_cohort(job().privacy, 5) == 4
    assert smallest_cohort(job(min_cohort=3).privacy, 5) == 4
    assert smallest_cohort(job(min_cohort=5).privacy, 5) == 5
    for refuse in (smallest_cohort, lambda knobs, n: expected_aborts(job(min_cohort=6), n)):
        with pytest.raises(UserError, match="privacy.min_cohort is 6, but only 5 sites"):
            refuse(job(min_cohort=6).privacy, 5)
    with pytest.raises(Misuse, match="t = 9"):
        smallest_cohort(job(threshold=9).privacy, 5)
