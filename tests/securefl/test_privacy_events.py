"""Events as data, and what events of several kinds cost together: hand-computed cases, and accountants against each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.errors import UserError
from securefl.privacy import accountant, composition, events
from securefl.privacy.composition import spent
from securefl.privacy.divergence import ORDERS, DiscreteGaussianEvent, SkellamEvent, epsilon_of_events
from securefl.privacy.events import DpSgdEvent, ExactEvent

DELTA = 1e-5
numbers = st.floats(1e-3, 1e6)
covered = st.one_of(
    st.builds(SkellamEvent, numbers, numbers, numbers, st.integers(1, 50)),
    st.builds(DiscreteGaussianEvent, numbers, st.integers(0, 20), st.integers(1, 4096), numbers, numbers, st.integers(1, 50)),
    st.builds(DpSgdEvent, numbers, st.sampled_from([0.01, 0.2, 1.0]), st.integers(1, 500)),
)


@given(st.one_of(covered, st.builds(ExactEvent, st.text(min_size=1))))
def test_an_event_comes_back_as_it_was_written(event: events.Event) -> None:
    assert events.read(events.written(event)) == event


@pytest.mark.parametrize(
    ("tree", "word"),
    [
        ({"kind": "laplace", "scale": 1.0}, "laplace"),
        ({"kind": "dp-sgd", "noise_multiplier": 1.0, "sample_rate": 0.1}, "steps"),
        ({"kind": "dp-sgd", "noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 1, "more": 2}, "more"),
        ({"kind": "dp-sgd", "noise_multiplier": "1", "sample_rate": 0.1, "steps": 1}, "noise_multiplier"),
        ({"kind": "dp-sgd", "noise_multiplier": 1.0, "sample_rate": 0.1, "steps": 1.5}, "steps"),
        ({"kind": "dp-sgd", "noise_multiplier": -1.0, "sample_rate": 0.1, "steps": 1}, "noise_multiplier"),
        ({"kind": "dp-sgd", "noise_multiplier": 1.0, "sample_rate": 0.0, "steps": 1}, "rate"),
        ({"kind": "exact", "shows": ""}, "show"),
        ({"kind": "exact", "shows": 3}, "shows"),
        (["dp-sgd"], "kind"),
        ({"noise_multiplier": 1.0}, "kind"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(tree: Any, word: str) -> None:
    with pytest.raises(UserError) as caught:
        events.parse(tree)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_object_that_is_no_event_and_a_text_that_is_none_are_refused() -> None:
    for made in (lambda: events.plain(object()), lambda: spent([(object(), 1)], DELTA), lambda: events.read("{")):  # type: ignore[arg-type,list-item]
        with pytest.raises(UserError):
            made()


def test_exact_openings_have_no_epsilon() -> None:
    with pytest.raises(UserError, match="no ε: the sum of weights"):
        spent([(ExactEvent("the sum of weights"), 1)], DELTA)


def test_nothing_costs_nothing_and_no_noise_costs_everything() -> None:
    assert spent([], DELTA) == composition.NOTHING
    assert spent([(DpSgdEvent(0.0, 0.5), 1)], DELTA).epsilon == math.inf
    assert spent([(DpSgdEvent(0.0, 0.5), 1), (SkellamEvent(100.0, 1.0, 1.0), 1)], DELTA).epsilon == math.inf
    assert spent([(SkellamEvent(0.0, 1.0, 1.0), 1), (DpSgdEvent(9.0, 0.5), 1)], DELTA).epsilon == math.inf


def test_a_gaussian_step_without_sampling_by_hand() -> None:
    """σ = 4, q = 1, twice, beside a discrete Gaussian of variance 16 and sensitivity 1: RDP(α) = 3·α/32."""
    alpha = ORDERS.astype(float)
    by_hand = float((3 * alpha / 32 + np.log1p(-1 / alpha) - (math.log(DELTA) + np.log(alpha)) / (alpha - 1)).min())
    mixed = spent([(DpSgdEvent(4.0, 1.0), 2), (DiscreteGaussianEvent(16.0, 1, 1, 1.0, 1.0), 1)], DELTA)
    assert mixed.epsilon == pytest.approx(by_hand, rel=1e-12)
    assert mixed.accountant == "rdp"


def test_each_kind_alone_is_what_its_own_accountant_says() -> None:
    step = DpSgdEvent(1.1, 0.05, 30)
    assert spent([(step, 2)], DELTA).epsilon == accountant.epsilon_of(1.1, 0.05, 60, DELTA, "rdp")
    skellam = SkellamEvent(500.0, 30.0, 10.0, 4)
    assert spent([(skellam, 3)], DELTA).epsilon == epsilon_of_events([SkellamEvent(500.0, 30.0, 10.0, 12)], DELTA)


def test_opacus_orders_and_the_common_orders_agree() -> None:
    """An event that costs next to nothing takes DP-SGD to the common orders: at most 10 % above Opacus' own, up to ε = 10."""
    free = SkellamEvent(1e15, 1.0, 1.0)
    for sigma, rate, steps in ((1.5, 0.2, 60), (3.0, 0.05, 500), (0.8, 0.01, 100), (20.0, 1.0, 5)):
        alone = accountant.epsilon_of(sigma, rate, steps, DELTA, "rdp")
        common = spent([(DpSgdEvent(sigma, rate, steps), 1), (free, 1)], DELTA).epsilon
        assert alone * (1 - 1e-9) <= common <= alone * 1.1


