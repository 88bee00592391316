"""What exact sums of a run can show together: sets of sites that differ by few, and sites that combinations of sums single out.

If inputs hardly change between two rounds, the difference of their sums is about that of the sites in one of them alone.  A weight
does not change at all: two exact totals give away a site's rows.

Where each round invites another cohort, so many sums are soon as many equations as there are sites.

What it does not show: small sets that only a combination of three sums or more singles out, other runs on the same sites, and what
those who were in the sums know of themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeVar

import numpy as np

from protocols.flow import Flow
from securefl.errors import quoted
from securefl.ledger import EXACT
from securefl.results import Opened

NAMED = 3
"""Sites that are named at most; more are counted."""
MOST = 256
"""Different sets that are held against each other."""
ROUNDING = 1e-9
"""How far from 1 the squared length of a unit vector's part in the row space may be for it to lie there."""
T = TypeVar("T", int, str)


@dataclass
class Cohorts:
    """Which sites are in the opened sums of a run.

    Attributes:
        sites: all, in order.
        first: for each set the round in which it was first opened.
    """

    sites: Sequence[str]
    first: dict[frozenset[str], int] = field(default_factory=dict)

    def add(self, number: int, flow: Flow, gone: Mapping[str, str], contributors: int | None) -> None:
        """A round ended: from which messages on sites were ``gone``, and how many are in its sum; None where none was opened.

        A site is in the sum if it sent its input.  Where that does not give the number of contributors, nothing is noted.
        """
        stages = [kind.__name__ for kind in flow.messages("server")]
        spending = next(
            port.type.__name__ for step in flow.of("client") if step.spends for port in step.gives if port.carrier == "message"
        )
        known = spending in stages
        inside = {name for name in self.sites if known and (name not in gone or stages.index(gone[name]) > stages.index(spending))}
        if len(inside) == contributors:
            self.note(number, inside)

    def note(self, number: int, inside: Iterable[str]) -> None:
        """The sum of a round was opened over these sites."""
        if len(self.first) < MOST:
            self.first.setdefault(frozenset(inside), number)

    def shown(self) -> list[Opened]:
        """The smallest difference of two sets, and who stands alone, as lines of what was opened; nothing of one set alone."""
        if len(self.first) < 2:
            return []
        (one, a), (other, b) = min(combinations(self.first.items(), 2), key=lambda pair: (len(pair[0][0] ^ pair[1][0]), pair[0][1]))
        apart = [quoted(name) for name in self.sites if name in one ^ other]
        who = ", ".join(apart) if len(apart) <= NAMED else f"{len(apart)} sites"
        alone = " alone: the difference of their sums is about that site" if len(apart) == 1 else ""
        note = f"the sums of rounds {a} and {b} differ by {who}{alone}"
        return [Opened("differences of these exact sums", len(self.first), EXACT, note), *self._singled_out()]

    def _singled_out(self) -> list[Opened]:
        """Sites whose own input is a combination of the sums."""
        found = set(singled_out(self.first))
        alone = [quoted(name) for name in self.sites if name in found]
        if not alone:
            return []
        who = ", ".join(alone) if len(alone) <= NAMED else f"each of {len(alone)} sites"
        note = f"the sums over {len(self.first)} sets single out {who}: what it adds alike in each, as its rows, can be worked out"
        return [Opened("combinations of these exact sums", len(self.first), EXACT, note)]


def singled_out(sets: Iterable[frozenset[T]]) -> list[T]:
    """Those whose single input is a combination of the sums over these sets: whose unit vector lies in their row space."""
    rows = list(sets)
    everybody = sorted(frozenset[T]().union(*rows))
    if not everybody:
        return []
    matrix = np.array([[one in row for one in everybody] for row in rows], dtype=np.float64)
    _, values, space = np.linalg.svd(matrix, full_matrices=False)
    space = space[values > values[0] * max(matrix.shape) * np.finfo(np.float64).eps * 8]
    parts = (space**2).sum(axis=0)
    return [one for one, part in zip(everybody, parts, strict=True) if abs(part - 1) < ROUNDING]
