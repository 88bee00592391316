"""Ciphertexts that can be added: BFV and CKKS with one key for all, over TenSEAL's binding of Microsoft SEAL.

Sources: Fan and Vercauteren, eprint 2012/144 (BFV); Cheon, Kim, Kim, Song, eprint 2016/421 (CKKS); SEAL 4 for both.

A ciphertext is (c0, c1) = (⌈q/p·m⌋ − (a·s + e), a) modulo q and X^N + 1.  Everybody who encrypts holds s, so c1 is expanded from
a seed and only the seed travels: 64 bytes and N words below q.  Ciphertexts of one key add up, word by word.

Randomness.  SEAL expands a seed of 64 bytes with BLAKE2Xb: to the public seed of a, then to e; or to the ternary s.  Those seeds
are ours, drawn from `protocols.rand`, a new one for each ciphertext: a context that carries one serves one encryption and is thrown
away.  Two encryptions under one seed have equal a and e, and their difference is that of the plaintexts.

Bytes.  What others sent never reaches SEAL's parser, which unfolds zstd without a bound: the words are checked and put behind a
header of our own.  SEAL's binding reads and writes files only; ours are in memory (memfd), hence Linux.

What it does not protect: whoever has the key opens every ciphertext; a sum may hold anything (`protocols.he_codec` binds it to
those who are in it).
"""

from __future__ import annotations

import os
import re
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse
from protocols.rand import Rand, Seed

SEED = 64
"""Bytes of the seed that c1 is expanded from."""
_HEADER, _META, _COUNT = struct.Struct("<3s5BQ"), struct.Struct("<4Q?3QdQ"), struct.Struct("<Q")
_MAGIC, _BLAKE2XB = b"\x5e\xa1\x10", 1
_OBJECT = re.compile(rb"\x5e\xa1\x10[\x03-\x09].[\x00-\x02]\x00\x00", re.DOTALL)


@dataclass(frozen=True)
class Shape:
    """Scheme and sizes of a ciphertext.

    Attributes:
        scheme: ``bfv`` or ``ckks``.
        degree: N.
        modulus: bits of q, one prime.
        slot: bits of a slot; in BFV the plain modulus is 2^slot.
        scale: bits of the scale of CKKS; 0 in BFV.
    """

    scheme: str
    degree: int
    modulus: int
    slot: int
    scale: int

    @property
    def slots(self) -> int:
        """Numbers in a ciphertext: N coefficients in BFV; in CKKS the real parts of N/2 complex slots."""
        return self.degree if self.scheme == "bfv" else self.degree // 2


class Ciphertexts(NamedTuple):
    """Fresh ciphertexts.

    Attributes:
        seeds: of their c1, shape (count, 64), uint8.
        words: their c0, shape (count·N,), uint64, below q.
    """

    seeds: NDArray[np.uint8]
    words: NDArray[np.uint64]


def modulus(shape: Shape) -> int:
    """q: the largest prime of so many bits that is 1 modulo 2N."""
    return _engine(shape).q


def encrypt(shape: Shape, key: Seed, slots: NDArray[np.uint64], rand: Rand) -> Ciphertexts:
    """Encrypt under the secret key that ``key`` gives.

    Args:
        shape: of the ciphertexts.
        key: 32 bytes.
        slots: shape (count·shape.slots,), uint64, below 2^slot.
        rand: where the seed of each ciphertext comes from.
    """
    engine, rows = _engine(shape), slots.reshape(-1, shape.slots)
    secret, once = engine.secret(key), rand.words("noise", 8 * len(rows)).reshape(-1, 8).tolist()
    out = Ciphertexts(np.empty((len(rows), SEED), np.uint8), np.empty((len(rows), shape.degree), np.uint64))
    with _File() as file:
        for i, row in enumerate(rows):
            plain = engine.encode(row, file)
            sealed = engine.seal.Encryptor(engine.context_of(once[i]), secret).encrypt_symmetric(plain)
            out.seeds[i], out.words[i] = engine.take_apart(sealed, once[i], file)
    return Ciphertexts(out.seeds, out.words.reshape(-1))


