"""What is written down of a sum's parameters makes the same ones again, with noise and without, by defaults and by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_noised import NOISY

from protocols import sums
from protocols.declared import declaration, declared
from protocols.errors import Misuse
from protocols.primitives.graph import Harary
from protocols.ring import Ring
from protocols.secagg_parameters import Parameters
from protocols.suite import SumParameters

SIZES: dict[str, Any] = {"parties": 6, "size": 4, "max_abs": 9}


def again(name: str, parameters: SumParameters, **changed: object) -> SumParameters:
    return declared(sums.scheme(name), {**json.loads(json.dumps(declaration(parameters))), **changed})


@pytest.mark.parametrize("name", [*NOISY, "bfv"])
def test_parameters_come_back(name: str) -> None:
    made = sums.scheme(name).parameters(**SIZES)
    assert again(name, made) == made


@pytest.mark.parametrize("name", NOISY)
@given(st.integers(1, 2**20))
def test_parameters_with_noise_come_back_and_another_bound_is_none_of_them(name: str, tail: int) -> None:
    made = sums.scheme(name).noised(**SIZES, tail=tail)
    assert again(name, made) == made
    for other in (0, tail + 1):
        with pytest.raises(Misuse, match="makes no parameters with the content"):
            again(name, made, tail=other)


@pytest.mark.parametrize("tail", [0, 5])
def test_parameters_made_by_hand_come_back(tail: int) -> None:
    sparse = Parameters(11, 1, 1000, Ring(15), 6, 0, Harary(11, 4, 3, 1, 0), tail)
    assert again("secagg+", sparse) == sparse


@pytest.mark.parametrize("tail", [-1, True, "5", 1.0])
def test_a_bound_that_is_none_is_refused(tail: object) -> None:
    with pytest.raises(Misuse):
        again("secagg", sums.scheme("secagg").parameters(**SIZES), tail=tail)


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("changed", ["parties", "size", "max_abs", "bits", "threshold", "corrupt"])
@pytest.mark.parametrize("by", [1, -1])
def test_a_number_that_the_content_does_not_bear_out_is_refused(name: str, changed: str, by: int) -> None:
    made = sums.scheme(name).parameters(**SIZES)
    with pytest.raises(Misuse):
        again(name, made, **{changed: declaration(made)[changed] + by})
