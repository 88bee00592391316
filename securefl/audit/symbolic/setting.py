"""What is explored: how many parties, who of them helps the server, which lies the server tells; and the cast before round 0.

A server that lies can give a party any message.  Only those matter that differ in what the party makes of them, and those are
listed here and in `securefl.audit.symbolic.world`: for every line of a list the keys of its party, other keys, forged, old or
copied ones, or no line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product

from protocols import secagg
from protocols.policy import Policy
from protocols.primitives.agree import KeyPair
from protocols.rand import Rand, Replay
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Advert, Advertised, Entry, Invited, Listed
from protocols.suite import default_corrupt, default_threshold
from securefl.audit.cheating import pair
from securefl.audit.federation import MAX_ABS, Federation, federation

LISTS, KEYS, BOXES = "lists", "keys", "boxes"
LIES = frozenset({LISTS, KEYS, BOXES})
"""Classes of lies beside U2 and the dropped set: who is listed, under which keys, and whose boxes are relayed."""
EARLIER = 7
"""Number of the earlier round whose messages the server kept; that of the round itself is 0."""


@dataclass(frozen=True)
class Setting:
    """A federation of SecAgg on the complete graph, and its adversary: the server and the parties that help it.

    Attributes:
        parties: n.
        corrupt: |C| of the parameters.
        threshold: t of the parameters.
        colluding: indexes of those who help the server.
        lies: classes of lies that the server tells, of `LIES`.
        uses: how many messages of the opening rounds one state answers; more than 1 only as a control.
        again: whether the earlier round had this very session identity, as where parties lose their journals.
    """

    parties: int
    corrupt: int
    threshold: int
    colluding: tuple[int, ...]
    lies: frozenset[str] = LIES
    uses: int = 1
    again: bool = False

    @classmethod
    def of(
        cls,
        parties: int,
        corrupt: int | None = None,
        threshold: int | None = None,
        *,
        colluding: int | None = None,
        lies: Iterable[str] = LIES,
        uses: int = 1,
        again: bool = False,
    ) -> Setting:
        """With the defaults of `Parameters.of`; as many parties help the server as the parameters stand, the last ones."""
        c = default_corrupt(parties) if corrupt is None else corrupt
        t = default_threshold(parties, c) if threshold is None else threshold
        helpers = c if colluding is None else colluding
        return cls(parties, c, t, tuple(range(parties - helpers + 1, parties + 1)), frozenset(lies), uses, again)

    @property
    def roster(self) -> tuple[int, ...]:
        """All indexes."""
        return tuple(range(1, self.parties + 1))

    @property
    def honest(self) -> tuple[int, ...]:
        """Those who do not help the server."""
        return tuple(u for u in self.roster if u not in self.colluding)

    @property
    def least(self) -> int:
        """Fewest honest parties that a sum may be over: t − |C|, at least 2."""
        return max(2, self.threshold - self.corrupt)

    @property
    def name(self) -> str:
        """In one line."""
        return f"n = {self.parties}, t = {self.threshold}, |C| = {self.corrupt}, {len(self.colluding) or 'nobody'} with the server"

    def federation(self) -> Federation:
        """Its parties; their policies accept the |C| that is explored."""
        parameters = Parameters.of(self.parties, 2, MAX_ABS, corrupt=self.corrupt, threshold=self.threshold)
        return federation(self.parties, 2, parameters=parameters, policy=Policy(min_corrupt=self.corrupt))


def step_rand(fed: Federation, u: int, step: int) -> Rand:
    """The randomness of a party's step, as its session would have it (`Federation.session`)."""
    entropy = Replay(f"client {u} {fed.salt}")
    for _ in range(step - 1):
        entropy()
    return entropy()


@dataclass(frozen=True)
class Line:
    """One line of a list as some party is told it.

    Attributes:
        entry: index, keys, signature.
        name: whose keys these are; empty for the party's own.
    """

    entry: Entry
    name: str = ""

    def __str__(self) -> str:
        return f"{self.entry.index}{f' ({self.name})' if self.name else ''}"


