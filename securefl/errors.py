"""Errors of the learning layer that a user caused and can mend: one line, exit code 2."""

from __future__ import annotations

import re


class UserError(ValueError):
    """Bad input.  The text is one line that names the culprit and the allowed range."""


def quoted(name: str) -> str:
    """A name as it stands in a list: in quotes where it could be taken for more or less than one name."""
    return name if re.fullmatch(r"[\w.%/()<>=+-]+( [\w.%/()<>=+-]+)*", name) else repr(name)


def printable(text: object) -> str:
    """Text that somebody else wrote, for a terminal: what could move the cursor, or hide or reorder letters, is spelled out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
