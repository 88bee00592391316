"""The outputs: a report that needs nothing else, strict JSON, and files that are complete or not there."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_result import job, record, result
from safetensors.numpy import load

from securefl import report, tables
from securefl.errors import UserError, quoted
from securefl.files import atomic_write, check_folder, write_all
from securefl.options import command
from securefl.results import SIMULATION_ONLY, DataSummary, RunResult, SiteBaseline

VOID = {"meta", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """Collects tags, attributes and text; a tag that is never closed stays in `open`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, name: str) -> list[str]:
        return [value for attribute, value in self.attributes if attribute == name]


def test_the_report_needs_nothing_from_outside_and_is_well_formed() -> None:
    text = report.html(result())
    page = Page(text)
    assert page.open == []
    assert not {"script", "iframe", "link", "object", "img"} & set(page.tags)
    for name in ("src", "href", "xlink:href"):
        assert all(value.startswith("#") for value in page.values(name))
    assert not re.search(r"url\((?!#)|@import", text)
    assert [i for i, count in Counter(page.values("id")).items() if count > 1] == []
    assert "width=device-width" in text
    assert "@media print" in text


def test_the_report_shows_every_table_curve_and_picture() -> None:
    made = result()
    page = Page(report.html(made))
    assert page.tags["svg"] == 2
    for sheet in [*tables.sheets(made), tables.rounds(made)]:
        assert sheet.title in page.text
        for row in sheet.rows:
            for cell in row:
                assert cell in page.text
    for word in ("the flow", "AUROC, federated", "AUROC, pooled", "aborted round", "ε of a record", "site east has one class"):
        assert word in page.text


def test_the_curve_has_a_band_where_the_sums_gave_one() -> None:
    bare = [record(number, auroc=0.7 + number / 20) for number in (1, 2, 3)]
    banded = [record(number, auroc=0.7 + number / 20, auroc_se=0.02 / number) for number in (1, 2, 3)]
    for rounds, told in ((banded, True), (bare, False)):
        curve = report.curves(result(rounds=rounds))
        assert ("95 % interval of AUROC" in curve) == told
        assert ("PolyCollection" in curve or "FillBetween" in curve) == told


def test_the_report_names_the_exact_command_and_versions() -> None:
    made = result(job(privacy={"rounds": 4}, simulation={"seed": 9}, data={"name": "a b.csv", "label": "l", "site": "s"}))
    page = Page(report.html(made))
    assert "securefl run '--data=a b.csv' --label=l --site=s --rounds=4 --seed=9" in page.text
    for package in ("python", "torch", "opacus", "numpy"):
        assert f"{package} {report.versions()[package]}" in page.text
    assert command(job()) == ["securefl", "run"]


def test_names_from_data_are_text_never_markup() -> None:
    hostile = "<script>alert(1)</script>&amp;"
    made = result(
        title=hostile,
        local=[SiteBaseline(hostile, 3, {"auroc": 0.5})],
        warnings=[hostile],
        up={hostile: 1},
        down={hostile: 1},
        data=DataSummary(hostile, (hostile,), {hostile: 3}, {hostile: 1}),
        epsilon=[1.0],
    )
    page = Page(report.html(made))
    assert page.tags["script"] == 0
    assert hostile in page.text


@pytest.mark.parametrize(
    "bare",
    [
        result(
            rounds=[record(1, aborted="too-few-survivors")], metrics={"auroc": float("nan")}, pooled={}, local=[], site_metrics={}
        ),
        result(epsilon=[], delta=None, unit=None, accountant=None, rounds=[record(1, auroc=0.5)], picture="", warnings=[]),
        result(rounds=[], metrics={}, pooled={}, local=[], site_metrics={}, seconds={}, server_saw=[], opened=[], wall=0.0),
    ],
)
def test_a_result_with_gaps_still_makes_a_report(bare: RunResult) -> None:
    assert Page(report.html(bare)).open == []
    json.loads(report.to_json(bare))


