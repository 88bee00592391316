"""``securefl audit --tape``, ``replay`` and ``verify``, and the tape of ``securefl run``: what is written, printed, refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import Recorded, control, place, places, record, rewrite, trees, with_control

from protocols import simulate
from protocols.primitives.shamir import SHARE_SIZE
from protocols.schema import strings
from protocols.secagg import opening_statement
from protocols.secagg_types import Openings
from protocols.session import client
from securefl.audit.findings import KEPT
from securefl.audit.recording import Recording
from securefl.cli import main
from securefl.errors import UserError

OPENER = 2


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("run"), gone=[(4, "Masked")])


def lying(fed: Any) -> simulate.Network:
    """Party 2 opens another share of party 1's secret than it was dealt."""
    said = dict[str, Any]()

    def network(letter: Any) -> Any:
        if type(letter.message).__name__ == "Listed":
            from protocols.handshake import list_hash

            said["L"] = list_hash(letter.message)
        if letter.sender != client(OPENER) or not isinstance(letter.message, Openings):
            return (letter,)
        shares = strings(letter.message.shares, SHARE_SIZE)
        content = b"".join([bytes(SHARE_SIZE), *shares[1:]])
        statement = opening_statement(fed.terms, OPENER, said["L"], fed.everybody, content)
        message = Openings(content, fed.parties[OPENER].identity.sign(statement))
        return (replace(letter, message=message),)

    return network


# audit --tape


def test_a_table_of_checks_and_what_is_stated(run: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, "audit", "--tape", run.tape)
    assert (code, err) == (0, "")
    assert "run.tape: 72 messages, 2 sums, 2 opened" in out
    assert "tape-chain" in out
    assert "nothing to object to" in out
    assert "hash of the last line: " in out
    assert "log-sent" not in out


def test_logs_are_held_against_it(run: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for path in run.logs.values() for word in ("--log", path)]
    code, out, _ = told(capsys, "audit", "--tape", run.tape, *words)
    assert code == 0
    assert "log-sent" in out
    assert "nothing to object to" in out


