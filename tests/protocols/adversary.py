"""Ways to run a federation in which somebody cheats: the server, one party in one step, or the network.

The cheating server never runs the server's steps: it drives real client sessions with messages of its own making and keeps all that
it hears.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols import errors, secagg, simulate, sums
from protocols.agreement import Agree, Agreed, Dropped, Signed
from protocols.flow import Flow
from protocols.policy import Journal, MemoryJournal, Policy
from protocols.primitives.agree import KeyPair, derive
from protocols.primitives.prg import apply_masks
from protocols.primitives.shamir import SHARE_SIZE, Lagrange
from protocols.rand import Key, Replay, Seed
from protocols.schema import Message, strings
from protocols.secagg_types import BOX, PINS, Advert, Boxes, Covered, Entry, Listed, Masked, Openings, Sealed, Shared
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.suite import Occasion, Roster, Terms
from protocols.vector import Vector
from protocols.wire import Limits, canonical

M = TypeVar("M", bound=Message)
SCHEME = sums.scheme("secagg")
MAX_ABS = 1000
EVERYBODY = (1, 2, 3, 4, 5, 6)
FIELD = 2**255 - 19
"""Modulus of the coordinates of X25519."""


@dataclass
class Federation:
    """Parties with identities, policies and inputs, and the terms that all of them were told."""

    terms: Terms
    parties: dict[int, sums.Party]
    vectors: dict[int, NDArray[np.int64]]
    salt: str = ""
    journaled: bool = False
    scheme: sums.Scheme = SCHEME

    @property
    def roster(self) -> Roster:
        return self.terms.roster

    @property
    def t(self) -> int:
        return self.terms.parameters.threshold

    def at(self, **occasion: Any) -> Federation:
        """The same parties on another occasion."""
        terms = replace(self.terms, occasion=replace(self.terms.occasion, **occasion))
        return replace(self, terms=terms, salt=self.salt + str(sorted(occasion.items())))

    def with_policy(self, policy: Policy) -> Federation:
        """All parties with that policy."""
        return replace(self, parties={u: replace(p, policy=policy) for u, p in self.parties.items()})

    def with_journals(self, journals: Mapping[int, Journal]) -> Federation:
        """Every party with its journal; else each session has a new one, as if nothing were remembered."""
        return replace(self, parties={u: replace(p, journal=journals[u]) for u, p in self.parties.items()}, journaled=True)

    def session(self, u: int, *, terms: Terms | None = None, flow: Flow | None = None) -> Session:
        """A party's session, with entropy of its own that repeats from run to run of the test."""
        entropy = Replay(f"client {u} {self.salt}")
        party = self.parties[u] if self.journaled else replace(self.parties[u], journal=MemoryJournal())
        return sums.client_session(self.scheme, party, terms or self.terms, entropy=entropy, flow=flow)

    def sum(self, members: Iterable[int]) -> list[int]:
        """The true sum over those parties."""
        total: list[int] = np.sum([self.vectors[u] for u in members], axis=0).tolist()
        return total


def federation(n: int = 6, size: int = 5, *, parameters: Any = None, scheme: sums.Scheme = SCHEME) -> Federation:
    """``n`` parties; by default six, of which one may collude, with t = 4."""
    entropy = Replay("roster")
    roster, parties = sums.enrol(n, entropy=entropy)
    terms = scheme.terms(Occasion("attacked", 0), roster, parameters or scheme.parameters(n, size, MAX_ABS))
    words = entropy().words("inputs", n * size).reshape(n, size)
    vectors = (words % np.uint64(2 * MAX_ABS + 1)).astype(np.int64) - MAX_ABS
    return Federation(terms, {p.index: p for p in parties}, {u: vectors[u - 1] for u in roster.indexes}, scheme=scheme)


