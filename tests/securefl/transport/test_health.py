"""gRPC health checks: the bytes of its specification, and what a server says of itself while it comes and goes."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from network_processes import Process, processes
from wired import LIMIT, channel, tls_of

from securefl.errors import UserError
from securefl.job import Job
from securefl.shared_job import job_hash
from securefl.transport.envelope import FROM_SERVER, WIRE, Convene, Dismiss, Hello, Ready, control, read
from securefl.transport.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Health, answer, asked
from securefl.transport.port import METHOD, SERVICE


def encoded(name: str) -> bytes:
    """``HealthCheckRequest { string service = 1; }``: field 1, wire type 2, a length, the name; the empty name is left out."""
    body = name.encode()
    return b"\x0a" + bytes([len(body)]) + body if body else b""


def status(told: bytes) -> int:
    """``HealthCheckResponse { ServingStatus status = 1; }``: field 1, wire type 0, one byte."""
    assert told[:1] == b"\x08"
    assert len(told) == 2
    return told[1]


@given(st.text(max_size=25))
def test_a_request_is_read_as_the_specification_writes_it(name: str) -> None:
    assert asked(encoded(name)) == name


@given(st.binary(max_size=40))
def test_bytes_that_are_no_request_are_none(data: bytes) -> None:
    name = asked(data)
    assert name is None or data in (encoded(name), b"\x0a\x00")


def test_an_answer_is_as_the_specification_writes_it() -> None:
    assert [answer(code) for code in (SERVING, NOT_SERVING, SERVICE_UNKNOWN)] == [b"\x08\x01", b"\x08\x02", b"\x08\x03"]


async def check(line: Any, request: bytes) -> int | str:
    try:
        return status(await line.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=LIMIT))
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)


def test_it_says_what_is_served_when_asked_and_whenever_that_changes() -> None:
    async def run() -> None:
        health = Health(["heart"])
        port = await health.start("127.0.0.1:0")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as line, asyncio.timeout(LIMIT):
            asks = (encoded(""), encoded("heart"), encoded("none"), b"\x0a\x09short", bytes(1000))
            found = [await check(line, one) for one in asks]
            assert found == [NOT_SERVING, NOT_SERVING, "NOT_FOUND", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"]
            watches = {name: line.unary_stream("/grpc.health.v1.Health/Watch")(encoded(name)) for name in ("heart", "none")}
            seen = [status(await watches["heart"].read())]
            health.set("", serving=True)
            health.set("heart", serving=True)
            seen.append(status(await watches["heart"].read()))
            assert [await check(line, one) for one in asks[:2]] == [SERVING, SERVING]
            health.drain()
            seen.append(status(await watches["heart"].read()))
            assert seen == [NOT_SERVING, SERVING, NOT_SERVING]
            assert status(await watches["none"].read()) == SERVICE_UNKNOWN
            for watch in watches.values():
                watch.cancel()
        await health.stop()

    asyncio.run(run())


def test_an_address_where_nobody_can_listen_is_refused() -> None:
    async def run() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(UserError, match=f"cannot answer health checks on 127.0.0.1:{port}"):
                await Health().start(f"127.0.0.1:{port}")

    asyncio.run(run())


def ask(port: int, name: str = "") -> int:
    """One check from outside."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as line:
        return status(line.unary_unary("/grpc.health.v1.Health/Check")(encoded(name), timeout=LIMIT, wait_for_ready=True))


def test_a_server_that_is_told_to_stop_is_not_serving_while_its_round_comes_to_an_end(place: Path) -> None:
    """Parties sit down to a round and say nothing: the server is drained, and stops when the seconds for that are over."""

    async def sit_down(target: str) -> None:
        """Until the round has begun, and the server has been told to stop."""
        hello = control(Hello(WIRE, "test", job_hash(Job.load(place / "job.toml")), 0))
        authority = (place / "keys/server/ca.pem").read_bytes()
        async with AsyncExitStack() as stack, asyncio.timeout(LIMIT):
            streams = []
            for name in ("north", "south", "west"):
                line = await stack.enter_async_context(channel(target, authority, *tls_of(place / "keys" / name)))
                streams.append(line.stream_stream(f"/{SERVICE}/{METHOD}")())
                await streams[-1].write(hello)
                await streams[-1].read()
                await streams[-1].write(control(Ready()))
            assert isinstance(read(await streams[0].read(), FROM_SERVER), Convene)
            made[0].running.send_signal(signal.SIGTERM)
            while await asyncio.to_thread(ask, told["health"]) == SERVING:
                pass
            assert made[0].running.poll() is None
            while isinstance(data := await streams[0].read(), bytes):  # cut, not sent away: a party would call the next server
                assert not isinstance(read(data, FROM_SERVER), Dismiss)

    with processes() as made:
        own = ("--job", place / "job.toml", "--keys", place / "keys/server", "--listen", "127.0.0.1:0")
        made.append(Process("serve", *own, "--health", "127.0.0.1:0", "--drain", "4"))
        told = made[0].until("listening")
        assert ask(told["health"]) == SERVING
        asyncio.run(sit_down(f"localhost:{told['port']}"))
        assert made[0].end() == 143
        assert not any('"event": "round"' in line for line in made[0].lines)
