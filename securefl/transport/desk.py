"""The server's desk: where members of a consortium hand in bundles, fetch them, and say what they decided.

One call on the server's port is one message and one answer, each a control message as on the stream, of at most the port's size;
who calls is read off the certificate and held to the newest roster, as for the stream.  Bundles and decisions are checked before
they are kept: the author's signature, or the party's, by that roster.

What it does not protect: a server may withhold what it has, or say that others decided otherwise.  Nobody runs anything on its
word.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from cryptography import x509

from protocols.errors import Misuse, Refused, require
from protocols.schema import Message
from securefl.bundles.signed import Decision, SignedBundle
from securefl.errors import UserError
from securefl.store.shelf import Shelf
from securefl.transport.desk_words import (
    ASKED,
    MOST_ASKED,
    MOST_LISTED,
    MOST_SAID,
    Declined,
    Fetch,
    Handed,
    Item,
    List,
    Listed,
    Said,
    Submit,
    Taken,
    Tell,
    hear,
)
from securefl.transport.envelope import WIRE, control
from securefl.transport.log import Log
from securefl.transport.roster import Entry, SignedRoster

AT_ONCE = 4
"""Calls that are worked on at once; others wait."""


class Desk:
    """The bundles of one consortium.

    Args:
        shelf: where they are kept.
        roster: gives the newest roster that the server has, at every call anew.
        authority: the consortium's certificate.
        log: for who handed in or decided what, and what was declined.
        running: hash of the bundle that runs here; empty for none.
        worker: threads in which the work is done; by default those of the event loop.
    """

    def __init__(
        self,
        shelf: Shelf,
        roster: Callable[[], SignedRoster],
        authority: x509.Certificate,
        *,
        log: Log,
        running: bytes = b"",
        worker: Executor | None = None,
    ) -> None:
        self.roster, self._shelf, self._authority, self._log, self.running = roster, shelf, authority, log, running
        self._turns, self._worker = asyncio.Semaphore(AT_ONCE), worker

    async def serve(self, entry: Entry, data: bytes) -> bytes:
        """The answer to a message; the work is done beside the event loop."""
        async with self._turns:
            told = await asyncio.get_running_loop().run_in_executor(self._worker, self.answer, entry, data)
        match told:
            case Declined(check, detail):
                self._log("refused", party=entry.name, check=check, detail=detail)
            case Taken(digest, author):
                self._log("bundle", party=entry.name, bundle=digest.hex(), author=author)
        return control(told)

    def answer(self, entry: Entry, data: bytes) -> Message:
        """The answer to a message of who calls."""
        try:
            return self._answer(entry, data)
        except Refused as error:
            return Declined(error.check, error.detail[:250])

    def _answer(self, entry: Entry, data: bytes) -> Message:
        asked = hear(data, ASKED, MOST_ASKED)
        match asked:
            case Submit(wire) | Fetch(wire) | Tell(wire) | List(wire):
                require(wire == WIRE, "net-wire", f"the server speaks wire {WIRE}, {entry.name} wire {wire}", sender=entry.name)
        match asked:
            case Submit(_, document):
                return self._take(entry, document)
            case Fetch(_, digest):
                document = self._shelf.get(digest.hex()) or b""
                require(document, "bundle-missing", f"the server has no bundle {digest.hex()}", sender=entry.name)
                return Handed(document, self.roster().document)
            case Tell(_, document):
                return self._note(entry, document)
            case List():
                return self._list()
        raise Misuse("no other message is heard")

    def _take(self, entry: Entry, document: bytes) -> Taken:
        found, roster = SignedBundle.read(document, self._authority), self.roster()
        found.check(roster)
        require(found.author == entry.name, "bundle-author", f"{entry.name} hands in what {found.author} signed", sender=entry.name)
        try:
            title = found.bundle.checked().about.title
        except UserError as error:
            raise Refused("bundle-job", str(error), sender=entry.name) from None
        good = {one.name for one in roster.entries if not one.revoked}
        return Taken(found.hash, self._shelf.put(found.hash.hex(), found.author, title, document, good.__contains__))

    def _note(self, entry: Entry, document: bytes) -> Taken:
        found = Decision.read(document, self._authority)
        fits = entry.part == "party" and found.party == entry.name
        require(fits, "decision-form", f"{entry.name} tells what {found.party} decided", sender=entry.name)
        found.check(entry.identity)
        self._shelf.decide(found.bundle.hex(), entry.name, found.number, found.verdict, document)
        return Taken(found.bundle, entry.name)

    def _list(self) -> Listed:
        items = list[Item]()
        for one in self._shelf.listed()[:MOST_LISTED]:
            told = [Decision.read(document, self._authority) for document in one.decisions.values()][:MOST_SAID]
            said = tuple(Said(decision.party, decision.verdict) for decision in told)
            items.append(Item(bytes.fromhex(one.digest), one.author, one.title, one.added.isoformat() + "Z", said))
        return Listed(self.running, self.roster().document, tuple(items))
