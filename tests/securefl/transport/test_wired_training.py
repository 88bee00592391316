"""Training over gRPC on loopback, against the same in one process; what a party holds a run to; its journal; its rows."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load
from wired import LIMIT, Lines, Wired, wired

from protocols.errors import Misuse, Refused
from protocols.policy import MemoryJournal
from protocols.rand import Entropy, Rand, Seed
from protocols.suite import Occasion
from securefl import data as datasets
from securefl.apart import train_beside
from securefl.attending import Attending
from securefl.audit.tape import Tape
from securefl.cli import main
from securefl.data.public import own_table, public_of
from securefl.errors import UserError
from securefl.job import Job
from securefl.journal import FileJournal
from securefl.keeping import Keeper, cohort_digest
from securefl.own_rows import own_folds
from securefl.privacy.budget import PartyLedger
from securefl.privacy.store import Budget, Store
from securefl.results import RoundRecord
from securefl.round import Contribution, Fold, Task
from securefl.runner import Runner
from securefl.serving import Serving
from securefl.shared_job import SharedJob, is_run_of, job_hash, run_name
from securefl.store import Checkpoints, RunStore
from securefl.transport.link import Link

SITES = ("a", "b", "c")


def job(**privacy: Any) -> Job:
    tree = {
        "data": {"name": "breast-cancer", "clients": 3},
        "privacy": {"mechanism": "none", "rounds": 2, "local_steps": 2, **privacy},
    }
    return Job.parse(tree)


def entropy(name: str) -> Entropy:
    """The same draws for a site, whoever runs it."""
    count = iter(range(10**6))
    return lambda: Rand(Seed(f"{name} {next(count)}".encode().ljust(32, b".")))


def folds(some: Job) -> dict[str, tuple[Fold, ...]]:
    sites = datasets.of_job(some).sites
    return {name: own_folds(some, site) for name, site in zip(SITES, sites, strict=True)}


@dataclass
class Trained:
    serving: Serving
    attending: dict[str, Attending]
    endings: list[Any]


def start(
    net: Wired,
    some: Job,
    *,
    jobs: dict[str, Job] | None = None,
    ledgers: dict[str, PartyLedger] | None = None,
    record: Path | None = None,
    beside: Executor | None = None,
) -> tuple[SharedJob, dict[str, Attending], list[asyncio.Future[Any]]]:
    """All parties call; ``jobs`` are those of parties that have another one than the server."""
    shared = SharedJob.of(some, net.hall.cohort)
    net.hall.run, net.hall.job = run_name(shared.hash, entropy("run")), shared.hash
    attended, calls, rows = dict[str, Attending](), list[asyncio.Future[Any]](), folds(some)
    for name in SITES:
        credentials = net.link(name)._credentials
        assert credentials.identity is not None
        attended[name] = Attending(
            (jobs or {}).get(name, some),
            name,
            credentials.identity,
            MemoryJournal(),
            rows[name],
            ledger=(ledgers or {}).get(name),
            entropy=entropy(name),
            logs=None if record is None else record / "logs",
        )
        hash_told = shared.hash  # also by who has another job: what the server says is what it is held to
        about = {"worker": net.worker, "clock": net.clock, "log": Lines(), "beside": beside}
        link = Link(net.target, credentials, hash_told, attended[name], **about)  # type: ignore[arg-type]
        calls.append(asyncio.ensure_future(link.attend(patience=0.0)))
    return shared, attended, calls


async def train(net: Wired, some: Job, *, least: int = 3, record: Path | None = None, **parties: Any) -> Trained:
    """A run of all parties, or of those that stay."""
    shared, attended, calls = start(net, some, record=record, **parties)
    if least < len(SITES):
        await asyncio.wait(calls, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
    await net.present(least)
    tape = None if record is None else Tape(record / "run.tape")
    serving = Serving(shared, net.hall, tape=tape)
    async with asyncio.timeout(2 * LIMIT):
        await serving.run(patience=0.0)
    net.hall.dismiss()
    trained = Trained(serving, attended, await asyncio.gather(*calls, return_exceptions=True))
    for one in attended.values():
        one.close()
    if tape is not None:
        tape.seal()
    return trained


@pytest.mark.parametrize(
    "knobs",
    [
        {"protocol": "secagg"},
        {"protocol": "kahe"},
        {"protocol": "plain-insecure"},
        {"protocol": "secagg", "mechanism": "local-record"},
    ],
    ids=str,
)
def test_a_run_over_grpc_gives_the_model_of_the_simulation_bit_by_bit(tmp_path: Path, knobs: dict[str, Any]) -> None:
    some = job(**knobs)

    async def run() -> Trained:
        async with wired(tmp_path, names=SITES) as net:
            return await train(net, some)

    trained = asyncio.run(run())
    assert [ending.check for ending in trained.endings] == [""] * 3
    shared = trained.serving.shared
    of_runner = Job.parse({"privacy": some.plain()["privacy"], "simulation": {"baselines": True}})
    made = {name: entropy(name) for name in SITES}
    runner = Runner(copy.deepcopy(shared.template), folds(some), job=of_runner, entropy=lambda name: made[name])
    result = runner.run()
    assert (trained.serving.models[0] == runner.models[0]).all()
    assert (trained.serving.models[0] != 0).any()
    for ours, theirs in zip(trained.serving.records, result.rounds, strict=True):
        assert (ours.contributors, ours.aborted, ours.metrics) == (theirs.contributors, theirs.aborted, theirs.metrics)
    if some.privacy.mechanism != "none":
        assert [trained.attending[name].epsilon for name in SITES] == pytest.approx(result.epsilon)


def test_keys_and_shares_are_exchanged_while_the_sites_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No site ends its training before the server waits for the vectors."""
    free, trained = threading.Event(), list[str]()

    def slow(task: Task) -> Contribution:
        assert free.wait(LIMIT)
        trained.append(task.site.name)
        return train_beside(task)

    monkeypatch.setattr("securefl.attending.train_beside", slow)

    async def run() -> Trained:
        async with wired(tmp_path, names=SITES) as net:
            with ThreadPoolExecutor(3) as beside:
                shared, attended, calls = start(net, job(rounds=1), beside=beside)
                await net.present(3)
                serving = Serving(shared, net.hall)
                running = asyncio.ensure_future(serving.run(patience=0.0))
                async with asyncio.timeout(LIMIT):
                    while not summing(net):
                        await asyncio.sleep(0.01)
                    assert not trained
                    free.set()
                    await running
                net.hall.dismiss()
                return Trained(serving, attended, await asyncio.gather(*calls))

    found = asyncio.run(run())
    assert sorted(trained) == list(SITES)
    assert [record.contributors for record in found.serving.records] == [3]


