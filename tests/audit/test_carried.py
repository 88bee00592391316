"""The catalogue through the port: the same verdicts as in one process, and a harness that finds what is wrong there too."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mutants
import pytest

from protocols.session import SERVER, Address, client
from securefl.audit import carried
from securefl.audit.carried import NOTHING_SENT, Lost, Passage, Wire, through_port, wire_for
from securefl.audit.registry import ATTACKS, ROWS
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict, broken, harmless
from securefl.cli import main

SECAGG = Target.of("secagg")
LOST = {
    "signature check off": 1,
    "model outside of the session identity": 3,
    "session and list left out of agreements": 8,
    "values past the bound taken": 12,
    "shares not held against their hashes": 14,
    "vectors unsigned": 20,
    "one key for all steps": 25,
    "a vector counted twice": 24,
    "input spent at success only": 26,
    "boxes without a direction": 29,
    "L left out of signatures": 30,
    "bad boxes skipped": 31,
    "one key under two names": 32,
}
"""Checks of SecAgg that are taken out one by one, and a row that must find each through the port: cheating servers, cheating
parties, and networks that lie."""


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with wire_for(SECAGG) as made:
        yield made


def test_bytes_come_out_as_they_went_in_and_from_whom_the_port_says(wire: Wire) -> None:
    wire.counted()
    for size in (1, 7, 1 << 16, (1 << 20) - 1, 1 << 20, 3 * (1 << 20) + 5):
        data = os.urandom(size)
        for index in (1, wire.count):
            assert wire.carry(SERVER, client(index), data) == (SERVER, data)
            assert wire.carry(client(index), SERVER, memoryview(data)) == (client(index), data)
    assert wire.counted() == (24, 0)
    for sender, to in ((client(99), SERVER), (client(0), SERVER), (client(1), client(2)), (SERVER, client(wire.count + 1))):
        assert wire.carry(sender, to, b"x") == (sender, b"x")
    assert wire.counted() == (0, 4)


@pytest.mark.parametrize("rows", [(1, 2, 3, 4), (5, 6, 14), (20, 24, 25, 26), (29, 30, 31, 32)], ids=str)
def test_every_verdict_is_that_of_one_process(wire: Wire, rows: tuple[int, ...]) -> None:
    found = through_port(SECAGG, wire, rows=rows)
    assert {one.row for one in found} == set(rows)
    assert not [(one.name, one.alone.line, one.through.line) for one in found if not one.same or one.through.broken]
    assert all(one.carried > 0 and one.beside == 0 for one in found)


def test_a_stranger_has_no_stream_and_the_rest_goes_through(wire: Wire) -> None:
    (found,) = [one for one in through_port(SECAGG, wire, rows=(15,)) if one.beside]
    assert found.same
    assert found.beside < 10 < found.carried


def test_rows_of_which_nothing_goes_through_are_named(wire: Wire) -> None:
    found = through_port(SECAGG, wire, rows=tuple(NOTHING_SENT))
    assert {one.row for one in found if not one.carried} == {known.row for known in ATTACKS if known.row in NOTHING_SENT}
    assert not [one.name for one in found if one.carried or not one.same]


@pytest.mark.parametrize("name", LOST)
def test_a_check_that_is_removed_is_found_through_the_port(wire: Wire, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = next(one for one in mutants.MUTANTS if one.name == name and one.protocol == "secagg")
    assert LOST[name] in one.rows
    target = mutants.target_of(one, monkeypatch)
    lost = [passage for passage in through_port(target, wire, rows=(LOST[name],)) if passage.through.broken]
    assert lost
    assert any(passage.carried and passage.alone.broken for passage in lost)


def test_a_port_that_changes_bytes_is_seen(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts are fed what comes out of the wire, and nothing else."""
    whole = Wire.carry

    def bent(self: Wire, sender: Address, to: Address, chunk: Any) -> tuple[Address, bytes]:
        by, data = whole(self, sender, to, chunk)
        return by, data[:-1] + bytes([data[-1] ^ 1]) if sender == client(3) else data

    monkeypatch.setattr(Wire, "carry", bent)
    assert not [one for one in through_port(SECAGG, wire, rows=(20,)) if one.same]


