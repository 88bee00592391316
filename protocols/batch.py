"""Many sums after one handshake: rounds 0 and 1 of SecAgg once for S sums, rounds 2 to 4 for each of them.

Source: Bonawitz et al., CCS 2017 (eprint 2017/281), figure 4, whose rounds 0 and 1 do not depend on the inputs.  They are batched
here, not reused.  Were one s_sk to serve all sums, opening that of a party lost at step j would take its pair masks off every
earlier vector of that party, whose b are open.  So a party draws S independent pairs s_{u,i} and seeds b_{u,i}; it signs all keys
at once, seals one box for each peer with the shares for all S sums, and signs all hashes of shares and commitments at once.  Step i
runs under a session identity of its own (`protocols.batch_terms`), with secrets that serve no other, and forgets them.

Who survived step i, as agreed in its round 3, is who is in step i + 1: a party that is lost is out until the next handshake, as
is one that did not see the agreement.  With too few left a step aborts, and so do all after it.

    handshake   advertise → list → share → relay → open the boxes: `Ready` at a party, `ServerReady` at the server
    steps       take the secrets of one step → mask → agree → open: the sum, and `Ready` and `ServerReady` for the next one

Rounds 2 to 4 are those of `protocols.secagg`, whose symbols, channel and bounds hold, on the complete and the sparse graph.

A server that names two models for one step makes two sessions over the same secrets.  It needs t agreements in each; as
2t > n + |C|, an honest party would have to run the step twice, which neither what it holds nor its journal allows.

What it does not protect: what SecAgg does not.  On a sparse graph one order, and the one computed failure probability, serve all S
sums, and dropouts of all of them add up.  A party's machine that is broken into between two sums gives away the secrets of all that
are left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from protocols import secagg
from protocols.agreement import Agreed
from protocols.batch_terms import HandshakeTerms
from protocols.batch_types import (
    EMPTY_BOX,
    PAIR,
    BatchAdvert,
    BatchAdvertised,
    BatchBoxes,
    BatchCollecting,
    BatchEntry,
    BatchListed,
    BatchRelaying,
    BatchSealed,
    BatchShared,
    Later,
    Ready,
    Resting,
    Secrets,
    ServerReady,
    ServerTurn,
    Standing,
    Turn,
)
from protocols.errors import Refused, require
from protocols.flow import Arrived, Broadcast, Fanout, Flow, Inbox, Input, Output
from protocols.handshake import box_aad, box_key, check_invitation, check_list, check_sharing, list_hash, sign_keys
from protocols.primitives import agree, seal
from protocols.primitives.graph import Harary
from protocols.primitives.shamir import SHARE_SIZE, share_each
from protocols.primitives.sign import verify
from protocols.rand import Rand, Seed
from protocols.ring import Accumulator
from protocols.schema import strings
from protocols.secagg import check_neighbours, holders_of
from protocols.secagg_labels import box_content, commit, own_hash, receipt_of, share_hash, share_statement
from protocols.secagg_parameters import Parameters
from protocols.secagg_server import delivered
from protocols.secagg_types import PINS, Consenting, Covered, Held, Invited, Masked, Opened, Openings, Pledge, Summing, Unsealed
from protocols.vector import Sum, Vector

handshake = Flow("secagg-handshake")
steps = Flow("secagg-step")


def prepared(invited: Invited) -> HandshakeTerms[Parameters]:
    """The terms of the handshake to which a party was invited."""
    if not isinstance(invited.terms, HandshakeTerms):
        raise TypeError(f"a handshake for many sums has HandshakeTerms, not {type(invited.terms).__name__}")
    return invited.terms


# Round 0 · Advertise keys, one for the boxes and one for the masks of every sum


@handshake.client
def advertise(invited: Invited, rand: Rand) -> tuple[BatchAdvertised, BatchAdvert]:
    """Check the invitation against the own policy; make a key pair for the boxes, one for every sum, and sign all of them."""
    check_invitation(invited, secagg.suite(invited.terms.parameters))
    c = agree.KeyPair.generate(rand, "c_sk")
    s = tuple(agree.KeyPair.generate(rand, f"s_sk {i}") for i in range(prepared(invited).steps))
    keys = [pair.public for pair in s]
    return BatchAdvertised(invited, c, s), BatchAdvert(c.public, b"".join(keys), sign_keys(invited, [c.public, *keys]))


def accept_advert(srv: BatchCollecting, u: int, advert: BatchAdvert) -> BatchCollecting:
    """Check one advert on arrival, with the checks that every party will make."""
    srv.adverts.enter(srv.terms, u, advert)
    return srv


@handshake.server(fold=accept_advert, quorum=lambda srv: srv.terms.parameters.threshold, within=60.0)
def collect(srv: BatchCollecting, arrived: Arrived[BatchAdvert]) -> tuple[BatchRelaying, Broadcast[BatchListed]]:
    """Send the list of those who advertised to all of them."""
    adverts = {u: srv.adverts[u] for u in arrived}
    listed = BatchListed(tuple(BatchEntry(u, a.c_pk, a.s_pks, a.signature) for u, a in adverts.items()))
    L = list_hash(listed)
    near = srv.terms.parameters.graph.others(list(adverts), srv.terms.ordering + L)
    return BatchRelaying(srv.terms, L, adverts, near), Broadcast(listed, arrived)


# Round 1 · Share the secrets of all sums


@handshake.client
def share(adv: BatchAdvertised, listed: BatchListed, rand: Rand) -> tuple[BatchShared, BatchBoxes]:
    """Check the list; share every s_sk and a fresh seed b for every sum among the holders, in one box for each."""
    invited = adv.invited
    me, terms = invited.me, prepared(invited)
    keys = adv.c.public, *(pair.public for pair in adv.s)
    L, entries = list_hash(listed), check_list(invited, keys, listed.entries)
    holders, t = holders_of(terms, L, me, entries), terms.parameters.shares
    require(len(holders) >= t, "listed-neighbours", f"{len(holders)} holders where {t} are needed")
    b = tuple(rand.seed(f"b {i}") for i in range(terms.steps))
    secrets = {"s": [pair.secret() for pair in adv.s], "b": list(b)}
    dealt = np.stack([_shared(secrets[kind], t, holders, rand, f"share {kind}") for kind in "sb"], axis=2)  # step, holder, kind
    hashes = _hashes(terms, L, [(me, v) for v in holders], dealt)
    boxes, others = list[bytes](), [at for at, v in enumerate(holders) if v != me]
    for at in others:
        v = holders[at]
        key = box_key(terms, L, adv.c, entries[v].c_pk, me, v, mine=me)
        boxes.append(seal.seal(key, box_content(me, v, dealt[:, at].tobytes()), box_aad(terms, L, me, v)))
    own = tuple(row[holders.index(me), 1].tobytes() if me in holders else None for row in dealt)
    own_hashes = b"".join([own_hash(terms.at(i), L, me, kept) for i, kept in enumerate(own)])
    commitments = b"".join([commit(terms.at(i), L, me, seed) for i, seed in enumerate(b)])
    pins = hashes[:, others].transpose(1, 0, 2).tobytes()
    signature = invited.identity.sign(share_statement(terms, me, L, commitments, own_hashes, pins))
    sent = BatchBoxes(b"".join(boxes), pins, own_hashes, commitments, signature)
    return BatchShared(invited, L, entries, adv.c, adv.s, b, own), sent


def _shared(secrets: Sequence[Seed], t: int, holders: Sequence[int], rand: Rand, label: str) -> NDArray[np.uint8]:
    """Shares of one secret for every sum; shape (S, holders, `SHARE_SIZE`)."""
    array = np.frombuffer(b"".join([secret.reveal() for secret in secrets]), dtype=np.uint8)
    return share_each(array.reshape(len(secrets), -1), t, holders, rand, label)


def _hashes(
    terms: HandshakeTerms[Parameters], L: bytes, ways: Sequence[tuple[int, int]], dealt: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The hashes of shares; shape (S, ways, `PINS`).

    Args:
        terms: of the handshake.
        L: hash of the list.
        ways: dealer and holder.
        dealt: for every sum and way a share of s_sk and one of b, shape (S, ways, 2, `SHARE_SIZE`).
    """
    hashes = list[bytes]()
    for i, row in enumerate(dealt):
        at, shares = terms.at(i), strings(row.tobytes(), SHARE_SIZE)
        for place, (u, v) in enumerate(ways):
            hashes += [share_hash(at, L, u, v, "s", shares[2 * place]), share_hash(at, L, u, v, "b", shares[2 * place + 1])]
    return np.frombuffer(b"".join(hashes), dtype=np.uint8).reshape(len(dealt), len(ways), PINS)


