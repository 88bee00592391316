"""Messages out of turn on a tape: one of a kind for each party, under whatever epoch it is written down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import OURS, Recorded, Trees, control, failing, looked_at, place, record, rewrite, trees, with_control

from protocols import sums
from protocols.flow import Broadcast, Flow, Inbox
from protocols.primitives.agree import KeyPair
from protocols.rand import fresh
from protocols.schema import Index, Message
from protocols.session import SERVER, client
from protocols.wire import canonical
from securefl.audit.findings import Findings
from securefl.audit.seen import Seen, a
from securefl.audit.tape_audit import audit_tape
from securefl.audit.turns import MOST, Turns, repeated


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("run"), rounds=1)


@pytest.fixture
def lines(run: Recorded) -> Trees:
    return trees(run.tape)


def of_epoch(line: dict[str, Any], epoch: int) -> dict[str, Any]:
    """The message, written down as one of a later turn, in its control bytes as well."""
    name, _, *fields = control(line)
    return {**with_control(line, [name, epoch, *fields]), "epoch": epoch}


@pytest.mark.parametrize("kind", ["Listed", "Dropped", "Agreed"])
@pytest.mark.parametrize("epochs", [[0], [1], [2], [1, 2], [2**32 - 1]])
def test_a_second_message_of_a_kind_is_found_under_any_epoch(lines: Trees, tmp_path: Path, kind: str, epochs: list[int]) -> None:
    at = place(lines, type=kind)
    more = [of_epoch({**lines[at], "to": ["client 1"]}, epoch) for epoch in epochs]
    audit = audit_tape(rewrite(tmp_path / "lie", [*lines[: at + 1], *more, *lines[at + 1 :]]))
    assert failing(audit) == {("tape-order", "broken")}
    told = [(f.line, f.detail) for f in audit.findings.found if f.check == "tape-order"]
    assert told == [(at + 2 + i, f"a second {kind} for client 1, after that of line {at + 1}") for i in range(len(epochs))]


@pytest.mark.parametrize("epochs", [(0, 1, 2), (2, 1, 0)])
def test_three_different_dropped_sets_are_found(lines: Trees, tmp_path: Path, epochs: tuple[int, ...]) -> None:
    """Asked thrice over three sets, each as if it were of a turn of its own, a party could be played off against itself."""
    at = place(lines, type="Dropped")
    name, _, _ = control(lines[at])
    others = [
        of_epoch(with_control({**lines[at], "to": ["client 1"]}, [name, 0, [v]]), epoch)
        for v, epoch in zip((2, 3), epochs, strict=False)
    ]
    found = looked_at(rewrite(tmp_path / "lie", [*lines[: at + 1], *others, *lines[at + 1 :]]))
    assert ("tape-order", "broken") in found


def test_an_only_message_of_a_later_turn_is_found(lines: Trees, tmp_path: Path) -> None:
    """No party waits for it, so what the party says next answers nothing."""
    at = place(lines, type="Dropped")
    audit = audit_tape(rewrite(tmp_path / "lie", [*lines[:at], of_epoch(lines[at], 1), *lines[at + 1 :]]))
    assert ("tape-order", "broken") in failing(audit)
    assert any(f.detail == "a Dropped for client 1 of turn 2, where turn 1 is due" for f in audit.findings.found)


@pytest.mark.parametrize("change", [{"epoch": 1}, {"type": "Openings"}])
@pytest.mark.parametrize("kind", ["Dropped", "Agree"])
def test_a_line_says_of_its_message_what_the_message_says(lines: Trees, tmp_path: Path, kind: str, change: dict[str, Any]) -> None:
    at = place(lines, type=kind)
    audit = audit_tape(rewrite(tmp_path / "lie", [*lines[:at], {**lines[at], **change}, *lines[at + 1 :]]))
    name, turn = change.get("type", kind), change.get("epoch", 0) + 1
    found = {(f.line, f.status, f.detail) for f in audit.findings.found if f.check == "tape-order"}
    assert (at + 1, "broken", f"its control bytes are not those of {a(name)} of turn {turn}") in found


@given(st.text(min_size=1, max_size=40), st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_control_bytes_are_told_by_their_head(name: str, epoch: int, fields: int) -> None:
    control = canonical([name, epoch, *range(fields)])
    seen = Seen(SERVER, (client(1),), name, epoch, 0, control, {})
    assert seen.fits
    assert not replace(seen, epoch=epoch + 1).fits
    assert not replace(seen, name=name + "x").fits
    assert not replace(seen, control=b"").fits


def test_what_a_party_sends_for_a_later_turn_is_not_what_the_server_went_on_with(lines: Trees, tmp_path: Path) -> None:
    at = place(lines, type="Agree", sender="client 2")
    alone = rewrite(tmp_path / "alone", [*lines[:at], of_epoch(lines[at], 1), *lines[at + 1 :]])
    audit = audit_tape(alone)
    assert any(f.detail == "client 2 is in U4, and sent no Agree" for f in audit.findings.found)
    assert any(f.detail == "the Agree of client 2 is of turn 2, where the protocol has one" for f in audit.findings.found)
    for more in ([of_epoch(lines[at], 1), lines[at]], [lines[at], of_epoch(lines[at], 1)]):
        audit = audit_tape(rewrite(tmp_path / "both", [*lines[:at], *more, *lines[at + 1 :]]))
        assert audit.findings.passed  # an honest server holds it back: nothing follows
        assert {(f.check, f.status) for f in audit.findings.found} == {("tape-order", "noted"), ("tape-twice", "noted")}


@pytest.mark.parametrize("early", [True, False])
def test_two_statements_name_their_signer_in_whatever_turns_they_are_sent(run: Recorded, tmp_path: Path, *, early: bool) -> None:
    lines = trees(run.tape)
    at = place(lines, type="Advert", sender="client 2")
    keys = [KeyPair.generate(fresh(), label).public for label in ("c", "s")]
    name, *_ = control(lines[at])
    statement = run.fed.terms.statement("keys", 2, *keys)
    second = {**with_control(lines[at], [name, 1, *keys, run.fed.parties[2].identity.sign(statement)]), "epoch": 1}
    more = [second, lines[at]] if early else [lines[at], second]
    audit = audit_tape(rewrite(tmp_path / "lie", [*lines[:at], *more, *lines[at + 1 :]]))
    assert failing(audit) == {("tape-twice", "named")}
    assert [evidence.accused for evidence, _, _ in audit.findings.evidence] == [2]


def test_a_limit_on_what_is_read_is_told(lines: Trees, tmp_path: Path) -> None:
    """Past it a second message of a party may go unread, so the tape says where that begins; equal answers do not fill it."""
    at = place(lines, type="Dropped")
    name, _, _ = control(lines[at])

    def notes(count: int) -> list[int]:
        sets = [[v for v in range(1, 8) if i >> v & 1] for i in range(2, 2 + 2 * count, 2)]
        more = [with_control({**lines[at], "to": ["client 1"]}, [name, 0, dropped]) for dropped in sets for _ in range(2)]
        audit = audit_tape(rewrite(tmp_path / "t", [*lines[: at + 1], *more, *lines[at + 1 :]]))
        return [f.line for f in audit.findings.found if "repeated answers" in f.detail]

    assert notes(MOST) == []
    assert notes(MOST + 3) == [at + 1 + 2 * MOST + 1]


# Flows that repeat


@dataclass(frozen=True)
class Hello(Message):
    """A party is there."""

    number: Index


@dataclass(frozen=True)
class Asked(Message):
    """A question."""

    number: Index


@dataclass(frozen=True)
class Answered(Message):
    """Its answer."""

    number: Index


@dataclass
class Coming:
    number: int


@dataclass
class Ready:
    number: int


@dataclass
class Opening:
    number: int


@dataclass
class Asking:
    number: int


@dataclass
class Waiting:
    number: int


def test_messages_inside_of_a_loop_and_no_others_may_come_again() -> None:
    flow = Flow("asking")

    @flow.client
    def come(start: Coming) -> tuple[Ready, Hello]:
        return Ready(start.number), Hello(start.number)

    @flow.client
    def answer(ready: Ready, asked: Asked) -> tuple[Ready, Answered]:
        return ready, Answered(asked.number)

    @flow.server(quorum=lambda _: 1)
    def begin(start: Opening, hello: Inbox[Hello]) -> Asking:
        return Asking(start.number)

    @flow.server
    def ask(asking: Asking) -> tuple[Waiting, Broadcast[Asked]]:
        return Waiting(asking.number), Broadcast(Asked(asking.number), (1,))

    @flow.server(quorum=lambda _: 1)
    def count(waiting: Waiting, said: Inbox[Answered]) -> Asking:
        return Asking(waiting.number)

    assert repeated(flow.check()) == {"Asked", "Answered"}


@pytest.mark.parametrize("protocol", OURS)
def test_our_protocols_send_every_message_once(protocol: str) -> None:
    assert repeated(sums.scheme(protocol).flow) == frozenset()


@pytest.mark.parametrize(
    ("epochs", "broken"), [([0, 1, 2], []), ([0, 0], [2]), ([1], [1]), ([0, 2], [2]), ([0, 1, 1, 2], [3]), ([1, 0, 1], [1])]
)
def test_in_a_flow_that_repeats_turns_follow_one_another(epochs: list[int], broken: list[int]) -> None:
    turns = Turns(Findings(), sums.scheme("secagg").flow)
    turns.repeats = frozenset({"Asked"})
    due = [turns.due(line, 1, Seen(SERVER, (client(1),), "Asked", epoch, 0, b"", {})) for line, epoch in enumerate(epochs, 1)]
    assert [f.line for f in turns.findings.found] == broken
    assert [line for line, fits in enumerate(due, 1) if not fits] == broken
