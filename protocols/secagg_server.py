"""What the server of SecAgg does with all parties' messages at once: boxes to their addressees, shares to secrets.

Source: Bonawitz et al., CCS 2017 (eprint 2017/281), figure 4, rounds 1 and 4.  Symbols as in `protocols.secagg`.

Shares are put together before they are looked at: a secret that fits what its dealer committed to is right, whoever sent the
shares.  Where one does not fit, every share of it is held to the hash that its dealer signed and its opener accepted (the receipt).
Who sent another is left out and named, by its own signature where that is good; if a secret from good shares does not fit, its
dealer is named.

What it does not protect: a wrong share that no secret was made of goes unnoticed, as it does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from protocols.agreement import masked_statement
from protocols.batch_terms import StepTerms
from protocols.errors import Abort, Refused
from protocols.evidence import Evidence, bad_dealing, dealing_refused, other_share
from protocols.primitives.agree import KeyPair
from protocols.primitives.shamir import SHARE_SIZE, Lagrange
from protocols.primitives.sign import verify
from protocols.rand import Seed
from protocols.said import Said
from protocols.schema import strings
from protocols.secagg_labels import commit, opening_statement, share_hash, share_statement
from protocols.secagg_types import BOX, PINS, Advert, Boxes, Entry, Listed, Opened, Openings, Relaying, Summing
from protocols.wire import control_bytes

Near = Mapping[int, NDArray[np.int16]]


class Dealing(Protocol):
    """Boxes one after the other, and the hashes of the shares in them."""

    @property
    def boxes(self) -> bytes:
        """One for each other holder, ascending."""

    @property
    def hashes(self) -> bytes:
        """As many bytes for each box, in the same order."""


def delivered(
    near: Near, dealt: Mapping[int, Dealing], box: int = BOX, pins: int = PINS
) -> tuple[dict[int, bytes], dict[int, bytes], dict[int, NDArray[np.int16]]]:
    """Boxes by addressee: for each who dealt the boxes for it, the share hashes, and their dealers, all ascending.

    Args:
        near: for each member of the list the others with whom it exchanges shares, ascending.
        dealt: what came, one box for each of ``near``.
        box: bytes of a box.
        pins: bytes of the share hashes that belong to a box.
    """
    u2 = np.array(list(dealt), dtype=np.int16)
    present = np.zeros(1 + max(near), dtype=bool)
    present[u2] = True
    to = np.concatenate([near[u] for u in dealt])
    order = np.argsort(to, kind="stable")  # dealers ascend within each addressee, as they do in ``to``
    order = order[present[to[order]]]
    ends = np.searchsorted(to[order], u2, side="right").tolist()
    dealer = np.repeat(u2, [len(near[u]) for u in dealt])[order]
    boxes = _gathered([sent.boxes for sent in dealt.values()], box, order)
    hashes = _gathered([sent.hashes for sent in dealt.values()], pins, order)
    out_boxes, out_hashes, out_near, start = dict[int, bytes](), dict[int, bytes](), dict[int, NDArray[np.int16]](), 0
    for v, end in zip(dealt, ends, strict=True):
        out_boxes[v], out_hashes[v] = boxes[start:end].tobytes(), hashes[start:end].tobytes()
        out_near[v], start = dealer[start:end], end
    return out_boxes, out_hashes, out_near


def list_of(adverts: Mapping[int, Advert]) -> Listed:
    """The round-0 list of those who advertised."""
    return Listed(tuple(Entry(u, a.c_pk, a.s_pk, a.signature) for u, a in adverts.items()))


def signed_dealing(srv: Relaying, u: int, sent: Boxes) -> Evidence | None:
    """Evidence that u signed share hashes which are refused; None where it did not sign them, or only its boxes are wrong."""
    terms, listed = srv.terms, control_bytes(list_of(srv.adverts))
    said = Said(share_statement(terms, u, srv.L, sent.commitment, sent.own_hash, sent.hashes), sent.signature)
    wrong = bad_dealing(terms, srv.L, u, tuple(srv.adverts), sent.own_hash, sent.hashes)
    return dealing_refused(u, said, sent.hashes, listed) if wrong and said.holds(terms.roster.identity(u)) else None


def _gathered(parts: Sequence[bytes], size: int, order: NDArray[np.intp]) -> NDArray[np.void]:
    """Strings of ``size`` bytes in another order; shape (strings,)."""
    return np.take(np.frombuffer(b"".join(parts), dtype=f"V{size}"), order)


def rebuild(srv: Opened, said: Mapping[int, Openings]) -> tuple[dict[int, Seed | KeyPair], dict[int, Refused]]:
    """The one opened secret of each dealer, b of a survivor or the mask keys of a dropped party; and whom it left out, with why.

    Raises:
        Abort: ``openings-few`` where a dealer has too few good shares, ``rebuilt-secret`` where good ones make no secret that fits.
    """
    summing, faults = srv.summing, dict[int, Refused]()
    openers = _openers(summing, said)
    found, misfits = _put_together(srv, openers, said, faults)
    for v in misfits:
        for u in openers[v].tolist():
            if u not in faults and (fault := _fault(srv, v, u, said[u])) is not None:
                faults[u] = fault
    if misfits:
        good = {v: openers[v][~np.isin(openers[v], list(faults))] for v in misfits}
        again, dealers = _put_together(srv, good, said, faults)
        found |= again
        for v in dealers:
            detail = f"party {v} dealt shares of another secret than it committed to"
            raise Abort("rebuilt-secret", detail, faults=list(faults.values()))
    return found, faults


def _openers(summing: Summing, said: Mapping[int, Openings]) -> Near:
    """For each dealer who opened a share of it, ascending: its neighbours, as holding goes both ways; on the complete graph all."""
    everybody = np.array(list(said), dtype=np.int16)
    here = np.zeros(1 + max(summing.u2), dtype=bool)
    here[everybody] = True
    own = {v: bool(pledge.own_hash) for v, pledge in summing.dealt.items()}
    return {v: everybody if own[v] else row[here[row]] for v, row in summing.near.items()}


def _put_together(
    srv: Opened, openers: Near, said: Mapping[int, Openings], faults: Mapping[int, Refused]
) -> tuple[dict[int, Seed | KeyPair], list[int]]:
    """The secrets of the dealers that ``openers`` names; and the dealers of those that do not fit."""
    terms, t = srv.summing.terms, srv.summing.terms.parameters.shares
    for v, known in openers.items():
        if len(known) < t:
            detail = f"{len(known)} shares of party {v}'s secret where {t} are needed"
            raise Abort("openings-few", detail, faults=list(faults.values()))
    order = terms.parameters.graph.along(list(openers), terms.ordering + srv.summing.L)
    found, misfits, survivors = dict[int, Seed | KeyPair](), list[int](), set(srv.u3)
    held = cache(lambda u: _dealers(srv.summing, u))
    groups = list(_groups(order, openers, t))
    weights = Lagrange.for_each([helpers for _, helpers in groups])
    for dealers, helpers in groups:
        among = np.array(dealers, dtype=np.int16)
        shares = np.stack([_shares(held(u), said[u], among) for u in helpers])
        for v, secret in zip(dealers, weights[helpers].combine_each(shares), strict=True):
            fitting = None if secret is None else _fitting(srv.summing, v, Seed(secret), survived=v in survivors)
            if fitting is None:
                misfits.append(v)
            else:
                found[v] = fitting
    return found, misfits


def _groups(order: Sequence[int], openers: Near, t: int) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Dealers for whom the same ``t`` parties opened, hence one interpolation: neighbours on the ring have most in common."""
    times, group = np.zeros(1 + max(int(row[-1]) for row in openers.values()), dtype=np.int16), list[int]()
    for v in order:  # ``times`` counts for how many of the group each party opened
        times[openers[v]] += 1
        if np.count_nonzero(times == len(group) + 1) < t:
            times[openers[v]] -= 1
            yield group, tuple(np.flatnonzero(times == len(group))[:t].tolist())
            times[:], group = 0, []
            times[openers[v]] = 1
        group.append(v)
    yield group, tuple(np.flatnonzero(times == len(group))[:t].tolist())


