"""Cheats against LightSecAgg: six parties, and a server played by the test.

Unless a test says otherwise U = 4, T = 1, |C| = 1, and the victim is party 1.
"""

from __future__ import annotations

import numpy as np
from adversary import Federation, federation

from protocols import sums
from protocols.lightsecagg_parameters import LightParameters
from protocols.ring import Ring
from securefl.audit.light_server import LightServer, unmasked

__all__ = ["BAD", "SCHEME", "VICTIM", "LightServer", "light", "too_large", "unmasked"]

SCHEME = sums.scheme("lightsecagg")
VICTIM, BAD = 1, 6


def light(**parameters: int) -> Federation:
    return federation(parameters=LightParameters.of(6, 5, 1000, **parameters), scheme=SCHEME)


def too_large(count: int) -> bytes:
    """So many packed values that are q."""
    return bytes(Ring(31).pack(np.full(count, 2**31 - 1, dtype=np.uint32)))
