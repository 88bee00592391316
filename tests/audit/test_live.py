"""Row 21 through a real port: every attack is refused by name; where the check is taken away, the attack is told as broken."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "securefl" / "transport"))

from network_processes import JOB, Process, processes
from wired import Wired, wired

from securefl.audit import live
from securefl.audit.live import Peer, Tried
from securefl.audit.verdict import Verdict
from securefl.cli import main
from securefl.errors import UserError
from securefl.transport import enrolment, hall, port
from securefl.transport.enrolment import Credentials


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that are reached sooner, at the server as in the attacks."""
    monkeypatch.setattr(hall, "GREETING", 1.0)
    monkeypatch.setattr(live, "PATIENCE", 3.0)
    monkeypatch.setattr(hall, "IDLE", 1 << 20)
    monkeypatch.setattr(live, "IDLE", 20)


def peer(net: Wired, *others: Path, job: bool = True) -> Peer:
    own = Credentials.load(net.folder / "a", "party")
    return Peer(net.target, own, net.adding.hash if job else None, others, clock=net.clock)


def played(tmp_path: Path, *, job: bool = True) -> list[Tried]:
    async def run() -> list[Tried]:
        async with wired(tmp_path) as net:
            enrolment.accept_roster(net.folder / "server", enrolment.revoke(net.folder / "operator", "b").document)
            return await live.play(peer(net, net.folder / "b", net.folder / "server", job=job))

    return asyncio.run(run())


@pytest.mark.usefixtures("small")
def test_every_attack_on_the_port_is_refused_and_the_server_goes_on(tmp_path: Path) -> None:
    found = {one.name: one.verdict for one in played(tmp_path)}
    assert list(found) == list(live.ATTACKS)
    assert {verdict.status for verdict in found.values()} == {"refused", "harmless"}, [
        part for v in found.values() if v.broken for part in (v.why, *v.parts)
    ]
    parts = [part for verdict in found.values() for part in verdict.parts]
    assert len(parts) == 3 + 2 + 4 + len(live.GARBAGE) + len(live.GARBAGE) + 1
    checks = {verdict.check for verdict in found.values()} | {word for part in parts for word in part.split()}
    assert {"net-greeting", "net-full", "net-wire", "net-job", "roster-older", "peer-revoked"} <= checks


@pytest.mark.usefixtures("small")
def test_without_a_job_what_lies_behind_the_greeting_is_not_tried(tmp_path: Path) -> None:
    found = [one.verdict.status for one in played(tmp_path, job=False)]
    assert found.count("not applicable") == 3
    assert not {"broken", "cannot tell"} & set(found)


def one(tmp_path: Path, attack: Callable[[Peer], Awaitable[Verdict]], *others: str) -> Verdict:
    """An attack by itself."""

    async def run() -> Verdict:
        async with wired(tmp_path) as net:
            if others:
                enrolment.accept_roster(net.folder / "server", enrolment.revoke(net.folder / "operator", "b").document)
            return await attack(peer(net, *(net.folder / name for name in others)))

    return asyncio.run(run())


@pytest.mark.usefixtures("small")
def test_control_a_check_that_is_taken_away_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these attacks then succeeds, and is told as broken."""
    require = hall.require
    lost = list[str]()

    def lax(condition: object, check: str, *about: object, **more: object) -> None:
        if check not in lost:
            require(condition, check, *about, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(hall, "require", lax)
    for check, attack in (
        ("net-wire", Peer.greetings),
        ("net-job", Peer.greetings),
        ("roster-older", Peer.greetings),
        ("net-flood", Peer.endless),
        ("net-full", Peer.crowd),
    ):
        lost[:] = [check]
        verdict = one(tmp_path / check, attack)
        assert verdict.status == "broken", (check, verdict)
    lost.clear()
    monkeypatch.setattr(hall, "GREETING", 60.0)
    assert one(tmp_path / "silence", Peer.silence).why == "unavailable: the server neither answers nor ends the stream"


@pytest.mark.usefixtures("small")
def test_control_a_roster_that_is_not_asked_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revoked party comes in."""
    assert one(tmp_path / "held", Peer.shut_out, "b").check == "peer-revoked"

    async def run() -> Verdict:
        async with wired(tmp_path / "lax") as net:
            entry = net.hall.members.parties[1]
            monkeypatch.setattr(port.Port, "_member", lambda *_: (net.hall, entry))
            return await Peer.shut_out(peer(net, net.folder / "b"))

    assert asyncio.run(run()).status == "broken"


