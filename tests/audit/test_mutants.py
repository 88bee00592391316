"""The harness proves itself: every mutant is flagged by the rows that are made for it, and those rows pass without the mutation."""

from __future__ import annotations

import pytest
from mutants import MUTANTS, Mutant, target_of

from securefl.audit import audit_protocol

ROWS: dict[str, set[int]] = {}
for _one in MUTANTS:
    ROWS.setdefault(_one.protocol, set()).update(_one.rows)


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: f"{one.name}-{one.protocol}")
def test_every_mutant_is_flagged(one: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = audit_protocol(target_of(one, monkeypatch), rows=one.rows)
    told = "\n".join(f"{r.row} {r.name}: {r.verdict.line} {r.verdict.parts}" for r in audit.results)
    assert audit.rows == one.rows, told
    for row in one.rows:  # by what an attack gained, not because one could not be played
        assert any("crashed" not in r.verdict.why and "failed" not in r.verdict.why for r in audit.broken if r.row == row), told
