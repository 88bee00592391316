"""Whether a protocol from outside fits the seam: what is asked of a plug-in before it runs, and of what it computes.

A plug-in keeps what the engine promises for every protocol: messages are bounded, values are used once, and the step that takes a
party's input is the one whose letters are written down as having spent it.

What it does not see: whether its steps are pure, whether its checks are right, whether its sums hide anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

from protocols.errors import Misuse, SecureSumError
from protocols.kahe_parameters import SUITE as KAHE
from protocols.plugins import NAME, RESERVED, Origin, refused
from protocols.schema import Message, is_raw, schema
from protocols.suite import LIGHTSECAGG, PLAIN, SECAGG, SECAGG_PLUS, SumParameters
from protocols.vector import Sum, Vector
from protocols.wire import canonical

if TYPE_CHECKING:
    from protocols.flow import Flow
    from protocols.sums import Scheme

SUITES = (SECAGG, SECAGG_PLUS, LIGHTSECAGG, KAHE, PLAIN, "BFV_", "CKKS_")
"""How the suite strings of the built-in protocols begin."""


def admitted(found: Scheme, name: str, origin: Origin) -> Scheme:
    """A plug-in with its origin, a copy of its flow, and what it computes held against what was asked.

    Raises:
        Misuse: where it does not fit; the scheme that is returned raises it for what its functions compute.
    """
    if reason := _first(_problem(found, name)):
        raise refused(name, origin, reason)
    flow = found.flow.swap(**{step.name: replace(step, layer="security") for step in found.flow.steps})

    def fits(make: Callable[..., Any], problem: Callable[..., Iterator[str]]) -> Callable[..., Any]:
        def made(*args: Any, **options: Any) -> Any:
            try:
                result = make(*args, **options)
            except SecureSumError:
                raise
            except Exception as error:
                raise refused(name, origin, f"{type(error).__name__}: {error}") from error
            if reason := _first(problem(result, *args, **options)):
                raise refused(name, origin, reason)
            return result

        return made

    return replace(
        found,
        flow=flow,
        origin=origin,
        parameters=fits(found.parameters, _parameters_problem),
        suite=fits(found.suite, _suite_problem),
        client_start=fits(found.client_start, lambda value, *_: _start_problem(value, flow, "client")),
        server_start=fits(found.server_start, lambda value, *_: _start_problem(value, flow, "server")),
        layouts=fits(found.layouts, lambda layouts, _: _layouts_problem(layouts, flow)),
    )


def _first(problems: Iterator[str]) -> str:
    """The first problem, or nothing; looking into fields of any type may be one."""
    try:
        return next(problems, "")
    except Exception as error:  # noqa: BLE001
        return str(error) if isinstance(error, Misuse) else f"{type(error).__name__}: {error}"


def _problem(scheme: Scheme, name: str) -> Iterator[str]:
    """What keeps a scheme from the seam, found without running it."""
    if scheme.name != name:
        yield f"its scheme is named {scheme.name!r}"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        yield "a name has 1 to 32 of the letters a-z, 0-9, +, ., _ and -, and begins with a letter or digit"
    if scheme.in_clear is not None:
        yield "its sums would be formed in_clear, not by its flow: a simulation must run what it simulates"
    if name in RESERVED:
        yield "that name is securefl's own"
    for what in ("parameters", "suite", "client_start", "server_start", "layouts"):
        if not callable(getattr(scheme, what)):
            yield f"its {what} is a {type(getattr(scheme, what)).__name__}, not a function"
    try:
        inspect.signature(scheme.parameters).bind(5, 4, 7, bits=None, threshold=None, corrupt=None)
    except TypeError as error:
        yield f"parameters(parties, size, max_abs, *, bits, threshold, corrupt) is how it is called: {error}"
    yield from _flow_problem(scheme.flow.check())


def _flow_problem(flow: Flow) -> Iterator[str]:
    """Whether a flow has the ends that the seam connects."""
    if others := [step.role for step in flow.steps if step.role not in ("client", "server")]:
        yield f"its flow has the role {others[0]}: the seam has one server and many clients"
    for role in ("client", "server"):
        if len(starts := flow.starts(role)) != 1:
            yield f"a {role} of its flow starts with {len(starts)} values, not 1"
    if flow.inputs("client") != [Vector] or flow.inputs("server"):
        yield "its clients must take one input from outside, a protocols.vector.Vector, and its server none"
    opened = [(step.role, port.type) for step in flow.steps for port in step.gives if port.carrier == "output"]
    if opened != [("server", Sum)]:
        yield "its server must give one output, a protocols.vector.Sum, and nobody another"
    taking = [step for step in flow.of("client") if any(port.type is Vector for port in step.takes)]
    if [step for step in flow.of("client") if step.spends] != taking:
        yield f"the step {taking[0].name} takes the input, so it and no other must be declared with spends=True"
    if not any(issubclass(port.type, Message) for port in taking[0].gives):
        yield f"the step {taking[0].name} takes the input and sends nothing"


def _parameters_problem(
    made: Any, parties: int, size: int, max_abs: int, *, threshold: int | None = None, corrupt: int | None = None, **_: Any
) -> Iterator[str]:
    """Whether parameters have what the seam reads, and are those that were asked for."""
    wanted = [name for name, value in vars(SumParameters).items() if isinstance(value, property)]
    if missing := [name for name in wanted if not hasattr(made, name)]:
        yield f"its parameters, {type(made).__name__}, lack {', '.join(missing)}"
    n, t, c = made.parties, made.threshold, made.corrupt
    if (n, made.size, made.max_abs) != (parties, size, max_abs):
        yield f"its parameters are for {n} parties, {made.size} values up to {made.max_abs}; asked: {parties}, {size}, {max_abs}"
    if not 2 <= t <= n or (threshold is not None and t < threshold):
        asked = f", {threshold} asked" if threshold is not None else ""
        yield f"its threshold is {t} of {n} parties{asked}: it must be from {max(2, threshold or 2)} to {n}"
    if not (corrupt or 0) <= c < n:
        yield f"its number of corrupt parties is {c}: it must be from {corrupt or 0} to {n - 1}"
    if missing := [name for name in ("bits", "modulus", "title", "packed_size") if not hasattr(made.ring, name)]:
        yield f"the ring of its parameters, {type(made.ring).__name__}, lacks {', '.join(missing)}"
    try:
        canonical(made.content)
    except Exception as error:  # noqa: BLE001  (whatever the encoder makes of an object that it does not know)
        yield f"the content of its parameters cannot enter a session identity: {error}"


def _suite_problem(made: object, _parameters: object) -> Iterator[str]:
    """Whether a suite string is one, and no built-in protocol's: policies accept protocols by it."""
    if not isinstance(made, str) or not 1 <= len(made.encode()) <= 256:
        yield f"its suite string is {made!r:.60}: it must be a text of 1 to 256 bytes"
    elif made.startswith(SUITES):
        yield f"its suite string {made!r:.80} begins like a built-in protocol's"


def _start_problem(value: object, flow: Flow, role: str) -> Iterator[str]:
    """Whether a role starts with what its first step takes."""
    (awaited,) = flow.starts(role)
    if type(value) is not awaited:
        yield f"its {role}_start gives a {type(value).__name__}, and its flow awaits a {awaited.__name__}"


def _layouts_problem(layouts: Mapping[str, Any], flow: Flow) -> Iterator[str]:
    """Whether every vector in a message has a layout."""
    keys = {get_args(hint)[1].key for kind in flow.messages() for _, hint in schema(kind) if is_raw(hint)}
    missing = sorted(keys - set(layouts))
    if missing:
        yield f"its layouts lack {', '.join(missing)}"
