"""Four values that a step may take or give, told apart by their types alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class A:
    n: int = 1


@dataclass(frozen=True)
class B:
    n: int = 1


@dataclass(frozen=True)
class C:
    n: int = 1


@dataclass(frozen=True)
class D:
    n: int = 1
