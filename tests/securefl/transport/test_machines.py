"""What goes wrong with machines rather than programs: links, clocks, disks.  The sum is that of who is left, and nothing hangs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from machines import LIMIT, NAMES, Machines, commanded, soak
from network_processes import Process, processes
from tenants import Parties, make
from test_federations import PLAIN
from trained import job
from wired import channel, tls_of

from protocols.sums import scheme
from securefl.transport.clock import SystemClock
from securefl.transport.envelope import FROM_SERVER, WIRE, Hello, Ready, Welcome, control, read
from securefl.transport.port import METHOD, SERVICE
from securefl.transport.sums import Adding


def free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def proxy(to: int) -> Iterator[tuple[Any, asyncio.AbstractEventLoop, int]]:
    """The proxy of tests/soak.py in a thread of its own."""
    script, there, over = soak(), Future[tuple[Any, asyncio.AbstractEventLoop, int]](), asyncio.Event()

    async def stand() -> None:
        made = script.Proxy(to)
        there.set_result((made, asyncio.get_running_loop(), await made.start()))
        await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(stand()))
    thread.start()
    made, loop, port = there.result(LIMIT)
    try:
        yield made, loop, port
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def test_a_party_whose_link_is_slow_is_in_and_one_whose_link_is_silent_is_left_out_until_it_is_not(tmp_path: Path) -> None:
    """Nothing is cut: what was sent arrives late, in a sum that is over."""
    with Machines(tmp_path) as made, proxy(port := free()) as (between, loop, front):
        between.delay = 0.1
        made.server(port)
        for name in NAMES:
            made.party(name, front if name == "d" else port)
        made.over(4)
        made.over(4)
        loop.call_soon_threadsafe(between.stall)
        made.over(3)
        loop.call_soon_threadsafe(between.go_on)
        made.over(4)


@pytest.mark.parametrize("protocol", ["secagg", "kahe"])
def test_a_party_process_that_is_killed_at_any_message_is_left_out_or_was_in_already(tmp_path: Path, protocol: str) -> None:
    """SIGKILL in the place of each of its messages, in the first sum that it is there for; then it is started again."""
    kinds = [kind.__name__ for kind in scheme(protocol).flow.messages("server")]
    vector = kinds.index("Masked" if protocol == "secagg" else "Enciphered")
    with Machines(tmp_path) as made:
        made.server(port := free(), protocol=protocol)
        for name in NAMES[:3]:
            made.party(name, port, protocol=protocol)
        made.over(3)
        for at, kind in enumerate(kinds):
            before = len(made.sums)
            dying = made.party("d", port, protocol=protocol, dies_before=kind)
            assert dying.wait(LIMIT) == -signal.SIGKILL
            if at > vector:
                made.over(4)
            made.until_number(made.sums[-1]["number"] + 4)
            found = [told["contributors"] for told in made.sums[before:] if "contributors" in told]
            assert found.count(4) == (at > vector), kind
            assert set(found) <= {3, 4}
        made.party("d", port, protocol=protocol)
        made.over(4)


def test_a_party_process_that_is_frozen_past_the_deadline_is_left_out_until_it_goes_on(tmp_path: Path) -> None:
    """SIGSTOP: its connection stays open.  What it then says is late, and it is in a later sum."""
    with Machines(tmp_path) as made:
        made.server(port := free())
        parties = [made.party(name, port) for name in NAMES]
        made.over(4)
        parties[3].send_signal(signal.SIGSTOP)
        made.over(3)
        parties[3].send_signal(signal.SIGCONT)
        made.over(4)


def test_connections_that_are_cut_are_made_again(tmp_path: Path) -> None:
    """Two of four, again and again, in the middle of whatever is under way."""
    with Machines(tmp_path) as made, proxy(port := free()) as (between, loop, front):
        made.server(port)
        parties = {name: made.party(name, front if name in "cd" else port) for name in NAMES}
        for _ in range(3):
            made.over(4)
            loop.call_soon_threadsafe(between.cut)
            for name in "cd":
                told = parties[name].stdout
                assert told is not None
                assert json.loads(told.readline())["status"] == "UNAVAILABLE"
        made.over(4)


def test_a_party_behind_an_outbound_proxy_is_in(tmp_path: Path) -> None:
    """gRPC asks the proxy of the environment for a tunnel; TLS goes through it to the server."""
    asked = list[str]()
    with Machines(tmp_path) as made, tunnels(asked) as outbound:
        made.server(port := free())
        for name in NAMES:
            made.party(name, port, env={"https_proxy": f"http://127.0.0.1:{outbound}", "no_proxy": ""} if name == "d" else {})
        made.over(4)
    assert asked
    assert set(asked) == {f"CONNECT localhost:{port} HTTP/1.1"}


@contextmanager
def tunnels(asked: list[str]) -> Iterator[int]:
    """An HTTP proxy that gives everybody a tunnel, and keeps what it is asked for."""

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        asked.append(head.partition("\r\n")[0])
        host, _, number = asked[-1].split()[1].rpartition(":")
        there, back = await asyncio.open_connection("127.0.0.1" if host == "localhost" else host, int(number))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(hand(reader, back), hand(there, writer))

    async def hand(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()

    async def stand() -> None:
        listening = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        there.set_result((asyncio.get_running_loop(), int(listening.sockets[0].getsockname()[1])))
        await over.wait()

    over, there = asyncio.Event(), Future[tuple[asyncio.AbstractEventLoop, int]]()
    thread = threading.Thread(target=lambda: asyncio.run(stand()))
    thread.start()
    loop, port = there.result(LIMIT)
    try:
        yield port
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()


def test_peers_that_send_without_end_or_too_much_at_once_cost_bounded_memory(tmp_path: Path) -> None:
    """By the server's largest resident memory; the sum of the others goes on."""

    async def send(folder: Path, port: int, piece: bytes) -> int:
        """From one of the roster, until it is cut off; bytes that were taken from it."""
        sent, authority = 0, (folder / "server" / "ca.pem").read_bytes()
        async with asyncio.timeout(LIMIT), channel(f"localhost:{port}", authority, *tls_of(folder / "d")) as line:
            stream = line.stream_stream(f"/{SERVICE}/{METHOD}")()
            await stream.write(control(Hello(WIRE, "test", Adding("secagg", 200, soak().MOST, soak().SUMS).hash, 0)))
            assert isinstance(read(await stream.read(), FROM_SERVER), Welcome)
            await stream.write(control(Ready()))
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                while True:
                    await stream.write(piece)
                    sent += len(piece)
        return sent

    def most(process: subprocess.Popen[str]) -> int:
        """Bytes: its largest resident memory so far."""
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))

    with Machines(tmp_path) as made:
        server = made.server(port := free())
        for name in NAMES[:3]:
            made.party(name, port)
        made.over(3)
        before = most(server)
        endless = asyncio.run(send(made.folder, port, b"\x01\xff\xff\xff\xff\x01" + bytes(1 << 20)))
        assert 32 << 20 < endless < 128 << 20  # it is cut off after 64 MiB, and some are under way
        asyncio.run(send(made.folder, port, bytes(256 << 20)))
        made.over(3)
        assert most(server) - before < 24 << 20


