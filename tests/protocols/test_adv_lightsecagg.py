"""Cheats against LightSecAgg: wrong answers, second answers, swapped keys, split views, bad shares, garbage.

Every attack is refused by a named check, or its author is left out; a state used twice gives the victim's input away.
The federation has six parties; unless a test says otherwise U = 4, T = 1, |C| = 1, and the victim is party 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from adversary import Federation, LyingServer, ending, faults, federation, restore, run

from protocols import lagrange, lightsecagg, simulate, sums
from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.bulk import Bulk
from protocols.lightsecagg_parameters import LightParameters, layouts
from protocols.lightsecagg_types import (
    Advertised,
    Answer,
    Consenting,
    Covered,
    KeyAdvert,
    KeyEntry,
    KeyList,
    Padded,
    Relayed,
    Shared,
    ShareHash,
    Shares,
)
from protocols.primitives import seal
from protocols.primitives.agree import KeyPair
from protocols.rand import Rand, Replay
from protocols.ring import Ring
from protocols.schema import Message
from protocols.session import SERVER, Letter, Session, client

SCHEME = sums.scheme("lightsecagg")
EVERYBODY = (1, 2, 3, 4, 5, 6)
VICTIM, BAD = 1, 6


def light(**parameters: int) -> Federation:
    return federation(parameters=LightParameters.of(6, 5, 1000, **parameters), scheme=SCHEME)


def pair(label: str) -> KeyPair:
    return KeyPair.generate(Replay("keys")(), label)


@dataclass
class LightServer(LyingServer):
    """A server played by the test, against LightSecAgg."""

    def key_list(self, members: Iterable[int] = EVERYBODY) -> KeyList:
        adverts = self.all(KeyAdvert)
        return KeyList(tuple(KeyEntry(u, adverts[u].c_pk, adverts[u].signature) for u in members))

    def relayed(self, v: int, u2: Iterable[int] = EVERYBODY) -> Relayed:
        p, dealt, members = self.fed.terms.parameters, self.all(Shares), tuple(u2)
        slots = lightsecagg.slots_of(p)
        for u in members:
            if u != v:
                data = np.frombuffer(dealt[u].boxes.data or b"", dtype=np.uint8).reshape(slots.shape)
                slots[lightsecagg.slot(v, u)] = data[lightsecagg.slot(u, v)]
        hashes = tuple(ShareHash(u, h.hash) for u in members if u != v for h in dealt[u].hashes if h.peer == v)
        return Relayed(Bulk.of(layouts(p)["boxes"], slots), members, hashes)

    def up_to_masks(self) -> bytes:
        listed = self.key_list()
        for u in self.sessions:
            self.tell(u, listed)
        for u in self.sessions:
            self.tell(u, self.relayed(u))
        return lightsecagg.list_hash(listed)

    def collude(self, u: int) -> Covered:  # type: ignore[override]
        return next(state for state in self.sessions[u].remembers if isinstance(state, Covered))

    def answers(self) -> dict[int, np.ndarray[Any, Any]]:
        return {u: said.share.values for u, said in self.all(Answer).items()}


def unmasked(p: LightParameters, y: Padded, shares: dict[int, Any]) -> list[int]:
    """The input behind a masked vector, from U shares of its mask."""
    chosen = dict(list(shares.items())[: p.threshold])
    matrix = lagrange.coefficients(p.ring, list(chosen), lagrange.alphas(p.parties, p.blocks))
    total = y.y.values.copy()
    p.ring.subtract_from(total, p.ring.product(matrix, np.stack(list(chosen.values()))).reshape(-1)[: p.size + 1])
    centred: list[int] = p.ring.centre(total).tolist()
    return centred[:-1] if centred[-1] == 1 else []


# --- one survivor set, one answer


def ask_without_the_victim(server: LightServer, helpers: Iterable[int]) -> None:
    """After the sum: the same helpers asked for the survivors without the victim."""
    for u in helpers:
        del server.heard[u, Agree], server.heard[u, Answer]
        server.tell(u, Dropped((VICTIM,)))
    signed = [u for u in helpers if u in server.all(Agree)]
    for u in helpers:
        server.tell(u, server.agreed(signed or None))


def summed(fed: Federation) -> tuple[LightServer, dict[int, Any], dict[int, Covered]]:
    """An honest run up to the answers; what the helpers answered, and an image of each before it consented."""
    server = LightServer(fed)
    server.up_to_masks()
    images = {u: server.collude(u) for u in EVERYBODY}
    server.agree_on()
    for u in EVERYBODY:
        server.tell(u, server.agreed())
    return server, server.answers(), images


def test_a_second_answer_for_another_set_is_refused() -> None:
    """Every helper that answered for U3 is asked for U3 without the victim; all that comes is "wire-late"."""
    server, answers, _ = summed(light())
    assert sorted(answers) == list(EVERYBODY)
    ask_without_the_victim(server, EVERYBODY[1:])
    assert server.answers().keys() == {VICTIM}
    for u in EVERYBODY[1:]:
        assert {fault.check for fault in server.sessions[u].faults} == {"wire-late"}
        assert [type(value).__name__ for value in server.sessions[u].remembers] == ["Finished"]


def test_control_a_state_used_twice_gives_the_victims_mask() -> None:
    """What the moved state is for: the difference of two sums of shares is a share of the victim's mask, and U of them are all."""
    fed = light()
    server, first, images = summed(fed)
    y = server.all(Padded)[VICTIM]
    for u in EVERYBODY[1:]:
        session = server.sessions[u]
        restore(session, images[u], "consent", "answer")
    ask_without_the_victim(server, EVERYBODY[1:])
    shares = {}
    for u, second in server.answers().items():
        if u != VICTIM:
            shares[u] = first[u].copy()
            fed.terms.parameters.ring.subtract_from(shares[u], second)
    assert len(shares) == 5
    assert unmasked(fed.terms.parameters, y, shares) == fed.vectors[VICTIM].tolist()


