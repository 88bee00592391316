"""What a run measures about itself: seconds by step, bytes by party, and what reached the server."""

from __future__ import annotations

import inspect
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from protocols.flow import Flow, Step
from protocols.session import SERVER, Address, Letter
from protocols.simulate import Watch
from securefl.results import RunResult, ServerSaw, added

if TYPE_CHECKING:
    from securefl.audit.recording import Recording


class StepClock:
    """Sums seconds by step over all parties; the clock is an argument.

    Args:
        now: seconds, such as ``time.perf_counter``.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._before, self._round = dict[str, float](), dict[str, float]()

    def timed(self, flow: Flow) -> Flow:
        """The flow with every step, fold and check on arrival measured."""
        return flow.swap(**{step.name: self._step(step) for step in flow.steps})

    def _step(self, step: Step) -> Step:
        return replace(
            step,
            fn=self.measured(step.name, step.fn),
            fold=None if step.fold is None else self.measured(step.name, step.fold),
            admit=None if step.admit is None else self.measured(step.name, step.admit),
        )

    def measured(self, name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose seconds count as those of the step ``name``."""
        now = self._now

        def run(*args: Any, **kwargs: Any) -> Any:
            began = now()
            try:
                return fn(*args, **kwargs)
            finally:
                self._round[name] = self._round.get(name, 0.0) + now() - began

        return run

    def start_round(self) -> None:
        """Count the last round to those before it, and begin anew."""
        self._before, self._round = self.total(), {}

    def round(self) -> dict[str, float]:
        """Seconds by step in this round, all parties together."""
        return dict(self._round)

    def total(self) -> dict[str, float]:
        """Seconds by step over all rounds, all parties together."""
        return added(self._before, self._round)


class Traffic:
    """Bytes by party, and messages to the server.

    Attributes:
        names: of the parties that messages come from and go to, in the order of their roster; at first of all.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.up, self.down = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        self._count, self._bytes = Counter[type](), Counter[type]()

    def watch(self, letter: Letter, to: Address, size: int) -> None:
        """Count one delivery."""
        if to == SERVER:
            self.uploaded(type(letter.message), size, (letter.sender.index,))
        elif letter.sender == SERVER:
            self.downloaded(size, (to.index,))

    def uploaded(self, kind: type, size: int, senders: Collection[int]) -> None:
        """Count a message of so many bytes to the server from each of these."""
        for index in senders:
            self.up[self.names[index - 1]] += size
        self._count[kind] += len(senders)
        self._bytes[kind] += size * len(senders)

    def downloaded(self, size: int, to: Collection[int]) -> None:
        """Count a message of so many bytes from the server to each of these."""
        for index in to:
            self.down[self.names[index - 1]] += size

    def arrived(self, *flows: Flow) -> list[ServerSaw]:
        """The messages that reached the server, in the steps of these flows."""
        awaited = {kind: flow.receiver(kind).name for flow in flows for kind in flow.messages("server")}
        return [
            ServerSaw(kind.__name__, awaited.get(kind, "(leaves)"), count, self._bytes[kind], _shows(kind))
            for kind, count in self._count.items()
        ]

    def server_saw(self, flow: Flow, sums: int, size: int, *, hidden: bool = True, before: Flow | None = None) -> list[ServerSaw]:
        """What reached the server, and the one thing that it could open: ``sums`` sums of ``size`` values."""
        what = "the one thing it could open" if hidden else "beside every vector itself, which came in clear"
        return [
            *self.arrived(flow, *([before] if before is not None else [])),
            ServerSaw("Sum", "opened", sums, 8 * size * sums, f"the sum over all survivors: {what}"),
        ]


def beside(watch: Watch | None, recording: Recording | None) -> Watch | None:
    """Tells both of every delivery; the recording first, as what it writes down comes before anything follows from it."""
    if recording is None or not recording.watches:
        return watch
    if watch is None:
        return recording.watch
    first, then = recording.watch, watch

    def both(letter: Letter, to: Address, size: int) -> None:
        first(letter, to, size)
        then(letter, to, size)

    return both


class Gauge:
    """What the sums beside training measure: seconds, bytes, and the size of each sum that was opened.

    Args:
        names: names of the parties, in the order of the roster.
        when: before or after what.
        shows: what the sums show.
    """

    def __init__(self, names: Sequence[str], when: str = "before training", shows: str = "sums of feature statistics") -> None:
        self._when, self._shows = when, shows
        self.clock, self.traffic, self.sizes = StepClock(time.perf_counter), Traffic(names), list[int]()

    def added_to(self, result: RunResult, flow: Flow) -> RunResult:
        """The result of the training with these sums counted in; ``flow`` is the protocol's."""
        rows = {(row.message, row.step): row for row in self.traffic.arrived(flow)}
        if self.sizes:
            rows["Sum", ""] = ServerSaw("Sum", self._when, len(self.sizes), 8 * sum(self.sizes), self._shows)
        saw = list[ServerSaw]()
        for row in result.server_saw:
            more = rows.pop((row.message, row.step), None)
            saw.append(replace(row, count=row.count + more.count, size=row.size + more.size) if more else row)
        return replace(
            result,
            up={name: size + self.traffic.up[name] for name, size in result.up.items()},
            down={name: size + self.traffic.down[name] for name, size in result.down.items()},
            seconds=added(result.seconds, self.clock.total()),
            server_saw=[*saw, *rows.values()],
        )


def _shows(kind: type) -> str:
    """What a message is, in the words of its docstring."""
    return (inspect.getdoc(kind) or "").split("\n", 1)[0].rpartition("→ server: ")[2].rstrip(".")
