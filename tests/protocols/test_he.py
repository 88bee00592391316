"""Homomorphic sums against their reference, bit by bit; parameters and bytes; what is forgotten, and what the server never has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import SEEDS, Case, cases, client, he_parameters, play, walked, wire_of
from test_memory import finds, kinds, reachable, shown, spellings

from protocols import he, he_codec, he_reference, secure_sum
from protocols.errors import Abort, Misuse, Refused
from protocols.he_parameters import HeParameters
from protocols.he_types import Consenting, Encrypted, Finished, Shared, Waiting
from protocols.policy import Policy
from protocols.primitives import homomorphic
from protocols.primitives.agree import KeyPair
from protocols.primitives.sign import SigningKey
from protocols.rand import Key, Rand, Replay, Seed
from protocols.secagg_parameters import Parameters
from protocols.session import SERVER
from protocols.sums import SCHEMES
from protocols.vector import Vector

STAGES = he_reference.STAGES
SCHEMES_HERE = pytest.mark.parametrize("name", ["bfv", "ckks"])
MAKE = {"bfv": HeParameters.bfv, "ckks": HeParameters.ckks}


def he_case(name: str = "bfv", parties: int = 6, size: int = 8, **more: Any) -> Case:
    p = MAKE[name](parties, size, 1000, **more)
    return Case(p, {u: [100 * u + i % 10 for i in range(size)] for u in range(1, parties + 1)})


# The oracle


@given(cases(STAGES, of=he_parameters))
@settings(max_examples=25, deadline=None)
def test_the_flow_is_the_reference_bit_by_bit(case: Case) -> None:
    """Every message, ciphertexts included; the sum or the abort; dropouts at every stage."""
    agrees_with_reference(case)


@SCHEMES_HERE
def test_the_flow_is_the_reference_with_several_ciphertexts_too(name: str) -> None:
    p = replace(MAKE[name](3, 1, 1000), size=20_000)
    assert p.ciphertexts > 1
    agrees_with_reference(Case(p, {u: [(u * i) % 2001 - 1000 for i in range(p.size)] for u in (1, 2, 3)}, {2: "Agree"}))


def agrees_with_reference(case: Case) -> None:
    name = case.parameters.scheme
    expected, got = case.reference(name), play(case, protocol=name)
    assert got.wire == wire_of(expected, case.limits)
    if expected.total is None:
        assert got.total is None
        alone = any(type(one.message).__name__ == "Decrypted" for one in expected.sent)
        assert got.outcome.abort is not None
        assert (got.outcome.abort.check, got.outcome.abort.step) == ("openers-differ" if alone else "quorum", expected.aborted)
    else:
        assert got.outcome.abort is None
        assert got.total is not None
        assert got.total.values.tolist() == list(expected.total) == case.sum_over(expected.survivors)
        assert (got.total.contributors, got.total.left_out) == (len(expected.survivors), ())
    assert not any(s.faults or s.accused for s in got.outcome.sessions.values())


@given(cases(["Upload"], of=he_parameters))
@settings(max_examples=12, deadline=None)
def test_plain_and_homomorphic_sums_have_equal_bits(case: Case) -> None:
    p, name = case.parameters, case.parameters.scheme
    opened = play(case, protocol=name).total
    clear = Parameters.of(p.parties, p.size, p.max_abs, threshold=p.threshold, corrupt=0)
    bare = replace(case, parameters=clear, dropouts=dict.fromkeys(case.dropouts, "Clear"))
    expected = play(bare, protocol="plain-insecure").total
    assert (opened is None) == (expected is None)
    if opened is not None and expected is not None:
        assert opened.values.dtype == np.int64
        assert opened.values.tobytes() == expected.values.tobytes()
        assert opened.contributors == expected.contributors


@SCHEMES_HERE
@pytest.mark.parametrize("stage", STAGES[:-1])
def test_dropouts_cost_nothing_at_any_stage_before_the_opening(name: str, stage: str) -> None:
    """n = 6, t = 4: two may vanish; who vanishes after its ciphertexts came is in the sum."""
    for lost in (2, 3):
        case = replace(he_case(name), dropouts=dict.fromkeys(range(1, lost + 1), stage))
        total = play(case, protocol=name).total
        assert (total is not None) == (lost == 2)
        if total is not None:
            assert total.values.tolist() == case.sum_over(range(1 if stage == "Agree" else 3, 7))


def test_one_of_three_openers_may_vanish() -> None:
    case = he_case()
    openers = [to.index for kind, _, to in play(case, protocol="bfv").wire if kind == "Summed"]
    assert len(openers) == 3
    for lost in (1, 2):
        got = play(replace(case, dropouts=dict.fromkeys(openers[:lost], "Decrypted")), protocol="bfv")
        assert (got.total is None) == (lost == 2)
        if got.total is None:
            assert got.outcome.abort is not None
            assert (got.outcome.abort.check, got.outcome.abort.step) == ("openers-differ", "conclude")
        else:
            assert got.total.values.tolist() == case.sum_over(range(1, 7))


def test_two_parties() -> None:
    assert secure_sum([[1, -2], [3, -4]], max_abs=5, protocol="bfv").values.tolist() == [4, -6]
    with pytest.raises(Abort, match="openers-differ"):
        secure_sum([[1]] * 2, max_abs=3, protocol="bfv", dropouts={1: "Decrypted"})


# Digits and tags


@given(he_parameters(parties=(2, 9), size=(1, 60)), SEEDS, st.data())
@settings(max_examples=40, deadline=None)
def test_sums_of_slots_decode_to_the_sum(p: HeParameters, seed: int, data: st.DataObject) -> None:
    key, u3 = Replay(f"{seed}")().seed("key"), data.draw(st.lists(st.integers(1, p.parties), min_size=1, unique=True).map(sorted))
    values = st.sampled_from([-p.max_abs, p.max_abs]) | st.integers(-p.max_abs, p.max_abs)
    rows = {u: data.draw(st.lists(values, min_size=p.size, max_size=p.size)) for u in u3}
    slots = sum(he_codec.encode(p, key, u, Vector(np.array(row, dtype=np.int64))) for u, row in rows.items())
    assert int(slots.max()) < 2**p.slot
    assert he_codec.decode(p, key, u3, slots).tolist() == [*(sum(column) for column in zip(*rows.values(), strict=True)), len(u3)]
    outside = data.draw(st.integers(0, p.data_slots - 1))
    slots[outside] ^= np.uint64(1) << np.uint64(data.draw(st.integers(0, p.slot - 1)))
    with pytest.raises(Refused, match="summed-tag"):
        he_codec.decode(p, key, u3, slots)


@pytest.mark.parametrize("make", MAKE.values())
@pytest.mark.parametrize(("n", "max_abs"), [(2, 1), (100, 32767), (128, 32767), (1000, 32767), (16384, 2**40), (16384, 2**48 - 1)])
def test_digits_have_room_for_n_of_the_largest_values(make: Any, n: int, max_abs: int) -> None:
    p = make(n, 5, max_abs)
    one = he_codec.encode(p, Seed(bytes(32)), 1, Vector(np.array([max_abs, -max_abs, max_abs, 0, 1])))[: p.data_slots]
    assert int(one.max()) * n < 2**p.slot
    digits = he_codec._digits(p, one, 6 * p.limbs)
    assert int(digits.max()) * n < 2**p.digit


def test_the_tag_is_the_sum_by_the_book() -> None:
    p, key = HeParameters.bfv(5, 40_000, 32767), Replay("key")().seed("key")
    data = Replay("data")().words("data", p.data_slots) & np.uint64(2**p.slot - 1)
    kappa = he_codec.FIELD.uniform(Rand(key), "kappa", p.data_slots).tolist()
    assert he_codec.weighted(p, key, data) == sum(k * s for k, s in zip(kappa, data.tolist(), strict=True))


# Parameters


def test_defaults_pack_two_values_of_100_parties_into_a_slot() -> None:
    p = HeParameters.bfv(100, 10**6, 32767)
    assert (p.digits, p.digit, p.limbs, p.slot, p.modulus, p.security, p.threshold, p.corrupt) == (2, 23, 1, 46, 60, 256, 51, 0)
    assert p.upload / p.size < 3.85
    short = HeParameters.bfv(100, 2 * 4096 - 9, 32767)
    assert (short.degree, short.security, short.ciphertexts, short.upload) == (4096, 192, 1, 30784)
    assert HeParameters.bfv(1000, 10**5, 32767).upload < 8.4 * 10**5
    assert 15 * 10**5 < HeParameters.ckks(100, 10**5, 32767).upload < 16 * 10**5
    assert HeParameters.ckks(100, 10**5, 32767).error < 1 / 8


@pytest.mark.parametrize("n", [2, 3, 10, 100, 256, 1000, 16384])
@pytest.mark.parametrize("make", MAKE.values())
def test_what_is_computed_holds_for_any_number_of_parties(n: int, make: Any) -> None:
    for max_abs in (1, 127, 32767, 2**23 - 1, 2**47 - 1):
        p = make(n, 100, max_abs)
        assert p.digits * p.digit <= p.slot
        assert p.limbs * p.limb >= (2 * max_abs).bit_length()
        assert p.error < 1 / 2
        assert 2 * p.threshold > n
        q, noise = 2 ** (p.modulus - 1), (21 * n, 34 * n**0.5)  # √(2·10.5·72 ln 2) < 34
        if p.scheme == "bfv":
            assert 2 * 2**p.slot * (min(noise) + n / 2) < 1.03 * q


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"slot": 12}, "slots of 12 bits are too small for n = 6 values: limbs of 11 bits and their sums need 14 bits"),
        ({"limb": 0}, "limbs of 0 bits"),
        ({"slot": 55}, "slots of 55 bits are too large: with q of 60 bits, N = 4096 and the noise of n = 6 ciphertexts, 51 bits"),
        ({"modulus": 30, "slot": 28}, "28 bits are too large: with q of 30 bits"),
        ({"modulus": 61}, "q has 20 to 60 bits, not 61"),
        ({"degree": 4095}, "degree must be one of 1024, 2048, 4096, .*, not 4095"),
        ({"degree": 2048}, "log q = 60 is above 54, the most with 128-bit security at N = 2048"),
        ({"corrupt": 1}, r"against no party that colludes with the server, not \|C\| = 1"),
        ({"threshold": 3}, "t = 3 breaks n < 2t ≤ 2n and t ≥ 2 with n = 6"),
        ({"threshold": 7}, "t = 7 breaks"),
        ({"max_abs": 2**20}, r"n·max = 6·1048576 must be below R/2 = 2\^13"),
        ({"size": 0}, "1 to 2\\^31 values"),
        ({"parties": 1}, "needs 2 to 16384 parties"),
    ],
)
def test_parameters_that_break_a_bound_are_refused_with_the_values(change: dict[str, int], text: str) -> None:
    p = HeParameters.bfv(6, 5, 1000)
    with pytest.raises(Misuse, match=text):
        replace(p, **change)


@given(he_parameters(), st.sampled_from(["size", "max_abs", "slot", "limb", "modulus", "threshold"]))
@settings(max_examples=60, deadline=None)
def test_every_parameter_is_in_the_session_identity(p: HeParameters, name: str) -> None:
    for value in (getattr(p, name) - 1, getattr(p, name) + 1):
        try:
            other = replace(p, **{name: value})
        except Misuse:
            continue
        assert Case(p, {}).terms(p.scheme).sid != Case(other, {}).terms(p.scheme).sid
    for change in ({"degree": 8192}, {"scheme": {"bfv": "ckks", "ckks": "bfv"}[p.scheme]}):
        try:
            other = replace(p, **change)
        except Misuse:
            continue
        assert Case(p, {}).terms(p.scheme).sid != Case(other, {}).terms(p.scheme).sid


def test_suites_name_scheme_degree_and_modulus() -> None:
    assert he.suite(HeParameters.bfv(100, 10**6, 32767)) == "BFV_N16384_Q60_X25519_Ed25519_HKDF-SHA256_AES256GCM_BLAKE2Xb_Z23"
    assert he.suite(HeParameters.ckks(5, 1, 1)).startswith("CKKS_N4096_Q60_X25519")


def test_a_party_whose_policy_wants_no_shared_key_refuses() -> None:
    """The default policy asks for security against ⌈n/3⌉ − 1 colluding parties: one is enough here."""
    case = he_case()
    for policy, check in (
        (Policy(), "policy-corrupt"),
        (Policy(min_corrupt=1), "policy-corrupt"),
        (Policy(min_corrupt=0, min_cohort=7), "policy-cohort"),
        (Policy(min_corrupt=0, min_threshold=1.0), "policy-threshold"),
    ):
        session = case.session(client(1), protocol="bfv", policy=policy)
        assert [type(letter.message).__name__ for letter in session.begin()] == ["Farewell"]
        assert session.ended is not None
        assert session.ended.check == check
    assert [name for name, one in SCHEMES.items() if one.shared_key] == ["bfv", "ckks"]
    assert SCHEMES["bfv"].policy.min_corrupt == 0
    assert SCHEMES["secagg"].policy == Policy()


# Memory, and what the server has


@SCHEMES_HERE
def test_after_encrypting_no_key_pair_seed_or_input_is_reachable_and_at_the_end_nothing(name: str) -> None:
    """Before: they are there, which shows that the search finds them.  With three parties, all open."""
    case = Case(MAKE[name](3, 64, 1000), {u: [(u * 7919 + i * 104729) % 1999 - 999 for i in range(64)] for u in range(1, 4)})
    mine, others, held, post = walked(case, name, Policy(min_corrupt=0))
    post(mine.feed(SERVER, held.pop(0)))
    (shared,) = mine.remembers
    assert isinstance(shared, Shared)
    x = np.array(case.inputs[2], dtype=np.int64)
    secrets = {"c": bytearray(shared.c.secret().reveal()), "seed": bytearray(shared.seed.reveal()), "x": bytearray(x.tobytes())}
    post(mine.provide(case.vector(2)))
    assert {name for name, secret in secrets.items() if finds(reachable(mine), bytes(secret))} == {"c", "seed", "x"}
    for spelling in spellings(bytes(secrets["c"])) + spellings(bytes(secrets["seed"])):
        assert spelling not in shown(shared)
    del shared
    for state in (Encrypted, Consenting, Waiting, Finished):
        post(mine.feed(SERVER, held.pop(0)))
        assert [type(value) for value in mine.remembers] == [state]
        assert not any(finds(reachable(mine), bytes(secret)) for secret in secrets.values())
        assert not {KeyPair, Rand, Key, Vector} & kinds(reachable(mine))
        assert (Seed in kinds(reachable(mine))) == (SigningKey in kinds(reachable(mine))) == (state is not Finished)
        if state is Encrypted:
            common = bytes(bytearray(mine.remembers[0].key.reveal()))
            assert finds(reachable(mine), common)
            assert all(spelling not in shown(mine.remembers[0]) for spelling in spellings(common))
    assert not finds(reachable(mine), common)
    assert others[SERVER].outputs[0].values.tolist() == case.sum_over([1, 2, 3])


def test_who_does_not_open_forgets_the_key_with_the_agreement() -> None:
    sessions = play(he_case(), protocol="bfv").outcome.sessions
    states = {u: sessions[client(u)].remembers[0] for u in range(1, 7)}
    assert sorted(type(state).__name__ for state in states.values()) == ["Finished"] * 3 + ["Waiting"] * 3
    assert all(state.key is None for state in states.values() if isinstance(state, Waiting))
    assert all(Seed not in kinds(reachable(state)) for state in states.values())


@SCHEMES_HERE
def test_the_server_never_has_a_key(name: str) -> None:
    """Its whole state after every message, and all that reached it, searched for the seeds, the common key, and the secret key of
    the scheme as SEAL writes it; a party's own state, searched in the same way, has them."""
    case = he_case(name, parties=4)
    secrets, texts, seen = dict[str, bytes](), list[bytes](), list[bool]()
    sessions = {a: case.session(a, protocol=name) for a in case.everybody}

    def network(letter: Any) -> Any:
        if letter.to == (SERVER,):
            texts.extend(letter.chunks())
            for state in sessions[letter.sender].remembers:
                key = getattr(state, "seed", None) or getattr(state, "key", None)
                if key is not None:
                    assert finds(reachable(sessions[letter.sender]), key.reveal())
                if isinstance(state, Shared):
                    secrets[f"seed {state.invited.me}"] = state.seed.reveal()
                if not isinstance(state, Encrypted):
                    continue
                secrets["common"] = state.key.reveal()
                shape = case.parameters.shape
                with homomorphic._File() as file:
                    saved = file.save(homomorphic._engine(shape).secret(state.key))
                secrets["scheme"], secrets["part of scheme"] = saved, saved[100:132]
                secrets["words"] = Rand(state.key).words("he key", 8).tobytes()
        things = reachable(sessions[SERVER])
        assert not any(finds(things, secret) for secret in secrets.values())
        assert not {Seed, Key, SigningKey, KeyPair} & kinds(things)
        seen.append(True)
        return (letter,)

    from protocols import simulate

    outcome = simulate.run(sessions, {client(u): [case.vector(u)] for u in case.inputs}, network=network)
    assert outcome.outputs[0].values.tolist() == case.sum_over([1, 2, 3, 4])
    assert len(secrets) == 8
    assert len(seen) > 20
    traffic = b"".join(texts)
    assert not any(secret in traffic for secret in secrets.values())


