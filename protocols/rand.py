"""Labelled randomness from a 32-byte seed: the only source of randomness in this package.

Source: HKDF-Expand (RFC 5869) turns (seed, label) into an AES-256 key, AES-256-CTR (NIST SP 800-38A) into the stream.  A label is
good for one draw: drawing it twice would give the same bytes twice, so it is refused.  `fresh` takes its seed from the operating
system; every other construction is deterministic, for test vectors and replay.

What it does not protect: Python cannot wipe memory.  A seed is dropped by dropping its object, and may stay in freed pages.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from typing import NoReturn

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from numpy.typing import NDArray

from protocols.errors import Misuse

_SHA256, _FROM_ZERO = hashes.SHA256(), modes.CTR(bytes(16))  # descriptions, without a state


class Secret:
    """32 secret bytes that print as ``[redacted]``, compare in constant time and refuse to be pickled or copied into text."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        if len(raw) != 32:
            raise Misuse(f"a {type(self).__name__.lower()} has 32 bytes, not {len(raw)}")
        self._raw = bytes(raw)

    def reveal(self) -> bytes:
        """The 32 bytes.  The one door: every caller can be found by this name."""
        return self._raw

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and hmac.compare_digest(self._raw, other._raw)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}([redacted])"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__.lower()} is never pickled or copied")


class Seed(Secret):
    """A 32-byte seed."""


class Key(Secret):
    """A 32-byte symmetric key."""


class Rand:
    """Randomness for one step of one party: labelled draws from one seed.

    Two instances with the same seed give the same bytes for the same label, on every machine.
    """

    __slots__ = ("_seed", "_used")

    def __init__(self, seed: Seed) -> None:
        self._seed = seed
        self._used: set[str] = set()

    def _key(self, label: str) -> bytes:
        if label in self._used:
            raise Misuse(f"the label {label!r} was drawn before: a label is good for one draw")
        self._used.add(label)
        info = b"securefl rand\0" + label.encode()
        return HKDFExpand(_SHA256, 32, info).derive(self._seed.reveal())

    def seed(self, label: str) -> Seed:
        """A fresh 32-byte seed."""
        return Seed(self._key(label))

    def child(self, label: str) -> Rand:
        """An independent source, with labels of its own."""
        return Rand(self.seed(label))

    def bytes(self, label: str, size: int) -> bytes:
        """``size`` uniform bytes."""
        stream = Cipher(algorithms.AES(self._key(label)), _FROM_ZERO).encryptor()
        return stream.update(bytes(size))

    def stream(self, label: str) -> Stream:
        """The bytes of a draw piece by piece, as many as are asked for."""
        return Stream(self._key(label))

    def words(self, label: str, count: int) -> NDArray[np.uint64]:
        """``count`` uniform 64-bit words, shape (count,), dtype uint64."""
        return np.frombuffer(self.bytes(label, 8 * count), dtype="<u8").astype(np.uint64, copy=False)

    def below(self, label: str, bound: int, count: int) -> list[int]:
        """``count`` uniform integers in [0, bound), by rejection of the top ``bound.bit_length()`` bits."""
        if bound < 1:
            raise Misuse(f"a bound must be at least 1, not {bound}")
        width, stream = (
            (bound.bit_length() + 7) // 8,
            Cipher(algorithms.AES(self._key(label)), _FROM_ZERO).encryptor(),
        )
        spare, out = 8 * width - bound.bit_length(), list[int]()
        while len(out) < count:
            block = stream.update(bytes(width * (count - len(out))))
            for i in range(0, len(block), width):
                value = int.from_bytes(block[i : i + width], "little") >> spare
                if value < bound:
                    out.append(value)
        return out

    def __repr__(self) -> str:
        return "Rand([redacted])"


_ZEROS = memoryview(bytes(128 * 1024))


class Stream:
    """A draw without an end: uniform 64-bit words written into arrays of the caller, one array after the other."""

    __slots__ = ("_into",)

    def __init__(self, key: bytes) -> None:
        self._into = Cipher(algorithms.AES(key), _FROM_ZERO).encryptor().update_into

    def fill(self, out: NDArray[np.uint64]) -> None:
        """Write the next ``out.size`` words into ``out``, contiguous, little-endian."""
        raw = out.reshape(-1).view(np.uint8).data
        for start in range(0, len(raw), len(_ZEROS)):
            part = raw[start : start + len(_ZEROS)]
            self._into(_ZEROS[: len(part)], part)

    def __repr__(self) -> str:
        return "Stream([redacted])"


Entropy = Callable[[], Rand]
"""Where a session takes the randomness of its next step from: `fresh`, or in tests a `Replay`."""


def fresh() -> Rand:
    """A source seeded by the operating system; nothing that made it is kept."""
    return Rand(Seed(os.urandom(32)))  # noqa: TID251  (here)


class Replay:
    """Deterministic entropy for tests, vectors and replay: the n-th step gets the n-th seed derived from ``root``.

    Never for a real party: who keeps this object can recompute every secret of the session.
    """

    def __init__(self, root: bytes | str) -> None:
        text = root.encode() if isinstance(root, str) else root
        digest = hashes.Hash(hashes.SHA256())
        digest.update(text)
        self._root = Rand(Seed(digest.finalize()))
        self._next = 0

    def __call__(self) -> Rand:
        """The randomness of the next step."""
        self._next += 1
        return self._root.child(f"step {self._next}")
