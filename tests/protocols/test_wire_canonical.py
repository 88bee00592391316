"""Control bytes: garbage is parsed or refused, and one content has one encoding."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from messages import KINDS, LIMITS, framed, outcome, parse
from strategies import same

from protocols.agreement import Dropped
from protocols.errors import Misuse, Refused
from protocols.schema import schema
from protocols.secagg_types import Advert
from protocols.wire import array, canonical, parse_control, read_canonical

CBOR = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.binary(max_size=40)
    | st.text(max_size=10)
    | st.datetimes().map(str),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | inner.map(lambda v: cbor2.CBORTag(7, v))
    ),
    max_leaves=12,
)


@given(
    st.one_of(
        CBOR,
        st.tuples(st.sampled_from(sorted(KINDS)), CBOR, CBOR),
        st.lists(CBOR, min_size=1, max_size=6).map(lambda v: ["Sample", 0, *v]),
    )
)
@settings(max_examples=250)
def test_any_cbor_is_parsed_or_refused(tree: Any) -> None:
    for data in (cbor2.dumps(tree), cbor2.dumps(tree, canonical=True)):
        how, got = outcome(lambda data=data: parse_control(data, KINDS, LIMITS))
        if how == "refused":
            assert got in ("wire-canonical", "wire-kind", "wire-field")
        else:
            kind, epoch, values = got
            assert canonical([kind.__name__, epoch, *tree[2:]]) == data
            assert set(values) <= {name for name, _ in schema(kind)}


@given(st.binary(max_size=200))
@example(b"\x9f" * 200)
@example(b"\x81" * 200)
@example(b"\xc1" * 200)
@example(b"\xc2\x58\xff")
@example(b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff")
@example(b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff")
@example(b"\x9b\x00\x00\x00\x00\x7f\xff\xff\xff")
@example(b"\xbb\x00\x00\x00\x00\x7f\xff\xff\xff")
@example(b"\x7b\x00\x00\x00\x00\x7f\xff\xff\xff")
@example(b"\xd8\x1c\x81\xd8\x1d\x00")  # a value that holds itself
@example(b"\xc0\x61x")
@example(b"\xc1\xfb\x7f\xef\xff\xff\xff\xff\xff\xff")  # a time beyond all calendars
@example(b"\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01")  # a decimal of 2^63 digits
@example(b"\xd8\x1e\x82\x01\x00")  # one over zero
@example(b"\xd8\x23\x61(")  # a broken pattern
@example(b"\xd9\x01\x02\x81\x81\x00")  # a set of lists
@example(b"\xa1\x80\x00")
@settings(max_examples=300)
def test_control_that_is_random_bytes_is_refused(data: bytes) -> None:
    with pytest.raises(Refused) as refused:
        parse_control(data, KINDS, LIMITS)
    assert refused.value.check in ("wire-canonical", "wire-kind", "wire-field")


# One content, one encoding


def head(major: int, value: int, width: int) -> bytes:
    """A CBOR head whose argument takes ``width`` extra bytes (0 for inside the first)."""
    if width == 0:
        return bytes([major << 5 | value])
    return bytes([major << 5 | 24 + width.bit_length() - 1]) + value.to_bytes(width, "big")


ADVERT = Advert(bytes(range(32)), bytes(range(32, 64)), bytes(64))
GOOD = canonical(["Advert", 0, ADVERT.c_pk, ADVERT.s_pk, ADVERT.signature])
PARTS = [
    head(3, 6, 0) + b"Advert",
    b"\0",
    head(2, 32, 1) + ADVERT.c_pk,
    head(2, 32, 1) + ADVERT.s_pk,
    head(2, 64, 1) + ADVERT.signature,
]


def advert(**changed: bytes) -> bytes:
    names = ["name", "epoch", "c", "s", "signature"]
    body = [changed.get(name, part) for name, part in zip(names, PARTS, strict=True)]
    return changed.get("head", head(4, 5, 0)) + b"".join(body) + changed.get("tail", b"")


def test_the_handmade_encoding_is_the_good_one() -> None:
    assert advert() == GOOD
    assert same(parse(framed(GOOD))[0], ADVERT)


OTHER_SPELLINGS = {
    **{f"array head of {w}": advert(head=head(4, 5, w)) for w in (1, 2, 4, 8)},
    **{f"name head of {w}": advert(name=head(3, 6, w) + b"Advert") for w in (1, 2, 4, 8)},
    **{f"epoch of {w}": advert(epoch=head(0, 0, w)) for w in (1, 2, 4, 8)},
    **{f"key head of {w}": advert(c=head(2, 32, w) + ADVERT.c_pk) for w in (2, 4, 8)},
    "indefinite array": advert(head=b"\x9f", tail=b"\xff"),
    "indefinite bytes": advert(c=b"\x5f" + PARTS[2] + b"\xff"),
    "indefinite bytes in pieces": advert(
        c=b"\x5f" + head(2, 16, 0) + ADVERT.c_pk[:16] + head(2, 16, 0) + ADVERT.c_pk[16:] + b"\xff"
    ),
    "indefinite text": advert(name=b"\x7f" + PARTS[0] + b"\xff"),
    "half float as epoch": advert(epoch=b"\xf9\x00\x00"),
    "float as epoch": advert(epoch=b"\xfa\x00\x00\x00\x00"),
    "double as epoch": advert(epoch=b"\xfb" + bytes(8)),
    "false as epoch": advert(epoch=b"\xf4"),
    "true as epoch": advert(epoch=b"\xf5"),
    "null as epoch": advert(epoch=b"\xf6"),
    "undefined as epoch": advert(epoch=b"\xf7"),
    "simple value as epoch": advert(epoch=b"\xe0"),
    "long simple value as epoch": advert(epoch=b"\xf8\xff"),
    "bignum as epoch": advert(epoch=b"\xc2\x41\x00"),
    "empty bignum as epoch": advert(epoch=b"\xc2\x40"),
    "large bignum as epoch": advert(epoch=b"\xc2\x49" + b"\xff" * 9),
    "negative epoch": advert(epoch=b"\x20"),
    "epoch of 2^32": advert(epoch=head(0, 2**32, 8)),
    "tagged array": b"\xd9\xd9\xf7" + GOOD,
    "tagged name": advert(name=b"\xc0" + PARTS[0]),
    "tagged key": advert(c=b"\xd8\x40" + PARTS[2]),
    "text as key": advert(c=head(3, 32, 1) + ADVERT.c_pk),
    "bytes as name": advert(name=head(2, 6, 0) + b"Advert"),
    "null as key": advert(c=b"\xf6"),
    "array as key": advert(c=head(4, 1, 0) + PARTS[2]),
    "map instead of array": b"\xa3" + b"".join(PARTS) + b"\x00",
    "map with a key twice": advert(c=b"\xa2\x01\x02\x01\x02"),
    "shared reference": b"\xd8\x1c" + GOOD,
    "string reference": b"\xd9\x01\x00" + GOOD,
    "a break": advert(tail=b"\xff"),
    "trailing byte": advert(tail=b"\x00"),
    "trailing copy": GOOD + GOOD,
    "too few fields": head(4, 4, 0) + b"".join(PARTS[:4]),
    "too many fields": head(4, 6, 0) + b"".join(PARTS) + b"\x00",
    "name alone": b"\x81" + PARTS[0],
    "empty array": b"\x80",
    "reserved head": b"\x9c" + b"".join(PARTS),
    "short key": advert(c=head(2, 31, 1) + ADVERT.c_pk[:31]),
    "long key": advert(c=head(2, 33, 1) + ADVERT.c_pk + b"\0"),
    "broken text": advert(name=head(3, 6, 0) + b"\xff\xfevert"),
    "surrogate in text": advert(name=head(3, 6, 0) + b"\xed\xa0\x80abc"),
    "unknown kind": advert(name=head(3, 6, 0) + b"advert"),
}


@pytest.mark.parametrize("data", OTHER_SPELLINGS.values(), ids=OTHER_SPELLINGS.keys())
def test_another_spelling_is_refused(data: bytes) -> None:
    assert data != GOOD
    with pytest.raises(Refused) as refused:
        parse(framed(data) if len(data) else b"")
    assert refused.value.check in ("wire-canonical", "wire-kind", "wire-field", "wire-bound")


@given(st.sampled_from([True, False, None, 1.0, 0.0, "1", b"1", [1], {}, -1, 0, 16385, 2**70]), st.integers(0, 2))
def test_an_index_is_an_integer_within_its_span(value: Any, others: int) -> None:
    data = canonical(["Dropped", 0, [*range(1, others + 1), value]])
    with pytest.raises(Refused) as refused:
        parse(framed(data))
    assert refused.value.check in ("wire-field", "wire-bound", "wire-canonical")
    assert parse(framed(canonical(["Dropped", 0, [*range(1, others + 1), 16384]])))


@given(st.integers(0, 12))
def test_lists_are_bounded_by_the_number_of_parties(count: int) -> None:
    data = framed(canonical(["Dropped", 0, [1] * count]))
    if count <= LIMITS.parties:
        assert parse(data)[0] == Dropped((1,) * count)
    else:
        with pytest.raises(Refused, match="no list of 0 to 5"):
            parse(data)
    if count in (0, 1):
        with pytest.raises(Refused, match="wire-field"):
            parse(framed(canonical(["Agreed", 0, []])))


LEAVES = st.integers(0, 2**40) | st.binary(max_size=40) | st.text(max_size=9)
ITEMS = LEAVES | st.lists(st.integers(0, 70000)) | st.lists(st.booleans())


@given(st.lists(ITEMS, max_size=23))
def test_a_statement_is_the_canonical_encoding_of_its_parts(items: list[Any]) -> None:
    assert array(items) == array(items) == canonical(items)


def test_a_statement_of_many_parts_is_refused() -> None:
    with pytest.raises(Misuse, match="at most 23"):
        array([0] * 24)


@given(
    st.binary(max_size=100) | CBOR.map(lambda tree: cbor2.dumps(tree)) | CBOR.map(lambda tree: cbor2.dumps(tree, canonical=True))
)
@example(b"\xd8\x1c\x80")
@example(b"\xd8\x1d\x00")
@example(b"\x9f\xff")
@example(b"\x18\x01")
@example(b"\x00\x00")
def test_a_document_is_read_if_it_is_the_one_encoding_of_its_content(data: bytes) -> None:
    how, got = outcome(lambda: read_canonical(data, 1000))
    if how == "refused":
        assert got == "wire-canonical"
    else:
        assert canonical(got) == data


def test_a_document_is_refused_for_its_length_before_it_is_read() -> None:
    data = canonical([bytes(50)])
    assert read_canonical(data, len(data)) == [bytes(50)]
    with pytest.raises(Refused, match="wire-bound"):
        read_canonical(data, len(data) - 1)
