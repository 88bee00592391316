"""What is said of a test vector that differs, or that is none."""

from __future__ import annotations

from typing import Any

import pytest

from protocols.errors import Misuse
from protocols.vectors_tree import Mismatch, Tree, compare, part, slug, unhex


def told(recorded: Tree, made: Tree) -> str:
    with pytest.raises(Mismatch) as mismatch:
        compare({"operations": [], **recorded}, {"operations": [], **made})
    return str(mismatch.value)


@pytest.mark.parametrize(
    ("recorded", "made", "words"),
    [
        ({"about": "a"}, {"about": "b"}, "about: recorded a, made b"),
        ({}, {"about": "b"}, "about: recorded nothing, made b"),
        ({"more": 1}, {}, "more: recorded 1, made nothing"),
        ({"more": True}, {"more": 1}, "more: recorded True, made 1"),
        ({"p": {"n": 3, "x": 1}}, {"p": {"n": 3}}, "p: x: recorded 1, made nothing"),
        ({"p": {"n": 3}}, {"p": 5}, "p: recorded {'n': 3}, made 5"),
        ({"p": 5}, {"p": {"n": 3}}, "p: recorded 5, made {'n': 3}"),
    ],
)
def test_the_entry_that_differs_is_named(recorded: Tree, made: Tree, words: str) -> None:
    assert told(recorded, made) == words


@pytest.mark.parametrize(
    ("recorded", "made", "words"),
    [
        ("0" * 40, "1" * 40, f"recorded {'0' * 40}, made {'1' * 40}"),
        ("0" * 41, "1" * 41, "recorded 00000000 at byte 0 of 20, made 11111111"),
        ("0f" + "00" * 20, "00" * 21, "recorded 0f000000 at byte 0 of 21, made 00000000"),
        ("00" * 20 + "ff", "00" * 21, "recorded ff at byte 20 of 21, made 00"),
        ("00" * 20, "00" * 21, "recorded the end at byte 20 of 21, made 00"),
        ("00" * 22, "00" * 21, "recorded 00 at byte 21 of 21, made the end"),
        (10**59, 1, f"recorded {10**59}, made 1"),
        (10**60, 1, f"recorded 1{'0' * 56}..., made 1"),
    ],
)
def test_of_what_is_long_the_first_byte_that_differs_is_said(recorded: Any, made: Any, words: str) -> None:
    assert told({"x": recorded}, {"x": made}) == f"x: {words}"


def test_operations_that_are_missing_or_too_many_are_counted() -> None:
    first, second = {"operation": "vanish"}, {"operation": "message", "type": "Advert", "from": "client 1"}
    few = told({"operations": [first]}, {"operations": [first, second]})
    assert few == "1 operations where 2 are made: operation 2 (message Advert from client 1) is missing"
    assert told({"operations": [first, second]}, {"operations": [first]}) == "2 operations where 1 are made: more follow"
    changed = told({"operations": [first, {**second, "type": "Boxes"}]}, {"operations": [first, second]})
    assert changed == "operation 2 (message Advert from client 1): type: recorded Boxes, made Advert"


@pytest.mark.parametrize(("kind", "word"), [(dict, "object"), (list, "list"), (str, "text"), (int, "integer")])
def test_an_entry_that_is_missing_or_of_another_kind_is_refused(kind: type, word: str) -> None:
    assert part({"x": kind()}, "x", kind) == kind()
    for tree in ({}, {"x": None}, {"x": 0.5}, {"x": True}, []):
        with pytest.raises(Misuse, match=f"^'x' is missing or no {word}$"):
            part(tree, "x", kind)


def test_bytes_are_lower_case_hex() -> None:
    assert unhex("00ff", "here") == b"\0\xff"
    for value in ("0", "zz", "FF", "00 ff", 0, None):
        with pytest.raises(Misuse, match="'here' holds what is no lower-case hex"):
            unhex(value, "here")


@pytest.mark.parametrize(
    ("text", "name"), [("secagg+", "secagg_plus"), ("KeyAdvert", "key_advert"), ("plain-insecure", "plain_insecure")]
)
def test_names_of_files(text: str, name: str) -> None:
    assert slug(text) == name