def accept_boxes(srv: BatchRelaying, u: int, sent: BatchBoxes) -> None:
    """Check one set of boxes on arrival: one for each holder, signed."""
    terms, count = srv.terms, len(srv.near[u])
    own = not isinstance(terms.parameters.graph, Harary)
    sizes = (len(sent.boxes), len(sent.hashes))
    expected = ((EMPTY_BOX + PAIR * terms.steps) * count, PINS * terms.steps * count)
    require(sizes == expected, "boxes-set", "one box for each holder, and its hashes")
    require(len(sent.own_hashes) == 32 * terms.steps * own, "boxes-own", "hashes of own shares where they are kept, and only there")
    statement = share_statement(terms, u, srv.L, sent.commitments, sent.own_hashes, sent.hashes)
    require(verify(terms.roster.identity(u), sent.signature, statement), "boxes-signature", "over commitments and share hashes")


@handshake.server(admit=accept_boxes, quorum=lambda srv: srv.terms.parameters.threshold, within=60.0)
def relay(srv: BatchRelaying, dealt: Inbox[BatchBoxes]) -> tuple[Output[ServerReady], Fanout[BatchSealed]]:
    """Hand every box to its addressee."""
    terms, u2, S = srv.terms, tuple(dealt), srv.terms.steps
    boxes, hashes, near = delivered(srv.near, dealt, EMPTY_BOX + PAIR * S, PINS * S)
    sealed = {v: BatchSealed(u2, boxes[v], hashes[v]) for v in u2}
    kept = {u: Pledge(x.commitments, x.own_hashes, hashlib.sha256(x.hashes).digest(), x.signature) for u, x in dealt.items()}
    mail = {v: np.frombuffer(hashes[v], dtype=np.uint8).reshape(-1, S, PINS) for v in u2}
    s_pks = {u: srv.adverts[u].s_pks for u in u2}
    return Output(ServerReady(terms, 0, srv.L, s_pks, u2, kept, near, mail)), Fanout(sealed)


