"""Many sums after one handshake, entered: what `protocols.sums` is for single ones.

A `Batch` has two flows.  The handshake leaves a `Ready` at each party and a `ServerReady` at the server, as outputs of their
sessions; a step starts from these and leaves those of the next one.  A driver keeps them between steps, and drops those of a party
that is lost.  All parties in one process:

    made = batch("secagg")
    terms = made.terms(Occasion("run", 0), roster, parameters, steps=100)
    group = handshake(made, parties, terms)
    outcome = group.step({u: Vector(x) for u, x in vectors.items()}, model)
    total = opened(outcome)

Channel assumed, and what it does not protect: as the protocols, `protocols.batch` and `protocols.kahe_batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from protocols import batch as secagg_batch
from protocols import kahe_batch, kahe_types, simulate
from protocols.batch_terms import HandshakeTerms, StepTerms
from protocols.batch_types import BatchCollecting, Ready, ServerReady, ServerTurn, Turn
from protocols.errors import Misuse
from protocols.flow import Flow
from protocols.kahe_parameters import KaheParameters
from protocols.policy import OccasionGuard, StepGuard
from protocols.rand import Entropy, fresh
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Invited
from protocols.session import SERVER, Address, Session, client
from protocols.suite import Occasion, Roster, SumParameters, Terms
from protocols.sums import Party, Scheme, scheme
from protocols.vector import Sum, Vector
from protocols.wire import Limits


@dataclass(frozen=True)
class Batch:
    """A protocol for many sums after one handshake.

    Attributes:
        scheme: the protocol of its single sums, whose parameters, suite and layouts it shares.
        handshake: flow of the handshake; gives `Ready` at a party and `ServerReady` at the server.
        steps: flow of one sum; a party starts with a `Turn` and awaits a `Vector`, the server starts with a `ServerTurn`.
        masked: the parameters of what is masked, from those of the sum: of the keys where there are some.
        whole: the other way.
    """

    scheme: Scheme
    handshake: Flow
    steps: Flow
    masked: Callable[[Any], Parameters] = lambda parameters: parameters
    whole: Callable[[Any], SumParameters] = lambda parameters: parameters

    def terms(self, occasion: Occasion, roster: Roster, parameters: SumParameters, steps: int) -> HandshakeTerms[Parameters]:
        """The terms of a handshake.

        Args:
            occasion: of the handshake; its round is that of the first sum, its model is left at zeros.
            roster: who is invited.
            parameters: of every sum, as for a single one (`Scheme.parameters`).
            steps: S, sums that it prepares: 1 to `protocols.batch_terms.most_steps`.

        Raises:
            Misuse: for another number of sums.
        """
        return HandshakeTerms(self.scheme.suite(parameters), occasion, roster, self.masked(parameters), steps)

    def limits(self, terms: HandshakeTerms[Parameters]) -> Limits:
        """Sizes of the sessions of a handshake and of its steps."""
        return Limits(terms.parameters.parties, self.scheme.layouts(self.whole(terms.parameters)), terms.steps)


def batch(name: str) -> Batch:
    """Many sums of the protocol of that name.

    Raises:
        Misuse: where it has none.
    """
    found = scheme(name)
    if found.origin is None and name in ("secagg", "secagg+"):
        return Batch(found, secagg_batch.handshake, secagg_batch.steps)
    if found.origin is None and name == "kahe":
        return Batch(found, secagg_batch.handshake, kahe_batch.steps, _keys, _vectors)
    raise Misuse(f"{name} has no handshake for many sums: take one of {', '.join(NAMES)}")


NAMES = ("secagg", "secagg+", "kahe")
"""Protocols that have one."""


def _keys(parameters: KaheParameters) -> Parameters:
    return kahe_types.KeyParameters.within(parameters)


def _vectors(parameters: kahe_types.KeyParameters) -> KaheParameters:
    return parameters.whole


def client_turn(ready: Ready | None, terms: Terms[Any]) -> Turn:
    """The value with which a party starts a step.

    Raises:
        Misuse: where it holds nothing, or the terms are not of a step.
    """
    if ready is None or not isinstance(terms, StepTerms):
        raise Misuse("a step needs the terms of a step, and what a handshake or the step before has left")
    return Turn(ready, terms)


def server_turn(ready: ServerReady | None, terms: Terms[Any]) -> ServerTurn:
    """The value with which the server starts a step; raises as `client_turn`."""
    if ready is None or not isinstance(terms, StepTerms):
        raise Misuse("a step needs the terms of a step, and what a handshake or the step before has left")
    return ServerTurn(ready, terms)


def client_handshake(
    made: Batch, party: Party, terms: HandshakeTerms[Parameters], *, entropy: Entropy = fresh, flow: Flow | None = None
) -> Session:
    """A party's session for a handshake; its output is a `Ready`."""
    invited = Invited(party.index, party.identity, terms, party.policy)
    guard, limits = OccasionGuard(party.journal, terms.occasion), made.limits(terms)
    return Session(flow or made.handshake, client(party.index), {"server": [0]}, [invited], limits, entropy=entropy, guard=guard)


