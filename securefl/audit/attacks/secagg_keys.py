"""Attacks on keys, boxes and kept vectors of SecAgg: rows 5, 24, 29 and 31.

Six parties, of which the last may collude with the server, t = 4, and the first is the victim, unless an attack says otherwise.
"""

from __future__ import annotations

from dataclasses import replace

from protocols.handshake import box_aad, box_key, list_hash
from protocols.policy import Policy
from protocols.primitives import seal
from protocols.primitives.agree import KeyPair
from protocols.primitives.shamir import SHARE_SIZE
from protocols.rand import Replay
from protocols.secagg_labels import box_content, share_hash
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Advert, Boxes, Covered, Masked, Sealed, Shared
from protocols.session import Session
from securefl.audit.attacks.secagg import COLLUDER, EVERYBODY, VICTIM
from securefl.audit.federation import MAX_ABS, Federation
from securefl.audit.judging import by_party, stolen
from securefl.audit.registry import attack
from securefl.audit.secagg_server import Box, SecAggServer, packed, pair_keys, peel, rebuild, self_mask, unmask, unpacked
from securefl.audit.target import PAYLOAD, Target
from securefl.audit.verdict import Verdict, broken

# Row 5: a server in the middle


def man_in_the_middle(fed: Federation) -> tuple[SecAggServer, list[int]]:
    """Show the victim a list in which all keys but its own are the server's."""
    server, rand, terms = SecAggServer(fed), Replay("mallory")(), fed.terms
    c = {v: KeyPair.generate(rand, f"c {v}") for v in EVERYBODY if v != VICTIM}
    s = {v: KeyPair.generate(rand, f"s {v}") for v in EVERYBODY if v != VICTIM}
    honest = server.all(Advert)
    listed = server.listed(None, **{f"p{v}": Advert(c[v].public, s[v].public, honest[v].signature) for v in c})
    L, mine = list_hash(listed), honest[VICTIM]
    server.tell(VICTIM, listed)
    dealt = server.all(Boxes).get(VICTIM)
    if dealt is None:
        return server, []
    shares, forged = dict[int, bytes](), list[Box]()
    for box in server.dealt(VICTIM):
        v, junk = box.peer, bytes(SHARE_SIZE)
        key = box_key(terms, L, c[v], mine.c_pk, VICTIM, v, mine=v)
        shares[v] = seal.unseal(key, box.box, box_aad(terms, L, VICTIM, v))[-SHARE_SIZE:]
        back = box_key(terms, L, c[v], mine.c_pk, v, VICTIM, mine=v)
        sealed = seal.seal(back, box_content(v, VICTIM, junk, junk), box_aad(terms, L, v, VICTIM))
        forged.append(Box(v, sealed, *(share_hash(terms, L, v, VICTIM, secret, junk) for secret in ("s", "b"))))
    server.tell(VICTIM, packed(Sealed(EVERYBODY, b"", b""), forged))
    b = rebuild(shares, fed.t)
    if b is None or VICTIM not in server.all(Masked):
        return server, []
    pairs = pair_keys(terms, L, VICTIM, {VICTIM: mine.s_pk, **{v: pair.public for v, pair in s.items()}}, s)
    return server, unmask(terms, L, VICTIM, server.all(Masked)[VICTIM], b, pairs)


@attack(
    5,
    "swapped keys",
    lie="the victim gets a list in which all keys but its own are the server's, who so reads the shares meant for the others",
    notice="the victim, in round 1, by listed-signature",
    on=["secagg"],
    strikes=["Listed"],
)
def swapped_keys(target: Target) -> Verdict:
    """The keys of both kinds."""
    server, found = man_in_the_middle(target.cohort())
    return stolen(server, VICTIM, found, honest=[VICTIM])


# Row 24: a vector that is declared dropped, but kept


@attack(
    24,
    "the key of a party whose vector was kept",
    lie="the victim's vector comes, and the others hear that it did not; they open its mask key",
    notice="nobody has to: its self-mask stays shut",
    on=["secagg"],
    strikes=["Masked", "Dropped"],
)
def kept_vector(target: Target) -> Verdict:
    """What is left without the pair masks must be noise."""
    fed = target.cohort()
    server = SecAggServer(fed)
    L = server.up_to_masks()
    server.agree_on((VICTIM,))
    server.open_all()
    opened = dict.fromkeys(EVERYBODY, EVERYBODY[1:])
    s = rebuild(server.shares(VICTIM, "s", {}, opened), fed.t)
    b = rebuild(server.shares(VICTIM, "b", {}, opened), fed.t)
    if s is None:
        return by_party(server)
    pairs = pair_keys(fed.terms, L, VICTIM, server.publics, {VICTIM: KeyPair.from_secret(s)})
    key = None if b is None else self_mask(fed.terms, L, VICTIM, b)
    found = peel(fed.terms, VICTIM, server.all(Masked)[VICTIM], pairs, key)
    return stolen(server, VICTIM, found)


# Row 29: another's key


