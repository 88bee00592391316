"""A run of a job over gRPC on loopback, for tests."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wired import LIMIT, Lines, Wired

from protocols.policy import MemoryJournal
from protocols.rand import Entropy, Rand, Seed
from securefl import data as datasets
from securefl.attending import Attending
from securefl.audit.tape import Tape
from securefl.job import Job
from securefl.own_rows import own_folds
from securefl.privacy.budget import PartyLedger
from securefl.round import Fold
from securefl.serving import Serving
from securefl.shared_job import SharedJob, run_name
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
    lines: dict[str, Lines] | None = None,
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
        about = {"worker": net.worker, "clock": net.clock, "log": (lines or {}).get(name) or Lines(), "beside": beside}
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
