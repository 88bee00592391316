"""The notebook runs top to bottom, with and without the eICU demo, says what it promises, and is kept without outputs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "health.ipynb"


def cells(kind: str) -> list[dict[str, object]]:
    tree = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert tree["nbformat"] == 4
    return [cell for cell in tree["cells"] if cell["cell_type"] == kind]


def ran(folder: Path, data: str | None) -> str:
    """All code cells in one process, as a kernel runs them; the last expression of each is not shown."""
    source = "\n\n".join("".join(cell["source"]) for cell in cells("code"))
    env = {key: value for key, value in os.environ.items() if key != "SECUREFL_DATA"}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "PYTHONIOENCODING": "utf-8"}
    env |= {"SECUREFL_DATA": data} if data else {}
    done = subprocess.run(
        [sys.executable, "-"], input=source, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())
    return done.stdout


def told(out: str) -> None:
    federated, pooled = map(float, re.search(r"federated AUROC (\S+); all rows in one place (\S+);", out).groups())
    assert abs(federated - pooled) < 0.02
    assert "the sum is exact: True" in out
    assert re.search(r"screening of the cells of label \(exact\)", out)
    assert "covered by ε" in out


def test_it_runs_without_any_data_of_ones_own(tmp_path):
    told(ran(tmp_path, None))


def test_it_runs_with_the_demo(tmp_path):
    data = os.environ.get("SECUREFL_DATA")
    if not data or not (Path(data) / "eicu_demo").is_dir():
        pytest.skip("SECUREFL_DATA names no folder with eicu_demo")
    out = ran(tmp_path, data)
    told(out)
    assert float(re.search(r"federated AUROC (\S+);", out).group(1)) > 0.83
    assert "APACHE IVa, its rows" in out


def test_it_is_kept_without_outputs():
    for cell in cells("code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
