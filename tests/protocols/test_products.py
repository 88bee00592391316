"""Matrix and dot products modulo 2^31 − 1 and 2^61 − 1 against Python integers, at every bound up to which float64 is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols.errors import Refused
from protocols.products import COLUMNS, SPLITS, PackedRows, dots, limbs, product, settle, shifted
from protocols.rand import Replay
from protocols.ring import Ring

TYPES = {31: np.uint32, 61: np.uint64}
TERMS = {31: [1, 2, 3, 63, 64, 65, 66, 126, 127, 128, 129, 254, 255, 256], 61: [1, 2, 2047, 2048, 2049, 4097]}
"""Inner terms: where a sum of limb products reaches 2^53, where a right factor is moved, where a second and a third sum begins."""


def extremes(bits: int) -> list[int]:
    """Elements whose limbs are all ones, or next to that; odd ones too, whose sums need every bit of a float64."""
    q = 2**bits - 1
    powers = {2**k - 1 for k in (0, 1, 2, 15, 16, 17, 20, 21, 22, 30, 41, 42, 43, 44, 60) if k < bits} | {q // 2 + 1, 2**16, 2**21}
    return sorted(powers | {q - 1 - x for x in powers} | {q - 2**15, q - 2**16, q - 2**21 + 1})


def drawn(bits: int, rows: int, columns: int) -> NDArray[Any]:
    """Uniform elements; in every row also the least and the largest one."""
    values = (Replay(f"{rows} {columns}")().words("values", rows * columns) % np.uint64(2**bits - 1)).astype(TYPES[bits])
    values = values.reshape(rows, columns)
    values[:, ::7], values[:, ::11] = 0, 2**bits - 2
    return values


def integers(bits: int, left: NDArray[Any], right: NDArray[Any]) -> list[list[int]]:
    exact: NDArray[Any] = left.astype(object) @ right.astype(object) % (2**bits - 1)
    return exact.tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("bits", "terms"), [(bits, terms) for bits, some in TERMS.items() for terms in some])
def test_products_of_the_largest_limbs_are_exact(bits: int, terms: int) -> None:
    """Every extreme element with every other, as often as there are terms: all sums go one way, as far as they can."""
    values = np.array(extremes(bits), dtype=TYPES[bits])
    left, right = np.repeat(values[:, None], terms, axis=1), np.repeat(values[None], terms, axis=0)
    got = product(bits, left, right)
    exact = np.multiply.outer(values.astype(object), values.astype(object)) * terms % (2**bits - 1)
    assert (got.dtype, got.tolist()) == (left.dtype, exact.tolist())


@pytest.mark.parametrize("bits", [31, 61])
@pytest.mark.parametrize(
    ("rows", "inner", "count"),
    [(1, 1, 1), (2, 1, 3), (1, 2, 64), (3, 70, 65), (2, 300, 33), (1, 1, COLUMNS), (2, 3, COLUMNS + 3), (1, 2, 3 * COLUMNS - 1)],
)
def test_products_are_those_of_integers_however_the_right_rows_lie(bits: int, rows: int, inner: int, count: int) -> None:
    """A matrix, rows apart, and packed rows; one term and one column; several blocks of columns and of terms."""
    left, right = drawn(bits, rows, inner), drawn(bits, inner, count)
    want = integers(bits, left, right)
    for factor in (right, list(right), PackedRows([Ring(bits).pack(row) for row in right], count)):
        got = product(bits, left, factor)
        assert (got.dtype, got.tolist()) == (left.dtype, want)


@pytest.mark.parametrize("bits", [31, 61])
def test_packed_rows_of_several_blocks_are_multiplied_to_the_end(bits: int) -> None:
    for count in (32 * 1024, 32 * 1024 + 65, 80_000):
        left, right = drawn(bits, 2, 2), drawn(bits, 2, count)
        rows = PackedRows([Ring(bits).pack(row) for row in right], count)
        assert product(bits, left, rows).tolist() == integers(bits, left, right)


@pytest.mark.parametrize("bits", [31, 61])
@pytest.mark.parametrize("at", [0, 5000, 40_000])
def test_a_packed_value_that_is_q_is_refused_and_the_one_below_is_not(bits: int, at: int) -> None:
    left, values = np.ones((1, 2), dtype=TYPES[bits]), np.zeros((2, 40_001), dtype=TYPES[bits])
    for value in (2**bits - 2, 2**bits - 1):
        values[1, at] = value
        rows = PackedRows([Ring(bits).pack(row) for row in values], values.shape[1])
        if value == 2**bits - 2:
            assert product(bits, left, rows).tolist() == [values[1].tolist()]
            continue
        with pytest.raises(Refused) as refused:
            product(bits, left, rows)
        assert refused.value.check == "field-range"


@pytest.mark.parametrize(("bits", "longest"), [(31, 2**21), (61, 2**11)])
def test_dot_products_of_the_largest_limbs_are_exact_at_the_longest_that_float64_adds_and_past_it(bits: int, longest: int) -> None:
    """Constant rows, so that the sum is a product; an odd number of odd ones needs every bit."""
    q, a = 2**bits - 1, 2 ** (bits - 1) - 1
    for length, b in ((longest, q - 1), (longest, a), (longest + 1, a), (3 * longest // 2 + 1, a)):
        rows, vectors = np.full((1, length), a, dtype=TYPES[bits]), np.full((1, length), b, dtype=TYPES[bits])
        got = dots(bits, rows, vectors)
        assert (got.dtype, got.tolist()) == (rows.dtype, [[length * a * b % q]])


@pytest.mark.parametrize("bits", [31, 61])
@pytest.mark.parametrize(("m", "v", "c"), [(1, 1, 1), (2, 3, 50), (3, 1, 4100), (1, 2, 6500)])
def test_dot_products_are_those_of_integers(bits: int, m: int, v: int, c: int) -> None:
    rows, vectors = drawn(bits, m, c), drawn(bits, v, c)[:, ::-1]
    assert dots(bits, rows, vectors).tolist() == integers(bits, rows, vectors.T)


@pytest.mark.parametrize("bits", [31, 61])
def test_integers_up_to_62_bits_are_settled(bits: int) -> None:
    """Both signs, around every power of two and every multiple of q that is near one."""
    q = 2**bits - 1
    powers = [x for k in range(62) for x in (2**k, q * 2**k)]
    near = {x + d for x in (*powers, 3 * q, q * q, 2**62) for d in (-2, -1, 0, 1, 2)}
    values = sorted(sign * x for x in near for sign in (1, -1) if x < 2**62)
    settled = np.array(values, dtype=np.int64)
    settle(settled, bits)
    assert settled.tolist() == [x % q for x in values]


@pytest.mark.parametrize(("bits", "by"), [(31, 1), (31, 16), (61, 1), (61, 21), (61, 60)])
def test_shifted_is_a_product_by_a_power_of_two(bits: int, by: int) -> None:
    q, values = 2**bits - 1, [*extremes(bits), *drawn(bits, 1, 50)[0].tolist()]
    got = shifted(np.array(values, dtype=np.int64), by, bits)
    assert [x % q for x in got.tolist()] == [(x << by) % q for x in values]
    assert 0 <= got.min() <= got.max() < 2**bits


@pytest.mark.parametrize("bits", [31, 61])
def test_limbs_are_digits(bits: int) -> None:
    values, size = np.array(extremes(bits), dtype=TYPES[bits]), SPLITS[bits].limb
    cut = limbs(bits, values)
    assert len(cut) == -(-bits // size)
    assert all(some.dtype == np.float64 and int(some.max()) < 2**size for some in cut)
    digits = zip(*(some.tolist() for some in cut), strict=True)
    assert [sum(int(digit) << size * i for i, digit in enumerate(value)) for value in digits] == values.tolist()
