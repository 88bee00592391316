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
from dataclasses import dataclass
from typing import Any, Literal, get_args

import cbor2

from protocols.bulk import Bulk, Layout, hashed_on_arrival
from protocols.errors import Misuse, Refused, require
from protocols.once import lately
from protocols.schema import PARTIES, Count, Message, Record, Size, Span, is_raw, max_control, schema

FRAME = 1 << 20
"""Largest frame of vector bytes."""


@dataclass(frozen=True)
class Limits:
    """What a session knows about sizes before the first byte comes.

    Attributes:
        parties: number of invited parties; the bound behind `PARTIES`.
        vectors: layout of every raw field, by the key in its `Raw`.
    """

    parties: int
    vectors: Mapping[str, Layout]


def canonical(value: Any) -> bytes:
    """Deterministic CBOR (RFC 8949 §4.2) of nested lists, tuples, integers, bytes and text: what is hashed and signed."""
    return cbor2.dumps(value, canonical=True)


def array(items: Sequence[Any]) -> bytes:
    """`canonical` of a list of fewer than 24 items; tuples of integers among them, such as sets of parties, are encoded once."""
    if len(items) > 23:
        raise Misuse(f"a statement has at most 23 parts, not {len(items)}")
    parts = [_integers(item) if type(item) is tuple else canonical(item) for item in items]
    return b"".join([bytes([0x80 | len(items)]), *parts])


_LATELY: deque[tuple[tuple[int, ...], bytes]] = deque(maxlen=8)
"""Tuples of integers, the very objects, with their encoding."""


def _integers(values: tuple[int, ...]) -> bytes:
    for known, encoded in _LATELY:
        if known is values:
            return encoded
    encoded = canonical(values)
    _LATELY.append((values, encoded))
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
    values, bulks = _dump(message)
    try:
        _fields(type(message), values, limits)
    except Refused as error:
        raise Misuse(f"our own message breaks a bound: {error.detail}") from None
    control = canonical([type(message).__name__, epoch, *values])
    yield len(control).to_bytes(4, "little") + control
    for bulk in bulks:
        yield from bulk.frames(FRAME)


def _dump(record: Record) -> tuple[list[Any], list[Bulk]]:
    names, raw = _names(type(record))
    return [_plain(getattr(record, name)) for name in names], [getattr(record, name) for name in raw]


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
        return _dump(value)[0]
    return value


def control_bytes(message: Message) -> bytes:
    """Canonical CBOR of the control fields alone, without name and epoch: what is hashed where a whole message is agreed upon."""
    return canonical(_dump(message)[0])


Verdict = Literal["take", "wait", "skip"]
"""What becomes of a message whose control fields were read: its vectors are taken, must wait, or are read over."""


def _take(_kind: type[Message], _epoch: int) -> Verdict:
    return "take"


class Decoder:
    """Reads one message from chunks of any size.  A chunk that breaks a bound is refused before it is stored.

    Args:
        kinds: the messages that may come, by name.
        limits: sizes of the session.
        judge: asked once the control fields are read, before anything is set aside for vectors; may raise `Refused`.

    Attributes:
        waits: whether vector bytes are refused until somebody sets it to False.
    """

    __slots__ = ("_body", "_head", "_judge", "_kinds", "_limits", "_most", "_want", "waits")

    def __init__(
        self,
        kinds: Mapping[str, type[Message]],
        limits: Limits,
        judge: Callable[[type[Message], int], Verdict] = _take,
    ) -> None:
        self._kinds, self._limits, self._judge = kinds, limits, judge
        self.waits = False
        self._most = max((max_control(kind, limits.parties) for kind in kinds.values()), default=0)
        self._head, self._want = bytearray(), 4
        self._body: _Body | None = None

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
        while self._body is None and view:
            take = min(self._want - len(self._head), len(view))
            self._head += view[:take]
            view = view[take:]
            if len(self._head) < self._want:
                return
            if self._want == 4:
                length = int.from_bytes(self._head, "little")
                require(
                    0 < length <= self._most,
                    "wire-bound",
                    f"{length} control bytes where at most {self._most} may come",
                )
                self._want = 4 + length
            else:
                kind, epoch, values = parse_control(bytes(self._head[4:]), self._kinds, self._limits)
                verdict = self._judge(kind, epoch)
                self._head, self.waits = bytearray(), verdict == "wait"
                self._body = _Body(kind, epoch, values, self._limits)
                if verdict == "skip":
                    self._body.skip()
        if self._body is not None:
            require(not (self.waits and view), "wire-turn", "vector bytes before their turn")
            self._body.feed(view)

    def message(self) -> tuple[Message, int] | None:
        """The complete message and its epoch, or None where it was read over."""
        if self._body is None or not self.done:
            raise Refused("wire-truncated", "the message is not complete")
        return None if self._body.skipped else (self._body.build(), self._body.epoch)


@dataclass(slots=True)
class _Field:
    """A vector that is coming: nothing is set aside for it before its first byte."""

    name: str
    layout: Layout
    left: int
    parser: Any = None
    state: Any = None