def test_json_is_one_object_and_says_what_was_found(run: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = trees(run.tape)
    at = place(lines, type="Boxes")
    path = rewrite(tmp_path / "tape", [*lines[:at], {**lines[at], "size": 1}, *lines[at + 1 :]])
    code = main(["audit", "--tape", str(path), "--json"])
    out, err = capsys.readouterr()
    tree = json.loads(out)
    assert code == 1
    assert err == f"securefl: {path}: 1 broken\n"
    assert (tree["passed"], tree["messages"], tree["opened"]) == (False, 72, 2)
    assert [f["check"] for f in tree["findings"]] == ["tape-size"]
    assert {c["check"]: c["status"] for c in tree["checks"]}["tape-size"] == "broken"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--tape", "none"], "none is no file"),
        (["--log", "x"], "--log and --evidence are about a tape: name it with --tape FILE"),
        (["secagg", "--tape", "none"], "--tape looks at a run that has been"),
        (["--tape", "none", "--full"], "--tape looks at a run that has been"),
    ],
)
def test_words_that_do_not_go_together(words: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = told(capsys, "audit", *words)
    assert (code, out) == (2, "")
    assert what in err


def test_an_unreadable_tape_is_one_line_and_code_2(run: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad"
    path.write_bytes(run.tape.read_bytes()[:-5])
    code, out, err = told(capsys, "audit", "--tape", path)
    assert (code, out) == (2, "")
    assert err == f"securefl: {path}, line 78 is refused: it ends in the middle, as when its writer was killed\n"
    for log in (run.tape, tmp_path / "none"):
        assert told(capsys, "audit", "--tape", run.tape, "--log", log)[0] == 2


def test_exit_codes_of_what_is_broken_off_and_of_what_was_changed(
    run: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the table in docs/audit.md has them."""
    tape, log = run.tape.read_bytes().splitlines(keepends=True), run.logs[3].read_bytes().splitlines(keepends=True)

    def put(name: str, lines: list[bytes]) -> Path:
        (tmp_path / name).write_bytes(b"".join(lines))
        return tmp_path / name

    signed = next(i for i, line in reversed(list(enumerate(log))) if b'"kind":"sent"' in line)
    assert told(capsys, "audit", "--tape", put("a", tape[:-1]))[0] == 1
    assert told(capsys, "audit", "--tape", put("b", [*tape[:5], *tape[6:]]))[0] == 1
    assert told(capsys, "audit", "--tape", put("c", [*tape[:-1], tape[-1][:-2]]))[0] == 2
    code, out, _ = told(capsys, "audit", "--tape", run.tape, "--log", put("d", log[:-1]))
    assert (code, "noted (log-seal)" in out) == (0, True)
    assert told(capsys, "audit", "--tape", run.tape, "--log", put("e", log[:signed]))[0] == 1
    assert told(capsys, "audit", "--tape", run.tape, "--log", put("f", [*log[:5], *log[6:]]))[0] == 1
    assert told(capsys, "audit", "--tape", run.tape, "--log", put("g", [*log[:-1], log[-1][:-2]]))[0] == 2
    assert told(capsys, "audit", "--tape", put("h", []))[0] == 2


def test_many_findings_of_one_kind_are_counted(run: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = trees(run.tape)
    at = place(lines, type="Dropped")
    code, out, _ = told(
        capsys, "audit", "--tape", rewrite(tmp_path / "t", [*lines[: at + 1], *[lines[at]] * 300, *lines[at + 1 :]])
    )
    assert code == 1
    assert f"tape-order: {5 * 300 - KEPT} more, broken" in out


# Evidence


def test_a_run_in_which_a_party_lied_leaves_evidence_that_a_third_party_verifies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = record(tmp_path, network=lying, rounds=1)
    (path,) = kept.evidence.iterdir()
    says = "proven: in round 0, attempt 0 of attacked: party 2 (party-2) opened another share of party 1's secret"
    code, out, _ = told(capsys, "verify", path, "--roster", kept.tape)
    assert code == 0
    assert out.startswith(says)
    code, out, _ = told(capsys, "verify", path)
    assert out.startswith(says)
    assert "by the roster that the evidence carries, of hash" in out
    code, out, _ = told(capsys, "audit", "--tape", kept.tape, "--evidence", tmp_path / "again")
    assert code == 1
    assert "named (tape-signed) line" in out
    (again,) = (tmp_path / "again").iterdir()
    assert again.read_bytes() == path.read_bytes()


def test_whoever_is_named_without_proof_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def unsigned(_fed: Any) -> simulate.Network:
        def network(letter: Any) -> Any:
            if letter.sender != client(OPENER) or type(letter.message).__name__ != "Advert":
                return (letter,)
            return (replace(letter, message=replace(letter.message, signature=bytes(64))),)

        return network

    kept = record(tmp_path, network=unsigned, rounds=1)
    assert not kept.evidence.exists()
    assert kept.unproven == ["client 2: advert-signature, not provable"]
    assert "the server named client 2: advert-signature in collect; not provable" in told(capsys, "replay", kept.tape)[1]
    code, out, _ = told(capsys, "audit", "--tape", kept.tape)
    assert code == 0
    assert "the server named client 2 (advert-signature): not provable" in out


def test_evidence_that_proves_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    kept, other = record(tmp_path / "one", network=lying, rounds=1), record(tmp_path / "two", "lightsecagg", rounds=1)
    (path,) = kept.evidence.iterdir()
    tree = json.loads(path.read_bytes())

    def check(change: dict[str, Any], why: str, code: int = 1) -> None:
        (tmp_path / "changed").write_text(json.dumps({**tree, **change}), encoding="utf-8")
        got, out, err = told(capsys, "verify", tmp_path / "changed", "--roster", kept.tape)
        assert (got, out) == (code, "")
        assert why in err

    check({"accused": 1}, "evidence-session")
    check({"kind": "keys"}, "evidence-proof")
    check({"said": [{**said, "signature": "00" * 64} for said in tree["said"]]}, "evidence-signature")
    check({"said": [{**said, "statement": "00"} for said in tree["said"]]}, "evidence-statement")
    check({"session": {**tree["session"], "sid": "00" * 32}}, "evidence-session")
    check({"session": {**tree["session"], "round": 1}}, "evidence-session")
    check({"roster": tree["roster"][::-1]}, "evidence-roster")
    check({"said": 7}, "it is no evidence", 2)
    check({"session": {}}, "it is no evidence", 2)
    lines = trees(other.tape)
    lines[0]["roster"][0]["name"] = "another"
    code, _, err = told(capsys, "verify", path, "--roster", rewrite(tmp_path / "foreign", lines))
    assert code == 1
    assert "evidence-roster" in err
    for bad in (b"", b"[]", b"{}", b"[" * 100_000):
        (tmp_path / "bad").write_bytes(bad)
        assert told(capsys, "verify", tmp_path / "bad")[0] == 2
        assert told(capsys, "verify", path, "--roster", tmp_path / "bad")[0] == 2
    (tmp_path / "bad").write_text("{}", encoding="utf-8")
    assert (
        told(capsys, "verify", tmp_path / "bad")[2]
        == f"securefl: {tmp_path / 'bad'} is refused: it is no evidence: it lacks 'roster'\n"
    )
    err = told(capsys, "verify", path, "--roster", tmp_path / "bad")[2]
    assert "it holds no roster (it lacks 'roster'); one is a tape, evidence, or a JSON object with the key \"roster\"" in err
    assert told(capsys, "verify", tmp_path / "none")[0] == 2


def test_control_evidence_that_is_not_held_against_the_roster_is_the_bringers_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With identities of one's own making everything can be proven: the roster is what a third party must know."""
    kept = record(tmp_path, network=lying, rounds=1)
    (path,) = kept.evidence.iterdir()
    honest = tmp_path / "honest"
    honest.mkdir()
    lines = trees(record(honest, rounds=1).tape)
    lines[0]["roster"][0]["identity"] = lines[0]["roster"][1]["identity"][::-1]
    real = rewrite(tmp_path / "real", lines)
    assert told(capsys, "verify", path)[0] == 0
    assert told(capsys, "verify", path, "--roster", real)[0] == 1


# replay


def test_a_tape_is_told_round_by_round(run: Recorded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    code, out, err = told(capsys, "replay", run.tape)
    assert (code, err) == (0, "")
    assert out.count("secagg, 6 parties, threshold 4, vectors of 5 values") == 2
    assert "Masked all but 4 server 5 " in out
    assert out.count("did not stay: party-4 (before Masked)") == 2
    assert out.count("opened: the sum over 5 parties") == 2
    _, out, _ = told(capsys, "replay", run.tape, "--round", 1)
    assert "round 1, attempt 0 of attacked" in out
    assert "round 0" not in out


def test_a_round_that_is_not_there_and_a_tape_that_ends(run: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = told(capsys, "replay", run.tape, "--round", 9)
    assert (code, err) == (2, f"securefl: {run.tape} has no round 9: it has rounds 0 to 1\n")
    lines = trees(run.tape)
    _, second = places(lines, kind="session")
    far = rewrite(tmp_path / "far", [*lines[:second], {**lines[second], "round": 7}, *lines[second + 1 :]])
    assert told(capsys, "replay", far, "--round", 9)[2].endswith("has no round 9: it has rounds 0, 7\n")
    alone = rewrite(tmp_path / "alone", [*lines[:second], lines[-1]])
    assert told(capsys, "replay", alone, "--round", 9)[2].endswith("has no round 9: it has round 0\n")
    none = rewrite(tmp_path / "nothing", [lines[0], lines[-1]])
    assert told(capsys, "replay", none, "--round", 9)[2].endswith("has no round 9: it has none\n")
    raw = run.tape.read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").write_bytes(b"".join(raw[:20]))
    code, out, _ = told(capsys, "replay", tmp_path / "cut")
    assert code == 0
    assert "the tape has no end of this sum" in out
    (tmp_path / "empty").write_bytes(b"")
    assert told(capsys, "replay", tmp_path / "empty")[0] == 2
    assert told(capsys, "replay", tmp_path / "none")[0] == 2


def test_an_abort_and_whom_the_server_named_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lie").mkdir()
    _, out, _ = told(capsys, "replay", record(tmp_path / "lie", network=lying, rounds=1).tape)
    assert "the server named client 2: openings-share-hash in reveal; what it signed proves it" in out
    (tmp_path / "few").mkdir()
    _, out, _ = told(capsys, "replay", record(tmp_path / "few", gone=[(u, "Agree") for u in (1, 2, 3)], rounds=1).tape)
    assert "aborted in gather: quorum" in out


# run


@pytest.fixture
def short(tmp_path: Path) -> list[object]:
    return ["run", "--rounds", 2, "--no-dp", "--no-baselines", "--json", "--tape", tmp_path / "a.tape", "--logs", tmp_path / "logs"]


def test_a_run_records_its_tape_and_logs_which_agree(
    short: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([str(word) for word in [*short, "--evidence", tmp_path / "evidence"]])
    out, _ = capsys.readouterr()
    assert code == 0
    assert json.loads(out)["rounds"]
    assert not (tmp_path / "evidence").exists()  # nobody was named
    lines = trees(tmp_path / "a.tape")
    runs = [(line["run"].split("-")[0], line["round"]) for line in lines if line["kind"] == "session"]
    assert runs == [("scaling", 1), ("run", 1), ("run", 2)]
    assert [line["contributors"] for line in lines if line["kind"] == "end"] == [5, 5, 5]
    words = [word for path in sorted((tmp_path / "logs").iterdir()) for word in ("--log", path)]
    assert len(words) == 10
    code, out, _ = told(capsys, "audit", "--tape", tmp_path / "a.tape", *words)
    assert code == 0
    models = [line["vectors"]["weights"][1] for line in lines if line.get("type") == "GlobalModel"]
    assert models == [line["model"] for line in lines if line["kind"] == "session"][1:]


def test_a_run_with_noise_in_its_sums_audits_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The bound of the noise is among the parameters that the tape declares."""
    words = ["run", "--mechanism", "distributed-party", "--clients", 6, "--rounds", 1, "--no-baselines", "--json"]
    code, _, _ = told(capsys, *words, "--tape", tmp_path / "a.tape", "--logs", tmp_path / "logs")
    assert code == 0
    logs = [word for path in sorted((tmp_path / "logs").iterdir()) for word in ("--log", path)]
    code, out, _ = told(capsys, "audit", "--tape", tmp_path / "a.tape", *logs)
    assert code == 0
    assert "nothing to object to" in " ".join(out.split())


def test_what_was_recorded_is_never_written_over(short: list[object], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.tape").write_text("kept", encoding="utf-8")
    code, out, err = told(capsys, *short)
    assert (code, out) == (2, "")
    assert "a.tape exists, and what was recorded is never written over" in err
    assert (tmp_path / "a.tape").read_text(encoding="utf-8") == "kept"
    (tmp_path / "a.tape").unlink()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "001-site_1.log").write_text("kept", encoding="utf-8")
    code, _, err = told(capsys, *short)
    assert code == 2
    assert "001-site_1.log exists" in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["001-site_1.log", "logs"]


@pytest.mark.parametrize(
    "bad", [["--threshold", "99"], ["--model", "mlp", "--fix-model"], ["--label", "x"], ["--data", "none.csv"]]
)
def test_nothing_is_left_where_a_run_is_refused(
    short: list[object], bad: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = told(capsys, *short, *bad)
    assert code == 2
    assert err.startswith("securefl: ")
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "logs"])


def test_a_run_without_a_culprit_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--rounds", 1, "--no-dp", "--no-baselines"]
    code, out, _ = told(capsys, *words, "--evidence", tmp_path / "evidence")
    assert code == 0
    assert out.endswith(f"no evidence: the server accused nobody, so nothing was written into {tmp_path / 'evidence'}")
    assert list(tmp_path.iterdir()) == []
    assert "evidence" not in told(capsys, *words)[1]


def test_what_became_of_evidence_is_told_in_every_case(tmp_path: Path) -> None:
    from protocols.errors import Refused

    recording = Recording(evidence=tmp_path / "evidence")
    assert recording.verdict.startswith("no evidence: the server accused nobody")
    recording._convict([Refused("advert-signature", sender="client 2")])
    assert recording.verdict.startswith("no evidence: what the server named somebody for is not provable")
    recording.convicted = 1
    assert recording.verdict == ""
    assert Recording().verdict == ""


def test_a_tape_that_cannot_be_written_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_bytes(b"")
    for where, why in ((tmp_path / "none" / "x", "there is no folder"), (tmp_path / "file" / "x", "there is no folder")):
        for command in (["run", "--rounds", 1, "--no-dp"], ["demo", "secagg"]):
            code, out, err = told(capsys, *command, "--tape", where)
            assert (code, out) == (2, "")
            assert err.startswith(f"securefl: --tape: {where} cannot be written: {why}")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tempfile.TemporaryFile", lambda **_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        code, out, err = told(capsys, "run", "--rounds", 1, "--no-dp", "--tape", tmp_path / "x")
    assert (code, out) == (2, "")
    assert "cannot write in" in err


def test_a_tape_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        Recording(tape=tmp_path / "none" / "a.tape")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="is not a folder"):
        Recording(logs=tmp_path / "file")


def test_a_run_that_is_broken_off_keeps_what_it_wrote_and_one_that_is_refused_nothing(tmp_path: Path) -> None:
    from protocols import sums
    from securefl.audit.federation import federation

    fed = federation(6, 5)

    def broken_off(recording: Recording, error: BaseException, *, keep: bool) -> None:
        with recording:
            recording.begin(sums.SCHEMES["secagg"], fed.terms, fed.parties.values())
            if keep:
                recording.keep()
            raise error

    def begun(name: str, error: BaseException, *, keep: bool) -> Path:
        recording = Recording(tape=tmp_path / name, logs=tmp_path / f"{name}-logs")
        with pytest.raises(type(error)):
            broken_off(recording, error, keep=keep)
        return tmp_path / name

    assert not begun("refused", UserError("bad input"), keep=False).exists()
    assert list((tmp_path / "refused-logs").iterdir()) == []
    for name, error, keep in (("stopped", KeyboardInterrupt(), False), ("late", UserError("an update"), True)):
        kept = trees(begun(name, error, keep=keep))
        assert [line["kind"] for line in kept] == ["header", "session"]


def test_an_untouched_tape_of_many_lines_reads_in_order(run: Recorded) -> None:
    lines = trees(run.tape)
    assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["kind"] for line in lines][:2] == ["header", "session"]
    assert list(places(lines, kind="seal")) == [len(lines) - 1]
    boxes = lines[place(lines, type="Boxes")]
    assert with_control(boxes, control(boxes)) == boxes
