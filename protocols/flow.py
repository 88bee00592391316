"""A flow is a DAG of pure typed steps, and the graph is read off the type annotations.

A step is a function ``(values, messages) → (values, messages)`` of one role.  What connects two steps is a type:

* a `Message` subclass is what one role sends to another;
* any other class is a *value* that stays with the party: a state, or an input from outside (`Input`).

Every value is consumed by exactly one step, so a state is used once by construction; to go on in parallel, a step returns two
values of different types.  `Flow.check` fails at import where a message has no receiver or a value has two.

    flow = Flow("toy")

    @flow.client
    def contribute(me: Member, x: Input[Number]) -> tuple[Sent, Share]: ...

    @flow.server(quorum=lambda s: s.t)
    def add(srv: Adding, shares: Inbox[Share]) -> Output[Total]: ...

Roles are named: ``client`` (many) and ``server`` (one) exist in every flow, `Flow.role` adds others.  A step whose value is
the state of an earlier step closes a loop: the part inside it runs once for every sum.

What it does not protect: a step is trusted to be pure, and a state to hold what its type says.  What a party forgets is what the
next state has no room for; references that a step keeps elsewhere are not seen.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin, overload

from protocols.errors import Misuse, Refused
from protocols.rand import Rand
from protocols.schema import Message

T = TypeVar("T")
M = TypeVar("M", bound=Message)
F = TypeVar("F", bound=Callable[..., Any])


class _Mark:
    def __init__(self, name: str) -> None:
        self.name = name


_EXTERNAL, _MANY = _Mark("input"), _Mark("inbox")

Input = Annotated[T, _EXTERNAL]
"""A value that comes from outside of the flow, or from a step of the flow that embeds this one."""
Inbox = Annotated[Mapping[int, M], _MANY]
"""The messages of one kind from all parties of a role that sent one, by roster index in ascending order."""


class Arrived(tuple[int, ...], Generic[M]):
    """Who sent a message of a kind whose content has been folded on arrival: roster indexes, ascending."""

    __slots__ = ()


@dataclass(frozen=True)
class Broadcast(Generic[M]):
    """One message, the same for every party in ``to``."""

    message: M
    to: tuple[int, ...]


@dataclass(frozen=True)
class Fanout(Generic[M]):
    """A message of its own for each party, by roster index."""

    messages: Mapping[int, M]


@dataclass(frozen=True)
class Output(Generic[T]):
    """A result that leaves the flow, or enters the step of an embedding flow that asks for it.

    Attributes:
        value: the result.
        faults: what others did wrong and the step found out, with their senders; the session notes it.
    """

    value: T
    faults: tuple[Refused, ...] = ()


Carrier = Literal["value", "input", "message", "inbox", "arrived", "rand", "broadcast", "fanout", "output"]


@dataclass(frozen=True)
class Port:
    """One parameter or one returned item of a step: how it travels, and its type."""

    carrier: Carrier
    type: type
    name: str = ""


@dataclass(frozen=True)
class Step:
    """A step of one role.

    Attributes:
        name: the function's name.
        role: name of the role that runs it.
        fn: the pure function.
        takes: its parameters.
        gives: what it returns, in order.
        quorum: from the step's state, the smallest number of messages with which it may run (inbox steps).
        within: seconds after which it runs with a quorum, or the session aborts.
        admit: check of one message on arrival, ``(state, sender, message)``; raises `Refused`.
        fold: takes one message into the state on arrival, ``(state, sender, message) → state``; raises `Refused`.  The state that
            it is given is its own: nobody holds it once another is returned.  So it may add to a collection in it and return
            the same state, as long as it adds last, when nothing can be refused any more.
        blames: asked, with its state, where too few have sent it a message: what earlier messages are to blame, with their senders.
        spends: whether what it sends spends the party's input.
        layer: ``security`` for a step of a plug-in, ``vector`` for one that a protocol puts around another; else the module tells.
    """

    name: str
    role: str
    fn: Callable[..., Any]
    takes: tuple[Port, ...]
    gives: tuple[Port, ...]
    quorum: Callable[[Any], int] | None = None
    within: float | None = None
    admit: Callable[[Any, int, Any], None] | None = None
    fold: Callable[[Any, int, Any], Any] | None = None
    blames: Callable[[Any], Sequence[Refused]] | None = None
    spends: bool = False
    layer: str = ""

    @property
    def doc(self) -> str:
        """First line of the step's docstring."""
        return (inspect.getdoc(self.fn) or "").split("\n", 1)[0]

    @cached_property
    def state(self) -> Port | None:
        """The first value it takes: what the party remembered before."""
        return next((port for port in self.takes if port.carrier == "value"), None)

    @cached_property
    def values(self) -> tuple[Port, ...]:
        """The values that it takes, from earlier steps or from outside."""
        return tuple(port for port in self.takes if port.carrier in ("value", "input"))

    @cached_property
    def moved(self) -> tuple[tuple[str, type], ...]:
        """Parameter and type of the values that it takes."""
        return tuple((port.name, port.type) for port in self.values)

    @cached_property
    def random(self) -> tuple[str, ...]:
        """Parameters that take a source of randomness, in order."""
        return tuple(port.name for port in self.takes if port.carrier == "rand")

    @cached_property
    def awaits(self) -> tuple[Port, ...]:
        """The messages that it takes, from one or many."""
        return tuple(port for port in self.takes if port.carrier in ("message", "inbox", "arrived"))


