"""Ways to run a federation in which somebody cheats: those of `securefl.audit`, and what only tests need."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from protocols import errors, sums
from protocols.agreement import Agree
from protocols.primitives.agree import KeyPair
from protocols.secagg_types import Openings
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
    "both_secrets",
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


def both_secrets(fed: Federation, server: LyingServer, victim: int) -> tuple[bytes, Any, Any]:
    """L, the victim's seed and its pair keys, from a server whose parties' states outlive their use: both shares are opened."""
    L = server.up_to_masks()
    images = {u: server.collude(u) for u in EVERYBODY}
    server.agree_on()
    server.open_all()
    b = rebuild(server.shares(victim, "b", {}, dict.fromkeys(EVERYBODY, EVERYBODY)), fed.t)
    for u, session in server.sessions.items():
        restore(session, images[u], "consent", "open_shares")
    del server.sessions[victim], server.heard[victim, Agree], server.heard[victim, Openings]
    server.agree_on((victim,))
    server.open_all()
    s_sk = rebuild(server.shares(victim, "s", {}, dict.fromkeys(EVERYBODY, EVERYBODY[1:])), fed.t)
    assert b is not None
    assert s_sk is not None
    pairs = pair_keys(fed.terms, L, victim, server.publics, {victim: KeyPair.from_secret(s_sk)})
    return L, b, pairs
