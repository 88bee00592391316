"""Files of an old run in the wrong place: each is told what it is and what reads it; a tape that has no end of a sum."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded_runs import record, rewrite, trees

from securefl import UserError, cli
from securefl.audit.kinds import NAMES, Kind, expect, kind_of
from securefl.audit.seen import a
from securefl.audit.tape_audit import audit_tape


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    run = record(folder)
    evidence = folder / "evidence.json"
    evidence.write_text('{\n  "format": "securefl evidence 1",\n  "kind": "twice"\n}\n')
    return {"tape": run.tape, "log": run.logs[1], "evidence": evidence}


def test_each_file_says_what_it_is(files: dict[Kind, Path], tmp_path: Path) -> None:
    assert {kind: kind_of(path) for kind, path in files.items()} == {kind: kind for kind in files}
    for wanted in files:
        for kind, path in files.items():
            if kind == wanted:
                expect(path, wanted)
            else:
                with pytest.raises(UserError, match=f"is {NAMES[kind]}, not {NAMES[wanted]}: .*securefl"):
                    expect(path, wanted)
    odd = tmp_path / "odd"
    for text in ("", "[1]", '{"format": 7}', '{"format": "securefl tape 9"}', "[" * 100_000, "\xff"):
        odd.write_text(text)
        assert kind_of(odd) is None
        expect(odd, "tape")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "{tape}"], "is the tape of a run, not evidence against a party: securefl audit --tape"),
        (["verify", "{log}"], "is the log of a party, not evidence against a party: securefl audit --tape TAPE --log"),
        (["audit", "--tape", "{evidence}"], "is evidence against a party, not the tape of a run: securefl verify"),
        (["audit", "--tape", "{tape}", "--log", "{tape}"], "is the tape of a run, not the log of a party"),
        (["replay", "{log}"], "is the log of a party, not the tape of a run"),
    ],
)
def test_the_wrong_command_names_the_right_one(
    words: list[str], said: str, files: dict[Kind, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    names = {kind: str(path) for kind, path in files.items()}
    assert cli.main([word.format(**names) for word in words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("number", [0, 1])
def test_a_sum_without_an_end_is_noted(files: dict[Kind, Path], tmp_path: Path, number: int) -> None:
    lines = trees(files["tape"])
    ends = [place for place, line in enumerate(lines) if line["kind"] == "end"]
    begins = [place for place, line in enumerate(lines, 1) if line["kind"] == "session"]
    left = [line for place, line in enumerate(lines) if place != ends[number]]
    found = [f for f in audit_tape(rewrite(tmp_path / "cut.tape", left)).findings.found if f.check == "tape-order"]
    assert [(f.status, f.detail) for f in found] == [
        ("noted", f"the sum of line {begins[number]} has no end: the tape does not say what became of it")
    ]
    assert not [f for f in audit_tape(files["tape"]).findings.found if f.check == "tape-order"]


def test_a_header_with_a_party_too_few_is_told_by_line(files: dict[Kind, Path], tmp_path: Path) -> None:
    lines = trees(files["tape"])
    lines[0]["roster"].pop()
    found = audit_tape(rewrite(tmp_path / "short.tape", lines)).findings.found
    assert [(f.check, f.status) for f in found] == [("tape-terms", "broken")] * 2
    assert "the roster has 5 parties, the parameters 6" in found[0].detail
    assert "line 2" in found[0].where


def test_articles() -> None:
    assert [a(name) for name in ("Opening0", "Agree", "Masked")] == ["an Opening0", "an Agree", "a Masked"]
