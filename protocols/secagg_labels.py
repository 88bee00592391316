"""What enters the hashes, key derivations and signatures of SecAgg (`protocols.secagg`): all that another implementer must match.

Source: Bonawitz et al., CCS 2017 (eprint 2017/281), figure 4; every label holds the usage, the session identity, the hash L of the
round-0 list, and whom it concerns.  Symbols as in `protocols.secagg`.
"""

from __future__ import annotations

import hashlib

from protocols.primitives import agree
from protocols.rand import Key, Seed
from protocols.suite import Terms
from protocols.wire import canonical, digest


def share_hash(terms: Terms, L: bytes, dealer: int, holder: int, secret: str, value: bytes) -> bytes:
    """Hash that pins one share: of ``"s"`` (s_sk) or ``"b"``."""
    return digest(["share", terms.dealing, L, dealer, holder, secret, value])


def own_hash(terms: Terms, L: bytes, u: int, value: bytes | None) -> bytes:
    """Hash of the share of b that u itself keeps; empty where it keeps none."""
    return b"" if value is None else share_hash(terms, L, u, u, "b", value)


def commit(terms: Terms, L: bytes, u: int, b: Seed) -> bytes:
    """Commitment to the seed b of u."""
    return agree.derive(b, canonical(["commit", terms.dealing, L, u])).reveal()


def box_content(u: int, v: int, *shares: bytes) -> bytes:
    """What is sealed for v by u: both ids, a share of s_sk, one of b; for many sums these two once more for each."""
    return b"".join([u.to_bytes(4, "big"), v.to_bytes(4, "big"), *shares])


def share_statement(terms: Terms, u: int, L: bytes, commitment: bytes, own: bytes, hashes: bytes) -> bytes:
    """What a dealer signs."""
    return terms.statement("share", u, L, commitment, own, hashlib.sha256(hashes).digest())


def receipt_of(hashes: bytes) -> bytes:
    """Hash of the share hashes that were relayed to a party: signed by it, so that nobody can say it accepted others."""
    return digest(hashes)


def joint_hash(vector: bytes, beside: bytes) -> bytes:
    """What is signed of a message: the hash of its masked vector, or one hash over it and that of what travels ``beside`` it."""
    return digest([vector, beside]) if beside else vector


def pair_key(terms: Terms, L: bytes, pair: agree.KeyPair, theirs: bytes, u: int, v: int) -> Key:
    """The key of the mask that u and v share; the lower index adds it, the higher subtracts it."""
    keys = (pair.public, theirs) if u < v else (theirs, pair.public)
    return agree.derive(pair.exchange(theirs), canonical(["pair", terms.sid, L, min(u, v), max(u, v), *keys]))


def opening_statement(terms: Terms, u: int, L: bytes, u3: tuple[int, ...], shares: bytes) -> bytes:
    """What an opener signs."""
    return terms.statement("open", u, L, u3, shares)
