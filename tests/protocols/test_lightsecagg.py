"""LightSecAgg against its reference, bit by bit; its parameters; that masks hide and are forgotten."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from strategies import SEEDS, Case, cases, client, light_parameters, play, walked, wire_of
from test_memory import finds, kinds, reachable, shown, spellings

from protocols import lightsecagg_reference, secure_sum
from protocols.errors import Abort, Misuse
from protocols.field import Field
from protocols.lightsecagg_parameters import LightParameters
from protocols.lightsecagg_types import Consenting, Covered, Finished, Shared
from protocols.policy import Policy
from protocols.primitives.agree import KeyPair
from protocols.primitives.sign import SigningKey
from protocols.session import SERVER
from protocols.wire import Decoder

STAGES = lightsecagg_reference.STAGES


def light_case(parties: int = 6, size: int = 8, **more: Any) -> Case:
    p = LightParameters.of(parties, size, 1000, **more)
    return Case(p, {u: [100 * u + i % 10 for i in range(size)] for u in range(1, parties + 1)})


# The oracle


@given(cases(STAGES, of=light_parameters))
@settings(max_examples=80, deadline=None)
def test_the_flow_is_the_reference_bit_by_bit(case: Case) -> None:
    """Every message, the sum or the abort; dropouts at every stage."""
    agrees_with_reference(case)


@pytest.mark.parametrize(("bits", "max_abs"), [(31, (2**30 - 1) // 3), (61, 2**58)])
def test_the_flow_is_the_reference_at_the_largest_sums(bits: int, max_abs: int) -> None:
    """In the smaller field the sum is ⌊q/2⌋, the last one above zero."""
    p = LightParameters.of(3, 4, max_abs)
    assert p.ring.bits == bits
    agrees_with_reference(Case(p, {u: [max_abs, -max_abs, max_abs - u, u] for u in (1, 2, 3)}))


def agrees_with_reference(case: Case) -> None:
    expected, got = case.reference("lightsecagg"), play(case, protocol="lightsecagg")
    assert got.wire == wire_of(expected, case.limits)
    if expected.total is None:
        assert got.total is None
        assert got.outcome.abort is not None
        assert (got.outcome.abort.check, got.outcome.abort.step) == ("quorum", expected.aborted)
    else:
        assert got.outcome.abort is None
        assert got.total is not None
        assert got.total.values.tolist() == list(expected.total) == case.sum_over(expected.survivors)
        assert (got.total.contributors, got.total.left_out) == (len(expected.survivors), ())
    assert not any(s.faults or s.accused for s in got.outcome.sessions.values())


@given(cases(STAGES, of=light_parameters))
@settings(max_examples=60, deadline=None)
def test_a_sum_comes_out_exactly_if_enough_survive(case: Case) -> None:
    left = set(case.inputs)
    for stage in STAGES:
        left -= {u for u, lost in case.dropouts.items() if lost == stage}
        if stage == "Padded":
            u3 = sorted(left)
    run = case.reference("lightsecagg")
    assert (run.total is not None) == (len(left) >= case.parameters.threshold)
    if run.total is not None:
        assert run.survivors == tuple(u3)
        assert list(run.total) == case.sum_over(u3)


@given(cases(["Masked"], parties=(2, 5)))
@settings(max_examples=30, deadline=None)
def test_secagg_plain_and_lightsecagg_give_equal_bits(case: Case) -> None:
    if 2 * case.parameters.parties * case.parameters.max_abs >= 2**61 - 1:
        case = replace(
            case, parameters=replace(case.parameters, max_abs=1), inputs={u: [u % 2] * case.parameters.size for u in case.inputs}
        )
    p = case.parameters
    light = LightParameters.of(p.parties, p.size, p.max_abs, threshold=p.threshold, corrupt=p.corrupt)
    coded = play(replace(case, parameters=light, dropouts=dict.fromkeys(case.dropouts, "Padded")), protocol="lightsecagg").total
    masked = play(case).total
    clear = play(replace(case, dropouts=dict.fromkeys(case.dropouts, "Clear")), protocol="plain-insecure").total
    assert (coded is None) == (masked is None) == (clear is None)
    if coded is not None and masked is not None and clear is not None:
        assert coded.values.dtype == np.int64
        assert coded.values.tobytes() == masked.values.tobytes() == clear.values.tobytes()
        assert coded.contributors == clear.contributors


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("lost", [2, 3])
def test_as_many_dropouts_as_declared_are_survived_at_every_stage(stage: str, lost: int) -> None:
    case = replace(light_case(8, dropouts=2), dropouts=dict.fromkeys(range(1, lost + 1), stage))
    total = play(case, protocol="lightsecagg").total
    assert (total is not None) == (lost == 2)
    if total is not None:
        left_early = stage in {"KeyAdvert", "Shares", "Padded"}
        assert total.values.tolist() == case.sum_over(range(3 if left_early else 1, 9))


def test_a_sum_in_the_larger_field() -> None:
    total = secure_sum([[2**55, -(2**55)]] * 3, max_abs=2**55, protocol="lightsecagg")
    assert total.values.tolist() == [3 * 2**55, -3 * 2**55]
    with pytest.raises(Abort, match="quorum"):
        secure_sum([[1]] * 3, max_abs=3, protocol="lightsecagg", dropouts={1: "Padded", 2: "Agree"})


# Parameters


def test_defaults_follow_from_corruption_and_dropout() -> None:
    p = LightParameters.of(100, 10**6, 32767)
    assert (p.corrupt, p.noise, p.threshold, p.dropouts, p.ring) == (33, 33, 67, 33, Field(31))
    p = LightParameters.of(100, 10**6, 32767, dropouts=10)
    assert (p.threshold, p.blocks, p.block) == (90, 57, 17544)
    assert (LightParameters.of(2, 1, 1).noise, LightParameters.of(2, 1, 1).threshold) == (1, 2)
    assert LightParameters.of(10, 1, 2**30).ring == LightParameters.of(10, 1, 1, bits=33).ring == Field(61)


@given(st.integers(2, 200), st.integers(0, 60), st.integers(0, 60))
def test_what_is_computed_is_safe_or_refused(n: int, corrupt: int, dropouts: int) -> None:
    try:
        p = LightParameters.of(n, 10, 1000, corrupt=min(corrupt, n - 1), dropouts=dropouts)
    except Misuse:
        c, u = min(corrupt, n - 1), n - dropouts
        assert dropouts > n or not 2 * u > n + c or not u - c >= 2 or not max(c, 1) < u
    else:
        assert p.noise >= p.corrupt
        assert p.noise < p.threshold <= n - p.dropouts
        assert 2 * p.threshold > n + p.corrupt
        assert p.threshold - p.corrupt >= 2
        assert p.blocks * p.block >= p.size + 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"threshold": 4, "corrupt": 2}, r"U = 4 breaks 2U > n \+ \|C\| = 8"),
        ({"noise": 1, "corrupt": 2}, r"T = 1 noise blocks break T ≥ max\(\|C\|, 1\) with \|C\| = 2"),
        ({"noise": 0, "corrupt": 0}, r"T = 0 noise blocks break T ≥ max\(\|C\|, 1\)"),
        ({"noise": 5, "threshold": 5}, "T = 5 noise blocks break T < U = 5"),
        ({"threshold": 5, "dropouts": 2}, "U = 5 breaks U ≤ n − D = 6 − 2"),
        ({"threshold": 7}, "breaks U ≤ n − D"),
        ({"corrupt": 5, "threshold": 6}, r"U = 6 breaks U − \|C\| ≥ 2"),
        ({"corrupt": 6, "threshold": 6}, r"corrupt parties must be in \[0, 5\]"),
        ({"max_abs": 2**58}, r"2·n·max = 2·6·288230376151711744"),
        ({"max_abs": 0}, "max_abs must be at least 1"),
        ({"size": 0}, "1 to 2\\^31 values"),
        ({"bits": 62}, "at least 62 bits"),
    ],
)
def test_parameters_that_break_a_bound_are_refused_with_the_values(change: dict[str, int], text: str) -> None:
    with pytest.raises(Misuse, match=text):
        LightParameters.of(**{"parties": 6, "size": 5, "max_abs": 100, **change})


def test_a_field_too_small_for_n_values_is_refused() -> None:
    p = LightParameters.of(6, 5, 100)
    with pytest.raises(Misuse, match="must be below q = 2\\^31 − 1"):
        replace(p, max_abs=2**28)


@given(light_parameters(), st.sampled_from(["size", "max_abs", "noise", "dropouts", "corrupt", "threshold"]))
@settings(max_examples=60)
def test_every_parameter_is_in_the_session_identity(p: LightParameters, name: str) -> None:
    for value in (getattr(p, name) - 1, getattr(p, name) + 1):
        try:
            other = replace(p, **{name: value})
        except Misuse:
            continue
        assert Case(p, {}).terms("lightsecagg").sid != Case(other, {}).terms("lightsecagg").sid


def test_the_own_policy_means_the_same() -> None:
    case = light_case(4)
    for policy, check in (
        (Policy(min_cohort=5), "policy-cohort"),
        (Policy(min_threshold=1.0), "policy-threshold"),
        (Policy(min_corrupt=2), "policy-corrupt"),
    ):
        session = case.session(client(1), protocol="lightsecagg", policy=policy)
        assert [type(letter.message).__name__ for letter in session.begin()] == ["Farewell"]
        assert session.ended is not None
        assert session.ended.check == check


# Masks hide


def padded(case: Case) -> dict[int, Any]:
    """The masked vectors that the server receives, read off the wire."""
    from protocols.lightsecagg_types import Padded

    out = {}
    for (name, sender, _), data in play(case, protocol="lightsecagg").wire.items():
        if name == "Padded":
            decoder = Decoder({"Padded": Padded}, case.limits)
            decoder.feed(data)
            message: Any = decoder.message()[0]
            out[sender.index] = message.y.values
    return out


@pytest.mark.parametrize("bits", [31, 61])
def test_masked_vectors_and_answers_are_uniform(bits: int) -> None:
    size = 20_000
    p = LightParameters.of(3, size, 1000, bits=bits)
    case = Case(p, dict.fromkeys((1, 2, 3), [7] * size), seed=3)
    tests = []
    for row in padded(case).values():
        for low in range(0, bits - 7, 8):
            counts = np.bincount((row.astype(np.uint64) >> np.uint64(low) & np.uint64(255)).astype(int), minlength=256)
            tests.append(float(chi2.sf(((counts - row.size / 256) ** 2).sum() / (row.size / 256), 255)))
    assert min(tests) > 1e-6 / len(tests)


@given(light_parameters(), SEEDS, st.data())
@settings(max_examples=20, deadline=None)
def test_the_mask_does_not_depend_on_the_input(p: LightParameters, seed: int, data: st.DataObject) -> None:
    """With equal seeds y(x0) − y(x1) = x0 − x1 modulo q, and all else that leaves before the sum is the same."""
    rows = st.lists(st.integers(-p.max_abs, p.max_abs), min_size=p.size, max_size=p.size)
    one = Case(p, {u: data.draw(rows) for u in range(1, p.parties + 1)}, seed=seed)
    other = replace(one, inputs={u: data.draw(rows) for u in one.inputs})
    y, z, q = padded(one), padded(other), p.ring.modulus
    for u in one.inputs:
        difference = [(int(a) - int(b)) % q for a, b in zip(y[u], z[u], strict=True)]
        assert difference == [(a - b) % q for a, b in zip([*one.inputs[u], 1], [*other.inputs[u], 1], strict=True)]


def test_equal_shares_have_different_hashes() -> None:
    """The hash of a share is salted: |C| shares and a guess of the input give all others, and must not confirm the guess."""
    from protocols.lightsecagg import share_hash

    terms = light_case().terms("lightsecagg")
    assert len({share_hash(terms, b"L", 1, 2, bytes([salt] * 32), b"share") for salt in range(5)}) == 5


# Memory


def test_after_masking_no_mask_key_or_input_is_reachable() -> None:
    """Before: key pair and mask are there, which shows that the search finds them."""
    case = Case(
        LightParameters.of(4, 64, 1000), {u: [(u * 7919 + i * 104729) % 1999 - 999 for i in range(64)] for u in range(1, 5)}
    )
    mine, others, held, post = walked(case, "lightsecagg")
    post(mine.feed(SERVER, held.pop(0)))
    (shared,) = mine.remembers
    assert isinstance(shared, Shared)
    x = np.array(case.inputs[2], dtype=np.int64)
    secrets = {
        "c": bytes(bytearray(shared.c.secret().reveal())),
        "z": shared.z.values.tobytes(),
        "x": x.tobytes(),
        "x in the field": case.parameters.ring.lift(x).tobytes(),
    }
    post(mine.provide(case.vector(2)))
    assert {name for name, secret in secrets.items() if finds(reachable(mine), secret)} == {"c", "z", "x"}
    assert KeyPair in kinds(reachable(mine))
    for spelling in spellings(secrets["c"]) + spellings(secrets["z"]):
        assert spelling not in shown(shared)
    del shared
    for state in (Covered, Consenting, Finished):
        post(mine.feed(SERVER, held.pop(0)))
        assert [type(value) for value in mine.remembers] == [state]
        assert not any(finds(reachable(mine), secret) for secret in secrets.values())
        assert KeyPair not in kinds(reachable(mine))
        assert (SigningKey in kinds(reachable(mine))) == (state is not Finished)
        for value in mine.remembers:
            for share in getattr(value, "held", {}).values():
                assert all(spelling not in shown(value) for spelling in spellings(share.share.tobytes()))
    assert others[SERVER].outputs[0].values.tolist() == case.sum_over([1, 2, 3, 4])


def test_shares_of_a_dropped_partys_mask_are_forgotten_when_it_is_gone() -> None:
    case = replace(light_case(6), dropouts={3: "Padded"})

    def stop(letter: Any) -> Any:
        return (
            ()
            if type(letter.message).__name__ == "Agreed"
            or (letter.sender == client(3) and type(letter.message).__name__ == "Padded")
            else (letter,)
        )

    sessions = play(case, protocol="lightsecagg", network=stop).outcome.sessions
    (state,) = sessions[client(1)].remembers
    assert isinstance(state, Consenting)
    assert list(state.held) == [1, 2, 4, 5, 6]
