"""Sums beside the rounds over gRPC on loopback: scaling, model and figures as in one process; servers that lie about them."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import made_eicu
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from trained import SITES, Trained, by_ranges, entropy, job, rows, train
from wired import Wired, wired

from protocols.errors import Refused
from protocols.policy import MemoryJournal, Policy
from protocols.suite import Occasion, Terms
from securefl import assessment
from securefl import data as datasets
from securefl.attending import Attending
from securefl.data.public import own_table, public_of
from securefl.data.sources import source_of
from securefl.data.types import Dataset
from securefl.errors import UserError
from securefl.evaluation import scored
from securefl.experiment import prepared_features, split
from securefl.job import Job
from securefl.own_rows import OwnRows
from securefl.parties import Consortium
from securefl.policy_file import PolicyFile
from securefl.privacy.budget import PartyLedger
from securefl.privacy.store import Budget, Store
from securefl.runner import Runner
from securefl.serving import Serving
from securefl.shared_job import SharedJob, is_run_of, run_name
from securefl.shared_scaling import Scaling
from securefl.stages import MARKS
from securefl.standardise import Scaled
from securefl.timing import Gauge
from securefl.transport.envelope import Parcel
from securefl.transport.hall import Hall


def table(folder: Path) -> Path:
    """A small CSV of three sites, with missing values and a column of text."""
    rng, lines = np.random.default_rng(3), ["site,age,bp,ward,y"]
    for site in SITES:
        for _ in range(40):
            age, bp = rng.normal(60, 9), rng.normal(130, 20)
            ill = int(age + bp / 2 + rng.normal(0, 6) > 126)
            cells = [f"{age:.2f}", "" if rng.random() < 0.2 else f"{bp:.1f}", str(rng.choice(["icu", "er"]))]
            lines.append(f"{site},{','.join(cells)},{ill}")
    path = folder / "all.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass
class Case:
    """A job, what a simulation has of it, and what each party has."""

    job: Job
    dataset: Dataset
    own: dict[str, OwnRows]


def case(name: str, folder: Path, **privacy: Any) -> Case:
    knobs = {"mechanism": "none", "rounds": 2, "local_steps": 2, "sample_rate": 1.0, **privacy}
    if name == "breast-cancer":
        some = Job.parse({"data": {"name": name, "clients": 3}, "privacy": knobs})
        return Case(some, datasets.of_job(some), rows(some))
    if name == "csv":
        about = {"ranges": {"age": [20, 100], "bp": [60, 220]}, "levels": {"ward": ["er", "icu"]}}
        data = {"name": str(table(folder)), "label": "y", "site": "site", "folds": 3, **about}
        some = Job.parse({"data": data | ({"scaling": "noised"} if "epsilon" in knobs else {}), "privacy": knobs})
        source = source_of(data["name"])
        assert source is not None
        return Case(some, datasets.of_job(some), {one: OwnRows.of(some, own_table(source, some, one)) for one in SITES})
    tables = made_eicu.write(folder / "eicu", made_eicu.within(made_eicu.tables()))
    some = Job.parse({"data": {"name": "eicu", "dir": str(tables)}, "privacy": knobs})
    dataset = datasets.of_job(some)
    own = {s.name: OwnRows.of(some, datasets.own_eicu(some, tables, None, s.name)) for s in dataset.sites}
    return Case(some, dataset, own)


def simulated(given: Case) -> Scaled:
    names = [site.name for site in given.dataset.sites]
    parts = split(given.job, given.dataset)
    return prepared_features(given.job, given.dataset, parts, Consortium.of(names, Policy()), Gauge(names))


def networked(folder: Path, given: Case, **options: Any) -> Trained:
    async def run() -> Trained:
        async with wired(folder, names=tuple(given.own)) as net:
            return await train(net, given.job, own=given.own, **options)

    trained = asyncio.run(run())
    assert [getattr(ending, "check", ending) for ending in trained.endings] == [""] * len(given.own)
    return trained


@pytest.mark.parametrize("name", ["breast-cancer", "csv", "eicu"])
def test_scaling_and_model_are_those_of_the_simulation_bit_by_bit(tmp_path: Path, name: str) -> None:
    one = case(name, tmp_path)
    trained, scaled = networked(tmp_path, one), simulated(one)
    serving, shared, (scaler, *_) = trained.serving, trained.serving.shared, scaled.scalers
    assert serving.scaling is not None
    assert (serving.scaling.shift == scaler.shift).all()
    assert (serving.scaling.scale == scaler.scale).all()
    columns = shared.preparation(serving.scaling).columns  # of codings alone a simulation has none where there is nothing to fill
    assert [coding.fill for coding in scaled.dataset.codings] in ([], [column["fill"] for column in columns])
    sites = zip(one.own, scaled.dataset.sites, strict=True)
    folds = {party: OwnRows.of(one.job, site).folds(scaler) for party, site in sites}
    made = {party: entropy(party, after=1) for party in folds}
    alone = {"privacy": one.job.plain()["privacy"], "simulation": {"baselines": True}}
    about: dict[str, Any] = {"models_per_record": max(1, one.job.data.splits - 1), "entropy": lambda party: made[party]}
    runner = Runner(shared.template, folds, job=Job.parse(alone), **about)
    result = runner.run()
    assert all((ours == theirs).all() for ours, theirs in zip(serving.models, runner.models, strict=True))
    assert [record.metrics for record in serving.records] == [record.metrics for record in result.rounds]
    if name != "eicu":
        assert serving.figures is None
        assert all(party.figures() is None for party in trained.attending.values())
        return
    scores = scored(runner.trainer, runner.final_models(), folds)
    counts = [assessment.counts(scores[party], one.own[party].compared()) for party in folds]
    total = {key: np.sum([own[key] for own in counts], axis=0) for key in counts[0]}
    figures = json.loads(serving.figures or "")
    for model in ("federated", "same_rows", "compared"):
        wanted = assessment.read(total, model, one.job.data.splits)
        assert figures[model]["auroc"] == pytest.approx(vars(wanted.auroc))
        assert figures[model]["rows"] == wanted.rows
    assert figures["contributors"] == len(folds)
    assert json.loads(serving.files()["metrics.json"])["assessment"] == figures
    for party, attending in trained.attending.items():  # each its own, and the server none of them
        mine = attending.figures() or {}
        assert mine["federated"]["rows"] == assessment.of_scores(scores[party]).rows
        assert party not in (serving.figures or "")


def test_noised_scaling_is_that_of_the_simulation_but_for_its_noise_and_under_the_partys_epsilon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_rand: object, _label: str, size: int, _share: float) -> NDArray[np.int64]:
        return np.zeros(size, dtype=np.int64)

    monkeypatch.setattr("securefl.privacy.samplers.skellam", silent)
    monkeypatch.setattr("securefl.statistics.totals.skellam", silent)
    one = case("csv", tmp_path, mechanism="local-record", epsilon=3.0, sample_rate=0.2)
    with Store(tmp_path / "ledger.db") as store:
        store.set_budget(("a", "x"), "record", Budget(3.0, 1e-5))
        trained = networked(tmp_path, one, ledgers={"a": PartyLedger(store, "a", "x")})
        entries = PartyLedger(store, "a", "x").statement("record")
        assert [entry.run[:2] for entry in entries.entries].count("s-") == 1
        assert entries.spent.epsilon <= 3.0 * (1 + 1e-6)
    scaled, found = simulated(one), trained.serving.scaling
    assert found is not None
    scaler = trained.serving.shared.scaler(found)
    for ours, theirs in zip(vars(scaler).values(), vars(scaled.scalers[0]).values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [coding.fill for coding in scaled.dataset.codings if coding.fill is not None] == list(found.fills[:2])
    assert max(party.epsilon or 9.0 for party in trained.attending.values()) <= 3.0 * (1 + 1e-6)
    by_range = one.job.model_copy(update={"data": one.job.data.model_copy(update={"scaling": "auto"})})
    shared = trained.serving.shared
    noise, less = (of.about.noise_multiplier for of in (shared, SharedJob.of(by_range, shared.cohort)))
    assert noise is not None
    assert less is not None
    assert noise > less


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=30).filter(lambda x: len(x) % 3 == 0))
def test_a_scaling_travels_and_is_kept_exactly(numbers: list[float]) -> None:
    made = Scaling(*np.split(np.array(numbers), 3))
    assert made.values().dtype == np.float32
    for found in (Scaling.of_values(made.values()), Scaling.read(made.text())):
        for ours, theirs in zip(vars(found).values(), vars(made).values(), strict=True):
            assert ours.tobytes() == theirs.tobytes()


# A server that lies


def lying(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The server shows party ``number`` another scaling than the others: one feature twice as wide."""
    post = Hall._post

    def other(self: Hall, parcel: Parcel, to: Any) -> None:
        data = b"".join(bytes(part) for part in parcel.parts)
        if b"GlobalModel" not in data[:64]:
            post(self, parcel, to)
            return
        size = 4 * Scaling.length(30)
        found = Scaling.of_values(np.frombuffer(data[-size:], dtype="<f4"))
        wide = replace(found, scale=found.scale * np.where(np.arange(30) == 0, 0.5, 1.0))
        post(self, parcel, [address for address in to if address.index != number])
        told = Parcel(parcel.sitting, (data[:-size] + wide.values().astype("<f4").tobytes(),))
        post(self, told, [address for address in to if address.index == number])

    monkeypatch.setattr(Hall, "_post", other)


