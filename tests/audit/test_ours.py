"""Our own protocols under their own harness: nothing is broken, every attack is stopped by the check that its script names."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from protocols import sums
from securefl.audit import Audit, Target, audit_protocol
from securefl.audit.registry import ATTACKS, LIVE, NOT_YET, ROWS, missing

WHOLE = ("secagg", "lightsecagg")
PARTS = {
    "bfv": (1, 5, 9, 13, 14, 15, 17, 18, 20, 24, 28, 30),
    "secagg+": (1, 2, 7, 9, 13, 14, 18, 20, 22, 23, 24, 25, 26, 29),
    "ckks": (1, 5, 18, 20, 28, 30),
    "kahe": (1, 7, 8, 13, 14, 17, 18, 20, 24, 25, 26, 36, 37, 38, 39),
}


@cache
def audited(name: str) -> Audit:
    return audit_protocol(name, rows=PARTS.get(name))


@pytest.mark.parametrize("name", [*WHOLE, *PARTS])
def test_nothing_is_broken(name: str) -> None:
    assert audited(name).passed, audited(name).report


@pytest.mark.parametrize("name", [*WHOLE, *PARTS])
def test_every_attack_is_stopped_by_a_check_that_its_script_names(name: str) -> None:
    """Scripts for one family say by which check; of several tries the first that was refused is shown."""
    made = {(a.row, a.name): a for a in ATTACKS if a.on}
    shown = [r for r in audited(name).results if (r.row, r.name) in made and r.verdict.status == "refused"]
    assert len(shown) >= 4
    assert [(r.name, r.verdict.check) for r in shown if r.verdict.check not in made[r.row, r.name].notice] == []


@pytest.mark.parametrize("name", WHOLE)
def test_every_row_has_a_result(name: str) -> None:
    audit = audited(name)
    assert {r.row for r in audit.results} == set(ROWS)
    for result in audit.results:
        if not result.seconds:
            expected = NOT_YET[result.row] if result.row in NOT_YET else missing(result.row, audit.target.shape)
            assert result.verdict.why == expected


@pytest.mark.parametrize("name", WHOLE)
def test_what_works_by_design_is_shown_with_what_it_gives(name: str) -> None:
    stated = {r.row: r.verdict for r in audited(name).results if r.verdict.status == "stated"}
    assert {9, 10, 11, 16, 34} <= stated.keys()
    assert stated[9].recovered == stated[9].true != ()
    assert stated[11].recovered == stated[11].true != ()


def test_the_insecure_baseline_is_broken_with_everybodys_input() -> None:
    audit = audit_protocol("plain-insecure", rows=(1, 3, 7, 8, 13, 18, 20, 24))
    assert audit.rows == {1, 3, 7, 8, 13, 18, 20, 24}
    proofs = {r.row: r.verdict for r in audit.broken if r.verdict.recovered and r.verdict.true}
    assert {1, 3, 13, 18, 24} <= proofs.keys()
    assert all(verdict.recovered == verdict.true for verdict in proofs.values())


def test_all_that_hide_are_known_to_the_scripts() -> None:
    shapes = {name: Target.of(name).shape for name, scheme in sums.SCHEMES.items() if scheme.hides}
    assert shapes == {
        "secagg": "secagg",
        "secagg+": "secagg+",
        "lightsecagg": "lightsecagg",
        "bfv": "he",
        "ckks": "he",
        "kahe": "kahe",
    }
    assert Target.of("plain-insecure").shape == "other"


def test_every_script_says_what_it_does() -> None:
    """The lie, and who must notice; names tell scripts of one row apart."""
    assert all(a.lie and a.notice and a.play.__doc__ for a in ATTACKS)
    names = [(a.row, a.name, on) for a in ATTACKS for on in a.on or ("any",)]
    assert len(set(names)) == len(names)
    assert {a.row for a in ATTACKS} | set(NOT_YET) | LIVE == set(ROWS)


def test_toys(naive: Any, ring: Any) -> None:
    """The planted faults of one are found, and what the other says that it does not protect."""
    planted = audit_protocol(naive.SCHEME, rows=(4, 7, 11, 13, 18, 20, 24))
    assert planted.rows == {7, 13, 18, 24}
    signed = audit_protocol(ring.SCHEME, rows=(3, 4, 7, 8, 11, 13, 18, 19, 20, 24))
    assert signed.passed, signed.report
