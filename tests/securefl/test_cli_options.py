"""The options of securefl run: every key of a job has one, the line that repeats a job gives that job, and nothing is ignored."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_result import result
from stub_runner import Runner, refused

from securefl import options, report
from securefl.cli import main
from securefl.job import IDLE, Job
from securefl.knobs import SECTIONS


def test_options_override_the_file_only_where_given(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("[privacy]\nrounds = 7\nepsilon = 2\n[model]\nname = 'mlp'\n[simulation]\nbaselines = false\n")
    assert main(["run", str(path), "--rounds", "9", "--seed", "3"]) == 0
    job = runner.jobs[0]
    assert (job.privacy.rounds, job.privacy.epsilon, job.model.name) == (9, 2.0, "mlp")
    assert (job.simulation.seed, job.simulation.baselines) == (3, False)


def test_an_option_silences_what_it_makes_idle_in_the_file(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("[data]\nholdout = 0.2\n[model]\nname = 'mlp'\nhidden = 4\n[privacy]\nepsilon = 2\nclip = 3\n")
    assert main(["run", str(path), "--no-dp", "--model", "logistic", "--folds", "3"]) == 0
    assert runner.jobs == [Job.parse({"data": {"folds": 3}, "privacy": {"mechanism": "none"}})]


def test_ranges_of_file_and_options_come_together(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("[data]\nname = 'x.csv'\nlabel = 'l'\nsite = 's'\nranges = { age = [0, 9], bmi = [1, 2] }\n")
    assert main(["run", str(path), "--range", "age=0:120", "--range", "a=b:c=-1:1e3"]) == 0
    assert runner.jobs[0].data.ranges == {"age": (0, 120), "bmi": (1, 2), "a=b:c": (-1, 1000)}


def test_output_of_a_job_file(runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """``dir`` is taken from the file's folder; the command line overrides both keys."""
    path = tmp_path / "jobs" / "job.toml"
    path.parent.mkdir()
    path.write_text("[output]\ndir = 'here'\njson = true\n")
    assert main(["run", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["job"]["output"] == {
        "dir": str(path.parent / "here"),
        "json": True,
        "checkpoint": None,
        "resume": False,
        "track": None,
    }
    assert {file.name for file in (path.parent / "here").iterdir()} == set(report.FILES)
    assert main(["run", str(path), "--no-json", "--out", str(tmp_path / "there")]) == 0
    assert "Score on held-out rows" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "there").iterdir()} == set(report.FILES)


def test_every_key_of_a_job_has_an_option(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["run", "--help"]) == 0
    out = capsys.readouterr().out
    flags = [
        name for section, knobs in SECTIONS.items() for key in knobs.model_fields for name in options.flag(section, key).split("/")
    ]
    assert len(flags) == len(set(flags))
    for flag in flags:
        assert f" {flag} " in out
    for knobs in SECTIONS.values():
        for field in knobs.model_fields.values():
            if get_origin(field.annotation) is Literal and field.default != "local-record":
                assert all(value in out for value in get_args(field.annotation))


TEXT = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=8)
NUMBERS = st.floats(-1e9, 1e9)
RANGES = st.dictionaries(TEXT, st.tuples(NUMBERS, NUMBERS).map(sorted).filter(lambda ends: ends[0] < ends[1]), max_size=3)
WORD = TEXT.filter(lambda text: text == " ".join(text.split()))
LEVELS = st.dictionaries(TEXT.filter(lambda text: "=" not in text), st.lists(WORD, min_size=2, max_size=4, unique=True), max_size=3)
SPLIT = {"folds": st.integers(1, 100), "holdout": st.floats(0, 1, exclude_min=True, exclude_max=True)}
DATA = st.one_of(
    st.fixed_dictionaries({}, optional={**SPLIT, "clients": st.integers(2, 10_000)}),
    st.fixed_dictionaries({"name": st.just("heart")}, optional={**SPLIT, "dir": TEXT}),
    st.fixed_dictionaries(
        {"name": TEXT.map(lambda text: f"{text}.csv"), "label": TEXT, "site": TEXT},
        optional={**SPLIT, "ranges": RANGES, "levels": LEVELS, "drop": st.lists(TEXT, max_size=3)},
    ),
)


