"""Over gRPC on loopback: a cohort drawn for each round among those who are there, and what a party lets a server draw."""

from __future__ import annotations

import asyncio
import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from trained import SITES, entropy, folds, job, rows, start
from wired import LIMIT, Lines, Wired, wired

from protocols.errors import Refused
from protocols.policy import MemoryJournal, Policy
from protocols.rand import Replay
from protocols.session import Address, client
from protocols.suite import Roster
from securefl.attending import Attending
from securefl.audit.findings import Findings
from securefl.audit.log_file import read_log
from securefl.audit.tape import Tape, fingerprint
from securefl.errors import UserError
from securefl.job import Job
from securefl.keeping import Keeper, held_run
from securefl.policy_file import PolicyFile
from securefl.privacy.budget import PartyLedger
from securefl.privacy.store import Store
from securefl.run_report import Told, html
from securefl.runner import Runner
from securefl.sampling import among, as_bits, sampled
from securefl.serving import Serving
from securefl.shared_job import SharedJob
from securefl.store import RunStore
from securefl.transport.envelope import BEGINS, LETTER, Frame
from securefl.transport.hall import Seat

ROUNDS = 6
SEED = "network"


def cohorts(count: int = 2) -> list[list[int]]:
    source = Replay(SEED)
    return [sampled([1, 2, 3], count, source()) for _ in range(ROUNDS)]


class Ran:
    """A run in which two of three are invited to each round."""

    def __init__(self, folder: Path, some: Job, ledgers: dict[str, PartyLedger] | None = None) -> None:
        self.some, self.folder, self.ledgers = some, folder, ledgers
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with wired(self.folder, names=SITES) as net:
            self.cohort, self.hall = net.hall.cohort, net.hall
            self.lines = {name: Lines() for name in SITES}
            shared, self.attended, calls = start(net, self.some, ledgers=self.ledgers, record=self.folder, lines=self.lines)
            self.store = RunStore(f"sqlite:///{self.folder}/server.db", clock=net.clock.utc)
            held, _ = held_run(self.store, shared, entropy=entropy("run"))
            net.hall.run = held.run
            await net.present(3)
            self.serving = Serving(shared, net.hall, keeper=Keeper(held), sampling=Replay(SEED))
            async with asyncio.timeout(2 * LIMIT):
                await self.serving.run(patience=0.0)
            net.hall.dismiss()
            self.endings = await asyncio.gather(*calls)
            for one in self.attended.values():
                one.close()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(tmp_path_factory.mktemp("ran"), job(clients_per_round=2, rounds=ROUNDS))


def test_the_models_are_those_of_a_simulation_with_the_same_cohorts(ran: Ran) -> None:
    assert [ending.check for ending in ran.endings] == [""] * 3
    assert [(record.invited, record.contributors, record.aborted) for record in ran.serving.records] == [(2, 2, None)] * ROUNDS
    of_runner = Job.parse({"privacy": ran.some.plain()["privacy"]})
    made = {name: entropy(name, after=1) for name in SITES}  # the sum for scaling took the first
    runner = Runner(
        copy.deepcopy(ran.serving.shared.template), folds(ran.some), job=of_runner, entropy=made.__getitem__, sampling=Replay(SEED)
    )
    runner.run()
    assert (ran.serving.models[0] == runner.models[0]).all()
    assert (ran.serving.models[0] != 0).any()


def test_who_is_not_invited_waits_and_is_no_dropout(ran: Ran) -> None:
    """It hears nothing of the sum, the store has no fate of it, and it gets the final model with the others."""
    expected = Counter(SITES[place - 1] for cohort in cohorts() for place in cohort)
    for name in SITES:
        rounds = [line["round"] for line in ran.lines[name].of("convened") if line["stage"] == "round"]
        assert rounds == [at for at, cohort in enumerate(cohorts(), 1) if SITES.index(name) + 1 in cohort]
        assert len(ran.lines[name].of("welcome")) == 1  # it kept its seat
        assert ran.attended[name].model() is not None
    rows = ran.store.rows("contributions", ran.hall.run)
    assert {row["fate"] for row in rows} == {"summed"}
    assert Counter(row["member"] for row in rows) == expected


