"""Two federations on one server, for tests: their keys, their parties, and runs of a small job in each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from trained import SITES, entropy, job, rows
from wired import LIMIT, Jumping, Lines

from protocols.policy import MemoryJournal
from protocols.rand import fresh
from securefl import hosting
from securefl.attending import Attending
from securefl.federations import Federation
from securefl.hosting import Hosted
from securefl.job import Job
from securefl.transport import enrolment
from securefl.transport.clock import Clock, SystemClock
from securefl.transport.enrolment import Credentials
from securefl.transport.health import Health
from securefl.transport.link import OPTIONS, Ending, Link

BOTH = ("heart", "lung")


def host_of(tenant: str) -> str:
    """The name under which a federation is called."""
    return f"{tenant}.example"


def make(folder: Path, names: Sequence[str] = SITES) -> None:
    """Keys of two federations."""
    for tenant in BOTH:
        enrolment.make_all(folder / tenant, list(names), fresh, datetime.now(UTC), (host_of(tenant),))


class Calling(Link):
    """A party that calls a federation's name, wherever the port is."""

    host = ""

    def _channel(self) -> Any:
        key, certificate, authority = self._credentials.tls
        secure = grpc.ssl_channel_credentials(root_certificates=authority, private_key=key, certificate_chain=certificate)
        return grpc.aio.secure_channel(self._target, secure, options=(*OPTIONS, ("grpc.ssl_target_name_override", self.host)))


@dataclass
class Parties:
    """The parties of one federation's run, all in this process."""

    folder: Path
    tenant: str
    target: str
    job: Job
    clock: Clock
    worker: ThreadPoolExecutor
    calls: list[asyncio.Future[Ending]] = field(default_factory=list)

    def call(self, names: Sequence[str] = SITES, patience: float = LIMIT) -> None:
        """They call, and go on calling."""
        own = rows(self.job)
        for name in names:
            credentials = Credentials.load(self.folder / self.tenant / name, "party")
            assert credentials.identity is not None
            site = Attending(self.job, name, credentials.identity, MemoryJournal(), own[name], entropy=entropy(name))
            link = Calling(self.target, credentials, site.hash, site, worker=self.worker, clock=self.clock, log=Lines())
            link.host = host_of(self.tenant)
            self.calls.append(asyncio.ensure_future(link.attend(patience=patience)))

    async def ended(self) -> list[str]:
        """Why each was sent away, or the name of its error; empty where the run is done."""
        async with asyncio.timeout(2 * LIMIT):
            found = await asyncio.gather(*self.calls, return_exceptions=True)
        return [type(one).__name__ if isinstance(one, BaseException) else one.check for one in found]


@dataclass
class Server:
    """Two federations under way in this process."""

    folder: Path
    clock: Jumping
    logs: dict[str, Lines]
    hosted: list[Hosted]
    health: Health
    parties: dict[str, Parties]
    task: asyncio.Future[int]

    async def said(self, tenant: str, event: str, count: int = 1) -> dict[str, Any]:
        """The line of a federation's log about an event, for the so-manieth time."""
        async with asyncio.timeout(2 * LIMIT):
            while len(found := self.logs[tenant].of(event)) < count and not self.task.done():
                await asyncio.sleep(0.01)
        assert len(found) >= count, self.logs[tenant].events
        return found[count - 1]


def federation(folder: Path, tenant: str, **changed: Any) -> Federation:
    """With places of its own."""
    own = folder / tenant
    (own / "server").mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "job": job(rounds=3),
        "bundle": None,
        "credentials": Credentials.load(own / "server", "server"),
        "listen": "127.0.0.1:0",
        "store": f"sqlite:///{own / 'server.db'}",
        "models": str(own / "models"),
        "out": own / "out",
        "restarts": 3,
    }
    return Federation(tenant, **about | changed)


@contextmanager
def server(folder: Path, **changed: dict[str, Any]) -> Iterator[Server]:
    """Both federations, opened; their parties have not called yet."""
    if not (folder / BOTH[0]).exists():
        make(folder)
    clock, logs, health = Jumping(), {name: Lines() for name in ("", *BOTH)}, Health(BOTH)
    found = [federation(folder, tenant, **changed.get(tenant, {})) for tenant in BOTH]
    hosted = [Hosted(one, clock=clock, log=logs[one.name], told={}) for one in found]
    task = asyncio.ensure_future(hosting.host(hosted, health, clock, logs[""]))
    with ThreadPoolExecutor(1) as worker:
        parties = {one.name: Parties(folder, one.name, "", one.job, SystemClock(), worker) for one in found}
        try:
            yield Server(folder, clock, logs, hosted, health, parties, task)
        finally:
            task.cancel()


async def listening(there: Server) -> None:
    """Until the port is there; parties know it from then on."""
    async with asyncio.timeout(LIMIT):
        while not all(hasattr(one, "port") for one in there.hosted):
            assert not there.task.done(), there.task.result()
            await asyncio.sleep(0.01)
    for one in there.hosted:
        there.parties[one.federation.name].target = f"127.0.0.1:{one.port.port}"
