"""What a reader is shown of a bundle's files: a unified diff against another bundle, in text that a terminal cannot take for more.

Every line of a file has ``+``, ``-`` or a space before it; lines of ours begin with ``===``, so no file can speak for us.  What
would move the cursor, or hide or reorder letters, is spelled out (`securefl.errors.printable`), and told by line beside it.

What it does not protect: letters that look alike; that there are letters beyond ASCII is told.
"""

from __future__ import annotations

import difflib
import hashlib
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from securefl.bundles.contents import Bundle
from securefl.errors import printable

State = Literal["new", "changed", "gone", "the same"]
MOST_WORK = 1_000_000
"""Pairs of equal lines up to which two files are compared line by line; beyond, the old one and the new one are shown whole."""
_OPEN = "\0"
"""Stands behind a last line that has no line end: no text of a bundle has this character."""
MOST_SHOWN = 10
BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and signs that are drawn as nothing."""


@dataclass(frozen=True)
class Change:
    """One file, beside the one of that name in another bundle.

    Attributes:
        name: of the file.
        state: what became of it.
        sha256: of its text, hexadecimal; empty where it is gone.
        lines: the diff, safe for a terminal; empty for what is the same.
        odd: what is told of letters that one may misread.
    """

    name: str
    state: State
    sha256: str
    lines: tuple[str, ...]
    odd: tuple[str, ...]

    @property
    def heading(self) -> str:
        """The line above the diff."""
        return f"=== {self.name}: {self.state}" + (f", SHA-256 {self.sha256}" if self.sha256 else "")


def changes(new: Bundle, old: Bundle | None) -> list[Change]:
    """Every file of two bundles, in the order of names; without an old one all are new."""
    before = {} if old is None else old.files
    out = list[Change]()
    for name in sorted(new.files.keys() | before.keys()):
        here, there = new.files.get(name), before.get(name)
        digest = "" if here is None else hashlib.sha256(here.encode()).hexdigest()
        state: State = "gone" if here is None else "new" if there is None else "the same" if here == there else "changed"
        lines = () if state == "the same" else tuple(_diff(name, there, here))
        out.append(Change(name, state, digest, lines, tuple(_odd(name, here or ""))))
    return out


def _diff(name: str, old: str | None, new: str | None) -> list[str]:
    a, b = _lines(old), _lines(new)
    counts = Counter(b)
    if sum(counts[line] for line in a) > MOST_WORK:
        found = [f"@@ -1,{len(a)} +1,{len(b)} @@", *(f"-{line}" for line in a), *(f"+{line}" for line in b)]
    else:
        heads = ("/dev/null" if old is None else f"approved/{name}", "/dev/null" if new is None else f"this/{name}")
        found = list(difflib.unified_diff(a, b, *heads, lineterm=""))
    return [part for line in found for part in _shown(line)]


def _shown(line: str) -> list[str]:
    whole = printable(line.removesuffix(_OPEN))
    return [whole, "\\ no line end at the end of the file"] if line.endswith(_OPEN) else [whole]


def _lines(text: str | None) -> list[str]:
    """Lines as Python's own parser has them: they end at a line feed alone."""
    if not text:
        return []
    *whole, last = text.split("\n")
    return [*whole, last + _OPEN] if last else whole


def _odd(name: str, text: str) -> list[str]:
    """What a reader may misread."""
    hidden, beyond = list[str](), list[int]()
    for number, line in enumerate(text.split("\n"), 1):
        if not line.isascii():
            beyond.append(number)
            hidden += [f"U+{ord(c):04X} {unicodedata.name(c, '')} on line {number}".replace("  ", " ") for c in line if _hides(c)]
    said = list[str]()
    if hidden:
        said.append(f"=== {name} has characters that do not show: {_few(hidden)}")
    if beyond:
        said.append(f"=== {name} has letters beyond ASCII, which may look like others, on lines {_few(list(map(str, beyond)))}")
    return said


def _hides(character: str) -> bool:
    """Whether it is blank, or drawn over its neighbour."""
    return (
        (not character.isprintable() and character != "\t") or unicodedata.category(character).startswith("M") or character in BLANK
    )


def _few(items: list[str]) -> str:
    more = len(items) - MOST_SHOWN
    return ", ".join(items[:MOST_SHOWN]) + (f" and {more} more" if more > 0 else "")
