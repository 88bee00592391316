"""A statement that a party signed: ``[tag of the round, sid, signer, …]`` and its Ed25519 signature.

What it does not protect: it shows what a key signed, not who held the key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import cbor2

from protocols.errors import Refused, require
from protocols.primitives.sign import verify
from protocols.wire import canonical


@dataclass(frozen=True)
class Said:
    """A statement and its signature: what a party cannot deny.

    Attributes:
        statement: canonical CBOR of ``[tag, sid, signer, …]``.
        signature: 64 bytes.
    """

    statement: bytes
    signature: bytes

    @property
    def parts(self) -> list[Any]:
        """Tag, session identity, signer, and what was said.

        Raises:
            Refused: ``evidence-statement`` where the bytes are no statement.
        """
        try:
            parts = cbor2.loads(self.statement, max_depth=4, allow_indefinite=False, allow_duplicate_keys=False)
        except Exception as error:  # noqa: BLE001  (cbor2 raises much)
            raise Refused("evidence-statement", f"not CBOR ({type(error).__name__})") from None
        kinds = [type(part) for part in parts[:3]] if type(parts) is list else []
        require(kinds == [str, bytes, int], "evidence-statement", "not [tag, sid, signer, …]")
        require(canonical(parts) == self.statement, "evidence-statement", "not the deterministic encoding")
        return list(parts)

    def holds(self, public: bytes) -> bool:
        """Whether the signature is one of the owner of that key."""
        return verify(public, self.signature, self.statement)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the statement."""
        return hashlib.sha256(self.statement).digest()
