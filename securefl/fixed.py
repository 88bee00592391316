"""Real numbers with more bits than one coordinate of a plan has: cut in integer digits that travel exactly.

A value v becomes q = round(v / max · (B^k − 1)) with B = limit + 1, and q its k digits in base B, all with the sign of q.  Digits
are added without carries, so Σ q comes out exactly, and Σ v to within half a `Fixed.unit` a party.

What it does not protect: the sum of each digit is opened, which tells more than their joined sum.  Where that matters, give the
plan enough precision that one digit does: a plan without blocks may have 48 bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from securefl.encode import finite_vector, within_bound
from securefl.encoding import SumSpec
from securefl.errors import UserError

WIDEST = 48
"""Most bits of a value: a float64 and the sum of 2^14 parties in an int64 hold it."""


@dataclass(frozen=True)
class Fixed:
    """A named sum of fixed-point numbers.

    Attributes:
        name: digit j is the sum ``name.j``, lowest first.
        size: values, ≥ 1.
        max: public bound of the absolute value of each party's value, > 0.
        limit: ``Plan.limit`` of the plan it goes into, a power of two minus 1.
        resolution: least number of bits of B^k, 1 … 48; it is rounded up to whole digits as far as 48 allows.
    """

    name: str
    size: int
    max: float
    limit: int
    resolution: int = 30

    def __post_init__(self) -> None:
        if self.limit < 1 or self.limit & (self.limit + 1):
            raise UserError(f"the limit of sum {self.name!r} must be a power of two minus 1, not {self.limit}")
        if not 1 <= self.resolution <= WIDEST:
            raise UserError(f"the resolution of sum {self.name!r} must be 1 to {WIDEST} bits, not {self.resolution}")
        if not 0 < self.max < math.inf:
            raise UserError(f"the bound of sum {self.name!r} must be positive and finite, not {self.max}")

    @property
    def digit_bits(self) -> int:
        """log2 B."""
        return self.limit.bit_length()

    @property
    def limbs(self) -> int:
        """Number of digits, k."""
        return -(-self.resolution // self.digit_bits)

    @property
    def levels(self) -> int:
        """Largest q."""
        return (1 << min(self.limbs * self.digit_bits, WIDEST)) - 1

    @property
    def unit(self) -> float:
        """What 1 of Σ q is worth."""
        return self.max / self.levels

    def specs(self) -> tuple[SumSpec, ...]:
        """The coordinates for a plan."""
        return tuple(SumSpec(f"{self.name}.{j}", self.size, self.limit, integer=True) for j in range(self.limbs))

    def split(self, values: ArrayLike) -> dict[str, NDArray[np.int64]]:
        """The digits of ``values``, shape (size,), by name.

        Raises:
            UserError: wrong shape, NaN or inf, or beyond ± ``max``.
        """
        real = within_bound(finite_vector(values, self.size, f"sum {self.name!r}"), self.max, self.name)
        q = np.rint(real / self.max * self.levels).astype(np.int64)
        sign, rest = np.sign(q), np.abs(q)
        return {
            f"{self.name}.{j}": sign * ((rest >> np.int64(j * self.digit_bits)) & np.int64(self.limit)) for j in range(self.limbs)
        }

    def join(self, sums: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Σ v, shape (size,), float64, out of `securefl.encoding.Decoded.sums`."""
        total = np.zeros(self.size, dtype=np.int64)
        for j in range(self.limbs):
            total += sums[f"{self.name}.{j}"].astype(np.int64) << np.int64(j * self.digit_bits)
        return total.astype(np.float64) * self.unit
