"""Row 21 on a server that runs: what hostile peers do at its port, and what it says to each.

Whoever has the keys of a party plays, beside those who have none.  After every attack the server is asked for a word, as an honest
party would: a port that gives none any more is broken.

The party whose keys play loses its seat while they do: take one that is not needed, or a server whose parties have not come yet.

What it does not show: floods of handshakes, which are for the network in front; memory and other parties' sums, which a peer does
not see (docs/reliability.md has the tests); messages of others, which TLS keeps from it; anything behind the port, which the
scripts on protocols play.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc

from protocols.rand import Entropy, fresh
from protocols.wire import FRAME
from securefl.audit.verdict import Verdict, broken, combine, inapplicable, unavailable
from securefl.errors import UserError, printable
from securefl.transport import enrolment, hall
from securefl.transport.clock import Clock
from securefl.transport.enrolment import Credentials
from securefl.transport.envelope import FROM_SERVER, MOST_DOWN, MOST_UP, WIRE, Dismiss, Hello, Ready, Welcome, control, read
from securefl.transport.port import METHOD, SERVICE

Tls = tuple[bytes | None, bytes | None]
"""Private key and certificate that a peer shows, as PEM."""
PATIENCE = 3 * hall.GREETING
"""Seconds within which the server must have said something, or ended a stream."""
IDLE = 200
"""Connections on which nothing is said."""
FIRST, ANY = b"\x01\x63\x00\x00\x00\x01", bytes(1 << 16)
GARBAGE = {
    "nothing": b"",
    "an unknown kind": b"\x07rubbish",
    "no CBOR": b"\x00\x04\x00\x00\x00\xff\xff\xff\xff",
    "an endless control message": b"\x00\xff\xff\xff\x7f",
    "a frame without bytes": b"\x01\x01\x00",
    "too large a frame": FIRST + bytes(FRAME + 1),
    "larger than the port takes": bytes(2 * MOST_UP),
}
HANDSHAKE = "the handshake"
CUT = "Internal error from Core"
"""What gRPC says to a peer whose stream was ended while it was writing: the server's reason is lost then."""
CALLS = 5
"""How often a call that was cut like that is made, at most."""
SHUT_OUT = {HANDSHAKE, "peer-unknown", "peer-revoked", "peer-expired", "peer-part", "net-uninvited", "net-job", "net-shut"}
"""What keeps out keys that are no party's of the run."""


@dataclass(frozen=True)
class Tried:
    """One attack on the port.

    Attributes:
        name: what was tried.
        verdict: what it came to.
        seconds: how long it took.
    """

    name: str
    verdict: Verdict
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"row": 21, "attack": self.name, "seconds": round(self.seconds, 2), **self.verdict.as_json()}