def test_a_port_that_is_gone_gives_no_verdict_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    with wire_for(SECAGG) as made:
        for end in made._ends.values():
            end.kill()
            end.wait()
        (first, *_) = through_port(SECAGG, made, rows=(2,))
        assert first.through.broken
        assert not first.same
        (after, *_) = through_port(SECAGG, made, rows=(2,))  # it was started again
        assert after.same
        monkeypatch.setattr(carried, "PATIENCE", 0.2)
        with pytest.raises(Lost, match="nothing came"):
            made._read(made._ends["server"])


def test_only_the_same_check_by_the_same_party_in_the_same_round_is_the_same() -> None:
    one = Verdict("refused", "of 12", "client 1", "agree", 3, "agreed-count", parts=("a",))
    for other, same in (
        (one, True),
        (replace(one, why="of 13"), True),
        (replace(one, why="of them"), False),
        (replace(one, who="client 2"), False),
        (replace(one, round=2), False),
        (replace(one, step="open"), False),
        (replace(one, check="agreed-signature"), False),
        (replace(one, parts=("b",)), False),
        (replace(one, status="harmless"), False),
        (harmless("of 12"), False),
    ):
        assert Passage(2, "x", one, other, 1, 0, 0.1).same == same


def test_the_command_compares_and_fails_where_something_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(carried, "ROWS", {7: ROWS[7], 26: ROWS[26]})
    assert main(["audit", "secagg", "--through-port", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["passed"]
    assert {one["row"] for one in tree["through_port"]["secagg"]} == {7, 26}
    assert all(one["same"] and one["carried"] for one in tree["through_port"]["secagg"])
    assert main(["audit", "plain-insecure", "--through-port"]) == 1
    told = capsys.readouterr()
    assert "through the port" in told.out
    assert "broken" in told.err


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (["--through-port"], "say what to audit"),
        (["secagg", "--through-port", "--mechanism", "none"], "--through-port plays protocols"),
        (["secagg", "--through-port", "--report", "x"], "--through-port plays protocols"),
        (["--tape", "x", "--through-port"], "--tape looks at a run"),
        (["--live", "a:1", "--keys", "x", "--through-port"], "--live HOST:PORT and --keys DIR go together"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together_are_refused(line: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *line]) == 2
    assert why in capsys.readouterr().err


def test_the_document_has_every_row_that_goes_through_and_why_others_do_not() -> None:
    text = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    section = text.split("## Through the port")[1].split("\n## ")[0]
    for row, why in NOTHING_SENT.items():
        assert f"| {row} | {why} |" in section


def test_a_verdict_that_breaks_or_differs_is_an_objection() -> None:
    from securefl.audit.carried_command import objection

    good = Passage(1, "x", harmless("a"), harmless("a"), 1, 0, 0.1)
    assert objection({"secagg": [good]}) == ""
    assert "1 broken" in objection({"secagg": [good, replace(good, alone=broken("b"), through=broken("b"))]})
    assert "1 other" in objection({"secagg": [good, replace(good, through=harmless("c"))]})
    none = replace(good, carried=0, beside=5)
    assert "1 of which nothing went through" in objection({"secagg": [none, none], "kahe": [good, none]})
    assert objection({"secagg": [replace(none, row=next(iter(NOTHING_SENT)))]}) == ""


def test_a_target_that_goes_past_its_wire_does_not_pass(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that are fed in one process give the same verdicts, and show nothing of a port."""
    from securefl.audit.carried_command import objection

    assert objection({"secagg": through_port(SECAGG, wire, rows=(2,))}) == ""
    monkeypatch.setattr(Wire, "carry", lambda _self, sender, _to, chunk: (sender, bytes(chunk)))
    found = through_port(SECAGG, wire, rows=(2,))
    assert all(one.same for one in found)
    assert "of which nothing went through" in objection({"secagg": found})
