"""Key-additive encryption part by part: where secrets come from, the noise that is expected, long sums, what cutting takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from protocols.primitives import rlwe
from protocols.primitives.negacyclic import CHUNK, DEGREE
from protocols.primitives.rlwe import Key, Shape, elements, encrypt, open_sum
from protocols.rand import Replay
from protocols.ring import Accumulator

PUBLIC = elements("tests of protocols.primitives.rlwe, part by part")


def opened(shape: Shape, xs: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """The sum of these vectors, each encrypted by a party of its own."""
    total, key_sum = Accumulator(shape.ring, shape.coefficients), np.zeros(DEGREE, np.int64)
    for u, x in enumerate(xs):
        key, out = Key.draw(Replay(f"key {u}")()), np.empty(shape.coefficients, shape.ring.dtype)
        encrypt(shape, PUBLIC, key, lambda start, count, x=x: x[start : start + count], Replay(f"errors {u}")())(0, out)
        total.add(out)
        key_sum += key.coefficients
    return open_sum(shape, PUBLIC, total.total(), key_sum, len(xs))


def test_secrets_are_the_ones_in_words_of_the_source_that_is_given() -> None:
    """Under a key of zeros, and with no values, a ciphertext is its errors."""
    shape, zero = Shape((CHUNK + 3) * DEGREE, 1, 40, 64), Key(np.zeros(DEGREE, np.int64))
    errors, noise = np.empty(shape.coefficients, np.uint64), np.empty((shape.elements, DEGREE), np.uint64)
    encrypt(shape, PUBLIC, zero, lambda _, count: np.zeros(count, np.int64), Replay("e")())(0, errors)
    Replay("e")().stream("errors").fill(noise)
    keys, words = Key.draw(Replay("s")()).coefficients, Replay("s")().words("s", DEGREE)
    for got, drawn in ((keys, words), (errors.view(np.int64), noise)):
        assert got.tolist() == [word.bit_count() - 32 for word in drawn.reshape(-1).tolist()]


@pytest.mark.parametrize(("cut", "parties"), [(1, 2), (3, 1), (8, 5), (16, 1000)])
def test_the_noise_that_is_expected_is_that_of_errors_and_of_what_is_cut_off(cut: int, parties: int) -> None:
    uniform = np.arange(2**cut) - (2**cut - 1) / 2
    mean = float((uniform**2).mean()) + 64 / 4
    assert Shape(1, 1, 10, 64 - cut).expected(parties) == pytest.approx(parties * mean, abs=parties / 10)


def test_sums_of_keys_are_taken_to_be_as_long_as_their_bound_allows() -> None:
    assert [rlwe.most_norm(keys) for keys in (1, 2, 8)] == [300.0, 512.0, 1024.0]
    assert rlwe.most_norm(1) < (2**17) ** 0.5


@pytest.mark.parametrize("more", [0, 5])
def test_a_sum_of_many_elements_opens_piece_by_piece(more: int) -> None:
    shape = Shape(2 * DEGREE * (2 * CHUNK + 3) + more, 2, 20, 44)
    xs = [(Replay(f"x {u}")().words("x", shape.values) % np.uint64(2001)).astype(np.int64) - 1000 for u in range(2)]
    assert shape.elements > 2 * CHUNK
    assert np.array_equal(opened(shape, xs), xs[0] + xs[1])


def test_what_many_ciphertexts_lose_by_cutting_is_made_up_for() -> None:
    """200 parties, of whom each cuts one bit off: 100 too many or too few would pass for wrong keys, next to 62 bits as well."""
    shape = Shape(DEGREE, 1, 2, 63)
    x = np.arange(DEGREE, dtype=np.int64) % 3 - 1
    assert np.array_equal(opened(shape, [x, *[np.zeros_like(x)] * 199]), x)


def test_what_is_exported_is_there() -> None:
    assert {name for name in rlwe.__all__ if hasattr(rlwe, name)} == set(rlwe.__all__) > {"Key", "encrypt", "open_sum"}
