"""What a file of an old run is: a tape, a log of a party or evidence; so that the wrong command can name the right one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from securefl.audit import evidence, party_log, tape
from securefl.errors import UserError

Kind = Literal["tape", "log", "evidence"]
NAMES: dict[Kind, str] = {"tape": "the tape of a run", "log": "the log of a party", "evidence": "evidence against a party"}
READERS: dict[Kind, str] = {
    "tape": "securefl audit --tape {0}, and securefl replay {0}, read it",
    "log": "securefl audit --tape TAPE --log {0} holds it against a tape",
    "evidence": "securefl verify {0} reads it",
}
FORMATS: dict[str, Kind] = {tape.FORMAT: "tape", party_log.FORMAT: "log", evidence.FORMAT: "evidence"}
MOST = 1 << 22
"""Bytes that are looked at."""


def kind_of(path: Path) -> Kind | None:
    """What a file says that it is; None where that is nothing of these.

    Raises:
        OSError: where it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MOST)
    for text in (data.split(b"\n", 1)[0], data):
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError):
            continue
        said = tree.get("format") if isinstance(tree, dict) else None
        return FORMATS.get(said) if isinstance(said, str) else None
    return None


def expect(path: Path, wanted: Kind) -> None:
    """Refuse a file that says it is another of these kinds; what says nothing is left to whoever reads it.

    Raises:
        UserError: saying what it is, and what reads it.
        OSError: where it cannot be read.
    """
    found = kind_of(path)
    if found not in (None, wanted):
        raise UserError(f"{path} is {NAMES[found]}, not {NAMES[wanted]}: {READERS[found].format(path)}")
