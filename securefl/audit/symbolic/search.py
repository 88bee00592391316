"""Every state that the parties can be brought into together, and what the adversary can derive there.

A state says how far each honest party has come and what it was told.  Orders need not be told apart: a step changes its own party
alone, and what the adversary knows only grows, so whatever it can have at some time in some order it has in the state in which
everybody has come as far as there, round by round.  For the same reason only ways that end matter, and a part of a state in which
nothing could be derived even if all others told everything is left at once.

Source: Dolev and Yao, On the Security of Public Key Protocols, IEEE Transactions on Information Theory 29(2), 1983: cryptography is
perfect.  Derived is a secret from t of its shares; what is in a box from the secret of either of its keys; a mask from the seed b,
or from the secret of either of its keys; and from the vectors every linear combination in which masks that are not known cancel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from time import process_time
from typing import Literal

from protocols.agreement import Agreed, Signed
from securefl.audit.symbolic.derive import Knowledge, combinations_of
from securefl.audit.symbolic.setting import Setting
from securefl.audit.symbolic.ways import Consent, Run, State, Way
from securefl.audit.symbolic.world import IN_CLEAR, B, S, World

Seek = Literal["all", "few", "many"]


@dataclass(frozen=True)
class Attack:
    """A state that must not be.

    Attributes:
        state: the way of each honest party.
        knowledge: what is derived there.
        both: parties both secrets of whom are derived.
        learned: parties whose vectors add up to something that may not be opened, with their coefficients.
    """

    state: State
    knowledge: Knowledge
    both: tuple[int, ...]
    learned: Mapping[int, int]


@dataclass
class Result:
    """What an exploration found.

    Attributes:
        setting: what was explored.
        messages: how many messages were given to real steps.
        ways: how many ways the honest parties have, all together.
        states: how many states were looked at.
        seconds: of computing.
        sums: sets of honest parties whose sum can be opened.
        attack: the first state that must not be, or None.
    """

    setting: Setting
    messages: int = 0
    ways: int = 0
    states: int = 0
    seconds: float = 0.0
    sums: set[frozenset[int]] = field(default_factory=set)
    attack: Attack | None = None


def explore(world: World, *, seek: Seek = "all", victims: int | None = None) -> Result:
    """Look at every state for every victim, until one is found that must not be.

    Args:
        world: all moves.
        seek: in which order: ``few`` lies first, for an attack that reads well; ``many`` lies first, which finds one sooner where
            parties are many.  Where there is none the order is all the same.
        victims: for how many victims; honest parties differ in nothing but their index, so one says as much as all.
    """
    began, search = process_time(), _Search(world, many=seek == "many")
    most = search.most_lies
    for budget in range(most + 1) if seek == "few" else [most]:
        for victim in world.setting.honest[:victims]:
            order = [victim, *(u for u in world.setting.honest if u != victim)]
            search.result.attack = search.result.attack or search.attack(order, {}, budget)
    search.result.messages, search.result.seconds = world.tried, process_time() - began
    return search.result


class _Search:
    def __init__(self, world: World, *, many: bool) -> None:
        self.world, self.setting = world, world.setting
        needed = {run for covers in world.covers.values() for cover in covers for run in cover.needs}
        self.ways = {u: sorted(self._ways(u, needed), key=lambda way: way.lies, reverse=many) for u in self.setting.honest}
        self.most_lies = sum(max((way.lies for way in ways), default=0) for ways in self.ways.values())
        self.result = Result(self.setting, ways=sum(map(len, self.ways.values())))
        self._publics = {u: world.cast.adverts[u].s_pk for u in self.setting.honest}
        self._old = dict[tuple[bytes, tuple[int, ...], int], bytes | None]()
        self._any = dict[tuple[bytes, tuple[int, ...], int], bytes]()
        self._shows = dict[tuple[object, ...], tuple[Agreed, int] | None]()
        self._can = {u: self._could_open(u) for u in self.setting.honest}
        self._t = int(world.cast.fed.terms.parameters.shares)
        everybody = self.setting.roster
        self._groups = {
            (u, secret): sum(world.bit(u, secret, x) for x in everybody) for u in self.setting.honest for secret in (S, B)
        }

    def _ways(self, u: int, needed: set[Run]) -> Iterator[Way]:
        for at, run in enumerate(self.world.runs[u]):
            if run in needed or at == 0:
                yield Way(run)
        spoken = {id(consent.cover) for consent in self.world.consents[u]}
        yield from (Way(cover.run, cover) for cover in self.world.covers[u] if id(cover) not in spoken)
        for consent in self.world.consents[u]:
            yield Way(consent.cover.run, consent.cover, (consent,))
        for uses in range(2, self.setting.uses + 1):
            for several in combinations(self.world.consents[u], uses):
                if len({id(one.cover) for one in several}) == 1:
                    yield Way(several[0].cover.run, several[0].cover, several)

    def _could_open(self, u: int) -> int:
        """Every share that is known through a party, on whatever way: those that it opens, and all in its boxes."""
        bits = 0
        for run in self.world.runs[u]:
            for _, readable in run.readable:
                bits |= readable
        for consent in self.world.consents[u]:
            if (found := self._open(consent, {})) is not None:
                bits |= found[1]
        return bits

    # What is shown in round 4

    def _open(self, consent: Consent, state: State) -> tuple[Agreed, int] | None:
        """Show a party whatever makes it open its shares; those who are not in the state yet sign anything."""
        good = {v: found for v in self.setting.roster if (found := self._signature(v, consent, state)) is not None}
        at = (id(consent), *good.items())
        if at not in self._shows:
            tries = ((agreed, self.world.opened(consent, agreed)) for agreed in self._shown(consent, good))
            self._shows[at] = next(((agreed, bits) for agreed, bits in tries if bits is not None), None)
        return self._shows[at]

    def _shown(self, consent: Consent, good: Mapping[int, bytes]) -> Iterator[Agreed]:
        u3 = consent.state.u3
        inside = {v: signature for v, signature in good.items() if v in u3}
        yield _agreed(inside)
        yield _agreed({v: inside.get(v, bytes(64)) for v in u3})
        yield _agreed(good)
        own = Signed(consent.cover.run.party, consent.signature)
        yield Agreed(tuple(Signed(v, inside[v]) for v in sorted(inside)) + (own,) * self._threshold)

    @property
    def _threshold(self) -> int:
        return int(self.world.cast.fed.t)

    def _signature(self, v: int, consent: Consent, state: State) -> bytes | None:
        """What the adversary has of v that passes for its signature over this list and set."""
        L, u3, fed = consent.state.L, consent.state.u3, self.world.cast.fed
        at = L, u3, v
        if v in self.setting.colluding or v not in state:
            if at not in self._any:
                self._any[at] = fed.parties[v].identity.sign(fed.terms.statement("agree", v, L, u3))
            return self._any[at]
        for one in state[v].consents:
            if self.world.good(L, u3, v, one.signature):
                return one.signature
        if at not in self._old:
            earlier = [] if self.world.earlier is None else self.world.earlier.consents[v]
            self._old[at] = next((one.signature for one in earlier if self.world.good(L, u3, v, one.signature)), None)
        return self._old[at]

    # What is derived

    def knowledge(self, state: State) -> Knowledge:
        """All that can be derived, if those who are not in the state yet tell everything."""
        bits, opened = 0, dict[int, Agreed]()
        for w in self.setting.honest:
            bits |= 0 if w in state else self._can[w]
        for u, way in state.items():
            for consent in way.consents:
                if (found := self._open(consent, state)) is not None:
                    opened[u] = found[0]
                    bits |= found[1]
        keys, publics = set[int](), {IN_CLEAR, *self.world.cast.known}
        while True:
            for way in state.values():
                for public, readable in way.run.readable:
                    bits |= readable if public in publics else 0
            more = {u for u in self.setting.honest if u not in keys and self._enough(bits, u, S)}
            if not more:
                break
            keys |= more
            publics |= {self._publics[u] for u in more}
        seeds = {u for u in self.setting.honest if self._enough(bits, u, B)}
        return Knowledge(frozenset(seeds), frozenset(keys), frozenset(publics), bits, opened)

    def _enough(self, bits: int, u: int, secret: int) -> bool:
        return (bits & self._groups[u, secret]).bit_count() >= self._t

    # The search

    def attack(self, order: list[int], state: State, budget: int) -> Attack | None:
        """The first state that must not be, among those that begin with this one."""
        u = order[len(state)]
        for way in self.ways[u]:
            if way.lies > budget:
                continue
            grown = {**state, u: way}
            if not _fits(grown):
                continue
            self.result.states += 1
            known = self.knowledge(grown)
            both = {order[0]} if len(grown) < len(order) else set(grown)
            doubled = tuple(sorted(both & known.seeds & known.keys))
            if not doubled and order[0] not in known.seeds:
                continue
            learned = combinations_of(grown, known, {self._publics[w] for w in order[len(grown) :]})
            if not doubled and not any(order[0] in vector for vector in learned):
                continue
            if len(grown) < len(order):
                found = self.attack(order, grown, budget - way.lies)
            else:
                found = self._judged(grown, known, doubled, learned)
            if found is not None:
                return found
        return None

    def _judged(self, state: State, known: Knowledge, both: tuple[int, ...], learned: list[dict[int, int]]) -> Attack | None:
        for vector in learned:
            if len(learned) > 1 or set(vector.values()) != {1} or len(vector) < self.setting.least:
                return Attack(state, known, both, vector)
            self.result.sums.add(frozenset(vector))
        return Attack(state, known, both, {}) if both else None


def _agreed(signatures: Mapping[int, bytes]) -> Agreed:
    return Agreed(tuple(Signed(v, signatures[v]) for v in sorted(signatures)))


def _fits(state: State) -> bool:
    """Whether the boxes that parties were given are those that the others sealed."""
    for way in state.values():
        for run in way.cover.needs if way.cover is not None else ():
            if run.party in state and state[run.party].run is not run:
                return False
    return True
