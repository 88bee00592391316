"""Updates in few bits: 8 or 12 a coordinate in place of ``privacy.precision``, weights and metrics as exact as before.

Source: stochastic rounding as in `securefl.encode`.  The ring has as many bits as the updates and ⌈log2 n⌉; what needs more,
weights and named sums, is written in digits of that width, whose sums are the digits of the sum.

Needs the sums of the algorithm that it goes with, in other digits.

What it does not protect: as `securefl.encode.Plan`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.errors import Abort, Misuse
from protocols.rand import Rand
from protocols.suite import Occasion
from securefl.algorithms.base import cut
from securefl.encode import Plan, finite_vector, limit_of, round_unbiased
from securefl.encoding import Decoded, Encoded, Noiseless, SumSpec
from securefl.errors import UserError

if TYPE_CHECKING:
    from securefl.knobs import PrivacyKnobs

WEIGHTS = "weights of the blocks"


@dataclass(frozen=True)
class Quantised(Noiseless):
    """Layout: the blocks, then for weights and sums all lowest digits, all next ones, ….

    Attributes:
        blocks: length of each update block.
        clip: bound of the L2 norm of one block.
        w_max: largest weight of a party.
        precision: bits of one coordinate of an update.
        rest: layout of the weights, under the name `WEIGHTS`, and of the named sums.

    Raises:
        UserError: for no block, or a precision outside 4 … 16.
    """

    blocks: tuple[int, ...]
    clip: float
    w_max: int
    precision: int
    rest: Plan

    def __post_init__(self) -> None:
        if not self.blocks or not 4 <= self.precision <= 16:
            raise UserError(f"updates of 4 to 16 bits, at least one, not {len(self.blocks)} of {self.precision}")

    @classmethod
    def of(cls, knobs: PrivacyKnobs, parties: int, blocks: tuple[int, ...], sums: tuple[SumSpec, ...], bits: int) -> Quantised:
        """That of a job.

        Raises:
            UserError: for as many bits as the updates have without it, or more.
        """
        if bits >= knobs.precision:
            raise UserError(f"performance.update_bits is {bits}: it must be below privacy.precision, {knobs.precision}")
        weights = SumSpec(WEIGHTS, len(blocks), float(knobs.w_max), integer=True)
        rest = Plan(parties, (), 1.0, 1, (weights, *sums), knobs.precision)
        return cls(blocks, knobs.update_clip, knobs.w_max, bits, rest)

    @property
    def parties(self) -> int:
        """Parties invited."""
        return self.rest.parties

    @property
    def sums(self) -> tuple[SumSpec, ...]:
        """Named coordinates beside the updates."""
        return self.rest.sums[1:]

    @property
    def limit(self) -> int:
        """Largest absolute value of a coordinate."""
        return limit_of(self.precision)

    @property
    def bits(self) -> int:
        """Width of the ring."""
        return self.precision + (self.parties - 1).bit_length()

    @cached_property
    def digits(self) -> int:
        """Digits of a weight or a value of a sum, to the base limit + 1."""
        count, most = 1, self.rest.limit
        while most > self.limit:
            count, most = count + 1, most // (self.limit + 1)
        return count

    @property
    def size(self) -> int:
        """Integers of a party."""
        return sum(self.blocks) + self.digits * self.rest.size

    @property
    def step(self) -> float:
        """One step of a coordinate, in units of weight × update."""
        return self.w_max * self.clip / self.limit

    def encode(
        self, updates: Sequence[ArrayLike], weights: Sequence[int], sums: Mapping[str, ArrayLike], occasion: Occasion, rand: Rand
    ) -> Encoded:
        """One party's integers.

        Raises:
            UserError: as `securefl.encode.encode`.
        """
        if len(updates) != len(self.blocks) or len(weights) != len(self.blocks):
            raise UserError(f"{len(self.blocks)} blocks need as many updates and weights, not {len(updates)}, {len(weights)}")
        kept = [min(int(w), self.w_max) for w in weights]
        real = [
            finite_vector(u, size, f"update of block {i}") for i, (u, size) in enumerate(zip(updates, self.blocks, strict=True))
        ]
        within = [cut(x, self.clip) for x in real]
        parts = [np.clip(x * (w / self.step), -self.limit, self.limit) for x, w in zip(within, kept, strict=True)]
        coarse = round_unbiased(np.concatenate(parts), rand.child("updates"))
        fine = self.rest.encode([], [], {WEIGHTS: kept, **sums}, occasion, rand).vector
        clipped = tuple(a is not b for a, b in zip(within, real, strict=True))
        return Encoded(
            np.concatenate([coarse, *self._split(fine)]), clipped, tuple(i for i, w in enumerate(weights) if w > self.w_max)
        )

    def _split(self, values: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The digits of whole numbers, lowest first, each with the number's sign."""
        out, sign, left = [], np.sign(values), np.abs(values)
        for _ in range(self.digits):
            left, digit = np.divmod(left, self.limit + 1)
            out.append(sign * digit)
        return out

    def decode(self, total: NDArray[np.int64], contributors: int, occasion: Occasion) -> Decoded:
        """What the opened sum says.

        Raises:
            Misuse: wrong shape or dtype.
            Abort: as `securefl.encode.decode`.
        """
        if total.shape != (self.size,) or total.dtype != np.int64:
            raise Misuse(f"a total has shape ({self.size},) and dtype int64, not {total.shape} and {total.dtype}")
        if (np.abs(total) > contributors * self.limit).any():
            raise Abort("sum-range", f"the total is beyond ±{contributors * self.limit}")
        coarse, digits = total[: sum(self.blocks)], total[sum(self.blocks) :].reshape(self.digits, -1)
        whole = np.sum(digits * (self.limit + 1) ** np.arange(self.digits)[:, None], axis=0)
        fine = self.rest.decode(whole, contributors, occasion)
        weights = tuple(int(w) for w in fine.sums.pop(WEIGHTS))
        if not (all(0 <= w <= contributors * self.w_max for w in weights) and any(weights)):
            raise Abort("weight-total", f"total weights must be 0 to {contributors * self.w_max}, not all 0")
        parts = np.split(coarse.astype(np.float64), np.cumsum(self.blocks)[:-1])
        updates = tuple(part * (self.step / w) if w else None for part, w in zip(parts, weights, strict=True))
        return Decoded(updates, weights, fine.sums)

    @property
    def error(self) -> float:
        """Largest standard deviation of the rounding in a coordinate of the mean update of all parties at `w_max` rows."""
        return self.step / (2 * self.w_max * math.sqrt(self.parties))

    def forecast(self) -> str:
        """One line on the error of the rounding."""
        longest, error = max(self.blocks), self.error
        return (
            f"updates of {self.precision} bits: rounding moves a coordinate of the mean update of {self.parties} sites of "
            f"{self.w_max} rows by at most {error:.2g} (standard deviation; {error * math.sqrt(longest):.2g} in norm over "
            f"{longest}); fewer rows, more in proportion; privacy.update_clip = {self.clip:g} scales it"
        )
