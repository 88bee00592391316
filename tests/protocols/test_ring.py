"""The ring: lifting, sums, and the packed form, against integer arithmetic and the layout as documented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.errors import Misuse, Refused
from protocols.lanes import Piece, columns, filling
from protocols.rand import Replay
from protocols.ring import Accumulator, Ring, Unpacker

BLOCK = 262144
BITS = st.integers(2, 64)
COUNTS = st.one_of(st.integers(0, 200), st.integers(BLOCK - 70, BLOCK + 70), st.integers(0, 2 * BLOCK), st.just(2 * BLOCK))
SEEDS = st.integers(0, 2**32)


def words(seed: int, count: int, ring: Ring) -> NDArray[Any]:
    """Words that are not reduced."""
    return Replay(f"{seed}")().words("words", count).astype(ring.dtype)


def vector(seed: int, count: int, ring: Ring) -> NDArray[Any]:
    out = words(seed, count, ring)
    ring.reduce(out)
    return out


def documented_layout(values: Sequence[int], bits: int) -> bytes:
    lanes, out = (32 if bits <= 32 else 64), b""
    for start in range(0, len(values), BLOCK):
        block = list(values[start : start + BLOCK])
        m = -(-len(block) // lanes)
        block += [0] * (lanes * m - len(block))
        strings = [sum(block[lane * m + i] << (lane * bits) for lane in range(lanes)) for i in range(m)]
        for plane in range(bits):
            for string in strings:
                out += (string >> (lanes * plane) & (2**lanes - 1)).to_bytes(lanes // 8, "little")
    return out


def documented_block(values: NDArray[Any], bits: int) -> bytes:
    """The same of one full block, bit by bit in numpy."""
    lanes = 32 if bits <= 32 else 64
    ones = (values.reshape(lanes, -1, 1) >> np.arange(bits, dtype=values.dtype) & values.dtype.type(1)).astype(np.uint8)
    strings = ones.transpose(1, 0, 2).reshape(-1, bits, lanes)
    return np.packbits(strings.transpose(1, 0, 2), bitorder="little").tobytes()


def signed(bits: int) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@given(BITS, st.integers(0, 300), SEEDS)
@settings(deadline=None)
def test_packed_bytes_are_the_documented_ones(bits: int, count: int, seed: int) -> None:
    ring = Ring(bits)
    values = vector(seed, count, ring)
    assert bytes(ring.pack(values)) == documented_layout([int(v) for v in values], bits)


@pytest.mark.parametrize("bits", [23, 33])
def test_full_blocks_have_the_documented_bytes(bits: int) -> None:
    ring = Ring(bits)
    values, block = vector(7, BLOCK + 65, ring), BLOCK * bits // 8
    packed = bytes(ring.pack(values))
    assert packed[:block] == documented_block(values[:BLOCK], bits)
    assert packed[block:] == documented_layout([int(v) for v in values[BLOCK:]], bits)
    few = values[: 4 * ring.lanes]
    assert documented_block(few, bits) == documented_layout([int(v) for v in few], bits)


@given(BITS, COUNTS, SEEDS, st.lists(st.floats(0, 1), max_size=6))
@example(23, 3 * BLOCK + 5, 1, [0.3, 0.30001, 0.9])
@example(64, 4 * BLOCK, 1, [0.5])
@example(32, 70, 2, [])  # lanes as wide as their words, by few wide operations
@example(64, 70, 3, [])
@settings(deadline=None, max_examples=60)
def test_round_trip_for_any_chunking(bits: int, count: int, seed: int, cuts: list[float]) -> None:
    ring = Ring(bits)
    values = vector(seed, count, ring)
    packed = ring.pack(values)
    assert len(packed) == ring.packed_size(count)
    np.testing.assert_array_equal(ring.unpack(packed, count), values)

    unpacker = Unpacker(ring, count)
    edges = [0, *sorted(int(cut * len(packed)) for cut in cuts), len(packed)]
    for begin, end in pairwise(edges):
        assert unpacker.done == (begin == len(packed))
        unpacker.feed(bytes(packed[begin:end]))
    assert unpacker.done
    np.testing.assert_array_equal(unpacker.vector(), values)
    assert unpacker.vector().dtype == ring.dtype


@given(BITS, st.integers(1, 200), SEEDS)
@settings(deadline=None, max_examples=40)
def test_byte_by_byte(bits: int, count: int, seed: int) -> None:
    ring = Ring(bits)
    values, unpacker = vector(seed, count, ring), Unpacker(ring, count)
    for byte in ring.pack(values):
        unpacker.feed(bytes([byte]))
    np.testing.assert_array_equal(unpacker.vector(), values)


@given(BITS, st.integers(0, 200), SEEDS)
@settings(deadline=None)
def test_packing_reduces_and_leaves_its_input_alone(bits: int, count: int, seed: int) -> None:
    ring = Ring(bits)
    raw = words(seed, count, ring)
    before = raw.copy()
    assert bytes(ring.pack(raw)) == bytes(ring.pack(vector(seed, count, ring)))
    np.testing.assert_array_equal(raw, before)


@given(BITS, COUNTS, SEEDS, st.integers(1, 100))
@settings(deadline=None, max_examples=40)
def test_wrong_lengths_are_refused(bits: int, count: int, seed: int, excess: int) -> None:
    ring = Ring(bits)
    packed = bytes(ring.pack(vector(seed, count, ring)))
    with pytest.raises(Refused) as refused:
        ring.unpack(packed + bytes(excess), count)
    assert refused.value.check == "vector-length"
    if count:
        with pytest.raises(Refused) as refused:
            ring.unpack(packed[: max(0, len(packed) - excess)], count)
        assert refused.value.check == "vector-length"


def test_a_chunk_too_long_takes_nothing() -> None:
    ring, unpacker = Ring(23), Unpacker(Ring(23), 1000)
    packed = bytes(ring.pack(vector(1, 1000, ring)))
    unpacker.feed(packed[:100])
    with pytest.raises(Refused, match="vector-length"):
        unpacker.feed(packed[100:] + b"\0")
    unpacker.feed(packed[100:])
    np.testing.assert_array_equal(unpacker.vector(), vector(1, 1000, ring))


@given(BITS, st.one_of(st.integers(1, 200), st.integers(BLOCK + 1, BLOCK + 70)), SEEDS, st.data())
@settings(deadline=None, max_examples=60)
def test_filling_that_is_not_zero_is_refused(bits: int, count: int, seed: int, data: st.DataObject) -> None:
    ring = Ring(bits)
    padded = -(-count // ring.lanes) * ring.lanes
    if padded == count:
        return
    values = np.zeros(padded, dtype=ring.dtype)
    values[:count] = vector(seed, count, ring)
    values[data.draw(st.integers(count, padded - 1))] = 1 << data.draw(st.integers(0, bits - 1))
    forged = bytes(ring.pack(values))
    assert len(forged) == ring.packed_size(count)

    unpacker = Unpacker(ring, count)
    with pytest.raises(Refused) as refused:
        unpacker.feed(forged)
    assert refused.value.check == "vector-padding"
    assert not unpacker.done
    with pytest.raises(Refused):
        unpacker.vector()
    with pytest.raises(Refused):
        unpacker.feed(forged[:1])


@pytest.mark.parametrize("bits", [2, 5, 23, 31, 32, 33, 48, 63, 64])
def test_all_that_lies_past_the_end_is_seen(bits: int) -> None:
    """Every bit of it, also of a value that is cut in two, in the last lane as in the ones before."""
    ring = Ring(bits)
    for long in (1, 2, 5):
        padded = long * ring.lanes
        values = vector(long, padded, ring)
        packed = np.frombuffer(documented_layout([int(v) for v in values], bits), np.uint8)
        for size in range(padded - ring.lanes + 1, padded):
            found = filling(packed, bits, Piece(0, size, padded), np.dtype(ring.dtype))
            assert found.tolist() == values[size:].tolist()


@given(
    BITS,
    st.one_of(st.integers(1, 300), st.just(BLOCK), st.integers(BLOCK + 1, BLOCK + 300)),
    st.integers(1, 40) | st.integers(1, BLOCK),
    SEEDS,
)
@example(33, 70, 8, 3)
@example(31, 33, 1, 1)  # one lane at a time, the last ones past the end
@example(32, 2 * BLOCK + 5, 9000, 2)
@settings(deadline=None, max_examples=30)
def test_rows_come_a_few_lanes_at_a_time(bits: int, count: int, most: int, seed: int) -> None:
    ring = Ring(bits)
    rows = [vector(seed + i, count, ring) for i in range(2)]
    expected, got = 0, list[NDArray[Any]]()
    for start, lanes in columns([bytes(ring.pack(row)) for row in rows], bits, count, most):
        number, _, long = lanes.shape
        assert (start, lanes.dtype) == (expected, np.dtype(ring.dtype))
        assert number == 1 or number * long <= most
        got.append(lanes.transpose(1, 0, 2).reshape(2, -1).copy())
        expected += number * long
        assert start < count
    np.testing.assert_array_equal(np.concatenate(got, axis=1)[:, :count], rows)
    spare = -count % ring.lanes
    for at in range(count, count + spare, 1 if count <= 300 else max(1, spare - 1)):
        forged = np.zeros(count + spare, ring.dtype)
        forged[at] = 1 << (bits - 1)
        with pytest.raises(Refused, match="vector-padding"):
            list(columns([bytes(ring.pack(rows[0])), bytes(ring.pack(forged))], bits, count, most))


@given(BITS)
def test_exactly_b_bits_a_value(bits: int) -> None:
    ring = Ring(bits)
    for count in (BLOCK, 10**5, 10**6, 10**6 + 1):
        assert count * bits <= 8 * ring.packed_size(count) < count * bits * 1.001
    assert ring.packed_size(0) == 0
    assert ring.packed_size(31) == (31 + 31) // 32 * 32 * bits // 8 if bits <= 32 else 64 * bits // 8


@given(BITS, st.data())
def test_lift_and_centre_are_the_integers_modulo_the_ring(bits: int, data: st.DataObject) -> None:
    ring = Ring(bits)
    values = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
    lifted = ring.lift(np.array(values, dtype=np.int64))
    assert lifted.dtype == ring.dtype
    assert [int(v) for v in lifted] == [v % ring.modulus for v in values]
    place = np.full_like(lifted, 1)
    assert ring.lift(np.array(values, dtype=np.int64), place) is place
    np.testing.assert_array_equal(place, lifted)
    centred = ring.centre(lifted)
    assert centred.dtype == np.int64
    assert [int(v) for v in centred] == [(v + ring.half) % ring.modulus - ring.half for v in values]


@given(BITS, st.integers(0, 100), SEEDS)
def test_centre_reduces_and_leaves_its_input_alone(bits: int, count: int, seed: int) -> None:
    ring = Ring(bits)
    raw = words(seed, count, ring)
    before = raw.copy()
    np.testing.assert_array_equal(ring.centre(raw), ring.centre(vector(seed, count, ring)))
    np.testing.assert_array_equal(raw, before)


@given(st.integers(2, 63), st.integers(1, 9), st.integers(0, 40), st.data())
def test_the_sum_is_exact_below_half(bits: int, parties: int, size: int, data: st.DataObject) -> None:
    ring = Ring(bits)
    largest = (ring.half - 1) // parties
    inputs = [
        np.array(data.draw(st.lists(st.integers(-largest, largest), min_size=size, max_size=size)), dtype=np.int64).reshape(size)
        for _ in range(parties)
    ]
    accumulator = Accumulator(ring, size)
    for one in inputs:
        accumulator.add(ring.lift(one))
    np.testing.assert_array_equal(ring.centre(accumulator.total()), np.sum(inputs, axis=0))


@given(BITS, st.integers(1, 40), st.integers(1, 6), SEEDS)
def test_the_total_is_the_sum_modulo_the_ring(bits: int, size: int, parties: int, seed: int) -> None:
    ring, accumulator = Ring(bits), Accumulator(Ring(bits), size)
    inputs = [words(seed + i, size, ring) for i in range(parties)]
    for one in inputs:
        accumulator.add(one)
    expected = [sum(int(one[i]) for one in inputs) % ring.modulus for i in range(size)]
    assert [int(v) for v in accumulator.total()] == expected
    assert [int(v) for v in accumulator.total()] == expected


@given(BITS, COUNTS, SEEDS, st.lists(st.booleans(), min_size=1, max_size=4))
@example(16, BLOCK + 9001, 1, [True, True])  # many short cycles of planes, a few long ones, one plane each
@example(20, 9001, 2, [True, False, True])
@example(32, BLOCK, 3, [True, True])
@example(48, BLOCK + 1, 4, [True, True])
@example(63, 2 * BLOCK, 5, [False, True])
@settings(deadline=None, max_examples=40)
def test_packed_vectors_add_up_like_unpacked_ones(bits: int, count: int, seed: int, as_packed: list[bool]) -> None:
    ring = Ring(bits)
    packed, plain = Accumulator(ring, count), Accumulator(ring, count)
    for i, is_packed in enumerate(as_packed):
        values = words(seed + i, count, ring)
        plain.add(values)
        packed.add_packed(ring.pack(values)) if is_packed else packed.add(values)
    for _ in range(2):  # asked again, it is the same
        np.testing.assert_array_equal(packed.total(), plain.total())
    with pytest.raises(Misuse, match="after the total"):
        packed.add_packed(ring.pack(words(seed, count, ring)))


@given(BITS, st.sampled_from([1, 31, 33, 200, 9001, BLOCK + 1, BLOCK + 9001]), SEEDS, st.data())
@settings(deadline=None, max_examples=60)
def test_of_a_packed_vector_that_is_refused_nothing_is_added(bits: int, count: int, seed: int, data: st.DataObject) -> None:
    """A filling that is not zero, in the last block, and another length: the sum is the one before."""
    ring, total = Ring(bits), Accumulator(Ring(bits), count)
    first = vector(seed, count, ring)
    total.add_packed(ring.pack(first))
    padded = -(-count // ring.lanes) * ring.lanes
    forged = np.zeros(padded, dtype=ring.dtype)
    forged[:count] = vector(seed + 1, count, ring)
    good = bytes(ring.pack(forged))
    for bad in (good[:-1], good + b"\0"):
        with pytest.raises(Refused) as refused:
            total.add_packed(bad)
        assert refused.value.check == "vector-length"
    if padded > count:
        forged[data.draw(st.integers(count, padded - 1))] = 1 << data.draw(st.integers(0, bits - 1))
        with pytest.raises(Refused) as refused:
            total.add_packed(ring.pack(forged))
        assert refused.value.check == "vector-padding"
    np.testing.assert_array_equal(total.total(), first)


def test_nothing_is_added_after_the_total() -> None:
    ring = Ring(23)
    accumulator = Accumulator(ring, 3)
    total = accumulator.total()
    with pytest.raises(Misuse):
        accumulator.add(np.ones(3, dtype=np.uint32))
    assert not total.any()


@pytest.mark.parametrize("bits", [-1, 0, 1, 65])
def test_other_widths_are_misuse(bits: int) -> None:
    with pytest.raises(Misuse, match="2 to 64"):
        Ring(bits)


@pytest.mark.parametrize("bits", [2, 32, 33, 64])
def test_the_word_is_the_smallest_that_holds_a_value(bits: int) -> None:
    ring = Ring(bits)
    assert np.dtype(ring.dtype).itemsize == (4 if bits <= 32 else 8)
    assert (ring.modulus, 2 * ring.half) == (2**bits, 2**bits)


def test_other_types_and_shapes_are_misuse() -> None:
    ring = Ring(23)
    acts: list[Callable[[Any], object]] = [ring.centre, ring.reduce, ring.pack, ring.lift, Accumulator(ring, 4).add]
    for act in acts:
        for dtype in (np.uint64, np.float64, np.int32):
            with pytest.raises(Misuse):
                act(np.zeros(4, dtype=dtype))
    with pytest.raises(Misuse):
        ring.pack(np.zeros((2, 2), dtype=np.uint32))
    for shape in (3, 5, (4, 1), ()):
        with pytest.raises(Misuse):
            Accumulator(ring, 4).add(np.zeros(shape, dtype=np.uint32))
