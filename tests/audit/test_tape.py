"""The tape: what stands in it, what an audit of it finds, and that each check finds what nothing else does."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_runs import (
    OURS,
    Recorded,
    Trees,
    control,
    looked_at,
    place,
    places,
    record,
    rewrite,
    trees,
    with_control,
)

from protocols import simulate, sums
from protocols.rand import Replay
from protocols.session import Letter, client
from protocols.wire import canonical
from securefl.audit.chain import Unreadable
from securefl.audit.evidence import proven, write_evidence
from securefl.audit.knowledge import in_text, spellings
from securefl.audit.tape_audit import CHECKS, audit_tape


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("run"), rounds=3)


@pytest.fixture
def lines(run: Recorded) -> Trees:
    return trees(run.tape)


@pytest.mark.parametrize("protocol", OURS)
def test_an_honest_run_of_every_protocol_is_in_order(protocol: str, tmp_path: Path) -> None:
    kept = record(tmp_path, protocol)
    audit = audit_tape(kept.tape)
    assert [f for f in audit.findings.found if f.status != "stated"] == []
    assert audit.findings.passed
    assert (audit.sums, audit.opened) == (2, 2)
    delivered = sum(len(seen.letters) for seen in kept.seen)
    assert sum(line["kind"] == "message" and line["to"] == ["server"] for line in trees(kept.tape)) == delivered
    assert audit.findings.applied["tape-signature"] > 0 or protocol == "plain-insecure"


@pytest.mark.parametrize("protocol", OURS)
def test_dropouts_and_aborts_are_in_order_too(protocol: str, tmp_path: Path) -> None:
    kinds = [kind.__name__ for kind in sums.scheme(protocol).flow.messages("server")]
    for name in ("some", "few"):
        (tmp_path / name).mkdir()
    assert audit_tape(record(tmp_path / "some", protocol, gone=[(3, kinds[-1])]).tape).findings.passed
    few = record(tmp_path / "few", protocol, gone=[(u, kinds[0]) for u in (1, 2, 3)])
    audit = audit_tape(few.tape)
    assert audit.findings.passed
    assert audit.opened == 0
    assert {line["abort"]["check"] for line in trees(few.tape) if line["kind"] == "end"} == {"quorum"}


@pytest.mark.parametrize("protocol", [name for name in OURS if name != "plain-insecure"])
def test_no_secret_of_a_party_stands_in_tape_or_logs(protocol: str, tmp_path: Path) -> None:
    kept = record(tmp_path, protocol, gone=[(3, "Agree")])
    texts = [path.read_bytes() for path in (kept.tape, *kept.logs.values())]
    controls = [base64.b64decode(line["control"]) for line in trees(kept.tape) if line["kind"] == "message"]
    looked = 0
    for seen in kept.seen:
        for u, secrets in seen.secrets.items():
            for raw, where in secrets.items():
                looked += 1
                assert not any(raw in data for data in (*texts, *controls)), (u, where)
                assert not any(word.encode() in text for word in in_text(raw) for text in texts), (u, where)
        for u, vector in seen.fed.vectors.items():
            for spelled in spellings(vector):
                assert not any(spelled in data for data in (*texts, *controls)), u
    assert looked > 10


def test_the_search_for_secrets_finds_one_that_is_there(tmp_path: Path) -> None:
    kept = record(tmp_path, rounds=1)
    raw = next(iter(kept.seen[0].secrets[1]))
    lines = trees(kept.tape)
    at = place(lines, type="Advert")
    leaky = rewrite(tmp_path / "leaky", [*lines[:at], {**lines[at], "control": base64.b64encode(b"??" + raw).decode()}])
    controls = [base64.b64decode(line["control"]) for line in trees(leaky) if line["kind"] == "message"]
    assert any(raw in data for data in controls)


# The chain

EDITS = ("changed", "removed", "swapped", "doubled")


@settings(max_examples=60)
@given(data=st.data())
def test_a_line_that_was_changed_removed_moved_or_put_in_is_found_by_its_number(run: Recorded, data: st.DataObject) -> None:
    raw, edit = run.tape.read_bytes().splitlines(keepends=True), data.draw(st.sampled_from(EDITS))
    at = data.draw(st.integers(1, len(raw) - 3))
    if edit == "changed":
        tree = json.loads(raw[at])
        tree["version"] = "another"
        raw[at] = json.dumps(tree, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    elif edit == "removed":
        del raw[at]
    elif edit == "swapped":
        raw[at], raw[at + 1] = raw[at + 1], raw[at]
    else:
        raw.insert(at, raw[at])
    path = run.tape.with_name("edited")
    path.write_bytes(b"".join(raw))
    first = next(f for f in audit_tape(path).findings.found if f.check == "tape-chain")
    expected = {"changed": at + 2, "removed": at + 1, "swapped": at + 1, "doubled": at + 2}[edit]
    assert (first.status, first.line) == ("broken", expected)
    assert edit != "changed" or f"line {at + 1} was changed" in first.detail
    assert edit != "removed" or "1 before it missing" in first.detail


@settings(max_examples=30)
@given(data=st.data())
def test_a_run_that_was_killed_leaves_a_readable_beginning(run: Recorded, data: st.DataObject) -> None:
    whole = run.tape.read_bytes()
    cut = data.draw(st.integers(1, len(whole) - 1))
    path = run.tape.with_name("killed")
    path.write_bytes(whole[:cut])
    number = whole[:cut].count(b"\n") + 1
    if whole[cut - 1 : cut] != b"\n":
        with pytest.raises(Unreadable, match=f"line {number} is refused: it ends in the middle"):
            audit_tape(path)
        path.write_bytes(whole[: whole.rfind(b"\n", 0, cut) + 1])
    if path.stat().st_size:
        assert ("tape-seal", "broken") in looked_at(path)
        assert {check for check, _ in looked_at(path)} == {"tape-seal"}


BAD_LINES = {
    "no JSON": b"{",
    "another spelling": b'{"kind": "end", "n": 2, "prev": "' + b"0" * 64 + b'"}',
    "a list": b"[]",
    "no number": b'{"kind":"end","prev":"' + b"0" * 64 + b'"}',
    "no message": b'{"control":"?","epoch":0,"from":"server","kind":"message","n":9,"prev":"'
    + b"0" * 64
    + b'","size":1,"to":[],"type":"X"}',
    "no sum": b'{"kind":"session","n":9,"prev":"' + b"0" * 64 + b'"}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("bad", BAD_LINES)
def test_an_unreadable_tape_is_refused_at_its_line(run: Recorded, tmp_path: Path, bad: str) -> None:
    raw = run.tape.read_bytes().splitlines(keepends=True)
    raw[4] = BAD_LINES[bad] + b"\n"
    path = tmp_path / "bad"
    path.write_bytes(b"".join(raw))
    with pytest.raises(Unreadable, match="line 5 is refused"):
        audit_tape(path)


@pytest.mark.parametrize("head", [b"", b'{"format":"another","kind":"header","n":1,"prev":"' + b"0" * 64 + b'","roster":[]}\n'])
def test_what_begins_like_no_tape_is_refused(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "bad"
    path.write_bytes(head)
    with pytest.raises(Unreadable, match="line 1 is refused"):
        audit_tape(path)


# What each check finds.  A server that writes its tape anew makes the chain fit, so that each of these has one check against it.


def swapped_sums(lines: Trees) -> Iterable[dict[str, Any]]:
    """The second sum before the first."""
    one, two, three = places(lines, kind="session")
    return [lines[0], *lines[two:three], *lines[one:two], *lines[three:]]


def another_sid(lines: Trees) -> Trees:
    at = place(lines, kind="session")
    return [*lines[:at], {**lines[at], "sid": "00" * 32}, *lines[at + 1 :]]


def dropped_twice(lines: Trees) -> Trees:
    """One party is asked a second time who survived."""
    at = place(lines, type="Dropped")
    return [*lines[: at + 1], {**lines[at], "to": ["client 1"]}, *lines[at + 1 :]]


def agreement_replaced(lines: Trees) -> Trees:
    """Another signature of party 1 is shown to the others than it sent."""
    at = place(lines, type="Agreed")
    name, epoch, signatures, coverings = control(lines[at])
    signatures[0] = [1, bytes(64)]
    return [*lines[:at], with_control(lines[at], [name, epoch, signatures, coverings]), *lines[at + 1 :]]


def vector_unsigned(lines: Trees) -> Trees:
    """A masked vector whose signature does not hold, in the sum all the same."""
    at = place(lines, type="Masked", sender="client 3")
    fields = control(lines[at])[:-1]
    return [*lines[:at], with_control(lines[at], [*fields, bytes(64)]), *lines[at + 1 :]]


def few_openings(lines: Trees) -> Trees:
    """A sum that is said to be opened with three shares where four are needed."""
    gone = list(places(lines, type="Openings"))[:3]
    return [line for i, line in enumerate(lines) if i not in gone]


def other_size(lines: Trees) -> Trees:
    at = place(lines, type="Boxes")
    return [*lines[:at], {**lines[at], "size": lines[at]["size"] + 1}, *lines[at + 1 :]]


def unsealed(lines: Trees) -> Trees:
    return lines[:-1]


LIES: dict[str, Callable[[Trees], Iterable[dict[str, Any]]]] = {
    "tape-seal": unsealed,
    "tape-terms": another_sid,
    "tape-repeat": swapped_sums,
    "tape-order": dropped_twice,
    "tape-sets": agreement_replaced,
    "tape-signature": vector_unsigned,
    "tape-cohort": few_openings,
    "tape-size": other_size,
}


@pytest.mark.parametrize("check", LIES)
def test_a_tape_written_anew_is_found_by_one_check(check: str, lines: Trees, tmp_path: Path) -> None:
    path = rewrite(tmp_path / "lie", LIES[check](lines))
    assert looked_at(path) == {(check, "broken")}


@pytest.mark.parametrize("check", LIES)
def test_control_without_its_check_each_lie_passes(check: str, lines: Trees, tmp_path: Path) -> None:
    path = rewrite(tmp_path / "lie", LIES[check](lines))
    assert audit_tape(path, without=[check]).findings.passed


def test_control_a_chain_that_is_not_looked_at_hides_a_changed_line(run: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "changed"
    path.write_bytes(run.tape.read_bytes().replace(b'"version":"0.1.0"', b'"version":"0.1.1"', 1))
    assert looked_at(path) == {("tape-chain", "broken")}
    assert looked_at(path, without=["tape-chain"]) == set()


def test_a_tape_that_leaves_out_what_its_sets_follow_from_is_found(lines: Trees, tmp_path: Path) -> None:
    for kind in ("Advert", "Boxes", "Masked"):
        at = place(lines, type=kind, sender="client 4")
        found = looked_at(rewrite(tmp_path / kind, [*lines[:at], *lines[at + 1 :]]))
        assert ("tape-sets", "broken") in found, kind


def test_different_dropped_sets_on_one_tape_are_found(lines: Trees, tmp_path: Path) -> None:
    at = place(lines, type="Dropped")
    one = {**lines[at], "to": [f"client {u}" for u in (1, 2, 3)]}
    other = with_control({**lines[at], "to": [f"client {u}" for u in (4, 5, 6)]}, ["Dropped", 0, [1]])
    found = audit_tape(rewrite(tmp_path / "two", [*lines[:at], one, other, *lines[at + 1 :]])).findings.found
    assert any(f.check == "tape-sets" and "told another U3" in f.detail for f in found)


def test_a_model_that_is_not_the_one_in_the_session_identity_is_found(lines: Trees, tmp_path: Path) -> None:
    at = place(lines, kind="session")
    sent = {
        "kind": "message",
        "from": "server",
        "to": ["client 1"],
        "type": "GlobalModel",
        "epoch": 0,
        "size": 4 + 15 + 4,
        "control": base64.b64encode(canonical(["GlobalModel", 0, 0])).decode(),
        "vectors": {"weights": [4, "11" * 32]},
    }
    path = rewrite(tmp_path / "model", [*lines[: at + 1], sent, *lines[at + 1 :]])
    assert looked_at(path) == {("tape-terms", "broken")}


def test_parameters_that_the_protocol_refuses_are_found_and_a_protocol_that_is_not_here_is_said(
    lines: Trees, tmp_path: Path
) -> None:
    at = place(lines, kind="session")
    parameters = lines[at]["parameters"]
    lowered = {**parameters, "threshold": 2, "content": [*parameters["content"][:4], 2, *parameters["content"][5:]]}
    path = rewrite(tmp_path / "low", [*lines[:at], {**lines[at], "parameters": lowered}, *lines[at + 1 :]])
    (found,) = [f for f in audit_tape(path).findings.found if f.status == "broken"]
    assert (found.check, found.line) == ("tape-terms", at + 1)
    assert "no such sum is possible" in found.detail
    with pytest.raises(Unreadable, match="line 2 is refused: it is of the protocol 'theirs', which is not installed here"):
        audit_tape(rewrite(tmp_path / "theirs", [*lines[:at], {**lines[at], "protocol": "theirs"}, *lines[at + 1 :]]))


# Over many sums


def test_keys_that_serve_two_sums_are_found(tmp_path: Path) -> None:
    kept = record(tmp_path, entropy=lambda u: Replay(f"stuck {u}"))  # generators that are reset before each round
    assert looked_at(kept.tape) == {("tape-keys", "broken")}
    assert looked_at(kept.tape, without=["tape-keys"]) == set()
    detail = next(f.detail for f in audit_tape(kept.tape).findings.found)
    assert "client 1 has a public key that client 1 had" in detail


def test_a_masked_vector_that_stands_in_two_sums_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Randomness that is stuck, and a mask that is drawn from it alone."""
    monkeypatch.setattr("protocols.lightsecagg.for_session", lambda rand, what, _terms, _L: rand.child(what))
    kept = record(tmp_path, "lightsecagg", entropy=lambda u: Replay(f"stuck {u}"))
    found = [f.detail for f in audit_tape(kept.tape).findings.found if f.check == "tape-keys"]
    assert any("the masked vector of client 2 is that of client 2" in detail for detail in found)