def test_helpers_left_over_from_one_set_do_not_answer_for_another() -> None:
    """U of them sign and answer for all six; the two others and the colluder, fewer than U, are asked for all but the victim."""
    fed = light()
    server = LightServer(fed)
    L = server.up_to_masks()
    colluder, rest = server.collude(BAD), tuple(u for u in EVERYBODY if u != VICTIM)
    for u in (1, 2, 3):
        server.tell(u, Dropped(()))
    for u in (4, 5):
        server.tell(u, Dropped((VICTIM,)))
    said = {u: agree.signature for u, agree in server.all(Agree).items()}
    for u3, helpers in ((EVERYBODY, (1, 2, 3)), (rest, (4, 5))):
        own = colluder.invited.identity.sign(fed.terms.statement("agree", BAD, L, list(u3)))
        shown = {**{u: said[u] for u in helpers}, BAD: own}
        for u in helpers:
            server.tell(u, Agreed(tuple(Signed(v, signature) for v, signature in sorted(shown.items()))))
    assert {ending(server.sessions[u]) for u in (4, 5)} == {("agreed-count", "answer")}
    assert sorted(server.answers()) == [1, 2, 3]


def test_different_survivors_to_different_helpers_are_refused() -> None:
    """Signatures over another set do not count, whoever shows them."""
    server = LightServer(light())
    server.up_to_masks()
    for u in EVERYBODY:
        server.tell(u, Dropped((VICTIM,) if u in (4, 5, 6) else ()))
    for u in EVERYBODY:
        shown = server.agreed() if u != VICTIM and u not in (4, 5, 6) else server.agreed((2, 3, 4, 5, 6))
        server.tell(u, shown)
        assert ending(server.sessions[u]) == ("agreed-signature", "answer")
    assert server.answers() == {}


# --- wrong answers


def wrong(change: Callable[[Any], Any]) -> Callable[[Federation], Any]:
    """Parties whose answers are changed and signed as theirs."""

    def flow(fed: Federation) -> Any:
        def answer(consenting: Consenting, agreed: Agreed) -> tuple[Any, Answer]:
            finished, said = lightsecagg.answer(consenting, agreed)
            p, me = fed.terms.parameters, consenting.invited.me
            bulk = Bulk.of(layouts(p)["answer"], change(said.share.values.copy()))
            statement = lightsecagg.answer_statement(fed.terms, me, consenting.L, consenting.u3, bulk.digest)
            return finished, Answer(bulk, consenting.invited.identity.sign(statement))

        return lightsecagg.flow.replace(answer=answer)

    return flow


