"""Parameters of the homomorphic sums against their formulas and their table, at the very bounds; nothing is encrypted here."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from protocols.bulk import Blobs, Packed
from protocols.errors import Misuse
from protocols.he_parameters import LARGEST, OPENERS, SUITE, HeParameters, capacity, layouts, noise_bound, security, slot_noise
from protocols.primitives.homomorphic import Shape
from protocols.ring import Ring

MAKE = {"bfv": HeParameters.bfv, "ckks": HeParameters.ckks}
EACH = pytest.mark.parametrize("name", MAKE)
COUNTS = (2, 3, 4, 5, 8, 9, 100, 1000, 16384)
LN = 72 * math.log(2)  # of 2^72: a chance of 2^−40 for each of 2^31 coefficients, and one bit for both signs
STANDARD = """
1024 27 19 14
2048 54 37 29
4096 109 75 58
8192 218 152 118
16384 438 305 237
32768 881 611 476
"""
"""Table 1 of the standard: degree, and the largest log q for 128, 192 and 256 bits."""


def small(**change: Any) -> HeParameters:
    return replace(HeParameters.bfv(6, 5, 1000), **change)


def refused(**change: Any) -> bool:
    try:
        small(**change)
    except Misuse:
        return True
    return False


def test_security_is_that_of_the_standards_table() -> None:
    rows = [[int(word) for word in line.split()] for line in STANDARD.split("\n") if line]
    assert {degree: dict(zip((128, 192, 256), most, strict=True)) for degree, *most in rows} == LARGEST
    for degree, *most in rows:
        for level, bits in zip((128, 192, 256), most, strict=True):
            assert security(degree, bits) == level
        assert [security(degree, bits + 1) for bits in most[1:]] == [128, 192]
        with pytest.raises(Misuse, match=f"log q = {most[0] + 1} is above {most[0]}, .* N = {degree}"):
            security(degree, most[0] + 1)
    with pytest.raises(Misuse, match="one of 1024, 2048, 4096, 8192, 16384, 32768, not 512"):
        security(512, 10)
    assert [small(degree=degree, modulus=54, slot=20).security for degree in (2048, 4096)] == [128, 256]


def test_noise_is_bounded_by_what_can_be_and_by_what_is_likely() -> None:
    """21 of each, or Hoeffding's bound of 42 coins each; and half of a rounding each."""
    for n in (1, *COUNTS):
        assert noise_bound(n) == pytest.approx(min(21 * n, math.sqrt(2 * n * (42 / 4) * LN)) + n / 2, rel=1e-12)
    assert noise_bound(2) == 43
    assert noise_bound(3) < 64.5


@pytest.mark.parametrize("modulus", [40, 54, 60])
def test_a_slot_of_bfv_is_as_wide_as_the_noise_allows(modulus: int) -> None:
    """Noise below q/2p, p = 2^slot, q > 2^(bits − 1)."""
    for n in COUNTS:
        slot = capacity("bfv", n, 4096, modulus)
        assert 2 ** (modulus - 1) / 2 ** (slot + 1) >= noise_bound(n) > 2 ** (modulus - 1) / 2 ** (slot + 2)


def test_a_slot_of_ckks_sees_noise_over_all_coefficients_and_a_scale_of_eight_times_that() -> None:
    for n in COUNTS:
        for degree in (4096, 16384):
            noise = slot_noise(n, degree)
            assert noise == pytest.approx(math.sqrt(LN * degree) * (math.sqrt(n * 10.5) + n / 2), rel=1e-12)
            p = HeParameters(n, 5, 1, Ring(20), n, 0, "ckks", 16, 1, degree)
            assert 1 / 16 < p.error <= 1 / 8
            assert p.error == noise / 2**p.shape.scale
            assert capacity("ckks", n, degree, 60) == min(40, 60 - 2 - p.shape.scale)
            assert capacity("ckks", n, degree, 40) == 40 - 2 - p.shape.scale
    assert HeParameters.bfv(100, 5, 1000).error == 0.0


