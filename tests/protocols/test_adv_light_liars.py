"""Every lie that one party can put in one message of LightSecAgg to an honest server: it is expelled by name, the others finish."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from adversary import faults, run
from lies import Lie, check_expelled, false_receipt, flipped, other_data
from light_adversary import BAD, LightServer, light, too_large

from protocols import lightsecagg
from protocols.agreement import Agree
from protocols.bulk import Bulk
from protocols.lightsecagg_parameters import layouts
from protocols.lightsecagg_types import (
    KeyAdvert,
    Padded,
    Relayed,
    Shared,
    Shares,
)
from protocols.rand import Replay
from protocols.schema import Message
from protocols.session import Letter, client


def no_elements(message: Any, *_: object) -> Message:
    return replace(message, y=Bulk(message.y.values, message.y.digest, too_large(6)))


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
}


@pytest.mark.parametrize("lie", LIES)
def test_one_that_lies_is_expelled_by_name_and_the_others_finish(lie: str) -> None:
    check_expelled(light(), LIES[lie], {Agree})


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
