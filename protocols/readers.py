"""Checks of control fields against their bounds, made once from the annotations of a message (`protocols.schema`).

What it does not protect: a bound says how much may come, not whether it is true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from protocols.errors import Misuse, Refused
from protocols.schema import Count, Record, Size, Sizes, Span, Strings, actual, is_raw, schema

Reader = Callable[[Any, Sizes], Any]
"""Checks one field against its bound, given the sizes of the session, and gives its value."""


def read_fields(kind: type[Record], values: list[Any], sizes: Sizes) -> dict[str, Any]:
    """The control fields of a message by name, from what was decoded.

    Raises:
        Refused: ``wire-field`` for a field of the wrong type or out of its bound, or for another number of them.
    """
    named = readers(kind)
    if len(values) != len(named):
        raise Refused("wire-field", f"{kind.__name__} has {len(named)} fields, not {len(values)}")
    return {name: read(value, sizes) for (name, read), value in zip(named, values, strict=True)}


_READERS: dict[type[Record], tuple[tuple[str, Reader], ...]] = {}


def readers(kind: type[Record]) -> tuple[tuple[str, Reader], ...]:
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
        case Strings():
            return _strings(mark, where)
        case Span(low, high):
            return _span(low, high, where)
        case Count(low, high):
            return _items(_reader(get_args(base)[0], where), low, high, where)
    raise Misuse(f"the field {where} has no bound")


def _record(kind: type[Record], where: str) -> Reader:
    parts = [reader for _, reader in readers(kind)]

    def read(value: Any, sizes: Sizes) -> Any:
        if type(value) is not list or len(value) != len(parts):
            raise Refused("wire-field", f"{where} is no record of {len(parts)} fields")
        return kind(*[reader(part, sizes) for reader, part in zip(parts, value)])  # noqa: B905  (of equal lengths)

    return read


def _sized(base: type, low: int, most: int, where: str) -> Reader:
    def read(value: Any, _sizes: Sizes) -> Any:
        kind = type(value)
        if kind is not base:
            raise Refused("wire-field", f"{where} has the wrong type")
        size = len(value.encode()) if kind is str else len(value)
        if not low <= size <= most:
            raise Refused("wire-field", f"{where} of {size} bytes is out of its bound")
        return value

    return read


def _strings(mark: Strings, where: str) -> Reader:
    def read(value: Any, sizes: Sizes) -> Any:
        size, low, most = mark.of(sizes)
        if type(value) is not bytes or len(value) % size or not low <= len(value) // size <= most:
            raise Refused("wire-field", f"{where} is no run of {low} to {most} strings of {size} bytes")
        return value

    return read


def _span(low: int, high: int, where: str) -> Reader:
    def read(value: Any, _sizes: Sizes) -> Any:
        if type(value) is not int or not low <= value <= high:
            raise Refused("wire-field", f"{where} is no integer in [{low}, {high}]")
        return value

    return read


def _items(read_one: Reader, low: int, high: int, where: str) -> Reader:
    def read(value: Any, sizes: Sizes) -> Any:
        most = actual(high, sizes)
        if type(value) is not list or not low <= len(value) <= most:
            raise Refused("wire-field", f"{where} is no list of {low} to {most}")
        return tuple([read_one(part, sizes) for part in value])

    return read
