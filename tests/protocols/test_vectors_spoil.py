"""What is wrong with a bad message is what its words say, in messages with every kind of field."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cbor2
import numpy as np
import pytest

from protocols.agreement import Dropped
from protocols.bulk import Blobs, Bulk, Packed
from protocols.errors import Refused
from protocols.ring import Ring
from protocols.schema import MAX_PARTIES, PARTIES, Count, Index, Message, Raw, Record, Signature, Size, Span, Strings
from protocols.session import SERVER, Letter, client
from protocols.simulate import Outcome
from protocols.sums import SCHEMES, scheme
from protocols.vectors_bad import goods, pair
from protocols.vectors_run import Run, content
from protocols.vectors_setting import standard
from protocols.vectors_spoil import WAYS, Good
from protocols.vectors_tree import slug
from protocols.wire import Decoder, Limits

FOLDER = Path(__file__).parents[1] / "vectors"


@pytest.mark.parametrize("protocol", SCHEMES)
def test_each_way_makes_the_messages_of_its_file(protocol: str) -> None:
    setting = standard(scheme(protocol))
    found = list(goods(*pair(setting)))
    for way, spoil in WAYS.items():
        made = [
            {
                "type": type(good.letter.message).__name__,
                "from": str(spoilt.sender or good.letter.sender),
                "after": good.at + spoilt.again,
                "how": spoilt.how,
                **content(spoilt.data, setting),
            }
            for good in found
            for spoilt in spoil(good)
        ]
        path = FOLDER / f"{slug(protocol)}_bad_{way}.json"
        operations = json.loads(path.read_text(encoding="utf-8"))["operations"] if path.exists() else []
        left = {"operation", "to", "success", "check"}
        assert made == [{key: value for key, value in o.items() if key not in left} for o in operations], way


def test_whichever_message_is_spoilt_by_another_one_the_other_is_of_its_kind_and_sender() -> None:
    base, other = pair(standard(scheme("secagg")))
    sent = {(type(x.message), x.sender, to): b"".join(x.chunks()) for x in other.letters for to in x.to}
    for at, letter in enumerate(base.letters):
        for to in letter.to:
            this = Good(base, other, at, letter, to)
            later = sent[type(letter.message), letter.sender, to]
            assert [spoilt.data for spoilt in WAYS["round"](this)] == [later] * (later != this.data)
            mine = [x for x in base.letters if type(x.message) is type(letter.message) and x.sender == letter.sender]
            strange = {f"it was meant for {x.to[0]}": b"".join(x.chunks()) for x in mine if to not in x.to}
            told = {spoilt.how: spoilt.data for spoilt in WAYS["addressee"](this)}
            assert told.items() <= strange.items()
            assert bool(told) == bool(strange)
            (named,) = WAYS["sender"](this)
            assert named.sender is not None
            assert named.sender not in (letter.sender, SERVER)


def test_a_dropped_set_is_false_for_whoever_receives_it() -> None:
    base, other = pair(standard(scheme("secagg")))
    (at,) = (at for at, letter in enumerate(base.letters) if isinstance(letter.message, Dropped))
    for me in (1, 2, 3, 4):
        one, two, three = (u for u in (1, 2, 3, 4) if u != me)
        told = {s.how: fields(s.data) for s in WAYS["survivor_set"](Good(base, other, at, base.letters[at], client(me)))}
        assert told == {
            "the receiver has dropped": [[me]],
            "it does not ascend": [[two, one]],
            "a party has dropped twice": [[one, one]],
            "all but the receiver have dropped": [[one, two, three]],
        }


# Messages of one's own, with every kind of field


@dataclass(frozen=True)
class Item(Record):
    """Of a list."""

    index: Index
    signature: Signature


@dataclass(frozen=True)
class Told(Message):
    """Everything that may be bounded."""

    name: Annotated[str, Size(0, 5)] = "abc"
    key: Annotated[bytes, Size(3)] = b"key"
    note: Annotated[bytes, Size(0, 4)] = b""
    parts: Annotated[bytes, Strings(2, 0, PARTIES, 1)] = b"partpart"
    at: Annotated[int, Span(0, 9)] = 4
    item: Item = Item(1, bytes(64))
    few: Annotated[tuple[Index, ...], Count(0, 3)] = (3, 2)
    none: Annotated[tuple[Index, ...], Count(0, 1)] = ()
    many: Annotated[tuple[Index, ...], Count(0, MAX_PARTIES)] = (5,)
    more: Annotated[tuple[Index, ...], Count(0, MAX_PARTIES + 1)] = (5,)
    items: Annotated[tuple[Item, ...], Count(1, 4)] = ()


@dataclass(frozen=True)
class Two(Message):
    """A list of two or three."""

    two: Annotated[tuple[Index, ...], Count(2, 3)]


@dataclass(frozen=True)
class Vectors(Message):
    """Two vectors and strings."""

    x: Annotated[Bulk, Raw("x")]
    y: Annotated[Bulk, Raw("y")]
    z: Annotated[Bulk, Raw("z")]


@dataclass(frozen=True)
class OneVector(Message):
    """A vector that may have filling."""

    y: Annotated[Bulk, Raw("y")]


ITEMS = tuple(Item(u, bytes([u]) * 64) for u in range(1, 5))


def good(message: Message, limits: Limits) -> Good:
    """A message from the server to the second party."""
    letter = Letter(SERVER, (client(2),), message, 0, limits)
    base = Run(standard(scheme("plain-insecure")), (letter,), Outcome({}))
    return Good(base, base, 0, letter, client(2))


def fields(data: bytes) -> list[Any]:
    """The control fields of a message."""
    return list(cbor2.loads(data[4 : 4 + int.from_bytes(data[:4], "little")]))[2:]


def refuses(data: bytes, limits: Limits, kind: type[Message]) -> str | None:
    """The check by which a message is refused, or None."""
    decoder = Decoder({kind.__name__: kind}, limits)
    try:
        decoder.feed(data)
        decoder.message()
    except Refused as error:
        return error.check
    return None


def read(data: bytes, limits: Limits) -> Message:
    """The message of two vectors and strings."""
    decoder = Decoder({"Vectors": Vectors}, limits)
    decoder.feed(data)
    got = decoder.message()
    assert got is not None
    return got[0]


def changes(way: str, of: Good) -> dict[str, list[Any]]:
    """For each spoilt message what is wrong with it, and the control fields that are others."""
    before, out = fields(of.data), dict[str, list[Any]]()
    for spoilt in WAYS[way](of):
        assert spoilt.data[4 + int.from_bytes(spoilt.data[:4], "little") :] == of.vectors
        out[spoilt.how] = [now for now, then in zip(fields(spoilt.data), before, strict=True) if now != then]
    return out


LIMITS = Limits(4, {}, steps=2)


def test_of_every_kind_of_field_what_is_past_its_bound_is_so_by_one() -> None:
    told = good(Told(items=ITEMS[:2]), LIMITS)
    assert refuses(told.data, LIMITS, Told) is None
    plain = [[item.index, item.signature] for item in ITEMS]
    assert changes("bound", told) == {
        "name is past its bound": ["abcxxx"],
        "key is past its bound": [b"key\0"],
        "note is past its bound": [bytes(5)],
        "parts is past its bound": [bytes(5 * (2 + 2))],
        "at is past its bound": [10],
        "item is past its bound": [[]],
        "few is past its bound": [[3, 2, 2, 2]],
        "none is past its bound": [[1, 1]],
        "many is past its bound": [[5] * (MAX_PARTIES + 1)],
        "items is past its bound": [[plain[0], *[plain[1]] * 4]],
    }
    assert {refuses(spoilt.data, LIMITS, Told) for spoilt in WAYS["bound"](told)} == {"wire-field"}


def test_one_bit_of_every_field_of_bytes_that_is_not_empty_is_flipped() -> None:
    told = good(Told(items=ITEMS), LIMITS)
    rest = [[item.index, item.signature] for item in ITEMS[1:]]
    flipped = [[1, bytes([0]) + bytes([1]) * 63], *rest]
    assert changes("signature", told) == {"one bit of items.signature is another": [flipped]}
    assert changes("field", told) == {"one bit of key is another": [b"jey"], "one bit of parts is another": [b"qartpart"]}


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_lists_are_spoilt_in_whichever_way_makes_another_list(count: int) -> None:
    items = ITEMS[:count]
    indexes = tuple(item.index for item in items)
    told = good(Told(few=indexes[:3], none=(), many=(), more=(), items=items), LIMITS)
    plain = [[item.index, item.signature] for item in items]
    few = list(indexes[:3])
    if count == 1:
        assert changes("members", told) == changes("swapped_signature", told) == {}
        return
    assert changes("members", told) == {
        "few in another order": [few[::-1]],
        "the first of few stands twice": [few[:1] + few[:-1]],
        "the last of few is missing": [few[:-1]],
        "the receiver is missing in few": [[u for u in few if u != 2]],
        "items in another order": [plain[::-1]],
        "the first of items stands twice": [plain[:1] + plain[:-1]],
        "the last of items is missing": [plain[:-1]],
        "the receiver is missing in items": [[plain[0], *plain[2:]]],
    }
    swapped = [[1, plain[1][1]], [2, plain[0][1]], *plain[2:]]
    assert changes("swapped_signature", told) == {"two signatures of items have changed places": [swapped]}


def test_lists_of_others_and_lists_that_would_be_too_short_are_left() -> None:
    assert changes("members", good(Two((3, 4)), LIMITS)) == {
        "two in another order": [[4, 3]],
        "the first of two stands twice": [[3, 3]],
    }
    assert "the receiver is missing in two" not in changes("members", good(Two((2, 4)), LIMITS))


@pytest.mark.parametrize("bits", [3, 13, 32, 40])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 36, 62, 63, 64, 65, 72, 128])
def test_the_filling_is_spoilt_where_there_is_any(bits: int, size: int) -> None:
    layout = Packed(Ring(bits), size)
    limits = Limits(4, {"y": layout})
    ones = np.full(size, (1 << bits) - 1, dtype=layout.ring.dtype)
    told = good(OneVector(Bulk.of(layout, ones)), limits)
    last = told.data[:-1] + bytes([told.data[-1] ^ 0x80])
    spoilt = [one.data for one in WAYS["padding"](told)]
    assert spoilt == ([last] if refuses(last, limits, OneVector) else [])
    assert bool(spoilt) == bool(size % (8 * layout.ring.dtype().itemsize))


@pytest.mark.parametrize("bits", [13, 16, 40, 64])
def test_of_packed_vectors_every_bit_is_one_and_of_the_last_the_filling_is_looked_at(bits: int) -> None:
    ring, sizes = Ring(bits), {"x": 5, "z": 7 if bits == 13 else 64}
    packed = {key: Packed(ring, size) for key, size in sizes.items()}
    limits = Limits(4, {**packed, "y": Blobs(1, 3)})
    x, z = (Bulk.of(layout, np.zeros(layout.size, dtype=ring.dtype)) for layout in packed.values())
    told = good(Vectors(x, Bulk.of(Blobs(1, 3), np.zeros((1, 3), dtype=np.uint8)), z), limits)
    assert len(list(WAYS["padding"](told))) == (bits == 13)
    made = {spoilt.how: read(spoilt.data, limits) for spoilt in WAYS["bound"](told)}
    assert made.keys() == {"every bit of x is 1", "every bit of z is 1"}
    for how, message in made.items():
        for key, size in sizes.items():
            assert getattr(message, key).values.tolist() == [ring.modulus - 1 if f" {key} " in how else 0] * size
