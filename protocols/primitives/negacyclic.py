"""Exact products in Z_q[X]/(X^N + 1), N = 4096, q = 2^64, of long public uniform elements with one short factor.

Sources: Percival, Math. Comp. 72 (2003), and Brent, Percival, Zimmermann, Math. Comp. 76 (2007), for the rounding errors of
floating-point transforms and complex products; docs/security-parameters.md for what follows here.

An element is held as N/2 Gaussian integers: its coefficients are in the order 0, N/2, 1, N/2 + 1, …  With i for X^(N/2) the ring is
Z_q[i][X]/(X^(N/2) − i), and a product takes complex transforms of length N/2 with a twist.  The public factor is cut in balanced
limbs, small enough for every coefficient of a product to be off by less than 1/2 before it is rounded.

What it does not protect: products are computed at constant work, but floating-point units make no promise on time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from protocols.errors import Misuse

DEGREE = 4096
"""N."""
MODULUS = 64
"""log2 q."""
EXACT = 160
"""c in |error| ≤ c·2^-53·‖limb‖·‖s‖ of a coefficient of a product before rounding; see docs/security-parameters.md."""
CACHE = 256 * 2**20
"""Bytes of transformed public elements that are kept; those beyond are expanded anew each time."""
CHUNK = 8
"""Elements that are worked on at once, so that they stay in cache."""

_HALF = DEGREE // 2
_TWIST = np.exp(1j * np.pi * np.arange(_HALF) / DEGREE)
_UNTWIST = _TWIST.conj()
_MAGIC = 1.5 * 2**52  # x + _MAGIC is x rounded to an integer, for |x| < 2^51, and so are the lower bits of its representation
_LOWEST = int(np.ones(1, np.uint64).view(np.uint8).argmax())  # byte of a word
_MAGIC_TOP = 0x4338  # of 16 bits, the upper ones of the representation; the others are zero


@lru_cache
def _fft() -> Any:
    """The transforms; who never multiplies does not wait until they are loaded."""
    from scipy import fft  # noqa: PLC0415

    return fft


class Limbs(NamedTuple):
    """How a public element is cut: ``number`` balanced digits of ``bits`` bits."""

    bits: int
    number: int


SPLITS = (Limbs(32, 2), Limbs(22, 3), Limbs(16, 4))
"""From few limbs to many."""


def limb_bits(norm: float) -> float:
    """Most bits of a limb of a uniform element for which a product by a factor of this norm is exact.

    The norm of such a limb is 2^bits·√(N/12), its standard deviation 0.7 % of that; 10 % are allowed for.
    """
    return 52 - math.log2(EXACT * max(norm, 1.0)) - math.log2(1.1 * math.sqrt(DEGREE / 12))


def limbs_for(norm: float) -> Limbs:
    """The fewest limbs with which a product by a factor of this norm is exact.

    Raises:
        Misuse: where there are none.
    """
    for split in SPLITS:
        if split.bits <= limb_bits(norm):
            return split
    raise Misuse(f"a product by a factor of norm {norm:.3g} is not exact with limbs of {SPLITS[-1].bits} bits")


class Elements:
    """The public elements A of a suite: AES-256-CTR under SHA-256 of its name, transformed, and kept up to `CACHE` bytes.

    The keystream stands for a random function, as in FrodoKEM (specification of 2021, section 2.2.3): the key is public.

    Args:
        suite: suite string.
    """

    def __init__(self, suite: str) -> None:
        digest = hashes.Hash(hashes.SHA256())
        digest.update(b"securefl rlwe public elements\0" + suite.encode())
        self._key = digest.finalize()
        self._kept: dict[tuple[Limbs, int], Spectra] = {}
        self._bytes = 0

    def words(self, first: int, count: int) -> NDArray[np.uint64]:
        """Coefficients of the elements from ``first`` on, shape (count, N)."""
        block = first * DEGREE * 8 // 16
        stream = Cipher(algorithms.AES(self._key), modes.CTR(block.to_bytes(16))).encryptor().update(bytes(count * DEGREE * 8))
        return np.frombuffer(stream, "<u8").reshape(count, DEGREE)

    def spectra(self, split: Limbs, first: int, room: Room) -> Spectra:
        """The transformed limbs of the `CHUNK` elements from ``first``, a multiple of it, on; in ``room`` where not kept."""
        found = self._kept.get((split, first))
        if found is None:
            keep = self._bytes + room.limbs.nbytes <= CACHE
            found = transformed(self.words(first, CHUNK), split, replace(room, limbs=room.limbs.copy()) if keep else room)
            if keep:
                self._kept[split, first] = found
                self._bytes += found.limbs.nbytes
        return found


@lru_cache(maxsize=2)
def elements(suite: str) -> Elements:
    """The public elements of a suite; those of the last two suites are kept."""
    return Elements(suite)


Draw = Callable[[NDArray[np.uint64]], None]
"""Fills an array with random words."""


class Spectra(NamedTuple):
    """Transformed limbs of elements.

    Attributes:
        limbs: shape (limbs, count, N/2), complex128.
        norm: largest norm of a limb of one element.
    """

    limbs: NDArray[np.complex128]
    norm: float


@dataclass(frozen=True)
class Room:
    """Memory in which `CHUNK` elements are cut and transformed.

    Attributes:
        rest: shape (CHUNK, N), int64.
        digit: shape (CHUNK, N), int64.
        limbs: shape (limbs, CHUNK, N/2), complex128.
    """

    rest: NDArray[np.int64]
    digit: NDArray[np.int64]
    limbs: NDArray[np.complex128]

    @classmethod
    def of(cls, split: Limbs, count: int = CHUNK) -> Room:
        """For elements that are cut in this way."""
        shape = (count, DEGREE)
        return cls(np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty((split.number, count, _HALF), np.complex128))


def transformed(words: NDArray[np.uint64], split: Limbs, room: Room | None = None) -> Spectra:
    """Cut elements, shape (count, N), in balanced limbs and transform each; in ``room`` if it is given."""
    room = room or Room.of(split, len(words))
    rest, digit, out = room.rest, room.digit, room.limbs
    np.copyto(rest, words, casting="unsafe")
    spare, norm = np.int64(MODULUS - split.bits), 0.0
    for limb in out:
        np.left_shift(rest, spare, out=digit)
        np.right_shift(digit, spare, out=digit)
        flat = limb.view(np.float64)
        np.copyto(flat, digit)
        norm = max(norm, float(np.einsum("ij,ij->i", flat, flat).max()))
        np.subtract(rest, digit, out=rest)
        np.right_shift(rest, np.int64(split.bits), out=rest)
    np.multiply(out, _TWIST, out=out)
    return Spectra(_fft().fft(out, axis=-1, overwrite_x=True), math.sqrt(norm))


def exact(limb: float, factor: float) -> bool:
    """Whether a product is exact after rounding, from the norms of a limb and of the short factor."""
    return EXACT * 2.0**-53 * limb * factor < 0.5


class Factor:
    """A short factor of products with public elements.

    Args:
        coefficients: shape (N,), int64.
        split: how the other factor is to be cut, if not as `limbs_for` says.

    Attributes:
        split: how the other factor is to be cut.
        norm: ‖s‖.
        scratch: memory of `CHUNK` elements, shape (CHUNK, N), free between products.
        room: memory for elements that are not kept.
    """

    def __init__(self, coefficients: NDArray[np.int64], split: Limbs | None = None) -> None:
        short = coefficients.astype(np.float64)
        self.norm = math.sqrt(float(short @ short))
        self.split = split or limbs_for(self.norm)
        self._spectrum = _fft().fft(short.view(np.complex128) * _TWIST) / _HALF
        self._work = np.empty((self.split.number * CHUNK, _HALF), np.complex128)
        self.scratch = self._work[:CHUNK].view(np.uint64)
        self.room = Room.of(self.split)

    def times(self, spectra: Spectra, out: NDArray[np.uint64], *, offset: int = 0, draw: Draw | None = None) -> None:
        """The products modulo 2^64 into ``out``, shape (count, N).

        Args:
            spectra: of the other factors.
            out: the products.
            offset: what is added to each coefficient.
            draw: fills an array with random words, one for each coefficient, to which the number of ones in its word is added.

        Raises:
            Misuse: where the limbs are too long for an exact product.
        """
        if not exact(spectra.norm, self.norm):
            raise Misuse(f"limbs of norm {spectra.norm:.4g} times a factor of norm {self.norm:.4g}: the product would not be exact")
        count, (bits, number) = len(out), self.split
        work = self._work[: number * count].reshape(number, count, _HALF)
        np.multiply(spectra.limbs[:, :count], self._spectrum, out=work)
        products = _fft().ifft(work, axis=-1, norm="forward", overwrite_x=True)
        np.multiply(products, _UNTWIST, out=products)
        flat, rounded = products.view(np.float64), products.view(np.uint64)
        np.add(flat[0], _MAGIC + offset % 2**bits, out=out.view(np.float64))
        for i in range(1, number):
            # limb 1 takes back what the rounding of limb 0 leaves in the upper bits; that of the others is shifted out
            share = (offset >> bits * i) % 2**bits - ((_MAGIC_TOP << (48 - bits)) if i == 1 else 0)
            np.add(flat[i], _MAGIC + share, out=flat[i])
            np.left_shift(rounded[i], np.uint64(bits * i), out=rounded[i])
            if draw is not None and i == 1:  # the shift has cleared the lowest byte
                draw(rounded[0])
                np.bitwise_count(rounded[0], out=rounded[i].view(np.uint8)[:, _LOWEST::8])
            np.add(out, rounded[i], out=out)


def multiply(words: NDArray[np.uint64], coefficients: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Products of any elements, uniform or not, shape (count, N), with one short factor, shape (N,), modulo 2^64; same shape.

    Raises:
        Misuse: where no limbs are small enough for an exact product.
    """
    out = np.empty_like(words)
    for first in range(0, len(words), CHUNK):
        part, into = words[first : first + CHUNK], out[first : first + CHUNK]
        for split in SPLITS:
            factor, spectra = Factor(coefficients, split), transformed(part, split)
            if exact(spectra.norm, factor.norm) or split == SPLITS[-1]:
                factor.times(spectra, into)
                break
    return out
