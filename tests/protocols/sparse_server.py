"""A cheating server that knows who sits where on the ring, and small federations for it to cheat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from adversary import Federation, LyingServer, ending, federation, pair_keys, rebuild

from protocols import degree, secagg, sums
from protocols.agreement import Agree, Agreed, Covering, Dropped, Signed
from protocols.policy import Policy
from protocols.primitives.agree import KeyPair, derive
from protocols.primitives.graph import Harary, ring_order
from protocols.primitives.prg import apply_masks
from protocols.rand import Seed
from protocols.ring import Ring
from protocols.secagg_types import Advert, Covered, Masked, Shared
from protocols.suite import Parameters
from protocols.wire import canonical

SCHEME, SIZE = sums.scheme("secagg+"), 3
WEAK = Policy(min_corrupt=0, min_security=1)
TRUSTING = replace(WEAK, min_threshold=0.2, semi_honest=True)


def world(n: int, k: int, corrupt: int, policy: Policy = WEAK, *, dropouts: int | None = None) -> Federation:
    """``n`` parties on a ring of degree ``k`` with the least threshold and gap that σ = 1 allows against ``corrupt`` of them.

    With ``dropouts``: against a server that follows the protocol, connected while no more than those are lost.
    """
    trusted = dropouts is not None
    s = degree.Setting(n, corrupt, 0, 1, semi_honest=trusted)
    t, gap = max(degree.threshold_bound(s, k) + 1, 2), None if trusted else degree.gap(s, k)
    agree = n - dropouts if dropouts is not None else (n + corrupt) // 2 + 1
    parameters = Parameters(n, SIZE, 1000, Ring(20), agree, corrupt, Harary(n, k, t, 1, gap))
    return federation(n, SIZE, parameters=parameters, scheme=SCHEME).with_policy(policy)


@dataclass
class SparseServer(LyingServer):
    """A lying server that knows who sits where.

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
        self.L = secagg.list_hash(self.up_to_boxes())
        self.order = tuple(int(u) + 1 for u in ring_order(len(self.fed.roster), self.fed.terms.sid + self.L)[0])
        self.told = dict.fromkeys(self.fed.parties, tuple(self.fed.parties))

    def near(self, u: int) -> tuple[int, ...]:
        """The neighbours of ``u``."""
        return secagg.holders_of(self.fed.terms, self.L, u, self.fed.parties)

    def within_bounds(self, colluding: Iterable[int]) -> bool:
        """Whether no neighbourhood, and no k/2 places in a row, hold more colluders than the parameters stand."""
        parameters, few = self.fed.terms.parameters, set(colluding)
        graph, n = parameters.graph, len(self.order)
        setting = degree.Setting(n, parameters.corrupt, 0, graph.security, semi_honest=True)
        around = max(len(few.intersection(self.near(u))) for u in self.order)
        after = max(len(few.intersection(places(self.order, at, range(1, graph.degree // 2 + 1)))) for at in range(n))
        bounds = degree.threshold_bound(setting, graph.degree), degree.gap(setting, graph.degree)
        return len(few) <= parameters.corrupt and around <= bounds[0] and after <= bounds[1]

    def keys(self, u: int) -> KeyPair:
        """The mask keys of a colluding party, taken from its state before it masks."""
        return next(state.s for state in self.sessions[u].remembers if isinstance(state, Shared))

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
        ring, publics = terms.parameters.ring, {u: advert.s_pk for u, advert in self.all(Advert).items()}
        total = [0] * (SIZE + 1)
        for u in inside:
            outside = {v: publics[v] for v in self.near(u) if v in self.told[u] and v not in inside}
            if u not in b or not outside.keys() <= known.keys():
                return []
            pairs = pair_keys(terms, self.L, u, {u: publics[u], **outside}, known)
            y = self.all(Masked)[u].y.values.copy()
            minus = [derive(b[u], canonical(["self", terms.sid, self.L, u])), *(key for v, key in pairs.items() if u < v)]
            apply_masks(y, [key for v, key in pairs.items() if u > v], minus)
            total = [one + int(other) for one, other in zip(total, y, strict=True)]
        centred = [(value + ring.half) % ring.modulus - ring.half for value in total]
        return centred[:-1] if centred[-1] == len(inside) else []


def endings(server: LyingServer, parties: Iterable[int]) -> set[tuple[str, str | None] | None]:
    return {ending(server.sessions[u]) for u in parties}


def places(order: tuple[int, ...], start: int, offsets: Iterable[int]) -> list[int]:
    return [order[(start + offset) % len(order)] for offset in offsets]
