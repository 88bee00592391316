"""The homomorphic sums as one plain loop over all parties, like `protocols.reference`: the oracle of their tests.

Digits and tags are formed on Python integers, sums of ciphertexts word by word; encryption itself is that of
`protocols.primitives.homomorphic`, which has an oracle of its own in the tests.  With the same randomness the flow must send the
same messages, bit by bit, and open the same sum.

Source: as `protocols.he`.  Labels and signed statements are written out once more, on purpose.

What it does not protect: anything.  It is never to be used with real inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.bulk import Blobs, Bulk, Packed
from protocols.he_parameters import HeParameters
from protocols.he_types import Committed, Dealt, Decrypted, Delivered, SeedBox, Summed, Upload
from protocols.lightsecagg_types import KeyAdvert, KeyEntry, KeyList
from protocols.primitives import homomorphic, seal
from protocols.primitives.agree import KeyPair, derive
from protocols.primitives.sign import SigningKey
from protocols.rand import Entropy, Rand, Seed
from protocols.reference import Run, Transcript
from protocols.ring import Ring
from protocols.suite import Terms
from protocols.wire import canonical, control_bytes, digest

STAGES = ("KeyAdvert", "Dealt", "Upload", "Agree", "Decrypted")
"""Messages of a party, in order: before any of them it may vanish."""
_ABORTS = dict(zip(STAGES, ("collect", "relay", "survey", "gather", "conclude"), strict=True))
_Q = 2**61 - 1


def homomorphic_sum(  # noqa: C901  (one loop from the first key to the sum is the point)
    terms: Terms[HeParameters],
    identities: Mapping[int, SigningKey],
    inputs: Mapping[int, Sequence[int]],
    entropy: Mapping[int, Entropy],
    dropouts: Mapping[int, str] | None = None,
) -> Transcript:
    """A homomorphic sum among parties who follow the protocol, some of whom vanish.

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
    p, sid = terms.parameters, terms.sid
    run, N, count = Run(p, STAGES, dropouts or {}), p.degree, p.ciphertexts
    word = Packed(Ring(p.modulus), count * N)

    # Round 0: a fresh key pair
    c, adverts = dict[int, KeyPair](), dict[int, KeyAdvert]()
    for u in terms.roster.indexes:
        c[u] = KeyPair(entropy[u]().seed("c_sk"))
        adverts[u] = KeyAdvert(c[u].public, identities[u].sign(canonical(["keys", sid, u, c[u].public])))
    if (u1 := run.upload("KeyAdvert", adverts)) is None:
        return run.abort(_ABORTS["KeyAdvert"])
    listed = KeyList(tuple(KeyEntry(u, adverts[u].c_pk, adverts[u].signature) for u in u1))
    run.download(u1, listed)
    L = hashlib.sha256(control_bytes(listed)).digest()

    # Round 1: a seed from everybody
    seed, box, dealt = dict[int, bytes](), dict[tuple[int, int], bytes](), dict[int, Dealt]()
    for u in u1:
        seed[u], boxes = entropy[u]().seed("seed").reveal(), list[SeedBox]()
        for v in [v for v in u1 if v != u]:
            key = derive(c[u].exchange(c[v].public), canonical(["box", sid, L, u, v, c[u].public, c[v].public]))
            box[u, v] = seal.seal(key, u.to_bytes(4, "big") + v.to_bytes(4, "big") + seed[u], canonical([sid, L, u, v]))
            boxes.append(SeedBox(v, box[u, v]))
        commitment = digest(["seed", sid, L, u, seed[u]])
        dealt[u] = Dealt(tuple(boxes), commitment, identities[u].sign(canonical(["seed", sid, u, L, commitment, list(u1)])))
    if (u2 := run.upload("Dealt", dealt)) is None:
        return run.abort(_ABORTS["Dealt"])
    for v in u2:
        others = [u for u in u2 if u != v]
        known = tuple(Committed(u, dealt[u].commitment) for u in others)
        run.download([v], Delivered(u2, tuple(SeedBox(u, box[u, v]) for u in others), known))
    mixed = 0
    for u in u2:
        mixed ^= int.from_bytes(seed[u], "big")
    common = Seed(derive(Seed(mixed.to_bytes(32, "big")), canonical(["common", sid, L, list(u2)])).reveal())

    # Round 2: digits, tag, ciphertexts
    kappa, pads = _uniform(common, "kappa", p.data_slots), _uniform(common, "pads", p.parties)
    fresh, sent = dict[int, homomorphic.Ciphertexts](), dict[int, Upload]()
    for u in u2:
        slots = _slots(p, [value + p.max_abs for value in [*inputs[u], 1]], p.limbs)
        tag = (sum(k * s for k, s in zip(kappa, slots, strict=True)) + pads[u - 1]) % _Q
        slots += _slots(p, [tag], p.tag_limbs)
        slots += [0] * (count * p.shape.slots - len(slots))
        fresh[u] = homomorphic.encrypt(p.shape, common, np.array(slots, np.uint64), entropy[u]())
        seeds, words = Bulk.of(Blobs(count, 64), fresh[u].seeds), Bulk.of(word, fresh[u].words)
        content = canonical(["upload", sid, u, L, list(u2), seeds.digest, words.digest])
        sent[u] = Upload(seeds, words, identities[u].sign(content))
    if (u3 := run.upload("Upload", sent)) is None:
        return run.abort(_ABORTS["Upload"])
    run.download(u3, Dropped(tuple(v for v in u2 if v not in u3)))

    # Round 3: everybody signs U3
    agreed = {u: Agree(identities[u].sign(canonical(["agree", sid, u, L, list(u3)]))) for u in u3}
    if (u4 := run.upload("Agree", agreed)) is None:
        return run.abort(_ABORTS["Agree"])
    run.download(u4, Agreed(tuple(Signed(u, agreed[u].signature) for u in u4)))
    openers = sorted(sorted(u4, key=lambda v: digest(["opener", sid, L, v]))[:3])
    total = _added(p, [fresh[u] for u in u3])
    run.download(openers, Summed(Bulk.of(Packed(Ring(p.modulus), 2 * count * N), total)))

    # Round 4: two of three openers give the sum
    values = [sum(column) for column in zip(*([*inputs[u], 1] for u in u3), strict=True)]
    opened = Bulk.of(Packed(p.ring, p.size + 1), np.array([v % p.ring.modulus for v in values], dtype=p.ring.dtype))
    given = {
        u: Decrypted(opened, identities[u].sign(canonical(["decrypted", sid, u, L, list(u3), opened.digest]))) for u in openers
    }
    run.upload("Decrypted", given)
    if sum(isinstance(one.message, Decrypted) for one in run.sent) < 2:  # one answer is taken for no sum
        return run.abort(_ABORTS["Decrypted"])
    return Transcript(tuple(run.sent), u3, tuple(values[:-1]))


