"""What opened sums give away together: sums over sets that differ by few, and parties that combinations of sums single out.

Every opened sum is a row of 0 and 1 over the parties.  If inputs hardly change between rounds, the difference of two sums is that
over the parties in which their sets differ; and a party whose unit vector lies in the row space of all sums stands alone.

What it does not show: what inputs that do change give away, and small sets that only a combination of three sums or more singles
out, as the shortest vector of a space is hard to find.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from securefl.privacy.differencing import singled_out

ROWS = 1024
"""Different sets that are held against each other at most, for each kind of sum."""


@dataclass
class Participation:
    """Sets of the opened sums of one kind: one run, vectors of one length.

    Attributes:
        first: for each set the line at which it was first opened.
        cut: whether there were more different sets than are kept.
    """

    first: dict[frozenset[int], int] = field(default_factory=dict)
    cut: bool = False

    def add(self, members: Iterable[int], line: int) -> None:
        """A sum over these parties was opened, or could be."""
        row = frozenset(members)
        if len(self.first) < ROWS:
            self.first.setdefault(row, line)
        else:
            self.cut = self.cut or row not in self.first

    def close(self, fewest: int) -> list[tuple[int, int, frozenset[int]]]:
        """Pairs of lines whose sets differ by fewer parties than ``fewest``, and those parties, the fewest first."""
        rows = list(self.first.items())
        pairs = [(a, b, one ^ other) for i, (one, a) in enumerate(rows) for other, b in rows[i + 1 :] if len(one ^ other) < fewest]
        return sorted(pairs, key=lambda pair: (len(pair[2]), pair[:2]))

    def alone(self) -> list[int]:
        """Parties whose single input is a combination of the sums."""
        return singled_out(self.first)
