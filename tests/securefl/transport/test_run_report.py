"""``securefl report``: the page of a run between machines, out of the server's store and models alone."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tenants import BOTH, listening, server
from test_report import Page
from trained import SITES, job

from securefl.cli import main
from securefl.run_report import Told, bars
from securefl.store import RunStore
from securefl.transport.clock import SystemClock
from tests.browser import PHONE, looked_at

ROUNDS = 4


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a job under differential privacy; its folder."""
    folder = tmp_path_factory.mktemp("ran")
    some = job(rounds=ROUNDS, mechanism="local-record", epsilon=5.0)

    async def run() -> None:
        with server(folder, heart={"job": some}, lung={"job": some}) as there:
            await listening(there)
            for name in BOTH:
                there.parties[name].call()
                assert await there.parties[name].ended() == [""] * 3
            assert await there.task == 0

    asyncio.run(run())
    return folder / "heart"


def page_of(folder: Path, out: Path, *more: str, code: int = 0) -> Page:
    line = ["report", "--store", f"sqlite:///{folder}/server.db", "--models", str(folder / "models"), "--out", str(out), *more]
    assert main(line) == code
    return Page(out.read_text()) if not code else Page("")


def told(folder: Path) -> Told:
    with RunStore(f"sqlite:///{folder}/server.db", clock=SystemClock().utc, create=False) as base:
        return Told.of(base, base.rows("runs")[0])


def test_the_page_says_what_the_store_has(ran: Path, tmp_path: Path) -> None:
    page, known = page_of(ran, tmp_path / "page.html"), told(ran)
    assert page.open == []
    assert page.tags["script"] == page.tags["a"] == page.tags["img"] == 0
    assert not [value for name, value in page.attributes if name in ("src", "href") and not value.startswith("#")]
    words = " ".join(page.text.split())
    for word in (known.run["name"], known.run["job"], "breast-cancer", *SITES, f"{ROUNDS} of {ROUNDS}", '"local-record"'):
        assert word in words
    assert len(known.checkpoints) == ROUNDS + 1
    for row in known.checkpoints:
        assert row["digest"] in words
    for _, metrics in known.metrics:
        assert f"{metrics['auroc']:.3f}" in words
    assert "The newest is whole: 31 values, at distance" in words
    assert "epsilon" in words
    assert page.tags["svg"] == 2


def test_times_of_a_round_follow_each_other_and_keys_are_exchanged_while_sites_train(ran: Path) -> None:
    for row in told(ran).attempts:
        assert 0 <= row["sent"] <= row["asked"] <= row["taken"] <= row["seconds"]
        found = bars(row)
        assert found["keys and shares"][0] == found["training and vectors"][0]
        assert found["training and vectors"][1] == found["agreement and opening"][0]


def changed(folder: Path, to: Path, *statements: str) -> Path:
    """A copy of a run, with its store altered."""
    (to / "models").mkdir(parents=True)
    for path in (folder / "models").iterdir():
        (to / "models" / path.name).write_bytes(path.read_bytes())
    with closing(sqlite3.connect(folder / "server.db")) as one, closing(sqlite3.connect(to / "server.db")) as other:
        one.backup(other)
        for statement in statements:
            other.execute(statement)
        other.commit()
    (to / "server.db").chmod(0o600)
    return to


def test_attempts_that_gave_no_model_are_told_with_their_reason(ran: Path, tmp_path: Path) -> None:
    """One aborted before inputs were asked for, one lost with its server, one under way."""
    end = "UPDATE attempts SET contributors = NULL, metrics = NULL, taken = NULL, "
    folder = changed(
        ran,
        tmp_path / "one",
        end + "outcome = 'aborted', step = 'survey', check_name = 'quorum', asked = NULL WHERE round = 2",
        end + "outcome = 'lost', seconds = NULL, asked = NULL WHERE round = 3",
        end + "outcome = NULL, ended = NULL, seconds = NULL, sent = NULL WHERE round = 4",
    )
    words = " ".join(page_of(folder, tmp_path / "page.html").text.split())
    assert f"1 of {ROUNDS}" in words
    for word in ("survey: quorum", "lost", "under way", "without a model: quorum ×1, lost ×1"):
        assert word in words


def test_what_others_wrote_is_text_on_the_page(ran: Path, tmp_path: Path) -> None:
    folder = changed(
        ran,
        tmp_path / "one",
        "UPDATE contributions SET member = '<script>alert(1)</script>' WHERE member = 'a'",
        "UPDATE attempts SET step = '<img src=x>', check_name = '\x1b[2J' WHERE round = 1",
    )
    page = page_of(folder, tmp_path / "page.html")
    assert page.tags["script"] == page.tags["img"] == 0
    assert "<script>alert(1)</script>" in page.text
    assert "\x1b" not in page.text


def test_a_store_without_times_has_no_timeline(ran: Path, tmp_path: Path) -> None:
    folder = changed(ran, tmp_path / "one", "UPDATE attempts SET sent = NULL, asked = NULL, taken = NULL")
    page = page_of(folder, tmp_path / "page.html")
    assert page.tags["svg"] == 1
    assert "Where the time went" not in page.text


def test_a_model_that_was_changed_or_a_run_that_is_not_there_is_one_line(
    ran: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = changed(ran, tmp_path / "one"), tmp_path / "page.html"
    newest = folder / "models" / told(ran).checkpoints[-1]["path"]
    newest.write_bytes(newest.read_bytes()[:-1] + b"\x01")
    capsys.readouterr()
    page_of(folder, out, code=2)
    said = capsys.readouterr().err
    assert "is not what was written" in said
    assert said.count("\n") == 1
    page_of(ran, out, "nobody", code=2)
    assert "no run of" in capsys.readouterr().err
    assert not out.exists()


def test_a_store_of_version_two_is_brought_up(ran: Path, tmp_path: Path) -> None:
    folder = changed(
        ran,
        tmp_path / "one",
        *(f"ALTER TABLE attempts DROP COLUMN {name}" for name in ("sent", "asked", "taken")),
        "UPDATE alembic_version SET version_num = '0002'",
    )
    rows: list[dict[str, Any]] = told(folder).attempts
    assert [row["sent"] for row in rows] == [None] * ROUNDS
    assert page_of(folder, tmp_path / "page.html").open == []


def test_the_page_is_readable_on_a_phone_and_on_paper(ran: Path, tmp_path: Path) -> None:
    page_of(ran, tmp_path / "report.html")
    found = looked_at((tmp_path / "report.html").read_text(), tmp_path)
    assert found.complaints == []
    assert (found.width <= PHONE, found.wide) == (True, [])
    assert found.sheets >= 1
