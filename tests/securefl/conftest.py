"""Fixtures of the learning layer's tests."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from made_stores import url
from stub_runner import Runner

import securefl.data
from securefl.data.types import Dataset, Site

__all__ = ["runner", "url"]


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """The command line without training: data of three sites, and whatever result the runner is told to give."""
    made, module = Runner(), ModuleType("securefl.experiment")
    module.run_job = made.run_job  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "securefl.experiment", module)
    sites = tuple(Site(name, np.zeros((4, 2)), np.array([0, 1, 0, 1])) for name in ("north", "south", "east"))
    notes = ("column [age] has 3 missing values",)
    data = Dataset("made data", ("a", "b"), sites, None, fixed_sites=True, source="made by hand", notes=notes)
    monkeypatch.setattr(securefl.data, "load", lambda *_, **__: data)
    monkeypatch.setenv("COLUMNS", "160")
    return made
