"""Adaptive clipping: the bound of an update follows a private quantile of the norms, learned through the same noised sum.

Source: Andrew, Thakkar, McMahan and Ramaswamy: Differentially Private Learning with Adaptive Clipping, NeurIPS 2021 (arXiv
1905.03871), algorithm 1 with its geometric step.  Different here: the bit that says whether a party's update was within the bound
is one more coordinate of the vector that the noise is sized for, which has norm 1 at most whatever the bound is, instead of a sum
with noise of its own.  So the bound costs no ε beside that of the updates and changes no parameter of a sum; a party that gets
another one from the server loses accuracy and no privacy.

What it does not protect: the bounds of all rounds are public, like the models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from protocols.errors import require
from securefl.errors import UserError
from securefl.privacy.rounding import clip

RATE = 0.2
"""η_C of the paper, which found it to work everywhere: a bound moves by a factor e^−0.2 to e^0.2 in a round."""
SHARE = 1 / 16
"""Of the squared norm, what the bit takes: noise on the updates grows by 3 %."""
SMALLEST, LARGEST = 2.0**-64, 2.0**64
"""What a bound stays within."""


@dataclass(frozen=True)
class AdaptiveClip:
    """The bound of one round, and where it is going.

    Attributes:
        bound: C, L2 bound of an update in this round, in units of the update; rounded to float32, as which it travels.
        quantile: γ in (0, 1), the share of parties whose updates should be within it.
    """

    bound: float
    quantile: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "bound", float(np.float32(self.bound)))
        if not 0 < self.quantile < 1:
            raise UserError(f"the quantile of adaptive clipping is {self.quantile}: it must lie between 0 and 1")
        require(SMALLEST <= self.bound <= LARGEST, "clip-range", f"the clipping bound {self.bound:g} is beyond 2^±64")

    def at(self, bound: float) -> AdaptiveClip:
        """The same in a round with another bound.

        Raises:
            Refused: ``clip-range``.
        """
        return replace(self, bound=bound)

    def packed(self, update: NDArray[np.float64]) -> tuple[NDArray[np.float64], bool]:
        """The update and the bit in the unit ball, shape (d + 1,), float64, and whether the update was clipped."""
        kept = clip(update, self.bound)
        clipped = kept is not update
        bit = math.copysign(math.sqrt(SHARE), -1 if clipped else 1)
        return np.append(kept * (math.sqrt(1 - SHARE) / self.bound), bit), clipped

    def unpacked(self, mean: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        """The mean update out of the mean of what was packed, shape (d,), and what share of the parties was within the bound."""
        within = (float(mean[-1]) / math.sqrt(SHARE) + 1) / 2
        return mean[:-1] * (self.bound / math.sqrt(1 - SHARE)), min(max(within, 0.0), 1.0)

    def after(self, within: float) -> float:
        """The bound of the next round, where ``within`` of the parties were within this one."""
        return min(max(self.bound * math.exp(-RATE * (within - self.quantile)), SMALLEST), LARGEST)
