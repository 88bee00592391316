"""What a server or party writes about itself: one JSON object a line.

Every line about what happens in a sum has the correlation id of that sum, the same at the server and at all its parties.
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


def correlation_id(run: str, stage: str, number: int, attempt: int) -> str:
    """What stands in every line about one sum, in the server's log and in those of its parties alike.

    Args:
        run: name of the run.
        stage: what the sum is for, such as ``round``.
        number: of the round.
        attempt: of the round.
    """
    return f"{run}/{stage}/{number}.{attempt}"


class Correlated:
    """A log with the correlation id of the sum that is under way in every line.

    Args:
        log: where the lines go.

    Attributes:
        about: the id; None between two sums.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self.about: str | None = None

    @classmethod
    def over(cls, log: Log) -> Correlated:
        """The log itself, where it is one already."""
        return log if isinstance(log, cls) else cls(log)

    def __call__(self, event: str, **about: Value) -> None:
        """Write a line."""
        own: dict[str, Value] = {} if self.about is None else {"correlation_id": self.about}
        self._log(event, **own, **about)


def silent(event: str, **about: Value) -> None:
    """Write nothing."""
