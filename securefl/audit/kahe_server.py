"""A cheating server of key-additive masking: ciphertexts, how it would open them, and parties that encrypt otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from protocols import kahe, secagg
from protocols.bulk import Bulk, Packed
from protocols.errors import Abort
from protocols.flow import Flow
from protocols.kahe_parameters import KaheParameters
from protocols.kahe_types import Enciphered
from protocols.primitives import negacyclic, rlwe
from protocols.rand import Rand
from protocols.secagg_types import Covered, Sealed, Shared
from protocols.vector import Vector
from securefl.audit.federation import Federation
from securefl.audit.secagg_server import SecAggServer

ELEMENT = 2 * rlwe.DEGREE
"""Values of one ring element at the audit's bound of an input: two a coefficient."""


@dataclass
class KaheServer(SecAggServer):
    """A server played by an attack, against key-additive masking."""

    def ciphertexts(self) -> dict[int, NDArray[np.uint64]]:
        """What every party sent."""
        return {u: sent.c.values.astype(np.uint64) for u, sent in self.all(Enciphered).items()}

    def opens(self, total: NDArray[Any], key: NDArray[np.int64], contributors: int) -> list[int]:
        """The values of a sum of ciphertexts under a sum of keys, as the protocol opens them; [] where it refuses to."""
        p: Any = self.fed.terms.parameters
        whole = total.astype(p.shape.ring.dtype)
        p.shape.ring.reduce(whole)
        try:
            values = rlwe.open_sum(p.shape, rlwe.elements(self.fed.terms.suite), whole, key, contributors)
        except Abort:
            return []
        found: list[int] = values.tolist()
        return found[: p.size]


def difference(p: KaheParameters, one: NDArray[np.uint64], other: NDArray[np.uint64]) -> list[int]:
    """What c1 − c2 says of x1 − x2 where both are under one key: the difference, rounded to the digits."""
    gap = (one - other) << np.uint64(p.cut)
    v = (gap + np.uint64(1 << (p.shape.spare - 1))).view(np.int64) >> np.int64(p.shape.spare)
    digits = list[NDArray[np.int64]]()
    for _ in range(p.digits):
        digits.append((v << np.int64(64 - p.width)) >> np.int64(64 - p.width))
        v = (v - digits[-1]) >> np.int64(p.width)
    found: list[int] = np.stack(digits).reshape(p.digits, -1, rlwe.DEGREE).transpose(1, 0, 2).reshape(-1)[: p.size].tolist()
    return found


Values = Callable[[NDArray[Any]], NDArray[Any]]
Forge = Callable[[KaheParameters, NDArray[np.int64], NDArray[Any]], tuple[NDArray[np.int64], NDArray[Any]]]
"""From the parameters, a party's key and the coefficients of its ciphertext: what it sends under its own good signature."""


def forging(flow: Flow, *, values: Values = lambda given: given, forge: Forge = lambda _p, s, c: (s, c)) -> Flow:
    """A flow whose party encrypts other values, unchecked, or sends another key or another ciphertext."""

    def encrypt(shared: Shared, sealed: Sealed, x: Vector, rand: Rand) -> tuple[Covered, Enciphered]:
        terms = shared.invited.terms
        p, key = kahe.of_vectors(terms), rlwe.Key.draw(rand)
        given = values(np.append(np.asarray(x.values), 1))
        write = rlwe.encrypt(p.shape, rlwe.elements(terms.suite), key, lambda at, count: given[at : at + count], rand)
        layout = Packed(p.shape.ring, p.shape.coefficients)
        sent, words = forge(p, key.coefficients.copy(), Bulk.by(layout, write).values.copy())
        c = Bulk.of(layout, words)
        covered, masked = secagg.masked(shared, sealed, Vector(sent), beside=c.digest)
        return covered, Enciphered(c, masked.y, masked.receipt, masked.signature)

    return flow.replace(encrypt=encrypt)


@dataclass(frozen=True)
class Encryption:
    """One encryption, seen from inside of its party.

    Attributes:
        shape: of the ciphertext.
        key: shape (N,).
        words: A·s + e + Δx before its lowest bits are cut, shape (coefficients,), modulo 2^64.
    """

    shape: rlwe.Shape
    key: NDArray[np.int64]
    words: NDArray[np.uint64]


@contextmanager
def watched() -> Iterator[list[Encryption]]:
    """Every encryption of this process from now on, in order: what no adversary has, to look at the errors in it."""
    seen, encrypt = list[Encryption](), rlwe.encrypt

    def noting(shape: rlwe.Shape, public: Any, key: rlwe.Key, values: Any, rand: Rand) -> Any:
        write = encrypt(replace(shape, wire=rlwe.MODULUS), public, key, values, rand)
        words = np.empty(shape.coefficients, np.uint64)
        seen.append(Encryption(shape, key.coefficients, words))

        def both(start: int, out: NDArray[Any]) -> None:
            write(start, words[start : start + out.size])
            out[:] = words[start : start + out.size] >> np.uint64(shape.cut)

        return both

    with patch.object(rlwe, "encrypt", noting):
        yield seen


def long(fed: Federation, size: int) -> Federation:
    """The same parties with longer inputs: values that repeat every party's own, so that more than one element is used."""
    parameters = fed.scheme.parameters(len(fed.parties), size, fed.terms.parameters.max_abs)
    vectors = {u: np.resize(x, size) for u, x in fed.vectors.items()}
    return replace(fed, terms=replace(fed.terms, parameters=parameters), vectors=vectors)


def parameters_of(fed: Federation) -> KaheParameters:
    """The parameters of a sum of kahe."""
    p = fed.terms.parameters
    if not isinstance(p, KaheParameters):
        raise TypeError(f"a sum of kahe has KaheParameters, not {type(p).__name__}")
    return p


def errors_of(fed: Federation, u: int, one: Encryption) -> NDArray[np.int64]:
    """c − A·s − Δx of one party before anything is cut off: its errors, shape (elements, N)."""
    shape = one.shape
    x = np.zeros(shape.elements * shape.digits * rlwe.DEGREE, np.int64)
    x[: shape.values] = np.append(fed.vectors[u], 1)
    digits = x.reshape(shape.elements, shape.digits, rlwe.DEGREE)
    message = sum(digits[:, j] << np.int64(shape.spare + shape.width * j) for j in range(shape.digits))
    product = negacyclic.multiply(rlwe.elements(fed.terms.suite).words(0, shape.elements), one.key)
    errors: NDArray[np.int64] = (one.words.reshape(product.shape) - product).view(np.int64) - np.asarray(message)
    return errors
