"""Federated learning in which the server opens the sum over enough parties, and nothing else.

    from securefl import Runner, Fold, ClientTrainer, ServerAggregator

The names are loaded on first use, so that importing the package stays cheap.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securefl.aggregator import Aggregate, ServerAggregator
    from securefl.encoding import SumSpec
    from securefl.errors import UserError
    from securefl.job import Job
    from securefl.round_types import Fold
    from securefl.runner import Runner
    from securefl.saved import load_model
    from securefl.trainer import ClientTrainer

__all__ = ["Aggregate", "ClientTrainer", "Fold", "Job", "Runner", "ServerAggregator", "SumSpec", "UserError", "load_model"]

_HOMES = {
    "Aggregate": "securefl.aggregator",
    "ClientTrainer": "securefl.trainer",
    "Fold": "securefl.round_types",
    "Job": "securefl.job",
    "Runner": "securefl.runner",
    "ServerAggregator": "securefl.aggregator",
    "SumSpec": "securefl.encoding",
    "UserError": "securefl.errors",
    "load_model": "securefl.saved",
}


def _refuse_shadow() -> None:
    """Refuse another package named ``protocols`` that stands before ours on the path; nothing of it is run.

    Both packages come in one wheel, so ours is the one beside this.
    """
    ours = Path(__file__).parent.parent / "protocols" / "__init__.py"
    found = "a module named protocols, made by hand,"
    with contextlib.suppress(ValueError):  # what find_spec makes of a module without an origin
        spec = importlib.util.find_spec("protocols")
        places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else [str(ours)]
        found = next((place for place in places if place), found)
    if found == str(ours) or (Path(found).exists() and ours.exists() and ours.samefile(found)):
        return
    line = f"{found} shadows the package protocols that securefl needs: rename it, or run from another folder"
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
