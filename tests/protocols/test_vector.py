"""Inputs on their way into a ring, and sums on their way out, against the integers themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols import vector
from protocols.errors import Abort, Misuse
from protocols.secagg_parameters import Parameters
from protocols.vector import Vector, bounded_each, checked_sum, counted, integers, signed, with_count

MAX_ABS = 100
DTYPES = st.sampled_from([np.int8, np.int16, np.int32, np.int64])


def parameters(size: int, *, tail: int = 0) -> Parameters:
    return Parameters.of(5, size, MAX_ABS, tail=tail)


def inputs(most: int, *, longest: int = 40) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(-most, most), min_size=1, max_size=longest)


@given(inputs(MAX_ABS), DTYPES)
@example([MAX_ABS, -MAX_ABS], np.int8)
def test_an_input_in_the_ring_is_the_values_modulo_and_a_count_of_one(values: list[int], dtype: Any) -> None:
    p = parameters(len(values))
    lifted = with_count(Vector(np.array(values, dtype=dtype)), p)
    assert lifted.dtype == p.ring.dtype
    assert lifted.tolist() == [*(x % p.ring.modulus for x in values), 1]


@given(inputs(MAX_ABS, longest=60), st.integers(1, 61))
def test_an_input_in_the_ring_is_the_same_in_pieces_of_any_size(values: list[int], block: int) -> None:
    """Those that `with_count` takes among them, and integers that are not lifted."""
    p, x, size = parameters(len(values)), Vector(np.array(values)), len(values) + 1
    whole = with_count(x, p)
    write, read, out = counted(x, p), signed(x, len(values), MAX_ABS), np.empty_like(whole)
    for start in range(0, size, block):
        write(start, out[start : start + block])
        piece = read(start, min(block, size - start))
        assert piece.dtype == np.int64
        assert piece.tolist() == [*values, 1][start : start + block]
    assert (out == whole).all()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vector, "_BLOCK", block)
        assert (with_count(x, p) == whole).all()


@pytest.mark.parametrize(
    ("tail", "most"),
    [(0, MAX_ABS), (1, 2**62 - 1)],
)
@given(data=st.data())
@settings(max_examples=20)
def test_a_value_is_refused_exactly_past_its_bound(tail: int, most: int, data: st.DataObject) -> None:
    """Where noise is in the values only what no sum could hold is."""
    size = data.draw(st.integers(1, 9))
    at, sign = data.draw(st.integers(0, size - 1)), data.draw(st.sampled_from([1, -1]))
    p, values = parameters(size, tail=tail), np.zeros(size, dtype=np.int64)
    values[at] = sign * most
    assert with_count(Vector(values), p).tolist() == [*(int(x) % p.ring.modulus for x in values), 1]
    values[at] += sign
    with pytest.raises(Misuse, match=f"an input value of {sign * (most + 1)} is past max_abs = {most}"):
        with_count(Vector(values), p)


def test_values_that_are_not_lifted_are_refused_past_their_bound_or_past_64_bits() -> None:
    for given_, bound in (([MAX_ABS, -MAX_ABS], MAX_ABS), ([2**63 - 1, 1 - 2**63], None)):
        assert signed(Vector(np.array(given_)), 2, bound)(0, 3).tolist() == [*given_, 1]
    for bad, bound in (
        ([MAX_ABS + 1], MAX_ABS),
        ([-MAX_ABS - 1], MAX_ABS),
        ([2**63], None),
        ([2**64 - 1], None),
        ([-(2**63)], None),
    ):
        with pytest.raises(Misuse, match="is past max_abs"):
            signed(Vector(np.array(bad)), 1, bound)(0, 2)


@given(
    st.lists(
        st.tuples(st.sampled_from([np.int8, np.uint8, np.int64, np.uint64]), st.tuples(*[st.integers(0, MAX_ABS)] * 3)),
        min_size=1,
        max_size=5,
    )
)
@example([(np.int8, (1, 2, 3))] * 2)
@example([(np.uint8, (1, 2, 3)), (np.int8, (4, 5, 6))])
def test_inputs_together_are_rows_of_their_integers(made: list[tuple[type, tuple[int, ...]]]) -> None:
    rows = bounded_each([Vector(np.array(values, dtype=dtype)) for dtype, values in made], parameters(3))
    assert rows.dtype == np.int64
    assert rows.tolist() == [list(values) for _, values in made]


@pytest.mark.parametrize("dtypes", [(np.int64, np.int64), (np.uint64, np.uint64), (np.int64, np.uint64), (np.uint64, np.int64)])
def test_inputs_together_are_bounded_each(dtypes: tuple[type, type]) -> None:
    """Up to the last value, and exactly: float64, the dtype that int64 and uint64 have in common, would round."""
    p, most = parameters(1, tail=1), 2**62 - 1
    for value in (most, 2**60 + 1):
        good = [Vector(np.array([value], dtype=dtype)) for dtype in dtypes]
        assert bounded_each(good, p).tolist() == [[value], [value]]
    for at in (0, 1):
        bad = [Vector(np.array([most + (i == at)], dtype=dtype)) for i, dtype in enumerate(dtypes)]
        with pytest.raises(Misuse, match=f"an input value of {most + 1} is past max_abs = {most}"):
            bounded_each(bad, p)


@given(st.integers(1, 9), st.integers(0, 8), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_value_that_is_no_number_is_named_with_its_place(size: int, at: int, bad: float) -> None:
    values = np.ones(size)
    values[at % size] = bad
    with pytest.raises(Misuse, match=f"an input value is {bad} at index {at % size}: "):
        integers(values, size)


@pytest.mark.parametrize("values", [[1.0, 2.0], [True, False], ["1", "2"], [1 + 0j, 2], [None, 1]])
def test_other_dtypes_are_refused(values: list[Any]) -> None:
    with pytest.raises(Misuse, match="integer dtype"):
        integers(values, 2)


@pytest.mark.parametrize("values", [[1], [1, 2, 3], [[1, 2]], 1, []])
def test_other_shapes_are_refused(values: Any) -> None:
    with pytest.raises(Misuse, match=r"an input has shape \(2,\)"):
        integers(np.array(values, dtype=np.int64), 2)
    assert integers([1, 2], 2).tolist() == [1, 2]
    assert integers(np.array([1, 2], dtype=np.uint8), 2).dtype == np.uint8


@given(st.integers(1, 5), inputs(5 * MAX_ABS), st.sampled_from([0, 7]))
@example(1, [MAX_ABS], 0)
@example(2, [-2 * MAX_ABS, 1], 0)
@example(2, [2 * MAX_ABS + 1], 0)
@example(2, [1, -2 * MAX_ABS - 1], 0)
@example(3, [3 * MAX_ABS + 7, -3 * MAX_ABS - 7], 7)
@example(3, [3 * MAX_ABS + 8], 7)
@example(3, [-3 * MAX_ABS - 8], 7)
def test_a_sum_is_taken_if_it_counts_its_parties_and_is_one_that_they_can_have(
    contributors: int, total: list[int], tail: int
) -> None:
    p = parameters(len(total), tail=tail)
    for count in (contributors - 1, contributors, contributors + 1):
        opened = np.array([*total, count])
        if count != contributors or max(map(abs, total)) > contributors * MAX_ABS + tail:
            with pytest.raises(Abort) as abort:
                checked_sum(opened, contributors, p)
            assert abort.value.check == ("sum-count" if count != contributors else "sum-range")
        else:
            out = checked_sum(opened, contributors, p)
            assert (out.values.tolist(), out.contributors, out.left_out) == (total, contributors, ())


def test_an_input_never_shows_its_values() -> None:
    assert repr(Vector(np.array([12345]))) == "Vector([redacted])"
