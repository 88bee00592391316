"""SecAgg against the reference, bit by bit; and that masks hide, not only that they cancel."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2
from strategies import SEEDS, Case, cases, client, identities, parameters, play, roster, simple_case, wire_of

from protocols import reference, secagg, secure_sum
from protocols.errors import Abort, Misuse
from protocols.primitives import prg
from protocols.rand import Key, Replay
from protocols.secagg_parameters import Parameters
from protocols.session import SERVER
from protocols.suite import Occasion
from protocols.sums import SCHEMES
from protocols.vector import Vector, checked_sum, with_count
from protocols.wire import Decoder

FALSE_ALARM = 1e-6
"""Probability, for one whole test, that uniform bytes are called not uniform; seeds are fixed, so a pass stays a pass."""


# The oracle


def agrees_with_reference(case: Case, protocol: str) -> None:
    expected, got = case.reference(protocol), play(case, protocol=protocol)
    assert got.wire == wire_of(expected, case.limits)
    if expected.total is None:
        assert got.total is None
        assert got.outcome.abort is not None
        assert (got.outcome.abort.check, got.outcome.abort.step) == ("quorum", expected.aborted)
    else:
        assert got.outcome.abort is None
        assert got.total is not None
        assert got.total.values.tolist() == list(expected.total) == case.sum_over(expected.survivors)
        assert got.total.contributors == len(expected.survivors)
    assert not any(s.faults or s.accused for s in got.outcome.sessions.values())


@given(cases())
@settings(max_examples=120)
def test_the_flow_is_the_reference_bit_by_bit(case: Case) -> None:
    agrees_with_reference(case, "secagg")


@pytest.mark.parametrize("bits", [31, 32, 33, 64])
def test_the_flow_is_the_reference_in_rings_around_a_word(bits: int) -> None:
    agrees_with_reference(simple_case(3, 4, bits=bits), "secagg")


@given(cases(stages=reference.PLAIN_STAGES))
@settings(max_examples=60)
def test_the_plain_flow_is_its_reference_bit_by_bit(case: Case) -> None:
    agrees_with_reference(case, "plain-insecure")


@given(cases())
@settings(max_examples=100)
def test_a_sum_comes_out_exactly_if_enough_survive(case: Case) -> None:
    """The abort is where counting says it is, and the sum is over those who sent their vector."""
    left, p = set(case.inputs), case.parameters
    for stage in reference.SECAGG_STAGES:
        left -= {u for u, lost in case.dropouts.items() if lost == stage}
        if stage == "Masked":
            u3 = sorted(left)
    run = case.reference()
    assert (run.total is not None) == (len(left) >= p.threshold)
    if run.total is not None:
        assert run.survivors == tuple(u3)
        assert list(run.total) == case.sum_over(u3)


@given(cases(stages=["Masked"], parties=(2, 6)))
@settings(max_examples=40)
def test_plain_and_secagg_give_equal_bits(case: Case) -> None:
    masked = play(case).total
    clear = play(replace(case, dropouts=dict.fromkeys(case.dropouts, "Clear")), protocol="plain-insecure").total
    assert (masked is None) == (clear is None)
    if masked is not None and clear is not None:
        assert masked.values.dtype == clear.values.dtype == np.int64
        assert masked.values.tobytes() == clear.values.tobytes()
        assert masked.contributors == clear.contributors


def test_the_reference_refuses_a_stage_that_does_not_exist() -> None:
    case = replace(simple_case(3), dropouts={1: "Lunch"})
    for protocol in ("secagg", "plain-insecure"):
        with pytest.raises(Misuse, match="Lunch"):
            case.reference(protocol)


@given(st.integers(2, 6), st.sampled_from(list(SCHEMES)), st.integers(1, 10**6), st.data())
@settings(max_examples=25)
def test_five_lines_of_library_sum(parties: int, protocol: str, max_abs: int, data: st.DataObject) -> None:
    row = st.lists(st.integers(-max_abs, max_abs), min_size=3, max_size=3)
    vectors = [data.draw(row) for _ in range(parties)]
    total = secure_sum(vectors, max_abs=max_abs, protocol=protocol)
    assert total.values.tolist() == np.sum(vectors, axis=0).tolist()
    assert total.contributors == parties


def test_the_library_sum_names_what_is_wrong() -> None:
    good = [1, 2]
    for wrong, words in (
        ([1], r"has shape \(2,\), not \(1,\)"),
        ([1, 4], "value of magnitude 4 is past max_abs = 3"),
        ([-4, 1], "value of magnitude 4 is past max_abs = 3"),
        (np.array([-(2**63), 0]), f"magnitude {2**63} is past max_abs = 3"),
        ([1.0, 2.0], "integer dtype, not float64"),
        ([1.0, math.nan], "nan at index 1: every value must be a whole number"),
        ([-math.inf, 1.0], "-inf at index 0: every value must be a whole number"),
        ([True, False], "integer dtype, not bool"),
    ):
        with pytest.raises(Misuse, match=f"^party 2: an input.* {words}"):
            secure_sum([good, wrong, good], max_abs=3)
    with pytest.raises(Misuse, match=r"^party 1: an input has shape \(d,\)"):
        secure_sum([[good], [good]], max_abs=3)
    for vectors in ([], [[1]]):
        with pytest.raises(Misuse, match=rf"at least 2 parties, not of {len(vectors)}"):
            secure_sum(vectors, max_abs=3)
    most = (2**63 - 1) // 3
    for max_abs in (0, -1, most + 1, 2**63, 1.5):
        with pytest.raises(Misuse, match=rf"max_abs must be a whole number, 1 to {most} with 3 parties, not {max_abs}"):
            secure_sum([[1]] * 3, max_abs=max_abs)
    assert secure_sum([[most]] * 3, max_abs=most).values.tolist() == [3 * most]
    with pytest.raises(Misuse, match=r"secagg, secagg\+, plain-insecure"):
        secure_sum([[1], [1]], max_abs=3, protocol="hope")
    with pytest.raises(Misuse, match=r"2t > n \+ \|C\|"):
        secure_sum([[1]] * 5, max_abs=3, threshold=2)
    with pytest.raises(Abort, match="quorum"):
        secure_sum([[1]] * 3, max_abs=3, dropouts={1: "Masked", 2: "Agree"})


# Masks hide


def masked_vectors(case: Case) -> dict[int, NDArray[Any]]:
    """What the server receives, read off the wire."""
    from protocols.secagg_types import Masked

    out = {}
    for (name, sender, _), data in play(case).wire.items():
        if name == "Masked":
            decoder = Decoder({"Masked": Masked}, case.limits)
            decoder.feed(data)
            message, _ = decoder.message()
            assert isinstance(message, Masked)
            out[sender.index] = message.y.values
    return out


def p_values(rows: Iterable[NDArray[Any]], bits: int) -> list[float]:
    """For every byte of the ring's elements: chi-square of its values against uniform, upper tail."""
    values = np.concatenate([row.astype(np.uint64) for row in rows])
    out = []
    for low in range(0, bits, 8):
        width = min(8, bits - low)
        counts = np.bincount((values >> np.uint64(low) & np.uint64(2**width - 1)).astype(np.int64), minlength=2**width)
        expected = values.size / 2**width
        out.append(float(chi2.sf(((counts - expected) ** 2).sum() / expected, 2**width - 1)))
    return out


