"""What the attacks on key-additive masking share: the federation, opening what is kept, and parties that encrypt otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from adversary import Federation, LyingServer, federation
from numpy.typing import NDArray

from protocols import kahe, sums
from protocols.flow import Flow
from protocols.kahe_parameters import KaheParameters
from protocols.kahe_types import Enciphered, key_terms
from protocols.primitives import rlwe
from protocols.rand import Rand, Replay
from protocols.secagg_labels import joint_hash
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Masked
from protocols.suite import Terms
from securefl.audit import kahe_server
from securefl.audit.kahe_server import ELEMENT, Forge, Values

__all__ = [
    "BAD",
    "ELEMENT",
    "KAHE",
    "VICTIM",
    "ciphertexts",
    "draws",
    "enciphered",
    "forging",
    "keys_alone",
    "noise",
    "opened",
    "resigned",
    "terms_of_keys",
]

KAHE = sums.scheme("kahe")
VICTIM, BAD = 1, 6


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


def forging(forge: Forge, *, values: Values = lambda given: given) -> Flow:
    """A flow whose party sends another key or another ciphertext, or encrypts other values, unchecked."""
    return kahe_server.forging(kahe.flow, forge=forge, values=values)


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