def server_handshake(
    made: Batch, terms: HandshakeTerms[Parameters], *, entropy: Entropy = fresh, flow: Flow | None = None
) -> Session:
    """The server's session for a handshake; its output is a `ServerReady`."""
    peers = {"client": terms.roster.indexes}
    return Session(flow or made.handshake, SERVER, peers, [BatchCollecting(terms)], made.limits(terms), entropy=entropy)


def client_step(
    made: Batch,
    party: Party,
    ready: Ready,
    model: bytes = bytes(32),
    *,
    entropy: Entropy = fresh,
    flow: Flow | None = None,
) -> Session:
    """A party's session for the next sum, which awaits a `Vector`; its output is the `Ready` of the sum after it.

    Args:
        made: the protocol.
        party: the party, with its journal.
        ready: what the handshake or the sum before left; used up by this.
        model: hash of the global model that the input was computed from, 32 bytes.
        entropy: where its randomness comes from.
        flow: another flow of the same steps, such as an adversary's.

    Raises:
        Misuse: where no sum is left.
    """
    terms = ready.standing.invited.terms
    if not isinstance(terms, HandshakeTerms) or party.index != ready.standing.invited.me:
        raise Misuse(f"what party {ready.standing.invited.me} holds between two sums is not for party {party.index}")
    at, limits = terms.at(ready.standing.step, model), made.limits(terms)
    guard = StepGuard(party.journal, at.occasion)
    start = [client_turn(ready, at)]
    return Session(flow or made.steps, client(party.index), {"server": [0]}, start, limits, entropy=entropy, guard=guard)


def server_step(
    made: Batch, ready: ServerReady, model: bytes = bytes(32), *, entropy: Entropy = fresh, flow: Flow | None = None
) -> Session:
    """The server's session for the next sum, of those who are left; its outputs are the `Sum` and the next `ServerReady`.

    Raises:
        Misuse: where no sum is left.
    """
    at = ready.terms.at(ready.step, model)
    start = [server_turn(ready, at)]
    return Session(flow or made.steps, SERVER, {"client": ready.u2}, start, made.limits(ready.terms), entropy=entropy)


