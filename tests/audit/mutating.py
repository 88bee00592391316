"""How mutants of our own code are declared, as patches of this process, and the means that most of them take."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from protocols import errors, sums

Patch = pytest.MonkeyPatch
Scheme = sums.Scheme


@dataclass(frozen=True)
class Mutant:
    """One mutation.

    Attributes:
        name: what is wrong.
        protocol: what is audited.
        rows: rows that must flag it.
        apply: patches the process, or gives a changed scheme.
    """

    name: str
    protocol: str
    rows: frozenset[int]
    apply: Callable[[Patch, Scheme], Scheme | None]


def declaring(into: list[Mutant]) -> Callable[..., Callable[[Any], Any]]:
    """What declares the mutants of a list."""

    def mutant(name: str, *rows: int, on: str | tuple[str, ...] = "secagg") -> Callable[[Any], Any]:
        def declare(apply: Callable[[Patch, Scheme], Scheme | None]) -> Any:
            into.extend(Mutant(name, p, frozenset(rows), apply) for p in ((on,) if isinstance(on, str) else on))
            return apply

        return declare

    return mutant


def without(*checks: str) -> Callable[[Patch, Scheme], None]:
    """Checks taken out of the whole package."""

    def apply(patch: Patch, _scheme: Scheme) -> None:
        def lenient(ok: object, check: str, detail: str = "", *, sender: str | None = None) -> None:
            if check not in checks:
                errors.require(ok, check, detail, sender=sender)

        everywhere(patch, "require", lenient, but="protocols.errors")

    return apply


def everywhere(patch: Patch, name: str, value: object, *, but: str = "") -> None:
    """Replace a name in every module of the package that has it."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "protocols" and module_name != but and hasattr(module, name):
            patch.setattr(module, name, value)


ALL = ("secagg", "lightsecagg", "bfv")
"""Protocols of three families."""
