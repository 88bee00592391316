"""The parameters of a sum, made again from what somebody wrote down of it.

A protocol makes its parameters from a few numbers and computes the rest; what it makes again must be what was declared, or the sum
was run with others.  What it does not protect: that they are good enough is for a party's policy to say.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from protocols.errors import Misuse
from protocols.primitives.graph import Complete, Harary
from protocols.ring import Ring
from protocols.secagg_parameters import Parameters
from protocols.suite import SumParameters, tail_of
from protocols.sums import Scheme

GIVEN = (
    (),
    ("bits",),
    ("bits", "threshold"),
    ("threshold",),
    ("bits", "threshold", "corrupt"),
    ("corrupt",),
    ("threshold", "corrupt"),
)
"""Which arguments a caller may have given; a protocol computes those that it was not given."""


NAMES = ("parties", "size", "max_abs", "bits", "threshold", "corrupt")
"""The numbers that every declaration has; ``tail`` is there where the sum carries noise."""


def declaration(parameters: SumParameters) -> dict[str, Any]:
    """What is written down: the arguments as they came out, and all that enters the session identity."""
    p = parameters
    numbers = {"parties": p.parties, "size": p.size, "max_abs": p.max_abs}
    noise = {"tail": tail_of(p)} if tail_of(p) else {}
    return {**numbers, "bits": p.ring.bits, "threshold": p.threshold, "corrupt": p.corrupt, **noise, "content": p.content}


def _is(made: SumParameters, said: dict[str, Any]) -> bool:
    """Whether everything that is said holds of these parameters."""
    return {"tail": 0, **declaration(made)} == {
        "tail": 0,
        **{name: said[name] for name in said if name in (*NAMES, "tail", "content")},
    }


def declared(scheme: Scheme, declaration: dict[str, Any]) -> SumParameters:
    """The parameters that a declaration speaks of.

    Raises:
        Misuse: where the protocol makes no such parameters, or refuses them.
    """
    n, size, most, content = (declaration[name] for name in ("parties", "size", "max_abs", "content"))
    tail = declaration.get("tail", 0)
    numbers = {name: declaration[name] for name in NAMES} | {"tail": tail}
    if odd := [f"{name} {value!r}" for name, value in numbers.items() if type(value) is not int]:
        raise Misuse(f"parameters are whole numbers, unlike {', '.join(odd)}")
    for names in GIVEN:
        with suppress(Misuse):
            given = {name: declaration[name] for name in names}
            made = scheme.noised(n, size, most, tail=tail, **given) if tail else scheme.parameters(n, size, most, **given)
            if _is(made, declaration):
                return made
    if scheme.name in ("secagg", "secagg+"):
        with suppress(TypeError, ValueError, IndexError):
            *_, bits, t, c, graph, noise = content
            own = Parameters(n, size, most, Ring(bits), t, c, Complete() if graph == ["complete"] else Harary(n, *graph[1:]), noise)
            if _is(own, declaration):
                return own
    raise Misuse(f"{scheme.name} makes no parameters with the content {content}")
