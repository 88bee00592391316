"""Steps that ran already, what a party's policy and journal say, what a thief of its memory finds, and sizes of messages."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from adversary import without_check
from strategies import identities
from test_adv_batch import BOX, CASE, shaken
from test_batch import OCCASION, Series, model
from test_memory import finds, reachable, shown, spellings

from protocols import batch_sums, simulate
from protocols.batch_sums import Group, client_handshake, client_step, opened
from protocols.batch_types import (
    BatchAdvert,
    BatchAdvertised,
    BatchBoxes,
    BatchListed,
    BatchSealed,
    BatchShared,
    Later,
    Ready,
    Turn,
)
from protocols.errors import Misuse, Refused
from protocols.policy import MemoryJournal, OccasionGuard, Policy, StepGuard
from protocols.primitives.shamir import SHARE_SIZE
from protocols.schema import max_control, strings
from protocols.secagg_types import PINS, Masked, Unsealed
from protocols.session import Address, Farewell, Letter, Session, client
from protocols.suite import Occasion
from protocols.sums import Party


def persisted(journal: MemoryJournal) -> MemoryJournal:
    """The journal of a party that was restarted."""
    return MemoryJournal(dict(journal.joined), dict(journal.spent))


def party(journal: MemoryJournal, **policy: Any) -> Party:
    return Party(2, identities(6)[2], Policy(**policy), journal)


def ended(session: Session) -> str | None:
    session.begin()
    return None if session.ended is None else session.ended.check


def after(steps: int) -> tuple[Group, MemoryJournal]:
    """A handshake and so many sums, and the journal of party 2."""
    group = CASE.start()
    for step in range(steps):
        opened(group.step(CASE.inputs(step), model(step)))
    journal = group.parties[2].journal
    assert isinstance(journal, MemoryJournal)
    return group, journal


@pytest.mark.parametrize("restarted", [False, True])
def test_no_second_handshake_for_one_occasion_nor_for_a_step_that_ran(restarted: bool) -> None:
    made = batch_sums.batch("secagg")
    for ran, occasion, check in (
        (0, OCCASION, "journal-replay"),
        (0, replace(OCCASION, attempt=2), None),
        (1, replace(OCCASION, attempt=2), "journal-spent"),
        (2, replace(OCCASION, round=6), "journal-spent"),
        (2, replace(OCCASION, round=7), None),
        (2, replace(OCCASION, round=4), "journal-replay"),
    ):
        _, journal = after(ran)
        again = made.terms(occasion, CASE.terms.roster, CASE.parameters, 3)
        session = client_handshake(made, party(persisted(journal) if restarted else journal), again)
        assert ended(session) == check, (ran, occasion)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_step_that_ran_is_refused_by_the_journal_even_if_its_secrets_are_restored(restarted: bool) -> None:
    """As from the image of a machine: the state is that of before the step, the journal is on another disk."""
    group, journal = after(1)
    images = {at: replica(group.party(2), at) for at in (0, 1)}
    opened(group.step(CASE.inputs(1), model(1)))
    for at, image in images.items():
        me = party(persisted(journal) if restarted else journal)
        session = client_step(batch_sums.batch("secagg"), me, image, model(9))
        assert ended(session) is None
        assert [type(letter.message) for letter in session.provide(CASE.inputs(0)[2])] == [Farewell]
        assert session.ended is not None
        assert session.ended.check == "journal-spent", at


def test_without_the_journals_check_the_step_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    without_check(monkeypatch, "journal-spent")
    group, journal = after(1)
    session = client_step(batch_sums.batch("secagg"), party(journal), replica(group.party(2), 0), model(9))
    session.begin()
    assert [type(letter.message) for letter in session.provide(CASE.inputs(0)[2])] == [Masked]


def replica(ready: Ready, step: int) -> Ready:
    """What a party held before another step, secrets included."""
    assert ready._secrets is not None
    return Ready(replace(ready.standing, step=step), ready._secrets)


def test_the_secrets_of_a_step_are_taken_once() -> None:
    made = batch_sums.batch("secagg")
    group, journal = after(0)
    ready = group.party(2)
    assert ready.left == 3
    assert ended(client_step(made, party(journal), ready, model(0))) is None
    assert ready.left == 0
    with pytest.raises(Misuse, match="not ready for step 0: its secrets were taken"):
        client_step(made, party(journal), ready, model(1)).begin()
    with pytest.raises(Misuse, match="is not for party 3"):
        client_step(made, replace(party(journal), index=3), ready)
    group, journal = after(3)
    last = Ready(replace(group.party(2).standing, step=2), ())
    with pytest.raises(Misuse, match="no sum is left"):
        client_step(made, party(journal), last).begin()


@pytest.mark.parametrize("step", [0, 2])
def test_a_step_that_is_not_the_next_one_is_refused(step: int) -> None:
    group, journal = after(1)
    at = CASE.terms.at(step, model(step))
    session = client_step(batch_sums.batch("secagg"), party(journal), group.party(2))
    session._values = {Turn: Turn(group.party(2), at)}
    assert ended(session) == "step-order"
    other = replace(CASE.terms, steps=2).at(1)
    session = client_step(batch_sums.batch("secagg"), party(journal), group.party(2))
    session._values = {Turn: Turn(group.party(2), other)}
    assert ended(session) == "step-order"


def test_a_guard_of_steps_joins_nothing_and_spends_upwards() -> None:
    journal = MemoryJournal()
    OccasionGuard(journal, OCCASION).join()
    for step in (0, 2):
        guard = StepGuard(journal, CASE.terms.at(step).occasion)
        guard.join()
        assert not guard.spent
        guard.spend()
        assert guard.spent
    assert (journal.joined, journal.spent) == ({"test": (5, 1)}, {"test": 7})
    for step in (1, 2):
        with pytest.raises(Refused, match="has left"):
            StepGuard(journal, CASE.terms.at(step).occasion).spend()
    guard = StepGuard(journal)
    with pytest.raises(Misuse, match="before the session knows"):
        guard.spend()


@pytest.mark.parametrize(
    ("policy", "at_handshake", "at_step"),
    [
        ({"max_steps": 2}, "policy-steps", None),
        ({"max_steps": 3}, None, None),
        ({"models": frozenset({model(0)})}, None, None),
        ({"models": frozenset({model(1)})}, None, "policy-model"),
        ({"min_cohort": 7}, "policy-cohort", None),
    ],
)
def test_a_partys_policy_is_asked_at_the_handshake_and_at_every_step(
    policy: dict[str, Any], at_handshake: str | None, at_step: str | None
) -> None:
    made, own = batch_sums.batch("secagg"), Policy(**policy)
    assert ended(client_handshake(made, party(MemoryJournal(), **policy), CASE.terms)) == at_handshake
    if at_handshake is None:
        series = Series("secagg", CASE.parameters, 3)
        parties = [replace(p, policy=own) if p.index == 2 else p for p in series.parties]
        group = batch_sums.handshake(made, parties, CASE.terms)
        assert ended(client_step(made, parties[1], group.party(2), model(0))) == at_step


# What a thief of a party's memory finds


def of_step(ready: Ready, step: int) -> dict[str, bytes]:
    """Secret bytes of one step, by what they are."""
    assert ready._secrets is not None
    secrets = ready._secrets[step - ready.standing.step]
    assert secrets.own_share is not None
    found = {"s": secrets.s.secret().reveal(), "b": secrets.b.reveal(), "own": secrets.own_share}
    return found | {f"share {at}": share for at, share in enumerate(strings(secrets.shares, SHARE_SIZE))}


def test_secrets_of_a_step_are_gone_when_its_vector_left_and_its_shares_when_they_were_opened() -> None:
    group, _ = after(0)
    ready, looked = group.party(2), list[str]()
    now, later = of_step(ready, 0), of_step(ready, 1)
    assert len(now) == 3 + 2 * 5

    sessions = group.sessions(model(0))
    me = sessions[client(2)]

    def watch(letter: Letter, _to: Address, _size: int) -> None:
        name = type(letter.message).__name__
        if letter.sender == client(2):
            things = reachable([me, ready, group])
            left = {secret for secret, value in now.items() if finds(things, value)}
            assert left == (set() if name == "Openings" else set(now) - {"s", "b"}), name
            assert {secret for secret, value in later.items() if finds(things, value)} == set(later)
            looked.append(name)

    simulate.run(sessions, {client(u): [x] for u, x in CASE.inputs(0).items()}, watch=watch)
    assert looked == ["Masked", "Agree", "Openings"]


def test_what_a_party_holds_between_two_sums_prints_and_pickles_no_secret() -> None:
    group, _ = after(0)
    ready = group.party(2)
    secrets = [*of_step(ready, 0).values(), *of_step(ready, 2).values()]
    texts = [shown(ready), shown(ready._secrets)]
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="never pickled or copied"):
            act(ready)
    (first, rest) = ready.take()
    texts += [shown(first), shown(Later(ready.standing, rest))]
    session = client_step(batch_sums.batch("secagg"), party(MemoryJournal()), Ready(ready.standing, (first, *rest)))
    session.begin()
    assert {type(value) for value in session.remembers} == {Unsealed, Later}
    texts += [shown(session.remembers), shown(session)]
    for secret in secrets:
        assert not any(spelling in text for spelling in spellings(secret) for text in texts)


def test_no_state_during_a_handshake_prints_a_secret() -> None:
    sessions, held = dict[Address, Session](), dict[type, Any]()

    def network(letter: Letter) -> Iterable[Letter]:
        held.update((type(value), value) for value in sessions[client(2)].remembers)
        return (letter,)

    shaken(network, sessions)
    assert {BatchAdvertised, BatchShared} <= set(held)
    shared = held[BatchShared]
    secrets = [*(share for share in shared.own_shares if share), *(seed.reveal() for seed in shared.b)]
    assert len(secrets) == 2 * CASE.steps
    for value in held.values():
        assert not any(spelling in shown(value) for secret in secrets for spelling in spellings(secret))


# Sizes


def test_messages_of_a_handshake_are_bounded_by_its_number_of_sums() -> None:
    """A byte more than a handshake's own messages have is refused by their length alone."""
    sizes, limits = dict[str, int](), batch_sums.batch("secagg").limits(CASE.terms)

    def network(letter: Letter) -> Iterable[Letter]:
        sizes[type(letter.message).__name__] = sum(map(len, letter.chunks())) - 4
        return (letter,)

    shaken(network, {})
    assert limits.sizes == (6, 3)
    for kind in (BatchAdvert, BatchListed, BatchBoxes, BatchSealed):
        most = max_control(kind, *limits.sizes)
        assert sizes[kind.__name__] <= most < sizes[kind.__name__] + 2 * (BOX + 3 * PINS) + 200
        assert max_control(kind, 6, 4) > most


def test_every_sum_takes_one_of_those_that_are_left() -> None:
    for steps in range(CASE.steps):
        server = after(steps)[0].server
        assert server is not None
        assert server.left == CASE.steps - steps


def test_a_step_at_the_end_of_rounds_is_counted_on() -> None:
    made = batch_sums.batch("secagg")
    terms = made.terms(Occasion("test", 2**32 - 3), CASE.terms.roster, CASE.parameters, 3)
    assert terms.at(2).occasion.round == 2**32 - 1
