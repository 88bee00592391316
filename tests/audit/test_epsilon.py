"""Bounds of ε from guesses, error rates and Gaussian scores: against formulas by hand, exact mechanisms, and their own caps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from protocols.errors import Misuse
from securefl.audit.measured import epsilon as e


def by_hand(m: int, r: int, v: int, delta: float, epsilon: float) -> float:
    """p of the one-run bound, as the paper writes it."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    pmf = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    alpha = max((sum(pmf[max(0, v - i) : v]) / i for i in range(1, m + 1)), default=0.0)
    return min(1.0, sum(pmf[v:]) + 2 * m * delta * alpha)


counts = st.integers(1, 30).flatmap(
    lambda m: st.integers(0, m).flatmap(lambda r: st.tuples(st.just(m), st.just(r), st.integers(0, r)))
)
deltas = st.sampled_from([0.0, 1e-6, 1e-3, 0.02])


@given(counts, deltas, st.floats(0, 8))
def test_p_is_that_of_the_paper(numbers: tuple[int, int, int], delta: float, epsilon: float) -> None:
    got = e.p_value(*numbers, delta, np.array([epsilon]))[0]
    assert got == pytest.approx(by_hand(*numbers, delta, epsilon), abs=1e-9)


@given(counts, deltas)
def test_the_bound_is_refuted_and_the_next_step_is_not(numbers: tuple[int, int, int], delta: float) -> None:
    m, r, v = numbers
    found = e.one_run(m, r, v, delta)
    assert found.lower <= found.cap
    assert found.lower == 0 or by_hand(m, r, v, delta, found.lower) < 0.05
    assert by_hand(m, r, v, delta, found.lower + e.STEP) >= 0.05 - 1e-9 or found.lower == 0


@given(counts, deltas)
def test_more_right_guesses_show_more_and_more_canaries_or_a_larger_delta_less(numbers: tuple[int, int, int], delta: float) -> None:
    m, r, v = numbers
    here = e.one_run(m, r, v, delta).lower
    if v < r:
        assert e.one_run(m, r, v + 1, delta).lower >= here
    assert e.one_run(2 * m, r, v, delta).lower <= here
    assert e.one_run(m, r, v, delta + 1e-3).lower <= here


def test_r_guesses_cap_the_bound_at_about_log_of_a_third_of_r() -> None:
    for r in (30, 100, 1000):
        cap = e.one_run(1000, r, r, 0.0).cap
        assert cap == pytest.approx(-math.log(0.05 ** (-1 / r) - 1), abs=e.STEP)
        assert cap == pytest.approx(math.log(r / 3), abs=0.06)


def test_an_exact_mechanism_is_refuted_wrongly_no_oftener_than_stated() -> None:
    """Randomised response at ε = 1.5 is the worst case: the bound lies above with at most 5 %.

    80 or more of 1000 have probability 3e-5 at 5 %; the seed is fixed.
    """
    rng, q = np.random.default_rng(1), 1 / (1 + math.exp(-1.5))
    bound = {v: e.one_run(100, 100, v, 0.0).lower for v in range(101)}
    wrong = sum(bound[int(v)] > 1.5 for v in rng.binomial(100, q, size=1000))
    assert 0 < wrong < 80


def test_an_exact_gaussian_mechanism_is_not_refuted_and_half_its_noise_is_not_either() -> None:
    """The one-run bound at ε = 3 with m = 1000 sees about half of it: σ halved is seen by the fit, and not by this."""
    rng, mu, delta = np.random.default_rng(2), 0.72, 1e-5
    true = e.epsilon_of_mu(mu, delta)
    assert true == pytest.approx(3.0, abs=0.02)
    for factor in (1, 2):
        inside = rng.random(1000) < 0.5
        scores = rng.normal(size=1000) + factor * mu * inside
        found, right = e.guessed(scores, inside, 100, 100, delta)
        assert 0 < found.lower < true
        assert right > 120
    low, high = e.fit_mu(scores[inside], scores[~inside])
    assert mu < low < 2 * mu < high


def test_an_exact_gaussian_mechanism_is_refuted_wrongly_no_oftener_than_stated() -> None:
    """At most 5 %, and far less as a Gaussian is not the worst case; 30 of 300 have probability 3e-4 at 5 %.

    Half of the canaries get no guess; scores are those of the best reader.
    """
    rng, mu, delta = np.random.default_rng(6), 1.0, 1e-3
    true, bound = e.epsilon_of_mu(mu, delta), {v: e.one_run(200, 100, v, delta).lower for v in range(101)}
    found = []
    for _ in range(300):
        inside = rng.random(200) < 0.5
        order = np.argsort(rng.normal(size=200) + mu * inside)
        found.append(bound[int(inside[order[-50:]].sum() + (~inside[order[:50]]).sum())])
    assert sum(value > true for value in found) < 30
    assert np.median(found) > 0.2 * true


def test_guesses_are_for_the_ends_of_the_scores() -> None:
    scores, inside = np.array([3.0, -1.0, 0.5, 9.0]), np.array([True, False, True, False])
    assert e.guessed(scores, inside, 2, 1, 0.0)[1] == 2
    assert e.guessed(scores, inside, 0, 2, 0.0)[1] == 1
    assert e.guessed(scores, inside, 0, 0, 0.0) == (e.one_run(4, 0, 0, 0.0), 0)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))), deltas)
