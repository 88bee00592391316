"""Messages and their bytes: deterministic CBOR for control fields, raw frames for vectors.

A message on the wire is ``length (4 bytes, little-endian) ‖ control ‖ vectors``.  Control is one CBOR array ``[name, epoch, field,
…]`` in the deterministic encoding of RFC 8949 §4.2; it is decoded, type-checked field by field, encoded again and compared, so a
second spelling of the same content, trailing bytes, tags, floats and simple values are refused.  Vectors never enter a codec: each
is a run of bytes whose length both sides know beforehand (`Limits.vectors`), sent in frames of at most `FRAME` bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin

import cbor2

from protocols.bulk import Bulk, Layout
from protocols.errors import Misuse, Refused, require
from protocols.schema import PARTIES, Count, Message, Raw, Record, Size, Span, max_control, schema

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


M = TypeVar("M", bound=Message)


def canonical(value: Any) -> bytes:
    """Deterministic CBOR (RFC 8949 §4.2) of nested lists, tuples, integers, bytes and text: what is hashed and signed."""
    return cbor2.dumps(value, canonical=True)


def digest(value: Any) -> bytes:
    """SHA-256 of the canonical encoding."""
    return hashlib.sha256(canonical(value)).digest()


def encode(message: Message, epoch: int, limits: Limits) -> Iterator[bytes]:
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
        if bulk.data is None:
            raise Misuse(f"a received vector in {type(message).__name__} has no bytes to send: lay it out with Bulk.of")
        data = memoryview(bulk.data)
        for start in range(0, len(data), FRAME):
            yield bytes(data[start : start + FRAME])


def _dump(record: Record) -> tuple[list[Any], list[Bulk]]:
    values, bulks = list[Any](), list[Bulk]()
    for name, _ in schema(type(record)):
        value = getattr(record, name)
        if isinstance(value, Bulk):
            bulks.append(value)
        else:
            values.append(_plain(value))
    return values, bulks


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return _dump(value)[0]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def control_bytes(message: Message) -> bytes:
    """Canonical CBOR of the control fields alone, without name and epoch: what is hashed where a whole message is agreed upon."""
    return canonical(_dump(message)[0])


class Decoder:
    """Reads one message from chunks of any size.  A chunk that breaks a bound is refused before it is stored.

    Args:
        kinds: the messages that may come, by name.
        limits: sizes of the session.
    """

    def __init__(self, kinds: Mapping[str, type[Message]], limits: Limits) -> None:
        self._kinds, self._limits = kinds, limits
        self._most = max((max_control(kind, limits.parties) for kind in kinds.values()), default=0)
        self._head, self._want = bytearray(), 4
        self._body: _Body | None = None

    @property
    def done(self) -> bool:
        """Whether the message is complete."""
        return self._body is not None and not self._body.waiting

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
                self._body = _Body(kind, epoch, values, self._limits)
        if self._body is not None:
            self._body.feed(view)

    def message(self) -> tuple[Message, int]:
        """The complete message and its epoch."""
        if self._body is None or not self.done:
            raise Refused("wire-truncated", "the message is not complete")
        return self._body.build(), self._body.epoch


class _Body:
    """A message whose control has been read and whose vectors are coming."""

    def __init__(self, kind: type[Message], epoch: int, values: dict[str, Any], limits: Limits) -> None:
        self.kind, self.epoch, self._values = kind, epoch, values
        self.waiting = list[tuple[str, int, Any, Any]]()
        for name, hint in schema(kind):
            if name not in values:
                layout = limits.vectors[get_args(hint)[1].key]
                self.waiting.append((name, layout.nbytes, layout.parser(), hashlib.sha256()))
        self._skip_empty()

    def feed(self, view: memoryview) -> None:
        while view:
            require(self.waiting, "wire-trailing", "bytes after the end of the message")
            name, left, parser, state = self.waiting[0]
            part, view = view[:left], view[left:]
            parser.feed(part)
            state.update(part)
            self.waiting[0] = (name, left - len(part), parser, state)
            self._skip_empty()

    def _skip_empty(self) -> None:
        while self.waiting and self.waiting[0][1] == 0:
            name, _, parser, state = self.waiting.pop(0)
            self._values[name] = Bulk(parser.vector(), state.digest())

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
    try:
        tree = cbor2.loads(data, max_depth=12, allow_indefinite=False, allow_duplicate_keys=False, semantic_decoders=_NO_TAGS)
        again = canonical(tree)
    except Exception as error:  # noqa: BLE001  (cbor2 lets errors of tag handlers and of unencodable values through)
        raise Refused("wire-canonical", f"not CBOR ({type(error).__name__})") from None
    require(again == data, "wire-canonical", "not the deterministic encoding, or trailing bytes")
    require(
        type(tree) is list and len(tree) >= 2 and type(tree[0]) is str and type(tree[1]) is int,
        "wire-kind",
        "no message",
    )
    name, epoch, *values = tree
    require(name in kinds and 0 <= epoch < 2**32, "wire-kind", "a message that may not come here")
    return kinds[name], epoch, _fields(kinds[name], values, limits)


def _fields(kind: type[Record], values: list[Any], limits: Limits) -> dict[str, Any]:
    plain = [(name, hint) for name, hint in schema(kind) if not _is_raw(hint)]
    require(len(values) == len(plain), "wire-field", f"{kind.__name__} has {len(plain)} fields, not {len(values)}")
    where = kind.__name__
    return {name: _load(hint, value, limits, f"{where}.{name}") for (name, hint), value in zip(plain, values, strict=True)}


def _is_raw(hint: Any) -> bool:
    return get_origin(hint) is Annotated and isinstance(get_args(hint)[1], Raw)


def _load(hint: Any, value: Any, limits: Limits, where: str) -> Any:
    if isinstance(hint, type):
        require(type(value) is list, "wire-field", f"{where} is no record")
        return hint(**_fields(hint, value, limits))
    base, mark = get_args(hint)
    match mark:
        case Size(low, high):
            require(type(value) is base, "wire-field", f"{where} has the wrong type")
            size = len(value.encode()) if base is str else len(value)
            require(
                low <= size <= (low if high is None else high),
                "wire-field",
                f"{where} of {size} bytes is out of its bound",
            )
        case Span(low, high):
            require(type(value) is int and low <= value <= high, "wire-field", f"{where} is no integer in [{low}, {high}]")
        case Count(low, high):
            most = limits.parties if high == PARTIES else high
            require(
                type(value) is list and low <= len(value) <= most,
                "wire-field",
                f"{where} is no list of {low} to {most}",
            )
            item = get_args(base)[0]
            return tuple(_load(item, part, limits, where) for part in value)
    return value
