"""A federation whose letters are at the mercy of whoever draws: kept, dropped, doubled, reordered, changed, swapped, replayed.

Real sessions and real bytes; a party or the server may be lost at any time and begin again, a party on its own journal.  After
every event it is asked whether what left and what was opened may be; `Unruly.settle` lets the rest arrive and time pass, and asks
whether everybody came to an end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from protocols import sums
from protocols.agreement import Dropped
from protocols.rand import Replay
from protocols.schema import Message
from protocols.secagg_types import Consenting, Openings
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.vector import Sum, Vector
from securefl.audit.attacks.sparse import world
from securefl.audit.federation import Federation, federation, run

ONCE = {"Masked", "Padded", "Enciphered", "Upload", "Openings", "Answer", "Decrypted"}
"""Messages of which a party sends one for one input, whatever becomes of its sessions: what carries it, and what opens a sum."""
PROTOCOLS = ("secagg", "secagg+", "lightsecagg", "kahe", "bfv")


@cache
def cohort(protocol: str, n: int) -> Federation:
    """Parties under one protocol, in round 1; on the sparse graph always six."""
    if protocol == "secagg+":
        return world(6, 4, 0).at(round=1)
    scheme = sums.scheme(protocol)
    return federation(n, 3, scheme=scheme, policy=scheme.policy).at(round=1)


@dataclass(frozen=True)
class Flying:
    """One letter to one party, as bytes; ``letter`` is what it was when it was sent."""

    to: Address
    letter: Letter
    frames: tuple[bytes, ...]

    @property
    def sender(self) -> Address:
        return self.letter.sender

    def saying(self, message: Message) -> Flying:
        """The same letter with another message."""
        return replace(self, frames=_frames(replace(self.letter, message=message)))


def flying(letter: Letter) -> list[Flying]:
    """A letter on its way to each of its recipients."""
    frames = _frames(letter)
    return [Flying(to, letter, frames) for to in letter.to]


def _frames(letter: Letter) -> tuple[bytes, ...]:
    return tuple(bytes(frame) for frame in letter.chunks())


def lie(message: Any, place: int) -> Message | None:
    """What a lying server says instead: a line less, a party more or less among the dropped, a signature less; None for others."""
    if isinstance(message, Dropped):
        members = set(message.dropped) ^ {1 + place % 6}
        return Dropped(tuple(sorted(members)))
    for name in ("entries", "signatures", "u2"):
        held = getattr(message, name, ())
        if len(held) > 2:
            at = place % len(held)
            return replace(message, **{name: held[:at] + held[at + 1 :]})
    return None


@cache
def earlier(protocol: str, n: int) -> tuple[Flying, ...]:
    """All letters of round 0, and of another attempt of round 1."""
    out, fed = list[Flying](), cohort(protocol, n)
    for occasion in ({"round": 0}, {"attempt": 1}):
        run(fed.at(**occasion), watch=lambda letter, to, _: out.append(Flying(to, letter, _frames(letter))))
    return tuple(out)


@dataclass
class Unruly:
    """One round of a federation.

    Attributes:
        fed: with journals that outlive sessions.
        sessions: those that live.
        letters: on their way.
        now: the time.
        opened: sums, each with the parties that its server announced as survivors.
        sent: how many messages of each kind each party has sent, over all its sessions.
        votes: for each list, dealer and secret, who has opened its share.
    """

    fed: Federation
    old: tuple[Flying, ...] = ()
    sessions: dict[Address, Session] = field(default_factory=dict)
    letters: list[Flying] = field(default_factory=list)
    now: float = 0.0
    opened: list[tuple[Sum, tuple[int, ...]]] = field(default_factory=list)
    sent: Counter[tuple[Address, str]] = field(default_factory=Counter)
    votes: dict[tuple[bytes, int, str], set[int]] = field(default_factory=dict)
    _announced: dict[int, tuple[int, ...]] = field(default_factory=dict)
    _begun: int = 0

    @classmethod
    def of(cls, protocol: str, n: int) -> Unruly:
        """Everybody begins."""
        fed = replace(cohort(protocol, n).with_memory(), entropy=lambda u: Replay("never asked"))
        new = cls(fed, earlier(protocol, n))
        for address in (SERVER, *map(client, fed.parties)):
            new.begin(address)
        return new

    def begin(self, address: Address) -> None:
        """A party or the server begins, for the first time or again: nothing of an earlier session is left but its journal."""
        self._begun += 1
        entropy = Replay(f"{address} {self._begun}")
        if address == SERVER:
            session = sums.server_session(self.fed.scheme, self.fed.terms, entropy=entropy)
        else:
            session = sums.client_session(self.fed.scheme, self.fed.parties[address.index], self.fed.terms, entropy=entropy)
        self.sessions[address] = session
        self._emit(session, session.begin(self.now))
        if address != SERVER:
            self._emit(session, session.provide(Vector(self.fed.vectors[address.index]), self.now))

    def lose(self, u: int) -> None:
        """A party is gone, and the server's driver knows."""
        if self.sessions.pop(client(u), None) is not None and SERVER in self.sessions:
            self._emit(self.sessions[SERVER], self.sessions[SERVER].gone(client(u), self.now))

    def deliver(self, letter: Flying) -> None:
        """All of a letter arrives, as far as its recipient is there and lets its sender speak."""
        session = self.sessions.get(letter.to)
        for frame in letter.frames if session is not None else ():
            if session.open(letter.sender):
                remembered = session.remembers
                self._emit(session, session.feed(letter.sender, frame, self.now), remembered)

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        for session in list(self.sessions.values()):
            if (at := session.deadline) is not None and at <= self.now:
                self._emit(session, session.tick(self.now))

    def settle(self) -> None:
        """Let what is under way arrive, and time pass, until nothing moves; then the server is gone."""
        for _ in range(200):
            while self.letters:
                self.deliver(self.letters.pop(0))
            waits = [at for session in self.sessions.values() if (at := session.deadline) is not None]
            if not waits:
                break
            self.wait(max(0.0, min(waits) - self.now))
        else:
            raise AssertionError("the round does not come to an end")
        for address, session in self.sessions.items():
            if address != SERVER and not session.finished:
                session.gone(SERVER, self.now)
        for address, session in self.sessions.items():
            assert session.finished, f"{address} waits for ever"
            assert session.ended is not None or address != SERVER or session.outputs, "the server ends without a word"
        self.check()

    def _emit(self, session: Session, letters: Iterable[Letter], remembered: tuple[object, ...] = ()) -> None:
        for letter in letters:
            self.letters += flying(letter)
            self.sent[session.me, type(letter.message).__name__] += 1
            if isinstance(letter.message, Dropped):
                self._announced[id(session)] = tuple(to.index for to in letter.to)
            if isinstance(letter.message, Openings):
                self._count(session.me.index, remembered)
        if session.me == SERVER and session.outputs:
            self.opened += [(one, self._announced[id(session)]) for one in session.outputs if not self._known(one)]

    def _known(self, one: Sum) -> bool:
        return any(one is other for other, _ in self.opened)

    def _count(self, u: int, remembered: tuple[object, ...]) -> None:
        """Whose secrets a party has opened a share of, by what it had agreed to."""
        for state in remembered:
            if isinstance(state, Consenting):
                for v in state.held:
                    self.votes.setdefault((state.L, v, "b" if v in state.u3 else "s"), set()).add(u)

    def check(self) -> None:
        """What was opened are exact sums of enough survivors; nobody gave away what it gives once, or both secrets of one."""
        parameters: Any = self.fed.terms.parameters
        for total, survivors in self.opened:
            assert total.contributors == len(survivors) >= self.fed.t
            assert total.values.tolist() == self.fed.sum(survivors)
        for (address, kind), count in self.sent.items():
            assert address == SERVER or kind not in ONCE or count <= 1, f"{address} sent {count} messages {kind}"
        need = getattr(parameters, "shares", self.fed.t)
        for (L, v, secret), openers in self.votes.items():
            other = self.votes.get((L, v, "s" if secret == "b" else "b"), set())
            assert min(len(openers), len(other)) < need, f"both secrets of party {v} are open"
