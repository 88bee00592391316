"""Checks of a flow's graph: what `protocols.flow.Flow.check` refuses.

Every message has one sender and one receiver that can take it, every value one consumer, and nothing runs in a circle.

What it does not see: whether a step is pure, whether its checks are right, whether parties wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from protocols.errors import Misuse
from protocols.flow import Flow, Step, is_message
from protocols.schema import Message, schema


def problems(flow: Flow) -> Iterator[str]:
    """What is wrong with the graph of ``flow``, one line each."""
    senders, receivers = _ends(flow, "gives"), _ends(flow, "takes")
    yield from _namesakes(senders)
    for kind, steps in senders.items():
        schema(kind)
        if len(steps) > 1:
            yield f"{kind.__name__} is sent by two steps, {' and '.join(s.name for s in steps)}"
        if kind not in receivers:
            yield f"{kind.__name__}, sent by {steps[0].name}, has no receiver"
    for kind, steps in receivers.items():
        if kind not in senders:
            yield f"{kind.__name__}, awaited by {steps[0].name}, is sent by nobody"
            continue
        if len(steps) > 1:
            yield f"{kind.__name__} has two receivers, {' and '.join(s.name for s in steps)}"
        yield from _edge(flow, kind, senders[kind][0], steps[0])
    for step in flow.steps:
        if not step.takes:
            yield f"{step.name} takes nothing: it would run for ever"
    for role in flow.roles:
        yield from _values(flow, role)
        yield from _spinning(flow, role)


def _namesakes(senders: Mapping[type[Message], list[Step]]) -> Iterator[str]:
    """Two kinds of one name, which the wire could not tell apart."""
    first: dict[str, type[Message]] = {}
    for kind in senders:
        if kind.__name__ == "Farewell":
            yield "the message Farewell is the session's own"
        if first.setdefault(kind.__name__, kind) is not kind:
            yield f"two messages are named {kind.__name__}, of {first[kind.__name__].__module__} and {kind.__module__}"


def _ends(flow: Flow, side: str) -> dict[type[Message], list[Step]]:
    out: dict[type[Message], list[Step]] = {}
    for step in flow.steps:
        for port in getattr(step, side):
            if is_message(port):
                if not issubclass(port.type, Message):
                    raise Misuse(f"flow {flow.name}: {port.type.__name__} in {step.name} is no message")
                out.setdefault(port.type, []).append(step)
    return out


def _edge(flow: Flow, kind: type[Message], sender: Step, receiver: Step) -> Iterator[str]:
    given = next(p for p in sender.gives if p.type is kind)
    taken = next(p for p in receiver.takes if p.type is kind and is_message(p))
    if sender.role == receiver.role:
        yield f"{kind.__name__} is sent by {sender.name} to its own role"
    if flow.roles[receiver.role].many == (given.carrier == "message"):
        yield f"{kind.__name__} goes to {receiver.role}: {sender.name} must give it as " + (
            "Broadcast or Fanout" if flow.roles[receiver.role].many else "a plain message"
        )
    if flow.roles[sender.role].many == (taken.carrier == "message"):
        yield f"{kind.__name__} comes from {sender.role}: {receiver.name} must take it as " + (
            "Inbox or Arrived" if flow.roles[sender.role].many else "a plain message"
        )
    if (taken.carrier == "arrived") != (receiver.fold is not None):
        yield f"{receiver.name} takes {kind.__name__} as Arrived exactly if it has a fold"
    if taken.carrier in ("inbox", "arrived") and receiver.quorum is None:
        yield f"{receiver.name} waits for many and declares no quorum"
    if taken.carrier in ("inbox", "arrived") and receiver.state is None:
        yield f"{receiver.name} waits for many and has no state"


def _values(flow: Flow, role: str) -> Iterator[str]:
    consumers: dict[type, list[str]] = {}
    for step in flow.of(role):
        for port in step.takes:
            if port.carrier in ("value", "input"):
                consumers.setdefault(port.type, []).append(step.name)
        kinds = [port.type for port in (*step.takes, *step.gives) if port.carrier in ("value", "input")]
        for kind in kinds:
            if sum(p.type is kind for p in step.takes) > 1 or sum(p.type is kind for p in step.gives) > 1:
                yield f"{step.name} has two values of type {kind.__name__}"
    for kind, names in consumers.items():
        if len(names) > 1:
            yield f"{kind.__name__} is consumed by {' and '.join(names)}: a value is used once"


def _spinning(flow: Flow, role: str) -> Iterator[str]:
    """Steps that would run for ever: a circle of values in which none waits for a message or an input."""
    eager = [s for s in flow.of(role) if all(p.carrier in ("value", "rand") for p in s.takes)]
    after = {s.name: {t.name for t in eager for p in t.takes if p.type in {g.type for g in s.gives}} for s in eager}
    for step in eager:
        reached, edge = set[str](), after[step.name]
        while edge - reached:
            reached |= edge
            edge = set().union(*(after[name] for name in edge))
        if step.name in reached:
            yield f"{step.name} runs in a circle that waits for nothing"
            return
