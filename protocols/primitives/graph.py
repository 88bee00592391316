"""Who masks with whom: the communication graph of a masked sum.

Source: Bonawitz et al., CCS 2017, uses the complete graph, where every party also holds a share of its own self-mask seed.
A graph is a public parameter and enters the session identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Graph(Protocol):
    """A communication graph over the parties of the round-0 list."""

    @property
    def content(self) -> list[object]:
        """What enters the session identity."""

    def holders(self, index: int, members: Sequence[int], seed: bytes) -> tuple[int, ...]:
        """Who holds shares of the secrets of ``index``: ascending roster indexes out of ``members``.

        Args:
            index: the dealer.
            members: the parties of the round-0 list, ascending.
            seed: public, fixed after the list: what a random graph is drawn from.
        """


@dataclass(frozen=True)
class Complete:
    """Everybody with everybody; a party holds a share of its own self-mask seed."""

    @property
    def content(self) -> list[object]:
        """What enters the session identity."""
        return ["complete"]

    def holders(self, index: int, members: Sequence[int], seed: bytes) -> tuple[int, ...]:  # noqa: ARG002  (the same for all)
        """All members, the dealer included."""
        return tuple(members)
