"""SecAgg, active variant: pairwise and self masks, signed keys, and a consistency round before anything is opened.

Source: Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth: Practical Secure Aggregation for
Privacy-Preserving Machine Learning, CCS 2017 (eprint 2017/281), figure 4 with the steps for active adversaries.  Its symbols:

    u, v       roster indexes from 1                 t                   threshold
    c, s       key pairs for boxes and for masks     U1 ⊇ U2 ⊇ U3 ⊇ U4   who sent in rounds 0, 1, 2, 3
    b          self-mask seed                        L                   hash of the round-0 list, bound into all that follows

Channel assumed: the server relays everything and may lie.  Identities are registered out of band.  Against a server with up to |C|
corrupt parties, honest inputs are hidden but for the sum over at least t parties, t − |C| of them honest.

What it does not protect: the sum itself (one exact sum can betray a member; that is what differential privacy is for), who took
part and who dropped out, and availability: the server, or more than n − t dropouts, can always make a round abort.  A party may
put any vector within the bounds into the sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from protocols.bulk import Bulk, Packed
from protocols.errors import Abort, Misuse, Refused, require
from protocols.flow import Arrived, Broadcast, Fanout, Flow, Inbox, Input, Output
from protocols.primitives import agree, seal
from protocols.primitives.prg import apply_masks
from protocols.primitives.shamir import SHARE_SIZE, Lagrange
from protocols.primitives.shamir import share as shamir_share
from protocols.primitives.sign import verify
from protocols.rand import Key, Rand, Seed
from protocols.ring import Accumulator
from protocols.secagg_types import (
    Advert,
    Advertised,
    Agree,
    Agreed,
    Asking,
    Box,
    Boxes,
    Collecting,
    Consenting,
    Covered,
    Dropped,
    Entry,
    Finished,
    Held,
    Invited,
    Listed,
    Masked,
    Opened,
    Opening,
    Openings,
    Relaying,
    Sealed,
    Shared,
    Signed,
    Summing,
)
from protocols.suite import SECAGG, Parameters, Terms
from protocols.vector import Sum, Vector, checked_sum, with_count
from protocols.wire import canonical, control_bytes, digest

flow = Flow("secagg")


def suite(parameters: Parameters) -> str:
    """The suite string: the whole configuration by name."""
    return f"{SECAGG}{parameters.ring.bits}"


# Round 0 · Advertise keys


@flow.client
def advertise(invited: Invited, rand: Rand) -> tuple[Advertised, Advert]:
    """Check the invitation against the own policy; make two fresh key pairs and sign them."""
    terms = invited.terms
    require(terms.suite == suite(terms.parameters), "terms-suite", "the suite named is not the one that runs")
    invited.policy.check(terms)
    require(terms.roster.identity(invited.me) == invited.identity.public, "roster-own", "the roster has another key for this party")
    c, s = agree.KeyPair.generate(rand, "c_sk"), agree.KeyPair.generate(rand, "s_sk")
    signature = invited.identity.sign(terms.statement("keys", invited.me, c.public, s.public))
    return Advertised(invited, c, s), Advert(c.public, s.public, signature)


def accept_advert(srv: Collecting, u: int, advert: Advert) -> Collecting:
    """Check one advert on arrival, with the checks that every party will make."""
    _check_keys(srv.terms, u, advert.c_pk, advert.s_pk, advert.signature, "advert-signature")
    known = {key for other in srv.adverts.values() for key in (other.c_pk, other.s_pk)}
    require(not known & {advert.c_pk, advert.s_pk}, "advert-distinct", "a public key that another party has advertised")
    return replace(srv, adverts={**srv.adverts, u: advert})


@flow.server(fold=accept_advert, quorum=lambda srv: srv.terms.parameters.threshold, within=60.0)
def collect(srv: Collecting, arrived: Arrived[Advert]) -> tuple[Relaying, Broadcast[Listed]]:
    """Send the list of those who advertised to all of them."""
    adverts = {u: srv.adverts[u] for u in arrived}
    listed = Listed(tuple(Entry(u, a.c_pk, a.s_pk, a.signature) for u, a in adverts.items()))
    return Relaying(srv.terms, list_hash(listed), adverts), Broadcast(listed, arrived)


def list_hash(listed: Listed) -> bytes:
    """L, the hash of the round-0 list."""
    return hashlib.sha256(control_bytes(listed)).digest()


def _check_keys(terms: Terms, u: int, c_pk: bytes, s_pk: bytes, signature: bytes, check: str) -> None:
    for key in (c_pk, s_pk):
        agree.check_public_key(key)
    require(c_pk != s_pk, "advert-distinct", f"party {u} advertised one key twice")
    require(verify(terms.roster.identity(u), signature, terms.statement("keys", u, c_pk, s_pk)), check, f"keys of party {u}")


# Round 1 · Share keys


@flow.client
def share(adv: Advertised, listed: Listed, rand: Rand) -> tuple[Shared, Boxes]:
    """Check the list; share s_sk and a fresh seed b among the holders, sealed end to end."""
    invited = adv.invited
    me, terms = invited.me, invited.terms
    L, entries = list_hash(listed), check_list(adv, listed)
    b, t = rand.seed("b"), terms.parameters.threshold
    holders = terms.parameters.graph.holders(me, sorted(entries), terms.sid + L)
    s_shares = dict(zip(holders, shamir_share(adv.s.secret().reveal(), t, holders, rand, "share s_sk"), strict=True))
    b_shares = dict(zip(holders, shamir_share(b.reveal(), t, holders, rand, "share b"), strict=True))
    boxes = []
    for v in holders:
        if v != me:
            key = box_key(terms, L, adv.c, entries[v].c_pk, me, v, mine=me)
            box = seal.seal(key, canonical([me, v, s_shares[v], b_shares[v]]), box_aad(terms, L, me, v))
            boxes.append(Box(v, box, share_hash(terms, L, me, v, "s", s_shares[v]), share_hash(terms, L, me, v, "b", b_shares[v])))
    own, commitment = share_hash(terms, L, me, me, "b", b_shares[me]), commit(terms, L, me, b)
    signature = invited.identity.sign(
        terms.statement("share", me, L, commitment, own, [[x.peer, x.s_hash, x.b_hash] for x in boxes])
    )
    return Shared(invited, L, entries, adv.c, adv.s, b, b_shares[me]), Boxes(tuple(boxes), own, commitment, signature)


def check_list(adv: Advertised, listed: Listed) -> dict[int, Entry]:
    """The checks on the round-0 list; the entries by index."""
    invited, entries = adv.invited, {entry.index: entry for entry in listed.entries}
    me, terms, order = invited.me, invited.terms, [entry.index for entry in listed.entries]
    require(order == sorted(entries) and order[-1] <= len(terms.roster), "listed-order", "indexes must ascend within the roster")
    require(me in entries, "listed-own", "own entry is missing")
    require((entries[me].c_pk, entries[me].s_pk) == (adv.c.public, adv.s.public), "listed-own", "own keys were changed")
    require(
        len(entries) >= smallest_set(invited), "listed-cohort", f"{len(entries)} parties where {smallest_set(invited)} are needed"
    )
    keys = [key for entry in listed.entries for key in (entry.c_pk, entry.s_pk)]
    require(len(set(keys)) == len(keys), "listed-distinct", "a public key stands twice in the list")
    for entry in listed.entries:
        _check_keys(terms, entry.index, entry.c_pk, entry.s_pk, entry.signature, "listed-signature")
    return entries


def smallest_set(invited: Invited) -> int:
    """Fewest parties in any set that this party goes along with: the threshold or its own smallest cohort."""
    return max(invited.terms.parameters.threshold, invited.policy.min_cohort)


def box_key(terms: Terms, L: bytes, pair: agree.KeyPair, theirs: bytes, u: int, v: int, *, mine: int) -> Key:
    """The key of the one box from u to v; its label holds both ids and both public keys, in that order."""
    keys = (pair.public, theirs) if mine == u else (theirs, pair.public)
    return agree.derive(pair.exchange(theirs), canonical(["box", terms.sid, L, u, v, *keys]))


def box_aad(terms: Terms, L: bytes, u: int, v: int) -> bytes:
    """Associated data of the box from u to v."""
    return canonical([terms.sid, L, u, v])


def share_hash(terms: Terms, L: bytes, dealer: int, holder: int, secret: str, value: bytes) -> bytes:
    """Hash that pins one share: of ``"s"`` (s_sk) or ``"b"``."""
    return digest(["share", terms.sid, L, dealer, holder, secret, value])


def commit(terms: Terms, L: bytes, u: int, b: Seed) -> bytes:
    """Commitment to the seed b of u."""
    return agree.derive(b, canonical(["commit", terms.sid, L, u])).reveal()


def accept_boxes(srv: Relaying, u: int, sent: Boxes) -> None:
    """Check one set of boxes on arrival: one for each holder, signed."""
    terms = srv.terms
    holders = [v for v in terms.parameters.graph.holders(u, sorted(srv.adverts), terms.sid + srv.L) if v != u]
    require([box.peer for box in sent.boxes] == holders, "boxes-set", "one box for each holder, ascending")
    content = [[x.peer, x.s_hash, x.b_hash] for x in sent.boxes]
    statement = terms.statement("share", u, srv.L, sent.commitment, sent.own_hash, content)
    require(verify(terms.roster.identity(u), sent.signature, statement), "boxes-signature", "over commitment and share hashes")


@flow.server(admit=accept_boxes, quorum=lambda srv: srv.terms.parameters.threshold, within=60.0)
def relay(srv: Relaying, dealt: Inbox[Boxes]) -> tuple[Summing, Fanout[Sealed]]:
    """Hand every box to its addressee."""
    u2 = tuple(dealt)
    mail: dict[int, list[Box]] = {v: [] for v in u2}
    for u, sent in dealt.items():
        for box in sent.boxes:
            if box.peer in mail:
                mail[box.peer].append(replace(box, peer=u))
    boxes = {v: tuple(addressed) for v, addressed in mail.items()}
    total = Accumulator(srv.terms.parameters.ring, srv.terms.parameters.size + 1)
    return Summing(srv.terms, srv.L, srv.adverts, dealt, boxes, total), Fanout({v: Sealed(u2, boxes[v]) for v in u2})


# Round 2 · Mask the input:  y = x + PRG(b) ± Σ PRG(s_uv)


@flow.client(spends=True)
def mask(shared: Shared, sealed: Sealed, x: Input[Vector]) -> tuple[Covered, Masked]:
    """Open the boxes, mask the input, sign the masked vector; forget keys, seed and input."""
    invited, L = shared.invited, shared.L
    me, terms = invited.me, invited.terms
    parameters = terms.parameters
    y = with_count(x, parameters)
    held, receipt = open_boxes(shared, sealed)
    plus, minus = [agree.derive(shared.b, canonical(["self", terms.sid, L, me]))], list[Key]()
    for v in held:
        if v != me:
            pair_mask = pair_key(terms, L, shared.s, shared.entries[v].s_pk, me, v)
            (plus if me < v else minus).append(pair_mask)
    apply_masks(y, plus, minus)
    parameters.ring.reduce(y)
    bulk = Bulk.of(Packed(parameters.ring, parameters.size + 1), y)
    signature = invited.identity.sign(terms.statement("masked", me, L, list(sealed.u2), bulk.digest, receipt))
    return Covered(invited, L, sealed.u2, held), Masked(bulk, receipt, signature)


def open_boxes(shared: Shared, sealed: Sealed) -> tuple[dict[int, Held], bytes]:
    """Check U2, open every box; the shares held by dealer, and a receipt: hash of the share hashes that they matched."""
    invited, L = shared.invited, shared.L
    me, terms, u2 = invited.me, invited.terms, sealed.u2
    require(list(u2) == sorted(set(u2)) and set(u2) <= set(shared.entries), "sealed-set", "U2 ascends within U1")
    require(me in u2, "sealed-own", "this party is not in U2")
    require(len(u2) >= smallest_set(invited), "sealed-cohort", f"{len(u2)} parties where {smallest_set(invited)} are needed")
    holders = terms.parameters.graph.holders(me, sorted(shared.entries), terms.sid + L)
    dealers = [u for u in u2 if u != me and u in holders]
    require([box.peer for box in sealed.boxes] == dealers, "sealed-boxes", "one box from each other member of U2, ascending")
    held = {me: Held(None, shared.own_share)}
    for box in sealed.boxes:
        try:
            key = box_key(terms, L, shared.c, shared.entries[box.peer].c_pk, box.peer, me, mine=me)
            s_share, b_share = _parse_box(seal.unseal(key, box.box, box_aad(terms, L, box.peer, me)), box.peer, me)
            hashes = (share_hash(terms, L, box.peer, me, "s", s_share), share_hash(terms, L, box.peer, me, "b", b_share))
            require(hashes == (box.s_hash, box.b_hash), "box-share-hash", "the shares are not those that were hashed")
        except Refused as error:
            raise Refused(error.check, error.detail, sender=f"client {box.peer}") from None
        held[box.peer] = Held(s_share, b_share)
    return dict(sorted(held.items())), receipt_of(sealed.boxes)


def receipt_of(boxes: Sequence[Box]) -> bytes:
    """Hash of the share hashes that were relayed to a party: signed by it, so that nobody can say it accepted others."""
    return digest([[box.peer, box.s_hash, box.b_hash] for box in boxes])


def _parse_box(plain: bytes, u: int, v: int) -> tuple[bytes, bytes]:
    s_share, b_share = plain[-2 * SHARE_SIZE - 2 : -SHARE_SIZE - 2], plain[-SHARE_SIZE:]
    require(plain == canonical([u, v, s_share, b_share]), "box-ids", "the ids inside are not those outside")
    return s_share, b_share


def pair_key(terms: Terms, L: bytes, pair: agree.KeyPair, theirs: bytes, u: int, v: int) -> Key:
    """The key of the mask that u and v share; the lower index adds it, the higher subtracts it."""
    keys = (pair.public, theirs) if u < v else (theirs, pair.public)
    return agree.derive(pair.exchange(theirs), canonical(["pair", terms.sid, L, min(u, v), max(u, v), *keys]))


def absorb(srv: Summing, u: int, masked: Masked) -> Summing:
    """Check the signature of one complete masked vector and add it."""
    require(masked.receipt == receipt_of(srv.mail[u]), "masked-receipt", "the party accepted other share hashes than were relayed")
    statement = srv.terms.statement("masked", u, srv.L, list(srv.dealt), masked.y.digest, masked.receipt)
    require(verify(srv.terms.roster.identity(u), masked.signature, statement), "masked-signature", "over L, U2 and the vector")
    srv.total.add(masked.y.values)
    return srv


@flow.server(fold=absorb, quorum=lambda srv: srv.terms.parameters.threshold, within=300.0)
def survey(srv: Summing, arrived: Arrived[Masked]) -> tuple[Asking, Broadcast[Dropped]]:
    """Tell the survivors who dropped out."""
    return Asking(srv, arrived), Broadcast(Dropped(tuple(v for v in srv.dealt if v not in arrived)), arrived)


# Round 3 · Agree on who survived


@flow.client
def consent(covered: Covered, said: Dropped) -> tuple[Consenting, Agree]:
    """Check the dropped set and sign the one U3 that follows from it."""
    invited, dropped = covered.invited, said.dropped
    require(
        list(dropped) == sorted(set(dropped)) and set(dropped) <= set(covered.u2),
        "dropped-set",
        "the dropped set ascends within U2",
    )
    require(invited.me not in dropped, "dropped-own", "this party is said to have dropped")
    u3 = tuple(v for v in covered.u2 if v not in dropped)
    require(len(u3) >= smallest_set(invited), "dropped-cohort", f"{len(u3)} survivors where {smallest_set(invited)} are needed")
    signature = invited.identity.sign(invited.terms.statement("agree", invited.me, covered.L, list(u3)))
    return Consenting(invited, covered.L, u3, covered.held), Agree(signature)


def accept_agree(srv: Asking, u: int, said: Agree) -> None:
    """Check one signature over L and U3 on arrival."""
    terms = srv.summing.terms
    statement = terms.statement("agree", u, srv.summing.L, list(srv.u3))
    require(verify(terms.roster.identity(u), said.signature, statement), "agree-signature", "over L and U3")


@flow.server(admit=accept_agree, quorum=lambda srv: srv.summing.terms.parameters.threshold, within=60.0)
def gather(srv: Asking, said: Inbox[Agree]) -> tuple[Opened, Broadcast[Agreed]]:
    """Show everybody the signatures."""
    return Opened(srv.summing, srv.u3), Broadcast(Agreed(tuple(Signed(u, a.signature) for u, a in said.items())), tuple(said))


# Round 4 · Open the masks of the sum


@flow.client
def open_shares(consenting: Consenting, agreed: Agreed) -> tuple[Finished, Openings]:
    """With t signatures over the own L and U3: one share for each dealer, of s_sk if it dropped, of b if not; once."""
    invited, u3 = consenting.invited, consenting.u3
    check_agreement(consenting, agreed)
    shares = tuple(Opening(v, _one_share(held, dropped=v not in u3)) for v, held in consenting.held.items())
    signature = invited.identity.sign(opening_statement(invited.terms, invited.me, consenting.L, u3, shares))
    return Finished(invited.me), Openings(shares, signature)


def check_agreement(consenting: Consenting, agreed: Agreed) -> None:
    """At least t distinct members of U3 signed the own L and U3."""
    terms, u3 = consenting.invited.terms, consenting.u3
    signers = [signed.index for signed in agreed.signatures]
    require(signers == sorted(set(signers)) and set(signers) <= set(u3), "agreed-signers", "distinct members of U3, ascending")
    for signed in agreed.signatures:
        statement = terms.statement("agree", signed.index, consenting.L, list(u3))
        valid = verify(terms.roster.identity(signed.index), signed.signature, statement)
        require(valid, "agreed-signature", f"party {signed.index} did not sign this U3")
    need = terms.parameters.threshold
    require(len(signers) >= need, "agreed-count", f"{len(signers)} signatures where {need} are needed")


def _one_share(held: Held, *, dropped: bool) -> bytes:
    if not dropped:
        return held.b_share
    if held.s_share is None:
        raise Misuse("a party never opens a share of its own s_sk")
    return held.s_share


def opening_statement(terms: Terms, u: int, L: bytes, u3: Sequence[int], shares: Sequence[Opening]) -> bytes:
    """What an opener signs."""
    return terms.statement("open", u, L, list(u3), [[s.index, s.share] for s in shares])


def accept_openings(srv: Opened, u: int, said: Openings) -> None:
    """Check one opener's shares on arrival: one for each dealer, each with the hash that its dealer signed."""
    terms, L, dealt = srv.summing.terms, srv.summing.L, srv.summing.dealt
    hashes = {box.peer: (box.s_hash, box.b_hash) for box in srv.summing.mail[u]}
    if u in terms.parameters.graph.holders(u, sorted(srv.summing.adverts), terms.sid + L):
        hashes[u] = (b"", dealt[u].own_hash)
    require([s.index for s in said.shares] == sorted(hashes), "openings-set", "one share for each dealer in U2, ascending")
    statement = opening_statement(terms, u, L, srv.u3, said.shares)
    require(verify(terms.roster.identity(u), said.signature, statement), "openings-signature", "over the shares")
    for opening in said.shares:
        v, secret = opening.index, "b" if opening.index in srv.u3 else "s"
        want = hashes[v][secret == "b"]
        require(
            share_hash(terms, L, v, u, secret, opening.share) == want, "openings-share-hash", f"the share of party {v}'s secret"
        )


