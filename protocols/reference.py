"""Each protocol as one plain loop over all parties: the oracle of the tests, and what test vectors are written from.

There are no sessions, no states and no bytes that could be lost: everybody's secrets lie in one scope, and ring arithmetic is
on Python integers.  With the same randomness a flow must send the same messages, bit by bit, and open the same sum.

Source: Bonawitz et al., CCS 2017 (eprint 2017/281), figure 4; the form follows the ``run`` of the proof of concept of the IETF's
draft-irtf-cfrg-vdaf.  Key-derivation labels and signed statements are written out once more, on purpose.

What it does not protect: anything.  It is never to be used with real inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from protocols.agreement import Agree, Agreed, Covering, Dropped, Signed
from protocols.bulk import Bulk, Packed
from protocols.errors import Misuse
from protocols.plain import Clear
from protocols.primitives import seal, shamir
from protocols.primitives.agree import KeyPair, derive
from protocols.primitives.graph import Harary, ring_order
from protocols.primitives.sign import SigningKey
from protocols.rand import Entropy, Key, Secret, Seed
from protocols.ring import Ring
from protocols.schema import Message
from protocols.secagg_types import Advert, Boxes, Entry, Listed, Masked, Openings, Sealed
from protocols.suite import SumParameters, Terms
from protocols.wire import canonical, control_bytes, digest

SECAGG_STAGES = ("Advert", "Boxes", "Masked", "Agree", "Openings")
"""Messages of a party in `secagg`, in order: before any of them it may vanish."""
PLAIN_STAGES = ("Clear",)
_ABORTS = dict(zip(SECAGG_STAGES, ("collect", "relay", "survey", "gather", "reveal"), strict=True))


@dataclass(frozen=True)
class Sent:
    """One message.

    Attributes:
        sender: roster index, 0 for the server.
        to: roster indexes, 0 for the server; the bytes are the same for all.
        message: the content.
    """

    sender: int
    to: tuple[int, ...]
    message: Message


@dataclass(frozen=True)
class Transcript:
    """A whole run.

    Attributes:
        sent: every message, in the order of the rounds.
        survivors: roster indexes of those whose vector is in the sum; empty after an abort.
        total: the sum over them, d integers; None after an abort.
        aborted: the server's step that too few parties reached, or None.
    """

    sent: tuple[Sent, ...]
    survivors: tuple[int, ...] = ()
    total: tuple[int, ...] | None = None
    aborted: str | None = None


class Run:
    """What was sent so far, and who is still there."""

    def __init__(self, parameters: SumParameters, stages: Sequence[str], dropouts: Mapping[int, str]) -> None:
        unknown = set(dropouts.values()) - set(stages)
        if unknown:
            raise Misuse(f"no stage {sorted(unknown)}; a party vanishes before one of {', '.join(stages)}")
        self._last = {u: stages.index(stage) for u, stage in dropouts.items()}
        self._stages, self._threshold = stages, parameters.threshold
        self.sent = list[Sent]()

    def upload(self, stage: str, messages: Mapping[int, Message]) -> tuple[int, ...] | None:
        """Who gets a message of this stage through to the server, or None if too few do."""
        at = self._stages.index(stage)
        arrived = tuple(u for u in messages if self._last.get(u, len(self._stages)) > at)
        self.sent += [Sent(u, (0,), messages[u]) for u in arrived]
        return arrived if len(arrived) >= self._threshold else None

    def download(self, to: Iterable[int], message: Message) -> None:
        """The server says something."""
        self.sent.append(Sent(0, tuple(to), message))

    def abort(self, step: str) -> Transcript:
        """Too few are left."""
        return Transcript(tuple(self.sent), aborted=step)


def secagg(  # noqa: C901, PLR0911, PLR0912, PLR0915  (one loop that reads like the paper's figure is the point)
    terms: Terms,
    identities: Mapping[int, SigningKey],
    inputs: Mapping[int, Sequence[int]] | Callable[[int, bytes], Sequence[int]],
    entropy: Mapping[int, Entropy],
    dropouts: Mapping[int, str] | None = None,
) -> Transcript:
    """SecAgg among parties who follow the protocol, some of whom vanish.

    Args:
        terms: of the sum.
        identities: every party's signing key, by roster index.
        inputs: every party's d integers, |value| ≤ max_abs; or a function of the party and L that gives them when it masks.
        entropy: every party's randomness: one source for round 0, one for round 1.
        dropouts: for a party, the message of `SECAGG_STAGES` before which it vanishes.

    Returns:
        Every message, and the sum or the step in which too few were left.

    Raises:
        Misuse: for a stage that does not exist.
    """
    p, sid, ring, t = terms.parameters, terms.sid, terms.parameters.ring, terms.parameters.shares
    everybody, length = list(terms.roster.indexes), p.size + 1
    run = Run(p, SECAGG_STAGES, dropouts or {})

    # Round 0: fresh key pairs
    c, s, adverts = dict[int, KeyPair](), dict[int, KeyPair](), dict[int, Advert]()
    for u in everybody:
        rand = entropy[u]()
        c[u], s[u] = KeyPair(rand.seed("c_sk")), KeyPair(rand.seed("s_sk"))
        signature = identities[u].sign(canonical(["keys", sid, u, c[u].public, s[u].public]))
        adverts[u] = Advert(c[u].public, s[u].public, signature)
    if (u1 := run.upload("Advert", adverts)) is None:
        return run.abort(_ABORTS["Advert"])
    listed = Listed(tuple(Entry(u, adverts[u].c_pk, adverts[u].s_pk, adverts[u].signature) for u in u1))
    run.download(u1, listed)
    L = hashlib.sha256(control_bytes(listed)).digest()
    holders = {u: [v for v in p.graph.holders(u, u1, sid + L) if v in u1] for u in u1}

    # Round 1: shares of s_sk and of a seed b, one box for each holder
    b, share_s, share_b = dict[int, Seed](), dict[tuple[int, int], bytes](), dict[tuple[int, int], bytes]()
    hash_s, hash_b, dealt = dict[tuple[int, int], bytes](), dict[tuple[int, int], bytes](), dict[int, Boxes]()
    box, mail = dict[tuple[int, int], bytes](), dict[int, bytes]()
    for u in [u for u in u1 if len(holders[u]) >= t]:
        rand = entropy[u]()
        b[u] = rand.seed("b")
        s_dealt = shamir.share(s[u].secret().reveal(), t, holders[u], rand, "share s_sk")
        b_dealt = shamir.share(b[u].reveal(), t, holders[u], rand, "share b")
        for v, one, other in zip(holders[u], s_dealt, b_dealt, strict=True):
            share_s[u, v], share_b[u, v] = one, other
            hash_s[u, v] = digest(["share", sid, L, u, v, "s", one])
            hash_b[u, v] = digest(["share", sid, L, u, v, "b", other])
        boxes, hashes = b"", b""
        for v in [v for v in holders[u] if v != u]:
            key = _key(c[u].exchange(c[v].public), "box", sid, L, u, v, c[u].public, c[v].public)
            plain = u.to_bytes(4, "big") + v.to_bytes(4, "big") + share_s[u, v] + share_b[u, v]
            box[u, v] = seal.seal(key, plain, canonical([sid, L, u, v]))
            boxes, hashes = boxes + box[u, v], hashes + hash_s[u, v] + hash_b[u, v]
        own = digest(["share", sid, L, u, u, "b", share_b[u, u]]) if u in holders[u] else b""
        commitment = _key(b[u], "commit", sid, L, u).reveal()
        content = canonical(["share", sid, u, L, commitment, own, hashlib.sha256(hashes).digest()])
        dealt[u] = Boxes(boxes, hashes, own, commitment, identities[u].sign(content))
    if (u2 := run.upload("Boxes", dealt)) is None:
        return run.abort(_ABORTS["Boxes"])
    for v in u2:
        from_ = [u for u in u2 if u != v and v in holders[u]]
        mail[v] = b"".join(hash_s[u, v] + hash_b[u, v] for u in from_)
        run.download([v], Sealed(u2, b"".join(box[u, v] for u in from_), mail[v]))

    # Round 2: y = x + PRG(b) ± Σ PRG(s_uv)
    y, masked = dict[int, list[int]](), dict[int, Masked]()
    for u in [u for u in u2 if len(set(holders[u]) & set(u2)) >= t]:
        x = inputs(u, L) if callable(inputs) else inputs[u]
        y[u] = _add([*x, 1], _stream(_key(b[u], "self", sid, L, u), length, ring), 1, ring)
        for v in [v for v in u2 if v != u and v in holders[u]]:
            y[u] = _add(y[u], _stream(_pair(sid, L, s, u, v), length, ring), 1 if u < v else -1, ring)
        bulk = Bulk.of(Packed(ring, length), np.array(y[u], dtype=ring.dtype))
        receipt = digest(mail[u])
        masked[u] = Masked(bulk, receipt, identities[u].sign(canonical(["masked", sid, u, L, list(u2), bulk.digest, receipt])))
    if (u3 := run.upload("Masked", masked)) is None:
        return run.abort(_ABORTS["Masked"])
    if isinstance(p.graph, Harary) and _thin(p.graph, u3, sid + L):
        return run.abort(_ABORTS["Masked"])
    run.download(u3, Dropped(tuple(v for v in u2 if v not in u3)))

    # Round 3: everybody signs U3
    left = [u for u in u3 if len(set(holders[u]) & set(u3)) >= t]
    agreed = {u: Agree(identities[u].sign(canonical(["agree", sid, u, L, list(u3)]))) for u in left}
    if (u4 := run.upload("Agree", agreed)) is None:
        return run.abort(_ABORTS["Agree"])
    signed = [Covering(masked[u].y.digest, masked[u].receipt, masked[u].signature) for u in u3 if isinstance(p.graph, Harary)]
    run.download(u4, Agreed(tuple(Signed(u, agreed[u].signature) for u in u4), tuple(signed)))

    # Round 4: one share of each dealer's one secret, and the sum
    opened = dict[int, Openings]()
    for u in u4:
        dealers = [v for v in u2 if u in holders[v]]
        shares = b"".join((share_b if v in u3 else share_s)[v, u] for v in dealers)
        content = canonical(["open", sid, u, L, list(u3), shares])
        opened[u] = Openings(shares, identities[u].sign(content))
    if (u5 := run.upload("Openings", opened)) is None:
        return run.abort(_ABORTS["Openings"])
    total = [0] * length
    for u in u3:
        total = _add(total, y[u], 1, ring)
    for v in u2:
        points = {u: (share_b if v in u3 else share_s)[v, u] for u in u5 if u in holders[v]}
        if len(points) < t:
            return run.abort(_ABORTS["Openings"])
        secret = Seed(_interpolate(dict(list(points.items())[:t])))
        if v in u3:
            total = _add(total, _stream(_key(secret, "self", sid, L, v), length, ring), -1, ring)
        else:
            rebuilt = {**s, v: KeyPair(secret)}
            for u in [u for u in u3 if u in holders[v]]:
                total = _add(total, _stream(_pair(sid, L, rebuilt, v, u), length, ring), 1 if v < u else -1, ring)
    return Transcript(tuple(run.sent), u3, _signed(total, ring)[:-1])


def plain(terms: Terms, inputs: Mapping[int, Sequence[int]], dropouts: Mapping[int, str] | None = None) -> Transcript:
    """The sum in clear.

    Args:
        terms: of the sum.
        inputs: every party's d integers, |value| ≤ max_abs.
        dropouts: for a party, the message of `PLAIN_STAGES` before which it vanishes.

    Returns:
        Every message, and the sum or the step in which too few were left.

    Raises:
        Misuse: for a stage that does not exist.
    """
    p = terms.parameters
    run = Run(p, PLAIN_STAGES, dropouts or {})
    x = {u: [value % p.ring.modulus for value in [*inputs[u], 1]] for u in terms.roster.indexes}
    clear = {u: Clear(Bulk.of(Packed(p.ring, p.size + 1), np.array(row, dtype=p.ring.dtype))) for u, row in x.items()}
    if (arrived := run.upload("Clear", clear)) is None:
        return run.abort("total")
    total = [sum(x[u][i] for u in arrived) % p.ring.modulus for i in range(p.size)]
    return Transcript(tuple(run.sent), arrived, _signed(total, p.ring))


def _thin(graph: Harary, present: Sequence[int], seed: bytes) -> bool:
    """Whether somewhere on the ring too few of the next k/2 places are of ``present``."""
    order = [int(place) + 1 for place in ring_order(graph.parties, seed)[0]]
    after = {u: [order[(i + step) % graph.parties] for step in range(1, graph.degree // 2 + 1)] for i, u in enumerate(order)}
    return graph.gap is not None and any(len(set(after[u]) & set(present)) <= graph.gap for u in present)


def _key(secret: Secret, *label: object) -> Key:
    return derive(secret, canonical(list(label)))


def _pair(sid: bytes, L: bytes, pairs: Mapping[int, KeyPair], mine: int, theirs: int) -> Key:
    """The mask key of two parties, computed with the secret key of ``mine``."""
    low, high = sorted((mine, theirs))
    shared = pairs[mine].exchange(pairs[theirs].public)
    return _key(shared, "pair", sid, L, low, high, pairs[low].public, pairs[high].public)


def _stream(key: Key, length: int, ring: Ring) -> list[int]:
    """AES-256-CTR from a zero counter, little-endian words, each reduced to the ring."""
    word = 4 if ring.bits <= 32 else 8
    data = Cipher(algorithms.AES(key.reveal()), modes.CTR(bytes(16))).encryptor().update(bytes(word * length))
    return [int.from_bytes(data[i : i + word], "little") % ring.modulus for i in range(0, len(data), word)]


def _add(one: Sequence[int], other: Sequence[int], sign: int, ring: Ring) -> list[int]:
    return [(a + sign * b) % ring.modulus for a, b in zip(one, other, strict=True)]


def _signed(values: Sequence[int], ring: Ring) -> tuple[int, ...]:
    return tuple(value - ring.modulus if value >= ring.half else value for value in values)


def _interpolate(points: Mapping[int, bytes]) -> bytes:
    """The value at 0 of the polynomial through ``points``, by Lagrange's formula."""
    secret: int = 0
    for x, share in points.items():
        weight: Any = 1
        for other in points:
            if other != x:
                weight = weight * other * pow(other - x, -1, shamir.P) % shamir.P
        secret = (secret + weight * int.from_bytes(share, "big")) % shamir.P
    return secret.to_bytes(shamir.SECRET_SIZE, "big")
