"""``securefl vectors``: what is written is checked, what differs is named with exit code 1, what is no vector with 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocols.sums import SCHEMES
from securefl import vectors
from securefl.cli import main

SMALL = "plain-insecure"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the smallest protocol."""
    folder = tmp_path_factory.mktemp("vectors")
    return {path.name: path.read_bytes() for path in vectors.write(folder / "new", [SMALL])}


@pytest.fixture
def folder(written: dict[str, bytes], tmp_path: Path) -> Path:
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *args: str, code: int = 2) -> str:
    assert main(["vectors", *args]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = captured.err.splitlines()
    assert len(lines) == 1 or code == 1
    return lines[-1]


def test_what_is_written_is_checked_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vectors", "write", str(tmp_path / "new"), SMALL, "primitives", SMALL]) == 0
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert capsys.readouterr().out == f"written: {len(names)} files in {tmp_path / 'new'}\n"
    assert all(name.startswith(("plain_insecure_", "primitives_")) for name in names)
    assert main(["vectors", "check", str(tmp_path / "new")]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = [json.loads((tmp_path / "new" / name).read_text(encoding="utf-8"))["operations"] for name in names]
    assert lines[-1] == f"all {len(names)} files match: {sum(map(len, counts))} operations"
    assert [line.split(":")[0] for line in lines[:-1]] == [SMALL, "primitives"]


def test_without_a_name_all_protocols_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told = list[str]()
    monkeypatch.setattr(vectors.vectors, "trees", lambda protocol: iter([(f"case_of_{len(protocol.name)}", {"operations": []})]))
    monkeypatch.setattr(vectors.vectors, "primitive_trees", lambda: iter([]))
    vectors.write(tmp_path, tell=told.append)
    assert told == ["primitives", *SCHEMES]


def test_a_difference_is_named_with_file_operation_and_bytes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "plain_insecure_no_dropout.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    data = tree["operations"][1]["bytes"]
    tree["operations"][1]["bytes"] = data[:20] + ("0" if data[20] != "0" else "1") + data[21:]
    path.write_text(json.dumps(tree), encoding="utf-8")
    other = folder / "plain_insecure_bad_sender.json"
    other.write_text(other.read_text(encoding="utf-8").replace('"success": true', '"success": false'), encoding="utf-8")
    assert main(["vectors", "check", str(folder)]) == 1
    captured = capsys.readouterr()
    first, second, last = captured.err.splitlines()
    assert first.startswith(f"{other}: operation 1 (message Clear from client 2): success: recorded False, made True")
    assert second.startswith(f"{path}: operation 2 (message Clear from client 2): bytes: recorded ")
    assert "at byte 10 of" in second
    assert last == f"securefl: 2 of {len(list(folder.iterdir()))} files differ from what was made"
    assert "all" not in captured.out


def test_what_is_no_vector_is_one_line_and_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "plain_insecure_no_dropout.json"
    good = path.read_bytes()
    for content, words in (
        (good[:-20], "is no JSON"),
        (b"", "is no JSON"),
        (b"\xff" + good, "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"[]", "no vector of the format"),
        (good.replace(b"securefl vectors 1", b"securefl vectors 9"), "no vector of the format"),
        (good.replace(b'"operations"', b'"operation"'), "'operations' is missing"),
        (good.replace(b'"plain-insecure"', b'"nosuch"'), "no protocol 'nosuch'"),
        (good.replace(b'"parties": 4', b'"parties": 5000'), "at most 64 parties"),
        (good.replace(b'"parties": 4', b'"parties": "4"'), "parameters must be integers"),
        (good.replace(b'"parties": 4', b'"parties": 1'), "needs 2 to"),
    ):
        path.write_bytes(content)
        line = refused(capsys, "check", str(folder))
        assert words in line
        assert str(path) in line
    path.write_bytes(good)
    path.rename(folder / "other.json")
    assert "a file is named as its case" in refused(capsys, "check", str(folder))


def test_a_folder_without_vectors_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "no file ends in .json" in refused(capsys, "check", str(tmp_path / "empty"))
    assert "is not a folder" in refused(capsys, "check", str(tmp_path / "nosuch"))
    (tmp_path / "empty" / "folder.json").mkdir()
    assert "cannot be read" in refused(capsys, "check", str(tmp_path / "empty"))


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "write", str(tmp_path / "new"), SMALL, "nosuch")
    assert "no protocol 'nosuch'" in line
    assert "secagg+" in line
    assert "primitives" in line
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert "is not a folder" in refused(capsys, "write", str(tmp_path / "file"), SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_help_names_both_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["vectors"], ["vectors", "--help"], ["vectors", "write", "--help"], ["vectors", "check", "-h"]):
        assert main(args) == 0
    out = capsys.readouterr().out
    assert "write" in out
    assert "check" in out
    assert "primitives" in out
