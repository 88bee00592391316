"""A party's own log: what left it and what it was told, every line signed with its identity and hash-chained.

    line 1    ``header``   format, a random name of the log, the party, its name and identity, a hash of the roster
    then      ``session``  what one sum was for
              ``sent``     a message that is about to leave: size, hashes of control bytes and vectors, of what it signed
              ``told``     a message that came: sizes, hashes, and the sets that it names
              ``end``      how the party's part ended
    last      ``seal``     nothing more comes

The line is on its way to the disk before the message leaves, so a message that a party signed and that its log lacks was left out.
It holds sizes, hashes and sets, and no secret.

What it does not protect: a log is its party's word.  What it says of the server binds nobody, as the server signs nothing; what it
says of the party itself binds the party.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from protocols.errors import Abort, Refused
from protocols.primitives.sign import SigningKey
from protocols.rand import fresh
from protocols.said import Said
from protocols.session import Farewell, Session
from protocols.statements import SETS, Told, statement
from protocols.suite import Roster, Terms
from protocols.sums import Scheme
from protocols.wire import Limits
from securefl.audit.chain import ChainWriter
from securefl.audit.seen import Seen, vectors_tree
from securefl.audit.tape import fingerprint, session_tree

FORMAT = "securefl log 1"


class PartyLog:
    """Writes one party's log.

    Args:
        path: a file that does not exist.
        index: the party's place in the roster.
        identity: its signing key.
        roster: who is invited.

    Raises:
        OSError: where the file exists or cannot be written.
    """

    def __init__(self, path: Path, index: int, identity: SigningKey, roster: Roster) -> None:
        self.index = index
        self.chain, self._identity = ChainWriter(path, identity.sign), identity.public
        about = {"party": index, "name": roster.name(index), "identity": identity.public.hex(), "roster": fingerprint(roster)}
        self.chain.add("header", format=FORMAT, log=fresh().bytes("log", 16).hex(), **about)
        self._told, self._heard = Told(), set[str]()
        self._terms: Terms[Any] | None = None
        self._scheme: Scheme | None = None

    def begin(self, scheme: Scheme, terms: Terms[Any]) -> None:
        """The party goes into a sum."""
        self._told, self._heard, self._terms, self._scheme = Told(), set(), terms, scheme
        self.chain.add("session", **session_tree(scheme, terms))

    @property
    def limits(self) -> Limits:
        """Sizes of the sum that is under way."""
        scheme, terms = self._under_way()
        return Limits(terms.parameters.parties, scheme.layouts(terms.parameters))

    def _under_way(self) -> tuple[Scheme, Terms[Any]]:
        if self._scheme is None or self._terms is None:
            raise ValueError("no sum has begun: call begin first")
        return self._scheme, self._terms

    def sent(self, seen: Seen) -> None:
        """A message is about to leave."""
        scheme, terms = self._under_way()
        kinds = {kind.__name__: kind for kind in (*scheme.flow.messages("server"), Farewell)}
        said = None
        if seen.name in kinds:
            kind, fields = seen.parsed(kinds, self.limits)
            content = statement(terms, self.index, self._told, kind, fields, seen.digests)
            said = None if content is None else Said(content, fields["signature"])
        known = said is not None and said.holds(self._identity)  # a log never says that another thing was signed than was
        self._add("sent", seen, statement=said.digest.hex() if said is not None and known else None)

    def was_told(self, seen: Seen, *, ended: bool = False) -> None:
        """A message has come, whatever the party makes of it; the first of its kind counts, if the session has not ``ended``."""
        scheme, _ = self._under_way()
        kinds = {kind.__name__: kind for kind in scheme.flow.messages("client")}
        first, sets = not ended and seen.epoch == 0 and seen.name not in self._heard, dict[str, object]()
        kind = kinds.get(seen.name)
        if first and kind is not None and kind in SETS:
            try:
                self._told = self._told.after(*seen.parsed(kinds, self.limits))
                sets = sets_of(self._told, SETS[kind])
            except Refused as error:
                sets = {"refused": error.check}
        self._heard.update([seen.name] if first else [])
        self._add("told", seen, counts=first, sets=sets)

    def _add(self, kind: str, seen: Seen, **more: Any) -> None:
        _, terms = self._under_way()
        control, vectors = hashlib.sha256(seen.control).hexdigest(), vectors_tree(seen.vectors)
        about = {"sid": terms.sid.hex(), "type": seen.name, "epoch": seen.epoch, "size": seen.size}
        self.chain.add(kind, **about, control=control, vectors=vectors, **more)

    def end(self, left: Abort | None) -> None:
        """The party's part in the sum has ended: it is through, or it left for that reason."""
        self.chain.add("end", left=None if left is None else {"check": left.check, "step": left.step})

    def over(self, session: Session) -> None:
        """The party's session has ended."""
        self.end(session.ended)

    def seal(self) -> None:
        """Nothing more comes."""
        self.chain.add("seal")
        self.chain.close()


def sets_of(told: Told, stage: int) -> dict[str, object]:
    """The sets that one message of the server names, as they stand in a log."""
    if stage == 0:
        return {"L": told.L.hex(), "u1": list(told.u1)}
    if stage == 1:
        return {"u2": list(told.u2 or ()), "receipt": None if told.receipt is None else told.receipt.hex()}
    if stage == 2:
        return {"dropped": list(told.dropped or ())}
    return {"u4": list(told.agreed or ())}


def log_name(index: int, name: str) -> str:
    """Name of a party's log."""
    plain = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("._")
    return f"{index:03d}-{plain or 'party'}.log"
