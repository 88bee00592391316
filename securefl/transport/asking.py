"""A member's side of the server's desk: one message, one answer.

What it does not protect: a server that does not answer; the call ends after `WITHIN` seconds.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import grpc

from protocols.errors import Refused, require
from protocols.schema import Message
from securefl.bundles.signed import Decision, SignedBundle
from securefl.errors import UserError, printable
from securefl.transport.clock import Clock, SystemClock
from securefl.transport.desk_words import (
    ANSWERED,
    METHOD,
    MOST_ANSWERED,
    SERVICE,
    Declined,
    Fetch,
    Handed,
    List,
    Listed,
    Submit,
    Taken,
    Tell,
    hear,
)
from securefl.transport.enrolment import Credentials
from securefl.transport.envelope import WIRE, control
from securefl.transport.keyfiles import keep_roster
from securefl.transport.link import OPTIONS
from securefl.transport.roster import SignedRoster

WITHIN = 60.0
"""Seconds after which a server that does not answer is given up."""
AGAIN = 1.0
"""Seconds until a server that is out of reach is called again."""

M = TypeVar("M", bound=Message)


class Asking:
    """Questions to one server.

    Args:
        target: HOST:PORT.
        credentials: of who asks.
        within: seconds for an answer.
        clock: for how long to try.
    """

    def __init__(self, target: str, credentials: Credentials, *, within: float = WITHIN, clock: Clock | None = None) -> None:
        self._target, self._credentials, self._within = target, credentials, within
        self._clock = clock or SystemClock()

    def submit(self, signed: SignedBundle) -> str:
        """Hand in a bundle; the author under whom the server keeps it."""
        taken = self._ask(Submit(WIRE, signed.document), Taken)
        return taken.author

    def tell(self, decision: Decision) -> None:
        """Say what was decided."""
        self._ask(Tell(WIRE, decision.document), Taken)

    def listed(self, patience: float = 0.0) -> tuple[Listed, SignedRoster]:
        """What is there, and the newest roster, which is kept; the server may be out of reach for ``patience`` seconds."""
        found = self._ask(List(WIRE), Listed, patience)
        return found, self._keep(found.roster)

    def fetch(self, digest: bytes) -> tuple[SignedBundle, SignedRoster]:
        """A bundle, checked: the contents against the hash that was asked for, its author by the newest roster, which is kept.

        Raises:
            UserError: where the server is out of reach, declines, or hands over something else, with the check.
        """
        handed = self._ask(Fetch(WIRE, digest), Handed)
        roster = self._keep(handed.roster)
        try:
            signed = SignedBundle.read(handed.bundle, self._credentials.authority)
            require(signed.hash == digest, "bundle-hash", "the server handed over another bundle than was asked for")
            signed.check(roster)
        except Refused as error:
            raise UserError(f"the bundle {digest.hex()} is refused: {error.check} ({printable(error.detail)})") from None
        return signed, roster

    def _keep(self, document: bytes) -> SignedRoster:
        try:
            roster = SignedRoster.read(document, self._credentials.authority)
            return keep_roster(self._credentials.folder, roster, self._credentials.authority)
        except Refused as error:
            raise UserError(f"the server's roster is refused: {error.check} ({printable(error.detail)})") from None

    def _ask(self, message: Message, kind: type[M], patience: float = 0.0) -> M:
        try:
            data = asyncio.run(self._tried(control(message), self._clock.now() + patience))
            told = hear(data, ANSWERED, MOST_ANSWERED)
            require(isinstance(told, kind | Declined), "net-envelope", f"something else where a {kind.__name__} must come")
        except grpc.aio.AioRpcError as error:
            why = " ".join(printable(error.details() or error.code().name).split())[:200]
            refused = error.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
            said = "declines" if refused else "cannot be reached"
            raise UserError(f"the server {self._target} {said}: {why}") from None
        except Refused as error:
            raise UserError(f"what the server said is refused: {error.check} ({printable(error.detail)})") from None
        if isinstance(told, kind):
            return told
        detail = f"{printable(told.check)} ({printable(told.detail)})" if isinstance(told, Declined) else ""
        raise UserError(f"the server declines: {detail}")

    async def _tried(self, data: bytes, until: float) -> bytes:
        while True:
            try:
                return await self._call(data)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or self._clock.now() >= until:
                    raise
            await self._clock.until(self._clock.now() + AGAIN)

    async def _call(self, data: bytes) -> bytes:
        key, certificate, authority = self._credentials.tls
        secure = grpc.ssl_channel_credentials(root_certificates=authority, private_key=key, certificate_chain=certificate)
        async with grpc.aio.secure_channel(self._target, secure, options=OPTIONS) as channel:
            answer = await channel.unary_unary(f"/{SERVICE}/{METHOD}")(data, timeout=self._within)
        return bytes(answer)
