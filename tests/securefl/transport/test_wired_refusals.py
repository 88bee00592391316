"""Who is refused at the port, and what is refused on a stream: the sender is named, and the others go on."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from wired import LIMIT, NAMES, Tls, Wired, channel, hello, raw_among_honest, tls_of, vector, wired

from protocols.errors import Refused
from protocols.policy import MemoryJournal
from protocols.rand import fresh
from protocols.wire import FRAME
from securefl.audit.live import CALLS, CUT
from securefl.transport import enrolment, hall, port
from securefl.transport.enrolment import Credentials, RosterFile
from securefl.transport.envelope import FROM_SERVER, WIRE, Adjourn, Convene, Dismiss, Hello, Ready, Welcome, control, read
from securefl.transport.port import METHOD, SERVICE, Port
from securefl.transport.sums import Adder, Adding


async def end_of(stream: Any) -> str:
    """Why a stream is over that gives no message any more."""
    async with asyncio.timeout(LIMIT):
        try:
            assert not isinstance(await stream.read(), bytes)
            return str(await stream.details() or (await stream.code()).name)
        except grpc.aio.AioRpcError as error:
            return "no handshake" if error.code() is grpc.StatusCode.UNAVAILABLE else str(error.details())


async def call(net: Wired, own: Tls, *messages: bytes, target: str = "") -> str:
    """What a call with these messages comes to: ``welcome``, a check that refuses it, or gRPC's word for it.

    Who is refused while it still writes may not hear why, and calls again.
    """
    for _ in range(CALLS):
        found = await call_once(target or net.target, net.authority, own, *messages)
        if found != CUT:
            return found
    return CUT


async def call_once(target: str, authority: bytes, own: Tls, *messages: bytes) -> str:
    async with asyncio.timeout(LIMIT), channel(target, authority, *own) as line:
        stream = line.stream_stream(f"/{SERVICE}/{METHOD}")()
        try:
            for message in messages:
                await stream.write(message)
            found = await stream.read()
        except grpc.aio.AioRpcError:
            found = None
        if not isinstance(found, bytes):
            return await end_of(stream)
        told = read(found, FROM_SERVER)
        return told.check if isinstance(told, Dismiss) else type(told).__name__.lower()


async def outcome(tmp_path: Path, own: Callable[[Wired], Tls], **options: Any) -> str:
    async with wired(tmp_path, **options) as net:
        return await call(net, own(net), hello(net))


def test_who_has_a_certificate_of_the_roster_is_let_in(tmp_path: Path) -> None:
    assert asyncio.run(outcome(tmp_path, lambda net: tls_of(net.folder / "a"))) == "welcome"


def test_no_certificate_is_refused_by_the_handshake(tmp_path: Path) -> None:
    assert asyncio.run(outcome(tmp_path, lambda _: (None, None))) == "no handshake"


def test_without_tls_nobody_is_heard(tmp_path: Path) -> None:
    async def run() -> str:
        async with wired(tmp_path) as net, grpc.aio.insecure_channel(net.target) as line:
            stream = line.stream_stream(f"/{SERVICE}/{METHOD}")()
            try:
                await stream.write(hello(net))
                return str(await stream.read())
            except grpc.aio.AioRpcError as error:
                return error.code().name

    assert asyncio.run(run()) == "UNAVAILABLE"


def test_an_expired_certificate_is_refused_by_the_handshake(tmp_path: Path) -> None:
    """Made long ago, for everybody but the server."""

    async def run() -> str:
        async with wired(tmp_path) as net:
            asked = enrolment.read(enrolment.request(net.folder / "a", "a", fresh))
            answer = enrolment.issue(net.folder / "operator", asked, datetime.now(UTC) - timedelta(days=91))
            enrolment.accept(net.folder / "a", answer)
            enrolment.accept_roster(net.folder / "server", (net.folder / "operator" / "roster.cbor").read_bytes())
            return await call(net, tls_of(net.folder / "a"), hello(net))

    assert asyncio.run(run()) == "no handshake"


def test_a_certificate_is_over_by_the_servers_own_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(outcome(tmp_path, lambda net: tls_of(net.folder / "a"), clock_days=91)) == "peer-expired"
    monkeypatch.setattr(port, "check_dates", lambda *_: None)
    assert asyncio.run(outcome(tmp_path, lambda net: tls_of(net.folder / "a"), clock_days=91)) == "welcome"


def test_a_certificate_is_renewed_under_a_running_server_and_the_old_one_is_good_beside_it(tmp_path: Path) -> None:
    """Before the server has the new roster it does not know the new certificate."""

    async def run() -> list[str]:
        async with wired(tmp_path) as net:
            own = net.folder / "a"
            old = tls_of(own)
            asked = enrolment.read(enrolment.request(own, "a", fresh))
            enrolment.accept(own, enrolment.issue(net.folder / "operator", asked, datetime.now(UTC)))
            assert tls_of(own) != old
            found = [await call(net, tls_of(own), hello(net))]
            enrolment.accept_roster(net.folder / "server", (net.folder / "operator" / "roster.cbor").read_bytes())
            return [*found, await call(net, tls_of(own), hello(net)), await call(net, old, hello(net))]

    assert asyncio.run(run()) == ["peer-unknown", "welcome", "welcome"]


def test_who_is_revoked_is_refused_at_the_next_call(tmp_path: Path) -> None:
    """The roster that the operator hands to a running server counts at once; without it the same call goes through."""

    async def run() -> list[str]:
        async with wired(tmp_path) as net:
            before = await call(net, tls_of(net.folder / "b"), hello(net))
            new = enrolment.revoke(net.folder / "operator", "b")
            unchanged = await call(net, tls_of(net.folder / "b"), hello(net))
            enrolment.accept_roster(net.folder / "server", new.document)
            found = [before, unchanged, await call(net, tls_of(net.folder / "b"), hello(net))]
            assert net.log.of("refused")[-1] == net.log.of("refused")[-1] | {"party": "b", "check": "peer-revoked"}
            return [*found, await call(net, tls_of(net.folder / "a"), hello(net))]

    assert asyncio.run(run()) == ["welcome", "welcome", "peer-revoked", "welcome"]


def test_who_is_revoked_while_it_is_seated_is_sent_away_before_the_next_sum(tmp_path: Path) -> None:
    async def run() -> None:
        async with wired(tmp_path) as net:
            calls = [asyncio.ensure_future(net.link(name).attend(patience=0.0)) for name in NAMES]
            await net.present(4)
            new = enrolment.revoke(net.folder / "operator", "b")
            enrolment.accept_roster(net.folder / "server", new.document)
            found = await net.adding.open(net.hall, 1)
            assert (found.values == sum(vector(n, 50, 1000) for n in "acd")).all()
            assert (await calls[1]).check == "peer-revoked"
            net.hall.dismiss()
            assert [(await calls[at]).check for at in (0, 2, 3)] == [""] * 3

    asyncio.run(run())


def test_a_certificate_of_this_consortium_that_is_not_on_the_roster_is_refused(tmp_path: Path) -> None:
    async def run() -> list[str]:
        async with wired(tmp_path) as net:
            asked = enrolment.read(enrolment.request(net.folder / "e", "e", fresh))
            enrolment.accept(net.folder / "e", enrolment.issue(net.folder / "operator", asked, datetime.now(UTC)))
            first = await call(net, tls_of(net.folder / "e"), hello(net))
            enrolment.accept_roster(net.folder / "server", (net.folder / "operator" / "roster.cbor").read_bytes())
            return [first, await call(net, tls_of(net.folder / "e"), hello(net))]

    assert asyncio.run(run()) == ["peer-unknown", "net-uninvited"]


def test_another_consortiums_certificate_is_refused(tmp_path: Path) -> None:
    """By the handshake where the port does not serve that consortium, and by the roster where it does."""

    async def run() -> list[str]:
        async with wired(tmp_path) as net:
            other = tmp_path / "other"
            enrolment.make_all(other, list(NAMES), fresh, datetime.now(UTC), ("localhost",))
            found = [await call(net, tls_of(other / "a"), hello(net))]
            key, certificate, authority = Credentials.load(net.folder / "server", "server").tls
            both = [authority, (other / "server" / "ca.pem").read_bytes()]
            second = Port("127.0.0.1:0", [(key, certificate)], both, [net.hall], clock=net.clock, log=net.log)
            await second.start()
            found.append(await call(net, tls_of(other / "a"), hello(net), target=f"localhost:{second.port}"))
            await second.stop(0)
            theirs = Credentials.load(other / "server", "server")
            tenant = hall.Hall("run-2", net.adding.hash, RosterFile(theirs), worker=net.worker, clock=net.clock, log=net.log)
            third = Port("127.0.0.1:0", [(key, certificate)], both, [net.hall, tenant], clock=net.clock, log=net.log)
            await third.start()
            found.append(await call(net, tls_of(other / "a"), hello(net), target=f"localhost:{third.port}"))
            await third.stop(0)
            return found

    assert asyncio.run(run()) == ["no handshake", "peer-unknown", "welcome"]


def test_a_servers_certificate_is_no_partys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handshake refuses it by its purpose; where TLS did not look, `peer-part` would."""
    assert asyncio.run(outcome(tmp_path, lambda net: tls_of(net.folder / "server"))) == "no handshake"

    async def run() -> None:
        async with wired(tmp_path) as net:
            pem = (net.folder / "server" / "tls.pem").read_bytes()

            class Context:
                def auth_context(self) -> dict[str, list[bytes]]:
                    return {"x509_pem_cert": [pem]}

            with pytest.raises(Refused, match="peer-part"):
                net.port._member(Context(), net.port._halls, "party")
            with pytest.raises(Refused, match="peer-unknown"):
                net.port._member(type("Bare", (), {"auth_context": lambda _: {}})(), net.port._halls, "party")

    asyncio.run(run())


