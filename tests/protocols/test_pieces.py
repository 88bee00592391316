"""Draws and inputs piece by piece are those of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Misuse
from protocols.rand import Replay
from protocols.vector import Vector, signed


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=4))
def test_a_stream_gives_the_bytes_of_its_draw(sizes: list[int]) -> None:
    stream, parts = Replay("stream")().stream("x"), list[np.ndarray[Any, Any]]()
    for size in sizes:
        parts.append(np.empty(size, np.uint64))
        stream.fill(parts[-1])
    assert np.array_equal(np.concatenate(parts), Replay("stream")().words("x", sum(sizes)))
    assert repr(stream) == "Stream([redacted])"


def test_a_label_is_good_for_one_stream() -> None:
    rand = Replay("label")()
    rand.stream("x")
    with pytest.raises(Misuse, match="drawn before"):
        rand.stream("x")


@given(st.lists(st.integers(-100, 100), min_size=1, max_size=30), st.integers(1, 31))
def test_an_input_is_read_with_its_count_behind(values: list[int], step: int) -> None:
    for dtype in (np.int8, np.int16, np.int64):
        read = signed(Vector(np.array(values, dtype=dtype)), len(values), 100)
        got = [read(start, min(step, len(values) + 1 - start)) for start in range(0, len(values) + 1, step)]
        assert np.concatenate(got).tolist() == [*values, 1]
        assert all(part.dtype == np.int64 for part in got)


@pytest.mark.parametrize("value", [101, -101])
def test_a_value_past_its_bound_is_refused_but_not_a_noised_one(value: int) -> None:
    x = Vector(np.array([1, value, 3]))
    with pytest.raises(Misuse, match=f"{value} is past max_abs = 100"):
        signed(x, 3, 100)(0, 4)
    assert signed(x, 3, 100)(2, 2).tolist() == [3, 1]
    assert signed(x, 3, None)(0, 4).tolist() == [1, value, 3, 1]


@pytest.mark.parametrize("bad", [np.array([1.0, np.nan, 2.0]), np.array([np.inf, 1, 2]), np.zeros(3), np.zeros(4, np.int64)])
def test_what_is_no_vector_of_integers_is_refused(bad: np.ndarray[Any, Any]) -> None:
    with pytest.raises(Misuse):
        signed(Vector(bad), 3, None)
