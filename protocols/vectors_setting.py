"""What a test vector starts from: a protocol, parameters, the parties' keys, seeds and inputs, and who vanishes when."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from protocols.errors import Misuse
from protocols.flow import is_message
from protocols.primitives.graph import Harary
from protocols.primitives.sign import SigningKey
from protocols.rand import Entropy, Rand, Replay, Seed
from protocols.schema import Message
from protocols.session import SERVER, Address, Session
from protocols.suite import Member, Occasion, Roster, SumParameters, Terms
from protocols.sums import Party, Scheme, client_session, server_session
from protocols.vector import Vector
from protocols.vectors_tree import FORMAT, Tree, part, slug, unhex
from protocols.wire import Limits

MOST = (64, 4096)
"""Most parties, and most values of an input, that a vector may have: beyond that a run takes long."""

_SPARSE = {"secagg+": Harary(parties=6, degree=4, threshold=3, security=80, gap=0)}
"""Graphs of protocols that would take the complete one for so few parties."""


@dataclass(frozen=True)
class Setting:
    """Everything that a run is determined by.

    Attributes:
        scheme: the protocol.
        build: the arguments of `Scheme.parameters`.
        graph: a sparse graph in the place of the one that the protocol would take, or None.
        occasion: of the sum.
        identities: 32-byte seed of each party's signing key, by roster index.
        seeds: 32-byte root of each party's randomness, by roster index, 0 for the server; of roles that draw any.
        inputs: each party's vector, by roster index.
        dropouts: for a party, the message before which it vanishes.
    """

    scheme: Scheme
    build: Mapping[str, int | None]
    graph: Harary | None
    occasion: Occasion
    identities: Mapping[int, bytes] = field(repr=False)
    seeds: Mapping[int, bytes] = field(repr=False)
    inputs: Mapping[int, tuple[int, ...]] = field(repr=False)
    dropouts: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parties = list(range(1, self.parameters.parties + 1))
        for what, known, want in (
            ("identities", self.identities, parties),
            ("seeds", self.seeds, drawing(self.scheme, parties)),
            ("inputs", self.inputs, parties),
        ):
            if sorted(known) != want:
                raise Misuse(
                    f"{what} must be those of the parties {', '.join(map(str, want))}, not of {', '.join(map(str, known))}"
                )
        stages = {kind.__name__ for kind in self.scheme.flow.messages("server")}
        if not set(self.dropouts) <= set(parties) or not set(self.dropouts.values()) <= stages:
            raise Misuse(f"dropouts are of the parties 1 to {len(parties)}, before one of {', '.join(sorted(stages))}")

    @property
    def parameters(self) -> SumParameters:
        """The parameters of the sum."""
        made: Any = self.scheme.parameters(**self.build)  # type: ignore[arg-type]
        if self.graph is None:
            return made  # type: ignore[no-any-return]
        if not hasattr(made, "graph"):
            raise Misuse(f"{self.scheme.name} has no graph")
        changed: SumParameters = replace(made, graph=self.graph)
        return changed

    def keys(self) -> dict[int, SigningKey]:
        """Each party's signing key."""
        return {u: SigningKey.from_seed(Seed(seed)) for u, seed in self.identities.items()}

    def entropy(self, index: int) -> Entropy:
        """Where a party, or the server as 0, takes its randomness from."""
        return Replay(self.seeds[index]) if index in self.seeds else _nothing

    def terms(self) -> Terms[Any]:
        """The terms of the sum."""
        roster = Roster(tuple(Member(f"party-{u}", key.public) for u, key in self.keys().items()))
        return self.scheme.terms(self.occasion, roster, self.parameters)

    def session(self, address: Address) -> Session:
        """A party's session before anything has happened."""
        if address == SERVER:
            return server_session(self.scheme, self.terms(), entropy=self.entropy(0))
        policy = replace(self.scheme.policy, min_corrupt=0, min_security=1)
        party = Party(address.index, self.keys()[address.index], policy)
        return client_session(self.scheme, party, self.terms(), entropy=self.entropy(address.index))

    def vector(self, index: int) -> Vector:
        """A party's input."""
        return Vector(np.array(self.inputs[index], dtype=np.int64))

    @property
    def limits(self) -> Limits:
        """Sizes of the session."""
        return Limits(self.parameters.parties, self.scheme.layouts(self.parameters))

    @property
    def approximate(self) -> bool:
        """Whether ciphertexts depend on how a machine rounds floating-point numbers."""
        return float(getattr(self.parameters, "error", 0.0)) > 0


def drawing(scheme: Scheme, parties: Iterable[int]) -> list[int]:
    """Whose steps draw randomness: 0 for the server."""
    roles = {step.role for step in scheme.flow.steps if any(port.carrier == "rand" for port in step.takes)}
    return [*([0] if "server" in roles else []), *(parties if "client" in roles else [])]


def _nothing() -> Rand:
    raise Misuse("a step without a seed draws randomness")


# Cases


