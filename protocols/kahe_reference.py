"""Key-additive masking as one plain loop over all parties, like `protocols.reference`: the oracle of its tests.

SecAgg's reference sums the keys; its round-2 messages get their ciphertexts here, and are signed anew.  Public elements, products,
digits and the opening are on Python integers, written out once more on purpose.  With the same randomness the flow must send the
same messages, bit by bit, and open the same sum.

Source: as `protocols.kahe`.  What it does not protect: anything.  It is never to be used with real inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols import reference
from protocols.agreement import Agreed, Covering
from protocols.bulk import Bulk, Packed
from protocols.kahe_parameters import KaheParameters
from protocols.kahe_types import Enciphered, key_terms
from protocols.primitives.sign import SigningKey
from protocols.rand import Entropy
from protocols.reference import Run, Sent, Transcript
from protocols.ring import Ring
from protocols.secagg_types import Listed, Masked, Sealed
from protocols.suite import Terms
from protocols.wire import canonical, control_bytes, digest

STAGES = tuple({"Masked": "Enciphered"}.get(stage, stage) for stage in reference.SECAGG_STAGES)
"""Messages of a party, in order: before any of them it may vanish."""
_N, _Q, _SLOT = 4096, 2**64, 12
_PLACES = [i // 2 + _N // 2 * (i % 2) for i in range(_N)]
"""For each place of an element, the power of X whose coefficient stands there: 0, N/2, 1, N/2 + 1, …"""


def kahe(
    terms: Terms[KaheParameters],
    identities: Mapping[int, SigningKey],
    inputs: Mapping[int, Sequence[int]],
    entropy: Mapping[int, Entropy],
    dropouts: Mapping[int, str] | None = None,
) -> Transcript:
    """Key-additive masking among parties who follow the protocol, some of whom vanish.

    Args:
        terms: of the sum.
        identities: every party's signing key, by roster index.
        inputs: every party's d integers, |value| ≤ max_abs.
        entropy: every party's randomness: one source for each of rounds 0 to 2.
        dropouts: for a party, the message of `STAGES` before which it vanishes.

    Returns:
        Every message, and the sum or the step in which too few were left.

    Raises:
        Misuse: for a stage that does not exist.
    """
    p, sid, vectors = terms.parameters, terms.sid, _Vectors(terms, inputs, entropy)
    Run(p, STAGES, dropouts or {})
    lost = {u: "Masked" if stage == "Enciphered" else stage for u, stage in (dropouts or {}).items()}
    keys = reference.secagg(key_terms(terms), identities, vectors, entropy, lost)
    L, u2, enciphered, sent = b"", list[int](), dict[int, Enciphered](), list[Sent]()
    for one in keys.sent:
        message, u = one.message, one.sender
        if isinstance(message, Listed):
            L = hashlib.sha256(control_bytes(message)).digest()
        elif isinstance(message, Sealed):
            u2 = list(message.u2)
        elif isinstance(message, Masked):
            c = vectors.ciphertexts[u]
            content = canonical(["masked", sid, u, L, u2, digest([message.y.digest, c.digest]), message.receipt])
            message = enciphered[u] = Enciphered(c, message.y, message.receipt, identities[u].sign(content))
        elif isinstance(message, Agreed) and message.coverings:
            shown = [Covering(digest([x.y.digest, x.c.digest]), x.receipt, x.signature) for x in enciphered.values()]
            message = replace(message, coverings=tuple(shown))
        sent.append(Sent(u, one.to, message))
    if keys.total is None:
        return Transcript(tuple(sent), aborted=keys.aborted)
    total = [sum(column) for column in zip(*(vectors.words[u] for u in keys.survivors), strict=True)]
    opened = _opened(p, vectors.public, total, keys.total, len(keys.survivors))
    return Transcript(tuple(sent), keys.survivors, tuple(opened[: p.size]))


class _Vectors:
    """Every party's key, drawn when SecAgg asks for its input; the vector is encrypted under it at that moment."""

    def __init__(self, terms: Terms[KaheParameters], inputs: Mapping[int, Sequence[int]], entropy: Mapping[int, Entropy]) -> None:
        self._p, self._sid, self._inputs, self._entropy = terms.parameters, terms.sid, inputs, entropy
        self.public = _public(terms.suite, self._p.shape.elements)
        self.ciphertexts, self.words = dict[int, Bulk](), dict[int, list[int]]()

    def __call__(self, u: int, L: bytes) -> list[int]:
        p, rand = self._p, self._entropy[u]().child(f"key {self._sid.hex()} {L.hex()}")
        key, errors = _binomial(rand.bytes("s", 8 * _N)), _binomial(rand.bytes("errors", 8 * _N * len(self.public)))
        values = [*self._inputs[u], 1]
        values += [0] * (p.digits * _N * len(self.public) - len(values))
        words = self.words[u] = list[int]()
        for i, element in enumerate(self.public):
            block = values[p.digits * _N * i : p.digits * _N * (i + 1)]
            for place, product in enumerate(_product(element, key)):
                message = sum(block[j * _N + place] << 64 - p.digits * p.width + p.width * j for j in range(p.digits))
                words.append((product + errors[i * _N + place] + message) % _Q >> 64 - p.wire)
        ring = Ring(p.wire)
        self.ciphertexts[u] = Bulk.of(Packed(ring, len(words)), np.array(words, dtype=ring.dtype))
        return key


