"""Lies in a handshake for many sums and in its steps: by a party in one message, by a dealer, by a server with two models."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from adversary import pair_keys, rebuild, unmask
from strategies import identities
from test_batch import SPARSE, Series, model, small

from protocols import batch_sums, simulate
from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.batch_sums import Group, client_step, opened
from protocols.batch_types import EMPTY_BOX, PAIR, BatchAdvert, BatchBoxes, BatchListed, BatchSealed
from protocols.errors import Abort, Refused
from protocols.evidence import check_evidence
from protocols.handshake import box_aad, box_key, list_hash
from protocols.primitives import seal
from protocols.primitives.agree import KeyPair
from protocols.primitives.shamir import SHARE_SIZE
from protocols.schema import Message, strings
from protocols.secagg import holders_of
from protocols.secagg_labels import box_content, opening_statement, share_statement
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import PINS, Masked, Openings
from protocols.session import SERVER, Address, Letter, Session, client

LIAR = 6
CASE = small(parties=6, steps=3)
Lie = Callable[[Any], Message]


def telling(kind: type[Message], lie: Lie, liar: int = LIAR) -> simulate.Network:
    """A network in which the messages of ``kind`` from ``liar``, 0 for the server, are replaced."""

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender.index != liar or type(letter.message) is not kind:
            return (letter,)
        return (replace(letter, message=lie(letter.message)),)

    return network


def flipped(message: Any) -> Message:
    changed: Message = replace(message, signature=bytes([message.signature[0] ^ 1]) + message.signature[1:])
    return changed


def advert(change: Callable[[BatchAdvert], BatchAdvert]) -> Lie:
    """Other keys under the liar's own good signature."""

    def lie(message: BatchAdvert) -> Message:
        forged = change(message)
        statement = CASE.terms.statement("keys", LIAR, forged.c_pk, forged.s_pks)
        return replace(forged, signature=identities(6)[LIAR].sign(statement))

    return lie


BOX = EMPTY_BOX + 3 * PAIR
LIES: dict[str, tuple[type[Message], str, Lie]] = {
    "advert signature": (BatchAdvert, "advert-signature", flipped),
    "keys in another order": (BatchAdvert, "advert-signature", lambda m: replace(m, s_pks=m.s_pks[32:] + m.s_pks[:32])),
    "a key of small order for the last sum": (
        BatchAdvert,
        "public-key-order",
        advert(lambda m: replace(m, s_pks=m.s_pks[:64] + bytes(32))),
    ),
    "one key for two sums": (BatchAdvert, "advert-distinct", advert(lambda m: replace(m, s_pks=m.s_pks[:32] * 2 + m.s_pks[64:]))),
    "one key for boxes and masks": (BatchAdvert, "advert-distinct", advert(lambda m: replace(m, c_pk=m.s_pks[:32]))),
    "keys for fewer sums": (BatchAdvert, "wire-field", lambda m: replace(m, s_pks=m.s_pks[32:])),
    "a box too few": (BatchBoxes, "boxes-set", lambda m: replace(m, boxes=m.boxes[BOX:])),
    "hashes too few": (BatchBoxes, "boxes-set", lambda m: replace(m, hashes=m.hashes[3 * PINS :])),
    "an own hash too few": (BatchBoxes, "boxes-own", lambda m: replace(m, own_hashes=m.own_hashes[32:])),
    "another commitment": (BatchBoxes, "boxes-signature", lambda m: replace(m, commitments=m.commitments[:64] + bytes(32))),
    "another share hash": (BatchBoxes, "boxes-signature", lambda m: replace(m, hashes=m.hashes[:-1] + b"x")),
}


@pytest.mark.parametrize("name", LIES)
def test_one_that_lies_in_the_handshake_is_expelled_by_name_and_the_others_sum(name: str) -> None:
    kind, check, lie = LIES[name]
    sessions: dict[Address, Session] = {}
    group = shaken(telling(kind, lie) if check != "wire-field" else unchecked(kind, lie), sessions)
    assert [(fault.check, fault.sender) for fault in sessions[SERVER].faults] == [(check, f"client {LIAR}")]
    inputs = CASE.inputs(0)
    total = opened(group.step(inputs, model(0), network=simulate.vanish({client(LIAR): "Masked"})))
    assert total.values.tolist() == sum(inputs[u].values for u in range(1, 6)).tolist()


