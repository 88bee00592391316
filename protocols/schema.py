"""Messages as records whose every field carries its bound: what may travel, before anything does.

A bound stands in the annotation: `Size` for bytes and text, `Strings` for bytes that are strings of one length, `Span` for
integers, `Count` for tuples, `Raw` for a vector outside of the codec.  A class with an unbounded field is refused when its flow is
checked.

What it does not protect: a bound says how much may come, not whether it is true.
"""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin

from protocols.bulk import Bulk
from protocols.errors import Misuse

MAX_PARTIES = 16384
PARTIES = -1
"""As an upper bound of `Count` or `Strings`: the number of invited parties of the session."""
STEPS = -2
"""As a bound of `Strings`: the number of sums that the session prepares."""
Sizes = tuple[int, int]
"""What stands behind `PARTIES` and `STEPS` in one session."""


@dataclass(frozen=True)
class Size:
    """Bytes or text of ``low`` to ``high`` bytes (exactly ``low`` if ``high`` is not given)."""

    low: int
    high: int | None = None


@dataclass(frozen=True)
class Span:
    """An integer in [low, high]."""

    low: int
    high: int


@dataclass(frozen=True)
class Count:
    """A tuple of ``low`` to ``high`` items; ``high`` may be `PARTIES`."""

    low: int
    high: int


@dataclass(frozen=True)
class Strings:
    """Bytes: ``low`` to ``high`` strings of one length, one after the other; bounds may be `PARTIES` or `STEPS`.

    A string has ``size`` bytes, and ``each`` more for every sum that the session prepares.
    """

    size: int
    low: int
    high: int
    each: int = 0

    def of(self, sizes: Sizes) -> tuple[int, int, int]:
        """Bytes of a string, and fewest and most strings, in a session of these sizes."""
        return self.size + self.each * sizes[1], actual(self.low, sizes), actual(self.high, sizes)


@dataclass(frozen=True)
class Raw:
    """A vector outside the codec, described by the entry ``key`` of `Limits.vectors`."""

    key: str


def actual(value: int, sizes: Sizes) -> int:
    """A bound as a number: what stands behind `PARTIES` or `STEPS` in a session of these sizes."""
    return {PARTIES: sizes[0], STEPS: sizes[1]}.get(value, value)


Index = Annotated[int, Span(1, MAX_PARTIES)]
"""Roster index of a party, from 1."""
Digest = Annotated[bytes, Size(32)]
PublicKey = Annotated[bytes, Size(32)]
Signature = Annotated[bytes, Size(64)]


class Record:
    """Base of nested records: frozen dataclasses whose every field is bounded."""


class Message(Record):
    """Base of messages: what one party sends to another."""


_SCHEMAS: dict[type[Record], tuple[tuple[str, Any], ...]] = {}


def schema(kind: type[Record]) -> tuple[tuple[str, Any], ...]:
    """Names and annotations of the fields of a record, in order.

    Raises:
        Misuse: where a field has no bound.
    """
    if kind in _SCHEMAS:
        return _SCHEMAS[kind]
    if "__dataclass_fields__" not in vars(kind):
        raise Misuse(f"{kind.__name__} is not a dataclass")
    hints = typing.get_type_hints(kind, include_extras=True)
    out = tuple((f.name, hints[f.name]) for f in fields(kind))  # type: ignore[arg-type]
    for name, hint in out:
        _check_bounded(hint, f"{kind.__name__}.{name}")
    _SCHEMAS[kind] = out
    return out


def _check_bounded(hint: Any, where: str) -> None:
    if isinstance(hint, type) and issubclass(hint, Record):
        schema(hint)
        return
    base, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    match marks:
        case [Size()] if base in (bytes, str):
            return
        case [Strings()] if base is bytes:
            return
        case [Span()] if base is int:
            return
        case [Raw()] if base is Bulk:
            return
        case [Count()] if get_origin(base) is tuple:
            _check_bounded(get_args(base)[0], where)
            return
    raise Misuse(f"the field {where} has no bound")


def strings(data: bytes, size: int) -> list[bytes]:
    """The strings of ``size`` bytes each that ``data`` is made of (`Strings`)."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def is_raw(hint: Any) -> bool:
    """Whether the annotation of a field says that it is a vector outside the codec."""
    return get_origin(hint) is Annotated and isinstance(get_args(hint)[1], Raw)


def has_vector(kind: type[Message]) -> bool:
    """Whether messages of this kind carry a vector."""
    return any(is_raw(hint) for _, hint in schema(kind))


def raw_fields(kind: type[Record]) -> tuple[tuple[str, str], ...]:
    """Names of the vectors of a record, with the keys of their layouts."""
    return _raw_fields(typing.cast("Any", kind))


@lru_cache(maxsize=1024)
def _raw_fields(kind: Any) -> tuple[tuple[str, str], ...]:
    return tuple((name, get_args(hint)[1].key) for name, hint in schema(kind) if is_raw(hint))


def max_control(kind: type[Record], parties: int, steps: int = 1) -> int:
    """Largest number of control bytes that a message of this kind may have in a session of ``parties`` for ``steps`` sums."""
    return _max_control(typing.cast("Any", kind), (parties, steps))


@lru_cache(maxsize=1024)
def _max_control(kind: Any, sizes: Sizes) -> int:
    overhead = 64 if issubclass(kind, Message) else 9
    return overhead + sum(_max_field(hint, sizes) for _, hint in schema(kind))


def max_items(kind: type[Record], sizes: Sizes) -> int:
    """Most items of CBOR in the control bytes of a message or record: itself, its name and epoch, and all that is in its fields."""
    return _max_items(typing.cast("Any", kind), sizes)


@lru_cache(maxsize=1024)
def _max_items(kind: Any, sizes: Sizes) -> int:
    own = 3 if issubclass(kind, Message) else 1
    return own + sum(_items_of(hint, sizes) for _, hint in schema(kind))


def _items_of(hint: Any, sizes: Sizes) -> int:
    if isinstance(hint, type):
        return max_items(hint, sizes)
    base, mark = get_args(hint)
    return 1 + actual(mark.high, sizes) * _items_of(get_args(base)[0], sizes) if isinstance(mark, Count) else int(not is_raw(hint))


def _max_field(hint: Any, sizes: Sizes) -> int:
    if isinstance(hint, type):
        return _max_control(typing.cast("Any", hint), sizes)
    base, mark = get_args(hint)
    match mark:
        case Size(low, high):
            return 9 + (low if high is None else high)
        case Strings():
            size, _, most = mark.of(sizes)
            return 9 + most * size
        case Count(_, high):
            return 9 + actual(high, sizes) * _max_field(get_args(base)[0], sizes)
        case Raw():
            return 0
        case _:
            return 9
