"""Ways to run a federation in which somebody cheats: those of `securefl.audit`, and what only tests need."""

from __future__ import annotations

import sys

import pytest

from protocols import errors, sums
from protocols.session import Session
from protocols.wire import Limits
from securefl.audit.cheating import pair
from securefl.audit.federation import MAX_ABS, Federation, ending, faults, federation, run
from securefl.audit.secagg_server import Box, packed, pair_keys, rebuild, unmask, unpacked
from securefl.audit.secagg_server import SecAggServer as LyingServer

__all__ = [
    "EVERYBODY",
    "FIELD",
    "MAX_ABS",
    "SCHEME",
    "Box",
    "Federation",
    "LyingServer",
    "ending",
    "faults",
    "federation",
    "limits",
    "packed",
    "pair",
    "pair_keys",
    "rebuild",
    "restore",
    "run",
    "unmask",
    "unpacked",
    "without_check",
]

SCHEME = sums.scheme("secagg")
EVERYBODY = (1, 2, 3, 4, 5, 6)
FIELD = 2**255 - 19
"""Modulus of the coordinates of X25519."""


def without_check(patch: pytest.MonkeyPatch, *checks: str) -> None:
    """Take exactly these checks out of the whole package."""

    def lenient(ok: object, check: str, detail: str = "", *, sender: str | None = None) -> None:
        if check not in checks:
            errors.require(ok, check, detail, sender=sender)

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "protocols" and name != "protocols.errors" and hasattr(module, "require"):
            patch.setattr(module, "require", lenient)


def restore(session: Session, state: object, *steps: str) -> None:
    """A party whose state outlives its use, as from the image of a machine: it holds ``state`` again, and no step has run."""
    session._values[type(state)] = state
    for step in steps:
        session._arrivals._fired.pop(step, None)


def limits(fed: Federation) -> Limits:
    """Sizes of a session of the federation."""
    return fed.limits
