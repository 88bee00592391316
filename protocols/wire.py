"""Messages and their bytes: deterministic CBOR for control fields, raw frames for vectors.

A message on the wire is ``length (4 bytes, little-endian) ‖ control ‖ vectors``.  Control is one CBOR array ``[name, epoch, field,
…]`` in the deterministic encoding of RFC 8949 §4.2; it is decoded, type-checked field by field, encoded again and compared, so a
second spelling of the same content, trailing bytes, tags, floats and simple values are refused.  Vectors never enter a codec: each
is a run of bytes whose length both sides know beforehand (`Limits.vectors`), sent in frames of at most `FRAME` bytes.

Channel assumed: none.  Any bytes are parsed or refused, and none is stored that no message could have.

What it does not protect: bytes say nothing of who sent them; that is the driver's word, and the signature in the message.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import cbor2

from protocols.bodies import Body
from protocols.bulk import Layout
from protocols.errors import Misuse, Refused, require
from protocols.once import lately, sharing
from protocols.readers import Reader, read_fields, readers
from protocols.schema import Message, Record, Sizes, is_raw, max_control, max_items, raw_fields, schema

FRAME = 1 << 20
"""Largest frame of vector bytes."""


@dataclass(frozen=True)
class Limits:
    """What a session knows about sizes before the first byte comes.

    Attributes:
        parties: number of invited parties; the bound behind `PARTIES`.
        vectors: layout of every raw field, by the key in its `Raw`.
        steps: number of sums that the session prepares; the bound behind `STEPS`.
    """

    parties: int
    vectors: Mapping[str, Layout]
    steps: int = 1

    @property
    def sizes(self) -> Sizes:
        """What the bounds of control fields depend on."""
        return self.parties, self.steps


def canonical(value: Any) -> bytes:
    """Deterministic CBOR (RFC 8949 §4.2) of nested lists, tuples, integers, bytes and text: what is hashed and signed."""
    return cbor2.dumps(value, canonical=True)


def array(items: Sequence[Any]) -> bytes:
    """`canonical` of a list of fewer than 24 items; tuples of integers among them, such as sets of parties, are encoded once."""
    parts, start = [_head(len(items))], 0
    for at, item in enumerate(items):
        if type(item) is tuple:
            parts += [canonical(list(items[start:at]))[1:], _integers(item)]  # a list of so few has a head of one byte
            start = at + 1
    parts.append(canonical(list(items[start:]))[1:])
    return b"".join(parts)


def _head(count: int) -> bytes:
    """The head of a list of so many items."""
    if count > 23:
        raise Misuse(f"a statement or message has at most 23 parts, not {count}")
    return bytes([0x80 | count])


_LATELY: deque[tuple[tuple[int, ...], object, bytes]] = deque(maxlen=8)
"""Tuples of integers, the very objects, with what they were checked against, and their encoding."""


def _integers(values: tuple[int, ...]) -> bytes:
    for known, _, encoded in _LATELY:
        if known is values:
            return encoded
    encoded = canonical(values)
    _LATELY.append((values, None, encoded))
    return encoded


def digest(value: Any) -> bytes:
    """SHA-256 of the canonical encoding."""
    return hashlib.sha256(canonical(value)).digest()


def encode(message: Message, epoch: int, limits: Limits) -> Iterator[bytes | memoryview]:
    """The wire bytes: length and control first, then frames of vector bytes.

    Args:
        message: what to send.
        epoch: how many messages of this kind the sender has sent before in this session.
        limits: sizes of the session.

    Raises:
        Misuse: where a field of our own message breaks its bound.
    """
    kind = type(message)
    try:
        fields = [_field(read, getattr(message, name), limits.sizes) for name, read in readers(kind)]
    except Refused as error:
        raise Misuse(f"our own message breaks a bound: {error.detail}") from None
    control = b"".join([_head(2 + len(fields)), canonical(kind.__name__), canonical(epoch), *fields])
    yield len(control).to_bytes(4, "little") + control
    for name in _names(kind)[1]:
        yield from getattr(message, name).frames(FRAME)


def _field(read: Reader, value: Any, sizes: Sizes) -> bytes:
    """One field, checked and encoded; a set of parties that stands in many messages once for all of them."""
    if type(value) is not tuple or not value or type(value[0]) is not int:
        plain = _plain(value)
        read(plain, sizes)
        return canonical(plain)
    at = read, sizes
    for known, checked, encoded in _LATELY:
        if known is value and checked == at:
            return encoded
    read(list(value), sizes)
    encoded = canonical(value)
    _LATELY.append((value, at, encoded))
    return encoded


def _dump(record: Record) -> list[Any]:
    """The control fields."""
    return [_plain(getattr(record, name)) for name in _names(type(record))[0]]


_NAMES: dict[type[Record], tuple[tuple[str, ...], tuple[str, ...]]] = {}


def _names(kind: type[Record]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a record's control fields, and of its vectors."""
    if kind not in _NAMES:
        raw = tuple(name for name, hint in schema(kind) if is_raw(hint))
        _NAMES[kind] = tuple(name for name, _ in schema(kind) if name not in raw), raw
    return _NAMES[kind]


