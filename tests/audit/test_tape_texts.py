"""What a tape, a log or evidence may say: numbers and letters that are none are refused, and no text reaches the terminal raw."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import Recorded, Trees, place, record, rewrite, trees
from test_tape_command import lying

from protocols.declared import declaration, declared
from protocols.errors import Abort, Misuse, Refused
from protocols.sums import scheme
from securefl import terminal
from securefl.audit.chain import COUNTED, LARGEST, LONGEST, Unreadable, dump, load
from securefl.audit.evidence import Conviction, write_evidence
from securefl.audit.log_evidence import line_against_message
from securefl.audit.reconcile import reconcile
from securefl.audit.tape import Tape
from securefl.audit.tape_audit import audit_tape
from securefl.cli import main
from securefl.errors import printable

ESCAPE = "\x1b[2J\x1b[Hnothing to object to\x1b[8m"
NASTY = (ESCAPE, "\u202enothing", "a\nnothing to object to", "a\rb", "\x9b2J", "\u2028", "\x00", "\x7f")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("run"), rounds=1)


@pytest.fixture
def lines(run: Recorded) -> Trees:
    return trees(run.tape)


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """The exit code, and all that reaches a terminal; nothing of it is a control character, and no error left its one line."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert all(c.isprintable() or c == "\n" for c in out + err), ascii(out + err)
    assert err.count("\n") <= 1
    assert "Traceback" not in err
    return code, out + err


# Numbers and letters

