"""What a run measures about itself: seconds by step, bytes by party, and what reached the server."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from protocols.flow import Flow, Step
from protocols.session import SERVER, Address, Letter
from securefl.results import ServerSaw


class StepClock:
    """Sums seconds by step over all parties; the clock is an argument.

    Args:
        now: seconds, such as ``time.perf_counter``.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now, self._total, self._round = now, Counter[str](), Counter[str]()

    def timed(self, flow: Flow) -> Flow:
        """The flow with every step, fold and check on arrival measured."""
        return flow.swap(**{step.name: self._step(step) for step in flow.steps})

    def _step(self, step: Step) -> Step:
        return replace(
            step,
            fn=self._measured(step.name, step.fn),
            fold=None if step.fold is None else self._measured(step.name, step.fold),
            admit=None if step.admit is None else self._measured(step.name, step.admit),
        )

    def _measured(self, name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = self._now()
            try:
                return fn(*args, **kwargs)
            finally:
                spent = self._now() - began
                self._total[name] += spent  # type: ignore[assignment]
                self._round[name] += spent  # type: ignore[assignment]

        return run

    def start_round(self) -> None:
        """Forget the last round."""
        self._round.clear()

    def round(self) -> dict[str, float]:
        """Seconds by step in this round, all parties together."""
        return dict(self._round)

    def total(self) -> dict[str, float]:
        """Seconds by step over all rounds, all parties together."""
        return dict(self._total)


class Traffic:
    """Bytes by party, and messages to the server.

    Args:
        names: names of the parties, in the order of the roster.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.up, self.down = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        self._count, self._bytes = Counter[type](), Counter[type]()

    def watch(self, letter: Letter, to: Address, size: int) -> None:
        """Count one delivery."""
        if to == SERVER:
            self.up[self._names[letter.sender.index - 1]] += size
            self._count[type(letter.message)] += 1
            self._bytes[type(letter.message)] += size
        elif letter.sender == SERVER:
            self.down[self._names[to.index - 1]] += size

    def server_saw(self, flow: Flow, sums: int, size: int, *, hidden: bool = True) -> list[ServerSaw]:
        """What reached the server, and the one thing that it could open: ``sums`` sums of ``size`` values."""
        awaited = {kind: flow.receiver(kind).name for kind in flow.messages("server")}
        rows = [
            ServerSaw(kind.__name__, awaited.get(kind, "(leaves)"), count, self._bytes[kind], _shows(kind))
            for kind, count in self._count.items()
        ]
        what = "the one thing it could open" if hidden else "beside every vector itself, which came in clear"
        return [*rows, ServerSaw("Sum", "opened", sums, 8 * size * sums, f"the sum over all survivors: {what}")]


def _shows(kind: type) -> str:
    """What a message is, in the words of its docstring."""
    return (inspect.getdoc(kind) or "").split("\n", 1)[0].rpartition("→ server: ")[2].rstrip(".")
