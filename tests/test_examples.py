"""Every example runs as a program of its own, in an empty folder, and says or writes what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def start(name: str, folder: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sums(folder: Path) -> None:
    out = start("01_sum_without_ml.py", folder)
    expected = [sum(column) for column in zip(*([12 + u, 30 - u, 7 * u, u % 3] for u in range(1, 11)), strict=True)]
    assert out == f"sum over 10 hospitals: {expected}\n"
    assert not list(folder.iterdir())


def picture(folder: Path) -> None:
    from matplotlib import image

    out = start("02_watch_masks_cancel.py", folder)
    assert "sum of 4 parties exact: True" in out
    assert [path.name for path in folder.iterdir()] == ["masks_cancel.png"]
    pixels = image.imread(folder / "masks_cancel.png")
    red = (pixels[..., 0] > 0.7) & (pixels[..., 1] < 0.4) & (pixels[..., 2] < 0.4)
    rows, columns = np.nonzero(red)
    assert columns.min() > pixels.shape[1] / 2, "the masked vectors stand in the right half"
    thirds = np.histogram(rows, bins=6, range=(0, pixels.shape[0]))[0]
    assert thirds[3] < min(thirds[[0, 1, 2, 4, 5]]) / 2, "every party's row holds points but that of the one that vanished"


def dropouts(folder: Path) -> None:
    lines = start("03_dropouts.py", folder).splitlines()[1:]
    vectors = {u: (u, 10 * u, 2**u) for u in range(1, 8)}
    steps = {"Advert": "collect", "Boxes": "relay", "Masked": "survey", "Agree": "gather", "Openings": "reveal"}
    assert [line.split()[0] for line in lines] == [stage for stage in steps for _ in range(2)]
    for line in lines:
        stage, gone, told = re.fullmatch(r"(\w+) +((?:\d, )*\d) +(.*)", line).groups()
        missing = {int(u) for u in gone.split(", ")}
        if len(missing) == 3:
            assert told == f"aborted in step {steps[stage]}: quorum (4 {stage} where 5 are needed)"
            continue
        inside = [vectors[u] for u in vectors if u not in missing or stage in ("Agree", "Openings")]
        assert f"sum over {len(inside)} " in told
        assert told.endswith(str([sum(column) for column in zip(*inside, strict=True)]))


FACTS = {"01_sum_without_ml.py": sums, "02_watch_masks_cancel.py": picture, "03_dropouts.py": dropouts}
"""What is checked beside the exit code."""


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_keeps_its_promise(name, tmp_path):
    if name in FACTS:
        FACTS[name](tmp_path)
    else:
        assert start(name, tmp_path).strip()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_short_and_says_what_it_is(name):
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    assert text.startswith('"""')
    assert len(text.splitlines()) < 80


def test_every_fact_belongs_to_an_example():
    assert set(FACTS) <= set(EXAMPLES)


def test_what_an_example_writes_is_ignored_by_git():
    assert "masks_cancel.png" in (ROOT / ".gitignore").read_text().splitlines()


def test_picture_goes_where_the_argument_says(tmp_path):
    (tmp_path / "there").mkdir()
    start("02_watch_masks_cancel.py", tmp_path, "there")
    assert (tmp_path / "there" / "masks_cancel.png").stat().st_size > 10_000
