"""What others send to one party: bytes become messages, in memory that does not grow with the number of those who send at once.

Vectors that a step adds up on arrival (`fold`) take turns.  When the control fields of such a message are read, its sender gets one
of `TURNS` turns or waits for one.  Nothing is set aside for a vector before its first byte, and a sender that waits sends none: the
driver holds them back (`protocols.session.Session.open`), so they stay in the transport's buffers.  While others wait, a sender may
use its share of the step's time, ``within · turns / senders``, and is expelled after that.

Channel assumed: the driver says who sent a chunk, and does not lie about it (mutual TLS, or one process).

What it does not protect: availability.  Senders that use up their turns and send nothing useful slow the others down; with fewer of
them than the step can lose, the others still get their turns in time.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from protocols.bodies import Body
from protocols.errors import Misuse
from protocols.schema import Message
from protocols.wire import Decoder, Heads, Limits, Verdict, parse_control, whole

if TYPE_CHECKING:
    from protocols.session import Address

TURNS = 8
"""How many senders' vectors are under way at once, unless the session is told otherwise."""


class Intake:
    """The messages that are being read, at most one a sender.

    Args:
        kinds: for every role, the messages that may come from it, by name.
        lengths: for every role, `longest` and `heads` of them.
        limits: sizes of the session.
        staged: for the kinds whose vectors take turns, how many seconds a turn lasts where others wait.
        turns: how many turns there are.
        wanted: asked when the control fields are read, ``(sender, kind, epoch)``; raises `Refused` to expel.

    Attributes:
        now: the time, kept up to date by the session.

    Raises:
        Misuse: for fewer than one turn.
    """

    def __init__(
        self,
        kinds: Mapping[str, Mapping[str, type[Message]]],
        lengths: Mapping[str, tuple[int, Heads]],
        limits: Limits,
        staged: Mapping[type[Message], float],
        turns: int,
        wanted: Callable[[Address, type[Message], int], bool],
    ) -> None:
        if turns < 1:
            raise Misuse(f"a session needs at least 1 turn for vectors, not {turns}")
        self.now = 0.0
        self._kinds, self._lengths, self._limits = kinds, lengths, limits
        self._staged, self._most, self._wanted = staged, turns, wanted
        self._reading: dict[Address, Decoder] = {}
        self._turns: dict[Address, float] = {}
        self._waiting: OrderedDict[Address, float] = OrderedDict()
        self._void: set[Address] = set()

    def feed(self, sender: Address, chunk: bytes | memoryview) -> tuple[Message, int] | None:
        """Take the next bytes; a message and its epoch, if that was its end and it is wanted.

        Raises:
            Refused: check ``wire-…`` or ``vector-…``; what was read of the message is gone.
        """
        if (decoder := self._reading.get(sender)) is None:
            kinds, (most, known) = self._kinds[sender.role], self._lengths[sender.role]
            if self.free and (found := whole(chunk, known, most)) is not None:
                return self._at_once(sender, *found)
            decoder = Decoder(kinds, self._limits, lambda *heading: self._judge(sender, *heading), most)
            self._reading[sender] = decoder
        done = True
        try:
            decoder.feed(chunk)
            if not (done := decoder.done):
                return None
            if decoder.heading is not None and sender in self._void:
                self._wanted(sender, *decoder.heading)
            return decoder.message()
        finally:
            if done:
                self.drop([sender])

    def _at_once(self, sender: Address, control: bytes, vectors: memoryview) -> tuple[Message, int] | None:
        """A message that came in one chunk while a turn is free."""
        kind, epoch, fields = parse_control(control, self._kinds[sender.role], self._limits)
        if not self._wanted(sender, kind, epoch):
            return None
        body = Body(kind, epoch, fields, self._limits)
        body.feed(vectors)
        return body.build(), epoch

    def open(self, sender: Address) -> bool:
        """Whether the sender's next bytes may be fed; else its vector waits for its turn."""
        return sender not in self._waiting

    @property
    def free(self) -> bool:
        """Whether a turn is free."""
        return len(self._turns) < self._most

    def reading(self, sender: Address) -> bool:
        """Whether a part of a message has come."""
        return sender in self._reading

    def void(self, kind: type[Message], epoch: int) -> None:
        """A step has run without the messages of this kind and epoch that are still being read: only their ends are waited for."""
        slow = [sender for sender, decoder in self._reading.items() if decoder.heading == (kind, epoch)]
        for sender in slow:
            self._reading[sender].skip()
        self._void.update(slow)
        self._end_turns(slow)

    def drop(self, senders: Collection[Address]) -> None:
        """Forget what was read of their messages."""
        for sender in senders:
            self._reading.pop(sender, None)
            self._void.discard(sender)
        self._end_turns(senders)

    def _end_turns(self, senders: Collection[Address]) -> None:
        """Turns that become free go to those who have waited longest."""
        for sender in senders:
            self._turns.pop(sender, None)
            self._waiting.pop(sender, None)
        while self._waiting and self.free:
            sender, lasts = self._waiting.popitem(last=False)
            self._reading[sender].waits = False
            self._turns[sender] = self.now + lasts

    def clear(self) -> None:
        """Forget everything."""
        for kept in (self._waiting, self._turns, self._reading, self._void):
            kept.clear()

    @property
    def crowded(self) -> bool:
        """Whether somebody waits for a turn."""
        return bool(self._waiting)

    @property
    def deadline(self) -> float | None:
        """When the first turn is over for which somebody waits, or None."""
        first = min(self._turns.values()) if self._waiting else math.inf
        return None if first == math.inf else first

    def overdue(self) -> list[Address]:
        """Who holds a turn for longer than it lasts, the longest first, as many as wait for one."""
        over = sorted((until, sender) for sender, until in self._turns.items() if self.now >= until)
        return [sender for _, sender in over[: len(self._waiting)]]

    def _judge(self, sender: Address, kind: type[Message], epoch: int) -> Verdict:
        if not self._wanted(sender, kind, epoch):
            return "skip"
        if kind not in self._staged:
            return "take"
        if self.free:
            self._turns[sender] = self.now + self._staged[kind]
            return "take"
        self._waiting[sender] = self._staged[kind]
        return "wait"