ODD = {
    "an integer of 4301 digits": b"1" * 4301,
    "an integer of 2^64": str(LARGEST).encode(),
    "a negative one": str(-LARGEST).encode(),
    "Infinity": b"Infinity",
    "-Infinity": b"-Infinity",
    "NaN": b"NaN",
    "a float past all floats": b"1e999",
    "half a letter, spelled": b'"\\ud800"',
    "half a letter in a key": b'{"\\uDFFF":1}',
    "half a letter, raw": b'"\xed\xa0\x80"',
    "no UTF-8": b'"\xff"',
    "UTF-16": '"x"'.encode("utf-16"),
    "no end of lists": b"[" * 100_000,
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_number_and_no_text_is_not_read(odd: str) -> None:
    for data in (ODD[odd], b'{"a":[' + ODD[odd] + b"]}"):
        with pytest.raises((ValueError, RecursionError)):
            load(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(1 - LARGEST, LARGEST - 1) | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_everything_else_is_read_as_it_was_written(tree: Any) -> None:
    assert load(json.dumps(tree).encode()) == tree
    assert load(json.dumps(tree, ensure_ascii=False).encode()) == tree


@pytest.mark.parametrize("odd", ODD)
def test_a_tape_a_log_and_evidence_with_an_odd_value_are_refused_in_one_line(
    run: Recorded, tmp_path: Path, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoilt(source: Path, at: bytes) -> Path:
        data = source.read_bytes()
        assert data.count(at)
        path = tmp_path / source.name
        path.write_bytes(data.replace(at, at[: at.index(b":") + 1] + ODD[odd], 1))
        return path

    tape, log = spoilt(run.tape, b'"contributors":6'), spoilt(run.logs[3], b'"party":3')
    assert said(capsys, "audit", "--tape", tape)[0] == 2
    assert said(capsys, "replay", tape)[0] == 2
    code, text = said(capsys, "audit", "--tape", run.tape, "--log", log)
    assert code == 2
    assert "line 1 is refused: it is no" in text
    evidence = some_evidence(run, tmp_path / "evidence")
    for field in (b'"accused": 3', b'"parties": 6', b'"round": 0'):
        assert said(capsys, "verify", spoilt(evidence, field))[0] == 2


def some_evidence(run: Recorded, folder: Path) -> Path:
    audit = audit_tape(run.tape, keep=True)
    (walk,) = audit.walks.values()
    entry = next(entry for (u, _), entry in walk.entries.items() if u == 3 and entry.said)
    line = next(iter(reconcile(audit, [run.logs[3]])[0].lines.values()))
    assert entry.said is not None
    conviction: Conviction = (line_against_message(3, line, entry.said, None), *walk.sum)
    (path,) = write_evidence(folder, [conviction])
    return path


def test_numbers_of_lines_far_from_each_other_are_a_broken_chain_or_none(lines: Trees, tmp_path: Path) -> None:
    for n, readable in ((COUNTED - 1, True), (COUNTED, False), (-1, False), (True, False), (1.0, False)):
        path = tmp_path / "tape"
        path.write_bytes(run_of(dump({**lines[0], "n": 1}), dump({**lines[1], "n": n})))
        if readable:
            assert any(f.check == "tape-chain" for f in audit_tape(path).findings.found)
        else:
            with pytest.raises(Unreadable, match="line 2 is refused"):
                audit_tape(path)


def run_of(*lines: bytes) -> bytes:
    return b"".join(line + b"\n" for line in lines)


@pytest.mark.parametrize("name", ["parties", "size", "max_abs", "bits", "threshold", "corrupt"])
@pytest.mark.parametrize("value", [float("inf"), 1.5, True, None, "6", [6]])
def test_parameters_are_declared_in_whole_numbers(run: Recorded, name: str, value: Any) -> None:
    tree = declaration(run.fed.terms.parameters)
    assert declared(scheme("secagg"), tree) == run.fed.terms.parameters
    with pytest.raises(Misuse, match=f"whole numbers, unlike {name}"):
        declared(scheme("secagg"), {**tree, name: value})


@pytest.mark.parametrize("name", ["round", "attempt"])
@pytest.mark.parametrize("value", [0.0, False, -1, "0", None])
def test_rounds_are_whole_numbers(lines: Trees, tmp_path: Path, name: str, value: Any) -> None:
    at = place(lines, kind="session")
    path = rewrite(tmp_path / "tape", [*lines[:at], {**lines[at], name: value}, *lines[at + 1 :]])
    with pytest.raises(Unreadable, match="begins no sum"):
        audit_tape(path)


def test_what_is_told_of_a_line_does_not_grow_with_it(lines: Trees, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = place(lines, type="Dropped")
    for change in ({"type": "x" * 10**6}, {"from": "y" * 10**6}, {"kind": "z" * 10**6}):
        path = rewrite(tmp_path / "tape", [*lines[:at], {**lines[at], **change}, *lines[at + 1 :]])
        code, text = said(capsys, "audit", "--tape", path)
        assert code in (1, 2)
        assert len(text) < 20 * LONGEST


# Texts


def ends(lines: Trees, **change: Any) -> Trees:
    at = place(lines, kind="end")
    return [*lines[:at], {**lines[at], **change}, *lines[at + 1 :]]


def begins(lines: Trees, **change: Any) -> Trees:
    at = place(lines, kind="session")
    return [*lines[:at], {**lines[at], **change}, *lines[at + 1 :]]


def named(lines: Trees, name: str) -> Trees:
    roster = [{**member, "name": name} if i == 1 else member for i, member in enumerate(lines[0]["roster"])]
    return [{**lines[0], "roster": roster}, *lines[1:]]


def fault(**change: Any) -> list[dict[str, Any]]:
    return [{"sender": "client 1", "check": "boxes-set", "step": None, "provable": False, **change}]


PLACES: dict[str, Callable[[Trees, str], Trees]] = {
    "a check that the server names": lambda lines, text: ends(lines, faults=fault(check=text)),
    "a step": lambda lines, text: ends(lines, faults=fault(step=text)),
    "who is named": lambda lines, text: ends(lines, faults=fault(sender=text)),
    "why it aborted": lambda lines, text: ends(lines, contributors=None, abort={"check": text, "step": None}),
    "where it aborted": lambda lines, text: ends(lines, contributors=None, abort={"check": "quorum", "step": text}),
    "the run": lambda lines, text: begins(lines, run=text),
    "the protocol": lambda lines, text: begins(lines, protocol=text),
    "a parameter": lambda lines, text: begins(lines, parameters={**lines[1]["parameters"], "size": text}),
    "the content": lambda lines, text: begins(lines, parameters={**lines[1]["parameters"], "content": [text]}),
    "a name": named,
    "a kind of line": lambda lines, text: [*lines[:4], {**lines[4], "kind": text}, *lines[5:]],
    "a kind of message": lambda lines, text: [*lines[:4], {**lines[4], "type": text}, *lines[5:]],
    "a field": lambda lines, text: [*lines[:4], {**lines[4], "vectors": {text: [1, "00"]}}, *lines[5:]],
    "a sender": lambda lines, text: [*lines[:4], {**lines[4], "from": text}, *lines[5:]],
    "the version": lambda lines, text: [{**lines[0], "version": text}, *lines[1:]],
    "the seal": lambda lines, text: [*lines[:-1], {**lines[-1], "sealed": text}],
}


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("text", NASTY)
def test_no_text_of_a_tape_reaches_the_terminal_raw(
    lines: Trees, tmp_path: Path, where: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rewrite(tmp_path / "tape", PLACES[where](lines, text))
    said(capsys, "audit", "--tape", path)
    said(capsys, "replay", path)
    assert main(["audit", "--tape", str(path), "--json"]) in (0, 1, 2)
    out, _ = capsys.readouterr()
    assert out.isascii()
    assert all(c.isprintable() or c == "\n" for c in out)


@pytest.mark.parametrize("text", NASTY)
def test_no_text_of_a_log_or_of_evidence_reaches_the_terminal_raw(
    run: Recorded, tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logged = trees(run.logs[3])
    at = place(logged, kind="sent")
    for change in ({"type": text}, {"kind": text}, {"control": text}):
        log = rewrite(tmp_path / "log", [*logged[:at], {**logged[at], **change}, *logged[at + 1 :]], run.fed.parties[3].identity)
        said(capsys, "audit", "--tape", run.tape, "--log", log)
    tree = json.loads(some_evidence(run, tmp_path / "evidence").read_text(encoding="utf-8"))
    for change in (
        {"kind": text},
        {"session": {**tree["session"], "run": text}},
        {"session": {**tree["session"], "protocol": text}},
    ):
        (tmp_path / "changed").write_text(json.dumps({**tree, **change}), encoding="utf-8")
        assert said(capsys, "verify", tmp_path / "changed")[0] in (1, 2)


def test_names_are_spelled_out_where_evidence_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that its bringer chose stands in the one line that convicts."""
    kept = record(tmp_path, network=lying, rounds=1)
    (path,) = kept.evidence.iterdir()
    tree = json.loads(path.read_text(encoding="utf-8"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("securefl.audit.evidence.check_evidence", lambda *_: f"party 2 ({ESCAPE}) lied")
        path.write_text(json.dumps(tree), encoding="utf-8")
        code, text = said(capsys, "verify", path)
    assert code == 0
    assert "party 2 (\\x1b[2J" in text


def test_control_what_is_told_is_raw_where_it_is_not_spelled_out(
    lines: Trees, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rewrite(tmp_path / "tape", lines[:-1])
    last = dump({"kind": "seal", "messages": ESCAPE, "n": len(lines), "prev": audit_tape(path).head})
    path.write_bytes(path.read_bytes() + last + b"\n")
    code, text = said(capsys, "audit", "--tape", path)
    assert code == 1
    assert "the seal is over \\x1b[2J" in text
    monkeypatch.setattr("securefl.audit.findings.printable", str)
    main(["audit", "--tape", str(path)])
    assert "\x1b[2J" in capsys.readouterr().out


@given(st.text())
def test_spelled_out_text_is_printable_and_what_was_stays(text: str) -> None:
    assert printable(text).isprintable()
    assert not text.isprintable() or printable(text) == text


@pytest.mark.parametrize("text", ["", "check with spaces", ESCAPE, "x" * 500, "naïve"])
def test_ids_of_a_protocol_of_somebody_elses_are_written_so_that_they_are_read(tmp_path: Path, run: Recorded, text: str) -> None:
    tape = Tape(tmp_path / "tape")
    tape.begin(scheme("secagg"), run.fed.terms)
    faults = [Refused(text, sender=text, step=text), Refused("boxes-set", sender="client 2")]
    tape.end(None, Abort(text, step=text), faults)
    tape.seal()
    found = [f.detail for f in audit_tape(tmp_path / "tape").findings.found]
    assert any(line.startswith("the server named somebody (") for line in found)
    assert "the server named client 2 (boxes-set): not provable" in found


def test_half_letters_reach_no_terminal_in_any_locale() -> None:
    """Python gives a terminal of the locale C the errors that let bytes of file names through."""
    for errors in ("strict", "surrogateescape", "backslashreplace"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors)
        terminal.spell_out(stream)
        stream.write("\ud800 \udc9b")
        stream.flush()
        assert stream.buffer.getvalue() == b"\\ud800 \\udc9b"  # type: ignore[attr-defined]