def run(
    fed: Federation,
    *,
    flows: Mapping[int, Flow] | None = None,
    network: simulate.Network | None = None,
    only: Iterable[int] | None = None,
    sessions: dict[Address, Session] | None = None,
) -> simulate.Outcome:
    """An honest server, parties some of whom run other flows, a network that may lie.  ``sessions`` is filled, if given."""
    everybody = {} if sessions is None else sessions
    everybody[SERVER] = sums.server_session(fed.scheme, fed.terms, entropy=Replay("server"))
    for u in fed.parties if only is None else only:
        everybody[client(u)] = fed.session(u, flow=(flows or {}).get(u))
    return simulate.run(everybody, {client(u): [Vector(x)] for u, x in fed.vectors.items()}, network=network)


def pair(label: str) -> KeyPair:
    """A key pair of the adversary's own."""
    return KeyPair.generate(Replay("keys")(), label)


def faults(outcome: simulate.Outcome) -> list[tuple[str, str | None, str | None]]:
    """What the server noted: (check, sender, step)."""
    return [(e.check, e.sender, e.step) for e in outcome.sessions[SERVER].faults]


def ending(session: Session) -> tuple[str, str | None] | None:
    """How a session ended: (check, step), or None."""
    return None if session.ended is None else (session.ended.check, session.ended.step)


def without_check(patch: pytest.MonkeyPatch, *checks: str) -> None:
    """Take exactly these checks out of the whole package."""

    def lenient(ok: object, check: str, detail: str = "", *, sender: str | None = None) -> None:
        if check not in checks:
            errors.require(ok, check, detail, sender=sender)

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "protocols" and name != "protocols.errors" and hasattr(module, "require"):
            patch.setattr(module, "require", lenient)


def restore(session: Session, state: object, *steps: str) -> None:
    """A party whose state outlives its use, as from the image of a machine: it holds ``state`` again, and no step has run."""
    session._values[type(state)] = state
    for step in steps:
        session._arrivals._fired.pop(step, None)


@dataclass(frozen=True)
class Box:
    """One box on its way with the hashes of its shares; ``peer`` is the other party, dealer or addressee."""

    peer: int
    box: bytes
    s_hash: bytes
    b_hash: bytes


def unpacked(message: Boxes | Sealed, peers: Iterable[int]) -> list[Box]:
    """The boxes in a message, whose peers are known from the list and the graph."""
    parts = zip(peers, strings(message.boxes, BOX), strings(message.hashes, PINS), strict=True)
    return [Box(v, box, pins[:32], pins[32:]) for v, box, pins in parts]


B = TypeVar("B", Boxes, Sealed)


def packed(message: B, boxes: Iterable[Box]) -> B:
    """The message with other boxes, in the order in which they are given."""
    kept = list(boxes)
    return replace(message, boxes=b"".join(x.box for x in kept), hashes=b"".join(x.s_hash + x.b_hash for x in kept))


