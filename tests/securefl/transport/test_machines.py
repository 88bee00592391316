"""What goes wrong with machines rather than programs: links, clocks, disks.  The sum is that of who is left, and nothing hangs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from machines import LIMIT, NAMES, Machines, commanded, soak
from network_processes import Process, processes
from tenants import Parties, make
from test_federations import PLAIN
from trained import job

from securefl.transport.clock import SystemClock


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
