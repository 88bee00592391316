"""Key-additive encryption: sums open exactly, secrets have their law, what does not belong together is told from noise."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from protocols.errors import Abort, Misuse
from protocols.kahe_parameters import KaheParameters
from protocols.primitives import negacyclic, rlwe
from protocols.primitives.negacyclic import DEGREE, multiply
from protocols.primitives.rlwe import LARGEST, VARIANCE, Elements, Key, Shape, elements, encrypt, open_sum
from protocols.rand import Rand, Replay
from protocols.ring import Accumulator, Read

SEEDS = st.integers(0, 2**32)
PUBLIC = elements("tests of protocols.primitives.rlwe")
FALSE_ALARM = 1e-6  # of each statistical test, if its seed were drawn anew


def reader(x: np.ndarray[Any, Any]) -> Read:
    return lambda start, count: x[start : start + count]


def ciphertext(shape: Shape, key: Key, x: np.ndarray[Any, Any], rand: Rand, public: Elements = PUBLIC) -> np.ndarray[Any, Any]:
    out = np.empty(shape.coefficients, shape.ring.dtype)
    encrypt(shape, public, key, reader(x), rand)(0, out)
    return out


def uncut(shape: Shape, key: Key, x: np.ndarray[Any, Any], rand: Rand) -> np.ndarray[Any, Any]:
    """A·s + e + message before any bit is cut off."""
    out = np.empty((shape.elements, DEGREE), np.uint64)
    encryption = rlwe._Encryption(shape, PUBLIC, key, reader(x), rand)
    for first in range(0, len(out), negacyclic.CHUNK):
        encryption.encrypted(out[first : first + negacyclic.CHUNK])
    return out


def numbers(seed: object, size: int, most: int) -> np.ndarray[Any, Any]:
    return (Replay(f"values {seed}")().words("x", size) % np.uint64(2 * most + 1)).astype(np.int64) - most


def message(shape: Shape, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What a vector adds to the coefficients, by the book."""
    padded = np.zeros(shape.coefficients * shape.digits, np.int64)
    padded[: x.size] = x
    rows = padded.reshape(shape.elements, shape.digits, DEGREE).astype(object)
    scale = 2 ** (64 - shape.digits * shape.width)
    total = sum(rows[:, j] * scale * 2 ** (shape.width * j) for j in range(shape.digits))
    return (total % 2**64).astype(np.uint64)


class Party:
    """A vector under a key."""

    def __init__(self, shape: Shape, seed: object, most: int, public: Elements = PUBLIC) -> None:
        self.x = numbers(seed, shape.values, most)
        self.key = Key.draw(Replay(f"key {seed}")())
        self.c = ciphertext(shape, self.key, self.x, Replay(f"errors {seed}")(), public)


