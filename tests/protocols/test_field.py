"""Prime fields for vectors against Python integers, and Lagrange coding against its definition."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from math import comb
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2

from protocols import he_reference, lagrange, lightsecagg_reference
from protocols.bulk import Packed
from protocols.errors import Misuse, Refused
from protocols.field import Field
from protocols.products import COLUMNS, SPLITS, PackedRows
from protocols.rand import Replay, Seed
from protocols.ring import Accumulator, Ring

FIELDS = st.sampled_from([Field(31), Field(61)])


def elements(field: Field) -> st.SearchStrategy[int]:
    """Any element; often one at an edge."""
    q = field.modulus
    edges = [0, 1, 2, q - 1, q - 2, q // 2, q // 2 + 1, 2**16, 2**16 - 1, 2**21 - 1, 2**30, q - 2**16]
    return st.sampled_from([e for e in edges if e < q]) | st.integers(0, q - 1)


def array(field: Field, values: Any) -> NDArray[Any]:
    return np.array(values, dtype=field.dtype)


@given(FIELDS, st.data())
@settings(max_examples=200)
def test_elementwise_arithmetic_is_that_of_integers(field: Field, data: st.DataObject) -> None:
    q, pairs = field.modulus, data.draw(st.lists(st.tuples(elements(field), elements(field)), min_size=1, max_size=40))
    one, other = (array(field, column) for column in zip(*pairs, strict=True))
    assert field.multiply(one, other).tolist() == [a * b % q for a, b in pairs]
    total, rest = one.copy(), one.copy()
    field.add_into(total, other)
    field.subtract_from(rest, other)
    assert total.tolist() == [(a + b) % q for a, b in pairs]
    assert rest.tolist() == [(a - b) % q for a, b in pairs]
    if all(a for a, _ in pairs):
        inverses = [pow(a, -1, q) for a, _ in pairs]
        assert field.inverse(one).tolist() == inverses
        assert field.inverse(np.stack([one, one])).tolist() == [inverses, inverses]
    else:
        with pytest.raises(Misuse, match="zero"):
            field.inverse(one)


@given(FIELDS, st.data())
@settings(max_examples=100)
def test_values_are_lifted_and_centred(field: Field, data: st.DataObject) -> None:
    q = field.modulus
    values = data.draw(st.lists(st.integers(-(2**62) + 1, 2**62 - 1) | st.sampled_from([-1, 0, -(q // 2), q // 2, q]), min_size=1))
    lifted = field.lift(np.array(values, dtype=np.int64))
    assert (lifted.dtype, lifted.tolist()) == (field.dtype, [v % q for v in values])
    place = np.full_like(lifted, 1)
    assert field.lift(np.array(values, dtype=np.int64), place) is place
    assert place.tolist() == lifted.tolist()
    centred = field.centre(lifted)
    assert centred.dtype == np.int64
    assert centred.tolist() == [v % q - (q if v % q > q // 2 else 0) for v in values]
    with pytest.raises(Misuse, match="int64"):
        field.lift(np.array([1], dtype=np.int32))
    with pytest.raises(Misuse, match="dtype"):
        field.centre(np.array([1], dtype=np.uint16))


@given(FIELDS, st.integers(1, 12), st.integers(1, 300), st.integers(1, 9), st.integers(0, 2**32), st.booleans())
@settings(max_examples=60, deadline=None)
def test_matrix_products_are_exact(field: Field, rows: int, inner: int, columns: int, seed: int, extreme: bool) -> None:
    """Also where every factor is at an edge, more terms than one float64 sum may have."""
    rand, q = Replay(f"{seed}")(), field.modulus
    left = field.uniform(rand, "left", rows * inner).reshape(rows, inner)
    right = field.uniform(rand, "right", inner * columns).reshape(inner, columns)
    if extreme:
        left[:] = q - 1
        right[right > q // 2] = q // 2 + 1
        right[right <= q // 2] = q // 2
        right[:, 0] = q - 1
        right[:, -1] = q // 2
    want = [[sum(int(a) * int(b) for a, b in zip(row, column, strict=True)) % q for column in right.T] for row in left]
    got = field.product(left, right)
    assert (got.dtype, got.tolist()) == (field.dtype, want)


@pytest.mark.parametrize("bits", [31, 61])
def test_matrix_products_are_exact_at_the_bound_of_float64(bits: int) -> None:
    """As many terms as are added in float64, and one more, of the largest limbs of one sign; several blocks of columns."""
    field = Field(bits)
    split, columns = SPLITS[bits], COLUMNS + 3
    for terms in (split.terms, split.terms + 1):
        largest = field.modulus // 2 if bits == 31 else 2 ** (2 * split.limb) - 1
        left = np.full((1, terms), 2 ** (bits // split.limb * split.limb) - 1, dtype=field.dtype)
        right = np.full((terms, columns), largest, dtype=field.dtype)
        assert set(field.product(left, right)[0].tolist()) == {terms * int(left[0, 0]) * largest % field.modulus}
    biggest = (2**split.limb - 1) * (field.modulus // 2 if bits == 31 else 2**split.limb - 1)
    assert split.terms * biggest < 2**53


SIZES = st.integers(1, 300) | st.sampled_from([32767, 32768, 32769, 40_000, 2 * 32768 + 64])
"""Values of a row: less than a block, a block, and more."""


@given(FIELDS, st.integers(1, 3), st.integers(1, 140), SIZES, st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_products_with_rows_that_lie_apart_or_packed_are_those_of_the_matrix(
    field: Field, rows: int, inner: int, columns: int, seed: int
) -> None:
    inner = min(inner, 3) if columns > 300 else inner
    rand = Replay(f"{seed}")()
    left = field.uniform(rand, "left", rows * inner).reshape(rows, inner)
    right = field.uniform(rand, "right", inner * columns).reshape(inner, columns)
    want = field.product(left, right).tolist()
    assert field.product(left, list(right)).tolist() == want
    assert field.product(left, PackedRows([field.pack(row) for row in right], columns)).tolist() == want


@given(FIELDS, st.integers(1, 4), SIZES, st.data())
@settings(max_examples=60, deadline=None)
def test_a_product_with_packed_rows_refuses_what_unpacking_refuses(
    field: Field, inner: int, columns: int, data: st.DataObject
) -> None:
    """A value that is q, or a bit in the filling, of any row."""
    rand, ring, bad = Replay("rows")(), Ring(field.bits), data.draw(st.integers(0, inner - 1))
    right = field.uniform(rand, "right", inner * columns).reshape(inner, columns)
    right[bad, data.draw(st.integers(0, columns - 1))] = field.modulus
    rows = [bytearray(ring.pack(row)) for row in right]
    check = "field-range"
    if columns % ring.lanes and data.draw(st.booleans()):
        padded = np.zeros(-(-columns // ring.lanes) * ring.lanes, dtype=field.dtype)
        padded[data.draw(st.integers(columns, padded.size - 1))] = 1
        right[bad] %= field.modulus
        rows[bad] = bytearray(a | b for a, b in zip(ring.pack(right[bad]), ring.pack(padded), strict=True))
        check = "vector-padding"
    with pytest.raises(Refused) as refused:
        field.unpack(bytes(rows[bad]), columns)
    assert refused.value.check == check
    with pytest.raises(Refused) as refused:
        field.product(np.ones((1, inner), dtype=field.dtype), PackedRows([bytes(row) for row in rows], columns))
    assert refused.value.check == check


@given(FIELDS, st.integers(0, 200), st.integers(0, 2**32))
@settings(max_examples=60)
def test_packing_comes_back_and_refuses_what_is_no_element(field: Field, count: int, seed: int) -> None:
    values = field.uniform(Replay(f"{seed}")(), "values", count)
    packed = Packed(field, count).dump(values)
    assert len(packed) == field.packed_size(count)
    assert field.unpack(packed, count).tolist() == values.tolist()
    assert field.pack_by(count, lambda start, out: np.copyto(out, values[start : start + out.size])) == packed
    if count:
        values[seed % count] = field.modulus
        with pytest.raises(Refused) as refused:
            field.unpack(Ring(field.bits).pack(values), count)
        assert refused.value.check == "field-range"


@given(FIELDS, st.data())
def test_words_of_any_size_are_reduced_in_place(field: Field, data: st.DataObject) -> None:
    top = np.iinfo(field.dtype).max
    words = data.draw(st.lists(elements(field) | st.integers(0, top) | st.sampled_from([top, field.modulus]), min_size=1))
    reduced = array(field, words)
    field.reduce(reduced)
    assert reduced.tolist() == [word % field.modulus for word in words]
    with pytest.raises(Misuse, match="dtype"):
        field.reduce(np.ones(1, dtype=np.int64))


@given(FIELDS, st.integers(1, 5), st.integers(0, 2**32))
def test_sums_on_arrival_stay_in_the_field(field: Field, vectors: int, seed: int) -> None:
    rand, total = Replay(f"{seed}")(), Accumulator(field, 7)
    rows = [field.uniform(rand, f"{i}", 7) for i in range(vectors)]
    rows[0][:2] = field.modulus - 1
    for i, row in enumerate(rows):
        total.add_packed(field.pack(row)) if i % 2 else total.add(row)
    assert total.total().tolist() == [sum(map(int, column)) % field.modulus for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("bits", [31, 61])
def test_uniform_elements_are_uniform(bits: int) -> None:
    field = Field(bits)
    values = field.uniform(Replay("uniform")(), "values", 100_000)
    assert (values < field.modulus).all()
    for low in range(0, bits - 7, 8):
        counts = np.bincount((values.astype(np.uint64) >> np.uint64(low) & np.uint64(255)).astype(int), minlength=256)
        assert chi2.sf(((counts - values.size / 256) ** 2).sum() / (values.size / 256), 255) > 1e-6


@pytest.mark.parametrize("bits", [31, 61])
def test_words_equal_to_q_are_thrown_away_and_made_up_for(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come once in 2^31 words: here from a made stream.  The cut bits above the field's are ignored.  In references too."""
    field = Field(bits)
    word = np.dtype(field.dtype).itemsize
    q, high = field.modulus, 1 << bits

    class Stream:
        def child(self, label: str) -> Stream:
            assert label in ("z", "blocks")
            return self

        def bytes(self, label: str, size: int) -> bytes:
            words = {"0": [1, q, high | 2, high | q], "1": [q, 3], "2": [4]}[label]
            assert size == word * len(words)
            return b"".join(w.to_bytes(word, "little") for w in words)

    stream: Any = Stream()
    assert field.uniform(stream, "z", 4).tolist() == [1, 2, 3, 4]
    parameters: Any = SimpleNamespace(ring=field)
    assert lightsecagg_reference._uniform(stream, parameters, 4) == [1, 2, 3, 4]
    if bits == 61:
        monkeypatch.setattr(he_reference, "Rand", lambda _: stream)
        assert he_reference._uniform(Seed(bytes(32)), "z", 4) == [1, 2, 3, 4]


