"""SecAgg and SecAgg+, active variant: pairwise and self masks, signed keys, and a consistency round before anything is opened.

Source: Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth: Practical Secure Aggregation for
Privacy-Preserving Machine Learning, CCS 2017 (eprint 2017/281), figure 4 with the steps for active adversaries.  Its symbols:

    u, v       roster indexes from 1                 t                   threshold
    c, s       key pairs for boxes and for masks     U1 ⊇ U2 ⊇ U3 ⊇ U4   who sent in rounds 0, 1, 2, 3
    b          self-mask seed                        L                   hash of the round-0 list, bound into all that follows

On the complete graph of that paper everybody masks with everybody.  On a sparse one (Bell, Bonawitz, Gascón, Lepoint, Raykova,
CCS 2020, eprint 2020/704) a party masks with, and shares its secrets among, its k neighbours, and t counts those; a party that has
fewer than t of them left stops.  As no neighbourhood then sees the whole, what is agreed on stays global: more than (n + |C|)/2
parties sign one U3, the round-2 signature of each of its members is shown, and no place on the ring may be thin
(`protocols.degree`).

Channel assumed: the server relays everything and may lie.  Identities are registered out of band.  Against a server with up to |C|
corrupt parties, honest inputs are hidden but for the sum over at least as many parties as must agree, all but |C| of them honest.

What it does not protect: the sum itself (one exact sum can betray a member; that is what differential privacy is for), who took
part and who dropped out, and availability: the server, or more than n − t dropouts, can always make a round abort.  A party may
put any vector within the bounds into the sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from protocols.agreement import (
    Agree,
    Agreed,
    Covering,
    Dropped,
    check_agreement,
    check_coverings,
    false_agreements,
    gathered,
    masked_statement,
    sign_survivors,
    survivors,
)
from protocols.bulk import Bulk, Packed
from protocols.errors import Abort, Misuse, Refused, require
from protocols.flow import Arrived, Broadcast, Fanout, Flow, Inbox, Input, Output
from protocols.handshake import box_aad, box_key, check_invitation, check_list, check_sharing, list_hash, sign_keys
from protocols.primitives import agree, seal
from protocols.primitives.graph import Harary
from protocols.primitives.prg import Masks, apply_masks
from protocols.primitives.shamir import SHARE_SIZE
from protocols.primitives.shamir import share as shamir_share
from protocols.primitives.sign import verify
from protocols.rand import Key, Rand, Seed
from protocols.ring import Accumulator
from protocols.schema import strings
from protocols.secagg_labels import (
    box_content,
    commit,
    joint_hash,
    opening_statement,
    own_hash,
    pair_key,
    receipt_of,
    share_hash,
    share_statement,
)
from protocols.secagg_parameters import Parameters
from protocols.secagg_server import delivered, list_of, rebuild, signed_dealing
from protocols.secagg_types import (
    BOX,
    PINS,
    Advert,
    Advertised,
    Asking,
    Boxes,
    Collecting,
    Consenting,
    Covered,
    Finished,
    Held,
    Invited,
    Listed,
    Masked,
    Opened,
    Openings,
    Pledge,
    Relaying,
    Sealed,
    Shared,
    Summing,
    Unsealed,
)
from protocols.suite import Terms
from protocols.vector import Sum, Vector, checked_sum, counted
from protocols.wire import canonical

flow = Flow("secagg")


def suite(parameters: Parameters) -> str:
    """The suite string: the whole configuration by name."""
    return parameters.suite


# Round 0 · Advertise keys


@flow.client
def advertise(invited: Invited, rand: Rand) -> tuple[Advertised, Advert]:
    """Check the invitation against the own policy; make two fresh key pairs and sign them."""
    check_invitation(invited, suite(invited.terms.parameters))
    c, s = agree.KeyPair.generate(rand, "c_sk"), agree.KeyPair.generate(rand, "s_sk")
    return Advertised(invited, c, s), Advert(c.public, s.public, sign_keys(invited, [c.public, s.public]))


def accept_advert(srv: Collecting, u: int, advert: Advert) -> Collecting:
    """Check one advert on arrival, with the checks that every party will make."""
    srv.adverts.enter(srv.terms, u, advert)
    return srv


@flow.server(fold=accept_advert, quorum=lambda srv: srv.terms.parameters.threshold, within=60.0)
def collect(srv: Collecting, arrived: Arrived[Advert]) -> tuple[Relaying, Broadcast[Listed]]:
    """Send the list of those who advertised to all of them."""
    adverts = {u: srv.adverts[u] for u in arrived}
    listed = list_of(adverts)
    L = list_hash(listed)
    near = srv.terms.parameters.graph.others(list(adverts), srv.terms.ordering + L)
    return Relaying(srv.terms, L, adverts, near), Broadcast(listed, arrived)


# Round 1 · Share keys


@flow.client
def share(adv: Advertised, listed: Listed, rand: Rand) -> tuple[Shared, Boxes]:
    """Check the list; share s_sk and a fresh seed b among the holders, sealed end to end."""
    invited = adv.invited
    me, terms = invited.me, invited.terms
    L, entries = list_hash(listed), check_list(invited, (adv.c.public, adv.s.public), listed.entries)
    b, t = rand.seed("b"), terms.parameters.shares
    holders = holders_of(terms, L, me, entries)
    require(len(holders) >= t, "listed-neighbours", f"{len(holders)} holders where {t} are needed")
    s_shares = dict(zip(holders, shamir_share(adv.s.secret().reveal(), t, holders, rand, "share s_sk"), strict=True))
    b_shares = dict(zip(holders, shamir_share(b.reveal(), t, holders, rand, "share b"), strict=True))
    boxes, hashes = list[bytes](), list[bytes]()
    for v in holders:
        if v != me:
            key = box_key(terms, L, adv.c, entries[v].c_pk, me, v, mine=me)
            boxes.append(seal.seal(key, box_content(me, v, s_shares[v], b_shares[v]), box_aad(terms, L, me, v)))
            hashes += [share_hash(terms, L, me, v, "s", s_shares[v]), share_hash(terms, L, me, v, "b", b_shares[v])]
    own, commitment, pins = own_hash(terms, L, me, b_shares.get(me)), commit(terms, L, me, b), b"".join(hashes)
    signature = invited.identity.sign(share_statement(terms, me, L, commitment, own, pins))
    sent = Boxes(b"".join(boxes), pins, own, commitment, signature)
    return Shared(invited, L, entries, adv.c, adv.s, b, b_shares.get(me)), sent


def holders_of(terms: Terms, L: bytes, u: int, members: Iterable[int]) -> tuple[int, ...]:
    """Who of ``members`` holds shares of the secrets of u, ascending; on the complete graph u is one of them."""
    return terms.parameters.graph.holders(u, sorted(members), terms.ordering + L)


def accept_boxes(srv: Relaying, u: int, sent: Boxes) -> None:
    """Check one set of boxes on arrival: one for each holder, signed."""
    terms, count = srv.terms, len(srv.near[u])
    own = not isinstance(terms.parameters.graph, Harary)
    try:
        sizes = (len(sent.boxes), len(sent.hashes))
        require(sizes == (BOX * count, PINS * count), "boxes-set", "one box for each holder, and its hashes")
        require(len(sent.own_hash) == 32 * own, "boxes-own", "a hash of the own share where one is kept, and only there")
    except Refused as error:
        error.evidence = signed_dealing(srv, u, sent)
        raise
    statement = share_statement(terms, u, srv.L, sent.commitment, sent.own_hash, sent.hashes)
    require(verify(terms.roster.identity(u), sent.signature, statement), "boxes-signature", "over commitment and share hashes")


@flow.server(admit=accept_boxes, quorum=lambda srv: srv.terms.parameters.threshold, within=60.0)
def relay(srv: Relaying, dealt: Inbox[Boxes]) -> tuple[Summing, Fanout[Sealed]]:
    """Hand every box to its addressee."""
    terms, u2 = srv.terms, tuple(dealt)
    boxes, hashes, near = delivered(srv.near, dealt)
    mail = {v: Sealed(u2, boxes[v], hashes[v]) for v in u2}
    kept = {u: Pledge(x.commitment, x.own_hash, hashlib.sha256(x.hashes).digest(), x.signature) for u, x in dealt.items()}
    total = Accumulator(terms.parameters.ring, terms.parameters.size + 1)
    s_pks = {u: advert.s_pk for u, advert in srv.adverts.items()}
    return Summing(terms, srv.L, s_pks, u2, kept, near, hashes, {}, total), Fanout(mail)


# Round 2 · Mask the input:  y = x + PRG(b) ± Σ PRG(s_uv)


@flow.client(spends=True)
def mask(shared: Shared, sealed: Sealed, x: Input[Vector]) -> tuple[Covered, Masked]:
    """Open the boxes, mask the input, sign the masked vector; forget keys, seed and input."""
    return masked(shared, sealed, x)


def masked(shared: Shared, sealed: Sealed, x: Vector, beside: bytes = b"") -> tuple[Covered, Masked]:
    """Round 2 of a party; the signature covers ``beside`` too, the hash of what travels with the masked vector in one message."""
    return cover(unseal(shared, sealed), x, beside)


def unseal(shared: Shared, sealed: Sealed) -> Unsealed:
    """Open the boxes of one sum."""
    held, receipt = open_boxes(shared, sealed)
    s_pks = {v: shared.entries[v].s_pk for v in held if v != shared.invited.me}
    return Unsealed(shared.invited, shared.L, sealed.u2, shared.s, shared.b, s_pks, held, receipt)


def cover(unsealed: Unsealed, x: Vector, beside: bytes = b"") -> tuple[Covered, Masked]:
    """The masked vector, signed; as `masked`."""
    invited, L, u2 = unsealed.invited, unsealed.L, unsealed.u2
    me, terms = invited.me, invited.terms
    parameters = terms.parameters
    plus, minus = [agree.derive(unsealed.b, canonical(["self", terms.sid, L, me]))], list[Key]()
    for v, s_pk in unsealed.s_pks.items():
        (plus if me < v else minus).append(pair_key(terms, L, unsealed.s, s_pk, me, v))
    fill, masks = counted(x, parameters), Masks(plus, minus, parameters.ring.dtype)

    def write(start: int, y: NDArray[Any]) -> None:
        fill(start, y)
        masks.apply(y)

    bulk = Bulk.by(Packed(parameters.ring, parameters.size + 1), write)
    signature = invited.identity.sign(masked_statement(terms, me, L, u2, joint_hash(bulk.digest, beside), unsealed.receipt))
    return Covered(invited, L, u2, unsealed.held), Masked(bulk, unsealed.receipt, signature)


def open_boxes(shared: Shared, sealed: Sealed) -> tuple[dict[int, Held], bytes]:
    """Check U2, open every box; the shares held by dealer, and a receipt: hash of the share hashes that they matched."""
    invited, L = shared.invited, shared.L
    me, terms, u2 = invited.me, invited.terms, sealed.u2
    check_sharing(invited, shared.entries, u2)
    holders = set(holders_of(terms, L, me, shared.entries))
    dealers = [u for u in u2 if u != me and u in holders]
    sizes = (BOX * len(dealers), PINS * len(dealers))
    require((len(sealed.boxes), len(sealed.hashes)) == sizes, "sealed-boxes", "one box from each other member of U2")
    check_neighbours(terms, L, me, u2, "sealed-neighbours")
    held = {} if shared.own_share is None else {me: Held(None, shared.own_share)}
    for u, box, pins in zip(dealers, strings(sealed.boxes, BOX), strings(sealed.hashes, PINS), strict=True):
        try:
            key = box_key(terms, L, shared.c, shared.entries[u].c_pk, u, me, mine=me)
            s_share, b_share = _parse_box(seal.unseal(key, box, box_aad(terms, L, u, me)), u, me)
            hashes = share_hash(terms, L, u, me, "s", s_share) + share_hash(terms, L, u, me, "b", b_share)
            require(hashes == pins, "box-share-hash", "the shares are not those that were hashed")
        except Refused as error:
            raise Refused(error.check, error.detail, sender=f"client {u}") from None
        held[u] = Held(s_share, b_share)
    return dict(sorted(held.items())), receipt_of(sealed.hashes)


def check_neighbours(terms: Terms, L: bytes, me: int, members: Sequence[int], check: str) -> None:
    """Enough holders of the own secrets are among ``members``.

    Raises:
        Refused: ``check``.
    """
    left, t = len(holders_of(terms, L, me, members)), terms.parameters.shares
    require(left >= t, check, f"{left} holders of the own secrets where {t} are needed")


def _parse_box(plain: bytes, u: int, v: int) -> tuple[bytes, bytes]:
    s_share, b_share = plain[8 : 8 + SHARE_SIZE], plain[8 + SHARE_SIZE :]
    require(plain == box_content(u, v, s_share, b_share), "box-ids", "the ids inside are not those outside")
    return s_share, b_share


def absorb(srv: Summing, u: int, sent: Masked, beside: bytes = b"") -> Summing:
    """Check the signature of one complete masked vector, and of what came ``beside`` it, and add it."""
    require(sent.receipt == receipt_of(srv.mail[u]), "masked-receipt", "the party accepted other share hashes than were relayed")
    terms, covering = srv.terms, Covering(joint_hash(sent.y.digest, beside), sent.receipt, sent.signature)
    statement = masked_statement(terms, u, srv.L, srv.u2, covering.vector, covering.receipt)
    require(verify(terms.roster.identity(u), sent.signature, statement), "masked-signature", "over L, U2 and the vector")
    sent.y.add_to(srv.total)
    srv.coverings[u] = covering
    return srv


@flow.server(fold=absorb, quorum=lambda srv: srv.terms.parameters.threshold, within=300.0)
def survey(srv: Summing, arrived: Arrived[Masked]) -> tuple[Asking, Broadcast[Dropped]]:
    """Tell the survivors who dropped out."""
    try:
        check_ring(srv.terms, srv.L, arrived)
    except Refused as error:
        raise Abort(error.check, error.detail) from None
    return Asking(srv, arrived), Broadcast(Dropped(tuple(sorted(set(srv.u2).difference(arrived)))), arrived)


# Round 3 · Agree on who survived


@flow.client
def consent(covered: Covered, said: Dropped) -> tuple[Consenting, Agree]:
    """Check the dropped set and sign the one U3 that follows from it."""
    invited, L = covered.invited, covered.L
    u3 = survivors(invited, covered.u2, said)
    check_neighbours(invited.terms, L, invited.me, u3, "dropped-neighbours")
    check_ring(invited.terms, L, u3)
    return Consenting(invited, L, covered.u2, u3, covered.held), sign_survivors(invited, L, u3)


def check_ring(terms: Terms, L: bytes, u3: Sequence[int]) -> None:
    """On a sparse graph: no place on the ring is so thin that a chosen set of dropouts could have cut it.

    Raises:
        Refused: ``dropped-ring``.
    """
    graph = terms.parameters.graph
    thin = graph.thin_place(u3, terms.ordering + L) if isinstance(graph, Harary) else None
    require(thin is None, "dropped-ring", f"after party {thin} too few of the next places on the ring survived")


@flow.server(quorum=lambda srv: srv.summing.terms.parameters.threshold, within=60.0)
def gather(srv: Asking, said: Inbox[Agree]) -> tuple[Opened, Broadcast[Agreed]]:
    """Show everybody the signatures; each checks as many as it needs, so the server checks none unless too few are good."""
    summing = srv.summing
    sparse = isinstance(summing.terms.parameters.graph, Harary)
    coverings = [summing.coverings[u] for u in srv.u3] if sparse else []
    signatures = {u: agree.signature for u, agree in said.items()}
    return Opened(summing, srv.u3, signatures), Broadcast(gathered(said, coverings), tuple(said))


# Round 4 · Open the masks of the sum


@flow.client
def open_shares(consenting: Consenting, agreed: Agreed) -> tuple[Finished, Openings]:
    """With enough signatures over the own L and U3: one share for each dealer, of s_sk if it dropped, of b if not; once."""
    invited, L, u3 = consenting.invited, consenting.L, consenting.u3
    check_agreement(invited, L, u3, agreed)
    sparse = isinstance(invited.terms.parameters.graph, Harary)
    check_coverings(invited.terms, L, consenting.u2, u3 if sparse else (), agreed.coverings)
    members = set(u3)
    shares = b"".join([_one_share(held, dropped=v not in members) for v, held in sorted(consenting.held.items())])
    signature = invited.identity.sign(opening_statement(invited.terms, invited.me, L, u3, shares))
    return Finished(invited.me), Openings(shares, signature)


def _one_share(held: Held, *, dropped: bool) -> bytes:
    if not dropped:
        return held.b_share
    if held.s_share is None:
        raise Misuse("a party never opens a share of its own s_sk")
    return held.s_share


def accept_openings(srv: Opened, u: int, said: Openings) -> None:
    """Check on arrival that there is one share for each dealer; what they are worth shows when they are put together."""
    count = len(srv.summing.near[u]) + bool(srv.summing.dealt[u].own_hash)
    require(len(said.shares) == SHARE_SIZE * count, "openings-set", "one share for each dealer in U2")


def false_agreement(srv: Opened) -> list[Refused]:
    """Where too few opened: whose agreement was none, if that is why."""
    return false_agreements(srv.summing.terms, srv.summing.L, srv.u3, srv.said)


@flow.server(admit=accept_openings, quorum=lambda srv: srv.summing.terms.parameters.threshold, blames=false_agreement, within=60.0)
def reveal(srv: Opened, said: Inbox[Openings]) -> Output[Sum]:
    """Rebuild one secret of each party, remove the masks, check that they cancelled; name those whose shares were wrong."""
    summing, u3 = srv.summing, set(srv.u3)
    terms, L = summing.terms, summing.L
    secrets, faults = rebuild(srv, said)
    plus, minus = list[Key](), list[Key]()
    for v, secret in secrets.items():
        if isinstance(secret, Seed):
            minus.append(agree.derive(secret, canonical(["self", terms.sid, L, v])))
            continue
        for u in summing.near[v].tolist():
            if u in u3:
                (plus if v < u else minus).append(pair_key(terms, L, secret, summing.s_pks[u], v, u))
    total: NDArray[Any] = summing.total.total()
    apply_masks(total, plus, minus)
    try:
        opened = checked_sum(terms.parameters.ring.centre(total), len(u3), terms.parameters)
    except Abort as error:
        raise Abort(error.check, error.detail, faults=list(faults.values())) from None
    return Output(replace(opened, left_out=tuple(faults)), tuple(faults.values()))


flow.check()
