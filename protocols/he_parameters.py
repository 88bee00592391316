"""Public parameters of the homomorphic sums (`protocols.he`): ciphertext sizes, room for n values, security level, error.

Sources: Albrecht et al., Homomorphic Encryption Security Standard (2018), table 1 (ternary secret, classical), for the largest
modulus; Fan and Vercauteren, eprint 2012/144, section 4, for when a BFV sum decrypts; Cheon et al., eprint 2016/421, for CKKS.

A ciphertext has N coefficients modulo one prime q: additions need no chain of primes.  Every value is offset to x + max ≥ 0 and
cut in limbs; a limb and room for n of them make a digit, and a slot holds as many digits as fit: a coefficient modulo p = 2^slot
in BFV, one of N/2 numbers scaled by 2^s in CKKS.  A sum of n digits never carries into the next, so sums are read off exactly.

Noise.  SEAL's is a difference of two binomials of 21 coins, |e| ≤ 21; scaling a plaintext by q/p rounds it by up to ½.  In a sum of
n, the first adds up to 21·n at most, and beyond √(2·n·10.5·ln 2^72) in one of up to 2^31 coefficients with probability below 2^−40
(Hoeffding; 42 coins of variance ¼); the second to n/2.  Both together must stay below q/2p, where q > 2^(bits − 1).  A slot of CKKS
sees noise as a sum over N coefficients; there the rounding of the encoder is taken as random, the usual heuristic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from protocols.bulk import Blobs, Layout, Packed
from protocols.degree import allowed_thresholds
from protocols.errors import Misuse
from protocols.primitives.homomorphic import SEED, Shape
from protocols.ring import Ring
from protocols.suite import check_sizes, default_threshold, ring_bits

SUITE = "X25519_Ed25519_HKDF-SHA256_AES256GCM_BLAKE2Xb_Z"
"""End of the suite string, after scheme, N and bits of q; the width of the opened sum in bits follows."""
DEGREE, LONG, MODULUS = 4096, 16384, 60
"""N, N for long vectors in BFV (as many bytes, a little less work), and bits of q: 192-bit security or more."""
LONG_FROM = 1 << 17
"""Slots of a vector from which N is `LONG`."""
TAG = 61
"""Bits of the tag, an element of F_q with q = 2^61 − 1."""
OPENERS = 3
"""How many parties decrypt; two of them must agree."""
LARGEST = {
    1024: {128: 27, 192: 19, 256: 14},
    2048: {128: 54, 192: 37, 256: 29},
    4096: {128: 109, 192: 75, 256: 58},
    8192: {128: 218, 192: 152, 256: 118},
    16384: {128: 438, 192: 305, 256: 237},
    32768: {128: 881, 192: 611, 256: 476},
}
"""Largest log2 q by degree N and security in bits."""
_TAIL = 72 * math.log(2)
_PROXY = 42 / 4

Scheme = Literal["bfv", "ckks"]


def security(degree: int, modulus: int) -> int:
    """Bits of security against classical attacks of log2 q = ``modulus`` at N = ``degree``: 128, 192 or 256.

    Raises:
        Misuse: for another degree, or a modulus with less than 128.
    """
    if degree not in LARGEST:
        raise Misuse(f"the polynomial degree must be one of {', '.join(map(str, LARGEST))}, not {degree}")
    levels = [level for level, most in LARGEST[degree].items() if modulus <= most]
    if not levels:
        raise Misuse(f"log q = {modulus} is above {LARGEST[degree][128]}, the most with 128-bit security at N = {degree}")
    return max(levels)


def noise_bound(parties: int) -> float:
    """Bound of every coefficient's noise in a sum of ``parties`` fresh ciphertexts, up to a chance of 2^−40 over all of them."""
    return min(21 * parties, math.sqrt(2 * parties * _PROXY * _TAIL)) + parties / 2


