"""One party's place in a flow.

A session is fed bytes, values from outside and the time, and turns them into the next letters, a typed `Abort`, or a record of who
broke which check.  It does no I/O: a driver (simulation, network, audit harness) moves the letters.

* A step's values are *moved* out of the session before the step runs: a state cannot be used twice.
* A message that breaks a check expels its sender where many are awaited, and ends the session where one is.
* A party that leaves names the party that made it leave, and gives no detail.
* Time is an argument.  A step that waits for many runs when all have sent or left, or at its deadline with a quorum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from protocols.errors import Abort, Misuse, Refused
from protocols.flow import Arrived, Broadcast, Fanout, Flow, Output, Step
from protocols.rand import Entropy, fresh
from protocols.schema import MAX_PARTIES, Count, Index, Message
from protocols.wire import Decoder, Limits, encode


@dataclass(frozen=True, order=True)
class Address:
    """A party: its role, and its index within the role (roster index from 1; 0 for a role of one)."""

    role: str
    index: int = 0

    def __str__(self) -> str:
        return self.role if self.index == 0 else f"{self.role} {self.index}"


SERVER = Address("server")


def client(index: int) -> Address:
    """The client with that roster index."""
    return Address("client", index)


@dataclass(frozen=True)
class Farewell(Message):
    """A party leaves.  ``blamed`` holds the roster index of the party whose message it refused, or nothing for the server's."""

    blamed: Annotated[tuple[Index, ...], Count(0, 1)]


@dataclass(frozen=True)
class Letter:
    """A message on its way.

    Attributes:
        sender: who sends it.
        to: who gets it; the bytes are the same for all.
        message: the content.
        epoch: how many of this kind the sender had sent before.
        limits: sizes of the session.
    """

    sender: Address
    to: tuple[Address, ...]
    message: Message
    epoch: int
    limits: Limits = field(repr=False)

    def chunks(self) -> Iterator[bytes]:
        """The wire bytes, in frames."""
        return encode(self.message, self.epoch, self.limits)


class Guard(Protocol):
    """What a party writes down before something leaves it (see `protocols.policy.Journal`)."""

    def join(self) -> None:
        """Before the first message of this session leaves; raises `Refused` if it must not."""

    def spend(self) -> None:
        """Before the masked input leaves; raises `Refused` if it must not."""


