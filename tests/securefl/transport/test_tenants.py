"""Several federations on one port: each party is in its own, whatever the others' operators, parties and steps do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from tenants import BOTH, Calling, host_of, make
from wired import LIMIT, NAMES, Jumping, Lines, tls_of, vector

from protocols.policy import MemoryJournal
from protocols.vector import Sum
from securefl.transport import enrolment, hall, keyfiles, roster
from securefl.transport.enrolment import Credentials, RosterFile
from securefl.transport.envelope import FROM_SERVER, WIRE, Dismiss, Hello, Ready, Welcome, control, read
from securefl.transport.hall import Hall, Limits
from securefl.transport.pki import fingerprint
from securefl.transport.port import METHOD, SERVICE, Port
from securefl.transport.sums import Adder, Adding

ADDING = Adding("secagg", 50, 1000, 8)


@dataclass
class House:
    """One port with a hall for each federation."""

    folder: Path
    halls: dict[str, Hall]
    logs: dict[str, Lines]
    port: Port
    clock: Jumping
    parties: ThreadPoolExecutor

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port.port}"

    def call(self, tenant: str, host: str = "") -> list[asyncio.Future[Any]]:
        """All parties of a federation."""
        made = []
        for name in NAMES:
            credentials, own = Credentials.load(self.folder / tenant / name, "party"), vector(name, 50, 1000)
            adder = Adder(ADDING, credentials, MemoryJournal(), lambda _, own=own: own)  # type: ignore[misc]
            about: dict[str, Any] = {"worker": self.parties, "clock": self.clock, "log": Lines()}
            link = Calling(self.target, credentials, ADDING.hash, adder, **about)
            link.host = host or host_of(tenant)
            made.append(asyncio.ensure_future(link.attend(patience=0.0)))
        return made

    async def seated(self, tenant: str, count: int = len(NAMES)) -> None:
        async with asyncio.timeout(LIMIT):
            while len(self.halls[tenant].seats) != count:
                await asyncio.sleep(0.01)

    async def sums(self, tenant: str, count: int = 3) -> list[Sum]:
        """Sums of all parties of a federation, and their end."""
        calls = self.call(tenant)
        await self.seated(tenant)
        async with asyncio.timeout(LIMIT):
            found = [await ADDING.open(self.halls[tenant], number) for number in range(1, count + 1)]
            self.halls[tenant].dismiss()
            assert [(await one).check for one in calls] == [""] * len(NAMES)
        return found

    async def raw(self, tenant: str, name: str, *messages: bytes, host: str = "", authority: str = "") -> str:
        """What a stream with a party's certificate comes to: ``welcome`` with the run, a check, or ``no handshake``."""
        stream, line = self.stream(tenant, name, host or host_of(tenant), authority or tenant)
        async with line, asyncio.timeout(LIMIT):
            try:
                for message in messages or (control(Hello(WIRE, "test", ADDING.hash, 0)),):
                    await stream.write(message)
                found = await stream.read()
            except grpc.aio.AioRpcError as error:
                return "no handshake" if error.code() is grpc.StatusCode.UNAVAILABLE else str(error.details())
            if not isinstance(found, bytes):
                return str(await stream.details())
            told = read(found, FROM_SERVER)
            return told.check if isinstance(told, Dismiss) else f"welcome to {told.run}" if isinstance(told, Welcome) else ""

    def stream(self, tenant: str, name: str, host: str, authority: str) -> tuple[Any, Any]:
        key, certificate = tls_of(self.folder / tenant / name)
        root = (self.folder / authority / "server" / "ca.pem").read_bytes()
        secure = grpc.ssl_channel_credentials(root_certificates=root, private_key=key, certificate_chain=certificate)
        options = (("grpc.ssl_target_name_override", host), ("grpc.use_local_subchannel_pool", 1))
        line = grpc.aio.secure_channel(self.target, secure, options=options)
        return line.stream_stream(f"/{SERVICE}/{METHOD}")(), line


@asynccontextmanager
async def house(folder: Path, *, shared: Executor | None = None, limits: Limits | None = None) -> AsyncIterator[House]:
    """Two federations that listen; with ``shared`` their sessions have one worker."""
    make(folder, NAMES)
    own = {name: Credentials.load(folder / name / "server", "server") for name in BOTH}
    clock, logs = Jumping(), {name: Lines() for name in ("", *BOTH)}
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second, ThreadPoolExecutor(1) as parties:
        halls = {
            name: Hall(
                f"run of {name}",
                ADDING.hash,
                RosterFile(own[name]),
                worker=shared or worker,
                clock=clock,
                log=logs[name],
                limits=limits or Limits(),
            )
            for name, worker in zip(BOTH, (first, second), strict=True)
        }
        tls = [own[name].tls for name in BOTH]
        port = Port("127.0.0.1:0", [one[:2] for one in tls], [one[2] for one in tls], [*halls.values()], clock=clock, log=logs[""])
        await port.start()
        try:
            yield House(folder, halls, logs, port, clock, parties)
        finally:
            for one in halls.values():
                one.dismiss()
            await port.stop(0)


