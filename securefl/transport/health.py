"""gRPC's health checking protocol, version 1, on an address of its own: whether a server takes calls, for whoever watches over it.

The service is ``grpc.health.v1.Health`` as its specification has it (https://grpc.io/docs/guides/health-checking).  Its two
messages have one field each, so their protobuf bytes are written here: a request is a name (field 1, a string), an answer a number
(field 1).  The empty name stands for the whole server, the others for its federations.

What it does not protect: like ``/metrics`` it speaks in clear to everybody who reaches it, as orchestrators that probe by gRPC have
no certificates.  It says which federations are open, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from securefl.errors import UserError

SERVICE = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
LONGEST = 256
"""Most bytes of a request."""


def answer(status: int) -> bytes:
    """``HealthCheckResponse`` with this status."""
    return bytes([0x08, status])


def asked(request: bytes) -> str | None:
    """The name in a ``HealthCheckRequest``; None for what is none."""
    if not request:
        return ""
    if len(request) < 2 or request[0] != 0x0A or request[1] >= 0x80 or len(request) != 2 + request[1]:
        return None
    try:
        return request[2:].decode()
    except UnicodeDecodeError:
        return None


class Health:
    """What is served.

    Args:
        names: of the federations, beside the whole server.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._status = dict.fromkeys(["", *names], NOT_SERVING)
        self._changed = asyncio.Event()
        self._server: Any = None

    def set(self, name: str, *, serving: bool) -> None:
        """Say so from now on."""
        self._status[name] = SERVING if serving else NOT_SERVING
        self._tell()

    def drain(self) -> None:
        """Nothing is served any more."""
        self._status = dict.fromkeys(self._status, NOT_SERVING)
        self._tell()

    async def start(self, listen: str) -> int:
        """Listen; gives the port.

        Raises:
            UserError: where nobody can listen there.
        """
        self._server = grpc.aio.server(options=(("grpc.max_receive_message_length", LONGEST), ("grpc.so_reuseport", 0)))
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError:
            port = 0
        if not port:
            raise UserError(f"cannot answer health checks on {listen}: the address is not this machine's, or the port is taken")
        await self._server.start()
        return int(port)

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            await self._server.stop(0)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _check(self, request: bytes, context: Any) -> bytes:
        status = self._status.get(await _name(request, context))
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such federation")
        return answer(status or NOT_SERVING)

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        name, told = await _name(request, context), None
        while True:
            changed, status = self._changed, self._status.get(name, SERVICE_UNKNOWN)
            if status != told:
                yield answer(status)
            told = status
            await changed.wait()


async def _name(request: bytes, context: Any) -> str:
    name = asked(request)
    if name is None:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no HealthCheckRequest")
    return name or ""
