"""Every lie that one party can put in one message to an honest server.

The liar is expelled by name, and the others finish with the exact sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from adversary import EVERYBODY, FIELD, Federation, LyingServer, ending, faults, federation, limits, pair, run
from lies import LIAR, Lie, check_expelled, false_receipt, flipped, other_data, telling

from protocols import secagg, secagg_server, simulate
from protocols.agreement import Agree
from protocols.bulk import Bulk
from protocols.primitives.shamir import SHARE_SIZE
from protocols.schema import Message, strings
from protocols.secagg_types import BOX, PINS, Advert, Boxes, Masked, Openings
from protocols.session import Letter, Session, client


def one_opening_less(message: Message, *_: object) -> Message:
    assert isinstance(message, Openings)
    return replace(message, shares=message.shares[SHARE_SIZE:])


def advert(**keys: bytes) -> Lie:
    """Other keys under the liar's own good signature."""

    def lie(message: Message, _session: Session, fed: Federation) -> Message:
        assert isinstance(message, Advert)
        content = replace(message, **keys)
        statement = fed.terms.statement("keys", LIAR, content.c_pk, content.s_pk)
        return replace(content, signature=fed.parties[LIAR].identity.sign(statement))

    return lie


def boxes(change: Callable[[Boxes], Boxes]) -> Lie:
    return lambda message, *_: change(message)  # type: ignore[arg-type, return-value]


def first_key(fed: Federation) -> bytes:
    return LyingServer(fed).all(Advert)[1].c_pk


LIES: dict[str, tuple[type[Message], str, str, Lie]] = {
    "advert signature": (Advert, "advert-signature", "collect", flipped),
    "advert of small order": (Advert, "public-key-order", "collect", advert(c_pk=bytes(32))),
    "advert in a second spelling": (
        Advert,
        "public-key-canonical",
        "collect",
        advert(s_pk=(FIELD + 9).to_bytes(32, "little")),
    ),
    "one key for both": (Advert, "advert-distinct", "collect", advert(c_pk=pair("x").public, s_pk=pair("x").public)),
    "another's key": (Advert, "advert-distinct", "collect", advert(s_pk=first_key(federation()))),
    "a box too few": (Boxes, "boxes-set", "relay", boxes(lambda m: replace(m, boxes=m.boxes[BOX:]))),
    "a box too many": (Boxes, "boxes-set", "relay", boxes(lambda m: replace(m, boxes=m.boxes[:BOX] + m.boxes))),
    "a box and its hashes too few": (
        Boxes,
        "boxes-set",
        "relay",
        boxes(lambda m: replace(m, boxes=m.boxes[BOX:], hashes=m.hashes[PINS:])),
    ),
    "another commitment": (Boxes, "boxes-signature", "relay", boxes(lambda m: replace(m, commitment=bytes(32)))),
    "another share hash": (
        Boxes,
        "boxes-signature",
        "relay",
        boxes(lambda m: replace(m, hashes=bytes(32) + m.hashes[32:])),
    ),
    "masked signature": (Masked, "masked-signature", "survey", flipped),
    "another vector": (
        Masked,
        "masked-signature",
        "survey",
        other_data("y"),
    ),
    "a receipt for other shares": (Masked, "masked-receipt", "survey", false_receipt),
    "an opening too few": (Openings, "openings-set", "reveal", one_opening_less),
}


@pytest.mark.parametrize("lie", LIES)
def test_one_that_lies_is_expelled_by_name_and_the_others_finish(lie: str) -> None:
    check_expelled(federation(), LIES[lie], {Openings})


# What shows only if it matters


def with_other_share(fed: Federation, liar: int, *, signed: bool = True, dealers: Iterable[int] = (1,)) -> simulate.Network:
    """A network in which ``liar`` opens zeros for the shares of ``dealers``, signed by it or not."""
    L = LyingServer(fed).up_to_masks()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender != client(liar) or not isinstance(letter.message, Openings):
            return (letter,)
        shares = strings(letter.message.shares, SHARE_SIZE)
        for v in dealers:
            shares[v - 1] = bytes(SHARE_SIZE)
        content = b"".join(shares)
        statement = secagg.opening_statement(fed.terms, liar, L, EVERYBODY, content)
        signature = fed.parties[liar].identity.sign(statement) if signed else bytes(64)
        return (replace(letter, message=Openings(content, signature)),)

    return network


@pytest.mark.parametrize("dealers", [(1,), (2,), (3, 5), EVERYBODY])
@pytest.mark.parametrize(("signed", "check"), [(True, "openings-share-hash"), (False, "openings-signature")])
def test_a_share_unlike_its_hash_convicts_its_opener(dealers: tuple[int, ...], signed: bool, check: str) -> None:
    """The opener signs what it opens, so the evidence stands without the server's word; its shares are left out."""
    fed = federation()
    outcome = run(fed, network=with_other_share(fed, 1, signed=signed, dealers=dealers))
    assert faults(outcome) == [(check, "client 1", "reveal")]
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)
    assert outcome.outputs[0].left_out == (1,)


