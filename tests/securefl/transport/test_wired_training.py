"""Training over gRPC on loopback, against the same in one process."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load
from trained import SITES, Trained, entropy, folds, job, start, train
from wired import LIMIT, Wired, wired

from protocols.errors import Misuse, Refused, SecureSumError
from protocols.session import Address
from securefl import data as datasets
from securefl import places
from securefl.apart import train_beside
from securefl.cli import main
from securefl.errors import UserError
from securefl.job import Job
from securefl.keeping import Keeper, cohort_digest
from securefl.privacy.budget import PartyLedger
from securefl.privacy.store import Budget, Store
from securefl.results import RoundRecord
from securefl.round_types import Contribution, Task
from securefl.runner import Runner
from securefl.serving import Serving
from securefl.shared_job import SharedJob
from securefl.store import Checkpoints, RunStore
from securefl.transport import enrolment
from securefl.transport.envelope import Frame
from securefl.transport.sitting import Sitting


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
    made = {name: entropy(name, after=some.privacy.mechanism == "none") for name in SITES}
    runner = Runner(copy.deepcopy(shared.template), folds(some), job=of_runner, entropy=lambda name: made[name])
    result = runner.run()
    assert (trained.serving.models[0] == runner.models[0]).all()
    assert (trained.serving.models[0] != 0).any()
    for ours, theirs in zip(trained.serving.records, result.rounds, strict=True):
        assert (ours.contributors, ours.aborted, ours.metrics) == (theirs.contributors, theirs.aborted, theirs.metrics)
    if some.privacy.mechanism != "none":
        assert [trained.attending[name].epsilon for name in SITES] == pytest.approx(result.epsilon)


@pytest.mark.parametrize(
    "chosen",
    [
        *({"algorithm": name} for name in ("fedprox", "scaffold", "fednova", "qfedavg", "fedadam")),
        {"compression": "mask", "keep": 0.4, "update_bits": 12},
    ],
    ids=str,
)
def test_algorithms_over_grpc_give_the_model_of_the_simulation_bit_by_bit(tmp_path: Path, chosen: dict[str, Any]) -> None:
    """Further vectors and sums, a site's own state over rounds, the server's moments, masks: as in one process."""
    knobs = {"server_learning_rate": 0.5, "server_schedule": "inverse-sqrt", **chosen}
    # The sum for scaling travels with the models, whose hash is in the seed of masks: those are compared without one.
    private = {"mechanism": "local-record", "epsilon": 5.0} if "compression" in chosen else {}
    some = Job.parse({**job(rounds=3, **private).plain(), "performance": knobs})

    async def run() -> Trained:
        async with wired(tmp_path, names=SITES) as net:
            return await train(net, some)

    trained = asyncio.run(run())
    assert [ending.check for ending in trained.endings] == [""] * 3
    of_runner = Job.parse({"privacy": some.plain()["privacy"], "performance": knobs})
    made = {name: entropy(name, after=not private) for name in SITES}  # the sum for scaling took the first
    template = copy.deepcopy(trained.serving.shared.template)
    runner = Runner(template, folds(some), job=of_runner, entropy=lambda name: made[name])
    runner.run_name = trained.serving.hall.run  # which decides the masks
    result = runner.run()
    assert len(trained.serving.models) == len(runner.models) == 1
    assert (trained.serving.models[0] == runner.models[0]).all()
    assert [r.metrics for r in trained.serving.records] == [r.metrics for r in result.rounds]
    assert all(
        load(attending.model() or b"").keys() == load(trained.serving.files()["model.safetensors"]).keys()
        for attending in trained.attending.values()
    )


def test_a_party_finds_its_own_place_and_the_server_counts_of_sites(tmp_path: Path) -> None:
    async def run() -> Trained:
        async with wired(tmp_path, names=SITES) as net:
            return await train(net, job(places=True))

    trained = asyncio.run(run())
    own = [one.figures() for one in trained.attending.values()]
    for number, record in enumerate(trained.serving.records):
        for kind in places.KINDS:
            found = [figures["places"][number][kind] for figures in own if figures is not None]
            assert places.counts(record.metrics, kind) == [found.count(at) for at in range(places.BINS)]
            assert len(found) == 3


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


def test_training_that_fails_while_the_last_frame_waits_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """b fails while the last frame before its vector lies with its session: none comes to wake it, and the server waits for it."""
    free, feed, failed = threading.Event(), Sitting.feed, list[str]()

    def failing(task: Task) -> Contribution:
        if task.site.name == "b":
            assert free.wait(LIMIT)
            raise UserError("b: the loss is not finite")
        return train_beside(task)

    async def run() -> Trained:
        async with wired(tmp_path, names=SITES) as net:

            async def fed(self: Sitting, sender: Address, frame: Frame) -> None:
                await feed(self, sender, frame)
                if summing(net) and any(isinstance(value, Task) and value.site.name == "b" for value in self.session.outputs):
                    free.set()
                    await asyncio.wait([self.task])
                    failed.append(str(self.task.exception()))

            monkeypatch.setattr(Sitting, "feed", fed)
            with ThreadPoolExecutor(3) as beside:
                shared, attended, calls = start(net, job(rounds=1), beside=beside)
                await net.present(3)
                serving = Serving(shared, net.hall)
                async with asyncio.timeout(LIMIT):
                    await serving.run(patience=0.0)
                net.hall.dismiss()
                return Trained(serving, attended, await asyncio.gather(*calls, return_exceptions=True))

    monkeypatch.setattr("securefl.attending.train_beside", failing)
    trained = asyncio.run(run())
    assert [str(trained.endings[1])] == failed == ["b: the loss is not finite"]
    assert [record.contributors for record in trained.serving.records] == [2]


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
    made = {name: entropy(name, after=1) for name in SITES}
    runner = Runner(copy.deepcopy(trained.serving.shared.template), folds(some), job=of_runner, entropy=lambda name: made[name])
    runner.run()
    assert (trained.serving.models[0] == runner.models[0]).all()
    with pytest.raises(Misuse, match="do not go on from"):
        trained.serving.side.restore([np.zeros(3, np.float32)], ())


def test_a_run_ends_when_somebody_who_is_in_it_is_revoked(tmp_path: Path) -> None:
    """Between two rounds: the key that is not trusted any more would count among those that open."""

    async def run() -> list[Any]:
        async with wired(tmp_path, names=SITES) as net:
            shared, _, calls = start(net, job(rounds=5))

            def revoke(record: RoundRecord) -> None:
                if record.number == 2:
                    enrolment.accept_roster(net.folder / "server", enrolment.revoke(net.folder / "operator", "b").document)

            await net.present(3)
            serving = Serving(shared, net.hall)
            with pytest.raises(SecureSumError, match="revoked since the run began: b"):
                await serving.run(patience=0.0, on_round=revoke)
            assert [record.number for record in serving.records] == [1, 2]
            net.hall.dismiss("net-stopped")
            return await asyncio.gather(*calls)

    assert [ending.check for ending in asyncio.run(run())] == ["net-stopped"] * 3


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
