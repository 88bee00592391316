"""A cheating server of SecAgg and SecAgg+: how their messages are made, and how masks come off.

Everything that builds or reads a message of `protocols.secagg` for the harness is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from protocols import degree, secagg
from protocols.agreement import Agree, Agreed, Covering, Dropped, Signed
from protocols.handshake import list_hash
from protocols.primitives.agree import KeyPair, derive
from protocols.primitives.graph import Harary, ring_order
from protocols.primitives.prg import apply_masks
from protocols.primitives.shamir import SHARE_SIZE, Lagrange
from protocols.rand import Key, Seed
from protocols.schema import strings
from protocols.secagg_labels import pair_key
from protocols.secagg_types import BOX, PINS, Advert, Boxes, Covered, Entry, Listed, Masked, Openings, Sealed, Shared
from protocols.suite import Terms
from protocols.wire import canonical
from securefl.audit.cheating import CheatingServer

B = TypeVar("B", Boxes, Sealed)


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


def packed(message: B, boxes: Iterable[Box]) -> B:
    """The message with other boxes, in the order in which they are given."""
    kept = list(boxes)
    return replace(message, boxes=b"".join(x.box for x in kept), hashes=b"".join(x.s_hash + x.b_hash for x in kept))


@dataclass
class SecAggServer(CheatingServer):
    """A server played by an attack, against SecAgg."""

    @property
    def publics(self) -> dict[int, bytes]:
        """The mask keys that parties advertised."""
        return {u: advert.s_pk for u, advert in self.all(Advert).items()}

    def mask_pair(self, u: int) -> KeyPair:
        """The mask keys of a colluding party, taken from its state before it masks."""
        return self.state(u, Shared).s

    # The rounds, as an honest server would play them, one party at a time

    def listed(self, members: Iterable[int] | None = None, **forged: Advert) -> Listed:
        """The round-0 list; ``forged`` adverts are keyed by ``p`` and the index."""
        adverts = {**self.all(Advert), **{int(name[1:]): advert for name, advert in forged.items()}}
        chosen = sorted(adverts) if members is None else list(members)
        return Listed(tuple(Entry(u, adverts[u].c_pk, adverts[u].s_pk, adverts[u].signature) for u in chosen))

    def holders(self, u: int) -> list[int]:
        """Who holds shares of the secrets of u, by the list that it was told."""
        listed = self.said[u, Listed]
        return list(secagg.holders_of(self.fed.terms, list_hash(listed), u, [e.index for e in listed.entries]))

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
        return list_hash(listed)

    def collude(self, u: int) -> Covered:
        """What a colluding party hands over: its state after masking, with both shares for every dealer."""
        return self.state(u, Covered)

    def shares(
        self, dealer: int, secret: str, covered: Mapping[int, Covered], opened: Mapping[int, Iterable[int]]
    ) -> dict[int, bytes]:
        """Shares of one secret: from openers whose U3 asks for it, and from colluding parties."""
        out = dict[int, bytes]()
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
    return peel(terms, u, masked, pairs, self_mask(terms, L, u, b))


def self_mask(terms: Terms, L: bytes, u: int, b: Seed) -> Key:
    """The key of a party's self-mask."""
    return derive(b, canonical(["self", terms.sid, L, u]))


def peel(terms: Terms, u: int, masked: Masked, pairs: Mapping[int, Key], self_key: Key | None) -> list[int]:
    """What is left of a masked vector without the pair masks of these keys, and without the self-mask unless None; [] if noise."""
    y = masked.y.values.copy()
    plus = [key for v, key in pairs.items() if u > v]
    minus = [*([] if self_key is None else [self_key]), *(key for v, key in pairs.items() if u < v)]
    apply_masks(y, plus, minus)
    centred: list[int] = terms.parameters.ring.centre(y).tolist()
    return centred[:-1] if centred[-1] == 1 else []


def pair_keys(terms: Terms, L: bytes, u: int, keys: Mapping[int, bytes], known: Mapping[int, KeyPair]) -> dict[int, Key]:
    """Keys of the masks between ``u`` and others, from either side's key pair."""
    out = {}
    for v, public in keys.items():
        if v != u and u in known:
            out[v] = pair_key(terms, L, known[u], public, u, v)
        elif v != u and v in known:
            out[v] = pair_key(terms, L, known[v], keys[u], v, u)
    return out


