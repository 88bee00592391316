"""Products in the ring are those of integers, up to the worst case; the bound on rounding errors holds for these transforms."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import fft

from protocols.errors import Misuse
from protocols.primitives import negacyclic
from protocols.primitives.negacyclic import (
    CHUNK,
    DEGREE,
    EXACT,
    SPLITS,
    Elements,
    Factor,
    Limbs,
    Room,
    exact,
    limb_bits,
    limbs_for,
    multiply,
)
from protocols.primitives.rlwe import LARGEST, MOST_NORM, most_norm
from protocols.rand import Replay
from protocols.schema import MAX_PARTIES
from tests.protocols import kronecker

SEEDS = st.integers(0, 2**32)
EPSILON = 2.0**-53


def uniform(seed: object, count: int = 1) -> np.ndarray[Any, Any]:
    return Replay(f"elements {seed}")().words("a", count * DEGREE).reshape(count, DEGREE)


def signs(seed: object) -> np.ndarray[Any, Any]:
    return (Replay(f"signs {seed}")().words("s", DEGREE) & np.uint64(1)).astype(np.int64) * 2 - 1


def keys(seed: object, most: int) -> np.ndarray[Any, Any]:
    return (Replay(f"key {seed}")().words("s", DEGREE) % np.uint64(2 * most + 1)).astype(np.int64) - most


# Products against integers


@settings(deadline=None, max_examples=8)
@given(SEEDS, st.sampled_from([0, 1, 8, 100, 2000, 32_000]))
def test_products_are_those_of_integers(seed: int, most: int) -> None:
    a, s = uniform(seed, 2), keys(seed, most)
    assert np.array_equal(multiply(a, s), [kronecker.product(row, s) for row in a])


CORNERS = {
    "zero": 0,
    "top": 2**64 - 1,
    "half": 2**63,
    "below half": 2**63 - 1,
    "limbs of 32 bits at −2^31": 2**31 * (1 + 2**32),
    "limbs of 32 bits at 2^31 − 1": (2**31 - 1) * (1 + 2**32),
    "limbs of 22 bits at −2^21": 2**21 * (1 + 2**22),
    "limbs of 22 bits at 2^21 − 1": (2**21 - 1) * (1 + 2**22 + 2**44) % 2**64,
}


@pytest.mark.parametrize("limit", [LARGEST, 1000 * LARGEST], ids=["a key", "a sum of 1000 keys"])
@pytest.mark.parametrize("corner", CORNERS.values(), ids=CORNERS)
def test_all_coefficients_at_their_limits(corner: int, limit: int) -> None:
    a = np.full((1, DEGREE), corner, dtype=np.uint64)
    for s in (np.full(DEGREE, limit), np.full(DEGREE, -limit), limit * signs(corner)):
        assert np.array_equal(multiply(a, s)[0], kronecker.product(a[0], s))


@pytest.mark.parametrize("parties", [1, 2, 1000, MAX_PARTIES])
def test_uniform_elements_by_the_longest_keys_that_pass_their_check(parties: int) -> None:
    limit = math.isqrt(MOST_NORM * parties // DEGREE)
    elements, s = Elements("longest"), limit * signs(parties)
    factor, out = Factor(s), np.empty((1, DEGREE), np.uint64)
    assert factor.norm <= math.sqrt(MOST_NORM * parties) < factor.norm + 64
    factor.times(elements.spectra(factor.split, 0, factor.room), out)
    assert np.array_equal(out[0], kronecker.product(elements.words(0, 1)[0], s))


def test_an_offset_is_added_to_every_coefficient() -> None:
    a, s = uniform("offset", 3), keys("offset", LARGEST)
    factor, out = Factor(s), np.empty_like(a)
    factor.times(negacyclic.transformed(a, factor.split), out, offset=-LARGEST)
    assert np.array_equal(out, multiply(a, s) - np.uint64(LARGEST))


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize("offset", [1, -1, 2**31, 2**32 - 1, 2**48 + 2**22, -(2**63), 2**64 - 1])
def test_offsets_are_of_any_size(split: Limbs, offset: int) -> None:
    a, s = uniform("any", 2), keys("any", 8)
    factor, out = Factor(s, split), np.empty_like(a)
    factor.times(negacyclic.transformed(a, split), out, offset=offset)
    assert np.array_equal(out, multiply(a, s) + np.uint64(offset % 2**64))


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_the_ones_of_words_that_are_drawn_are_added(split: Limbs) -> None:
    """From none to all 64, over coefficients that carry."""
    a, s = uniform("ones", 3), keys("ones", 8)
    words = np.uint64(2**64 - 1) >> (uniform("words", 3) % np.uint64(64))
    words[0, :3] = 0, 1, 2**64 - 1
    factor, out = Factor(s, split), np.empty_like(a)
    factor.times(negacyclic.transformed(a, split), out, offset=-LARGEST, draw=lambda room: np.copyto(room, words))
    ones = [[word.bit_count() - LARGEST for word in row] for row in words.tolist()]
    assert np.array_equal(out, multiply(a, s) + np.array(ones).astype(np.uint64))


# The bound


def test_limbs_follow_from_the_norm() -> None:
    assert limbs_for(most_norm(1)) == Limbs(32, 2)
    assert {limbs_for(most_norm(n)) for n in (2, 100, MAX_PARTIES, 2**19)} == {Limbs(22, 3)}
    assert limbs_for(1000 * LARGEST * math.sqrt(DEGREE)) == Limbs(16, 4)
    assert all(split.bits * split.number >= 64 for split in SPLITS)
    for norm in (1.0, 300.0, 2.0**18, 2.0**21):
        split = limbs_for(norm)
        assert exact(1.1 * 2.0**split.bits * math.sqrt(DEGREE / 12), norm)
        assert limb_bits(norm) == pytest.approx(52 - math.log2(160 * norm) - math.log2(1.1 * math.sqrt(4096 / 12)))
    with pytest.raises(Misuse, match="not exact with limbs of 16 bits"):
        limbs_for(2.0**27)


def test_a_product_is_exact_while_its_error_is_below_a_half() -> None:
    """160·2^-53·‖limb‖·‖s‖ < 1/2: of norms whose product is below 2^52/160."""
    assert exact(2.0**47, 0.1999)
    assert not exact(2.0**47, 0.2)
    assert not exact(2.0**47, 0.2001)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_the_norm_is_that_of_the_longest_limb(split: Limbs) -> None:
    """Parseval: the mean square of a spectrum is the squared norm of what was transformed."""
    for words in (uniform("norm", 3), np.zeros((2, DEGREE), np.uint64), np.eye(2, DEGREE, dtype=np.uint64)):
        found = negacyclic.transformed(words, split)
        assert found.norm == pytest.approx(math.sqrt((np.abs(found.limbs) ** 2).mean(axis=-1).max()), rel=1e-12)


def roots(count: int, total: int) -> np.ndarray[Any, Any]:
    """exp(2πi·j/total), shape (count, 2), long double."""
    angle = 2 * np.longdouble("3.14159265358979323846264338327950288") * np.arange(count).astype(np.longdouble) / total
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def distance(values: np.ndarray[Any, Any], exactly: np.ndarray[Any, Any]) -> float:
    """Largest distance, in units of 2^-53."""
    real, imaginary = values.real - exactly[..., 0], values.imag - exactly[..., 1]
    return float(np.sqrt(real * real + imaginary * imaginary).max()) / EPSILON


def test_the_constant_covers_the_transforms_in_use() -> None:
    """docs/security-parameters.md derives the sum; here its two unknowns are measured, in long double arithmetic.

    A unit impulse meets every root of the transform alone on some way to an output, so none is farther off than the outputs are.
    """
    assert np.finfo(np.longdouble).eps < 2.0**-60
    half = DEGREE // 2
    impulses, table, found = np.eye(half, dtype=complex), roots(half, half), list[float]()
    for rows in np.arange(half).reshape(-1, 64):
        exactly = table[np.outer(rows, np.arange(half)) % half]
        found.append(distance(fft.ifft(impulses[rows], axis=-1, norm="forward"), exactly))
        found.append(distance(fft.fft(impulses[rows], axis=-1).conj(), exactly))
    root = max(found)
    twist = distance(negacyclic._TWIST, roots(half, 2 * DEGREE))
    rounding, adds, diagonal, stages = math.sqrt(5), 11, 3 * 3, 3
    assert 100 < 3 * (adds + diagonal + stages * (rounding + root)) + rounding + 3 * (rounding + twist) <= EXACT
    textbook = 3 * 11 + (3 * 11 + 1) * rounding + 3 * 11 * math.sqrt(0.5) + 3 * (rounding + twist)
    assert textbook <= EXACT


@pytest.mark.parametrize("split", SPLITS[:2], ids=str)
def test_real_errors_are_far_below_the_bound(split: Limbs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest distance from an integer, over shapes that add up in phase, is below a tenth of the bound."""
    s = {2: 4, 3: 64}[split.number] * signs("phase")
    factor, spectra = Factor(s, split), negacyclic.transformed(uniform("error", CHUNK), split)
    worst = 0.0
    for limb in spectra.limbs:
        flat = (fft.ifft(limb * factor._spectrum, axis=-1, norm="forward") * negacyclic._UNTWIST).view(np.float64)
        worst = max(worst, float(np.abs(flat - np.rint(flat)).max()))
    assert worst < 0.1 * EXACT * EPSILON * spectra.norm * factor.norm < 0.05


