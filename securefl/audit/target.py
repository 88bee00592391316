"""What is audited: a protocol as it is configured, and the federations of real sessions that attacks are played on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from protocols import he_types, kahe_types, lightsecagg_types, secagg_types, sums
from protocols.admission import admitted
from protocols.errors import Misuse
from protocols.flow import Flow
from protocols.plugins import BUILT_IN, Origin
from protocols.policy import MemoryJournal, Policy
from protocols.primitives.graph import Harary
from protocols.rand import Replay
from protocols.ring import Ring
from protocols.schema import Message
from protocols.secagg_parameters import Parameters
from protocols.suite import Occasion, SumParameters
from securefl.audit.federation import MAX_ABS, Federation, federation

if TYPE_CHECKING:
    from securefl.audit.carried import Wire

Shape = Literal["secagg", "secagg+", "lightsecagg", "he", "kahe", "other"]
"""The families whose messages the harness knows how to forge; ``other`` is everybody else's, attacked as a black box."""
FAMILIES: dict[Shape, type[Message]] = {
    "lightsecagg": lightsecagg_types.Shares,
    "he": he_types.Dealt,
    "kahe": kahe_types.Enciphered,
    "secagg": secagg_types.Boxes,
}
"""The message that tells a family; the first that a flow has counts, so what embeds another protocol stands before that one."""
PAYLOAD = 5
"""Secret coordinates of an input; behind them one for each party tells who is in a sum."""
COHORT = 6
RING = (20, 8, 1, 5)
"""Parties, degree, colluders and threshold of a neighbourhood of the small ring on which SecAgg+ is attacked: σ is 1 bit there."""


@dataclass(frozen=True)
class Bounds:
    """What one attack may use.

    Attributes:
        seconds: of computing; ten times that on the clock, so that a busy machine makes no difference.
        deliveries: of letters in one run.
        memory: bytes beyond what the process has.
    """

    seconds: float = 30.0
    deliveries: int = 20_000
    memory: int = 2 << 30


