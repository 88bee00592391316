"""Terms that cheat: downgrades, two models, sybils, a round that is done again without a victim.

Each is refused by a named check; with that one thing taken out, the attack recovers the victim's input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from adversary import (
    MAX_ABS,
    SCHEME,
    Federation,
    LyingServer,
    ending,
    faults,
    federation,
    run,
    without_check,
)
from numpy.typing import NDArray

from protocols import simulate, suite, sums
from protocols.agreement import Agree, Dropped
from protocols.errors import Refused
from protocols.policy import MemoryJournal, OccasionGuard, Policy
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Advert, Boxes, Masked, Openings
from protocols.session import SERVER, client
from protocols.suite import Occasion, Roster, Terms
from protocols.vector import Vector
from protocols.wire import digest
from securefl.audit.attacks.secagg import open_twice

# Downgrade


def weak() -> Federation:
    """Five parties who are told that none of them colludes, so t = 3 where 4 would be safe against the one that does."""
    return federation(5, parameters=Parameters.of(5, 5, MAX_ABS, corrupt=0))


@pytest.mark.parametrize(
    ("policy", "check"),
    [(Policy(), "policy-corrupt"), (Policy(min_corrupt=0, min_threshold=0.7), "policy-threshold")],
)
def test_a_lower_threshold_for_all_is_refused(policy: Policy, check: str) -> None:
    server, stolen = open_twice(weak().with_policy(policy))
    assert {ending(session) for session in server.sessions.values()} == {(check, "advertise")}
    assert server.heard.keys() & {(u, Advert) for u in server.sessions} == set()
    assert stolen == []


def test_the_threshold_that_the_policy_asks_for_withstands() -> None:
    fed = federation(5).with_policy(Policy(min_threshold=0.7))
    server, stolen = open_twice(fed)
    assert {ending(server.sessions[u]) for u in (1, 2, 3, 4)} == {("agreed-count", "open_shares")}
    assert server.all(Openings) == {}
    assert stolen == []


@pytest.mark.parametrize(
    ("policy", "check"),
    [(Policy(), "policy-corrupt"), (Policy(min_corrupt=0, min_threshold=0.7), "policy-threshold")],
)
def test_control_with_the_downgrade_accepted_both_shares_are_opened(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, check: str
) -> None:
    without_check(monkeypatch, check)
    fed = weak().with_policy(policy)
    _, stolen = open_twice(fed)
    assert stolen == fed.vectors[1].tolist()


def other_parameters(**change: int) -> Callable[[Terms], Terms]:
    return lambda terms: replace(terms, parameters=replace(terms.parameters, **change))  # type: ignore[arg-type]


def without_last(terms: Terms) -> Terms:
    parameters = Parameters.of(5, terms.parameters.size, MAX_ABS, bits=terms.parameters.ring.bits)
    return replace(terms, roster=Roster(terms.roster.members[:-1]), parameters=parameters)


ELSEWHERE: dict[str, Callable[[Terms], Terms]] = {
    "threshold": other_parameters(threshold=5),
    "corrupt": other_parameters(corrupt=0),
    "bound": other_parameters(max_abs=MAX_ABS // 2),
    "cohort": without_last,
    "model": lambda terms: replace(terms, occasion=replace(terms.occasion, model=digest("other"))),
    "round": lambda terms: replace(terms, occasion=replace(terms.occasion, round=7)),
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_terms_of_its_own_for_one_party_are_refused_by_all(what: str) -> None:
    """All that is public is in sid, and so in the first signature."""
    fed = federation().with_policy(Policy(min_corrupt=0))
    lured = fed.session(1, terms=ELSEWHERE[what](fed.terms))
    server = LyingServer(fed, {1: lured, **{u: fed.session(u) for u in range(2, 7)}})
    members = range(1, 6) if what == "cohort" else None
    for u in server.sessions:
        server.tell(u, server.listed(members if u == 1 else None))
    assert {ending(session) for session in server.sessions.values()} == {("listed-signature", "share")}
    assert server.all(Boxes) == {}


@pytest.mark.parametrize(
    ("policy", "check"),
    [
        (Policy(suites=frozenset({"SecAgg_Other"})), "policy-suite"),
        (Policy(models=frozenset({digest("approved")})), "policy-model"),
        (Policy(min_cohort=7), "policy-cohort"),
    ],
)
def test_an_invitation_under_the_own_policy_is_refused_before_anything_leaves(policy: Policy, check: str) -> None:
    server = LyingServer(federation().with_policy(policy))
    assert {ending(session) for session in server.sessions.values()} == {(check, "advertise")}
    assert server.all(Advert) == {}


def test_a_suite_that_is_not_accepted_is_named_beside_those_that_are() -> None:
    server = LyingServer(federation().with_policy(Policy(suites=frozenset({"SecAgg_Other"}))))
    found = server.sessions[1].ended
    assert found is not None
    assert found.detail == f"{server.fed.terms.suite} is not accepted, only SecAgg_Other"


def test_a_roster_that_gives_the_party_another_key_is_refused() -> None:
    fed = federation()
    members = (replace(fed.roster.members[0], identity=bytes(32)), *fed.roster.members[1:])
    session = fed.session(1, terms=replace(fed.terms, roster=Roster(members)))
    session.begin()
    assert ending(session) == ("roster-own", "advertise")


# Sybils: few honest parties in a set


STRICT = Policy(min_cohort=5)


def test_a_list_below_the_own_smallest_cohort_is_refused() -> None:
    server = LyingServer(federation().with_policy(STRICT))
    server.tell(1, server.listed((1, 2, 3, 4)))
    assert ending(server.sessions[1]) == ("listed-cohort", "share")


def test_sharers_below_the_own_smallest_cohort_are_refused() -> None:
    server = LyingServer(federation().with_policy(STRICT))
    server.up_to_boxes()
    server.tell(1, server.sealed(1, (1, 2, 3, 4)))
    assert ending(server.sessions[1]) == ("sealed-cohort", "mask")
    assert server.all(Masked) == {}


def test_survivors_below_the_own_smallest_cohort_are_refused() -> None:
    server = LyingServer(federation().with_policy(STRICT))
    server.up_to_masks()
    server.tell(1, Dropped((5, 6)))
    assert ending(server.sessions[1]) == ("dropped-cohort", "consent")
    assert server.all(Agree) == {}


@pytest.mark.parametrize(("stage", "step"), [("list", "share"), ("boxes", "mask"), ("dropped", "consent")])
def test_every_set_has_the_threshold_whatever_the_policy(stage: str, step: str) -> None:
    server = LyingServer(federation())
    if stage == "list":
        server.tell(1, server.listed((1, 2, 3)))
    elif stage == "boxes":
        server.up_to_boxes()
        server.tell(1, server.sealed(1, (1, 2, 3)))
    else:
        server.up_to_masks()
        server.tell(1, Dropped((4, 5, 6)))
    assert ending(server.sessions[1]) == ({"share": "listed", "mask": "sealed", "consent": "dropped"}[step] + "-cohort", step)


# Two models


def gradient(model: bytes, data: NDArray[np.int64]) -> NDArray[np.int64]:
    """An update: one model is made so that everybody's is zero."""
    return np.zeros_like(data) if model == digest("dead") else data


