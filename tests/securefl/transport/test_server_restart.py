"""A server that is gone at any message of a round, and another in its place; a party's policy file at the port."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from network_processes import JOB as JOB_FILE
from network_processes import Process, processes
from restarts import Federation, Killed
from trained import by_ranges
from wired import wired

from protocols.policy import MemoryJournal
from protocols.session import Letter
from securefl import data as datasets
from securefl.attending import Attending
from securefl.cli import main
from securefl.errors import UserError
from securefl.job import Job
from securefl.keeping import Watched, asking, held_run
from securefl.own_rows import OwnRows
from securefl.policy_file import PolicyFile
from securefl.serving import Serving
from securefl.shared_job import SharedJob
from securefl.store import Attempt, Checkpoints, HeldRun, RunStore

SITES = ("a", "b", "c")
JOB = Job.parse(
    {"data": {"name": "breast-cancer", "clients": 3}, "privacy": {"mechanism": "none", "rounds": 3, "protocol": "secagg"}}
)


def federation(folder: Path) -> Federation:
    sites = datasets.of_job(JOB).sites
    return Federation(folder, JOB, {name: OwnRows.of(JOB, site) for name, site in zip(SITES, sites, strict=True)})


def killed_and_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> tuple[Serving, list[dict[str, Any]]]:
    """The first server is gone in round 2, before any message of this kind leaves."""
    made, watch = federation(folder), Watched.__call__

    def gone(self: Watched, letters: Sequence[Letter]) -> None:
        watch(self, letters)
        if self.attempt.round == 2 and any(type(letter.message).__name__ == kind for letter in letters):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Watched, "__call__", gone)
        with pytest.raises(Killed):
            made.serve()
    return made.serve(), made.rows("attempts")


@pytest.mark.parametrize(
    ("kind", "again"), [("GlobalModel", True), ("Listed", True), ("Sealed", False), ("Dropped", False), ("Agreed", False)]
)
def test_a_server_that_is_gone_at_a_message_is_followed_by_one_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, again: bool
) -> None:
    serving, rows = killed_and_replaced(tmp_path, monkeypatch, kind)
    found = [((row["round"], row["attempt"]), row["outcome"], row["contributors"]) for row in rows]
    retried = [((2, 1), "finished", 3)] if again else []
    assert found == [((1, 0), "finished", 3), ((2, 0), "lost", None), *retried, ((3, 0), "finished", 3)]
    assert [(record.number, record.aborted) for record in serving.records if record.aborted is None] == [
        (number, None) for (number, _), outcome, _ in found if outcome == "finished"
    ]
    newest = serving.keeper.held.progress().model
    assert newest is not None
    assert newest[0] == 3
    kept, _ = Checkpoints(str(tmp_path / "models")).load(newest[1])
    np.testing.assert_array_equal(kept[0], serving.models[0])


def test_control_without_the_line_about_inputs_the_round_is_asked_for_again_and_the_parties_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeldRun, "ask_inputs", lambda _self, _attempt, **_times: None)
    _, rows = killed_and_replaced(tmp_path, monkeypatch, "Dropped")
    assert ((rows[2]["round"], rows[2]["attempt"]), rows[2]["outcome"]) == ((2, 1), "aborted")


def test_a_finished_run_is_followed_by_a_new_one_and_who_was_in_it_is_known(tmp_path: Path) -> None:
    made = federation(tmp_path)
    first, second = made.serve(), made.serve()
    assert first.keeper.held.run != second.keeper.held.run
    with RunStore(f"sqlite:///{tmp_path / 'server.db'}", clock=lambda: None) as store:  # type: ignore[arg-type,return-value]
        fates = {(row["member"], row["fate"]) for row in store.rows("contributions", first.keeper.held.run)}
        assert fates == {(name, "summed") for name in SITES}
        assert len(store.rows("runs")) == 2
        assert store.unfinished(first.shared.hash.hex(), store.rows("runs")[0]["cohort"]) is None


def test_a_model_that_was_changed_on_the_disk_stops_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, begin = federation(tmp_path), HeldRun.begin

    def once(self: HeldRun) -> Attempt:
        if self.progress().finished:
            raise Killed
        return begin(self)

    with monkeypatch.context() as patch:
        patch.setattr(HeldRun, "begin", once)
        with pytest.raises(Killed):
            made.serve()
    for file in (tmp_path / "models").iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(UserError, match="is not what was written"):
        made.serve()


@pytest.mark.parametrize("name", ["secagg", "kahe", "lightsecagg", "bfv", "plain-insecure"])
def test_what_asks_for_inputs_is_the_last_message_before_they_leave(name: str) -> None:
    from protocols.sums import scheme
    from securefl.round import round_flow
    from securefl.secure import secured

    flow = secured(round_flow(), scheme(name))
    ask, after = asking(flow)
    told = [kind.__name__ for kind in flow.messages("client")]
    spent = {"secagg": "Sealed", "kahe": "Sealed", "lightsecagg": "Relayed", "bfv": "Delivered", "plain-insecure": "GlobalModel"}
    assert ask.__name__ == spent[name]
    assert (after is None) == (name == "plain-insecure")
    assert after is None or told[told.index(ask.__name__) + 1] == after.__name__ == "Dropped"


def test_a_server_process_that_is_killed_is_replaced_and_no_round_is_lost(place: Path) -> None:
    """SIGKILL in the middle of a run; the parties wait for the next server at the same address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = ("serve", "--job", place / "job.toml", "--keys", place / "keys/server", "--listen", f"127.0.0.1:{port}")
    serve = (*serve, "--tape", place / "run.tape")
    with processes() as made:
        server = Process(*serve)
        made.append(server)
        server.until("listening")
        for name in ("north", "south", "west"):
            own = ("--keys", place / "keys" / name, "--data", place / f"{name}.csv", "--job", place / "job.toml")
            made.append(Process("join", "--server", f"localhost:{port}", *own))
        for _ in range(2):
            before = server.until("round")
        second = Process(*serve)  # by mistake, at the same address: it takes nothing from the first
        made.append(second)
        assert second.end() == 2
        assert f"cannot listen on 127.0.0.1:{port}" in second.lines[-1]
        for _ in range(2):
            assert server.until("round")["contributors"] == 3
        server.running.kill()
        assert server.end() == -signal.SIGKILL
        later = Process(*serve, "--out", place / "out")
        made.append(later)
        assert later.until("resumed")["run"] == before["run"]
        assert later.end() == 0, later.lines
        assert [process.end() for process in made[1:4]] == [0, 0, 0], made[1].lines
    assert {path.name for path in place.glob("run*.tape")} == {"run.tape", "run-2.tape"}
    assert main(["audit", "--tape", str(place / "run-2.tape")]) == 0
    with RunStore(f"sqlite:///{place / 'keys/server/server.db'}", clock=lambda: None) as store:  # type: ignore[arg-type,return-value]
        rows = store.rows("attempts", before["run"])
    finished = [row["round"] for row in rows if row["outcome"] == "finished"]
    assert len({(row["round"], row["attempt"]) for row in rows}) == len(rows)
    assert len(set(finished)) == len(finished)
    assert sorted({row["round"] for row in rows}) == list(range(1, 41))
    assert sum(row["outcome"] == "lost" for row in rows) <= 1
    assert len(finished) >= 39
    records = json.loads((place / "out/metrics.json").read_text())["rounds"]
    assert [record["number"] for record in records if record["aborted"] is None] == finished


