"""When a message of the server may come to a party: once, or once in each turn of what its flow repeats; and what came besides.

What it does not protect: order alone.  What the messages say is for `securefl.audit.sitting`.
"""

from __future__ import annotations

from protocols.flow import Flow, Step
from protocols.statements import Told
from securefl.audit.findings import Findings
from securefl.audit.seen import Print, Seen, a, print_of

MOST = 64
"""Different answers beside the first by which a second message of a party is read, at most."""


class Turns:
    """The messages of one sum, by recipient and kind.

    Args:
        findings: where what is found goes.
        flow: of the protocol.

    Attributes:
        served: line and print of the first message of each kind and epoch, by recipient.
        repeats: names of the messages that the flow sends more than once.
        besides: what parties were told out of turn.
    """

    def __init__(self, findings: Findings, flow: Flow) -> None:
        self.findings, self.repeats = findings, repeated(flow)
        self.served: dict[tuple[int, str, int], tuple[int, Print]] = {}
        self.besides: list[Told] = []
        self._lines: dict[tuple[int, str], list[int]] = {}
        self._taken: dict[tuple[int, str], int] = {}
        self._full = False

    def fits(self, line: int, seen: Seen) -> bool:
        """Whether the control bytes in a line are those of the message that it names."""
        if not seen.fits:
            detail = f"its control bytes are not those of {a(seen.name)} of turn {seen.epoch + 1}"
            self.findings.report("tape-order", "broken", line, detail)
        return seen.fits

    def wrong(self, seen: Seen) -> str:
        """Why no server waits for a message of a party, or empty."""
        once = seen.epoch and seen.name not in self.repeats
        return f"is of turn {seen.epoch + 1}, where the protocol has one" if once else ""

    def due(self, line: int, u: int, seen: Seen) -> bool:
        """Whether party u waits for a message of the server; what it does not wait for is reported."""
        at = u, seen.name
        lines, turn = self._lines.setdefault(at, []), self._taken.get(at, 0)
        once = seen.name not in self.repeats
        fits = seen.epoch == turn and not (once and turn)
        if once and lines:
            what = f"a second {seen.name} for client {u}, after that of line {lines[0]}"
            self.findings.report("tape-order", "broken", line, what)
        elif not fits:
            what = f"{a(seen.name)} for client {u} of turn {seen.epoch + 1}, where turn {turn + 1} is due"
            self.findings.report("tape-order", "broken", line, what)
        lines.append(line)
        self._taken[at] = turn + fits
        self.served.setdefault((u, seen.name, seen.epoch), (line, print_of(seen)))
        return fits

    def beside(self, line: int, told: Told) -> None:
        """A party was told something out of turn: by that, too, it may have signed."""
        if told in self.besides:
            return
        if len(self.besides) < MOST:
            self.besides.append(told)
        elif not self._full:
            self._full = True
            detail = f"more than {MOST} repeated answers: second messages are not read by those from here on"
            self.findings.report("tape-twice", "noted", line, detail)


def repeated(flow: Flow) -> frozenset[str]:
    """Names of the messages that a flow sends more than once: those of steps from which one comes back to them."""
    takers: dict[type, list[Step]] = {}
    for step in flow.steps:
        for port in step.takes:
            takers.setdefault(port.type, []).append(step)
    after = {step.name: {taker.name for port in step.gives for taker in takers.get(port.type, ())} for step in flow.steps}

    def reached(name: str) -> set[str]:
        found, left = set[str](), [name]
        while left:
            new = after[left.pop()] - found
            found |= new
            left += new
        return found

    loops = {step.name for step in flow.steps if step.name in reached(step.name)}
    return frozenset(kind.__name__ for kind in flow.messages() if flow.sender(kind).name in loops)
