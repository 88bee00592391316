"""What a party demands before it sends anything, and what it writes down so that nothing is sent twice.

The policy is the party's own, not the server's: the server can ask for less privacy, and a party refuses.  The journal keeps the
highest (round, attempt) that the party has joined in each run, and the rounds in which its masked input has left: an input is spent
then, abort or not, and no further attempt of that round is joined.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

from protocols.batch_terms import HandshakeTerms
from protocols.errors import Misuse, require
from protocols.once import once
from protocols.primitives.graph import Harary
from protocols.suite import Occasion, SumParameters, Terms, default_corrupt


@dataclass(frozen=True)
class Policy:
    """A party's own bounds.

    Attributes:
        min_cohort: fewest parties in any set that the server announces (invited, sharing, surviving), at least 2.
        min_threshold: least share of the invited parties that must be needed to open, in (0, 1]; on a sparse graph also of the
            holders of a secret.
        min_corrupt: least number of colluding parties against which the parameters must hold; None: ⌈n/3⌉ − 1 of n invited.
        min_security: least bits of statistical security of a sparse graph, whose order the server can grind: 80 unless it is drawn
            from a public beacon.
        semi_honest: whether parameters are accepted that only hold against a server which follows the protocol.
        registered: identities known to the party out of band; None accepts the roster that it is told, strangers included.
        suites: accepted suite strings; empty accepts any that the party's software runs.
        models: accepted model hashes; None accepts any (the hash is bound into the session in any case).
        max_epsilon: largest ε that one record may cost over all rounds of a run, by the party's own account; None accepts any ε,
            and training without differential privacy.
        max_delta: largest δ at which that ε may be stated; None accepts any.
        max_steps: most sums for which one handshake may prepare; None accepts as many as there can be.

    Raises:
        Misuse: for a bound that nothing could keep.
    """

    min_cohort: int = 2
    min_threshold: float = 0.5
    min_corrupt: int | None = None
    min_security: int = 80
    semi_honest: bool = False
    registered: frozenset[bytes] | None = None
    suites: frozenset[str] = frozenset()
    models: frozenset[bytes] | None = None
    max_epsilon: float | None = None
    max_delta: float | None = None
    max_steps: int | None = None

    def __post_init__(self) -> None:
        for name, bound in (("max_epsilon", self.max_epsilon), ("max_delta", self.max_delta)):
            if bound is not None and not 0 < bound < math.inf:
                raise Misuse(f"{name} is {bound}: it must be above 0 and finite, or None")

    def check(self, terms: Terms[Any]) -> None:
        """Refuse an invitation that asks for less.

        Raises:
            Refused: ``policy-suite``, ``policy-cohort``, ``policy-threshold``, ``policy-corrupt``, ``policy-security``,
                ``policy-server``, ``policy-roster``, ``policy-model`` or ``policy-steps``.
        """
        once(("policy", self), lambda: self._check(terms), of=terms)

    def _check(self, terms: Terms[Any]) -> None:
        parameters = terms.parameters
        n, c = parameters.parties, parameters.corrupt
        least = default_corrupt(n) if self.min_corrupt is None else self.min_corrupt
        known = self.registered is None or all(member.identity in self.registered for member in terms.roster.members)
        accepted = not self.suites or terms.suite in self.suites
        require(accepted, "policy-suite", f"{terms.suite} is not accepted, only {', '.join(sorted(self.suites))}")
        require(n >= self.min_cohort, "policy-cohort", f"{n} invited, own smallest cohort {self.min_cohort}")
        for needed, of in thresholds(parameters):
            enough = needed >= self.min_threshold * of
            require(enough, "policy-threshold", f"t = {needed} of {of}, own smallest share {self.min_threshold:g}")
        require(c >= least, "policy-corrupt", f"|C| = {c}, own least {least}")
        sigma, trusted = parameters.security, not parameters.lying_server
        require(sigma >= self.min_security, "policy-security", f"σ = {sigma} bits, own least {self.min_security}")
        require(not trusted or self.semi_honest, "policy-server", "the parameters trust the server to follow the protocol")
        require(known, "policy-roster", "a party that is not registered is invited")
        if isinstance(terms, HandshakeTerms):  # of no model: each of its sums is asked for its own
            most = terms.steps if self.max_steps is None else self.max_steps
            require(terms.steps <= most, "policy-steps", f"a handshake for {terms.steps} sums, own most {most}")
        else:
            require(self.models is None or terms.occasion.model in self.models, "policy-model", "a model that was not approved")

    def check_epsilon(self, epsilon: float, delta: float) -> None:
        """Refuse to train at a price above the own bound.  No sum knows its ε: who trains calls this before anything leaves.

        Args:
            epsilon: what all rounds together cost by the party's own account; infinite without differential privacy, and where the
                server is trusted with the sums and adds the noise.
            delta: the δ that ``epsilon`` is stated at; 0 without differential privacy.

        Raises:
            Refused: ``policy-epsilon``.
        """
        most, at = self.max_epsilon, self.max_delta
        if most is not None:
            require(epsilon <= most, "policy-epsilon", f"ε = {epsilon:g} over all rounds, own largest {most}")
        if at is not None:
            require(delta <= at, "policy-epsilon", f"δ = {delta:g}, own largest {at}")


def thresholds(parameters: SumParameters) -> list[tuple[int, int]]:
    """What is needed to open, out of how many: parties who agree, and on a sparse graph the holders who rebuild one secret."""
    out = [(parameters.threshold, parameters.parties)]
    graph = getattr(parameters, "graph", None)
    if isinstance(graph, Harary):
        out.append((graph.threshold, graph.degree))
    return out


class Journal(Protocol):
    """What a party remembers between sessions; a real party keeps it on its disk."""

    def join(self, occasion: Occasion) -> None:
        """Write down that this session is joined, before its first message leaves; refuse one that is not newer."""

    def spend(self, occasion: Occasion) -> None:
        """Write down that the round's input has left; refuse a second time."""