def two_of_three(tmp_path: Path) -> list[int]:
    async def run() -> Trained:
        async with wired(tmp_path, names=SITES) as net:
            return await train(net, job(protocol="secagg"))

    return [record.contributors for record in asyncio.run(run()).serving.records]


def test_a_party_that_was_told_another_scaling_is_in_no_sum_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lying(monkeypatch, 2)
    assert set(two_of_three(tmp_path)) <= {0, 2}


def test_control_without_models_and_scaling_in_the_session_identity_it_is_summed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = SharedJob.terms

    def unbound(self: SharedJob, occasion: Occasion, *cohort: Any) -> Terms[Any]:
        return of(self, replace(occasion, model=bytes(32)), *cohort)

    monkeypatch.setattr(SharedJob, "terms", unbound)
    lying(monkeypatch, 2)
    assert two_of_three(tmp_path) == [3, 3]


def spoiled(shared: SharedJob, **changed: float) -> NDArray[np.float32]:
    found = Scaling.of_values(by_ranges(shared))
    made = {key: np.where(np.arange(found.shift.size) == 4, value, getattr(found, key)) for key, value in changed.items()}
    return replace(found, **made).values()


def party(net: Wired, some: Job, journal: MemoryJournal | None = None, **options: Any) -> Attending:
    identity = net.link("a")._credentials.identity
    assert identity is not None
    return Attending(some, "a", identity, journal or MemoryJournal(), rows(some)["a"], **options)