def test_a_party_does_not_talk_to_a_server_of_another_consortium_or_name(tmp_path: Path) -> None:
    async def run() -> list[str]:
        async with wired(tmp_path) as net:
            own = tls_of(net.folder / "a")
            found = [
                await call(net, own, hello(net)),
                await call(net, own, hello(net), target=net.target.replace("localhost", "127.0.0.2")),
            ]
            other = tmp_path / "other"
            enrolment.make_all(other, list(NAMES), fresh, datetime.now(UTC), ("localhost",))
            shutil.copy(other / "server" / "ca.pem", net.folder / "server" / "ca.pem")
            return [*found, await call(net, own, hello(net))]

    assert asyncio.run(run()) == ["welcome", "no handshake", "no handshake"]


@pytest.mark.parametrize(
    ("changed", "check"),
    [({"wire": WIRE + 1}, "net-wire"), ({"job": bytes(32)}, "net-job"), ({"roster": 99}, "roster-older"), ({}, "welcome")],
)
def test_a_greeting_that_does_not_fit_is_answered_with_the_reason(tmp_path: Path, changed: dict[str, Any], check: str) -> None:
    async def run() -> str:
        async with wired(tmp_path) as net:
            return await call(net, tls_of(net.folder / "a"), hello(net, **changed))

    assert asyncio.run(run()) == check


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"wire": WIRE - 1}, f"the server speaks wire {WIRE}, a wire {WIRE - 1}"),
        ({"wire": WIRE + 1}, f"the server speaks wire {WIRE}, a wire {WIRE + 1}"),
        ({"job": bytes(32)}, "the server runs job JOB under SecAgg_Ours, a comes with job 00000000"),
    ],
    ids=str,
)
def test_another_wire_and_another_job_are_refused_with_both_named(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    async def run() -> tuple[Any, str]:
        async with wired(tmp_path) as net, channel(net.target, net.authority, *tls_of(net.folder / "a")) as line:
            net.hall.suite = "SecAgg_Ours"
            stream = line.stream_stream(f"/{SERVICE}/{METHOD}")()
            await stream.write(hello(net, **changed))
            return read(await stream.read(), FROM_SERVER), net.adding.hash.hex()[:8]

    told, job = asyncio.run(run())
    assert isinstance(told, Dismiss)
    assert told.detail == says.replace("JOB", job)


GARBAGE = {
    "empty": b"",
    "unknown kind": b"\x07rubbish",
    "no CBOR": b"\x00\x04\x00\x00\x00\xff\xff\xff\xff",
    "too long a control message": b"\x00\xff\xff\xff\x7f",
    "no frame": b"\x01\x01\x00",
    "a second greeting": control(Hello(WIRE, "again", bytes(32), 0)),
    "too large a frame": b"\x01\x01\x00\x00\x00\x01" + bytes(FRAME + 1),
    "larger than gRPC takes": bytes(4 * FRAME),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_who_sends_garbage_is_named_and_the_others_go_on(tmp_path: Path, what: str) -> None:
    """In the place of its own advertisement, in the middle of a sum."""

    async def run() -> None:
        async with wired(tmp_path) as net:
            async with raw_among_honest(net) as (stream, total, honest):
                await stream.write(GARBAGE[what])
                async with asyncio.timeout(LIMIT):
                    found = await total
            assert (found.values == sum(vector(n, 50, 1000) for n in "acd")).all()
            net.hall.dismiss()
            assert [(await call).check for call in honest] == [""] * 3
            assert net.log.of("gone")[0]["party"] == "b"
            if what == "larger than gRPC takes":
                assert net.log.of("gone")[0]["how"] == "cut"
            else:
                assert net.log.of("refused")[0]["party"] == "b"
                assert net.log.of("refused")[0]["check"].startswith(("net-envelope", "wire-"))

    asyncio.run(run())


def test_who_sends_the_wrong_bytes_into_a_sum_is_expelled_by_its_session(tmp_path: Path) -> None:
    async def run() -> None:
        async with wired(tmp_path) as net:
            honest = [asyncio.ensure_future(net.link(name).attend(patience=0.0)) for name in "acd"]
            async with channel(net.target, net.authority, *tls_of(net.folder / "b")) as line:
                stream = line.stream_stream(f"/{SERVICE}/{METHOD}")()
                await stream.write(hello(net))
                await stream.read()
                await stream.write(control(Ready()))
                await net.present(4)
                total = asyncio.ensure_future(net.adding.open(net.hall, 1))
                await stream.read()
                await stream.write(b"\x01\x01\x00\x00\x00\x01" + b"\xff" * 100)
                async with asyncio.timeout(LIMIT):
                    found = await total
                assert found.contributors == 3
                fault = net.log.of("fault")[0]
                assert (fault["sender"], fault["check"]) == ("b", "wire-bound")
                net.hall.dismiss()
                assert [(await call).check for call in honest] == [""] * 3

    asyncio.run(run())


def test_who_says_nothing_or_too_much_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        monkeypatch.setattr(hall, "IDLE", 1 << 16)
        async with wired(tmp_path) as net:
            authority = (net.folder / "server" / "ca.pem").read_bytes()
            async with channel(net.target, authority, *tls_of(net.folder / "a")) as line:
                stream = line.stream_stream(f"/{SERVICE}/{METHOD}")()
                await asyncio.wait([asyncio.ensure_future(stream.initial_metadata())], timeout=0.5)
                net.clock.jump(hall.GREETING + 1)
                assert await end_of(stream) == "net-greeting"
                stream = line.stream_stream(f"/{SERVICE}/{METHOD}")()
                await stream.write(hello(net))
                assert isinstance(read(await stream.read(), FROM_SERVER), Welcome)
                await stream.write(control(Ready()))
                with suppress(grpc.aio.AioRpcError):
                    for _ in range(5):
                        await stream.write(b"\x01\x63\x00\x00\x00\x01" + bytes(1 << 14))
                assert await end_of(stream) == "net-flood"

    asyncio.run(run())


class Says:
    """A server that says what it should not, on a port of its own."""

    def __init__(self, *messages: bytes) -> None:
        self.messages = messages

    async def attend(self, _entry: object, stream: Any) -> None:
        await stream.read()
        for message in self.messages:
            await stream.write(message)
        await stream.read()


async def told(tmp_path: Path, make: Callable[[Wired], list[Any]]) -> str:
    """What a party makes of a server's words."""
    async with wired(tmp_path) as net:
        key, certificate, authority = Credentials.load(net.folder / "server", "server").tls
        says = Says(*(control(message) for message in make(net)))
        says.roster = net.hall.roster  # type: ignore[attr-defined]
        false = Port("127.0.0.1:0", [(key, certificate)], [authority], [says], clock=net.clock, log=net.log)  # type: ignore[list-item]
        await false.start()
        credentials = Credentials.load(net.folder / "a", "party")
        adder = Adder(Adding("secagg", 50, 1000), credentials, MemoryJournal(), lambda _: vector("a", 50, 1000))
        net.port.port = false.port
        try:
            async with asyncio.timeout(LIMIT):
                return (await net.link("a", attendant=adder).attend(patience=0.0)).check or "done"
        except Refused as error:
            return error.check
        finally:
            await false.stop(0)


def test_what_a_false_server_says_is_refused_by_the_party(tmp_path: Path) -> None:
    def welcome(net: Wired, **changed: Any) -> Welcome:
        return replace(Welcome(WIRE, "run-1", net.hall.members.document), **changed)

    def unsigned(net: Wired) -> bytes:
        whole = net.hall.members.document
        return whole[:-1] + bytes([whole[-1] ^ 1])

    def without_a(net: Wired) -> bytes:
        ours = enrolment.keyfiles.read_authority(net.folder / "operator")
        return net.hall.members.after(ours, [e for e in net.hall.members.entries if e.name != "a"]).document

    def older(net: Wired) -> bytes:
        ours = enrolment.keyfiles.read_authority(net.folder / "operator")
        made = enrolment.SignedRoster.make(ours, "trial", 2, net.hall.members.entries)
        return made.document

    cases: dict[str, Callable[[Wired], list[Any]]] = {
        "done": lambda net: [welcome(net), Dismiss("", "")],
        "net-wire": lambda net: [welcome(net, wire=WIRE + 1)],
        "roster-signature": lambda net: [welcome(net, roster=unsigned(net))],
        "roster-older": lambda net: [welcome(net, roster=older(net))],
        "net-member": lambda net: [welcome(net, roster=without_a(net))],
        "net-stage": lambda net: [welcome(net), Convene(1, "sum", 2, 0)],
        "net-envelope": lambda net: [Adjourn(1, "")],
    }
    for check, make in cases.items():
        assert asyncio.run(told(tmp_path / check, make)) == check
    assert asyncio.run(told(tmp_path / "again", lambda net: [welcome(net), Convene(1, "else", 1, 0)])) == "net-stage"