def namespaces() -> bool:
    """Whether network namespaces and links between them can be made here."""
    name = f"try-{os.getpid()}"
    able = commanded("ip", "netns", "add", name)
    able = able and commanded("ip", "-n", name, "link", "add", "one", "type", "veth", "peer", "name", "two")
    commanded("ip", "netns", "del", name)
    return able


@pytest.fixture
def two_networks() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a link between them: 10.77.0.1 and 10.77.0.2."""
    if not namespaces():
        pytest.skip("network namespaces cannot be made here: that needs iproute2 and root")
    here, there = f"here-{os.getpid()}", f"there-{os.getpid()}"
    try:
        for name in (here, there):
            subprocess.run(["ip", "netns", "add", name], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        subprocess.run(["ip", "-n", here, "link", "add", "near", "type", "veth", "peer", "name", "far", "netns", there], check=True)
        for name, end, own in ((here, "near", "10.77.0.1/24"), (there, "far", "10.77.0.2/24")):
            subprocess.run(["ip", "-n", name, "address", "add", own, "dev", end], check=True)
            subprocess.run(["ip", "-n", name, "link", "set", end, "up"], check=True)
        yield here, there
    finally:
        for name in (here, there):
            commanded("ip", "netns", "del", name)


def test_networks_that_are_parted_sum_without_each_other_and_together_again_afterwards(
    tmp_path: Path, two_networks: tuple[str, str]
) -> None:
    """The server and three parties in one network, the fourth in another; the link between them goes down and up again."""
    here, there = (("ip", "netns", "exec", name) for name in two_networks)

    def link(state: str) -> None:
        subprocess.run(["ip", "-n", two_networks[1], "link", "set", "far", state], check=True)

    with Machines(tmp_path, hosts=("localhost", "10.77.0.1")) as made:
        made.server(7443, "0.0.0.0", inside=here)  # noqa: S104  (in a network of its own)
        for name in NAMES[:3]:
            made.party(name, 7443, inside=here)
        made.party("d", 7443, "10.77.0.1", inside=there)
        made.over(4)
        link("down")
        made.over(3)
        made.over(3)
        link("up")
        made.over(4)


@pytest.mark.parametrize("how", ["netem delay 60ms loss 5%", "tbf rate 400kbit burst 4kb latency 300ms"])
def test_a_link_that_the_kernel_makes_slow_or_lossy_changes_no_sum(tmp_path: Path, two_networks: tuple[str, str], how: str) -> None:
    here, there = (("ip", "netns", "exec", name) for name in two_networks)
    if not commanded("tc", "-n", two_networks[1], "qdisc", "add", "dev", "far", "root", *how.split()):
        pytest.skip(f"tc qdisc add does not take {how.split(maxsplit=1)[0]} here")
    with Machines(tmp_path, hosts=("localhost", "10.77.0.1")) as made:
        made.server(7443, "0.0.0.0", inside=here)  # noqa: S104  (in a network of its own)
        for name in NAMES[:3]:
            made.party(name, 7443, inside=here)
        made.party("d", 7443, "10.77.0.1", inside=there)
        made.over(4)
        made.over(4)


def faketime() -> str:
    """Where libfaketime is."""
    found = [*Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")]
    return str(found[0]) if found else ""


def at(hours: float) -> dict[str, str]:
    """The environment of a process whose calendar is so far ahead; its monotonic clock is left alone."""
    return {"LD_PRELOAD": faketime(), "FAKETIME": f"{hours:+g}h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


needs_faketime = pytest.mark.skipif(not faketime(), reason="libfaketime is not installed here")


@needs_faketime
def test_calendars_that_are_an_hour_off_change_nothing_where_certificates_are_older(tmp_path: Path) -> None:
    with Machines(tmp_path, issued=timedelta(hours=2)) as made:
        made.server(port := free(), env=at(0))
        for name, hours in zip(NAMES, (1, -1, 0, 1), strict=True):
            made.party(name, port, env=at(hours))
        made.over(4)
        made.over(4)


@needs_faketime
def test_a_party_whose_calendar_says_that_certificates_are_not_good_is_left_out(tmp_path: Path) -> None:
    """An hour before they were made, or a hundred days after: it does not trust the server, and the others sum without it."""
    with Machines(tmp_path) as made:
        made.server(port := free())
        for name in NAMES[:3]:
            made.party(name, port)
        for hours in (-1, 2400):
            wrong = made.party("d", port, env=at(hours))
            assert wrong.stdout is not None
            assert json.loads(wrong.stdout.readline())["status"] == "UNAVAILABLE"
            made.over(3)
            assert not any(told.get("contributors") == 4 for told in made.sums)
            wrong.kill()
        made.party("d", port)  # by the right calendar
        made.over(4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if not commanded("mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(place)):
        pytest.skip("no file system can be mounted here: that needs root")
    try:
        yield place
    finally:
        commanded("umount", "-l", str(place))


def test_a_disk_that_is_full_under_a_running_server_costs_rounds_and_no_model(tmp_path: Path, small_disk: Path) -> None:
    """The server closes the federation, tries again, and goes on when there is room; what is on the disk is whole."""
    make(tmp_path)
    rounds = 20
    plain = PLAIN.replace("rounds = 2", f"rounds = {rounds}").replace("local_steps = 2", "local_steps = 1")
    (tmp_path / "job.toml").write_text(plain)
    own = f'job = "job.toml"\nkeys = "heart/server"\nmodels = "{small_disk}/models"\nout = "out"\nrestarts = 100\n'
    (tmp_path / "all.toml").write_text("[federation.heart]\n" + own)
    with processes() as made:
        made.append(Process("serve", "--federations", tmp_path / "all.toml", "--listen", "127.0.0.1:0"))
        told = made[0].until("listening")

        async def train() -> list[str]:
            with ThreadPoolExecutor(1) as worker:
                about = job(rounds=rounds, local_steps=1)
                parties = Parties(tmp_path, "heart", f"127.0.0.1:{told['port']}", about, SystemClock(), worker)
                parties.call()
                await asyncio.to_thread(made[0].until, "round")
                filler = small_disk / "filler"
                await asyncio.to_thread(fill, filler)
                failed = await asyncio.to_thread(made[0].until, "failed")
                assert "No space left on device" in failed["error"]
                filler.unlink()
                return await parties.ended()

        assert asyncio.run(train()) == [""] * 3
        assert made[0].end() == 0, made[0].lines
    records = json.loads((tmp_path / "out/metrics.json").read_text())["rounds"]
    finished = [one["number"] for one in records if one["aborted"] is None]
    assert {one["aborted"] for one in records} == {None, "round: lost"}
    assert {one["number"] for one in records} == {*range(1, rounds + 1)}
    assert 0 < len(finished) == len(set(finished)) < rounds
    kept = [*(small_disk / "models").iterdir()]
    assert len(kept) >= len(finished)
    for path in kept:
        assert path.name == f"{hashlib.sha256(path.read_bytes()).hexdigest()}.safetensors"


def fill(path: Path) -> None:
    """Until nothing more fits."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            return