def value(section: str, key: str) -> st.SearchStrategy[Any]:
    """Anything that a key allows, read off its declaration."""
    field = SECTIONS[section].model_fields[key]
    schema = SECTIONS[section].model_json_schema()["properties"][key]
    kind = next(kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null")
    if "enum" in kind:
        return st.sampled_from(kind["enum"])
    if kind["type"] == "boolean":
        return st.booleans()
    if kind["type"] == "string":
        return TEXT
    low, high = kind.get("minimum", kind.get("exclusiveMinimum")), kind.get("maximum", kind.get("exclusiveMaximum"))
    if kind["type"] == "integer":
        return st.integers(low, high - ("exclusiveMaximum" in kind))
    assert kind["type"] == "number", field
    return st.floats(low, high, exclude_min="exclusiveMinimum" in kind, exclude_max="exclusiveMaximum" in kind)


def group(section: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={key: value(section, key) for key in SECTIONS[section].model_fields})


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """A job with any keys that may stand together."""
    tree = {"data": draw(DATA), "output": {"json": draw(st.booleans())}}
    for section in ("model", "privacy", "performance", "simulation"):
        tree[section] = draw(group(section))
    if tree["model"].get("name") == "multitask":  # which is for molecules alone
        del tree["model"]["name"]
    bare = {section: dict(keys) for section, keys in tree.items()}
    for rule in IDLE:  # keys that say nothing beside the others are refused, which another test looks at
        for full in rule.keys:
            section, key = full.split(".")
            bare[section].pop(key, None)
    first = Job.parse(bare)
    idle = {full for rule in IDLE if rule.holds(first) for full in rule.keys}
    for full in {full for rule in IDLE for full in rule.keys} - idle:
        section, key = full.split(".")
        if key in tree[section]:
            bare[section][key] = tree[section][key]
    return Job.parse(bare)


@given(jobs())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_command_in_the_report_gives_the_same_job(runner: Runner, job: Job) -> None:
    line = report.command(result(job))
    runner.jobs.clear()
    assert main(shlex.split(line)[1:]) == 0
    assert runner.jobs == [job]


def test_the_command_holds_the_folder_too(runner: Runner, tmp_path: Path) -> None:
    job = Job.parse({"output": {"dir": str(tmp_path / "a b")}})
    assert main(shlex.split(report.command(result(job)))[1:]) == 0
    assert runner.jobs == [job]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--rounds", "0"], ["--rounds", "0", ">= 1"]),
        (["--rounds", "many"], ["--rounds", "integer"]),
        (["--epsilon", "nan"], ["--epsilon", "nan"]),
        (["--epsilon", "-1"], ["--epsilon", "-1", "> 0"]),
        (["--dropout", "1"], ["--dropout", "< 1"]),
        (["--protocol", "secag"], ["--protocol", "auto or secagg or secagg+ or plain-insecure", "did you mean secagg?"]),
        (["--data", "hearts"], ["--data", "did you mean heart?"]),
        (["--data", "heart", "--clients", "4"], ["clients", "heart"]),
        (["--data", "rows.csv"], ["rows.csv", "no such file"]),
        (["rows.csv"], ["rows.csv is a table, not a job file", "--data rows.csv"]),
        (["--drop", "age"], ["data.drop", "breast-cancer", "CSV"]),
        (["--range", "age=1"], ["--range", "COLUMN=LOW:HIGH"]),
        (["--range", "age=a:b"], ["--range", "COLUMN=LOW:HIGH"]),
        (["--epsilonn", "3"], ["--epsilonn", "--epsilon"]),
        (["a.toml", "b.toml"], ["b.toml"]),
        (["none.toml"], ["none.toml", "cannot read"]),
        # what would say nothing
        (["--data", "heart", "--holdout", "0.3"], ["--holdout", "5 folds", "--folds 1"]),
        (["--no-dp", "--epsilon", "3"], ["--epsilon", "--no-dp"]),
        (["--no-dp", "--accountant", "prv"], ["--accountant", "--no-dp"]),
        (["--hidden", "16"], ["--hidden", "logistic", "mlp"]),
        (["--label", "sick"], ["data.label", "breast-cancer", "CSV"]),
        (["--data", "heart", "--site", "clinic"], ["data.site", "heart", "CSV"]),
        (["--data-dir", "somewhere"], ["data.dir", "breast-cancer", "heart"]),
        (["--range", "age=0:9"], ["data.ranges", "breast-cancer"]),
        (
            ["--data", "x.csv", "--label", "l", "--site", "s", "--range", "age=0:9", "--range", "age=1:2"],
            ["--range", "twice", "'age'"],
        ),
        (["--data", "x.csv", "--label", "l", "--site", "s", "--range", "=0:9"], ["--range"]),
        # bytes that are no text
        (["--data", "\udcff.csv", "--label", "l", "--site", "s"], ["--data", "not UTF-8"]),
        (["--data", "x.csv", "--label", "\udcff", "--site", "s"], ["--label", "not UTF-8"]),
        (["--data", "x.csv", "--label", "l", "--site", "s", "--range", "\udcff=0:1"], ["--range", "not UTF-8"]),
        (["\udcff.toml"], ["JOB.toml", "not UTF-8"]),
        (["--out", "\udcff"], ["--out", "not UTF-8"]),
    ],
)
def test_bad_options_are_one_line_and_nothing_runs(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path, args: list[str], words: list[str]
) -> None:
    out = tmp_path / "out"
    line = refused(capsys, "run", "--out", str(out), *args)
    for word in words:
        assert word in line
    assert runner.jobs == []
    assert not out.exists()


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[privacy]\nmechanism = 'none'\nepsilon = 3.0", ["privacy.epsilon", "mechanism"]),
        ("[privacy]\nmechanism = 'none'\nclip = 1", ["privacy.clip", "mechanism"]),
        ("[model]\nhidden = 16", ["model.hidden", "logistic"]),
        ("[data]\nfolds = 4\nholdout = 0.3", ["data.holdout", "4 folds"]),
        ("[data]\ndir = 'd'", ["data.dir", "breast-cancer"]),
        ("[data]\nname = 'x.csv'\nlabel = 'l'\nsite = 's'\nranges = { '' = [0, 1] }", ["data.ranges", "name of its column"]),
        ("[output]\nfolder = 'x'", ["output.folder", "dir, json"]),
    ],
)
def test_a_key_that_would_say_nothing_is_refused_in_a_file_too(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path, toml: str, words: list[str]
) -> None:
    path = tmp_path / "job.toml"
    path.write_text(toml)
    for more in ([], ["--rounds", "3"]):
        line = refused(capsys, "run", str(path), *more)
        assert line.startswith(f"securefl: {path}: ")
        for word in words:
            assert word in line
    assert runner.jobs == []


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has words of the command line that are no text")
def test_a_word_that_is_not_utf8_is_refused_as_the_system_hands_it_over(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    words = [sys.executable, "-m", "securefl", "run", "--data", b"\xff.csv", "--label", "l", "--site", "s"]
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.csv"))).write_text("a,l,s\n1,0,x\n2,1,y\n")
    ended = subprocess.run(words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.startswith(b"securefl: --data ")
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.parametrize("given", [{}, {"--label": "ill"}, {"--site": "clinic"}])
def test_a_table_without_label_or_site_is_told_which_columns_it_has(
    runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path, given: dict[str, str]
) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("age,ill,clinic\n1,0,A\n")
    line = refused(capsys, "run", "--data", str(table), *(word for pair in given.items() for word in pair))
    assert "its columns: 'age', 'ill', 'clinic'" in line
    assert [option in line for option in ("--label", "--site")] == [option not in given for option in ("--label", "--site")]


def test_a_refused_range_of_a_file_names_its_column(runner: Runner, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('[data]\nname = "x.csv"\nlabel = "l"\nsite = "s"\nranges = { age = [0, "old"] }\n')
    assert "data.ranges.age = 'old' is refused" in refused(capsys, "run", str(path))


def test_columns_to_leave_out_of_file_and_options_come_together(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('[data]\nname = "x.csv"\nlabel = "l"\nsite = "s"\ndrop = ["a"]\n')
    assert main(["run", str(path), "--drop", "b", "--drop", "c"]) == 0
    assert runner.jobs[0].data.drop == ("a", "b", "c")
