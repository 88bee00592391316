"""Homomorphic sums: the parties encrypt under one key of theirs, the server adds ciphertexts, a few of the parties decrypt the sum.

Source: Fan and Vercauteren, eprint 2012/144 (BFV), or Cheon et al., eprint 2016/421 (CKKS), used with one key for all parties; the
identities, the list hash and the round of agreement are those of Bonawitz et al., CCS 2017 (eprint 2017/281), figure 4.  Symbols:

    u, v   roster indexes from 1                    U1 ⊇ U2 ⊇ U3 ⊇ U4   who sent in rounds 0, 1, 2, 3
    c      key pair for boxes                       openers             first three of U4 in an order drawn from sid and L
    L      hash of the round-0 list, bound into all that follows

The common key comes from the sum modulo 2 of one seed from every member of U2, carried in sealed boxes: it is fresh if one of them
drew well, nobody's dropping out loses it, and the server has no part in it.  It serves one sum.  It gives the secret key of the
scheme, and the coefficients and pads of a tag (`protocols.he_codec`) that binds a sum to the parties that are in it.

An opener decrypts once, only if t members of one U3, |U3| ≥ t, have signed it, 2t > n, and only if the tag is that of U3: a single
party's ciphertext, another subset, a multiple, a perturbation has none.  Two openers must give the same sum.

Channel assumed: the server relays everything and may lie.  Identities are registered out of band.  Against a server with no party
on its side, honest inputs are hidden but for the sum over at least t parties.

What it does not protect: **every party has the key.**  One that colludes with the server opens every input; masks
(`protocols.secagg`) hold against |C| of them.  Hence |C| = 0 here, and a party whose policy asks for more refuses.  Nor the sum
itself, who took part, and availability.  Two openers that lie in the same way move the sum within its range.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols import he_codec
from protocols.agreement import (
    Agree,
    Agreed,
    Dropped,
    check_agree,
    check_agreement,
    gathered,
    sign_survivors,
    survivors,
)
from protocols.bulk import Bulk
from protocols.errors import Abort, Refused, require
from protocols.flow import Arrived, Broadcast, Fanout, Flow, Inbox, Input, Output
from protocols.handshake import box_aad, box_key, check_invitation, check_list, check_sharing, list_hash, sign_keys
from protocols.he_parameters import OPENERS, SUITE, HeParameters, layouts
from protocols.he_types import (
    Advertised,
    Asking,
    Collecting,
    Committed,
    Consenting,
    Dealt,
    Decrypted,
    Delivered,
    Encrypted,
    Finished,
    Invited,
    Opening,
    Relaying,
    SeedBox,
    Shared,
    Summed,
    Summing,
    Upload,
    Waiting,
)
from protocols.lightsecagg import box_content
from protocols.lightsecagg_types import KeyAdvert, KeyEntry, KeyList
from protocols.primitives import agree, homomorphic, seal
from protocols.primitives.sign import verify
from protocols.rand import Rand, Seed
from protocols.suite import Terms
from protocols.vector import Sum, Vector, checked_sum
from protocols.wire import canonical, digest

flow = Flow("bfv")


def suite(parameters: HeParameters) -> str:
    """The suite string: the whole configuration by name."""
    p = parameters
    return f"{p.scheme.upper()}_N{p.degree}_Q{p.modulus}_{SUITE}{p.ring.bits}"


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


# Round 1 · A seed from everybody makes the common key


@flow.client
def share(adv: Advertised, listed: KeyList, rand: Rand) -> tuple[Shared, Dealt]:
    """Check the list; draw a seed, commit to it, seal it for each other party."""
    invited = adv.invited
    me, terms, L = invited.me, invited.terms, list_hash(listed)
    entries = check_list(invited, (adv.c.public,), listed.entries)
    seed, boxes = rand.seed("seed"), list[SeedBox]()
    for v in [v for v in entries if v != me]:
        key = box_key(terms, L, adv.c, entries[v].c_pk, me, v, mine=me)
        boxes.append(SeedBox(v, seal.seal(key, box_content(me, v, seed.reveal(), b""), box_aad(terms, L, me, v))))
    commitment = commit(terms, L, me, seed)
    signature = invited.identity.sign(terms.statement("seed", me, L, commitment, tuple(entries)))
    return Shared(invited, L, entries, adv.c, seed), Dealt(tuple(boxes), commitment, signature)


def commit(terms: Terms[HeParameters], L: bytes, dealer: int, seed: Seed) -> bytes:
    """Commitment to a seed: a hash, as the seed is 32 uniform bytes."""
    return digest(["seed", terms.sid, L, dealer, seed.reveal()])


def accept_dealt(srv: Relaying, u: int, sent: Dealt) -> None:
    """Check one set of boxes on arrival: one for each other party in the list, signed."""
    require(
        [x.peer for x in sent.boxes] == [v for v in srv.adverts if v != u], "boxes-set", "one box for each other party, ascending"
    )
    statement = srv.terms.statement("seed", u, srv.L, sent.commitment, tuple(srv.adverts))
    require(verify(srv.terms.roster.identity(u), sent.signature, statement), "boxes-signature", "over the commitment")


@flow.server(admit=accept_dealt, quorum=lambda srv: srv.terms.parameters.threshold, within=60.0)
def relay(srv: Relaying, dealt: Inbox[Dealt]) -> tuple[Summing, Fanout[Delivered]]:
    """Hand every box to its addressee."""
    p, u2, mail = srv.terms.parameters, tuple(dealt), dict[int, Delivered]()
    boxes = {(u, x.peer): x.box for u, sent in dealt.items() for x in sent.boxes}
    for v in u2:
        others = [u for u in u2 if u != v]
        known = tuple(Committed(u, dealt[u].commitment) for u in others)
        mail[v] = Delivered(u2, tuple(SeedBox(u, boxes[u, v]) for u in others), known)
    return Summing(srv.terms, srv.L, u2, homomorphic.Adder(p.shape, p.ciphertexts)), Fanout(mail)


# Round 2 · Encrypt the input


@flow.client(spends=True)
def encrypt(shared: Shared, delivered: Delivered, x: Input[Vector], rand: Rand) -> tuple[Encrypted, Upload]:
    """Open the boxes, encrypt the input with its tag, sign the ciphertexts; forget key pair, seeds and input."""
    invited, L, u2 = shared.invited, shared.L, delivered.u2
    me, terms, p = invited.me, invited.terms, invited.terms.parameters
    key = common_key(terms, L, u2, open_boxes(shared, delivered))
    fresh = homomorphic.encrypt(p.shape, key, he_codec.encode(p, key, me, x), rand)
    seeds, words = Bulk.of(layouts(p)["seeds"], fresh.seeds), Bulk.of(layouts(p)["words"], fresh.words)
    signature = invited.identity.sign(upload_statement(terms, me, L, u2, seeds.digest, words.digest))
    return Encrypted(invited, L, u2, key), Upload(seeds, words, signature)


def open_boxes(shared: Shared, delivered: Delivered) -> dict[int, Seed]:
    """Check U2, open every box; the seeds by dealer."""
    invited, L, u2 = shared.invited, shared.L, delivered.u2
    me, terms = invited.me, invited.terms
    check_sharing(invited, shared.entries, u2)
    dealers = [u for u in u2 if u != me]
    served = [x.peer for x in delivered.boxes] == [x.peer for x in delivered.commitments] == dealers
    require(served, "sealed-boxes", "one box and one commitment from each other member of U2, ascending")
    seeds = {me: shared.seed}
    for sent, pinned in zip(delivered.boxes, delivered.commitments, strict=True):
        u = sent.peer
        try:
            key = box_key(terms, L, shared.c, shared.entries[u].c_pk, u, me, mine=me)
            plain = seal.unseal(key, sent.box, box_aad(terms, L, u, me))
            require(plain == box_content(u, me, plain[8:], b""), "box-ids", "the ids inside are not those outside")
            seeds[u] = Seed(plain[8:])
            require(commit(terms, L, u, seeds[u]) == pinned.commitment, "box-share-hash", "the seed is not the one committed to")
        except Refused as error:
            raise Refused(error.check, error.detail, sender=f"client {u}") from None
    return seeds


def common_key(terms: Terms[HeParameters], L: bytes, u2: Sequence[int], seeds: dict[int, Seed]) -> Seed:
    """The key of this sum: uniform if one of the seeds is, and another one for another U2."""
    mixed = np.bitwise_xor.reduce([np.frombuffer(seeds[u].reveal(), np.uint8) for u in u2])
    return Seed(agree.derive(Seed(mixed.tobytes()), canonical(["common", terms.sid, L, list(u2)])).reveal())


def upload_statement(terms: Terms[HeParameters], u: int, L: bytes, u2: Sequence[int], seeds: bytes, words: bytes) -> bytes:
    """What a party signs of its ciphertexts: most bits of one can be flipped and it still parses."""
    return terms.statement("upload", u, L, tuple(u2), seeds, words)


def absorb(srv: Summing, u: int, sent: Upload) -> Summing:
    """Check one encrypted vector and add it."""
    terms = srv.terms
    statement = upload_statement(terms, u, srv.L, srv.u2, sent.seeds.digest, sent.words.digest)
    require(verify(terms.roster.identity(u), sent.signature, statement), "upload-signature", "over L, U2 and the ciphertexts")
    alien = homomorphic.is_object(sent.seeds.values[0].tobytes())
    require(not alien, "upload-object", "a saved object, such as a context with its secret key, where seeds and words are due")
    check_words(terms.parameters, sent.words.values)
    srv.total.add(homomorphic.Ciphertexts(sent.seeds.values, sent.words.values))
    return srv


def check_words(p: HeParameters, words: NDArray[Any]) -> None:
    """Words of a ciphertext are below q."""
    require(bool((words < homomorphic.modulus(p.shape)).all()), "ciphertext-range", "a word is not below q")


@flow.server(fold=absorb, quorum=lambda srv: srv.terms.parameters.threshold, within=300.0)
def survey(srv: Summing, arrived: Arrived[Upload]) -> tuple[Asking, Broadcast[Dropped]]:
    """Tell the survivors who dropped out."""
    return Asking(srv, arrived), Broadcast(Dropped(tuple(v for v in srv.u2 if v not in arrived)), arrived)


# Round 3 · Agree on who survived


@flow.client
def consent(encrypted: Encrypted, said: Dropped) -> tuple[Consenting, Agree]:
    """Check the dropped set and sign the one U3 that follows from it."""
    invited, L = encrypted.invited, encrypted.L
    u3 = survivors(invited, encrypted.u2, said)
    return Consenting(invited, L, u3, encrypted.key), sign_survivors(invited, L, u3)


def accept_agree(srv: Asking, u: int, said: Agree) -> None:
    """Check one signature over L and U3 on arrival."""
    check_agree(srv.summing.terms, srv.summing.L, srv.u3, u, said.signature, "agree-signature")


@flow.server(admit=accept_agree, quorum=lambda srv: srv.summing.terms.parameters.threshold, within=60.0)
def gather(srv: Asking, said: Inbox[Agree]) -> tuple[Opening, Broadcast[Agreed], Broadcast[Summed]]:
    """Show everybody the signatures, and the openers the sum of the ciphertexts."""
    terms, L = srv.summing.terms, srv.summing.L
    total = Summed(Bulk.of(layouts(terms.parameters)["total"], srv.summing.total.total()))
    return Opening(terms, L, srv.u3), Broadcast(gathered(said), tuple(said)), Broadcast(total, openers(terms, L, tuple(said)))


def openers(terms: Terms[HeParameters], L: bytes, u4: Sequence[int]) -> tuple[int, ...]:
    """Who decrypts: the first three of U4 in an order drawn from sid and L, ascending."""
    return tuple(sorted(sorted(u4, key=lambda v: digest(["opener", terms.sid, L, v]))[:OPENERS]))


# Round 4 · Open the sum


@flow.client
def confirm(consenting: Consenting, agreed: Agreed) -> Waiting:
    """Check that t members of U3 signed it; who does not open forgets the key."""
    invited = consenting.invited
    check_agreement(invited, consenting.L, consenting.u3, agreed)
    require(not agreed.coverings, "agreed-coverings", "only on a sparse graph")
    chosen = openers(invited.terms, consenting.L, [signed.index for signed in agreed.signatures])
    return Waiting(invited, consenting.L, consenting.u3, consenting.key if invited.me in chosen else None)


@flow.client
def decrypt(waiting: Waiting, summed: Summed) -> tuple[Finished, Decrypted]:
    """Decrypt, once, and give the sum away only if it is the one over U3: tag, count and range."""
    invited, key, u3 = waiting.invited, waiting.key, waiting.u3
    me, terms, p = invited.me, invited.terms, invited.terms.parameters
    if key is None:
        raise Refused("opener-own", "this party does not open")
    check_words(p, summed.total.values)
    sums = he_codec.decode(p, key, u3, homomorphic.decrypt(p.shape, key, summed.total.values))
    bulk = Bulk.of(layouts(p)["opened"], p.ring.lift(sums))
    signature = invited.identity.sign(decrypted_statement(terms, me, waiting.L, u3, bulk.digest))
    return Finished(me), Decrypted(bulk, signature)


def decrypted_statement(terms: Terms[HeParameters], u: int, L: bytes, u3: Sequence[int], content: bytes) -> bytes:
    """What an opener signs."""
    return terms.statement("decrypted", u, L, tuple(u3), content)


def accept_decrypted(srv: Opening, u: int, said: Decrypted) -> None:
    """Check the signature of one opened sum on arrival."""
    statement = decrypted_statement(srv.terms, u, srv.L, srv.u3, said.values.digest)
    require(verify(srv.terms.roster.identity(u), said.signature, statement), "decrypted-signature", "over the opened sum")


@flow.server(admit=accept_decrypted, quorum=lambda _: 1, within=60.0)
def conclude(srv: Opening, said: Inbox[Decrypted]) -> Output[Sum]:
    """Take the sum that two openers agree on, and check it; with one answer a sum has been opened, but is not taken."""
    digests = {u: sent.values.digest for u, sent in said.items()}
    (common, count), *_ = Counter(digests.values()).most_common(1)
    if count < 2:
        raise Abort("openers-differ", f"no two of {len(digests)} openers gave the same sum")
    p, values = srv.terms.parameters, next(sent.values.values for sent in said.values() if sent.values.digest == common)
    left_out = tuple(u for u, other in digests.items() if other != common)
    return Output(replace(checked_sum(p.ring.centre(values), len(srv.u3), p), left_out=left_out))


flow.check()
ckks = Flow("ckks").include(flow).check()