def test_no_state_or_message_of_the_server_has_room_for_a_key() -> None:
    from protocols import draw

    rows = [line for line in draw.table(he.flow).splitlines() if "server" in line.split("|")[:3]]
    assert not any(word in "".join(rows) for word in ("Seed", "key:", "KeyPair"))
    for step in he.flow.of("server"):
        for port in (*step.takes, *step.gives):
            hints = getattr(port.type, "__annotations__", {})
            assert not any(
                "Seed" in str(hint) and "Bulk" not in str(hint) and "SeedBox" not in str(hint) for hint in hints.values()
            )


@given(SEEDS)
@settings(max_examples=10, deadline=None)
def test_the_common_key_depends_on_every_seed_and_on_who_is_in(seed: int) -> None:
    terms = he_case(parties=4).terms("bfv")
    seeds = {u: Replay(f"{seed} {u}")().seed("seed") for u in range(1, 5)}
    base = he.common_key(terms, b"L", (1, 2, 3, 4), seeds)
    others = [he.common_key(terms, b"L", (1, 2, 3, 4), {**seeds, u: Seed(bytes(32))}) for u in seeds]
    others += [he.common_key(terms, b"L", (1, 2, 3), seeds), he.common_key(terms, b"M", (1, 2, 3, 4), seeds)]
    assert len({key.reveal() for key in [base, *others]}) == 7
