"""A party's own bounds, and its journal: what was joined or spent is not joined or spent again."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SEEDS, client, play, roster, simple_case

from protocols.errors import Misuse, Refused
from protocols.once import shared_work
from protocols.policy import MemoryJournal, OccasionGuard, Policy
from protocols.secagg_parameters import Parameters
from protocols.suite import SECAGG, Occasion, Terms

P = Parameters.of(10, 3, 100)  # |C| = 3, t = 7
KEYS = [member.identity for member in roster(10).members]
AT = Occasion("run", 0, 0, b"m" * 32)


def refusal(policy: Policy, parameters: Parameters = P) -> str | None:
    try:
        policy.check(Terms(SECAGG, AT, roster(parameters.parties), parameters))
    except Refused as refused:
        return refused.check
    return None


def test_the_default_policy_takes_the_default_parameters_and_none_that_hold_against_fewer() -> None:
    assert refusal(Policy()) is None
    assert refusal(Policy(), Parameters.of(10, 3, 100, corrupt=4)) is None
    assert refusal(Policy(), Parameters.of(10, 3, 100, corrupt=2)) == "policy-corrupt"
    assert refusal(Policy(), Parameters.of(2, 1, 1)) is None


@pytest.mark.parametrize(
    ("policy", "check"),
    [
        ({"suites": frozenset({"another"})}, "policy-suite"),
        ({"suites": frozenset({"another", SECAGG})}, None),
        ({"min_cohort": 11}, "policy-cohort"),
        ({"min_cohort": 10}, None),
        ({"min_threshold": 0.71}, "policy-threshold"),
        ({"min_threshold": 0.7}, None),
        ({"min_corrupt": 4}, "policy-corrupt"),
        ({"min_corrupt": 3}, None),
        ({"registered": frozenset(KEYS[1:])}, "policy-roster"),
        ({"registered": frozenset(KEYS) | {b"x" * 32}}, None),
        ({"models": frozenset()}, "policy-model"),
        ({"models": frozenset({b"n" * 32})}, "policy-model"),
        ({"models": frozenset({b"n" * 32, b"m" * 32})}, None),
    ],
)
def test_each_bound_is_checked_and_named(policy: dict[str, Any], check: str | None) -> None:
    assert refusal(Policy(**policy)) == check


def test_the_default_policy_takes_80_bits_of_security_and_trusts_no_server() -> None:
    sparse = partial(Parameters.sparse, 200, 3, 100, corrupt=2, dropouts=4)
    few = {"min_corrupt": 0, "min_threshold": 0.1}
    assert refusal(Policy(**few), sparse(security=80)) is None
    assert refusal(Policy(**few), sparse(security=79)) == "policy-security"
    assert refusal(Policy(**few), sparse(security=80, semi_honest=True)) == "policy-server"
    assert refusal(Policy(**few, semi_honest=True), sparse(security=80, semi_honest=True)) is None


@given(st.lists(st.sampled_from([2, 10, 11, 12]), min_size=2, max_size=8))
def test_terms_that_one_party_takes_are_refused_by_another_of_this_process_with_a_policy_of_its_own(bounds: list[int]) -> None:
    """The answer is kept for each policy and for the very terms."""
    told, less = (Terms(SECAGG, AT, roster(n), Parameters.of(n, 3, 100)) for n in (10, 9))
    with shared_work():
        for bound in bounds:
            for terms in (told, less):
                if bound > len(terms.roster):
                    with pytest.raises(Refused, match="policy-cohort"):
                        Policy(min_cohort=bound).check(terms)
                else:
                    Policy(min_cohort=bound).check(terms)


@pytest.mark.parametrize(
    ("bounds", "epsilon", "delta", "refused"),
    [
        ({}, math.inf, 0.0, False),
        ({}, 1e6, 0.9, False),
        ({"max_epsilon": 3.0}, 3.0, 0.9, False),
        ({"max_epsilon": 3.0}, 3.0000001, 0.0, True),
        ({"max_epsilon": 3.0}, math.inf, 0.0, True),
        ({"max_epsilon": 3.0}, math.nan, 0.0, True),
        ({"max_delta": 1e-5}, math.inf, 1e-5, False),
        ({"max_delta": 1e-5}, 1.0, 1.1e-5, True),
        ({"max_epsilon": 3.0, "max_delta": 1e-5}, 1.0, math.nan, True),
    ],
)
def test_the_largest_epsilon_and_delta_are_the_partys_own(
    bounds: dict[str, float], epsilon: float, delta: float, refused: bool
) -> None:
    policy = Policy(**bounds)
    if refused:
        with pytest.raises(Refused) as told:
            policy.check_epsilon(epsilon, delta)
        assert told.value.check == "policy-epsilon"
    else:
        policy.check_epsilon(epsilon, delta)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_on_epsilon_that_is_none_is_refused(bound: float) -> None:
    for name in ("max_epsilon", "max_delta"):
        with pytest.raises(Misuse, match=name):
            Policy(**{name: bound})


def test_the_smallest_cohort_holds_for_every_set_that_the_server_announces() -> None:
    """With t = 3 the server could go on with three of five; a party that asks for four leaves instead."""
    case = simple_case(5, 2, threshold=3, corrupt=0)
    from dataclasses import replace

    from protocols import simulate
    from protocols.session import SERVER

    for stage, check, step in (
        ("Advert", "listed-cohort", "share"),
        ("Boxes", "sealed-cohort", "mask"),
        ("Masked", "dropped-cohort", "consent"),
    ):
        sessions = {
            a: case.session(a, policy=Policy(min_cohort=4, min_corrupt=0)) if a == client(1) else case.session(a)
            for a in case.everybody
        }
        inputs = {client(u): [case.vector(u)] for u in case.inputs}
        outcome = simulate.run(sessions, inputs, network=simulate.vanish({client(4): stage, client(5): stage}))
        ended = sessions[client(1)].ended
        assert ended is not None
        assert (ended.check, ended.step) == (check, step)
        assert not outcome.outputs
        assert sessions[SERVER].ended is not None
        assert play(replace(case, dropouts={4: stage, 5: stage})).total is not None
        assert play(replace(case, dropouts={5: stage})).total is not None


# The journal


OCCASIONS = st.builds(Occasion, st.sampled_from(["one", "two"]), st.integers(0, 4), st.integers(0, 2))


@given(st.lists(st.tuples(st.sampled_from(["join", "spend"]), OCCASIONS), max_size=30))
def test_the_journal_against_a_model_that_keeps_everything(acts: list[tuple[str, Occasion]]) -> None:
    """It keeps the highest only, and refuses exactly what a list of all that ever happened refuses."""
    journal, joined, spent = MemoryJournal(), list[Occasion](), list[Occasion]()
    for act, occasion in acts:
        used = [o for o in spent if o.run == occasion.run and o.round >= occasion.round]
        newer = [o for o in joined if o.run == occasion.run and (o.round, o.attempt) >= (occasion.round, occasion.attempt)]
        check = "journal-replay" if newer and act == "join" else "journal-spent" if used else None
        if check is not None:
            with pytest.raises(Refused, match=check):
                getattr(journal, act)(occasion)
        else:
            getattr(journal, act)(occasion)
            (joined if act == "join" else spent).append(occasion)


@given(OCCASIONS, OCCASIONS)
def test_an_occasion_is_joined_once_and_then_only_later_ones(first: Occasion, second: Occasion) -> None:
    journal = MemoryJournal()
    journal.join(first)
    later = second.run != first.run or (second.round, second.attempt) > (first.round, first.attempt)
    if later:
        journal.join(second)
    else:
        with pytest.raises(Refused, match="journal-replay"):
            journal.join(second)


@given(OCCASIONS, st.integers(0, 4), st.integers(0, 5))
def test_no_further_attempt_of_a_round_whose_input_has_left(first: Occasion, round_: int, attempt: int) -> None:
    journal = MemoryJournal()
    journal.join(first)
    journal.spend(first)
    again = Occasion(first.run, round_, attempt)
    if round_ > first.round:
        journal.join(again)
        journal.spend(again)
    else:
        with pytest.raises(Refused, match="journal-"):
            journal.join(again)
        with pytest.raises(Refused, match="journal-spent"):
            journal.spend(again)


def test_a_refused_act_changes_nothing() -> None:
    journal = MemoryJournal()
    journal.join(Occasion("run", 3, 1))
    journal.spend(Occasion("run", 3, 1))
    before = (dict(journal.joined), dict(journal.spent))
    for occasion in (Occasion("run", 3, 1), Occasion("run", 3, 2), Occasion("run", 2, 9)):
        for act in (journal.join, journal.spend):
            with pytest.raises(Refused):
                act(occasion)
    assert (journal.joined, journal.spent) == before


@given(SEEDS)
def test_a_guard_joins_once_and_spends_after_joining(seed: int) -> None:
    journal, occasion = MemoryJournal(), Occasion("run", seed % 7)
    guard = OccasionGuard(journal, occasion)
    guard.join()
    guard.join()
    guard.spend()
    with pytest.raises(Refused, match="journal-spent"):
        guard.spend()
    with pytest.raises(Refused, match="journal-replay"):
        OccasionGuard(journal, occasion).join()
    with pytest.raises(Refused, match="journal-replay"):
        OccasionGuard(journal, occasion).spend()
    assert journal.joined == {"run": (seed % 7, 0)}
    assert journal.spent == {"run": seed % 7}
