"""Secure sums without any machine learning: build the sessions of a protocol, or run ten parties in five lines.

A `Scheme` is how a protocol is entered: its flow, the start values of both roles, and the layouts of its vectors.  Those of other
packages stand beside ours (`protocols.plugins`): `scheme` finds both by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols import (
    admission,
    cost,
    he,
    he_parameters,
    he_types,
    kahe,
    kahe_parameters,
    kahe_types,
    lightsecagg,
    lightsecagg_parameters,
    lightsecagg_types,
    plain,
    plugins,
    secagg,
    secagg_types,
    simulate,
)
from protocols.bulk import Layout, Packed
from protocols.errors import Misuse
from protocols.flow import Flow
from protocols.intake import TURNS
from protocols.policy import Journal, MemoryJournal, OccasionGuard, Policy, PolicyGuard
from protocols.primitives.graph import Harary
from protocols.primitives.sign import SigningKey
from protocols.rand import Entropy, fresh
from protocols.ring import Accumulator
from protocols.schema import Message
from protocols.secagg_parameters import LOST, Parameters
from protocols.session import SERVER, Address, Session, client
from protocols.suite import Member, Occasion, Roster, SumParameters, Terms
from protocols.vector import Sum, Vector, integers
from protocols.wire import Limits


@dataclass(frozen=True)
class Party:
    """What a party brings to every sum.

    Attributes:
        index: its roster index, from 1.
        identity: its long-term signing key.
        policy: its own bounds.
        journal: what it has joined and spent; a real party keeps it on its disk.
    """

    index: int
    identity: SigningKey
    policy: Policy = Policy()
    journal: Journal = field(default_factory=MemoryJournal)


class InClear(Protocol):
    """Adds up vectors where they are, in one process, and opens what the flow would."""

    @property
    def message(self) -> Message:
        """One as long as that of any party in the flow."""

    def add(self, *xs: Vector) -> None:
        """Add some vectors, or none of them; raises `Misuse` as the flow does."""

    def total(self) -> Sum:
        """The sum over all that were added; raises `Abort` as the flow does."""


class Build(Protocol):
    """Makes the parameters of a sum; what is not given has a safe default."""

    def __call__(
        self,
        parties: int,
        size: int,
        max_abs: int,
        *,
        bits: int | None = None,
        threshold: int | None = None,
        corrupt: int | None = None,
    ) -> SumParameters:
        """Parameters for ``parties`` vectors of ``size`` values up to ``max_abs``; raises `Misuse` where a bound is broken."""


@dataclass(frozen=True)
class Scheme:
    """A protocol as the seam sees it.

    Attributes:
        name: ``secagg``, ``plain-insecure``, …
        parameters: makes the parameters.
        suite: from the parameters, the suite string.
        flow: the security flow.
        client_start: the value with which a party starts.
        server_start: the value with which the server starts.
        layouts: layouts of the raw fields of its messages.
        shared_key: whether every party holds the one key, so that each of them could open all with the server.
        hides: whether the server is kept from the vectors of single parties; a plug-in's own word.
        origin: where a plug-in comes from, filled in when it is loaded; None for ours.
        noisy: whether its sums can carry noise: ``parameters`` then takes ``tail``, its bound in the sum.
        in_clear: from the parameters, the same sum without sessions and messages, for simulations; where nothing is hidden alone.

    Raises:
        Misuse: for ``in_clear`` of a protocol that hides anything: its vectors must not lie in one place, not even in a simulation,
            as what is simulated would be another protocol.
    """

    name: str
    parameters: Build
    suite: Callable[[Any], str]
    flow: Flow
    client_start: Callable[[Party, Terms[Any]], object]
    server_start: Callable[[Terms[Any]], object]
    layouts: Callable[[Any], Mapping[str, Layout]]
    shared_key: bool = False
    hides: bool = True
    origin: plugins.Origin | None = None
    noisy: bool = False
    in_clear: Callable[[Any], InClear] | None = None

    def __post_init__(self) -> None:
        if self.hides and self.in_clear is not None:
            raise Misuse(f"{self.name} hides vectors, so none of its sums is formed in clear")

    def noised(self, parties: int, size: int, max_abs: int, *, tail: int, **more: int | None) -> SumParameters:
        """Parameters of a sum whose inputs carry noise, of at most ``tail`` in the sum; the rest as for `Build`.

        Raises:
            Misuse: as `Build`, and where the protocol's sums carry none.
        """
        if not self.noisy:
            secure = (s.name for s in SCHEMES.values() if s.noisy and s.hides)
            raise Misuse(f"the sums of {self.name} carry no noise: take one of {', '.join(secure)}")
        build: Any = self.parameters
        made: SumParameters = build(parties, size, max_abs, tail=tail, **more)
        return made

    @property
    def policy(self) -> Policy:
        """The policy of a made-up party that goes along with this protocol, and with a shared key only where it has one."""
        return Policy(min_corrupt=0) if self.shared_key else Policy()

    def terms(self, occasion: Occasion, roster: Roster, parameters: SumParameters) -> Terms[Any]:
        """The terms of one sum under this protocol."""
        return Terms(self.suite(parameters), occasion, roster, parameters)


def _masked(parameters: SumParameters) -> Mapping[str, Layout]:
    return {"masked": Packed(parameters.ring, parameters.size + 1, kept=True)}


def _homomorphic(name: str, parameters: Build, flow: Flow) -> Scheme:
    return Scheme(
        name,
        parameters,
        he.suite,
        flow,
        lambda party, terms: he_types.Invited(party.index, party.identity, terms, party.policy),
        he_types.Collecting,
        he_parameters.layouts,
        shared_key=True,
    )


SCHEMES = {
    "secagg": Scheme(
        "secagg",
        Parameters.cheapest,
        secagg.suite,
        secagg.flow,
        lambda party, terms: secagg_types.Invited(party.index, party.identity, terms, party.policy),
        secagg_types.Collecting,
        _masked,
        noisy=True,
    ),
    "secagg+": Scheme(
        "secagg+",
        Parameters.preferably_sparse,
        secagg.suite,
        secagg.flow,
        lambda party, terms: secagg_types.Invited(party.index, party.identity, terms, party.policy),
        secagg_types.Collecting,
        _masked,
        noisy=True,
    ),
    "plain-insecure": Scheme(
        "plain-insecure",
        Parameters.of,
        plain.suite,
        plain.flow,
        lambda party, terms: plain.Attending(party.index, terms, party.policy),
        lambda terms: plain.Adding(terms, Accumulator(terms.parameters.ring, terms.parameters.size + 1)),
        lambda parameters: {"masked": plain.layout(parameters)},
        hides=False,
        noisy=True,
        in_clear=plain.InClear,
    ),
    "lightsecagg": Scheme(
        "lightsecagg",
        lightsecagg_parameters.LightParameters.of,
        lightsecagg.suite,
        lightsecagg.flow,
        lambda party, terms: lightsecagg_types.Invited(party.index, party.identity, terms, party.policy),
        lightsecagg_types.Collecting,
        lightsecagg_parameters.layouts,
        noisy=True,
    ),
    "kahe": Scheme(
        "kahe",
        kahe_parameters.KaheParameters.of,
        kahe_types.suite,
        kahe.flow,
        lambda party, terms: secagg_types.Invited(party.index, party.identity, kahe_types.key_terms(terms), party.policy),
        lambda terms: secagg_types.Collecting(kahe_types.key_terms(terms)),
        kahe_parameters.layouts,
        noisy=True,
    ),
    "bfv": _homomorphic("bfv", he_parameters.HeParameters.bfv, he.flow),
    "ckks": _homomorphic("ckks", he_parameters.HeParameters.ckks, he.ckks),
}
"""Our own protocols by name."""


def names() -> tuple[str, ...]:
    """Names of all protocols that `scheme` knows, ours first; no plug-in is loaded."""
    return (*SCHEMES, *plugins.names())


def scheme(name: str) -> Scheme:
    """The protocol of that name: ours, or the plug-in of another package, which is loaded and checked.

    Raises:
        Misuse: where there is none, where a package offers one of our names or two offer one, or where the plug-in does not fit.
    """
    plugins.refuse_shadow(name)
    if name == plugins.AUTO:
        raise Misuse("auto is secagg or kahe by the sizes of a sum: name one of the two here")
    found = SCHEMES.get(name) or plugins.find(name, _admit)
    if found is None:
        raise Misuse(f"no protocol {name!r}; there are {', '.join(names())}")
    return found


def chosen(
    name: str, parties: int, size: int, max_abs: int, *, dropout: float = cost.EXPECTED, **more: int | None
) -> tuple[Scheme, str]:
    """The protocol of one sum: that of the name, or for ``auto`` the cheaper of ``secagg`` and ``kahe`` (`protocols.cost`).

    Args:
        name: of a protocol, or ``auto``.
        parties: n.
        size: d.
        max_abs: largest absolute value of a coordinate.
        dropout: share of the parties that is expected to vanish with its vector in hand.
        more: ``bits``, ``threshold`` and ``corrupt``, as for `Build`.

    Returns:
        The protocol, and for ``auto`` one line on why.

    Raises:
        Misuse: as `scheme`, and for ``auto`` where the parameters are refused.
    """
    if name != plugins.AUTO:
        return scheme(name), ""
    choice = cost.choose(parties, size, max_abs, dropout=dropout, **more)
    return scheme(choice.name), choice.why


def register(own: Scheme, *, again: bool = False) -> Scheme:
    """Make a protocol of one's own known to `scheme` in this process, checked as a package's is.

    Args:
        own: the protocol.
        again: whether it takes the place of one registered before under that name, as when a notebook's cell runs twice.

    Returns:
        It, as `scheme` gives it from now on.

    Raises:
        Misuse: where it does not fit, or its name is taken.
    """
    return plugins.register(own, _admit, again=again)


def _admit(found: object, name: str, origin: plugins.Origin) -> Scheme:
    if not isinstance(found, Scheme):
        raise plugins.refused(name, origin, f"it is a {type(found).__name__}, not a protocols.sums.Scheme")
    return admission.admitted(found, name, origin)


def foreign(protocol: Scheme) -> str:
    """What whoever runs a plug-in must know; empty for a protocol of ours."""
    if protocol.origin is None:
        return ""
    return f"the protocol {protocol.name} is code of {protocol.origin}, not of securefl: what its sums hide is that author's word"


def notice(name: str, parameters: SumParameters) -> str:
    """What whoever runs a protocol by name must know of the graph that was taken for it; empty where there is nothing to say."""
    graph = getattr(parameters, "graph", None)
    if isinstance(graph, Harary):
        return (
            f"{name} takes the sparse graph for {graph.parties} parties: each masks with {graph.degree} others, {graph.threshold} "
            f"of whom rebuild a secret, and {parameters.threshold} must agree; if more than one in {LOST} vanish, rounds may abort"
        )
    if name == "secagg+":
        return f"secagg+ takes the complete graph for {parameters.parties} parties: no sparser one is safe and worth it"
    return ""


def client_session(
    protocol: Scheme, party: Party, terms: Terms[Any], *, entropy: Entropy = fresh, flow: Flow | None = None
) -> Session:
    """A party's session for one sum."""
    guard = OccasionGuard(party.journal, terms.occasion)
    if protocol.origin is not None:
        guard = PolicyGuard(party.journal, party.policy, terms)
    start, limits = protocol.client_start(party, terms), Limits(terms.parameters.parties, protocol.layouts(terms.parameters))
    return Session(flow or protocol.flow, client(party.index), {"server": [0]}, [start], limits, entropy=entropy, guard=guard)


