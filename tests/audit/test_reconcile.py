"""A tape against the parties' logs: who is named by which difference, and that no lie of a server names an honest party."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_runs import OURS, Recorded, Trees, control, failing, place, places, record, rewrite, trees, with_control

from protocols import simulate
from protocols.agreement import Dropped
from protocols.session import SERVER, Letter, client
from protocols.vector import Vector
from securefl.audit.evidence import proven, write_evidence
from securefl.audit.federation import federation
from securefl.audit.log_evidence import collide
from securefl.audit.party_log import PartyLog
from securefl.audit.reconcile import CHECKS, reconcile
from securefl.audit.recorded import Recorded as RecordedSession
from securefl.audit.tape import Tape
from securefl.audit.tape_audit import TapeAudit, audit_tape

ME = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("run"), rounds=2, gone=[(2, "Masked")])


@pytest.fixture
def tape(run: Recorded) -> Trees:
    return trees(run.tape)


@pytest.fixture
def log(run: Recorded) -> Trees:
    return trees(run.logs[ME])


def held(tape: Path, *logs: Path, without: Iterable[str] = ()) -> TapeAudit:
    """An audit of a tape with logs against it."""
    audit = audit_tape(tape, keep=True, without=tuple(without))
    reconcile(audit, logs)
    return audit


@pytest.mark.parametrize("protocol", OURS)
def test_honest_logs_and_an_honest_tape_agree(protocol: str, tmp_path: Path) -> None:
    kept = record(tmp_path, protocol, gone=[(2, "Agree"), (5, "Boxes")])
    audit = held(kept.tape, *kept.logs.values())
    assert {f.status for f in audit.findings.found} <= {"stated"}
    assert audit.findings.applied["log-sent"] > 0


# A party that rewrites its log after the fact, under its own key


def sent(lines: Trees, kind: str) -> int:
    return place(lines, kind="sent", type=kind)


def other_vector(lines: Trees) -> Trees:
    at = sent(lines, "Masked")
    return [*lines[:at], {**lines[at], "control": "11" * 32, "statement": "22" * 32}, *lines[at + 1 :]]


def vector_left_out(lines: Trees) -> Trees:
    at = sent(lines, "Masked")
    return [*lines[:at], *lines[at + 1 :]]


def other_survivors(lines: Trees) -> Trees:
    """It claims to have been told that party 1 dropped, beside party 2."""
    at = place(lines, kind="told", type="Dropped")
    return [*lines[:at], {**lines[at], "control": "33" * 32, "sets": {"dropped": [1, 2]}}, *lines[at + 1 :]]


def nothing_dropped(lines: Trees) -> Trees:
    """It claims to have been told that nobody dropped; only U2, which it signed with its vector, shows that this is false."""
    at = place(lines, kind="told", type="Dropped")
    return [*lines[:at], {**lines[at], "control": "33" * 32, "sets": {"dropped": []}}, *lines[at + 1 :]]


def other_list(lines: Trees) -> Trees:
    at = place(lines, kind="told", type="Listed")
    return [*lines[:at], {**lines[at], "control": "33" * 32, "sets": {**lines[at]["sets"], "L": "44" * 32}}, *lines[at + 1 :]]


def sum_left_out(lines: Trees) -> Trees:
    first, second = places(lines, kind="session")
    return [*lines[:first], *lines[second:]]


def question_left_out(lines: Trees) -> Trees:
    at = place(lines, kind="told", type="Dropped")
    return [*lines[:at], *lines[at + 1 :]]


def ends_early(lines: Trees) -> Trees:
    return lines[: list(places(lines, kind="sent", type="Openings"))[-1]]


PARTY_LIES: dict[str, tuple[Callable[[Trees], Trees], str, str, int]] = {
    "another vector than it sent": (other_vector, "log-sent", "named", 1),
    "a vector left out": (vector_left_out, "log-sent", "named", 0),
    "another dropped set": (other_survivors, "log-told", "named", 1),
    "no dropped set": (nothing_dropped, "log-told", "named", 1),
    "another list": (other_list, "log-told", "named", 1),
    "a question left out": (question_left_out, "log-told", "named", 0),
    "a sum left out at an end": (sum_left_out, "log-session", "open", 0),
    "an end cut off": (ends_early, "log-sent", "open", 0),
}


@pytest.mark.parametrize("lie", PARTY_LIES)
def test_a_party_that_rewrites_its_log_is_named_where_its_signatures_prove_it(
    lie: str, run: Recorded, log: Trees, tmp_path: Path
) -> None:
    edit, check, status, pieces = PARTY_LIES[lie]
    path = rewrite(tmp_path / "party.log", edit(log), run.fed.parties[ME].identity)
    audit = held(run.tape, path)
    assert failing(audit) == {(check, status)}
    assert len(audit.findings.evidence) == pieces
    for written in write_evidence(tmp_path / "out", audit.findings.evidence):
        assert "party 3 (party-3) signed" in proven(written, run.fed.roster)
    assert held(run.tape, path, without=[check]).findings.passed  # control


def test_two_logs_of_one_party_name_it(run: Recorded, log: Trees, tmp_path: Path) -> None:
    path = rewrite(tmp_path / "second.log", other_list(log), run.fed.parties[ME].identity)
    audit = held(run.tape, run.logs[ME], path, without=["log-told"])
    assert failing(audit) == {("log-fork", "named")}
    (written,) = write_evidence(tmp_path / "out", audit.findings.evidence)
    assert "party 3 (party-3) signed" in proven(written, run.fed.roster)
    assert held(run.tape, run.logs[ME], path, without=["log-told", "log-fork"]).findings.passed
    assert held(run.tape, run.logs[ME], run.logs[ME]).findings.passed


# A file that somebody else changed


def test_a_log_that_its_party_did_not_sign_proves_nothing(run: Recorded, log: Trees, tmp_path: Path) -> None:
    path = rewrite(tmp_path / "forged.log", other_vector(log), run.fed.parties[4].identity)
    assert failing(held(run.tape, path)) == {("log-signature", "broken")}
    assert held(run.tape, path, without=["log-signature"]).findings.passed


def test_lines_taken_out_of_a_log_name_nobody(run: Recorded, tmp_path: Path) -> None:
    raw = run.logs[ME].read_bytes().splitlines(keepends=True)
    path = tmp_path / "cut.log"
    path.write_bytes(b"".join(raw[:5] + raw[6:]))
    assert failing(held(run.tape, path)) == {("log-chain", "broken")}
    assert held(run.tape, path, without=["log-chain"]).findings.passed
    path.write_bytes(b"".join(raw[:-1]))
    (found,) = held(run.tape, path, without=["tape-difference"]).findings.found
    assert (found.check, found.status) == ("log-seal", "noted")


def test_a_log_of_another_consortium_is_set_aside(run: Recorded, tmp_path: Path) -> None:
    from protocols import sums

    roster, parties = sums.enrol(6)
    stranger = PartyLog(tmp_path / "x.log", 3, parties[2].identity, roster)
    stranger.seal()
    assert failing(held(run.tape, tmp_path / "x.log")) == {("log-roster", "broken")}
    assert held(run.tape, tmp_path / "x.log", without=["log-roster"]).findings.passed


# A server that rewrites its tape


def removed(kind: str) -> Callable[[Trees], Trees]:
    def edit(lines: Trees) -> Trees:
        at = place(lines, type=kind, sender=f"client {ME}")
        return [*lines[:at], *lines[at + 1 :]]

    return edit


def flipped_box(lines: Trees) -> Trees:
    """One bit of a sealed box, which no signature covers."""
    at = place(lines, type="Boxes", sender=f"client {ME}")
    name, epoch, boxes, *rest = control(lines[at])
    return [*lines[:at], with_control(lines[at], [name, epoch, bytes([boxes[0] ^ 1]) + boxes[1:], *rest]), *lines[at + 1 :]]


def flipped_key(lines: Trees) -> Trees:
    at = place(lines, type="Advert", sender=f"client {ME}")
    name, epoch, c_pk, *rest = control(lines[at])
    return [*lines[:at], with_control(lines[at], [name, epoch, bytes([c_pk[0] ^ 1]) + c_pk[1:], *rest]), *lines[at + 1 :]]


def other_shown(lines: Trees) -> Trees:
    at = place(lines, type="Agreed")
    name, epoch, signatures, coverings = control(lines[at])
    return [*lines[:at], with_control(lines[at], [name, epoch, signatures[:-1], coverings]), *lines[at + 1 :]]


def without_first_sum(lines: Trees) -> Trees:
    first, second = places(lines, kind="session")
    return [*lines[:first], *lines[second:]]


SERVER_LIES: dict[str, tuple[Callable[[Trees], Trees], set[tuple[str, str]]]] = {
    "openings left out": (removed("Openings"), {("log-sent", "open")}),
    "a box changed": (flipped_box, {("log-sent", "open")}),
    "a signature not shown": (other_shown, {("log-told", "open"), ("tape-sets", "broken")}),
    "a sum left out": (without_first_sum, {("log-session", "open")}),
    "a key changed": (flipped_key, {("tape-signature", "broken"), ("tape-sets", "broken"), ("log-sent", "open")}),
    "a vector left out": (removed("Masked"), {("tape-sets", "broken"), ("tape-order", "broken"), ("log-sent", "open")}),
}


@pytest.mark.parametrize("lie", SERVER_LIES)
def test_a_server_that_rewrites_its_tape_is_named_where_it_went_on_with_what_nobody_signed(
    lie: str, run: Recorded, tape: Trees, tmp_path: Path
) -> None:
    edit, expected = SERVER_LIES[lie]
    audit = held(rewrite(tmp_path / "tape", edit(tape)), run.logs[ME])
    found = failing(audit)
    assert found <= expected
    assert {check for check, _ in found} >= {check for check, status in expected if check.startswith("log-")}
    assert "named" not in {status for _, status in found}


def test_each_difference_that_names_nobody_says_so(run: Recorded, tape: Trees, tmp_path: Path) -> None:
    for edit, _ in SERVER_LIES.values():
        audit = held(rewrite(tmp_path / "tape", edit(tape)), run.logs[ME])
        assert all("cannot be said" in f.detail for f in audit.findings.found if f.status == "open")


@settings(max_examples=80)
@given(data=st.data())
def test_no_edit_of_a_tape_names_an_honest_party(run: Recorded, data: st.DataObject) -> None:
    lines = trees(run.tape)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.sampled_from(list(places(lines, kind="message"))))
        line = lines[at]
        edit = data.draw(st.sampled_from(["remove", "double", "move", "flip", "epoch", "sender", "to", "vector", "name"]))
        if edit == "remove":
            del lines[at]
        elif edit == "double":
            lines.insert(data.draw(st.integers(1, len(lines) - 1)), line)
        elif edit == "move":
            lines.insert(data.draw(st.integers(1, len(lines) - 2)), lines.pop(at))
        elif edit == "flip":
            raw = bytearray(base64.b64decode(line["control"]))
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            lines[at] = {**line, "control": base64.b64encode(raw).decode()}
        elif edit == "epoch":
            name, _, *rest = control(line)
            lines[at] = {**with_control(line, [name, 1, *rest]), "epoch": 1}
        elif edit == "sender":
            lines[at] = {**line, "from": data.draw(st.sampled_from(["server", *(f"client {u}" for u in range(1, 7))]))}
        elif edit == "to":
            lines[at] = {**line, "to": [f"client {data.draw(st.integers(1, 6))}"]}
        elif edit == "vector":
            lines[at] = {**line, "vectors": {name: [count, "55" * 32] for name, (count, _) in line["vectors"].items()}}
        else:
            other = data.draw(st.sampled_from(list(places(lines, kind="message"))))
            lines[at] = {**lines[other], "from": line["from"], "to": line["to"]}
    path = rewrite(run.tape.with_name("edited"), lines)
    audit = held(path, *run.logs.values())
    assert "named" not in {f.status for f in audit.findings.found}, audit.findings.found
    assert audit.findings.evidence == []


# Sessions recorded over any transport


def recorded_sessions(folder: Path, network: Callable[[Any], simulate.Network] | None = None) -> tuple[Path, list[Path]]:
    """A sum of sessions that write down themselves what reached them and what left them, over a network that may lie."""
    fed = federation(6, 5)
    tape = Tape(folder / "own.tape")
    tape.begin(fed.scheme, fed.terms)
    logs = {u: PartyLog(folder / f"{u}.log", u, party.identity, fed.roster) for u, party in fed.parties.items()}
    for log in logs.values():
        log.begin(fed.scheme, fed.terms)
    sessions: dict[Any, Any] = {SERVER: RecordedSession(fed.server(), tape)}
    sessions |= {client(u): RecordedSession(fed.session(u), logs[u]) for u in fed.parties}
    inputs = {client(u): [Vector(x)] for u, x in fed.vectors.items()}
    simulate.run(sessions, inputs, network=None if network is None else network(fed))
    tape.seal()
    for log in logs.values():
        log.seal()
    return folder / "own.tape", [folder / f"{u}.log" for u in logs]


def test_sessions_that_record_themselves_agree_with_a_simulation_that_does(tmp_path: Path) -> None:
    tape, logs = recorded_sessions(tmp_path)
    audit = held(tape, *logs)
    assert audit.findings.found == []
    assert (audit.opened, audit.findings.applied["log-told"]) == (1, 24)
    kinds = [(line["kind"], line["type"]) for line in trees(logs[0]) if line["kind"] in ("sent", "told")]
    assert kinds == [
        *[("sent", "Advert"), ("told", "Listed"), ("sent", "Boxes"), ("told", "Sealed"), ("sent", "Masked")],
        *[("told", "Dropped"), ("sent", "Agree"), ("told", "Agreed"), ("sent", "Openings")],
    ]


def told(letter: Letter, change: Callable[[Letter], Iterable[Letter]]) -> Iterable[Letter]:
    return change(letter) if letter.sender == SERVER else (letter,)


def first_another(letter: Letter) -> Iterable[Letter]:
    """Party 3 is told first that party 1 dropped, then the truth."""
    if not isinstance(letter.message, Dropped):
        return (letter,)
    lie = replace(letter, message=Dropped((1,)), to=(client(ME),))
    return (lie, letter)


def then_another(letter: Letter) -> Iterable[Letter]:
    if not isinstance(letter.message, Dropped):
        return (letter,)
    return (letter, replace(letter, message=Dropped((1,)), to=(client(ME),)))


def early(letter: Letter) -> Iterable[Letter]:
    """Party 3 is told who dropped before it has masked anything, and under another number too."""
    if type(letter.message).__name__ != "Listed":
        return (letter,)
    lies = [replace(letter, message=Dropped((1,)), to=(client(ME),), epoch=epoch) for epoch in (1, 0)]
    return (*lies, letter)


@pytest.mark.parametrize("lie", [first_another, then_another, early])
def test_a_server_that_tells_a_party_different_things_does_not_make_it_a_liar(lie: Any, tmp_path: Path) -> None:
    tape, logs = recorded_sessions(tmp_path, lambda _fed: lambda letter: told(letter, lie))
    audit = held(tape, *logs)
    assert "named" not in {f.status for f in audit.findings.found}, audit.findings.found
    assert {(f.check, f.status) for f in audit.findings.found} >= {("log-told", "open")}


def test_the_log_of_a_party_that_left_says_why(tmp_path: Path) -> None:
    def swapped(letter: Letter) -> Iterable[Letter]:
        if type(letter.message).__name__ != "Listed":
            return (letter,)
        entries = letter.message.entries  # type: ignore[attr-defined]
        return (
            replace(letter, message=replace(letter.message, entries=(replace(entries[0], c_pk=entries[1].c_pk), *entries[1:]))),
        )

    _, logs = recorded_sessions(tmp_path, lambda _fed: lambda letter: told(letter, swapped))
    (end,) = [line for line in trees(logs[2]) if line["kind"] == "end"]
    assert end["left"]["step"] == "share"
    assert end["left"]["check"].startswith("listed-")


def test_every_check_of_logs_was_tried_here() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert [check for check in CHECKS if f'"{check}"' not in source] == []
    assert json.dumps(CHECKS)


# A party that begins anew


def split(log: Trees) -> tuple[Trees, Trees]:
    """One log as two: of a party that was started again between two sums."""
    _, second = places(log, kind="session")
    return log[:second], [{**log[0], "log": "00" * 16}, *log[second:]]


def test_a_party_that_began_another_log_between_two_sums_is_not_named(run: Recorded, log: Trees, tmp_path: Path) -> None:
    key = run.fed.parties[ME].identity
    logs = [rewrite(tmp_path / f"{i}.log", part, key) for i, part in enumerate(split(log))]
    assert not failing(held(run.tape, *logs))
    assert failing(held(run.tape, logs[1])) == {("log-session", "open")}  # the other may be lost


def test_control_a_sum_that_is_missing_in_the_midst_of_a_log_names_its_party(tmp_path: Path) -> None:
    three = record(tmp_path, rounds=3)
    lines = trees(three.logs[ME])
    _, second, third = places(lines, kind="session")
    path = rewrite(tmp_path / "party.log", [*lines[:second], *lines[third:]], three.fed.parties[ME].identity)
    assert failing(held(three.tape, path)) == {("log-session", "named")}


def test_a_sum_that_is_proposed_again_and_refused_names_nobody(run: Recorded, log: Trees, tmp_path: Path) -> None:
    """In the same log, or in another one: what a party is told then counts for nothing, and its farewell is no second statement."""
    session, told = place(log, kind="session"), place(log, kind="told", type="Listed")
    farewell = {**log[place(log, kind="sent", type="Advert")], "type": "Farewell", "statement": None}
    again = [log[session], farewell, {**log[told], "control": "00" * 32, "counts": False, "sets": {}}]
    key = run.fed.parties[ME].identity
    same = rewrite(tmp_path / "same.log", [*log[:-1], *again, log[-1]], key)
    other = rewrite(tmp_path / "other.log", [{**log[0], "log": "00" * 16}, *again], key)
    for paths in ([same], [run.logs[ME], other]):
        assert not {status for _, status in failing(held(run.tape, *paths))} & {"named", "broken"}


@pytest.mark.parametrize("kind", ["told", "sent"])
def test_lines_that_no_signature_covers_do_not_collide(kind: str, log: Trees) -> None:
    line = log[place(log, kind=kind)]
    line = {**line, "statement": None} if kind == "sent" else line
    assert collide(line, {**line, "n": line["n"] + 5, "control": "00" * 32}) == ""


def test_control_two_statements_collide(log: Trees) -> None:
    line = log[place(log, kind="sent", type="Advert")]
    assert collide(line, {**line, "n": line["n"] + 5, "statement": "00" * 32})
