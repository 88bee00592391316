"""Sums in clear: the bytes of every vector and the sum are what the integers say; suite and policy are looked at all the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols import plain, sums
from protocols.errors import Misuse, Refused
from protocols.flow import Arrived
from protocols.plain import Attending, Clear, absorb_clear, layout, submit, suite, total
from protocols.policy import Policy
from protocols.suite import Occasion, Terms
from protocols.vector import Vector

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