def summing(net: Wired) -> bool:
    """Whether the server waits for the vectors of a sum."""
    sitting = net.hall._sitting
    return sitting is not None and any(type(value).__name__ == "Summing" for value in sitting.session.remembers)


def test_a_site_whose_training_fails_is_a_dropout_and_says_why_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(task: Task) -> Contribution:
        if task.site.name == "b":
            raise UserError("b: the loss is not finite")
        return train_beside(task)

    monkeypatch.setattr("securefl.attending.train_beside", failing)

    async def run() -> Trained:
        async with wired(tmp_path, names=SITES) as net:
            return await train(net, job())

    trained = asyncio.run(run())
    assert str(trained.endings[1]) == "b: the loss is not finite"
    assert [record.contributors for record in trained.serving.records] == [2, 2]
    assert [trained.endings[at].check for at in (0, 2)] == ["", ""]


def test_a_training_has_the_time_that_the_server_gives_it(tmp_path: Path) -> None:
    from securefl.serving import waiting

    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            flow = SharedJob.of(job(), net.hall.cohort).flow
            changed = waiting(flow, 3600.0)
            differ = {s.name: t.within for s, t in zip(flow.steps, changed.steps, strict=True) if s.within != t.within}
            assert differ == {"survey": 3600.0}

    asyncio.run(run())


