"""Integer noise: the staircase tiles the integers with the right heights, and the draws follow the exact laws.

The bits come from `Replay`, so every run sees the same draws; the stated false-alarm rates are those over the choice of its root.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from protocols.errors import Misuse
from protocols.rand import Rand, Replay
from securefl.privacy import samplers
from securefl.privacy.laws import NEAR_ERROR, DiscreteGaussian, Law, Poisson, log_factorial
from securefl.privacy.samplers import discrete_gaussian, skellam, staircase

ALARM = 1e-6
DRAWS = 400_000

Probability = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def replay(number: int = 0) -> Rand:
    return Replay(f"samplers {number}")()


def gaussian_law(variance: float) -> Probability:
    k = np.arange(-math.ceil(40 * math.sqrt(variance)) - 40, math.ceil(40 * math.sqrt(variance)) + 41)
    total = np.exp(-(k**2) / (2 * variance)).sum()
    return lambda at: np.exp(-(at.astype(float) ** 2) / (2 * variance)) / total


def skellam_law(variance: float) -> Probability:
    return lambda at: special.ive(np.abs(at).astype(float), variance)


def poisson_law(variance: float) -> Probability:
    return lambda at: stats.poisson(variance).pmf(at)


def suspicion(draws: NDArray[np.int64], law: Probability, centre: int, spread: float) -> float:
    """p-value of χ² over cells of equal width, the ends put together until a cell expects 25 draws."""
    width = max(1, round(spread / 6))
    reach = math.ceil(12 * spread / width) + 12
    edges = centre + width * np.arange(-reach, reach + 1)
    at = edges[0] + np.arange((len(edges) - 1) * width)
    expected = len(draws) * law(at).reshape(-1, width).sum(axis=1)
    assert expected.sum() == pytest.approx(len(draws), rel=1e-9)
    counts, _ = np.histogram(draws, edges)
    assert counts.sum() == len(draws)
    cells = np.clip(np.arange(len(expected)), *np.flatnonzero(expected >= 25)[[0, -1]])
    together, seen = (np.bincount(cells, values) for values in (expected, counts))
    together, seen = together[expected_cells := together > 0], seen[expected_cells]
    return float(stats.chisquare(seen, together * seen.sum() / together.sum()).pvalue)


VARIANCES = (0.3, 1.0, 7.5, 200.0, 300.0, 5000.0, 2.0**20 + 0.25)


@pytest.mark.parametrize("variance", VARIANCES)
def test_skellam_draws_have_the_law(variance: float) -> None:
    draws = skellam(replay(), "x", DRAWS, variance)
    assert suspicion(draws, skellam_law(variance), 0, math.sqrt(variance)) > ALARM


@pytest.mark.parametrize("variance", VARIANCES)
def test_discrete_gaussian_draws_have_the_law(variance: float) -> None:
    draws = discrete_gaussian(replay(), "x", DRAWS, variance)
    assert suspicion(draws, gaussian_law(variance), 0, math.sqrt(variance)) > ALARM


@pytest.mark.parametrize("mean", [0.3, 4.0, 255.0, 257.5, 10_000.0, 1e6])
def test_poisson_draws_have_the_law(mean: float) -> None:
    draws = samplers.draw(replay(), "x", DRAWS, staircase(Poisson(mean)))
    assert suspicion(draws, poisson_law(mean), math.floor(mean), math.sqrt(mean)) > ALARM


@pytest.mark.parametrize("variance", [2.0**40, 2.0**51])
@pytest.mark.parametrize("sampler", [skellam, discrete_gaussian])
def test_at_a_large_variance_both_are_gaussian(variance: float, sampler: Callable[..., NDArray[np.int64]]) -> None:
    draws = sampler(replay(), "x", DRAWS, variance)
    assert stats.kstest(draws / math.sqrt(variance), stats.norm.cdf).pvalue > ALARM


@pytest.mark.parametrize("variance", [*VARIANCES, 2.0**40])
@pytest.mark.parametrize("sampler", [skellam, discrete_gaussian])
def test_moments(variance: float, sampler: Callable[..., NDArray[np.int64]]) -> None:
    """Mean and variance within what a draw of ALARM allows, by the fourth moment of the law."""
    draws = sampler(replay(1), "x", DRAWS, variance).astype(float)
    if sampler is skellam:
        second, fourth = variance, variance + 3 * variance**2
    else:
        k = np.arange(-30, 31) if variance < 1 else np.zeros(0)
        weights = np.exp(-(k**2) / (2 * variance))
        second, fourth = ((k**i @ weights) / weights.sum() if k.size else v for i, v in ((2, variance), (4, 3 * variance**2)))
    z = stats.norm.isf(ALARM / 4)
    assert abs(draws.mean()) < z * math.sqrt(second / DRAWS)
    assert abs(np.mean(draws**2) - second) < z * math.sqrt((fourth - second**2) / DRAWS)


def test_the_tests_of_the_law_can_fail() -> None:
    draws = skellam(replay(), "x", DRAWS, 5000.0)
    assert suspicion(draws, skellam_law(5000.0 * 1.03), 0, math.sqrt(5000)) < ALARM
    assert suspicion(draws + 2, skellam_law(5000.0), 0, math.sqrt(5000)) < ALARM
    assert suspicion(skellam(replay(), "y", DRAWS, 7.5), gaussian_law(7.5), 0, math.sqrt(7.5)) < ALARM
    rounded = np.rint(stats.norm(0, math.sqrt(0.3)).ppf((np.arange(DRAWS) + 0.5) / DRAWS)).astype(np.int64)
    assert suspicion(rounded, gaussian_law(0.3), 0, math.sqrt(0.3)) < ALARM


def test_neighbouring_draws_are_uncorrelated() -> None:
    draws = skellam(replay(), "x", DRAWS, 5000.0) / math.sqrt(5000)
    bound = stats.norm.isf(ALARM / 6) / math.sqrt(DRAWS)
    for lag in (1, 2, 1 << 15):
        assert abs(np.mean(draws * np.roll(draws, lag))) < bound


LAWS: st.SearchStrategy[Law] = st.one_of(
    st.builds(DiscreteGaussian, st.floats(-6, 79.9).map(lambda e: 2.0**e)),
    st.builds(Poisson, st.floats(-8, 49.9).map(lambda e: 2.0**e)),
    st.builds(Poisson, st.integers(1, 600).map(float)),
)


def places(slot: int, low: int) -> np.uint64:
    return np.uint64((slot << 48) | low)


@given(LAWS)
@settings(max_examples=60, deadline=None)
def test_the_blocks_tile_the_integers_and_stand_above_the_law(law: Law) -> None:
    stairs = staircase.__wrapped__(law)
    counts = np.bincount(stairs.slots, minlength=stairs.blocks + 3)
    assert counts[:-1].tolist() == [*stairs.weights[: stairs.blocks], 1, 1]
    assert counts.sum() == 1 << 16
    assert max(stairs.left, stairs.right) <= 208
    first_slot = [int(np.flatnonzero(stairs.slots == j)[0]) for j in range(stairs.blocks)]
    words = np.array([places(slot, low) for slot in first_slot for low in (0, (1 << 48) - 1)])
    none = replay().stream("none")
    ends = samplers._some(words, np.zeros(len(words), np.uint64), stairs, none, none).reshape(-1, 2)  # U = 0 stays
    spans = sorted((int(min(pair)), int(max(pair))) for pair in ends)
    assert all(high - low + 1 == 1 << stairs.shift for low, high in spans)
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(spans))
    for j, pair in enumerate(ends):
        heights = [samplers.ratio(law, int(k)) for k in pair]
        threshold = max(heights) * stairs.scale / int(stairs.weights[j])
        assert threshold < 1
        assert stairs.surely[j] < float(min(heights)) * stairs.factor[j]
        assert stairs.hardly[j] > float(threshold)
    for k, step in ((spans[-1][1] + 1, 1), (spans[0][0] - 1, -1)):  # the outer blocks stand above it too
        beyond = [samplers.ratio(law, k + step * (i << stairs.shift + 3)) for i in range(3)]
        assert beyond[0] * stairs.scale * 16 < 1
        assert beyond[1] <= beyond[0] / 2
        assert beyond[2] <= beyond[1] / 2


@given(LAWS, st.data())
@settings(max_examples=60, deadline=None)
def test_the_float_law_is_as_near_as_it_says(law: Law, data: st.DataObject) -> None:
    if law.spread < 16:
        return
    offsets = [data.draw(st.integers(-6 * law.spread, 6 * law.spread)) for _ in range(8)]
    near = law.near(np.array(offsets))
    for offset, value in zip(offsets, near, strict=True):
        exact = law.exact(law.mode + offset)
        assert exact is not None
        assert abs(Decimal(float(value)) - exact) < NEAR_ERROR


def wide(law: Law, k: int) -> Decimal:
    """`Law.exact` with 160 digits, factorials one logarithm after the other."""
    c = Context(prec=160)
    if isinstance(law, DiscreteGaussian):
        ratio = Fraction(-k * k) / (2 * Fraction(law.variance))
        return c.divide(Decimal(ratio.numerator), Decimal(ratio.denominator))
    assert isinstance(law, Poisson)
    low, high = sorted((k, law.mode))
    steps = Decimal(0)
    for i in range(low + 1, high + 1):
        steps = c.add(steps, c.ln(Decimal(i)))
    return c.subtract(c.multiply(Decimal(k - law.mode), c.ln(Decimal(law.mean))), steps if k > law.mode else steps.copy_negate())


@given(LAWS.filter(lambda law: law.spread < 2000), st.integers(-100, 100))
@settings(deadline=None)
def test_the_precision_is_not_that_of_the_thread(law: Law, away: int) -> None:
    k = law.mode + away
    usual = law.exact(k)
    with localcontext(Context(prec=5)):
        assert law.exact(k) == usual
    if usual is not None:
        assert Context(prec=160).subtract(usual, wide(law, k)).copy_abs() < Decimal("1e-60")


@pytest.mark.parametrize("k", [0, 1, 511, 512, 513, 3000])
def test_log_factorials(k: int) -> None:
    assert samplers.CONTEXT.subtract(log_factorial(k), Decimal(math.factorial(k)).ln(samplers.CONTEXT)).copy_abs() < Decimal(
        "1e-60"
    )


@pytest.fixture
def guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    def widen(to: float) -> None:
        monkeypatch.setattr(samplers, "GUARD", to)
        staircase.cache_clear()

    yield widen
    staircase.cache_clear()


@pytest.mark.parametrize("law", [DiscreteGaussian(3.0), DiscreteGaussian(1e7), Poisson(3.0), Poisson(1e5)], ids=str)
def test_decisions_in_float_and_in_decimals_agree(law: Law, guard: Callable[[float], None]) -> None:
    usual = samplers.draw(replay(), "x", 3000, staircase(law))
    guard(2.0)  # nothing is decided in float64 any more
    assert (samplers.draw(replay(), "x", 3000, staircase(law)) == usual).all()


@pytest.mark.parametrize("law", [DiscreteGaussian(3.0), DiscreteGaussian(1e7), Poisson(3.0), Poisson(1e5)], ids=str)
@pytest.mark.parametrize("further", [0, 1, 3])
def test_an_outer_try_stays_in_proportion_to_the_law(monkeypatch: pytest.MonkeyPatch, law: Law, further: int) -> None:
    """Block number ``further`` has weight 2^-(further + 1) on 8B integers, an inner one w_j on B."""
    stairs = staircase(law)
    wide = 8 << stairs.shift
    right, left = law.mode + (stairs.right << stairs.shift), law.mode - (stairs.left << stairs.shift) - 1
    for block, place in itertools.product((stairs.blocks, stairs.blocks + 1), (0, wide - 1)):
        away = further * wide + place
        k = right + away if block == stairs.blocks else left - away
        threshold = samplers.ratio(law, k) * stairs.scale * 8 * 2 ** (further + 1)
        assert threshold < 1
        monkeypatch.setattr(samplers, "_outer_place", lambda _stream, _bits, place=place: (further, place))
        words = np.full(2, places(int(np.flatnonzero(stairs.slots == block)[0]), 12345))
        digits = np.array([max(int(threshold * 2**64) - 1, 0), int(threshold * 2**64) + 1], dtype=np.uint64)
        kept = samplers._some(words, digits, stairs, replay().stream("outer"), replay().stream("ties"))
        assert kept.tolist() == ([k] if threshold > 2**-63 else [])


def test_each_outer_block_is_chosen_half_as_often_as_the_one_before() -> None:
    stream, tries = replay().stream("outer"), 20_000
    drawn = [samplers._outer_place(stream, 3) for _ in range(tries)]
    further, place = (np.bincount(values) for values in zip(*drawn, strict=True))
    expected = tries / 2.0 ** np.arange(1, 9)
    assert stats.chisquare(further[:8], expected * further[:8].sum() / expected.sum()).pvalue > ALARM
    assert len(place) == 8
    assert stats.chisquare(place).pvalue > ALARM


def test_zero_variance_and_no_draws() -> None:
    assert skellam(replay(), "x", 4, 0).tolist() == [0] * 4
    assert discrete_gaussian(replay(), "x", 4, 0).tolist() == [0] * 4
    assert skellam(replay(), "x", 0, 3.0).shape == discrete_gaussian(replay(), "x", 0, 3.0).shape == (0,)


@pytest.mark.parametrize("variance", [-1.0, math.nan, math.inf, 2.0**81])
def test_variances_out_of_range_are_refused(variance: float) -> None:
    for sampler in (skellam, discrete_gaussian):
        with pytest.raises(Misuse, match="lies in"):
            sampler(replay(), "x", 3, variance)


def test_hardly_any_variance() -> None:
    assert not discrete_gaussian(replay(), "x", 50, 1e-300).any()
    assert not skellam(replay(), "x", 50, 1e-300).any()


@pytest.mark.parametrize("sampler", [skellam, discrete_gaussian])
def test_a_label_is_good_once_and_decides_the_draws(sampler: Callable[..., NDArray[np.int64]]) -> None:
    rand = replay()
    first = sampler(rand, "x", 100, 50.0)
    with pytest.raises(Misuse, match="drawn before"):
        sampler(rand, "x", 100, 50.0)
    assert (sampler(rand, "y", 100, 50.0) != first).any()
    assert (sampler(replay(), "x", 100, 50.0) == first).all()
    assert (sampler(replay(2), "x", 100, 50.0) != first).any()
