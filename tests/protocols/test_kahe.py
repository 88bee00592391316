"""Key-additive masking against its reference, bit by bit; two flows in one; what is hidden, forgotten and never held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cases, client, identities, kahe_parameters, play, walked, wire_of
from test_memory import finds, kinds, reachable
from test_secagg import p_values, two_sample_p_values
from uploads import peak

from protocols import kahe, kahe_reference, secagg, secure_sum
from protocols.errors import Abort, Misuse
from protocols.kahe_parameters import KaheParameters
from protocols.kahe_types import Adding, Enciphered, Folded, KeyParameters, key_terms
from protocols.policy import Policy
from protocols.primitives import rlwe
from protocols.primitives.agree import KeyPair
from protocols.primitives.graph import Harary
from protocols.primitives.sign import SigningKey
from protocols.rand import Key, Rand, Seed
from protocols.secagg_parameters import Parameters
from protocols.secagg_types import Consenting, Covered, Finished, Shared
from protocols.session import SERVER, Letter
from protocols.suite import ring_bits
from protocols.sums import Party, client_session, scheme, server_session
from protocols.vector import Vector

STAGES = kahe_reference.STAGES
TRUSTING = Policy(min_corrupt=0, min_threshold=0.1, min_security=1, semi_honest=True)
FALSE_ALARM = 1e-6
"""Probability, for one whole test, that uniform bits are called not uniform; seeds are fixed, so a pass stays a pass."""


def kahe_case(parties: int = 6, size: int = 8, **more: Any) -> Case:
    p = KaheParameters.of(parties, size, 1000, **more)
    return Case(p, {u: [(u * 7919 + i * 104729) % 1999 - 999 for i in range(size)] for u in range(1, parties + 1)})


def sparse_case(parties: int = 12, size: int = 5, *, degree: int = 6, threshold: int = 4, **more: Any) -> Case:
    """On a graph that is too small to protect anything."""
    graph = Harary(parties, degree, threshold, 1, 0)
    most = Parameters.of(parties, rlwe.DEGREE, rlwe.LARGEST, corrupt=0)
    p = KaheParameters.over(replace(most, graph=graph), size, 1000)
    return Case(p, {u: [50 * u + i for i in range(size)] for u in range(1, parties + 1)}, **more)


def agrees_with_reference(case: Case, **more: Any) -> Any:
    expected, got = case.reference("kahe"), play(case, protocol="kahe", **more)
    assert {key: data for key, data in got.wire.items() if key[0] != "Farewell"} == wire_of(expected, case.limits)
    if expected.total is None:
        assert got.total is None
        assert got.outcome.abort is not None
        assert got.outcome.abort.step == expected.aborted
    else:
        assert got.outcome.abort is None
        assert got.total is not None
        assert got.total.values.tolist() == list(expected.total) == case.sum_over(expected.survivors)
        assert got.total.contributors == len(expected.survivors)
    return got


# The oracle


@given(cases(STAGES, of=kahe_parameters))
@settings(max_examples=15, deadline=None)
def test_the_flow_is_the_reference_bit_by_bit(case: Case) -> None:
    """Every message, ciphertexts included; the sum or the abort; dropouts at every stage."""
    got = agrees_with_reference(case)
    assert got.outcome.abort is None or got.outcome.abort.check == "quorum"
    assert not any(s.faults or s.accused for s in got.outcome.sessions.values())


@pytest.mark.parametrize("max_abs", [1000, 2**40])
def test_vectors_of_several_elements_two_digits_and_one(max_abs: int) -> None:
    size = 2 * rlwe.DEGREE + 3
    p = KaheParameters.of(3, size, max_abs)
    assert (p.digits, p.shape.elements) == ((2, 2) if max_abs == 1000 else (1, 3))
    inputs = {u: [(-1) ** i * (max_abs - (u * i) % 97) for i in range(size)] for u in (1, 2, 3)}
    agrees_with_reference(Case(p, inputs, {2: "Agree"}))


@pytest.mark.parametrize("gone", [{}, {3: "Enciphered", 4: "Advert"}, {1: "Boxes", 10: "Openings"}])
def test_on_a_sparse_graph_the_flow_is_the_reference_too(gone: dict[int, str]) -> None:
    """What the survivors signed is shown to everybody: the hashes cover the ciphertexts."""
    got = agrees_with_reference(replace(sparse_case(), dropouts=gone), policy=TRUSTING)
    assert got.total is not None
    assert got.total.contributors == 12 - sum(stage in STAGES[:3] for stage in gone.values())


def test_neighbourhoods_that_run_short_abort_as_in_the_reference() -> None:
    gone = dict.fromkeys((2, 3, 4, 5, 6), "Enciphered")
    assert agrees_with_reference(replace(sparse_case(), dropouts=gone), policy=TRUSTING).total is None


@given(cases(["Enciphered"], of=kahe_parameters))
@settings(max_examples=15, deadline=None)
def test_plain_and_enciphered_sums_have_equal_bits(case: Case) -> None:
    p = case.parameters
    opened = play(case, protocol="kahe").total
    clear = Parameters.of(p.parties, p.size, p.max_abs, threshold=p.threshold, corrupt=p.corrupt)
    bare = replace(case, parameters=clear, dropouts=dict.fromkeys(case.dropouts, "Clear"))
    expected = play(bare, protocol="plain-insecure").total
    assert (opened is None) == (expected is None)
    if opened is not None and expected is not None:
        assert opened.values.dtype == np.int64
        assert opened.values.tobytes() == expected.values.tobytes()
        assert opened.contributors == expected.contributors


@pytest.mark.parametrize("parties", [5, 70])
def test_equal_bits_on_the_complete_and_on_the_computed_graph(parties: int) -> None:
    """70 parties, of whom few may be corrupt, stand on a sparse graph that holds by the rule."""
    size, most = 300, 1000
    keys = Parameters.preferably_sparse(parties, rlwe.DEGREE, rlwe.LARGEST, corrupt=1)
    assert isinstance(keys.graph, Harary) == (parties == 70)
    case = Case(
        KaheParameters.over(keys, size, most), {u: [(u * i) % 2001 - 1000 for i in range(size)] for u in range(1, parties + 1)}
    )
    masked = replace(case, parameters=replace(keys, size=size, max_abs=most, ring=Parameters.of(parties, size, most).ring))
    for gone in ({}, {3: "Enciphered"} if parties == 5 else {3: "Boxes", 4: "Enciphered"}):
        ours = play(replace(case, dropouts=gone), protocol="kahe").total
        theirs = play(replace(masked, dropouts={u: stage.replace("Enciphered", "Masked") for u, stage in gone.items()})).total
        assert ours is not None
        assert theirs is not None
        assert ours.values.tolist() == theirs.values.tolist() == case.sum_over([u for u in case.inputs if u not in gone])


@pytest.mark.parametrize("stage", STAGES)
def test_dropouts_at_any_stage(stage: str) -> None:
    """n = 6, t = 4: two may vanish; who vanishes after its ciphertext came is in the sum."""
    for lost in (2, 3):
        case = replace(kahe_case(), dropouts=dict.fromkeys(range(1, lost + 1), stage))
        total = play(case, protocol="kahe").total
        assert (total is not None) == (lost == 2)
        if total is not None:
            assert total.values.tolist() == case.sum_over(range(3 if stage in STAGES[:3] else 1, 7))


def test_the_library_sum() -> None:
    assert secure_sum([[1, -2], [3, -4]], max_abs=5, protocol="kahe").values.tolist() == [4, -6]
    with pytest.raises(Abort, match="quorum"):
        secure_sum([[1]] * 2, max_abs=3, protocol="kahe", dropouts={1: "Openings"})
    with pytest.raises(Misuse, match="no party 1 drops out before 'Masked'"):
        secure_sum([[1]] * 2, max_abs=3, protocol="kahe", dropouts={1: "Masked"})
    with pytest.raises(Misuse, match="do not fit in the 63 bits of a coefficient"):
        secure_sum([[1]] * 2, max_abs=2**61, protocol="kahe")


# Two flows in one


def test_the_key_rounds_are_those_of_secagg() -> None:
    for name in ("advertise", "collect", "share", "relay", "consent", "gather", "open_shares"):
        assert kahe.flow.step(name) is secagg.flow.step(name)
    reveal, theirs = kahe.flow.step("reveal"), secagg.flow.step("reveal")
    assert (reveal.admit, reveal.quorum, reveal.takes) == (theirs.admit, theirs.quorum, theirs.takes)
    assert reveal.fn.__wrapped__ is theirs.fn  # type: ignore[attr-defined]
    own = {step.name for step in kahe.flow.steps if step.fn.__module__ == "protocols.kahe"}
    assert own == {"encrypt", "prepare", "survey", "decrypt"} == {step.name for step in kahe.flow.steps if step.layer == "vector"}
    assert [kind.__name__ for kind in kahe.flow.messages("server")] == list(STAGES)
    assert kahe.flow.inputs("client") == [Vector]
    assert [step.name for step in kahe.flow.steps if step.spends] == ["encrypt"]


def test_both_flows_run_under_one_session_identity_and_one_suite() -> None:
    for case in (kahe_case(), sparse_case()):
        terms = case.terms("kahe")
        keys = key_terms(terms)
        assert (keys.sid, keys.suite, keys.roster) == (terms.sid, terms.suite, terms.roster)
        assert secagg.suite(keys.parameters) == terms.suite
        assert keys.parameters.whole == terms.parameters  # type: ignore[attr-defined]
        graph = "SecAggPlus" if isinstance(case.parameters.graph, Harary) else "SecAgg"
        bits = ring_bits(case.parameters.parties, 32)
        tail = f"{graph}_X25519_Ed25519_HKDF-SHA256_AES256GCM_AES256CTR_Z{bits}"
        assert terms.suite == f"Kahe_RLWE4096_Z64_Binomial64_AES256CTR_{tail}"
    with pytest.raises(TypeError, match="parameters of no keys"):
        KeyParameters(**{f.name: getattr(kahe_case().parameters.keys, f.name) for f in fields(Parameters)}).content  # noqa: B018
    with pytest.raises(TypeError, match="have KeyParameters, not Parameters"):
        kahe.of_vectors(Case(Parameters.of(3, 1, 1), {}).terms())


@given(kahe_parameters(), st.data())
@settings(max_examples=40, deadline=None)
def test_every_parameter_is_in_the_session_identity(p: KaheParameters, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["size", "max_abs", "tail", "width"]))
    other = KaheParameters.over(
        p.keys,
        p.size + (name == "size"),
        p.max_abs - (name == "max_abs") or 2,
        bits=p.width + (name == "width"),
        tail=int(name == "tail"),
    )
    assert Case(p, {}).terms("kahe").sid != Case(other, {}).terms("kahe").sid
    keys = replace(p.keys, threshold=p.keys.threshold + (1 if p.threshold < p.parties else 0))
    moved = KaheParameters.over(keys, p.size, p.max_abs)
    assert (Case(p, {}).terms("kahe").sid == Case(moved, {}).terms("kahe").sid) == (keys == p.keys)


def test_a_policy_accepts_the_protocol_by_its_suite() -> None:
    case = kahe_case()
    suite = case.terms("kahe").suite
    for policy, check in (
        (Policy(suites=frozenset({suite})), None),
        (Policy(suites=frozenset({Case(Parameters.of(6, 8, 1000), {}).terms().suite})), "policy-suite"),
        (Policy(min_corrupt=3), "policy-corrupt"),
        (Policy(min_threshold=0.9), "policy-threshold"),
        (Policy(min_cohort=7), "policy-cohort"),
    ):
        session = case.session(client(1), protocol="kahe", policy=policy)
        assert [type(letter.message).__name__ for letter in session.begin()] == ["Farewell" if check else "Advert"]
        assert (session.ended.check if session.ended else None) == check
    sparse = sparse_case().session(client(1), protocol="kahe", policy=replace(TRUSTING, min_threshold=0.6))
    assert [type(letter.message).__name__ for letter in sparse.begin()] == ["Farewell"]  # t = 4 of 6 neighbours, or 7 of 12


# Ciphertexts hide


def ciphertexts(case: Case) -> dict[int, np.ndarray[Any, Any]]:
    """What the server receives, read off the wire."""
    return {
        letter.sender.index: letter.message.c.values
        for letter in play(case, protocol="kahe").letters
        if isinstance(letter.message, Enciphered)
    }


def test_ciphertexts_are_uniform_and_tell_two_inputs_apart_by_nothing() -> None:
    size = 4 * rlwe.DEGREE
    p = KaheParameters.of(3, size, 1000)
    worlds = [ciphertexts(Case(p, dict.fromkeys((1, 2, 3), [x] * size), seed=seed)) for seed, x in ((1, 0), (2, 1000))]
    tests = [value for world in worlds for row in world.values() for value in p_values([row], p.wire)]
    tests += [value for u in (1, 2, 3) for value in two_sample_p_values(worlds[0][u], worlds[1][u], p.wire)]
    assert min(tests) > FALSE_ALARM / len(tests)


def test_control_without_the_product_by_a_key_the_input_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rlwe.Key, "draw", classmethod(lambda cls, _rand: cls(np.zeros(rlwe.DEGREE, np.int64))))
    case = Case(KaheParameters.of(3, 2 * rlwe.DEGREE, 1000), dict.fromkeys((1, 2, 3), [1000] * 2 * rlwe.DEGREE))
    assert min(p_values([ciphertexts(case)[1]], case.parameters.wire)) < 1e-100


# Memory, and what the server has


def test_after_encrypting_no_key_seed_or_input_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before: they are there, which shows that the search finds them."""
    secrets, draw = dict[str, bytes](), rlwe.Key.draw

    def watched(rand: Rand, label: str = "s") -> rlwe.Key:
        key = draw(rand, label)
        if "watch" in secrets:
            secrets["s"] = bytes(bytearray(key.coefficients.tobytes()))
            assert finds(reachable(key), secrets["s"])
        return key

    monkeypatch.setattr(rlwe.Key, "draw", watched)
    case = kahe_case(3, 64)
    mine, others, held, post = walked(case, "kahe")
    post(mine.feed(SERVER, held.pop(0)))
    (shared,) = mine.remembers
    assert isinstance(shared, Shared)
    x = np.array(case.inputs[2], dtype=np.int64)
    secrets |= {"b": bytes(bytearray(shared.b.reveal())), "s_sk": bytes(bytearray(shared.s.secret().reveal())), "x": x.tobytes()}
    post(mine.provide(case.vector(2)))
    assert {name for name, secret in secrets.items() if finds(reachable(mine), secret)} == {"b", "s_sk", "x"}
    del shared
    secrets["watch"] = bytes(range(32))
    for state in (Covered, Consenting, Finished):
        post(mine.feed(SERVER, held.pop(0)))
        assert [type(value) for value in mine.remembers] == [state]
        assert set(secrets) == {"b", "s_sk", "x", "watch", "s"}
        assert not any(finds(reachable(mine), secret) for secret in secrets.values())
        assert not {KeyPair, X25519PrivateKey, Seed, Rand, Key, Vector} & kinds(reachable(mine))
        assert not any(isinstance(thing, rlwe.Key) for thing in reachable(mine))
        assert (SigningKey in kinds(reachable(mine))) == (state is not Finished)
    assert others[SERVER].outputs[0].values.tolist() == case.sum_over([1, 2, 3])


