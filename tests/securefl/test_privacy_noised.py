"""The plan of distributed noise keeps its promises, and the sum carries the noise that the plan says.

The bits come from `Replay`, so every run sees the same draws; the stated false-alarm rates are those over the choice of its root.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from protocols.errors import Misuse
from protocols.rand import Rand, Replay, Seed
from securefl.errors import UserError
from securefl.privacy import noise_plan, noised, rounding
from securefl.privacy.noise_plan import KINDS, Cohort, Kind, NoisePlan, calibrate_distributed, wrap_bound
from securefl.privacy.samplers import skellam

ALARM = 1e-6


def replay(number: int = 0) -> Rand:
    return Replay(f"noised {number}")()


def signs(number: int = 0) -> Seed:
    return replay(number).seed("signs")


def plan(cohort: Cohort, kind: Kind = "skellam", **changes: Any) -> NoisePlan:
    given: dict[str, Any] = {"epsilon": 3.0, "delta": 1e-5, "rounds": 10, "size": 1000, "clip": 2.0, "kind": kind, **changes}
    return calibrate_distributed(cohort=cohort, **given)


COHORTS = st.integers(2, 300).flatmap(
    lambda n: st.integers(0, n - 1).flatmap(
        lambda out: st.integers(0, out).map(lambda corrupt: Cohort.of(n, corrupt=corrupt, dropouts=out - corrupt))
    )
)


@given(
    COHORTS,
    st.sampled_from(KINDS),
    st.floats(0.05, 20),
    st.floats(1e-12, 1e-2),
    st.integers(1, 1000),
    st.integers(1, 1 << 22),
    st.floats(1e-6, 1e6),
)
@settings(max_examples=40, deadline=None)
def test_a_plan_keeps_its_promises(
    cohort: Cohort, kind: Kind, epsilon: float, delta: float, rounds: int, size: int, clip: float
) -> None:
    delta = min(delta, 0.5 / cohort.clients)
    p = calibrate_distributed(epsilon=epsilon, delta=delta, cohort=cohort, rounds=rounds, size=size, clip=clip, kind=kind)
    assert epsilon * 0.9999 <= p.spent(cohort.smallest) <= epsilon
    assert p.spent(cohort.clients) <= p.spent(cohort.smallest)
    assert p.spent(cohort.smallest - 1) > epsilon
    assert p.spent(cohort.corrupt) == math.inf
    continuous = clip * math.sqrt(noise_plan.continuous_variance(epsilon, delta, rounds) / cohort.honest / cohort.clients)
    assert continuous * 0.99999 <= p.deviation(cohort.clients) <= continuous * (1 + noise_plan.LOSS)
    assert p.wrap == wrap_bound(p, p.bits) <= 2.0**-20 < wrap_bound(p, p.bits - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_falls_with_the_number_of_parties(kind: Kind) -> None:
    errors = [plan(Cohort.of(n), kind).error(n) for n in (4, 40, 400)]
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.02)
    assert errors[2] == pytest.approx(errors[0] / 100, rel=0.02)


def test_shares_by_hand() -> None:
    """Ten parties, two corrupt, one may vanish: seven honest carry the noise; a larger share than for ten by 10/7."""
    cautious = plan(Cohort.of(10, corrupt=2, dropouts=1), granularity=0.01)
    trusting = plan(Cohort.of(10), granularity=0.01)
    assert cautious.cohort.honest == 7
    assert cautious.share == pytest.approx(trusting.share * 10 / 7, rel=1e-5)
    assert cautious.radius == 200
    assert cautious.dimension == 1024
    assert cautious.event(9) == replace(trusting.event(10), variance=cautious.share * 7)


def test_the_bound_on_wrap_around_is_above_exact_tails() -> None:
    """Without signal to speak of, the Skellam tail itself, over d values and all rounds; not above it by more than 60 times."""
    p = replace(plan(Cohort.of(3), size=16), granularity=1e6, share=40.0)
    for bits in (7, 8):
        room = 2 ** (bits - 1) - 1 - 3
        tail = 2 * special.ive(np.arange(room + 1.0, 400), 120.0).sum() * 16 * 10
        assert tail <= wrap_bound(p, bits) <= 60 * tail
    assert wrap_bound(p, 3) == 1


def test_the_bound_on_wrap_around_counts_rounds_and_roundings() -> None:
    p = plan(Cohort.of(300))
    assert wrap_bound(replace(p, rounds=100), p.bits) == pytest.approx(10 * wrap_bound(p, p.bits))
    small = replace(p, granularity=2000.0, share=1e-9)  # updates of a thousandth of a step, each of which may be rounded to 1
    assert wrap_bound(small, 9) == 1 > 2.0**-20 > wrap_bound(small, 10)


def test_equal_updates_wrap_no_more_often_than_said() -> None:
    """Every coordinate of the sum at once as large as signs at random make it: among 400 rounds within ALARM of the bound."""
    draft, bits, tries = replace(plan(Cohort.of(4), size=64), rounds=1, share=0.5), 10, 400
    steps = [replace(draft, granularity=g) for g in np.geomspace(draft.granularity / 100, draft.granularity * 100, 400)]
    p = next(p for p in steps if wrap_bound(p, bits) < 0.1)
    update = np.full(64, p.clip / 8)
    beyond = 0
    for i in range(tries):
        total = sum(noised.contribution(p, update, signs(i), replay(i).child(f"party {u}")) for u in range(4))
        beyond += bool((np.abs(total) >= 2 ** (bits - 1)).any())
    assert beyond <= stats.binom.isf(ALARM, tries, wrap_bound(p, bits))


@given(st.integers(2, 62), st.lists(st.integers(-(2**61), 2**61 - 1), min_size=1))
def test_centred_values_are_those_of_the_ring(bits: int, values: list[int]) -> None:
    p = replace(plan(Cohort.of(3)), bits=bits)
    out = noised.centred(p, np.array(values))
    for value, centre in zip(values, out.tolist(), strict=True):
        assert (centre - value) % 2**bits == 0
        assert -(2 ** (bits - 1)) <= centre < 2 ** (bits - 1)


def opened(p: NoisePlan, survivors: int, update: NDArray[np.float64], number: int = 0) -> NDArray[np.float64]:
    """The mean that the server reads, every value having gone through the ring."""
    ring = (1 << p.bits) - 1
    total = np.zeros(p.dimension, dtype=np.int64)
    for u in range(survivors):
        total = (total + noised.contribution(p, update, signs(number), replay(number).child(f"party {u}"))) & ring
    return noised.mean(p, noised.centred(p, total), survivors, signs(number))


def variance_alarm(values: NDArray[np.float64], variance: float) -> bool:
    """Whether Σ x²/variance lies where χ² lies with probability ALARM, both ends together."""
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], values.size)
    return not low < (values**2).sum() / variance < high


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropouts", [0, 1, 3])
def test_the_variance_of_the_decoded_sum_is_what_was_promised(kind: Kind, dropouts: int) -> None:
    """Zero updates, so nothing is rounded; at these variances the fourth moment of both laws is a Gaussian's to 10^-4."""
    cohort = Cohort.of(8, corrupt=1, dropouts=3)
    p = plan(cohort, kind, size=1 << 14)
    survivors = 8 - dropouts
    noise = survivors * opened(p, survivors, np.zeros(p.size))
    assert not variance_alarm(noise, survivors * p.share * p.granularity**2)
    honest = p.granularity**2 * p.share * (survivors - 1)
    assert honest >= p.granularity**2 * p.share * cohort.honest  # without the corrupt one's share it is what ε was computed from
    assert p.spent(survivors) <= p.epsilon
    assert variance_alarm(noise, 4 * survivors * p.share * p.granularity**2)  # σ halved
    assert variance_alarm(noise, (survivors + 1) * p.share * p.granularity**2)  # one party's noise left out