class Peer:
    """Somebody who calls a port as no honest party does.

    Args:
        target: HOST:PORT of the server.
        credentials: of a party, whose keys play.
        job: hash of its job; None: then what comes behind the greeting is not tried.
        others: folders of keys that the server must not welcome: revoked, over, of another federation.
        clock: for the certificates of a consortium of the peer's own.
        entropy: for its keys.
    """

    def __init__(
        self,
        target: str,
        credentials: Credentials,
        job: bytes | None,
        others: Sequence[Path] = (),
        *,
        clock: Clock,
        entropy: Entropy = fresh,
    ) -> None:
        self.target, self._credentials, self._job, self._others = target, credentials, job, others
        self._clock, self._entropy = clock, entropy
        key, certificate, self._authority = credentials.tls
        self._own: Tls = (key, certificate)
        self._hello = Hello(WIRE, "audit", job or bytes(32), credentials.roster.serial)

    @asynccontextmanager
    async def stream(self, tls: Tls) -> AsyncIterator[Any]:
        """A call on a connection of its own."""
        secure = grpc.ssl_channel_credentials(self._authority, *tls)
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", MOST_DOWN),
        )
        async with grpc.aio.secure_channel(self.target, secure, options=options) as channel:
            call = channel.stream_stream(f"/{SERVICE}/{METHOD}")()
            try:
                yield call
            finally:
                call.cancel()

    async def says(self, tls: Tls, *messages: bytes) -> str:
        """What the server answers: ``welcome``, the check by which it refuses, `HANDSHAKE`, or nothing in `PATIENCE` seconds.

        A call that is `CUT` is made again, up to `CALLS` times.
        """
        told = CUT
        for _ in range(CALLS):
            async with self.stream(tls) as call:
                told = await heard(call, *messages)
            if told != CUT:
                break
        return told

    async def alive(self) -> bool:
        """Whether the server has a word for a greeting."""
        return await self.says(self._own, control(self._hello)) not in ("", HANDSHAKE)

    @asynccontextmanager
    async def seated(self) -> AsyncIterator[Any]:
        """A stream that has greeted and is ready."""
        async with self.stream(self._own) as call:
            if await heard(call, control(self._hello)) != "welcome":
                raise UserError(f"the server {self.target} does not welcome {self._credentials.entry.name} with this job")
            await call.write(control(Ready()))
            yield call

    # The attacks

    async def strangers(self) -> Verdict:
        """No TLS, no certificate, and a consortium of the peer's own with the same names."""
        tries = [("no certificate", refused(await self.says((None, None), control(self._hello)), {HANDSHAKE}))]
        async with grpc.aio.insecure_channel(self.target) as channel:
            told = await heard(channel.stream_stream(f"/{SERVICE}/{METHOD}")(), control(self._hello))
            tries.append(("no TLS", refused(told, {HANDSHAKE})))
        with TemporaryDirectory() as folder:
            names = [self._credentials.entry.name, "another"]
            enrolment.make_all(Path(folder) / "own", names, self._entropy, self._clock.utc(), ("localhost",))
            made = Credentials.load(Path(folder) / "own" / names[0], "party")
        told = await self.says(made.tls[:2], control(self._hello))
        return combine([*tries, ("a consortium of one's own", refused(told, {HANDSHAKE, "peer-unknown"}))])

    async def shut_out(self) -> Verdict:
        """Keys that are revoked, over, or of another federation."""
        tries = []
        for folder in self._others:
            told = await self.says(Credentials.load(folder, "party", "server").tls[:2], control(self._hello))
            tries.append((str(folder), refused(told, SHUT_OUT)))
        return combine(tries) if tries else inapplicable("no keys that must be refused: name them with --refused DIR")

    async def greetings(self) -> Verdict:
        """Another wire, another job, a roster of the future, and what is no greeting."""
        lies = {
            "another wire": (control(replace(self._hello, wire=WIRE + 1)), {"net-wire"}),
            "another job": (control(replace(self._hello, job=bytes(31) + b"\1")), {"net-job"}),
            "a roster of the future": (control(replace(self._hello, roster=2**32 - 1)), {"roster-older"}),
            "no greeting": (control(Ready()), {"net-envelope"}),
        }
        return combine([(name, refused(await self.says(self._own, data), checks)) for name, (data, checks) in lies.items()])

    async def garbage(self) -> Verdict:
        """In the place of a greeting."""
        return combine([(name, refused(await self.says(self._own, data))) for name, data in GARBAGE.items()])

    async def garbage_when_seated(self) -> Verdict:
        """In the place of a letter."""
        if self._job is None:
            return inapplicable("behind the greeting: give the job with --job")
        tries = list[tuple[str, Verdict]]()
        for name, data in {**GARBAGE, "a second greeting": control(self._hello)}.items():
            async with self.seated() as call:
                tries.append((name, refused(await last_word(call, [data]))))
        return combine(tries)

    async def silence(self) -> Verdict:
        """A stream on which nothing is said."""
        return refused(await self.says(self._own), {"net-greeting"})

    async def endless(self) -> Verdict:
        """Frames of no sum, one after another, without an end."""
        if self._job is None:
            return inapplicable("behind the greeting: give the job with --job")
        async with self.seated() as call:
            return refused(await last_word(call, [FIRST + ANY] * (2 * hall.IDLE // len(ANY))), {"net-flood", CUT})

    async def crowd(self) -> Verdict:
        """Streams of one party, one beside the other."""
        if self._job is None:
            return inapplicable("behind the greeting: give the job with --job")
        async with AsyncExitStack() as stack:
            calls = [await stack.enter_async_context(self.stream(self._own)) for _ in range(hall.STREAMS + 2)]
            told = [await heard(call, control(self._hello)) for call in calls]
            return refused(next((one for one in told if one != "welcome"), "welcome"), {"net-full"})

    async def idle(self) -> Verdict:
        """Connections on which nothing is said, and no handshake made."""
        host, _, port = self.target.rpartition(":")
        with ExitStack() as stack:
            for _ in range(IDLE):
                made = await asyncio.to_thread(socket.create_connection, (host.strip("[]"), int(port)), PATIENCE)
                stack.enter_context(made)
            there = await self.alive()
        return Verdict("harmless", "the server answers others meanwhile") if there else unavailable("no answer beside them")


ATTACKS: dict[str, Callable[[Peer], Awaitable[Verdict]]] = {
    "strangers: no TLS, no certificate, a consortium of one's own": Peer.strangers,
    "keys that are revoked, over, or of another federation": Peer.shut_out,
    "greetings that do not fit": Peer.greetings,
    "garbage in the place of a greeting": Peer.garbage,
    "garbage in the place of a letter": Peer.garbage_when_seated,
    "a stream that says nothing": Peer.silence,
    "frames of no sum, without an end": Peer.endless,
    "streams of one party, one beside the other": Peer.crowd,
    f"{IDLE} connections that say nothing": Peer.idle,
}


async def heard(call: Any, *messages: bytes) -> str:
    """The first word on a stream, or why it ended; as `Peer.says`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            try:
                for message in messages:
                    await call.write(message)
                found = await call.read()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                found = None
            if not isinstance(found, bytes):
                return await _end(call)
            told = read(found, FROM_SERVER)
            return told.check if isinstance(told, Dismiss) else "welcome" if isinstance(told, Welcome) else type(told).__name__
    return ""


async def last_word(call: Any, messages: Sequence[bytes]) -> str:
    """Why a stream ended on which these were sent; empty where it did not."""
    with suppress(TimeoutError):
        async with asyncio.timeout(2 * PATIENCE):
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                for message in messages:
                    await call.write(message)
                while isinstance(await call.read(), bytes):
                    pass
            return await _end(call)
    return ""


async def _end(call: Any) -> str:
    code = await call.code()
    details = str(await call.details() or "")
    if code is grpc.StatusCode.UNAVAILABLE and details != "net-shut":
        return HANDSHAKE
    return details or str(code.name)


def refused(told: str, checks: set[str] | None = None) -> Verdict:
    """What an answer of the server comes to.

    Args:
        told: as `Peer.says`.
        checks: that may refuse; None: any but a welcome.
    """
    if not told:
        return unavailable("the server neither answers nor ends the stream")
    if told == "welcome" or (checks is not None and told not in checks):
        return broken(f"the server says {printable(told)[:100]}, where {' or '.join(sorted(checks or {'a refusal'}))} must come")
    if told.startswith(("net-", "peer-", "roster-", "wire-")):
        return Verdict("refused", who="server", check=told)
    how = {HANDSHAKE: f"by {HANDSHAKE}", CUT: "cut in the middle"}
    return Verdict("refused", how.get(told, "by gRPC, before it is read"))


async def play(peer: Peer, tell: Callable[[str], None] = lambda _name: None) -> list[Tried]:
    """All attacks, one after another.

    Raises:
        UserError: where the server has no word for the party before the first.
    """
    if not await peer.alive():
        raise UserError(f"the server {peer.target} cannot be reached, or does not know these keys")
    found = list[Tried]()
    for name, attack in ATTACKS.items():
        tell(name)
        began = time.monotonic()
        verdict = await attack(peer)
        if verdict.status != "not applicable" and not await peer.alive():
            verdict = unavailable("the server has no word for an honest party after it")
        found.append(Tried(name, verdict, time.monotonic() - began))
    return found