DYING = """
import ctypes, json, os, signal, sys
from securefl import hosting, keeping, serving, shared_job, store
from securefl.cli import main

def die(): os.kill(os.getpid(), signal.SIGKILL)

def serve(number, step, line):
    watch, finish, end = keeping.Watched.__call__, keeping.Keeper.finish, store.HeldRun.finish
    def watched(self, letters):
        watch(self, letters)
        if self.attempt.round == number and step in {type(letter.message).__name__ for letter in letters}: die()
    def ended(self, attempt, *about, **more):
        if (attempt.round, "saved") == (number, step): die()
        return end(self, attempt, *about, **more)
    def finished(self, watched, *about):
        finish(self, watched, *about)
        if (watched.attempt.round, "finished") == (number, step): die()
    keeping.Watched.__call__, keeping.Keeper.finish, store.HeldRun.finish = watched, finished, ended
    os._exit(main(line))

for number, step in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # with its parent
        serve(number, step, sys.argv[2:])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
os._exit(main(sys.argv[2:]))
"""
"""Servers, one after the other, each of which is killed by SIGKILL at one step of one round; and a last one."""
STEPS = {2: "GlobalModel", 3: "Listed", 4: "Sealed", 5: "Dropped", 6: "Agreed", 7: "saved", 8: "finished"}
"""By round: before a message leaves, when the model is a file and the round not in the store, and when it is there and not told."""