def test_the_server_has_the_sum_of_the_keys_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its whole state after every message: no party's key, coefficients as int64 or in the ring of the key sum."""
    keys, draw = list[np.ndarray[Any, Any]](), rlwe.Key.draw

    def watched(rand: Rand, label: str = "s") -> rlwe.Key:
        key = draw(rand, label)
        keys.append(key.coefficients.copy())
        return key

    monkeypatch.setattr(rlwe.Key, "draw", watched)
    case, states = kahe_case(4), set[type]()
    sessions = {a: case.session(a, protocol="kahe") for a in case.everybody}

    def network(letter: Letter) -> Iterable[Letter]:
        things = reachable(sessions[SERVER])
        states.update(type(value) for value in sessions[SERVER].remembers)
        for key in keys:
            for secret in (key, case.parameters.keys.ring.lift(key), key.astype(np.float64)):
                assert not finds(things, secret.tobytes()[:256])
        assert not any(isinstance(thing, rlwe.Key) for thing in things)
        return (letter,)

    from protocols import simulate

    outcome = simulate.run(sessions, {client(u): [case.vector(u)] for u in case.inputs}, network=network)
    assert outcome.outputs[0].values.tolist() == case.sum_over([1, 2, 3, 4])
    assert len(keys) == 4
    assert {Adding, Folded} <= states


