"""What the difference of two exact sums of a run can show: sets of sites that differ by few.

If inputs hardly change between two rounds, the difference of their sums is about that of the sites in one of them alone.  A weight
does not change at all: two exact totals give away a site's rows.

What it does not show: combinations of three sums or more (`securefl.audit.participation` looks at their rank), other runs on the
same sites, and what those who were in the sums know of themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from protocols.flow import Flow
from securefl.errors import quoted
from securefl.ledger import EXACT
from securefl.results import Opened

NAMED = 3
"""Sites that are named at most; more are counted."""
MOST = 256
"""Different sets that are held against each other."""


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
        if len(inside) == contributors and len(self.first) < MOST:
            self.first.setdefault(frozenset(inside), number)

    def shown(self) -> list[Opened]:
        """The smallest difference of two sets, as a line of what was opened; nothing where all sums are over the same sites."""
        if len(self.first) < 2:
            return []
        (one, a), (other, b) = min(combinations(self.first.items(), 2), key=lambda pair: (len(pair[0][0] ^ pair[1][0]), pair[0][1]))
        apart = [quoted(name) for name in self.sites if name in one ^ other]
        who = ", ".join(apart) if len(apart) <= NAMED else f"{len(apart)} sites"
        alone = " alone: the difference of their sums is about that site" if len(apart) == 1 else ""
        note = f"the sums of rounds {a} and {b} differ by {who}{alone}"
        return [Opened("differences of these exact sums", len(self.first), EXACT, note)]