def two_models(fed: Federation) -> simulate.Outcome:
    """The victim, party 1, gets the live model and all others the dead one, so that the sum would be the victim's update."""
    live, dead = (replace(fed.terms, occasion=replace(fed.terms.occasion, model=digest(m))) for m in ("live", "dead"))
    told = {u: live if u == 1 else dead for u in fed.parties}
    sessions = {SERVER: sums.server_session(SCHEME, dead)} | {client(u): fed.session(u, terms=told[u]) for u in fed.parties}
    inputs = {client(u): [Vector(gradient(told[u].occasion.model, x))] for u, x in fed.vectors.items()}
    return simulate.run(sessions, inputs)


def test_two_models_make_no_sum() -> None:
    """The victim speaks of another session, so nobody counts it in."""
    outcome = two_models(federation())
    assert faults(outcome) == [("advert-signature", "client 1", "collect")]
    assert not outcome.outputs[0].values.any()
    assert outcome.outputs[0].contributors == 5


def test_control_with_the_model_outside_of_the_session_identity_the_sum_is_the_victims(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = suite.session_id

    def unbound(name: str, occasion: Occasion, roster: Roster, parameters: Parameters) -> bytes:
        return bound(name, replace(occasion, model=bytes(32)), roster, parameters)

    monkeypatch.setattr(suite, "session_id", unbound)
    fed = federation()
    assert two_models(fed).outputs[0].values.tolist() == fed.vectors[1].tolist()


# A round done again


def feigned_abort(fed: Federation) -> tuple[simulate.Outcome, simulate.Outcome]:
    """A whole round, then "it failed, once more": the next attempt, without party 1."""
    return run(fed), run(fed.at(attempt=1), only=range(2, 7))


def test_a_round_whose_inputs_have_left_is_not_joined_again() -> None:
    first, second = feigned_abort(federation().with_journals({u: MemoryJournal() for u in range(1, 7)}))
    assert first.outputs[0].contributors == 6
    assert {ending(second.sessions[client(u)]) for u in range(2, 7)} == {("journal-spent", None)}
    assert second.outputs == []


def test_control_without_a_journal_two_sums_differ_by_the_victims_input() -> None:
    fed = federation()
    first, second = feigned_abort(fed)
    assert (first.outputs[0].values - second.outputs[0].values).tolist() == fed.vectors[1].tolist()


def test_no_attempt_is_joined_twice_and_none_before_a_later_one() -> None:
    fed = federation().with_journals({u: MemoryJournal() for u in range(1, 7)})
    for occasion, check in [
        ({"round": 1, "attempt": 1}, None),
        ({"round": 1, "attempt": 1}, ("journal-replay", None)),
        ({"round": 1, "attempt": 0}, ("journal-replay", None)),
        ({"round": 0, "attempt": 5}, ("journal-replay", None)),
        ({"round": 1, "attempt": 2}, None),
        ({"round": 1, "attempt": 0, "run": "another"}, None),
    ]:
        session = fed.at(**occasion).session(1)
        session.begin()
        assert ending(session) == check


def test_an_input_leaves_once_even_if_two_sessions_of_a_round_are_open() -> None:
    """Both were joined before either masked: the second finds the input spent when its vector is about to leave."""
    fed = federation().with_journals({u: MemoryJournal() for u in range(1, 7)})
    first, second = LyingServer(fed), LyingServer(fed.at(attempt=1))
    first.up_to_masks()
    second.up_to_masks()
    assert len(first.all(Masked)) == 6
    assert second.all(Masked) == {}
    assert {ending(session) for session in second.sessions.values()} == {("journal-spent", None)}


def test_a_session_serves_one_occasion() -> None:
    guard = OccasionGuard(MemoryJournal(), Occasion("run", 1))
    guard.bind(Occasion("run", 1))
    with pytest.raises(Refused) as refused:
        guard.bind(Occasion("run", 2))
    assert refused.value.check == "journal-rebound"


# Strangers, and a name for what does not run


def test_a_roster_with_strangers_is_refused_by_who_knows_its_consortium() -> None:
    """A cohort of one registered party and the server's own: large enough, and not registered."""
    fed = federation()
    known = frozenset(member.identity for member in fed.roster.members[:3])
    outcome = run(fed.with_policy(Policy(registered=known)))
    assert {ending(outcome.sessions[client(u)]) for u in fed.parties} == {("policy-roster", "advertise")}
    assert outcome.outputs == []
    everybody = frozenset(member.identity for member in fed.roster.members)
    assert run(fed.with_policy(Policy(registered=everybody))).outputs


@pytest.mark.parametrize("name", sums.SCHEMES)
def test_a_suite_that_does_not_run_is_refused_before_anything_leaves(name: str) -> None:
    protocol = sums.scheme(name)
    fed = federation(scheme=protocol)
    right = protocol.terms(fed.terms.occasion, fed.roster, fed.terms.parameters)
    for other in ("SecAgg_Other_Z14", right.suite + "0"):
        session = sums.client_session(protocol, fed.parties[1], replace(right, suite=other))
        letters = session.begin() + session.provide(Vector(fed.vectors[1]))
        assert [type(letter.message).__name__ for letter in letters] == ["Farewell"]
        assert ending(session) is not None
        assert session.ended is not None
        assert session.ended.check == "terms-suite"
        assert other in session.ended.detail
        assert right.suite in session.ended.detail
