"""Time as an argument: what a driver asks for the time, so that tests can say what it is.

What it does not protect: a machine's clock that goes wrong makes certificates look valid, or not, that are the other.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that only goes on, for deadlines, and the calendar, for certificates."""

    def now(self) -> float:
        """Seconds since some moment; never goes back."""

    def utc(self) -> datetime:
        """The calendar's time, with its time zone."""

    async def until(self, at: float) -> None:
        """Wait until `now` is ``at``."""


class SystemClock:
    """The machine's own."""

    def now(self) -> float:
        """As `time.monotonic`."""
        return time.monotonic()

    async def until(self, at: float) -> None:
        """As `asyncio.sleep`."""
        while (left := at - self.now()) > 0:
            await asyncio.sleep(left)

    def utc(self) -> datetime:
        """The machine's calendar."""
        return datetime.now(UTC)  # noqa: TID251  (here, for all drivers)
