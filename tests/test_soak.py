"""tests/soak.py for some seconds; and that it would find a wrong sum."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).with_name("soak.py")


def test_sums_stay_right_under_random_faults_for_some_seconds() -> None:
    command = [sys.executable, "-P", str(SCRIPT), "--minutes", "0.25", "--parties", "4", "--size", "2000", "--seed", "3", "--json"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    tree = json.loads(done.stdout)
    assert tree["well"]
    assert tree["counts"]["right"] > 0
    assert "WRONG" not in tree["counts"]
    assert sum(count for what, count in tree["counts"].items() if what in ("kill a party", "cut all", "kill the server")) > 0


def test_a_sum_that_is_not_exactly_that_of_those_in_it_is_found() -> None:
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    soak = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(soak)
    names = ["a", "b", "c", "d"]
    total = sum(soak.vector(names, name, 7, 50) for name in "acd")
    assert soak.right(names, 7, total, 3)
    assert not soak.right(names, 7, total, 4)
    assert not soak.right(names, 8, total, 3)
    assert not soak.right(names, 7, total + np.eye(1, 50, 20, dtype=np.int64)[0], 3)
    assert not soak.right(names, 7, total + soak.vector(names, "a", 7, 50), 4)  # one of them twice