def two_sample_p_values(one: NDArray[Any], other: NDArray[Any], bits: int) -> list[float]:
    """For every byte: chi-square of the two samples, of equal size, against each other."""
    out = []
    for low in range(0, bits, 8):
        width = min(8, bits - low)
        cut = [
            np.bincount(((v.astype(np.uint64) >> np.uint64(low)) & np.uint64(2**width - 1)).astype(int), minlength=2**width)
            for v in (one, other)
        ]
        both = cut[0] + cut[1]
        out.append(float(chi2.sf((((cut[0] - cut[1]) ** 2)[both > 0] / both[both > 0]).sum(), 2**width - 1)))
    return out


@pytest.mark.parametrize("bits", [13, 23, 32, 33, 64])
def test_masked_vectors_are_uniform_and_tell_two_inputs_apart_by_nothing(bits: int) -> None:
    size = 20_000
    p = Parameters.of(3, size, 1000, bits=bits)
    zeros, peaks = dict.fromkeys((1, 2, 3), [0] * size), dict.fromkeys((1, 2, 3), [1000] * size)
    worlds = [masked_vectors(Case(p, inputs, seed=seed)) for seed, inputs in ((1, zeros), (2, peaks))]
    tests = [p for world in worlds for row in world.values() for p in p_values([row], bits)]
    tests += [p for u in zeros for p in two_sample_p_values(worlds[0][u], worlds[1][u], bits)]
    assert min(tests) > FALSE_ALARM / len(tests)


