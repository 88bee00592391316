"""The tape: what the server saw and sent, one message a line, hash-chained (`securefl.audit.chain`).

    line 1    ``header``   format, version, the roster: names and identities
    then      ``session``  what one sum was for: occasion, suite, parameters, session identity
              ``message``  one message to or from the server: control bytes whole, of vectors size and SHA-256
              ``end``      what became of the sum: over how many it was opened, or why not, and whom the server named
    last      ``seal``     how many messages; a tape without it was broken off, or its end is gone

It holds what the server saw and nothing else, so no secret of a party; shares that were opened to the server are in it.

What it does not protect: it is the server's own diary.  What the parties signed in it cannot be made up; what the server said can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocols.declared import declaration, declared
from protocols.errors import Abort, Misuse, Refused
from protocols.session import SERVER, Address, Session
from protocols.suite import Member, Occasion, Roster, Terms
from protocols.sums import Scheme, scheme
from protocols.wire import digest
from securefl.audit.chain import ChainWriter, Line, Tree, Unreadable, is_count
from securefl.audit.seen import ADDRESS, BAD, ID, LONGEST, Seen, address, why_bad

FORMAT = "securefl tape 1"


class Tape:
    """Writes a tape.

    Args:
        path: a file that does not exist.
        version: of the software.

    Raises:
        OSError: where the file exists or cannot be written.
    """

    def __init__(self, path: Path, version: str = "") -> None:
        self.chain, self._version, self._messages = ChainWriter(path), version, 0
        self._roster: Roster | None = None

    def begin(self, chosen: Scheme, terms: Terms[Any]) -> None:
        """A sum begins.

        Raises:
            Misuse: for another roster than that of the sums before.
        """
        if self._roster is None:
            self._roster = terms.roster
            self.chain.add("header", format=FORMAT, version=self._version, roster=roster_tree(terms.roster))
        if self._roster != terms.roster:
            raise Misuse("a tape is of one roster: begin another for other parties")
        self.chain.add("session", **session_tree(chosen, terms))

    def message(self, seen: Seen) -> None:
        """One message to or from the server; of others nothing is written."""
        if seen.sender == SERVER or SERVER in seen.to:
            self._messages += 1
            self.chain.add("message", **seen.tree())

    def end(self, contributors: int | None, abort: Abort | None, faults: Iterable[Refused]) -> None:
        """A sum has ended: over so many, or for that reason."""
        why = None if abort is None else {"check": _id(abort.check), "step": _id(abort.step)}
        named = [
            {"sender": _named(x.sender), "check": _id(x.check), "step": _id(x.step), "provable": x.evidence is not None}
            for x in faults
        ]
        self.chain.add("end", contributors=contributors, abort=why, faults=named)

    sent = message

    def was_told(self, seen: Seen, *, ended: bool = False) -> None:  # noqa: ARG002  (a tape has all that came)
        """A message has come."""
        self.message(seen)

    def over(self, session: Session) -> None:
        """The server's session has ended."""
        results = [value.contributors for value in session.outputs if hasattr(value, "contributors")]
        faults = [*session.faults, *(session.ended.faults if session.ended is not None else ())]
        self.end(results[-1] if results else None, session.ended, faults)

    def seal(self) -> None:
        """Nothing more comes."""
        self.chain.add("seal", messages=self._messages)
        self.chain.close()


def _id(text: str | None) -> str | None:
    """An id as it stands in a tape; a protocol of somebody else's may name its checks and steps in other letters."""
    return None if text is None else re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:LONGEST] or "-"


def _named(sender: str | None) -> str | None:
    return sender if sender is not None and ADDRESS.fullmatch(sender) else None


def roster_tree(roster: Roster) -> list[dict[str, str]]:
    """A roster as it stands in a file."""
    return [{"name": member.name, "identity": member.identity.hex()} for member in roster.members]


def fingerprint(roster: Roster) -> str:
    """Hash of a roster, to be compared with one that is known."""
    return digest(roster.content).hex()


def roster_of(tree: object) -> Roster:
    """A roster out of a file.

    Raises:
        Misuse, ValueError, KeyError, TypeError: where it is none.
    """
    if not isinstance(tree, list):
        raise TypeError("a roster is a list")
    return Roster(tuple(Member(_name(entry["name"]), bytes.fromhex(entry["identity"])) for entry in tree))


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a name is a text")
    return value


