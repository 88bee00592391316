"""What a field may be: each kind of bound against a statement of it in words, for values of every shape that the codec can give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols.errors import Refused
from protocols.readers import read_fields
from protocols.schema import PARTIES, Count, Message, Record, Size, Span, Strings

SIZES = PEOPLE, SUMS = 3, 2


@dataclass(frozen=True)
class Pair(Record):
    number: Annotated[int, Span(2, 9)]
    key: Annotated[bytes, Size(2)]


@dataclass(frozen=True)
class Text(Message):
    field: Annotated[str, Size(1, 4)]


@dataclass(frozen=True)
class Blob(Message):
    field: Annotated[bytes, Size(1, 4)]


@dataclass(frozen=True)
class Number(Message):
    field: Annotated[int, Span(2, 9)]


@dataclass(frozen=True)
class Run(Message):
    field: Annotated[bytes, Strings(1, 1, PARTIES, each=1)]


@dataclass(frozen=True)
class Many(Message):
    field: Annotated[tuple[Pair, ...], Count(1, PARTIES)]


@dataclass(frozen=True)
class Nested(Message):
    field: Pair


def pair(v: Any) -> bool:
    return type(v) is list and len(v) == 2 and number(v[0]) and type(v[1]) is bytes and len(v[1]) == 2


def number(v: Any) -> bool:
    return type(v) is int and v in range(2, 10)


ALLOWED: dict[type[Message], Callable[[Any], bool]] = {
    Text: lambda v: type(v) is str and len(v.encode()) in range(1, 5),
    Blob: lambda v: type(v) is bytes and len(v) in range(1, 5),
    Number: number,
    Run: lambda v: type(v) is bytes and len(v) in [strings * (1 + SUMS) for strings in range(1, PEOPLE + 1)],
    Many: lambda v: type(v) is list and len(v) in range(1, PEOPLE + 1) and all(map(pair, v)),
    Nested: pair,
}
LEAF = st.one_of(
    st.integers(-1, 10), st.binary(max_size=13), st.text("aé€😀", max_size=5), st.none(), st.booleans(), st.just(2.0), st.just({})
)
PAIR = st.tuples(st.integers(1, 10), st.binary(min_size=1, max_size=3)).map(list)
GOOD = st.just([2, b"ab"])
VALUE = st.one_of(LEAF, PAIR, GOOD, st.lists(PAIR | GOOD | LEAF, max_size=5), st.lists(GOOD, max_size=5))


@pytest.mark.parametrize("kind", ALLOWED)
@given(VALUE)
@example("€€")  # two letters of six bytes
@example("€")
@example(bytes(2))
@example(bytes(4))
@example(bytes(12))
@example(bytearray(3))
@settings(max_examples=300)
def test_a_field_is_taken_if_and_only_if_it_is_within_its_bound(kind: type[Message], value: Any) -> None:
    if ALLOWED[kind](value):
        assert list(read_fields(kind, [value], SIZES)) == ["field"]
        return
    with pytest.raises(Refused) as refused:
        read_fields(kind, [value], SIZES)
    assert refused.value.check == "wire-field"


@pytest.mark.parametrize("values", [[], [2, 2]])
def test_a_field_too_few_or_too_many_is_refused(values: list[int]) -> None:
    with pytest.raises(Refused) as refused:
        read_fields(Number, values, SIZES)
    assert refused.value.check == "wire-field"
