"""The wire part by part: what is encoded once for many, the decoder's states, whole chunks, counted items, odd control bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from messages import KINDS, LIMITS, MESSAGES, Sample, framed, outcome
from strategies import records, same

from protocols import wire
from protocols.agreement import Dropped
from protocols.errors import Misuse, Refused
from protocols.once import shared_work
from protocols.schema import Message
from protocols.secagg_types import Masked
from protocols.session import Farewell
from protocols.wire import Decoder, Limits, array, canonical, check_items, digest, encode, heads, longest, parse_control, whole

ANY_MESSAGE = st.sampled_from([*MESSAGES, Sample]).flatmap(lambda kind: records(kind, LIMITS))
GOODBYE = canonical(["Farewell", 0, [2]])


@dataclass(frozen=True)
class Nod(Message):
    """Either way: no field at all."""


# What is encoded once for many

ITEMS = st.integers(0, 2**40) | st.binary(max_size=9) | st.text(max_size=5) | st.lists(st.integers(0, 70000)).map(tuple)


@given(st.lists(ITEMS, max_size=23))
@example([(1, 2), (), b"x", (3,), (1, 2), "y"])
@example(list(range(23)))
def test_a_statement_with_sets_in_it_is_the_canonical_encoding_of_its_parts(items: list[Any]) -> None:
    assert array(items) == array(items) == cbor2.dumps(items, canonical=True)


def test_two_sets_of_one_kind_of_message_are_told_apart() -> None:
    one, other = Dropped((1, 2, 3)), Dropped((1, 2, 4))
    for message in (one, other, one):
        assert b"".join(encode(message, 0, LIMITS)) == framed(cbor2.dumps(["Dropped", 0, list(message.dropped)], canonical=True))


def test_a_set_that_was_in_a_statement_or_in_a_larger_session_is_looked_at_all_the_same() -> None:
    long, larger = tuple(range(1, 2 * LIMITS.parties)), Limits(100, {})
    assert array([long]) == canonical([list(long)])
    with pytest.raises(Misuse, match="no list of 0 to"):
        list(encode(Dropped(long), 0, LIMITS))
    assert list(encode(Dropped(long), 0, larger))
    with pytest.raises(Misuse, match="no list of 0 to"):
        list(encode(Dropped(long), 0, LIMITS))


def test_few_sets_are_kept() -> None:
    for u in range(1, 100):
        array([(u,)])
        list(encode(Dropped((u,)), 0, LIMITS))
    assert len(wire._LATELY) < 20


def test_a_digest_is_that_of_the_encoding() -> None:
    assert digest([1, "a", b"b"]) == hashlib.sha256(b"\x83\x01\x61a\x41b").digest()


def test_a_session_is_for_one_sum_unless_it_says_otherwise() -> None:
    assert Limits(3, {}).sizes == (3, 1)
    assert longest({}, LIMITS) == 0


# The decoder's states


def test_a_decoder_asks_its_judge_and_tells_what_comes() -> None:
    asked = list[Any]()
    data = framed(canonical(["Farewell", 7, [2]]))
    decoder = Decoder(KINDS, LIMITS, lambda kind, epoch: asked.append((kind, epoch)) or "take")  # type: ignore[func-returns-value]
    assert decoder.waits is False
    decoder.feed(data[:9])
    assert (decoder.heading, decoder.done, asked) == (None, False, [])
    decoder.feed(data[9:])
    assert (decoder.heading, decoder.done, asked) == ((Farewell, 7), True, [(Farewell, 7)])
    assert decoder.message() == (Farewell((2,)), 7)


@given(records(Masked, LIMITS), st.integers(1, 60))
@settings(max_examples=10)
def test_vectors_wait_for_their_turn_or_are_read_over(message: Masked, cut: int) -> None:
    control, *frames = (bytes(part) for part in encode(message, 0, LIMITS))
    data = b"".join(frames)
    waiting = Decoder(KINDS, LIMITS, lambda *_: "wait")
    waiting.feed(control)
    assert waiting.waits is True
    waiting.feed(b"")
    with pytest.raises(Refused) as early:
        waiting.feed(data[:1])
    assert early.value.check == "wire-turn"
    waiting.waits = False
    waiting.feed(data)
    got, _ = waiting.message() or (None, 0)
    assert same(got, message)
    skipped, given_up = Decoder(KINDS, LIMITS, lambda *_: "skip"), Decoder(KINDS, LIMITS, lambda *_: "wait")
    given_up.skip()  # nothing has come that could be forgotten
    for decoder in (skipped, given_up):
        decoder.feed(control)
    given_up.skip()
    for decoder in (skipped, given_up):
        assert decoder.waits is False
        for part in (data[:cut], data[cut:]):
            assert not decoder.done
            decoder.feed(part)
        assert decoder.message() is None


def test_an_unfinished_message_is_truncated() -> None:
    decoder = Decoder(KINDS, LIMITS)
    for part in (b"", framed(GOODBYE)[:6]):
        decoder.feed(part)
        with pytest.raises(Refused) as refused:
            decoder.message()
        assert refused.value.check == "wire-truncated"


@pytest.mark.parametrize("step", [1, 100])
def test_the_bounds_of_control_bytes_are_exact(step: int) -> None:
    def fed(control: bytes, most: int | None) -> tuple[str, Any]:
        decoder, data = Decoder(KINDS, LIMITS, most=most), framed(control)

        def feed() -> Any:
            for at in range(0, len(data), step):
                decoder.feed(data[at : at + step])
            return decoder.message()

        return outcome(feed)

    assert fed(GOODBYE, len(GOODBYE)) == fed(GOODBYE, None) == ("passed", (Farewell((2,)), 0))
    assert fed(GOODBYE, len(GOODBYE) - 1) == ("refused", "wire-bound")
    assert fed(b"\x80", None) == ("refused", "wire-kind")  # one byte may come, and is no message
    assert fed(bytes(longest(KINDS, LIMITS) + 1), None) == ("refused", "wire-bound")
    with pytest.raises(Refused) as empty:
        Decoder(KINDS, LIMITS).feed(bytes(4))
    assert empty.value.check == "wire-bound"
    with pytest.raises(Refused, match="wire-bound"):
        Decoder({}, LIMITS).feed(framed(b"\x80"))


# A chunk that is a whole message


@given(ANY_MESSAGE, st.integers(0, 2**32 - 1), st.binary(min_size=1, max_size=3))
@settings(max_examples=100)
def test_a_chunk_is_a_whole_message_or_is_not(message: Message, epoch: int, more: bytes) -> None:
    control, *frames = (bytes(part) for part in encode(message, epoch, LIMITS))
    vectors, known, most = b"".join(frames), heads(KINDS, LIMITS), longest(KINDS, LIMITS)
    found = whole(control + vectors, known, most)
    assert found is not None
    assert (found[0], bytes(found[1])) == (control[4:], vectors)
    assert whole(control + vectors, known, len(control) - 4) == found
    for chunk, bound in (
        (control + vectors, len(control) - 5),
        (control + vectors + more, most),
        ((control + vectors)[:-1], most),
        (control[:-1], most),
        (control[:4], most),
        (bytes(4) + vectors, most),
        (b"", most),
    ):
        assert whole(chunk, known, bound) is None
    assert whole(control + vectors, heads({k: v for k, v in KINDS.items() if v is not type(message)}, LIMITS), most) is None


def test_kinds_whose_vectors_have_no_layout_are_no_heads() -> None:
    few = Limits(5, {"masked": LIMITS.vectors["masked"]})
    kinds = {kind.__name__: kind for kind in (Sample, Masked, Farewell)}
    assert len(heads(KINDS, LIMITS)) == len(KINDS)
    assert len(heads(kinds, few)) == 3
    assert [head for head, _ in heads(kinds, Limits(5, {}))] == [b"\x83\x68Farewell"]


# What is read once for all in one process


def test_shared_control_depends_on_bytes_kinds_and_sizes_and_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, usual, only = list[bytes](), wire._loads, {"Farewell": Farewell}
    monkeypatch.setattr(wire, "_loads", lambda data: (asked.append(data), usual(data))[1])
    other = canonical(["Dropped", 0, [1, 2, 3]])
    with shared_work():
        for _ in range(3):
            assert parse_control(GOODBYE, KINDS, LIMITS) == (Farewell, 0, {"blamed": (2,)})
        assert asked == [GOODBYE]
        assert parse_control(other, KINDS, LIMITS)[0] is Dropped
        with pytest.raises(Refused, match="wire-kind"):
            parse_control(other, only, LIMITS)
        assert parse_control(other, KINDS, LIMITS)[0] is Dropped
        with pytest.raises(Refused, match="wire-field"):
            parse_control(other, KINDS, Limits(2, LIMITS.vectors))
    asked.clear()
    for _ in range(2):
        parse_control(GOODBYE, KINDS, LIMITS)
    assert asked == [GOODBYE] * 2


# Items


SIZES = st.sampled_from([0, 1, 23, 24, 255, 256, 65535, 65536])
LEAVES = (
    st.integers(-(2**64), 2**64 - 1)
    | st.sampled_from([23, 24, 255, 256, 65535, 65536, 2**32 - 1, 2**32])
    | SIZES.map(bytes)
    | SIZES.map(lambda size: "x" * size)
)


def count(tree: Any) -> int:
    return 1 + sum(count(item) for item in tree) if isinstance(tree, list) else 1


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=30), max_leaves=40))
@example([bytes(300), [23], 24])
@example([0] * 256)
@settings(max_examples=60)
def test_items_are_counted_exactly(tree: Any) -> None:
    data = cbor2.dumps(tree, canonical=True)
    check_items(data, count(tree))
    assert outcome(lambda: check_items(data, count(tree) - 1)) == ("refused", "wire-canonical")


@pytest.mark.parametrize("low", range(28, 32))
@pytest.mark.parametrize("major", range(8))
def test_items_of_no_or_reserved_length_are_refused(major: int, low: int) -> None:
    for data in (bytes([major << 5 | low]), bytes([0x82, 0, major << 5 | low, 0])):
        assert outcome(lambda data=data: check_items(data, 100)) == ("refused", "wire-canonical")


def test_items_are_counted_of_what_is_longer_than_any_message_for_one_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds, loaded = {"BatchBoxes": KINDS["BatchBoxes"]}, list[bytes]()
    monkeypatch.setattr(wire.cbor2, "loads", lambda data, **_: loaded.append(data))
    most = longest(kinds, Limits(5, {}))
    for steps in (2, 3000):
        for size, counted in ((most, False), (most + 1, True)):
            data = (b"\x83" + bytes(most + 1))[:size]
            with pytest.raises(Refused, match="more than 8 items" if counted else "no message"):
                parse_control(data, kinds, Limits(5, {}, steps))
    assert [len(data) for data in loaded] == [most, most]


# Documents and odd control


def test_a_document_is_bounded_in_bytes_items_and_depth() -> None:
    data = canonical([1, [2, 3]])
    assert wire.read_canonical(data, len(data)) == wire.read_canonical(data, len(data), 5) == [1, [2, 3]]
    assert outcome(lambda: wire.read_canonical(data, len(data) - 1)) == ("refused", "wire-bound")
    assert outcome(lambda: wire.read_canonical(data, len(data), 4)) == ("refused", "wire-canonical")
    assert wire.read_canonical(b"\x81" * 12 + b"\x00", 100)
    assert outcome(lambda: wire.read_canonical(b"\x81" * 13 + b"\x00", 100)) == ("refused", "wire-canonical")


NO_DOCUMENTS = {
    "keys out of order": b"\xa2\x02\x00\x01\x00",
    "a float that is too wide": b"\xfb\x3f\xf8" + bytes(6),
    "trailing bytes": b"\x00\x00",
}
NO_CBOR = {
    "a key twice": b"\xa2\x01\x00\x01\x00",
    "a list without a length": b"\x9f\xff",
    "a date": b"\xd9\x03\xec\x6a2013-03-21",
    "a complex number": b"\xd9\xa7\xf8\x82\x00\x00",
    "CBOR that says so": b"\xd9\xd9\xf7\x00",
}


@pytest.mark.parametrize(
    ("data", "why"), [*((x, "deterministic") for x in NO_DOCUMENTS.values()), *((x, "not CBOR") for x in NO_CBOR.values())]
)
def test_what_is_no_document_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why) as refused:
        wire.read_canonical(data, 100)
    assert refused.value.check == "wire-canonical"


def test_a_message_without_fields_is_one() -> None:
    data = canonical(["Nod", 2**32 - 1])
    assert parse_control(data, {"Nod": Nod}, LIMITS) == (Nod, 2**32 - 1, {})


@pytest.mark.parametrize(
    "tree",
    [5, "ab", b"ab", None, {0: "Farewell", 1: 0}, [], ["Farewell"], [0, 0], [[], 0], ["Farewell", "x"], ["Farewell", [0], [2]]]
    + [["Farewell", epoch, [2]] for epoch in (-1, 2**32, None, 0.0, True)]
    + [["Nobody", 0], ["Nobody", 2**32], ["farewell", 0, [2]]],
    ids=str,
)
def test_what_is_no_message_that_may_come_is_refused_as_such(tree: Any) -> None:
    assert outcome(lambda: parse_control(cbor2.dumps(tree, canonical=True), KINDS, LIMITS)) == ("refused", "wire-kind")


def test_another_encoding_of_a_message_is_refused_as_such() -> None:
    for data in (GOODBYE + b"\x00", GOODBYE.replace(b"\x00", b"\x18\x00", 1)):
        assert outcome(lambda data=data: parse_control(data, KINDS, LIMITS)) == ("refused", "wire-canonical")