@dataclass(frozen=True)
class HeParameters:
    """The public parameters of one homomorphic sum, equal for every party.

    Attributes:
        parties: n, number of invited parties.
        size: d, coordinates of every input vector.
        max_abs: largest absolute value of an input coordinate, at least 1.
        ring: Z_2^b of the opened sum.
        threshold: t, smallest number of survivors, and signatures of one survivor set that an opener asks for.
        corrupt: how many parties may collude with the server: 0, as all of them hold the key.
        scheme: ``bfv`` or ``ckks``.
        slot: bits of a slot: of the plain modulus in BFV.
        limb: bits of a limb of a value.
        degree: N.
        modulus: bits of q, one prime.

    Raises:
        Misuse: where a bound is broken, with the bound and the values.
    """

    parties: int
    size: int
    max_abs: int
    ring: Ring
    threshold: int
    corrupt: int
    scheme: Scheme
    slot: int
    limb: int
    degree: int = DEGREE
    modulus: int = MODULUS

    def __post_init__(self) -> None:
        n, t = self.parties, self.threshold
        check_sizes(n, self.size, self.max_abs)
        if n * self.max_abs >= self.ring.half:
            raise Misuse(
                f"no headroom: n·max = {n}·{self.max_abs} must be below R/2 = 2^{self.ring.bits - 1}; "
                f"{ring_bits(n, self.max_abs)} bits would do"
            )
        if self.corrupt != 0:
            raise Misuse(
                f"{self.scheme} holds against no party that colludes with the server, not |C| = {self.corrupt}: all have the key"
            )
        if not 2 * t > n or not 2 <= t <= n:
            allowed = allowed_thresholds(n, 0)
            raise Misuse(
                f"the threshold t = {t} breaks n < 2t ≤ 2n and t ≥ 2 with n = {n}: two different sums could be opened; {allowed}"
            )
        if not 20 <= self.modulus <= 60:
            raise Misuse(f"q has 20 to 60 bits, not {self.modulus}")
        security(self.degree, self.modulus)
        if self.limb < 1 or self.digit > self.slot:
            raise Misuse(
                f"slots of {self.slot} bits are too small for n = {n} values: limbs of {self.limb} bits "
                f"and their sums need {self.digit} bits"
            )
        most = capacity(self.scheme, n, self.degree, self.modulus)
        if self.slot > most:
            raise Misuse(
                f"slots of {self.slot} bits are too large: with q of {self.modulus} bits, N = {self.degree} and the noise of "
                f"n = {n} ciphertexts, {most} bits are decrypted"
            )

    @classmethod
    def bfv(
        cls,
        parties: int,
        size: int,
        max_abs: int,
        *,
        bits: int | None = None,
        threshold: int | None = None,
        corrupt: int | None = None,
    ) -> HeParameters:
        """Parameters of an exact sum, by BFV, with the defaults filled in: the least threshold, the fewest slots."""
        return cls._of("bfv", parties, size, max_abs, bits, threshold, corrupt)

    @classmethod
    def ckks(
        cls,
        parties: int,
        size: int,
        max_abs: int,
        *,
        bits: int | None = None,
        threshold: int | None = None,
        corrupt: int | None = None,
    ) -> HeParameters:
        """The same by CKKS, whose slots are approximate: see `error`."""
        return cls._of("ckks", parties, size, max_abs, bits, threshold, corrupt)

    @classmethod
    def _of(
        cls, scheme: Scheme, n: int, size: int, max_abs: int, bits: int | None, threshold: int | None, corrupt: int | None
    ) -> HeParameters:
        check_sizes(n, size, max_abs)
        ring = Ring(ring_bits(n, max_abs) if bits is None else bits)
        slot, limb = _cut(scheme, n, (2 * max_abs).bit_length())
        t = default_threshold(n, 0) if threshold is None else threshold
        short = cls(n, size, max_abs, ring, t, corrupt or 0, scheme, slot, limb)
        return replace(short, degree=LONG) if scheme == "bfv" and short.data_slots >= LONG_FROM else short

    # How values lie in slots

    @property
    def growth(self) -> int:
        """⌈log2 n⌉, bits that a sum of n is longer than its terms."""
        return (self.parties - 1).bit_length()

    @property
    def digit(self) -> int:
        """Bits of a digit: a limb, and room for n of them."""
        return self.limb + self.growth

    @property
    def digits(self) -> int:
        """Digits in a slot."""
        return self.slot // self.digit

    @property
    def limbs(self) -> int:
        """Limbs of a value."""
        return -(-(2 * self.max_abs).bit_length() // self.limb)

    @property
    def data_slots(self) -> int:
        """Slots of the d values and of the coordinate that counts."""
        return -(-(self.size + 1) * self.limbs // self.digits)

    @property
    def tag_limbs(self) -> int:
        """Limbs of the tag."""
        return -(-TAG // self.limb)

    @property
    def ciphertexts(self) -> int:
        """Ciphertexts of a vector: data slots, then the slots of the tag."""
        return -(-(self.data_slots + -(-self.tag_limbs // self.digits)) // self.shape.slots)

    # What follows for security, bytes and error

    @cached_property
    def shape(self) -> Shape:
        """Scheme and sizes of a ciphertext."""
        scale = 0 if self.scheme == "bfv" else _scale(self.parties, self.degree)
        return Shape(self.scheme, self.degree, self.modulus, self.slot, scale)

    @property
    def security(self) -> int:
        """Bits of security of a ciphertext against who has no key."""
        return security(self.degree, self.modulus)

    @property
    def upload(self) -> int:
        """Bytes of a party's encrypted vector."""
        return sum(layouts(self)[key].nbytes for key in ("seeds", "words"))

    @property
    def error(self) -> float:
        """Bound of what a slot of the decrypted sum is off by before it is rounded to an integer; below ½ nothing is left of it."""
        return 0.0 if self.scheme == "bfv" else slot_noise(self.parties, self.degree) / 2**self.shape.scale

    @property
    def lying_server(self) -> bool:
        """True: 2t > n."""
        return True

    @cached_property
    def content(self) -> list[object]:
        """What enters the session identity."""
        sum_part = [self.parties, self.size, self.max_abs, self.ring.bits, self.threshold, self.corrupt]
        return [*sum_part, self.scheme, self.slot, self.limb, self.degree, self.modulus]


def slot_noise(parties: int, degree: int) -> float:
    """Bound of the noise in a slot of CKKS: Σ e_i·cos(…) over N coefficients, Σ cos² = N/2; all parties may round alike."""
    return math.sqrt(parties * _PROXY * degree * _TAIL) + parties * math.sqrt(degree * _TAIL / 4)


def _scale(parties: int, degree: int) -> int:
    """Bits of the scale of CKKS: eight times the noise of a slot."""
    return math.ceil(math.log2(8 * slot_noise(parties, degree)))


def capacity(scheme: Scheme, parties: int, degree: int, modulus: int) -> int:
    """Most bits of a slot that a sum of ``parties`` ciphertexts decrypts."""
    if scheme == "bfv":
        return math.floor(modulus - math.log2(4 * noise_bound(parties)))
    return min(40, modulus - 2 - _scale(parties, degree))


def _cut(scheme: Scheme, parties: int, width: int) -> tuple[int, int]:
    """Bits of a slot and of a limb with which values of ``width`` bits take the fewest slots."""
    room, growth, best = capacity(scheme, parties, DEGREE, MODULUS), (parties - 1).bit_length(), (math.inf, 0, 0)
    for limbs in range(1, width + 1):
        limb = -(-width // limbs)
        digits = room // (limb + growth)
        if digits and limbs / digits < best[0]:
            best = (limbs / digits, digits * (limb + growth), limb)
    return best[1:]


def layouts(parameters: HeParameters) -> Mapping[str, Layout]:
    """Layouts of the raw fields of `protocols.he_types`."""
    p = parameters
    count, q = p.ciphertexts, Ring(p.modulus)
    return {
        "seeds": Blobs(count, SEED),
        "words": Packed(q, count * p.degree),
        "total": Packed(q, 2 * count * p.degree),
        "opened": Packed(p.ring, p.size + 1),
    }
