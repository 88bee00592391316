"""Mask expansion: AES-256-CTR keystreams added to or subtracted from a vector over Z_2^32 or Z_2^64.

Source: Bonawitz et al., CCS 2017 (eprint 2017/281), section 4; AES-CTR from NIST SP 800-38A.  Every key is derived for one stream
(HKDF with the session identity and a usage label), so the initial counter block is zero.  Uniform on 32 or 64 bits is uniform on
any narrower ring by masking bits, so the reduction is done once, at the end.

The accumulator is walked in blocks that stay in cache; all keystreams are applied to a block before the next one is touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from protocols.errors import Misuse
from protocols.rand import Key

BLOCK = 128 * 1024
_ZEROS = memoryview(bytes(BLOCK))
_FROM_ZERO = modes.CTR(bytes(16))


class Masks:
    """Keystreams that are added to a vector piece by piece, from its first value on.

    Args:
        plus: keys whose streams are added.
        minus: keys whose streams are subtracted.
        dtype: of the vector, uint32 or uint64.
    """

    def __init__(self, plus: Iterable[Key], minus: Iterable[Key], dtype: Any) -> None:
        self._streams = [(_stream(key), np.add) for key in plus] + [(_stream(key), np.subtract) for key in minus]
        self._scratch = bytearray(BLOCK)
        self._keystream = np.frombuffer(self._scratch, dtype=np.dtype(dtype).newbyteorder("<"))

    def apply(self, piece: NDArray[Any]) -> None:
        """Apply the next ``piece.size`` words of every stream to ``piece``, contiguous, in place; arithmetic wraps around."""
        step, size = self._keystream.size, self._keystream.itemsize
        for start in range(0, piece.size, step):
            block = piece[start : start + step]
            zeros, words = _ZEROS[: size * block.size], self._keystream[: block.size]
            for update_into, combine in self._streams:
                update_into(zeros, self._scratch)
                combine(block, words, out=block)


def apply_masks(vector: NDArray[Any], plus: Iterable[Key], minus: Iterable[Key]) -> None:
    """Add the keystreams of ``plus`` to ``vector`` and subtract those of ``minus``, in place.

    Args:
        vector: shape (d,), dtype uint32 or uint64, contiguous and writable; arithmetic wraps around.
        plus: keys whose streams are added.
        minus: keys whose streams are subtracted.

    Raises:
        Misuse: for another dtype or a vector that is not contiguous.
    """
    if vector.dtype not in (np.uint32, np.uint64) or not vector.flags.c_contiguous:
        raise Misuse(f"masks are applied to contiguous uint32 or uint64 vectors, not {vector.dtype}")
    Masks(plus, minus, vector.dtype).apply(vector)


def expand(key: Key, size: int, dtype: type[np.uint32 | np.uint64] = np.uint32) -> NDArray[Any]:
    """The first ``size`` words of the keystream of ``key``, shape (size,)."""
    out = np.zeros(size, dtype=dtype)
    apply_masks(out, [key], [])
    return out


def _stream(key: Key) -> Any:
    return Cipher(algorithms.AES256(key.reveal()), _FROM_ZERO).encryptor().update_into
