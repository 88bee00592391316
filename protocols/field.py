"""Prime fields for whole vectors: exact arithmetic modulo 2^31 − 1 or 2^61 − 1; matrix products are `protocols.products`.

Both moduli are Mersenne primes, so a reduction is a shift, a mask and an addition.

A field stands wherever the `protocols.ring.Ring` of masked vectors does: values are lifted, packed to exactly its bits, centred.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse, require
from protocols.products import SPLITS, Right, dots, product, settle
from protocols.rand import Rand
from protocols.ring import Ring, Unpacker, Write

_PIECE = 32 * 1024
"""Values of a vector that are added at once."""


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
        if self.bits not in SPLITS:
            raise Misuse(f"a field has 31 or 61 bits, not {self.bits}")

    @classmethod
    def holding(cls, parties: int, max_abs: int, *, bits: int = 0) -> Field:
        """The smallest field of at least ``bits`` with q > 2·parties·max_abs.

        Raises:
            Misuse: where there is none.
        """
        for width in SPLITS:
            if width >= bits and 2 * parties * max_abs < 2**width - 1:
                return cls(width)
        raise Misuse(
            f"no headroom: 2·n·max = 2·{parties}·{max_abs} must be below 2^{max(SPLITS)} − 1, in a field of at least {bits} bits"
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
        settle(lifted, self.bits)
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
        """``total`` + ``vector``, shape (d,), in place."""
        q, spare = self.dtype(self.modulus), np.empty(min(_PIECE, total.size), dtype=self.dtype)
        for part, other in _pieces(total, vector):
            np.add(part, other, out=part)
            less = np.subtract(part, q, out=spare[: part.size])
            np.minimum(part, less, out=part)  # what was below q has wrapped around to more than it was

    def subtract_from(self, total: NDArray[Any], vector: NDArray[Any]) -> None:
        """``total`` − ``vector``, shape (d,), in place."""
        q, spare = self.dtype(self.modulus), np.empty(min(_PIECE, total.size), dtype=self.dtype)
        for part, other in _pieces(total, vector):
            np.subtract(part, other, out=part)
            more = np.add(part, q, out=spare[: part.size])
            np.minimum(part, more, out=part)  # what was below zero has wrapped around to more than its sum with q

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
        """1/value for all at once; shape kept.  One inversion for all: of their product, formed by halves, and unfolded again.

        Raises:
            Misuse: for a zero among them.
        """
        if not values.all():
            raise Misuse("zero has no inverse")
        levels = [values.reshape(-1)]
        while (size := levels[-1].size) > 1:
            half = levels[-1][: -(-size // 2)].copy()
            half[: size // 2] = self.multiply(half[: size // 2], levels[-1][half.size :])
            levels.append(half)
        inverses = np.array([pow(int(value), -1, self.modulus) for value in levels.pop()], dtype=self.dtype)
        for level in reversed(levels):
            first, second = level[: inverses.size], level[inverses.size :]
            unfolded = inverses.copy()
            unfolded[: second.size] = self.multiply(inverses[: second.size], second)
            inverses = np.concatenate([unfolded, self.multiply(inverses[: second.size], first[: second.size])])
        return inverses.reshape(values.shape)

    def product(self, left: NDArray[Any], right: Right) -> NDArray[Any]:
        """The matrix product, exact; shapes (r, u) and (u, c), result (r, c), dtype `dtype`.

        Raises:
            Refused: ``vector-padding`` or ``field-range`` for packed rows that hold something else than field elements.
        """
        return product(self.bits, left, right)

    def dots(self, rows: NDArray[Any], vectors: NDArray[Any]) -> NDArray[Any]:
        """The dot product of each of a few long rows with each of a few vectors, exact.

        Args:
            rows: shape (m, c).
            vectors: shape (v, c).

        Returns:
            Shape (m, v), dtype `dtype`.
        """
        return dots(self.bits, rows, vectors)

    def _check(self, vector: NDArray[Any]) -> None:
        if vector.dtype != self.dtype:
            raise Misuse(f"a vector modulo {self.title} has dtype {np.dtype(self.dtype)}, not {vector.dtype}")


def _pieces(total: NDArray[Any], vector: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Both, a piece at a time, so that what is done to it stays in cache."""
    for start in range(0, total.size, _PIECE):
        yield total[start : start + _PIECE], vector[start : start + _PIECE]


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