class Killed(Exception):
    """A server that ends between two rounds."""


def test_a_server_goes_on_where_it_was_with_the_same_models(tmp_path: Path) -> None:
    """Ended after round 1 of 3, and taken up from its store: the models are those of a run that nothing ended."""
    some = job(rounds=3)

    def end(record: RoundRecord) -> None:
        if record.number == 1:
            raise Killed

    async def run() -> Trained:
        async with wired(tmp_path, names=SITES) as net:
            shared, attended, calls = start(net, some)
            await net.present(3)
            base, places = (
                RunStore(f"sqlite:///{tmp_path / 'server.db'}", clock=net.clock.utc),
                Checkpoints(str(tmp_path / "models")),
            )

            def held() -> Keeper:
                run = base.hold(net.hall.run, job=shared.hash.hex(), cohort=cohort_digest(shared.cohort), text="", rounds=3)
                return Keeper(run, places)

            with pytest.raises(Killed):
                await Serving(shared, net.hall, keeper=held()).run(patience=0.0, on_round=end)
            again = Serving(shared, net.hall, keeper=held())
            await again.run(patience=0.0)
            net.hall.dismiss()
            return Trained(again, attended, await asyncio.gather(*calls))

    trained = asyncio.run(run())
    assert [ending.check for ending in trained.endings] == [""] * 3
    assert [(record.number, record.contributors) for record in trained.serving.records] == [(1, 3), (2, 3), (3, 3)]
    of_runner = Job.parse({"privacy": some.plain()["privacy"]})
    made = {name: entropy(name) for name in SITES}
    runner = Runner(copy.deepcopy(trained.serving.shared.template), folds(some), job=of_runner, entropy=lambda name: made[name])
    runner.run()
    assert (trained.serving.models[0] == runner.models[0]).all()
    with pytest.raises(Misuse, match="do not go on from"):
        trained.serving.side.restore([np.zeros(3, np.float32)], ())


def test_what_the_server_leaves_behind_is_a_model_and_sums(tmp_path: Path) -> None:
    from securefl import load_model

    async def run() -> Trained:
        async with wired(tmp_path, names=SITES) as net:
            return await train(net, job())

    trained = asyncio.run(run())
    files = trained.serving.files()
    (tmp_path / "model.safetensors").write_bytes(files["model.safetensors"])
    loaded = load_model(tmp_path / "model.safetensors")
    dataset = datasets.of_job(job())
    server = load(files["model.safetensors"])
    for party in trained.attending.values():  # all parties have it
        theirs = load(party.model() or b"")
        assert theirs.keys() == server.keys()
        assert all((theirs[name] == server[name]).all() for name in server)
    assert loaded.scores(dataset.sites[0].x).shape == dataset.sites[0].y.shape
    text = files["metrics.json"].decode()
    assert not any(f'"{name}"' in text for name in SITES)  # nothing by site


def test_a_party_whose_own_job_is_another_takes_no_part(tmp_path: Path) -> None:
    """A server that lowers the noise, and takes the party's word for the job, finds that the run's name gives it away."""

    async def run() -> Trained:
        async with wired(tmp_path, names=SITES) as net:
            return await train(net, job(), jobs={"b": job(update_clip=1.0)}, least=2)

    trained = asyncio.run(run())
    assert isinstance(trained.endings[1], Refused)
    assert trained.endings[1].check == "net-run"
    assert [record.contributors for record in trained.serving.records] == [2, 2]


def test_a_site_without_budget_stays_out_and_the_others_go_on(tmp_path: Path) -> None:
    some = job(mechanism="local-record", epsilon=3.0)
    with Store(tmp_path / "ledger.db") as store:
        store.set_budget(("b", "x"), "record", Budget(0.5, 1e-5))
        store.set_budget(("c", "x"), "record", Budget(5.0, 1e-5))

        async def run() -> Trained:
            async with wired(tmp_path, names=SITES) as net:
                own = {name: PartyLedger(store, name, "x") for name in ("b", "c")}
                return await train(net, some, ledgers=own, least=2)

        trained = asyncio.run(run())
        assert isinstance(trained.endings[1], UserError)
        assert [record.contributors for record in trained.serving.records] == [2, 2]
        assert 0 < PartyLedger(store, "c", "x").statement("record").spent.epsilon <= 3.0
        assert not PartyLedger(store, "b", "x").statement("record").entries