def shaken(network: simulate.Network, sessions: dict[Address, Session], case: Series = CASE) -> Group:
    """The handshake under a network, and its sessions."""
    seen = batch_sums.Session

    def watching(*given: Any, **more: Any) -> Session:
        session = seen(*given, **more)
        sessions[session.me] = session
        return session

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_sums, "Session", watching)
        made = batch_sums.batch(case.protocol)
        return batch_sums.handshake(made, case.parties, case.terms, entropy=case.entropy, network=network)


def unchecked(kind: type[Message], lie: Lie) -> simulate.Network:
    """As `telling`, of a message that the liar's own library would not send: its limits are those of another handshake."""
    inner = telling(kind, lie)

    def network(letter: Letter) -> Iterable[Letter]:
        changed = type(letter.message) is kind and letter.sender == client(LIAR)
        return [replace(one, limits=replace(one.limits, steps=2)) if changed else one for one in inner(letter)]

    return network


def test_another_key_for_one_sum_than_was_advertised_makes_its_owner_leave() -> None:
    def swapped(listed: BatchListed) -> Message:
        last = listed.entries[-1]
        return BatchListed((*listed.entries[:-1], replace(last, s_pks=last.s_pks[:64] + listed.entries[0].s_pks[:32])))

    sessions: dict[Address, Session] = {}
    with pytest.raises(Abort):
        shaken(telling(BatchListed, swapped, 0), sessions)
    assert set(left(sessions)) == set(range(1, 7))
    assert set(left(sessions).values()) == {"listed-own", "listed-distinct"}


# Boxes


def resealed(change: Callable[[bytes], bytes], hashed: Callable[[bytes], bytes] = lambda pins: pins) -> Lie:
    """The liar seals something else for party 1, with good signatures."""

    def lie(message: BatchBoxes) -> Message:
        session = SEEN[client(LIAR)]
        (state,) = (value for value in session.remembers if type(value).__name__ == "BatchShared")
        terms, L = CASE.terms, state.L  # type: ignore[attr-defined]
        key = box_key(terms, L, state.c, state.entries[1].c_pk, LIAR, 1, mine=LIAR)  # type: ignore[attr-defined]
        aad = box_aad(terms, L, LIAR, 1)
        plain = change(seal.unseal(key, message.boxes[:BOX], aad))
        hashes = hashed(message.hashes[: 3 * PINS]) + message.hashes[3 * PINS :]
        statement = share_statement(terms, LIAR, L, message.commitments, message.own_hashes, hashes)
        boxes = seal.seal(key, plain, aad) + message.boxes[BOX:]
        return replace(message, boxes=boxes, hashes=hashes, signature=identities(6)[LIAR].sign(statement))

    return lie


SEEN: dict[Address, Session] = {}
BAD_BOXES: dict[str, tuple[str, Lie]] = {
    "ids of another": ("box-ids", resealed(lambda plain: box_content(5, 1, plain[8:]))),
    "a share of the last sum that was not hashed": ("box-share-hash", resealed(lambda plain: plain[:-1] + bytes([plain[-1] ^ 1]))),
    "shares of the sums in another order": (
        "box-share-hash",
        resealed(lambda plain: plain[:8] + plain[8 + PAIR :] + plain[8 : 8 + PAIR]),
    ),
    "hashes of the sums in another order": ("box-share-hash", resealed(lambda p: p, lambda pins: pins[PINS:] + pins[:PINS])),
    "a tag that fails": (
        "box-opens",
        lambda m: replace(m, boxes=m.boxes[: BOX - 1] + bytes([m.boxes[BOX - 1] ^ 1]) + m.boxes[BOX:]),
    ),
}


@pytest.mark.parametrize("name", BAD_BOXES)
def test_who_gets_a_bad_box_leaves_naming_its_dealer_and_the_others_sum(name: str) -> None:
    check, lie = BAD_BOXES[name]
    SEEN.clear()
    group = shaken(telling(BatchBoxes, lie), SEEN)
    ended = SEEN[client(1)].ended
    assert ended is not None
    assert ended.check == check
    assert [(fault.check, fault.sender) for fault in SEEN[client(1)].faults] == [(check, f"client {LIAR}")]
    assert sorted(group.ready) == [2, 3, 4, 5, 6]
    inputs = CASE.inputs(0)
    assert opened(group.step(inputs, model(0))).values.tolist() == sum(inputs[u].values for u in range(2, 7)).tolist()


def left(sessions: dict[Address, Session]) -> dict[int, str]:
    """Which parties ended, and by which check."""
    return {a.index: session.ended.check for a, session in sessions.items() if a != SERVER and session.ended}


