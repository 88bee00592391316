"""The security flow: secure aggregation as sans-IO protocols, without any machine learning.

Five lines turn ten parties' vectors into one sum (see :func:`protocols.secure_sum`).  Nothing in this package opens a socket,
reads a clock, starts a thread or imports a learning library.  The names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protocols.errors import Abort, Misuse, Refused, SecureSumError
    from protocols.sums import secure_sum
    from protocols.vector import Sum

__all__ = ["Abort", "Misuse", "Refused", "SecureSumError", "Sum", "secure_sum"]

_HOMES = {
    "Abort": "protocols.errors",
    "Misuse": "protocols.errors",
    "Refused": "protocols.errors",
    "SecureSumError": "protocols.errors",
    "Sum": "protocols.vector",
    "secure_sum": "protocols.sums",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'protocols' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
