"""Where a site stands among the others: how many sites have an update and a loss of which size, out of the round's secure sum.

With ``privacy.places`` each site adds a 1 in one of `BINS` ranges of the norm of its update, and in one of the loss of the global
model on its held-out rows.  The sums are counts of sites; a site knows its own two values, so it sees its place, and nobody sees
another's.

What it does not protect: the counts are exact and are about sites.  Where one site alone is in a range, everybody learns that some
site is there; those who know all others know which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from securefl.encoding import SumSpec

if TYPE_CHECKING:
    from securefl.job import Job

BINS = 12
NORM, LOSS = "norm", "loss"
KINDS = (NORM, LOSS)
LEAST_LOSS = 2.0**-5
"""Upper end of the first range of losses, in nats a row; each further range is twice as wide."""
TOLD = {
    "sites by the norm of their update and by their loss": "how many sites are in each of twelve ranges; one that is alone in a "
    "range is known to be there, not which it is"
}
"""What is opened beside the updates, and what it tells."""


@dataclass
class Own:
    """A site's own place, round by round; nobody else has it.

    Attributes:
        clip: bound of an update.
        found: ranges of norm and loss, None without held-out rows, of each round that the site trained in.
    """

    clip: float
    found: list[tuple[int, int | None]] = field(default_factory=list)

    def plain(self) -> list[dict[str, int | None]]:
        """As JSON-ready data."""
        return [dict(zip(KINDS, one, strict=True)) for one in self.found]

    def add(self, updates: Sequence[NDArray[Any]], loss: float | None) -> dict[str, NDArray[np.int64]]:
        """Note the place of a round: the mean norm of the updates over the models, and the loss; returns what the site adds."""
        norm = float(np.mean([np.linalg.norm(update) for update in updates]))
        self.found.append((place(NORM, norm, self.clip), None if loss is None else place(LOSS, loss, self.clip)))
        return sums(self.found[-1])


def specs(job: Job) -> tuple[SumSpec, ...]:
    """The coordinates; none unless the job asks for them."""
    return tuple(SumSpec(_name(kind), BINS, 1, integer=True) for kind in KINDS) if job.privacy.places else ()


def edges(kind: str, clip: float) -> tuple[float, ...]:
    """Upper ends of the ranges but the last, ascending, shape (BINS − 1,): each twice the one before.

    Args:
        kind: `NORM` or `LOSS`.
        clip: the bound of an update; the last range of norms is what reaches it and is cut.
    """
    first = clip * 2.0 ** -(BINS - 2) if kind == NORM else LEAST_LOSS
    return tuple(first * 2.0**at for at in range(BINS - 1))


def place(kind: str, value: float, clip: float) -> int:
    """The range of a value; one that is no number is in the last."""
    return BINS - 1 if math.isnan(value) else int(np.searchsorted(edges(kind, clip), value, side="right"))


def sums(found: tuple[int, int | None]) -> dict[str, NDArray[np.int64]]:
    """What a site adds."""
    out = {_name(kind): np.zeros(BINS, dtype=np.int64) for kind in KINDS}
    for kind, at in zip(KINDS, found, strict=True):
        if at is not None:
            out[_name(kind)][at] = 1
    return out


def read(total: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Counts of sites by range, as metrics ``norm.0`` … and ``loss.0`` …; empty where none were opened."""
    return {
        f"{kind}.{at}": float(count)
        for kind in KINDS
        if _name(kind) in total
        for at, count in enumerate(np.ravel(total[_name(kind)]))
    }


def counts(metrics: Mapping[str, float], kind: str) -> list[int]:
    """The counts of a round's metrics, or nothing."""
    names = [f"{kind}.{at}" for at in range(BINS)]
    return [int(metrics[name]) for name in names] if set(names) <= set(metrics) else []


def ranges(kind: str, clip: float) -> list[str]:
    """The ranges in words."""
    ends = [f"{end:.3g}" for end in edges(kind, clip)]
    last = f"{ends[-1]} or more" + (", cut" if kind == NORM else "")
    return [f"below {ends[0]}", *(f"{low} to {high}" for low, high in pairwise(ends)), last]


def _name(kind: str) -> str:
    return f"places.{kind}"
