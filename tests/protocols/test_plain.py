"""Sums in clear: the bytes of every vector and the sum are what the integers say; suite and policy are looked at all the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import plain, sums
from protocols.errors import Abort, Misuse, Refused
from protocols.flow import Arrived
from protocols.plain import Attending, Clear, InClear, absorb_clear, layout, submit, suite, total
from protocols.policy import Policy
from protocols.suite import Occasion, Terms
from protocols.vector import Vector
from protocols.wire import Limits, encode

SCHEME = sums.scheme("plain-insecure")


def terms(parties: int = 3, size: int = 4, most: int = 100) -> Terms:
    roster, _ = sums.enrol(parties)
    return SCHEME.terms(Occasion("plain", 0), roster, SCHEME.parameters(parties, size, most))


@given(st.integers(2, 5), st.integers(1, 40), st.integers(1, 10**6), st.data())
@settings(max_examples=30)
def test_vectors_travel_in_clear_with_a_one_behind_them_and_are_added_up(n: int, d: int, most: int, data: st.DataObject) -> None:
    made = terms(n, d, most)
    ring, server = made.parameters.ring, SCHEME.server_start(made)
    vectors = {u: data.draw(st.lists(st.integers(-most, most), min_size=d, max_size=d)) for u in range(1, n + 1)}
    for u, values in vectors.items():
        sent = submit(Attending(u, made, Policy()), Vector(np.array(values)))
        assert isinstance(sent, Clear)
        assert b"".join(bytes(frame) for frame in sent.x.frames(7)) == bytes(ring.pack(ring.lift(np.array([*values, 1]))))
        with pytest.raises(Misuse, match="not hashed"):
            _ = sent.x.digest
        server = absorb_clear(server, u, sent)
    out = total(server, Arrived(vectors)).value
    assert out.values.tolist() == [sum(column) for column in zip(*vectors.values(), strict=True)]
    assert (out.contributors, plain.flow.name) == (n, "plain-insecure")


@pytest.mark.parametrize(
    ("change", "policy", "check"),
    [
        ({"suite": "Plain_Z64"}, Policy(), "terms-suite"),
        ({}, Policy(suites=frozenset({"another"})), "policy-suite"),
        ({}, Policy(min_cohort=4), "policy-cohort"),
    ],
)
def test_a_party_looks_at_suite_and_policy(change: dict[str, Any], policy: Policy, check: str) -> None:
    made, x = terms(), Vector(np.zeros(4, np.int64))
    assert made.suite == suite(made.parameters) != "Plain_Z64"
    submit(Attending(1, made, Policy()), x)
    with pytest.raises(Refused) as refused:
        submit(Attending(1, replace(made, **change), policy), x)
    assert refused.value.check == check


def test_a_vector_lies_as_those_of_other_protocols_do() -> None:
    parameters = terms(size=9).parameters
    assert layout(parameters).nbytes == parameters.ring.packed_size(10)


@given(st.integers(2, 5), st.integers(1, 40), st.integers(1, 10**6), st.integers(0, 2**40), st.data())
@settings(max_examples=40)
def test_added_up_in_one_place_they_are_what_the_flow_opens(n: int, d: int, most: int, tail: int, data: st.DataObject) -> None:
    """The same sum or the same abort, whoever is missing, with noise in the inputs and without, for any integer dtype."""
    roster, _ = sums.enrol(n)
    parameters = SCHEME.noised(n, d, most, tail=tail) if tail else SCHEME.parameters(n, d, most)
    made = SCHEME.terms(Occasion("plain", 0), roster, parameters)
    largest = most + tail
    vectors = {
        u: data.draw(st.lists(st.integers(-largest, largest), min_size=d, max_size=d))
        for u in data.draw(st.sets(st.integers(1, n)))
    }
    server, adding = SCHEME.server_start(made), InClear(parameters)
    found = []
    try:
        for u, values in vectors.items():
            x = Vector(np.array(values, dtype=np.int64))
            server = absorb_clear(server, u, submit(Attending(u, made, Policy()), x))
        found.append(("sum", total(server, Arrived(vectors)).value) if len(vectors) >= parameters.threshold else ("quorum", ""))
    except (Misuse, Abort) as error:
        found.append((type(error).__name__, str(error)))
    try:
        for values in vectors.values():
            adding.add(Vector(np.array(values, dtype=np.int64)))
        found.append(("sum", adding.total()))
    except Abort as error:
        found.append((error.check, "") if error.check == "quorum" else ("Abort", str(error)))
    except Misuse as error:
        found.append(("Misuse", str(error)))
    (kind, first), (other, second) = found
    assert kind == other
    if kind == "sum":
        assert (first.values == second.values).all()
        assert (first.values.dtype, first.contributors) == (second.values.dtype, second.contributors)
    else:
        assert first == second


@pytest.mark.parametrize("values", [[0.5] * 4, [np.nan] * 4, [1] * 3, [101, 0, 0, 0]])
def test_what_is_no_input_of_the_flow_is_not_added(values: list[float]) -> None:
    made, adding = terms(), InClear(terms().parameters)
    x = Vector(np.array(values))
    with pytest.raises(Misuse) as first:
        submit(Attending(1, made, Policy()), x)
    with pytest.raises(Misuse) as second:
        adding.add(x)
    assert str(first.value) == str(second.value)


@given(st.lists(st.tuples(st.sampled_from([np.int8, np.uint8, np.int64, np.uint64]), st.integers(0, 100)), min_size=2, max_size=5))
def test_vectors_added_together_are_those_added_alone(made: list[tuple[type, int]]) -> None:
    """Whatever their dtypes; where one is refused, none was added, and its own value is told."""
    parameters = SCHEME.parameters(5, 3, 100)
    vectors = [Vector(np.full(3, value, dtype=dtype)) for dtype, value in made]
    together, alone = InClear(parameters), InClear(parameters)
    with pytest.raises(Misuse, match="-101 is past"):
        together.add(*vectors, Vector(np.array([0, -101, 0])), Vector(np.array([0, 0, -102])))
    with pytest.raises(Misuse, match=r"18446744073709551615 is past"):
        together.add(*vectors, Vector(np.array([2**64 - 1] * 3, dtype=np.uint64)))
    together.add()
    together.add(*vectors)
    for vector in vectors:
        alone.add(vector)
    found = []
    for adding in (together, alone):
        try:
            found.append(adding.total().values.tolist())
        except Abort as error:
            found.append(error.check)
    assert found[0] == found[1]
    assert found[0] in ([sum(value for _, value in made)] * 3, "quorum")


def test_its_message_is_as_long_as_every_party_s_and_can_be_read() -> None:
    made = terms(size=9)
    limits = Limits(3, SCHEME.layouts(made.parameters))
    sent = submit(Attending(1, made, Policy()), Vector(np.arange(9)))
    ours, theirs = (sum(map(len, encode(message, 0, limits))) for message in (InClear(made.parameters).message, sent))
    assert ours == theirs
    assert InClear(made.parameters).message.x.values.tolist() == [0] * 10
