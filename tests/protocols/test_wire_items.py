"""Long messages, which only handshakes for many sums have: their items are counted before anything is decoded."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from messages import KINDS, LIMITS
from strategies import records

from protocols import wire
from protocols.errors import Refused
from protocols.schema import max_control, max_items
from protocols.wire import Limits, canonical, check_items, encode, parse_control


def test_items_of_a_long_message_are_counted_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of a million empty lists would take 64 MB; a message that is as long as any for one sum is not looked at twice."""
    limits, kinds = Limits(5, {}, 3000), {"BatchBoxes": KINDS["BatchBoxes"]}
    assert max_items(kinds["BatchBoxes"], limits.sizes) == 8
    assert max_items(KINDS["BatchListed"], (5, 3000)) == 3 + 1 + 5 * 5
    flood = canonical(["BatchBoxes", 0, [[]] * 10**6])
    assert len(flood) < max_control(kinds["BatchBoxes"], *limits.sizes)
    asked = list[int]()
    monkeypatch.setattr(wire.cbor2, "loads", lambda data, **_: asked.append(len(data)))
    with pytest.raises(Refused, match="more than 8 items"):
        parse_control(flood, kinds, limits)
    for odd in (b"\x1c", b"\x5f", b"\x9f"):
        with pytest.raises(Refused, match="no or reserved length"):
            parse_control(odd + bytes(10**6), kinds, limits)
    assert not asked
    with pytest.raises(Refused, match="no message"):
        parse_control(flood[:1000], kinds, limits)
    with pytest.raises(Refused, match="no message"):
        parse_control(flood, kinds, Limits(5, {}))
    assert asked == [1000, len(flood)]


@given(records(KINDS["BatchListed"], LIMITS) | records(KINDS["BatchBoxes"], LIMITS) | records(KINDS["BatchSealed"], LIMITS))
@settings(max_examples=60)
def test_no_message_has_more_items_than_are_counted_for_its_kind(message: Any) -> None:
    control = next(iter(encode(message, 2**32 - 1, LIMITS)))[4:]
    check_items(bytes(control), max_items(type(message), LIMITS.sizes))
    tree, items = [cbor2.loads(bytes(control))], 0
    while tree:
        item = tree.pop()
        items += 1
        tree += item if isinstance(item, list) else []
    with pytest.raises(Refused, match="items"):
        check_items(bytes(control), items - 1)
    check_items(bytes(control), items)
