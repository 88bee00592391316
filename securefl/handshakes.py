"""How the rounds of a run get the secrets of their sums: each by a handshake of its own, or one handshake for several rounds.

`protocols.batch_sums` has the latter: shares for many sums at once, and keys of their own for every sum.  A party that is lost in a
round is then out until the next handshake, and a round that aborts is followed by one.

What it does not protect: as the protocols; see `protocols.batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from protocols import simulate
from protocols.batch_sums import NAMES as WITH_BATCHES
from protocols.batch_sums import Batch, Group, batch, handshake
from protocols.batch_terms import HandshakeTerms, most_steps
from protocols.batch_types import Ready, ServerReady
from protocols.errors import Abort
from protocols.flow import Flow
from protocols.once import lately
from protocols.policy import Journal, OccasionGuard, StepGuard
from protocols.session import Address, Session
from protocols.suite import Occasion, SumParameters, Terms
from protocols.sums import Scheme
from securefl.errors import UserError
from securefl.parties import Consortium

TOGETHER = 16
"""Rounds of one handshake where a round is one step of training, unless the job says otherwise."""


class Handshakes(Protocol):
    """What a run asks of the secrets of its sums."""

    @property
    def protocol(self) -> Scheme | Batch:
        """What `securefl.secure.secured` embeds."""

    @property
    def flow(self) -> Flow:
        """The security flow of one round, without a handshake that serves several."""

    @property
    def before(self) -> Flow | None:
        """The flow of a handshake that serves several rounds."""

    def stages(self) -> list[str]:
        """Names of the messages that a party sends in the next round, those of a handshake that is due included."""

    def begin(self, number: int, network: simulate.Network, watch: simulate.Watch | None) -> Abort | None:
        """Run the handshake that is due at this round, if one is; why there is none where it failed."""

    def terms(self, occasion: Occasion) -> Terms[Any]:
        """The terms for an occasion."""

    def invite(self, consortium: Consortium) -> None:
        """Who is invited from now on."""

    def present(self, u: int) -> bool:
        """Whether a party is in the round."""

    def ready(self, u: int) -> Ready | None:
        """What a handshake left with a party."""

    @property
    def server(self) -> ServerReady | None:
        """What it left with the server."""

    def guard(self, journal: Journal) -> OccasionGuard:
        """A party's journal for a round, not bound yet."""

    def end(self, sessions: Mapping[Address, Session], outcome: simulate.Outcome) -> None:
        """A round ended."""

    def broken_off(self) -> None:
        """A round was broken off by an exception."""


@dataclass
class Single:
    """A handshake in every round.

    Attributes:
        protocol: of the sums.
        parameters: of every sum.
        consortium: who takes part.
    """

    protocol: Scheme
    parameters: SumParameters
    consortium: Consortium
    server: None = None
    before: None = None

    @property
    def flow(self) -> Flow:
        """The whole protocol."""
        return self.protocol.flow

    def stages(self) -> list[str]:
        """The same in every round."""
        return [kind.__name__ for kind in self.flow.messages("server")]

    def begin(self, _number: int, _network: simulate.Network, _watch: simulate.Watch | None) -> None:
        """Nothing is due."""

    def terms(self, occasion: Occasion) -> Terms[Any]:
        """The terms for an occasion; those of all parties of this process, who expect the same, are made once."""
        return lately("terms", occasion, lambda: self.protocol.terms(occasion, self.consortium.roster, self.parameters))

    def invite(self, consortium: Consortium) -> None:
        """To the next round."""
        self.consortium = consortium

    def present(self, _u: int) -> bool:
        """All invited are."""
        return True

    def ready(self, _u: int) -> None:
        """Nothing."""

    def guard(self, journal: Journal) -> OccasionGuard:
        """For a whole sum."""
        return OccasionGuard(journal)

    def end(self, _sessions: Mapping[Address, Session], _outcome: simulate.Outcome) -> None:
        """Nothing is kept."""

    def broken_off(self) -> None:
        """Nothing is kept."""


