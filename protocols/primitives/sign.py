"""Signatures of long-term identities: Ed25519 (RFC 8032)."""

from __future__ import annotations

from functools import lru_cache
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocols.rand import Rand, Seed

SIGNATURE_SIZE = 64


class SigningKey:
    """An Ed25519 key that prints without its secret and is never pickled or copied.

    Attributes:
        public: the public key, 32 bytes.
    """

    __slots__ = ("_private", "public")

    def __init__(self, seed: Seed) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(seed.reveal())
        self.public = self._private.public_key().public_bytes_raw()

    @classmethod
    def from_seed(cls, seed: Seed) -> SigningKey:
        """The key of a 32-byte seed (RFC 8032, section 5.1.5)."""
        return cls(seed)

    @classmethod
    def generate(cls, rand: Rand, label: str) -> SigningKey:
        """A new key from the draw ``label`` of ``rand``."""
        return cls(rand.seed(label))

    def sign(self, content: bytes) -> bytes:
        """The signature of ``content``, `SIGNATURE_SIZE` bytes, deterministic."""
        return self._private.sign(content)

    def __repr__(self) -> str:
        return f"SigningKey(public={self.public.hex()}, [redacted])"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key is never pickled or copied")


def verify(public: bytes, signature: bytes, content: bytes) -> bool:
    """Whether ``signature`` is one of ``content`` under ``public``; False for whatever is wrong, lengths included."""
    try:
        _loaded(public).verify(signature, content)
    except (InvalidSignature, ValueError):  # ValueError: a public key of another length
        return False
    return True


@lru_cache(maxsize=1 << 14)
def _loaded(public: bytes) -> Ed25519PublicKey:
    """The key object, kept: loading costs a tenth of a check, and each party's key checks several signatures a sum."""
    return Ed25519PublicKey.from_public_bytes(public)