@EACH
@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("max_abs", [1, 3, 100, 32767, 2**20, 2**47 - 1])
def test_values_are_cut_so_that_they_take_the_fewest_slots(name: str, n: int, max_abs: int) -> None:
    """Of all limbs: as many to a value, as many with room for n of them to a slot; the shortest, and no bit that is not used."""
    p, width, growth = MAKE[name](n, 5, max_abs), (2 * max_abs).bit_length(), math.ceil(math.log2(n))
    room = capacity(p.scheme, n, 4096, 60)
    ways = {
        limb: Fraction(math.ceil(width / limb), room // (limb + growth)) for limb in range(1, width + 1) if limb + growth <= room
    }
    assert p.growth == growth
    assert p.digit == p.limb + growth
    assert p.digits == p.slot // p.digit == room // p.digit
    assert p.limbs == math.ceil(width / p.limb)
    assert Fraction(p.limbs, p.digits) == min(ways.values())
    fewest = [limb for limb, ratio in ways.items() if ratio == min(ways.values())]
    assert p.limbs == min(math.ceil(width / limb) for limb in fewest)
    assert p.limb == math.ceil(width / p.limbs)
    assert p.slot == p.digits * p.digit
    assert p.lying_server is True


@EACH
@pytest.mark.parametrize(("n", "max_abs"), [(2, 1), (100, 32767), (1000, 2**40)])
def test_slots_and_ciphertexts_are_counted_in_whole_ones(name: str, n: int, max_abs: int) -> None:
    for size in (1, 2, 3, 4, 5, 1000, 8190, 8191, 8192, 8193, 100_000, 300_000):
        p = MAKE[name](n, size, max_abs)
        assert p.data_slots == math.ceil(Fraction((size + 1) * p.limbs, p.digits))
        assert p.tag_limbs == math.ceil(Fraction(61, p.limb))
        slots = p.data_slots + math.ceil(Fraction(p.tag_limbs, p.digits))
        assert p.ciphertexts == math.ceil(Fraction(slots, p.degree if name == "bfv" else p.degree // 2))
        assert p.shape == Shape(name, p.degree, 60, p.slot, p.shape.scale)
        assert (p.shape.scale == 0) == (name == "bfv")
        assert dict(layouts(p)) == {
            "seeds": Blobs(p.ciphertexts, 64),
            "words": Packed(Ring(60), p.ciphertexts * p.degree),
            "total": Packed(Ring(60), 2 * p.ciphertexts * p.degree),
            "opened": Packed(p.ring, size + 1),
        }
        assert p.upload == p.ciphertexts * (64 + p.degree * 60 // 8)
    assert small(limb=1, slot=4).tag_limbs == 61


def test_the_degree_is_larger_for_long_vectors_of_bfv_alone() -> None:
    """From 2^17 slots; two values of 100 parties lie in one, and so does the count."""
    for size, degree in ((2**18 - 3, 4096), (2**18 - 2, 16384)):
        p = HeParameters.bfv(100, size, 32767)
        assert (p.digits, p.limbs, p.degree) == (2, 1, degree)
        assert p.data_slots - (degree == 16384) < 2**17 <= p.data_slots + (degree == 4096)
    assert HeParameters.ckks(100, 10**6, 32767).degree == 4096


@EACH
def test_what_is_given_is_taken_and_what_is_not_is_the_least(name: str) -> None:
    make = MAKE[name]
    p = make(6, 5, 1000)
    assert (p.parties, p.size, p.max_abs, p.ring, p.threshold, p.corrupt, p.modulus) == (6, 5, 1000, Ring(14), 4, 0, 60)
    assert p.scheme == name
    assert make(7, 5, 1000).threshold == 4
    assert make(6, 5, 1000, bits=20) == replace(p, ring=Ring(20))
    assert make(6, 5, 1000, threshold=5) == replace(p, threshold=5)
    assert make(6, 5, 1000, corrupt=0) == p
    with pytest.raises(Misuse, match="colludes with the server"):
        make(6, 5, 1000, corrupt=1)
    with pytest.raises(Misuse, match="max_abs must be at least 1"):
        make(6, 5, 0)
    with pytest.raises(Misuse, match="no headroom"):
        make(6, 5, 1000, bits=13)


def test_the_last_values_that_the_bounds_allow() -> None:
    assert not refused(ring=Ring(20), max_abs=(2**19 - 1) // 6)
    assert not refused(ring=Ring(20), parties=7, threshold=7, max_abs=74898)  # 2^19 − 2
    assert refused(ring=Ring(20), parties=8, threshold=8, max_abs=2**16)  # 2^19
    assert not refused(ring=Ring(20), parties=8, threshold=8, max_abs=2**16 - 1)
    assert [refused(corrupt=corrupt) for corrupt in (-1, 0, 1)] == [True, False, True]
    assert [refused(threshold=t) for t in (3, 4, 6, 7)] == [True, False, False, True]
    assert [refused(parties=2, threshold=t) for t in (1, 2, 3)] == [True, False, True]
    assert [refused(modulus=bits, slot=4, limb=1) for bits in (19, 20, 60, 61)] == [True, False, False, True]
    assert [refused(limb=limb, slot=14) for limb in (0, 1, 11, 12)] == [True, False, False, True]
    most = capacity("bfv", 6, 4096, 60)
    assert [refused(slot=slot) for slot in (most, most + 1)] == [False, True]
    assert [refused(degree=degree, modulus=bits, slot=4, limb=1) for degree, bits in ((1024, 27), (1024, 28))] == [False, True]


def test_what_all_parties_agree_on_beside_their_parameters() -> None:
    assert SUITE == "X25519_Ed25519_HKDF-SHA256_AES256GCM_BLAKE2Xb_Z"
    assert OPENERS == 3


def test_all_of_it_is_in_the_session_identity_in_order() -> None:
    p = HeParameters(6, 5, 1000, Ring(15), 4, 0, "bfv", 42, 11, 8192, 59)
    assert p.content == [6, 5, 1000, 15, 4, 0, "bfv", 42, 11, 8192, 59]
    assert HeParameters(6, 5, 1000, Ring(15), 4, 0, "bfv", 42, 11).content[-2:] == [4096, 60]