class Session:
    """One party's run through a flow; single use.

    Args:
        flow: the checked flow.
        me: own address.
        peers: for every other role, the indexes of its parties.
        start: the values with which this role starts.
        limits: sizes of the session.
        entropy: where the randomness of each step comes from.
        guard: what is written down before something leaves.

    Attributes:
        outputs: results, in order.
        faults: what others did wrong, in order; the session went on without them.
        ended: the abort that ended the session, or None.
        accused: for every party that left, the index that it blamed (0 for nobody in particular).
    """

    def __init__(
        self,
        flow: Flow,
        me: Address,
        peers: Mapping[str, Iterable[int]],
        start: Iterable[object],
        limits: Limits,
        *,
        entropy: Entropy = fresh,
        guard: Guard | None = None,
    ) -> None:
        self.flow, self.me, self.limits = flow, me, limits
        self.outputs: list[Any] = []
        self.faults: list[Refused] = []
        self.ended: Abort | None = None
        self.accused: dict[Address, int] = {}
        self._entropy, self._guard = entropy, guard
        self._steps = flow.of(me.role)
        self._roster = {role: frozenset(indexes) for role, indexes in peers.items()}
        self._awaited = {role: set(indexes) for role, indexes in self._roster.items()}
        self._values: dict[type, object] = {type(value): value for value in start}
        self._inbox: dict[tuple[type, int], dict[int, Any]] = {}
        self._admitted: dict[tuple[type, int], set[int]] = {}
        self._fired: dict[str, int] = {}
        self._sent: dict[type, int] = {}
        self._armed: dict[str, float] = {}
        self._decoders: dict[Address, Decoder] = {}
        self._kinds = {role: self._kinds_from(role) for role in self._roster}
        self._now = 0.0

    def _kinds_from(self, role: str) -> dict[str, type[Message]]:
        kinds = {k.__name__: k for k in self.flow.messages(self.me.role) if self.flow.sender(k).role == role}
        return kinds if not self.flow.roles[role].many else {**kinds, Farewell.__name__: Farewell}

    # What a driver calls

    def begin(self, now: float = 0.0) -> list[Letter]:
        """Start; the first letters."""
        return self._run(now, lambda: None)

    def provide(self, value: object, now: float = 0.0) -> list[Letter]:
        """Give a value that a step awaits from outside (`Input`).

        Raises:
            Misuse: where no step awaits it, or where the step refuses it as wrong input.
        """
        if type(value) not in {port.type for step in self._steps for port in step.takes if port.carrier in ("value", "input")}:
            raise Misuse(f"no step of {self.me.role} in {self.flow.name} awaits a {type(value).__name__}")
        if type(value) in self._values:
            raise Misuse(f"a {type(value).__name__} is already waiting to be used")
        return self._run(now, lambda: self._values.__setitem__(type(value), value))

    def feed(self, sender: Address, chunk: bytes | memoryview, now: float = 0.0) -> list[Letter]:
        """Take the next bytes from ``sender``, in chunks of any size; a message is acted on when it is complete."""
        return self._run(now, lambda: self._feed(sender, chunk))

    def gone(self, peer: Address, now: float = 0.0) -> list[Letter]:
        """The driver knows that ``peer`` will send nothing more: half a message of it leaves no trace."""
        return self._run(now, lambda: self._lose(peer))

    def tick(self, now: float) -> list[Letter]:
        """Let time pass."""
        return self._run(now, lambda: None)

    @property
    def deadline(self) -> float | None:
        """When `tick` should be called at the latest, or None."""
        waits = [at + s.within for s in self._steps if s.within is not None and (at := self._armed.get(s.name)) is not None]
        return min(waits, default=None) if self.ended is None else None

    @property
    def finished(self) -> bool:
        """Whether no step can run any more."""
        return self.ended is not None or not any(
            port.type in self._values for step in self._steps for port in step.takes if port.carrier == "value"
        )

    @property
    def remembers(self) -> tuple[object, ...]:
        """The values that the party holds now: what a thief of its memory would find."""
        return tuple(self._values.values())

    # Inside

    def _run(self, now: float, event: Callable[[], None]) -> list[Letter]:
        if self.ended is not None:
            return []
        self._now = max(now, self._now)
        letters = list[Letter]()
        try:
            event()
            while (step := next((s for s in self._steps if self._ready(s)), None)) is not None:
                letters += self._fire(step)
        except Refused as error:
            letters += self._leave(error)
        except Abort as error:
            self._end(Abort(error.check, error.detail, step=error.step))
        except Exception:
            self._end(Abort("misuse", "the party's own input was refused, or its own code failed"))
            raise
        return letters

    def _feed(self, sender: Address, chunk: bytes | memoryview) -> None:
        if sender.index not in self._roster.get(sender.role, ()):
            self.faults.append(Refused("wire-stranger", "not invited to this session", sender=str(sender)))
            return
        if sender.index not in self._awaited[sender.role]:
            self._fault("wire-late", "a party that was left out or has left", sender)
            return
        decoder = self._decoders.setdefault(sender, Decoder(self._kinds[sender.role], self.limits))
        try:
            decoder.feed(chunk)
            if not decoder.done:
                return
            message, epoch = self._decoders.pop(sender).message()
        except Refused as error:
            self._decoders.pop(sender, None)
            self._blame(sender, error)
            return
        if isinstance(message, Farewell):
            self.accused[sender] = message.blamed[0] if message.blamed else 0
            self._lose(sender)
            return
        self._accept(sender, message, epoch)

    def _accept(self, sender: Address, message: Message, epoch: int) -> None:
        step = self.flow.receiver(type(message))
        now = self._fired.get(step.name, 0)
        if epoch < now:
            self._fault("wire-late", f"{type(message).__name__} after its step ran", sender)
        elif epoch > now + 1:
            self._blame(sender, Refused("wire-epoch", f"{type(message).__name__} out of turn"))
        elif step.fold is not None and (epoch > now or self._state(step) is None):
            self._blame(sender, Refused("wire-early", f"a {type(message).__name__} before its step waits for it"))
        elif sender.index in self._inbox.setdefault((type(message), epoch), {}):
            self._fault("wire-duplicate", f"a second {type(message).__name__}", sender)
        else:
            self._inbox[type(message), epoch][sender.index] = message

    def _ready(self, step: Step) -> bool:
        """Whether all that the step takes is here; admits and folds messages on the way."""
        if any(port.type not in self._values for port in step.takes if port.carrier in ("value", "input")):
            return False
        epoch, since = self._fired.get(step.name, 0), self._armed.setdefault(step.name, self._now)
        late = step.within is not None and self._now >= since + step.within
        for port in step.takes:
            if port.carrier == "message" and not self._inbox.get((port.type, epoch)):
                if late:
                    raise Abort("deadline", f"no {port.type.__name__} in {step.within:g} s", step=step.name)
                return False
            if port.carrier in ("inbox", "arrived") and not self._gathered(step, port.type, epoch, late=late):
                return False
        return True

    def _gathered(self, step: Step, kind: type, epoch: int, *, late: bool) -> bool:
        role = self.flow.sender(kind).role
        inbox, admitted = self._inbox.setdefault((kind, epoch), {}), self._admitted.setdefault((kind, epoch), set())
        for index in [i for i in inbox if i not in admitted]:
            if index not in self._awaited[role]:
                del inbox[index]
                self._fault("wire-late", f"{kind.__name__} of a party that has left", Address(role, index))
                continue
            try:
                self._admit(step, index, inbox[index])
                admitted.add(index)
            except Refused as error:
                del inbox[index]
                error.step = error.step or step.name
                self._blame(Address(role, index), error)
        need = step.quorum(self._state(step)) if step.quorum is not None else 1
        have, possible = len(admitted), len(admitted | self._awaited[role])
        if have < possible and possible >= need and not late:
            return False
        if have < need:
            raise Abort("quorum", f"{have} {kind.__name__} where {need} are needed", step=step.name)
        return True

    def _admit(self, step: Step, index: int, message: Any) -> None:
        if step.admit is not None:
            step.admit(self._state(step), index, message)
        if step.fold is not None:
            port = step.state
            folded = step.fold(self._state(step), index, message)
            if port is not None:
                self._values[port.type] = folded
            self._inbox[type(message), self._fired.get(step.name, 0)][index] = None

    def _state(self, step: Step) -> Any:
        return None if step.state is None else self._values.get(step.state.type)

    def _fire(self, step: Step) -> list[Letter]:
        epoch = self._fired.get(step.name, 0)
        self._fired[step.name] = epoch + 1
        self._armed.pop(step.name, None)
        arguments = dict[str, Any]()
        for port in step.takes:
            if port.carrier in ("value", "input"):
                arguments[port.name] = self._values.pop(port.type)
            elif port.carrier == "rand":
                arguments[port.name] = self._entropy()
            else:
                box = self._inbox.pop((port.type, epoch))
                self._admitted.pop((port.type, epoch), None)
                if port.carrier == "message":
                    (arguments[port.name],) = box.values()
                elif port.carrier == "inbox":
                    arguments[port.name] = dict(sorted(box.items()))
                else:
                    arguments[port.name] = Arrived(sorted(box))
        try:
            result = step.fn(**arguments)
        except Refused as error:
            error.step = error.step or step.name
            error.sender = error.sender or self._source(step)
            raise
        except Abort as error:
            error.step = error.step or step.name
            raise
        return list(self._emit(step, result))

    def _source(self, step: Step) -> str | None:
        return next((self.flow.sender(p.type).role for p in step.takes if p.carrier == "message"), None)

    def _emit(self, step: Step, result: Any) -> Iterator[Letter]:
        items = result if isinstance(result, tuple) and len(step.gives) != 1 else (() if not step.gives else (result,))
        if len(items) != len(step.gives):
            raise Misuse(f"the step {step.name} of {self.flow.name} declares {len(step.gives)} results and gave {len(items)}")
        letters = list[Letter]()
        for port, item in zip(step.gives, items, strict=True):
            match item:
                case Output(value):
                    self._put(value)
                case Broadcast(message, to):
                    letters.append(self._letter(message, tuple(to)))
                    self._awaited[self.flow.receiver(port.type).role] &= set(to)
                case Fanout(messages):
                    letters += [self._letter(message, (index,)) for index, message in messages.items()]
                    self._awaited[self.flow.receiver(port.type).role] &= set(messages)
                case Message():
                    letters.append(self._letter(item, (0,)))
                case _:
                    self._values[port.type] = item
        kinds = {type(letter.message) for letter in letters}
        for kind in kinds:
            self._sent[kind] = self._sent.get(kind, 0) + 1
        if letters and self._guard is not None:
            self._guard.spend() if step.spends else self._guard.join()
        yield from letters

    def _put(self, value: Any) -> None:
        awaited = {p.type for s in self._steps for p in s.takes if p.carrier in ("value", "input")}
        if type(value) in awaited:
            self._values[type(value)] = value
        else:
            self.outputs.append(value)

    def _letter(self, message: Message, to: tuple[int, ...]) -> Letter:
        role = self.flow.receiver(type(message)).role
        return Letter(self.me, tuple(Address(role, i) for i in to), message, self._sent.get(type(message), 0), self.limits)

    def _lose(self, peer: Address) -> None:
        self._decoders.pop(peer, None)
        if peer.role in self._awaited and self.flow.roles[peer.role].many:
            self._awaited[peer.role].discard(peer.index)
        elif peer.role in self._awaited:
            raise Abort("peer-gone", f"{peer} is gone")

    def _blame(self, sender: Address, error: Refused) -> None:
        """Expel one of many, or end the session with the one that was awaited."""
        error.sender = str(sender)
        if not self.flow.roles[sender.role].many:
            raise error
        self.faults.append(_text_of(error))
        self._awaited[sender.role].discard(sender.index)

    def _fault(self, check: str, detail: str, sender: Address) -> None:
        self.faults.append(Refused(check, detail, sender=str(sender)))

    def _leave(self, error: Refused) -> list[Letter]:
        """End after a refused message; tell the roles of one who was to blame, and nothing else."""
        self.faults.append(_text_of(error))
        self._end(Abort(error.check, error.detail, step=error.step))
        role, _, index = (error.sender or "").partition(" ")
        blamed = (int(index),) if role == self.me.role and index.isdigit() and int(index) <= MAX_PARTIES else ()
        if not self.flow.roles[self.me.role].many:
            return []
        ones = tuple(Address(name) for name, r in self.flow.roles.items() if not r.many and name in self._roster)
        return [Letter(self.me, (one,), Farewell(blamed), 0, self.limits) for one in ones]

    def _end(self, error: Abort) -> None:
        self.ended = error
        self._values.clear()
        self._inbox.clear()
        self._decoders.clear()


def _text_of(error: Refused) -> Refused:
    """The error without its traceback, whose frames hold what the step was working on: keys, seed, input."""
    return Refused(error.check, error.detail, sender=error.sender, step=error.step)
