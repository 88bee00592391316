"""Inputs that carry noise: only their sum must fit, whatever a single one is; a bound on single ones would tell of the value below.

Source: row 39 of the attacks: a value that is refused or clamped after its noise betrays itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols import simulate, sums
from protocols.errors import Misuse
from protocols.session import SERVER, client
from protocols.suite import Occasion
from protocols.vector import Vector

NOISY = ("secagg", "secagg+", "lightsecagg", "kahe", "plain-insecure")
N, SIZE, MAX_ABS, TAIL = 4, 3, 100, 5000
SLOW = settings(max_examples=12, deadline=None)


def outcome(protocol: str, inputs: list[list[int]], *, tail: int) -> Any:
    scheme = sums.scheme(protocol)
    roster, parties = sums.enrol(N)
    terms = scheme.terms(Occasion("noised", 0), roster, scheme.noised(N, SIZE, MAX_ABS, tail=tail))
    sessions = {SERVER: sums.server_session(scheme, terms)}
    sessions |= {client(p.index): sums.client_session(scheme, p, terms) for p in parties}
    return simulate.run(sessions, {client(u): [Vector(np.array(x))] for u, x in enumerate(inputs, 1)})


@pytest.mark.parametrize("protocol", NOISY)
@given(st.lists(st.integers(-(2**40), 2**40), min_size=3, max_size=3), st.integers(-N * MAX_ABS - TAIL, N * MAX_ABS + TAIL))
@example([2**40, -(2**40), 1], N * MAX_ABS + TAIL)
@SLOW
def test_single_values_go_past_every_bound_and_the_sum_is_exact(protocol: str, free: list[int], total: int) -> None:
    """Also past half the ring: they are reduced as the sum is."""
    column = [*free, total - sum(free)]
    out = outcome(protocol, [[x, 0, -x] for x in column], tail=TAIL)
    np.testing.assert_array_equal(out.outputs[0].values, [total, 0, -total])


@pytest.mark.parametrize("protocol", NOISY)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_past_the_noise_aborts(protocol: str, sign: int) -> None:
    out = outcome(protocol, [[sign * (N * MAX_ABS + TAIL + 1), 0, 0], *[[0, 0, 0]] * (N - 1)], tail=TAIL)
    assert out.abort.check == "sum-range"


@pytest.mark.parametrize("protocol", NOISY)
def test_control_without_noise_a_single_value_past_its_bound_is_refused(protocol: str) -> None:
    with pytest.raises(Misuse, match="past max_abs"):
        outcome(protocol, [[MAX_ABS + 1, 0, 0], [-1, 0, 0], *[[0, 0, 0]] * (N - 2)], tail=0)


@pytest.mark.parametrize("protocol", NOISY)
@pytest.mark.parametrize("tail", [-1, 2**62])
def test_a_tail_that_is_none_is_refused(protocol: str, tail: int) -> None:
    with pytest.raises(Misuse, match=f"tail of the noise must be at least 0 and below 2.62, not {tail}"):
        sums.scheme(protocol).noised(N, SIZE, MAX_ABS, tail=tail)


@pytest.mark.parametrize("protocol", ["bfv", "ckks"])
def test_other_protocols_say_that_they_carry_none(protocol: str) -> None:
    with pytest.raises(Misuse, match=f"sums of {protocol} carry no noise: take one of secagg, secagg.*kahe$"):
        sums.scheme(protocol).noised(N, SIZE, MAX_ABS, tail=TAIL)


@pytest.mark.parametrize("protocol", NOISY)
@given(st.integers(2, 200), st.integers(1, 2**20), st.integers(0, 2**30))
@example(2, 2**20, 2**30)  # more than a field of 31 bits holds
@example(3, 1, 2**30 - 3)  # by one
@settings(deadline=None, max_examples=40)
def test_the_ring_has_room_for_the_noise(protocol: str, parties: int, max_abs: int, tail: int) -> None:
    p = sums.scheme(protocol).noised(parties, SIZE, max_abs, tail=tail)
    assert 2 * (parties * max_abs + tail) < p.ring.modulus


@pytest.mark.parametrize("protocol", NOISY)
@given(st.integers(2, 200), st.integers(1, 2**20))
@settings(deadline=None, max_examples=20)
def test_all_the_room_of_a_ring_is_for_the_noise_and_no_more(protocol: str, parties: int, max_abs: int) -> None:
    p = sums.scheme(protocol).noised(parties, SIZE, max_abs, tail=0)
    most = (p.ring.modulus - 1) // 2 - parties * max_abs
    replace(p, tail=most)
    with pytest.raises(Misuse, match="headroom"):
        replace(p, tail=most + 1)
