"""What the attacks on key-additive masking share: the federation, opening what is kept, and parties that encrypt otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from adversary import Federation, LyingServer, federation
from numpy.typing import NDArray

from protocols import kahe, secagg, sums
from protocols.bulk import Bulk, Packed
from protocols.flow import Flow
from protocols.kahe_parameters import KaheParameters
from protocols.kahe_types import Enciphered, key_terms
from protocols.primitives import rlwe
from protocols.rand import Rand, Replay
from protocols.secagg_labels import joint_hash
from protocols.secagg_types import Covered, Masked, Sealed, Shared
from protocols.suite import Parameters, Terms
from protocols.vector import Vector

KAHE = sums.scheme("kahe")
VICTIM, BAD = 1, 6
ELEMENT = 2 * rlwe.DEGREE
"""Values of one ring element in these federations: two a coefficient."""


def enciphered(n: int = 6, size: int = 5) -> Federation:
    """Six parties, t = 4."""
    return federation(n, size, scheme=KAHE)


def ciphertexts(server: LyingServer) -> dict[int, NDArray[Any]]:
    """What every party sent."""
    return {u: sent.c.values for u, sent in server.all(Enciphered).items()}


def keys_alone(sent: Enciphered) -> Masked:
    """The part of a message that SecAgg's attackers look at."""
    return Masked(sent.y, sent.receipt, sent.signature)


def terms_of_keys(fed: Federation) -> Terms[Parameters]:
    """The terms under which the keys are summed."""
    return key_terms(fed.terms)  # type: ignore[arg-type]


def opened(fed: Federation, total: NDArray[Any], key: list[int] | NDArray[np.int64], contributors: int) -> list[int]:
    """Values and count of a sum of ciphertexts under a sum of keys; raises as the server's own step does."""
    p: Any = fed.terms.parameters
    whole = total.astype(p.shape.ring.dtype)
    return rlwe.open_sum(p.shape, rlwe.elements(fed.terms.suite), whole, np.array(key, np.int64), contributors).tolist()


def draws(patch: Any) -> list[rlwe.Key]:
    """Every key that is drawn from now on, in order: what no attacker has."""
    keys, draw = list[rlwe.Key](), rlwe.Key.draw

    def watched(rand: Rand, label: str = "s") -> rlwe.Key:
        keys.append(draw(rand, label))
        return keys[-1]

    patch.setattr(rlwe.Key, "draw", watched)
    return keys


Forge = Callable[[KaheParameters, NDArray[np.int64], NDArray[Any]], tuple[NDArray[np.int64], NDArray[Any]]]
"""From the parameters, a party's key and the coefficients of its ciphertext: what it sends under its own good signature."""


def forging(forge: Forge, *, values: Callable[[NDArray[Any]], NDArray[Any]] | None = None) -> Flow:
    """A flow whose party sends another key or another ciphertext, or encrypts other values, unchecked."""

    def encrypt(shared: Shared, sealed: Sealed, x: Vector, rand: Rand) -> tuple[Covered, Enciphered]:
        terms = shared.invited.terms
        p = kahe.of_vectors(terms)
        layout = Packed(p.shape.ring, p.shape.coefficients)
        given = np.append(x.values, 1) if values is None else values(np.append(x.values, 1))
        key = rlwe.Key.draw(rand)
        write = rlwe.encrypt(p.shape, rlwe.elements(terms.suite), key, lambda at, count: given[at : at + count], rand)
        sent, words = forge(p, key.coefficients.copy(), Bulk.by(layout, write).values.copy())
        c = Bulk.of(layout, words)
        covered, masked = secagg.masked(shared, sealed, Vector(sent), beside=c.digest)
        return covered, Enciphered(c, masked.y, masked.receipt, masked.signature)

    return kahe.flow.replace(encrypt=encrypt)


def resigned(fed: Federation, u: int, message: Enciphered, server: LyingServer) -> Enciphered:
    """A message of a colluding party with a new signature over what is in it now."""
    state = server.collude(u)
    both = joint_hash(message.y.digest, message.c.digest)
    statement = fed.terms.statement("masked", u, state.L, tuple(state.u2), both, message.receipt)
    return replace(message, signature=fed.parties[u].identity.sign(statement))


def noise(label: str, p: KaheParameters) -> NDArray[Any]:
    """Uniform coefficients."""
    words = Replay(label)().words("words", p.shape.coefficients).astype(p.shape.ring.dtype)
    p.shape.ring.reduce(words)
    return words
