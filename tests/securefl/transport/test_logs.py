"""What logs say: every line about a sum has its correlation id, at the server and at its parties; none has a secret."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from spelled import private, told
from trained import SITES, job, rows, start
from wired import LIMIT, Lines, raw_among_honest, wired

from protocols.rand import Secret
from securefl.apart import train_beside
from securefl.errors import UserError
from securefl.results import RoundRecord
from securefl.round import Contribution, Task
from securefl.serving import Serving
from securefl.transport.log import Correlated, correlation_id


def test_a_log_has_the_id_while_there_is_one() -> None:
    lines = Lines()
    log = Correlated(lines)
    assert Correlated.over(log) is log
    log("before")
    log.about = correlation_id("run", "round", 3, 1)
    log("within", party="a")
    log.about = None
    log("after", correlation_id="its own")
    assert lines.events == [
        {"event": "before"},
        {"event": "within", "correlation_id": "run/round/3.1", "party": "a"},
        {"event": "after", "correlation_id": "its own"},
    ]


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Every seed and key that is made in this process."""
    kept, make = set[bytes](), Secret.__init__

    def kept_too(self: Secret, raw: bytes) -> None:
        make(self, raw)
        if any(raw):  # a place that holds no secret yet
            kept.add(bytes(raw))

    monkeypatch.setattr(Secret, "__init__", kept_too)
    return kept


def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Lines, dict[str, Lines]]:
    """Three rounds; in the second the third party's training fails, and it is there no more."""

    def failing(task: Task) -> Contribution:
        if task.site.name == "c" and over:
            raise UserError("c: the loss is not finite")
        return train_beside(task)

    monkeypatch.setattr("securefl.attending.train_beside", failing)
    lines, over = {name: Lines() for name in SITES}, list[RoundRecord]()

    async def run() -> tuple[str, Lines]:
        async with wired(tmp_path, names=SITES) as net:
            shared, _, calls = start(net, job(rounds=3), lines=lines)
            await net.present(3)
            async with asyncio.timeout(LIMIT):
                await Serving(shared, net.hall).run(patience=0.0, on_round=over.append)
            net.hall.dismiss()
            await asyncio.gather(*calls, return_exceptions=True)
            return net.hall.run, net.log

    name, server = asyncio.run(run())
    assert [record.contributors for record in over] == [3, 2, 2]
    return name, server, lines


def test_every_line_about_a_sum_has_its_id_at_the_server_and_at_the_parties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, server, lines = ran(tmp_path, monkeypatch)
    ids = [f"{run}/scaling/1.0", *(f"{run}/round/{number}.0" for number in (1, 2, 3)), f"{run}/model/3.0"]
    convened = {name: [line["correlation_id"] for line in log.of("convened")] for name, log in lines.items()}
    assert convened == {"a": ids, "b": ids, "c": ids[:3]}
    assert [line["correlation_id"] for line in server.of("scaling") + server.of("round")] == ids[:4]
    (gone,) = [line for line in server.of("gone") if line["party"] == "c"]
    assert gone["correlation_id"] == ids[2]
    for line in server.of("calls") + server.of("seated") + server.of("waiting"):
        assert "correlation_id" not in line


def test_who_is_refused_in_a_sum_is_named_with_its_id(tmp_path: Path) -> None:
    async def run() -> tuple[str, Lines]:
        async with wired(tmp_path) as net:
            async with raw_among_honest(net) as (stream, total, honest):
                await stream.write(b"\x07rubbish")
                async with asyncio.timeout(LIMIT):
                    await total
            net.hall.dismiss()
            await asyncio.gather(*honest)
            return net.hall.run, net.log

    name, log = asyncio.run(run())
    (refused,) = log.of("refused")
    assert (refused["party"], refused["correlation_id"]) == ("b", f"{name}/sum/1.0")


def test_no_line_has_a_seed_a_key_or_a_value_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secrets: set[bytes]) -> None:
    """Control: the search finds what it looks for in any of its spellings."""
    _, server, lines = ran(tmp_path, monkeypatch)
    said = "\n".join(json.dumps(event) for log in (server, *lines.values()) for event in log.events)
    for folder in (tmp_path / "keys").iterdir():
        secrets |= private(folder)
    assert len(secrets) > 100
    assert not told(said, secrets)
    values = {repr(float(value)) for own in rows(job()).values() for value in own.site.x.ravel()}
    long = {value for value in values if len(value) > 6}
    assert len(long) > 100
    assert not {value for value in long if value in said}
    for secret in list(secrets)[:20]:
        for line in (json.dumps({"key": secret.hex()}), f"key {secret!r}", f"{[*secret]}", f"{int.from_bytes(secret, 'little')}"):
            assert told(line, [secret])
