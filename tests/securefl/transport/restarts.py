"""A server that is gone and another on its store, and parties that go on with their journals, for tests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from wired import LIMIT, Lines, wired

from protocols.policy import MemoryJournal
from securefl.attending import Attending
from securefl.job import Job
from securefl.keeping import Keeper, held_run
from securefl.own_rows import OwnRows
from securefl.serving import Serving
from securefl.shared_job import SharedJob
from securefl.store import Checkpoints, RunStore
from securefl.transport.link import Link


class Killed(BaseException):
    """The server is gone."""


class Federation:
    """A server's store and the parties' journals, which outlive servers."""

    def __init__(self, folder: Path, some: Job, own: dict[str, OwnRows]) -> None:
        self.folder, self.job, self.own = folder, some, own
        self.journals = {name: MemoryJournal() for name in own}

    def serve(self) -> Serving:
        """A server on the store, and all parties; until all is done or the server is gone."""

        async def run() -> Serving:
            async with wired(self.folder, names=tuple(self.own)) as net:
                shared = SharedJob.of(self.job, net.hall.cohort)
                store = RunStore(f"sqlite:///{self.folder / 'server.db'}", clock=net.clock.utc)
                held, _ = held_run(store, shared)
                net.hall.run, net.hall.job = held.run, shared.hash
                serving = Serving(shared, net.hall, keeper=Keeper(held, Checkpoints(str(self.folder / "models"))))
                calls = list[asyncio.Future[Any]]()
                for name, own in self.own.items():
                    keys = net.link(name)._credentials
                    assert keys.identity is not None
                    party = Attending(self.job, name, keys.identity, self.journals[name], own)
                    link = Link(net.target, keys, shared.hash, party, worker=net.worker, clock=net.clock, log=Lines())
                    calls.append(asyncio.ensure_future(link.attend(patience=0.0)))
                try:
                    await net.present(len(self.own))
                    async with asyncio.timeout(2 * LIMIT):
                        await serving.run(patience=0.0)
                finally:
                    net.hall.dismiss()
                    for call in calls:
                        call.cancel()
                    await asyncio.gather(*calls, return_exceptions=True)
                return serving

        return asyncio.run(run())

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Rows of a table of the store."""
        with RunStore(f"sqlite:///{self.folder / 'server.db'}", clock=lambda: None) as store:  # type: ignore[arg-type,return-value]
            return store.rows(table)

    def stages(self) -> list[tuple[str, str, int, str | None, bool]]:
        """Run, stage, attempt, outcome, and whether inputs were asked for."""
        return [tuple(r[k] for k in ("run", "stage", "attempt", "outcome", "inputs_asked")) for r in self.rows("stages")]  # type: ignore[misc]

    def spent(self) -> list[list[int]]:
        """By party, the numbers of the runs and stages whose inputs have left."""
        return [sorted(journal.spent.values()) for journal in self.journals.values()]