@dataclass
class Group:
    """All parties of one handshake in one process, between two sums.

    Attributes:
        made: the protocol.
        parties: by roster index.
        server: the server; None once a step was aborted, after which there is none.
        ready: what each party holds that is not lost.
        entropy: of each address, where the randomness of its steps comes from.
        carried: puts something between a session and those that feed it, as an audit does.
    """

    made: Batch
    parties: Mapping[int, Party]
    server: ServerReady | None
    ready: dict[int, Ready]
    entropy: Callable[[Address], Entropy] = lambda _: fresh
    carried: Callable[[Session], Session] = lambda session: session

    def party(self, u: int) -> Ready:
        """What a party holds that is not lost."""
        return self.ready[u]

    def sessions(self, model: bytes = bytes(32), flows: Mapping[Address, Flow] | None = None) -> dict[Address, Session]:
        """Sessions for the next sum, of all that are not lost; ``flows`` has those that are not the protocol's.

        Raises:
            Misuse: where no sum is left.
        """
        if self.server is None:
            raise Misuse("a step of this handshake was aborted: no other follows it")
        other = flows or {}
        out = {SERVER: server_step(self.made, self.server, model, entropy=self.entropy(SERVER), flow=other.get(SERVER))}
        for u, ready in self.ready.items():
            me = client(u)
            out[me] = client_step(self.made, self.parties[u], ready, model, entropy=self.entropy(me), flow=other.get(me))
        return {me: self.carried(session) for me, session in out.items()}

    def step(
        self,
        inputs: Mapping[int, Vector],
        model: bytes = bytes(32),
        *,
        network: simulate.Network | None = None,
        watch: simulate.Watch | None = None,
        flows: Mapping[Address, Flow] | None = None,
    ) -> simulate.Outcome:
        """Run the next sum, and keep what it leaves for the one after it.

        Args:
            inputs: vectors of the parties that are not lost; those of others are left out.
            model: hash of the global model.
            network: what happens to letters.
            watch: called on every delivery.
            flows: flows of some that are not the protocol's.

        Returns:
            The outcome; an abort is in it, not raised (`opened`).
        """
        sessions = self.sessions(model, flows)
        given = {client(u): [x] for u, x in inputs.items() if u in self.ready}
        outcome = simulate.run(sessions, given, network=network, watch=watch)
        self.keep(sessions, outcome)
        return outcome

    def keep(self, sessions: Mapping[Address, Session], outcome: simulate.Outcome) -> None:
        """Keep what a sum left with those that are not lost; after an abort nothing follows."""
        self.ready = _left(sessions)
        self.server = next(_of(ServerReady, outcome.outputs), None) if outcome.abort is None else None


def handshake(
    made: Batch,
    parties: Iterable[Party],
    terms: HandshakeTerms[Parameters],
    *,
    entropy: Callable[[Address], Entropy] = lambda _: fresh,
    network: simulate.Network | None = None,
    watch: simulate.Watch | None = None,
    carried: Callable[[Session], Session] = lambda session: session,
) -> Group:
    """Run a handshake among parties in this process.

    Args:
        made: the protocol.
        parties: those who are there.
        terms: of the handshake.
        entropy: of each address, where its randomness comes from.
        network: what happens to letters.
        watch: called on every delivery.
        carried: as `Group.carried`.

    Raises:
        Abort: where too few were left.
    """
    there = {party.index: party for party in parties}
    sessions = {SERVER: server_handshake(made, terms, entropy=entropy(SERVER))}
    sessions |= {client(u): client_handshake(made, party, terms, entropy=entropy(client(u))) for u, party in there.items()}
    sessions = {me: carried(session) for me, session in sessions.items()}
    outcome = simulate.run(sessions, network=network, watch=watch)
    if outcome.reason is not None:
        raise outcome.reason
    return Group(made, there, next(_of(ServerReady, outcome.outputs)), _left(sessions), entropy, carried)


def opened(outcome: simulate.Outcome) -> Sum:
    """The sum of one step.

    Raises:
        Abort: why there is none.
    """
    if outcome.reason is not None:
        raise outcome.reason
    total: Sum = next(_of(Sum, outcome.outputs))
    return total


def _of(kind: type[Any], values: Iterable[Any]) -> Any:
    return (value for value in values if isinstance(value, kind))


def _left(sessions: Mapping[Address, Session]) -> dict[int, Ready]:
    """What the parties of some sessions hold for the next sum."""
    found = {me.index: next(_of(Ready, session.outputs), None) for me, session in sessions.items() if me != SERVER}
    return {u: ready for u, ready in found.items() if ready is not None}
