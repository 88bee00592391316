"""LightSecAgg, hardened: one mask a party, coded so that the helpers' answers open the sum of the survivors' masks and no other.

Source: So, He, Yang, Li, Yu, Ali, Guler, Avestimehr: LightSecAgg, MLSys 2022 (arXiv 2109.14236), algorithm 1, with the identities,
the list hash and the round of agreement of Bonawitz et al., CCS 2017 (eprint 2017/281), figure 4.  Symbols:

    u, v   roster indexes from 1                    U                   threshold: answers that recover a mask
    c      key pair for boxes                       T                   noise blocks: so many shares tell nothing
    z      mask, uniform in F_q^(d+1)               U1 ⊇ U2 ⊇ U3 ⊇ U4   who sent in rounds 0, 1, 2, 3 (the paper's U1 is our U3)
    L      hash of the round-0 list, bound into all that follows

A mask is cut in U − T blocks, followed by T blocks of noise; share v is the value at β_v of the polynomial through them
(`protocols.lagrange`).  The encoding is linear: a helper adds up the shares it holds of the survivors' masks, and U such sums give
back the sum of the masks.  What is opened costs the same however many parties dropped out.

Counting answers alone would not do: with U + T < n + |C|, the helpers left over from one set, asked for the set without v, would
give equations on z_v.  So a helper answers once, and only if U members of one U3, |U3| ≥ U, have signed it, where 2U > n + |C|.

Channel assumed: the server relays everything and may lie.  Identities are registered out of band.  Against a server with up to |C|
corrupt parties, honest inputs are hidden but for the sum over at least U parties, U − |C| of them honest.

What it does not protect: the sum itself, who took part and who dropped out, and availability: the server, or more than n − U
dropouts, can always make a round abort.  A party may put any vector within the bounds into the sum.  Of m > U answers, up to
⌊(m−U)/2⌋ wrong ones are located and left out.  More make the round abort, unless they were chosen together so as to look like fewer
from others: then an honest helper is left out and the sum is moved within its range.  At m = U only count and range are left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.agreement import (
    Agree,
    Agreed,
    Dropped,
    check_agree,
    check_agreement,
    gathered,
    masked_statement,
    sign_survivors,
    survivors,
)
from protocols.bulk import Bulk, Packed
from protocols.errors import Refused, require
from protocols.flow import Arrived, Broadcast, Fanout, Flow, Inbox, Input, Output
from protocols.handshake import box_aad, box_key, check_invitation, check_list, check_sharing, for_session, list_hash, sign_keys
from protocols.lagrange import alphas, betas, coefficients
from protocols.lightsecagg_parameters import HEAD, SALT, LightParameters, boxes_layout, layouts
from protocols.lightsecagg_recovery import answer_statement, check_answer, open_mask
from protocols.lightsecagg_types import (
    Advertised,
    Answer,
    Asking,
    Collecting,
    Consenting,
    Covered,
    Finished,
    Held,
    Invited,
    KeyAdvert,
    KeyEntry,
    KeyList,
    Mask,
    Opened,
    Padded,
    Relayed,
    Relaying,
    Shared,
    ShareHash,
    Shares,
    Summing,
)
from protocols.primitives import agree, seal
from protocols.primitives.sign import verify
from protocols.rand import Rand
from protocols.ring import Accumulator
from protocols.suite import LIGHTSECAGG, Terms
from protocols.vector import Sum, Vector, checked_sum, with_count
from protocols.wire import digest

flow = Flow("lightsecagg")
LightTerms = Terms[LightParameters]


def suite(parameters: LightParameters) -> str:
    """The suite string: the whole configuration by name."""
    return f"{LIGHTSECAGG}{parameters.ring.bits}"


# Round 0 · Advertise keys


@flow.client
def advertise(invited: Invited, rand: Rand) -> tuple[Advertised, KeyAdvert]:
    """Check the invitation against the own policy; make a fresh key pair and sign it."""
    check_invitation(invited, suite(invited.terms.parameters))
    c = agree.KeyPair.generate(rand, "c_sk")
    return Advertised(invited, c), KeyAdvert(c.public, sign_keys(invited, [c.public]))


def accept_advert(srv: Collecting, u: int, advert: KeyAdvert) -> Collecting:
    """Check one advert on arrival, with the checks that every party will make."""
    srv.adverts.enter(srv.terms, u, advert)
    return srv


@flow.server(fold=accept_advert, quorum=lambda srv: srv.terms.parameters.threshold, within=60.0)
def collect(srv: Collecting, arrived: Arrived[KeyAdvert]) -> tuple[Relaying, Broadcast[KeyList]]:
    """Send the list of those who advertised to all of them."""
    adverts = {u: srv.adverts[u] for u in arrived}
    listed = KeyList(tuple(KeyEntry(u, a.c_pk, a.signature) for u, a in adverts.items()))
    return Relaying(srv.terms, list_hash(listed), adverts), Broadcast(listed, arrived)


# Round 1 · Share a mask


@flow.client
def share(adv: Advertised, listed: KeyList, rand: Rand) -> tuple[Shared, Shares]:
    """Check the list; draw a mask, code it, seal one share for each other party."""
    invited = adv.invited
    me, terms, p = invited.me, invited.terms, invited.terms.parameters
    L, entries = list_hash(listed), check_list(invited, (adv.c.public,), listed.entries)
    z, shares = draw_mask(p, sorted(entries), for_session(rand, "mask", terms, L))
    slots, hashes, own_hash = slots_of(p), list[ShareHash](), b""
    for v, values in zip(sorted(entries), shares, strict=True):
        salt, packed = rand.bytes(f"salt {v}", SALT), bytes(p.ring.pack(values))
        pinned = share_hash(terms, L, me, v, salt, packed)
        if v == me:
            own_hash = pinned
            continue
        hashes.append(ShareHash(v, pinned))
        key = box_key(terms, L, adv.c, entries[v].c_pk, me, v, mine=me)
        box = seal.seal(key, box_content(me, v, salt, packed), box_aad(terms, L, me, v))
        slots[slot(me, v)] = np.frombuffer(box, dtype=np.uint8)
    signature = invited.identity.sign(terms.statement("share", me, L, own_hash, [[x.peer, x.hash] for x in hashes]))
    own = Held(shares[sorted(entries).index(me)].copy())
    return Shared(invited, L, entries, adv.c, Mask(z), own), Shares(
        Bulk.of(layouts(p)["boxes"], slots), tuple(hashes), own_hash, signature
    )


def draw_mask(p: LightParameters, holders: Sequence[int], rand: Rand) -> tuple[NDArray[Any], NDArray[Any]]:
    """A mask and its shares: z, shape (d + 1,), and one row of `LightParameters.block` values for each holder."""
    blocks = p.ring.uniform(rand, "blocks", p.threshold * p.block).reshape(p.threshold, p.block)
    matrix = coefficients(p.ring, alphas(p.parties, p.threshold), betas(holders))
    return blocks[: p.blocks].reshape(-1)[: p.size + 1].copy(), p.ring.product(matrix, blocks)


def slots_of(p: LightParameters) -> NDArray[np.uint8]:
    """Empty boxes, one for each other party of the roster: shape (n − 1, box)."""
    return np.zeros((p.parties - 1, p.box), dtype=np.uint8)


def slot(me: int, peer: int) -> int:
    """Where the box to or from ``peer`` lies in a message of, or to, ``me``: others in the order of the roster."""
    return peer - 1 - (peer > me)


def box_content(u: int, v: int, salt: bytes, packed: bytes) -> bytes:
    """What is sealed: both ids, the salt of the hash, the packed share."""
    return u.to_bytes(4, "big") + v.to_bytes(4, "big") + salt + packed


def share_hash(terms: LightTerms, L: bytes, dealer: int, holder: int, salt: bytes, packed: bytes) -> bytes:
    """Hash that pins one share.  Salted: |C| shares and a guess of the input determine all others, and would confirm it."""
    return digest(["share", terms.sid, L, dealer, holder, salt, hashlib.sha256(packed).digest()])


def accept_shares(srv: Relaying, u: int, sent: Shares) -> None:
    """Check one set of boxes on arrival: one for each other party in the list, signed; other slots empty."""
    terms, peers = srv.terms, [v for v in srv.adverts if v != u]
    require([x.peer for x in sent.hashes] == peers, "boxes-set", "one box for each other party, ascending")
    _check_slots(sent.boxes, [slot(u, v) for v in peers])
    statement = terms.statement("share", u, srv.L, sent.own_hash, [[x.peer, x.hash] for x in sent.hashes])
    require(verify(terms.roster.identity(u), sent.signature, statement), "boxes-signature", "over the share hashes")


def _check_slots(boxes: Bulk, used: Sequence[int]) -> None:
    unused = np.delete(boxes.values, used, axis=0)
    require(not unused.any(), "boxes-slots", "a box to or from a party that has no part")


@flow.server(admit=accept_shares, quorum=lambda srv: srv.terms.parameters.threshold, within=60.0)
def relay(srv: Relaying, dealt: Inbox[Shares]) -> tuple[Summing, Fanout[Relayed]]:
    """Hand every box to its addressee."""
    p, u2, mail = srv.terms.parameters, tuple(dealt), dict[int, Relayed]()
    hashes = {u: {x.peer: x.hash for x in sent.hashes} for u, sent in dealt.items()}
    layout, empty = boxes_layout(p), bytes(p.box)
    for v in u2:
        slots = list[bytes | memoryview]([empty] * layout.count)
        for u in u2:
            if u != v:
                slots[slot(v, u)] = dealt[u].boxes.values[slot(u, v)].data
        known = tuple(ShareHash(u, hashes[u][v]) for u in u2 if u != v)
        mail[v] = Relayed(Bulk.joined(layout, slots), u2, known)
    total = Accumulator(p.ring, p.size + 1)
    return Summing(srv.terms, srv.L, u2, {v: sent.hashes for v, sent in mail.items()}, total), Fanout(mail)


# Round 2 · Mask the input:  y = x + z


@flow.client(spends=True)
def mask(shared: Shared, relayed: Relayed, x: Input[Vector]) -> tuple[Covered, Padded]:
    """Open the boxes, mask the input, sign the masked vector; forget key, mask and input."""
    invited, L = shared.invited, shared.L
    me, terms, p = invited.me, invited.terms, invited.terms.parameters
    y = with_count(x, p)
    held, receipt = open_boxes(shared, relayed)
    p.ring.add_into(y, shared.z.values)
    bulk = Bulk.of(Packed(p.ring, p.size + 1), y)
    signature = invited.identity.sign(masked_statement(terms, me, L, relayed.u2, bulk.digest, receipt))
    return Covered(invited, L, relayed.u2, held), Padded(bulk, receipt, signature)


def open_boxes(shared: Shared, relayed: Relayed) -> tuple[dict[int, Held], bytes]:
    """Check U2, open every box; the shares held by dealer, and a receipt: hash of the share hashes that they matched."""
    invited, L = shared.invited, shared.L
    me, terms, u2 = invited.me, invited.terms, relayed.u2
    check_sharing(invited, shared.entries, u2)
    dealers = [u for u in u2 if u != me]
    require([x.peer for x in relayed.hashes] == dealers, "sealed-boxes", "one box from each other member of U2, ascending")
    _check_slots(relayed.boxes, [slot(me, u) for u in dealers])
    held = {me: shared.own}
    for pinned in relayed.hashes:
        u = pinned.peer
        try:
            key = box_key(terms, L, shared.c, shared.entries[u].c_pk, u, me, mine=me)
            plain = seal.unseal(key, relayed.boxes.values[slot(me, u)].tobytes(), box_aad(terms, L, u, me))
            salt, packed = plain[HEAD - SALT : HEAD], plain[HEAD:]
            require(plain == box_content(u, me, salt, packed), "box-ids", "the ids inside are not those outside")
            require(share_hash(terms, L, u, me, salt, packed) == pinned.hash, "box-share-hash", "the share is not the one hashed")
            held[u] = Held(terms.parameters.ring.unpack(packed, terms.parameters.block))
        except Refused as error:
            raise Refused(error.check, error.detail, sender=f"client {u}") from None
    return dict(sorted(held.items())), receipt_of(relayed.hashes)


def receipt_of(hashes: Sequence[ShareHash]) -> bytes:
    """Hash of the share hashes that were relayed to a party: signed by it, so that nobody can say it accepted others."""
    return digest([[x.peer, x.hash] for x in hashes])


def absorb(srv: Summing, u: int, padded: Padded) -> Summing:
    """Check the signature of one complete masked vector and add it."""
    require(
        padded.receipt == receipt_of(srv.hashes[u]), "masked-receipt", "the party accepted other share hashes than were relayed"
    )
    statement = masked_statement(srv.terms, u, srv.L, srv.u2, padded.y.digest, padded.receipt)
    require(verify(srv.terms.roster.identity(u), padded.signature, statement), "masked-signature", "over L, U2 and the vector")
    srv.total.add(padded.y.values)
    return srv


@flow.server(fold=absorb, quorum=lambda srv: srv.terms.parameters.threshold, within=300.0)
def survey(srv: Summing, arrived: Arrived[Padded]) -> tuple[Asking, Broadcast[Dropped]]:
    """Tell the survivors who dropped out."""
    return Asking(srv, arrived), Broadcast(Dropped(tuple(v for v in srv.u2 if v not in arrived)), arrived)


# Round 3 · Agree on who survived


@flow.client
def consent(covered: Covered, said: Dropped) -> tuple[Consenting, Agree]:
    """Check the dropped set and sign the one U3 that follows from it."""
    invited, L = covered.invited, covered.L
    u3 = survivors(invited, covered.u2, said)
    return Consenting(invited, L, u3, {v: covered.held[v] for v in u3}), sign_survivors(invited, L, u3)


def accept_agree(srv: Asking, u: int, said: Agree) -> None:
    """Check one signature over L and U3 on arrival."""
    check_agree(srv.summing.terms, srv.summing.L, srv.u3, u, said.signature, "agree-signature")


@flow.server(admit=accept_agree, quorum=lambda srv: srv.summing.terms.parameters.threshold, within=60.0)
def gather(srv: Asking, said: Inbox[Agree]) -> tuple[Opened, Broadcast[Agreed]]:
    """Show everybody the signatures."""
    return Opened(srv.summing, srv.u3), Broadcast(gathered(said), tuple(said))


# Round 4 · Recover the mask of the sum


@flow.client
def answer(consenting: Consenting, agreed: Agreed) -> tuple[Finished, Answer]:
    """With U signatures over the own L and U3: the sum of the shares of the survivors' masks; once."""
    invited, p = consenting.invited, consenting.invited.terms.parameters
    check_agreement(invited, consenting.L, consenting.u3, agreed)
    require(not agreed.coverings, "agreed-coverings", "only on a sparse graph")
    total = Accumulator(p.ring, p.block)
    for v in consenting.u3:
        total.add(consenting.held[v].share)
    bulk = Bulk.of(layouts(p)["answer"], total.total())
    statement = answer_statement(invited.terms, invited.me, consenting.L, consenting.u3, bulk.digest)
    return Finished(invited.me), Answer(bulk, invited.identity.sign(statement))


