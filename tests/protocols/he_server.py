"""A federation over homomorphic sums; the server that cheats it is `securefl.audit.he_server.HeServer`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from adversary import Federation, federation

from protocols import sums
from protocols.he_parameters import HeParameters
from protocols.policy import Policy
from protocols.schema import Message
from securefl.audit.he_server import HeServer, signed

__all__ = ["BAD", "EITHER", "EVERYBODY", "SCHEME", "VICTIM", "HeServer", "P", "flipped", "shared", "signed"]

SCHEME = sums.scheme("bfv")
EVERYBODY = (1, 2, 3, 4, 5, 6)
VICTIM, BAD = 1, 6
P = HeParameters.bfv(6, 5, 1000, threshold=4)
EITHER = pytest.mark.parametrize("name", ["bfv", "ckks"])


def shared(name: str = "bfv") -> Federation:
    make = HeParameters.bfv if name == "bfv" else HeParameters.ckks
    return federation(parameters=make(6, 5, 1000, threshold=4), scheme=sums.scheme(name)).with_policy(Policy(min_corrupt=0))


def flipped(message: Any, *_: object) -> Message:
    return replace(message, signature=bytes([message.signature[0] ^ 1]) + message.signature[1:])
