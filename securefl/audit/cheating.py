"""A server that runs no step of its protocol: it drives real client sessions with messages of its own, and keeps all it hears.

`CheatingServer` knows nothing of any protocol.  `SecAggServer`, `LightServer` and `HeServer` beside it know how the messages of
theirs are made, each in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.lightsecagg_types import KeyAdvert, KeyEntry, KeyList
from protocols.primitives.agree import KeyPair
from protocols.rand import Replay
from protocols.schema import Message
from protocols.session import SERVER, Letter, Session, client
from protocols.vector import Vector
from protocols.wire import Decoder
from securefl.audit.federation import Federation

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass
class CheatingServer:
    """A server played by an attack.

    Attributes:
        fed: the federation.
        sessions: the parties that it talks to, colluding ones included.
        heard: the last message of every kind from every party.
        said: the last message of every kind to every party.
    """

    fed: Federation
    sessions: dict[int, Session] = field(default_factory=dict)
    heard: dict[tuple[int, type[Message]], Message] = field(default_factory=dict)
    said: dict[tuple[int, type[Message]], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sessions = self.sessions or {u: self.fed.session(u) for u in self.fed.parties}
        for u, session in self.sessions.items():
            self._hear(u, session.begin())
            if session.ended is None:
                self._hear(u, session.provide(Vector(self.fed.vectors[u])))

    def _hear(self, u: int, letters: list[Letter]) -> list[Message]:
        messages = [self._come(u, letter) for letter in letters]
        self.heard |= {(u, type(message)): message for message in messages}
        return messages

    def _come(self, u: int, letter: Letter) -> Message:
        """What has come of a party's letter: the message, or what its bytes say that came out of a wire."""
        if self.fed.wire is None:
            return letter.message
        decoder = Decoder({type(letter.message).__name__: type(letter.message)}, self.sessions[u].limits)
        for chunk in letter.chunks():
            decoder.feed(self.fed.wire.carry(client(u), SERVER, chunk)[1])
        found = decoder.message()
        return letter.message if found is None else found[0]

    def tell(self, u: int, message: Message, epoch: int = 0) -> list[Message]:
        """Send a message, as bytes; what the party answers."""
        session = self.sessions[u]
        self.said[u, type(message)] = message
        frames = Letter(SERVER, (client(u),), message, epoch, session.limits).chunks()
        return [answer for frame in frames for answer in self._hear(u, session.feed(SERVER, frame))]

    def all(self, kind: type[M]) -> dict[int, M]:
        """What came of one kind, by party."""
        return {
            u: message for (u, k), message in sorted(self.heard.items(), key=lambda item: item[0][0]) if isinstance(message, kind)
        }

    def state(self, u: int, kind: type[T]) -> T:
        """What a colluding party hands over: the state of that type, if it is in it."""
        return next(state for state in self.sessions[u].remembers if isinstance(state, kind))

    # The round of agreement, which all protocols here have in common

    def agreed(self, signers: Any = None) -> Agreed:
        """The signatures that came."""
        said = self.all(Agree)
        return Agreed(tuple(Signed(u, said[u].signature) for u in (sorted(said) if signers is None else signers)))

    def agree_on(self, dropped: Any = ()) -> None:
        """Round 3 with one dropped set."""
        gone = tuple(dropped)
        for u in self.sessions:
            if u not in gone:
                self.tell(u, Dropped(gone))

    def open_all(self) -> None:
        """Round 4 for all who agreed."""
        agreed = self.agreed()
        for signed in agreed.signatures:
            self.tell(signed.index, agreed)

    def endings(self) -> Iterator[tuple[int, str, str | None]]:
        """Who ended, by which check, in which step."""
        for u, session in self.sessions.items():
            if session.ended is not None:
                yield u, session.ended.check, session.ended.step


@dataclass
class KeyListServer(CheatingServer):
    """A server of a protocol in which parties advertise one key each: LightSecAgg and homomorphic sums."""

    def key_list(self, members: Iterable[int] | None = None) -> KeyList:
        """The round-0 list."""
        adverts = self.all(KeyAdvert)
        chosen = sorted(adverts) if members is None else members
        return KeyList(tuple(KeyEntry(u, adverts[u].c_pk, adverts[u].signature) for u in chosen))

    def up_to_boxes(self) -> KeyList:
        """Rounds 0 and 1 up to the boxes."""
        listed = self.key_list()
        for u in self.sessions:
            self.tell(u, listed)
        return listed


def pair(label: str) -> KeyPair:
    """A key pair of the adversary's own."""
    return KeyPair.generate(Replay("keys")(), label)