_LEAVES = frozenset({int, bytes, str})


def _plain(value: Any) -> Any:
    if type(value) in _LEAVES:
        return value
    if isinstance(value, tuple):
        leaves = bool(value) and type(value[0]) in _LEAVES  # items of a field are of one kind
        return list(value) if leaves else [_plain(item) for item in value]
    if isinstance(value, Record):
        return _dump(value)
    return value


def control_bytes(message: Message) -> bytes:
    """Canonical CBOR of the control fields alone, without name and epoch: what is hashed where a whole message is agreed upon."""
    return canonical(_dump(message))


Verdict = Literal["take", "wait", "skip"]
"""What becomes of a message whose control fields were read: its vectors are taken, must wait, or are read over."""


def _take(_kind: type[Message], _epoch: int) -> Verdict:
    return "take"


def longest(kinds: Mapping[str, type[Message]], limits: Limits) -> int:
    """Most control bytes that a message of these kinds may have."""
    return max((max_control(kind, *limits.sizes) for kind in kinds.values()), default=0)


class Decoder:
    """Reads one message from chunks of any size.  A chunk that breaks a bound is refused before it is stored.

    Args:
        kinds: the messages that may come, by name.
        limits: sizes of the session.
        judge: asked once the control fields are read, before anything is set aside for vectors; may raise `Refused`.
        most: control bytes that any of the kinds may have, where that is known; else it is computed.

    Attributes:
        waits: whether vector bytes are refused until somebody sets it to False.
    """

    __slots__ = ("_body", "_head", "_judge", "_kinds", "_limits", "_most", "_want", "waits")

    def __init__(
        self,
        kinds: Mapping[str, type[Message]],
        limits: Limits,
        judge: Callable[[type[Message], int], Verdict] = _take,
        most: int | None = None,
    ) -> None:
        self._kinds, self._limits, self._judge = kinds, limits, judge
        self.waits = False
        self._most = longest(kinds, limits) if most is None else most
        self._head, self._want = bytearray(), 4
        self._body: Body | None = None

    @property
    def done(self) -> bool:
        """Whether the message is complete."""
        return self._body is not None and not self._body.waiting

    @property
    def heading(self) -> tuple[type[Message], int] | None:
        """Kind and epoch of the message, once its control fields are read."""
        return None if self._body is None else (self._body.kind, self._body.epoch)

    def skip(self) -> None:
        """Forget the vectors that have come of a message whose control fields are read, and read over the rest."""
        self.waits = False
        if self._body is not None:
            self._body.skip()

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises:
            Refused: check ``wire-…``; the decoder must then be thrown away.
        """
        view = memoryview(chunk)
        if self._body is None and not self._head and len(view) > 4:  # mostly all of the control bytes come at once
            length = self._length(view[:4])
            if len(view) >= 4 + length:
                self._open(bytes(view[4 : 4 + length]))
                view = view[4 + length :]
        while self._body is None and view:
            take = min(self._want - len(self._head), len(view))
            self._head += view[:take]
            view = view[take:]
            if len(self._head) < self._want:
                return
            if self._want == 4:
                self._want = 4 + self._length(self._head)
            else:
                self._open(bytes(self._head[4:]))
        if self._body is not None:
            require(not (self.waits and view), "wire-turn", "vector bytes before their turn")
            self._body.feed(view)

    def _length(self, head: bytes | bytearray | memoryview) -> int:
        length = int.from_bytes(head, "little")
        if not 0 < length <= self._most:  # no `require`, here and where else every message passes: it makes its text first
            raise Refused("wire-bound", f"{length} control bytes where at most {self._most} may come")
        return length

    def _open(self, control: bytes) -> None:
        kind, epoch, values = parse_control(control, self._kinds, self._limits)
        verdict = self._judge(kind, epoch)
        self._head, self.waits = bytearray(), verdict == "wait"
        self._body = Body(kind, epoch, values, self._limits)
        if verdict == "skip":
            self._body.skip()

    def message(self) -> tuple[Message, int] | None:
        """The complete message and its epoch, or None where it was read over."""
        if self._body is None or not self.done:
            raise Refused("wire-truncated", "the message is not complete")
        return None if self._body.skipped else (self._body.build(), self._body.epoch)


Heads = Sequence[tuple[bytes, int]]
"""With what the control bytes of each kind of message begin, and how many vector bytes follow its control bytes."""


def heads(kinds: Mapping[str, type[Message]], limits: Limits) -> Heads:
    """Of the kinds whose vectors have a layout in ``limits``."""
    known = [kind for kind in kinds.values() if all(key in limits.vectors for _, key in raw_fields(kind))]
    return [
        (_head(2 + len(readers(kind))) + canonical(kind.__name__), sum(limits.vectors[key].nbytes for _, key in raw_fields(kind)))
        for kind in known
    ]


def whole(chunk: bytes | memoryview, known: Heads, most: int) -> tuple[bytes, memoryview] | None:
    """Control and vector bytes of a chunk that is as long as the message that it begins with, which most are; None for another.

    ``known`` and ``most`` are `heads` and `longest` of the kinds that may come.
    """
    view = memoryview(chunk)
    end = 4 + int.from_bytes(view[:4], "little")
    if not 4 < end <= min(4 + most, len(view)):
        return None
    control = bytes(view[4:end])
    for head, follows in known:
        if control.startswith(head):
            return (control, view[end:]) if end + follows == len(view) else None
    return None


def _refuse_tag(*_: Any) -> Any:
    raise Refused("wire-canonical", "a tag")


_NO_TAGS = dict.fromkeys([*range(512), 1004, 43000, 55799], _refuse_tag)
"""Every tag that cbor2 would act on, refused before it does: shared references alone unfold 100 bytes to gigabytes."""


def parse_control(data: bytes, kinds: Mapping[str, type[Message]], limits: Limits) -> tuple[type[Message], int, dict[str, Any]]:
    """Decode and check control bytes: ``(kind, epoch, fields)``; raw fields are left out.

    Raises:
        Refused: ``wire-canonical`` for bytes that are no deterministic CBOR, ``wire-kind`` for a message that may not come here,
            ``wire-field`` for a field of the wrong type or out of its bound.
    """
    if not sharing():
        return _parse_control(data, kinds, limits)
    return lately("control", (data, limits.sizes, frozenset(kinds.values())), lambda: _parse_control(data, kinds, limits))


def check_items(data: bytes, most: int) -> None:
    """Refuse more items than a message may have before anything is decoded: an item of one byte may take 85 in memory.

    Raises:
        Refused: ``wire-canonical``.
    """
    at = items = 0
    while at < len(data):
        items += 1
        major, value = divmod(data[at], 32)
        at += 1
        if value > 23:
            require(value < 28, "wire-canonical", "an item of no or reserved length")
            size = 1 << value - 24
            value = int.from_bytes(data[at : at + size], "big")
            at += size
        at += value if major in (2, 3) else 0
        require(items <= most, "wire-canonical", f"more than {most} items")


def _loads(data: bytes) -> Any:
    try:
        return cbor2.loads(data, max_depth=12, allow_indefinite=False, allow_duplicate_keys=False, semantic_decoders=_NO_TAGS)
    except Exception as error:  # noqa: BLE001  (cbor2 lets errors of tag handlers through)
        raise Refused("wire-canonical", f"not CBOR ({type(error).__name__})") from None


def read_canonical(data: bytes, most: int, items: int | None = None) -> Any:
    """The tree of a document of deterministic CBOR of at most ``most`` bytes; its types are the caller's to check.

    Args:
        data: the document.
        most: bytes that it may have.
        items: that it may have, lists and what is in them; None for as many as fit.

    Raises:
        Refused: ``wire-bound`` for more bytes, ``wire-canonical`` for what is no deterministic CBOR, or more items.
    """
    require(len(data) <= most, "wire-bound", f"{len(data)} bytes where at most {most} may come")
    if items is not None:
        check_items(data, items)
    tree = _loads(data)
    try:
        same = canonical(tree) == data
    except (TypeError, ValueError, cbor2.CBOREncodeError):
        same = False
    require(same, "wire-canonical", "not the deterministic encoding, or trailing bytes")
    return tree


def _parse_control(data: bytes, kinds: Mapping[str, type[Message]], limits: Limits) -> tuple[type[Message], int, dict[str, Any]]:
    if limits.steps > 1 and len(data) > longest(kinds, replace(limits, steps=1)):
        check_items(data, max(max_items(kind, limits.sizes) for kind in kinds.values()))
    tree = _loads(data)
    if type(tree) is not list or len(tree) < 2 or type(tree[0]) is not str or type(tree[1]) is not int:
        raise Refused("wire-kind", "no message")
    name, epoch, *values = tree
    require(name in kinds and 0 <= epoch < 2**32, "wire-kind", "a message that may not come here")
    fields = read_fields(kinds[name], values, limits.sizes)  # before the second encoding, which is slow where a tree has odd shapes
    require(canonical(tree) == data, "wire-canonical", "not the deterministic encoding, or trailing bytes")
    return kinds[name], epoch, fields