def test_the_page_of_the_run_says_that_its_sums_can_be_combined(ran: Ran) -> None:
    page = html(Told.of(ran.store, ran.store.rows("runs")[0]))
    assert "single out a, b, c" in page
    assert "differ by" in page


def test_each_round_has_a_log_of_its_own_cohort(ran: Ran) -> None:
    rosters = {json.dumps(cohort): among(ran.cohort, cohort) for cohort in cohorts()}
    every = sorted((ran.folder / "logs").iterdir())
    logs = [path for path in every if len(path.name.split("-")) == 4]
    assert len(logs) == sum(map(len, cohorts()))
    assert len(every) - len(logs) == len(SITES), "one of each party of the sum for scaling, which is over all"
    for path in logs:
        found = list[Any]()
        for roster in rosters.values():
            log = read_log(path, roster, Findings()) if fits(path, roster) else None
            found += [] if log is None else [log]
        assert [len(log.sums) for log in found] == [1]


def fits(path: Path, roster: Roster) -> bool:
    header: dict[str, Any] = json.loads(path.read_text().splitlines()[0])
    return fingerprint(roster) in json.dumps(header)


def test_the_ledger_is_charged_for_the_rounds_that_a_party_was_in(tmp_path: Path) -> None:
    with Store() as store:
        ledgers = {name: PartyLedger(store, name, "made") for name in SITES}
        Ran(tmp_path, job(clients_per_round=2, rounds=ROUNDS, mechanism="local-record", epsilon=9.0), ledgers)
        expected = Counter(SITES[place - 1] for cohort in cohorts() for place in cohort)
        for name in SITES:
            charged = [entry for entry in store.entries(ledgers[name].place) if entry.unit == "record"]
            assert sum(entry.times for entry in charged) == expected[name]


@pytest.mark.parametrize(
    ("data", "privacy"),
    [({}, {"mechanism": "none"}), ({"scaling": "noised"}, {"mechanism": "local-record", "epsilon": 3.0})],
    ids=["exact", "noised"],
)
def test_sums_beside_the_rounds_are_of_all_sites_with_their_own_least_threshold(
    tmp_path: Path, data: dict[str, Any], privacy: dict[str, Any]
) -> None:
    """`privacy.threshold` is that of a cohort: of all sites it would not be safe."""

    async def run() -> None:
        async with wired(tmp_path, names=tuple("abcdefg")) as net:
            some = {"name": "breast-cancer", "clients": 7}
            tree = {"data": {**some, **data}, "privacy": {"clients_per_round": 3, "threshold": 2, **privacy}}
            shared = SharedJob.of(Job.parse(tree), net.hall.cohort)
            (stage,) = shared.stages
            found: Any = shared.about.parameters, stage.parameters
            assert [(one.parties, one.threshold) for one in found] == [(3, 2), (7, 5)]

    asyncio.run(run())


def test_a_round_is_filled_up_with_the_absent_where_too_few_are_there(tmp_path: Path) -> None:
    """Three invited of four, one of them away: parameters stay those of three, and the absent one is the dropout."""

    async def run() -> None:
        async with wired(tmp_path, names=(*SITES, "d")) as net:
            some = job(clients_per_round=4, rounds=1)
            serving = Serving(SharedJob.of(some, net.hall.cohort), net.hall, sampling=Replay(SEED))
            net.hall.seats = dict.fromkeys("abd")  # type: ignore[assignment]
            assert serving._places() == [1, 2, 3, 4]
            serving.shared.job.privacy.__dict__["clients_per_round"] = 2
            assert not {3} & {place for _ in range(30) for place in serving._places() or ()}
            net.hall.seats = {}

    asyncio.run(run())


def attending(net: Wired, some: Job, policy: str = "") -> Attending:
    identity = net.link("a")._credentials.identity
    assert identity is not None
    return Attending(some, "a", identity, MemoryJournal(), rows(some)["a"], policy=PolicyFile(policy, "policy.toml"))


