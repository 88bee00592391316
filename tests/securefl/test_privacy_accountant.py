"""From ε to noise and back."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from securefl.errors import UserError
from securefl.privacy.accountant import FINE, LARGE, WHOLE, calibrate, epsilon_of, epsilon_of_history

DELTA = 1e-5


def exact_epsilon(sigma: float, steps: int, delta: float) -> float:
    """ε of ``steps`` Gaussian mechanisms without sampling (Balle and Wang 2018, arXiv 1805.06530, theorem 8)."""
    mu = math.sqrt(steps) / sigma

    def excess(epsilon: float) -> float:
        above = norm.cdf(mu / 2 - epsilon / mu)
        below = math.exp(epsilon + norm.logcdf(-mu / 2 - epsilon / mu))
        return float(above - below - delta)

    return float(brentq(excess, 0, 200))


@pytest.mark.parametrize(("sigma", "rate", "steps"), [(1.5, 0.2, 60), (4.0, 0.05, 1000), (20.0, 0.2, 60)])
def test_rdp_equals_opacus(sigma: float, rate: float, steps: int) -> None:
    books = RDPAccountant()
    for _ in range(steps):
        books.step(noise_multiplier=sigma, sample_rate=rate)
    every_order = books.get_epsilon(DELTA, alphas=sorted({*FINE, *WHOLE, *LARGE}))
    assert epsilon_of(sigma, rate, steps, DELTA, "rdp") == pytest.approx(every_order, rel=1e-12)
    assert every_order == pytest.approx(books.get_epsilon(DELTA), rel=1e-3), "Opacus' own orders, without 11"


def test_prv_equals_opacus_and_is_tighter_than_rdp() -> None:
    books = PRVAccountant()
    books.history = [(1.5, 0.2, 60)]
    assert epsilon_of(1.5, 0.2, 60, DELTA, "prv") == pytest.approx(books.get_epsilon(DELTA), rel=1e-12)
    assert epsilon_of(1.5, 0.2, 60, DELTA, "prv") < epsilon_of(1.5, 0.2, 60, DELTA, "rdp")


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize(("sigma", "steps"), [(5.0, 60), (20.0, 10)])
def test_without_sampling_the_bound_lies_above_the_exact_value(accountant: str, sigma: float, steps: int) -> None:
    exact = exact_epsilon(sigma, steps, DELTA)
    assert exact <= epsilon_of(sigma, 1.0, steps, DELTA, accountant) <= 1.25 * exact + 0.02


def test_the_longer_grid_is_never_worse_and_helps_where_opacus_warns() -> None:
    for sigma, rate in ((1000.0, 1.0), (0.1, 0.2)):
        books = RDPAccountant()
        books.history = [(sigma, rate, 60)]
        with pytest.warns(UserWarning, match="Optimal order"):
            theirs = books.get_epsilon(DELTA)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ours = epsilon_of(sigma, rate, 60, DELTA, "rdp")
        assert ours < 0.9 * theirs


def test_every_order_alone_gives_a_bound_above_the_exact_value() -> None:
    books = RDPAccountant()
    books.history = [(20.0, 1.0, 10)]
    exact = exact_epsilon(20.0, 10, DELTA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all(books.get_epsilon(DELTA, alphas=[alpha]) >= exact for alpha in (*FINE, *WHOLE, *LARGE))


@settings(deadline=None, max_examples=15)
@given(
    sigma=st.floats(0.8, 30),
    rate=st.floats(0.01, 1),
    steps=st.integers(1, 300),
    more=st.integers(1, 300),
    factor=st.floats(1.01, 3),
)
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise(
    sigma: float, rate: float, steps: int, more: int, factor: float
) -> None:
    base = epsilon_of(sigma, rate, steps, DELTA, "rdp")
    assert epsilon_of(sigma, rate, steps + more, DELTA, "rdp") >= base
    assert epsilon_of(sigma * factor, rate, steps, DELTA, "rdp") <= base
    assert epsilon_of(sigma, rate / factor, steps, DELTA, "rdp") <= base * (1 + 1e-9)
    assert epsilon_of(sigma, rate, steps, DELTA / factor, "rdp") >= base


@settings(deadline=None, max_examples=6)
@given(epsilon=st.floats(0.2, 10), rate=st.floats(0.02, 1), steps=st.integers(1, 500))
def test_calibrated_noise_meets_the_target_and_wastes_at_most_one_per_cent(epsilon: float, rate: float, steps: int) -> None:
    sigma = calibrate(epsilon=epsilon, delta=DELTA, sample_rate=rate, steps=steps, accountant="rdp")
    assert 0.99 * epsilon <= epsilon_of(sigma, rate, steps, DELTA, "rdp") <= epsilon


def test_calibration_with_prv_meets_the_target_with_less_noise() -> None:
    job = {"epsilon": 3.0, "delta": DELTA, "sample_rate": 0.2, "steps": 60}
    prv, rdp = (calibrate(**job, accountant=name) for name in ("prv", "rdp"))
    assert prv < rdp
    assert 0.99 * 3 <= epsilon_of(prv, 0.2, 60, DELTA, "prv") <= 3


def test_prv_gives_the_bound_of_rdp_where_its_tables_would_be_too_large() -> None:
    assert epsilon_of(0.05, 0.2, 60, DELTA, "prv") == epsilon_of(0.05, 0.2, 60, DELTA, "rdp")


def test_models_per_record_multiplies_the_steps() -> None:
    job = {"epsilon": 3.0, "delta": DELTA, "sample_rate": 0.2, "accountant": "rdp"}
    assert calibrate(**job, steps=60, models_per_record=4) == calibrate(**job, steps=240)


def test_histories_compose() -> None:
    assert epsilon_of_history((), DELTA, "rdp") == 0.0
    parts = ((1.5, 0.2, 20), (1.5, 0.2, 40))
    assert epsilon_of_history(parts, DELTA, "rdp") == pytest.approx(epsilon_of(1.5, 0.2, 60, DELTA, "rdp"), rel=1e-9)
    mixed = epsilon_of_history(((1.5, 0.2, 20), (3.0, 0.2, 40)), DELTA, "rdp")
    assert epsilon_of(3.0, 0.2, 60, DELTA, "rdp") < mixed < epsilon_of(1.5, 0.2, 60, DELTA, "rdp")


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_one_step_without_noise_is_infinite(accountant: str) -> None:
    assert epsilon_of_history(((1.5, 0.2, 20), (0.0, 0.2, 1)), DELTA, accountant) == math.inf


GOOD = {"epsilon": 3.0, "delta": DELTA, "sample_rate": 0.2, "steps": 60, "accountant": "rdp"}


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        *(({"epsilon": value}, "epsilon") for value in (0.0, -1.0, math.nan, math.inf)),
        *(({"delta": value}, "delta") for value in (0.0, 1.0, -1e-5, math.nan)),
        *(({"sample_rate": value}, "sample_rate") for value in (0.0, 1.01, math.nan)),
        *(({"steps": value}, "steps") for value in (0, -3, 2.5, True)),
        ({"models_per_record": 0}, "models_per_record"),
        ({"accountant": "zcdp"}, "accountant .* rdp, prv"),
        ({"accountant": "gdp"}, "gdp.*below the true"),
        ({"epsilon": 101.0, "accountant": "prv"}, "at most 100"),
        ({"epsilon": 1e-4}, "epsilon 0.0001 .* cannot be reached"),
        ({"epsilon": 1e-4, "accountant": "prv"}, "epsilon 0.0001 .* cannot be reached"),
    ],
)
def test_a_value_out_of_range_is_refused_in_one_line(change: dict[str, object], culprit: str) -> None:
    with pytest.raises(UserError, match=culprit) as caught:
        calibrate(**{**GOOD, **change})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("sigma", [-1.0, math.nan])
def test_negative_noise_is_refused(sigma: float) -> None:
    with pytest.raises(UserError, match="noise_multiplier"):
        epsilon_of(sigma, 0.2, 60, DELTA, "rdp")


def test_only_dp_sgd_loads_opacus() -> None:
    code = (
        "import sys, securefl.privacy.plain, securefl.privacy.accountant, securefl.privacy.models, securefl.privacy.noise;"
        "sys.exit('opacus' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
