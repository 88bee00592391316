"""Wrong answers and bad dealers in LightSecAgg: located and left out, detected, or named by who gets a bad share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from adversary import EVERYBODY, Federation, ending, faults, run, without_check
from hypothesis import given, settings
from hypothesis import strategies as st
from lies import flipped
from light_adversary import BAD, VICTIM, light, too_large
from strategies import SEEDS, light_parameters

from protocols import lightsecagg, simulate
from protocols.agreement import Agreed
from protocols.bulk import Bulk
from protocols.lightsecagg_parameters import LightParameters, layouts
from protocols.lightsecagg_recovery import answer_statement, find_wrong, interpolate
from protocols.lightsecagg_types import (
    Advertised,
    Answer,
    Consenting,
    KeyList,
    Shared,
    Shares,
)
from protocols.primitives import seal
from protocols.rand import Rand, Replay
from protocols.session import SERVER, Letter, client

# Wrong answers


def wrong(change: Callable[[Any], Any]) -> Callable[[Federation], Any]:
    """Parties whose answers are changed and signed as theirs."""

    def flow(fed: Federation) -> Any:
        def answer(consenting: Consenting, agreed: Agreed) -> tuple[Any, Answer]:
            finished, said = lightsecagg.answer(consenting, agreed)
            p, me = fed.terms.parameters, consenting.invited.me
            bulk = Bulk.of(layouts(p)["answer"], change(said.share.values.copy()))
            statement = answer_statement(fed.terms, me, consenting.L, consenting.u3, bulk.digest)
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
    assert find_wrong(p, shares, Replay("server")()) == (3,)


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
    assert find_wrong(p, shares, Replay("server")()) == ()
    assert find_wrong(p, shares, Replay("another")()) == (BAD,)


def halves(p: LightParameters, shares: dict[int, Any]) -> tuple[dict[int, Any], dict[int, Answer]]:
    """The first U as they are, the others as they come off the wire."""
    layout, helpers, more = layouts(p)["answer"], list(shares), dict[int, Answer]()
    for u in helpers[p.threshold :]:
        parser = layout.parser()
        parser.feed(bytes(layout.dump(shares[u])))
        more[u] = Answer(Bulk.received(parser, None), b"")
    return {u: shares[u] for u in helpers[: p.threshold]}, more


def test_parities_are_drawn_after_the_answers_and_tell_up_to_all_that_are_too_many() -> None:
    """Two wrong answers of six, made to vanish in one known parity, pass that one and no other; honest ones pass all."""
    p = LightParameters.of(6, 200, 1000)
    _, rows = lightsecagg.draw_mask(p, EVERYBODY, Replay("mask")())
    shares = {u: rows[u - 1].copy() for u in EVERYBODY}
    assert all(interpolate(p, *halves(p, shares), Replay(name)())[1] for name in ("server", "another"))
    q, draws = p.ring.modulus, p.ring.uniform(Replay("server")(), "parities", 4).reshape(2, 2)
    error = (int(draws[0, 1]), q - int(draws[0, 0]))  # of the two beyond U: the first parity vanishes on it
    for u, by in zip((5, 6), error, strict=True):
        shares[u][7] = (int(shares[u][7]) + by) % q
    assert [sum(int(g) * e for g, e in zip(row, error, strict=True)) % q == 0 for row in draws] == [True, False]
    for name in ("server", "another"):
        assert not interpolate(p, *halves(p, shares), Replay(name)())[1]


@given(light_parameters(), SEEDS, st.data())
@settings(max_examples=60, deadline=None)
def test_any_wrong_answer_in_any_place_does_not_fit_and_the_basis_alone_gives_the_mask(
    p: LightParameters, seed: int, data: st.DataObject
) -> None:
    """Also where it is wrong in one value only; of U answers every one fits."""
    everybody = list(range(1, p.parties + 1))
    z, rows = lightsecagg.draw_mask(p, everybody, Replay(f"{seed}")())
    helpers = data.draw(st.permutations(everybody))[: data.draw(st.integers(p.threshold, p.parties))]
    shares = {u: rows[u - 1].copy() for u in helpers}
    basis, more = halves(p, shares)
    opened, fits = interpolate(p, basis, more, Replay("server")())
    assert fits
    assert opened.reshape(-1)[: z.size].tolist() == z.tolist()
    liar, place = data.draw(st.sampled_from(helpers)), data.draw(st.integers(0, p.block - 1))
    by = data.draw(st.sampled_from([1, p.ring.modulus - 1]) | st.integers(1, p.ring.modulus - 1))
    shares[liar][place] = (int(shares[liar][place]) + by) % p.ring.modulus
    assert interpolate(p, *halves(p, shares), Replay("server")())[1] is (len(helpers) == p.threshold)


# Answers that their helpers did not sign: the first U to come are refused on arrival, the others only matter where they do not fit


def with_answer(change: Callable[[Answer], Answer], liars: tuple[int, ...]) -> simulate.Network:
    """The answers of some parties are changed on their way: what is signed is the old one."""

    def network(letter: Letter) -> tuple[Letter, ...]:
        if isinstance(letter.message, Answer) and letter.sender.index in liars:
            return (replace(letter, message=change(letter.message)),)
        return (letter,)

    return network


def content(change: Callable[[Any], Any], p: LightParameters) -> Callable[[Answer], Answer]:
    return lambda said: replace(said, share=Bulk.of(layouts(p)["answer"], change(said.share.values.copy())))


def no_elements(said: Answer) -> Answer:
    return replace(said, share=Bulk(said.share.values, said.share.digest, too_large(said.share.values.size)))


@pytest.mark.parametrize("liar", EVERYBODY)
@pytest.mark.parametrize("kind", ["signature", "content", "no elements"])
def test_an_answer_that_its_helper_did_not_sign_is_never_summed(kind: str, liar: int) -> None:
    """Among the first U it is refused by name; beyond them it is left out if it is wrong, and of no use if it is right."""
    fed = light()
    changes: dict[str, tuple[str, Callable[[Answer], Answer]]] = {
        "signature": ("answer-signature", lambda said: flipped(said)),  # type: ignore[return-value]
        "content": ("answer-signature", content(one_off, fed.terms.parameters)),
        "no elements": ("field-range", no_elements),
    }
    check, change = changes[kind]
    outcome = run(fed, network=with_answer(change, (liar,)))
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)
    first = liar <= fed.terms.parameters.threshold
    assert faults(outcome) == ([(check, f"client {liar}", "recover")] if first else [])
    assert outcome.outputs[0].left_out == (() if first or kind == "signature" else (liar,))


def test_a_signed_wrong_answer_and_an_unsigned_one_end_in_an_abort() -> None:
    """Of the five that are signed one is wrong: detected, and too many to locate."""
    fed = light()
    network = with_answer(content(one_off, fed.terms.parameters), (6,))
    outcome = run(fed, flows={2: wrong(one_off)(fed)}, network=network)
    assert outcome.outputs == []
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("answers-fit", "recover")


def framed(fed: Federation) -> simulate.Outcome:
    """Two answers beyond the first U, changed on their way: they lie on a polynomial with those of 2, 3 and 4, not 1's."""
    p = fed.terms.parameters

    def network(letter: Letter) -> tuple[Letter, ...]:
        u = letter.sender.index
        by = (u - 2) * (u - 3) * (u - 4)

        def moved(values: Any) -> Any:
            values[0] = (int(values[0]) + by) % p.ring.modulus
            return values

        return with_answer(content(moved, p), (5, 6))(letter)  # type: ignore[return-value]

    return run(fed, network=network)


def test_answers_changed_on_their_way_frame_nobody() -> None:
    fed = light()
    outcome = framed(fed)
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)
    assert outcome.outputs[0].left_out == (5, 6)


def test_control_without_signatures_on_answers_an_honest_helper_is_framed_and_the_sum_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_check(monkeypatch, "answer-signature")
    fed = light()
    outcome = framed(fed)
    assert outcome.outputs[0].left_out == (1,)
    assert outcome.outputs[0].values.tolist() != fed.sum(EVERYBODY)
    assert outcome.outputs[0].contributors == len(EVERYBODY)


# Bad dealers


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
