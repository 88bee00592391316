"""Protocols by name: what each is entered with, says of itself and takes over from a party; secure sums in five lines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import (
    cost,
    he,
    he_parameters,
    kahe_parameters,
    kahe_types,
    lightsecagg,
    lightsecagg_parameters,
    plain,
    secagg,
    secure_sum,
    simulate,
    sums,
)
from protocols.bulk import Packed
from protocols.errors import Abort, Misuse
from protocols.policy import Policy
from protocols.rand import Replay
from protocols.secagg_parameters import Parameters
from protocols.session import SERVER, Address, Session, client
from protocols.suite import Occasion, Terms
from protocols.vector import Vector

ROWS = [[1, -2], [30, 4], [-5, 600]]
OURS: dict[str, tuple[Any, Any, str]] = {  # parameters, suite, and letters for: hides, shared key, noisy
    "secagg": (Parameters.cheapest, secagg.suite, "h n"),
    "secagg+": (Parameters.preferably_sparse, secagg.suite, "h n"),
    "plain-insecure": (Parameters.of, plain.suite, "n"),
    "lightsecagg": (lightsecagg_parameters.LightParameters.of, lightsecagg.suite, "h n"),
    "kahe": (kahe_parameters.KaheParameters.of, kahe_types.suite, "h n"),
    "bfv": (he_parameters.HeParameters.bfv, he.suite, "h s"),
    "ckks": (he_parameters.HeParameters.ckks, he.suite, "h s"),
}


def setting(
    name: str, n: int = 3, policy: Policy | None = None, seed: str = ""
) -> tuple[sums.Scheme, list[sums.Party], Terms[Any]]:
    scheme = sums.scheme(name)
    roster, parties = sums.enrol(n, policy=policy or scheme.policy, entropy=Replay(f"keys {seed}"))
    return scheme, parties, scheme.terms(Occasion("sums", 3), roster, scheme.parameters(n, 2, 600))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("wrong", [-1, 0, 1, 16385])
def test_too_few_or_too_many_parties_are_refused_by_number(name: str, wrong: int) -> None:
    with pytest.raises(Misuse, match=f"a secure sum needs 2 to 16384 parties, not {wrong}$"):
        sums.scheme(name).parameters(wrong, 2, 600)


def test_protocols_are_ours_by_name() -> None:
    assert list(sums.SCHEMES) == list(OURS)
    assert sums.names()[: len(OURS)] == tuple(OURS)
    for none in ("", "hope"):
        with pytest.raises(Misuse, match=f"no protocol {none!r}; there are secagg, secagg"):
            sums.scheme(none)
    with pytest.raises(Misuse, match="auto is secagg or kahe by the sizes"):
        sums.scheme("auto")


@pytest.mark.parametrize("name", OURS)
def test_what_a_protocol_says_of_itself(name: str) -> None:
    scheme, (build, suite, says) = sums.scheme(name), OURS[name]
    told = {"h": scheme.hides, "s": scheme.shared_key, "n": scheme.noisy}
    assert (scheme.name, told, scheme.origin) == (name, {letter: letter in says for letter in told}, None)
    for n in (3, 64):
        p = scheme.parameters(n, 2, 600)
        assert p == build(n, 2, 600)
        assert scheme.suite(p) == suite(p)
    assert scheme.policy == (Policy(min_corrupt=0) if "s" in says else Policy())
    assert sums.foreign(scheme) == ""
    sizes = {key: layout.nbytes for key, layout in scheme.layouts(p).items()}
    if name in ("secagg", "secagg+"):
        assert scheme.layouts(p) == {"masked": Packed(p.ring, 3, kept=True)}
    assert sizes
    assert all(sizes.values())


@pytest.mark.parametrize("name", OURS)
def test_whatever_a_party_brings_is_what_it_starts_with(name: str) -> None:
    scheme, parties, terms = setting(name)
    policy = Policy(min_cohort=7)
    for party in parties:
        start: Any = scheme.client_start(replace(party, policy=policy), terms)
        assert (start.me, start.policy, start.terms.sid) == (party.index, policy, terms.sid)
        assert getattr(start, "identity", party.identity) is party.identity
    server: Any = scheme.server_start(terms)
    assert server.terms.sid == terms.sid
    session = sums.client_session(scheme, replace(parties[0], policy=policy), terms)
    letters = session.begin()
    if name == "plain-insecure":
        letters = session.provide(Vector(np.array(ROWS[0])))
    assert [type(letter.message).__name__ for letter in letters] == ["Farewell"]
    assert session.ended is not None
    assert session.ended.check == "policy-cohort"


def test_the_terms_are_the_protocol_s_suite_and_what_was_given() -> None:
    _, parties, terms = setting("secagg")
    p = Parameters.of(3, 2, 600)
    assert terms == Terms(secagg.suite(p), Occasion("sums", 3), terms.roster, p)
    assert [member.name for member in terms.roster.members] == ["party-1", "party-2", "party-3"]
    assert [member.identity for member in terms.roster.members] == [party.identity.public for party in parties]
    assert [party.index for party in parties] == [1, 2, 3]
    assert {party.policy for party in sums.enrol(2)[1]} == {Policy()}
    bare = [sums.Party(1, parties[0].identity) for _ in range(2)]
    assert [party.policy for party in bare] == [Policy(), Policy()]
    assert bare[0].journal is not bare[1].journal


def test_parties_made_up_from_one_seed_are_the_same_and_each_has_its_own_key() -> None:
    keys = [[party.identity.public for party in setting("secagg", seed=seed)[1]] for seed in ("a", "a", "b")]
    assert keys[0] == keys[1]
    assert len({*keys[0], *keys[2]}) == 6


def sessions(scheme: sums.Scheme, parties: list[sums.Party], terms: Terms[Any], **more: Any) -> dict[Address, Session]:
    made = {SERVER: sums.server_session(scheme, terms, **more)}
    return made | {client(p.index): sums.client_session(scheme, p, terms, **more) for p in parties}


def sent(seed: str) -> list[bytes]:
    """Every byte of a sum whose sessions draw from this seed."""
    scheme, parties, terms = setting("secagg")
    run, seen = sessions(scheme, parties, terms, entropy=Replay(f"session {seed}")), list[bytes]()
    inputs = {client(u): [Vector(np.array(x))] for u, x in enumerate(ROWS, 1)}
    outcome = simulate.run(run, inputs, watch=lambda letter, to, size: seen.append(b"".join(letter.chunks())))
    assert outcome.outputs[0].values.tolist() == [26, 602]
    return seen


def test_sessions_draw_from_what_they_are_given() -> None:
    assert sent("a") == sent("a") != sent("b")


def test_a_session_knows_who_it_is_whom_it_hears_and_how_large_messages_are() -> None:
    scheme, parties, terms = setting("secagg")
    server, party = sums.server_session(scheme, terms), sums.client_session(scheme, parties[1], terms)
    assert (server.me, party.me, server.flow, party.flow) == (SERVER, client(2), secagg.flow, secagg.flow)
    for session, heard, stranger in ((server, client(3), client(4)), (party, SERVER, client(1))):
        assert (session.limits.parties, session.limits.vectors) == (3, scheme.layouts(terms.parameters))
        session.begin()
        for sender in (stranger, heard):
            session.feed(sender, b"\xff" * 8)
        assert [fault.check for fault in session.faults] == ["wire-stranger", "wire-bound"]
    for flow in (plain.flow, None):
        assert sums.server_session(scheme, terms, flow=flow).flow is (flow or secagg.flow)
        assert sums.client_session(scheme, parties[0], terms, flow=flow).flow is (flow or secagg.flow)
    with pytest.raises(Misuse, match="at least 1 turn"):
        sums.server_session(scheme, terms, turns=0)


def test_an_occasion_is_joined_once_by_a_party() -> None:
    scheme, parties, terms = setting("secagg")
    first, again = (sums.client_session(scheme, parties[0], terms) for _ in range(2))
    assert [type(letter.message).__name__ for letter in (*first.begin(), *again.begin())] == ["Advert", "Farewell"]
    assert (parties[0].journal.joined, parties[1].journal.joined) == ({"sums": (3, 0)}, {})  # type: ignore[attr-defined]


# Noise, and auto


def test_sums_with_noise_are_of_those_who_carry_it() -> None:
    made: Any = sums.scheme("secagg").noised(5, 2, 600, tail=70, threshold=5, corrupt=1)
    assert made == Parameters.cheapest(5, 2, 600, tail=70, threshold=5, corrupt=1)
    with pytest.raises(Misuse, match=r"sums of bfv carry no noise: take one of secagg, secagg\+, lightsecagg, kahe$"):
        sums.scheme("bfv").noised(5, 2, 600, tail=70)


@pytest.mark.parametrize("size", [10, 10**6])
def test_auto_is_the_cheaper_for_what_was_asked(size: int) -> None:
    asked: list[dict[str, Any]] = [{}, {"dropout": 0.3}, {"threshold": 90, "bits": 60}]
    for more in asked:
        choice = cost.choose(100, size, 600, **more)
        assert sums.chosen("auto", 100, size, 600, **more) == (sums.SCHEMES[choice.name], choice.why)
    assert len({cost.choose(100, size, 600, **more).why for more in asked}) == 3
    with pytest.raises(Misuse, match=r"2t > n"):
        sums.chosen("auto", 100, size, 600, threshold=50)
    assert sums.chosen("kahe", 100, size, 600) == (sums.SCHEMES["kahe"], "")


def test_what_the_graph_means_is_said_of_sparse_ones_and_of_secagg_plus() -> None:
    for name, n, says in (
        ("secagg+", 64, "secagg+ takes the sparse graph for 64 parties: each masks with"),
        ("secagg+", 3, "secagg+ takes the complete graph for 3 parties"),
        ("secagg", 64, None),
        ("bfv", 64, None),
    ):
        line = sums.notice(name, sums.scheme(name).parameters(n, 2, 600))
        assert line.startswith(says) if says else line == ""


# In five lines


@pytest.mark.parametrize("name", ["auto", *OURS])
def test_a_sum_by_every_protocol(name: str) -> None:
    total = secure_sum([*ROWS, [1, 0]], max_abs=600, protocol=name)  # of four parties one may collude, but under one key
    assert (total.values.tolist(), total.contributors) == ([27, 602], 4)


def test_a_sum_is_watched_and_stands_those_who_vanish() -> None:
    seen = list[tuple[str, Address, Address]]()
    rows = [*ROWS, [7, 8], [9, 10]]
    total = secure_sum(
        rows,
        max_abs=600,
        protocol="secagg",
        threshold=4,
        dropouts={2: "Masked"},
        watch=lambda letter, to, _: seen.append((type(letter.message).__name__, letter.sender, to)),
    )
    assert (total.values.tolist(), total.contributors) == ([12, 616], 4)
    assert {sender for kind, sender, _ in seen if kind == "Masked"} == {client(u) for u in (1, 3, 4, 5)}
    for threshold, lost in ((5, {2: "Masked"}), (4, {2: "Masked", 3: "Advert"})):
        with pytest.raises(Abort, match="quorum"):
            secure_sum(rows, max_abs=600, threshold=threshold, dropouts=lost)


@pytest.mark.parametrize("lost", [{0: "Masked"}, {4: "Masked"}, {1: "Lunch"}, {1: "Present"}])
def test_who_is_to_vanish_exists_and_sends_that_message(lost: dict[int, str]) -> None:
    with pytest.raises(Misuse, match=r"parties are 1 to 3, stages Advert, Agree, Boxes, Masked, Openings"):
        secure_sum(ROWS, max_abs=600, dropouts=lost)


@pytest.mark.parametrize("lost", [[1], "Masked", 3])
def test_who_is_to_vanish_is_said_by_message(lost: Any) -> None:
    with pytest.raises(Misuse, match=r"dropouts is \{party: message\}"):
        secure_sum(ROWS, max_abs=600, dropouts=lost)


def test_inputs_and_bounds_that_are_none_are_refused_by_party() -> None:
    for rows in ([], [[1]]):
        with pytest.raises(Misuse, match=f"at least 2 parties, not of {len(rows)}"):
            secure_sum(rows, max_abs=3)
    for bad, words in (
        ([1], r"party 2: an input has shape \(2,\)"),
        ([1, 4], "party 2: .*magnitude 4 is past max_abs = 3"),
        ([-4, 1], "party 2: .*magnitude 4 is past max_abs = 3"),
        ([0.5, 1], "party 2: .*integer dtype"),
    ):
        with pytest.raises(Misuse, match=words):
            secure_sum([[1, 3], bad, [-3, 2]], max_abs=3)
    for shape in ((0,), (1, 2), (2, 0), ()):
        with pytest.raises(Misuse, match=r"party 1: an input has shape \(d,\) with d ≥ 1"):
            secure_sum([np.zeros(shape, int)] * 2, max_abs=3)
    most = (2**63 - 1) // 3
    for max_abs in (0, most + 1, 1.5, "3"):
        with pytest.raises(Misuse, match=f"max_abs must be a whole number, 1 to {most} with 3 parties"):
            secure_sum([[1]] * 3, max_abs=max_abs)  # type: ignore[arg-type]
    assert secure_sum([[1]] * 3, max_abs=np.int64(1)).values.tolist() == [3]  # type: ignore[arg-type]
    assert secure_sum([[-most]] * 3, max_abs=most).values.tolist() == [-3 * most]
    most = (2**63 - 1) // 7  # 7 divides it
    assert secure_sum([[most]] * 7, max_abs=most, protocol="plain-insecure").values.tolist() == [2**63 - 1]