def _shares(held: NDArray[np.int16], sent: Openings, dealers: NDArray[np.int16]) -> NDArray[np.uint8]:
    """What a party sent of these dealers' shares, where it sent one of each that it ``held``; shape (dealers, `SHARE_SIZE`)."""
    shares = np.frombuffer(sent.shares, dtype=np.uint8).reshape(-1, SHARE_SIZE)
    return shares[held.searchsorted(dealers)]


def _dealers(summing: Summing, u: int) -> NDArray[np.int16]:
    """Whose shares u holds, in the order in which it opens them."""
    near = summing.near[u]
    return np.insert(near, np.searchsorted(near, u), u) if summing.dealt[u].own_hash else near


def _fitting(summing: Summing, v: int, secret: Seed, *, survived: bool) -> Seed | KeyPair | None:
    """A rebuilt secret, if it is the one that v committed to or advertised the public key of."""
    found = secret if survived else KeyPair.from_secret(secret)
    return found if _fits(summing, v, found) else None


def _fits(summing: Summing, v: int, secret: Seed | KeyPair) -> bool:
    if isinstance(secret, KeyPair):
        return secret.public == summing.s_pks[v]
    return commit(summing.terms, summing.L, v, secret) == summing.dealt[v].commitment


def _fault(srv: Opened, v: int, u: int, sent: Openings) -> Refused | None:
    """What is wrong with the share of v's secret that u sent: it is not the one that v hashed and u accepted."""
    summing, survived = srv.summing, v in set(srv.u3)
    share = _shares(_dealers(summing, u), sent, np.array([v], dtype=np.int16)).tobytes()
    if u == v:
        pinned = summing.dealt[v].own_hash
    else:
        pins = strings(summing.mail[u], PINS)[int(np.searchsorted(summing.near[u], v))]
        pinned = pins[32:] if survived else pins[:32]
    if share_hash(summing.terms, summing.L, v, u, "b" if survived else "s", share) == pinned:
        return None
    statement = opening_statement(summing.terms, u, summing.L, srv.u3, sent.shares)
    if not verify(summing.terms.roster.identity(u), sent.signature, statement):
        return Refused("openings-signature", "over the shares, one of which is wrong", sender=f"client {u}")
    evidence = _convicting(srv, v, u, Said(statement, sent.signature))
    return Refused("openings-share-hash", f"the share of party {v}'s secret", sender=f"client {u}", evidence=evidence)


def _convicting(srv: Opened, v: int, u: int, opening: Said) -> Evidence | None:
    """What u signed of the share of v's secret before it opened another one; None for its own where it dealt for many sums."""
    summing, covering = srv.summing, srv.summing.coverings[u]
    terms, L, dealt = summing.terms, summing.L, summing.dealt[u]
    statement = masked_statement(terms, u, L, summing.u2, covering.vector, covering.receipt)
    masked = Said(statement, covering.signature)
    if u != v:
        return other_share(u, v, masked, opening, hashes=summing.mail[u])
    if isinstance(terms, StepTerms):  # what it signed when it dealt is of another session than what it opens
        return None
    dealing = Said(terms.statement("share", u, L, dealt.commitment, dealt.own_hash, dealt.hashed), dealt.signature)
    return other_share(u, v, masked, opening, dealing=dealing)
