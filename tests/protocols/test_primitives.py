"""Agreement, boxes, signatures, sharing and masks against independent oracles and their algebra; see also test_rfc_vectors.py."""

from __future__ import annotations

import copy
import hmac
import pickle
from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from published import cases

from protocols.errors import Misuse, Refused
from protocols.once import shared_work
from protocols.primitives import seal, sign
from protocols.primitives.agree import KeyPair, SharedSecret, check_public_key, derive
from protocols.primitives.prg import apply_masks, expand
from protocols.primitives.sign import SigningKey, verify
from protocols.rand import Key, Replay, Seed

FIELD = 2**255 - 19
SECRETS = st.binary(min_size=32, max_size=32)


def le(value: int) -> bytes:
    return value.to_bytes(32, "little")


# Agreement


@given(SECRETS, SECRETS)
@settings(deadline=None)
def test_agreement_is_symmetric(a: bytes, b: bytes) -> None:
    left, right = KeyPair.from_secret(Seed(a)), KeyPair.from_secret(Seed(b))
    assert left.exchange(right.public) == right.exchange(left.public)
    assert type(left.exchange(right.public)) is SharedSecret
    check_public_key(left.public)


@given(SECRETS)
@settings(deadline=None)
def test_a_rebuilt_secret_gives_the_same_pair(raw: bytes) -> None:
    pair = KeyPair.from_secret(Seed(raw))
    assert pair.secret().reveal() == raw
    assert KeyPair.from_secret(pair.secret()).public == pair.public


def test_an_exchange_is_computed_once_and_apart_from_those_with_others() -> None:
    pairs = [KeyPair.from_secret(Seed(bytes([i]) * 32)) for i in (1, 2, 3)]
    alone = [KeyPair.from_secret(a.secret()).exchange(b.public).reveal() for a, b in permutations(pairs, 2)]
    with shared_work():
        assert [a.exchange(b.public).reveal() for a, b in permutations(pairs, 2)] == alone
    assert len(set(alone)) == 3
    fresh = KeyPair.from_secret(pairs[0].secret())
    assert fresh.exchange(pairs[1].public) is fresh.exchange(pairs[1].public)


def test_pairs_come_from_their_label() -> None:
    one, same, other = (KeyPair.generate(Replay("pair")(), label) for label in ("a", "a", "b"))
    assert one.public == same.public != other.public