def total(shape: Shape, ciphertexts: Iterable[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    out = Accumulator(shape.ring, shape.coefficients)
    for c in ciphertexts:
        out.add(c)
    return out.total()


def opened(shape: Shape, parties: Sequence[Party]) -> np.ndarray[Any, Any]:
    key_sum = np.sum([party.key.coefficients for party in parties], axis=0)
    return open_sum(shape, PUBLIC, total(shape, [party.c for party in parties]), key_sum, len(parties))


# Sums


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.integers(2, 9), st.integers(1, 45), st.sampled_from([1, 7, DEGREE, 2 * DEGREE - 1, 3 * DEGREE, 40_000]))
def test_sums_open_exactly(seed: int, parties: int, bits: int, size: int) -> None:
    most = 2**bits - 1
    shape = KaheParameters.of(parties, size, most).shape
    group = [Party(shape, (seed, u), most) for u in range(parties)]
    assert np.array_equal(opened(shape, group), np.sum([party.x for party in group], axis=0))


@pytest.mark.parametrize(("parties", "most"), [(2, 1), (3, 1), (7, 32767), (1000, 32767), (500, 2**31)])
def test_all_values_at_their_limits(parties: int, most: int) -> None:
    shape = KaheParameters.of(parties, 9_000, most).shape
    x = most * (1 - 2 * (np.arange(shape.values) // 3 % 2))
    out, key_sum = Accumulator(shape.ring, shape.coefficients), np.zeros(DEGREE, np.int64)
    for u in range(parties):
        key = Key.draw(Replay(f"limit {u}")())
        out.add(ciphertext(shape, key, x, Replay(f"limit e {u}")()))
        key_sum += key.coefficients
    assert np.array_equal(open_sum(shape, PUBLIC, out.total(), key_sum, parties), parties * x)


def test_a_sum_over_fewer_than_were_invited_opens() -> None:
    shape = KaheParameters.of(100, 9_000, 32767).shape
    group = [Party(shape, u, 32767) for u in range(2)]
    assert np.array_equal(opened(shape, group), group[0].x + group[1].x)


@pytest.mark.parametrize("max_abs", [1, 32767, 2**40])
def test_a_ciphertext_is_rlwe_by_the_book(max_abs: int) -> None:
    """c − A·s − message, A·s by another product than the kernel streams, is an error; and the wire has its upper bits."""
    shape = KaheParameters.of(3, 20_000, max_abs).shape
    x, key = numbers("book", shape.values, max_abs), Key.draw(Replay("book")())
    full = uncut(shape, Key(key.coefficients), x, Replay("e")())
    product = multiply(PUBLIC.words(0, shape.elements), key.coefficients)
    errors = (full - product - message(shape, x)).view(np.int64)
    assert np.abs(errors).max() <= LARGEST
    assert np.array_equal(ciphertext(shape, key, x, Replay("e")()), (full >> np.uint64(shape.cut)).reshape(-1))


def test_values_are_read_piece_by_piece_and_once() -> None:
    shape, asked = KaheParameters.of(3, 10**6, 100).shape, list[tuple[int, int]]()
    x = numbers("pieces", shape.values, 100)

    def read(start: int, count: int) -> np.ndarray[Any, Any]:
        asked.append((start, count))
        return x[start : start + count]

    packed = shape.ring.pack_by(shape.coefficients, encrypt(shape, PUBLIC, Key.draw(Replay("k")()), read, Replay("e")()))
    assert [start for start, _ in asked] == list(np.cumsum([0, *(count for _, count in asked)])[:-1])
    assert sum(count for _, count in asked) == shape.values
    assert max(count for _, count in asked) <= negacyclic.CHUNK * shape.digits * DEGREE
    whole = ciphertext(shape, Key.draw(Replay("k")()), x, Replay("e")())
    assert np.array_equal(shape.ring.unpack(packed, shape.coefficients), whole)


def test_a_long_vector_passes_in_bounded_memory_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negacyclic, "CACHE", 2**20)
    public, shape = Elements("long"), KaheParameters.of(3, 3_000_000, 100).shape
    x, key, out = numbers("long", shape.values, 100), Key.draw(Replay("long")()), np.empty(shape.coefficients, shape.ring.dtype)
    tracemalloc.start()
    try:
        write = encrypt(shape, public, key, reader(x), Replay("e")())
        for start in range(0, out.size, 64 * DEGREE):
            write(start, out[start : start + 64 * DEGREE])
        _, sending = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        values = open_sum(shape, public, out, key.coefficients, 1)
        _, opening = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(values, x)
    assert sending < 8 * 2**20 < x.nbytes / 2
    assert opening < values.nbytes + 8 * 2**20


# Secrets


def chi_squared(sample: np.ndarray[Any, Any]) -> tuple[float, int]:
    """Statistic and degrees of freedom against the number of ones in 64 fair bits; rare outcomes are pooled."""
    counts = np.bincount(sample.reshape(-1) + LARGEST, minlength=65).astype(float)
    expected = binom.pmf(np.arange(65), 64, 0.5) * sample.size
    rare = expected < 5
    counts, expected = np.append(counts[~rare], counts[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    return float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1


def follows_its_law(sample: np.ndarray[Any, Any]) -> bool:
    statistic, freedom = chi_squared(sample)
    spread = VARIANCE * np.sqrt(2 / sample.size) * 5  # five deviations of the mean square, whose law is almost normal
    return statistic < chi2.isf(FALSE_ALARM, freedom) and abs(float((sample.astype(float) ** 2).mean()) - VARIANCE) < spread


def test_keys_follow_their_law() -> None:
    sample = np.concatenate([Key.draw(Replay(f"law {u}")()).coefficients for u in range(100)])
    assert follows_its_law(sample)
    assert sample.min() < -15 < 15 < sample.max()


def test_errors_follow_their_law_in_every_element() -> None:
    shape = Shape(40 * DEGREE, 1, 40, 60)
    key, zeros = Key.draw(Replay("k")()), np.zeros(shape.values, np.int64)
    errors = (uncut(shape, Key(key.coefficients), zeros, Replay("e")()) - multiply(PUBLIC.words(0, 40), key.coefficients)).view(
        np.int64
    )
    assert follows_its_law(errors)
    assert all(abs(float((row.astype(float) ** 2).mean()) - VARIANCE) < 2 for row in errors)
    assert len({row.tobytes() for row in errors}) == 40
    again = uncut(shape, Key(key.coefficients), zeros, Replay("other")()) - multiply(PUBLIC.words(0, 40), key.coefficients)
    assert np.mean(errors.view(np.uint64) == again) < 0.1


SPOILT = {
    "62 bits": lambda words: np.bitwise_count(words >> np.uint64(2)).astype(np.int64) - 31,
    "a bit that is always one": lambda words: np.bitwise_count(words | np.uint64(1)).astype(np.int64) - 32,
    "32 bits twice": lambda words: 2 * np.bitwise_count(words >> np.uint64(32)).astype(np.int64) - 32,
    "no sign": lambda words: np.abs(np.bitwise_count(words).astype(np.int64) - 32),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_the_law_is_told_from_its_neighbours(spoil: Any) -> None:
    assert not follows_its_law(spoil(Replay("neighbours")().words("s", 100 * DEGREE)))


def test_keys_are_drawn_anew_and_shown_to_nobody() -> None:
    one, other = Key.draw(Replay("one")()), Key.draw(Replay("other")())
    assert np.mean(one.coefficients == other.coefficients) < 0.12
    assert repr(one) == str(one) == "Key([redacted])"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled"):
            leak(one)
    for most in (32, -32):
        assert Key(np.full(DEGREE, most)).coefficients[0] == most
        with pytest.raises(Misuse, match="past 32"):
            Key(np.where(np.arange(DEGREE) == 7, most + most // 32, 0))
    with pytest.raises(Misuse, match="has shape"):
        Key(np.zeros(DEGREE - 1, np.int64))


# A key encrypts once


def rounded(shape: Shape, difference: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The digits of a difference of two ciphertexts: what anybody can compute, without a key."""
    v = (difference << np.uint64(shape.cut)) + np.uint64(1 << (shape.spare - 1))
    out = np.empty((shape.elements, shape.digits, DEGREE), np.int64)
    opening = rlwe._Opening(shape, np.zeros(DEGREE, np.int64), 1)
    opening._digits(v.reshape(-1, DEGREE).view(np.int64), np.empty((shape.elements, DEGREE), np.int64), out)
    return out.reshape(-1)[: shape.values]


def test_a_key_for_two_vectors_gives_their_difference_away() -> None:
    shape = KaheParameters.of(100, 9_000, 32767).shape
    key, xs = Key.draw(Replay("twice")()), [numbers(i, shape.values, 32767) for i in range(2)]
    first = ciphertext(shape, key, xs[0], Replay("e1")())
    with pytest.raises(Misuse, match="one vector ever"):
        ciphertext(shape, key, xs[1], Replay("e2")())
    second = ciphertext(shape, Key(key.coefficients), xs[1], Replay("e2")())  # the check removed: the key restored from a copy
    assert np.array_equal(rounded(shape, first - second), xs[0] - xs[1])
    fresh = ciphertext(shape, Key.draw(Replay("fresh")()), xs[1], Replay("e2")())
    assert np.mean(rounded(shape, first - fresh) == xs[0] - xs[1]) < 0.01


def test_a_ciphertext_is_not_written_twice_or_out_of_order() -> None:
    shape = KaheParameters.of(3, 100_000, 100).shape
    x, out = numbers("order", shape.values, 100), np.empty(shape.coefficients, shape.ring.dtype)
    write = encrypt(shape, PUBLIC, Key.draw(Replay("k")()), reader(x), Replay("e")())
    with pytest.raises(Misuse, match="written once"):
        write(DEGREE, out[DEGREE:])
    with pytest.raises(Misuse, match="written once"):
        write(0, out[: DEGREE + 1])
    write(0, out[: 3 * DEGREE])
    with pytest.raises(Misuse, match="written once"):
        write(0, out[: 3 * DEGREE])
    write(3 * DEGREE, out[3 * DEGREE :])
    assert np.array_equal(out, ciphertext(shape, Key.draw(Replay("k")()), x, Replay("e")()))


# What does not belong together


SHAPE = KaheParameters.of(100, 30_000, 32767).shape
SHAPES = [
    SHAPE,
    KaheParameters.of(2, 30_000, 1).shape,
    KaheParameters.of(3, 30_000, 1).shape,
    KaheParameters.of(20, 30_000, 2**40).shape,
]


def swapped(shape: Shape) -> Party:
    return Party(shape, 2, 1, elements("another suite"))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_wrong_keys_sets_and_elements_are_told_from_noise(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    group = [Party(shape, u, 1) for u in range(2)]
    keys = [party.key.coefficients for party in group]
    right, cs = keys[0] + keys[1], [party.c for party in group]
    off = right.copy()
    off[7] += 1
    half = [cs[0].copy(), cs[1].copy()]
    half[1][DEGREE : 2 * DEGREE] = 0  # of the second party, one element only
    lies = {
        "one coefficient of a key": (cs, off),
        "a party's key without its ciphertext": (cs[:1], right),
        "a party's ciphertext without its key": (cs, keys[0]),
        "one element": (half, right),
        "another suite's elements": ([cs[0], swapped(shape).c], keys[0] + swapped(shape).key.coefficients),
    }
    assert np.array_equal(open_sum(shape, PUBLIC, total(shape, cs), right, 2), group[0].x + group[1].x)
    for vectors, key_sum in lies.values():
        with pytest.raises(Abort, match="kahe-residual"):
            open_sum(shape, PUBLIC, total(shape, vectors), key_sum, 2)
    with pytest.raises(Abort, match="element 1 has"):
        open_sum(shape, PUBLIC, total(shape, half), right, 2)
    monkeypatch.setattr(rlwe._Opening, "_check", lambda *_: None)  # the check removed: a wrong sum, and nobody notices
    wrong = open_sum(shape, PUBLIC, total(shape, half), right, 2)
    assert not np.array_equal(wrong, group[0].x + group[1].x)


def test_keys_that_are_too_long_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    party = Party(SHAPE, "long", 32767)
    long = np.full(DEGREE, 2 * LARGEST)  # within the range of a sum of two keys
    with pytest.raises(Abort, match="kahe-norm"):
        open_sum(SHAPE, PUBLIC, party.c, long, 2)
    monkeypatch.setattr(rlwe, "MOST_NORM", 2**30)  # the check removed: only what rounding takes tells
    with pytest.raises(Abort, match="kahe-residual"):
        open_sum(SHAPE, PUBLIC, party.c, long, 2)
    c = multiply(PUBLIC.words(0, SHAPE.elements), long).reshape(-1) >> np.uint64(SHAPE.cut)
    assert not open_sum(SHAPE, PUBLIC, c, long, 1).any()  # a key that is no key opens what was made under it


def test_keys_of_the_very_bound_pass_and_one_more_does_not() -> None:
    """128 coefficients of 32 have the squared norm 2^17."""
    key = np.where(np.arange(DEGREE) < 128, LARGEST, 0)
    c = multiply(PUBLIC.words(0, SHAPE.elements), key).reshape(-1) >> np.uint64(SHAPE.cut)
    assert not open_sum(SHAPE, PUBLIC, c, key, 1).any()
    key[-1] = 1
    with pytest.raises(Abort) as aborted:
        open_sum(SHAPE, PUBLIC, c, key, 1)
    assert aborted.value.check == "kahe-norm"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_noise_is_what_has_up_to_twice_the_mean_square_that_is_expected(shape: Shape) -> None:
    opening, signs = rlwe._Opening(shape, np.zeros(DEGREE, np.int64), 2), 1 - 2 * (np.arange(DEGREE) % 2)
    for share, fits in ((1.98, True), (2.02, False)):
        v = np.full((3, DEGREE), 1 << (shape.spare - 1), np.uint64)
        v[1] += (signs * int((share * shape.expected(2)) ** 0.5)).astype(np.uint64)
        if fits:
            opening._check(v, np.empty_like(v), 5)
            continue
        with pytest.raises(Abort, match="element 6 has 2.0 times") as aborted:
            opening._check(v, np.empty_like(v), 5)
        assert aborted.value.check == "kahe-residual"


def test_honest_keys_are_far_from_the_bound() -> None:
    norms = [float((Key.draw(Replay(f"n {u}")()).coefficients ** 2).sum()) for u in range(200)]
    assert max(norms) < 0.6 * rlwe.MOST_NORM < 0.7 * rlwe.MOST_NORM
    assert max(norms) ** 0.5 < rlwe.most_norm(1)


def test_a_sum_past_its_digit_moves_the_neighbour_by_one_step() -> None:
    shape = Shape(2 * DEGREE, 2, 20, 44)
    x = np.zeros(shape.values, np.int64)
    x[5], x[DEGREE + 5], x[6] = 2**18, 1000, -3
    group = [(Key.draw(Replay(str(u))()), Replay(f"e{u}")()) for u in range(2)]
    cs = [ciphertext(shape, key, x, rand) for key, rand in group]
    got = open_sum(shape, PUBLIC, total(shape, cs), sum(key.coefficients for key, _ in group), 2)
    expected = 2 * x
    expected[5] -= 2**20  # 2^19 is the first that does not fit 20 bits
    expected[DEGREE + 5] += 1
    assert np.array_equal(got, expected)


def test_a_sum_of_another_shape_is_misuse() -> None:
    zeros = np.zeros(SHAPE.coefficients, np.uint64)
    for values, key_sum in (
        (zeros[1:], np.zeros(DEGREE, np.int64)),
        (zeros.astype(np.int64), np.zeros(DEGREE, np.int64)),
        (zeros, np.zeros(DEGREE + 1, np.int64)),
    ):
        with pytest.raises(Misuse, match="coefficients"):
            open_sum(SHAPE, PUBLIC, values, key_sum, 2)