def told(some: Job, *each: Any, folder: Path) -> str | None:
    """What ends a party's session of a round, to which the server shows one scaling after another, round by round."""

    async def run() -> str | None:
        async with wired(folder, names=SITES) as net:
            shared = SharedJob.of(some, net.hall.cohort)
            serving, mine, run = Serving(shared, net.hall), party(net, some), run_name(shared.hash, entropy("run"))
            mine.welcome(run, net.hall.members)
            ended = None
            for number, made in enumerate(each, 1):
                serving.side.beside = made(shared)
                session = mine.convene("round", number, 0).session
                occasion = serving.side.occasion(run, number)
                server = serving.side.session(shared.flow, occasion, shared.terms(occasion))
                for letter in server.begin():
                    for chunk in letter.chunks():
                        session.feed(server.me, chunk)
                ended = session.ended
            return None if ended is None else ended.check

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("made", "check"),
    [
        (by_ranges, None),
        (lambda shared: spoiled(shared, shift=-1e6), "scaling-range"),
        (lambda shared: spoiled(shared, fills=1e6), "scaling-range"),
        (lambda shared: spoiled(shared, scale=1e6), "scaling-range"),
        (lambda shared: spoiled(shared, scale=0.0), "scaling-range"),
        (lambda shared: spoiled(shared, scale=-1.0), "scaling-range"),
        (lambda shared: spoiled(shared, shift=np.nan), "scaling-range"),
        (lambda shared: by_ranges(shared) + np.float32(0.5), "scaling-form"),
        (lambda shared: by_ranges(shared) - np.float32(2**16), "scaling-form"),
    ],
)
def test_a_scaling_that_does_not_fit_the_public_ranges_is_refused(tmp_path: Path, made: Any, check: str | None) -> None:
    assert told(job(), made, folder=tmp_path) == check


