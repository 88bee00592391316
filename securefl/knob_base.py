"""What all groups of a job's knobs have in common, and other files that users write: their base, and words of an error line."""

from __future__ import annotations

import difflib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Unit = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=1e6)]


class Knobs(BaseModel):
    """Base of the groups: frozen, no unknown key, no silent conversion, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def near(word: object, known: list[str] | tuple[str, ...], prefix: str = "") -> str:
    """``(did you mean …?)`` for the known word that is like ``word``; else nothing."""
    close = difflib.get_close_matches(word, known, n=1) if isinstance(word, str) else []
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def quote(value: object) -> str:
    """A value in an error line, cut to 60 letters."""
    try:
        text = ("true" if value else "false") if isinstance(value, bool) else repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a number too long to print"
    return text if len(text) <= 60 else text[:57] + "…"