@dataclass(frozen=True)
class Target:
    """A protocol as configured.

    Attributes:
        scheme: the protocol.
        parties: n of the black-box attacks; those that are made for one family play on six, or on the small ring.
        parameters: of the sum; by default what the scheme makes for n.
        policy: of every party; by default the scheme's.
        registered: whether parties know the consortium's identities, as they do where those are registered out of band.
        bounds: what one attack may use.
        quick: whether attacks try less.
        wire: through which server and parties speak; None: they are in one process.
    """

    scheme: sums.Scheme
    parties: int = COHORT
    parameters: SumParameters | None = None
    policy: Policy | None = None
    registered: bool = True
    bounds: Bounds = field(default_factory=Bounds)
    quick: bool = True
    wire: Wire | None = None

    @classmethod
    def of(
        cls,
        protocol: str | sums.Scheme,
        *,
        parties: int | None = None,
        threshold: int | None = None,
        policy: Policy | None = None,
        quick: bool = True,
        bounds: Bounds | None = None,
    ) -> Target:
        """A protocol by name, or a scheme of one's own.

        Raises:
            Misuse: for a protocol that does not exist, or parameters that it refuses.
        """
        scheme = sums.scheme(protocol) if isinstance(protocol, str) else protocol
        if scheme.origin is None and scheme.name not in BUILT_IN:  # as when it is registered: the engine asks the party's policy
            scheme = admitted(scheme, scheme.name, Origin())
        limits = bounds or Bounds(30.0 if quick else 300.0)
        target = cls(scheme, parties or COHORT, policy=policy, quick=quick, bounds=limits)
        if parties is None and threshold is None and scheme.name == "secagg+":
            return replace(target, parties=RING[0], parameters=small_ring(), policy=policy or Policy(min_corrupt=0, min_security=1))
        return replace(target, parameters=scheme.parameters(target.parties, target.size, MAX_ABS, threshold=threshold))

    @property
    def name(self) -> str:
        """The protocol's name."""
        return self.scheme.name

    @property
    def flow(self) -> Flow:
        """Its flow."""
        return self.scheme.flow

    @property
    def size(self) -> int:
        """d: secret coordinates, and one for each party."""
        return PAYLOAD + self.parties

    @property
    def shape(self) -> Shape:
        """The family, told by the messages with which parties deal."""
        shape: Shape = next((name for name, kind in FAMILIES.items() if kind in self.flow.messages()), "other")
        sparse = isinstance(getattr(self.parameters, "graph", None), Harary)
        return "secagg+" if shape == "secagg" and sparse else shape

    @property
    def uploads(self) -> tuple[type[Message], ...]:
        """The kinds of messages with which an input leaves."""
        return tuple(port.type for step in self.flow.steps if step.spends for port in step.gives if issubclass(port.type, Message))

    def federation(self, *, policy: Policy | None = None) -> Federation:
        """Everybody as configured; each input has a coordinate that is 1 for its party alone."""
        n = self.parties
        fed = self._with_policy(federation(n, self.size, parameters=self.parameters, scheme=self.scheme), policy)
        for u, x in fed.vectors.items():
            x[PAYLOAD - 1] = 501 + 7 * u % 499  # no number that messages hold anyway
            x[PAYLOAD:] = 0
            x[PAYLOAD + u - 1] = 1
        return fed

    def long(self, size: int, value: int) -> Federation:
        """Everybody as configured, with inputs of ``size`` coordinates that all have one value."""
        chosen = None if self.shape == "secagg+" or self.parameters is None else self.parameters.threshold
        parameters = self.scheme.parameters(self.parties, size, MAX_ABS, threshold=chosen)
        fed = self._with_policy(federation(self.parties, size, parameters=parameters, scheme=self.scheme), None)
        for x in fed.vectors.values():
            x[:] = value
        return fed

    def cohort(self, n: int = COHORT, *, parameters: SumParameters | None = None, policy: Policy | None = None) -> Federation:
        """A small cohort for an attack that is made for one family; the policy does not ask for more parties than there are."""
        return self._with_policy(federation(n, PAYLOAD, parameters=parameters, scheme=self.scheme), policy)

    def _with_policy(self, fed: Federation, policy: Policy | None) -> Federation:
        chosen = policy or self.policy or self.scheme.policy
        if self.registered and chosen.registered is None:
            chosen = replace(chosen, registered=frozenset(member.identity for member in fed.roster.members))
        fed = fed.with_policy(replace(chosen, min_cohort=min(chosen.min_cohort, len(fed.parties))))
        return replace(fed, deliveries=self.bounds.deliveries, wire=self.wire)

    @property
    def own_policy(self) -> Policy:
        """What a party of the target asks for."""
        return self.policy or self.scheme.policy


def small_ring(n: int = RING[0], degree: int = RING[1], corrupt: int = RING[2]) -> Parameters:
    """Parameters on a ring that is small enough to attack: the least threshold and gap that σ = 1 allows."""
    from protocols import degree as bounds  # noqa: PLC0415  (its name is an argument here)

    setting = bounds.Setting(n, corrupt, 0, 1)
    threshold = max(bounds.threshold_bound(setting, degree) + 1, 2)
    graph = Harary(n, degree, threshold, 1, bounds.gap(setting, degree))
    return Parameters(n, PAYLOAD + n, MAX_ABS, Ring(20), (n + corrupt) // 2 + 1, corrupt, graph)


def invited_strangers(fed: Federation) -> Federation:
    """The roster in which all but the first are somebody else's: Sybils of the server."""
    roster, strangers = sums.enrol(len(fed.parties), entropy=Replay("sybils"))
    members = (fed.roster.members[0], *roster.members[1:])
    own = {p.index: replace(p, policy=Policy(min_corrupt=0, min_security=1), journal=MemoryJournal()) for p in strangers}
    terms = replace(fed.terms, roster=replace(fed.roster, members=members), occasion=Occasion("sybils", 0))
    return replace(fed, terms=terms, parties={**own, 1: fed.parties[1]})


def check_cohort(n: int) -> None:
    """Raises `Misuse` for a number of parties that cannot be attacked as a black box."""
    if not 3 <= n <= 64:
        raise Misuse(f"an audit plays on 3 to 64 parties, not {n}")
