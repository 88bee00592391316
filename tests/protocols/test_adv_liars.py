"""Every lie that one party can put in one message to an honest server.

The liar is expelled by name, and the others finish with the exact sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from adversary import EVERYBODY, FIELD, Federation, LyingServer, faults, federation, limits, pair, run
from lies import LIAR, Lie, check_expelled, false_receipt, flipped, other_data, telling

from protocols import secagg
from protocols.agreement import Agree
from protocols.bulk import Bulk
from protocols.schema import Message
from protocols.secagg_types import Advert, Boxes, Masked, Opening, Openings
from protocols.session import Letter, Session, client


def one_opening_less(message: Message, *_: object) -> Message:
    assert isinstance(message, Openings)
    return replace(message, shares=message.shares[1:])


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
    "a box too few": (Boxes, "boxes-set", "relay", boxes(lambda m: replace(m, boxes=m.boxes[1:]))),
    "a box twice": (Boxes, "boxes-set", "relay", boxes(lambda m: replace(m, boxes=(m.boxes[0], *m.boxes[:-1])))),
    "another commitment": (Boxes, "boxes-signature", "relay", boxes(lambda m: replace(m, commitment=bytes(32)))),
    "another share hash": (
        Boxes,
        "boxes-signature",
        "relay",
        boxes(lambda m: replace(m, boxes=(replace(m.boxes[0], b_hash=bytes(32)), *m.boxes[1:]))),
    ),
    "masked signature": (Masked, "masked-signature", "survey", flipped),
    "another vector": (
        Masked,
        "masked-signature",
        "survey",
        other_data("y"),
    ),
    "a receipt for other shares": (Masked, "masked-receipt", "survey", false_receipt),
    "agree signature": (Agree, "agree-signature", "gather", flipped),
    "an opening too few": (Openings, "openings-set", "reveal", one_opening_less),
    "openings signature": (Openings, "openings-signature", "reveal", flipped),
}


@pytest.mark.parametrize("lie", LIES)
def test_one_that_lies_is_expelled_by_name_and_the_others_finish(lie: str) -> None:
    check_expelled(federation(), LIES[lie], {Agree, Openings})


def test_a_share_unlike_its_hash_convicts_its_opener() -> None:
    """The opener signs what it opens, so the evidence stands without the server's word."""
    fed = federation()
    server = LyingServer(fed)
    L = server.up_to_masks()

    def other_share(message: Message, *_: object) -> Message:
        assert isinstance(message, Openings)
        shares = (Opening(1, bytes(33)), *message.shares[1:])
        statement = secagg.opening_statement(fed.terms, LIAR, L, EVERYBODY, shares)
        return Openings(shares, fed.parties[LIAR].identity.sign(statement))

    outcome = telling(fed, other_share, Openings)
    assert faults(outcome) == [("openings-share-hash", "client 6", "reveal")]
    assert outcome.outputs[0].values.tolist() == fed.sum(EVERYBODY)


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
