"""What a server or party writes about itself: one JSON object a line, with the run and the round that it belongs to.

Names, numbers and ids of checks go in; no secret does, and nothing of a row.
"""

from __future__ import annotations

import json
import sys
from typing import Protocol, TextIO

from securefl.transport.clock import Clock

Value = str | int | float | bool | list[str] | None


class Log(Protocol):
    """Takes an event."""

    def __call__(self, event: str, **about: Value) -> None:
        """Something happened."""


class JsonLog:
    """Lines on a stream.

    Args:
        clock: for the time of each.
        stream: where they go; by default stderr.
        common: what stands in every line.
    """

    def __init__(self, clock: Clock, stream: TextIO | None = None, **common: Value) -> None:
        self._clock, self._stream, self._common = clock, stream, common

    def __call__(self, event: str, **about: Value) -> None:
        """Write a line."""
        line = {"time": self._clock.utc().isoformat(timespec="milliseconds"), "event": event, **self._common, **about}
        stream = self._stream or sys.stderr
        stream.write(json.dumps({key: value for key, value in line.items() if value is not None}) + "\n")
        stream.flush()


def silent(event: str, **about: Value) -> None:
    """Write nothing."""
