"""Tapes, logs and evidence with any value anywhere are looked through or refused in one line, and never anything else."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_runs import Recorded, record, rewrite, trees
from rich.console import Console

from protocols.errors import Refused
from securefl.audit.chain import Unreadable
from securefl.audit.evidence import proven, write_evidence
from securefl.audit.log_evidence import line_against_message
from securefl.audit.reconcile import reconcile
from securefl.audit.replay import replay
from securefl.audit.tape_audit import audit_tape
from securefl.errors import UserError

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from(
        ["", "server", "client 1", "client 99999", "00" * 32, "ff", "é", "secagg", "bfv", "session", "message", "end", "seal"]
    ),
    st.just([]),
    st.just({}),
    st.just([[]]),
    st.just([None]),
    st.just({"a": 1}),
    st.floats(allow_nan=False, allow_infinity=False),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record(tmp_path_factory.mktemp("run"), rounds=1, gone=[(2, "Masked")])


def spoilt(data: st.DataObject, tree: Any) -> Any:
    """The tree with one value somewhere in it replaced, or one key gone."""
    if isinstance(tree, dict) and tree and data.draw(st.integers(0, 5)):
        key = data.draw(st.sampled_from(sorted(tree)))
        if not data.draw(st.integers(0, 6)):
            return {name: value for name, value in tree.items() if name != key}
        return {**tree, key: spoilt(data, tree[key])}
    if isinstance(tree, list) and tree and data.draw(st.integers(0, 3)):
        at = data.draw(st.integers(0, len(tree) - 1))
        return [*tree[:at], spoilt(data, tree[at]), *tree[at + 1 :]]
    return data.draw(VALUES)


def spoilt_file(data: st.DataObject, source: Path, key: Any = None) -> Path:
    lines = trees(source)
    at = data.draw(st.integers(0, len(lines) - 1))
    line = spoilt(data, lines[at])
    lines[at] = line if isinstance(line, dict) and isinstance(line.get("kind"), str) else {**lines[at], "type": line}
    return rewrite(source.with_name("spoilt"), lines, key)


@settings(max_examples=200)
@given(data=st.data())
def test_any_tape_is_looked_through_or_refused(run: Recorded, data: st.DataObject) -> None:
    path = spoilt_file(data, run.tape)
    with suppress(UserError):
        audit = audit_tape(path, keep=True)
        json.dumps(audit.as_json())
        reconcile(audit, run.logs.values())
        assert "named" not in {f.status for f in audit.findings.found}
    with suppress(UserError):
        replay(path, None, Console(file=io.StringIO()))


@settings(max_examples=150)
@given(data=st.data())
def test_any_log_is_held_against_the_tape_or_refused(run: Recorded, data: st.DataObject) -> None:
    path = spoilt_file(data, run.logs[3], run.fed.parties[3].identity)
    audit = audit_tape(run.tape, keep=True)
    with suppress(Unreadable):
        reconcile(audit, [path, run.logs[4]])
        assert not [f for f in audit.findings.found if f.status == "named" and not f.detail.startswith("client 3")]


@settings(max_examples=150)
@given(data=st.data())
def test_any_evidence_is_checked_or_refused(run: Recorded, data: st.DataObject) -> None:
    audit = audit_tape(run.tape, keep=True)
    (walk,) = audit.walks.values()
    said = next(entry.said for (u, _), entry in walk.entries.items() if u == 3 and entry.said)
    line = next(iter(reconcile(audit, [run.logs[3]])[0].lines.values()))
    (path,) = write_evidence(run.tape.parent / "fuzz", [(line_against_message(3, line, said, None), *walk.sum)])
    path.write_text(json.dumps(spoilt(data, json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    with pytest.raises((UserError, Refused)):  # an honest party's line and message prove nothing, whatever is changed
        proven(path, run.fed.roster)