@pytest.mark.parametrize("parties", [4, 12])
def test_the_servers_memory_is_two_vectors_however_many_come(parties: int) -> None:
    """As with masks: the sum, and the vector that is under way; a coefficient of two values takes 8 bytes."""
    size = 60 * 2 * rlwe.DEGREE
    p = KaheParameters.of(parties, size - 1, 32767)
    chosen, terms = scheme("kahe"), Case(p, {}).terms("kahe")
    assert (p.digits, p.shape.coefficients, p.shape.ring.dtype) == (2, size // 2, np.uint64)
    sessions = {SERVER: server_session(chosen, terms)} | {
        client(u): client_session(chosen, Party(u, key), terms) for u, key in identities(parties).items()
    }
    letters = [letter for session in sessions.values() for letter in session.begin()]
    for session in sessions.values():
        if session.me != SERVER:
            session.provide(Vector(np.full(p.size, session.me.index)))
    uploads = list[tuple[Any, list[bytes]]]()
    while letters:
        letter = letters.pop(0)
        if isinstance(letter.message, Enciphered):
            uploads.append((letter.sender, [bytes(chunk) for chunk in letter.chunks()]))
        else:
            letters += [got for to in letter.to for chunk in letter.chunks() for got in sessions[to].feed(letter.sender, chunk)]

    def come() -> None:
        for sender, chunks in uploads:
            for chunk in chunks:
                letters.extend(sessions[SERVER].feed(sender, chunk))

    vector = 8 * p.shape.coefficients
    assert peak(come) < 1.2 * vector + 5 * 2**20  # beside the sum, which is there before the first byte
    assert [type(letter.message).__name__ for letter in letters] == ["Dropped"]
