"""The security flow: secure aggregation as sans-IO protocols, without any machine learning.

Five lines turn ten parties' vectors into one sum (see :func:`protocols.secure_sum`).  Nothing in this package opens a socket,
reads a clock, starts a thread or imports a learning library.
"""

from __future__ import annotations

from protocols.errors import Abort, Misuse, Refused, SecureSumError
from protocols.sums import secure_sum
from protocols.vector import Sum

SECUREFL = True
"""Marks this package as the one that securefl needs: a user's own folder named ``protocols`` would shadow it."""

__all__ = ["SECUREFL", "Abort", "Misuse", "Refused", "SecureSumError", "Sum", "secure_sum"]