def test_json_has_null_where_there_is_no_figure() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    tree = json.loads(report.to_json(result(metrics={"auroc": float("nan"), "loss": float("inf")})), parse_constant=refuse)
    assert tree["metrics"] == {"auroc": None, "loss": None}
    assert tree["site_metrics"]["east"] == {"auroc": None}


def test_lists_by_site_are_in_the_order_of_the_sites() -> None:
    tree = result(down={"east": 3, "north": 1, "south": 2}).as_json()
    assert tree["bytes"]["down"] == [{"north": 1, "south": 2, "east": 3}[name] for name in tree["sites"]]
    assert tree["dataset"]["rows"] == [{"north": 57, "south": 71, "east": 86}[name] for name in tree["sites"]]


def test_bytes_per_client_are_the_mean_in_whole_bytes() -> None:
    tree = result(up={"a": 10, "b": 20, "c": 21}, down={"a": 1, "b": 1, "c": 3}, data=None).as_json()
    assert (tree["bytes"]["up_per_client"], tree["bytes"]["down_per_client"]) == (17, 2)
    assert isinstance(result().as_json()["seconds"], float)


def test_the_report_names_data_noise_and_that_nobody_has_audited_it() -> None:
    made = result(title="t")
    page = Page(report.html(made))
    for words in ("made by hand", "age is made up", "1.250 times the clip", "obody has audited this yet", "simulation only"):
        assert words in page.text
    for name, rows in made.data.rows.items():
        assert re.search(rf"{name}\s*{rows}\s*{made.data.held_out[name]}", page.text)
    tree = made.as_json()
    assert tree["privacy"]["noise_multiplier"] == 1.25
    assert tree["dataset"]["source"] == "made by hand"
    assert tree["dataset"]["notes"] == ["age is made up"]
    assert "obody has audited this yet" in tree["notice"]
    assert "Data" not in list(re.findall(r"<h2>(.*?)</h2>", report.html(result(data=None))))


def keys(tree: dict[str, Any], prefix: str = "") -> set[str]:
    """Dotted names of every key; what has names from the data, or is a list of objects, is one."""
    out = set()
    for key, value in tree.items():
        name = prefix + key
        if isinstance(value, dict) and name not in {"site_metrics", "seconds_by_step", "job"}:
            out |= keys(value, f"{name}.")
        else:
            out.add(name)
    return out


def test_every_key_of_the_json_object_is_documented_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    named = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    documented = {name for cell in named for name in re.findall(r"`([^`]+)`", cell)}
    scores = {"auroc": 1.0, "auprc": 1.0, "brier": 0.0, "accuracy": 1.0}
    made = result(metrics={**scores, "rows": 9.0, "auroc_site_mean": 1.0}, pooled=scores)
    tree = made.as_json()
    assert documented == keys(tree)
    for name in SIMULATION_ONLY:
        assert any(key == name or key.startswith(f"{name}.") for key in keys(tree))
        rows = [line for line in page.splitlines() if line.startswith(f"| `{name}")]
        assert rows
        assert all("simulation only" in line for line in rows)


def test_names_in_a_list_are_quoted_where_they_could_be_two() -> None:
    plain, odd = (
        ["site 1", "mean radius", "cp=2", "Zürich", "a (b)", "50%"],
        ["a, b", "x;y", " a", "a ", "", "q'", 'q"', "a\nb", "[b]"],
    )
    assert [quoted(name) for name in plain] == plain
    assert [quoted(name) for name in odd] == [repr(name) for name in odd]
    sheet = tables.rounds(result(rounds=[replace(record(1), dropped={"a, b": "Masked", "c": "Agree"})]))
    assert sheet.rows[0][2] == "'a, b' (Masked), c (Agree)"


def test_time_by_step_adds_up_to_the_whole() -> None:
    made = result(seconds={"train": 1.5, "mask": 0.25}, wall=2.0).after({"load_data": 0.5, "mask": 0.25})
    assert made.wall == 2.75
    assert made.seconds == {"train": 1.5, "mask": 0.5, "load_data": 0.5}
    sheet = next(sheet for sheet in tables.sheets(made) if sheet.title.startswith("Time"))
    assert sheet.rows[-1] == ["everything else", "0.25 s", "9%"]
    assert sum(float(row[1].split()[0]) for row in sheet.rows) == 2.75


