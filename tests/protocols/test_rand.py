"""Labelled randomness against its description, computed apart: HKDF-Expand by HMAC, AES-256-CTR, rejection."""

from __future__ import annotations

import copy
import hashlib
import hmac
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from protocols.errors import Misuse
from protocols.rand import Key, Rand, Replay, Secret, Seed, fresh

SEEDS = st.binary(min_size=32, max_size=32)
LABELS = st.text(max_size=10)


def expanded(seed: bytes, label: str) -> bytes:
    """HKDF-Expand (RFC 5869) to 32 bytes: one block."""
    return hmac.new(seed, b"securefl rand\0" + label.encode() + b"\x01", hashlib.sha256).digest()


def stream(seed: bytes, label: str, size: int) -> bytes:
    key = expanded(seed, label)
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(size))


@given(SEEDS, LABELS, st.integers(0, 100))
def test_seeds_bytes_and_words_are_those_of_the_description(seed: bytes, label: str, size: int) -> None:
    def rand() -> Rand:
        return Rand(Seed(seed))

    assert rand().seed(label).reveal() == expanded(seed, label)
    assert rand().child(label).seed(label).reveal() == expanded(expanded(seed, label), label)
    assert rand().bytes(label, size) == stream(seed, label, size)
    words = rand().words(label, size)
    assert words.dtype == np.uint64
    assert words.tolist() == np.frombuffer(stream(seed, label, 8 * size), "<u8").tolist()


@given(SEEDS, st.integers(1, 2**20) | st.integers(1, 2**300), st.integers(0, 30))
def test_integers_below_a_bound_are_the_first_that_are(seed: bytes, bound: int, count: int) -> None:
    """The top bits of as many bytes as the bound takes, each one thrown away that is not below it."""
    width = -(-bound.bit_length() // 8)
    content = stream(seed, "x", width * (20 + 40 * count))
    values = [
        int.from_bytes(content[i : i + width], "little") >> 8 * width - bound.bit_length() for i in range(0, len(content), width)
    ]
    got = Rand(Seed(seed)).below("x", bound, count)
    assert got == [value for value in values if value < bound][:count]


def test_a_bound_below_one_is_misuse() -> None:
    assert Rand(Seed(bytes(32))).below("x", 1, 3) == [0, 0, 0]
    for bound in (0, -1):
        with pytest.raises(Misuse, match="a bound must be at least 1"):
            Rand(Seed(bytes(32))).below("x", bound, 1)


@given(SEEDS, st.lists(st.integers(0, 20_000), max_size=4))
def test_a_stream_goes_on_from_array_to_array(seed: bytes, sizes: list[int]) -> None:
    drawn = Rand(Seed(seed)).stream("x")
    parts = [np.ones(size, dtype=np.uint64) for size in sizes]
    for part in parts:
        drawn.fill(part)
    assert b"".join(part.tobytes() for part in parts) == stream(seed, "x", 8 * sum(sizes))


def test_a_label_is_good_for_one_draw_of_any_kind() -> None:
    for draw in ("seed", "child", "stream"):
        rand = Rand(Seed(bytes(32)))
        getattr(rand, draw)("x")
        for again in (rand.seed, rand.child, rand.stream):
            with pytest.raises(Misuse, match="'x' was drawn before"):
                again("x")


@given(st.binary(max_size=40))
def test_replay_gives_each_step_a_seed_that_follows_from_its_root(root: bytes) -> None:
    replay = Replay(root)
    for step in (1, 2):
        assert replay().seed("x").reveal() == expanded(expanded(hashlib.sha256(root).digest(), f"step {step}"), "x")
    assert Replay("é")().seed("x") == Replay("é".encode())().seed("x")


def test_fresh_sources_differ() -> None:
    assert fresh().seed("x") != fresh().seed("x")


@pytest.mark.parametrize("kind", [Secret, Seed, Key])
def test_secrets_compare_by_kind_and_content_and_show_neither(kind: type[Secret]) -> None:
    raw = bytes(range(32))
    secret = kind(raw)
    assert secret.reveal() == raw
    assert secret == kind(raw)
    assert secret != kind(raw[::-1])
    assert all(secret != other(raw) for other in (Secret, Seed, Key) if other is not kind)
    assert secret != raw
    shown = f"{kind.__name__}([redacted])"
    assert {repr(secret), str(secret), f"{secret}", f"{secret:>40}", f"{secret!s}"} == {shown}
    for act in (hash, pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            act(secret)
    for size in (0, 31, 33):
        with pytest.raises(Misuse, match=f"a {kind.__name__.lower()} has 32 bytes, not {size}"):
            kind(bytes(size))


def test_sources_print_without_their_seed() -> None:
    rand = Rand(Seed(bytes(32)))
    assert (repr(rand), repr(rand.stream("x"))) == ("Rand([redacted])", "Stream([redacted])")