def test_a_box_less_than_there_are_dealers_is_refused() -> None:
    sessions = dict[Address, Session]()
    shaken(telling(BatchSealed, lambda m: replace(m, boxes=m.boxes[BOX:]), 0), sessions)
    assert left(sessions) == dict.fromkeys(range(1, 7), "sealed-boxes")


# A sparse graph: eight parties with four holders each, of whom three are needed; two of eight may be lost

THIN = Series("secagg+", SPARSE, 3)


def near(listed: BatchListed, u: int) -> tuple[int, ...]:
    return holders_of(THIN.terms, list_hash(listed), u, [entry.index for entry in listed.entries])


def test_a_list_that_leaves_a_party_too_few_holders_is_refused_by_it() -> None:
    """Which ring a list gives is known only with the list: the server tries lists until one leaves somebody two."""
    sessions, alone = dict[Address, Session](), list[int]()

    def thinned(honest: Any) -> Message:
        for entries in combinations(honest.entries, 6):
            listed = BatchListed(entries)
            alone[:] = [entry.index for entry in entries if len(near(listed, entry.index)) < 3]
            if alone:
                return listed
        raise AssertionError("no list was found")

    with pytest.raises(Abort):
        shaken(telling(BatchListed, thinned, 0), sessions, THIN)
    ended = left(sessions)
    assert {u for u, check in ended.items() if check == "listed-neighbours"} == set(alone)


