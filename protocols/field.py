"""Prime fields for whole vectors: exact arithmetic modulo 2^31 − 1 or 2^61 − 1, and matrix products through float64 BLAS.

Both moduli are Mersenne primes, so a reduction is a shift, a mask and an addition.  A matrix product splits its factors into limbs
that are small enough for every sum of products to stay below 2^53, where float64 is exact; columns and inner dimension are walked
in blocks, so beside the result little memory is needed, whatever the length of the vectors.

A field stands wherever the `protocols.ring.Ring` of masked vectors does: values are lifted, packed to exactly its bits, centred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse, require
from protocols.rand import Rand
from protocols.ring import Ring, Unpacker, Write

_COLUMNS = 4096
"""Columns of a product that are formed at once."""


@dataclass(frozen=True)
class _Split:
    """How factors are cut for float64: limbs of so many bits, and inner terms whose products may be added."""

    limb: int
    left: int  # limbs of the left factor
    right: int  # limbs of the right factor; one is taken whole, and centred where many terms are added
    terms: int


_DOT_LIMBS = {31: (16, 2), 61: (21, 3)}
"""Bits and number of limbs of both factors of a dot product."""
_SPLITS = {31: _Split(16, 2, 1, 127), 61: _Split(21, 3, 3, 2048)}


@dataclass(frozen=True)
class Field:
    """The integers modulo the Mersenne prime q = 2^bits − 1.

    Attributes:
        bits: 31 or 61.

    Raises:
        Misuse: for another width.
    """

    bits: int

    def __post_init__(self) -> None:
        if self.bits not in _SPLITS:
            raise Misuse(f"a field has 31 or 61 bits, not {self.bits}")

    @classmethod
    def holding(cls, parties: int, max_abs: int, *, bits: int = 0) -> Field:
        """The smallest field of at least ``bits`` with q > 2·parties·max_abs.

        Raises:
            Misuse: where there is none.
        """
        for width in _SPLITS:
            if width >= bits and 2 * parties * max_abs < 2**width - 1:
                return cls(width)
        raise Misuse(
            f"no headroom: 2·n·max = 2·{parties}·{max_abs} must be below 2^{max(_SPLITS)} − 1, in a field of at least {bits} bits"
        )

    @property
    def dtype(self) -> type[np.uint32 | np.uint64]:
        """Type of a value in memory."""
        return self._ring.dtype

    @property
    def modulus(self) -> int:
        """q."""
        return (1 << self.bits) - 1

    @property
    def title(self) -> str:
        """The modulus as a formula."""
        return f"2^{self.bits} − 1"

    @property
    def _ring(self) -> Ring:
        return Ring(self.bits)

    # Values in and out

    def lift(self, values: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Signed integers of absolute value below 2^62 as field elements, in ``out`` if it is given; shape kept, dtype `dtype`.

        Raises:
            Misuse: for another dtype than int64.
        """
        if values.dtype != np.int64:
            raise Misuse(f"values are lifted from int64, not {values.dtype}")
        lifted = values.copy()
        self._settle(lifted)
        if out is None:
            return lifted.astype(self.dtype)
        np.copyto(out, lifted, casting="unsafe")
        return out

    def centre(self, vector: NDArray[Any]) -> NDArray[np.int64]:
        """Field elements as signed integers of absolute value below q/2; shape kept."""
        self._check(vector)
        centred = vector.astype(np.int64)
        centred -= ((self.modulus // 2 - centred) >> 63) & self.modulus
        return centred

    def reduce(self, vector: NDArray[Any]) -> None:
        """Reduce ``vector``, dtype `dtype`, modulo q in place."""
        self._check(vector)
        np.remainder(vector, self.dtype(self.modulus), out=vector)

    def packed_size(self, count: int) -> int:
        """Bytes of ``count`` packed values."""
        return self._ring.packed_size(count)

    def pack(self, vector: NDArray[Any]) -> memoryview:
        """The `packed_size` bytes of ``vector``, shape (d,), dtype `dtype`, values below q; layout as in `protocols.ring`."""
        return self._ring.pack(vector)

    def pack_by(self, count: int, write: Write) -> memoryview:
        """The same of ``count`` values below q that ``write`` gives piece by piece (`protocols.ring.Ring.pack_by`)."""
        return self._ring.pack_by(count, write)

    def unpack(self, data: bytes | bytearray | memoryview, count: int) -> NDArray[Any]:
        """The ``count`` values packed in ``data``, shape (count,), dtype `dtype`.

        Raises:
            Refused: ``vector-length``, ``vector-padding``, or ``field-range`` for a value of q or more.
        """
        unpacker = self.unpacker(count)
        unpacker.feed(data)
        return unpacker.vector()

    def unpacker(self, count: int) -> Unpacker:
        """Decodes ``count`` packed values that come in chunks of any sizes; refuses a value of q or more."""
        return _FieldUnpacker(self, count)

    def uniform(self, rand: Rand, label: str, count: int) -> NDArray[Any]:
        """``count`` uniform elements, shape (count,), dtype `dtype`: words cut to `bits` bits, those equal to q thrown away.

        The words are draw ``"0"`` of the child ``label``; what was thrown away is made up from draws ``"1"``, ``"2"``, …
        """
        source, word = rand.child(label), np.dtype(self.dtype).newbyteorder("<")
        parts, have, draw = list[NDArray[Any]](), 0, 0
        while have < count:
            words: NDArray[Any] = np.frombuffer(source.bytes(str(draw), word.itemsize * (count - have)), dtype=word)
            cut = np.bitwise_and(words, self.dtype(self.modulus), dtype=self.dtype)
            parts.append(cut[cut != self.modulus])
            have, draw = have + parts[-1].size, draw + 1
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype=self.dtype), *parts])

    # Arithmetic: operands of dtype `dtype`, below q

    def add_into(self, total: NDArray[Any], vector: NDArray[Any]) -> None:
        """``total`` + ``vector`` in place."""
        np.add(total, vector, out=total)
        np.subtract(total, self.dtype(self.modulus), out=total, where=total >= self.modulus)

    def subtract_from(self, total: NDArray[Any], vector: NDArray[Any]) -> None:
        """``total`` − ``vector`` in place."""
        np.add(total, self.dtype(self.modulus) - vector, out=total)
        np.subtract(total, self.dtype(self.modulus), out=total, where=total >= self.modulus)

    def multiply(self, one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
        """Element by element; shapes broadcast."""
        a, b = one.astype(np.uint64), other.astype(np.uint64)
        if self.bits == 31:
            product = a * b
        else:  # schoolbook in halves of 31 and 30 bits; 2^62 ≡ 2
            low = np.uint64(2**31 - 1)
            a1, a0, b1, b0 = a >> 31, a & low, b >> 31, b & low
            middle = a1 * b0 + a0 * b1
            product = (a1 * b1 << 1) + (middle >> 30) + ((middle & np.uint64(2**30 - 1)) << 31)
            product = (product & np.uint64(self.modulus)) + (product >> 61) + a0 * b0
        for _ in range(2):
            product = (product & np.uint64(self.modulus)) + (product >> np.uint64(self.bits))
        product -= np.where(product >= self.modulus, np.uint64(self.modulus), np.uint64(0))
        return product.astype(self.dtype)

    def inverse(self, values: NDArray[Any]) -> NDArray[Any]:
        """1/value for all at once, as value^(q−2); shape kept.

        Raises:
            Misuse: for a zero among them.
        """
        if not values.all():
            raise Misuse("zero has no inverse")
        out, square = np.ones_like(values), values
        for bit in bin(self.modulus - 2)[:1:-1]:
            if bit == "1":
                out = self.multiply(out, square)
            square = self.multiply(square, square)
        return out

    def product(self, left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
        """The matrix product, exact; shapes (r, u) and (u, c), result (r, c), dtype `dtype`."""
        (rows, inner), columns, terms = left.shape, right.shape[1], _SPLITS[self.bits].terms
        cuts = [(k, self._left_limbs(left[:, k : k + terms])) for k in range(0, inner, terms)]
        out = np.empty((rows, columns), dtype=self.dtype)
        for start in range(0, columns, _COLUMNS):
            block = out[:, start : start + _COLUMNS]
            for k, limbs in cuts:
                part = self._block(limbs, right[k : k + terms, start : start + _COLUMNS])
                if k == 0:
                    block[:] = part
                else:
                    self.add_into(block, part)
        return out

    def dots(self, rows: NDArray[Any], vectors: NDArray[Any]) -> NDArray[Any]:
        """The dot product of each of a few long rows with each of a few vectors, exact.

        Args:
            rows: shape (m, c).
            vectors: shape (v, c).

        Returns:
            Shape (m, v), dtype `dtype`.
        """
        limb, count = _DOT_LIMBS[self.bits]
        longest, powers = 2 ** (53 - 2 * limb), range(2 * count - 1)
        sums = [np.zeros((len(rows), len(vectors)), dtype=np.int64) for _ in powers]
        for start in range(0, rows.shape[1], longest):
            a = [_limb(rows[:, start : start + longest], i, limb).astype(np.float64) for i in range(count)]
            b = [_limb(vectors[:, start : start + longest], i, limb).astype(np.float64) for i in range(count)]
            for i in range(count):
                for j in range(count):
                    part = (a[i] @ b[j].T).astype(np.int64)
                    self._settle(part)
                    sums[i + j] += part
                    self._settle(sums[i + j])
        total = sums[-1]
        for lower in reversed(sums[:-1]):
            total = self._shifted(total, limb) + lower
            self._settle(total)
        return total.astype(self.dtype)

    def _left_limbs(self, matrix: NDArray[Any]) -> list[NDArray[np.float64]]:
        split = _SPLITS[self.bits]
        return [_limb(matrix, i, split.limb).astype(np.float64) for i in range(split.left)]

    def _right_limbs(self, matrix: NDArray[Any]) -> list[NDArray[np.float64]]:
        split = _SPLITS[self.bits]
        if split.right > 1:
            return [_limb(matrix, j, split.limb).astype(np.float64) for j in range(split.right)]
        whole = matrix.astype(np.float64)
        if len(matrix) << (split.limb + self.bits) > 2**53:  # of few terms the sum is exact as they are
            whole -= (whole > self.modulus // 2) * float(self.modulus)
        return [whole]

    def _block(self, left: list[NDArray[np.float64]], right: NDArray[Any]) -> NDArray[Any]:
        """One block of a product, dtype `dtype`: limb products by powers of 2^limb, highest first (Horner)."""
        b, limb = self._right_limbs(right), _SPLITS[self.bits].limb
        total: NDArray[np.int64] | None = None
        for power in reversed(range(len(left) + len(b) - 1)):
            pairs = [(i, power - i) for i in range(len(left)) if 0 <= power - i < len(b)]
            column = (left[pairs[0][0]] @ b[pairs[0][1]]).astype(np.int64)
            for i, j in pairs[1:]:
                column += (left[i] @ b[j]).astype(np.int64)
            if total is not None:
                column += self._shifted(total, limb)
            self._settle(column)
            total = column
        if total is None:
            raise Misuse("a product needs at least one limb")
        return total.astype(self.dtype)

    def _shifted(self, values: NDArray[np.int64], by: int) -> NDArray[np.int64]:
        """values·2^by mod q for values in [0, q): a rotation of their bits; below 2^bits."""
        high = values >> (self.bits - by)
        values <<= by
        values &= self.modulus
        values += high
        return values

    def _settle(self, values: NDArray[np.int64]) -> None:
        """Reduce signed integers of absolute value below 2^62 into [0, q), in place."""
        for _ in range(2 if self.bits == 31 else 1):
            high = values >> self.bits
            values &= self.modulus
            values += high
        values += (values >> 63) & self.modulus
        values -= ((self.modulus - 1 - values) >> 63) & self.modulus

    def _check(self, vector: NDArray[Any]) -> None:
        if vector.dtype != self.dtype:
            raise Misuse(f"a vector modulo {self.title} has dtype {np.dtype(self.dtype)}, not {vector.dtype}")


def _limb(matrix: NDArray[Any], index: int, bits: int) -> NDArray[Any]:
    limb: NDArray[Any] = (matrix >> matrix.dtype.type(index * bits)) & matrix.dtype.type(2**bits - 1)
    return limb


class _FieldUnpacker(Unpacker):
    """An unpacker that hands out field elements only."""

    __slots__ = ("_modulus",)

    def __init__(self, field: Field, count: int) -> None:
        super().__init__(Ring(field.bits), count)
        self._modulus = field.modulus

    def vector(self) -> NDArray[Any]:
        values = super().vector()
        require(not (values >= self._modulus).any(), "field-range", f"a value is not below {self._modulus}")
        return values
