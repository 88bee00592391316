"""A session over any transport, recorded: what comes to it and what leaves it is written down before anything follows from it.

What it does not protect: it checks nothing; what cannot be read is the session's to refuse, and is not logged as a message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from protocols.errors import Refused
from protocols.schema import Message, raw_fields
from protocols.session import Address, Farewell, Letter, Session
from protocols.suite import Terms
from protocols.sums import Scheme
from protocols.wire import Limits, longest, parse_control
from securefl.audit.party_log import PartyLog
from securefl.audit.seen import Seen


@dataclass
class _Reading:
    control: bytes = b""
    kind: type[Message] | None = None
    epoch: int = 0
    left: list[tuple[str, int]] = field(default_factory=list)
    hashes: dict[str, tuple[int, Any]] = field(default_factory=dict)
    head: bytearray = field(default_factory=bytearray)


class Incoming:
    """Puts the messages of each sender together.

    Args:
        kinds: the messages that may come, by name.
        limits: sizes of the session.
    """

    def __init__(self, kinds: Mapping[str, type[Message]], limits: Limits) -> None:
        self._kinds, self._limits, self._most = kinds, limits, longest(kinds, limits)
        self._reading: dict[Address, _Reading] = {}
        self._lost = set[Address]()

    def feed(self, sender: Address, to: Address, chunk: bytes | memoryview) -> Seen | None:
        """The next bytes; a message, if that was its end."""
        if sender in self._lost:
            return None
        reading, view = self._reading.setdefault(sender, _Reading()), memoryview(chunk)
        try:
            view = self._control(reading, view)
        except Refused:
            self._lost.add(sender)
            return None
        while reading.left and view:
            name, left = reading.left[0]
            part, view = view[:left], view[left:]
            count, made = reading.hashes.setdefault(name, (0, hashlib.sha256()))
            made.update(part)
            reading.hashes[name] = count + len(part), made
            reading.left[0] = name, left - len(part)
            if left == len(part):
                reading.left.pop(0)
        if reading.kind is None or reading.left:
            return None
        del self._reading[sender]
        vectors = {name: (count, made.digest()) for name, (count, made) in reading.hashes.items()}
        size = 4 + len(reading.control) + sum(count for count, _ in vectors.values())
        return Seen(sender, (to,), reading.kind.__name__, reading.epoch, size, reading.control, vectors)

    def _control(self, reading: _Reading, view: memoryview) -> memoryview:
        while reading.kind is None and view:
            length = int.from_bytes(reading.head[:4], "little") if len(reading.head) >= 4 else 0
            if length > self._most:
                raise Refused("wire-bound", "more control bytes than may come")
            want = 4 + length - len(reading.head) if len(reading.head) >= 4 else 4 - len(reading.head)
            reading.head += view[:want]
            view = view[want:]
            if len(reading.head) > 4 and len(reading.head) == 4 + int.from_bytes(reading.head[:4], "little"):
                reading.control = bytes(reading.head[4:])
                reading.kind, reading.epoch, _ = parse_control(reading.control, self._kinds, self._limits)
                reading.left = [(name, self._limits.vectors[key].nbytes) for name, key in raw_fields(reading.kind)]
        return view


class Book(Protocol):
    """Where it is written down: a party's log, or the server's tape."""

    def sent(self, seen: Seen) -> None:
        """A message is about to leave."""

    def was_told(self, seen: Seen, *, ended: bool = False) -> None:
        """A message has come; ``ended``: to a session that is over, and does nothing with it."""

    def over(self, session: Session) -> None:
        """The session has ended."""


class Late:
    """A party's log of a sum that is known only when its first message has been read: until then what comes is held back.

    Args:
        log: the party's.
    """

    def __init__(self, log: PartyLog) -> None:
        self._log, self._begun, self._held = log, False, list[tuple[Seen, bool]]()

    def begin(self, scheme: Scheme, terms: Terms[Any]) -> None:
        """The sum is known."""
        if self._begun:
            return
        self._begun = True
        self._log.begin(scheme, terms)
        for seen, ended in self._held:
            self._log.was_told(seen, ended=ended)
        self._held.clear()

    def sent(self, seen: Seen) -> None:
        """A message is about to leave; before the sum is known that is a farewell alone, in which nothing is signed."""
        if self._begun:
            self._log.sent(seen)

    def was_told(self, seen: Seen, *, ended: bool = False) -> None:
        """A message has come."""
        if self._begun:
            self._log.was_told(seen, ended=ended)
        else:
            self._held.append((seen, ended))

    def over(self, session: Session) -> None:
        """The session has ended."""
        if self._begun:
            self._log.over(session)


class Recorded:
    """A session with its book: call this in the session's place.

    Args:
        session: before it begins.
        book: in which the sum has begun.
    """

    def __init__(self, session: Session, book: Book) -> None:
        self.session, self.book, self._over = session, book, False
        role = session.me.role
        kinds = {kind.__name__: kind for kind in session.flow.messages(role)}
        if not session.flow.roles[role].many:
            kinds[Farewell.__name__] = Farewell
        self._incoming = Incoming(kinds, session.limits)
        self._from = {other for other, known in session.flow.roles.items() if known.many != session.flow.roles[role].many}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def begin(self, now: float = 0.0) -> list[Letter]:
        """As `Session.begin`."""
        return self._out(lambda: self.session.begin(now))

    def provide(self, value: object, now: float = 0.0) -> list[Letter]:
        """As `Session.provide`."""
        return self._out(lambda: self.session.provide(value, now))

    def feed(self, sender: Address, chunk: bytes | memoryview, now: float = 0.0, *, act: bool = True) -> list[Letter]:
        """As `Session.feed`; a message is written down when it is whole."""
        if self.session.ended is None:  # what the session does not take is not written down
            self.session.check_idle()
            if not self.session.open(sender):
                return self.session.feed(sender, chunk, now, act=act)
        seen = self._incoming.feed(sender, self.session.me, chunk) if sender.role in self._from else None
        if seen is not None:
            self.book.was_told(seen, ended=self.session.ended is not None)
        return self._out(lambda: self.session.feed(sender, chunk, now, act=act))

    def tick(self, now: float) -> list[Letter]:
        """As `Session.tick`."""
        return self._out(lambda: self.session.tick(now))

    def poise(self, now: float) -> list[Letter]:
        """As `Session.poise`."""
        return self._out(lambda: self.session.poise(now))

    def gone(self, peer: Address, now: float = 0.0) -> list[Letter]:
        """As `Session.gone`."""
        return self._out(lambda: self.session.gone(peer, now))

    def _out(self, run: Callable[[], list[Letter]]) -> list[Letter]:
        letters = run()
        for letter in letters:
            self.book.sent(Seen.of(letter))
        if self.session.finished and not self._over:
            self._over = True
            self.book.over(self.session)
        return letters
