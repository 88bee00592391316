"""Federations of real sessions for the harness: parties with identities, policies and inputs, and runs in which somebody cheats.

Entropy is deterministic, so that an attack repeats from run to run; where randomness itself is attacked, a federation takes the
operating system's (`Federation.entropy`).  All parties live in one process and nothing is hidden from the harness: it compares what
an adversary computes with what is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from protocols import simulate, sums
from protocols.flow import Flow
from protocols.policy import Journal, MemoryJournal, Policy
from protocols.rand import Entropy, Replay
from protocols.session import SERVER, Address, Session, client
from protocols.suite import Occasion, Roster, SumParameters, Terms
from protocols.vector import Vector
from protocols.wire import Limits

if TYPE_CHECKING:
    from securefl.audit.carried import Wire

MAX_ABS = 1000
DELIVERIES = 200_000
"""How many letters a run may deliver before it counts as a flood."""


@dataclass
class Federation:
    """Parties with identities, policies and inputs, and the terms that all of them were told.

    Attributes:
        terms: of the sum.
        parties: by roster index.
        vectors: the input of each, shape (d,), int64.
        salt: tells the entropy of one occasion from that of another.
        journaled: whether parties remember what they joined and spent; else each session has a new journal.
        scheme: the protocol.
        entropy: makes a party's entropy from its index; by default one that repeats.
        deliveries: bound of every run.
        wire: carries what server and parties send, where the port is attacked too; None: it stays in the process.
    """

    terms: Terms[Any]
    parties: dict[int, sums.Party]
    vectors: dict[int, NDArray[np.int64]]
    salt: str = ""
    journaled: bool = False
    scheme: sums.Scheme = sums.SCHEMES["secagg"]
    entropy: Callable[[int], Entropy] | None = None
    deliveries: int = DELIVERIES
    wire: Wire | None = None

    @property
    def roster(self) -> Roster:
        """Who is invited."""
        return self.terms.roster

    @property
    def t(self) -> int:
        """The threshold."""
        return int(self.terms.parameters.threshold)

    @property
    def everybody(self) -> tuple[int, ...]:
        """All indexes."""
        return tuple(self.parties)

    @property
    def limits(self) -> Limits:
        """Sizes of its sessions."""
        parameters = self.terms.parameters
        return Limits(parameters.parties, self.scheme.layouts(parameters))

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

    def with_memory(self) -> Federation:
        """Every party with a journal that it keeps."""
        return self.with_journals({u: MemoryJournal() for u in self.parties})

    def session(self, u: int, *, terms: Terms[Any] | None = None, flow: Flow | None = None) -> Session:
        """A party's session, with entropy of its own."""
        entropy = Replay(f"client {u} {self.salt}") if self.entropy is None else self.entropy(u)
        party = self.parties[u] if self.journaled else replace(self.parties[u], journal=MemoryJournal())
        return self.wired(sums.client_session(self.scheme, party, terms or self.terms, entropy=entropy, flow=flow))

    def server(self, *, terms: Terms[Any] | None = None, flow: Flow | None = None) -> Session:
        """The honest server's session."""
        return self.wired(sums.server_session(self.scheme, terms or self.terms, entropy=Replay("server"), flow=flow))

    def wired(self, session: Session) -> Session:
        """The session, fed through the wire where there is one."""
        if self.wire is None:
            return session
        from securefl.audit.carried import Carried  # noqa: PLC0415  (loads gRPC)

        return cast("Session", Carried(session, self.wire))

    def sum(self, members: Iterable[int]) -> list[int]:
        """The true sum over those parties."""
        total: list[int] = np.sum([self.vectors[u] for u in members], axis=0).tolist()
        return total

    def secret(self, u: int) -> list[int]:
        """The true input of a party."""
        values: list[int] = self.vectors[u].tolist()
        return values


def federation(
    n: int = 6,
    size: int = 5,
    *,
    parameters: SumParameters | None = None,
    scheme: sums.Scheme | None = None,
    policy: Policy | None = None,
    max_abs: int = MAX_ABS,
) -> Federation:
    """``n`` parties with random inputs; by default six under SecAgg, of which one may collude, with t = 4."""
    chosen, entropy = scheme or sums.SCHEMES["secagg"], Replay("roster")
    roster, parties = sums.enrol(n, entropy=entropy, policy=policy)
    terms = chosen.terms(Occasion("attacked", 0), roster, parameters or chosen.parameters(n, size, max_abs))
    words = entropy().words("inputs", n * size).reshape(n, size)
    vectors = (words % np.uint64(2 * max_abs + 1)).astype(np.int64) - max_abs
    return Federation(terms, {p.index: p for p in parties}, {u: vectors[u - 1] for u in roster.indexes}, scheme=chosen)


def run(
    fed: Federation,
    *,
    flows: Mapping[int, Flow] | None = None,
    network: simulate.Network | None = None,
    watch: simulate.Watch | None = None,
    only: Iterable[int] | None = None,
    sessions: dict[Address, Session] | None = None,
) -> simulate.Outcome:
    """An honest server, parties some of whom run other flows, a network that may lie.  ``sessions`` is filled, if given."""
    everybody = {} if sessions is None else sessions
    everybody.setdefault(SERVER, fed.server())
    for u in fed.parties if only is None else only:
        everybody.setdefault(client(u), fed.session(u, flow=(flows or {}).get(u)))
    inputs = {client(u): [Vector(x)] for u, x in fed.vectors.items() if client(u) in everybody}
    return simulate.run(everybody, inputs, network=network, watch=watch, max_deliveries=fed.deliveries)


def faults(outcome: simulate.Outcome) -> list[tuple[str, str | None, str | None]]:
    """What the server noted: (check, sender, step)."""
    return [(e.check, e.sender, e.step) for e in outcome.sessions[SERVER].faults]


def ending(session: Session) -> tuple[str, str | None] | None:
    """How a session ended: (check, step), or None."""
    return None if session.ended is None else (session.ended.check, session.ended.step)
