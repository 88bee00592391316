"""What was opened, as data: each event covered by ε, with the numbers that an accountant needs, or exact, with what it can show.

Events of integer noise are in `securefl.privacy.divergence`; here are the others, and the form in which all are kept: a table of
plain values with the name of its kind.  A kind or a number that is not known is refused, also when it is read back.

What it does not protect: an event says what was opened as far as whoever made it knew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from securefl.errors import UserError
from securefl.privacy import divergence
from securefl.privacy.divergence import DiscreteGaussianEvent, SkellamEvent

Unit = Literal["record", "party"]
UNITS: tuple[Unit, ...] = get_args(Unit)
"""What one ε can protect.  Two units are never added up."""


@dataclass(frozen=True)
class DpSgdEvent:
    """Steps of DP-SGD: the Poisson-sampled Gaussian mechanism.

    Attributes:
        noise_multiplier: σ, standard deviation of the noise divided by the clip; 0 is ε = ∞.
        sample_rate: probability in (0, 1] with which a record is in a batch.
        steps: how many, at least 1; those of several models that one record takes part in are added.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int = 1


@dataclass(frozen=True)
class ExactEvent:
    """Something that was opened without noise.

    Attributes:
        shows: what it can show, differences of several such sums included.
    """

    shows: str


Covered = SkellamEvent | DiscreteGaussianEvent | DpSgdEvent
"""Events that ε covers."""

Event = Covered | ExactEvent

KINDS: dict[str, type[Any]] = {
    "skellam": SkellamEvent,
    "discrete-gaussian": DiscreteGaussianEvent,
    "dp-sgd": DpSgdEvent,
    "exact": ExactEvent,
}
"""Every kind that the ledger knows, by its name there."""

WHOLE = {"rounds", "honest", "dimension", "steps"}


def check(event: object) -> None:
    """Raise `UserError` unless ``event`` is of a known kind and its numbers are possible."""
    if isinstance(event, ExactEvent):
        if not isinstance(event.shows, str) or not event.shows:
            raise UserError("an exact event says what it can show, in words")
    elif isinstance(event, DpSgdEvent):
        if not (math.isfinite(event.noise_multiplier) and event.noise_multiplier >= 0):
            raise UserError(f"noise_multiplier of an event is {event.noise_multiplier}: it must be finite and at least 0")
        if not 0 < event.sample_rate <= 1 or event.steps < 1:
            raise UserError(f"an event of DP-SGD has a rate in (0, 1] and at least one step: {event}")
    else:
        divergence.check(event)


def plain(event: Event) -> dict[str, Any]:
    """The event as JSON-ready data, with its ``kind``.

    Raises:
        UserError: for a kind that is not known, or impossible numbers.
    """
    check(event)
    kind = next(name for name, made in KINDS.items() if type(event) is made)
    return {"kind": kind, **asdict(event)}


def written(event: Event) -> str:
    """The event as one line of JSON, the same for equal events; errors as for `plain`."""
    return json.dumps(plain(event), sort_keys=True, allow_nan=False, ensure_ascii=False)


def parse(tree: object) -> Event:
    """The event of plain data, as `plain` made it.

    Raises:
        UserError: for a kind that is not known, a field too many or too few, or a value that is none for it.
    """
    if not isinstance(tree, Mapping) or not isinstance(tree.get("kind"), str):
        raise UserError("an event is a table with a kind")
    kind = tree["kind"]
    if kind not in KINDS:
        raise UserError(f"an event of kind {kind!r} has no accountant here; known: {', '.join(KINDS)}")
    given, wanted = {key: value for key, value in tree.items() if key != "kind"}, {f.name for f in fields(KINDS[kind])}
    if given.keys() != wanted:
        odd = ", ".join(sorted(map(str, given.keys() ^ wanted)))
        raise UserError(f"an event of kind {kind} has the fields {', '.join(sorted(wanted))}; missing or unknown: {odd}")
    for key, value in given.items():
        number = isinstance(value, int if key in WHOLE else int | float) and not isinstance(value, bool)
        if not (isinstance(value, str) if kind == "exact" else number):
            raise UserError(f"{key} of an event of kind {kind} is {value!r}")
    event: Event = KINDS[kind](**given)
    check(event)
    return event


def read(text: str) -> Event:
    """The event of a line of JSON, as `written` made it; errors as for `parse`."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError("an event is one line of JSON") from None
    return parse(tree)
