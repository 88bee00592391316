"""The form of test vectors: trees of dicts, lists, text and integers, ready for JSON; reading and comparing them.

The form is that of the vectors of the IETF's draft-irtf-cfrg-vdaf: what a case starts from, then its *operations*, each with
``success``.  docs/vectors.md describes it for others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from protocols.errors import Misuse, SecureSumError

FORMAT = "securefl vectors 1"
Tree = dict[str, Any]
K = TypeVar("K")


class Mismatch(SecureSumError):
    """A vector and what was made from its seeds differ.  The text names the operation and what differs."""


def slug(text: str) -> str:
    """A name for a file: ``secagg+`` is ``secagg_plus``, ``KeyAdvert`` is ``key_advert``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).replace("+", "_plus").replace("-", "_").lower()


def part(tree: object, key: str, kind: type[K]) -> K:
    """An entry of a tree.

    Raises:
        Misuse: where it is missing or of another type.
    """
    value = tree.get(key) if isinstance(tree, dict) else None
    if type(value) is not kind:
        raise Misuse(f"{key!r} is missing or no {_KINDS[kind]}")
    return value


_KINDS: Mapping[type, str] = {dict: "object", list: "list", str: "text", int: "integer"}


def unhex(value: object, where: str) -> bytes:
    """The bytes of an entry.

    Raises:
        Misuse: where it is no text of lower-case hex digits, an even number of them.
    """
    if not isinstance(value, str) or not re.fullmatch(r"(?:[0-9a-f]{2})*", value):
        raise Misuse(f"{where!r} holds what is no lower-case hex")
    return bytes.fromhex(value)


def compare(recorded: Tree, made: Tree) -> None:
    """Compare a file with what was made again from its seeds.

    Raises:
        Mismatch: naming the first entry or operation that differs, and how.
    """
    for key in [*made, *(key for key in recorded if key not in made)]:
        if key != "operations" and not same(recorded.get(key), made.get(key)):
            raise Mismatch(f"{key}: {_difference(recorded.get(key), made.get(key))}")
    ours, theirs = part(recorded, "operations", list), made["operations"]
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False), 1):
        if not same(one, other):
            raise Mismatch(f"operation {number} ({title(other)}): {_difference(one, other)}")
    if len(ours) != len(theirs):
        missing = f"operation {len(ours) + 1} ({title(theirs[len(ours)])}) is missing" if len(ours) < len(theirs) else "more follow"
        raise Mismatch(f"{len(ours)} operations where {len(theirs)} are made: {missing}")


def same(one: Any, other: Any) -> bool:
    """Whether two trees are equal, types included: 1 is not true."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def title(operation: Tree) -> str:
    """An operation in words."""
    words = [operation["operation"], operation.get("type"), operation.get("from") and f"from {operation['from']}"]
    return " ".join(word for word in words if word)


def _difference(recorded: Any, made: Any) -> str:
    if isinstance(recorded, dict) and isinstance(made, dict):
        for key in [*made, *(key for key in recorded if key not in made)]:
            if not same(recorded.get(key), made.get(key)):
                return f"{key}: {_difference(recorded.get(key), made.get(key))}"
    if isinstance(recorded, str) and isinstance(made, str) and len(made) > 40:
        at = next((i for i, (a, b) in enumerate(zip(recorded, made, strict=False)) if a != b), min(len(recorded), len(made)))
        ours, theirs = (text[at & ~1 :][:8] or "the end" for text in (recorded, made))
        return f"recorded {ours} at byte {at // 2} of {len(made) // 2}, made {theirs}"
    return f"recorded {_short(recorded)}, made {_short(made)}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