def one_off(values: Any) -> Any:
    values[0] ^= 1
    return values


def zeros(values: Any) -> Any:
    return values * 0


@pytest.mark.parametrize("change", [one_off, zeros])
@pytest.mark.parametrize("liar", EVERYBODY)
def test_a_wrong_answer_is_located_and_left_out(liar: int, change: Callable[[Any], Any]) -> None:
    """m = 6, U = 4: one of six is located."""
    fed = light()
    outcome = run(fed, flows={liar: wrong(change)(fed)})
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)
    assert outcome.outputs[0].left_out == (liar,)


@pytest.mark.parametrize("liars", [(1, 2), (5, 6)])
def test_more_wrong_answers_than_can_be_located_end_in_an_abort(liars: tuple[int, ...]) -> None:
    fed = light()
    outcome = run(fed, flows={u: wrong(one_off)(fed) for u in liars})
    assert outcome.outputs == []
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("answers-fit", "recover")


def test_at_one_answer_too_many_a_wrong_one_is_detected_and_at_none_count_or_range_tell() -> None:
    fed = light()
    for gone, check in (((2,), "answers-fit"), ((2, 3), "sum-count")):
        network = simulate.vanish({client(u): "Answer" for u in gone})
        outcome = run(fed, flows={6: wrong(lambda values: values ^ 1)(fed)}, network=network)
        assert outcome.abort is not None
        assert outcome.abort.check == check


def test_two_liars_together_can_pass_for_one_honest_helper() -> None:
    """The limit that SECURITY.md states: more than ⌊(m−U)/2⌋ = 1 errors on one wrong polynomial look like an error of another."""
    p = LightParameters.of(6, 50, 1000)
    _, rows = lightsecagg.draw_mask(p, EVERYBODY, Replay("mask")())
    shares = {u: rows[u - 1].copy() for u in EVERYBODY}
    for liar in (1, 2):
        shares[liar][0] = (int(shares[liar][0]) + (liar - 4) * (liar - 5) * (liar - 6)) % p.ring.modulus
    assert lightsecagg.find_wrong(p, shares, Replay("server")()) == (3,)


def test_projections_are_drawn_after_the_answers() -> None:
    """An answer that is wrong by a vector orthogonal to known projections would pass: so the server draws them anew."""
    p = LightParameters.of(6, 200, 1000)
    _, rows = lightsecagg.draw_mask(p, EVERYBODY, Replay("mask")())
    shares = {u: rows[u - 1].copy() for u in EVERYBODY}
    rand = Replay("server")()
    r = np.stack([p.ring.uniform(rand, f"projection {i}", p.block) for i in range(2)]).astype(object)
    q = p.ring.modulus
    error = [0] * p.block  # orthogonal to both: a cross product in the first three coordinates
    a, b = r[0][:3], r[1][:3]
    error[:3] = [(a[1] * b[2] - a[2] * b[1]) % q, (a[2] * b[0] - a[0] * b[2]) % q, (a[0] * b[1] - a[1] * b[0]) % q]
    p.ring.add_into(shares[BAD], np.array(error, dtype=p.ring.dtype))
    assert lightsecagg.find_wrong(p, shares, Replay("server")()) == ()
    assert lightsecagg.find_wrong(p, shares, Replay("another")()) == (BAD,)


# --- bad dealers


def dealer(change: Callable[[Shared, Shares], Shares]) -> Any:
    """A party that deals honestly, then changes what it dealt and signs that."""

    def share(adv: Advertised, listed: KeyList, rand: Rand) -> tuple[Shared, Shares]:
        shared, sent = lightsecagg.share(adv, listed, rand)
        forged, invited = change(shared, sent), shared.invited
        content = [[x.peer, x.hash] for x in forged.hashes]
        statement = invited.terms.statement("share", invited.me, shared.L, forged.own_hash, content)
        return shared, replace(forged, signature=invited.identity.sign(statement))

    return lightsecagg.flow.replace(share=share)


