"""Trials of one family: whether what a server holds, and shares that passed it, open a single upload.

A protocol joins by an entry in `TRIALS`: a function of what was observed and of one secret that was found (or None), which returns
an opened input, or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocols import he
from protocols.handshake import list_hash
from protocols.he_types import Shared as HeShared
from protocols.he_types import Upload
from protocols.lightsecagg_types import Covered as LightCovered
from protocols.lightsecagg_types import Padded
from protocols.primitives.agree import KeyPair
from protocols.rand import Seed
from protocols.schema import Message
from protocols.secagg_types import Advert, Covered, Entry, Listed, Masked
from securefl.audit.he_server import opened
from securefl.audit.knowledge import Observed
from securefl.audit.light_server import unmasked
from securefl.audit.secagg_server import pair_keys, rebuild, unmask
from securefl.audit.target import Shape

Trial = Callable[[Observed, bytes | None], list[int]]


def _sent(seen: Observed, kind: type[Message]) -> dict[int, Any]:
    """Messages of that name, which a changed protocol may send with more in them."""
    return {letter.sender.index: letter.message for letter, _ in seen.letters if type(letter.message).__name__ == kind.__name__}


def shares_of_secagg(seen: Observed, _found: bytes | None) -> list[int]:
    """Enough shares of both secrets of one party in what reached the server, as bytes."""
    terms, traffic = seen.fed.terms, seen.traffic
    states = {u: s for u, held in seen.states.items() for s in held if isinstance(s, Covered)}
    adverts = _sent(seen, Advert)
    L = list_hash(Listed(tuple(Entry(u, a.c_pk, a.s_pk, a.signature) for u, a in sorted(adverts.items()))))
    for v, masked in _sent(seen, Masked).items():
        known: dict[str, dict[int, bytes]] = {"s": {}, "b": {}}
        for u, state in states.items():
            held = state.held.get(v)
            for which, share in () if held is None else (("s", held.s_share), ("b", held.b_share)):
                if share is not None and share in traffic:
                    known[which][u] = share
        s, b = (rebuild(known[which], terms.parameters.shares) for which in ("s", "b"))
        if s is not None and b is not None:
            pairs = pair_keys(terms, L, v, _neighbours(seen, L, v, adverts), {v: KeyPair.from_secret(s)})
            return unmask(terms, L, v, masked, b, pairs)
    return []


def _neighbours(seen: Observed, L: bytes, v: int, adverts: dict[int, Advert]) -> dict[int, bytes]:
    holders = seen.fed.terms.parameters.graph.holders(v, sorted(adverts), seen.fed.terms.sid + L)
    return {u: adverts[u].s_pk for u in {v, *holders}}


def shares_of_lightsecagg(seen: Observed, _found: bytes | None) -> list[int]:
    """Enough shares of one party's mask in what reached the server, packed as they travel."""
    p, traffic = seen.fed.terms.parameters, seen.traffic
    states = {u: s for u, held in seen.states.items() for s in held if isinstance(s, LightCovered)}
    for v, padded in _sent(seen, Padded).items():
        shares = {u: s.held[v].share for u, s in states.items() if v in s.held and bytes(p.ring.pack(s.held[v].share)) in traffic}
        if len(shares) >= p.threshold:
            return unmasked(p, padded, shares)
    return []


def key_of_he(seen: Observed, found: bytes | None) -> list[int]:
    """A secret that was found, taken for the common key, or for one of the seeds that make it."""
    terms, traffic, uploads = seen.fed.terms, seen.traffic, _sent(seen, Upload)
    keys = [] if found is None else [Seed(found)]
    states = {u: s for u, held in seen.states.items() for s in held if isinstance(s, HeShared)}
    seeds = {u: s.seed for u, s in states.items() if s.seed.reveal() in traffic}
    if states and len(seeds) == len(states):
        keys.append(he.common_key(terms, next(iter(states.values())).L, sorted(seeds), seeds))
    tries = ((key, u, upload) for key in keys for u, upload in uploads.items())
    return next((values for key, u, upload in tries if (values := opened(seen.fed, key, u, upload))), [])


TRIALS: dict[Shape, Trial] = {
    "secagg": shares_of_secagg,
    "secagg+": shares_of_secagg,
    "lightsecagg": shares_of_lightsecagg,
    "he": key_of_he,
}