def session_tree(chosen: Scheme, terms: Terms[Any]) -> Tree:
    """What a sum is for, as it stands in a file."""
    o = terms.occasion
    occasion = {"run": o.run, "round": o.round, "attempt": o.attempt, "model": o.model.hex()}
    parameters = declaration(terms.parameters)
    return {"protocol": chosen.name, **occasion, "suite": terms.suite, "parameters": parameters, "sid": terms.sid.hex()}


@dataclass(frozen=True)
class Sitting:
    """One sum, as a file says that it was meant.

    Attributes:
        scheme: the protocol.
        terms: made again from what is declared.
        sid: the session identity that the file gives, which should be that of ``terms``.
        suite: the suite string that it gives, likewise.
    """

    scheme: Scheme
    terms: Terms[Any]
    sid: bytes
    suite: str

    @classmethod
    def read(cls, tree: Tree, roster: Roster) -> Sitting:
        """Out of a line or file.

        Raises:
            Misuse: where no such sum is possible.
            ValueError, KeyError, TypeError: where it is malformed.
        """
        chosen = scheme(tree["protocol"])
        if not is_count(tree["round"]) or not is_count(tree["attempt"]) or type(tree["run"]) is not str:
            raise TypeError("a sum has a run, a round and an attempt")
        occasion = Occasion(tree["run"], tree["round"], tree["attempt"], bytes.fromhex(tree["model"]))
        terms = chosen.terms(occasion, roster, declared(chosen, tree["parameters"]))
        _ = terms.sid  # there is none where roster and parameters do not fit
        return cls(chosen, terms, bytes.fromhex(tree["sid"]), str(tree["suite"]))


def header(path: Path, line: Line) -> Roster:
    """The roster of a tape, from its first line.

    Raises:
        Unreadable: where that is no header.
    """
    if line.kind != "header" or line.tree.get("format") != FORMAT:
        raise Unreadable(f"{path}, line {line.number} is refused: it is no header of a tape ({FORMAT!r})")
    try:
        return roster_of(line.tree["roster"])
    except (*BAD, Misuse) as error:
        raise Unreadable(f"{path}, line {line.number} is refused: its roster is none: {why_bad(error)}") from None


def message(path: Path, line: Line) -> Seen:
    """The message of a line.

    Raises:
        Unreadable: where it is none.
    """
    try:
        return Seen.read(line.tree)
    except BAD as error:
        raise Unreadable(f"{path}, line {line.number} is refused: it is no message: {why_bad(error)}") from None


@dataclass(frozen=True)
class Ending:
    """What a tape says of how a sum ended.

    Attributes:
        contributors: over how many parties it was opened, or None.
        abort: check and step of what ended it, or None.
        faults: whom the server named, by which check, in which step, and whether what that party signed proves it.
    """

    contributors: int | None
    abort: tuple[str, str] | None
    faults: tuple[tuple[str, str, str, bool], ...]


def ending(path: Path, line: Line) -> Ending:
    """How a sum ended, from its last line.

    Raises:
        Unreadable: where it is none.
    """
    try:
        count, why = line.tree["contributors"], line.tree["abort"]
        abort = None if why is None else (_read_id(why["check"]), _read_id(why["step"], "the round"))
        faults = tuple(
            (_sender(x["sender"]), _read_id(x["check"]), _read_id(x["step"], "passing"), x["provable"] is True)
            for x in line.tree["faults"]
        )
        if count is not None and not is_count(count):
            raise TypeError("contributors are counted")
    except BAD as error:
        raise Unreadable(f"{path}, line {line.number} is refused: it ends no sum: {why_bad(error)}") from None
    return Ending(count, abort, faults)


def _read_id(value: object, otherwise: str = "") -> str:
    if value is None and otherwise:
        return otherwise
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise ValueError(f"no id: {value!r}")
    return value


def _sender(value: object) -> str:
    """Whom the server named: an address, or somebody where it could not say whom."""
    return "somebody" if value is None else str(address(value))  # type: ignore[arg-type]  # which refuses what is no text


def from_client(seen: Seen) -> int | None:
    """The party that sent a message to the server, or None."""
    ours = seen.sender.role == "client" and seen.sender.index > 0 and seen.to == (SERVER,)
    return seen.sender.index if ours else None


def to_clients(seen: Seen) -> tuple[int, ...]:
    """The parties to which the server sent a message."""
    return tuple(to.index for to in seen.to) if seen.sender == SERVER and all(map(_client, seen.to)) else ()


def _client(address: Address) -> bool:
    return address.role == "client" and address.index > 0
