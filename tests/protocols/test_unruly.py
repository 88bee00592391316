"""Whole federations under arbitrary drops, delays, doubled, reordered, changed, swapped and replayed letters, restarts and lies.

The one invariant: the server opens the exact sum over at least the threshold, or nothing; everybody comes to an end, by a typed
abort at worst; no party sends twice what it sends once, and never are both secrets of one party given away.

HYPOTHESIS_PROFILE=deep plays ten times as many rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest
from adversary import without_check
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from unruly import PROTOCOLS, Unruly, lie

from protocols.policy import MemoryJournal
from protocols.session import SERVER, Session, client

EXAMPLES = {"secagg": 200, "secagg+": 120, "lightsecagg": 200, "kahe": 40, "bfv": 60}
PLACE = st.integers(0, 10_000)


class Machine(RuleBasedStateMachine):
    """Rules draw positions; each is taken modulo what there is."""

    protocol = "secagg"

    @initialize(n=st.integers(3, 6), letters=st.integers(0, 54))
    def everybody_begins(self, n: int, letters: int) -> None:
        """And the round goes well for a while: 9 letters a party are a whole one."""
        self.round = Unruly.of(self.protocol, n)
        self.many_letters_arrive(letters)

    def at(self, place: int) -> int:
        return place % len(self.round.letters)

    def party(self, place: int) -> int:
        return 1 + place % len(self.round.fed.parties)

    under_way = precondition(lambda self: self.round.letters)

    @under_way
    @rule(count=st.integers(1, 10))
    def some_letters_arrive(self, count: int) -> None:
        self.many_letters_arrive(count)

    @under_way
    @rule(count=st.integers(10, 40))
    def many_letters_arrive(self, count: int) -> None:
        for _ in range(min(count, len(self.round.letters))):
            self.round.deliver(self.round.letters.pop(0))

    @under_way
    @rule(place=PLACE)
    def a_letter_arrives_out_of_order(self, place: int) -> None:
        self.round.deliver(self.round.letters.pop(self.at(place)))

    @under_way
    @rule(place=PLACE)
    def a_letter_is_lost(self, place: int) -> None:
        del self.round.letters[self.at(place)]

    @under_way
    @rule(place=PLACE, later=PLACE)
    def a_letter_is_doubled(self, place: int, later: int) -> None:
        self.round.letters.insert(self.at(later), self.round.letters[self.at(place)])

    @under_way
    @rule(place=PLACE, later=PLACE)
    def a_letter_waits(self, place: int, later: int) -> None:
        letter = self.round.letters.pop(self.at(place))
        self.round.letters.insert(later % (len(self.round.letters) + 1), letter)

    @under_way
    @rule(place=PLACE, where=PLACE, change=st.integers(1, 255))
    def a_byte_is_changed(self, place: int, where: int, change: int) -> None:
        self.change(self.at(place), 0, where, change)

    @under_way
    @rule(place=PLACE, where=PLACE, change=st.integers(1, 255))
    def a_vector_is_changed(self, place: int, where: int, change: int) -> None:
        long = [at for at, letter in enumerate(self.round.letters) if len(letter.frames) > 1]
        if long:
            self.change(long[place % len(long)], -1, where, change)

    def change(self, at: int, which: int, where: int, change: int) -> None:
        letter = self.round.letters[at]
        frames = [bytearray(frame) for frame in letter.frames]
        frames[which][where % len(frames[which])] ^= change
        self.round.letters[at] = replace(letter, frames=tuple(map(bytes, frames)))

    @under_way
    @rule(place=PLACE, other=PLACE, by_server=st.booleans())
    def one_is_told_what_another_is_told(self, place: int, other: int, by_server: bool) -> None:
        """By the server, or by a party: a letter of another sender, for another recipient or of another kind."""
        said = [at for at, letter in enumerate(self.round.letters) if (letter.sender == SERVER) == by_server]
        if said:
            at, instead = said[place % len(said)], self.round.letters[said[other % len(said)]]
            self.round.letters[at] = replace(self.round.letters[at], frames=instead.frames)

    @under_way
    @rule(place=PLACE, what=PLACE)
    def the_server_lies_to_one(self, place: int, what: int) -> None:
        lies = [(at, lie(letter.letter.message, what)) for at, letter in enumerate(self.round.letters)]
        lies = [(at, message) for at, message in lies if message is not None]
        if lies:
            at, message = lies[place % len(lies)]
            self.round.letters[at] = self.round.letters[at].saying(message)

    @rule(place=PLACE, later=PLACE)
    def a_letter_of_another_session_comes(self, place: int, later: int) -> None:
        old = self.round.old[place % len(self.round.old)]
        self.round.letters.insert(later % (len(self.round.letters) + 1), old)

    @rule(seconds=st.sampled_from([1.0, 61.0, 301.0]))
    def time_passes(self, seconds: float) -> None:
        self.round.wait(seconds)

    @rule(place=PLACE)
    def a_party_is_gone(self, place: int) -> None:
        self.round.lose(self.party(place))

    @rule(place=PLACE)
    def a_party_begins_again(self, place: int) -> None:
        self.round.begin(client(self.party(place)))

    @rule(everybody=st.booleans())
    def the_server_begins_again(self, everybody: bool) -> None:
        self.round.begin(SERVER)
        if everybody:
            self.round.letters.clear()
            for u in self.round.fed.parties:
                self.round.begin(client(u))

    @invariant()
    def what_is_open_may_be(self) -> None:
        if hasattr(self, "round"):
            self.round.check()

    def teardown(self) -> None:
        if hasattr(self, "round"):
            self.round.settle()


def play(protocol: str, *, examples: int, without: Collection[str] = (), **more: Any) -> None:
    """Play rounds of a protocol, under all rules but those named."""
    kind = type(f"Machine of {protocol}", (Machine,), {"protocol": protocol, **dict.fromkeys(without)})
    deep = settings.get_current_profile_name() == "deep"
    chosen = settings(
        max_examples=examples * (10 if deep else 1), stateful_step_count=10, suppress_health_check=list(HealthCheck), **more
    )
    run_state_machine_as_test(kind, settings=chosen)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_exact_sum_over_enough_or_nothing(protocol: str) -> None:
    play(protocol, examples=EXAMPLES[protocol])


# Controls: with one thing taken out, the machine finds a way


def no_deadlines(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "deadline", property(lambda self: None))


def forgetful(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryJournal, "join", lambda self, occasion: None)
    patch.setattr(MemoryJournal, "spend", lambda self, occasion: None)


def without(*checks: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: without_check(patch, *checks)


CONTROLS = {
    "the journal": (forgetful, AssertionError, "sent 2 messages", "the_server_begins_again"),
    "deadlines": (no_deadlines, AssertionError, "waits for ever", "a_letter_is_lost"),
    "masked-signature": (without("masked-signature"), AssertionError, None, "a_vector_is_changed"),
    "listed-own": (without("listed-own"), KeyError, None, "the_server_lies_to_one"),
}
"""What is taken out, how it shows, and the rule that stays: with it alone a way is found soon."""
ORDINARY = {"some_letters_arrive", "many_letters_arrive", "time_passes"}
EVENTS = {name for name, event in vars(Machine).items() if hasattr(event, "hypothesis_stateful_rule")} - ORDINARY


@pytest.mark.parametrize("name", CONTROLS)
def test_control_without_it_the_machine_finds_a_way(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    apply, error, text, event = CONTROLS[name]
    apply(monkeypatch)
    with pytest.raises(error, match=text):
        play("secagg", examples=1000, without=EVENTS - {event}, derandomize=True, database=None, phases=[Phase.generate])


def test_an_event_that_a_control_names_exists() -> None:
    assert len(EVENTS) == 12
    assert {event for *_, event in CONTROLS.values()} <= EVENTS
