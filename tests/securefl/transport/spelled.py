"""Secrets as text might hold them."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path

from securefl.transport import keyfiles


def spellings(secret: bytes) -> set[str]:
    """Hexadecimal, base64, Python's own, as a list and as a number."""
    plain, web = (one(secret).decode().rstrip("=") for one in (base64.b64encode, base64.urlsafe_b64encode))
    numbers = {str(int.from_bytes(secret, order)) for order in ("big", "little")}  # type: ignore[arg-type]
    return {secret.hex(), secret.hex().upper(), plain, web, repr(secret)[2:-1], str([*secret])[1:-1], *numbers}


def private(folder: Path) -> set[bytes]:
    """What the private keys in a folder are made of, without what all keys of a kind have alike."""
    found = set[bytes]()
    if (folder / keyfiles.IDENTITY).exists():
        found.add(keyfiles.read_identity(folder)._private.private_bytes_raw())
    for name in (keyfiles.TLS_KEY, keyfiles.CA_KEY):
        if (folder / name).exists():
            found.add(keyfiles.read_tls_key(folder / name).private_numbers().private_value.to_bytes(32, "big"))
    return found


def told(text: str, secrets: Iterable[bytes]) -> set[str]:
    """The spellings of secrets that are in a text."""
    return {one for secret in secrets for one in spellings(secret) if one in text}