@dataclass(frozen=True)
class Told:
    """A list as one party is told it.

    Attributes:
        lines: in order.
        lies: in how many ways it differs from what an honest server says.
    """

    lines: tuple[Line, ...]
    lies: int

    @property
    def listed(self) -> Listed:
        """The message."""
        return Listed(tuple(line.entry for line in self.lines))


@dataclass
class Cast:
    """Everybody's keys before anything is said, and what the adversary holds of them.

    Attributes:
        setting: what is explored.
        fed: the federation.
        states: of all parties after round 0.
        adverts: what they sent.
        known: key pairs whose secrets the adversary has, by public key.
    """

    setting: Setting
    fed: Federation
    states: dict[int, Advertised] = field(default_factory=dict)
    adverts: dict[int, Advert] = field(default_factory=dict)
    known: dict[bytes, KeyPair] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for u, party in self.fed.parties.items():
            invited = Invited(u, party.identity, self.fed.terms, party.policy)
            self.states[u], self.adverts[u] = secagg.advertise(invited, step_rand(self.fed, u, 1))
        for v in self.setting.colluding:
            self.learn(self.states[v].c, self.states[v].s)

    def learn(self, *pairs: KeyPair) -> None:
        """The adversary has these secrets."""
        self.known |= {one.public: one for one in pairs}

    def lines(self, earlier: Cast | None) -> dict[int, list[Line]]:
        """What may stand in the line of each party, the truth first.

        Args:
            earlier: a round before; its parties dropped out there one after another, so the server rebuilt their mask keys.
        """
        out = {u: [self._line(u, self.adverts[u])] for u in self.fed.parties}
        if KEYS not in self.setting.lies:
            return out
        for v in self.fed.parties:
            c, s = pair(f"c of {v}"), pair(f"s of {v}")
            self.learn(c, s)
            if v in self.setting.colluding:
                out[v].append(self._signed(v, c.public, s.public, "its second keys"))
                out[v] += [line for w in self.setting.honest for line in self._copied(v, w)]
                continue
            out[v].append(self._line(v, replace(self.adverts[v], c_pk=c.public, s_pk=s.public), "keys of the server's"))
            if earlier is not None:
                self.learn(earlier.states[v].s)
                out[v].append(self._line(v, earlier.adverts[v], "its keys of an earlier round"))
        return out

    def _copied(self, v: int, w: int) -> Iterator[Line]:
        own, other = self.adverts[v], self.adverts[w]
        yield self._signed(v, other.c_pk, own.s_pk, f"with the box key of {w}")
        yield self._signed(v, own.c_pk, other.s_pk, f"with the mask key of {w}")
        yield self._signed(v, other.s_pk, own.s_pk, f"with the mask key of {w} for boxes")

    def _signed(self, v: int, c_pk: bytes, s_pk: bytes, name: str) -> Line:
        statement = self.fed.terms.statement("keys", v, c_pk, s_pk)
        return self._line(v, Advert(c_pk, s_pk, self.fed.parties[v].identity.sign(statement)), name)

    @staticmethod
    def _line(v: int, advert: Advert, name: str = "") -> Line:
        return Line(Entry(v, advert.c_pk, advert.s_pk, advert.signature), name)


def told(cast: Cast, lines: dict[int, list[Line]]) -> list[Told]:
    """All lists that can be told: any members under any of their lines; one with a line twice, one in another order."""
    absent: list[Line | None] = [None] if LISTS in cast.setting.lies else []
    out = list[Told]()
    for choice in product(*([*lines[u], *absent] for u in cast.setting.roster)):
        chosen = tuple(line for line in choice if line is not None)
        if len(chosen) >= 2:
            lies = bool(len(chosen) < len(choice)) + sum(bool(line.name) for line in chosen)
            out.append(Told(chosen, lies))
    if absent:
        whole = out[0].lines
        out += [Told((*whole[:-1], whole[-2]), 1), Told(whole[::-1], 1)]
    return sorted(out, key=lambda one: one.lies)