def test_with_too_few_limbs_products_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    a, s = uniform("few"), 1000 * LARGEST * signs("few")
    factor, spectra, out = Factor(s, Limbs(32, 2)), negacyclic.transformed(a, Limbs(32, 2)), np.empty_like(a)
    with pytest.raises(Misuse, match="the product would not be exact"):
        factor.times(spectra, out)
    monkeypatch.setattr(negacyclic, "EXACT", 0)  # the check removed
    factor.times(spectra, out)
    assert not np.array_equal(out[0], kronecker.product(a[0], s))


def test_no_limbs_at_all_for_a_factor_that_is_too_long() -> None:
    with pytest.raises(Misuse, match="would not be exact"):
        multiply(np.full((1, DEGREE), 2**15, dtype=np.uint64), np.full(DEGREE, 2**25))


# Public elements


def test_elements_are_a_keystream_under_the_suite_string() -> None:
    key = hashlib.sha256(b"securefl rlwe public elements\0" + b"suite").digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * DEGREE * 20))
    words = np.frombuffer(stream, "<u8").reshape(20, DEGREE)
    assert np.array_equal(Elements("suite").words(0, 20), words)
    assert np.array_equal(Elements("suite").words(9, 3), words[9:12])
    assert not np.any(Elements("another suite").words(0, 20) == words)


def test_elements_past_the_limit_are_not_kept_and_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    public, split, room = Elements("kept"), SPLITS[0], Room.of(SPLITS[0])
    monkeypatch.setattr(negacyclic, "CACHE", room.limbs.nbytes)  # for the first ones, to the byte
    first = public.spectra(split, 0, room)
    second = public.spectra(split, CHUNK, room)
    assert np.shares_memory(second.limbs, room.limbs)
    assert public.spectra(split, 0, room) is first
    assert not np.shares_memory(first.limbs, room.limbs)
    for start, found in ((0, first), (CHUNK, second)):
        assert np.array_equal(negacyclic.transformed(public.words(start, CHUNK), split).limbs, found.limbs)


def test_elements_of_a_suite_are_expanded_once() -> None:
    assert negacyclic.elements("once") is negacyclic.elements("once")
    assert negacyclic.elements("once") is not negacyclic.elements("twice")
