"""Key-additive masking: every party encrypts its vector under a fresh key of its own, and SecAgg sums the keys.

Sources: Stevens, Skalka, Vincent, Ring, Clark, Near, USENIX Security 2022; ACORN (Bell et al.), USENIX Security 2023; LERNA (Li
et al.), ASIACRYPT 2023; Willow and OPA, CRYPTO 2025.  The encryption is that of `protocols.primitives.rlwe`: a sum of ciphertexts
opens under the sum of their keys.  A key has N short coefficients, whatever d is.  The keys are summed by one run of
`protocols.secagg`, on the complete or a sparse graph; its rounds 0, 1, 3 and 4 run as they are.  Symbols as there, and

    x   the input and a coordinate that is 1        s   a key: fresh, of one vector, in one sum
    c   A·s + e + Δx mod q, its lowest bits cut     S   Σ s over U3, which SecAgg opens
    A   public, expanded from the suite string      Σc  added by the server, over U3

In round 2 a party sends c and its masked key as one message under one signature, and the server adds both when both are complete
and signed: the set of one sum is that of the other.  It opens Σc with S in all elements or in none, as what rounding takes away
must be as small as noise, and under another key, set or A it is not.

Channel assumed: the server relays everything and may lie.  Identities are registered out of band.  Against it and up to |C|
parties honest inputs are hidden but for the sum over at least as many parties as must agree.  Beside the sum the server learns S
and Σe, which do not depend on the inputs; that learning with errors is hard given both is an assumption
(docs/security-parameters.md).  A ciphertext that comes late, or whose party is said to have dropped, stays shut: its party's second
mask is never opened.

What it does not protect: what SecAgg does not.  The errors are no differential privacy.  A party that puts a value past its bound
into the sum moves the neighbour in the same coefficient by one.
"""

from __future__ import annotations

from dataclasses import replace

from protocols import secagg
from protocols.agreement import Dropped
from protocols.bulk import Bulk, Packed
from protocols.flow import Arrived, Broadcast, Flow, Input, Output
from protocols.handshake import for_session
from protocols.kahe_parameters import KaheParameters
from protocols.kahe_types import Adding, Enciphered, Folded, KeyParameters, KeySum
from protocols.primitives import rlwe
from protocols.rand import Rand
from protocols.ring import Accumulator
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Asking, Covered, Masked, Sealed, Shared, Summing, Unsealed
from protocols.suite import Terms
from protocols.vector import Sum, Vector, checked_sum, signed

_own = Flow("kahe")


def of_vectors(terms: Terms[Parameters]) -> KaheParameters:
    """The parameters of the whole sum, from the terms of its keys."""
    keys = terms.parameters
    if not isinstance(keys, KeyParameters):
        raise TypeError(f"the keys of a sum have KeyParameters, not {type(keys).__name__}")
    return keys.whole


@_own.client(spends=True)
def encrypt(shared: Shared, sealed: Sealed, x: Input[Vector], rand: Rand) -> tuple[Covered, Enciphered]:
    """Encrypt the input under a fresh key, mask the key as SecAgg does, sign both; forget keys, seed and input."""
    return enciphered(secagg.unseal(shared, sealed), x, rand)


def enciphered(unsealed: Unsealed, x: Vector, rand: Rand) -> tuple[Covered, Enciphered]:
    """Round 2 of a party whose boxes are open."""
    terms = unsealed.invited.terms
    own = for_session(rand, "key", terms, unsealed.L)
    p, key = of_vectors(terms), rlwe.Key.draw(own)
    write = rlwe.encrypt(p.shape, rlwe.elements(terms.suite), key, signed(x, p.size, None if p.tail else p.max_abs), own)
    c = Bulk.by(Packed(p.shape.ring, p.shape.coefficients), write)
    covered, masked = secagg.cover(unsealed, Vector(key.coefficients), beside=c.digest)
    return covered, Enciphered(c, masked.y, masked.receipt, masked.signature)


@_own.server
def prepare(keys: Summing) -> Adding:
    """Make room for the sum of the ciphertexts beside that of the keys."""
    p = of_vectors(keys.terms)
    return Adding(keys, Accumulator(p.shape.ring, p.shape.coefficients))


def absorb(srv: Adding, u: int, sent: Enciphered) -> Adding:
    """Check the one signature over ciphertext and masked key, and add both, or neither.

    A ciphertext of the right length cannot be refused when it is unpacked: whole elements fill their blocks, nothing pads them.
    """
    keys = secagg.absorb(srv.keys, u, Masked(sent.y, sent.receipt, sent.signature), beside=sent.c.digest)
    sent.c.add_to(srv.total)
    return replace(srv, keys=keys)


@_own.server(fold=absorb, quorum=lambda srv: srv.keys.terms.parameters.threshold, within=300.0)
def survey(srv: Adding, arrived: Arrived[Enciphered]) -> tuple[Asking, Folded, Broadcast[Dropped]]:
    """Tell the survivors who dropped out."""
    asking, dropped = secagg.survey(srv.keys, Arrived(arrived))
    return asking, Folded(srv.keys.terms, srv.total), dropped


@_own.server
def decrypt(folded: Folded, opened: Input[KeySum]) -> Output[Sum]:
    """Open the sum of the ciphertexts with that of the keys; check norm, noise, count and range."""
    terms, keys = folded.terms, opened.keys
    p = of_vectors(terms)
    values = rlwe.open_sum(p.shape, rlwe.elements(terms.suite), folded.total.total(), keys.values, keys.contributors)
    return Output(checked_sum(values, keys.contributors, p))


_steps = {step.name: replace(step, layer="vector") for step in _own.steps}
flow = Flow("kahe").include(
    secagg.flow, instead={"mask": [_steps["encrypt"]], "survey": [_steps["prepare"], _steps["survey"]]}, ends={Sum: KeySum}
)
flow.add(_steps["decrypt"])
flow.check()