def right(found: list[Sum], names: str = "abcd") -> bool:
    return all((one.values == sum(vector(name, 50, 1000) for name in names)).all() for one in found)


def test_two_federations_with_parties_of_the_same_names_sum_at_the_same_time(tmp_path: Path) -> None:
    async def run() -> None:
        async with house(tmp_path) as there:
            found = await asyncio.gather(*(there.sums(name) for name in BOTH))
            assert all(right(one) for one in found)
            calls = {name: {line["party"] for line in there.logs[name].of("calls")} for name in BOTH}
            assert calls == {name: set(NAMES) for name in BOTH}

    asyncio.run(run())


def test_the_name_that_is_called_picks_the_certificate_and_the_callers_own_picks_the_federation(tmp_path: Path) -> None:
    """A party trusts its own consortium's server; one that trusts the other's as well is in its own federation all the same."""

    async def run() -> None:
        async with house(tmp_path) as there:
            assert await there.raw("heart", "a") == "welcome to run of heart"
            assert await there.raw("heart", "a", host=host_of("lung")) == "no handshake"
            assert await there.raw("heart", "a", host=host_of("lung"), authority="lung") == "welcome to run of heart"
            assert await there.raw("lung", "a", host=host_of("heart"), authority="heart") == "welcome to run of lung"

    asyncio.run(run())


def listing(there: House, operator: str, name: str, whose: str, *, revoked: bool) -> None:
    """An operator puts another consortium's party on its own roster, as one of its own or as one that is revoked."""
    folder = there.folder / operator
    authority = keyfiles.read_authority(folder / "operator")
    before = keyfiles.read_roster(folder / "operator", authority.certificate)
    theirs = keyfiles.read_certificate(there.folder / whose / name / keyfiles.TLS_CERTIFICATE)
    stolen = roster.Entry("thief", "party", bytes(31) + b"\1", (fingerprint(theirs),), revoked)
    enrolment.accept_roster(folder / "server", before.after(authority, [*before.entries, stolen]).document)