def test_two_worlds_are_the_bounds_of_clopper_and_pearson(numbers: tuple[int, int, int], delta: float) -> None:
    hits, false, runs = numbers
    for fixed, level in ((False, 0.0125), (True, 0.025)):
        tpr = stats.beta.ppf(level, hits, runs - hits + 1) if hits else 0.0
        fpr = stats.beta.ppf(1 - level, false + 1, runs - false) if false < runs else 1.0
        tnr, fnr = 1 - fpr, 1 - tpr
        ways = [(tpr - delta) / fpr] if fixed else [(tpr - delta) / fpr, (tnr - delta) / fnr]
        found = e.two_worlds(hits, false, runs, delta, fixed=fixed)
        assert found.lower == pytest.approx(max(0.0, *(math.log(max(w, 1e-300)) for w in ways)), abs=1e-7)
        assert found.lower <= found.cap + 1e-12


def test_n_runs_cap_the_two_worlds() -> None:
    for n in (100, 1000, 10_000):
        assert e.two_worlds(n, 0, n).cap == pytest.approx(math.log(n / 4.4), abs=0.03)
        assert e.two_worlds(n, 0, n, fixed=True).cap == pytest.approx(math.log(n / 3.7), abs=0.03)


def test_two_worlds_of_an_exact_mechanism_are_refuted_wrongly_no_oftener_than_stated() -> None:
    """Randomised response at ε = 1: at most 5 % of the bounds lie above; 80 of 1000 have probability 3e-5 then."""
    rng, q = np.random.default_rng(3), 1 / (1 + math.exp(-1))
    pairs = zip(rng.binomial(200, q, size=1000), rng.binomial(200, 1 - q, size=1000), strict=True)
    assert 0 < sum(e.two_worlds(int(hits), int(false), 200).lower > 1 for hits, false in pairs) < 80


@given(st.floats(0.05, 6), st.floats(0, 8))
def test_delta_of_a_gaussian_is_the_integral_of_what_exceeds(mu: float, epsilon: float) -> None:
    """δ(ε) = ∫ max(0, f₁ − e^ε f₀), with f₁ centred at μ."""
    x = np.linspace(-12, 18, 60_001)
    excess = np.maximum(0, stats.norm.pdf(x - mu) - np.exp(epsilon) * stats.norm.pdf(x))
    assert e.delta_of(epsilon, mu) == pytest.approx(float(np.trapezoid(excess, x)), abs=1e-6)


@given(st.floats(1e-3, 40), st.sampled_from([1e-9, 1e-5, 0.01]))
def test_epsilon_of_mu_is_the_inverse_and_grows(mu: float, delta: float) -> None:
    found = e.epsilon_of_mu(mu, delta)
    assert e.delta_of(found, mu) <= delta * (1 + 1e-6)
    assert found == 0 or e.delta_of(found * (1 - 1e-6), mu) >= delta
    assert e.epsilon_of_mu(1.1 * mu, delta) >= found


def test_ends_of_the_conversion() -> None:
    assert e.epsilon_of_mu(0.0, 1e-5) == 0
    assert e.epsilon_of_mu(math.inf, 1e-5) == math.inf
    assert e.epsilon_of_mu(0.5, 0.0) == math.inf
    assert e.epsilon_of_mu(0.0, 0.0) == 0
    assert e.epsilon_of_mu(1.0, 1e-5) == pytest.approx(4.3772, abs=1e-3)


def test_the_fit_covers_mu_as_often_as_stated() -> None:
    """At 20 % an interval misses with 20 % at most, the four bounds being joined by their sum; 130 of 500 have 5e-4 then."""
    rng, missed = np.random.default_rng(4), 0
    for _ in range(500):
        low, high = e.fit_mu(rng.normal(5.4, 2, size=15), rng.normal(5.0, 2, size=25), level=0.2)
        missed += not low <= 0.2 <= high
    assert missed < 130


def test_a_fit_where_nothing_varies() -> None:
    assert e.fit_mu([1.0] * 5, [0.0] * 5) == (math.inf, math.inf)
    assert e.fit_mu([0.0] * 5, [0.0] * 5) == (0.0, 0.0)
    noiseless = e.gaussian(np.ones(5), np.zeros(5), 1e-5)
    assert noiseless.lower == math.inf
    assert e.Measured.from_json(noiseless.as_json()) == noiseless


def test_gaussian_scores_give_an_interval_around_the_true_epsilon() -> None:
    rng = np.random.default_rng(5)
    found = e.gaussian(rng.normal(1, 1, 20_000), rng.normal(0, 1, 20_000), 1e-5)
    assert found.lower < 4.3772 < found.upper < found.lower * 1.2
    assert "no cap" in found.line


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: e.one_run(10, 11, 5, 0.0), "11 guesses about 10 canaries"),
        (lambda: e.one_run(10, 5, 6, 0.0), "6 of 5"),
        (lambda: e.one_run(10, 5, 5, 1.0), "delta"),
        (lambda: e.two_worlds(11, 0, 10), "11 hits"),
        (lambda: e.guessed(np.zeros(3), np.zeros(3, bool), 2, 2, 0.0), "2 \\+ 2 guesses"),
        (lambda: e.fit_mu([1.0], [0.0, 1.0]), "two scores"),
    ],
)
def test_numbers_that_cannot_be_are_refused(call, said) -> None:
    with pytest.raises(Misuse, match=said):
        call()