def test_more_dropouts_than_the_noise_was_sized_for_cost_more() -> None:
    p = plan(Cohort.of(8, corrupt=1, dropouts=3))
    assert p.spent(5) <= p.epsilon < p.spent(4) < p.spent(3) < p.spent(2) < p.spent(1) == math.inf


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_the_mean_but_for_the_noise(kind: Kind) -> None:
    """Σ of squared errors against what `NoisePlan.error` says: at most that by χ², at least that without rounding's part."""
    p = plan(Cohort.of(50), kind, size=3000)
    update = np.sin(np.arange(3000.0))
    update *= 1.9 / np.linalg.norm(update)
    wrong = opened(p, 50, update) - update
    low, high = stats.chi2.ppf([ALARM / 2, 1 - ALARM / 2], 3000)
    assert low * p.granularity**2 * p.share / 50 < float(wrong @ wrong) < high * p.deviation(50) ** 2
    assert opened(p, 50, 5 * update) == pytest.approx(opened(p, 50, 2 / 1.9 * update), abs=10 * p.granularity)  # clipped


def test_a_contribution_without_its_noise_keeps_the_norm_bound_whatever_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    p = plan(Cohort.of(5), size=200)
    monkeypatch.setattr(noised, "noise", lambda plan, rand: np.zeros(plan.dimension, dtype=np.int64))
    for i, scale in enumerate((0.0, 1e-9, 1.0, 1e9, 1e300)):
        update = scale * (np.arange(200.0) - 100)
        whole = noised.contribution(p, update, signs(i), replay(i))
        assert rounding.squared_norm(whole) <= p.bounds[0]
        assert np.abs(whole).sum() <= p.bounds[2]


def halves(p: NoisePlan) -> NDArray[np.float64]:
    """The update that the signs of number 0 turn into ½ in every coordinate: as far from the grid as can be."""
    return rounding.rotate_back(np.full(p.dimension, p.granularity / 2), signs(), p.size)