def test_prv_is_for_dp_sgd_alone_and_never_larger_where_it_counts() -> None:
    steps = [(DpSgdEvent(1.0, 0.1, 50), 1), (DpSgdEvent(2.0, 0.3, 5), 1)]
    tight, loose = spent(steps, DELTA, "prv"), spent(steps, DELTA)
    assert (tight.accountant, loose.accountant) == ("prv", "rdp")
    assert tight.epsilon < loose.epsilon
    assert spent([*steps, (SkellamEvent(1e6, 9.0, 3.0), 1)], DELTA, "prv").accountant == "rdp"


@given(st.lists(st.tuples(covered, st.integers(1, 5)), min_size=1, max_size=4), covered)
def test_more_never_costs_less_and_order_and_grouping_do_not_matter(happened: list[tuple[Any, int]], more: Any) -> None:
    before = spent(happened, DELTA).epsilon
    singles = [(event, 1) for event, times in reversed(happened) for _ in range(times)]
    assert spent(singles, DELTA).epsilon == pytest.approx(before, rel=1e-9)
    # Opacus' orders and the common ones differ by up to 10 % where ε is moderate, and more where it is large.
    same = isinstance(more, DpSgdEvent) == all(isinstance(event, DpSgdEvent) for event, _ in happened)
    after = spent([*happened, (more, 1)], DELTA).epsilon
    assert after >= before * (1 - 1e-9) or not same


def test_a_probability_of_failure_goes_off_delta_and_adds_up() -> None:
    event = SkellamEvent(500.0, 30.0, 10.0, rounds=2, failure=2e-6)
    assert spent([(event, 3)], DELTA).epsilon == pytest.approx(
        epsilon_of_events([SkellamEvent(500.0, 30.0, 10.0, rounds=6)], DELTA - 6e-6), rel=1e-9
    )
    assert spent([(event, 6)], DELTA).epsilon == math.inf


def test_a_probability_of_failure_goes_off_delta_beside_steps_of_dp_sgd_too() -> None:
    """σ = 4, q = 1, beside three discrete Gaussians of variance 16 and sensitivity 1: RDP(α) = 4·α/32, at δ less 3 · 3·10^−6."""
    alpha, left = ORDERS.astype(float), DELTA - 9e-6
    by_hand = float((4 * alpha / 32 + np.log1p(-1 / alpha) - (math.log(left) + np.log(alpha)) / (alpha - 1)).min())
    step, event = (DpSgdEvent(4.0, 1.0), 1), DiscreteGaussianEvent(16.0, 1, 1, 1.0, 1.0, failure=3e-6)
    assert spent([step, (event, 3)], DELTA).epsilon == pytest.approx(by_hand, rel=1e-9)
    assert spent([step, (event, 4)], DELTA).epsilon == math.inf
