"""Federated learning in which the server opens the sum over enough parties, and nothing else.

    from securefl import Runner, Fold, ClientTrainer, ServerAggregator

The names are loaded on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import protocols

if TYPE_CHECKING:
    from securefl.aggregator import Aggregate, ServerAggregator
    from securefl.encode import SumSpec
    from securefl.errors import UserError
    from securefl.job import Job
    from securefl.round import Fold
    from securefl.runner import Runner
    from securefl.trainer import ClientTrainer

__all__ = ["Aggregate", "ClientTrainer", "Fold", "Job", "Runner", "ServerAggregator", "SumSpec", "UserError"]

_HOMES = {
    "Aggregate": "securefl.aggregator",
    "ClientTrainer": "securefl.trainer",
    "Fold": "securefl.round",
    "Job": "securefl.job",
    "Runner": "securefl.runner",
    "ServerAggregator": "securefl.aggregator",
    "SumSpec": "securefl.encode",
    "UserError": "securefl.errors",
}


def _refuse_shadow() -> None:
    """Refuse another package named ``protocols`` that stands before ours on the path."""
    if getattr(protocols, "SECUREFL", False):
        return
    places = [protocols.__file__] if protocols.__file__ else list(protocols.__path__)
    line = f"{places[0]} shadows the package protocols that securefl needs: rename it, or run from another folder"
    # The command line imports this package before it runs a line of its own, so its exit code is decided here.
    if sys.argv and (sys.argv[0] == "-m" or Path(sys.argv[0]).stem == "securefl"):
        sys.stderr.write(f"securefl: {line}\n")
        raise SystemExit(2)
    raise ImportError(line)


_refuse_shadow()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("securefl")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'securefl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
