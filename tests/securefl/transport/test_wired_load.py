"""What slow, silent, many and large peers cost the others: a deadline, no thread, and one turn at a time."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import numpy as np
import pytest
from wired import LIMIT, NAMES, Wired, raw_among_honest, vector, wired

from protocols.session import client
from securefl.transport.envelope import FROM_SERVER, read
from securefl.transport.sitting import Sitting


def known(names: str, size: int = 50, max_abs: int = 1000) -> np.ndarray:
    return np.sum([vector(name, size, max_abs) for name in names], axis=0)


def threads() -> int:
    """Of this process."""
    return int(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Threads")))


def test_who_is_silent_is_a_dropout_when_the_steps_time_is_over(tmp_path: Path) -> None:
    """It has a seat and reads, and says nothing; by the injected clock its minute is over at once."""

    async def run() -> None:
        async with wired(tmp_path) as net:
            async with raw_among_honest(net) as (_stream, total, honest):
                async with asyncio.timeout(LIMIT):
                    while not arrived(net, 3):
                        await asyncio.sleep(0.01)
                    assert not total.done()  # it waits for the fourth
                    net.clock.jump(61.0)
                    found = await total
            assert (found.values == known("acd")).all()
            net.hall.dismiss()
            assert [(await one).check for one in honest] == [""] * 3

    asyncio.run(run())


def test_who_sends_a_byte_now_and_then_is_a_dropout_when_the_steps_time_is_over(tmp_path: Path) -> None:
    """Its message never ends; that it still sends gives it no more time, and nobody else waits longer."""

    async def run() -> None:
        async with wired(tmp_path) as net:
            async with raw_among_honest(net) as (stream, total, honest):

                async def trickle() -> None:
                    for at in range(100_000):
                        await stream.write(b"\x01\x01\x00\x00\x00" + bytes([at == 0]) + (b"\xc8" if at == 0 else b"\x00"))
                        sent.append(at)
                        await asyncio.sleep(0.02)

                sent = list[int]()
                slow = asyncio.ensure_future(trickle())
                async with asyncio.timeout(LIMIT):
                    while not arrived(net, 3) or len(sent) < 20:
                        await asyncio.sleep(0.01)
                    assert not total.done()
                    net.clock.jump(61.0)
                    found = await total
                slow.cancel()
                await asyncio.wait([slow])
            assert (found.values == known("acd")).all()
            net.hall.dismiss()
            assert [(await one).check for one in honest] == [""] * 3

    asyncio.run(run())


def arrived(net: Wired, count: int) -> bool:
    """Whether so many have advertised their keys."""
    sitting = net.hall._sitting
    states = () if sitting is None else sitting.session.remembers
    return any(len(getattr(state, "adverts", ())) == count for state in states)


def test_two_hundred_connections_that_say_nothing_hold_no_threads(tmp_path: Path) -> None:
    """Half of them with a certificate, half with a bare socket; a sum goes on beside them."""

    def connect(net: Wired, *, greets: bool) -> socket.socket:
        bare = socket.create_connection(("127.0.0.1", net.port.port), timeout=LIMIT)
        if not greets:
            return bare
        context = ssl.create_default_context(cafile=str(net.folder / "server" / "ca.pem"))
        context.load_cert_chain(net.folder / "a" / "tls.pem", net.folder / "a" / "tls.key")
        context.set_alpn_protocols(["h2"])
        return context.wrap_socket(bare, server_hostname="localhost")

    async def run() -> None:
        async with wired(tmp_path) as net:
            await net.total(names=NAMES)
            before = threads()
            idle = [await asyncio.to_thread(connect, net, greets=bool(at % 2)) for at in range(200)]
            assert threads() - before <= 16  # the pool of `asyncio.to_thread` among them
            calls = [asyncio.ensure_future(net.link(name).attend(patience=0.0)) for name in NAMES]
            await net.present(4)
            async with asyncio.timeout(LIMIT):
                assert ((await net.adding.open(net.hall, 1)).values == known("abcd")).all()
            net.hall.dismiss()
            await asyncio.gather(*calls)
            assert threads() - before <= 16
            for one in idle:
                one.close()

    asyncio.run(run())


@pytest.mark.parametrize("protocol", ["secagg", "kahe"])
def test_vectors_of_many_frames_come_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """One turn: never more than one vector under way, and of every other sender at most one frame is held."""
    most, held, size = [0], [0], 700_000
    give = Sitting._give

    async def watched(self: Sitting, fed: object) -> None:
        await give(self, fed)  # type: ignore[arg-type]
        if self.session.me.role == "server":
            most.append(len(self.session._intake._turns))
            held.append(max((len(one.chunk) for one in self._held.values()), default=0))

    monkeypatch.setattr(Sitting, "_give", watched)

    async def run() -> None:
        async with wired(tmp_path, protocol, size=size) as net:
            found, _ = await net.total()
            assert (found.values == known("abcd", size)).all()

    asyncio.run(run())
    assert max(most) == 1
    assert 0 < max(held) <= 1 << 20


def test_a_stream_that_is_replaced_by_the_same_partys_next_one_ends(tmp_path: Path) -> None:
    async def run() -> None:
        async with wired(tmp_path) as net:
            first = asyncio.ensure_future(net.link("a").attend(patience=0.0))
            await net.present(1)
            seat = net.hall.seats["a"]
            others = [asyncio.ensure_future(net.link(name).attend(patience=60.0)) for name in NAMES]
            async with asyncio.timeout(LIMIT):
                while net.hall.seats.get("a") is seat or len(net.hall.seats) < 4:
                    await asyncio.sleep(0.01)
                assert [(line["party"], line["how"]) for line in net.log.of("gone")][:1] == [("a", "replaced")]
                first.cancel()
                await asyncio.wait([first])
                found = await net.adding.open(net.hall, 1)
            assert found.contributors >= 3
            net.hall.dismiss()
            await asyncio.gather(*others, return_exceptions=True)

    asyncio.run(run())


def test_a_party_that_comes_back_is_in_the_next_sum(tmp_path: Path) -> None:
    """Cut in the first sum, there again in the second: the sums are over three, and over four."""

    async def run() -> None:
        async with wired(tmp_path, sums=2) as net:
            honest = [asyncio.ensure_future(net.link(name).attend(patience=0.0)) for name in "acd"]
            lost = asyncio.ensure_future(net.link("b", stage="Masked").attend(patience=0.0))
            await net.present(4)
            async with asyncio.timeout(LIMIT):
                assert ((await net.adding.open(net.hall, 1)).values == known("acd")).all()
                await asyncio.wait([lost])
                again = asyncio.ensure_future(net.link("b").attend(patience=0.0))
                await net.present(4)
                assert ((await net.adding.open(net.hall, 2)).values == -known("abcd")).all()
            net.hall.dismiss()
            assert [(await one).check for one in [*honest, again]] == [""] * 4

    asyncio.run(run())


def test_a_party_whose_stream_is_cut_calls_again(tmp_path: Path) -> None:
    """Cut by the server between two sums, long after it called, with no patience for a server that is out of reach."""

    async def run() -> None:
        async with wired(tmp_path, sums=2) as net:
            calls = [asyncio.ensure_future(net.link(name).attend(patience=5.0)) for name in NAMES]
            await net.present(4)
            async with asyncio.timeout(LIMIT):
                await net.adding.open(net.hall, 1)
                net.clock.jump(3600.0)
                seat = net.hall.seats["b"]
                seat.left.set()
                while net.hall.seats.get("b", seat) is seat:
                    await asyncio.sleep(0.01)
                assert ((await net.adding.open(net.hall, 2)).values == -known("abcd")).all()
            net.hall.dismiss()
            assert [(await one).check for one in calls] == [""] * 4

    asyncio.run(run())


def test_a_sitting_forgets_what_waits_when_it_is_closed(tmp_path: Path) -> None:
    """Nobody waits for ever for a sum that is over."""

    async def run() -> None:
        async with wired(tmp_path) as net:
            terms = net.adding.terms(net.hall.cohort, net.hall.run, 1)
            from protocols.sums import scheme, server_session

            session = server_session(scheme("secagg"), terms)
            sitting = Sitting(1, session, worker=net.worker, clock=net.clock, post=lambda *_: None)
            sitting.gone(client(1))
            sitting.close()
            async with asyncio.timeout(LIMIT):
                await sitting.outcome()
                await sitting.feed(client(2), read(b"\x01\x01\x00\x00\x00\x01rubbish", FROM_SERVER))  # type: ignore[arg-type]

    asyncio.run(run())
