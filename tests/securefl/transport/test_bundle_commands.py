"""``securefl submit``, ``review``, ``approve``, ``refuse`` and runs of bundles: real processes; refusals in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from network_processes import JOB, Process, processes, table

from securefl.cli import main
from securefl.shared_job import is_run_of

PARTIES = ("north", "south", "west")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keys of three hospitals and an author, their tables, and a folder with a job."""
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "try", "keys", *PARTIES, "--author", "ada"]) == 0
    for seed, name in enumerate(PARTIES):
        table(tmp_path / f"{name}.csv", seed)
    (tmp_path / "study").mkdir()
    (tmp_path / "study/job.toml").write_text(JOB.format(rounds=2))
    return tmp_path


@contextmanager
def desk(*args: object) -> Iterator[str]:
    """A server under way; its address."""
    with processes() as made:
        made.append(Process("serve", "--keys", "keys/server", "--listen", "127.0.0.1:0", *args))
        yield f"localhost:{made[0].until('listening')['port']}"


def said(capsys: pytest.CaptureFixture[str], *args: object, code: int = 0) -> str:
    """What a command prints; what it complains of, where it ends otherwise."""
    capsys.readouterr()
    assert main([*map(str, args)]) == code, capsys.readouterr()
    found = capsys.readouterr()
    return found.err if code else found.out


def submitted(capsys: pytest.CaptureFixture[str], server: str, folder: str = "study", by: str = "ada") -> str:
    """The hash of a folder that an author hands in."""
    told = said(capsys, "submit", folder, "--keys", f"keys/{by}", "--server", server)
    return re.findall(r"^bundle ([0-9a-f]{64}), ", told)[0]


def decided(capsys: pytest.CaptureFixture[str], server: str, digest: str, *names: str) -> None:
    """These parties review and approve a bundle."""
    for name in names:
        said(capsys, "review", digest, "--keys", f"keys/{name}", "--server", server)
        said(capsys, "approve", digest, "--keys", f"keys/{name}", "--server", server)


def test_a_bundle_is_submitted_reviewed_approved_and_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By all parties but one that refuses it; its hash is in the name of the run, and so in every session identity."""
    with desk() as server:
        digest = submitted(capsys, server)
        shown = said(capsys, "review", digest[:8], "--keys", "keys/north", "--server", server)
        assert "=== job.toml: new" in shown
        assert "+rounds = 2" in shown
        assert f"bundle     {digest}" in shown
        decided(capsys, server, digest, "north", "south")
        said(capsys, "review", digest, "--keys", "keys/west", "--server", server)
        said(capsys, "refuse", digest, "--because", "no ε", "--keys", "keys/west", "--server", server)
        listed = json.loads(said(capsys, "review", "--json", "--keys", "keys/west", "--server", server))["bundles"]
        assert [(one["bundle"], one["author"], one["own"]) for one in listed] == [(digest, "ada", "refused")]
        assert listed[0]["said"] == {"north": "approved", "south": "approved", "west": "refused"}
    known = json.loads(said(capsys, "jobs", "--keys", "keys/server", "--json"))["bundles"]
    assert known[0]["decisions"] == {"north": "approved", "south": "approved", "west": "refused"}
    assert "refused: west" in said(capsys, "jobs", "--keys", "keys/server")
    with processes() as made:
        out = ("--out", "out", "--wait", "2")
        made.append(Process("serve", "--keys", "keys/server", "--bundle", digest[:12], "--listen", "127.0.0.1:0", *out))
        listening = made[0].until("listening")
        assert is_run_of(listening["run"], bytes.fromhex(digest))
        server = f"localhost:{listening['port']}"
        assert "is refused here" in said(capsys, "join", "--server", server, "--keys", "keys/west", "--data", "west.csv", code=2)
        for name, more in (("north", ()), ("south", ("--bundle", digest[:10]))):
            made.append(Process("join", "--server", server, "--keys", f"keys/{name}", "--data", f"{name}.csv", *more))
        assert [process.end() for process in made] == [0, 0, 0], [process.lines for process in made]
    assert [r["contributors"] for r in json.loads(Path("out/metrics.json").read_text())["rounds"]] == [2, 2]
    assert [run["job"] for run in json.loads(said(capsys, "jobs", "--keys", "keys/server", "--json"))["jobs"]] == [digest]
