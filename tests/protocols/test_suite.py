"""Parameters that the security argument needs are computed or refused, and everything agreed upon enters the session identity."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import parameters, roster

from protocols.agreement import masked_statement
from protocols.errors import Misuse
from protocols.handshake import box_aad, box_key
from protocols.primitives.agree import KeyPair, derive
from protocols.primitives.graph import Complete, Harary
from protocols.rand import Seed
from protocols.ring import Ring
from protocols.schema import MAX_PARTIES
from protocols.secagg_parameters import Parameters
from protocols.suite import (
    PLAIN,
    SECAGG,
    Member,
    Occasion,
    Roster,
    Terms,
    default_corrupt,
    default_threshold,
    ring_bits,
    session_id,
)
from protocols.sums import scheme
from protocols.wire import canonical

GOOD = Parameters(10, 5, 100, Ring(23), 7, 3)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"parties": 1}, "2 to 16384 parties, not 1"),
        ({"parties": MAX_PARTIES + 1}, "2 to 16384 parties, not 16385"),
        ({"size": 0}, "1 to 2^31 values, not 0"),
        ({"size": 2**31 + 1}, "1 to 2^31 values"),
        ({"max_abs": 0}, "max_abs must be at least 1, not 0"),
        ({"max_abs": -5}, "max_abs must be at least 1, not -5"),
        ({"max_abs": 2**22 // 10 + 1}, "10·419431 must be below R/2 = 2^22; 24 bits would do"),
        ({"ring": Ring(10)}, "no headroom: n·max = 10·100 must be below R/2 = 2^9; 11 bits would do"),
        ({"corrupt": -1}, "corrupt parties must be in [0, 9], not -1"),
        ({"corrupt": 10}, "corrupt parties must be in [0, 9], not 10"),
        ({"threshold": 11}, "t = 11 is above n = 10"),
        ({"threshold": 6}, "t = 6 breaks 2t > n + |C| = 13"),
        ({"threshold": 5, "corrupt": 0}, "t = 5 breaks 2t > n + |C| = 10"),
        ({"threshold": 10, "corrupt": 9}, "t = 10 breaks t − |C| ≥ 2 with |C| = 9"),
    ],
)
def test_a_broken_bound_is_named_with_its_values(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(Misuse) as misuse:
        replace(GOOD, **changed)
    assert says in str(misuse.value)
    assert "\n" not in str(misuse.value)


@pytest.mark.parametrize("protocol", ["secagg", "lightsecagg", "kahe", "bfv"])
@given(parties=st.integers(2, 12), corrupt=st.none() | st.integers(0, 11), threshold=st.integers(0, 14))
def test_a_refused_threshold_is_told_which_are_allowed(protocol: str, parties: int, corrupt: int | None, threshold: int) -> None:
    """The range is held against every threshold there is."""

    def made(t: int) -> str:
        try:
            scheme(protocol).parameters(parties, 3, 5, threshold=t, corrupt=corrupt)
        except Misuse as misuse:
            return str(misuse)
        return ""

    refused = made(threshold)
    if "threshold" not in refused:
        return
    said = re.search(r"; (?:allowed: (\d+)(?: to (\d+))?|none is allowed with so many)$", refused)
    assert said is not None, refused
    low, high = (int(said[1]), int(said[2] or said[1])) if said[1] else (1, 0)
    assert [t for t in range(parties + 3) if not made(t)] == list(range(low, high + 1))


@pytest.mark.parametrize(
    "changed",
    [
        {"parties": 2, "threshold": 2, "corrupt": 0},
        {"size": 1},
        {"size": 2**31},
        {"max_abs": 1},
        {"max_abs": 419430},
        {"ring": Ring(11)},
        {"threshold": 10},
        {"threshold": 10, "corrupt": 8},
        {"threshold": 6, "corrupt": 0},
    ],
    ids=str,
)
def test_the_last_value_within_a_bound_is_allowed(changed: dict[str, Any]) -> None:
    assert replace(GOOD, **changed).parties in (2, 10)


@given(st.integers(2, MAX_PARTIES), st.integers(1, 2**40))
def test_the_defaults_are_the_least_that_is_safe(parties: int, max_abs: int) -> None:
    p = Parameters.of(parties, 3, max_abs)
    assert p.corrupt == math.ceil(parties / 3) - 1 == default_corrupt(parties)
    assert p.threshold == (parties + p.corrupt) // 2 + 1 == default_threshold(parties, p.corrupt)
    assert 2 * p.threshold > parties + p.corrupt
    assert p.threshold - p.corrupt >= 2
    with pytest.raises(Misuse):
        Parameters.of(parties, 3, max_abs, threshold=p.threshold - 1)
    assert parties * max_abs < p.ring.half
    assert p.ring.bits == ring_bits(parties, max_abs)
    if p.ring.bits > 3:
        with pytest.raises(Misuse, match="headroom"):
            Parameters.of(parties, 3, max_abs, bits=p.ring.bits - 1)
    assert (2 * parties) // 3 <= p.threshold + 1 <= 2 * parties // 3 + 2  # the paper's ⌊2n/3⌋ + 1 is this or one more


@given(st.integers(2, 40), st.integers(-1, 41), st.integers(-1, 41))
def test_exactly_the_safe_thresholds_are_allowed(parties: int, threshold: int, corrupt: int) -> None:
    safe = 0 <= corrupt < parties and threshold <= parties and 2 * threshold > parties + corrupt and threshold - corrupt >= 2
    try:
        Parameters.of(parties, 1, 1, threshold=threshold, corrupt=corrupt)
        allowed = True
    except Misuse:
        allowed = False
    assert allowed == safe


@pytest.mark.parametrize(
    ("make", "n"),
    [
        (Parameters.sparse, 400),
        (Parameters.preferably_sparse, 400),
        (Parameters.preferably_sparse, 20),
        (Parameters.cheapest, 400),
        (Parameters.cheapest, 20),
    ],
)
@given(data=st.data())
def test_what_was_asked_for_is_kept(make: Callable[..., Parameters], n: int, data: st.DataObject) -> None:
    """Ring, colluders, threshold and the tail of the noise; what was not asked for is as for the complete graph."""
    corrupt = data.draw(st.none() | st.integers(1, 6))
    least = default_threshold(n, default_corrupt(n) if corrupt is None else corrupt)
    asked = {
        "bits": data.draw(st.none() | st.integers(40, 60)),
        "threshold": data.draw(st.none() | st.integers(least, n - n // 10)),
        "corrupt": corrupt,
        "tail": data.draw(st.integers(0, 2**30)),
    }
    got, plain = make(n, 3, 100, **asked), Parameters.of(n, 3, 100, **asked)
    assert replace(got, graph=Complete()) == plain
    assert isinstance(got.graph, Harary) == (n == 400 and (make != Parameters.cheapest or asked["threshold"] is None))


def test_a_sparse_graph_is_for_the_dropouts_that_were_asked_for_and_for_a_tenth_else() -> None:
    sparse = partial(Parameters.sparse, 110, 3, 100, corrupt=2)
    assert sparse() == sparse(dropouts=11)
    assert sparse(dropouts=30).graph != sparse().graph
    assert (sparse(semi_honest=True).threshold, sparse(semi_honest=True, dropouts=30).threshold) == (99, 80)


def test_the_sparse_graph_is_cheaper_up_to_half_of_all_as_neighbours() -> None:
    for n, corrupt, degree in ((64, 10, 32), (65, 10, 32), (66, 11, 34), (67, 11, 34), (68, 11, 34)):
        found = Parameters.preferably_sparse(n, 3, 100, corrupt=corrupt)
        assert isinstance(found.graph, Harary)
        assert found.graph.degree == degree
        assert isinstance(Parameters.cheapest(n, 3, 100, corrupt=corrupt).graph, Harary) == (degree <= n // 2)


# Rosters and occasions


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ((), "2 to 16384 parties, not 0"),
        ((Member("a", bytes(32)),), "not 1"),
        ((Member("a", bytes(32)), Member("a", b"x" * 32)), "share a name"),
        ((Member("a", bytes(32)), Member("b", bytes(32))), "share a key"),
        ((Member("", bytes(32)), Member("b", b"x" * 32)), "name of 1 to 64 bytes"),
        ((Member("é" * 33, bytes(32)), Member("b", b"x" * 32)), "name of 1 to 64 bytes"),
        ((Member("a" * 65, bytes(32)), Member("b", b"x" * 32)), "name of 1 to 64 bytes"),
        (tuple(Member(f"{i}", i.to_bytes(32, "big")) for i in range(MAX_PARTIES + 1)), "2 to 16384 parties, not 16385"),
        ((Member("a", bytes(31)), Member("b", b"x" * 32)), "a key of 32"),
        ((Member("a", bytes(33)), Member("b", b"x" * 32)), "a key of 32"),
    ],
)
def test_a_malformed_roster_is_refused(members: tuple[Member, ...], says: str) -> None:
    with pytest.raises(Misuse) as misuse:
        Roster(members)
    assert says in str(misuse.value)


def test_the_largest_roster_and_the_longest_names_are_allowed() -> None:
    members = tuple(Member(f"{i:064}", i.to_bytes(32, "big")) for i in range(MAX_PARTIES))
    everybody = Roster(members)
    for index in (1, 2, MAX_PARTIES):
        assert (everybody.name(index), everybody.identity(index)) == (members[index - 1].name, members[index - 1].identity)
    assert Parameters.of(MAX_PARTIES, 1, 1).parties == len(everybody)


def test_the_last_occasion_is_allowed() -> None:
    last = Occasion("é" * 32, 2**32 - 1, 2**32 - 1)
    assert (last.round, last.attempt) == (2**32 - 1, 2**32 - 1)


@pytest.mark.parametrize(
    "bad",
    [
        {"run": ""},
        {"run": "x" * 65},
        {"round": -1},
        {"round": 2**32},
        {"attempt": -1},
        {"attempt": 2**32},
        {"model": b""},
        {"model": bytes(33)},
    ],
    ids=str,
)
def test_a_malformed_occasion_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(Misuse, match="malformed occasion"):
        Occasion(**{"run": "run", "round": 0, **bad})


def test_roster_and_parameters_speak_of_equally_many() -> None:
    with pytest.raises(Misuse, match="the roster has 3 parties, the parameters 10"):
        session_id(SECAGG, Occasion("run", 0), roster(3), GOOD)


# Session identity


BASE = Terms(f"{SECAGG}23", Occasion("run", 3, 1, b"m" * 32), roster(10), GOOD)


def changed_members(**changed: Any) -> Roster:
    members = list(BASE.roster.members)
    members[4] = replace(members[4], **changed)
    return Roster(tuple(members))


OTHERS = {
    "suite": replace(BASE, suite=f"{PLAIN}23"),
    "suite width": replace(BASE, suite=f"{SECAGG}24"),
    "run": replace(BASE, occasion=replace(BASE.occasion, run="ruN")),
    "round": replace(BASE, occasion=replace(BASE.occasion, round=4)),
    "attempt": replace(BASE, occasion=replace(BASE.occasion, attempt=2)),
    "round and attempt exchanged": replace(BASE, occasion=replace(BASE.occasion, round=1, attempt=3)),
    "model": replace(BASE, occasion=replace(BASE.occasion, model=b"m" * 31 + b"n")),
    "a name": replace(BASE, roster=changed_members(name="someone")),
    "a key": replace(BASE, roster=changed_members(identity=b"k" * 32)),
    "order": replace(BASE, roster=Roster(BASE.roster.members[::-1])),
    "size": replace(BASE, parameters=replace(GOOD, size=6)),
    "max_abs": replace(BASE, parameters=replace(GOOD, max_abs=101)),
    "ring": replace(BASE, parameters=replace(GOOD, ring=Ring(24))),
    "threshold": replace(BASE, parameters=replace(GOOD, threshold=8)),
    "corrupt": replace(BASE, parameters=replace(GOOD, corrupt=2)),
    "graph": replace(BASE, parameters=replace(GOOD, graph=Harary(10, 8, 6, 1, 3))),
    "degree": replace(BASE, parameters=replace(GOOD, graph=Harary(10, 6, 5, 1, 2))),
    "tail": replace(BASE, parameters=replace(GOOD, tail=1)),
    "one fewer": replace(BASE, roster=Roster(BASE.roster.members[:9]), parameters=replace(GOOD, parties=9)),
}


def test_the_session_identity_changes_with_every_ingredient() -> None:
    sids = {name: terms.sid for name, terms in {"base": BASE, **OTHERS}.items()}
    assert len(set(sids.values())) == len(sids)
    assert all(len(sid) == 32 for sid in sids.values())
    fields = {"parties", "size", "max_abs", "ring", "threshold", "corrupt", "graph", "tail"}
    assert set(Parameters.__dataclass_fields__) == fields, "a new parameter needs its line in OTHERS"
    assert set(Occasion.__dataclass_fields__) == {"run", "round", "attempt", "model"}
    assert set(Member.__dataclass_fields__) == {"name", "identity"}
    assert set(Terms.__dataclass_fields__) == {"suite", "occasion", "roster", "parameters"}


def test_the_session_identity_is_a_hash_of_one_list() -> None:
    """As another implementer would compute it."""
    members = [[member.name, member.identity] for member in BASE.roster.members]
    content = ["securefl sid", f"{SECAGG}23", "run", 3, 1, members, GOOD.content, b"m" * 32]
    assert BASE.sid == hashlib.sha256(cbor2.dumps(content, canonical=True)).digest()


def test_equal_terms_have_equal_identities() -> None:
    again = Terms(
        f"{SECAGG}23",
        Occasion("run", 3, 1, b"m" * 32),
        Roster(tuple(BASE.roster.members)),
        Parameters(10, 5, 100, Ring(23), 7, 3, Complete()),
    )
    assert again.sid == BASE.sid


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_texts_do_not_run_into_each_other(a: str, b: str, c: str, d: str) -> None:
    """One canonical list, not a concatenation: suite ‖ run cannot be cut elsewhere."""
    if not b or not d or len(b.encode()) > 64 or len(d.encode()) > 64:
        return
    one = session_id(a, Occasion(b, 0), roster(10), GOOD)
    assert (one == session_id(c, Occasion(d, 0), roster(10), GOOD)) == ((a, b) == (c, d))


@given(
    st.sampled_from(["keys", "share", "masked", "agree", "open"]),
    st.sampled_from(["keys", "agree"]),
    st.integers(1, 10),
    st.integers(1, 10),
    st.lists(st.binary(max_size=4), max_size=3),
)
def test_a_statement_binds_tag_session_signer_and_content(tag: str, other: str, u: int, v: int, content: list[bytes]) -> None:
    said = BASE.statement(tag, u, *content)
    assert said == canonical([tag, BASE.sid, u, *content])
    assert (said == BASE.statement(other, v, *content)) == ((tag, u) == (other, v))
    assert said != BASE.statement(tag, u, *content, b"more")
    assert said != OTHERS["round"].statement(tag, u, *content)


@given(parameters())
def test_all_parameters_that_the_tests_draw_are_allowed_ones(p: Parameters) -> None:
    assert 2 * p.threshold > p.parties + p.corrupt
    assert p.parties * p.max_abs < p.ring.half


def test_what_is_signed_and_derived_names_all_that_it_is_bound_to() -> None:
    L, vector, receipt, sid = b"L" * 32, b"v" * 32, b"r" * 32, BASE.sid
    masked = masked_statement(BASE, 2, L, (1, 2), vector, receipt)
    assert masked == canonical(["masked", sid, 2, L, [1, 2], vector, receipt])
    assert box_aad(BASE, L, 1, 2) == canonical([sid, L, 1, 2])
    one, two = (KeyPair.from_secret(Seed(bytes([i]) * 32)) for i in (1, 2))
    label = canonical(["box", sid, L, 1, 2, one.public, two.public])
    expected = derive(one.exchange(two.public), label).reveal()
    assert box_key(BASE, L, one, two.public, 1, 2, mine=1).reveal() == expected
    assert box_key(BASE, L, two, one.public, 1, 2, mine=2).reveal() == expected
    assert box_key(BASE, L, two, one.public, 2, 1, mine=2).reveal() != expected
