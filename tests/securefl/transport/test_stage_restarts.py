"""A server that is gone in a sum beside the rounds, and another in its place; a party that comes after it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import made_eicu
import pytest
from network_processes import Process, processes
from restarts import Federation, Killed
from trained import SITES, entropy, job, rows, start
from wired import LIMIT, Lines, wired

from protocols.errors import SecureSumError
from protocols.policy import MemoryJournal
from protocols.session import Letter
from securefl import data as datasets
from securefl.attending import Attending
from securefl.job import Job
from securefl.keeping import Watched
from securefl.own_rows import OwnRows
from securefl.results import RoundRecord
from securefl.serving import Serving
from securefl.shared_scaling import Scaling
from securefl.store import Attempt, HeldRun, HeldStage, RunStore
from securefl.transport.link import Link


def cancer(folder: Path) -> Federation:
    some = job(rounds=2, protocol="secagg")
    return Federation(folder, some, rows(some))


def eicu(folder: Path) -> Federation:
    tables = made_eicu.write(folder / "eicu", made_eicu.within(made_eicu.tables(patients=150)))
    knobs = {"mechanism": "none", "rounds": 1, "local_steps": 1, "sample_rate": 1.0, "protocol": "secagg"}
    some = Job.parse({"data": {"name": "eicu", "dir": str(tables), "folds": 2}, "privacy": knobs})
    return Federation(folder, some, {site.name: OwnRows.of(some, site) for site in datasets.of_job(some).sites})


def serve_until(federation: Federation, monkeypatch: pytest.MonkeyPatch, stage: str, kind: str) -> None:
    """A server that is gone in a stage, before any message of this kind leaves."""
    watch = Watched.__call__

    def gone(self: Watched, letters: Sequence[Letter]) -> None:
        watch(self, letters)
        held = self._held
        if isinstance(held, HeldStage) and held.name == stage and any(type(x.message).__name__ == kind for x in letters):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Watched, "__call__", gone)
        with pytest.raises(Killed):
            federation.serve()


@pytest.mark.parametrize(("kind", "again"), [("Listed", True), ("Sealed", False), ("Dropped", False), ("Agreed", False)])
def test_a_sum_for_scaling_is_tried_again_before_its_inputs_were_asked_for_and_never_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, again: bool
) -> None:
    """After that the run is given up, as a second sum over other parties would differ by one of them."""
    federation = cancer(tmp_path)
    serve_until(federation, monkeypatch, "scaling", kind)
    (first, *_), *_ = federation.stages()
    serving = federation.serve()
    assert [record.contributors for record in serving.records] == [3, 3]
    second = serving.keeper.held.run
    assert (second == first) is again
    ended = [((run, attempt), outcome, asked) for run, _, attempt, outcome, asked in federation.stages()]
    later = ((second, 1 if again else 0), "finished", True)
    assert sorted(ended, key=str) == sorted([((first, 0), "lost" if again else None, not again), later], key=str)
    if kind in ("Dropped", "Agreed"):  # inputs of the first run have left, in that run once
        assert federation.spent() == [[1, 1, 2]] * 3


def test_control_without_the_line_about_inputs_it_is_asked_for_again_and_the_parties_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeldStage, "ask_inputs", lambda _self, _attempt, **_times: None)
    federation = cancer(tmp_path)
    serve_until(federation, monkeypatch, "scaling", "Dropped")
    with pytest.raises(SecureSumError, match="a run has one"):
        federation.serve()
    assert [outcome for *_, outcome, _ in federation.stages()] == ["lost", "aborted", "aborted"]
    assert len({run for run, *_ in federation.stages()}) == 1
    assert federation.spent() == [[1]] * 3


def test_a_server_that_is_gone_before_round_1_or_2_is_followed_by_one_with_the_same_scaling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, begin, scaled, seen = cancer(tmp_path), HeldRun.begin, Serving._scaled, list[Scaling]()

    async def kept(self: Serving) -> bool:
        found = await scaled(self)
        assert self.scaling is not None
        seen.append(self.scaling)
        return found

    for before in (1, 2):

        def once(self: HeldRun, before: int = before) -> Attempt:
            if self.progress().used == before - 1:
                raise Killed
            return begin(self)

        with monkeypatch.context() as patch:
            patch.setattr(HeldRun, "begin", once)
            patch.setattr(Serving, "_scaled", kept)
            with pytest.raises(Killed):
                federation.serve()
    serving = federation.serve()
    assert serving.scaling is not None
    assert [one.text() for one in seen] == [serving.scaling.text()] * 2
    assert [row[1:] for row in federation.stages()] == [("scaling", 0, "finished", True)]
    assert [record.number for record in serving.records] == [1, 2]
    assert federation.spent() == [[1, 2]] * 3


@pytest.mark.parametrize(("kind", "figures"), [("Listed", True), ("Dropped", False)])
def test_a_server_that_is_gone_in_the_assessment_goes_on_with_it_or_without_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, figures: bool
) -> None:
    federation = eicu(tmp_path)
    serve_until(federation, monkeypatch, "assessment", kind)
    first = federation.stages()[0][0]
    serving = federation.serve()
    assert serving.keeper.held.run == first
    assert len(serving.records) == 1
    assert (serving.figures is not None) is figures
    lost = (
        [("assessment", 0, "lost", False), ("assessment", 1, "finished", True)] if figures else [("assessment", 0, "aborted", True)]
    )
    assert [row[1:] for row in federation.stages()] == [*lost, ("scaling", 0, "finished", True)]
    with RunStore(f"sqlite:///{tmp_path / 'server.db'}", clock=lambda: None) as store:  # type: ignore[arg-type,return-value]
        (row,) = store.rows("runs")
        assert store.unfinished(row["job"], row["cohort"], "scaling", "assessment") is None


def test_a_party_that_comes_after_the_sum_for_scaling_gets_it_with_its_first_round(tmp_path: Path) -> None:
    some = job(rounds=2, protocol="secagg")

    async def run() -> tuple[Serving, list[Any], list[Attending]]:
        async with wired(tmp_path, names=SITES) as net:
            own = rows(some)
            late = own.pop("c")
            shared, attended, calls = start(net, some, own=own)
            serving = Serving(shared, net.hall)

            def call(record: RoundRecord) -> None:
                if record.number == 1:
                    keys = net.link("c")._credentials
                    assert keys.identity is not None
                    attended["c"] = Attending(some, "c", keys.identity, MemoryJournal(), late, entropy=entropy("c"))
                    link = Link(net.target, keys, shared.hash, attended["c"], worker=net.worker, clock=net.clock, log=Lines())
                    calls.append(asyncio.ensure_future(link.attend(patience=0.0)))
                    serving._least = 3

            await net.present(2)
            async with asyncio.timeout(2 * LIMIT):
                await serving.run(patience=0.0, on_round=call)
            net.hall.dismiss()
            return serving, await asyncio.gather(*calls), [*attended.values()]

    serving, endings, attended = asyncio.run(run())
    assert [ending.check for ending in endings] == [""] * 3
    assert [record.contributors for record in serving.records] == [2, 3]
    found = [party._stages._scaling for party in attended if party._stages is not None]
    assert serving.scaling is not None
    assert [one.text() for one in found if one is not None] == [serving.scaling.text()] * 3


def test_a_server_process_that_is_killed_after_the_sum_for_scaling_is_followed_by_one_that_forms_no_other(place: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = ("serve", "--job", place / "job.toml", "--keys", place / "keys/server", "--listen", f"127.0.0.1:{port}")
    with processes() as made:
        server = Process(*serve)
        made.append(server)
        server.until("listening")
        for name in ("north", "south", "west"):
            own = ("--keys", place / "keys" / name, "--data", place / f"{name}.csv", "--job", place / "job.toml")
            made.append(Process("join", "--server", f"localhost:{port}", *own))
        before = server.until("scaling")
        server.running.kill()
        assert server.end() == -signal.SIGKILL
        later = Process(*serve)
        made.append(later)
        assert later.until("resumed")["run"] == before["run"]
        assert later.end() == 0, later.lines
        assert not any('"event": "scaling"' in line for line in later.lines)
        assert [process.end() for process in made[1:4]] == [0, 0, 0], made[1].lines
    with RunStore(f"sqlite:///{place / 'keys/server/server.db'}", clock=lambda: None) as store:  # type: ignore[arg-type,return-value]
        rows = store.rows("stages", before["run"])
        assert [(row["stage"], row["attempt"], row["outcome"], row["contributors"]) for row in rows] == [
            ("scaling", 0, "finished", 3)
        ]
        assert store.progress(before["run"]).done