def test_dealers_that_leave_a_party_too_few_holders_are_refused_by_it() -> None:
    sessions, lists = dict[Address, Session](), list[BatchListed]()

    def network(letter: Letter) -> Iterable[Letter]:
        sealed: Any = letter.message
        if isinstance(sealed, BatchListed):
            lists.append(sealed)
        if not isinstance(sealed, BatchSealed) or letter.to != (client(1),):
            return (letter,)
        dealers = near(lists[0], 1)
        boxes, hashes = (strings(data, len(data) // len(dealers)) for data in (sealed.boxes, sealed.hashes))
        u2 = tuple(u for u in sealed.u2 if u not in dealers[:2])
        return (replace(letter, message=BatchSealed(u2, b"".join(boxes[2:]), b"".join(hashes[2:]))),)

    shaken(network, sessions, THIN)
    assert left(sessions) == {1: "sealed-neighbours"}


# Steps


@pytest.mark.parametrize("lost", [None, 3])
@pytest.mark.parametrize(("dealer", "proof"), [(2, True), (1, False)])
def test_a_share_unlike_its_hash_convicts_its_opener_at_any_step(dealer: int, proof: bool, lost: int | None) -> None:
    """With who is left of the step before; what convicts by signatures holds under the terms of the step."""
    group = CASE.start()
    gone = {} if lost is None else {client(lost): "Masked"}
    opened(group.step(CASE.inputs(0), model(0), network=simulate.vanish(gone)))
    assert group.server is not None
    u2, terms, L = group.server.u2, CASE.terms.at(1, model(1)), group.server.L

    def lie(message: Openings) -> Message:
        shares = strings(message.shares, SHARE_SIZE)
        shares[u2.index(dealer)] = bytes(SHARE_SIZE)
        content = b"".join(shares)
        return Openings(content, identities(6)[1].sign(opening_statement(terms, 1, L, u2, content)))

    inputs = CASE.inputs(1)
    outcome = group.step(inputs, model(1), network=telling(Openings, lie, 1))
    assert opened(outcome).values.tolist() == sum(inputs[u].values for u in u2).tolist()
    (fault,) = outcome.sessions[SERVER].faults
    assert (fault.check, fault.sender) == ("openings-share-hash", "client 1")
    if not proof:
        assert fault.evidence is None
        return
    assert fault.evidence is not None
    assert "opened another share of party 2's secret" in check_evidence(fault.evidence, terms)
    with pytest.raises(Refused, match="another session"):
        check_evidence(fault.evidence, CASE.terms.at(0, model(1)))


def test_keys_that_are_refused_convict_who_signed_them() -> None:
    _, _, lie = LIES["a key of small order for the last sum"]
    SEEN.clear()
    shaken(telling(BatchAdvert, lie), SEEN)
    evidence = SEEN[SERVER].faults[0].evidence
    assert evidence is not None
    assert "public-key-order" in check_evidence(evidence, CASE.terms)


def test_good_keys_for_many_sums_convict_nobody() -> None:
    """Those of sums stand in one string in the statement: they are looked at one by one."""
    from protocols.evidence import keys_refused
    from protocols.said import Said

    adverts = list[BatchAdvert]()

    def network(letter: Letter) -> Iterable[Letter]:
        if isinstance(letter.message, BatchAdvert) and letter.sender == client(LIAR):
            adverts.append(letter.message)
        return (letter,)

    shaken(network, {})
    statement = CASE.terms.statement("keys", LIAR, adverts[0].c_pk, adverts[0].s_pks)
    with pytest.raises(Refused, match="nothing is wrong with"):
        check_evidence(keys_refused(LIAR, Said(statement, adverts[0].signature)), CASE.terms)


def test_a_masked_vector_of_another_step_is_refused() -> None:
    kept = list[Masked]()

    def keep(message: Masked) -> Message:
        kept.append(message)
        return message

    group = CASE.start()
    opened(group.step(CASE.inputs(0), model(0), network=telling(Masked, keep)))
    outcome = group.step(CASE.inputs(1), model(1), network=telling(Masked, lambda _: kept[0]))
    assert [(fault.check, fault.sender) for fault in outcome.sessions[SERVER].faults] == [("masked-receipt", f"client {LIAR}")]
    assert opened(outcome).contributors == 5


# Two models for one step: two sessions over the same secrets


def two_models(series: Series, left: dict[int, tuple[int, ...]]) -> tuple[dict[int, Session], list[int]]:
    """Parties 1 to 3 are told one model, 4 and 5 another, the last helps in both; what the server makes of 1's input.

    Args:
        series: six parties.
        left: U3 by number of the model.
    """
    group = series.start()
    assert group.server is not None
    L, publics = group.server.L, {u: group.server.s_pks[u][:32] for u in range(1, 7)}
    parties, of = group.parties, {1: 0, 2: 0, 3: 0, 4: 1, 5: 1}
    colluder, _ = group.party(6).take()
    sessions = {u: client_step(group.made, parties[u], group.party(u), model(number)) for u, number in of.items()}
    masked, signed, shares = dict[int, Masked](), dict[int, bytes](), dict[str, dict[int, bytes]]({"s": {}, "b": {}})

    def tell(u: int, message: Message) -> list[Any]:
        frames = Letter(SERVER, (client(u),), message, 0, sessions[u].limits).chunks()
        return [answer.message for frame in frames for answer in sessions[u].feed(SERVER, frame)]

    for u, session in sessions.items():
        session.begin()
        (masked[u],) = (letter.message for letter in session.provide(series.inputs(0)[u]) if isinstance(letter.message, Masked))
    for u, number in of.items():
        if u in left[number]:
            said = tell(u, Dropped(tuple(v for v in range(1, 7) if v not in left[number])))
            signed.update((u, answer.signature) for answer in said if isinstance(answer, Agree))
    for number, u3 in left.items():
        terms = series.terms.at(0, model(number))
        own = {6: identities(6)[6].sign(terms.statement("agree", 6, L, u3))}
        shown = {u: signature for u, signature in signed.items() if of[u] == number} | own
        for u in [u for u in shown if u != 6]:
            for answer in tell(u, Agreed(tuple(Signed(v, shown[v]) for v in sorted(shown)))):
                if isinstance(answer, Openings):
                    shares["b" if 1 in u3 else "s"][u] = strings(answer.shares, SHARE_SIZE)[0]
    shares["s"][6], shares["b"][6] = colluder.shares[:SHARE_SIZE], colluder.shares[SHARE_SIZE:PAIR]
    t = series.parameters.threshold
    s, b = rebuild(shares["s"], t), rebuild(shares["b"], t)
    if s is None or b is None:
        return sessions, []
    terms = series.terms.at(0, model(0))
    pairs = pair_keys(terms, L, 1, publics, {1: KeyPair.from_secret(s)})
    return sessions, unmask(terms, L, 1, masked[1], b, pairs)


def test_two_models_for_one_step_do_not_open_both_secrets_of_a_party() -> None:
    sessions, found = two_models(CASE, {0: (1, 2, 3, 6), 1: (3, 4, 5, 6)})
    assert not found
    assert {u: session.ended.check for u, session in sessions.items() if session.ended} == dict.fromkeys((4, 5), "agreed-count")


def test_control_with_a_threshold_of_one_less_two_models_open_a_party(monkeypatch: pytest.MonkeyPatch) -> None:
    """2t = 6 is not above n + |C| = 7."""
    monkeypatch.setattr(Parameters, "__post_init__", lambda _self: None)
    weak = replace(CASE, parameters=replace(CASE.parameters, threshold=3))
    _, found = two_models(weak, {0: (1, 2, 3, 6), 1: (4, 5, 6)})
    assert found == weak.inputs(0)[1].values.tolist()