def test_a_round_s_scores_and_the_final_ones_say_where_they_come_from() -> None:
    made = result()
    assert "out of the secure sum" in tables.rounds(made).note
    final = next(sheet for sheet in tables.sheets(made) if sheet.title.startswith("Score"))
    assert "simulation only" in final.title
    assert "secure sum" in final.note


def test_the_model_reads_back_bit_for_bit() -> None:
    made = result()
    back = load(report.weights(made))
    assert set(back) == set(made.state)
    for name, array in made.state.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def shown_of(made: RunResult, name: str) -> list[str]:
    """Every cell of the page's tables in a row that begins with a site's name."""
    every = [*tables.sheets(made), tables.data(made)]
    return [cell for sheet in every for row in sheet.rows if row[0] in (name, f"{name} alone") for cell in row[1:]]


@pytest.mark.parametrize(
    ("rows", "held", "told"),
    [((7, 2), "few", ["7", "few"]), ((4, 2), "few", ["few", "few"]), ((9, 5), "few", ["9", "few"]), ((10, 5), "5", ["10", "5"])],
)
def test_no_table_tells_a_count_of_a_sites_rows_below_the_minimum(rows: tuple[int, int], held: str, told: list[str]) -> None:
    """Nor one that follows: rows to train on are those that are not held out, and of the pooled model those of all sites."""
    n, h = rows
    made = result(
        data=DataSummary("made", (), {"north": n, "south": 71}, {"north": h, "south": 21}),
        local=[SiteBaseline("north", n - h, {"auroc": 0.7}), SiteBaseline("south", 50, {"auroc": 0.7})],
    )
    assert tables.data(made).rows[0][1:] == told
    trained = next(sheet for sheet in tables.sheets(made) if "rows to train on" in sheet.columns)
    pooled, north = (next(row[1] for row in trained.rows if row[0] == name) for name in ("pooled, all rows", "north alone"))
    assert (pooled, north) == (("", "few") if held == "few" else ("55", "5"))
    assert not {str(count) for count in range(1, 5)} & set(shown_of(made, "north"))
    assert ("few: fewer than 5, or all but fewer." in Page(report.html(made)).text) == (held == "few")


def test_a_missing_class_is_a_dash() -> None:
    assert [tables.figure(value) for value in (None, float("nan"), 0.12345)] == ["–", "–", "0.123"]
    sheet = next(sheet for sheet in tables.sheets(result()) if "each site" in sheet.title)
    assert ["east", "–"] in sheet.rows


def test_without_differential_privacy_the_table_says_so() -> None:
    sheet = next(sheet for sheet in tables.sheets(result(epsilon=[])) if sheet.title == "Differential privacy")
    assert sheet.rows[0][0].startswith("none")


def test_ctrl_c_while_files_get_their_names_comes_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Path.replace, list[Path]()

    def stop(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        moved = real(self, target)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "replace", stop)
    contents = {name: name.encode() for name in "abc"}
    paths = write_all(tmp_path / "out", contents)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == contents
    assert [path.name for path in paths] == list(contents)


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "metrics.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(*((os, "fsync", fail) if broken == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match="no space"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_appears_only_when_the_content_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, list[bytes]]] = []
    real = os.fsync

    def look(descriptor: int) -> None:
        seen.append(((tmp_path / "report.html").exists(), [path.read_bytes() for path in tmp_path.iterdir()]))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    atomic_write(tmp_path / "report.html", b"whole")
    assert seen == [(False, [b"whole"])]
    assert (tmp_path / "report.html").read_bytes() == b"whole"


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        (path,) = write_all(tmp_path / "new", {"metrics.json": b"{}"})
        assert path.stat().st_mode & 0o777 == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


def test_checking_a_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b", report.FILES)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=f"cannot write in {tmp_path}: Permission denied"):
        check_folder(tmp_path / "out")


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not a folder"):
        check_folder(tmp_path / "link" / "out")
