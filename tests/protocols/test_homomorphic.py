"""Ciphertexts: sums decrypt exactly, CKKS within its bound, what SEAL writes is RLWE by the book, and randomness is fresh."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal as ts
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from protocols.errors import Misuse
from protocols.he_parameters import LARGEST, HeParameters, capacity, security
from protocols.primitives import homomorphic
from protocols.primitives.homomorphic import Adder, Ciphertexts, Shape, decrypt, decrypt_raw, encrypt, is_object, modulus, unpacked
from protocols.rand import Replay, Seed

SEEDS = st.integers(0, 2**32)
BFV = HeParameters.bfv(100, 1, 32767).shape
CKKS = HeParameters.ckks(100, 1, 32767).shape
SMALL = Shape("bfv", 1024, 27, 12, 0)  # small enough for arithmetic by the book
EACH = pytest.mark.parametrize("shape", [BFV, CKKS], ids=lambda shape: shape.scheme)


def secret(label: object = 0) -> Seed:
    return Replay(f"key {label}")().seed("key")


def numbers(shape: Shape, seed: object, bits: int, count: int = 1) -> np.ndarray[Any, Any]:
    return Replay(f"slots {seed}")().words("slots", count * shape.slots) & np.uint64(2**bits - 1)


def added(shape: Shape, vectors: list[Ciphertexts]) -> np.ndarray[Any, Any]:
    adder = Adder(shape, vectors[0].words.size // shape.degree)
    for vector in vectors:
        adder.add(vector)
    return adder.total()


# Sums


@EACH
@given(SEEDS, st.integers(1, 7), st.integers(1, 2))
@settings(max_examples=8, deadline=None)
def test_a_sum_decrypts_to_the_sum(shape: Shape, seed: int, parties: int, count: int) -> None:
    slots = [numbers(shape, (seed, u), shape.slot - 3, count) for u in range(parties)]
    total = added(shape, [encrypt(shape, secret(), x, Replay(f"{seed} {u}")()) for u, x in enumerate(slots)])
    assert np.array_equal(decrypt(shape, secret(), total), np.sum(slots, axis=0))


@EACH
def test_the_least_and_the_largest_slots_are_whole_numbers_and_come_back(shape: Shape) -> None:
    slots = np.zeros(shape.slots, np.uint64)
    slots[::3] = 2**shape.slot - 1
    opened = decrypt(shape, secret(), added(shape, [encrypt(shape, secret(), slots, Replay("a")())]))
    assert opened.dtype == np.uint64
    assert np.array_equal(opened, slots)


@EACH
def test_another_key_opens_nothing(shape: Shape) -> None:
    x = numbers(shape, 1, shape.slot)
    total = added(shape, [encrypt(shape, secret(), x, Replay("a")())])
    assert (decrypt(shape, secret("other"), total) == x).mean() < 0.01


@pytest.mark.parametrize("parties", [2, 64])
def test_slots_are_as_large_as_the_noise_of_n_ciphertexts_allows(parties: int) -> None:
    """At the capacity a sum is exact; where p is so large that q/2p is below the noise, it is not."""
    for slot, exact in ((capacity("bfv", parties, 4096, 60), True), (58, False)):
        shape = Shape("bfv", 4096, 60, slot, 0)
        slots = [numbers(shape, u, slot - parties.bit_length()) for u in range(parties)]
        total = added(shape, [encrypt(shape, secret(), x, Replay(f"{u}")()) for u, x in enumerate(slots)])
        assert np.array_equal(decrypt(shape, secret(), total), np.sum(slots, axis=0)) == exact


@pytest.mark.parametrize("parties", [3, 40])
def test_ckks_is_off_by_something_within_the_stated_error(parties: int) -> None:
    p = HeParameters.ckks(parties, 1, 32767)
    slots = [numbers(p.shape, u, 16) for u in range(parties)]
    total = added(p.shape, [encrypt(p.shape, secret(), x, Replay(f"{u}")()) for u, x in enumerate(slots)])
    error = np.abs(decrypt_raw(p.shape, secret(), total) - np.sum(slots, axis=0).astype(np.float64))
    assert p.error / 100 < error.max() <= p.error <= 1 / 8
    assert np.array_equal(decrypt(p.shape, secret(), total), np.sum(slots, axis=0))


def test_garbage_decrypts_to_something_within_the_slots() -> None:
    for shape in (BFV, CKKS):
        words = Replay("garbage")().words("words", 2 * shape.degree) % np.uint64(modulus(shape))
        assert decrypt(shape, secret(), words).max() < 2**shape.slot


# By the book: N = 1024, q of 27 bits, everything on integers


def transform(shape: Shape) -> tuple[np.ndarray[Any, Any], int]:
    """The matrix of SEAL's number-theoretic transform: values at ψ^(2·reversed(i) + 1), ψ the least root of X^N + 1."""
    n, q = shape.degree, modulus(shape)
    psi = min(root for g in range(2, 60) if pow(root := pow(g, (q - 1) // (2 * n), q), n, q) == q - 1)
    psi = min(pow(psi, k, q) for k in range(1, 2 * n, 2))
    powers = np.array([pow(psi, k, q) for k in range(2 * n)], dtype=np.int64)
    bits = n.bit_length() - 1
    points = np.array([2 * int(f"{i:0{bits}b}"[::-1], 2) + 1 for i in range(n)])
    return powers[np.outer(points, np.arange(n)) % (2 * n)], q


def test_a_ciphertext_is_rlwe_by_the_book() -> None:
    """c0 = ⌈q/p·m⌋ − (a·s + e): s is ternary, |e| ≤ 21 with the variance of 42 coins; a is what the seed expands to."""
    shape, count = SMALL, 4
    matrix, q = transform(shape)
    key = homomorphic._engine(shape).secret(secret())
    values = np.array([key.data()[i] for i in range(shape.degree)], dtype=np.int64)
    m = numbers(shape, "m", shape.slot, count)
    fresh = encrypt(shape, secret(), m, Replay("book")())
    c0, c1 = added(shape, [fresh]).reshape(count, 2, -1).astype(np.int64).transpose(1, 0, 2)
    assert np.array_equal(c0.reshape(-1), fresh.words.astype(np.int64))

    def forward(x: Any) -> Any:
        return np.array([(matrix * row % q).sum(axis=1) % q for row in x])

    scaled = np.array([(q * int(v) + 2 ** (shape.slot - 1)) >> shape.slot for v in m]).reshape(count, -1)
    e = (forward(scaled) - forward(c0) - forward(c1) * values) % q  # transformed
    inverse = np.array([[pow(int(v), -1, q) for v in row] for row in matrix[:, :2].T])  # powers of 1/ψ^(2i+1)
    back = np.ones_like(matrix)
    for k in range(1, shape.degree):
        back[:, k] = back[:, k - 1] * inverse[1] % q
    scale = pow(shape.degree, -1, q)

    def invert(x: Any) -> Any:
        out = np.array([(back * row[:, None] % q).sum(axis=0) % q * scale % q for row in x])
        return out - (out > q // 2) * q

    assert set(invert([values])[0].tolist()) == {-1, 0, 1}
    noise = invert(e)
    assert np.abs(noise).max() <= 21
    assert abs(noise.var() - 42 / 4) < 5 * 42 / 4 * np.sqrt(2 / noise.size)
    assert not np.array_equal(noise[0], noise[1])


# Randomness


def test_every_ciphertext_has_a_seed_of_its_own() -> None:
    x = numbers(BFV, 1, 40, 3)
    sets = [encrypt(BFV, secret(key), x, Replay(label)()) for key, label in ((0, "a"), (0, "b"), (1, "a"))]
    assert len({bytes(seed) for fresh in sets[:2] for seed in fresh.seeds}) == 6
    assert all((sets[0].words != other.words).mean() > 0.99 for other in sets[1:])
    again = encrypt(BFV, secret(), x, Replay("a")())
    assert np.array_equal(again.words, sets[0].words)
    assert np.array_equal(again.seeds, sets[0].seeds)


def test_two_ciphertexts_of_one_seed_show_the_difference_of_their_plaintexts() -> None:
    """Why a seed serves one encryption: with equal a and e only the plaintexts differ."""
    x, y = numbers(BFV, 1, 46), numbers(BFV, 2, 46)
    one, other = (encrypt(BFV, secret(), slots, Replay("twice")()).words.tolist() for slots in (x, y))
    q = modulus(BFV)
    found = [((a - b) % q * 2**BFV.slot + q // 2) // q % 2**BFV.slot for a, b in zip(one, other, strict=True)]
    assert found == [(int(a) - int(b)) % 2**BFV.slot for a, b in zip(x, y, strict=True)]


@EACH
def test_words_are_uniform_below_q_whatever_was_encrypted(shape: Shape) -> None:
    words = encrypt(shape, secret(), np.zeros(8 * shape.slots, np.uint64), Replay("zeros")()).words
    assert words.max() < modulus(shape)
    for low in range(0, 56, 8):
        counts = np.bincount((words >> np.uint64(low) & np.uint64(255)).astype(int), minlength=256)
        assert chi2.sf(((counts - words.size / 256) ** 2).sum() / (words.size / 256), 255) > 1e-7


# SEAL's files


@EACH
def test_what_seal_compressed_is_read_word_by_word(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast way takes what zstd has stored; the other one gives the same."""
    x = numbers(shape, 1, shape.slot - 1, 2)
    fast = encrypt(shape, secret(), x, Replay("a")())
    total = added(shape, [fast, fast])
    monkeypatch.setattr(homomorphic, "unpacked", lambda _: None)
    slow = encrypt(shape, secret(), x, Replay("a")())
    assert np.array_equal(slow.words, fast.words)
    assert np.array_equal(slow.seeds, fast.seeds)
    assert np.array_equal(added(shape, [slow, slow]), total)


def test_a_modulus_that_compresses_is_read_all_the_same() -> None:
    x = numbers(SMALL, 1, SMALL.slot - 1)
    assert np.array_equal(decrypt(SMALL, secret(), added(SMALL, [encrypt(SMALL, secret(), x, Replay("a")())] * 2)), 2 * x)


def test_stored_frames() -> None:
    """Frames after RFC 8878: with and without a window, sizes of every width, several blocks; a compressed block is left."""
    head = struct.pack("<3s5BQ", b"\x5e\xa1\x10", 4, 3, 2, 0, 0, 0)
    blocks = b"".join((len(b) << 3 | last).to_bytes(3, "little") + b for b, last in ((b"abc", 0), (b"", 0), (b"defg", 1)))
    for descriptor, more in ((0x20, 1), (0x60, 2), (0xA0, 4), (0xE0, 8), (0x00, 1), (0x40, 3), (0x21, 2), (0x22, 3), (0x23, 5)):
        frame = b"\x28\xb5\x2f\xfd" + bytes([descriptor]) + bytes(more)
        assert unpacked(head + frame + blocks) == b"abcdefg"
        assert not any(unpacked(head + frame + blocks[:cut]) for cut in range(len(blocks)))
    squeezed = (4 << 3 | 2 << 1 | 1).to_bytes(3, "little")
    assert unpacked(head + b"\x28\xb5\x2f\xfd" + bytes([0x20, 0]) + squeezed + b"abcd") is None
    assert unpacked(head.replace(b"\x02", b"\x00", 1) + b"plain") == b"plain"


@EACH
def test_nothing_is_left_open_or_on_disk(shape: Shape, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208  (names, not paths)
    total = added(shape, [encrypt(shape, secret(), numbers(shape, 1, 10), Replay("a")())])
    decrypt(shape, secret(), total)
    assert set(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208
    assert list(tmp_path.iterdir()) == []


def test_saved_objects_are_told_from_seeds() -> None:
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 60])
    context.global_scale = 2**40
    engine = homomorphic._engine(BFV)
    with homomorphic._File() as file:
        key = file.save(engine.secret(secret()))
    for saved in (context.serialize(save_secret_key=True), context.serialize(), key, ts.ckks_vector(context, [1.0]).serialize()):
        assert is_object(saved)
    rand = Replay("honest")().bytes("seeds", 64 * 10_000)
    assert not any(is_object(rand[i : i + 64]) for i in range(0, len(rand), 64))
    assert [is_object(bytes(at) + key[:8] + bytes(64)) for at in (0, 1, 24, 25)] == [True, True, True, False]


# Security levels


def test_largest_moduli_are_those_of_the_standard_as_seal_has_them() -> None:
    for degree, levels in LARGEST.items():
        for level, most in levels.items():
            assert seal.CoeffModulus.MaxBitCount(degree, getattr(seal.SEC_LEVEL_TYPE, f"TC{level}")) == most
            assert security(degree, most) >= level
    assert [security(4096, bits) for bits in (58, 59, 75, 76, 109)] == [256, 192, 192, 128, 128]
    with pytest.raises(Misuse, match="log q = 110 is above 109, the most with 128-bit security at N = 4096"):
        security(4096, 110)
    with pytest.raises(Misuse, match=r"degree must be one of 1024, 2048, 4096, .*, not 4095"):
        security(4095, 20)


def test_seal_refuses_what_the_standard_does() -> None:
    with pytest.raises(Misuse, match="SEAL refuses .*standard"):
        modulus(Shape("bfv", 1024, 28, 10, 0))


def test_q_is_the_largest_prime_of_its_bits_that_fits() -> None:
    def prime(n: int) -> bool:
        return all(pow(a, n - 1, n) == 1 for a in (2, 3, 5, 7, 11, 13, 17))

    q = next(k for k in range(2**60 - 2**60 % 8192 + 1 - 8192, 0, -8192) if prime(k))
    assert modulus(BFV) == q


# Only where it can run, and only on use


def test_other_systems_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(Misuse, match="bfv needs Linux"):
        modulus(Shape("bfv", 4096, 60, 17, 0))


def test_tenseal_is_loaded_on_use_only() -> None:
    code = (
        "import sys\nfrom protocols.sums import SCHEMES, secure_sum\nSCHEMES['bfv'].parameters(5, 10, 7).upload\n"
        "secure_sum([[1], [2]], max_abs=3)\nprint(any('tenseal' in name or 'sealapi' in name for name in sys.modules))\n"
        "secure_sum([[1], [2]], max_abs=3, protocol='bfv')\nprint('tenseal' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert run.stdout.split() == ["False", "True"]


def test_a_shape_prints_no_secret() -> None:
    assert re.fullmatch(r"Shape\(scheme='bfv', degree=4096, modulus=60, slot=46, scale=0\)", repr(BFV))
