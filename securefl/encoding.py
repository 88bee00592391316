"""What a run asks of an encoding, and what goes in and comes out: `securefl.encode` without noise, `securefl.privacy` with it.

What it does not protect: these are shapes; each encoding says what its sums tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.rand import Rand
from protocols.suite import Occasion
from securefl.errors import UserError

if TYPE_CHECKING:
    from securefl.privacy.divergence import Event


@dataclass(frozen=True)
class SumSpec:
    """One named group of coordinates whose sum over the parties is opened.

    Attributes:
        name: unique within a plan.
        size: coordinates, ≥ 1.
        max: public bound of the absolute value of each party's coordinate, > 0, finite.
        integer: whole numbers; they travel exactly where ``max`` ≤ `Plan.limit`, else scaled and rounded like real numbers.
    """

    name: str
    size: int
    max: float
    integer: bool = False

    def __post_init__(self) -> None:
        if not self.name or self.size < 1:
            raise UserError(f"a sum needs a name and at least one coordinate, not {self.name!r} with {self.size}")
        if not 0 < self.max < math.inf:
            raise UserError(f"the bound of sum {self.name!r} must be positive and finite, not {self.max}")

    def exact(self, limit: int) -> bool:
        """Whether the values travel as they are."""
        return self.integer and self.max <= limit


@dataclass(frozen=True, eq=False)
class Encoded:
    """One party's input of the secure sum.

    Attributes:
        vector: shape (plan.size,), int64, absolute values ≤ ``plan.limit``.  Private.
        clipped: for each block, whether its L2 norm was above the bound.
        cut: blocks whose weight was above ``w_max`` and was lowered to it.
    """

    vector: NDArray[np.int64] = field(repr=False)
    clipped: tuple[bool, ...]
    cut: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Decoded:
    """What the sum says.

    Attributes:
        updates: for each block Σ w·x / Σ w, shape (length,), float64, or None where Σ w = 0.
        weights: for each block Σ w.
        sums: by name, shape (size,); int64 where the values travelled exactly, else float64.
        state: what `Encoding.state` is in the next round.
    """

    updates: tuple[NDArray[np.float64] | None, ...]
    weights: tuple[int, ...]
    sums: dict[str, NDArray[Any]]
    state: tuple[float, ...] = ()


class PartyAccount(Protocol):
    """What one party has spent by the sums that its masked input may be in."""

    @property
    def accountant(self) -> str:
        """What ε is computed with."""

    @property
    def epsilon(self) -> float:
        """ε as far as it is spent."""

    def charge(self, survivors: int | None, /) -> None:
        """The party's masked input has left; None where no sum was opened, or nobody knows over how many."""


class Noiseless:
    """What encodings without noise have in common: nothing changes from round to round, and training has the account, if any."""

    @property
    def tail(self) -> int:
        """0: no noise is in the sum."""
        return 0

    @property
    def state(self) -> tuple[float, ...]:
        """None."""
        return ()

    def at(self, _state: NDArray[np.float32]) -> Self:
        """The same in every round."""
        return self

    def event(self, _survivors: int | None) -> None:
        """None: no noise is in the sum."""
        return

    def account(self, _accountant: str, _before: tuple[object, ...]) -> None:
        """None: training on a site has its own, if any."""
        return


class Encoding(Protocol):
    """How updates become the integers of a sum, and the sum their mean: `securefl.encode.Plan`, or one with noise."""

    @property
    def parties(self) -> int:
        """Parties invited."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """Length of each update block."""

    @property
    def sums(self) -> tuple[SumSpec, ...]:
        """Named coordinates that are opened beside the updates."""

    @property
    def clip(self) -> float:
        """Bound of the L2 norm of an update."""

    @property
    def w_max(self) -> int:
        """Largest weight of a party."""

    @property
    def size(self) -> int:
        """Integers of a party."""

    @property
    def limit(self) -> int:
        """Largest absolute value of one, where no noise is in it."""

    @property
    def bits(self) -> int:
        """Width of the ring of their sum."""

    @property
    def tail(self) -> int:
        """Bound of the noise in the sum; 0 where there is none."""

    @property
    def state(self) -> tuple[float, ...]:
        """Public values of the round, which travel with its model and are hashed with it."""

    def at(self, state: NDArray[np.float32], /) -> Encoding:
        """The encoding of the round whose model came with these values, as many as `state` has."""

    def encode(
        self,
        updates: Sequence[ArrayLike],
        weights: Sequence[int],
        sums: Mapping[str, ArrayLike],
        occasion: Occasion,
        rand: Rand,
        /,
    ) -> Encoded:
        """One party's integers for the sum of this occasion."""

    def decode(self, total: NDArray[np.int64], contributors: int, occasion: Occasion, /) -> Decoded:
        """What the opened sum says."""

    def event(self, survivors: int | None, /) -> Event | None:
        """What a sum over so many costs each party in it, None for the fewest; None where that does not depend on them."""

    def account(self, accountant: str, before: tuple[Event, ...], /) -> PartyAccount | None:
        """A party's account of the sums that it is in, beside what was ``before``; None where its own training has one."""

    def forecast(self) -> str:
        """One line on what the noise in the sum does, and who is trusted; empty without."""