def accept_answer(srv: Opened, u: int, said: Answer) -> Opened:
    """Of the first U answers check the signature and read the values on arrival; the others are held to these when all are here."""
    if len(srv.basis) == srv.summing.terms.parameters.threshold:
        return Opened(srv.summing, srv.u3, srv.basis, {**srv.more, u: said})
    values = said.share.values
    check_answer(srv.summing.terms, u, srv.summing.L, srv.u3, said)
    return Opened(srv.summing, srv.u3, {**srv.basis, u: values})


@flow.server(fold=accept_answer, quorum=lambda srv: srv.summing.terms.parameters.threshold, within=60.0)
def recover(srv: Opened, answered: Arrived[Answer], rand: Rand) -> Output[Sum]:
    """Leave out answers that do not fit the others, interpolate the sum of the masks, remove it, check what is left."""
    terms, L, u3 = srv.summing.terms, srv.summing.L, srv.u3
    p, more = terms.parameters, {u: srv.more[u] for u in answered if u in srv.more}
    z, left_out = open_mask(p, srv.basis, more, lambda u: check_answer(terms, u, L, u3, more[u]), rand)
    total: NDArray[Any] = srv.summing.total.total()
    p.ring.subtract_from(total, z.reshape(-1)[: p.size + 1])
    return Output(replace(checked_sum(p.ring.centre(total), len(u3), p), left_out=left_out))


flow.check()