def test_server_processes_that_are_killed_at_every_step_lose_no_finished_round_and_a_killed_party_is_in_again(place: Path) -> None:
    """No session identity comes twice: of a round whose inputs had been asked for there is no second attempt."""
    (place / "job.toml").write_text(JOB_FILE.format(rounds=5000))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = ("serve", "--job", place / "job.toml", "--keys", place / "keys/server", "--listen", f"127.0.0.1:{port}")
    with processes() as made:
        made.append(server := Process(json.dumps([*STEPS.items()]), *line, command=(sys.executable, "-c", DYING)))
        name = server.until("listening")["run"]

        def join(party: str) -> Process:
            own = ("--keys", place / "keys" / party, "--data", place / f"{party}.csv", "--job", place / "job.toml")
            made.append(Process("join", "--server", f"localhost:{port}", *own))
            return made[-1]

        parties = [join(party) for party in ("north", "south", "west")]
        for _ in STEPS:
            assert server.until("resumed")["run"] == name
        while server.until("round")["contributors"] < 3:
            pass
        parties[2].running.kill()
        while server.until("round")["contributors"] != 2:
            pass
        join("west")
        while server.until("round")["contributors"] != 3:
            pass
        server.running.send_signal(signal.SIGTERM)
        assert server.end() == 143
    with RunStore(f"sqlite:///{place / 'keys/server/server.db'}", clock=lambda: None) as store:  # type: ignore[arg-type,return-value]
        rows = store.rows("attempts", name)
        newest = store.progress(name)
    found = {number: [(row["attempt"], row["outcome"]) for row in rows if row["round"] == number] for number in STEPS}
    assert found == {
        **{number: [(0, "lost"), (1, "finished")] for number in (2, 3)},
        **{number: [(0, "lost")] for number in (4, 5, 6, 7)},
        8: [(0, "finished")],
    }
    assert len({(row["round"], row["attempt"]) for row in rows}) == len(rows)
    assert newest.finished == len({row["round"] for row in rows if row["outcome"] == "finished"})
    assert newest.model is not None
    Checkpoints(str(place / "keys/server/models")).load(newest.model[1])  # whole, by its digest


def test_a_partys_policy_refuses_a_job_before_anything_leaves_and_names_its_line(place: Path) -> None:
    (place / "keys/north/policy.toml").write_text("min_cohort = 2\nmax_rounds = 39\n")
    with processes() as made:
        made.append(Process("serve", "--job", place / "job.toml", "--keys", place / "keys/server", "--listen", "127.0.0.1:0"))
        port = made[0].until("listening")["port"]
        own = ("--keys", place / "keys/north", "--data", place / "north.csv", "--job", place / "job.toml")
        made.append(Process("join", "--server", f"localhost:{port}", *own))
        assert made[1].end() != 0
        where = place / "keys/north/policy.toml"
        assert f"{where}:2 (max_rounds = 39) refuses the job: the job has 40 rounds" in "".join(made[1].lines)
        assert not (place / "keys/north/journal.json").exists() or "{}" in (place / "keys/north/journal.json").read_text()
        made[0].running.send_signal(signal.SIGTERM)
        made[0].end()


def test_a_cohort_that_is_too_small_for_a_policy_is_refused_by_the_session_with_its_line(tmp_path: Path) -> None:
    notices = list[str]()

    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            shared = SharedJob.of(JOB, net.hall.cohort)
            serving = Serving(shared, net.hall)
            serving.side.beside = by_ranges(shared)
            identity = net.link("a")._credentials.identity
            assert identity is not None
            site = datasets.of_job(JOB).sites[0]
            rules = PolicyFile("# ours\nmin_cohort = 4", "policy.toml")
            party = Attending(JOB, "a", identity, MemoryJournal(), OwnRows.of(JOB, site), policy=rules, notices=notices.append)
            held, _ = held_run(RunStore("sqlite://", clock=net.clock.utc), shared)
            party.welcome(held.run, net.hall.members)
            session = party.convene("round", 1, 0).session
            occasion = serving.side.occasion(held.run, 1)
            server = serving.side.session(shared.flow, occasion, shared.terms(occasion))
            for letter in server.begin():
                for chunk in letter.chunks():
                    session.feed(server.me, chunk)
            party.adjourn(session)

    asyncio.run(run())
    assert notices[-1].startswith("a does not take part, by its own policy.toml:2 (min_cohort = 4): policy-cohort: 3 invited")
