"""What a party holds a run to; its journal; its rows; what follows from a job alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trained import SITES, by_ranges, entropy, job, rows
from wired import Wired, wired

from protocols.errors import Refused
from protocols.policy import MemoryJournal
from protocols.suite import Occasion
from securefl import data as datasets
from securefl.attending import Attending
from securefl.data.public import own_table, public_of
from securefl.data.sources import Source
from securefl.errors import UserError
from securefl.job import Job
from securefl.journal import FileJournal
from securefl.serving import Serving
from securefl.shared_job import SharedJob, is_run_of, job_hash, run_name


def attending(net: Wired, some: Job) -> Attending:
    identity = net.link("a")._credentials.identity
    assert identity is not None
    return Attending(some, "a", identity, MemoryJournal(), rows(some)["a"])


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
            less = replace(roster, entries=roster.entries[:-1])
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
            serving.side.beside = by_ranges(shared)
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


def source(path: Path) -> Source:
    return Source(kind="csv", path=path)


def table_job() -> Job:
    ranges = {"bp": (80.0, 200.0), "age": (20.0, 90.0)}
    return Job.parse({"data": {"name": "t.csv", "label": "y", "site": "site", "ranges": ranges}})


def test_a_sites_own_table_gives_the_columns_of_the_job(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(CSV)
    own = own_table(source(path), table_job(), "north")
    assert own.x.tolist() == [[120.0, 50.0], [110.0, 55.0]]
    assert own.y.tolist() == [1, 0]
    path.write_text(CSV.replace("site,", "place,"))
    assert len(own_table(source(path), table_job(), "north").y) == 3  # no column of sites: all rows are the site's own
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
        own_table(source(path), table_job(), "north")
    assert "\n" not in str(found.value)


def test_what_is_public_of_a_named_data_set_is_what_its_loader_says() -> None:
    loaded, known = datasets.of_job(job()), public_of(job())
    assert (known.features, known.classes) == (loaded.features, loaded.classes)
    assert (known.ranges == loaded.ranges).all()


@pytest.mark.parametrize(
    "changed",
    [
        {"simulation": {"dropout": 0.1}},
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
