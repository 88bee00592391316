"""Public parameters of key-additive masking (`protocols.kahe`): all computed from n, d, the values' bound and the noise in the sum.

Sources: `protocols.primitives.rlwe` for the encryption, `protocols.lattice` for its security, Agarwal, Kairouz, Liu, NeurIPS 2021,
for Skellam noise; the rest is arithmetic.

Digits.  A sum of n values of absolute value up to max, and of noise that stays below T but for a chance of 2^−40, is read off a
digit of W bits if n·max + T < 2^(W−1).

Wire.  Of a coefficient the upper ℓ bits travel.  In a sum of n, the k = 64 − ℓ bits cut off, centred, and the errors add up to less
than n·(1/2 + 32/2^k) units of the last bit that travels, always; and, being sums of fair signs, to less than
√(2·n·(1/12 + 16/4^k)·ln(2^41·C)) in all of C coefficients, but for a chance of 2^−40 (Chernoff).  Rounding to the lowest digit is
right if that is below 2^(ℓ − P·W − 1).  ℓ is the least with which it is; P = 2 if there is one, else 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from protocols import lattice
from protocols.bulk import Layout, Packed
from protocols.errors import Misuse
from protocols.primitives.graph import Graph
from protocols.primitives.rlwe import DEGREE, LARGEST, MODULUS, VARIANCE, Limbs, Shape, limbs_for, most_norm
from protocols.ring import Ring
from protocols.secagg_parameters import Parameters
from protocols.suite import check_sizes, check_tail, ring_bits

SUITE = f"Kahe_RLWE{DEGREE}_Z{MODULUS}_Binomial{2 * LARGEST}_AES256CTR_"
"""Beginning of the suite string; that of the secure sum of the keys follows."""
FAILURE = 40
"""A sum is misread in fewer than 2^−40 of all cases."""
TIGHTEST = MODULUS - 1
"""Largest ℓ: with one more bit the errors would be twice as large, in units of the last."""


def noise(parties: int, cut: int, coefficients: int) -> float:
    """Bound of the noise in a sum of n ciphertexts, in units of the last bit that travels; 2^−`FAILURE` over all coefficients.

    Half a bit of q is for the mean of the bits cut off, which is rounded to a whole number where n is odd.
    """
    spread = 2 * parties * (1 / 12 + VARIANCE / 4.0**cut) * (math.log(2 * coefficients) + FAILURE * math.log(2))
    return min(parties * (0.5 + LARGEST / 2.0**cut), math.sqrt(spread) + 0.5 / 2.0**cut)


def tail(deviation: float, size: int) -> int:
    """T of Skellam noise of this deviation in the sum: a chance of 2^−`FAILURE` that any of ``size`` values has more (Chernoff)."""
    goal, variance = math.log(2 * size) + FAILURE * math.log(2), max(deviation, 1.0) ** 2
    low, high = 0, 1

    def unlikely(t: int) -> bool:
        u = t / variance
        return variance * (u * math.asinh(u) - u * u / (1 + math.sqrt(1 + u * u))) >= goal

    if not 0 <= deviation < 2**40:
        raise Misuse(f"the deviation of the noise must be in [0, 2^40), not {deviation}")
    if deviation == 0:
        return 0
    while not unlikely(high):
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if unlikely(middle) else (middle, high)
    return high


def digit_bits(parties: int, max_abs: int, tail: int = 0) -> int:
    """W: least width with n·max + T < 2^(W−1)."""
    return (parties * max_abs + tail).bit_length() + 1


def wire_bits(parties: int, size: int, digits: int, width: int) -> int | None:
    """ℓ for ``size`` values, ``digits`` in a coefficient; None where not even `TIGHTEST` bits leave room for the noise."""
    for wire in range(digits * width + 1, TIGHTEST + 1):
        if noise(parties, MODULUS - wire, Shape(size, digits, width, wire).coefficients) < 2.0 ** (wire - digits * width - 1):
            return wire
    return None


def fitted(parties: int, size: int, width: int) -> tuple[int, int]:
    """(P, ℓ) for ``size`` values of ``width`` bits.

    Raises:
        Misuse: where not even one value fits in a coefficient.
    """
    for digits in (2, 1):
        wire = wire_bits(parties, size, digits, width)
        if wire is not None:
            return digits, wire
    room = 2 * noise(parties, 1, Shape(size, 1, width, TIGHTEST).coefficients)
    raise Misuse(
        f"sums of W = {width} bits and the noise of n = {parties} ciphertexts, {math.log2(room):.1f} bits, "
        f"do not fit in the {TIGHTEST} bits of a coefficient that may travel; at most W = {widest(parties, size)} does"
    )


def widest(parties: int, size: int) -> int:
    """The largest W of which one value fits in a coefficient, for ``size`` values: the noise of n ciphertexts takes the rest."""
    return max(width for width in range(1, TIGHTEST) if wire_bits(parties, size, 1, width) is not None)


@dataclass(frozen=True)
class KaheParameters:
    """The public parameters of one sum by key-additive masking, equal for every party.

    Attributes:
        size: d, coordinates of every input vector.
        max_abs: largest absolute value of an input coordinate before noise, at least 1.
        tail: T, bound of the noise in the sum; 0 where there is none.
        keys: the secure sum of the keys: n, thresholds and graph are its.
        digits: P, values in a coefficient.
        width: W, bits of a value of the sum.
        wire: ℓ, bits of a coefficient that travel.
        degree: N.
        modulus: log2 q.

    Raises:
        Misuse: where a bound is broken or P or ℓ is not what n, d, max_abs, T and W give, with the values.
    """

    size: int
    max_abs: int
    tail: int
    keys: Parameters
    digits: int
    width: int
    wire: int
    degree: int = DEGREE
    modulus: int = MODULUS

    def __post_init__(self) -> None:
        n, keys = self.keys.parties, self.keys
        check_sizes(n, self.size, self.max_abs)
        if (self.degree, self.modulus) != (DEGREE, MODULUS):
            raise Misuse(f"kahe has N = {DEGREE} and q = 2^{MODULUS}, not N = {self.degree} and q = 2^{self.modulus}")
        check_tail(self.tail)
        if (keys.size, keys.max_abs, keys.ring.bits) != (DEGREE, LARGEST, ring_bits(n, LARGEST)):
            raise Misuse(
                f"the sum of the keys is over {DEGREE} values up to {LARGEST} in {ring_bits(n, LARGEST)} bits, "
                f"not over {keys.size} up to {keys.max_abs} in {keys.ring.bits}"
            )
        least = digit_bits(n, self.max_abs, self.tail)
        if self.width < least:
            raise Misuse(
                f"no headroom: n·max + T = {n}·{self.max_abs} + {self.tail} must be below 2^(W−1) = 2^{self.width - 1}; "
                f"{least} bits would do"
            )
        digits, wire = fitted(n, self.size + 1, self.width)
        if (self.digits, self.wire) != (digits, wire):
            raise Misuse(
                f"n = {n}, d = {self.size} and W = {self.width} give P = {digits}, ℓ = {wire}, not {self.digits}, {self.wire}"
            )

    @classmethod
    def of(
        cls,
        parties: int,
        size: int,
        max_abs: int,
        *,
        bits: int | None = None,
        threshold: int | None = None,
        corrupt: int | None = None,
        tail: int = 0,
    ) -> KaheParameters:
        """Parameters with the defaults filled in, the keys summed on the graph that is cheaper.

        ``bits`` is a lower bound of W.
        """
        check_sizes(parties, size, max_abs)
        keys = Parameters.cheapest(parties, DEGREE, LARGEST, threshold=threshold, corrupt=corrupt)
        return cls.over(keys, size, max_abs, bits=bits, tail=tail)

    @classmethod
    def over(cls, keys: Parameters, size: int, max_abs: int, *, bits: int | None = None, tail: int = 0) -> KaheParameters:
        """The same over a given secure sum of the keys: of `rlwe.DEGREE` values up to `rlwe.LARGEST`."""
        check_sizes(keys.parties, size, max_abs)
        check_tail(tail)
        width = max(bits or 0, digit_bits(keys.parties, max_abs, tail))
        digits, wire = fitted(keys.parties, size + 1, width)
        return cls(size, max_abs, tail, keys, digits, width, wire)

    @property
    def parties(self) -> int:
        """n, number of invited parties."""
        return self.keys.parties

    @property
    def ring(self) -> Ring:
        """Z_2^W of the opened sum."""
        return Ring(self.width)

    @property
    def threshold(self) -> int:
        """Parties that must agree, and smallest number of survivors."""
        return self.keys.threshold

    @property
    def corrupt(self) -> int:
        """|C|, how many parties may collude with the server."""
        return self.keys.corrupt

    @property
    def graph(self) -> Graph:
        """Who shares the secrets of the key sum with whom."""
        return self.keys.graph

    @property
    def security(self) -> float:
        """σ, bits of statistical security of the graph; infinite on the complete one."""
        return self.keys.security

    @property
    def lying_server(self) -> bool:
        """Whether the parameters hold against a server that does not follow the protocol."""
        return self.keys.lying_server

    # What follows

    @cached_property
    def shape(self) -> Shape:
        """How the d values and the coordinate that counts lie in a ciphertext."""
        return Shape(self.size + 1, self.digits, self.width, self.wire)

    @property
    def cut(self) -> int:
        """k, bits of a coefficient that are cut off."""
        return self.shape.cut

    @property
    def bits_per_value(self) -> float:
        """ℓ/P: bits of a value on the wire."""
        return self.wire / self.digits

    @property
    def upload(self) -> int:
        """Bytes of a ciphertext."""
        return layouts(self)["cipher"].nbytes

    @property
    def residual(self) -> float:
        """Bound of the noise of the sum, in units of the last bit that travels; below 2^(ℓ − P·W − 1) nothing is misread."""
        return noise(self.parties, self.cut, self.shape.coefficients)

    @property
    def failure(self) -> float:
        """Bound of the probability that some coefficient of the sum is misread; 0 where the noise cannot be so large."""
        room = 2.0 ** (self.wire - self.digits * self.width - 1)
        if self.parties * (0.5 + LARGEST / 2.0**self.cut) < room:
            return 0.0
        spread = 2 * self.parties * (1 / 12 + VARIANCE / 4.0**self.cut)
        return min(1.0, 2 * self.shape.coefficients * math.exp(-((room - 0.5 / 2.0**self.cut) ** 2) / spread))

    @property
    def lattice(self) -> lattice.Estimate:
        """Security of a key against whoever opens sums over at least two honest parties: t − |C| ≥ 2."""
        return lattice.estimate(DEGREE, MODULUS, math.sqrt(VARIANCE) * lattice.HINTED)

    @property
    def limbs(self) -> tuple[Limbs, Limbs]:
        """How the public elements are cut for a party's own product, and for that of the sum."""
        return limbs_for(most_norm(1)), limbs_for(most_norm(self.parties))

    def most(self, contributors: int) -> int:
        """Largest absolute value of a coordinate of a sum."""
        return contributors * self.max_abs + self.tail

    @cached_property
    def content(self) -> list[object]:
        """What enters the session identity."""
        return [
            *(self.size, self.max_abs, self.tail, self.digits, self.width, self.wire, self.degree, self.modulus),
            self.keys.content,
        ]


def layouts(parameters: KaheParameters) -> Mapping[str, Layout]:
    """Layouts of the raw fields of the masked message: the ciphertext, and the masked key."""
    p = parameters
    return {
        "cipher": Packed(p.shape.ring, p.shape.coefficients, kept=True),
        "masked": Packed(p.keys.ring, p.keys.size + 1, kept=True),
    }