def test_an_attempt_after_inputs_have_left_is_found(tmp_path: Path) -> None:
    lines = trees(record(tmp_path, rounds=2).tape)
    second = list(places(lines, kind="session"))[1]
    lines[second] = {**lines[second], "round": 0, "attempt": 1}
    found = audit_tape(rewrite(tmp_path / "again", lines)).findings.found
    assert any(f.check == "tape-repeat" and "whose inputs left in line" in f.detail for f in found)


def test_sums_over_sets_that_differ_by_few_are_stated(tmp_path: Path) -> None:
    steps = iter([(), ((2, "Masked"),), ((3, "Masked"),), ((2, "Masked"), (3, "Masked"))])

    def network(_fed: Any) -> Callable[[Letter], Iterable[Letter]]:
        return simulate.vanish({client(u): stage for u, stage in next(steps)})

    audit = audit_tape(record(tmp_path, rounds=4, network=network).tape)
    found = [f for f in audit.findings.found if f.check == "tape-difference"]
    assert audit.findings.passed
    assert [f.status for f in found] == ["stated", "stated"]
    assert "6 pairs of sums over sets that differ by fewer than 4 parties" in found[0].detail
    assert "by client 2;" in found[0].detail
    assert "the sums single out clients 2, 3," in found[1].detail