@pytest.mark.parametrize("protocol", ["secagg", "kahe"])
def test_tape_and_logs_of_a_run_between_machines_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str) -> None:
    """The server's tape and every party's signed log, looked through by the command; a log with a line left out does not agree."""

    async def run() -> Trained:
        async with wired(tmp_path, names=SITES) as net:
            return await train(net, job(protocol=protocol), record=tmp_path)

    asyncio.run(run())
    logs = sorted((tmp_path / "logs").iterdir())
    assert len(logs) == 3
    look = ["audit", "--tape", str(tmp_path / "run.tape"), "--json"]
    assert main([*look, *(word for log in logs for word in ("--log", str(log)))]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found
    lines = logs[0].read_bytes().splitlines(keepends=True)
    logs[0].write_bytes(b"".join(line for at, line in enumerate(lines) if at != 3))
    assert main([*look, *(word for log in logs for word in ("--log", str(log)))]) == 1


def attending(net: Wired, some: Job) -> Attending:
    identity = net.link("a")._credentials.identity
    assert identity is not None
    return Attending(some, "a", identity, MemoryJournal(), folds(some)["a"])


def test_a_party_holds_a_run_to_its_own_view(tmp_path: Path) -> None:
    some = job()

    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            party, roster = attending(net, some), net.hall.members
            with pytest.raises(Refused, match="net-stage"):
                party.convene("round", 1, 0)
            good = run_name(job_hash(some), entropy("one"))
            with pytest.raises(Refused, match="net-run"):
                party.welcome(run_name(job_hash(job(rounds=3)), entropy("one")), roster)
            party.welcome(good, roster)
            party.welcome(good, roster)  # after a reconnection
            with pytest.raises(Refused, match="net-rerun"):
                party.welcome(run_name(job_hash(some), entropy("two")), roster)
            for stage, number in (("round", 0), ("round", 3), ("sum", 1)):
                with pytest.raises(Refused, match="net-stage"):
                    party.convene(stage, number, 0)
            less = type(roster)(roster.consortium, roster.serial, roster.entries[:-1], roster.document)
            with pytest.raises(Refused, match="net-cohort"):
                party.welcome(good, less)

    asyncio.run(run())


def test_a_model_of_another_round_than_was_announced_is_refused(tmp_path: Path) -> None:
    """The server announces round 1 and shows the model of round 2; announced as round 2 the same model is taken."""
    some = job()

    async def ended(announced: int) -> str | None:
        async with wired(tmp_path, names=SITES) as net:
            shared = SharedJob.of(some, net.hall.cohort)
            serving = Serving(shared, net.hall)
            party = attending(net, some)
            run = run_name(shared.hash, entropy("run"))
            party.welcome(run, net.hall.members)
            session = party.convene("round", announced, 0).session
            occasion = serving.side.occasion(run, 2)
            server = serving.side.session(shared.flow, occasion, shared.terms(occasion))
            for letter in server.begin():
                for chunk in letter.chunks():
                    session.feed(server.me, chunk)
            return None if session.ended is None else session.ended.check

    assert asyncio.run(ended(1)) == "net-round"
    assert asyncio.run(ended(2)) is None


def test_the_hash_of_a_job_is_of_what_all_must_have_alike() -> None:
    some = job()
    assert is_run_of(run_name(job_hash(some), entropy("x")), job_hash(some))
    assert not is_run_of(run_name(job_hash(some), entropy("x")), job_hash(job(update_clip=7.0)))
    assert len(run_name(job_hash(some), entropy("x")).encode()) <= 64
    own = some.model_copy(update={"output": some.output.model_copy(update={"dir": Path("/x")})})
    assert job_hash(own) == job_hash(some)
    tables = [
        Job.parse({"data": {"name": f"{name}.csv", "label": "y", "site": "s", "ranges": dict(ranges)}})
        for name, ranges in (
            ("one", [("u", (0.0, 1.0)), ("v", (0.0, 2.0))]),
            ("two", [("u", (0.0, 1.0)), ("v", (0.0, 2.0))]),
            ("one", [("v", (0.0, 2.0)), ("u", (0.0, 1.0))]),
        )
    ]
    assert job_hash(tables[0]) == job_hash(tables[1]) != job_hash(tables[2])


def test_a_journal_remembers_after_a_restart_what_a_party_has_joined_and_spent(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    with FileJournal(path) as journal:
        journal.join(Occasion("run", 3))
        with pytest.raises(UserError, match="in use"):
            FileJournal(path)
    with FileJournal(path) as journal:
        with pytest.raises(Refused, match="journal-replay"):
            journal.join(Occasion("run", 3))
        journal.join(Occasion("run", 3, 1))
        journal.spend(Occasion("run", 3, 1))
    with FileJournal(path) as journal, pytest.raises(Refused, match="journal-spent"):
        journal.join(Occasion("run", 3, 2))
    path.write_text('{"format": "securefl journal 1"')
    with pytest.raises(UserError, match="damaged"):
        FileJournal(path)
    path.unlink()
    FileJournal(path).close()


CSV = "site,age,bp,y,name\nnorth,50,120,1,x\nnorth,,110,0,y\nsouth,70,130,1,z\nnorth,60,,,w\n"


def table_job() -> Job:
    ranges = {"bp": (80.0, 200.0), "age": (20.0, 90.0)}
    return Job.parse({"data": {"name": "t.csv", "label": "y", "site": "site", "ranges": ranges}})


def test_a_sites_own_table_gives_the_columns_of_the_job(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(CSV)
    own = own_table(path, table_job(), "north")
    assert own.x.tolist() == [[120.0, 50.0], [110.0, 55.0]]
    assert own.y.tolist() == [1, 0]
    path.write_text(CSV.replace("site,", "place,"))
    assert len(own_table(path, table_job(), "north").y) == 3  # no column of sites: all rows are the site's own
    assert public_of(table_job()).features == ("bp", "age")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("bp", "rr"), "has no column 'bp'"),
        (("120", "high"), "'bp' .* holds text"),
        ((",1,x", ",2,x"), "must hold 0 or 1"),
        (("north", "east"), "no labelled row whose 'site' is 'north'"),
    ],
)
def test_a_table_that_does_not_fit_the_job_is_refused_in_one_line(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    path = tmp_path / "own.csv"
    path.write_text(CSV.replace(*change))
    with pytest.raises(UserError, match=why) as found:
        own_table(path, table_job(), "north")
    assert "\n" not in str(found.value)


def test_what_is_public_of_a_named_data_set_is_what_its_loader_says() -> None:
    loaded, known = datasets.of_job(job()), public_of(job())
    assert (known.features, known.classes) == (loaded.features, loaded.classes)
    assert (known.ranges == loaded.ranges).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"simulation": {"dropout": 0.1}},
        {"data": {"name": "breast-cancer", "scaling": "noised"}},
        {"performance": {"handshake_rounds": 2}},
        {"data": {"name": "t.csv", "label": "y", "site": "s"}},
    ],
)
def test_what_a_network_cannot_do_is_refused_in_one_line(tmp_path: Path, changed: dict[str, Any]) -> None:
    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            with pytest.raises(UserError) as found:
                SharedJob.of(Job.parse(changed), net.hall.cohort)
            assert "\n" not in str(found.value)

    asyncio.run(run())


def test_vectors_that_are_large_come_one_at_a_time() -> None:
    from securefl.serving import LARGE, MOST_TURNS, turns_for

    assert [turns_for(size) for size in (1, LARGE // 3, LARGE, 10 * LARGE)] == [MOST_TURNS, 3, 1, 1]
