"""What the tests of the harness share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def naive() -> Any:
    """The toy of example 07: a protocol with three planted faults."""
    sys.path.insert(0, str(EXAMPLES / "naive_protocol"))
    import naive_protocol

    return naive_protocol


@pytest.fixture(scope="session")
def ring() -> Any:
    """The toy of example 06: pads between neighbours, under signed keys."""
    sys.path.insert(0, str(EXAMPLES / "ring_protocol"))
    import ring_protocol

    return ring_protocol