def square_root(value: int) -> int | None:
    root = pow(value, (FIELD + 3) // 8, FIELD)
    for candidate in (root, root * pow(2, (FIELD - 1) // 4, FIELD) % FIELD):
        if (candidate * candidate - value) % FIELD == 0:
            return candidate
    return None


def small_orders() -> set[int]:
    """Every u whose point doubles to infinity in at most three steps, from u(2P) = (u²−1)² / 4u(u²+Au+1)."""
    A = 486662
    assert square_root(A * A - 4) is None  # only u = 0 doubles to infinity
    found = {0, 1, FIELD - 1}  # and only ±1 to 0
    assert square_root(2 - A) is None  # nothing doubles to −1
    root = square_root(A + 2)
    assert root is not None
    for y in (2 + 2 * root, 2 - 2 * root):  # u + 1/u = y doubles to 1
        width = square_root(y * y - 4)
        if width is not None:
            found |= {(y + sign_ * width) * pow(2, -1, FIELD) % FIELD for sign_ in (1, -1)}
    return found


def test_every_point_of_small_order_is_refused_in_every_encoding() -> None:
    points, pair = small_orders(), KeyPair.generate(Replay("small")(), "pair")
    assert len(points) == 5
    encodings = [u + k * FIELD + high for u in points for k in (0, 1) for high in (0, 2**255) if u + k * FIELD < 2**255]
    assert len(set(encodings)) == 14
    for value in encodings:
        with pytest.raises(Refused) as refused:
            check_public_key(le(value))
        assert refused.value.check == ("public-key-order" if value < FIELD else "public-key-canonical")
        with pytest.raises(Refused) as refused:
            pair.exchange(le(value))
        assert refused.value.check == "public-key-order"


@pytest.mark.parametrize("value", [FIELD, FIELD + 2, FIELD + 18, 2**255 + 9, 2**256 - 1])
def test_other_encodings_are_refused(value: int) -> None:
    with pytest.raises(Refused) as refused:
        check_public_key(le(value))
    assert refused.value.check == "public-key-canonical"


@pytest.mark.parametrize("value", [2, 9, FIELD - 2])
def test_the_ends_of_the_range_are_accepted(value: int) -> None:
    check_public_key(le(value))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_public_keys_of_other_lengths_are_refused(size: int) -> None:
    public = (le(9) * 2)[:size]
    for act in (check_public_key, KeyPair.generate(Replay("size")(), "pair").exchange):
        with pytest.raises(Refused) as refused:
            act(public)
        assert refused.value.check == "public-key-canonical"


# Derivation


def hkdf(ikm: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    prk, out, last = hmac.digest(salt or bytes(32), ikm, "sha256"), b"", b""
    while len(out) < size:
        last = hmac.digest(prk, last + info + bytes([len(out) // 32 + 1]), "sha256")
        out += last
    return out[:size]


def test_the_oracle_meets_rfc5869() -> None:
    seen = 0
    for case in cases("KDF/rfc-5869-HKDF-SHA256.txt", "COUNT"):
        ikm, salt, info = (bytes.fromhex(case.get(name, "")) for name in ("IKM", "SALT", "INFO"))
        assert hkdf(ikm, salt, info, int(case["L"])).hex() == case["OKM"]
        seen += 1
    assert seen == 3


@given(SECRETS, st.binary(max_size=100))
def test_derive_is_hkdf_without_salt(raw: bytes, info: bytes) -> None:
    key = derive(Seed(raw), info)
    assert type(key) is Key
    assert key.reveal() == hkdf(raw, b"", info, 32)


# Boxes


@given(SECRETS, st.binary(max_size=300), st.binary(max_size=100))
def test_boxes_open(raw: bytes, plaintext: bytes, aad: bytes) -> None:
    box = seal.seal(Key(raw), plaintext, aad)
    assert len(box) == len(plaintext) + seal.OVERHEAD
    assert seal.unseal(Key(raw), box, aad) == plaintext


@given(SECRETS, st.binary(max_size=300), st.binary(max_size=100))
def test_boxes_are_aes256_gcm_under_twelve_zero_bytes(raw: bytes, plaintext: bytes, aad: bytes) -> None:
    oracle = Cipher(algorithms.AES256(raw), modes.GCM(bytes(12))).encryptor()
    oracle.authenticate_additional_data(aad)
    assert seal.seal(Key(raw), plaintext, aad) == oracle.update(plaintext) + oracle.finalize() + oracle.tag


def spoiled(data: bytes) -> Iterator[bytes]:
    """``data`` with each byte changed, cut, and extended."""
    for i in range(len(data)):
        for flip in (1, 0x80):
            yield data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :]
    yield from (data[:-1], data[1:], b"", data + b"\0", b"\0" + data)


def test_every_tampered_byte_is_refused() -> None:
    rand = Replay("box")()
    raw, plaintext, aad = rand.bytes("key", 32), rand.bytes("plaintext", 70), rand.bytes("aad", 40)
    box = seal.seal(Key(raw), plaintext, aad)
    forged = [(raw, bad, aad) for bad in spoiled(box)] + [(raw, box, bad) for bad in spoiled(aad)]
    forged += [(bad, box, aad) for bad in spoiled(raw) if len(bad) == 32]
    for key, bad_box, bad_aad in forged:
        with pytest.raises(Refused) as refused:
            seal.unseal(Key(key), bad_box, bad_aad)
        assert refused.value.check == "box-opens"
        assert refused.value.__cause__ is None


# Signatures


@given(SECRETS, st.binary(max_size=200), st.binary(max_size=200))
@settings(deadline=None)
def test_signatures_hold_for_their_content_only(raw: bytes, content: bytes, other: bytes) -> None:
    key = SigningKey.from_seed(Seed(raw))
    signature = key.sign(content)
    assert len(signature) == sign.SIGNATURE_SIZE
    assert verify(key.public, signature, content)
    assert verify(key.public, signature, other) == (content == other)


def test_tampered_signatures_keys_and_contents_do_not_verify() -> None:
    key, content = SigningKey.generate(Replay("sign")(), "key"), b"content"
    signature = key.sign(content)
    assert verify(key.public, signature, content)
    assert not any(verify(key.public, bad, content) for bad in spoiled(signature))
    assert not any(verify(bad, signature, content) for bad in spoiled(key.public))
    assert not any(verify(key.public, signature, bad) for bad in spoiled(content))


def test_a_signature_with_the_order_added_does_not_verify() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    key = SigningKey.generate(Replay("malleable")(), "key")
    signature = key.sign(b"content")
    s = int.from_bytes(signature[32:], "little") + order
    assert not verify(key.public, signature[:32] + le(s), b"content")


# Secrets stay secret


@pytest.mark.parametrize("kind", [KeyPair, SigningKey])
def test_keys_print_without_their_secret_and_are_not_copied(kind: type[KeyPair | SigningKey]) -> None:
    raw = bytes(range(100, 132))
    key = kind(Seed(raw))
    for text in (repr(key), str(key), f"{key}", f"{[key]}"):
        assert raw.hex() not in text
        assert repr(raw)[2:-1] not in text
        assert "redacted" in text
    assert not hasattr(key, "__dict__")
    for act in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            act(key)


# Masks


def counter_mode(key: bytes, first: int, size: int) -> bytes:
    """AES counter mode from single-block encryptions."""
    blocks = b"".join(((first + i) % 2**128).to_bytes(16, "big") for i in range(-(-size // 16)))
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(blocks)[:size]  # noqa: S305


def test_the_oracle_meets_rfc3686() -> None:
    seen = 0
    for case in cases("ciphers/AES/CTR/aes-256-ctr.txt", "COUNT"):
        key, plaintext, ciphertext = (bytes.fromhex(case[name]) for name in ("KEY", "PLAINTEXT", "CIPHERTEXT"))
        stream = counter_mode(key, int(case["IV"], 16), len(plaintext))
        assert bytes(a ^ b for a, b in zip(plaintext, stream, strict=True)) == ciphertext
        seen += 1
    assert seen >= 3


@given(SECRETS, st.integers(0, 200))
@example(bytes(32), 32 * 1024 + 5)  # more than one block of the accumulator
def test_masks_are_aes256_counter_streams_from_zero(raw: bytes, size: int) -> None:
    stream = counter_mode(raw, 0, 8 * size)
    np.testing.assert_array_equal(expand(Key(raw), size), np.frombuffer(stream, "<u4")[:size])
    np.testing.assert_array_equal(expand(Key(raw), size, np.uint64), np.frombuffer(stream, "<u8"))


@given(st.lists(SECRETS, max_size=3), st.lists(SECRETS, max_size=3), st.sampled_from([np.uint32, np.uint64]), st.integers(1, 50))
def test_masks_add_and_subtract(plus: list[bytes], minus: list[bytes], dtype: type[np.uint32 | np.uint64], size: int) -> None:
    """The streams of all keys, in a ring that wraps around."""
    vector = expand(Key(bytes(32)), size, dtype)
    expected = vector.copy()
    for raw in plus:
        expected += expand(Key(raw), size, dtype)
    for raw in minus:
        expected -= expand(Key(raw), size, dtype)
    apply_masks(vector, [Key(raw) for raw in plus], [Key(raw) for raw in minus])
    np.testing.assert_array_equal(vector, expected)


@pytest.mark.parametrize("vector", [np.zeros(8, np.int64), np.zeros(8), np.zeros(8, np.uint16), np.zeros(8, np.uint32)[::2]])
def test_masks_are_for_contiguous_words_of_32_or_64_bits(vector: np.ndarray) -> None:
    before = vector.copy()
    with pytest.raises(Misuse):
        apply_masks(vector, [Key(bytes(32))], [])
    np.testing.assert_array_equal(vector, before)