def reseal(forge: Callable[[bytes, bytes], bytes], *, pinned: bool = True) -> Callable[[Shared, Shares], Shares]:
    """The victim's box with other content, made of salt and packed share; with its right hash, or the one that was there."""

    def change(shared: Shared, sent: Shares) -> Shares:
        me, terms, L = shared.invited.me, shared.invited.terms, shared.L
        at, boxes = lightsecagg.slot(me, VICTIM), sent.boxes.values.copy()
        key = lightsecagg.box_key(terms, L, shared.c, shared.entries[VICTIM].c_pk, me, VICTIM, mine=me)
        plain = seal.unseal(key, boxes[at].tobytes(), lightsecagg.box_aad(terms, L, me, VICTIM))
        content = forge(plain[8:40], plain[40:])
        boxes[at] = np.frombuffer(seal.seal(key, content, lightsecagg.box_aad(terms, L, me, VICTIM)), dtype=np.uint8)
        new = lightsecagg.share_hash(terms, L, me, VICTIM, content[8:40], content[40:])
        hashes = tuple(replace(x, hash=new) if pinned and x.peer == VICTIM else x for x in sent.hashes)
        return replace(sent, boxes=Bulk.of(layouts(terms.parameters)["boxes"], boxes), hashes=hashes)

    return change


def too_large(count: int) -> bytes:
    """So many packed values that are q."""
    return bytes(Ring(31).pack(np.full(count, 2**31 - 1, dtype=np.uint32)))


def ids(u: int, v: int) -> bytes:
    return u.to_bytes(4, "big") + v.to_bytes(4, "big")


BAD_BOXES: dict[str, tuple[str, Callable[[Shared, Shares], Shares]]] = {
    "noise": (
        "box-opens",
        lambda _, sent: replace(sent, boxes=Bulk.of(layouts(light().terms.parameters)["boxes"], sent.boxes.values ^ np.uint8(1))),
    ),
    "other ids inside": ("box-ids", reseal(lambda salt, packed: ids(BAD, 2) + salt + packed)),
    "a share that was not hashed": (
        "box-share-hash",
        reseal(lambda salt, packed: ids(BAD, 1) + salt + bytes(len(packed)), pinned=False),
    ),
    "no field elements": ("field-range", reseal(lambda salt, packed: ids(BAD, 1) + salt + too_large(2))),
}


@pytest.mark.parametrize("kind", ["other ids inside", "a share that was not hashed", "no field elements"])
def test_who_gets_a_bad_share_leaves_naming_its_sender_and_the_others_go_on(kind: str) -> None:
    check, change = BAD_BOXES[kind]
    fed = light()
    outcome = run(fed, flows={BAD: dealer(change)})
    victim = outcome.sessions[client(VICTIM)]
    assert ending(victim) == (check, "mask")
    assert [(fault.check, fault.sender) for fault in victim.faults] == [(check, "client 6")]
    assert outcome.sessions[SERVER].accused == {client(VICTIM): BAD}
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[1:])
    assert [name for name, sender, _, _ in outcome.traffic if sender == client(VICTIM)] == ["KeyAdvert", "Shares", "Farewell"]


def test_boxes_that_open_for_nobody_end_the_round_and_show_nothing() -> None:
    fed = light()
    outcome = run(fed, flows={BAD: dealer(BAD_BOXES["noise"][1])})
    assert {ending(outcome.sessions[client(u)]) for u in EVERYBODY[:-1]} == {("box-opens", "mask")}
    assert outcome.outputs == []


def test_a_dealer_whose_share_is_off_its_polynomial_makes_one_helper_stand_out() -> None:
    """Right hash, wrong share: the answer of its holder is left out, and the sum is exact."""
    fed = light()

    def off(salt: bytes, packed: bytes) -> bytes:
        return ids(BAD, VICTIM) + salt + bytes([packed[0] ^ 1]) + packed[1:]

    outcome = run(fed, flows={BAD: dealer(reseal(off))})
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)
    assert outcome.outputs[0].left_out == (VICTIM,)