@dataclass
class LyingServer:
    """A server played by the test.

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
        self.heard |= {(u, type(letter.message)): letter.message for letter in letters}
        return [letter.message for letter in letters]

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

    @property
    def publics(self) -> dict[int, bytes]:
        """The mask keys that parties advertised."""
        return {u: advert.s_pk for u, advert in self.all(Advert).items()}

    def mask_pair(self, u: int) -> KeyPair:
        """The mask keys of a colluding party, taken from its state before it masks."""
        return next(state.s for state in self.sessions[u].remembers if isinstance(state, Shared))

    # The rounds, as an honest server would play them, one party at a time

    def listed(self, members: Iterable[int] | None = None, **forged: Advert) -> Listed:
        """The round-0 list; ``forged`` adverts are keyed by ``p`` and the index."""
        adverts = {**self.all(Advert), **{int(name[1:]): advert for name, advert in forged.items()}}
        chosen = sorted(adverts) if members is None else list(members)
        return Listed(tuple(Entry(u, adverts[u].c_pk, adverts[u].s_pk, adverts[u].signature) for u in chosen))

    def holders(self, u: int) -> list[int]:
        """Who holds shares of the secrets of u, by the list that it was told."""
        listed = self.said[u, Listed]
        return list(secagg.holders_of(self.fed.terms, secagg.list_hash(listed), u, [e.index for e in listed.entries]))

    def dealt(self, u: int) -> list[Box]:
        """The boxes that u has dealt, by addressee."""
        return unpacked(self.all(Boxes)[u], [v for v in self.holders(u) if v != u])

    def sealed(self, v: int, u2: Iterable[int] | None = None) -> Sealed:
        """U2 and the boxes for ``v``."""
        dealt = self.all(Boxes)
        members = tuple(sorted(dealt) if u2 is None else u2)
        boxes = [replace(box, peer=u) for u in members if u != v and u in dealt for box in self.dealt(u) if box.peer == v]
        return packed(Sealed(members, b"", b""), boxes)

    def opened(self, u: int) -> dict[int, bytes]:
        """The shares that u has opened, by dealer; nothing where u left some out, as nobody knows whose they are."""
        holders, shares = self.holders(u), strings(self.all(Openings)[u].shares, SHARE_SIZE)
        dealers = [v for v in self.said[u, Sealed].u2 if v in holders]
        return dict(zip(dealers, shares, strict=True)) if len(shares) == len(dealers) else {}

    def agreed(self, signers: Iterable[int] | None = None) -> Agreed:
        """The signatures that came."""
        said = self.all(Agree)
        return Agreed(tuple(Signed(u, said[u].signature) for u in (sorted(said) if signers is None else signers)))

    def up_to_boxes(self) -> Listed:
        """Rounds 0 and 1 up to the boxes."""
        listed = self.listed()
        for u in self.sessions:
            self.tell(u, listed)
        return listed

    def up_to_masks(self) -> bytes:
        """Rounds 0 to 2; L."""
        listed = self.up_to_boxes()
        for u in self.sessions:
            self.tell(u, self.sealed(u))
        return secagg.list_hash(listed)

    def agree_on(self, dropped: Iterable[int] = ()) -> None:
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

    def collude(self, u: int) -> Covered:
        """What a colluding party hands over: its state after masking, with both shares for every dealer."""
        return next(state for state in self.sessions[u].remembers if isinstance(state, Covered))

    def shares(
        self, dealer: int, secret: str, covered: Mapping[int, Covered], opened: Mapping[int, Iterable[int]]
    ) -> dict[int, bytes]:
        """Shares of one secret: from openers whose U3 asks for it, and from colluding parties."""
        out = {}
        for u in self.all(Openings):
            if (dealer in opened[u]) == (secret == "b") and dealer in (shares := self.opened(u)):
                out[u] = shares[dealer]
        for u, state in covered.items():
            held = state.held.get(dealer)
            share = None if held is None else held.b_share if secret == "b" else held.s_share
            if share is not None:
                out[u] = share
        return out


def rebuild(shares: Mapping[int, bytes], t: int) -> Seed | None:
    """The secret behind ``t`` shares, or None if there are fewer."""
    if len(shares) < t:
        return None
    chosen = dict(list(shares.items())[:t])
    return Seed(Lagrange(list(chosen)).combine(list(chosen.values())))


def unmask(terms: Terms, L: bytes, u: int, masked: Masked, b: Seed, pairs: Mapping[int, Key]) -> list[int]:
    """The input behind one masked vector, from the seed of its self-mask and the keys of all its pair masks."""
    y = masked.y.values.copy()
    plus = [key for v, key in pairs.items() if u > v]
    minus = [derive(b, canonical(["self", terms.sid, L, u])), *(key for v, key in pairs.items() if u < v)]
    apply_masks(y, plus, minus)
    centred: list[int] = terms.parameters.ring.centre(y).tolist()
    return centred[:-1] if centred[-1] == 1 else []


def pair_keys(terms: Terms, L: bytes, u: int, keys: Mapping[int, bytes], known: Mapping[int, KeyPair]) -> dict[int, Key]:
    """Keys of the masks between ``u`` and others, from either side's key pair."""
    out = {}
    for v, public in keys.items():
        if v != u and u in known:
            out[v] = secagg.pair_key(terms, L, known[u], public, u, v)
        elif v != u and v in known:
            out[v] = secagg.pair_key(terms, L, known[v], keys[u], v, u)
    return out


def limits(fed: Federation) -> Limits:
    """Sizes of a session of the federation."""
    return Limits(fed.terms.parameters.parties, SCHEME.layouts(fed.terms.parameters))