@pytest.mark.parametrize("cut", [0, 2, live.CALLS - 1, live.CALLS])
def test_a_call_whose_reason_was_lost_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    """A server that refuses before the greeting is written is heard at last; one that says nothing else is told so."""
    heard, calls = live.heard, list[str]()

    async def lossy(call: object, *messages: bytes) -> str:
        calls.append(await heard(call, *messages))
        return live.CUT if len(calls) <= cut else calls[-1]

    monkeypatch.setattr(live, "heard", lossy)
    verdict = one(tmp_path, Peer.shut_out, "b")
    assert len(calls) == min(cut + 1, live.CALLS)
    assert (verdict.status, verdict.check) == (("refused", "peer-revoked") if cut < live.CALLS else ("broken", ""))


@pytest.mark.usefixtures("small")
def test_a_server_that_is_gone_after_an_attack_is_told_as_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> list[Tried]:
        async with wired(tmp_path) as net:

            async def deadly(_peer: Peer) -> Verdict:
                await net.port.stop(0)
                return Verdict("refused", check="net-envelope")

            monkeypatch.setattr(live, "ATTACKS", {"deadly": deadly})
            return await live.play(peer(net))

    (found,) = asyncio.run(run())
    assert found.verdict.broken
    assert "no word for an honest party" in found.verdict.why


@pytest.mark.usefixtures("small")
def test_a_server_that_cannot_be_reached_is_not_audited(tmp_path: Path) -> None:
    async def run() -> None:
        async with wired(tmp_path) as net:
            await net.port.stop(0)
            await live.play(peer(net))

    with pytest.raises(UserError, match="cannot be reached, or does not know these keys"):
        asyncio.run(run())


def test_the_command_plays_on_a_real_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that runs a job; west, whose keys play, is revoked nowhere, and north of another consortium is shut out."""
    assert main(["keys", "try", str(tmp_path / "keys"), "north", "south", "west"]) == 0
    assert main(["keys", "try", str(tmp_path / "other"), "north", "south"]) == 0
    (tmp_path / "job.toml").write_text(JOB.format(rounds=1))
    own = ("--job", str(tmp_path / "job.toml"), "--keys", str(tmp_path / "keys/west"), "--refused", str(tmp_path / "other/north"))
    with processes() as made:
        made.append(Process("serve", "--job", tmp_path / "job.toml", "--keys", tmp_path / "keys/server", "--listen", "127.0.0.1:0"))
        target = f"localhost:{made[0].until('listening')['port']}"
        capsys.readouterr()
        assert main(["audit", "--live", target, *own, "--json"]) == 0
        tree = json.loads(capsys.readouterr().out)
        assert tree["passed"]
        assert [one["status"] for one in tree["attacks"]] == ["refused"] * 8 + ["harmless"]
        assert main(["audit", "--live", target, *own[2:4]]) == 0
        assert capsys.readouterr().out.count("not applicable:") == 4  # no keys that must be refused either
        made[0].running.send_signal(signal.SIGTERM)
        assert made[0].end() == 143
    assert main(["audit", "--live", target, *own]) == 2
    assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", [["--live", "h:1"], ["--keys", "k"], ["--live", "h:1", "--keys", "k", "secagg"], ["--refused", "k"]]
)
def test_options_that_do_not_belong_together_are_refused(capsys: pytest.CaptureFixture[str], line: list[str]) -> None:
    assert main(["audit", *line]) == 2
    assert "--live HOST:PORT and --keys DIR go together" in capsys.readouterr().err