@flow.server(admit=accept_openings, quorum=lambda srv: srv.summing.terms.parameters.threshold, within=60.0)
def reveal(srv: Opened, said: Inbox[Openings]) -> Output[Sum]:
    """Rebuild one secret of each party, remove the masks, check that they cancelled."""
    summing, u3 = srv.summing, srv.u3
    terms, L, t = summing.terms, summing.L, summing.terms.parameters.threshold
    helpers = dict(list(said.items())[:t])
    weights = Lagrange(list(helpers))
    columns = {u: {s.index: s.share for s in sent.shares} for u, sent in helpers.items()}
    plus, minus = list[Key](), list[Key]()
    for v, sent in summing.dealt.items():
        secret = Seed(_rebuild(weights, [columns[u][v] for u in helpers], v))
        if v in u3:
            _dealer(commit(terms, L, v, secret) == sent.commitment, v)
            minus.append(agree.derive(secret, canonical(["self", terms.sid, L, v])))
            continue
        pair = agree.KeyPair.from_secret(secret)
        _dealer(pair.public == summing.adverts[v].s_pk, v)
        for u in u3:
            (plus if v < u else minus).append(pair_key(terms, L, pair, summing.adverts[u].s_pk, v, u))
    total: NDArray[Any] = summing.total.total()
    apply_masks(total, plus, minus)
    return Output(checked_sum(terms.parameters.ring.centre(total), len(u3), terms.parameters))


def _rebuild(weights: Lagrange, shares: Sequence[bytes], dealer: int) -> bytes:
    try:
        return weights.combine(shares)
    except Refused:
        raise Abort("rebuilt-secret", f"party {dealer} dealt shares of no secret") from None


def _dealer(ok: bool, dealer: int) -> None:  # noqa: FBT001
    if not ok:
        raise Abort("rebuilt-secret", f"party {dealer} dealt shares of another secret than it committed to")


flow.check()
