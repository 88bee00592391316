"""Text for terminals that know no Unicode: our symbols are spelled out, and nothing fails."""

from __future__ import annotations

import codecs
import io
import os
from typing import TextIO

SPELLED = {
    **dict(zip("▁▂▃▄▅▆▇█", ".,:;=+*#", strict=True)),
    **dict.fromkeys("·–—−─━╸╺", "-"),
    "×": "x",
    "ε": "eps",
    "δ": "delta",
    "σ": "sigma",
    "Σ": "sum",
    "…": "...",
    "±": "+-",
    "→": "->",
    "≤": "<=",
    "≥": ">=",
}
"""Our symbols in ASCII; blocks of a picture and lines keep their width."""
ERRORS = "securefl.spelled"


def spell_out(*streams: TextIO) -> None:
    """Let streams spell out, or escape, what their encoding lacks, unless the user chose another way."""
    codecs.register_error(ERRORS, _spelled)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper) and stream.errors in {"strict", "backslashreplace", "surrogateescape"}:
            stream.reconfigure(errors=ERRORS)


def same_place(one: TextIO, other: TextIO) -> bool:
    """Whether two streams go to one terminal, file or pipe."""
    try:
        return os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # a stream of a program's own, without a file
        return False


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    return "".join(SPELLED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in letters), error.end