def test_a_wrong_share_that_no_secret_is_made_of_changes_nothing() -> None:
    """Of six openers the first four are enough: what the last one sent is not looked at."""
    fed = federation()
    outcome = run(fed, network=with_other_share(fed, LIAR))
    assert faults(outcome) == []
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)


def test_without_the_commitment_count_and_range_are_all_that_tells_of_a_wrong_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rebuilt secret is held to keeps a wrong share from the sum, and tells whose it is."""
    fed = federation()
    monkeypatch.setattr(secagg_server, "_fits", lambda *_: True)
    outcome = run(fed, network=with_other_share(fed, 1))
    assert outcome.abort is not None
    assert outcome.abort.check in ("sum-count", "sum-range")


def together(*networks: simulate.Network) -> simulate.Network:
    def network(letter: Letter) -> Iterable[Letter]:
        letters = [letter]
        for one in networks:
            letters = [out for x in letters for out in one(x)]
        return letters

    return network


def test_two_that_open_wrong_shares_are_both_left_out_and_a_third_is_too_many() -> None:
    """t = 4 of six: with two liars four good shares of every secret are left, with three three."""
    fed = federation()
    lies = [with_other_share(fed, u, dealers=(u,)) for u in (1, 2)]
    outcome = run(fed, network=together(*lies))
    assert faults(outcome) == [("openings-share-hash", f"client {u}", "reveal") for u in (1, 2)]
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)
    lies = [with_other_share(fed, u, dealers=EVERYBODY) for u in (1, 2, 3)]
    outcome = run(fed, network=together(*lies))
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("openings-few", "reveal")
    assert faults(outcome) == [("openings-share-hash", f"client {u}", "reveal") for u in (1, 2, 3)]


def false_agreements(*liars: int) -> simulate.Network:
    def network(letter: Letter) -> Iterable[Letter]:
        lies = letter.sender.index in liars and isinstance(letter.message, Agree)
        return (replace(letter, message=flipped(letter.message)) if lies else letter,)

    return network


def test_a_false_agreement_counts_for_nothing_and_stops_nobody() -> None:
    """Of six signatures four are needed: the parties count those that are good."""
    fed = federation()
    outcome = run(fed, network=false_agreements(1, 2))
    assert faults(outcome) == []
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)


def test_where_too_few_agreements_are_good_nothing_is_opened_and_the_false_ones_are_named() -> None:
    fed = federation()
    outcome = run(fed, network=false_agreements(1, 2, 5))
    assert outcome.abort is not None
    assert (outcome.abort.check, outcome.abort.step) == ("quorum", "reveal")
    assert {ending(outcome.sessions[client(u)]) for u in EVERYBODY} == {("agreed-signature", "open_shares")}
    assert faults(outcome) == [("agree-signature", f"client {u}", "reveal") for u in (1, 2, 5)]


def test_strangers_and_repeated_messages_are_noted_and_change_nothing() -> None:
    """A letter sent twice, one from outside of the roster, one sent again after its step ran."""
    fed, sent = federation(), list[Letter]()

    def network(letter: Letter) -> Iterable[Letter]:
        if letter.sender == client(1) and isinstance(letter.message, Advert):
            sent.append(letter)
            return letter, letter, replace(letter, sender=client(9))
        return (*sent, letter) if isinstance(letter.message, Boxes) and letter.sender == client(1) else (letter,)

    outcome = run(fed, network=network)
    expected = [("wire-duplicate", "client 1"), ("wire-stranger", "client 9"), ("wire-late", "client 1")]
    assert [(check, sender) for check, sender, _ in faults(outcome)] == expected
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)


def test_a_message_far_out_of_turn_expels_its_sender() -> None:
    fed = federation()

    def network(letter: Letter) -> Iterable[Letter]:
        ahead = letter.sender == client(LIAR) and isinstance(letter.message, Boxes)
        return (replace(letter, epoch=2) if ahead else letter,)

    outcome = run(fed, network=network)
    assert faults(outcome) == [("wire-epoch", "client 6", None)]
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY[:-1])


def test_a_vector_before_its_turn_expels_its_sender_and_is_not_kept() -> None:
    """Vectors are added on arrival: what nobody waits for yet would have to lie in the server's memory."""

    def early(message: Message, *_: object) -> Message:
        assert isinstance(message, Advert)
        layout = limits(fed).vectors["masked"]
        zeros = np.zeros(fed.terms.parameters.size + 1, dtype=fed.terms.parameters.ring.dtype)
        return Masked(Bulk.of(layout, zeros), bytes(32), bytes(64))

    fed = federation()
    outcome = telling(fed, early, Advert)
    assert faults(outcome) == [("wire-early", "client 6", None)]
    assert outcome.outputs[0].values.tolist() == fed.sum(range(1, 6))