@handshake.client
def unseal(shared: BatchShared, sealed: BatchSealed) -> Output[Ready]:
    """Open the boxes; forget the key that opens them."""
    invited, L, u2 = shared.invited, shared.L, sealed.u2
    me, terms = invited.me, prepared(invited)
    check_sharing(invited, shared.entries, u2)
    holders = set(holders_of(terms, L, me, shared.entries))
    dealers = tuple(u for u in u2 if u != me and u in holders)
    sizes = (len(sealed.boxes), len(sealed.hashes))
    box, S = EMPTY_BOX + PAIR * terms.steps, terms.steps
    require(sizes == (box * len(dealers), PINS * S * len(dealers)), "sealed-boxes", "one box from each other member of U2")
    check_neighbours(terms, L, me, u2, "sealed-neighbours")
    opened = [_opened(shared, u, one) for u, one in zip(dealers, strings(sealed.boxes, box), strict=True)]
    dealt = np.frombuffer(b"".join(opened), dtype=np.uint8).reshape(len(dealers), S, 2, SHARE_SIZE).swapaxes(0, 1)
    pins = np.frombuffer(sealed.hashes, dtype=np.uint8).reshape(len(dealers), S, PINS).swapaxes(0, 1)
    wrong = (_hashes(terms, L, [(u, me) for u in dealers], dealt) != pins).any(axis=(0, 2))
    for at in np.flatnonzero(wrong)[:1]:
        raise Refused("box-share-hash", "the shares are not those that were hashed", sender=f"client {dealers[at]}")
    own = zip(shared.s, shared.b, shared.own_shares, strict=True)
    secrets = tuple(Secrets(s, b, mine, dealt[i].tobytes(), pins[i].tobytes()) for i, (s, b, mine) in enumerate(own))
    s_pks = {u: shared.entries[u].s_pks for u in dealers}
    return Output(Ready(Standing(invited, L, s_pks, dealers, 0, u2), secrets))


def _opened(shared: BatchShared, u: int, box: bytes) -> bytes:
    """The shares in one box, checked to be of u."""
    terms, L, me = shared.invited.terms, shared.L, shared.invited.me
    try:
        key = box_key(terms, L, shared.c, shared.entries[u].c_pk, u, me, mine=me)
        plain = seal.unseal(key, box, box_aad(terms, L, u, me))
        require(plain[:8] == box_content(u, me), "box-ids", "the ids inside are not those outside")
    except Refused as error:
        raise Refused(error.check, error.detail, sender=f"client {u}") from None
    return plain[8:]