# --- a server that lies about keys and boxes


def test_swapped_keys_are_refused() -> None:
    """A server in the middle cannot sign keys of its own."""
    server = LightServer(light())
    listed = server.key_list()
    forged = replace(listed, entries=(*listed.entries[:-1], replace(listed.entries[-1], c_pk=pair("server").public)))
    for u in EVERYBODY[:-1]:
        server.tell(u, forged)
        assert ending(server.sessions[u]) == ("listed-signature", "share")
    assert server.all(Shares) == {}


@pytest.mark.parametrize(
    ("forge", "check"),
    [
        (lambda entries: (entries[1], entries[0], *entries[2:]), "listed-order"),
        (lambda entries: entries[1:], "listed-own"),
        (lambda entries: (replace(entries[0], c_pk=entries[1].c_pk), *entries[1:]), "listed-own"),
        (lambda entries: entries[:3], "listed-cohort"),
        (lambda entries: (*entries[:-1], replace(entries[-1], c_pk=entries[1].c_pk)), "listed-distinct"),
        (lambda entries: (*entries[:-1], replace(entries[-1], c_pk=bytes(32))), "public-key-order"),
    ],
)
def test_a_false_list_is_refused_before_shares_leave(forge: Callable[[Any], Any], check: str) -> None:
    server = LightServer(light())
    server.tell(VICTIM, KeyList(forge(server.key_list().entries)))
    assert ending(server.sessions[VICTIM]) == (check, "share")


def filled(relayed: Relayed) -> Relayed:
    """The slot of a party that is not in U2, with something in it."""
    values = relayed.boxes.values.copy()
    values[lightsecagg.slot(VICTIM, BAD)] = 1
    return replace(relayed, boxes=Bulk.of(layouts(light().terms.parameters)["boxes"], values))


@pytest.mark.parametrize(
    ("u2", "forge", "check"),
    [
        (EVERYBODY, lambda r: replace(r, u2=(2, 1, 3, 4, 5, 6)), "sealed-set"),
        (EVERYBODY, lambda r: replace(r, u2=EVERYBODY[1:]), "sealed-own"),
        ((1, 2, 3), lambda r: r, "sealed-cohort"),
        (EVERYBODY, lambda r: replace(r, hashes=r.hashes[1:]), "sealed-boxes"),
        ((1, 2, 3, 4, 5), filled, "boxes-slots"),
        (
            EVERYBODY,
            lambda r: replace(r, boxes=Bulk.of(layouts(light().terms.parameters)["boxes"], r.boxes.values[::-1].copy())),
            "box-opens",
        ),
    ],
)
def test_false_boxes_are_refused_before_the_vector_leaves(
    u2: tuple[int, ...], forge: Callable[[Relayed], Relayed], check: str
) -> None:
    server = LightServer(light())
    listed = server.key_list()
    for u in EVERYBODY:
        server.tell(u, listed)
    server.tell(VICTIM, forge(server.relayed(VICTIM, u2)))
    assert ending(server.sessions[VICTIM]) == (check, "mask")
    assert server.all(Padded) == {}


@pytest.mark.parametrize(
    ("dropped", "check"), [((6, 6), "dropped-set"), ((3, 2), "dropped-set"), ((1,), "dropped-own"), ((2, 3, 4), "dropped-cohort")]
)
def test_a_false_dropped_set_is_not_signed(dropped: tuple[int, ...], check: str) -> None:
    server = LightServer(light())
    server.up_to_masks()
    server.tell(VICTIM, Dropped(dropped))
    assert ending(server.sessions[VICTIM]) == (check, "consent")


# --- one party lies to an honest server

Lie = Callable[[Any, Session, Federation], Message]


def flipped(message: Any, *_: object) -> Message:
    return replace(message, signature=bytes([message.signature[0] ^ 1]) + message.signature[1:])


def other_data(field: str) -> Lie:
    def lie(message: Any, *_: object) -> Message:
        bulk = getattr(message, field)
        data = bytes(len(bulk.data))
        return replace(message, **{field: Bulk(bulk.values, hashlib.sha256(data).digest(), data)})

    return lie