def test_where_everybody_always_takes_part_no_difference_is_stated(run: Recorded) -> None:
    assert [f for f in audit_tape(run.tape).findings.found if f.check == "tape-difference"] == []


# Parties that lie


def test_two_statements_of_one_round_name_their_sender_with_evidence(tmp_path: Path) -> None:
    kept = record(tmp_path, rounds=1)
    lines, terms = trees(kept.tape), kept.fed.at(round=0).terms
    at = place(lines, type="Advert", sender="client 3")
    first = control(lines[at])
    c_pk, s_pk = first[2], control(lines[place(lines, type="Advert", sender="client 4")])[3]
    signature = kept.fed.parties[3].identity.sign(terms.statement("keys", 3, c_pk, s_pk))
    second = with_control(lines[at], ["Advert", 0, c_pk, s_pk, signature])
    audit = audit_tape(rewrite(tmp_path / "two", [*lines[: at + 1], second, *lines[at + 1 :]]))
    assert {(f.check, f.status) for f in audit.findings.found} == {("tape-twice", "named")}
    (path,) = write_evidence(tmp_path / "out", audit.findings.evidence)
    assert "party 3 (party-3) signed two different statements 'keys'" in proven(path, terms.roster)
    assert audit_tape(tmp_path / "two", without=["tape-twice"]).findings.passed


