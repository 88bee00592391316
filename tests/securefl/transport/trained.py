"""A run of a job over gRPC on loopback, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from wired import LIMIT, Lines, Wired

from protocols.policy import MemoryJournal, Policy
from protocols.rand import Entropy, Rand, Seed
from securefl import data as datasets
from securefl.attending import Attending
from securefl.audit.tape import Tape
from securefl.experiment import prepared_features, split
from securefl.job import Job
from securefl.own_rows import OwnRows
from securefl.parties import Consortium
from securefl.privacy.budget import PartyLedger
from securefl.round_types import Fold
from securefl.scaling import from_ranges
from securefl.serving import Serving
from securefl.shared_job import SharedJob, run_name
from securefl.shared_scaling import Scaling
from securefl.timing import Gauge
from securefl.transport.link import Link

SITES = ("a", "b", "c")


def job(**privacy: Any) -> Job:
    tree = {
        "data": {"name": "breast-cancer", "clients": 3},
        "privacy": {"mechanism": "none", "rounds": 2, "local_steps": 2, **privacy},
    }
    return Job.parse(tree)


def entropy(name: str, *, after: int = 0) -> Entropy:
    """The same draws for a site, whoever runs it; without the first ones, which a sum before the rounds takes."""
    count = iter(range(after, 10**6))
    return lambda: Rand(Seed(f"{name} {next(count)}".encode().ljust(32, b".")))


def rows(some: Job) -> dict[str, OwnRows]:
    sites = datasets.of_job(some).sites
    return {name: OwnRows.of(some, site) for name, site in zip(SITES, sites, strict=True)}


def folds(some: Job) -> dict[str, tuple[Fold, ...]]:
    """Made ready as a simulation makes them."""
    dataset = datasets.of_job(some)
    parts, names = split(some, dataset), [site.name for site in dataset.sites]
    scaled = prepared_features(some, dataset, parts, Consortium.of(names, Policy()), Gauge(names))
    made = {site.name: OwnRows.of(some, site) for site in scaled.dataset.sites}
    return {name: own.folds(scaled.scalers[0]) for name, own in zip(SITES, made.values(), strict=True)}


def by_ranges(shared: SharedJob) -> NDArray[np.float32]:
    """What a server could say of the scaling."""
    scaler = from_ranges(shared.public.ranges)
    return Scaling.of(scaler, scaler.shift).values()


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
    own: dict[str, OwnRows] | None = None,
    entropies: Callable[[str], Entropy] = entropy,
    lines: dict[str, Lines] | None = None,
) -> tuple[SharedJob, dict[str, Attending], list[asyncio.Future[Any]]]:
    """All parties call; ``jobs`` are those of parties that have another one than the server, ``own`` is whose rows are whose."""
    shared = SharedJob.of(some, net.hall.cohort)
    net.hall.run, net.hall.job = run_name(shared.hash, entropy("run")), shared.hash
    attended, calls, have = dict[str, Attending](), list[asyncio.Future[Any]](), own or rows(some)
    for name in have:
        credentials = net.link(name)._credentials
        assert credentials.identity is not None
        attended[name] = Attending(
            (jobs or {}).get(name, some),
            name,
            credentials.identity,
            MemoryJournal(),
            have[name],
            ledger=(ledgers or {}).get(name),
            entropy=entropies(name),
            logs=None if record is None else record / "logs",
        )
        hash_told = shared.hash  # also by who has another job: what the server says is what it is held to
        about = {"worker": net.worker, "clock": net.clock, "log": (lines or {}).get(name) or Lines(), "beside": beside}
        link = Link(net.target, credentials, hash_told, attended[name], **about)  # type: ignore[arg-type]
        calls.append(asyncio.ensure_future(link.attend(patience=0.0)))
    return shared, attended, calls


async def train(net: Wired, some: Job, *, least: int | None = None, record: Path | None = None, **parties: Any) -> Trained:
    """A run of all parties, or of those that stay."""
    shared, attended, calls = start(net, some, record=record, **parties)
    if least is not None and least < len(attended):
        await asyncio.wait(calls, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
    await net.present(least or len(attended))
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
