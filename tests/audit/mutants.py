"""Mutants of our own code, as patches of this process: what the harness must flag, row by row.

`python tests/audit/mutants.py` prints the table of docs/audit.md: each mutant, the rows that must flag it, and what they give.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import batch_mutants
import catalogue_mutants
import check_mutants
import kahe_mutants
import pytest
from mutating import Mutant, Patch, Scheme

from protocols import sums
from securefl.audit import audit_protocol

MUTANTS = [*catalogue_mutants.MUTANTS, *check_mutants.MUTANTS, *kahe_mutants.MUTANTS, *batch_mutants.MUTANTS]


def scheme_of(one: Mutant, patch: Patch) -> Scheme:
    """The mutated protocol; the patches stay until they are undone."""
    scheme = sums.scheme(one.protocol)
    return one.apply(patch, scheme) or scheme


def target_of(one: Mutant, patch: Patch) -> Any:
    """What is audited of a mutant: its scheme, as the command line configures its protocol."""
    from securefl.audit import Target

    return Target.of(scheme_of(one, patch))


def proof(result: Any) -> str:
    """What an attack that succeeds gives, in a cell."""
    verdict = result.verdict
    if verdict.recovered and verdict.recovered == verdict.true:
        return f"{verdict.whose or 'a party'}: {', '.join(map(str, verdict.recovered[:3]))}, … as it truly is"
    return verdict.why.removeprefix("unavailable: ")


def table() -> str:
    """What the rows that must flag each mutant make of it."""
    lines = ["| mutant | protocol | row | attack that succeeds | what it gives |", "|---|---|---|---|---|"]
    for one in MUTANTS:
        with pytest.MonkeyPatch.context() as patch:
            audit = audit_protocol(target_of(one, patch), rows=one.rows)
        first = {result.row: result for result in reversed(audit.broken)}
        for row in sorted(one.rows):
            found = first.get(row)
            told = f"{found.name} | {proof(found)}" if found else "**none** | **not flagged**"
            lines.append(f"| {one.name} | `{one.protocol}` | {row} | {told} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    print(table())
