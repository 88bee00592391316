"""Key-additive encryption of long vectors: RLWE modulo 2^64, where the sum of ciphertexts opens under the sum of their keys.

Sources: Lyubashevsky, Peikert, Regev, eprint 2012/230, for c = A·s + e + message; Stevens et al., USENIX Security 2022, for the
sums of its keys and ciphertexts.  Ring, order of coefficients and products are those of `protocols.primitives.negacyclic`.

A coefficient of a key or an error is the sum of 64 fair bits, less 32: the number of ones in a random word, at constant work.  A
coefficient of the message holds P digits of W bits in its upper bits; digit j of coefficient i of an element is value j·N + i of
the element's P·N values.  A ciphertext keeps the upper ℓ bits of each coefficient; the k = 64 − ℓ bits cut off are noise.

What it does not protect: a key that encrypts twice, or is in two opened sums, gives differences of inputs away.  A `Key` encrypts
once; whoever stores one must see to the rest.  Lengths are public.  Secrets stay in freed pages, as Python cannot wipe memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Abort, Misuse
from protocols.lanes import by_rows
from protocols.primitives.negacyclic import CHUNK, DEGREE, MODULUS, Elements, Factor, Limbs, Spectra, elements, limbs_for
from protocols.rand import Rand
from protocols.ring import Read, Ring, Write

__all__ = [
    "DEGREE",
    "LARGEST",
    "MODULUS",
    "MOST_NORM",
    "VARIANCE",
    "Elements",
    "Key",
    "Limbs",
    "Shape",
    "elements",
    "encrypt",
    "limbs_for",
    "most_norm",
    "open_sum",
]

LARGEST, VARIANCE = 32, 16
"""Largest absolute value and variance of a coefficient of a key or an error."""
MOST_NORM = 2**17
"""Bound of the squared norm of a sum of keys, per key: twice what is expected."""
_MANTISSA, _TWO_52 = 52, np.float64(2.0**52).view(np.uint64)


def most_norm(keys: int) -> float:
    """Norm of a sum of so many keys for which limbs are chosen: the bound, or of one key 300; a longer one takes more limbs."""
    return 300.0 if keys == 1 else math.sqrt(MOST_NORM * keys)


@dataclass(frozen=True)
class Shape:
    """How values lie in a ciphertext.

    Attributes:
        values: number of values.
        digits: P, values in a coefficient.
        width: W, bits of a digit.
        wire: ℓ, bits of a coefficient that are kept.
    """

    values: int
    digits: int
    width: int
    wire: int

    @property
    def elements(self) -> int:
        """Ring elements: ⌈values/(P·N)⌉."""
        return -(-self.values // (self.digits * DEGREE))

    @property
    def coefficients(self) -> int:
        """Coefficients of all elements."""
        return self.elements * DEGREE

    @property
    def cut(self) -> int:
        """k, bits of a coefficient that are cut off."""
        return MODULUS - self.wire

    @property
    def spare(self) -> int:
        """Bits of a coefficient below its lowest digit."""
        return MODULUS - self.digits * self.width

    @property
    def ring(self) -> Ring:
        """Z_2^ℓ, in which ciphertexts are added."""
        return Ring(self.wire)

    def expected(self, contributors: int) -> float:
        """Mean square of the noise of a coefficient in a sum of ciphertexts, modulo q."""
        return contributors * (4.0**self.cut / 12 + VARIANCE)


class Key:
    """A secret key: N coefficients; encrypts one vector, prints as ``[redacted]``, is never pickled or copied.

    Args:
        coefficients: shape (N,), int64, of absolute value up to `LARGEST`.

    Raises:
        Misuse: for another shape, dtype or range.
    """

    __slots__ = ("_coefficients", "_spent")

    def __init__(self, coefficients: NDArray[np.int64]) -> None:
        if coefficients.shape != (DEGREE,) or coefficients.dtype != np.int64:
            raise Misuse(f"a key has shape ({DEGREE},) and dtype int64, not {coefficients.shape} and {coefficients.dtype}")
        if np.abs(coefficients).max() > LARGEST:
            raise Misuse(f"a coefficient of a key is past {LARGEST}")
        self._coefficients, self._spent = coefficients, False

    @classmethod
    def draw(cls, rand: Rand, label: str = "s") -> Key:
        """A fresh key."""
        return cls(np.bitwise_count(rand.words(label, DEGREE)).astype(np.int64) - LARGEST)

    @property
    def coefficients(self) -> NDArray[np.int64]:
        """Shape (N,): what enters the secure sum of keys."""
        return self._coefficients

    def spend(self) -> NDArray[np.int64]:
        """The coefficients, for the one encryption.

        Raises:
            Misuse: for a key that has encrypted before.
        """
        if self._spent:
            raise Misuse("a key encrypts one vector ever")
        self._spent = True
        return self._coefficients

    def __repr__(self) -> str:
        return "Key([redacted])"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is never pickled or copied")


def encrypt(shape: Shape, public: Elements, key: Key, values: Read, rand: Rand) -> Write:
    """Encrypt one vector under a key that has not been used.

    Args:
        shape: of the ciphertext.
        public: the elements A.
        key: it is spent.
        values: called with a first position and a number, for so many values from there on, piece after piece, each once.
        rand: where the errors come from.

    Returns:
        A function that writes the coefficients, cut to ℓ bits, piece by piece from the first on, once: for
        `protocols.bulk.Bulk.by` with ``Packed(shape.ring, shape.coefficients)``.

    Raises:
        Misuse: for a key that has encrypted before; the function, where it is not called for one piece after the other.
    """
    return _Encryption(shape, public, key, values, rand).write


class _Encryption:
    def __init__(self, shape: Shape, public: Elements, key: Key, values: Read, rand: Rand) -> None:
        self._shape, self._public, self._values = shape, public, values
        self._factor, self._errors, self._at = Factor(key.spend()), rand.stream("errors"), 0
        self._full = np.empty((CHUNK, DEGREE), np.uint64)

    @by_rows()
    def write(self, start: int, out: NDArray[Any]) -> None:
        """Write the next coefficients."""
        if start != self._at * DEGREE or out.size % DEGREE:
            raise Misuse("a ciphertext is written once, whole elements from the first on: a second pass would add other errors")
        rows = out.reshape(-1, DEGREE)
        while len(rows):
            part = rows[: CHUNK - self._at % CHUNK]
            rows = rows[len(part) :]
            if part.dtype == np.uint64:
                self._chunk(part)
            else:
                self._chunk(self._full[: len(part)])
                np.copyto(part, self._full[: len(part)], casting="unsafe")

    def _chunk(self, out: NDArray[np.uint64]) -> None:
        self.encrypted(out)
        np.right_shift(out, np.uint64(self._shape.cut), out=out)

    def encrypted(self, out: NDArray[np.uint64]) -> None:
        """The next elements of A·s + e + message, before they are cut, into ``out``, shape (count, N)."""
        shape, first, count = self._shape, self._at, len(out)
        inside = first % CHUNK
        spectra = self._public.spectra(self._factor.split, first - inside, self._factor.room)
        if inside:
            spectra = Spectra(spectra.limbs[:, inside:], spectra.norm)
        self._factor.times(spectra, out, offset=-LARGEST, draw=self._errors.fill)
        term = self._factor.scratch[:count]  # what is in cache is used again
        for j, digits in enumerate(self._message(first, count)):
            np.left_shift(digits, np.int64(shape.spare + shape.width * j), out=term.view(np.int64))
            np.add(out, term, out=out)
        self._at += count

    def _message(self, first: int, count: int) -> NDArray[np.int64]:
        """The values of the next elements by digit, shape (P, count, N)."""
        shape = self._shape
        block = shape.digits * DEGREE
        have = min(count * block, shape.values - first * block)
        values = self._values(first * block, have)
        if have < count * block:
            values = np.concatenate([values, np.zeros(count * block - have, np.int64)])
        return values.reshape(count, shape.digits, DEGREE).transpose(1, 0, 2)


def open_sum(
    shape: Shape, public: Elements, total: NDArray[Any], key_sum: NDArray[np.int64], contributors: int
) -> NDArray[np.int64]:
    """Open a sum of ciphertexts with the sum of their keys.

    Args:
        shape: of the ciphertexts.
        public: the elements A.
        total: their sum in ``shape.ring``, shape (coefficients,), reduced or not.
        key_sum: shape (N,).
        contributors: how many ciphertexts and keys.

    Returns:
        The sums of the values, shape (values,), each in [−2^(W−1), 2^(W−1)).

    Raises:
        Abort: ``kahe-norm`` for keys that are too long together, ``kahe-residual`` where what rounding takes from an element is
            more than noise: keys, ciphertexts and A do not belong together.
    """
    if total.shape != (shape.coefficients,) or total.dtype != shape.ring.dtype or key_sum.shape != (DEGREE,):
        raise Misuse(f"a sum of {shape.coefficients} coefficients under {DEGREE} of a key, not {total.shape} and {key_sum.shape}")
    short = key_sum.astype(np.float64)
    norm = float(short @ short)  # exact below 2^53
    if norm > MOST_NORM * contributors:
        raise Abort("kahe-norm", f"the keys have the squared norm {norm:.0f}, past {MOST_NORM}·{contributors}")
    opening, rows = _Opening(shape, key_sum, contributors), total.reshape(-1, DEGREE)
    out = np.empty(shape.values, np.int64)
    with by_rows():
        for first in range(0, len(rows), CHUNK):
            spectra = public.spectra(opening.factor.split, first, opening.factor.room)
            opening.chunk(rows[first : first + CHUNK], spectra, first, out[first * shape.digits * DEGREE :])
    return out


class _Opening:
    def __init__(self, shape: Shape, key_sum: NDArray[np.int64], contributors: int) -> None:
        self._shape, self.factor = shape, Factor(-key_sum)
        self._most = 2 * shape.expected(contributors)
        # the mean of the bits cut off, and the half with which cutting the lower bits is rounding
        self._shift = contributors * ((1 << shape.cut) - 1) // 2 + (1 << (shape.spare - 1))
        self._v, self._w = (np.empty((CHUNK, DEGREE), np.uint64) for _ in range(2))
        self._values = np.empty((CHUNK, shape.digits, DEGREE), np.int64)

    def chunk(self, total: NDArray[Any], spectra: Spectra, first: int, out: NDArray[np.int64]) -> None:
        shape, count = self._shape, len(total)
        v, w = self._v[:count], self._w[:count]
        self.factor.times(spectra, v, offset=self._shift)
        if total.dtype == w.dtype:
            np.left_shift(total, np.uint64(shape.cut), out=w)
        else:
            np.copyto(w, total)
            np.left_shift(w, np.uint64(shape.cut), out=w)
        np.add(v, w, out=v)
        self._check(v, w, first)
        whole = count * shape.digits * DEGREE <= out.size
        values = out[: count * shape.digits * DEGREE].reshape(count, shape.digits, DEGREE) if whole else self._values[:count]
        self._digits(v.view(np.int64), w.view(np.int64), values)
        if not whole:
            out[:] = values.reshape(-1)[: out.size]

    def _check(self, v: NDArray[np.uint64], w: NDArray[np.uint64], first: int) -> None:
        """The mean square of what is below the digits, element by element."""
        spare, taken = self._shape.spare, w.view(np.float64)
        np.bitwise_and(v, np.uint64((1 << spare) - 1), out=w)
        if spare > _MANTISSA:
            np.copyto(taken, w, casting="unsafe")
            taken -= 2.0 ** (spare - 1)
        else:  # the representation of 2^52, with these bits at its end
            np.bitwise_or(w, _TWO_52, out=w)
            taken -= 2.0**_MANTISSA + 2.0 ** (spare - 1)
        squares = np.einsum("ij,ij->i", taken, taken) / DEGREE
        worst = int(squares.argmax())
        if squares[worst] > self._most:
            expected = self._most / 2
            raise Abort(
                "kahe-residual",
                f"element {first + worst} has {squares[worst] / expected:.1f} times the noise of its ciphertexts: "
                "they and the keys do not belong together",
            )

    def _digits(self, v: NDArray[np.int64], w: NDArray[np.int64], out: NDArray[np.int64]) -> None:
        """Digits from the lowest on, each centred: before the next is cut out, half its unit is added; uses up ``v`` and ``w``."""
        shape = self._shape
        for j in range(shape.digits):
            low, digit = shape.spare + shape.width * j, out[:, j]
            top = MODULUS - low - shape.width
            if top:
                np.left_shift(v, np.int64(top), out=w)
                np.right_shift(w, np.int64(top + low), out=digit)
                np.add(v, np.int64(1 << (low + shape.width - 1)), out=v)
            else:
                np.right_shift(v, np.int64(low), out=digit)
