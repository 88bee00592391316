"""What servers and parties have in common as processes: the address that they are given, and how they end on a signal."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from protocols.errors import Refused, SecureSumError
from securefl.errors import UserError, printable

STOPPED = 143
"""Exit code after SIGTERM, as shells have it."""


def address(text: str) -> None:
    """Refuse what is no HOST:PORT.

    Raises:
        UserError: for anything else.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UserError(f"{text!r} is no HOST:PORT, such as 127.0.0.1:7443")


def until_stopped(work: Callable[[], Coroutine[Any, Any, int]], draining: Callable[[], float] = lambda: 0.0) -> int:
    """Run it; SIGTERM and Ctrl-C let it end in good order.

    Args:
        work: what is run.
        draining: called on the first SIGTERM; for so many seconds more the work may come to an end by itself.
    """

    async def watched() -> int:
        task, loop = asyncio.ensure_future(work()), asyncio.get_running_loop()
        got = list[int]()

        def stop(number: int) -> None:
            got.append(number)
            left = draining() if len(got) == 1 and number == signal.SIGTERM else 0.0
            loop.call_later(left, task.cancel)

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        try:
            code = await task
        except asyncio.CancelledError:
            if not got:
                raise
        if not got:
            return code
        sys.stderr.write("securefl: stopped\n")
        return STOPPED if got[0] == signal.SIGTERM else 130

    try:
        return asyncio.run(watched())
    except Refused as error:
        raise SecureSumError(f"what the server said is refused: {error.check} ({printable(error.detail)})") from None
