"""The minimum cell count: which cells of a table of counts are not released, decided before they are opened.

A cell with at least 1 and fewer than k records can betray one of them.  The sites *screen* a table first: each adds for every cell
whether it has any record there, and whether it has k.  From these two sums follows a lower bound of each cell, see `Screen.least`.
A cell whose bound is below k is withheld: the sites leave it out of the counts, which are summed afterwards, so that the server
does not see it either.  The price: a cell that reaches k only by adding few records of fewer than k sites is withheld as well.

Whoever knows the total of a line could compute the one cell that is left out of it.  So every line (a row or a column of a table of
two dimensions) withholds none, two cells that together surely hold k records, or all that are not empty; further ones are those
of the smallest bound.

Source: primary and complementary suppression as in A. Hundepool et al., Statistical Disclosure Control (Wiley, 2012), chapter 4,
by lines, in the place of its linear programs.

What it does not protect: screening opens how many sites have any record in a cell, and how many have k.  Cells of several tables
can be combined; suppression by lines does not stop linear programs over many margins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefl.encoding import SumSpec
from securefl.errors import UserError

DEFAULT = 5
"""The minimum cell count unless another is given."""

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


def minimum(k: int) -> int:
    """``k``, if it is a minimum cell count.

    Raises:
        UserError: where it is no whole number of at least 1.
    """
    if isinstance(k, bool | np.bool_) or not isinstance(k, int | np.integer) or k < 1:
        raise UserError(f"the minimum cell count must be a whole number of at least 1, not {k!r}; 1 withholds nothing")
    return int(k)


def small(count: float, k: int) -> bool:
    """Whether a count is at least 1 and below k."""
    return 0 < count < k


@dataclass(frozen=True)
class Screen:
    """The sum before the counts: which cells surely hold k records.

    Attributes:
        shape: of the table, one or two dimensions.
        k: the minimum cell count.
    """

    shape: tuple[int, ...]
    k: int

    def specs(self) -> tuple[SumSpec, ...]:
        """The coordinates for a plan."""
        size = int(np.prod(self.shape))
        return tuple(SumSpec(name, size, 1, integer=True) for name in ("screen.any", "screen.enough"))

    def sums(self, own: Counts) -> dict[str, Counts]:
        """What a site adds; ``own`` are its own counts, of the table's shape."""
        flat = own.ravel()
        return {"screen.any": (flat > 0).astype(np.int64), "screen.enough": (flat >= self.k).astype(np.int64)}

    def least(self, sums: Mapping[str, NDArray[Any]]) -> Counts:
        """For each cell a number of records that it surely has: k for each site that has k, and 1 for each other that has any."""
        some, enough = (np.asarray(sums[name], dtype=np.int64).reshape(self.shape) for name in ("screen.any", "screen.enough"))
        return some + (self.k - 1) * enough


def withheld(least: Counts, k: int) -> Mask:
    """Cells that are not released.

    Args:
        least: lower bounds of the cells, of one or two dimensions; 0 for cells that are surely empty, and for no others.
        k: the minimum cell count.

    Returns:
        Cells of a bound from 1 to k − 1, and those that keep them from being computed out of the total of their line.
    """
    hidden, before = (least > 0) & (least < k), -1
    while hidden.sum() != before:
        before = hidden.sum()
        for line in _lines(least.shape):
            _complete(least[line], hidden[line], k)
    return hidden


def _lines(shape: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    if len(shape) == 1:
        yield (slice(None),)
        return
    yield from ((row, slice(None)) for row in range(shape[0]))
    yield from ((slice(None), column) for column in range(shape[1]))


def _complete(least: Counts, hidden: Mask, k: int) -> None:
    """Hide further cells of a line, in place, until two are hidden that surely hold k records, or all that are not empty."""
    while hidden.any() and (hidden.sum() < 2 or least[hidden].sum() < k):
        # Empty cells hide nothing: where there is no other, the line's total is as small, and withheld itself.
        shown = np.flatnonzero(~hidden & (least > 0))
        if not shown.size:
            return
        hidden[shown[np.argmin(least[shown])]] = True
