"""What sums give away together, and bounds from error rates."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import simulate
from protocols.session import SERVER
from protocols.vector import Sum
from securefl.audit import Target
from securefl.audit.attacks import randomness
from securefl.audit.federation import Federation, run
from securefl.audit.judging import exposed, judge, members

PARTIES = (1, 2, 3, 4)


def spans(rows: list[list[int]], wanted: list[int]) -> bool:
    """Whether a vector is a combination of rows, over the rationals, by elimination as a textbook has it."""
    matrix = [[Fraction(row[i]) for row in rows] + [Fraction(wanted[i])] for i in range(len(wanted))]
    at = 0
    for column in range(len(rows)):
        pivot = next((r for r in range(at, len(matrix)) if matrix[r][column]), None)
        if pivot is None:
            continue
        matrix[at], matrix[pivot] = matrix[pivot], matrix[at]
        for r in range(len(matrix)):
            if r != at and matrix[r][column]:
                by = matrix[r][column] / matrix[at][column]
                matrix[r] = [a - by * b for a, b in zip(matrix[r], matrix[at], strict=True)]
        at += 1
    return all(any(row[:-1]) or not row[-1] for row in matrix)


@given(st.lists(st.sets(st.sampled_from(PARTIES), min_size=1), min_size=1, max_size=5))
def test_who_follows_from_sums_over_cohorts(sets: list[set[int]]) -> None:
    rows = [[int(u in inside) for u in PARTIES] for inside in sets]
    expected = tuple(u for u in PARTIES if spans(rows, [int(v == u) for v in PARTIES]))
    assert exposed(sets, PARTIES) == expected


def test_three_pairs_of_three_give_all_away() -> None:
    assert exposed([{1, 2}, {2, 3}, {1, 3}], (1, 2, 3)) == (1, 2, 3)
    assert exposed([{1, 2}, {3, 4}], PARTIES) == ()


def told(fed: Federation, *totals: Sum) -> simulate.Outcome:
    return simulate.Outcome({SERVER: fed.server()}, list(totals))


def total(fed: Federation, *inside: int, move: int = 0, count: int | None = None) -> Sum:
    values = np.array(fed.sum(inside)) + move
    return Sum(values, len(inside) if count is None else count)


def test_sums_are_read_by_who_is_in_them() -> None:
    fed = Target.of("secagg").federation()
    assert members(fed, total(fed, 2, 3, 5)) == (2, 3, 5)
    assert members(fed, total(fed, 2, 2, 5)) is None
    assert members(fed, total(fed, 1, 2, move=1)) is None
    assert members(fed, total(fed, 1, 2, count=3)) is None


@pytest.mark.parametrize(
    ("opened", "broken"),
    [
        ([(1, 2, 3, 4, 5, 6)], False),
        ([(1, 2, 3)], True),
        ([(1, 2, 3, 4, 5, 6), (2, 3, 4, 5, 6)], True),
        ([(2, 3, 4, 5), (1, 2, 3, 4, 5, 6)], True),
        ([(1, 2, 3, 4), (3, 4, 5, 6)], False),
    ],
)
def test_what_is_opened_together(opened: list[tuple[int, ...]], broken: bool) -> None:
    """t = 4 and |C| = 1: three honest parties are promised to hide behind each other."""
    fed = Target.of("secagg").federation()
    verdict = judge(*((fed, told(fed, total(fed, *inside))) for inside in opened))
    assert verdict.broken == broken
    if verdict.recovered and verdict.true:
        assert verdict.recovered == verdict.true


def test_one_party_must_not_stop_the_others() -> None:
    fed = Target.of("secagg").federation()
    assert judge((fed, told(fed)), finish=True).broken
    assert judge((fed, told(fed))).status == "harmless"
    assert judge((fed, run(fed)), finish=True).status == "harmless"


def test_chance_is_not_taken_for_a_repeated_mask() -> None:
    """With 14 bits a coordinate 3 of 12 equal ones may be chance at 2^-40, 4 are not."""
    assert not randomness.suspicious(3, 12, 2**14)
    assert randomness.suspicious(4, 12, 2**14)
    assert not randomness.suspicious(0, 12, 2**14)
    assert not randomness.suspicious(400, 100_000, 256)