def _public(suite: str, count: int) -> list[list[int]]:
    """The elements A of a suite, in the order of their places."""
    key = hashlib.sha256(b"securefl rlwe public elements\0" + suite.encode()).digest()
    data = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * _N * count))
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
    return [words[i : i + _N] for i in range(0, len(words), _N)]


def _binomial(data: bytes) -> list[int]:
    """The ones in each word of 64 bits, less 32."""
    return [int.from_bytes(data[i : i + 8], "little").bit_count() - 32 for i in range(0, len(data), 8)]


def _product(element: Sequence[int], short: Sequence[int]) -> list[int]:
    """In Z_q[X]/(X^N + 1): both factors at X = 2^96, one integer each, multiplied."""
    plus, minus = (_at_a_power_of_two([max(0, sign * x) for x in short]) for sign in (1, -1))
    one = _at_a_power_of_two([x % _Q for x in element])
    out = [0] * _N
    for sign, factor in ((1, plus), (-1, minus)):
        data = (one * factor).to_bytes(2 * _SLOT * _N, "little")
        wide = [int.from_bytes(data[i : i + _SLOT], "little") for i in range(0, len(data), _SLOT)]
        out = [(x + sign * (wide[power] - wide[power + _N])) % _Q for x, power in zip(out, _PLACES, strict=True)]
    return out


def _at_a_power_of_two(element: Sequence[int]) -> int:
    natural = dict(zip(_PLACES, element, strict=True))
    return int.from_bytes(b"".join(natural[power].to_bytes(_SLOT, "little") for power in range(_N)), "little")


def _opened(
    p: KaheParameters, public: Sequence[Sequence[int]], total: Sequence[int], key: Sequence[int], contributors: int
) -> list[int]:
    """Digits of Σ ciphertexts − A·S, rounded; the bits that were cut off are taken for their mean."""
    cut, spare = 64 - p.wire, 64 - p.digits * p.width
    values = list[int]()
    for i, element in enumerate(public):
        product, digits = _product(element, key), [list[int]() for _ in range(p.digits)]
        for place in range(_N):
            v = (total[i * _N + place] << cut) + contributors * ((1 << cut) - 1) // 2 - product[place]
            rest = v + (1 << spare - 1) >> spare
            for j in range(p.digits):
                digit = (rest + (1 << p.width - 1)) % (1 << p.width) - (1 << p.width - 1)
                digits[j].append(digit)
                rest = rest - digit >> p.width
        values += [x for row in digits for x in row]
    return values
