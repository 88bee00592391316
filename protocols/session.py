"""One party's place in a flow.

A session is fed bytes, values from outside and the time, and turns them into the next letters, a typed `Abort`, or a record of who
broke which check.  It does no I/O: a driver (simulation, network, audit harness) moves the letters.

* A step's values are *moved* out of the session before the step runs: a state cannot be used twice.
* A message that breaks a check expels its sender where many are awaited, and ends the session where one is.
* A party that leaves names the party that made it leave, and gives no detail.
* Time is an argument.  A step that waits for many runs when all have sent or left, or at its deadline with a quorum.

Channel assumed: a driver that says who sent a chunk and does not lie about it, keeps each sender's bytes in order, feeds no two
messages in one chunk, and holds back what is not `Session.open`.  What travels over it may be read, changed, dropped or replayed by
anybody: that is for the flow's own signatures, boxes and checks.

What it does not protect: a party's memory while a step runs.  A session is never saved: a party that crashes has dropped out, and
its state replayed could open both shares of a neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from protocols.arrivals import Arrivals, text_of
from protocols.errors import Abort, Misuse, Refused
from protocols.flow import Broadcast, Fanout, Flow, Output, Step
from protocols.intake import TURNS
from protocols.letters import SERVER, Address, Farewell, Guard, Letter, client
from protocols.rand import Entropy, fresh
from protocols.schema import MAX_PARTIES, Message
from protocols.wire import Limits

__all__ = ["SERVER", "Address", "Farewell", "Guard", "Letter", "Session", "client"]


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
        turns: how many senders' vectors may be under way at once (see `protocols.intake`).

    Attributes:
        outputs: results, in order.
        ended: the abort that ended the session, or None.
        accused: for every party that left, the index that it blamed (0 for nobody in particular).
        busy: whether steps may be ready that did not run: `poise` goes on, and nothing else may happen meanwhile.
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
        turns: int = TURNS,
    ) -> None:
        self.flow, self.me, self.limits = flow, me, limits
        self.outputs: list[Any] = []
        self.ended: Abort | None = None
        self.accused: dict[Address, int] = {}
        self.busy = False
        self._entropy, self._guard = entropy, guard
        self._steps = flow.of(me.role)
        self._poised: tuple[Step, dict[str, Any]] | None = None
        self._performed: tuple[Step, Any, Refused | Abort | None] | None = None
        self._values: dict[type, object] = {type(value): value for value in start}
        self._armed: dict[str, float] = {}
        self._sent: dict[type, int] = {}
        roster = [Address(role, index) for role, indexes in peers.items() for index in indexes]
        self._arrivals = Arrivals(flow, me.role, roster, Farewell, self._values, limits, turns)
        self._intake = self._arrivals.intake

    # What a driver calls

    def begin(self, now: float = 0.0) -> list[Letter]:
        """Start; the first letters."""
        return self._run(now, lambda: True)

    def provide(self, value: object, now: float = 0.0) -> list[Letter]:
        """Give a value that a step awaits from outside (`Input`).

        Raises:
            Misuse: where no step awaits it, where the step refuses it as wrong input, or where the session is `busy`.
        """
        if type(value) not in {port.type for step in self._steps for port in step.values}:
            raise Misuse(f"no step of {self.me.role} in {self.flow.name} awaits a {type(value).__name__}")
        if type(value) in self._values:
            raise Misuse(f"a {type(value).__name__} is already waiting to be used")
        return self._run(now, lambda: self._keep(value))

    def feed(self, sender: Address, chunk: bytes | memoryview, now: float = 0.0, *, act: bool = True) -> list[Letter]:
        """Take the next bytes from ``sender``, in chunks of any size; a message is acted on when it is complete.

        Without ``act``, no step runs yet: the session is `busy` then, and nothing may happen to it before `poise` says otherwise.
        So it never holds more than one message that no step has looked at, however many send.

        Raises:
            Misuse: where the sender is not `open`, or the session is `busy`.
        """
        if not self.open(sender):
            raise Misuse(f"{sender} waits for its turn: ask open() before feeding, and hold its bytes back")
        return self._run(now, lambda: self._feed(sender, chunk), act=act)

    def poise(self, now: float) -> list[Letter]:
        """Take up what the step gave that was performed, and get ready the next one that can run: where there is one, it is `busy`.

        `poise` and `perform` in turn do what `feed` does at once: so several sessions can run the same step one after the other.

        Raises:
            Misuse: where a step that was got ready was not performed.
        """
        if self._poised is not None:
            raise Misuse(f"the step {self._poised[0].name} is ready: perform() it before the next poise()")
        self.busy = False
        if self.ended is not None:
            return []
        self._intake.now = max(now, self._intake.now)
        letters = list[Letter]()
        try:
            letters += self._take_up()
            if (ready := self._next()) is not None:
                self._poised = ready, self._collect(ready)
                self.busy = True
        except Exception as error:  # noqa: BLE001  (those that are not of the protocol are raised again)
            letters += self._fail(error)
        return letters

    def perform(self) -> None:
        """Run the step that `poise` got ready, and nothing else; what comes of it shows at the next `poise`.

        Raises:
            Misuse: where there is none; and whatever the party's own code raises.
        """
        if self._poised is None:
            raise Misuse("no step was got ready")
        (step, arguments), self._poised = self._poised, None
        try:
            self._performed = step, self._call(step, arguments), None
        except (Refused, Abort) as error:
            self._performed = step, None, error
        except Exception as error:  # noqa: BLE001  (raised again)
            self._fail(error)

    def check_idle(self) -> None:
        """Nothing may happen to a session that is `busy`: what its next step takes, or gave, is neither here nor there.

        Raises:
            Misuse: where it is.
        """
        if self.busy:
            raise Misuse(f"{self.me} is busy: poise() and perform() in turn until it is not, then go on")

    def open(self, sender: Address) -> bool:
        """Whether bytes of ``sender`` may be fed now.  If not, its vector waits for its turn: ask again after any event."""
        return self._intake.open(sender)

    @property
    def crowded(self) -> bool:
        """Whether a vector that comes now would wait for its turn: its bytes must not come in one chunk with those before them."""
        return not self._intake.free

    def gone(self, peer: Address, now: float = 0.0) -> list[Letter]:
        """The driver knows that ``peer`` will send nothing more: half a message of it leaves no trace.

        Raises:
            Misuse: where the session is `busy`, as all that lets something happen.
        """
        return self._run(now, lambda: self._lose(peer))

    def tick(self, now: float) -> list[Letter]:
        """Let time pass."""
        return self._run(now, lambda: True)

    @property
    def deadline(self) -> float | None:
        """When `tick` should be called at the latest, or None."""
        waits = [at + s.within for s in self._steps if s.within is not None and (at := self._armed.get(s.name)) is not None]
        waits += [] if (turn := self._intake.deadline) is None else [turn]
        return min(waits, default=None) if self.ended is None else None

    @property
    def finished(self) -> bool:
        """Whether no step can run any more, and what every step gave has been taken up."""
        waiting = (port.type in self._values for step in self._steps for port in step.takes if port.carrier == "value")
        return self.ended is not None or not (self.busy or any(waiting))

    @property
    def faults(self) -> list[Refused]:
        """What others did wrong, in order; the session went on without them, or ended at the last."""
        return self._arrivals.faults

    @property
    def remembers(self) -> tuple[object, ...]:
        """The values that the party holds now: what a thief of its memory would find."""
        return tuple(self._values.values())

    # Inside

    def _run(self, now: float, event: Callable[[], bool], *, act: bool = True) -> list[Letter]:
        """Let something happen; where it changes anything, or a deadline is over, run the steps that are ready."""
        if self.ended is not None:
            return []
        self.check_idle()
        self._intake.now = max(now, self._intake.now)
        letters = list[Letter]()
        try:
            slow = self._intake.overdue() if self._intake.crowded else []
            for sender in slow:
                self._arrivals.blame(sender, Refused("wire-slow", "its vector took longer than its share of the step's time"))
            if event() or slow or ((at := self.deadline) is not None and self._intake.now >= at):
                self.busy = not act
                while act and (step := self._next()) is not None:
                    letters += self._emit(step, self._call(step, self._collect(step)))
        except Exception as error:  # noqa: BLE001  (those that are not of the protocol are raised again)
            letters += self._fail(error)
        return letters

    def _take_up(self) -> list[Letter]:
        """What came of the step that was performed."""
        if self._performed is None:
            return []
        (step, result, error), self._performed = self._performed, None
        if error is not None:
            raise error
        return self._emit(step, result)

    def _fail(self, error: Exception) -> list[Letter]:
        """What follows from an error that is being handled; raises it again where it is none of the protocol's."""
        self.busy = False
        if isinstance(error, Refused):
            return self._leave(error)
        if not isinstance(error, Abort):
            self._end(Abort("misuse", "the party's own input was refused, or its own code failed"))
            raise error
        self._note(error.faults, error.step)
        self._end(Abort(error.check, error.detail, step=error.step, faults=[text_of(fault) for fault in error.faults]))
        return []

    def _feed(self, sender: Address, chunk: bytes | memoryview) -> bool:
        try:
            message = self._arrivals.feed(sender, chunk)
        except Refused as error:
            self._arrivals.blame(sender, error)
            return True
        if type(message) is Farewell:
            self.accused[sender] = message.blamed[0] if message.blamed else 0
            return self._lose(sender)
        return message is not None

    def _lose(self, peer: Address) -> bool:
        if peer not in self._arrivals.roster:
            return False
        if not self.flow.roles[peer.role].many:
            raise Abort("peer-gone", f"{peer} is gone")
        self._arrivals.lose([peer])
        return True

    def _keep(self, value: object) -> bool:
        self._values[type(value)] = value
        return True

    def _next(self) -> Step | None:
        """The first step that is ready."""
        for step in self._steps:
            if (step.state is None or step.state.type in self._values) and self._ready(step):
                return step
        return None

    def _ready(self, step: Step) -> bool:
        """Whether all that a step takes whose state is here is here; admits and folds messages on the way."""
        if step.awaits:
            self._arrivals.take_in(step)
        for _, kind in step.moved:
            if kind not in self._values:
                return False
        if not step.awaits:
            return True
        since = self._armed.setdefault(step.name, self._intake.now)
        late = step.within is not None and self._intake.now >= since + step.within
        for port in step.awaits:
            if port.carrier != "message":
                if not self._arrivals.enough(step, port.type, late=late):
                    return False
            elif not self._arrivals.has(port.type, step):
                if late:
                    raise Abort("deadline", f"no {port.type.__name__} in {step.within:g} s", step=step.name)
                return False
        return True

    def _collect(self, step: Step) -> dict[str, Any]:
        """What a step takes, moved out of the session."""
        self._armed.pop(step.name, None)
        arguments = self._arrivals.collect(step)
        for name, kind in step.moved:
            arguments[name] = self._values.pop(kind)
        for name in step.random:
            arguments[name] = self._entropy()
        return arguments

    def _call(self, step: Step, arguments: dict[str, Any]) -> Any:
        try:
            return step.fn(**arguments)
        except Refused as error:
            error.step = error.step or step.name
            error.sender = error.sender or self._source(step)
            raise
        except Abort as error:
            error.step = error.step or step.name
            raise

    def _source(self, step: Step) -> str | None:
        return next((self.flow.sender(p.type).role for p in step.takes if p.carrier == "message"), None)

    def _emit(self, step: Step, result: Any) -> list[Letter]:
        items = result if isinstance(result, tuple) and len(step.gives) != 1 else (() if not step.gives else (result,))
        if len(items) != len(step.gives):
            raise Misuse(f"the step {step.name} of {self.flow.name} declares {len(step.gives)} results and gave {len(items)}")
        letters = list[Letter]()
        for port, item in zip(step.gives, items):  # noqa: B905  (of equal lengths)
            if port.carrier == "value" and type(item) is port.type:
                self._values[port.type] = item
                continue
            match item:
                case Output(value, faults):
                    self._note(faults, step.name)
                    self._put(value)
                case Broadcast(message, to):
                    letters.append(self._letter(message, tuple(to)))
                    self._arrivals.await_only(self.flow.receiver(port.type).role, to)
                case Fanout(messages):
                    letters += [self._letter(message, (index,)) for index, message in messages.items()]
                    self._arrivals.await_only(self.flow.receiver(port.type).role, messages)
                case Message():
                    letters.append(self._letter(item, (0,)))
                case _:
                    self._values[port.type] = item
        if letters:
            self._write_down(letters, spends=step.spends)
        return letters

    def _write_down(self, letters: list[Letter], *, spends: bool) -> None:
        """Count what is about to leave, and ask the guard."""
        for kind in {type(letter.message) for letter in letters}:
            self._sent[kind] = self._sent.get(kind, 0) + 1
        if self._guard is not None:
            self._guard.spend() if spends else self._guard.join()

    def _note(self, faults: Iterable[Refused], step: str | None) -> None:
        """What a step found out about others."""
        for fault in faults:
            fault.step = fault.step or step
            self.faults.append(text_of(fault))

    def _put(self, value: Any) -> None:
        awaited = {port.type for step in self._steps for port in step.values}
        if type(value) in awaited:
            self._keep(value)
        else:
            self.outputs.append(value)

    def _letter(self, message: Message, to: tuple[int, ...]) -> Letter:
        role = self.flow.receiver(type(message)).role
        return Letter(self.me, tuple(Address(role, i) for i in to), message, self._sent.get(type(message), 0), self.limits)

    def _leave(self, error: Refused) -> list[Letter]:
        """End after a refused message; tell the roles of one who was to blame, and nothing else."""
        self.faults.append(text_of(error))
        self._end(Abort(error.check, error.detail, step=error.step))
        role, _, index = (error.sender or "").rpartition(" ")
        blamed = (int(index),) if role == self.me.role and index.isdigit() and int(index) <= MAX_PARTIES else ()
        if not self.flow.roles[self.me.role].many:
            return []
        ones = tuple(Address(name) for name, r in self.flow.roles.items() if not r.many and Address(name) in self._arrivals.roster)
        return [Letter(self.me, (one,), Farewell(blamed), 0, self.limits) for one in ones]

    def _end(self, error: Abort) -> None:
        self.ended, self._poised, self._performed = error, None, None
        self._values.clear()
        self._arrivals.clear()
