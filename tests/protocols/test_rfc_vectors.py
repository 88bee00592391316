"""Our primitives against published vectors: what RFCs and NIST say comes out of the very functions that the protocols call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published import VECTORS, cases

from protocols.primitives import seal, sign
from protocols.primitives.agree import KeyPair, derive
from protocols.primitives.prg import expand
from protocols.primitives.sign import SigningKey, verify
from protocols.rand import Key, Seed

PACKAGE = Path(__file__).parents[2] / "protocols"
unhex = bytes.fromhex


def test_x25519_rfc7748() -> None:
    seen = 0
    for case in cases("asymmetric/X25519/rfc7748.txt"):
        pair = KeyPair.from_secret(Seed(unhex(case["INPUT_SCALAR"])))
        assert pair.exchange(unhex(case["INPUT_U"])).reveal().hex() == case["OUTPUT_U"]
        seen += 1
    assert seen >= 3


def test_x25519_rfc7748_iterated() -> None:
    """Section 5.2: after 1,000 iterations."""
    k = u = (9).to_bytes(32, "little")
    for _ in range(1000):
        k, u = KeyPair.from_secret(Seed(k)).exchange(u).reveal(), k
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_x25519_rfc7748_key_pair() -> None:
    """Section 6.1, as Bob computes it: his public key, and the secret that he shares with Alice."""
    pair = KeyPair.from_secret(Seed(unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")))
    assert pair.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    alice = unhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    assert pair.exchange(alice).reveal().hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


@dataclass
class Material:
    """Input keying material of any length, where ours has 32 bytes."""

    raw: bytes

    def reveal(self) -> bytes:
        return self.raw


@pytest.mark.parametrize(("path", "least"), [("KDF/rfc-5869-HKDF-SHA256.txt", 1), ("KDF/hkdf-generated.txt", 1)])
def test_hkdf_rfc5869(path: str, least: int) -> None:
    """The cases without salt, as ours has none; the first 32 bytes, as ours gives so many."""
    seen = 0
    for case in cases(path):
        if case["HASH"] == "SHA-256" and not case.get("SALT"):
            material: Any = Material(unhex(case["IKM"]))
            assert derive(material, unhex(case.get("INFO", ""))).reveal().hex() == case["OKM"][:64]
            seen += 1
    assert seen >= least


@pytest.mark.parametrize("path", ["ECBKeySbox256.rsp", "ECBVarKey256.rsp"])
@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
def test_keystreams_begin_with_the_encryption_of_zero_of_nist(path: str, kind: type[np.uint32 | np.uint64]) -> None:
    """AES-256-CTR from a zero counter (SP 800-38A): its first block is that of the known-answer tests whose plaintext is zero."""
    seen = 0
    for case in cases(f"ciphers/AES/ECB/{path}"):
        if set(case["PLAINTEXT"]) == {"0"}:
            words = expand(Key(unhex(case["KEY"])), 16 // np.dtype(kind).itemsize, kind)
            assert words.astype(words.dtype.newbyteorder("<")).tobytes().hex() == case["CIPHERTEXT"]
            seen += 1
    assert seen >= 16


def test_gcm_zero_nonce() -> None:
    """Test cases 13 and 14 of McGrew and Viega, which have an all-zero key and nonce."""
    key = Key(bytes(32))
    assert seal.seal(key, b"", b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    box = "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    assert seal.seal(key, bytes(16), b"").hex() == box
    assert seal.unseal(key, unhex(box), b"") == bytes(16)


def test_ed25519_rfc8032_and_more() -> None:
    """The file of Bernstein and others that RFC 8032 takes its cases from."""
    lines = (VECTORS / "asymmetric/Ed25519/sign.input").read_text().splitlines()
    assert len(lines) == 1024
    for line in lines:
        seed, public, content, signed = (unhex(part) for part in line.split(":")[:4])
        key, signature = SigningKey.from_seed(Seed(seed[:32])), signed[: sign.SIGNATURE_SIZE]
        assert (key.public, key.sign(content)) == (public, signature)
        assert verify(public, signature, content)
        assert not verify(public, signature, content + b"\0")


def test_no_other_cipher_is_in_use() -> None:
    """One that came into use would need its vectors here."""
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    assert not [source for source in sources if "ChaCha20(" in source or "ChaCha20Poly1305(" in source]
    assert any("algorithms.AES(" in source for source in sources)