def test_a_second_agreement_over_another_set_that_somebody_was_told_names_its_sender(tmp_path: Path) -> None:
    kept = record(tmp_path, rounds=1)
    lines, terms = trees(kept.tape), kept.fed.at(round=0).terms
    asked, agreed = place(lines, type="Dropped"), place(lines, type="Agree", sender="client 3")
    again = with_control({**lines[asked], "to": ["client 3"]}, ["Dropped", 0, [1]])
    L = bytes.fromhex(trees(kept.logs[3])[place(trees(kept.logs[3]), kind="told", type="Listed")]["sets"]["L"])
    other = kept.fed.parties[3].identity.sign(terms.statement("agree", 3, L, (2, 3, 4, 5, 6)))
    second = with_control(lines[agreed], ["Agree", 0, other])
    edited = [*lines[: asked + 1], again, *lines[asked + 1 : agreed + 1], second, *lines[agreed + 1 :]]
    audit = audit_tape(rewrite(tmp_path / "two", edited))
    assert ("tape-twice", "named") in {(f.check, f.status) for f in audit.findings.found}
    (path,) = write_evidence(tmp_path / "out", audit.findings.evidence)
    assert "signed two different statements 'agree'" in proven(path, terms.roster)


def test_keys_that_are_refused_name_their_signer_with_evidence(tmp_path: Path) -> None:
    kept = record(tmp_path, rounds=1, gone=[(6, "Advert")])
    lines, terms = trees(kept.tape), kept.fed.at(round=0).terms
    at = place(lines, type="Advert", sender="client 3")
    good = control(lines[at])[2]
    signature = kept.fed.parties[6].identity.sign(terms.statement("keys", 6, good, bytes(32)))
    bad = with_control({**lines[at], "from": "client 6"}, ["Advert", 0, good, bytes(32), signature])
    audit = audit_tape(rewrite(tmp_path / "bad", [*lines[:at], bad, *lines[at:]]))
    assert {(f.check, f.status) for f in audit.findings.found} == {("tape-signed", "named")}
    (path,) = write_evidence(tmp_path / "out", audit.findings.evidence)
    assert "party 6 (party-6) signed public keys that are refused: public-key-order" in proven(path, terms.roster)
    assert audit_tape(tmp_path / "bad", without=["tape-signed"]).findings.passed


def test_every_check_has_a_title_and_was_tried_here() -> None:
    named = {*LIES, "tape-chain", "tape-keys", "tape-twice", "tape-signed", "tape-difference"}
    assert named == set(CHECKS)
