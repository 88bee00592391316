"""A job's code in a child at one party of a run: where it fails, its party drops out of the round and is in the next."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from trained import SITES, entropy, job, rows
from wired import LIMIT, Lines, wired

from protocols.policy import MemoryJournal
from securefl.attending import Attending
from securefl.serving import Serving
from securefl.shared_job import SharedJob, run_name
from securefl.transport.link import Link
from securefl.usercode.isolation import Isolation
from securefl.usercode.remote import trainer_of

CODE = """
import os
from torch import nn
from securefl import ClientTrainer

class Leaving(ClientTrainer):
    def train(self, model, data, training, steps):
        if not any(p.any() for p in model.parameters()):
            os._exit(1)
        super().train(model, data, training, steps)

def build():
    model = nn.Linear(30, 1)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model, Leaving()
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_party_whose_code_fails_drops_out_and_is_in_the_next_round(tmp_path: Path) -> None:
    some = job(protocol="secagg", rounds=2)
    notices = list[str]()
    code = trainer_of({"leaving.py": CODE}, "leaving:build", Isolation(), learning_rate=some.performance.learning_rate)

    async def run() -> Serving:
        async with wired(tmp_path, names=SITES) as net:
            shared, own_rows = SharedJob.of(some, net.hall.cohort), rows(some)
            net.hall.run, net.hall.job = run_name(shared.hash, entropy("run")), shared.hash
            attended, calls = list[Attending](), list[asyncio.Future[object]]()
            for name in SITES:
                credentials = net.link(name)._credentials
                assert credentials.identity is not None
                own = {"code": code, "notices": notices.append} if name == "b" else {}
                one = Attending(some, name, credentials.identity, MemoryJournal(), own_rows[name], entropy=entropy(name), **own)  # type: ignore[arg-type]
                link = Link(net.target, credentials, shared.hash, one, worker=net.worker, clock=net.clock, log=Lines())
                attended.append(one)
                calls.append(asyncio.ensure_future(link.attend(patience=LIMIT)))
            await net.present(3)
            serving = Serving(shared, net.hall)
            async with asyncio.timeout(2 * LIMIT):
                await serving.run(patience=0.0, on_round=lambda _record: setattr(serving, "_least", 3))
            net.hall.dismiss()
            assert [(await one).check for one in calls] == ["", "", ""]  # type: ignore[attr-defined]
            for one in attended:
                one.close()
            return serving

    serving = asyncio.run(run())
    assert notices == ["b drops out of this round: code-gone: the child of the job's code has ended"]
    assert [record.contributors for record in serving.records] == [2, 3]
    assert [record.aborted for record in serving.records] == [None, None]
    assert not code[0]._code._children  # type: ignore[attr-defined]
