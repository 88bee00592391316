"""Key agreement and key derivation: X25519 (RFC 7748) and HKDF-SHA256 (RFC 5869).

Source: Bonawitz et al., CCS 2017 (eprint 2017/281), section 6.  Public keys of other parties pass `check_public_key`
before use: one key has one accepted encoding, and none is of small order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocols.errors import Refused, require
from protocols.once import once
from protocols.rand import Key, Rand, Secret, Seed

PUBLIC_SIZE = 32
_FIELD = 2**255 - 19
_ORDER_8 = 0xB8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0  # little-endian e0eb7a7c...
_SMALL_ORDER = frozenset({0, 1, _FIELD - 1, _ORDER_8, pow(_ORDER_8, -1, _FIELD)})
"""u of every point of order 1, 2, 4 or 8 on Curve25519 (order 8·prime) or its twist (order 4·prime)."""


class SharedSecret(Secret):
    """The 32 bytes that an X25519 exchange gives; not uniform, so used through `derive` only."""

    __slots__ = ()


class KeyPair:
    """An X25519 key pair that prints without its secret and is never pickled or copied.

    Attributes:
        public: the public key, 32 bytes.
    """

    __slots__ = ("_exchanged", "_private", "_secret", "public")

    def __init__(self, secret: Seed) -> None:
        self._secret = secret
        self._exchanged = dict[bytes, SharedSecret]()
        self._private = X25519PrivateKey.from_private_bytes(secret.reveal())
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, rand: Rand, label: str) -> KeyPair:
        """A new pair whose secret is the draw ``label`` of ``rand``."""
        return cls(rand.seed(label))

    @classmethod
    def from_secret(cls, secret: Seed) -> KeyPair:
        """The pair of a secret that was generated or rebuilt before."""
        return cls(secret)

    def secret(self) -> Seed:
        """The 32 secret bytes as they were given, before clamping: `from_secret` of them gives the same pair."""
        return self._secret

    def exchange(self, theirs: bytes) -> SharedSecret:
        """The secret shared with the owner of the public key ``theirs``; computed once.

        Raises:
            Refused: ``public-key-canonical`` if it has not 32 bytes, ``public-key-order`` if the result is all zero.
        """
        if (known := self._exchanged.get(theirs)) is not None:
            return known
        self._exchanged[theirs] = once(("x25519", frozenset((self.public, theirs))), lambda: self._exchange(theirs))
        return self._exchanged[theirs]

    def _exchange(self, theirs: bytes) -> SharedSecret:
        require(len(theirs) == PUBLIC_SIZE, "public-key-canonical", f"a public key has 32 bytes, not {len(theirs)}")
        try:
            return SharedSecret(self._private.exchange(_loaded(theirs)))
        except ValueError:  # the library's own check of RFC 7748, section 6.1
            raise Refused("public-key-order", "the exchange gives zero") from None

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.hex()}, [redacted])"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key pair is never pickled or copied")


@lru_cache(maxsize=1 << 14)
def _loaded(public: bytes) -> X25519PublicKey:
    """The key object, kept: loading costs an eighth of an exchange, and a server exchanges with each key several times."""
    return X25519PublicKey.from_public_bytes(public)


def derive(secret: Secret, info: bytes) -> Key:
    """A 32-byte key for the one use that ``info`` names: HKDF-SHA256 without salt (RFC 5869)."""
    return Key(HKDF(hashes.SHA256(), 32, None, info).derive(secret.reveal()))


def check_public_key(public: bytes) -> None:
    """Accept only the one canonical encoding of a point that is not of small order.

    Raises:
        Refused: ``public-key-canonical`` for a length other than 32, a set high bit or a value of 2^255 - 19 or more;
            ``public-key-order`` for a point of order 1, 2, 4 or 8.
    """
    if len(public) != PUBLIC_SIZE:
        raise Refused("public-key-canonical", f"a public key has 32 bytes, not {len(public)}")
    u = int.from_bytes(public, "little")
    require(u < _FIELD, "public-key-canonical", "the value is not below 2^255 - 19")
    require(u not in _SMALL_ORDER, "public-key-order", "the point has small order")
