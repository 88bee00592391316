"""Authenticated boxes: AES-256-GCM (NIST SP 800-38D).

One key seals one box: keys are derived for one sender, one receiver, one session and one usage.  So the nonce is all
zero and is not sent.  Sealing two plaintexts under one key would reveal their difference and the authentication key.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocols.errors import Refused
from protocols.rand import Key

OVERHEAD = 16
"""Bytes by which a box is longer than its plaintext."""
_NONCE = bytes(12)


def seal(key: Key, plaintext: bytes, aad: bytes) -> bytes:
    """The box of ``plaintext``, `OVERHEAD` bytes longer, bound to ``aad``; once per key."""
    return AESGCM(key.reveal()).encrypt(_NONCE, plaintext, aad)


def unseal(key: Key, box: bytes, aad: bytes) -> bytes:
    """The plaintext of ``box``.

    Raises:
        Refused: ``box-opens`` if the key, the box or ``aad`` is not the one sealed.
    """
    try:
        return AESGCM(key.reveal()).decrypt(_NONCE, box, aad)
    except InvalidTag:
        raise Refused("box-opens", "the box does not open") from None