def test_fields_are_chosen_and_refused() -> None:
    assert Field.holding(100, 32767).bits == 31
    assert Field.holding(2, (2**31 - 2) // 4).bits == 31
    assert Field.holding(2, (2**31 - 2) // 4 + 1).bits == 61
    assert Field.holding(3, (2**30 - 1) // 3).bits == 31  # 2·n·max = q − 1
    assert [Field.holding(2, 1, bits=bits).bits for bits in (31, 32, 61)] == [31, 61, 61]
    for bad in ((2, 2**60, 0), (2, 1, 62)):
        with pytest.raises(Misuse, match="no headroom"):
            Field.holding(bad[0], bad[1], bits=bad[2])
    with pytest.raises(Misuse, match="31 or 61"):
        Field(32)


# Lagrange coding


def value_at(points: dict[int, int], at: int, q: int) -> int:
    out = 0
    for x, y in points.items():
        term = y
        for other in points:
            if other != x:
                term = term * (at - other) * pow(x - other, -1, q) % q
        out += term
    return out % q


@given(FIELDS, st.data())
@settings(max_examples=60)
def test_coefficients_interpolate(field: Field, data: st.DataObject) -> None:
    points = data.draw(st.lists(st.integers(1, 60), min_size=2, max_size=12, unique=True))
    cut = data.draw(st.integers(1, len(points) - 1))
    sources, targets = points[:cut], points[cut:]
    values = data.draw(st.lists(elements(field), min_size=cut, max_size=cut))
    matrix = lagrange.coefficients(field, sources, targets)
    got = field.product(matrix, array(field, values)[:, None])[:, 0]
    assert got.tolist() == [value_at(dict(zip(sources, values, strict=True)), t, field.modulus) for t in targets]
    with pytest.raises(Misuse, match="differ"):
        lagrange.coefficients(field, sources, [*targets, sources[0]])


def rank(matrix: list[list[int]], q: int) -> int:
    rows, found = [list(row) for row in matrix], 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(found, len(rows)) if rows[i][column] % q), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        inverse = pow(rows[found][column], -1, q)
        for i in range(found + 1, len(rows)):
            factor = rows[i][column] * inverse % q
            rows[i] = [(a - factor * b) % q for a, b in zip(rows[i], rows[found], strict=True)]
        found += 1
    return found


@pytest.mark.parametrize(("n", "U", "T"), [(5, 4, 1), (6, 4, 2), (6, 5, 3), (7, 6, 4)])
def test_any_t_shares_are_independent_noise_and_one_more_is_not(n: int, U: int, T: int) -> None:
    """For every T holders the noise blocks enter with full rank, so their shares are uniform whatever the mask is."""
    field = Field(31)
    matrix = lagrange.coefficients(field, lagrange.alphas(n, U), lagrange.betas(range(1, n + 1))).tolist()
    for holders in combinations(range(n), T):
        assert rank([matrix[j][U - T :] for j in holders], field.modulus) == T
    for holders in combinations(range(n), T + 1):
        assert rank([matrix[j][U - T :] for j in holders], field.modulus) == T
        assert rank([matrix[j] for j in holders], field.modulus) == T + 1


@given(FIELDS, st.integers(1, 6), st.integers(0, 7), st.data())
@settings(max_examples=150)
def test_wrong_values_are_located_up_to_half_of_the_spare_and_detected_up_to_all(
    field: Field, degree: int, spare: int, data: st.DataObject
) -> None:
    q, m = field.modulus, degree + spare
    points = sorted(data.draw(st.lists(st.integers(1, 40), min_size=m, max_size=m, unique=True)))
    rows = []
    for _ in range(2):
        polynomial = data.draw(st.lists(elements(field), min_size=degree, max_size=degree))
        rows.append([sum(c * x**k for k, c in enumerate(polynomial)) % q for x in points])
    assert lagrange.misfits(field, points, rows, degree) == []
    wrong = data.draw(st.lists(st.integers(0, m - 1), min_size=min(1, spare), max_size=spare, unique=True))
    for row in rows:
        for i in wrong:
            row[i] = (row[i] + data.draw(st.integers(1, q - 1))) % q
    found = lagrange.misfits(field, points, rows, degree)
    if len(wrong) <= spare // 2:
        assert found == sorted(points[i] for i in wrong)
    else:
        assert found != []
    assert any(any(lagrange.syndromes(field, points, row, degree)) for row in rows) == bool(wrong)


@given(FIELDS, st.integers(1, 4), st.integers(2, 8), st.data())
@settings(max_examples=150)
def test_wrong_values_chosen_so_that_first_syndromes_vanish_are_located_too(
    field: Field, degree: int, spare: int, data: st.DataObject
) -> None:
    """Random ones don't do that; liars that know the points do.  Each row may be wrong elsewhere."""
    q, m = field.modulus, degree + spare
    points = sorted(data.draw(st.lists(st.integers(1, 40), min_size=m, max_size=m, unique=True)))
    scale = [int(w) for w in lagrange.weights(field, points)]
    wrong = data.draw(st.lists(st.integers(0, m - 1), min_size=1, max_size=spare // 2, unique=True))
    rows = list[list[int]]()
    for part in (wrong, data.draw(st.just(wrong[:1]) | st.just(wrong[1:]))):
        row = [(3 + 5 * x**degree // x) % q for x in points]
        for at, i in enumerate(part):
            parts = st.just((-1) ** at * comb(len(part) - 1, at)) | st.sampled_from([-2, -1, 1, 2])
            row[i] = (row[i] + data.draw(parts) * pow(scale[i], -1, q)) % q
        rows.append(row)
    for given_ in (rows, rows[::-1]):
        assert lagrange.misfits(field, points, given_, degree) == sorted(points[i] for i in wrong)


def test_the_shortest_recurrence_of_every_short_sequence_is_found() -> None:
    """By trying them all, modulo 3."""
    q = 3

    def gives(register: Sequence[int], sequence: Sequence[int]) -> bool:
        span = range(len(register) - 1, len(sequence))
        return not any(sum(c * sequence[at - i] for i, c in enumerate(register)) % q for at in span)

    for sequence in product(range(q), repeat=6):
        found = lagrange._shortest_register(q, sequence)
        assert found[0] != 0
        assert gives(found, sequence)
        assert not any(gives([1, *rest], sequence) for n in range(len(found) - 1) for rest in product(range(q), repeat=n))


def test_an_error_that_shows_in_one_row_only_is_found() -> None:
    field, points = Field(31), [1, 2, 3, 4, 5]
    rows = [[7] * 5, [x * x for x in points]]
    rows[1][3] += 1
    assert lagrange.misfits(field, points, rows, 3) == [4]
    rows[0][0] += 1  # a second one, elsewhere: more than can be located
    assert lagrange.misfits(field, points, rows, 3) is None


@given(st.sampled_from([31, 61]), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5000), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_dot_products_of_long_rows_are_exact(bits: int, m: int, v: int, c: int, seed: int) -> None:
    field = Field(bits)
    words = Replay(f"dots {seed}")().words("rows", (m + v) * c) % np.uint64(field.modulus)
    words[::3] = field.modulus - 1  # the worst case for every limb
    rows, vectors = np.split(words.astype(field.dtype).reshape(m + v, c), [m])
    exact = rows.astype(object) @ vectors.astype(object).T % field.modulus
    assert field.dots(rows, vectors).tolist() == exact.tolist()
