"""The harness proves itself: every mutant is flagged by the rows that are made for it, and those rows pass without the mutation."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants import MUTANTS, target_of
from mutating import Mutant

from securefl.audit import audit_protocol
from securefl.audit.registry import ATTACKS, LIVE, ROWS


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: f"{one.name}-{one.protocol}")
def test_every_mutant_is_flagged(one: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = audit_protocol(target_of(one, monkeypatch), rows=one.rows)
    told = "\n".join(f"{r.row} {r.name}: {r.verdict.line} {r.verdict.parts}" for r in audit.results)
    assert audit.rows == one.rows, told
    for row in one.rows:  # by what an attack gained, not because one could not be played
        assert any("crashed" not in r.verdict.why and "failed" not in r.verdict.why for r in audit.broken if r.row == row), told


def rows_of(title: str) -> list[list[str]]:
    """Cells of the table below a heading of docs/audit.md, without its head."""
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def test_the_document_has_every_mutant_and_the_rows_that_flag_it() -> None:
    documented = {(cells[0], cells[1].strip("`"), int(cells[2])) for cells in rows_of("Mutants")}
    assert documented == {(one.name, one.protocol, row) for one in MUTANTS for row in one.rows}
    assert not [cells for cells in rows_of("Mutants") if "not flagged" in cells[4]]


def test_the_document_has_every_row_of_the_catalogue() -> None:
    documented = {int(cells[0]): cells[1:] for cells in rows_of("Rows")}
    assert {row: cells[0] for row, cells in documented.items()} == ROWS
    for row, (_, on) in documented.items():
        made = [known for known in ATTACKS if known.row == row]
        assert ("any protocol" in on) == any(not known.on for known in made), row
        assert ("no such part yet" in on) == (not made and row not in LIVE), row
        assert ("`securefl audit --live HOST:PORT`" in on) == (row in LIVE), row
        for shape in ("secagg", "secagg+", "lightsecagg", "kahe"):
            assert (f"`{shape}`" in on) == any(shape in known.on for known in made), row


def test_every_attack_that_can_be_lost_has_a_mutant_that_loses_it() -> None:
    """Rows that are stated for every protocol cannot be broken; rows without a part have no scripts."""
    stated, broken = {9, 10, 34}, {row for one in MUTANTS for row in one.rows}
    assert {known.row for known in ATTACKS} - stated - broken == set()
