"""A run's report says what differences of its exact sums can show: which rounds, which sites."""

from __future__ import annotations

import pytest
from made_sites import job, linear, replayed, sites

from protocols.sums import names, scheme
from securefl import Runner
from securefl.privacy.differencing import Cohorts
from securefl.results import RunResult

PLAN = {1: {"site-1": "Masked"}, 2: {"site-2": "Boxes"}, 3: {"site-0": "Agree"}}


def run(gone: dict[int, dict[str, str]], **privacy: object) -> RunResult:
    return Runner(linear, sites(), job=job(**privacy), entropy=replayed, dropouts=lambda number, _: gone.get(number, {})).run()


def notes(result: RunResult) -> list[tuple[int, str, str]]:
    return [(o.rounds, o.coverage, o.note) for o in result.opened if o.what.startswith("differences")]


def test_two_sums_that_differ_by_one_site_are_named() -> None:
    result = run(PLAN)
    assert [record.contributors for record in result.rounds] == [4, 4, 5]
    line = "the sums of rounds 1 and 3 differ by site-1 alone: the difference of their sums is about that site"
    assert notes(result) == [(3, "exact", line)]


def test_beside_dp_sgd_the_totals_of_weights_are_exact_and_named_too() -> None:
    assert len(notes(run(PLAN, mechanism="local-record"))) == 1


def test_sums_over_the_same_sites_show_nothing_and_neither_do_noised_ones_or_rounds_without_a_sum() -> None:
    assert notes(run({})) == []
    assert notes(run({1: {"site-0": "Boxes"}, 2: {"site-0": "Masked"}, 3: {"site-0": "Boxes"}})) == []
    assert notes(run(PLAN, mechanism="distributed-party", update_clip=1.0, epsilon=8.0)) == []
    two = {"site-0": "Boxes", "site-1": "Boxes"}
    aborted = run({1: two})
    assert aborted.rounds[0].aborted
    assert notes(aborted) == []


@pytest.mark.parametrize("protocol", names())
def test_who_is_in_a_sum_is_known_for_every_protocol(protocol: str) -> None:
    flow, cohorts = scheme(protocol).flow, Cohorts(["north", "south", "west"])
    spending = next(p.type.__name__ for s in flow.of("client") if s.spends for p in s.gives if p.carrier == "message")
    cohorts.add(1, flow, {}, 3)
    cohorts.add(2, flow, {"west": spending}, 2)
    cohorts.add(3, flow, {}, None)
    assert cohorts.first == {frozenset({"north", "south", "west"}): 1, frozenset({"north", "south"}): 2}
    assert "differ by west alone" in cohorts.shown()[0].note


def test_many_sites_are_counted_and_an_unknown_set_is_not_guessed() -> None:
    flow, cohorts = scheme("secagg").flow, Cohorts([f"site {i}" for i in range(9)])
    cohorts.add(1, flow, {}, 9)
    cohorts.add(2, flow, {}, 8)
    assert cohorts.shown() == []
    cohorts.add(3, flow, {f"site {i}": "Boxes" for i in range(4)}, 5)
    assert cohorts.shown()[0].note == "the sums of rounds 1 and 3 differ by 4 sites"
