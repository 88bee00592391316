"""Vectors on the wire: bytes as documented, read in chunks of any size, hashed where the layout says so, kept where it does."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.bulk import Blobs, Bulk, Floats, KeptParser, Layout, Packed, Parser, hashed_on_arrival, is_hashed, is_public
from protocols.errors import Misuse, Refused
from protocols.ring import Accumulator, Ring, Unpacker

RING = Ring(23)
CUTS = st.lists(st.floats(0, 1), max_size=4)


def numbers(size: int) -> np.ndarray[Any, Any]:
    return (np.arange(size, dtype=np.uint32) * 7919 + 5) % np.uint32(RING.modulus)


def fed(parser: Any, data: bytes, cuts: list[float]) -> Any:
    """What a parser makes of the bytes, cut at some places; views of memory that changes when it was read."""
    edges = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        if not isinstance(parser, KeptParser):
            assert parser.done == (start == len(data))
        chunk = bytearray(data[start:end])
        parser.feed(memoryview(chunk))
        chunk[:] = bytes(len(chunk))
    return parser.vector()


@given(st.integers(0, 70), CUTS)
def test_packed_vectors_come_back(size: int, cuts: list[float]) -> None:
    layout, values = Packed(RING, size), numbers(size)
    data = bytes(layout.dump(values))
    assert data == bytes(RING.pack(values))
    assert layout.nbytes == len(data)
    parser = layout.parser()
    assert isinstance(parser, Unpacker)
    assert fed(parser, data, cuts).tolist() == values.tolist()


@given(st.integers(0, 70), CUTS)
def test_bytes_that_are_kept_are_the_ones_that_came(size: int, cuts: list[float]) -> None:
    layout, data = Packed(RING, size, kept=True), bytes(RING.pack(numbers(size)))
    parser = layout.parser()
    assert isinstance(parser, KeptParser)
    kept = fed(parser, data, cuts)
    assert (bytes(kept), kept.readonly, parser.packed) == (data, True, layout)
    assert bytes(layout.parser().vector() if not size else data) == data  # of no values there is nothing to come


def test_only_bytes_that_nobody_can_change_are_kept_without_a_copy() -> None:
    data = bytes(RING.pack(numbers(40)))
    for chunk, same in ((data, True), (memoryview(data), True), (memoryview(b"x" + data)[1:], True), (bytearray(data), False)):
        parser: Any = Packed(RING, 40, kept=True).parser()
        parser.feed(chunk)
        assert np.shares_memory(np.frombuffer(parser.vector(), np.uint8), np.frombuffer(chunk, np.uint8)) == same
        assert bytes(parser.vector()) == data


def test_a_layout_that_is_kept_has_one_that_is_not() -> None:
    layout = Packed(RING, 40, kept=True, hashed=False)
    assert layout.unpacked == Packed(RING, 40, kept=False, hashed=False)
    assert layout.unpacked is layout.unpacked


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20), CUTS)
def test_floats_are_little_endian_of_four_bytes(values: list[float], cuts: list[float]) -> None:
    layout, data = Floats(len(values)), struct.pack(f"<{len(values)}f", *values)
    for dtype in (np.float32, np.float64, ">f8"):
        assert layout.dump(np.array(values, dtype)) == data
    assert layout.nbytes == len(data) == 4 * len(values)
    read = fed(layout.parser(), data, cuts)
    assert (read.dtype, read.tolist()) == (np.float32, values)


@given(st.integers(1, 5), st.integers(1, 9), CUTS)
def test_strings_follow_each_other(count: int, size: int, cuts: list[float]) -> None:
    layout, values = Blobs(count, size), np.arange(count * size, dtype=np.uint8).reshape(count, size)
    for same in (values, np.asfortranarray(values)):
        data = layout.dump(same)
        assert (bytes(data), data.readonly) == (bytes(range(count * size)), True)
    assert layout.nbytes == count * size
    read = fed(layout.parser(), bytes(range(count * size)), cuts)
    assert (read.dtype, read.tolist()) == (np.uint8, values.tolist())


WRONG: list[tuple[Layout, Any]] = [
    (Packed(RING, 3), np.zeros(4, np.uint32)),
    (Packed(RING, 3), np.zeros((3, 1), np.uint32)),
    (Floats(3), np.zeros(2)),
    (Blobs(3, 2), np.zeros((2, 3), np.uint8)),
    (Blobs(3, 2), np.zeros((3, 2), np.int8)),
]


@pytest.mark.parametrize(("layout", "values"), WRONG)
def test_values_of_another_shape_are_misuse(layout: Layout, values: Any) -> None:
    with pytest.raises(Misuse, match=r"declared, not \("):
        Bulk.of(layout, values)


class Plain:
    """A layout of somebody else, who says nothing of hashes."""

    nbytes = 3

    def dump(self, values: Any) -> bytes:
        return bytes(values)

    def parser(self) -> Parser:
        return Blobs(1, 3).parser()


@pytest.mark.parametrize(
    ("layout", "hashed", "public", "on_arrival"),
    [
        (Packed(RING, 3), True, False, True),
        (Packed(RING, 3, kept=True), True, False, False),
        (Packed(RING, 3, hashed=False), False, False, False),
        (Packed(RING, 3, kept=True, hashed=False), False, False, False),
        (Floats(3), True, True, True),
        (Blobs(3, 2), True, False, True),
        (Blobs(3, 2, hashed=False), False, False, False),
        (Plain(), True, False, True),
    ],
)
def test_what_is_hashed_and_what_is_public(layout: Layout, hashed: bool, public: bool, on_arrival: bool) -> None:
    assert (is_hashed(layout), is_public(layout), hashed_on_arrival(layout)) == (hashed, public, on_arrival)


# A vector and its hash


def test_what_is_sent_is_hashed_where_the_layout_says_so() -> None:
    values = numbers(40)
    data = bytes(RING.pack(values))
    sent = Bulk.of(Packed(RING, 40), values)
    assert (sent.held is values, sent.sha256, bytes(sent.data or b"")) == (True, hashlib.sha256(data).digest(), data)
    assert sent.values is values
    assert sent.digest == sent.sha256
    bare = Bulk.of(Packed(RING, 40, hashed=False), values)
    assert (bare.sha256, bytes(bare.data or b"")) == (None, data)
    with pytest.raises(Misuse, match="not hashed"):
        _ = bare.digest


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_written_piece_by_piece_is_the_same(kept: bool) -> None:
    values = numbers(40)

    def write(start: int, out: np.ndarray[Any, Any]) -> None:
        out[:] = values[start : start + out.size]

    layout, data = Packed(RING, 40, kept=kept), bytes(RING.pack(values))
    sent = Bulk.by(layout, write)
    assert (sent.held, sent.sha256, bytes(sent.data or b"")) == (None, hashlib.sha256(data).digest(), data)
    assert (sent.layout, sent.values.tolist()) == (layout, values.tolist())
    bare = Bulk.by(Packed(RING, 40, hashed=False), write)
    assert (bare.sha256, bytes(bare.data or b"")) == (None, data)


def received(layout: Layout, data: bytes, sha256: bytes | None) -> Bulk:
    parser = layout.parser()
    parser.feed(data)
    return Bulk.received(parser, sha256)


def test_what_has_come_is_held_or_kept() -> None:
    values, data = numbers(40), bytes(RING.pack(numbers(40)))
    held = received(Packed(RING, 40), data, b"hash")
    assert (held.data, held.digest, held.values is held.held) == (None, b"hash", True)
    assert held.values.tolist() == values.tolist()
    layout = Packed(RING, 40, kept=True)
    kept = received(layout, data, None)
    assert (kept.held, kept.sha256, kept.layout, bytes(kept.data or b"")) == (None, None, layout, data)
    assert kept.values.tolist() == values.tolist()
    assert kept.digest == hashlib.sha256(data).digest()
    assert received(layout, data, b"hash").digest == b"hash"
    for nothing in (received(Packed(RING, 40, kept=True, hashed=False), data, None), received(Packed(RING, 40), data, None)):
        with pytest.raises(Misuse, match="not hashed"):
            _ = nothing.digest
    with pytest.raises(Misuse, match="not hashed"):
        _ = Bulk(None, None, data).digest
    with pytest.raises(Misuse, match="neither values nor bytes"):
        _ = Bulk(None, None, data).values


def test_vectors_are_added_up_held_or_kept_and_bad_ones_not_at_all() -> None:
    values, data = numbers(40), bytes(RING.pack(numbers(40)))
    total = Accumulator(RING, 40)
    for kept in (False, True):
        received(Packed(RING, 40, kept=kept), data, None).add_to(total)
    Bulk.of(Packed(RING, 40), values).add_to(total)
    with pytest.raises(Refused, match="vector-padding"):
        received(Packed(RING, 40, kept=True), data[:-1] + b"\x80", None).add_to(total)
    assert total.total().tolist() == (3 * values.astype(np.uint64) % np.uint64(RING.modulus)).tolist()


def test_a_vector_that_is_kept_is_never_whole_beside_its_sum() -> None:
    size = 2**20
    kept, total = received(Packed(RING, size, kept=True), bytes(RING.packed_size(size)), None), Accumulator(RING, size)
    kept.add_to(total)
    tracemalloc.start()
    kept.add_to(total)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < size  # of the sum a quarter


def test_held_values_are_added_and_not_packed_bytes_beside_them() -> None:
    total = Accumulator(RING, 2)
    Bulk(np.ones(2, np.uint32), None, bytes(8)).add_to(total)
    assert total.total().tolist() == [1, 1]


@given(st.integers(1, 30))
def test_bytes_are_sent_in_frames_of_a_size(most: int) -> None:
    data = bytes(range(24))
    one = Bulk.of(Blobs(4, 6), np.arange(24, dtype=np.uint8).reshape(4, 6))
    several = Bulk.joined(Blobs(4, 6, hashed=False), [data[i : i + 6] for i in range(0, 24, 6)])
    for bulk in (one, several):
        frames = list(map(bytes, bulk.frames(most)))
        assert frames == [data[i : i + most] for i in range(0, 24, most)]
    assert several.values.tolist() == one.values.tolist()
    assert (several.held, several.sha256, several.data) == (None, None, None)


def test_strings_are_joined_only_as_declared_and_without_a_hash() -> None:
    for layout, pieces in (
        (Blobs(2, 3), [b"abc", b"def"]),
        (Blobs(2, 3, hashed=False), [b"abc"]),
        (Blobs(2, 3, hashed=False), [b"abc", b"de"]),
        (Blobs(2, 3, hashed=False), [b"abcd", b"ef"]),
    ):
        with pytest.raises(Misuse, match="not hashed, were declared"):
            Bulk.joined(layout, pieces)


def test_a_vector_that_was_received_is_not_sent_on() -> None:
    with pytest.raises(Misuse, match="no bytes to send"):
        next(received(Floats(1), bytes(4), None).frames(4))