def server_session(
    protocol: Scheme, terms: Terms[Any], *, entropy: Entropy = fresh, flow: Flow | None = None, turns: int = TURNS
) -> Session:
    """The server's session for one sum; ``turns`` as for `Session`."""
    limits = Limits(terms.parameters.parties, protocol.layouts(terms.parameters))
    peers = {"client": terms.roster.indexes}
    return Session(flow or protocol.flow, SERVER, peers, [protocol.server_start(terms)], limits, entropy=entropy, turns=turns)


def enrol(count: int, *, entropy: Entropy = fresh, policy: Policy | None = None) -> tuple[Roster, list[Party]]:
    """A roster of ``count`` made-up parties with fresh identities and one policy, for simulation."""
    keys = [SigningKey.generate(entropy(), "identity") for _ in range(count)]
    roster = Roster(tuple(Member(f"party-{i}", key.public) for i, key in enumerate(keys, 1)))
    return roster, [Party(i, key, policy or Policy()) for i, key in enumerate(keys, 1)]


def _check_input(array: NDArray[Any], shape: tuple[int, ...], max_abs: int) -> None:
    """Refuse a vector that is not of this shape, not of whole numbers or past its bound."""
    if len(shape) != 1 or not shape[0]:
        raise Misuse(f"an input has shape (d,) with d ≥ 1, not {shape}")
    values = integers(array, shape[0])
    if (largest := max(abs(int(values.min())), abs(int(values.max())))) > max_abs:
        raise Misuse(f"an input value of magnitude {largest} is past max_abs = {max_abs}")