def test_a_contribution_is_rounded_again_until_the_norm_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rounding in fifty exceeds the bound here, which lies two standard deviations above the mean squared norm."""
    p = replace(plan(Cohort.of(5), size=256), granularity=2.0 / 8)  # Δ = 8 = √d/2
    monkeypatch.setattr(noised, "noise", lambda plan, rand: np.zeros(plan.dimension, dtype=np.int64))
    norms = [rounding.squared_norm(noised.contribution(p, halves(p), signs(), replay(i))) for i in range(400)]
    once = [rounding.squared_norm(rounding.round_sum(np.full(256, 0.5), replay(i).child("rounding"))) for i in range(400)]
    assert max(norms) <= p.bounds[0] < max(once)


def test_the_error_holds_what_rounding_adds() -> None:
    """Hardly any noise: the mean of 16 roundings of ½ has variance 1/64; Σ of squares within ALARM by its fourth moment."""
    p = replace(plan(Cohort.of(16), size=4096), granularity=2.0 / 100, share=2.0**-60)
    wrong = opened(p, 16, halves(p)) - halves(p)
    ratio = float(wrong @ wrong) / p.error(16) ** 2
    assert abs(ratio - 1) < stats.norm.isf(ALARM / 2) * math.sqrt(2 / 4096)


def test_a_contribution_is_its_rounding_and_its_share_of_noise() -> None:
    p, update = plan(Cohort.of(5), size=200), np.ones(200)
    drawn = noised.contribution(p, update, signs(), replay())
    assert (drawn == noised.contribution(p, update, signs(), replay())).all()
    assert (drawn != noised.contribution(p, update, signs(), replay(1))).any()
    scaled = rounding.rotate(rounding.clip(update, p.clip) / p.granularity, signs())
    whole = rounding.round_within(scaled, p.bounds[0], replay().child("rounding"))
    assert (drawn - whole == skellam(replay(), "noise", 256, p.share)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_tail_of_the_noise_is_not_exceeded(kind: Kind) -> None:
    p = plan(Cohort.of(4), kind)
    sigma = math.sqrt(4 * p.share)
    assert 2 * p.dimension * stats.norm.sf(noised.tail(p) / sigma) <= 2.0**-40
    assert noised.tail(p) < 9.2 * sigma


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0.0"),
        ({"epsilon": math.inf}, "epsilon is inf"),
        ({"epsilon": math.nan}, "epsilon is nan"),
        ({"epsilon": 1e-9, "delta": 1e-12}, "cannot be reached"),
        ({"delta": 0.0}, "delta is 0.0"),
        ({"delta": 0.2}, "delta is 0.2: it must lie below 1 over the number of parties, 0.2"),
        ({"delta": math.nan}, "delta is nan"),
        ({"rounds": 0}, "rounds is 0"),
        ({"size": 0}, "dimension is 0"),
        ({"clip": 0.0}, "clipping bound is 0.0"),
        ({"clip": math.nan}, "clipping bound is nan"),
        ({"kind": "laplace"}, "must be one of skellam, discrete-gaussian"),
        ({"bits": 5}, "5 bits are not enough"),
        ({"bits": 63}, "63 bits are not enough or too many"),
        ({"granularity": 0.0}, "granularity is 0.0"),
        ({"granularity": 1e-12}, "granularity is 1e-12"),
        ({"epsilon": 0.01, "granularity": 2e-8, "rounds": 10_000}, "coarser granularity"),
    ],
)
def test_bad_input_is_refused_with_the_numbers(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(Cohort.of(5), **changes)


def test_cohorts_that_leave_no_honest_noise_are_refused() -> None:
    with pytest.raises(UserError, match="at least 2 parties"):
        Cohort.of(1)
    for corrupt, dropouts in ((3, 2), (0, 5), (5, 0)):
        with pytest.raises(UserError, match="leave no honest noise of 5 parties"):
            Cohort.of(5, corrupt=corrupt, dropouts=dropouts)
    with pytest.raises(UserError, match="of 5 parties 0 to 4 may be corrupt, not -1"):
        Cohort.of(5, corrupt=-1)
    with pytest.raises(UserError, match="number of dropouts is -1: 0 to 4 of 5 parties are allowed"):
        Cohort.of(5, dropouts=-1)
    with pytest.raises(UserError, match="at least 3 must survive"):
        Cohort(5, 2, 2)
    for smallest in (6, 0):
        with pytest.raises(UserError, match=f"of 5 parties 1 to 5 may be the fewest survivors, not {smallest}"):
            Cohort(5, smallest)
    for corrupt in (5, -1):
        with pytest.raises(UserError, match=f"of 5 parties 0 to 4 may be corrupt, not {corrupt}"):
            Cohort(5, 3, corrupt)


def test_what_does_not_fit_the_plan_is_refused() -> None:
    p = plan(Cohort.of(5), size=10)
    for bad in (np.ones(9), np.full(10, math.nan), np.full(10, math.inf)):
        with pytest.raises(UserError, match="the update"):
            noised.contribution(p, bad, signs(), replay())
    for total, survivors in (
        (np.zeros(10, np.int64), 5),
        (np.zeros(16), 5),
        (np.zeros(16, np.int64), 6),
        (np.zeros(16, np.int64), 0),
    ):
        with pytest.raises(Misuse):
            noised.mean(p, total, survivors, signs())
