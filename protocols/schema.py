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
"""As an upper bound of `Count`: the number of invited parties of the session."""


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
    """Bytes: ``low`` to ``high`` strings of ``size`` bytes each, one after the other; ``high`` may be `PARTIES`."""

    size: int
    low: int
    high: int


@dataclass(frozen=True)
class Raw:
    """A vector outside the codec, described by the entry ``key`` of `Limits.vectors`."""

    key: str


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


def max_control(kind: type[Record], parties: int) -> int:
    """Largest number of control bytes that a message of this kind may have in a session of ``parties``."""
    return _max_control(typing.cast("Any", kind), parties)


@lru_cache(maxsize=1024)
def _max_control(kind: Any, parties: int) -> int:
    overhead = 64 if issubclass(kind, Message) else 9
    return overhead + sum(_max_field(hint, parties) for _, hint in schema(kind))


def _max_field(hint: Any, parties: int) -> int:
    if isinstance(hint, type):
        return max_control(hint, parties)
    base, mark = get_args(hint)
    match mark:
        case Size(low, high):
            return 9 + (low if high is None else high)
        case Strings(size, _, high):
            return 9 + (parties if high == PARTIES else high) * size
        case Count(_, high):
            most = parties if high == PARTIES else high
            return 9 + most * _max_field(get_args(base)[0], parties)
        case Raw():
            return 0
        case _:
            return 9