class Adder:
    """The running sum of ciphertexts; needs no key, and has no place for one.

    Args:
        shape: of the ciphertexts.
        count: ciphertexts of a vector.
    """

    __slots__ = ("_count", "_engine", "_sum")

    def __init__(self, shape: Shape, count: int) -> None:
        self._engine, self._count = _engine(shape), count
        self._sum = list[Any]()

    def add(self, fresh: Ciphertexts) -> None:
        """Add the ciphertexts of one vector; words below q."""
        rows, evaluator = fresh.words.reshape(self._count, -1), self._engine.seal.Evaluator(self._engine.context)
        with _File() as file:
            for i in range(self._count):
                one = self._engine.put_together(rows[i], fresh.seeds[i].tobytes(), file)
                if len(self._sum) == i:
                    self._sum.append(one)
                else:
                    evaluator.add_inplace(self._sum[i], one)

    def total(self) -> NDArray[np.uint64]:
        """c0 and c1 of every ciphertext of the sum, shape (count·2N,), below q."""
        with _File() as file:
            return np.concatenate([self._engine.words(one, 2 * self._engine.shape.degree, file) for one in self._sum])


def decrypt(shape: Shape, key: Seed, total: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Open a sum; in CKKS its slots are rounded to integers, so that nothing of the noise is left in them.

    Args:
        shape: of the ciphertexts.
        key: 32 bytes.
        total: shape (count·2N,), below q.

    Returns:
        The slots, shape (count·shape.slots,), below 2^slot; of what is no sum of such ciphertexts, anything.
    """
    opened = decrypt_raw(shape, key, total)
    if shape.scheme == "ckks":
        opened = np.clip(np.rint(np.nan_to_num(opened)), 0, (1 << shape.slot) - 1)
    slots: NDArray[np.uint64] = opened.astype(np.uint64, copy=False)
    return slots


def decrypt_raw(shape: Shape, key: Seed, total: NDArray[np.uint64]) -> NDArray[Any]:
    """The same as SEAL gives it: uint64, or in CKKS float64 with its error, which must not leave who holds the key."""
    engine, rows = _engine(shape), total.reshape(-1, 2 * shape.degree)
    decryptor, parts = engine.seal.Decryptor(engine.context, engine.secret(key)), list[NDArray[Any]]()
    with _File() as file:
        for row in rows:
            plain = engine.seal.Plaintext()
            decryptor.decrypt(engine.put_together(row, b"", file), plain)
            parts.append(engine.decode(plain))
    return np.concatenate(parts)


class _File:
    """A file in memory, for a binding that knows only paths."""

    def __enter__(self) -> Self:
        self._fd = os.memfd_create("he")
        self._path = f"/proc/self/fd/{self._fd}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._fd)

    def load(self, thing: Any, context: Any, data: bytes) -> Any:
        """Let SEAL read ``thing`` from ``data``, which is our own."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)
        thing.load(context, self._path)
        return thing

    def save(self, thing: Any) -> bytes:
        """What SEAL writes of ``thing``."""
        thing.save(self._path)
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)


