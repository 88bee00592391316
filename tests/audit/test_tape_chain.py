"""One change of a tape is told once, by its first line; what may follow from it is left open, and what does not is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_runs import Recorded, Trees, control, failing, place, places, record, rewrite, trees, with_control
from test_tape import EDITS, LIES
from test_tape_command import lying, told

from securefl.audit.chain import dump
from securefl.audit.reconcile import reconcile
from securefl.audit.tape_audit import TapeAudit, audit_tape


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("run"), rounds=3)


def edited(path: Path, raw: list[bytes], edit: str, at: int) -> tuple[Path, int]:
    """A tape with one line edited by a hand that makes no new hashes, and the line by which that shows first."""
    raw = list(raw)
    if edit == "removed":
        del raw[at]
    elif edit == "swapped":
        raw[at], raw[at + 1] = raw[at + 1], raw[at]
    elif edit == "doubled":
        raw.insert(at, raw[at])
    else:
        raw[at] = changed(json.loads(raw[at]))
    path.write_bytes(b"".join(raw))
    return path, {"changed": at + 2, "removed": at + 1, "swapped": at + 1, "doubled": at + 2}[edit]


def changed(tree: dict[str, Any]) -> bytes:
    """One byte in it is another one: of an identity, a session identity, a signature, or a count."""
    if tree["kind"] == "header":
        first = tree["roster"][0]
        first["identity"] = ("0" if first["identity"][0] != "0" else "1") + first["identity"][1:]
    elif tree["kind"] == "session":
        tree["sid"] = ("0" if tree["sid"][0] != "0" else "1") + tree["sid"][1:]
    elif tree["kind"] == "message":
        *fields, last = control(tree)
        tree = with_control(tree, [*fields, last[:-1] + bytes([last[-1] ^ 1]) if isinstance(last, bytes) else last])
        tree["size"] += not isinstance(last, bytes)
    else:
        tree["contributors"] = 5
    return dump(tree) + b"\n"


@settings(max_examples=120)
@given(edit=st.sampled_from(EDITS), data=st.data())
def test_one_edit_is_one_finding(run: Recorded, edit: str, data: st.DataObject) -> None:
    raw = run.tape.read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(0 if edit == "changed" else 1, len(raw) - 3))
    path, first = edited(run.tape.with_name("edited"), raw, edit, at)
    audit = audit_tape(path, keep=True)
    assert [(f.check, f.status, f.line) for f in audit.findings.found] == [("tape-chain", "broken", first)]
    reconcile(audit, run.logs.values())
    assert [f.check for f in audit.findings.found if f.status in ("broken", "named")] == ["tape-chain"]
    if at == 0:
        assert len(audit.findings.found) == 1


def test_what_is_left_open_is_not_said_to_hold(run: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = edited(tmp_path / "tape", run.tape.read_bytes().splitlines(keepends=True), "changed", 0)
    audit = audit_tape(path)
    assert audit.findings.left["tape-signature"] > 6
    status = {row["check"]: row["status"] for row in audit.as_json()["checks"]}
    assert (status["tape-chain"], status["tape-signature"], status["tape-order"]) == ("broken", "left open", "holds")
    code, out, err = told(capsys, "audit", "--tape", path)
    assert code == 1
    assert err == f"securefl: {path}: 1 broken\n"
    assert "not told, as they may follow from lines that were changed: tape-terms (" in out or "tape-signature (" in out


def test_lines_in_a_row_that_do_not_fit_are_told_by_the_first_and_the_last(run: Recorded, tmp_path: Path) -> None:
    raw = run.tape.read_bytes().splitlines(keepends=True)
    path, _ = edited(tmp_path / "swapped", raw, "swapped", 5)
    (found,) = audit_tape(path).findings.found
    assert found.detail.startswith("line 6 says that it is number 7, after number 5")
    assert found.detail.endswith("and so on up to line 8")


def test_two_changes_are_two_findings(run: Recorded, tmp_path: Path) -> None:
    raw = run.tape.read_bytes().splitlines(keepends=True)
    for at in (5, 30):
        raw[at] = changed(json.loads(raw[at]))
    (tmp_path / "tape").write_bytes(b"".join(raw))
    assert [f.line for f in audit_tape(tmp_path / "tape").findings.found] == [7, 32]


def broken_at(lines: Trees, path: Path, at: int) -> TapeAudit:
    """The lines, chained anew, with a change of one of them that its keeper did not care for."""
    raw = rewrite(path, lines).read_bytes().splitlines(keepends=True)
    raw[at] = changed(json.loads(raw[at]))
    path.write_bytes(b"".join(raw))
    return audit_tape(path)


@pytest.mark.parametrize("lie", ["tape-order", "tape-sets", "tape-signature", "tape-size"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_lies_in_other_sums_are_told_and_those_in_the_same_one_left_open(
    run: Recorded, tmp_path: Path, lie: str, which: int
) -> None:
    """A lie stands in the first sum; a line of one of the three is changed before anything else in it."""
    lines = list(LIES[lie](trees(run.tape)))
    audit = broken_at(lines, tmp_path / "tape", list(places(lines, kind="session"))[which] + 1)
    expected = {("tape-chain", "broken")} | ({(lie, "broken")} if which else set())
    assert failing(audit) == expected
    assert which or audit.findings.left[lie]


def test_what_a_party_signed_names_it_in_a_tape_that_was_changed(tmp_path: Path) -> None:
    """A server that breaks its tape saves nobody: signatures tell, whoever wrote the lines between them."""
    kept = record(tmp_path, network=lying, rounds=1)
    lines = trees(kept.tape)
    audit = broken_at(lines, tmp_path / "changed", place(lines, kind="message", type="Advert", sender="client 6"))
    assert ("tape-signed", "named") in failing(audit)
    assert [evidence.accused for evidence, _, _ in audit.findings.evidence] == [2]


def test_control_without_the_chain_each_change_shows_by_what_follows_from_it(run: Recorded, tmp_path: Path) -> None:
    path, _ = edited(tmp_path / "tape", run.tape.read_bytes().splitlines(keepends=True), "changed", 0)
    audit = audit_tape(path, without={"tape-chain"})
    assert sum(f.status == "broken" for f in audit.findings.found) > 10
    assert not audit.findings.left


def test_an_honest_tape_leaves_nothing_open(run: Recorded) -> None:
    audit = audit_tape(run.tape, keep=True)
    reconcile(audit, run.logs.values())
    assert audit.findings.passed
    assert not audit.doubtful
    assert audit.as_json()["left_open"] == 0