@dataclass
class Batched:
    """One handshake for ``each`` rounds.

    Attributes:
        protocol: of the sums.
        parameters: of every sum.
        consortium: who takes part.
        run: name of the run.
        rounds: of the run.
        each: rounds of a handshake at most.
        timed: measures the steps of a flow.
        group: the parties between two rounds; None where a handshake is due.
    """

    protocol: Batch
    parameters: SumParameters
    consortium: Consortium
    run: Callable[[], str]
    rounds: int
    each: int
    timed: Callable[[Flow], Flow]
    group: Group | None = field(default=None, repr=False)

    @property
    def flow(self) -> Flow:
        """One step."""
        return self.protocol.steps

    @property
    def before(self) -> Flow:
        """The handshake."""
        return self.protocol.handshake

    def stages(self) -> list[str]:
        """Those of a step, after those of a handshake where one is due."""
        due = self.protocol.handshake.messages("server") if self.group is None else []
        return [kind.__name__ for kind in (*due, *self.flow.messages("server"))]

    def begin(self, number: int, network: simulate.Network, watch: simulate.Watch | None) -> Abort | None:
        """Run a handshake for this round and those after it."""
        if self.group is not None:
            return None
        steps = min(self.each, self.rounds - number + 1)
        terms = self.protocol.terms(Occasion(self.run(), number), self.consortium.roster, self.parameters, steps)
        made = replace(self.protocol, handshake=self.timed(self.protocol.handshake))
        try:
            self.group = handshake(made, self.consortium.parties, terms, network=network, watch=watch)
        except Abort as abort:
            return abort
        return None

    @property
    def _terms(self) -> HandshakeTerms[Any]:
        if self.server is None:
            raise UserError("no handshake was run")
        return self.server.terms

    def terms(self, occasion: Occasion) -> Terms[Any]:
        """The terms of the step that is of this occasion."""
        whole = self._terms
        return lately("terms", occasion, lambda: whole.at(occasion.round - whole.occasion.round, occasion.model))

    def invite(self, consortium: Consortium) -> None:
        """To the next handshake."""
        self.consortium = consortium

    def present(self, u: int) -> bool:
        """Those that were not lost since the handshake."""
        return self.group is not None and u in self.group.ready

    def ready(self, u: int) -> Ready | None:
        """What the handshake, or the round before, left."""
        return None if self.group is None else self.group.ready.get(u)

    @property
    def server(self) -> ServerReady | None:
        """What the handshake, or the round before, left."""
        return None if self.group is None else self.group.server

    def guard(self, journal: Journal) -> OccasionGuard:
        """For one step."""
        return StepGuard(journal)

    def end(self, sessions: Mapping[Address, Session], outcome: simulate.Outcome) -> None:
        """Keep what is left for the next round; nothing after an abort, or where all rounds of the handshake have run."""
        if self.group is None:
            return
        self.group.keep(sessions, outcome)
        left = self.group.server
        if left is None or left.step == left.terms.steps:
            self.group = None

    def broken_off(self) -> None:
        """Who has sent what is not known: a new handshake is due."""
        self.group = None


def rounds_together(asked: int | None, protocol: Scheme, *, parties: int, stepwise: bool, alone: str, sampled: bool = False) -> int:
    """How many rounds one handshake prepares.

    Args:
        asked: by the job, or None.
        protocol: of the sums.
        parties: invited.
        stepwise: whether a round is one step of training.
        alone: why every round should have a handshake of its own, unless the job asks; empty where nothing speaks for it.
        sampled: whether every round has another cohort.

    Raises:
        UserError: for more than 1 where every round has another cohort, under a protocol that has no such handshake, or more than
            there can be.
    """
    if sampled:
        if asked in (None, 1):
            return 1
        raise UserError(
            f"performance.handshake_rounds = {asked} is refused with privacy.clients_per_round: every round has another cohort, "
            "and a handshake is of one"
        )
    fits = protocol.origin is None and protocol.name in WITH_BATCHES
    if asked is None:
        return min(TOGETHER, most_steps(parties)) if stepwise and fits and not alone else 1
    if asked > 1 and not fits:
        raise UserError(
            f"performance.handshake_rounds = {asked} is refused for {protocol.name}: it has no handshake for several sums; those "
            f"that have: {', '.join(WITH_BATCHES)}"
        )
    if asked > most_steps(parties):
        raise UserError(
            f"performance.handshake_rounds is {asked}: one handshake of {parties} parties prepares 1 to {most_steps(parties)} sums"
        )
    return asked


def handshakes(
    protocol: Scheme,
    parameters: SumParameters,
    consortium: Consortium,
    *,
    run: Callable[[], str],
    rounds: int,
    each: int,
    timed: Callable[[Flow], Flow],
) -> Single | Batched:
    """One for every round, or for ``each``; the rest as for `Batched`."""
    if each == 1:
        return Single(protocol, parameters, consortium)
    return Batched(batch(protocol.name), parameters, consortium, run, rounds, each, timed)
