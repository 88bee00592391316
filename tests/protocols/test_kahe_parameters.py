"""Parameters of key-additive masking: the published figures, bounds held against exact laws, and refusals with their numbers."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from protocols import kahe_parameters, lattice
from protocols.bulk import Packed
from protocols.errors import Misuse
from protocols.kahe_parameters import FAILURE, KaheParameters, digit_bits, fitted, layouts, noise, tail, widest, wire_bits
from protocols.kahe_types import KeyParameters
from protocols.primitives.graph import Complete, Harary
from protocols.primitives.negacyclic import DEGREE, MODULUS, Limbs
from protocols.primitives.rlwe import LARGEST, VARIANCE, Shape
from protocols.ring import Ring
from protocols.schema import MAX_PARTIES
from protocols.secagg_parameters import Parameters


@pytest.mark.parametrize("size", [10**6, 10**8])
@pytest.mark.parametrize(("parties", "width", "wire"), [(10, 20, 44), (100, 23, 52), (1000, 26, 60)])
def test_sixteen_bits_of_precision(size: int, parties: int, width: int, wire: int) -> None:
    p = KaheParameters.of(parties, size, 2**15 - 1)
    assert (p.digits, p.width, p.wire, p.cut, p.bits_per_value) == (2, width, wire, 64 - wire, wire / 2)
    assert (p.ring, p.shape) == (Ring(width), Shape(size + 1, 2, width, wire))
    assert (p.keys.size, p.keys.max_abs) == (4096, 32)
    assert p.upload == Ring(wire).packed_size(-(-(size + 1) // 8192) * 4096)
    assert p.residual < 2 ** (wire - 2 * width - 1)


def test_wide_sums_take_one_value_a_coefficient_and_wider_ones_are_refused() -> None:
    assert (KaheParameters.of(10_000, 10**8, 2**15 - 1).digits, KaheParameters.of(100, 10**6, 2**23).digits) == (1, 1)
    widest = max(m for m in range(63) if _stands(10, 2**m))
    p = KaheParameters.of(10, 1000, 2**widest)
    assert (p.digits, p.width, p.wire) == (1, 56, 61)
    with pytest.raises(
        Misuse, match=r"sums of W = \d+ bits and the noise of n = 10 ciphertexts, \d+\.\d bits, do not fit in the 63"
    ):
        KaheParameters.of(10, 1000, 2 ** (widest + 1))


def _stands(parties: int, max_abs: int) -> bool:
    try:
        KaheParameters.of(parties, 1000, max_abs)
    except Misuse:
        return False
    return True


@settings(deadline=None)
@given(st.integers(2, MAX_PARTIES), st.integers(1, 2**31), st.integers(1, 2**24))
def test_widths_are_the_least_that_hold(parties: int, size: int, max_abs: int) -> None:
    width = digit_bits(parties, max_abs)
    assert 2 ** (width - 2) <= parties * max_abs < 2 ** (width - 1)
    digits, wire = fitted(parties, size, width)
    room = [
        noise(parties, 64 - w, Shape(size, digits, width, w).coefficients) < 2.0 ** (w - digits * width - 1)
        for w in (wire - 1, wire)
    ]
    assert room == [False, True]
    assert digits == 2 or wire_bits(parties, size, 2, width) is None
    garbage = 4.0 ** (64 - digits * width) / 12  # mean square of what rounding takes from random coefficients
    assert garbage > 5 * Shape(size, digits, width, wire).expected(parties)


@settings(deadline=None)
@given(st.integers(2, MAX_PARTIES), st.integers(1, 2**31))
def test_the_widest_sum_leaves_room_for_the_noise_where_63_bits_travel(parties: int, size: int) -> None:
    """More bits that travel never leave less room, so that the most decide."""
    width, coefficients = widest(parties, size), Shape(size, 1, 1, 63).coefficients
    assert noise(parties, 1, coefficients) < 2.0 ** (62 - width)
    assert noise(parties, 1, coefficients) >= 2.0 ** (61 - width)
    assert wire_bits(parties, size, 1, width) is not None
    assert wire_bits(parties, size, 1, width + 1) is None


def test_a_whole_coefficient_never_travels() -> None:
    """Of 880 parties the noise would just fit beside 53 bits if all 64 did."""
    assert noise(880, 0, DEGREE) < 2.0 ** (63 - 53)
    assert noise(880, 1, DEGREE) >= 2.0 ** (62 - 53)
    assert wire_bits(880, 1, 1, 53) is None
    assert wire_bits(860, 1, 1, 53) == 63
    with pytest.raises(Misuse, match=r"W = 53 bits and the noise of n = 880 ciphertexts, 10\.0 bits.*at most W = 52 does"):
        fitted(880, 1, 53)


@settings(deadline=None)
@given(st.integers(2, MAX_PARTIES), st.integers(1, 63), st.integers(1, 2**30))
def test_the_bound_is_that_of_the_specification(parties: int, cut: int, coefficients: int) -> None:
    """And the half bit that an odd number of parties leaves."""
    spread = math.sqrt(2 * parties * (1 / 12 + 16 / 4.0**cut) * math.log(2.0**41 * coefficients))
    known = min(parties * (0.5 + 32 / 2.0**cut), spread + 2.0 ** -(cut + 1))
    assert noise(parties, cut, coefficients) == pytest.approx(known, rel=1e-12)


@pytest.mark.parametrize("cut", [1, 3, 6])
@pytest.mark.parametrize("parties", [2, 3, 10, 51])
def test_the_noise_stays_below_its_bound(parties: int, cut: int) -> None:
    """Against the exact law: bits cut off that are uniform, errors that are binomial, the offset that the server adds."""
    one = np.convolve(np.full(2**cut, 2.0**-cut), binom.pmf(np.arange(65), 64, 0.5))  # of e − (bits cut off), from a fixed value on
    law = np.ones(1)
    for _ in range(parties):
        law = np.convolve(law, one)
    start = -parties * (2**cut - 1 + LARGEST)
    off = np.arange(start, start + law.size) + parties * (2**cut - 1) // 2
    for coefficients in (1, 4096, 10**6):
        past = law[np.abs(off) >= noise(parties, cut, coefficients) * 2**cut].sum()
        assert past * coefficients <= 2.0**-FAILURE
    assert float(law @ off.astype(float) ** 2) <= Shape(1, 1, 1, MODULUS - cut).expected(parties) + 0.25
    assert float(law @ off.astype(float) ** 2) == pytest.approx(parties * ((4**cut - 1) / 12 + VARIANCE), abs=0.26)


@settings(deadline=None)
@given(st.floats(0.01, 1e6), st.integers(1, 2**31))
def test_the_tail_is_the_least_that_the_bound_of_chernoff_gives(deviation: float, size: int) -> None:
    """Of a difference of two Poisson variables: E[exp(s·X)] = exp(σ²·(cosh s − 1)), at the best s, which is looked for."""
    variance = max(deviation, 1.0) ** 2

    def chance(t: int) -> float:
        """ln of the bound for one of ``size`` values, on either side."""
        exponents = minimize_scalar(lambda s: 2 * variance * math.sinh(s / 2) ** 2 - s * t, bounds=(0, 40), options={"xatol": 1e-9})
        return math.log(2 * size) + float(exponents.fun)

    t = tail(deviation, size)
    assert type(t) is int
    assert chance(t) <= -40 * math.log(2) + 1e-6
    assert chance(t - 1) > -40 * math.log(2) - 1e-6


def test_no_noise_has_no_tail_and_a_deviation_that_is_none_is_refused() -> None:
    assert tail(0, 10**6) == 0
    assert tail(2.0**40 - 1, 1) > 2**42
    for bad in (-0.5, 2.0**40, math.nan, math.inf):
        with pytest.raises(Misuse, match=r"must be in \[0, 2\^40\), not"):
            tail(bad, 10)


def test_the_tail_of_noise_in_the_sum_takes_its_place() -> None:
    assert (digit_bits(3, 1), digit_bits(3, 1, 1)) == (3, 4)
    assert digit_bits(64, 32767) == digit_bits(64, 32767, 63) == 22
    assert digit_bits(64, 32767, 64) == 23
    p = KaheParameters.of(100, 1000, 32767, tail=10**6)
    assert (p.tail, p.width, p.most(7)) == (10**6, 24, 7 * 32767 + 10**6)
    assert KaheParameters.of(100, 1000, 32767).most(7) == 7 * 32767


@pytest.mark.parametrize("parties", [2, 3, 4, 5, 10, 100, 163, 1000, 10_000])
@pytest.mark.parametrize("size", [10, 10**6])
def test_the_chance_of_a_misreading_is_that_of_noise_past_its_room(parties: int, size: int) -> None:
    """By the bound of Chernoff, solved for the room; 0 where all cut off and all errors together cannot fill it."""
    p = KaheParameters.of(parties, size, 32767)
    room, coefficients = 2 ** (p.wire - p.digits * p.width - 1), p.shape.coefficients
    assert p.residual == noise(parties, p.cut, coefficients) < room
    if parties * (0.5 + 32 / 2**p.cut) < room:
        assert p.failure == 0
        return
    assert 0 < p.failure < 2.0**-FAILURE
    spread = math.sqrt(2 * parties * (1 / 12 + 16 / 4**p.cut) * (math.log(2 * coefficients) - math.log(p.failure)))
    assert spread + 0.5 / 2**p.cut == pytest.approx(room, rel=1e-9)


def test_the_last_value_that_a_wire_has_room_for() -> None:
    """Of 163 parties one more element than two takes a bit more, so that it counts whether the count of parties is a value too."""
    full = 2 * 2 * DEGREE - 1  # two elements of two values a coefficient, less the one that counts
    assert [KaheParameters.of(163, size, 32767).wire for size in (full - 1, full, full + 1, full + 2)] == [54, 54, 55, 55]


def test_bits_are_a_lower_bound_of_the_width() -> None:
    assert KaheParameters.of(10, 1000, 100, bits=5).width == digit_bits(10, 100) == 11
    assert KaheParameters.of(10, 1000, 100, bits=23).width == 23


def test_thresholds_and_graph_are_those_of_the_key_sum() -> None:
    p, keys = KaheParameters.of(10, 1000, 100), Parameters.of(10, DEGREE, LARGEST)
    assert p.keys == keys
    assert (p.parties, p.threshold, p.corrupt, p.graph) == (10, keys.threshold, keys.corrupt, Complete())
    assert (p.security, p.lying_server) == (math.inf, True)
    assert KaheParameters.of(10, 1000, 100, threshold=9, corrupt=2).keys == Parameters.of(
        10, DEGREE, LARGEST, threshold=9, corrupt=2
    )
    sparse = Parameters.sparse(100, DEGREE, LARGEST, corrupt=5, dropouts=5)
    over = KaheParameters.over(sparse, 1000, 100)
    assert (over.tail, KaheParameters.over(sparse, 1000, 100, tail=7).tail) == (0, 7)
    assert isinstance(over.graph, Harary)
    assert (over.keys, over.security, over.lying_server) == (sparse, sparse.security, sparse.lying_server)
    trusted = Parameters.sparse(100, DEGREE, LARGEST, corrupt=5, dropouts=5, semi_honest=True)
    assert not KaheParameters.over(trusted, 1000, 100).lying_server


@pytest.mark.parametrize("parties", [2, 10, 1000, MAX_PARTIES])
def test_limbs(parties: int) -> None:
    assert KaheParameters.of(parties, 10, 1, corrupt=0).limbs == (Limbs(32, 2), Limbs(22, 3))


GOOD = KaheParameters.of(100, 10**6, 2**15 - 1)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "W": ({"width": 22}, r"n·max \+ T = 100·32767 \+ 0 must be below 2\^\(W−1\) = 2\^21; 23 bits would do"),
    "W with noise": ({"tail": 2**22}, r"24 bits would do"),
    "W too wide": ({"width": 64}, "do not fit in the 63 bits"),
    "W for other ℓ": ({"width": 24}, "give P = 2, ℓ = 54, not 2, 52"),
    "ℓ too small": ({"wire": 51}, "give P = 2, ℓ = 52, not 2, 51"),
    "ℓ too large": ({"wire": 64}, "give P = 2, ℓ = 52, not 2, 64"),
    "P": ({"digits": 1}, "give P = 2, ℓ = 52, not 1, 52"),
    "P of three": ({"digits": 3}, "give P = 2, ℓ = 52, not 3, 52"),
    "N": ({"degree": 2048}, r"has N = 4096 and q = 2\^64, not N = 2048"),
    "q": ({"modulus": 32}, r"not N = 4096 and q = 2\^32"),
    "T": ({"tail": -1}, "at least 0 and below 2.62, not -1"),
    "d": ({"size": 2**31 + 1}, "a vector has 1 to 2"),
    "max": ({"max_abs": 0}, "max_abs must be at least 1"),
    "keys of another size": (
        {"keys": Parameters.of(100, DEGREE + 1, LARGEST)},
        "over 4096 values up to 32 in 13 bits, not over 4097",
    ),
    "longer keys": ({"keys": Parameters.of(100, DEGREE, 64)}, "not over 4096 up to 64 in 14"),
    "a wider ring": ({"keys": Parameters.of(100, DEGREE, LARGEST, bits=20)}, "in 20"),
}


def test_ciphertext_and_masked_key_are_kept_as_they_come() -> None:
    cipher, masked = Packed(Ring(52), 123 * DEGREE, kept=True), Packed(Ring(13), DEGREE + 1, kept=True)
    assert layouts(GOOD) == {"cipher": cipher, "masked": masked}


def test_a_key_keeps_the_security_that_opened_sums_leave_it() -> None:
    """Its coefficients have the deviation 4, of which a hint leaves 1/√2."""
    assert GOOD.lattice == lattice.estimate(4096, 64, 4 / math.sqrt(2))


@pytest.mark.parametrize(("change", "why"), BAD.values(), ids=BAD)
def test_nothing_is_taken_that_is_not_what_is_computed(change: dict[str, Any], why: str) -> None:
    with pytest.raises(Misuse, match=why):
        replace(GOOD, **change)


@pytest.mark.parametrize("parties", [0, 1, MAX_PARTIES + 1])
def test_too_few_or_too_many_parties(parties: int) -> None:
    with pytest.raises(Misuse, match="a secure sum needs 2 to 16384 parties"):
        KaheParameters.of(parties, 10, 1)


def test_all_of_it_enters_the_session_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert GOOD.content == [10**6, 32767, 0, 2, 23, 52, 4096, 64, GOOD.keys.content]
    others = [
        KaheParameters.of(100, 10**6 + 1, 2**15 - 1),
        KaheParameters.of(100, 10**6, 2**15 - 2),
        KaheParameters.of(100, 10**6, 2**15 - 1, tail=1),
        KaheParameters.of(100, 10**6, 2**15 - 1, bits=24),
        KaheParameters.of(100, 10**6, 2**15 - 1, corrupt=1),
    ]
    monkeypatch.setattr(kahe_parameters, "fitted", lambda *_: (1, 30))
    others.append(KaheParameters.of(100, 10**6, 2**15 - 1))
    assert len({repr(p.content) for p in [GOOD, *others]}) == 7


def test_parameters_of_keys_know_the_sum_that_they_are_of() -> None:
    whole = KaheParameters.of(5, 10, 100)
    assert KeyParameters.within(whole).whole is whole
    assert KeyParameters.within(whole).content == whole.content
    keys = {field.name: getattr(whole.keys, field.name) for field in fields(Parameters)}
    with pytest.raises(TypeError, match="parameters of no keys"):
        _ = KeyParameters(**keys).whole