@pytest.mark.parametrize("revoked", [False, True])
def test_an_operator_cannot_take_another_consortiums_party(tmp_path: Path, revoked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: where a roster may speak for certificates of others, the listed party is refused its own federation."""

    async def run() -> str:
        async with house(tmp_path) as there:
            listing(there, "heart", "b", "lung", revoked=revoked)
            return await there.raw("lung", "b")

    assert asyncio.run(run()) == "welcome to run of lung"
    monkeypatch.setattr(roster, "issued_by", lambda *_: True)
    make_again = tmp_path / "control"

    async def control_run() -> str:
        async with house(make_again) as there:
            listing(there, "heart", "b", "lung", revoked=revoked)
            return await there.raw("lung", "b")

    assert asyncio.run(control_run()) == ("peer-revoked" if revoked else "net-uninvited")


def test_a_revocation_is_of_one_federation(tmp_path: Path) -> None:
    async def run() -> None:
        async with house(tmp_path) as there:
            new = enrolment.revoke(tmp_path / "heart" / "operator", "b")
            enrolment.accept_roster(tmp_path / "heart" / "server", new.document)
            assert await there.raw("heart", "b") == "peer-revoked"
            assert await there.raw("lung", "b") == "welcome to run of lung"

    asyncio.run(run())


def test_who_calls_a_federation_that_is_shut_is_told_to_call_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with house(tmp_path) as there:
            there.port.shut(there.halls["heart"])
            stream, line = there.stream("heart", "a", host_of("heart"), "heart")
            async with line, asyncio.timeout(LIMIT):
                with suppress(grpc.aio.AioRpcError):
                    await stream.read()
                assert (await stream.code(), await stream.details()) == (grpc.StatusCode.UNAVAILABLE, "net-shut")
            assert right(await there.sums("lung", 1))
            there.port.open(there.halls["heart"])
            assert right(await there.sums("heart", 1))

    asyncio.run(run())


async def crowd(there: House, count: int) -> list[Any]:
    """One party with so many streams, each greeted and silent after that; those that are not refused."""
    kept = []
    for _ in range(count):
        stream, line = there.stream("heart", "a", host_of("heart"), "heart")
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await stream.write(control(Hello(WIRE, "test", ADDING.hash, 0)))
            if isinstance(await stream.read(), bytes):
                kept.append((stream, line))
                continue
        await line.close()
    return kept


def test_streams_of_one_party_and_of_one_federation_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First by the party's share, then by the federation's; the other federation's sums go on."""

    async def run(limits: Limits) -> tuple[int, set[str]]:
        async with house(tmp_path / str(limits.connections), limits=limits) as there:
            kept = await crowd(there, hall.STREAMS + 4)
            # By the server's word: a peer that is cut while it writes does not get to know why.
            why = {str(line["check"]) for name in ("", "heart") for line in there.logs[name].of("refused")}
            assert right(await there.sums("lung"))
            for stream, line in kept:
                stream.cancel()
                await line.close()
            async with asyncio.timeout(LIMIT):
                while there.halls["heart"]._streams.total():
                    await asyncio.sleep(0.01)
            assert right(await there.sums("heart", 1))  # they have room again
            return len(kept), why

    assert asyncio.run(run(Limits())) == (hall.STREAMS, {"net-full"})
    assert asyncio.run(run(Limits(connections=4))) == (4, {"net-full"})
    monkeypatch.setattr(hall, "STREAMS", 100)  # control: nothing is refused

    async def control_run() -> int:
        async with house(tmp_path / "control") as there:
            kept = await crowd(there, 20)
            for stream, line in kept:
                stream.cancel()
                await line.close()
            return len(kept)

    assert asyncio.run(control_run()) == 20


def test_one_federations_flood_does_not_stop_anothers_sums(tmp_path: Path) -> None:
    """Two parties send frames of no sum, and garbage, again and again, for as long as the other federation's sums go on."""

    async def run() -> None:
        async with house(tmp_path) as there:
            over = asyncio.Event()

            async def flood(name: str) -> int:
                times = 0
                while not over.is_set():
                    stream, line = there.stream("heart", name, host_of("heart"), "heart")
                    async with line:
                        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                            await stream.write(control(Hello(WIRE, "test", ADDING.hash, 0)))
                            await stream.read()
                            await stream.write(control(Ready()))
                            for _ in range(50):
                                await stream.write(b"\x01\x63\x00\x00\x00\x01" + bytes(1 << 16))
                            await stream.write(b"\x07rubbish")
                            times += not isinstance(await stream.read(), bytes)
                        stream.cancel()
                return times

            floods = [asyncio.ensure_future(flood(name)) for name in "ab"]
            async with asyncio.timeout(LIMIT):
                while not there.logs["heart"].of("refused"):
                    await asyncio.sleep(0.01)
            assert right(await there.sums("lung", 8))
            over.set()
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*floods)
            assert {line["check"] for line in there.logs["heart"].of("refused")} <= {"net-envelope", "net-greeting", "net-full"}
            assert not there.logs["lung"].of("refused")

    asyncio.run(run())


@pytest.mark.parametrize("apart", [True, False])
def test_a_step_that_does_not_end_holds_its_own_federation(tmp_path: Path, apart: bool) -> None:
    """Control: with one worker for both, it holds the other's as well."""

    async def run() -> None:
        stuck = threading.Event()
        with ThreadPoolExecutor(1) as one:
            async with house(tmp_path, shared=None if apart else one) as there:
                there.halls["heart"].worker.submit(stuck.wait)
                sums = asyncio.ensure_future(there.sums("lung", 1))
                try:
                    if apart:
                        assert right(await sums)
                    else:
                        await there.seated("lung")
                        await asyncio.wait([sums], timeout=2.0)
                        assert not sums.done()
                finally:
                    stuck.set()
                assert right(await sums)

    asyncio.run(run())


def test_a_party_that_reads_nothing_is_cut_off_when_too_many_bytes_wait_for_it() -> None:
    """The newest letter is let in whatever its size; what comes on top of too much is not kept."""
    from securefl.transport.envelope import Parcel

    seat = hall.Seat("a", 1000)
    seat.post(Parcel(1, (bytes(3000), bytes(1))))
    assert (seat.waits, seat.left.is_set()) == (3001, False)
    seat.post(b"more")
    assert (seat.waits, seat.left.is_set(), seat.outgoing.qsize()) == (3001, True, 1)

    async def reads() -> None:
        other = hall.Seat("b", 1000)
        for _ in range(100):
            other.post(Parcel(1, (bytes(3000),)))
            assert isinstance(await other.take(), Parcel)
        other.post(None)
        assert await other.take() is None
        assert (other.waits, other.left.is_set()) == (0, False)

    asyncio.run(reads())