def test_a_party_takes_one_scaling_in_a_run(tmp_path: Path) -> None:
    assert told(job(), by_ranges, by_ranges, folder=tmp_path) is None
    assert told(job(), by_ranges, lambda shared: spoiled(shared, scale=1.0), folder=tmp_path) == "scaling-changed"


def test_no_occasion_of_a_stage_is_one_of_a_round_and_a_party_takes_no_run_of_such_a_name(tmp_path: Path) -> None:
    one = case("breast-cancer", tmp_path)
    digest = bytes(range(32))
    run = run_name(digest, entropy("run"))
    assert is_run_of(run, digest)
    assert not any(is_run_of(f"{mark}-{run}", digest) for mark in MARKS.values())
    assert not any(is_run_of(other, digest) for other in (run[1:], f"0{run}", run.upper(), f"{run}\n"))

    async def started() -> None:
        async with wired(tmp_path, names=SITES) as net:
            shared = SharedJob.of(one.job, net.hall.cohort)
            assert shared.scaling is not None
            stage = shared.scaling.stage
            occasion = stage.occasion(run_name(shared.hash, entropy("run")), 0)
            assert len(occasion.run.encode()) <= 64
            with pytest.raises(Refused, match="net-run"):
                party(net, one.job).welcome(occasion.run, net.hall.members)

    asyncio.run(started())


def test_a_sum_beside_the_rounds_is_one_and_its_input_leaves_once(tmp_path: Path) -> None:
    """Another number, another stage, or a second attempt after the input has left is refused."""
    some = job()

    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            journal = MemoryJournal()
            mine, shared = party(net, some, journal), SharedJob.of(some, net.hall.cohort)
            assert shared.scaling is not None
            name = run_name(shared.hash, entropy("run"))
            mine.welcome(name, net.hall.members)
            for stage, number in (("scaling", 0), ("scaling", 2), ("assessment", 1)):
                with pytest.raises(Refused, match="net-stage"):
                    mine.convene(stage, number, 0)
            assert [letter.sender.index for letter in mine.convene("scaling", 1, 0).session.begin()] == [1]
            again = mine.convene("scaling", 1, 1).session
            journal.spend(shared.scaling.stage.occasion(name, 0))
            again.begin()
            assert again.ended is not None
            assert again.ended.check == "journal-spent"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("policy", "some", "why"),
    [
        (
            "max_values = 60",
            Job.parse(
                {
                    "data": {"name": "breast-cancer", "clients": 3, "scaling": "noised"},
                    "privacy": {"mechanism": "distributed-record", "rows": 100, "epsilon": 8.0},
                }
            ),
            r"policy.toml:1 \(max_values = 60\) refuses the job: a sum of the job has 91 values",
        ),
        ('protocols = ["kahe"]', job(), "refuses the job: the job runs secagg"),
        (
            "max_epsilon = 2.0",
            Job.parse({"data": {"name": "breast-cancer", "clients": 3, "scaling": "noised"}, "privacy": {"epsilon": 2.5}}),
            "max_epsilon",
        ),
        ("max_epsilon = 2.0", job(), "has no differential privacy"),
    ],
)
def test_a_partys_policy_covers_the_sums_beside_the_rounds(tmp_path: Path, policy: str, some: Job, why: str) -> None:
    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            shared = SharedJob.of(some, net.hall.cohort)
            assert shared.scaling is not None
            assert shared.scaling.stage.size > shared.about.plan.size or "max_values" not in policy
            with pytest.raises(UserError, match=why):
                party(net, some, policy=PolicyFile(policy, "policy.toml")).welcome(
                    run_name(shared.hash, entropy("run")), net.hall.members
                )

    asyncio.run(run())


def test_public_ranges_scale_where_a_job_has_no_sum_for_it(tmp_path: Path) -> None:
    some = job(mechanism="local-record", epsilon=3.0)

    async def run() -> None:
        async with wired(tmp_path, names=SITES) as net:
            shared = SharedJob.of(some, net.hall.cohort)
            assert shared.stages == ()
            assert shared.about.beside == 0
            assert (shared.scaler(None).low == public_of(some).ranges[:, 0]).all()

    asyncio.run(run())
