"""Public work that many parties of one process would repeat is done once: what makes a simulation of a thousand parties quick.

Every party checks the same list and the same signatures, and decodes the same broadcast.  Within `shared_work` the first to do so
leaves the result for the others: results of pure functions of public data, and what two parties of this process agree on, whose
both keys lie in it anyway; and only where the work succeeded.
Outside of it nothing is kept, so a party on a machine of its own, and a benchmark of one, does all of its work itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
_KNOWN: ContextVar[dict[Hashable, tuple[object, Any]] | None] = ContextVar("known", default=None)


@contextmanager
def shared_work() -> Iterator[None]:
    """Within this context `once` remembers; what it knows is forgotten at the end.  A context within another changes nothing."""
    if _KNOWN.get() is not None:
        yield
        return
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


@contextmanager
def own_work() -> Iterator[None]:
    """Within this context nothing is shared: to measure one party among others that share their work."""
    token = _KNOWN.set(None)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def once(key: Hashable, compute: Callable[[], T], *, of: object = None) -> T:
    """The result of ``compute``, from the first call with this key.

    Args:
        key: all that the result depends on, but for ``of``.
        compute: a pure function; what it raises is not remembered.
        of: an object on which the result depends too, told apart by identity and kept alive; it must not change.
    """
    known = _KNOWN.get()
    if known is None:
        return compute()
    whole = (id(of), key)
    if whole not in known:
        known[whole] = (of, compute())
    result: T = known[whole][1]
    return result


def sharing() -> bool:
    """Whether work is shared here."""
    return _KNOWN.get() is not None


def lately(slot: str, key: Hashable, compute: Callable[[], T]) -> T:
    """As `once`, but only the last result of a slot is kept: for what comes to all parties in a row, such as a broadcast."""
    known = _KNOWN.get()
    if known is None:
        return compute()
    last = known.get(("lately", slot))
    if last is None or last[0] != key:
        last = known[("lately", slot)] = (key, compute())
    result: T = last[1]
    return result
