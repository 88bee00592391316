"""LightSecAgg as one plain loop over all parties, like `protocols.reference`: the oracle of its tests.

Field arithmetic is on Python integers, interpolation by Lagrange's formula as it stands.  With the same randomness the flow must
send the same messages, bit by bit, and open the same sum.

Source: So et al., LightSecAgg, MLSys 2022 (arXiv 2109.14236), algorithm 1.  Labels and signed statements are written out once more,
on purpose.

What it does not protect: anything.  It is never to be used with real inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.bulk import Blobs, Bulk, Packed
from protocols.lightsecagg_parameters import LightParameters
from protocols.lightsecagg_types import Answer, KeyAdvert, KeyEntry, KeyList, Padded, Relayed, ShareHash, Shares
from protocols.primitives import seal
from protocols.primitives.agree import KeyPair, derive
from protocols.primitives.sign import SigningKey
from protocols.rand import Entropy, Rand
from protocols.reference import Run, Transcript
from protocols.suite import Terms
from protocols.wire import canonical, control_bytes, digest

STAGES = ("KeyAdvert", "Shares", "Padded", "Agree", "Answer")
"""Messages of a party, in order: before any of them it may vanish."""
_ABORTS = dict(zip(STAGES, ("collect", "relay", "survey", "gather", "recover"), strict=True))


def lightsecagg(  # noqa: C901, PLR0915  (one loop that reads like the paper's algorithm is the point)
    terms: Terms[LightParameters],
    identities: Mapping[int, SigningKey],
    inputs: Mapping[int, Sequence[int]],
    entropy: Mapping[int, Entropy],
    dropouts: Mapping[int, str] | None = None,
) -> Transcript:
    """LightSecAgg among parties who follow the protocol, some of whom vanish.

    Args:
        terms: of the sum.
        identities: every party's signing key, by roster index.
        inputs: every party's d integers, |value| ≤ max_abs.
        entropy: every party's randomness: one source for round 0, one for round 1.
        dropouts: for a party, the message of `STAGES` before which it vanishes.

    Returns:
        Every message, and the sum or the step in which too few were left.

    Raises:
        Misuse: for a stage that does not exist.
    """
    p, sid, q = terms.parameters, terms.sid, terms.parameters.ring.modulus
    n, U, T, length = p.parties, p.threshold, p.noise, p.size + 1
    everybody, run = list(terms.roster.indexes), Run(p, STAGES, dropouts or {})
    block = -(-length // (U - T))
    alpha = [n + i for i in range(1, U + 1)]
    vector, piece = Packed(p.ring, length), Packed(p.ring, block)
    boxes = Blobs(n - 1, 8 + 32 + piece.nbytes + seal.OVERHEAD)

    # Round 0: a fresh key pair
    c, adverts = dict[int, KeyPair](), dict[int, KeyAdvert]()
    for u in everybody:
        c[u] = KeyPair(entropy[u]().seed("c_sk"))
        adverts[u] = KeyAdvert(c[u].public, identities[u].sign(canonical(["keys", sid, u, c[u].public])))
    if (u1 := run.upload("KeyAdvert", adverts)) is None:
        return run.abort(_ABORTS["KeyAdvert"])
    listed = KeyList(tuple(KeyEntry(u, adverts[u].c_pk, adverts[u].signature) for u in u1))
    run.download(u1, listed)
    L = hashlib.sha256(control_bytes(listed)).digest()

    # Round 1: a mask in U − T blocks, T blocks of noise, the polynomial through them at every party's index
    z, share, hashes = dict[int, list[int]](), dict[tuple[int, int], list[int]](), dict[tuple[int, int], bytes]()
    box, dealt = dict[tuple[int, int], bytes](), dict[int, Shares]()
    for u in u1:
        rand = entropy[u]()
        words = _uniform(rand.child(f"mask {sid.hex()} {L.hex()}"), p, U * block)
        vectors = [words[i * block : (i + 1) * block] for i in range(U)]
        z[u] = [value for row in vectors[: U - T] for value in row][:length]
        for v in u1:
            share[u, v] = [_interpolate(dict(zip(alpha, column, strict=True)), v, q) for column in zip(*vectors, strict=True)]
            salt, packed = rand.bytes(f"salt {v}", 32), piece.dump(np.array(share[u, v], dtype=p.ring.dtype))
            hashes[u, v] = digest(["share", sid, L, u, v, salt, hashlib.sha256(packed).digest()])
            if v != u:
                label = ["box", sid, L, u, v, c[u].public, c[v].public]
                key = derive(c[u].exchange(c[v].public), canonical(label))
                content = u.to_bytes(4, "big") + v.to_bytes(4, "big") + salt + packed
                box[u, v] = seal.seal(key, content, canonical([sid, L, u, v]))
        others = [v for v in u1 if v != u]
        content = canonical(["share", sid, u, L, hashes[u, u], [[v, hashes[u, v]] for v in others]])
        slots = Bulk.of(boxes, _slots(boxes, [box.get((u, v)) for v in everybody if v != u]))
        pinned = tuple(ShareHash(v, hashes[u, v]) for v in others)
        dealt[u] = Shares(slots, pinned, hashes[u, u], identities[u].sign(content))
    if (u2 := run.upload("Shares", dealt)) is None:
        return run.abort(_ABORTS["Shares"])
    for v in u2:
        slots = Bulk.of(boxes, _slots(boxes, [box[u, v] if u in u2 else None for u in everybody if u != v]))
        run.download([v], Relayed(slots, u2, tuple(ShareHash(u, hashes[u, v]) for u in u2 if u != v)))

    # Round 2: y = x + z
    y, padded = dict[int, list[int]](), dict[int, Padded]()
    for u in u2:
        y[u] = [(a + b) % q for a, b in zip([*inputs[u], 1], z[u], strict=True)]
        bulk = Bulk.of(vector, np.array(y[u], dtype=p.ring.dtype))
        receipt = digest([[v, hashes[v, u]] for v in u2 if v != u])
        padded[u] = Padded(bulk, receipt, identities[u].sign(canonical(["masked", sid, u, L, list(u2), bulk.digest, receipt])))
    if (u3 := run.upload("Padded", padded)) is None:
        return run.abort(_ABORTS["Padded"])
    run.download(u3, Dropped(tuple(v for v in u2 if v not in u3)))

    # Round 3: everybody signs U3
    agreed = {u: Agree(identities[u].sign(canonical(["agree", sid, u, L, list(u3)]))) for u in u3}
    if (u4 := run.upload("Agree", agreed)) is None:
        return run.abort(_ABORTS["Agree"])
    run.download(u4, Agreed(tuple(Signed(u, agreed[u].signature) for u in u4), ()))

    # Round 4: each helper's sum of shares, and the sum
    sums, answers = dict[int, list[int]](), dict[int, Answer]()
    for u in u4:
        sums[u] = [sum(column) % q for column in zip(*(share[v, u] for v in u3), strict=True)]
        bulk = Bulk.of(piece, np.array(sums[u], dtype=p.ring.dtype))
        answers[u] = Answer(bulk, identities[u].sign(canonical(["answer", sid, u, L, list(u3), bulk.digest])))
    if (u5 := run.upload("Answer", answers)) is None:
        return run.abort(_ABORTS["Answer"])
    helpers = u5[:U]
    mask = [_interpolate({u: sums[u][i] for u in helpers}, a, q) for a in alpha[: U - T] for i in range(block)][:length]
    total = [(sum(y[u][i] for u in u3) - mask[i]) % q for i in range(length)]
    return Transcript(tuple(run.sent), u3, tuple(value - q if value > q // 2 else value for value in total[:-1]))


def _uniform(rand: Rand, p: LightParameters, count: int) -> list[int]:
    """Little-endian words of the stream, cut to the field's bits; one equal to q is made up for by the next draws."""
    source, size, out, draw = rand.child("blocks"), 4 if p.ring.bits <= 32 else 8, list[int](), 0
    while len(out) < count:
        data = source.bytes(str(draw), size * (count - len(out)))
        words = [int.from_bytes(data[i : i + size], "little") % 2**p.ring.bits for i in range(0, len(data), size)]
        out += [word for word in words if word != p.ring.modulus]
        draw += 1
    return out


def _interpolate(points: Mapping[int, int], at: int, q: int) -> int:
    """The value at ``at`` of the polynomial through ``points``, by Lagrange's formula."""
    value = 0
    for x, y in points.items():
        above, below = 1, 1
        for other in points:
            if other != x:
                above, below = above * (at - other) % q, below * (x - other) % q
        value += y * above * pow(below, -1, q)
    return value % q


def _slots(layout: Blobs, boxes: Sequence[bytes | None]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    data = b"".join(bytes(layout.size) if box is None else box for box in boxes)
    return np.frombuffer(data, dtype=np.uint8).reshape(layout.count, layout.size)