def copied_key(fed: Federation) -> tuple[SecAggServer, list[int]]:
    """Three parties; 3 advertises the mask key of 1, signed as its own, so that 2 adds and subtracts one keystream."""
    server = SecAggServer(fed)
    adverts = server.all(Advert)
    thief = fed.parties[3].identity
    forged = replace(adverts[3], s_pk=adverts[1].s_pk)
    forged = replace(forged, signature=thief.sign(fed.terms.statement("keys", 3, forged.c_pk, forged.s_pk)))
    listed = server.listed(p3=forged)
    honest = server.listed()
    for u in (1, 2, 3):
        server.tell(u, listed if u != 3 else honest)
    if 2 not in server.all(Boxes):
        return server, []
    L, dealt = list_hash(listed), server.all(Boxes)
    boxes = [replace(box, peer=1) for box in server.dealt(1) if box.peer == 2] if 1 in dealt else []
    pair3 = server.state(3, Shared).c
    junk = bytes(SHARE_SIZE)
    key = box_key(fed.terms, L, pair3, adverts[2].c_pk, 3, 2, mine=3)
    sealed = seal.seal(key, box_content(3, 2, junk, junk), box_aad(fed.terms, L, 3, 2))
    boxes.append(Box(3, sealed, *(share_hash(fed.terms, L, 3, 2, secret, junk) for secret in ("s", "b"))))
    server.tell(2, packed(Sealed((1, 2, 3), b"", b""), boxes))
    masked = server.all(Masked).get(2)
    box = next((box for box in server.dealt(2) if box.peer == 3), None)
    b_shares = dict[int, bytes]()
    if box is not None and masked is not None:
        key = box_key(fed.terms, L, pair3, adverts[2].c_pk, 2, 3, mine=3)
        b_shares[3] = seal.unseal(key, box.box, box_aad(fed.terms, L, 2, 3))[-SHARE_SIZE:]
        b_shares |= own_b_share(server.sessions[2])
    b = rebuild(b_shares, fed.t)
    if b is None or masked is None:
        return server, []
    return server, peel(fed.terms, 2, masked, {}, self_mask(fed.terms, L, 2, b))


def own_b_share(session: Session) -> dict[int, bytes]:
    """The share of its seed that a survivor opens in round 4, as any honest round has it opened."""
    return {u: state.held[u].b_share for state in session.remembers if isinstance(state, Covered) for u in [state.invited.me]}


@attack(
    29,
    "another's mask key republished",
    lie="a colluder advertises the victim's neighbour's key as its own: the victim would add and subtract one mask",
    notice="the victim, in round 1, by listed-distinct; labels that hold the ids keep the masks apart even so",
    on=["secagg"],
    strikes=["Advert", "Listed"],
)
def republished(target: Target) -> Verdict:
    """With three parties the two masks would cancel, and the seed of the third is opened in every round."""
    server, found = copied_key(target.cohort(3, parameters=Parameters.of(3, PAYLOAD, MAX_ABS, corrupt=0), policy=_least(target)))
    return stolen(server, 2, found, honest=[2])


def _least(target: Target) -> Policy:
    return replace(target.own_policy, min_corrupt=0)


@attack(
    29,
    "one key for both directions",
    lie="a box is sent back to who sealed it",
    notice="the party, in round 2, by box-opens: the ids in their order are in key and associated data",
    on=["secagg", "secagg+"],
    strikes=["Sealed"],
)
def reflected(target: Target) -> Verdict:
    """Nothing that a party sealed itself opens for it as another's."""
    fed = target.cohort() if target.shape == "secagg" else target.federation()
    server = SecAggServer(fed)
    server.up_to_boxes()
    mine = {box.peer: box for box in server.dealt(VICTIM)}
    server.tell(VICTIM, packed(server.sealed(VICTIM), [mine[v] for v in sorted(mine)]))
    if VICTIM in server.all(Masked):
        return broken("a party takes the boxes that it sealed itself for others'", whose="client 1")
    return by_party(server, [VICTIM])


# Row 31: boxes broken for one victim


def garbled_boxes(fed: Federation, sessions: dict[int, Session] | None = None) -> tuple[SecAggServer, list[int]]:
    """The server breaks all boxes to the victim but that of the colluding party, then plays by the rules."""
    server = SecAggServer(fed, sessions or {})
    L = list_hash(server.up_to_boxes())
    keys = server.mask_pair(COLLUDER)
    for u in EVERYBODY:
        sealed = server.sealed(u)
        boxes = unpacked(sealed, [v for v in EVERYBODY if v != u])
        broken_ones = [replace(x, box=bytes(len(x.box))) if u == VICTIM and x.peer != COLLUDER else x for x in boxes]
        server.tell(u, packed(sealed, broken_ones))
    if VICTIM not in server.all(Masked):
        return server, []
    server.agree_on()
    server.open_all()
    b = rebuild(server.shares(VICTIM, "b", {}, dict.fromkeys(EVERYBODY, EVERYBODY)), fed.t)
    if b is None:
        return server, []
    pairs = pair_keys(fed.terms, L, VICTIM, server.publics, {COLLUDER: keys})
    return server, unmask(fed.terms, L, VICTIM, server.all(Masked)[VICTIM], b, pairs)


@attack(
    31,
    "boxes broken for one victim",
    lie="all boxes to the victim are spoilt but the colluder's, so that it would mask with the colluder alone",
    notice="the victim, in round 2, by box-opens: it leaves before it masks",
    on=["secagg"],
    strikes=["Sealed"],
)
def spoilt_boxes(target: Target) -> Verdict:
    """A party that skipped bad boxes would be left with the colluder's mask."""
    server, found = garbled_boxes(target.cohort())
    return stolen(server, VICTIM, found, honest=[VICTIM])
