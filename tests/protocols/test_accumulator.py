"""Packed vectors that wait to be added together: the same sum, however many wait, and never more of them than are allowed."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols import ring as rings
from protocols.lanes import by_rows
from protocols.rand import Replay
from protocols.ring import Accumulator, Ring

COUNT = 9001


def vectors(ring: Ring, number: int) -> list[NDArray[Any]]:
    return [Replay(f"vector {i}")().words("v", COUNT).astype(ring.dtype) for i in range(number)]


def total(ring: Ring, inputs: list[NDArray[Any]]) -> NDArray[Any]:
    out = inputs[0].copy()
    for one in inputs[1:]:
        out += one
    ring.reduce(out)
    return out


@pytest.mark.parametrize("bits", [2, 13, 20, 32, 33, 48, 52, 60, 63, 64])
@pytest.mark.parametrize("together", [1, 2, 3, 7])
def test_the_sum_is_the_same_however_many_wait(bits: int, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(bits)
    inputs = vectors(ring, 7)
    monkeypatch.setattr(rings, "PENDING", together * ring.packed_size(COUNT))
    out = Accumulator(ring, COUNT)
    for one in inputs:
        out.add_packed(ring.pack(one))
    assert np.array_equal(out.total(), total(ring, inputs))


def test_one_that_is_not_packed_comes_between() -> None:
    ring = Ring(60)
    inputs, out = vectors(ring, 5), Accumulator(Ring(60), COUNT)
    for i, one in enumerate(inputs):
        out.add(one) if i == 2 else out.add_packed(ring.pack(one))
    assert np.array_equal(out.total(), total(ring, inputs))


@pytest.mark.parametrize("together", [0, 1, 3])
def test_no_more_wait_than_are_allowed(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the byte; and those that were added are let go."""
    ring, waiting = Ring(60), list[weakref.ref[NDArray[Any]]]()
    size = ring.packed_size(COUNT)
    out = Accumulator(ring, COUNT)
    monkeypatch.setattr(rings, "PENDING", together * size)
    most = 0
    for one in vectors(ring, 10):
        data = np.frombuffer(bytes(ring.pack(one)), np.uint8).copy()
        waiting.append(weakref.ref(data))
        out.add_packed(data.data)
        del data
        most = max(most, sum(one() is not None for one in waiting))
    assert most == max(0, together - 1)


def test_numpy_has_its_buffer_back() -> None:
    before = np.getbufsize()
    with by_rows():
        assert np.getbufsize() < before
    with pytest.raises(ZeroDivisionError), by_rows():
        raise ZeroDivisionError
    assert np.getbufsize() == before