@dataclass(frozen=True)
class Role:
    """A role of a flow; calling it declares a step: ``@flow.client`` or ``@flow.server(quorum=…)``."""

    flow: Flow = field(repr=False)
    name: str
    many: bool

    @overload
    def __call__(self, fn: F) -> F: ...

    @overload
    def __call__(
        self,
        fn: None = None,
        *,
        quorum: Callable[[Any], int] | None = None,
        within: float | None = None,
        admit: Callable[[Any, int, Any], None] | None = None,
        fold: Callable[[Any, int, Any], Any] | None = None,
        blames: Callable[[Any], Sequence[Refused]] | None = None,
        spends: bool = False,
    ) -> Callable[[F], F]: ...

    def __call__(self, fn: F | None = None, **options: Any) -> F | Callable[[F], F]:
        """Declare a step of this role."""
        frame = inspect.currentframe()
        scope = dict(frame.f_back.f_locals) if frame is not None and frame.f_back is not None else {}

        def declare(function: F) -> F:
            takes, gives = _signature(function, scope)
            self.flow.add(Step(function.__name__, self.name, function, takes, gives, **options))
            return function

        return declare if fn is None else declare(fn)


class Flow:
    """A named set of steps, in the order of the protocol's rounds.

    Attributes:
        name: the flow's name.
        roles: the roles by name.
        steps: the steps, in the order of declaration.
        client: the role of the many parties.
        server: the role of the one aggregator.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.roles: dict[str, Role] = {}
        self.steps: list[Step] = []
        self._ends: dict[tuple[str, type], Step] = {}
        self._of: dict[str, list[Step]] = {}
        self._to: dict[str | None, list[type[Message]]] = {}
        self.client = self.role("client", many=True)
        self.server = self.role("server")

    def role(self, name: str, *, many: bool = False) -> Role:
        """Declare a role of one or ``many`` parties, or get the one of that name."""
        role = self.roles.setdefault(name, Role(self, name, many))
        if role.many != many:
            raise Misuse(f"the role {name} of {self.name} is declared twice, for one party and for many")
        return role

    def add(self, step: Step) -> None:
        """Add a step; names are unique within a flow."""
        if any(other.name == step.name for other in self.steps):
            raise Misuse(f"the flow {self.name} has two steps named {step.name}")
        self.steps.append(step)
        self._of.setdefault(step.role, []).append(step)
        self._to.clear()
        for way, ports in (("given", step.gives), ("taken", step.takes)):
            for port in ports:
                if is_message(port):
                    self._ends.setdefault((way, port.type), step)

    def include(
        self, other: Flow, *, instead: Mapping[str, Sequence[Step]] | None = None, ends: Mapping[type, type] | None = None
    ) -> Flow:
        """Embed another flow: its steps join this one; inputs and outputs connect by type.

        Args:
            other: the flow to embed; it stays as it is.
            instead: for a step of it, the steps that stand in its place, such as one whose message carries more.
            ends: for the type of an output, the type under which this flow takes it: a dataclass of one field, so that an output
                of its own may have the type of the embedded flow's.
        """
        for name in instead or {}:
            other.step(name)
        for role in other.roles.values():
            self.role(role.name, many=role.many)
        for step in other.steps:
            for one in (instead or {}).get(step.name, [_ending(step, ends or {})]):
                self.add(one)
        return self

    def replace(self, **functions: Callable[..., Any]) -> Flow:
        """A copy in which the named steps run other functions of the same signature: an adversary, or a check left out."""
        for name in functions:
            self.step(name)
        return self.swap(**{name: replace(self.step(name), fn=fn) for name, fn in functions.items()})

    def swap(self, **steps: Step) -> Flow:
        """A copy in which the named steps are replaced whole, checks on arrival included."""
        copy = Flow(self.name)
        for role in self.roles.values():
            copy.role(role.name, many=role.many)
        for step in self.steps:
            copy.add(steps.get(step.name, step))
        return copy.check()

    def step(self, name: str) -> Step:
        """The step of that name."""
        for step in self.steps:
            if step.name == name:
                return step
        raise Misuse(f"the flow {self.name} has no step {name}; it has {', '.join(s.name for s in self.steps)}")

    def of(self, role: str) -> list[Step]:
        """The steps of one role, in order."""
        return list(self._of.get(role, ()))

    def sender(self, kind: type[Message]) -> Step:
        """The step that sends messages of that kind."""
        return self._ends["given", kind]

    def receiver(self, kind: type[Message]) -> Step:
        """The step that takes messages of that kind."""
        return self._ends["taken", kind]

    def messages(self, role: str | None = None) -> list[type[Message]]:
        """Kinds of messages that steps of ``role`` (or of any) take, in order of the steps that send them."""
        if role not in self._to:
            sent = [port.type for step in self.steps for port in step.gives if is_message(port)]
            self._to[role] = [kind for kind in sent if role is None or self.receiver(kind).role == role]
        return list(self._to[role])

    def starts(self, role: str) -> list[type]:
        """Types of the values with which a party of that role must start: consumed by a step, produced by none."""
        made = {port.type for step in self.of(role) for port in step.gives if port.carrier in ("value", "output")}
        return [p.type for s in self.of(role) for p in s.takes if p.carrier == "value" and p.type not in made]

    def inputs(self, role: str) -> list[type]:
        """Types that a party of that role waits for from outside."""
        made = {port.type for step in self.of(role) for port in step.gives if port.carrier in ("value", "output")}
        return [p.type for s in self.of(role) for p in s.takes if p.carrier == "input" and p.type not in made]

    def check(self) -> Flow:
        """Check the graph: every message has one sender and one receiver that can take it, every value one consumer.

        Raises:
            Misuse: naming the flow, the type and the steps.
        """
        from protocols.wiring import problems  # noqa: PLC0415  (it reads this module's types)

        for problem in problems(self):
            raise Misuse(f"flow {self.name}: {problem}")
        return self


def _ending(step: Step, ends: Mapping[type, type]) -> Step:
    """The step with its outputs under other types."""
    if not any(port.carrier == "output" and port.type in ends for port in step.gives):
        return step

    def under(item: Any) -> Any:
        if isinstance(item, Output) and type(item.value) in ends:
            return replace(item, value=ends[type(item.value)](item.value))
        return item

    @functools.wraps(step.fn)
    def fn(**taken: Any) -> Any:
        given = step.fn(**taken)
        return tuple(map(under, given)) if isinstance(given, tuple) else under(given)

    gives = tuple(replace(p, type=ends.get(p.type, p.type)) if p.carrier == "output" else p for p in step.gives)
    return replace(step, fn=fn, gives=gives)


def is_message(port: Port) -> bool:
    """Whether a port carries a message."""
    return port.carrier in ("message", "inbox", "arrived", "broadcast", "fanout")


def _signature(fn: Callable[..., Any], scope: dict[str, Any]) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    hints = typing.get_type_hints(fn, localns=scope, include_extras=True)
    returned = hints.pop("return", None)
    missing = [name for name in inspect.signature(fn).parameters if name not in hints]
    if missing or returned is None:  # of None that is written down the type is given
        raise Misuse(f"the step {fn.__name__} needs a type on every parameter and on what it returns")
    if get_origin(returned) is tuple:
        items = [item for item in get_args(returned) if item != ()]
    else:
        items = [] if returned is types.NoneType else [returned]
    return tuple(_taken(hint, name, fn) for name, hint in hints.items()), tuple(_given(item, fn) for item in items)


def _taken(hint: Any, name: str, fn: Callable[..., Any]) -> Port:
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        if marks == [_EXTERNAL]:
            return Port("input", _plain_type(base, fn), name)
        if marks == [_MANY]:
            return Port("inbox", _plain_type(get_args(base)[1], fn), name)
    if get_origin(hint) is Arrived:
        return Port("arrived", _plain_type(get_args(hint)[0], fn), name)
    kind = _plain_type(hint, fn)
    if kind is Rand:
        return Port("rand", Rand, name)
    return Port("message" if issubclass(kind, Message) else "value", kind, name)


def _given(hint: Any, fn: Callable[..., Any]) -> Port:
    carriers: dict[Any, Carrier] = {Broadcast: "broadcast", Fanout: "fanout", Output: "output"}
    origin = get_origin(hint)
    if origin in carriers:
        return Port(carriers[origin], _plain_type(get_args(hint)[0], fn))
    kind = _plain_type(hint, fn)
    return Port("message" if issubclass(kind, Message) else "value", kind)


def _plain_type(hint: Any, fn: Callable[..., Any]) -> type:
    base = get_origin(hint) or hint
    if not isinstance(base, type) or base in (int, str, bytes, float, bool, list, dict, tuple, set):
        raise Misuse(
            f"the step {fn.__name__} uses {hint!r}: values and messages have classes of their own, so that they connect by type"
        )
    return base
