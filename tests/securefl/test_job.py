"""The job: one validation for file and command line; whatever is refused is one line that names the key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl import options
from securefl.errors import UserError
from securefl.job import ALGORITHM_KEYS, IDLE, IDLE_WITH, Job, read_toml
from securefl.knobs import SECTIONS, allowed, choices


def refusal(toml: str, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        Job.parse(tomllib.loads(toml), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_defaults_are_the_published_ones() -> None:
    job = Job()
    assert (job.privacy.epsilon, job.privacy.delta, job.privacy.clip, job.privacy.sample_rate) == (3.0, 1e-5, 1.0, 0.2)
    assert (job.privacy.rounds, job.privacy.local_steps, job.data.holdout) == (20, 3, 0.3)
    assert (job.privacy.protocol, job.privacy.mechanism) == ("auto", "local-record")
    assert Job.parse({}) == job


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("[privacy]\nepsilonn = 1", ["privacy.epsilonn", "did you mean privacy.epsilon?", "local_steps"]),
        ("[privcy]\nepsilon = 1", ["privcy", "did you mean privacy?", "simulation"]),
        ("epsilon = 3", ["unknown key epsilon", "[privacy]"]),
        ("name = 'mlp'", ["[data] or [model]"]),
        ("[privacy]\nlearning_rate = 1", ["privacy.learning_rate", "[performance]"]),
        ("privacy = 3", ["privacy", "[privacy]"]),
        ("[privacy]\nepsilon = -1", ["privacy.epsilon", "-1", "> 0"]),
        ("[privacy]\nepsilon = nan", ["privacy.epsilon", "nan"]),
        ("[privacy]\nepsilon = inf", ["privacy.epsilon", "inf"]),
        ("[privacy]\nepsilon = true", ["privacy.epsilon", "true"]),
        ("[privacy]\nepsilon = '3'", ["privacy.epsilon", "'3'"]),
        ("[privacy]\ndelta = 1", ["privacy.delta", "< 1"]),
        ("[privacy]\nrounds = 2.5", ["privacy.rounds", "2.5", "whole number"]),
        ("[privacy]\naccountant = 'rpd'", ["privacy.accountant", "rdp or prv", "did you mean rdp?"]),
        ("[privacy]\nprotocol = 'plain'", ["privacy.protocol", "secagg or secagg+ or plain-insecure"]),
        ("[privacy]\nw_max = 32768", ["privacy.w_max", "<= 32767"]),
        ("[data]\nname = 'hearts'", ["data.name", "did you mean heart?", ".csv"]),
        ("[data]\nname = 'x.csv'\nsite = 's'", ["data.label", "--label"]),
        ("[data]\nname = 'x.csv'\nlabel = 'l'", ["data.site", "--site"]),
        ("[data]\nname = 'x.csv'\nlabel = 'l'\nsite = 's'\nclients = 3", ["data.clients"]),
        ("[data]\nname = 'heart'\nclients = 5", ["data.clients", "heart"]),
        ("[data]\nlabel = 'l'", ["data.label", "breast-cancer"]),
        ("[data]\nname='x.csv'\nlabel='l'\nsite='s'\n[data.ranges]\nage = [9, 1]", ["data.ranges", "'age'"]),
        ("[data]\nname='x.csv'\nlabel='l'\nsite='s'\n[data.ranges]\nage = [1]", ["data.ranges", "low, high"]),
        ("[data]\nclients = 1", ["data.clients", ">= 2"]),
        ("[simulation]\ndropout = 1.0", ["simulation.dropout", "< 1"]),
        ("[simulation]\nseed = -1", ["simulation.seed", ">= 0"]),
        ("[model]\nfix = 1", ["model.fix", "true or false"]),
    ],
)
def test_a_wrong_key_is_refused_with_its_full_name_and_what_is_allowed(toml: str, words: list[str]) -> None:
    line = refusal(toml, where="job.toml")
    assert line.startswith("job.toml: ")
    for word in words:
        assert word in line


def test_an_error_names_the_option_that_the_value_came_from() -> None:
    line = refusal("[privacy]\nepsilon = -1", where="job.toml", names={"privacy.epsilon": "--epsilon"})
    assert line.startswith("--epsilon = -1 ")


def test_every_number_is_bounded_below_and_named_when_it_is_refused() -> None:
    for section, knobs in SECTIONS.items():
        for key in knobs.model_fields:
            if "number" in allowed(section, key):
                with pytest.raises(UserError, match=rf"^{section}\.{key} = -1"):
                    Job.parse({section: {key: -1}})


def test_every_key_says_what_it_is() -> None:
    for section, knobs in SECTIONS.items():
        for key, field in knobs.model_fields.items():
            assert field.description, f"{section}.{key}"


def test_five_folds_for_heart_else_one_split() -> None:
    assert Job().data.splits == 1
    assert Job.parse({"data": {"name": "heart"}}).data.splits == 5
    assert Job.parse({"data": {"name": "heart", "folds": 1}}).data.splits == 1
    assert Job.parse({"data": {"folds": 3}}).data.splits == 3


def test_a_job_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Job().privacy.epsilon = 100.0


def test_plain_data_has_every_key_that_is_not_idle_and_reads_back() -> None:
    table = {"name": "a/b.csv", "label": "l", "site": "s", "ranges": {"age": [0, 1.5]}}
    job = Job.parse({"data": table, "model": {"name": "mlp"}, "simulation": {"seed": 7}, "output": {"dir": "x", "json": True}})
    plain = json.loads(json.dumps(job.plain()))
    of_others = {*(key for key, _ in ALGORITHM_KEYS), "keep", "rank"}
    assert {section: set(keys) for section, keys in plain.items()} == {
        s: set(knobs.model_fields) - {"noise", "clip_quantile", "ledger_data", "private", *of_others}
        for s, knobs in SECTIONS.items()
    }
    assert Job.parse(plain) == job
    party = Job.parse({"privacy": {"mechanism": "distributed-party", "noise": "discrete-gaussian"}})
    assert Job.parse(party.plain()) == party
    assert set(SECTIONS["privacy"].model_fields) - set(party.plain()["privacy"]) == {
        *("accountant", "clip", "rows", "w_max", "precision", "ledger_data", "patience", "places")
    }
    heart = Job.parse({"data": {"name": "heart", "dir": Path("somewhere")}, "privacy": {"mechanism": "none"}})
    assert Job.parse(heart.plain()) == heart
    left_out = {(s, k) for s, knobs in SECTIONS.items() for k in knobs.model_fields} - {
        (s, k) for s, keys in heart.plain().items() for k in keys
    }
    assert left_out == {
        *(("performance", key) for key in of_others),
        *(("data", key) for key in ("holdout", "scaling")),
        *(("model", key) for key in ("hidden", "private")),
        *(("privacy", k) for k in ("epsilon", "delta", "accountant", "clip", "rows", "noise", "clip_quantile", "ledger_data")),
    }


def test_a_rule_names_keys_that_exist() -> None:
    names = {f"{section}.{key}" for section, knobs in SECTIONS.items() for key in knobs.model_fields}
    for rule in IDLE:
        assert {*rule.keys, *rule.because} <= names


def test_importing_the_job_warns_of_nothing() -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import securefl.job"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
KEYS = st.sampled_from(sorted({key for knobs in SECTIONS.values() for key in knobs.model_fields})) | st.text(max_size=6)
TREES = st.dictionaries(
    st.sampled_from(list(SECTIONS)) | st.text(max_size=6),
    VALUES | st.dictionaries(KEYS, VALUES | st.dictionaries(st.text(max_size=3), VALUES, max_size=2), max_size=4),
    max_size=4,
)


def attempt(make: Callable[[], Any]) -> tuple[Any, str]:
    """What came out, or the line of a `UserError`; any other exception is a failure."""
    try:
        return make(), ""
    except UserError as error:
        return None, str(error)


@given(TREES)
def test_any_tree_gives_a_job_or_one_line(tree: dict[str, Any]) -> None:
    job, line = attempt(lambda: Job.parse(tree))
    assert (job is None) == bool(line)
    assert len(line.splitlines()) <= 1
    assert len(line) < 600
    if job is not None:
        assert Job.parse(job.plain()) == job


@given(st.binary(max_size=60) | st.text(alphabet="[]={}'\"\n .a1#-e_", max_size=60).map(str.encode))
def test_any_file_gives_a_tree_or_one_line_with_the_file_and_the_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "job.toml"
    path.write_bytes(content)
    tree, line = attempt(lambda: read_toml(path))
    if tree is None:
        assert line.startswith(f"{path}: damaged job file: ")
        assert "at line " in line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[privacy]\nepsilon = \n", "line 2"),
        (b"[privacy]\nepsilon = [1,\n", "line 3"),
        (b"[privacy\n", "line 1"),
        (b"[privacy]\n\n\xff = 1", "line 3"),
    ],
)
def test_damaged_toml_names_file_and_line(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=line) as caught:
        Job.load(path)
    assert str(caught.value).startswith(str(path))


def test_a_number_or_nesting_that_no_parser_takes_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    for content in (f"a = {'9' * 10_000}", f"a = {'[' * 50_000}"):
        path.write_text(content)
        with pytest.raises(UserError, match="damaged job file"):
            read_toml(path)


def test_a_number_too_long_to_print_is_refused_like_any_other() -> None:
    for tree in ({"privacy": {"rounds": 1 << 20_000}}, {"data": {"folds": [1 << 20_000]}}, {"simulation": 1 << 20_000}):
        with pytest.raises(UserError, match="too long to print"):
            Job.parse(tree)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(UserError, match="cannot read the job file"):
            Job.load(path)


def test_relative_paths_are_taken_from_the_files_own_folder(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("[data]\nname = 'rows.csv'\nlabel = 'l'\nsite = 's'")
    assert Job.load(path).data.name == str(tmp_path / "rows.csv")
    path.write_text("[data]\nname = 'heart'\ndir = 'd'")
    assert Job.load(path).data.dir == tmp_path / "d"
    path.write_text("[data]\nname = 'heart'\ndir = '/d'")
    assert Job.load(path).data.dir == Path("/d")
    path.write_text("[output]\ndir = 'o'")
    assert Job.load(path).output.dir == tmp_path / "o"


def test_every_mechanism_says_which_keys_are_idle_with_it() -> None:
    assert {*IDLE_WITH} == {*choices("privacy", "mechanism")}
    for mechanism, rules in IDLE_WITH.items():
        for why, keys in rules:
            for full in keys:
                section, key = full.split(".")
                default = SECTIONS[section].model_fields[key].default
                value = {"accountant": "prv", "scaling": "noised", "noise": "skellam"}.get(key, 1 if default is None else default)
                tree: dict[str, Any] = {"privacy": {"mechanism": mechanism}}
                tree[section] = {**tree.get(section, {}), key: value if key != "clip_quantile" else 0.5}
                with pytest.raises(UserError, match=re.escape(f"{full} is refused {why}")):
                    Job.parse(tree)


def test_eicu_without_differential_privacy_has_defaults_that_other_mechanisms_do_not_get() -> None:
    asked, common = Job.parse({"data": {"name": "eicu"}, "privacy": {"mechanism": "none"}}), Job().privacy
    assert (asked.privacy.rounds, asked.privacy.sample_rate, asked.privacy.w_max) == (12, 1.0, 1024)
    assert options.command(asked) == ["securefl", "run", "--data=eicu", "--no-dp"]
    back = Job.parse({"data": {"name": "eicu"}, "privacy": {"mechanism": "none", "rounds": common.rounds, "w_max": 700}})
    assert options.command(back)[-2:] == [f"--rounds={common.rounds}", "--w-max=700"], "the common default is not that of this job"
    assert Job.parse(back.plain()) == back
    for mechanism in ("local-record", "distributed-record", "distributed-party", "central"):
        other = Job.parse({"data": {"name": "eicu"}, "privacy": {"mechanism": mechanism}}).privacy
        assert (other.rounds, other.sample_rate) == (common.rounds, common.sample_rate), "rows are drawn where ε needs it"