class _Body:
    """A message whose control has been read and whose vectors are coming."""

    __slots__ = ("_values", "epoch", "kind", "skipped", "waiting")

    def __init__(self, kind: type[Message], epoch: int, values: dict[str, Any], limits: Limits) -> None:
        self.kind, self.epoch, self.skipped, self._values = kind, epoch, False, dict(values)
        layouts = {name: limits.vectors[get_args(hint)[1].key] for name, hint in schema(kind) if is_raw(hint)}
        self.waiting = [_Field(name, layout, layout.nbytes) for name, layout in layouts.items()]
        self._finish()

    def feed(self, view: memoryview) -> None:
        while view:
            require(self.waiting, "wire-trailing", "bytes after the end of the message")
            field = self.waiting[0]
            part, view = view[: field.left], view[field.left :]
            if not self.skipped:
                self._open(field)
                field.parser.feed(part)
                if hashed_on_arrival(field.layout):
                    field.state.update(part)
            field.left -= len(part)
            self._finish()

    def skip(self) -> None:
        self.skipped, self._values = True, {}
        for field in self.waiting:
            field.parser = field.state = None

    def _open(self, field: _Field) -> None:
        if field.parser is None:
            field.parser, field.state = field.layout.parser(), hashlib.sha256()

    def _finish(self) -> None:
        while self.waiting and self.waiting[0].left == 0:
            field = self.waiting.pop(0)
            if not self.skipped:
                self._open(field)
                sha256 = field.state.digest() if hashed_on_arrival(field.layout) else None
                self._values[field.name] = Bulk.received(field.layout, field.parser.vector(), sha256)

    def build(self) -> Message:
        return self.kind(**self._values)


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
    key = (data, limits.parties, frozenset(kinds.values()))
    return lately("control", key, lambda: _parse_control(data, kinds, limits))


def _parse_control(data: bytes, kinds: Mapping[str, type[Message]], limits: Limits) -> tuple[type[Message], int, dict[str, Any]]:
    try:
        tree = cbor2.loads(data, max_depth=12, allow_indefinite=False, allow_duplicate_keys=False, semantic_decoders=_NO_TAGS)
    except Exception as error:  # noqa: BLE001  (cbor2 lets errors of tag handlers through)
        raise Refused("wire-canonical", f"not CBOR ({type(error).__name__})") from None
    require(
        type(tree) is list and len(tree) >= 2 and type(tree[0]) is str and type(tree[1]) is int,
        "wire-kind",
        "no message",
    )
    name, epoch, *values = tree
    require(name in kinds and 0 <= epoch < 2**32, "wire-kind", "a message that may not come here")
    fields = _fields(kinds[name], values, limits)  # before the second encoding, which is slow where a tree has odd shapes
    require(canonical(tree) == data, "wire-canonical", "not the deterministic encoding, or trailing bytes")
    return kinds[name], epoch, fields


def _fields(kind: type[Record], values: list[Any], limits: Limits) -> dict[str, Any]:
    readers = _readers(kind)
    require(len(values) == len(readers), "wire-field", f"{kind.__name__} has {len(readers)} fields, not {len(values)}")
    parties = limits.parties
    return {name: read(value, parties) for (name, read), value in zip(readers, values, strict=True)}


Reader = Callable[[Any, int], Any]
"""Checks one field against its bound, given the number of parties, and gives its value."""


_READERS: dict[type[Record], tuple[tuple[str, Reader], ...]] = {}


def _readers(kind: type[Record]) -> tuple[tuple[str, Reader], ...]:
    """The readers of a record's fields but for its vectors, made once from its annotations."""
    if kind not in _READERS:
        named = [(name, hint) for name, hint in schema(kind) if not is_raw(hint)]
        _READERS[kind] = tuple((name, _reader(hint, f"{kind.__name__}.{name}")) for name, hint in named)
    return _READERS[kind]


def _reader(hint: Any, where: str) -> Reader:
    if isinstance(hint, type):
        return _record(hint, where)
    base, mark = get_args(hint)
    match mark:
        case Size(low, high):
            return _sized(base, low, low if high is None else high, where)
        case Span(low, high):
            return _span(low, high, where)
        case Count(low, high):
            return _items(_reader(get_args(base)[0], where), low, high, where)
    raise Misuse(f"the field {where} has no bound")


def _record(kind: type[Record], where: str) -> Reader:
    readers = [reader for _, reader in _readers(kind)]

    def read(value: Any, parties: int) -> Any:
        if type(value) is not list or len(value) != len(readers):
            raise Refused("wire-field", f"{where} is no record of {len(readers)} fields")
        return kind(*[reader(part, parties) for reader, part in zip(readers, value)])  # noqa: B905  (of equal lengths)

    return read


def _sized(base: type, low: int, most: int, where: str) -> Reader:
    def read(value: Any, _parties: int) -> Any:
        kind = type(value)
        if kind is not base:
            raise Refused("wire-field", f"{where} has the wrong type")
        size = len(value.encode()) if kind is str else len(value)
        if not low <= size <= most:
            raise Refused("wire-field", f"{where} of {size} bytes is out of its bound")
        return value

    return read


def _span(low: int, high: int, where: str) -> Reader:
    def read(value: Any, _parties: int) -> Any:
        if type(value) is not int or not low <= value <= high:
            raise Refused("wire-field", f"{where} is no integer in [{low}, {high}]")
        return value

    return read


def _items(read_one: Reader, low: int, high: int, where: str) -> Reader:
    def read(value: Any, parties: int) -> Any:
        most = parties if high == PARTIES else high
        if type(value) is not list or not low <= len(value) <= most:
            raise Refused("wire-field", f"{where} is no list of {low} to {most}")
        return tuple([read_one(part, parties) for part in value])

    return read