def secure_sum(
    vectors: Sequence[ArrayLike],
    *,
    max_abs: int,
    protocol: str = plugins.AUTO,
    threshold: int | None = None,
    dropouts: Mapping[int, str] | None = None,
    watch: simulate.Watch | None = None,
) -> Sum:
    """Sum integer vectors of parties simulated in this process, so that the server sees the sum alone.

    Args:
        vectors: one per party, equal shapes (d,), integer dtypes, |value| ≤ max_abs.
        max_abs: public bound of every coordinate.
        protocol: name of the protocol, ours or a plug-in's.  ``auto`` takes the cheaper of ``secagg`` and ``kahe``, which
            is ``secagg`` for short vectors; `chosen` says which, and why; the sum has the same bits.  Both take the sparse
            graph of ``secagg+`` by themselves where a party then has at most n/2 neighbours, which is from about 400
            parties on; `notice` says so.  It stands n/10 dropouts, not n/3.
        threshold: t; by default the least that is safe against ⌈n/3⌉ − 1 colluding parties.  With a threshold of your own
            the complete graph is kept.
        dropouts: for a party (from 1), the name of the message before which it vanishes, such as ``"Masked"``.
        watch: called on every delivery.

    Returns:
        The exact sum over the parties whose vector arrived, shape (d,), int64, and their number.

    Raises:
        Misuse: for parameters or inputs out of their bounds.
        Abort: where fewer than the threshold survived, or the parties' default policy refuses the protocol's parameters.
    """
    arrays: list[NDArray[Any]] = [np.asarray(v) for v in vectors]
    if len(arrays) < 2:
        raise Misuse(f"a secure sum needs the vectors of at least 2 parties, not of {len(arrays)}")
    most = (2**63 - 1) // len(arrays)
    if not isinstance(max_abs, int | np.integer) or not 1 <= max_abs <= most:
        raise Misuse(f"max_abs must be a whole number, 1 to {most} with {len(arrays)} parties, not {max_abs!r}")
    for index, array in enumerate(arrays, 1):
        try:  # a real party's session refuses it by itself
            _check_input(array, arrays[0].shape, int(max_abs))
        except Misuse as error:
            raise Misuse(f"party {index}: {error}") from None
    if not isinstance(dropouts, Mapping | None):
        raise Misuse(f'dropouts is {{party: message}}, such as {{3: "Masked"}}, not a {type(dropouts).__name__}')
    taken, _ = chosen(protocol, len(arrays), arrays[0].size, int(max_abs), threshold=threshold)
    parameters = taken.parameters(len(arrays), arrays[0].size, int(max_abs), threshold=threshold)
    roster, parties = enrol(len(arrays), policy=taken.policy)
    terms = taken.terms(Occasion("secure_sum", 0), roster, parameters)
    sessions: dict[Address, Session] = {SERVER: server_session(taken, terms)}
    sessions |= {client(p.index): client_session(taken, p, terms) for p in parties}
    inputs = {client(i): [Vector(a)] for i, a in enumerate(arrays, 1)}
    stages = {kind.__name__ for kind in taken.flow.messages("server")}
    for index, stage in (dropouts or {}).items():
        if index not in roster.indexes or stage not in stages:
            raise Misuse(
                f"no party {index} drops out before {stage!r}: parties are 1 to {len(roster)}, stages {', '.join(sorted(stages))}"
            )
    network = simulate.vanish({client(i): stage for i, stage in (dropouts or {}).items()})
    outcome = simulate.run(sessions, inputs, network=network, watch=watch)
    if outcome.reason is not None:
        raise outcome.reason
    result: Sum = outcome.outputs[0]
    return result
