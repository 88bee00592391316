"""The operations of primitives in test vectors: each takes and gives what JSON holds; bytes are lower-case hex."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols import degree, lagrange, secagg
from protocols.bulk import Packed
from protocols.errors import Refused
from protocols.field import Field
from protocols.primitives import agree, prg, seal, shamir, sign
from protocols.primitives.graph import Harary, ring_order
from protocols.rand import Key, Rand, Replay, Seed
from protocols.ring import Ring
from protocols.secagg_parameters import Parameters
from protocols.suite import Member, Occasion, Roster, session_id
from protocols.wire import Decoder, Limits

Given = dict[str, Any]
_b = bytes.fromhex


def _pack(bits: int, values: list[int]) -> Given:
    ring = Ring(bits)
    return {"bytes": ring.pack(np.array(values, dtype=ring.dtype)).hex()}


def _pack_steps(bits: int, step: int, count: int) -> Given:
    """Values i·step mod 2^bits, i from 0: long enough for several blocks."""
    ring = Ring(bits)
    values: NDArray[Any] = np.arange(count, dtype=ring.dtype)
    values *= ring.dtype(step)
    ring.reduce(values)
    data = ring.pack(values)
    return {"length": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _unpack(bits: int, count: int, data: str) -> Given:
    return {"values": Ring(bits).unpack(_b(data), count).tolist()}


def _unpack_field(bits: int, count: int, data: str) -> Given:
    return {"values": Field(bits).unpack(_b(data), count).tolist()}


def _step_seed(root: str, step: int) -> Given:
    replay = Replay(_b(root))
    sources = [replay() for _ in range(step)]
    return {"draw": sources[-1].seed("a draw").reveal().hex()}


def _draw(seed: str, label: str, size: int) -> Given:
    return {"seed": Rand(Seed(_b(seed))).seed(label).reveal().hex(), "bytes": Rand(Seed(_b(seed))).bytes(label, size).hex()}


def _below(seed: str, label: str, bound: int, count: int) -> Given:
    return {"values": Rand(Seed(_b(seed))).below(label, bound, count)}


def _expand(key: str, size: int, word: int) -> Given:
    return {"words": prg.expand(Key(_b(key)), size, np.uint32 if word == 32 else np.uint64).tolist()}


def _mask(bits: int, values: list[int], plus: list[str], minus: list[str]) -> Given:
    ring = Ring(bits)
    vector = np.array(values, dtype=ring.dtype)
    prg.apply_masks(vector, [Key(_b(key)) for key in plus], [Key(_b(key)) for key in minus])
    ring.reduce(vector)
    return {"values": vector.tolist()}


def _public_key(secret: str) -> Given:
    return {"public": agree.KeyPair(Seed(_b(secret))).public.hex()}


def _exchange(secret: str, public: str, info: str) -> Given:
    agree.check_public_key(_b(public))
    shared = agree.KeyPair(Seed(_b(secret))).exchange(_b(public))
    return {"shared": shared.reveal().hex(), "key": agree.derive(shared, _b(info)).reveal().hex()}


def _seal(key: str, plaintext: str, aad: str) -> Given:
    return {"box": seal.seal(Key(_b(key)), _b(plaintext), _b(aad)).hex()}


def _unseal(key: str, box: str, aad: str) -> Given:
    return {"plaintext": seal.unseal(Key(_b(key)), _b(box), _b(aad)).hex()}


def _sign(seed: str, content: str) -> Given:
    key = sign.SigningKey.from_seed(Seed(_b(seed)))
    return {"public": key.public.hex(), "signature": key.sign(_b(content)).hex()}


def _verify(public: str, signature: str, content: str) -> Given:
    return {"valid": sign.verify(_b(public), _b(signature), _b(content))}


def _share(secret: str, threshold: int, xs: list[int], seed: str, label: str) -> Given:
    return {"shares": [one.hex() for one in shamir.share(_b(secret), threshold, xs, Rand(Seed(_b(seed))), label)]}


def _combine(xs: list[int], shares: list[str]) -> Given:
    return {"secret": shamir.Lagrange(xs).combine([_b(one) for one in shares]).hex()}


def _order(parties: int, seed: str) -> Given:
    return {"order": [int(u) + 1 for u in ring_order(parties, _b(seed))[0]]}


def _holders(graph: list[int], index: int, members: list[int], seed: str) -> Given:
    return {"holders": list(Harary(*graph).holders(index, members, _b(seed)))}


def _thin_place(graph: list[int], present: list[int], seed: str) -> Given:
    return {"after": Harary(*graph).thin_place(present, _b(seed))}


def _degree(parties: int, corrupt: int, dropouts: int, security: int) -> Given:
    found = degree.graph(degree.Setting(parties, corrupt, dropouts, security))
    return {"degree": found.degree, "threshold": found.threshold, "gap": found.gap}


def _multiply(bits: int, one: list[int], other: list[int]) -> Given:
    field = Field(bits)
    a, b = (np.array(values, dtype=field.dtype) for values in (one, other))
    return {"products": field.multiply(a, b).tolist(), "inverses": field.inverse(a).tolist()}


def _uniform(bits: int, seed: str, label: str, count: int) -> Given:
    return {"values": Field(bits).uniform(Rand(Seed(_b(seed))), label, count).tolist()}


def _code(bits: int, sources: list[int], targets: list[int], rows: list[list[int]]) -> Given:
    """Values at ``sources``, one row each, to values at ``targets``."""
    field = Field(bits)
    matrix = lagrange.coefficients(field, sources, targets)
    return {"matrix": matrix.tolist(), "rows": field.product(matrix, np.array(rows, dtype=field.dtype)).tolist()}


def _misfits(bits: int, points: list[int], values: list[int], degree: int) -> Given:
    return {"points": lagrange.misfits(Field(bits), points, [values], degree)}


def _session_id(suite: str, occasion: list[Any], roster: list[list[str]], parameters: list[int]) -> Given:
    """sid of an occasion ``[run, round, attempt, model]`` for parameters ``[n, d, max_abs, bits, threshold, corrupt]``."""
    run, number, attempt, model = occasion
    members = Roster(tuple(Member(name, _b(key)) for name, key in roster))
    n, size, most, bits, threshold, corrupt = parameters
    p = Parameters(n, size, most, Ring(bits), threshold, corrupt)
    return {"sid": session_id(suite, Occasion(run, number, attempt, _b(model)), members, p).hex()}


def _decode(parties: int, data: str) -> Given:
    """Any message of secagg, with a masked vector of 3 values of 16 bits."""
    decoder = Decoder({kind.__name__: kind for kind in secagg.flow.messages()}, Limits(parties, {"masked": Packed(Ring(16), 3)}))
    decoder.feed(_b(data))
    if (got := decoder.message()) is None:
        raise Refused("wire-truncated")
    return {"type": type(got[0]).__name__, "epoch": got[1]}


Operation = Callable[..., Given]
OPERATIONS: Mapping[str, Operation] = {
    "pack": _pack,
    "pack_steps": _pack_steps,
    "unpack": _unpack,
    "unpack_field": _unpack_field,
    "step_seed": _step_seed,
    "draw": _draw,
    "below": _below,
    "expand": _expand,
    "mask": _mask,
    "public_key": _public_key,
    "exchange": _exchange,
    "seal": _seal,
    "unseal": _unseal,
    "sign": _sign,
    "verify": _verify,
    "share": _share,
    "combine": _combine,
    "ring_order": _order,
    "holders": _holders,
    "thin_place": _thin_place,
    "degree": _degree,
    "multiply": _multiply,
    "uniform": _uniform,
    "code": _code,
    "misfits": _misfits,
    "session_id": _session_id,
    "decode": _decode,
}


def did(name: str, **given: Any) -> Given:
    """What comes out of an operation.

    Raises:
        Refused: by the check that refuses what is given.
        Misuse: for what our own side refuses as wrong use.
    """
    return OPERATIONS[name](**given)
