"""What the tests of the protocols share: random cohorts, whole runs of a flow, its wire bytes, and spoilt messages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin

import numpy as np
from hypothesis import strategies as st

from protocols import he_reference, kahe_reference, lightsecagg_reference, reference, simulate
from protocols.bulk import Blobs, Bulk, Layout
from protocols.flow import Flow
from protocols.he_parameters import HeParameters
from protocols.kahe_parameters import KaheParameters
from protocols.lightsecagg_parameters import LightParameters
from protocols.policy import Policy
from protocols.primitives.sign import SigningKey
from protocols.rand import Entropy, Replay
from protocols.ring import Ring
from protocols.schema import Count, Message, Raw, Record, Size, Span, Strings, schema, strings
from protocols.secagg_parameters import Parameters
from protocols.session import SERVER, Address, Letter, Session, client
from protocols.suite import Member, Occasion, Roster, Terms
from protocols.sums import Party, client_session, scheme, server_session
from protocols.vector import Sum, Vector
from protocols.wire import Limits, encode

SEEDS = st.integers(0, 2**32)
Wire = dict[tuple[str, Address, Address], bytes]
"""Bytes of every delivered message, by its name, sender and recipient."""


@lru_cache
def identities(parties: int) -> Mapping[int, SigningKey]:
    return {u: SigningKey.generate(Replay(f"identity {u}")(), "identity") for u in range(1, parties + 1)}


@lru_cache
def roster(parties: int) -> Roster:
    return Roster(tuple(Member(f"party-{u}", key.public) for u, key in identities(parties).items()))


@dataclass(frozen=True)
class Case:
    """One secure sum with everything that determines it."""

    parameters: Parameters | LightParameters | HeParameters | KaheParameters
    inputs: Mapping[int, Sequence[int]] = field(repr=False)
    dropouts: Mapping[int, str] = field(default_factory=dict)
    seed: int = 0
    occasion: Occasion = Occasion("test", 0)

    def terms(self, protocol: str = "secagg") -> Terms:
        return scheme(protocol).terms(self.occasion, roster(self.parameters.parties), self.parameters)

    def entropy(self, index: int) -> Entropy:
        return Replay(f"{self.seed} {index}")

    def reference(self, protocol: str = "secagg") -> reference.Transcript:
        terms, n = self.terms(protocol), self.parameters.parties
        if protocol == "plain-insecure":
            return reference.plain(terms, self.inputs, self.dropouts)
        entropy, run = {u: self.entropy(u) for u in self.inputs}, reference.secagg
        if protocol == "lightsecagg":
            run = lightsecagg_reference.lightsecagg
        elif protocol == "kahe":
            run = kahe_reference.kahe
        elif protocol in ("bfv", "ckks"):
            run = he_reference.homomorphic_sum
        return run(terms, identities(n), self.inputs, entropy, self.dropouts)

    def sum_over(self, parties: Sequence[int]) -> list[int]:
        return [sum(self.inputs[u][i] for u in parties) for i in range(self.parameters.size)]

    def session(self, address: Address, *, protocol: str = "secagg", flow: Flow | None = None, policy: Any = None) -> Session:
        terms, chosen = self.terms(protocol), scheme(protocol)
        if address == SERVER:
            return server_session(chosen, terms, flow=flow)
        party = Party(address.index, identities(self.parameters.parties)[address.index], policy or Policy(min_corrupt=0))
        return client_session(chosen, party, terms, entropy=self.entropy(address.index), flow=flow)

    def vector(self, index: int) -> Vector:
        return Vector(np.array(self.inputs[index], dtype=np.int64))

    @property
    def limits(self) -> Limits:
        p = self.parameters
        named = {LightParameters: "lightsecagg", KaheParameters: "kahe", Parameters: "secagg"}
        name = p.scheme if isinstance(p, HeParameters) else named[type(p)]
        return Limits(self.parameters.parties, scheme(name).layouts(self.parameters))

    @property
    def everybody(self) -> list[Address]:
        return [SERVER, *map(client, self.inputs)]


@dataclass
class Play:
    """What became of a case, and what was on the wire."""

    outcome: simulate.Outcome
    wire: Wire
    letters: list[Letter]

    @property
    def total(self) -> Sum | None:
        return self.outcome.outputs[0] if self.outcome.outputs else None

    def survivors(self) -> list[int]:
        """Those whom the server told who dropped: U3."""
        return sorted(to.index for name, _, to in self.wire if name == "Dropped")


def play(
    case: Case,
    *,
    protocol: str = "secagg",
    network: simulate.Network | None = None,
    flow: Flow | None = None,
    policy: Policy | None = None,
) -> Play:
    """Run the flow's sessions against each other; by default the case's dropouts vanish and nothing else happens."""
    wire: Wire = {}
    letters: list[Letter] = []

    def watch(letter: Letter, to: Address, size: int) -> None:
        wire[type(letter.message).__name__, letter.sender, to] = b"".join(letter.chunks())
        assert len(wire[type(letter.message).__name__, letter.sender, to]) == size
        letters.append(letter)

    sessions = {address: case.session(address, protocol=protocol, flow=flow, policy=policy) for address in case.everybody}
    inputs = {client(u): [case.vector(u)] for u in case.inputs}
    vanishing = simulate.vanish({client(u): stage for u, stage in case.dropouts.items()})
    return Play(simulate.run(sessions, inputs, network=network or vanishing, watch=watch), wire, letters)


def wire_of(transcript: reference.Transcript, limits: Limits) -> Wire:
    """The bytes that a transcript of the reference has on the wire."""
    return {
        (type(sent.message).__name__, address(sent.sender), address(to)): b"".join(encode(sent.message, 0, limits))
        for sent in transcript.sent
        for to in sent.to
    }


def address(index: int) -> Address:
    return client(index) if index else SERVER


@st.composite
def parameters(draw: st.DrawFn, *, parties: tuple[int, int] = (2, 9), size: tuple[int, int] = (1, 70)) -> Parameters:
    """Any parameters that are allowed: every ring width, threshold and number of corrupt parties."""
    n = draw(st.integers(*parties))
    corrupt = draw(st.integers(0, n - 2))
    threshold = draw(st.integers(max((n + corrupt) // 2 + 1, corrupt + 2), n))
    ring = Ring(draw(st.integers(n.bit_length() + 1, 64)))
    largest = (ring.half - 1) // n
    max_abs = draw(st.sampled_from([1, largest]) | st.integers(1, largest))
    return Parameters(n, draw(st.integers(*size)), max_abs, ring, threshold, corrupt)


@st.composite
def light_parameters(draw: st.DrawFn, *, parties: tuple[int, int] = (2, 6), size: tuple[int, int] = (1, 40)) -> LightParameters:
    """Any parameters of LightSecAgg that are allowed."""
    n = draw(st.integers(*parties))
    corrupt = draw(st.integers(0, n - 2))
    threshold = draw(st.integers(max((n + corrupt) // 2 + 1, corrupt + 2), n))
    noise = draw(st.integers(max(corrupt, 1), threshold - 1))
    bits = draw(st.sampled_from([31, 61]))
    largest = (2**bits - 2) // (2 * n)
    max_abs = draw(st.sampled_from([1, largest]) | st.integers(1, largest))
    return LightParameters.of(n, draw(st.integers(*size)), max_abs, bits=bits, threshold=threshold, corrupt=corrupt, noise=noise)


@st.composite
def he_parameters(draw: st.DrawFn, *, parties: tuple[int, int] = (2, 6), size: tuple[int, int] = (1, 40)) -> HeParameters:
    """Parameters of a homomorphic sum: either scheme, values of any width, any threshold that is allowed."""
    n = draw(st.integers(*parties))
    largest = (2**62 - 1) // n
    max_abs = draw(st.sampled_from([1, largest]) | st.integers(1, 62).flatmap(lambda bits: st.integers(1, min(largest, 2**bits))))
    make = draw(st.sampled_from([HeParameters.bfv, HeParameters.ckks]))
    return make(n, draw(st.integers(*size)), max_abs, threshold=draw(st.integers(n // 2 + 1, n)))


@st.composite
def kahe_parameters(draw: st.DrawFn, *, parties: tuple[int, int] = (2, 5), size: tuple[int, int] = (1, 40)) -> KaheParameters:
    """Parameters of key-additive masking: values of any width that fits, any threshold that is allowed."""
    n = draw(st.integers(*parties))
    corrupt = draw(st.integers(0, n - 2))
    threshold = draw(st.integers(max((n + corrupt) // 2 + 1, corrupt + 2), n))
    largest = (2**54 - 1) // n
    max_abs = draw(st.sampled_from([1, largest]) | st.integers(1, 54).flatmap(lambda bits: st.integers(1, min(largest, 2**bits))))
    return KaheParameters.of(n, draw(st.integers(*size)), max_abs, threshold=threshold, corrupt=corrupt)


@st.composite
def cases(draw: st.DrawFn, stages: Sequence[str] = reference.SECAGG_STAGES, *, of: Any = parameters, **bounds: Any) -> Case:
    """Any cohort and any dropouts; often no more of them than the threshold allows."""
    p = draw(of(**bounds))
    most = draw(st.sampled_from([p.parties - p.threshold, p.parties - p.threshold, p.parties]))
    lost = draw(st.lists(st.integers(1, p.parties), unique=True, max_size=most))
    values = st.sampled_from([-p.max_abs, 0, p.max_abs]) | st.integers(-p.max_abs, p.max_abs)
    inputs = {u: draw(st.lists(values, min_size=p.size, max_size=p.size)) for u in range(1, p.parties + 1)}
    return Case(p, inputs, {u: draw(st.sampled_from(list(stages))) for u in lost}, draw(SEEDS))


def simple_case(parties: int = 5, size: int = 8, *, threshold: int | None = None, seed: int = 0, **more: Any) -> Case:
    """A case without dropouts whose inputs are told apart easily."""
    p = Parameters.of(parties, size, 1000, threshold=threshold, **more)
    return Case(p, {u: [100 * u + i % 10 for i in range(size)] for u in range(1, parties + 1)}, seed=seed)


# Messages: any that fit their bounds, and spoilt ones


def records(kind: type[Record], limits: Limits) -> st.SearchStrategy[Any]:
    """Any record of that kind within its bounds."""
    return st.builds(kind, **{name: _field(hint, limits) for name, hint in schema(kind)})


def _field(hint: Any, limits: Limits) -> st.SearchStrategy[Any]:
    if get_origin(hint) is not Annotated:
        return records(hint, limits)
    base, mark = get_args(hint)
    match mark:
        case Size(low, high):
            size = {"min_size": low, "max_size": low if high is None else high}
            return st.binary(**size) if base is bytes else st.text("aZ0 ", **size)
        case Strings():
            size, low, most = mark.of(limits.sizes)
            return st.lists(st.binary(min_size=size, max_size=size), min_size=low, max_size=most).map(b"".join)
        case Span(low, high):
            return st.sampled_from([low, high]) | st.integers(low, high)
        case Count(low, high):
            most = limits.parties if high < 0 else high
            return st.lists(_field(get_args(base)[0], limits), min_size=low, max_size=most).map(tuple)
        case Raw(key):
            return bulks(limits.vectors[key])
    raise AssertionError(hint)


def bulks(layout: Layout) -> st.SearchStrategy[Bulk]:
    """Any vector of that layout, as the sender has it."""

    def build(seed: int) -> Bulk:
        if isinstance(layout, Blobs):
            data = Replay(f"bulk {seed}")().bytes("bulk", layout.nbytes)
            return Bulk.of(layout, np.frombuffer(data, dtype=np.uint8).reshape(layout.count, layout.size))
        ring, size = layout.ring, layout.size  # type: ignore[attr-defined]
        values = Replay(f"bulk {seed}")().words("bulk", size).astype(ring.dtype)
        ring.reduce(values)
        return Bulk.of(layout, values)

    return SEEDS.map(build)


def same(one: Any, other: Any) -> bool:
    """Whether two records have the same content."""
    if isinstance(one, Record):
        return type(one) is type(other) and all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))  # type: ignore[arg-type]
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, Bulk):
        return bool(np.array_equal(one.values, other.values)) and one.digest == other.digest
    return bool(one == other)


@st.composite
def spoilt(draw: st.DrawFn, message: Message, limits: Limits) -> Message:
    """``message`` with one thing changed somewhere: still within every bound, and not the same."""
    names = [name for name, _ in schema(type(message))]
    name = draw(st.sampled_from(names))
    hint = dict(schema(type(message)))[name]
    value = draw(_spoil(hint, getattr(message, name), limits))
    return replace(message, **{name: value})  # type: ignore[type-var]


def _spoil(hint: Any, value: Any, limits: Limits) -> st.SearchStrategy[Any]:
    if isinstance(value, Record):
        name = st.sampled_from(schema(type(value)))
        return name.flatmap(lambda f: _spoil(f[1], getattr(value, f[0]), limits).map(lambda new: replace(value, **{f[0]: new})))  # type: ignore[type-var]
    mark = get_args(hint)[1]
    if isinstance(mark, Raw):
        layout: Any = limits.vectors[mark.key]
        if isinstance(layout, Blobs):
            return st.tuples(st.integers(0, layout.nbytes - 1), st.integers(1, 255)).map(lambda at: _flipped(value, layout, *at))
        places = st.tuples(st.integers(0, layout.size - 1), st.integers(1, layout.ring.modulus - 1))
        return places.map(lambda place: _bent(value, layout, *place))
    if isinstance(mark, Span):
        return st.integers(mark.low, mark.high).filter(lambda new: new != value)
    if isinstance(mark, Size):
        flips = st.tuples(st.integers(0, len(value) - 1), st.integers(1, 255)).map(
            lambda at: value[: at[0]] + bytes([value[at[0]] ^ at[1]]) + value[at[0] + 1 :]
        )
        shorter = st.integers(mark.low, len(value)).map(lambda n: value[:n]).filter(lambda new: new != value)
        return flips | st.just(bytes(len(value))).filter(lambda new: new != value) | (shorter if mark.high else st.nothing())
    return _spoil_strings(value, mark, limits) if isinstance(mark, Strings) else _spoil_items(hint, value, mark, limits)


def _spoil_strings(value: bytes, mark: Strings, limits: Limits) -> st.SearchStrategy[bytes]:
    """A byte changed, two strings swapped, one more or less."""
    size, low, most = mark.of(limits.sizes)
    parts = strings(value, size)
    at = st.integers(0, len(parts) - 1)
    ways = [
        st.tuples(st.integers(0, len(value) - 1), st.integers(1, 255)).map(
            lambda at: value[: at[0]] + bytes([value[at[0]] ^ at[1]]) + value[at[0] + 1 :]
        ),
        st.permutations(parts).map(b"".join),
        st.tuples(at, at).map(lambda ij: b"".join([*parts[: ij[0]], parts[ij[1]], *parts[ij[0] + 1 :]])),
    ]
    if len(parts) > low:
        ways.append(at.map(lambda i: b"".join(parts[:i] + parts[i + 1 :])))
    if len(parts) < most:
        ways.append(st.binary(min_size=size, max_size=size).map(lambda new: value + new))
    return st.one_of(ways).filter(lambda new: new != value)


def _spoil_items(hint: Any, items: tuple[Any, ...], mark: Count, limits: Limits) -> st.SearchStrategy[Any]:
    most, item = limits.parties if mark.high < 0 else mark.high, get_args(get_args(hint)[0])[0]
    at, ways = st.integers(0, max(0, len(items) - 1)), list[st.SearchStrategy[Any]]()
    if items and len(items) > mark.low:
        ways.append(at.map(lambda i: items[:i] + items[i + 1 :]))
    if items:
        ways.append(at.flatmap(lambda i: _spoil(item, items[i], limits).map(lambda new: (*items[:i], new, *items[i + 1 :]))))
        ways.append(st.tuples(at, at).map(lambda ij: (*items[: ij[0]], items[ij[1]], *items[ij[0] + 1 :])))
    if items and len(items) < most:
        ways.append(at.map(lambda i: (*items[: i + 1], *items[i:])))
    if len(items) < most:
        ways.append(_field(item, limits).map(lambda new: (*items, new)))
    if len(items) > 1:
        ways.append(st.permutations(items).map(tuple))
    return st.one_of(ways).filter(lambda new: not same(new, items))


def _flipped(bulk: Bulk, layout: Blobs, place: int, by: int) -> Bulk:
    values = bulk.values.copy()
    values[divmod(place, layout.size)] ^= by
    return Bulk.of(layout, values)


def _bent(bulk: Bulk, layout: Any, place: int, by: int) -> Bulk:
    values = bulk.values.copy()
    values[place] += layout.ring.dtype(by)
    layout.ring.reduce(values)
    data = layout.dump(values)
    return Bulk(values, hashlib.sha256(data).digest(), data)


def walked(
    case: Case, protocol: str, policy: Policy | None = None
) -> tuple[Session, dict[Address, Session], list[bytes], Callable[[Iterable[Letter]], None]]:
    """Party 2 with randomness that nothing keeps, the others, what waits for it, and a function that delivers letters."""
    me, party = client(2), Party(2, identities(case.parameters.parties)[2], policy or Policy())
    mine = client_session(scheme(protocol), party, case.terms(protocol))
    others = {a: case.session(a, protocol=protocol) for a in case.everybody if a != me}
    held: list[bytes] = []

    def post(letters: Iterable[Letter]) -> None:
        for letter in letters:
            data = b"".join(letter.chunks())
            for to in letter.to:
                if to == me:
                    held.append(data)
                else:
                    post(others[to].feed(letter.sender, data))

    for address, session in others.items():
        post(session.begin())
        if address != SERVER:
            post(session.provide(case.vector(address.index)))
    post(mine.begin())
    return mine, others, held, post
