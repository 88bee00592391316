"""Runs of two federations in one server: what fails in one ends in it, and the other's rounds are those that it has alone."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tenants import BOTH, Server, listening, server
from trained import SITES, job

from securefl import hosting
from securefl.errors import UserError
from securefl.hosting import Hosted
from securefl.store import HeldRun, RunStore
from securefl.transport import enrolment

ROUNDS = 3


def rounds(folder: Path, tenant: str) -> list[tuple[int, int, str | None]]:
    """What the federation's file has of its rounds."""
    records = json.loads((folder / tenant / "out" / "metrics.json").read_text())["rounds"]
    return [(one["number"], one["contributors"], one["aborted"]) for one in records]


GOOD = [(number, 3, None) for number in range(1, ROUNDS + 1)]


def model(folder: Path, tenant: str) -> np.ndarray:
    arrays = load_file(folder / tenant / "out" / "model.safetensors")
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])


async def both(there: Server, *names: str) -> None:
    """All parties of these federations call."""
    await listening(there)
    for name in names or BOTH:
        there.parties[name].call()


def test_two_federations_are_run_at_once_each_with_its_own_files(tmp_path: Path) -> None:
    async def run() -> None:
        with server(tmp_path) as there:
            await both(there)
            for name in BOTH:
                assert await there.parties[name].ended() == [""] * 3
            assert await there.task == 0

    asyncio.run(run())
    for name in BOTH:
        assert rounds(tmp_path, name) == GOOD
        with RunStore(f"sqlite:///{tmp_path / name / 'server.db'}", clock=lambda: None) as store:  # type: ignore[arg-type,return-value]
            assert len(store.rows("runs")) == 1
            assert {row["outcome"] for row in store.rows("attempts")} == {"finished"}
    assert (model(tmp_path, "heart") == model(tmp_path, "lung")).all()  # same rows, same draws


def failing(monkeypatch: pytest.MonkeyPatch, tenant: str, times: int) -> list[str]:
    """The store of a federation fails so often when a round is to be finished."""
    finish, left = HeldRun.finish, [None] * times
    failed = list[str]()

    def fails(self: HeldRun, *args: Any, **about: Any) -> None:
        if f"/{tenant}/" in self._store.where and left:
            left.pop()
            failed.append(self.run)
            raise UserError("the store cannot be used: the disk is gone")
        finish(self, *args, **about)

    monkeypatch.setattr(HeldRun, "finish", fails)
    return failed


def test_a_federation_whose_store_fails_is_opened_again_and_the_other_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first round is lost, as its inputs were asked for; its parties call again, and the others are run."""
    failed = failing(monkeypatch, "heart", 1)

    async def run() -> None:
        with server(tmp_path) as there:
            await both(there)
            told = await there.said("heart", "failed")
            assert told["error"] == "the store cannot be used: the disk is gone"
            assert told["again"] == hosting.PAUSE
            assert await there.parties["lung"].ended() == [""] * 3
            assert not there.task.done()
            there.clock.jump(hosting.PAUSE)
            assert (await there.said("heart", "resumed"))["finished"] == 0
            assert await there.parties["heart"].ended() == [""] * 3
            assert await there.task == 0
            assert not there.logs["lung"].of("failed")

    asyncio.run(run())
    assert len(failed) == 1
    assert rounds(tmp_path, "lung") == GOOD
    assert rounds(tmp_path, "heart") == [(1, 0, "round: lost"), (2, 3, None), (3, 3, None)]


def test_a_federation_that_fails_again_and_again_is_given_up_and_the_exit_code_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "heart", 10)

    async def run() -> None:
        with server(tmp_path, heart={"restarts": 1, "job": job(rounds=9)}) as there:
            await both(there)
            await there.said("heart", "failed")
            there.clock.jump(hosting.PAUSE)
            assert (await there.said("heart", "given up"))["error"].endswith("the disk is gone")
            assert await there.parties["heart"].ended() == ["net-stopped"] * 3
            assert await there.parties["lung"].ended() == [""] * 3
            assert await there.task == 1

    asyncio.run(run())
    assert rounds(tmp_path, "lung") == GOOD


def test_an_error_that_nobody_foresaw_stays_in_its_federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text, which nobody has looked at, is not logged."""
    opened = Hosted._opened

    def fails(self: Hosted, *about: Any) -> Any:
        if self.federation.name == "heart":
            raise ZeroDivisionError("secret")
        return opened(self, *about)

    monkeypatch.setattr(Hosted, "_opened", fails)

    async def run() -> None:
        with server(tmp_path, heart={"restarts": 0}) as there:
            await both(there, "lung")
            assert (await there.said("heart", "given up"))["error"] == "ZeroDivisionError"
            assert await there.parties["lung"].ended() == [""] * 3
            assert await there.task == 1

    asyncio.run(run())


