"""What the command line looks like: 80 columns are enough, ASCII is enough, and numbers agree with their nouns."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_result import record, result
from rich.cells import cell_len
from rich.console import Console
from stub_runner import Runner

from securefl import console, tables, terminal
from securefl.cli import main
from securefl.data.types import Dataset, Site
from securefl.job import Job

ROOT = Path(__file__).resolve().parents[2]
LONG = "every one of these words is there to make the line long, " * 4
WORST = Job.parse(
    {
        "data": {"name": "heart"},
        "model": {"name": "mlp", "hidden": 65536},
        "privacy": {"protocol": "lightsecagg", "rounds": 100_000, "local_steps": 100_000, "accountant": "prv"},
        "simulation": {"dropout": 0.123456789},
    }
)


def lines(text: str) -> list[str]:
    """Lines as a terminal shows them: without control sequences, a carriage return being a new line."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))


def test_no_line_of_a_run_is_wider_than_80_columns(
    runner: Runner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["run", "--data", "heart", "--dropout", "0.25", "--protocol", "lightsecagg", "--accountant", "prv"]) == 0
    shown = capsys.readouterr()
    assert max(map(cell_len, lines(shown.out + shown.err))) <= 80
    assert main(["run", "--help"]) == 0
    assert max(map(cell_len, lines(capsys.readouterr().out))) <= 80


def test_a_long_line_of_the_plan_goes_on_beside_its_heading() -> None:
    target = io.StringIO()
    screen = Console(file=target, width=80, highlight=False)
    sites = (Site("a", np.zeros((4, 2)), np.zeros(4)), Site("b", np.zeros((9, 2)), np.zeros(9)))
    console.show_data(screen, Dataset("x" * 90, ("a", "b"), sites, None, fixed_sites=True, source=LONG, notes=(LONG,)))
    console.show_plan(screen, WORST, parties=10_000)
    text = lines(target.getvalue())
    assert max(map(cell_len, text)) <= 80
    headings = {line[:10].strip() for line in text}
    assert headings == {"Data", "Training", "Sum", "Privacy", "Dropout", ""}
    joined = " ".join(" ".join(line[10:] for line in text).split())
    for words in (" ".join(LONG.split()), "13 rows, 2 features, 2 sites of 4 to 9 rows", "some after their vector was in the sum"):
        assert words in joined


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize(("job", "whole"), [(Job(), True), (WORST, False)])
def test_progress_is_one_line_of_80_columns(monkeypatch: pytest.MonkeyPatch, job: Job, *, whole: bool, live: bool) -> None:
    """All of an ordinary job's state is there; where numbers are huge it is cut, never wrapped."""
    monkeypatch.setenv("TERM", "xterm")
    target, rounds = io.StringIO(), job.privacy.rounds
    with console.progress(Console(file=target, force_terminal=live, width=80), job, lines=True) as tell:
        for _ in range(11 if whole else 99_999):
            tell(record(1, aborted="gather: quorum", epsilon=1.5))
        tell(replace(record(rounds, auroc=0.75, epsilon=12.0), dropped={"a": "Masked", "b": "Masked"}))
    text = [line for line in lines(target.getvalue()) if line.strip()]
    assert max(map(cell_len, text)) <= 80
    assert all(re.search(r"\d/\d", line) for line in text), "a line that goes on below"
    if whole:
        assert "20/20" in text[-1]
        assert "3/3 in sum, 2 gone, aborts: 11, AUROC 0.750, ε 12.00" in text[-1]


def test_progress_is_live_in_a_terminal_and_plain_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    told = [record(1, auroc=0.5), record(2, aborted="gather: quorum", epsilon=1.5), record(20, auroc=0.75, epsilon=2.0)]
    for live in (True, False):
        target = io.StringIO()
        with console.progress(Console(file=target, force_terminal=live, width=160), Job(), lines=True) as tell:
            for event in told:
                tell(event)
        text = target.getvalue()
        assert ("\x1b" in text) is live
        for word in ("AUROC 0.750", "ε 2.00", "3/3 in sum", "aborts: 1", "20/20"):
            assert word in text
    target = io.StringIO()
    with console.progress(Console(file=target, force_terminal=False), Job(), lines=False) as tell:
        tell(told[0])
    assert target.getvalue() == ""


def test_the_plan_says_of_which_model_the_scores_are() -> None:
    target = io.StringIO()
    console.show_plan(Console(file=target, width=300), Job(), parties=5)
    assert "scores shown meanwhile are of the model before the round" in target.getvalue()