def settings(scheme: Scheme) -> Iterator[tuple[str, Setting]]:
    """The runs that are recorded of a protocol, by name: everybody stays; one vanishes before each message; too many vanish."""
    base, name, stages = standard(scheme), slug(scheme.name), scheme.flow.messages("server")
    n, t = base.parameters.parties, base.parameters.threshold
    yield f"{name}_no_dropout", base
    for place, kind in enumerate(stages):
        yield f"{name}_dropout_before_{slug(kind.__name__)}", replace(base, dropouts={1 + (place + 1) % n: kind.__name__})
    for kind in dict.fromkeys([stages[0], *vector_kinds(scheme)]):
        yield f"{name}_too_few_{slug(kind.__name__)}", replace(base, dropouts=dict.fromkeys(range(t, n + 1), kind.__name__))


def standard(scheme: Scheme) -> Setting:
    """The run on which all vectors of a protocol are built: as few parties and values as show everything."""
    graph = _SPARSE.get(scheme.name)
    n, size, most = 4 if graph is None else graph.parties, 5, 1000
    build = {"parties": n, "size": size, "max_abs": most, "bits": None, "threshold": None, "corrupt": None if graph is None else 0}

    def drawn(what: str, u: int) -> bytes:
        return hashlib.sha256(f"securefl vectors {scheme.name} {what} {u}".encode()).digest()

    inputs = {u: (most, -most, 0, u, 37 * u - 100) for u in range(1, n + 1)}
    parties = range(1, n + 1)
    occasion = Occasion("vectors", 7, 1, hashlib.sha256(b"a model").digest())
    identities, seeds = {u: drawn("identity", u) for u in parties}, {u: drawn("seed", u) for u in drawing(scheme, parties)}
    return Setting(scheme, build, graph, occasion, identities, seeds, inputs)


def vector_kinds(scheme: Scheme) -> list[type[Message]]:
    """The messages that carry an input."""
    steps = [step for step in scheme.flow.of("client") if any(port.carrier == "input" for port in step.takes)]
    return [port.type for step in steps for port in step.gives if is_message(port)]


# In a file


def header(name: str, about: str, setting: Setting) -> Tree:
    """What a file begins with."""
    terms, o, graph = setting.terms(), setting.occasion, setting.graph
    sparse = None
    if graph is not None:
        sparse = {"degree": graph.degree, "threshold": graph.threshold, "security": graph.security, "gap": graph.gap}
    return {
        "format": FORMAT,
        "case": name,
        "about": about,
        "protocol": setting.scheme.name,
        "suite": terms.suite,
        "parameters": {**setting.build, "graph": sparse, "content": setting.parameters.content},
        "occasion": {"run": o.run, "round": o.round, "attempt": o.attempt, "model": o.model.hex()},
        "roster": [{"name": m.name, "identity": m.identity.hex()} for m in terms.roster.members],
        "sid": terms.sid.hex(),
        "identity_seeds": {str(u): seed.hex() for u, seed in setting.identities.items()},
        "seeds": {str(u): seed.hex() for u, seed in setting.seeds.items()},
        "draws": {str(u): Replay(seed)().seed("check").reveal().hex() for u, seed in setting.seeds.items()},
        "inputs": {str(u): list(values) for u, values in setting.inputs.items()},
        "dropouts": {str(u): stage for u, stage in setting.dropouts.items()},
    }


def setting_of(tree: Tree, scheme: Scheme) -> Setting:
    """What a file's run starts from.

    Raises:
        Misuse: where a part is missing or malformed, naming it.
    """
    parameters = part(tree, "parameters", dict)
    build = {name: parameters.get(name) for name in ("parties", "size", "max_abs", "bits", "threshold", "corrupt")}
    if not all(type(value) is int or (value is None and name in _OPTIONAL) for name, value in build.items()):
        raise Misuse(f"parameters must be integers, or null for {', '.join(_OPTIONAL)}")
    if part(parameters, "parties", int) > MOST[0] or part(parameters, "size", int) > MOST[1]:
        raise Misuse(f"a vector has at most {MOST[0]} parties and {MOST[1]} values")
    sparse, graph = parameters.get("graph"), None
    if sparse is not None:
        values = {name: part(sparse, name, int) for name in ("degree", "threshold", "security", "gap")}
        graph = Harary(part(parameters, "parties", int), **values)
    o = part(tree, "occasion", dict)
    occasion = Occasion(part(o, "run", str), part(o, "round", int), part(o, "attempt", int), unhex(part(o, "model", str), "model"))
    return Setting(
        scheme,
        build,
        graph,
        occasion,
        {u: _seed(value, "identity_seeds") for u, value in _indexed(tree, "identity_seeds")},
        {u: _seed(value, "seeds") for u, value in _indexed(tree, "seeds")},
        {u: _integers(value) for u, value in _indexed(tree, "inputs")},
        {u: str(value) for u, value in _indexed(tree, "dropouts")},
    )


_OPTIONAL = ("bits", "threshold", "corrupt")


def _indexed(tree: Tree, key: str) -> list[tuple[int, Any]]:
    entries = part(tree, key, dict)
    if not all(re.fullmatch(r"0|[1-9][0-9]{0,4}", index) for index in entries):
        raise Misuse(f"the keys of {key!r} are roster indexes")
    return sorted((int(index), value) for index, value in entries.items())


def _seed(value: object, where: str) -> bytes:
    seed = unhex(value, where)
    if len(seed) != 32:
        raise Misuse(f"{where!r} holds a seed of {len(seed)} bytes, not of 32")
    return seed


def _integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(x) is int and abs(x) < 2**63 for x in value):
        raise Misuse("'inputs' holds what is no list of integers below 2^63")
    return tuple(value)