def _slots(p: HeParameters, values: Sequence[int], limbs: int) -> list[int]:
    """Values in limbs, the lowest first; limbs as digits, the first one lowest."""
    digits = [value >> p.limb * i & (1 << p.limb) - 1 for value in values for i in range(limbs)]
    rows = [digits[i : i + p.digits] for i in range(0, len(digits), p.digits)]
    return [sum(digit << p.digit * j for j, digit in enumerate(row)) for row in rows]


def _uniform(key: Seed, label: str, count: int) -> list[int]:
    """Little-endian words of the stream, cut to 61 bits; one equal to 2^61 − 1 is made up for by the next draws."""
    source, out, draw = Rand(key).child(label), list[int](), 0
    while len(out) < count:
        data = source.bytes(str(draw), 8 * (count - len(out)))
        words = [int.from_bytes(data[i : i + 8], "little") & _Q for i in range(0, len(data), 8)]
        out += [word for word in words if word != _Q]
        draw += 1
    return out


def _added(p: HeParameters, fresh: Sequence[homomorphic.Ciphertexts]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """c0 and c1 of the sum, word by word; c1 of each is what its seed expands to."""
    total = np.zeros(2 * p.ciphertexts * p.degree, np.uint64)
    for one in fresh:
        alone = homomorphic.Adder(p.shape, p.ciphertexts)
        alone.add(one)
        total = (total + alone.total()) % np.uint64(homomorphic.modulus(p.shape))
    return total