@pytest.mark.parametrize("apart", [True, False])
def test_a_store_that_hangs_holds_its_own_federation(tmp_path: Path, apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has locked one's database.  Control: where both have one worker, the other hangs as well."""
    if not apart:
        shared = ThreadPoolExecutor(1)
        monkeypatch.setattr(shared, "shutdown", lambda **_: None)
        monkeypatch.setattr(hosting, "ThreadPoolExecutor", lambda *_: shared)

    async def run() -> None:
        with server(tmp_path) as there:
            await listening(there)
            for name in BOTH:
                await there.said(name, "waiting")
            with closing(sqlite3.connect(tmp_path / "heart" / "server.db", isolation_level=None)) as lock:
                lock.execute("BEGIN EXCLUSIVE")
                there.parties["heart"].call()
                await there.said("heart", "seated", 3)
                there.parties["lung"].call()
                ended = asyncio.ensure_future(there.parties["lung"].ended())
                await asyncio.wait([ended], timeout=None if apart else 3.0)
                assert ended.done() is apart
                assert not there.logs["heart"].of("round")
                lock.execute("ROLLBACK")
            assert await ended == [""] * 3
            assert await there.parties["heart"].ended() == [""] * 3
            assert await there.task == 0

    asyncio.run(run())
    assert rounds(tmp_path, "heart") == rounds(tmp_path, "lung") == GOOD


def test_a_run_whose_party_is_revoked_is_followed_by_one_over_the_new_roster(tmp_path: Path) -> None:
    """The other federation's run has all its parties."""

    async def run() -> None:
        with server(tmp_path) as there:
            await listening(there)
            there.parties["heart"].call(SITES[:2])
            await there.said("heart", "seated", 2)
            new = enrolment.revoke(tmp_path / "heart" / "operator", "c")
            enrolment.accept_roster(tmp_path / "heart" / "server", new.document)
            there.clock.jump(301.0)  # no longer for all of them
            there.parties["lung"].call()
            assert "revoked since the run began: c" in (await there.said("heart", "failed"))["error"]
            assert await there.parties["lung"].ended() == [""] * 3
            there.clock.jump(hosting.PAUSE)
            first, second = ([line["parties"] for line in there.logs["heart"].of("listening")] + [[]])[:2]
            async with asyncio.timeout(60):
                while not second:
                    await asyncio.sleep(0.01)
                    first, second = ([line["parties"] for line in there.logs["heart"].of("listening")] + [[]])[:2]
            assert (first, second) == ([*SITES], [*SITES[:2]])

    asyncio.run(run())


def test_a_server_that_is_drained_ends_after_the_round_that_is_under_way(tmp_path: Path) -> None:
    """Its parties call the next server, which goes on with the round after it."""

    async def run() -> None:
        with server(tmp_path, heart={"job": job(rounds=200)}) as there:
            await both(there)
            await there.said("heart", "round")
            assert there.hosted[0]._serving is not None
            for one in there.hosted:
                one.drain()
            assert await there.task == 0
            done = len(there.hosted[0]._serving.records)
            assert 1 <= done < 200
            first = rounds(tmp_path, "heart")
            assert first == [(number, 3, None) for number in range(1, done + 1)]
            assert not any(call.done() for call in there.parties["heart"].calls)
            with RunStore(f"sqlite:///{tmp_path / 'heart' / 'server.db'}", clock=lambda: None) as store:  # type: ignore[arg-type,return-value]
                (run_of,) = store.rows("runs")
                assert {row["outcome"] for row in store.rows("attempts") if row["round"] <= done} == {"finished"}
                assert run_of["rounds"] == 200
            for call in there.parties["heart"].calls:
                call.cancel()

    asyncio.run(run())