@dataclass
class SparseServer(SecAggServer):
    """A lying server that knows who sits where on the ring.

    Attributes:
        L: hash of the round-0 list.
        order: the party at each place of the ring.
        told: the U2 that each party was told.
        sets: the U3 that each party agreed to.
    """

    L: bytes = b""
    order: tuple[int, ...] = ()
    told: dict[int, tuple[int, ...]] = field(default_factory=dict)
    sets: dict[int, tuple[int, ...]] = field(default_factory=dict)

    def deal(self) -> None:
        """Rounds 0 and 1 up to the boxes."""
        self.L = list_hash(self.up_to_boxes())
        self.order = tuple(int(u) + 1 for u in ring_order(len(self.fed.roster), self.fed.terms.sid + self.L)[0])
        self.told = dict.fromkeys(self.fed.parties, tuple(self.fed.parties))

    def near(self, u: int) -> tuple[int, ...]:
        """The neighbours of ``u``."""
        return secagg.holders_of(self.fed.terms, self.L, u, self.fed.parties)

    def within_bounds(self, colluding: Iterable[int]) -> bool:
        """Whether no neighbourhood, and no k/2 places in a row, hold more colluders than the parameters stand."""
        parameters, few = self.fed.terms.parameters, set(colluding)
        graph, n = parameters.graph, len(self.order)
        if not isinstance(graph, Harary):
            return False
        setting = degree.Setting(n, parameters.corrupt, 0, graph.security, semi_honest=True)
        around = max(len(few.intersection(self.near(u))) for u in self.order)
        after = max(len(few.intersection(places(self.order, at, range(1, graph.degree // 2 + 1)))) for at in range(n))
        bounds = degree.threshold_bound(setting, graph.degree), degree.gap(setting, graph.degree)
        return len(few) <= parameters.corrupt and around <= bounds[0] and after <= bounds[1]

    def keys(self, u: int) -> KeyPair:
        """The mask keys of a colluding party, taken from its state before it masks."""
        return self.mask_pair(u)

    def mask(self, without: Mapping[int, Iterable[int]] | None = None) -> None:
        """Round 2: U2 is everybody, but for each party of ``without`` everybody without those."""
        for u, absent in (without or {}).items():
            self.told[u] = tuple(v for v in self.fed.parties if v not in set(absent))
        for u, u2 in self.told.items():
            self.tell(u, self.sealed(u, u2))

    def survive(self, parties: Iterable[int], u3: Iterable[int]) -> None:
        """Round 3: tell those parties, of whom all are in it, that ``u3`` survived."""
        left = tuple(u3)
        for u in parties:
            self.tell(u, Dropped(tuple(v for v in self.told[u] if v not in left)))
            self.sets[u] = left

    def open(self, parties: Iterable[int], colluders: Mapping[int, Covered]) -> None:
        """Round 3 to 4: show those parties all signatures that there are on their U3, and what its members signed in round 2."""
        asked = [u for u in parties if self.sessions[u].ended is None]
        if not asked:
            return
        u3, masked = self.sets[asked[0]], self.all(Masked)
        said = {u: m.signature for u, m in self.all(Agree).items() if self.sets[u] == u3}
        for u, state in colluders.items():
            said[u] = state.invited.identity.sign(self.fed.terms.statement("agree", u, self.L, list(u3)))
        coverings = tuple(Covering(masked[u].y.digest, masked[u].receipt, masked[u].signature) for u in u3)
        shown = Agreed(tuple(Signed(u, said[u]) for u in sorted(said) if u in u3), coverings)
        for u in asked:
            self.tell(u, shown)

    def secrets(self, dealers: Iterable[int], which: str, colluders: Mapping[int, Covered]) -> dict[int, Seed]:
        """The secrets of whom enough shares were opened or are held by colluders."""
        t = self.fed.terms.parameters.shares
        found = {v: rebuild(self.shares(v, which, colluders, self.sets), t) for v in dealers}
        return {v: secret for v, secret in found.items() if secret is not None}

    def segment(self, members: Iterable[int], b: Mapping[int, Seed], known: Mapping[int, KeyPair]) -> list[int]:
        """The sum over ``members`` alone, from their self-mask seeds and the mask keys of their neighbours outside; [] if short."""
        terms, inside = self.fed.terms, set(members)
        ring, publics = terms.parameters.ring, self.publics
        total = [0] * (terms.parameters.size + 1)
        for u in inside:
            outside = {v: publics[v] for v in self.near(u) if v in self.told[u] and v not in inside}
            if u not in b or not outside.keys() <= known.keys():
                return []
            pairs = pair_keys(terms, self.L, u, {u: publics[u], **outside}, known)
            y = self.all(Masked)[u].y.values.copy()
            minus = [self_mask(terms, self.L, u, b[u]), *(key for v, key in pairs.items() if u < v)]
            apply_masks(y, [key for v, key in pairs.items() if u > v], minus)
            total = [one + int(other) for one, other in zip(total, y, strict=True)]
        centred = [(value + ring.half) % ring.modulus - ring.half for value in total]
        return centred[:-1] if centred[-1] == len(inside) else []


def places(order: tuple[int, ...], start: int, offsets: Iterable[int]) -> list[int]:
    """The parties at these places of the ring."""
    return [order[(start + offset) % len(order)] for offset in offsets]
