"""Files of JSON lines in which every line holds the hash of the one before: what a tape and a party's log are made of.

A line is written whole and flushed before the next thing happens, so a process that is killed leaves a readable beginning.

What it does not protect: whoever keeps such a file can write it anew from any line on, with new hashes.  A hash that somebody else
noted, a signature over the line, or signed messages in it show that; the chain alone shows what was changed without such care.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from securefl.errors import UserError

LONGEST = 1000
"""Letters that are told of one thing, at most."""
MOST = 64 << 20
"""Longest line, in bytes: a list of all keys of the largest cohort has a fifth of that."""
LARGEST = 2**64
"""Whole numbers in a file are below this: the bound of a value under the widest ring is one of them."""
COUNTED = 2**53
"""What is counted is below this: lines, bytes, messages, parties."""
START = "0" * 64
"""What the first line holds in place of a hash."""
Tree = dict[str, Any]


class Unreadable(UserError):
    """A line that is none; the text names the file and the line, and does not grow with what stands there."""

    def __init__(self, text: str) -> None:
        super().__init__(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def dump(tree: Tree) -> bytes:
    """One line, in the one spelling that is read."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def load(data: bytes) -> Any:
    """JSON that somebody else wrote: numbers are finite and of bounded size, and text is text.

    Raises:
        ValueError, RecursionError: for anything else.
    """
    text = data.decode()
    tree = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_no_number)
    if _HALF.search(text):
        json.dumps(tree, ensure_ascii=False).encode()  # which refuses half a letter
    return tree


_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""How half of a letter is spelled, which is none without the other half."""


def no_json(error: Exception) -> str:
    """Why `load` refused something."""
    return f"it is no JSON: {error}" if type(error) is ValueError else "it is no JSON"


def _whole(digits: str) -> int:
    if len(digits) > len(str(LARGEST)) + 1 or not -LARGEST < (value := int(digits)) < LARGEST:
        raise ValueError("a number that is too large")
    return value


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError("a number that is too large")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def is_count(value: object) -> bool:
    """Whether a value out of a file counts something."""
    return type(value) is int and 0 <= value < COUNTED


def signed_part(body: bytes) -> bytes:
    """What is signed of a line: no statement of a protocol begins like this."""
    return b"securefl line\0" + body


class ChainWriter:
    """Appends lines to a file that must not exist.

    Args:
        path: the file.
        sign: makes a signature of each line, or None.

    Attributes:
        count: lines written so far.
        head: hash of the last line.

    Raises:
        OSError: where the file exists or cannot be written.
    """

    def __init__(self, path: Path, sign: Callable[[bytes], bytes] | None = None) -> None:
        self.path, self.count, self.head = path, 0, START
        self._sign, self._file = sign, path.open("xb")

    def add(self, kind: str, **fields: Any) -> None:
        """Write one line."""
        tree = {"n": self.count + 1, "prev": self.head, "kind": kind, **fields}
        if self._sign is not None:
            tree["signature"] = self._sign(signed_part(dump(tree))).hex()
        line = dump(tree)
        self._file.write(line + b"\n")
        self._file.flush()
        self.count, self.head = self.count + 1, hashlib.sha256(line).hexdigest()

    def close(self) -> None:
        """Nothing more is written."""
        self._file.close()

    def discard(self) -> None:
        """Leave nothing behind."""
        self.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True)
class Line:
    """One line of a file.

    Attributes:
        number: its place in the file, from 1.
        kind: what it is.
        tree: all that stands in it.
        digest: SHA-256 of its bytes, hex.
        broken: what is wrong with the chain here, or empty.
    """

    number: int
    kind: str
    tree: Tree
    digest: str
    broken: str = ""

    @property
    def body(self) -> bytes:
        """What a signature in the line is over."""
        return signed_part(dump({key: value for key, value in self.tree.items() if key != "signature"}))


def lines(path: Path) -> Iterator[Line]:
    """All lines of a file, one after the other.

    Raises:
        Unreadable: at the first that is none.
        OSError: where the file cannot be read.
    """
    before, digest = 0, START
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MOST + 1):
            number += 1
            tree = _tree(path, number, raw)
            broken = _broken(number, tree, before, digest)
            before, digest = tree["n"], hashlib.sha256(raw[:-1]).hexdigest()
            yield Line(number, tree["kind"], tree, digest, broken)


def _tree(path: Path, number: int, raw: bytes) -> Tree:
    if not raw.endswith(b"\n"):
        why = f"it is longer than {MOST} bytes" if len(raw) > MOST else "it ends in the middle, as when its writer was killed"
        raise Unreadable(f"{path}, line {number} is refused: {why}")
    try:
        tree = load(raw)
        spelled = isinstance(tree, dict) and dump(tree) == raw[:-1]
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path}, line {number} is refused: {no_json(error)}") from None
    named = spelled and is_count(tree.get("n")) and type(tree.get("kind")) is str
    if not named or not re.fullmatch("[0-9a-f]{64}", str(tree.get("prev"))):
        raise Unreadable(f"{path}, line {number} is refused: it is no line of a tape or log, in the one spelling that those have")
    return dict(tree)


def _broken(number: int, tree: Tree, before: int, digest: str) -> str:
    if tree["n"] != before + 1:
        missing = tree["n"] - before - 1
        what = f"{missing} before it missing" if missing > 0 else "it stands in the wrong place, or was put in"
        return f"line {number} says that it is number {tree['n']}, after number {before}: {what}"
    if tree["prev"] != digest:
        changed = f"line {number - 1} was changed after line {number} was written" if number > 1 else "something stood before it"
        return f"line {number} holds another hash of the line before: {changed}"
    return ""
