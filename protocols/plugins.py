"""Protocols from outside: what other packages offer by entry point, what a program registers, and what is asked of both.

A package offers a protocol by an entry point of the group ``securefl.protocols``: its name is the protocol's, its value names a
`protocols.sums.Scheme`.  Names are read from the packages' metadata; a package's code is imported when its protocol is asked for,
and not before.  The name of a built-in protocol is refused, as is one that two packages offer.

What it does not protect: a plug-in is code, and runs with the rights of the party that installed it.  What is checked here finds
mistakes; it does not contain a plug-in that means harm, and says nothing of what its sums hide.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from protocols.errors import Misuse

if TYPE_CHECKING:
    from protocols.sums import Scheme

GROUP = "securefl.protocols"
"""The group of entry points."""
BUILT_IN = ("secagg", "secagg+", "plain-insecure", "lightsecagg", "kahe", "bfv", "ckks")
"""Names of the protocols that come with this package."""
AUTO = "auto"
"""Name of the choice between ``secagg`` and ``kahe`` (`protocols.sums.chosen`)."""
RESERVED = frozenset({*BUILT_IN, AUTO, "fedavg"})
"""Names that no plug-in has: those, that of the choice, and what ``securefl draw`` calls a round of training."""
NAME = re.compile(r"[a-z0-9][a-z0-9+._-]{0,31}")


@dataclass(frozen=True)
class Origin:
    """Where a protocol that is not ours comes from.

    Attributes:
        distribution: name of the package, as installed; empty where a program has registered the protocol itself.
        version: its version.
        entry_point: ``module:attribute`` of the scheme.
    """

    distribution: str = ""
    version: str = ""
    entry_point: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.entry_point})" if self.distribution else "this program (register)"


Admit = Callable[[object, str, Origin], "Scheme"]
"""Checks what is offered under a name; raises `Misuse` (`protocols.admission.admitted`)."""
_registered: dict[str, Scheme] = {}
_loaded: dict[tuple[str, Origin], Scheme] = {}


def _offers() -> dict[str, list[tuple[Origin, metadata.EntryPoint]]]:
    """What the installed packages offer, by name; nothing of them is imported."""
    out: dict[str, list[tuple[Origin, metadata.EntryPoint]]] = {}
    for point in metadata.entry_points(group=GROUP):
        out.setdefault(point.name, []).append((_origin(point), point))
    return {name: sorted(found, key=lambda offer: str(offer[0])) for name, found in sorted(out.items())}


def _origin(point: metadata.EntryPoint) -> Origin:
    try:
        package = point.dist
        name, version = ("", "") if package is None else (package.metadata["Name"], package.version)
    except Exception:  # noqa: BLE001  (metadata that nobody can read; the entry point is named all the same)
        name, version = "", ""
    return Origin(name or "a package without a name", version or "?", point.value)


def names() -> tuple[str, ...]:
    """Names of all plug-ins, those of packages first; none of them is loaded."""
    offered = [name for name in _offers() if NAME.fullmatch(name) and name not in RESERVED]
    return tuple(dict.fromkeys([*offered, *_registered]))


def refuse_shadow(name: str) -> None:
    """Refuse a built-in protocol's name where a package offers it too: nobody knows which of the two was meant.

    Raises:
        Misuse: naming the package.
    """
    for origin, _ in _offers().get(name, ()) if name in RESERVED else ():
        raise Misuse(f"the protocol {name!r} is securefl's own, and {origin} offers another by that name: remove that package")


def find(name: str, admit: Admit) -> Scheme | None:
    """The plug-in of that name, loaded and checked; None where there is none.

    Args:
        name: of the protocol, not a built-in one.
        admit: what checks it.

    Raises:
        Misuse: where two offer that name, or what is offered cannot be loaded or does not fit; the line names the package.
    """
    if name in _registered:
        return _registered[name]
    offers = _offers().get(name, []) if NAME.fullmatch(name) else []
    if len(offers) > 1:
        raise Misuse(f"the protocol {name!r} is offered by {' and by '.join(str(o) for o, _ in offers)}: remove all but one")
    for origin, point in offers:
        if (name, origin) in _loaded:
            return _loaded[name, origin]
        try:
            found = point.load()
        except (Exception, SystemExit) as error:  # importing it may raise anything
            raise refused(name, origin, f"it cannot be loaded: {type(error).__name__}: {error}") from error
        return _loaded.setdefault((name, origin), admit(found, name, origin))
    return None


def register(scheme: Scheme, admit: Admit, *, again: bool = False) -> Scheme:
    """Keep a plug-in for this process.

    Raises:
        Misuse: as for `find`, and for a name that is taken; one taken by `register` alone is given up if ``again``.
    """
    name = getattr(scheme, "name", "")
    admitted = admit(scheme, name, Origin())
    for origin, _ in _offers().get(name, ()):
        raise refused(name, Origin(), f"{origin} offers that name")
    if name in _registered and not again:
        raise refused(name, Origin(), "that name is registered already")
    _registered[name] = admitted
    return admitted


def unregister(name: str) -> None:
    """Forget a registered plug-in; nothing happens where there is none."""
    _registered.pop(name, None)


def refused(name: object, origin: Origin, reason: str) -> Misuse:
    """The one line about a plug-in that does not fit."""
    return Misuse(f"the protocol {name!r} of {origin} is refused: {' '.join(reason.split())}")