def test_one_of_anything_is_in_the_singular() -> None:
    target = io.StringIO()
    job = Job.parse(
        {"model": {"name": "mlp", "hidden": 1}, "privacy": {"rounds": 1, "local_steps": 1}, "simulation": {"dropout": 0.1}}
    )
    screen = Console(file=target, width=300)
    console.show_plan(screen, job, parties=2)
    sites = tuple(Site(name, np.zeros((1, 1)), np.zeros(1)) for name in "ab")
    console.show_data(screen, Dataset("d", ("a",), sites, None, fixed_sites=True, source="here"))
    text = target.getvalue() + tables.outcome(result(rounds=[record(1)]))
    for words in (
        "1 hidden unit,",
        "1 round × 1 local step on 2 sites",
        "2 rows, 1 feature, 2 sites of 1 to 1 row\n",
        "1 round in 2.00 s",
    ):
        assert words in text
    assert not re.search(r"\b1 (rounds|steps|local steps|features|rows|hidden units)\b", text)
    assert tables.counted(0, "round") == "0 rounds"


def start(*words: str, folder: Path, encoding: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "securefl", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "COLUMNS": "100"},
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("apart", [True, False])
def test_a_warning_is_told_once_in_one_place_and_in_each_of_two(tmp_path: Path, *, apart: bool) -> None:
    """Where the results go to a file alone, the warnings are in it, too."""
    words = ["run", "--rounds", "2", "--no-dp", "--no-baselines", "--dropout", "0.3"]
    command = [sys.executable, "-m", "securefl", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    err = subprocess.PIPE if apart else subprocess.STDOUT
    done = subprocess.run(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=err, check=False, timeout=240)
    assert done.returncode in (0, 1)  # every round may be aborted
    assert done.stdout.count(b"warning  each party vanishes") == 1
    assert not apart or done.stderr.count(b"warning  each party vanishes") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--rounds", "1", "--no-baselines"], ["eps = 3, delta = 1e-05", "1 round x 3 local steps"]),
        (["run", "--help"], ["eps over all rounds"]),
        (["demo", "secagg"], ["value by value: yes", "###"]),
        (["draw", "secagg", "--format", "table"], ["Masked"]),
        (["draw", "secagg", "--format", "svg"], ["&#8594;"]),
        (["run", "--epsilon", "0"], ["--epsilon"]),
    ],
)
def test_ascii_is_enough(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    ended = start(*words, folder=tmp_path, encoding="ascii")
    text = (ended.stdout + ended.stderr).decode("ascii")
    assert ended.returncode == (2 if "0" in words else 0), text
    assert "Traceback" not in text
    for word in expected:
        assert word in text


def test_json_is_the_same_whatever_the_terminal_knows(tmp_path: Path) -> None:
    rows = "".join(f"{i % 7},{(i + i // 3) % 2},{'Zürich' if i % 3 else 'Genève'}\n" for i in range(60))
    (tmp_path / "mine.csv").write_text("a,ill,hospital\n" + rows, encoding="utf-8")
    words = ["run", "--data", "mine.csv", "--label", "ill", "--site", "hospital", "--rounds", "1", "--no-dp", "--json"]
    ended = start(*words, folder=tmp_path, encoding="ascii")
    assert ended.returncode == 0, ended.stderr
    tree = json.loads(ended.stdout.decode("ascii"))
    assert tree["sites"] == ["Genève", "Zürich"]
    assert any("×" in row["shows"] or "±" in row["shows"] for row in tree["server_saw"])


def test_symbols_keep_their_width_where_a_picture_needs_it() -> None:
    assert all(len(terminal.SPELLED[c]) == 1 for c in "▁▂▃▄▅▆▇█─·")
    assert all(word.isascii() for word in terminal.SPELLED.values())


def test_streams_without_a_file_are_two_places() -> None:
    assert not terminal.same_place(io.StringIO(), io.StringIO())


def test_what_the_user_chose_for_a_stream_stays() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="replace")
    terminal.spell_out(stream)
    assert stream.errors == "replace"
    strict = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    terminal.spell_out(strict)
    strict.write("ε = 3 × Genève")
    strict.flush()
    assert strict.buffer.getvalue() == b"eps = 3 x Gen\\xe8ve"


def test_the_score_comes_last_and_equal_parties_share_a_row() -> None:
    names = [f"site {i}" for i in range(1, 6)]
    same = result(up=dict.fromkeys(names, 1000), down=dict.fromkeys(names, 10), epsilon=[2.0] * 5, local=[])
    target = io.StringIO()
    console.show_result(Console(file=target, width=120), same)
    text = target.getvalue()
    places = [
        text.index(word) for word in ("What the server saw", "Bytes by party", "Differential privacy", "Score on", same.title)
    ]
    assert places == sorted(places)
    assert "site 1 … site 5 (5)" in text
    assert "site 3" not in text
    (full,) = [sheet for sheet in tables.sheets(same) if sheet.title.startswith("Bytes")]
    assert [row[0] for row in full.rows] == names


def test_short_steps_share_a_row_and_no_second_is_lost() -> None:
    seconds = {"train": 1.0, "mask": 0.01, "reveal": 0.02, "share": 0.5}
    (sheet,) = [sheet for sheet in tables.brief(result(seconds=seconds, wall=2.0)) if sheet.title.startswith("Time")]
    assert [row[0] for row in sheet.rows] == ["train", "share", "2 shorter steps", "everything else"]
    assert sum(float(row[1].removesuffix(" s")) for row in sheet.rows) == pytest.approx(2.0, abs=0.03)
