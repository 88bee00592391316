"""Many sums after one handshake: exact at every step, whoever is lost when, and for each step as a single sum would be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SEEDS, identities, kahe_parameters, parameters, roster

from protocols import batch, batch_sums, kahe_batch, simulate, sums
from protocols.batch_sums import Group, opened
from protocols.batch_terms import HandshakeTerms, StepTerms, most_steps
from protocols.errors import Abort, Misuse
from protocols.policy import Policy
from protocols.primitives.agree import derive
from protocols.primitives.graph import Harary
from protocols.primitives.sign import verify
from protocols.rand import Key, Replay
from protocols.reference import _add, _stream
from protocols.ring import Ring
from protocols.schema import strings
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Masked
from protocols.session import Address, client
from protocols.suite import Occasion, SumParameters
from protocols.sums import Party
from protocols.vector import Sum, Vector
from protocols.wire import canonical, digest

HANDSHAKE = ("BatchAdvert", "BatchBoxes")
ROUNDS = {"secagg": ("Masked", "Agree", "Openings"), "kahe": ("Enciphered", "Agree", "Openings")}
OCCASION = Occasion("test", 5, 1)


def model(step: int) -> bytes:
    return bytes([step + 1]) * 32


@dataclass(frozen=True)
class Series:
    """Some sums after one handshake, with everything that determines them."""

    protocol: str
    parameters: Any
    steps: int
    lost: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    """For a party the step, -1 for the handshake, and the message before which it vanishes for good."""
    seed: int = 0

    @property
    def terms(self) -> HandshakeTerms[Parameters]:
        n = self.parameters.parties
        return batch_sums.batch(self.protocol).terms(OCCASION, roster(n), self.parameters, self.steps)

    @property
    def parties(self) -> list[Party]:
        policy = Policy(min_corrupt=0)
        return [Party(u, key, policy) for u, key in identities(self.parameters.parties).items()]

    def network(self, step: int) -> simulate.Network:
        """Who was lost before sends nothing any more."""
        first = ROUNDS[self.protocol][0]
        stages = {client(u): stage if at == step else first for u, (at, stage) in self.lost.items() if at <= step}
        return simulate.vanish(stages)

    def entropy(self, who: Address) -> Replay:
        return Replay(f"{self.seed} {who}")

    def start(self) -> Group:
        made = batch_sums.batch(self.protocol)
        return batch_sums.handshake(made, self.parties, self.terms, entropy=self.entropy, network=self.network(-1))

    def inputs(self, step: int) -> dict[int, Vector]:
        p = self.parameters
        rng = np.random.default_rng([self.seed, step])  # of public test data, no secrets
        return {u: Vector(rng.integers(-p.max_abs, p.max_abs, p.size, endpoint=True)) for u in range(1, p.parties + 1)}

    def left_before(self, step: int, stage: str, among: Iterable[int]) -> set[int]:
        """Who of ``among`` still sends the message of that name."""
        stages = (*HANDSHAKE, *ROUNDS[self.protocol])
        when = {u: (at, stages.index(name)) for u, (at, name) in self.lost.items()}
        return {u for u in among if when.get(u, (self.steps, 0)) > (step, stages.index(stage))}


def plays_out(series: Series) -> None:
    """The sums are those over whoever sent its vector, until too few are left: exactly at the step where counting says so."""
    t, everybody = series.parameters.threshold, set(range(1, series.parameters.parties + 1))
    u2 = series.left_before(-1, "BatchBoxes", everybody)
    if len(u2) < t:
        with pytest.raises(Abort) as stopped:
            series.start()
        assert stopped.value.check == "quorum"
        return
    group = series.start()
    for step in range(series.steps):
        inputs = series.inputs(step)
        outcome = group.step(inputs, model(step), network=series.network(step))
        assert not any(session.faults or session.accused for session in outcome.sessions.values())
        u3 = series.left_before(step, ROUNDS[series.protocol][0], u2)
        if len(series.left_before(step, "Openings", u3)) < t:
            with pytest.raises(Abort) as stopped:
                opened(outcome)
            assert stopped.value.check == "quorum"
            with pytest.raises(Misuse, match="no other follows"):
                group.sessions()
            return
        total = opened(outcome)
        assert total.values.tolist() == sum(inputs[u].values for u in u3).tolist()
        assert total.contributors == len(u3)
        assert group.server is not None
        assert group.server.u2 == tuple(sorted(u3))
        u2 = u3
    with pytest.raises(Misuse, match=f"prepared steps 0 to {series.steps - 1}"):
        group.sessions()


@st.composite
def series(draw: st.DrawFn, protocol: str) -> Series:
    p = draw(kahe_parameters(size=(1, 8)) if protocol == "kahe" else parameters(parties=(2, 7), size=(1, 20)))
    steps = draw(st.integers(1, 4))
    most = draw(st.sampled_from([p.parties - p.threshold, p.parties]))
    gone = draw(st.lists(st.integers(1, p.parties), unique=True, max_size=most))
    when = st.tuples(st.just(-1), st.sampled_from(HANDSHAKE)) | st.tuples(
        st.integers(0, steps - 1), st.sampled_from(ROUNDS[protocol])
    )
    return Series(protocol, p, steps, {u: draw(when) for u in gone}, draw(SEEDS))


@given(series("secagg"))
@settings(max_examples=80)
def test_every_sum_is_over_whoever_sent_its_vector(case: Series) -> None:
    plays_out(case)


@given(series("kahe"))
@settings(max_examples=15)
def test_every_sum_of_encrypted_vectors_is_too(case: Series) -> None:
    plays_out(case)


def small(protocol: str = "secagg", parties: int = 6, steps: int = 3, **more: Any) -> Series:
    build = sums.scheme(protocol).parameters
    return Series(protocol, build(parties, 9, 1000), steps, **more)


@pytest.mark.parametrize("stage", [(-1, name) for name in HANDSHAKE] + [(at, name) for at in range(3) for name in ROUNDS["secagg"]])
def test_one_may_be_lost_at_every_stage_of_every_step(stage: tuple[int, str]) -> None:
    plays_out(small(lost={2: stage}))


def test_losses_add_up_over_the_steps() -> None:
    """n = 6, t = 4: two may be lost in all, at whatever steps; the third stops everything from then on."""
    plays_out(small(steps=4, lost={1: (0, "Masked"), 2: (1, "Agree")}))
    plays_out(small(steps=4, lost={1: (0, "Masked"), 2: (1, "Agree"), 3: (3, "Openings")}))


@pytest.mark.parametrize("lost", [5, 6])
def test_the_last_parties_are_missed_as_any_others(lost: int) -> None:
    plays_out(small(steps=2, lost={lost: (0, "Masked")}))


SPARSE = Parameters(8, 5, 1000, Ring(20), 6, 0, Harary(8, 4, 3, 80, 0))


def test_sums_on_the_ring_are_exact_and_its_order_is_that_of_the_handshake() -> None:
    case = Series("secagg+", SPARSE, 3)
    made = batch_sums.batch("secagg+")
    parties = [replace(party, policy=Policy(min_corrupt=0)) for party in case.parties]
    group = batch_sums.handshake(made, parties, case.terms)
    held = {u: set(group.party(u).standing.dealers) for u in range(1, 9)}
    assert all(len(dealers) == 4 for dealers in held.values())
    for step in range(3):
        gone = {client(1): "Masked"} if step == 1 else {}
        inputs = case.inputs(step)
        total = opened(group.step(inputs, model(step), network=simulate.vanish(gone)))
        there = range(1, 9) if step == 0 else range(2, 9)
        assert total.values.tolist() == sum(inputs[u].values for u in there).tolist()
        assert {u: set(group.party(u).standing.dealers) for u in there} == {u: held[u] for u in there}


def test_a_party_that_missed_the_agreement_is_out_until_the_next_handshake() -> None:
    case = small(steps=4)
    group = case.start()

    def network(letter: Any) -> Iterable[Any]:
        if type(letter.message).__name__ != "Agreed":
            return (letter,)
        return (replace(letter, to=tuple(to for to in letter.to if to.index != 3)),)

    first = opened(group.step(case.inputs(0), model(0), network=network))
    assert first.contributors == 6
    assert sorted(group.ready) == [1, 2, 4, 5, 6]
    second = opened(group.step(case.inputs(1), model(1)))
    assert second.values.tolist() == sum(x.values for u, x in case.inputs(1).items() if u != 3).tolist()
    assert group.server is not None
    assert group.server.u2 == (1, 2, 4, 5, 6)


# The oracle


def key(secret: Any, *label: object) -> Key:
    return derive(secret, canonical(list(label)))


@given(series("secagg"))
@settings(max_examples=25)
def test_what_a_step_sends_is_what_the_papers_formulas_give(case: Series) -> None:
    """Bit by bit, with `protocols.reference`'s streams and rings, under identities and labels that are written out here."""
    p = case.parameters
    case = case if len(case.lost) <= p.parties - p.threshold else replace(case, lost={})
    group, terms = case.start(), case.terms
    o = OCCASION
    whole = ["securefl sid", p.suite, o.run, o.round, o.attempt, terms.roster.content, p.content, o.model]
    sid = digest(["securefl handshake sid", digest(whole), case.steps])
    for step in range(case.steps):
        assert group.server is not None
        u2, L, inputs = group.server.u2, group.server.L, case.inputs(step)
        hashed, sid_i = digest(["securefl step shares", sid, step]), digest(["securefl step sid", sid, step, model(step)])
        kept = {u: secrets[0] for u, ready in group.ready.items() if (secrets := ready._secrets) is not None}
        s, b = {u: one.s for u, one in kept.items()}, {u: one.b for u, one in kept.items()}
        for u, one in kept.items():
            assert group.server.dealt[u].commitment[32 * step :][:32] == key(b[u], "commit", hashed, L, u).reveal()
            dealers = group.ready[u].standing.dealers
            pairs = zip(strings(one.shares, 33), strings(one.pins, 32), ["s", "b"] * len(dealers), strict=True)
            for at, (share, pin, kind) in enumerate(pairs):
                assert pin == digest(["share", hashed, L, dealers[at // 2], u, kind, share])
        sent = dict[int, Masked]()

        def watch(letter: Any, _to: Address, _size: int, sent: dict[int, Masked] = sent) -> None:
            if isinstance(letter.message, Masked):
                sent[letter.sender.index] = letter.message

        opened(group.step(inputs, model(step), network=case.network(step), watch=watch))
        assert sent
        for u, masked in sent.items():
            y = _add([*map(int, inputs[u].values), 1], _stream(key(b[u], "self", sid_i, L, u), p.size + 1, p.ring), 1, p.ring)
            for v in u2:
                if v != u:
                    public = {w: group.server.s_pks[w][32 * step :][:32] for w in (u, v)}
                    low, high = sorted((u, v))
                    pair = key(s[u].exchange(public[v]), "pair", sid_i, L, low, high, public[low], public[high])
                    y = _add(y, _stream(pair, p.size + 1, p.ring), 1 if u < v else -1, p.ring)
            assert masked.y.values.tolist() == y
            dealers = group.ready[u].standing.dealers if u in group.ready else ()
            if dealers:
                pins = [pin for v, pin in zip(dealers, strings(kept[u].pins, 64), strict=True) if v in u2]
                assert masked.receipt == digest(b"".join(pins))
                content = canonical(["masked", sid_i, u, L, list(u2), masked.y.digest, masked.receipt])
                assert verify(terms.roster.identity(u), masked.signature, content)


# What is bound to what


def test_sessions_of_steps_and_handshakes_are_told_apart() -> None:
    case = small(steps=3)
    terms = case.terms
    apart = {
        terms.sid,
        sums.scheme("secagg").terms(OCCASION, terms.roster, case.parameters).sid,
        replace(terms, steps=2).sid,
        *(terms.at(i, model(m)).sid for i in range(3) for m in range(3)),
        *(terms.at(i).dealing for i in range(3)),
        replace(terms, steps=2).at(0, model(0)).sid,
        replace(terms, steps=2).at(0).dealing,
    }
    assert len(apart) == 1 + 1 + 1 + 9 + 3 + 1 + 1
    assert {terms.at(i, model(m)).dealing for i in range(3) for m in range(3)} == {terms.at(i).dealing for i in range(3)}
    assert {terms.at(i).ordering for i in range(3)} == {terms.sid} == {terms.ordering}
    assert [terms.at(i).occasion.round for i in range(3)] == [5, 6, 7]
    assert isinstance(terms.at(1), StepTerms)


def test_parties_that_were_told_different_models_open_nothing() -> None:
    case = small(parties=6)
    group = case.start()
    sessions, others = group.sessions(model(0)), case.start().sessions(model(1))
    sessions |= {client(u): others[client(u)] for u in (1, 2, 3)}
    outcome = simulate.run(sessions, {client(u): [x] for u, x in case.inputs(0).items()})
    assert outcome.abort is not None
    assert {fault.check for fault in outcome.sessions[Address("server")].faults} == {"masked-signature"}


@pytest.mark.parametrize(("parties", "most"), [(2, 4096), (8, 4096), (16, 2048), (50, 655), (1000, 32), (16384, 2)])
def test_how_many_sums_one_handshake_prepares_is_bounded(parties: int, most: int) -> None:
    assert most_steps(parties) == most


def test_terms_out_of_their_bounds_are_refused() -> None:
    case = small()
    for steps in (0, -1, 4097):
        with pytest.raises(Misuse, match="prepares 1 to 4096 sums"):
            replace(case.terms, steps=steps)
    with pytest.raises(Misuse, match="malformed occasion"):
        replace(case.terms, occasion=replace(OCCASION, round=2**32 - 2))
    for step in (-1, 3):
        with pytest.raises(Misuse, match="prepared steps 0 to 2"):
            case.terms.at(step)
    at_most = replace(case.terms, steps=4096)
    assert at_most.at(4095).occasion.round == OCCASION.round + 4095


def test_a_sum_has_the_terms_of_its_handshake_but_for_round_and_model() -> None:
    terms = small().terms
    for step in range(terms.steps):
        one = terms.at(step, model(4))
        assert (one.suite, one.roster, one.parameters) == (terms.suite, terms.roster, terms.parameters)
        assert one.occasion == replace(terms.occasion, round=terms.occasion.round + step, model=model(4))
        assert (one.handshake, one.step) == (terms, step)


@pytest.mark.parametrize("name", ["plain-insecure", "lightsecagg", "bfv", "ckks"])
def test_protocols_without_a_handshake_for_many_sums_say_so(name: str) -> None:
    with pytest.raises(Misuse, match="take one of secagg"):
        batch_sums.batch(name)


def test_one_batch_has_its_single_sums_parameters() -> None:
    for name in batch_sums.NAMES:
        made = batch_sums.batch(name)
        p: SumParameters = made.scheme.parameters(5, 9, 1000)
        assert made.whole(made.masked(p)) is p
        assert made.terms(OCCASION, roster(5), p, 2).suite == made.scheme.suite(p)
    assert batch_sums.batch("kahe").handshake is batch_sums.batch("secagg").handshake is batch.handshake
    assert batch_sums.batch("kahe").steps is kahe_batch.steps


def test_sums_of_one_input_hide_it_at_every_step_anew() -> None:
    """Equal inputs, and equal everything but the step: no two masked vectors of a party are equal, nor are their differences."""
    case = small(steps=3, parties=4)
    group, seen = case.start(), dict[tuple[int, int], Any]()
    x = {u: Vector(np.full(9, 7)) for u in range(1, 5)}
    for step in range(3):

        def watch(letter: Any, _to: Address, _size: int, step: int = step) -> None:
            if type(letter.message).__name__ == "Masked":
                seen[letter.sender.index, step] = letter.message.y.values.astype(np.int64)

        total: Sum = opened(group.step(x, model(0), watch=watch))
        assert total.values.tolist() == [28] * 9
    half = case.parameters.ring.modulus
    differences = [((seen[u, i] - seen[u, j]) % half).tolist() for u in range(1, 5) for i in range(3) for j in range(i)]
    assert len({tuple(row) for row in differences}) == 12
    assert all(len(set(row)) > 4 for row in differences)
