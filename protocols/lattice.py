"""How many bits of security an RLWE key has: the primal attack in the core-SVP model, with what opened sums give away.

Sources: Alkim, Ducas, Pöppelmann, Schwabe, USENIX Security 2016, section 6.3, and Albrecht, Göpfert, Virdia, Wunderer, ASIACRYPT
2017, for when block reduction finds the secret; Bai and Galbraith, ACISP 2014, for a secret and an error of different sizes;
Becker, Ducas, Gama, Laarhoven, SODA 2016, and Laarhoven 2015 for sieving; Kim, Lee, Seo, Song, CRYPTO 2023, for hints.

Attack.  Kannan's embedding of m samples has dimension d = m + n + 1 and volume q^m; BKZ with blocks of β succeeds if
√β·σ ≤ δ^(2β−d−1)·vol^(1/d), δ = ((πβ)^(1/β)·β/(2πe))^(1/(2(β−1))).  The least β over all numbers of samples counts.  Finding a
shortest vector in one block, once, takes 2^(0.292·β) steps, 2^(0.265·β) on a quantum computer; all else is left out.

Hints.  Whoever opens a sum learns Σs and Σe over h ≥ 2 honest parties.  Of two Gaussian secrets of deviation σ, given their sum,
one is a Gaussian of deviation σ/√2 about half of it; replacing honest parties pair by pair needs no less for any h.  The theorem
for hints leaves σ/2 for plain RLWE (`PROVED`).  A binomial has the same variances, and no theorem of its own.

What it does not cover: an attack that uses the ring, which none is known to; better attacks than the primal one.  It is an
estimate, not a proof.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

CLASSICAL, QUANTUM = 0.292, 0.265
"""Exponents of sieving, bits a dimension."""
HINTED, PROVED = 1 / math.sqrt(2), 1 / 2
"""Share of its deviation that a key keeps when sums are opened: in the hybrid argument, and by the theorem."""


@dataclass(frozen=True)
class Estimate:
    """What the attack takes.

    Attributes:
        block: β, the least block size that finds the secret.
        dimension: d, of the best embedding.
    """

    block: int
    dimension: int

    @property
    def classical(self) -> float:
        """Core-SVP bits."""
        return CLASSICAL * self.block

    @property
    def quantum(self) -> float:
        """Core-SVP bits on a quantum computer."""
        return QUANTUM * self.block

    @property
    def standard(self) -> float:
        """Bits by the cost behind the tables of the Homomorphic Encryption Standard (2018): 0.292·β + 16.4 + log2 8d."""
        return self.classical + 16.4 + math.log2(8 * self.dimension)


def log2_delta(block: int) -> float:
    """log2 of the root Hermite factor of blocks of size β."""
    return math.log2((math.pi * block) ** (1 / block) * block / (2 * math.pi * math.e)) / (2 * (block - 1))


@lru_cache
def estimate(degree: int, modulus: float, secret: float, error: float | None = None) -> Estimate:
    """The least block size that breaks RLWE, over all numbers of samples.

    Args:
        degree: n.
        modulus: log2 q.
        secret: standard deviation of the secret's coefficients.
        error: the same of the errors; that of the secret where not given.
    """
    error = secret if error is None else error
    low, high = 50, 40 * degree
    while high - low > 1:
        middle = (low + high) // 2
        if _best(middle, degree, modulus, secret, error)[0] >= 0:
            high = middle
        else:
            low = middle
    return Estimate(high, _best(high, degree, modulus, secret, error)[1])


def _best(block: int, degree: int, modulus: float, secret: float, error: float) -> tuple[float, int]:
    """By how many bits blocks of this size succeed, negative where they fail, and the dimension with which they do best."""
    scale, delta = degree * math.log2(error / secret), log2_delta(block)

    def margin(d: int) -> float:
        volume = (d - degree - 1) * modulus + scale
        return (2 * block - d - 1) * delta + volume / d - 0.5 * math.log2(block) - math.log2(error)

    # volume/d − d·δ is largest at d = √(((n + 1)·log q − scale)/δ)
    d = int(math.sqrt(max(((degree + 1) * modulus - scale) / delta, 1.0)))
    return max((margin(x), x) for x in {max(d + j, degree + 2) for j in (-1, 0, 1, 2)})


def largest_modulus(degree: int, deviation: float, bits: float = 128) -> int:
    """Most bits of q with which core-SVP takes so many bits, classically."""
    low, high = 10, 400
    while high - low > 1:
        middle = (low + high) // 2
        if estimate(degree, middle, deviation).classical >= bits:
            low = middle
        else:
            high = middle
    return low