class _Engine:
    """SEAL with the parameters of a shape and no key."""

    def __init__(self, shape: Shape) -> None:
        if sys.platform != "linux":
            raise Misuse(f"{shape.scheme} needs Linux: SEAL reads and writes files only, and ours are kept in memory")
        import tenseal.sealapi as seal  # noqa: PLC0415  (loads in half a second)

        self.seal, self.shape = seal, shape
        self._moduli = seal.CoeffModulus.Create(shape.degree, [shape.modulus])
        self.q = int(self._moduli[0].value())
        self.context = self.context_of(None)
        with _File() as file:
            self._version = file.save(self._moduli[0])[3:5]
        ntt, scale = shape.scheme == "ckks", float(1 << shape.scale)
        self._meta = _META.pack(*self.context.first_parms_id(), ntt, 2, shape.degree, 1, scale, 1)

    def context_of(self, seed: Sequence[int] | None) -> Any:
        """A context whose draws all come from ``seed``, eight 64-bit words; from the operating system without one."""
        parameters = self.seal.EncryptionParameters(getattr(self.seal.SCHEME_TYPE, self.shape.scheme.upper()))
        parameters.set_poly_modulus_degree(self.shape.degree)
        parameters.set_coeff_modulus(self._moduli)
        if self.shape.scheme == "bfv":
            parameters.set_plain_modulus(1 << self.shape.slot)
        if seed is not None:
            parameters.set_random_generator(self.seal.Blake2xbPRNGFactory(seed))
        context = self.seal.SEALContext(parameters, False, self.seal.SEC_LEVEL_TYPE.TC128)  # noqa: FBT003
        if not context.parameters_set():
            raise Misuse(f"SEAL refuses {self.shape}: {context.parameters_error_message()}")
        return context

    def secret(self, key: Seed) -> Any:
        """The secret key that ``key`` gives."""
        return self.seal.KeyGenerator(self.context_of(Rand(key).words("he key", 8).tolist())).secret_key()

    def encode(self, row: NDArray[np.uint64], file: _File) -> Any:
        """A plaintext with these coefficients, or these slots."""
        plain = self.seal.Plaintext()
        if self.shape.scheme == "bfv":
            body = bytes(32) + _COUNT.pack(row.size) + struct.pack("<d", 1.0) + self._array(row)
            return file.load(plain, self.context, self._object(body))
        self.seal.CKKSEncoder(self.context).encode(row.astype(np.float64).tolist(), float(1 << self.shape.scale), plain)
        return plain

    def decode(self, plain: Any) -> NDArray[Any]:
        """The slots of a plaintext."""
        if self.shape.scheme == "ckks":
            return np.array(self.seal.CKKSEncoder(self.context).decode_double(plain))
        out, have = np.zeros(self.shape.degree, np.uint64), plain.coeff_count()
        out[:have] = np.fromiter(map(plain.__getitem__, range(have)), np.uint64, have)
        return out

    # Ciphertexts to words and back

    def take_apart(self, sealed: Any, once: Sequence[int], file: _File) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
        """Seed and c0 of a fresh ciphertext, encrypted with the randomness ``once``."""
        saved, length = file.save(sealed), 8 * self.shape.degree
        start = len(self._meta) + _HEADER.size + _COUNT.size
        body = unpacked(saved)
        if body is not None and body.startswith(self._meta):
            return np.frombuffer(body[-SEED:], np.uint8), np.frombuffer(body[start : start + length], "<u8")
        source = self.seal.Blake2xbPRNG(once)  # the public seed is what it gives first
        seed = b"".join(source.generate().to_bytes(4, "little") for _ in range(SEED // 4))
        return np.frombuffer(seed, np.uint8), self.words(file.load(self.seal.Ciphertext(), self.context, saved), self.shape.degree)

    def words(self, one: Any, count: int, file: _File | None = None) -> NDArray[np.uint64]:
        """The first ``count`` words of a ciphertext."""
        body = None if file is None else unpacked(file.save(one))
        if body is not None and body.startswith(self._meta):
            return np.frombuffer(body[-8 * count :], "<u8")
        return np.fromiter(map(one.__getitem__, range(count)), np.uint64, count)

    def put_together(self, words: NDArray[np.uint64], seed: bytes, file: _File) -> Any:
        """The ciphertext of c0 and a seed, or of c0 and c1."""
        body = self._meta + self._array(words)
        if seed:
            body += self._object(bytes([_BLAKE2XB]) + seed)
        return file.load(self.seal.Ciphertext(), self.context, self._object(body))

    def _array(self, words: NDArray[np.uint64]) -> bytes:
        return self._object(_COUNT.pack(words.size) + words.astype("<u8", copy=False).tobytes())

    def _object(self, body: bytes) -> bytes:
        return _HEADER.pack(_MAGIC, *self._version, 0, 0, 0, _HEADER.size + len(body)) + body


def is_object(data: bytes) -> bool:
    """Whether ``data`` begins like something that SEAL or TenSEAL has saved: a key, a context, a ciphertext of theirs."""
    return _OBJECT.search(data[:32]) is not None


@lru_cache(maxsize=16)
def _engine(shape: Shape) -> _Engine:
    return _Engine(shape)


def unpacked(saved: bytes) -> bytes | None:
    """What SEAL saved, without its header, where it is not compressed or zstd has only stored it, whole; else None.

    Words that are uniform below a 60-bit prime do not compress.  Format of the frame: RFC 8878, section 3.1.1.
    """
    if saved[5] == 0:
        return saved[_HEADER.size :]
    frame = saved[_HEADER.size :]
    single, flag = frame[4] >> 5 & 1, frame[4] >> 6
    at, blocks, last = 5 + (not single) + (0, 1, 2, 4)[frame[4] & 3] + (single, 2, 4, 8)[flag], list[bytes](), 0
    while not last:
        head = int.from_bytes(frame[at : at + 3], "little")
        last, kind, size = head & 1, head >> 1 & 3, head >> 3
        if kind != 0 or at + 3 + size > len(frame):  # compressed, or cut short
            return None
        blocks.append(frame[at + 3 : at + 3 + size])
        at += 3 + size
    return b"".join(blocks)
