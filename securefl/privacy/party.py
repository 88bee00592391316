"""Differential privacy of whole parties by noise inside the sum: the encoding of a round, and what it costs each party.

The unit is a party: its whole contribution to every round of the run.  Two neighbouring runs differ in one party's updates, present
or zero; who takes part is public, like the roster, and so is how many survived.  Nothing exact leaves beside the sum: all parties
weigh the same, and no metric is summed.

Sources: as in `securefl.privacy.noised` and `securefl.privacy.noise_plan`.

What it does not protect: against the other parties and whoever gets the model, noise of at least `Cohort.honest` parties counts;
against a server that also knows the noise of more than |C| parties, less does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.errors import Misuse
from protocols.rand import Rand, Seed
from protocols.suite import Occasion
from protocols.wire import canonical
from securefl.encode import finite_vector
from securefl.encoding import Decoded, Encoded
from securefl.errors import UserError
from securefl.privacy.adaptive import SHARE, AdaptiveClip
from securefl.privacy.divergence import Event, epsilon_of_events
from securefl.privacy.noise_plan import Cohort, NoisePlan
from securefl.privacy.noised import contribution, mean
from securefl.privacy.noised_sum import NoisedSum, refuse_sums
from securefl.privacy.rounding import clip, round_signs


@dataclass(frozen=True)
class PartyLevel(NoisedSum):
    """An `securefl.encoding.Encoding` with noise in the sum.

    Attributes:
        plan: grid, noise and width.
        blocks: length of each update block; a party's update is all of them together, clipped as one.
        adaptive: where the clipping bound follows a quantile; the plan is then of one coordinate more, clipped to 1.
    """

    plan: NoisePlan
    blocks: tuple[int, ...]
    adaptive: AdaptiveClip | None = None

    def __post_init__(self) -> None:
        if sum(self.blocks) + (self.adaptive is not None) != self.plan.size:
            raise Misuse(f"the blocks {self.blocks} have {sum(self.blocks)} coordinates, the plan {self.plan.size}")
        if self.adaptive is not None and self.plan.clip != 1:
            raise Misuse(f"the plan of adaptive clipping is for vectors of norm 1, not {self.plan.clip:g}")

    @property
    def clip(self) -> float:
        """Bound of the L2 norm of a party's whole update, in this round."""
        return self.plan.clip if self.adaptive is None else self.adaptive.bound

    @property
    def size(self) -> int:
        """Coordinates after padding to a power of two."""
        return self.plan.dimension

    @property
    def state(self) -> tuple[float, ...]:
        """The clipping bound, where it is another one in every round."""
        return () if self.adaptive is None else (self.adaptive.bound,)

    def at(self, state: NDArray[np.float32]) -> PartyLevel:
        """The encoding of a round.

        Raises:
            Refused: ``clip-range`` for a bound that is none.
        """
        return self if self.adaptive is None else replace(self, adaptive=self.adaptive.at(float(state[0])))

    def encode(
        self, updates: Sequence[ArrayLike], _weights: Sequence[int], sums: Mapping[str, ArrayLike], occasion: Occasion, rand: Rand
    ) -> Encoded:
        """Clip, rotate, scale, round conditionally, add noise.

        Raises:
            UserError: for another shape, NaN or inf, or sums, which would leave without noise.
        """
        refuse_sums(sums)
        if len(updates) != len(self.blocks):
            raise UserError(f"{len(self.blocks)} blocks need as many updates, not {len(updates)}")
        parts = [
            finite_vector(update, size, f"update of block {i}")
            for i, (update, size) in enumerate(zip(updates, self.blocks, strict=True))
        ]
        whole = np.concatenate(parts)
        if self.adaptive is None:
            clipped = clip(whole, self.clip) is not whole
        else:
            whole, clipped = self.adaptive.packed(whole)
        return Encoded(contribution(self.plan, whole, rotation(occasion), rand), (clipped,), ())

    def forecast(self) -> str:
        """One line on what the noise does to a mean update over all parties."""
        return expectation(self)

    def decode(self, total: NDArray[np.int64], contributors: int, occasion: Occasion) -> Decoded:
        """The mean update of each block; every weight is the number of parties."""
        found = mean(self.plan, total, contributors, rotation(occasion))
        state: tuple[float, ...] = ()
        if self.adaptive is not None:
            found, within = self.adaptive.unpacked(found)
            state = (self.adaptive.after(within),)
        ends = np.cumsum(self.blocks)[:-1]
        return Decoded(tuple(np.split(found, ends)), (contributors,) * len(self.blocks), {}, state)


def rotation(occasion: Occasion) -> Seed:
    """The public seed of a round's rotation: all parties have it, and none could choose it."""
    o = occasion
    return round_signs(canonical([o.run, o.round, o.attempt, o.model]))


class Costed(Protocol):
    """A plan whose sums have a price: `NoisePlan`, `securefl.privacy.record_plan.RecordPlan`."""

    @property
    def cohort(self) -> Cohort:
        """Who takes part."""

    @property
    def delta(self) -> float:
        """δ over all rounds."""

    def event(self, survivors: int, rounds: int = 1) -> Event:
        """What ``rounds`` sums over ``survivors`` parties cost."""


@dataclass
class Account:
    """What one party has spent, of its own ε or of each of its records'.

    Attributes:
        plan: of the run.
        survivors: over how many parties each sum went that the party's masked input may be in.
        before: what was opened before, under the same ε.
    """

    plan: Costed
    survivors: Counter[int] = field(default_factory=Counter)
    before: tuple[Event, ...] = ()

    def charge(self, survivors: int | None) -> None:
        """The party's masked input has left; ``survivors`` is None where no sum was opened, or nobody knows."""
        self.survivors[self.plan.cohort.smallest if survivors is None else survivors] += 1

    @property
    def accountant(self) -> str:
        """What ε is computed with."""
        return "rdp"

    @property
    def epsilon(self) -> float:
        """ε at the plan's δ, as far as it is spent."""
        rounds = [self.plan.event(s, count) for s, count in sorted(self.survivors.items())]
        return epsilon_of_events([*self.before, *rounds], self.plan.delta)


def expectation(encoding: PartyLevel) -> str:
    """One line on what the noise does to a mean update over all parties."""
    plan, bound = encoding.plan, encoding.clip
    n, error = plan.cohort.clients, plan.error(plan.cohort.clients)
    if encoding.adaptive is not None:
        error *= bound / math.sqrt(1 - SHARE)
    line = f"noise inside the sum: the mean of {n} updates, each of at most {bound:g}, carries an error of norm about {error:.3g}"
    if error <= bound:
        return line
    return f"{line}, more than any update: it takes about {math.ceil(n * error / bound)} parties, a smaller model or a larger ε"