def test_the_uniformity_test_has_power() -> None:
    """Control: an unmasked vector fails it, and so does a mask that misses one bit."""
    size = 20_000
    case = Case(Parameters.of(3, size, 1000, bits=23), dict.fromkeys((1, 2, 3), [7] * size))
    y = masked_vectors(case)[1]
    clear = with_count(Vector(np.full(size, 7)), case.parameters)
    assert min(p_values([clear], 23)) < FALSE_ALARM
    assert min(p_values([y & np.uint32(0x7FFFFE)], 23)) < FALSE_ALARM
    assert min(two_sample_p_values(y, y >> np.uint32(1), 23)) < FALSE_ALARM


@given(parameters(parties=(2, 5)), SEEDS, st.data())
@settings(max_examples=25)
def test_the_mask_does_not_depend_on_the_input(p: Parameters, seed: int, data: st.DataObject) -> None:
    """With equal seeds y(x0) − y(x1) = x0 − x1, for every party."""
    value = st.integers(-p.max_abs, p.max_abs)
    rows = st.lists(value, min_size=p.size, max_size=p.size)
    one = Case(p, {u: data.draw(rows) for u in range(1, p.parties + 1)}, seed=seed)
    other = replace(one, inputs={u: data.draw(rows) for u in one.inputs})
    y, z = masked_vectors(one), masked_vectors(other)
    for u in one.inputs:
        difference = [(int(a) - int(b)) % p.ring.modulus for a, b in zip(y[u], z[u], strict=True)]
        assert difference == [(a - b) % p.ring.modulus for a, b in zip([*one.inputs[u], 1], [*other.inputs[u], 1], strict=True)]