def no_elements(message: Any, *_: object) -> Message:
    return replace(message, y=Bulk(message.y.values, message.y.digest, too_large(6)))


def false_receipt(message: Any, session: Session, fed: Federation) -> Message:
    state = next(v for v in session.remembers if isinstance(v, Covered))
    statement = fed.terms.statement("masked", BAD, state.L, list(state.u2), message.y.digest, bytes(32))
    return replace(message, receipt=bytes(32), signature=fed.parties[BAD].identity.sign(statement))


def own_key(c_pk: bytes) -> Lie:
    return lambda _message, _session, fed: KeyAdvert(c_pk, fed.parties[BAD].identity.sign(fed.terms.statement("keys", BAD, c_pk)))


LIES: dict[str, tuple[type[Message], str, str, Lie]] = {
    "advert signature": (KeyAdvert, "advert-signature", "collect", flipped),
    "advert of small order": (KeyAdvert, "public-key-order", "collect", own_key(bytes(32))),
    "another's key": (KeyAdvert, "advert-distinct", "collect", own_key(LightServer(light()).all(KeyAdvert)[1].c_pk)),
    "a hash too few": (Shares, "boxes-set", "relay", lambda m, *_: replace(m, hashes=m.hashes[1:])),
    "another hash": (Shares, "boxes-signature", "relay", lambda m, *_: replace(m, own_hash=bytes(32))),
    "masked signature": (Padded, "masked-signature", "survey", flipped),
    "another vector": (Padded, "masked-signature", "survey", other_data("y")),
    "a receipt for other shares": (Padded, "masked-receipt", "survey", false_receipt),
    "no field elements": (Padded, "field-range", "", no_elements),
    "agree signature": (Agree, "agree-signature", "gather", flipped),
    "answer signature": (Answer, "answer-signature", "recover", flipped),
    "another answer": (Answer, "answer-signature", "recover", other_data("share")),
}


@pytest.mark.parametrize("lie", LIES)
def test_one_that_lies_is_expelled_by_name_and_the_others_finish(lie: str) -> None:
    kind, check, step, forge = LIES[lie]
    fed, sessions = light(), dict[Any, Session]()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender != client(BAD) or type(letter.message) is not kind:
            return (letter,)
        return (replace(letter, message=forge(letter.message, sessions[client(BAD)], fed)),)

    outcome = run(fed, network=network, sessions=sessions)
    assert faults(outcome) == [(check, "client 6", step or None)]
    members = EVERYBODY if kind in {Agree, Answer} else EVERYBODY[:-1]
    assert outcome.outputs[0].values.tolist() == fed.sum(members)
    assert outcome.outputs[0].contributors == len(members)


def test_a_box_in_a_slot_that_has_no_use_expels_its_sender() -> None:
    """Party 5 is gone before its key comes; party 6 sends it a box all the same."""
    fed = light(dropouts=2)

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender == client(5):
            return ()
        if letter.sender == client(BAD) and isinstance(letter.message, Shares):
            values = letter.message.boxes.values.copy()
            values[lightsecagg.slot(BAD, 5)] = 7
            boxes = Bulk.of(layouts(fed.terms.parameters)["boxes"], values)
            return (replace(letter, message=replace(letter.message, boxes=boxes)),)
        return (letter,)

    outcome = run(fed, network=network)
    assert faults(outcome) == [("boxes-slots", "client 6", "relay")]
    assert outcome.outputs[0].values.tolist() == fed.sum((1, 2, 3, 4))


def test_garbage_in_ones_own_name_shows_in_count_or_range() -> None:
    fed = light()

    def mask(shared: Shared, relayed: Relayed, x: Any) -> Any:
        noise = fed.terms.parameters.ring.uniform(Replay("noise")(), "noise", 6)
        fed.terms.parameters.ring.add_into(shared.z.values, noise)
        return lightsecagg.mask(shared, relayed, x)

    outcome = run(fed, flows={BAD: lightsecagg.flow.replace(mask=mask)})
    assert outcome.abort is not None
    assert outcome.abort.check in {"sum-count", "sum-range"}
    assert outcome.outputs == []
