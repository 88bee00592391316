"""What a field may be: each kind of bound against a statement of it in words, for values of every shape that the codec can give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocols.bulk import Bulk
from protocols.errors import Refused
from protocols.readers import read_fields
from protocols.schema import (
    MAX_PARTIES,
    PARTIES,
    STEPS,
    Count,
    Digest,
    Index,
    Message,
    PublicKey,
    Raw,
    Record,
    Signature,
    Size,
    Span,
    Strings,
    actual,
    has_vector,
    max_items,
    raw_fields,
    strings,
)

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


# What the bounds of all messages are made of


@given(st.integers(0, MAX_PARTIES), st.integers(2, MAX_PARTIES), st.integers(1, 4096))
def test_a_bound_that_is_a_number_is_the_same_in_every_session(bound: int, parties: int, sums: int) -> None:
    assert actual(bound, (parties, sums)) == bound
    assert (actual(PARTIES, (parties, sums)), actual(STEPS, (parties, sums))) == (parties, sums)


@given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.integers(1, 4096))
def test_strings_of_one_sum_are_as_long_in_every_session(size: int, low: int, more: int, sums: int) -> None:
    assert Strings(size, low, low + more).of((2, sums)) == (size, low, low + more)


@given(st.lists(st.binary(min_size=3, max_size=3)))
def test_strings_one_after_the_other_come_apart_again(parts: list[bytes]) -> None:
    assert strings(b"".join(parts), 3) == parts


@dataclass(frozen=True)
class Common(Message):
    index: Index
    digest: Digest
    key: PublicKey
    signature: Signature


@given(
    st.sampled_from([0, 1, 2, MAX_PARTIES, MAX_PARTIES + 1]) | st.integers(1, MAX_PARTIES),
    st.tuples(*[st.sampled_from([size, size, size, size - 1, size + 1]) for size in (32, 32, 64)]),
)
@settings(max_examples=300)
def test_indexes_are_those_of_16384_parties_and_keys_hashes_and_signatures_have_one_length(
    index: int, sizes: tuple[int, ...]
) -> None:
    values = [index, *map(bytes, sizes)]
    if 1 <= index <= 1 << 14 and sizes == (32, 32, 64):
        assert list(read_fields(Common, values, SIZES).values()) == values
    else:
        with pytest.raises(Refused, match="wire-field"):
            read_fields(Common, values, SIZES)


@dataclass(frozen=True)
class Carrying(Message):
    index: Index
    first: Annotated[Bulk, Raw("a")]
    key: PublicKey
    second: Annotated[Bulk, Raw("b")]


def test_vectors_are_told_from_fields() -> None:
    assert (has_vector(Carrying), has_vector(Common)) == (True, False)
    assert (raw_fields(Carrying), raw_fields(Common)) == ((("first", "a"), ("second", "b")), ())
    assert list(read_fields(Carrying, [1, bytes(32)], SIZES)) == ["index", "key"]


@dataclass(frozen=True)
class Keys(Record):
    keys: Annotated[tuple[Digest, ...], Count(0, PARTIES)]


@dataclass(frozen=True)
class Deep(Message):
    one: Keys
    many: Annotated[tuple[Keys, ...], Count(0, PARTIES)]
    vector: Annotated[Bulk, Raw("a")]


def items(tree: Any) -> int:
    return 1 + sum(map(items, tree)) if type(tree) is list else 1


@given(st.integers(2, 20), st.integers(1, 20))
def test_as_many_items_are_allowed_as_the_largest_message_has_lists_in_lists_among_them(parties: int, sums: int) -> None:
    keys = [[bytes(32)] * parties]
    values = [keys, [keys] * parties]
    assert max_items(Deep, (parties, sums)) == items(["Deep", 0, *values])
    assert list(read_fields(Deep, values, (parties, sums))) == ["one", "many"]