class Recorder:
    """Stands where parties expand their masks and writes down every key."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[list[bytes], list[bytes]]] = []
        monkeypatch.setattr(secagg, "Masks", self)

    def __call__(self, plus: list[Key], minus: list[Key], dtype: Any) -> prg.Masks:
        self.calls.append(([k.reveal() for k in plus], [k.reveal() for k in minus]))
        return prg.Masks(plus, minus, dtype)


def mask_keys(case: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[list[bytes], list[bytes]]], set[bytes], set[bytes]]:
    """The clients' calls in roster order, the pair keys, the self keys; the pairing is checked on the way."""
    with monkeypatch.context() as patch:
        recorder = Recorder(patch)
        assert play(case).total is not None
    n, clients = case.parameters.parties, recorder.calls
    assert len(clients) == n
    added = Counter(k for plus, _ in clients for k in plus)
    subtracted = Counter(k for _, minus in clients for k in minus)
    assert set(added.values()) == set(subtracted.values()) == {1}
    pairs, own = set(added) & set(subtracted), set(added) - set(subtracted)
    assert set(subtracted) == pairs
    assert (len(pairs), len(own)) == (n * (n - 1) // 2, n)
    return clients, pairs, own


@given(parties=st.integers(2, 6), seed=SEEDS)
@settings(max_examples=10)
def test_no_keystream_serves_twice(parties: int, seed: int) -> None:
    """A pair key is added once and subtracted once, a self key added once; no other occasion, seed or model has any of them."""
    base = simple_case(parties, 3, seed=seed)
    later = [
        replace(base, occasion=o)
        for o in (Occasion("test", 1), Occasion("test", 0, 1), Occasion("test", 0, 0, b"m" * 32), Occasion("next", 0))
    ]
    seen = set[bytes]()
    for case in [base, *later, replace(base, seed=seed + 1)]:
        with pytest.MonkeyPatch.context() as monkeypatch:
            _, pairs, own = mask_keys(case, monkeypatch)
        assert not seen & (pairs | own)
        seen |= pairs | own


def test_no_single_other_party_knows_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take off all that one other party can know of u's mask: what is left is uniform.  Take off all: it is the input."""
    size, bits = 20_000, 23
    case = Case(Parameters.of(4, size, 1000, bits=bits), {u: [7 * u] * size for u in range(1, 5)}, seed=5)
    clients, _, own = mask_keys(case, monkeypatch)
    y, tests = masked_vectors(case), list[float]()
    for u in case.inputs:
        plus, minus = clients[u - 1]
        for v in case.inputs:
            if v == u:
                continue
            (theirs,) = set(plus + minus) & {k for side in clients[v - 1] for k in side}
            assert theirs not in own
            left = y[u].copy()
            prg.apply_masks(left, [Key(theirs)] if theirs in minus else [], [Key(theirs)] if theirs in plus else [])
            case.parameters.ring.reduce(left)
            tests += p_values([left], bits)
        left = y[u].copy()
        prg.apply_masks(left, [Key(k) for k in minus], [Key(k) for k in plus])
        case.parameters.ring.reduce(left)
        assert left.tolist() == [7 * u] * size + [1]
    assert min(tests) > FALSE_ALARM / len(tests)


def test_all_but_one_colluding_with_the_server_without_its_self_mask_see_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The self mask alone hides a party from everybody else's pair keys together: that is why one share is opened, never both."""
    size, bits = 20_000, 23
    case = Case(Parameters.of(4, size, 1000, bits=bits), {u: [7 * u] * size for u in range(1, 5)}, seed=6)
    clients, pairs, _ = mask_keys(case, monkeypatch)
    plus, minus = clients[0]
    left = masked_vectors(case)[1].copy()
    prg.apply_masks(left, [Key(k) for k in minus], [Key(k) for k in plus if k in pairs])
    case.parameters.ring.reduce(left)
    tests = p_values([left], bits)
    assert min(tests) > FALSE_ALARM / len(tests)


def test_masks_that_do_not_cancel_end_in_an_abort() -> None:
    """One party adds noise of its own: count or range tell, and no sum comes out."""

    def noisy(shared: Any, sealed: Any, x: Vector) -> Any:
        covered, masked = secagg.flow.step("mask").fn(shared, sealed, x)
        noise = Replay("noise")().words("noise", masked.y.values.size).astype(masked.y.values.dtype)
        p, me = shared.invited.terms.parameters, shared.invited.me
        bulk = secagg.Bulk.of(secagg.Packed(p.ring, p.size + 1), masked.y.values + (noise if me == 2 else 0))
        statement = shared.invited.terms.statement("masked", me, shared.L, list(sealed.u2), bulk.digest, masked.receipt)
        return covered, secagg.Masked(bulk, masked.receipt, shared.invited.identity.sign(statement))

    got = play(simple_case(4), flow=secagg.flow.replace(mask=noisy))
    assert got.total is None
    assert got.outcome.abort is not None
    assert (got.outcome.abort.check, got.outcome.abort.step) == ("sum-count", "reveal")


@given(parameters(), st.data())
@settings(max_examples=60)
def test_count_and_range_of_an_opened_sum(p: Parameters, data: st.DataObject) -> None:
    contributors = data.draw(st.integers(p.threshold, p.parties))
    most = contributors * p.max_abs
    good = np.array(
        [*data.draw(st.lists(st.integers(-most, most), min_size=p.size, max_size=p.size)), contributors], dtype=np.int64
    )
    assert checked_sum(good, contributors, p).values.tolist() == good[:-1].tolist()
    bad = good.copy()
    if data.draw(st.booleans()):
        bad[-1] = data.draw(st.integers(-p.ring.half, p.ring.half - 1).filter(lambda v: v != contributors))
        check = "sum-count"
    else:
        far = (
            st.integers(-p.ring.half, -most - 1)
            if p.ring.half - 1 == most
            else st.integers(-p.ring.half, -most - 1) | st.integers(most + 1, p.ring.half - 1)
        )
        bad[data.draw(st.integers(0, p.size - 1))] = data.draw(far)
        check = "sum-range"
    with pytest.raises(Abort) as abort:
        checked_sum(bad, contributors, p)
    assert abort.value.check == check


def test_a_party_under_its_own_policy_refuses_before_anything_leaves() -> None:
    from protocols.policy import Policy

    case = simple_case(4)
    for policy, check in ((Policy(min_cohort=5), "policy-cohort"), (Policy(min_threshold=1.0), "policy-threshold")):
        session = case.session(client(1), policy=policy)
        letters = session.begin()
        assert [type(letter.message).__name__ for letter in letters] == ["Farewell"]
        assert session.ended is not None
        assert session.ended.check == check


def test_a_roster_with_another_key_for_oneself_is_refused() -> None:
    from protocols.suite import Member
    from protocols.sums import Party, client_session, scheme

    case = simple_case(3)
    members = list(roster(3).members)
    members[0] = Member(members[0].name, identities(4)[4].public)
    terms = scheme("secagg").terms(case.occasion, type(roster(3))(tuple(members)), case.parameters)
    session = client_session(scheme("secagg"), Party(1, identities(3)[1]), terms)
    session.begin()
    assert session.ended is not None
    assert session.ended.check == "roster-own"
    assert session.finished
    assert SERVER not in session.accused
