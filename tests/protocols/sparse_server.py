"""Small federations on the ring for a server to cheat, which is `securefl.audit.secagg_server.SparseServer`."""

from __future__ import annotations

from collections.abc import Iterable

from adversary import LyingServer, ending

from protocols import sums
from securefl.audit.attacks.sparse import SIZE, TRUSTING, WEAK, world
from securefl.audit.secagg_server import SparseServer, places

__all__ = ["SCHEME", "SIZE", "TRUSTING", "WEAK", "SparseServer", "endings", "places", "world"]

SCHEME = sums.scheme("secagg+")


def endings(server: LyingServer, parties: Iterable[int]) -> set[tuple[str, str | None] | None]:
    return {ending(server.sessions[u]) for u in parties}
