"""The decoder: one content survives the trip, all at once equals piece by piece, and everything is bounded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import EVERY, KINDS, LIMITS, MESSAGES, Sample, framed, largest, outcome, parse
from strategies import records, same

from protocols.agreement import Dropped
from protocols.bulk import Blobs, Bulk, Floats, Packed
from protocols.errors import Misuse, Refused
from protocols.field import Field
from protocols.flow import Flow, Inbox
from protocols.once import shared_work
from protocols.rand import Replay
from protocols.ring import Ring
from protocols.schema import Count, Message, Raw, Record, Size, Span, Strings, max_control, schema
from protocols.secagg_types import Boxes, Listed, Masked
from protocols.session import Farewell
from protocols.wire import FRAME, Decoder, Limits, canonical, control_bytes, encode

ANY_MESSAGE = st.sampled_from([*MESSAGES, Sample]).flatmap(lambda kind: records(kind, LIMITS))


# Bounds


def test_the_walk_finds_the_messages() -> None:
    assert {"Advert", "Listed", "Boxes", "Sealed", "Masked", "Dropped", "Agree", "Agreed", "Openings", "Farewell", "Clear"} <= set(
        KINDS
    )
    assert {"Entry", "SeedBox", "Signed", "ShareHash"} <= {kind.__name__ for kind in EVERY}


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_field_of_every_message_has_a_bound(kind: type[Record]) -> None:
    assert schema(kind)
    assert 0 < max_control(kind, 2) <= max_control(kind, 1000) < 2**20


@pytest.mark.parametrize(
    "hint",
    [
        bytes,
        str,
        int,
        float,
        Bulk,
        tuple[int, ...],
        Annotated[tuple[bytes, ...], Count(0, 3)],
        Annotated[int, Size(3)],
        Annotated[bytes, Span(0, 3)],
        Annotated[str, Strings(3, 0, 3)],
        Annotated[float, Span(0, 3)],
        Annotated[bytes, Count(0, 3)],
        Annotated[bytes, Raw("masked")],
        Annotated[bytes, "short"],
        Any,
        None,
    ],
    ids=str,
)
def test_a_field_without_a_bound_is_refused_when_a_flow_is_checked(hint: Any) -> None:
    kind = dataclass(frozen=True)(type("Loose", (Message,), {"__annotations__": {"field": hint}, "__module__": __name__}))

    @dataclass(frozen=True)
    class A:
        pass

    @dataclass(frozen=True)
    class B:
        pass

    flow = Flow("loose")

    def say(a: A) -> Any: ...

    def hear(b: B, said: Any) -> None: ...

    say.__annotations__ = {"a": A, "return": kind}
    hear.__annotations__ = {"b": B, "said": Inbox[kind], "return": None}  # type: ignore[valid-type]
    flow.client(say)
    flow.server(quorum=lambda _: 1)(hear)
    with pytest.raises(Misuse, match=r"Loose\.field has no bound"):
        flow.check()


def test_a_nested_field_without_a_bound_is_refused() -> None:
    inner = dataclass(frozen=True)(type("Inner", (Record,), {"__annotations__": {"loose": bytes}, "__module__": __name__}))
    for hint in (inner, Annotated[tuple[inner, ...], Count(0, 3)]):  # type: ignore[valid-type]
        outer = dataclass(frozen=True)(type("Outer", (Message,), {"__annotations__": {"inner": hint}, "__module__": __name__}))
        with pytest.raises(Misuse, match=r"Inner\.loose has no bound"):
            schema(outer)
    with pytest.raises(Misuse, match="is not a dataclass"):
        schema(type("Bare", (Message,), {}))


@pytest.mark.parametrize(("parties", "steps"), [(2, 1), (24, 1), (300, 7), (5000, 1)])
@pytest.mark.parametrize("kind", [*MESSAGES, Sample], ids=lambda kind: kind.__name__)
def test_the_largest_message_is_within_the_bound_and_passes(kind: type[Message], parties: int, steps: int) -> None:
    limits = Limits(parties, LIMITS.vectors, steps)
    message = kind(**{name: largest(hint, limits) for name, hint in schema(kind)})
    data = b"".join(encode(message, 2**32 - 1, limits))
    control = int.from_bytes(data[:4], "little")
    assert control <= max_control(kind, parties, steps)
    got, epoch = parse(data, limits)
    assert same(got, message)
    assert epoch == 2**32 - 1


@given(ANY_MESSAGE, st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_round_trip_and_size(message: Message, epoch: int) -> None:
    chunks = list(encode(message, epoch, LIMITS))
    assert len(chunks[0]) - 4 <= max_control(type(message), *LIMITS.sizes)
    got, at = parse(b"".join(chunks))
    assert same(got, message)
    assert at == epoch
    assert control_bytes(got) == control_bytes(message)


def test_a_message_over_its_bound_is_not_sent() -> None:
    with pytest.raises(Misuse, match=r"Dropped.dropped is no list of 0 to"):
        list(encode(Dropped(tuple(range(1, 2000))), 0, LIMITS))
    with pytest.raises(Misuse, match="67 values"):
        Bulk.of(LIMITS.vectors["masked"], np.zeros(66, dtype=np.uint32))
    with pytest.raises(Misuse, match="3 values"):
        Floats(3).dump(np.zeros(4))


# Any chunking


def feed_in_pieces(data: bytes, cuts: Sequence[float], limits: Limits = LIMITS) -> tuple[str, Any]:
    """What comes of ``data`` fed in pieces: the message, or the check that refuses it."""
    decoder = Decoder(KINDS, limits)

    def feed() -> tuple[Message, int]:
        for begin, end in pairwise([0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]):
            decoder.feed(memoryview(data)[begin:end])
        return decoder.message()

    return outcome(feed)


def is_raw(hint: Any) -> bool:
    return isinstance(getattr(hint, "__metadata__", (None,))[0], Raw)


def again(message: Message, epoch: int) -> bytes:
    """The wire bytes of a message that was received."""
    raw = [(getattr(message, name), hint.__metadata__[0].key) for name, hint in schema(type(message)) if is_raw(hint)]
    bulks, packed = [bulk for bulk, _ in raw], [LIMITS.vectors[key].dump(bulk.values) for bulk, key in raw]
    assert [bulk.digest for bulk in bulks] == [hashlib.sha256(data).digest() for data in packed]
    return framed(canonical([type(message).__name__, epoch, *cbor2.loads(control_bytes(message))])) + b"".join(packed)


CUTS = st.lists(st.floats(0, 1), max_size=8)


@given(ANY_MESSAGE, CUTS)
@settings(max_examples=120)
def test_all_at_once_equals_piece_by_piece(message: Message, cuts: list[float]) -> None:
    data = b"".join(encode(message, 3, LIMITS))
    how, got = feed_in_pieces(data, cuts)
    assert how == "passed"
    assert same(got[0], message)


@given(records(Sample, LIMITS))
@settings(max_examples=15)
def test_byte_by_byte(message: Sample) -> None:
    data, decoder = b"".join(encode(message, 0, LIMITS)), Decoder(KINDS, LIMITS)
    for at, byte in enumerate(data):
        assert not decoder.done
        with pytest.raises(Refused, match="wire-truncated"):
            decoder.message()
        decoder.feed(bytes([byte]))
        assert decoder.done == (at == len(data) - 1)
    assert same(decoder.message()[0], message)


@given(ANY_MESSAGE, CUTS, st.data())
@settings(max_examples=200)
def test_damaged_bytes_meet_the_same_end_in_any_chunking(message: Message, cuts: list[float], data: st.DataObject) -> None:
    raw = bytearray(b"".join(encode(message, 0, LIMITS)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(raw) - 1, 80)) | st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                raw[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 5))]
            case _:
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=5))
        if not raw:
            return
    whole, pieces = feed_in_pieces(bytes(raw), []), feed_in_pieces(bytes(raw), cuts)
    assert whole[0] == pieces[0]
    if whole[0] == "refused":
        assert whole[1] == pieces[1]
        assert str(whole[1]).startswith(("wire-", "vector-"))
    else:
        assert same(whole[1][0], pieces[1][0])
        assert again(*whole[1]) == bytes(raw)


@given(st.binary(max_size=400), CUTS)
@settings(max_examples=200)
def test_garbage_is_refused(data: bytes, cuts: list[float]) -> None:
    assert feed_in_pieces(data, cuts)[0] == "refused"


# Refused before it is stored


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 4))
@settings(max_examples=100)
def test_a_length_over_the_bound_is_refused_before_anything_is_stored(length: int, follows: int, step: int) -> None:
    most = max(max_control(kind, *LIMITS.sizes) for kind in KINDS.values())
    decoder = Decoder(KINDS, LIMITS)
    prefix, chunk = length.to_bytes(4, "little"), bytes(follows)
    for at in range(0, 4 - step, step):
        decoder.feed(prefix[at : at + step])
    start = len(range(0, 4 - step, step)) * step
    if 0 < length <= most:
        decoder.feed(prefix[start:])
        return
    with pytest.raises(Refused) as refused:
        decoder.feed(prefix[start:] + chunk)
    assert refused.value.check == "wire-bound"
    assert len(decoder._head) <= 4
    assert not decoder.done


@given(records(Masked, LIMITS), st.binary(min_size=1, max_size=20))
@settings(max_examples=30)
def test_bytes_after_the_end_are_refused(message: Masked, more: bytes) -> None:
    data, decoder = b"".join(encode(message, 0, LIMITS)), Decoder(KINDS, LIMITS)
    decoder.feed(data)
    assert decoder.done
    with pytest.raises(Refused, match="wire-trailing"):
        decoder.feed(more)
    with pytest.raises(Refused, match="wire-trailing"):
        parse(data + more)


def test_control_bytes_beyond_the_message_s_own_bound_do_not_pass_as_a_smaller_kind() -> None:
    """The prefix is checked against the largest kind that may come here; the fields against their own bounds."""
    with pytest.raises(Refused, match="wire-field"):
        parse(framed(canonical(["Farewell", 0, [1, 2]])))
    assert parse(framed(canonical(["Farewell", 0, [2]])))[0] == Farewell((2,))


@pytest.mark.parametrize("kind", [Listed, Boxes, Dropped])
def test_a_decoder_knows_only_the_kinds_that_may_come(kind: type[Message]) -> None:
    message = kind(**{name: largest(hint, LIMITS) for name, hint in schema(kind)})
    decoder = Decoder({k.__name__: k for k in MESSAGES if k is not kind}, LIMITS)
    with pytest.raises(Refused, match="wire-kind"):
        decoder.feed(b"".join(encode(message, 0, LIMITS)))


# Vectors


@given(st.integers(1, 3000), st.integers(2, 64), st.integers(0, 2**32))
@settings(max_examples=40)
def test_vectors_travel_in_frames_outside_the_codec(size: int, bits: int, seed: int) -> None:
    from protocols.rand import Replay

    layout = Packed(Ring(bits), size)
    values = Replay(f"{seed}")().words("v", size).astype(layout.ring.dtype)
    layout.ring.reduce(values)
    bulk = Bulk.of(layout, values)
    limits = Limits(2, {"masked": layout})
    message = Masked(bulk, bytes(32), bytes(64))
    control, *frames = encode(message, 0, limits)
    assert control == framed(canonical(["Masked", 0, bytes(32), bytes(64)]))
    assert b"".join(frames) == bulk.data == bytes(layout.ring.pack(values))
    assert bulk.digest == hashlib.sha256(b"".join(frames)).digest()
    got, _ = parse(control + b"".join(frames), limits)
    assert isinstance(got, Masked)
    assert same(got.y, bulk)


def test_a_frame_is_a_mebibyte_at_most() -> None:
    layout = Packed(Ring(64), 300_000)
    message = Masked(Bulk.of(layout, np.arange(300_000, dtype=np.uint64)), bytes(32), bytes(64))
    _, *frames = encode(message, 0, Limits(2, {"masked": layout}))
    assert [len(frame) for frame in frames] == [FRAME, FRAME, layout.nbytes - 2 * FRAME]


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=0, max_size=40), CUTS)
@settings(max_examples=40)
def test_floats_round_trip_in_any_chunking(values: list[float], cuts: list[float]) -> None:
    layout = Floats(len(values))
    data, parser = layout.dump(np.array(values, dtype=np.float64)), layout.parser()
    assert len(data) == layout.nbytes
    for begin, end in pairwise([0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]):
        parser.feed(data[begin:end])
    assert parser.vector().dtype == np.float32
    assert parser.vector().tolist() == values


@settings(max_examples=50)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 100), st.binary(min_size=240, max_size=240))
def test_strings_that_lie_apart_are_sent_as_if_they_lay_together(count: int, size: int, most: int, data: bytes) -> None:
    layout, content = Blobs(count, size, hashed=False), data[: count * size]
    together = Bulk.of(layout, np.frombuffer(content, dtype=np.uint8).reshape(count, size))
    apart = Bulk.joined(layout, [memoryview(content)[i * size : (i + 1) * size] for i in range(count)])
    assert [bytes(frame) for frame in apart.frames(most)] == [bytes(frame) for frame in together.frames(most)]
    assert np.array_equal(apart.values, together.values)


@settings(max_examples=50)
@given(st.sampled_from([Ring(17), Field(31), Field(61)]), st.integers(1, 100), st.lists(st.floats(0, 1), max_size=3))
def test_a_vector_that_is_read_late_has_the_same_bytes_values_and_digest(ring: Any, size: int, cuts: list[float]) -> None:
    """Whatever becomes of the memory that it came in."""
    late, early = Packed(ring, size, kept=True), Packed(ring, size)
    values = Replay("late")().words("values", size).astype(ring.dtype) % ring.dtype(ring.modulus)
    sent, parser = Bulk.of(late, values), late.parser()
    assert (sent.data, sent.digest) == (early.dump(values), Bulk.of(early, values).digest)
    data = bytes(sent.data or b"")
    for begin, end in pairwise([0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]):
        buffer = bytearray(data[begin:end])
        parser.feed(memoryview(buffer))
        buffer[:] = bytes(len(buffer))
    got = Bulk.received(parser, None)
    assert (got.digest, got.values.tolist(), bytes(got.data or b"")) == (sent.digest, values.tolist(), data)


def test_what_is_not_hashed_has_no_digest_and_nothing_else_goes_unhashed() -> None:
    layout = Blobs(2, 3, hashed=False)
    bulk = Bulk.of(layout, np.zeros((2, 3), dtype=np.uint8))
    with pytest.raises(Misuse, match="not hashed"):
        _ = bulk.digest
    assert Bulk.of(Blobs(2, 3), np.zeros((2, 3), dtype=np.uint8)).digest == hashlib.sha256(bytes(6)).digest()
    for wrong, pieces in ((Blobs(2, 3), [bytes(3)] * 2), (layout, [bytes(3)]), (layout, [bytes(3), bytes(4)])):
        with pytest.raises(Misuse, match="strings of 3 bytes"):
            Bulk.joined(wrong, pieces)


@dataclass(frozen=True)
class Shown(Message):
    """Server → party: a public vector, beside one that is not."""

    public: Annotated[Bulk, Raw("floats")]
    own: Annotated[Bulk, Raw("masked")]


def shown(first: float, limits: Limits) -> list[bytes | memoryview]:
    floats, masked = limits.vectors["floats"], limits.vectors["masked"]
    own = np.full(5, int(first), dtype=np.uint32)
    return list(encode(Shown(Bulk.of(floats, np.array([first, 2, 3])), Bulk.of(masked, own)), 0, limits))


def read(frames: Sequence[bytes | memoryview], limits: Limits) -> Shown:
    decoder = Decoder({"Shown": Shown}, limits)
    for frame in frames:
        decoder.feed(frame)
    message, _ = decoder.message() or (None, 0)
    assert isinstance(message, Shown)
    return message


def test_the_same_public_vector_is_read_once_for_all_in_one_process_and_belongs_to_each(monkeypatch: pytest.MonkeyPatch) -> None:
    limits, calls = Limits(2, {"floats": Floats(3), "masked": Packed(Ring(20), 5)}), list[str]()
    for layout in (Floats, Packed):
        usual = layout.parser
        monkeypatch.setattr(layout, "parser", lambda self, usual=usual: (calls.append(type(self).__name__), usual(self))[1])
    one, other = shown(1.0, limits), shown(7.0, limits)
    with shared_work():
        first, second, third = read(one, limits), read(one, limits), read(other, limits)
        assert calls == ["Floats", "Packed", "Packed", "Floats", "Packed"]
        first.public.values[:] = 9
        again = read(one, limits)
    assert [m.public.values.tolist() for m in (second, third, again)] == [[1, 2, 3], [7, 2, 3], [1, 2, 3]]
    assert [m.own.values.tolist() for m in (first, third)] == [[1] * 5, [7] * 5]
    assert first.public.digest == second.public.digest == hashlib.sha256(np.array([1, 2, 3], dtype="<f4").tobytes()).digest()
    calls.clear()
    alone = [read(one, limits) for _ in range(2)]
    assert calls == ["Floats", "Packed"] * 2
    assert all(m.public.digest == second.public.digest for m in alone)


@given(CUTS)
@settings(max_examples=20)
def test_a_public_vector_in_pieces_is_the_same(cuts: list[float]) -> None:
    limits = Limits(2, {"floats": Floats(3), "masked": Packed(Ring(20), 5)})
    control, *rest = shown(4.0, limits)
    data = b"".join(rest)
    ends = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    with shared_work():
        whole, cut = read([control, *rest], limits), read([control, *(data[a:b] for a, b in pairwise(ends))], limits)
    assert same(whole.public, cut.public)
    assert same(whole.own, cut.own)


def test_a_packed_vector_that_is_not_hashed_has_no_digest() -> None:
    layout = Packed(Ring(20), 3, hashed=False)
    for bulk in (Bulk.of(layout, np.arange(3, dtype=np.uint32)), Bulk.by(layout, lambda start, out: np.copyto(out, start))):
        with pytest.raises(Misuse, match="not hashed"):
            _ = bulk.digest
