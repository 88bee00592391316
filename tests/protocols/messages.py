"""Messages for the tests of the wire: one with every kind of field, and all that the package has."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

import protocols
from protocols.bulk import Blobs, Bulk, Packed
from protocols.errors import Refused
from protocols.field import Field
from protocols.ring import Ring
from protocols.schema import PARTIES, STEPS, Count, Digest, Index, Message, Raw, Record, Size, Span, Strings, actual, schema
from protocols.wire import Decoder, Limits

LIMITS = Limits(
    5,
    {
        "masked": Packed(Ring(23), 67),
        "answer": Packed(Field(31), 67),
        "boxes": Blobs(4, 30),
        "seeds": Blobs(2, 64),
        "words": Packed(Ring(60), 67),
        "total": Packed(Ring(60), 67),
        "opened": Packed(Ring(23), 67),
        "cipher": Packed(Ring(40), 67),
    },
    steps=3,
)


@dataclass(frozen=True)
class Item(Record):
    index: Index
    word: Annotated[str, Size(0, 6)]


@dataclass(frozen=True)
class Sample(Message):
    """Every kind of field."""

    number: Annotated[int, Span(-(2**63), 2**64 - 1)]
    small: Annotated[int, Span(0, 30)]
    digest: Digest
    blob: Annotated[bytes, Size(0, 300)]
    run: Annotated[bytes, Strings(3, 1, PARTIES)]
    longer: Annotated[bytes, Strings(1, 0, PARTIES, each=2)]
    steps: Annotated[bytes, Strings(2, STEPS, STEPS)]
    items: Annotated[tuple[Item, ...], Count(0, PARTIES)]
    numbers: Annotated[tuple[Annotated[int, Span(0, 10**6)], ...], Count(1, 3)]
    first: Annotated[Bulk, Raw("masked")]
    item: Item
    second: Annotated[Bulk, Raw("masked")]


def walk(kind: type) -> Iterator[type[Record]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from walk(sub)


def every_record() -> list[type[Record]]:
    """Every message and nested record of the package."""
    for module in pkgutil.walk_packages(protocols.__path__, "protocols."):
        importlib.import_module(module.name)
    return sorted({k for k in walk(Record) if k is not Message and k.__module__.startswith("protocols.")}, key=lambda k: k.__name__)


EVERY = every_record()
MESSAGES = [kind for kind in EVERY if issubclass(kind, Message)]
KINDS = {kind.__name__: kind for kind in [*MESSAGES, Sample]}


def parse(data: bytes, limits: Limits = LIMITS) -> tuple[Message, int]:
    decoder = Decoder(KINDS, limits)
    decoder.feed(data)
    return decoder.message()


def framed(control: bytes) -> bytes:
    return len(control).to_bytes(4, "little") + control


def largest(hint: Any, limits: Limits) -> Any:
    """The value of the most bytes that a field may have."""
    if isinstance(hint, type):
        return hint(**{name: largest(h, limits) for name, h in schema(hint)})
    base, mark = hint.__origin__, hint.__metadata__[0]
    if isinstance(mark, Strings):
        size, _, most = mark.of(limits.sizes)
        mark = Size(size * most)
    match mark:
        case Size(low, high):
            size = low if high is None else high
            return bytes(size) if base is bytes else "x" * size
        case Span(low, high):
            return high if high > -low else low
        case Count(_, high):
            return (largest(base.__args__[0], limits),) * actual(high, limits.sizes)
    layout: Any = limits.vectors[mark.key]
    if isinstance(layout, Blobs):
        return Bulk.of(layout, np.zeros((layout.count, layout.size), dtype=np.uint8))
    return Bulk.of(layout, np.zeros(67, dtype=layout.ring.dtype))


def outcome(act: Callable[[], Any]) -> tuple[str, Any]:
    """``("passed", result)``, or ``("refused", check)``; any other exception is not caught."""
    try:
        return "passed", act()
    except Refused as refused:
        return "refused", refused.check
