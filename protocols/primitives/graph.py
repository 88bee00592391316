"""Who masks with whom: the communication graph of a masked sum.

Source: Bonawitz et al., CCS 2017 (eprint 2017/281) for the complete graph, where every party also holds a share of its own
self-mask seed; Bell, Bonawitz, Gascón, Lepoint, Raykova: Secure Single-Server Aggregation with (Poly)Logarithmic Overhead, CCS 2020
(eprint 2020/704), definition 3.1 for the Harary graph on a random order, where nobody holds a share of its own secrets.
A graph is a public parameter and enters the session identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse
from protocols.rand import Rand, Seed


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

    def others(self, members: Sequence[int], seed: bytes) -> dict[int, NDArray[np.int16]]:
        """For each of ``members`` its `holders` but for itself, ascending: with whom it exchanges shares, which goes both ways."""

    def along(self, members: Sequence[int], seed: bytes) -> list[int]:
        """``members`` in an order in which those who share holders stand close together."""


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

    def others(self, members: Sequence[int], seed: bytes) -> dict[int, NDArray[np.int16]]:  # noqa: ARG002
        """All members but itself."""
        everybody = np.array(members, dtype=np.int16)
        return {u: np.delete(everybody, i) for i, u in enumerate(members)}

    def along(self, members: Sequence[int], seed: bytes) -> list[int]:  # noqa: ARG002
        """As they come: all share all holders."""
        return list(members)


@dataclass(frozen=True)
class Harary:
    """A ring in random order in which everybody is joined with the ``degree``/2 places before and after.

    The order is of the whole roster, so that who stays away in round 0 is a dropout like any other.  A dealer is not among its
    holders.  Whether degree and threshold are safe is for `protocols.degree` to say.

    Attributes:
        parties: n, places on the ring.
        degree: k, even, below n − 1.
        threshold: t, shares that rebuild a secret, out of k.
        security: σ, bits of statistical security that degree and threshold were computed for.
        gap: c_h, members of U3 that the k/2 places after each one must exceed; None against a server that follows the protocol,
            where nothing is demanded.

    Raises:
        Misuse: for a degree, threshold or gap outside these bounds.
    """

    parties: int
    degree: int
    threshold: int
    security: int
    gap: int | None

    def __post_init__(self) -> None:
        n, k, t = self.parties, self.degree, self.threshold
        if k % 2 or not 2 <= k < n - 1:
            raise Misuse(f"the degree k = {k} must be even and in [2, {n - 2}] with n = {n}")
        if not 2 <= t <= k:
            raise Misuse(f"the threshold t = {t} of a neighbourhood must be in [2, k = {k}]")
        if not 1 <= self.security <= 128:
            raise Misuse(f"the security parameter σ = {self.security} must be in [1, 128]")
        if self.gap is not None and not 0 <= self.gap < k // 2:
            raise Misuse(f"the gap c_h = {self.gap} must be in [0, k/2 − 1 = {k // 2 - 1}]")

    @property
    def content(self) -> list[object]:
        """What enters the session identity."""
        return ["harary", self.degree, self.threshold, self.security, self.gap]

    def holders(self, index: int, members: Sequence[int], seed: bytes) -> tuple[int, ...]:
        """The neighbours of ``index`` among ``members``, without itself."""
        order, place = ring_order(self.parties, seed)
        around = np.r_[-(self.degree // 2) : 0, 1 : self.degree // 2 + 1]
        neighbours = order[(place[index - 1] + around) % self.parties] + 1
        if len(members) == self.parties:
            return tuple(np.sort(neighbours).tolist())
        return tuple(sorted(set(neighbours.tolist()).intersection(members)))

    def others(self, members: Sequence[int], seed: bytes) -> dict[int, NDArray[np.int16]]:
        """The neighbours of all ``members`` at once."""
        order, place = ring_order(self.parties, seed)
        around = np.r_[-(self.degree // 2) : 0, 1 : self.degree // 2 + 1]
        at, present = place[np.asarray(members) - 1], np.zeros(self.parties + 1, dtype=bool)
        rows = np.sort(order[(at[:, None] + around) % self.parties] + 1, axis=1).astype(np.int16)
        present[np.asarray(members)] = True
        whole = len(members) == self.parties
        return dict(zip(members, rows if whole else [row[present[row]] for row in rows], strict=True))

    def along(self, members: Sequence[int], seed: bytes) -> list[int]:
        """Along the ring."""
        _, place = ring_order(self.parties, seed)
        return sorted(members, key=lambda u: int(place[u - 1]))

    def thin_place(self, present: Sequence[int], seed: bytes) -> int | None:
        """A party of ``present`` after which no more than c_h of the next k/2 places are of ``present``; None if there is none.

        Where there is none, the honest members of ``present`` are connected whoever else was lost, except with probability
        2^−(σ+1) over the order.
        """
        if self.gap is None:
            return None
        order, place = ring_order(self.parties, seed)
        here = np.zeros(self.parties, dtype=np.int64)
        at = place[np.asarray(present, dtype=np.int64) - 1]
        here[at] = 1
        upto = np.concatenate([[0], np.cumsum(np.tile(here, 2))])
        after = upto[at + self.degree // 2 + 1] - upto[at + 1]
        thin = np.flatnonzero(after <= self.gap)
        return int(order[at[thin[0]]]) + 1 if thin.size else None


@lru_cache(maxsize=8)
def ring_order(parties: int, seed: bytes) -> tuple[NDArray[Any], NDArray[Any]]:
    """The random order of a ring, public: the party (from 0) at each place, and the place of each party; shapes (n,), int64.

    Parties are sorted by 64-bit words drawn from SHA-256(label ‖ seed); of equal words the lower index comes first.
    """
    key = Rand(Seed(hashlib.sha256(b"securefl ring order" + seed).digest()))
    order = np.argsort(key.words("order", parties), kind="stable").astype(np.int64)
    place = np.empty_like(order)
    place[order] = np.arange(parties)
    for shared in (order, place):
        shared.flags.writeable = False
    return order, place