def test_a_party_goes_into_no_other_cohort_than_its_job_invites(tmp_path: Path) -> None:
    drawn, whole = job(clients_per_round=2), job()

    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            for some, good, bad in (
                (
                    drawn,
                    as_bits([1, 3], 3),
                    (b"", as_bits([1, 2, 3], 3), as_bits([2, 3], 3), as_bits([1], 3), b"\x09", b"\x05\x00"),
                ),
                (whole, b"", (as_bits([1, 3], 3), as_bits([1, 2, 3], 3))),
            ):
                party = attending(net, some)
                shared = SharedJob.of(some, net.hall.cohort)
                party.welcome(held_run(RunStore("sqlite://", clock=net.clock.utc), shared)[0].run, net.hall.members)
                for cohort in bad:
                    with pytest.raises(Refused, match="net-cohort"):
                        party.convene("round", 1, 0, cohort)
                with pytest.raises(Refused, match="net-stage"):
                    party.convene("model", some.privacy.rounds, 0, as_bits([1, 3], 3))
                assert party.convene("round", 1, 0, good).session.me.index == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ("min_cohort = 3", r"policy.toml:1 \(min_cohort = 3\) refuses the job: the job invites 2 parties to a round"),
        ("min_cohort_share = 0.7", r"policy.toml:1 \(min_cohort_share = 0.7\) refuses the job: the job invites 2 of 3 parties"),
        ("min_cohort = 2\nmin_cohort_share = 0.66", ""),
    ],
)
def test_a_policy_refuses_a_job_that_invites_too_few(tmp_path: Path, policy: str, why: str) -> None:
    some = job(clients_per_round=2)

    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            party, shared = attending(net, some, policy), SharedJob.of(some, net.hall.cohort)
            name = held_run(RunStore("sqlite://", clock=net.clock.utc), shared)[0].run
            if not why:
                party.welcome(name, net.hall.members)
                return
            with pytest.raises(UserError, match=why):
                party.welcome(name, net.hall.members)

    asyncio.run(run())


def test_a_share_of_the_roster_binds_every_set_of_a_session() -> None:
    rules = PolicyFile("min_cohort_share = 0.5", "policy.toml")
    assert rules.over(Policy(), 5, 10).min_cohort == 5
    assert rules.over(Policy(), 4, 9).min_cohort == 5
    assert rules.over(Policy(min_cohort=7), 8, 10).min_cohort == 7
    assert PolicyFile("min_cohort_share = 0.3").over(Policy(), 3, 10).min_cohort == 3
    assert (
        rules.explain(Refused("policy-cohort", "2 invited")) == "policy.toml:1 (min_cohort_share = 0.5): policy-cohort: 2 invited"
    )


def test_frames_of_who_is_not_invited_reach_no_session(tmp_path: Path) -> None:
    """And those of the invited come from their place in the cohort."""
    frame = bytes([LETTER]) + (7).to_bytes(4, "little") + bytes([BEGINS]) + bytes(100)

    class Sat:
        number = 7

        def __init__(self) -> None:
            self.fed = list[Address]()

        async def feed(self, sender: Address, _frame: Frame) -> None:
            self.fed.append(sender)

    class Once:
        def __init__(self) -> None:
            self.left: list[Any] = [frame, None]

        async def read(self) -> Any:
            return self.left.pop(0)

        async def write(self, _message: bytes) -> None: ...

    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            for places, expected in (([1, 2], {"a": 1, "b": 2}), ([1, 3], {"a": 1, "c": 2}), ([1, 2, 3], {"a": 1, "b": 2, "c": 3})):
                sat = Sat()
                net.hall._lay(places)
                net.hall._sitting = sat  # type: ignore[assignment]
                for name in SITES:
                    await net.hall._listen(Seat(name), Once())
                assert sat.fed == [client(place) for place in expected.values()]
                assert [net.hall.named(f"client {place}") for place in expected.values()] == [*expected]
            net.hall._sitting = None

    asyncio.run(run())


def test_a_tape_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            shared = SharedJob.of(job(clients_per_round=2), net.hall.cohort)
            with pytest.raises(UserError, match="privacy.clients_per_round is refused with a tape: it is of one roster"):
                Serving(shared, net.hall, tape=Tape(tmp_path / "run.tape"))

    asyncio.run(run())