@dataclass
class MemoryJournal:
    """A journal for one process."""

    joined: dict[str, tuple[int, int]] = field(default_factory=dict)
    spent: dict[str, int] = field(default_factory=dict)

    def join(self, occasion: Occasion) -> None:
        """Join only higher (round, attempt), and no attempt of a round whose input is spent.

        Raises:
            Refused: ``journal-replay`` or ``journal-spent``.
        """
        at, last = (occasion.round, occasion.attempt), self.joined.get(occasion.run, (-1, -1))
        require(at > last, "journal-replay", f"round {at[0]} attempt {at[1]} is not after round {last[0]} attempt {last[1]}")
        require(occasion.round > self.spent.get(occasion.run, -1), "journal-spent", f"the input of round {occasion.round} has left")
        self.joined[occasion.run] = at

    def spend(self, occasion: Occasion) -> None:
        """Mark the round's input as gone.

        Raises:
            Refused: ``journal-spent``.
        """
        require(occasion.round > self.spent.get(occasion.run, -1), "journal-spent", f"the input of round {occasion.round} has left")
        self.spent[occasion.run] = occasion.round


class OccasionGuard:
    """The journal of one party, bound to one occasion: what a session calls before something leaves.

    Args:
        journal: the party's journal.
        occasion: what is joined; None where only a first message tells, then `bind` must come before anything leaves.
    """

    def __init__(self, journal: Journal, occasion: Occasion | None = None) -> None:
        self._journal, self._occasion, self._joined, self._spent = journal, occasion, False, False

    def bind(self, occasion: Occasion) -> None:
        """Say what is joined, once.

        Raises:
            Refused: ``journal-rebound``.
        """
        require(self._occasion is None or self._occasion == occasion, "journal-rebound", "a session serves one occasion")
        self._occasion = occasion

    def join(self) -> None:
        """Before the first message."""
        if not self._joined:
            self._journal.join(self._bound())
            self._joined = True

    @property
    def spent(self) -> bool:
        """Whether the masked input has left, or was about to."""
        return self._spent

    def spend(self) -> None:
        """Before the masked input."""
        self.join()
        self._journal.spend(self._bound())
        self._spent = True

    def _bound(self) -> Occasion:
        if self._occasion is None:
            raise Misuse("something would leave before the session knows what it joins")
        return self._occasion


class StepGuard(OccasionGuard):
    """An `OccasionGuard` of one of many sums after one handshake, which was joined by the handshake's own guard.

    Steps go upwards: the journal refuses to spend the input of a round that is not after the last one spent, so no step runs twice,
    nor one that is before another that ran, in this process or after a restart.
    """

    def join(self) -> None:
        """Nothing is joined anew."""


class PolicyGuard(OccasionGuard):
    """An `OccasionGuard` that asks the party's policy as well: for a flow of which nobody knows that it does.

    Args:
        journal: the party's journal.
        policy: the party's own bounds.
        terms: what is joined.
    """

    def __init__(self, journal: Journal, policy: Policy, terms: Terms[Any]) -> None:
        super().__init__(journal, terms.occasion)
        self._policy, self._terms = policy, terms

    def join(self) -> None:
        """Before the first message.

        Raises:
            Refused: as `Policy.check`.
        """
        self._policy.check(self._terms)
        super().join()
