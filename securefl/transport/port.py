"""The server's port: gRPC with mutual TLS, where the peer's certificate says who calls.

TLS lets in who has a certificate of a consortium that this port serves; the roster decides, at every call, who that is.  A port may
serve several federations: the caller's certificate decides which, as each consortium's roster speaks for its own certificates
alone.  Each federation has a server's certificate for a host name of its own, and the name that is called picks it.  Handlers are
coroutines: a waiting connection holds no thread.

What it does not protect: against a flood of connections; that is for the network in front.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocols.errors import Refused, require
from securefl.errors import UserError
from securefl.transport import desk_words
from securefl.transport.clock import Clock
from securefl.transport.envelope import MOST_UP
from securefl.transport.hall import Hall
from securefl.transport.log import Log
from securefl.transport.pki import Part
from securefl.transport.roster import Entry, SignedRoster, check_dates

if TYPE_CHECKING:
    from securefl.transport.desk import Desk

SERVICE, METHOD = "securefl.v1.Federation", "Attend"
CANNOT = "cannot listen on {}: the address is not this machine's, or the port is taken"
ALIVE = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
)
"""A peer that is gone without a word is found after 40 s at the latest, by either side."""
WINDOW = 1 << 20
"""Bytes that gRPC takes of a stream before they are asked for.

By itself it takes as many as the peer makes the line look long: one that answers pings late would have a server hold all it sends.
"""
LATER = {"net-shut": grpc.StatusCode.UNAVAILABLE, "net-full": grpc.StatusCode.RESOURCE_EXHAUSTED}
"""Checks after which a party calls again."""
OPTIONS = (
    *ALIVE,
    ("grpc.max_receive_message_length", MOST_UP),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_concurrent_streams", 4),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", WINDOW),
)


def refuse_taken(listen: str) -> None:
    """Refuse an address where nobody can listen: before anything is taken up that a server there may hold.

    Args:
        listen: HOST:PORT.

    Raises:
        UserError: the address is not this machine's, or the port is taken.
    """
    host, _, port = listen.rpartition(":")
    try:
        family, kind, _, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(where)
            trial.listen()
    except OSError:
        raise UserError(CANNOT.format(listen)) from None


class _Call:
    """A call as a `securefl.transport.hall.Stream`."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def read(self) -> Any:
        """The next message; `grpc.aio.EOF` at the end."""
        return await self._context.read()

    async def write(self, message: bytes) -> None:
        """Send one."""
        await self._context.write(message)


P = TypeVar("P")
Places = Mapping[Callable[[], SignedRoster], P | None]
"""By the roster of a federation, where its members go; None where it is not open now."""


class Port:
    """A listening server.

    Args:
        listen: HOST:PORT; port 0 takes a free one.
        tls: private keys and certificates of the server, as PEM.
        authorities: certificates of the consortia, as PEM.
        halls: who may be called here.
        rosters: of federations whose halls and desks open later (`open`, `open_desk`).
        desks: where bundles are handed in.
        clock: for the dates of certificates.
        log: for who was refused.

    Attributes:
        port: the number, once it is started.
    """

    def __init__(
        self,
        listen: str,
        tls: Sequence[tuple[bytes, bytes]],
        authorities: Sequence[bytes],
        halls: Sequence[Hall] = (),
        *,
        clock: Clock,
        log: Log,
        rosters: Sequence[Callable[[], SignedRoster]] = (),
        desks: Sequence[Desk] = (),
    ) -> None:
        self._listen, self._clock, self._log = listen, clock, log
        self._halls: dict[Callable[[], SignedRoster], Hall | None] = dict.fromkeys(rosters)
        self._desks: dict[Callable[[], SignedRoster], Desk | None] = dict.fromkeys(rosters)
        for hall in halls:
            self.open(hall)
        for desk in desks:
            self.open_desk(desk)
        self._credentials = grpc.ssl_server_credentials([*tls], root_certificates=b"".join(authorities), require_client_auth=True)
        self._server: Any = None
        self.port = 0

    async def start(self) -> None:
        """Listen.

        Raises:
            UserError: where that cannot be, such as on a port that is taken.
        """
        self._server = grpc.aio.server(options=OPTIONS)
        attended = grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.stream_stream_rpc_method_handler(self._attend)})
        asked = grpc.unary_unary_rpc_method_handler(self._ask)
        desk = grpc.method_handlers_generic_handler(desk_words.SERVICE, {desk_words.METHOD: asked})
        self._server.add_generic_rpc_handlers([*([attended] if self._halls else []), *([desk] if self._desks else [])])
        try:
            self.port = self._server.add_secure_port(self._listen, self._credentials)
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise UserError(CANNOT.format(self._listen))
        await self._server.start()

    def open(self, hall: Hall) -> None:
        """Calls of the parties on this hall's roster go there from now on."""
        self._halls[hall.roster] = hall

    def shut(self, hall: Hall) -> None:
        """They do so no more: who calls is told to try again later."""
        self._halls[hall.roster] = None

    def open_desk(self, desk: Desk) -> None:
        """What members on this desk's roster ask goes there from now on."""
        self._desks[desk.roster] = desk

    def shut_desk(self, desk: Desk) -> None:
        """It does so no more."""
        self._desks[desk.roster] = None

    async def stop(self, grace: float = 2.0) -> None:
        """Listen no more; streams get so many seconds to end."""
        if self._server is not None:
            await self._server.stop(grace)

    async def _attend(self, _messages: Any, context: Any) -> None:
        hall, entry = await self._admitted(context, self._halls, "party")
        try:
            await hall.attend(entry, _Call(context))
        except Refused as error:
            hall.log("refused", party=entry.name, check=error.check, detail=error.detail)
            await context.abort(LATER.get(error.check, grpc.StatusCode.FAILED_PRECONDITION), error.check)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except Exception as error:
            hall.log("failed", party=entry.name, error=type(error).__name__)
            raise

    async def _ask(self, data: bytes, context: Any) -> bytes:
        desk, entry = await self._admitted(context, self._desks, "party", "author")
        try:
            return await desk.serve(entry, data)
        except Exception as error:
            self._log("failed", party=entry.name, error=type(error).__name__)
            await context.abort(grpc.StatusCode.INTERNAL, "failed")  # what it was is the server's own business
            raise

    async def _admitted(self, context: Any, places: Places[P], *parts: Part) -> tuple[P, Entry]:
        """Who calls, and to which place it goes; who is refused hears why, and the call is over."""
        try:
            return self._member(context, places, *parts)
        except Refused as error:
            self._log("refused", party=error.sender, check=error.check, peer=context.peer())
            await context.abort(LATER.get(error.check, grpc.StatusCode.PERMISSION_DENIED), error.check)
            raise

    def _member(self, context: Any, places: Places[P], *parts: Part) -> tuple[P, Entry]:
        """Whose certificate the caller has, and to which place its consortium's members go."""
        found = context.auth_context().get("x509_pem_cert", [])
        require(found, "peer-unknown", "no certificate")
        certificate = x509.load_pem_x509_certificate(found[0])
        der = certificate.public_bytes(Encoding.DER)
        for roster, place in places.items():
            try:
                entry = roster().of_certificate(der)
            except Refused as error:
                if error.check == "peer-revoked":
                    raise
                continue
            check_dates(certificate, self._clock.utc())
            require(entry.part in parts, "peer-part", f"{entry.name} is a {entry.part}", sender=entry.name)
            if place is None:
                raise Refused("net-shut", "this federation is not open now", sender=entry.name)
            return place, entry
        raise Refused("peer-unknown", "a certificate that is on no roster here")
