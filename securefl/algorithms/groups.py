"""The median of group means: what one group's broken or poisoned rows do to its mean stays there.

Sources: medians of means over random groups under secure aggregation, as in Velicheti, Xia and Koyejo (2021, arXiv 2110.02940); the
coordinate-wise median, Yin et al. (ICML 2018, arXiv 1803.01498).

A vector has a block for every group, with a party's update in that of its group and zeros in the others, so one secure sum opens
all group sums.  Each party draws its group in private, for every round anew.  The server knows nobody's group, so it cannot let all
of a group but one vanish: of those whom it lets survive, at least t − |C| are honest, and a group holds only one of these with a
probability that is bounded here, over all rounds, and refused above `LONELY`.

Needs Σ w·u (d values) and Σ w of every group.

What it reveals: in place of one sum over all, one over each group, with its rows: the difference between two sums shows more the
smaller the groups are.  What it does not protect: a party that runs other software can write into every group's block; it holds
against broken sites in fewer than half of the groups, which run the right software on wrong rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.rand import Rand
from protocols.suite import Occasion
from securefl.algorithms.wrapped import Wrapped
from securefl.encoding import Decoded, Encoded
from securefl.errors import UserError

LONELY = 2.0**-20
"""Largest probability, over all rounds, that a group sum holds the update of a single honest party."""


@dataclass(frozen=True)
class Grouped(Wrapped):
    """Blocks inside come group by group for each block.

    Attributes:
        groups: G, ≥ 3.
    """

    groups: int

    def encode(
        self, updates: Sequence[ArrayLike], weights: Sequence[int], sums: Mapping[str, ArrayLike], occasion: Occasion, rand: Rand
    ) -> Encoded:
        """One party's integers, with its group drawn from ``rand``; errors as for the encoding inside."""
        (own,) = rand.below("group", self.groups, 1)
        parts, loads = list[ArrayLike](), list[int]()
        for update, weight, size in zip(updates, weights, self.blocks, strict=True):
            parts += [update if group == own else np.zeros(size) for group in range(self.groups)]
            loads += [weight if group == own else 0 for group in range(self.groups)]
        made = self.inner.encode(parts, loads, sums, occasion, rand)
        return replace(made, cut=tuple(sorted({block // self.groups for block in made.cut})))

    def decode(self, total: NDArray[np.int64], contributors: int, occasion: Occasion) -> Decoded:
        """For each block the coordinate-wise median over the means of the groups that have any weight, and the weight of all."""
        found = self.inner.decode(total, contributors, occasion)
        updates, weights = [], []
        for start in range(0, len(found.updates), self.groups):
            means = [u for u in found.updates[start : start + self.groups] if u is not None]
            updates.append(np.median(means, axis=0) if means else None)
            weights.append(sum(found.weights[start : start + self.groups]))
        return replace(found, updates=tuple(updates), weights=tuple(weights))


def lonely(groups: int, honest: int, rounds: int) -> float:
    """Bound of the probability that in some round some group holds exactly one of so many honest parties.

    A union bound: each of them is alone in its group with probability (1 − 1/G)^(honest − 1).
    """
    return min(1.0, rounds * honest * (1 - 1 / groups) ** (honest - 1))


def refuse_lonely(groups: int, threshold: int, corrupt: int, rounds: int) -> None:
    """Raise `UserError` where a group sum could be that of a single honest party."""
    honest, enough = threshold - corrupt, 2
    if lonely(groups, honest, rounds) <= LONELY:
        return
    while lonely(groups, enough, rounds) > LONELY:
        enough += 1
    raise UserError(
        f"privacy.groups = {groups} is refused: a group of the {honest} honest parties that are sure to be in a sum could be one "
        f"of them alone; it takes {enough} of them, which is about {3 * enough} parties"
    )
