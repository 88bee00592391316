"""A toy protocol in a package of its own: parties in a ring agree on pads with both neighbours, which cancel in the sum over all.

A party adds the pad of the one neighbour to its vector and subtracts that of the other.  Channel assumed: none, as keys are signed.

What it does not protect: two neighbours who help the server read the vector between them.  Without one party there is no sum.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from protocols import Misuse
from protocols.bulk import Bulk, Packed
from protocols.errors import require
from protocols.flow import Arrived, Fanout, Flow, Inbox, Input, Output
from protocols.primitives import agree, prg, sign
from protocols.rand import Rand
from protocols.ring import Accumulator
from protocols.schema import Message, PublicKey, Raw, Signature
from protocols.secagg_parameters import Parameters
from protocols.suite import Terms, default_corrupt
from protocols.sums import Party, Scheme
from protocols.vector import Sum, Vector, checked_sum, with_count
from protocols.wire import canonical

flow = Flow("ring")


@dataclass(frozen=True)
class Invited:
    """A party before it has done anything."""

    party: Party
    terms: Terms


@dataclass(frozen=True)
class Waiting:
    """A party that waits for its neighbours' keys."""

    invited: Invited
    pair: agree.KeyPair


@dataclass(frozen=True)
class Meeting:
    """Server: keys come in."""

    terms: Terms


@dataclass(frozen=True)
class Adding:
    """Server: padded vectors come in."""

    terms: Terms
    total: Accumulator


@dataclass(frozen=True)
class Hello(Message):
    """Party → server: a fresh key, signed."""

    key: PublicKey
    signature: Signature


@dataclass(frozen=True)
class Beside(Message):
    """Server → party: what its two neighbours said."""

    key_before: PublicKey
    signature_before: Signature
    key_after: PublicKey
    signature_after: Signature


@dataclass(frozen=True)
class Padded(Message):
    """Party → server: the vector under two pads."""

    y: Annotated[Bulk, Raw("padded")]


@flow.client
def greet(invited: Invited, rand: Rand) -> tuple[Waiting, Hello]:
    """Make a fresh key pair and sign its public key."""
    pair, me = agree.KeyPair.generate(rand, "pad"), invited.party
    return Waiting(invited, pair), Hello(pair.public, me.identity.sign(invited.terms.statement("hello", me.index, pair.public)))


@flow.server(quorum=lambda srv: srv.terms.parameters.parties, within=60.0)
def introduce(srv: Meeting, said: Inbox[Hello]) -> tuple[Adding, Fanout[Beside]]:
    """Give every party the keys of its neighbours."""
    n, p = srv.terms.parameters.parties, srv.terms.parameters
    pairs = {u: (said[(u - 2) % n + 1], said[u % n + 1]) for u in said}
    beside = {u: Beside(v.key, v.signature, w.key, w.signature) for u, (v, w) in pairs.items()}
    return Adding(srv.terms, Accumulator(p.ring, p.size + 1)), Fanout(beside)


@flow.client(spends=True)
def pad(waiting: Waiting, beside: Beside, x: Input[Vector]) -> Padded:
    """Check both keys, add one pad and subtract the other."""
    terms, u = waiting.invited.terms, waiting.invited.party.index
    p, n = terms.parameters, terms.parameters.parties
    before, after = (u - 2) % n + 1, u % n + 1
    said = ((before, beside.key_before, beside.signature_before), (after, beside.key_after, beside.signature_after))
    for v, key, signature in said:
        ok = sign.verify(terms.roster.identity(v), signature, terms.statement("hello", v, key))
        require(ok, "ring-signature", f"the key of party {v} is not its own")
    keys = [
        agree.derive(waiting.pair.exchange(key), canonical(["ring pad", terms.sid, first]))
        for first, (_, key, _) in zip((before, u), said, strict=True)
    ]
    y = with_count(x, p)
    prg.apply_masks(y, keys[1:], keys[:1])
    return Padded(Bulk.of(Packed(p.ring, p.size + 1), y))


def absorb(srv: Adding, _sender: int, padded: Padded) -> Adding:
    """Add one vector."""
    srv.total.add(padded.y.values)
    return srv


@flow.server(fold=absorb, quorum=lambda srv: srv.terms.parameters.parties, within=300.0)
def total(srv: Adding, arrived: Arrived[Padded]) -> Output[Sum]:
    """The sum over all, in which the pads have cancelled."""
    p = srv.terms.parameters
    return Output(checked_sum(p.ring.centre(srv.total.total()), len(arrived), p))


def parameters(
    parties: int, size: int, max_abs: int, *, bits: int | None = None, threshold: int | None = None, corrupt: int | None = None
) -> Parameters:
    """All parties are needed, so any threshold that is safe is kept; at most one party may collude with the server."""
    if parties < 3:
        raise Misuse(f"a ring has 3 parties or more, not {parties}")
    most = min(1, default_corrupt(parties))
    if corrupt not in (None, *range(most + 1)):
        raise Misuse(f"a ring of {parties} holds against {most} corrupt parties at most, not {corrupt}")
    return replace(Parameters.of(parties, size, max_abs, bits=bits, threshold=threshold), threshold=parties, corrupt=most)


SCHEME = Scheme(
    "ring",
    parameters,
    lambda p: f"Ring_X25519_Ed25519_HKDF-SHA256_AES256CTR_Z{p.ring.bits}",
    flow,
    Invited,
    Meeting,
    lambda p: {"padded": Packed(p.ring, p.size + 1)},
)
