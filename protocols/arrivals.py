"""What others send to one party: who may still send, which messages wait for which step, and who lost its place.

A message is judged when its control fields are read, before anything is set aside for its vectors: it must be of the epoch for
which its step waits or the next one, and the first of its kind; vectors that are added up on arrival must also find their step
waiting.  When a step runs, what is still under way to it is forgotten.  What merely comes late or twice is noted and costs its
sender nothing, `PATIENCE` times; what breaks a check expels it where many are awaited, and ends the session where one is.

Channel assumed: the driver says who sent a chunk, and does not lie about it (mutual TLS, or one process).

What it does not protect: availability.  A party can keep one message of every kind that it may send waiting, of this epoch and the
next one; each has its own bound.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from protocols.errors import Abort, Refused, require
from protocols.flow import Arrived, Flow, Step
from protocols.intake import Intake
from protocols.once import once
from protocols.schema import Message, has_vector
from protocols.wire import Limits, heads, longest

if TYPE_CHECKING:
    from protocols.session import Address

PATIENCE = 8
"""How many messages of a party may come late or twice before it is expelled; of strangers, all together, as many are noted."""


class Arrivals:
    """The messages of one session, from their first byte until a step takes them.

    Args:
        flow: the checked flow.
        role: own role.
        roster: everybody who may send, by address.
        farewell: the message by which a party leaves, known to no flow.
        values: what the party holds; shared with the session, as a fold replaces its step's state.
        limits: sizes of the session.
        turns: how many senders' vectors may be under way at once.

    Attributes:
        intake: the messages that are being read.
        faults: what others did wrong, in order.
        expected: for every role, those of whom something may still come.
    """

    def __init__(
        self,
        flow: Flow,
        role: str,
        roster: Iterable[Address],
        farewell: type[Message],
        values: dict[type, object],
        limits: Limits,
        turns: int,
    ) -> None:
        self.faults: list[Refused] = []
        self.roster = frozenset(roster)
        self.expected: dict[str, set[Address]] = {}
        for address in self.roster:
            self.expected.setdefault(address.role, set()).add(address)
        self._flow, self._farewell, self._values = flow, farewell, values
        self._inbox: dict[tuple[type, int], dict[Address, Any]] = {}
        self._fresh: dict[tuple[type, int], list[Address]] = {}
        self._admitted: dict[tuple[type, int], set[Address]] = {}
        self._missing: dict[tuple[type, int], set[Address]] = {}
        self._fired: dict[str, int] = {}
        self._noted: dict[Address | None, int] = {}
        self._expelled: set[Address] = set()
        others = tuple((other, len(addresses)) for other, addresses in self.expected.items())
        kinds, staged = once(("kinds", role, others, turns), lambda: (self._kinds(role), self._staged(role, turns)), of=flow)
        lengths = once(
            ("lengths", role, others, id(kinds)),  # which are kept for as long as this is known
            lambda: {other: (longest(known, limits), heads(known, limits)) for other, known in kinds.items()},
            of=limits,
        )
        self.intake = Intake(kinds, lengths, limits, staged, turns, self._wanted)

    def _kinds(self, role: str) -> dict[str, dict[str, type[Message]]]:
        out = dict[str, dict[str, type[Message]]]()
        for other in self.expected:
            kinds = [kind for kind in self._flow.messages(role) if self._flow.sender(kind).role == other]
            kinds += [self._farewell] if self._flow.roles[other].many else []
            out[other] = {kind.__name__: kind for kind in kinds}
        return out

    def _staged(self, role: str, turns: int) -> dict[type[Message], float]:
        """Kinds whose vectors are added up on arrival, with the share of the step's time that each sender has."""
        folded = [(s, p.type) for s in self._flow.of(role) for p in s.takes if p.carrier == "arrived" and has_vector(p.type)]
        senders = {kind: len(self.expected.get(self._flow.sender(kind).role, ())) for _, kind in folded}
        return {kind: (step.within or math.inf) * turns / max(1, senders[kind]) for step, kind in folded}

    def feed(self, sender: Address, chunk: bytes | memoryview) -> Message | None:
        """Take the next bytes; the message, if that was its end and it is wanted.

        Raises:
            Refused: for what costs the sender its place.
        """
        if sender not in self.roster:
            self._note("wire-stranger", "not invited to this session", sender)
            return None
        if not self._expects(sender):
            if sender not in self._expelled:  # what is still under way of the message that cost a party its place says nothing new
                self._note("wire-late", "a party that was left out or has left", sender)
            return None
        if (got := self.intake.feed(sender, chunk)) is None:
            return None
        message, epoch = got
        if type(message) is not self._farewell:
            at = type(message), epoch
            self._inbox.setdefault(at, {})[sender] = message
            self._fresh.setdefault(at, []).append(sender)
        return message

    def _wanted(self, sender: Address, kind: type[Message], epoch: int) -> bool:
        if kind is self._farewell:
            return True
        step = self._flow.receiver(kind)
        now = self.epoch(step)
        if epoch > now + 1:
            raise Refused("wire-epoch", f"{kind.__name__} out of turn")
        if epoch < now:
            self._note("wire-late", f"{kind.__name__} after its step ran", sender)
            return False
        if step.fold is not None and (epoch > now or self._state(step) is None):
            raise Refused("wire-early", f"a {kind.__name__} before its step waits for it")
        if sender in self._inbox.get((kind, epoch), {}):
            self._note("wire-duplicate", f"a second {kind.__name__}", sender)
            return False
        return True

    def epoch(self, step: Step) -> int:
        """How often the step has run: the epoch of the messages that it waits for."""
        return self._fired.get(step.name, 0)

    def has(self, kind: type, step: Step) -> bool:
        """Whether a message of a kind that one party sends is here for the step."""
        return bool(self._inbox.get((kind, self.epoch(step))))

    def take_in(self, step: Step) -> None:
        """Check the messages from many that have come for the step, whose state is here, once each, and fold them if it does."""
        for port in step.takes:
            if port.carrier in ("inbox", "arrived"):
                self._admit_all(step, port.type)

    def _admit_all(self, step: Step, kind: type) -> None:
        at = kind, self.epoch(step)
        inbox, admitted = self._inbox.setdefault(at, {}), self._admitted.setdefault(at, set())
        for sender in self._fresh.pop(at, ()):
            if not self._expects(sender):
                del inbox[sender]
                self._note("wire-late", f"{kind.__name__} of a party that has left", sender)
                continue
            try:
                self._admit(step, sender.index, inbox[sender])
            except Refused as error:
                del inbox[sender]
                error.step = error.step or step.name
                self.blame(sender, error)
                continue
            admitted.add(sender)
            self._awaited(kind, at).discard(sender)
            if step.fold is not None:
                inbox[sender] = None

    def _admit(self, step: Step, index: int, message: Any) -> None:
        if step.admit is not None:
            step.admit(self._state(step), index, message)
        if step.fold is not None and step.state is not None:
            self._values[step.state.type] = step.fold(self._state(step), index, message)

    def enough(self, step: Step, kind: type, *, late: bool) -> bool:
        """Whether a step that waits for many need wait no longer.

        Raises:
            Abort: ``quorum`` where fewer can come than it needs.
        """
        at = kind, self.epoch(step)
        expected, admitted = self.expected[self._flow.sender(kind).role], self._admitted[at]
        need = step.quorum(self._state(step)) if step.quorum is not None else 1
        have = len(admitted)
        if self._awaited(kind, at) and not late and (max(have, len(expected)) >= need or len(admitted | expected) >= need):
            return False
        if have < need:
            faults = () if step.blames is None else step.blames(self._state(step))
            raise Abort("quorum", f"{have} {kind.__name__} where {need} are needed", step=step.name, faults=faults)
        return True

    def _awaited(self, kind: type, at: tuple[type, int]) -> set[Address]:
        """Of whom a message may still come, kept up to date: looking through all of them at each message would cost n² steps."""
        if (missing := self._missing.get(at)) is None:
            missing = self._missing[at] = self.expected[self._flow.sender(kind).role] - self._admitted[at]
        return missing

    def collect(self, step: Step) -> dict[str, Any]:
        """Hand over what has come for a step that runs now, by parameter."""
        out, epoch = dict[str, Any](), self.epoch(step)
        self._fired[step.name] = epoch + 1
        for port in step.awaits:
            for kept in (self._admitted, self._missing, self._fresh):
                kept.pop((port.type, epoch), None)
            self.intake.void(port.type, epoch)
            box = {sender.index: message for sender, message in sorted(self._inbox.pop((port.type, epoch)).items())}
            if port.carrier == "message":
                (out[port.name],) = box.values()
            else:
                out[port.name] = box if port.carrier == "inbox" else Arrived(box)
        return out

    def _state(self, step: Step) -> Any:
        return None if step.state is None else self._values.get(step.state.type)

    def await_only(self, role: str, indexes: Iterable[int]) -> None:
        """Expect nothing more from the other parties of a role."""
        told = set(indexes)
        self.lose([a for a in self.expected[role] if a.index not in told])

    def lose(self, senders: Collection[Address]) -> None:
        """Expect nothing more from them, and forget what was read of their messages."""
        for sender in senders:
            self.expected[sender.role].discard(sender)
        for missing in self._missing.values():
            missing.difference_update(senders)
        self.intake.drop(senders)

    def _expects(self, sender: Address) -> bool:
        return sender in self.expected.get(sender.role, ())

    def clear(self) -> None:
        """Forget all messages."""
        for kept in (self._inbox, self._fresh, self._admitted, self._missing):
            kept.clear()
        self.intake.clear()

    def blame(self, sender: Address, error: Refused) -> None:
        """Expel one of many; raises ``error`` where one was awaited."""
        error.sender = str(sender)
        if not self._flow.roles[sender.role].many:
            raise error
        self.faults.append(text_of(error))
        self._expelled.add(sender)
        self.lose([sender])

    def _note(self, check: str, detail: str, sender: Address) -> None:
        """Note what costs its sender nothing, until patience ends; strangers are counted together."""
        who = sender if sender in self.roster else None
        count = self._noted[who] = self._noted.get(who, 0) + 1
        if count <= PATIENCE:
            self.faults.append(Refused(check, detail, sender=str(sender)))
        else:
            require(not self._expects(sender), "wire-flood", f"more than {PATIENCE} messages that came late or twice")


def text_of(error: Refused) -> Refused:
    """The error without its traceback, whose frames hold what the step was working on: keys, seed, input."""
    return Refused(error.check, error.detail, sender=error.sender, step=error.step, evidence=error.evidence)