# Rounds 2 to 4 · One sum


@steps.client
def take_up(turn: Turn) -> tuple[Unsealed, Later]:
    """Hold the step to the own policy; take its secrets out of those of all sums."""
    standing, terms = turn.ready.standing, turn.terms
    require(
        terms.handshake.sid == standing.invited.terms.sid and terms.step == standing.step,
        "step-order",
        f"step {terms.step} where step {standing.step} of the own handshake is next",
    )
    standing.invited.policy.check(terms)
    secrets, later = turn.ready.take()
    me, u2 = standing.invited.me, standing.u2
    present = set(u2)
    at = [place for place, u in enumerate(standing.dealers) if u in present]
    pairs, pins = strings(secrets.shares, PAIR), strings(secrets.pins, PINS)
    held = {standing.dealers[p]: Held(pairs[p][:SHARE_SIZE], pairs[p][SHARE_SIZE:]) for p in at}
    if secrets.own_share is not None:
        held[me] = Held(None, secrets.own_share)
    s_pks = {standing.dealers[p]: _of_step(standing.s_pks[standing.dealers[p]], terms.step) for p in at}
    invited = replace(standing.invited, terms=terms)
    receipt = receipt_of(b"".join([pins[p] for p in at]))
    mine = Unsealed(invited, standing.L, u2, secrets.s, secrets.b, s_pks, dict(sorted(held.items())), receipt)
    return mine, Later(standing, later)


def _of_step(keys: bytes, step: int) -> bytes:
    """The string of 32 bytes that belongs to one sum."""
    return keys[32 * step : 32 * (step + 1)]


@steps.server
def convene(turn: ServerTurn) -> tuple[Summing, Resting]:
    """Open the next sum among those who are left."""
    ready, terms, u2 = turn.ready, turn.terms, turn.ready.u2
    i, here = terms.step, np.zeros(1 + max(ready.u2), dtype=bool)
    here[list(u2)] = True
    near, mail = dict[int, NDArray[np.int16]](), dict[int, bytes]()
    for u in u2:
        left = _present(ready.near[u], here)
        near[u], mail[u] = ready.near[u][left], ready.mail[u][left, i].tobytes()
    dealt = {u: _pledge(ready.dealt[u], i) for u in u2}
    s_pks = {u: _of_step(ready.s_pks[u], i) for u in u2}
    total = Accumulator(terms.parameters.ring, terms.parameters.size + 1)
    return Summing(terms, ready.L, s_pks, u2, dealt, near, mail, {}, total), Resting(ready)


def _present(parties: NDArray[np.int16], here: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of ``parties`` are ``here``, which ends at the last that may be."""
    return (parties < len(here)) & here[np.minimum(parties, len(here) - 1)]


def _pledge(whole: Pledge, step: int) -> Pledge:
    """What of a dealer's pledge belongs to one sum."""
    return replace(whole, commitment=_of_step(whole.commitment, step), own_hash=_of_step(whole.own_hash, step))


@steps.client(spends=True)
def mask(unsealed: Unsealed, x: Input[Vector]) -> tuple[Covered, Masked]:
    """Mask the input, sign the masked vector; forget the keys and the seed of this sum, and the input."""
    return secagg.cover(unsealed, x)


steps.add(secagg.flow.step("survey"))
steps.add(secagg.flow.step("consent"))
steps.add(secagg.flow.step("gather"))


@steps.client
def open_shares(consenting: Consenting, later: Later, agreed: Agreed) -> tuple[Output[Ready], Openings]:
    """With enough signatures over the own L and U3: one share for each dealer, as ever; U3 is who is in the next sum."""
    _, openings = secagg.open_shares(consenting, agreed)
    standing = replace(later.standing, step=later.standing.step + 1, u2=consenting.u3)
    return Output(Ready(standing, later.secrets)), openings


@steps.server(
    admit=secagg.accept_openings,
    quorum=lambda srv: srv.summing.terms.parameters.threshold,
    blames=secagg.false_agreement,
    within=60.0,
)
def reveal(srv: Opened, resting: Resting, said: Inbox[Openings]) -> tuple[Output[Sum], Output[ServerReady]]:
    """Rebuild one secret of each party, remove the masks, check that they cancelled; go on with those who survived."""
    ready = resting.ready
    return secagg.reveal(srv, said), Output(replace(ready, step=ready.step + 1, u2=srv.u3))


handshake.check()
steps.check()
