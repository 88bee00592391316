"""Degree and threshold of the sparse graph against exact arithmetic, the specification's figures, and drawn graphs."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from protocols import degree
from protocols.degree import Infeasible, Setting
from protocols.errors import Misuse
from protocols.primitives.graph import Complete, Harary


@pytest.mark.parametrize(
    ("delta", "security", "semi_honest", "k", "t"),
    [(0.3, 40, True, 88, 36), (0.3, 40, False, 414, 247), (0.1, 40, False, 96, 67), (0.1, 80, False, 120, 87)],
)
def test_the_rule_gives_the_figures_that_others_compute(delta: float, security: int, semi_honest: bool, k: int, t: int) -> None:
    graph = degree.graph(Setting.of(1000, 0.1, delta, security=security, semi_honest=semi_honest))
    assert (graph.degree, graph.threshold) == (k, t)


def exact_above(n: int, marked: int, k: int, bound: int) -> Fraction:
    """Pr[Hypergeom(n, marked, k) > bound], as a fraction."""
    ways = sum(math.comb(marked, x) * math.comb(n - marked, k - x) for x in range(bound + 1, min(k, marked) + 1))
    return Fraction(ways, math.comb(n, k))


settings_ = st.builds(
    lambda n, gamma, delta, sigma, trusted: Setting.of(n, gamma, delta, security=sigma, semi_honest=trusted),
    st.integers(12, 400),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
    st.integers(5, 80),
    st.booleans(),
)


def searched(s: Setting) -> Harary | None:
    try:
        return degree.graph(s)
    except Misuse:
        return None


@given(settings_)
@settings(max_examples=60, deadline=None)
def test_what_is_accepted_holds_in_exact_arithmetic(s: Setting) -> None:
    graph = searched(s)
    if graph is None:
        return
    n, a, k, t = s.parties, s.corrupt, graph.degree, graph.threshold
    small, rare = Fraction(1, n * 2 ** (s.security + 1)), Fraction(1, n * 2**degree.FAILURE)
    slack = 1 + Fraction(1, 10**9)
    if s.semi_honest:
        assert exact_above(n, a, k, t - 1) <= small * slack
    else:
        assert 2 * t > k
        assert exact_above(n, a, k, 2 * t - k - 1) <= small * slack
        assert graph.gap is not None
        assert exact_above(n - 1, a, k // 2, graph.gap) <= small * slack
        assert graph.gap < k // 2
    assert 1 - exact_above(n, s.survivors, k, t - 1) <= rare * slack
    if k <= a + s.dropouts:
        b = a + s.dropouts
        cut = Fraction(n * (n - k - 1) * math.factorial(b) * math.factorial(n - k), 2 * math.factorial(n) * math.factorial(b - k))
        assert cut <= Fraction(1, 2 ** (s.security + 1)) * slack
    degree.check(graph, a, s.survivors)


@given(settings_)
@settings(max_examples=40, deadline=None)
def test_no_smaller_degree_would_do(s: Setting) -> None:
    graph = searched(s)
    largest = s.parties if graph is None else graph.degree
    for k in range(2, min(largest, s.parties - 1), 2):
        t, stays = max(degree.threshold_bound(s, k) + 1, 2), degree.stay_quantile(s, k)
        loose = degree.connected(s, k) > 2.0 ** -(s.security + 1)
        thin = not s.semi_honest and (
            degree.gap(s, k) >= k // 2 or degree.thin_rounds(s, k, degree.gap(s, k)) > degree.BROKEN_RINGS
        )
        assert loose or stays < t or thin


@given(st.integers(3, 300), st.data())
@settings(max_examples=60)
def test_tails_are_those_of_scipy(n: int, data: st.DataObject) -> None:
    marked, k = data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, (n - 2) // 2)) * 2 if n > 4 else 2
    s = Setting(n, marked, 0, 40, semi_honest=True) if marked <= 0.9 * n else Setting(n, 0, 0, 40, semi_honest=True)
    k = min(k, n - 1)
    t1 = degree.threshold_bound(s, k)
    bound = 2.0**-41 / n
    assert hypergeom.sf(t1, n, s.corrupt, k) <= bound * 1.000001
    assert t1 == 0 or hypergeom.sf(t1 - 1, n, s.corrupt, k) > bound * 0.999999


small_ = st.builds(
    lambda n, corrupt, dropouts, sigma, trusted: (n, min(corrupt, n - 1), min(dropouts, n - 1), sigma, trusted),
    st.integers(3, 40),
    st.integers(0, 39),
    st.integers(0, 39),
    st.integers(1, 40),
    st.booleans(),
).filter(lambda x: x[1] + x[2] * (1 if x[4] else 2) <= 0.9 * x[0])


@given(small_, st.data())
@settings(max_examples=150, deadline=None)
def test_every_bound_is_that_of_exact_fractions(numbers: tuple[int, int, int, int, bool], data: st.DataObject) -> None:
    """The formulas of the module's text, once more in fractions, for every number that they give."""
    s = Setting(*numbers)
    n, a, d = s.parties, s.corrupt, s.dropouts
    k = 2 * data.draw(st.integers(1, max(1, (n - 1) // 2)))
    t, c_h = data.draw(st.integers(1, k)), data.draw(st.integers(0, max(0, k // 2 - 1)))
    small, rare = Fraction(1, n * 2 ** (s.security + 1)), Fraction(1, n * 2**20)

    def least(total: int, marked: int, drawn: int) -> int:
        return next(i for i in range(drawn + 1) if exact_above(total, marked, drawn, i) <= small)

    if k <= n - 1:
        t1 = least(n, a, k)
        assert degree.threshold_bound(s, k) == (t1 if s.semi_honest else math.ceil((t1 + k - 1.25) / 2))
        assert degree.gap(s, k) == least(n - 1, a, k // 2)
        stay = next(i for i in range(k + 1) if 1 - exact_above(n, n - d, k, i) > rare)
        assert degree.stay_quantile(s, k) == stay
        few = min(Fraction(1), n * (1 - exact_above(n, n - d, k, t - 1)))
        assert degree.too_few_stay(s, k, t) == pytest.approx(float(few), rel=1e-9, abs=1e-12)
        thin = min(Fraction(1), (n - d) * (1 - exact_above(n - 1, n - d - 1, k // 2, c_h)))
        assert degree.thin_rounds(s, k, c_h) == pytest.approx(float(thin), rel=1e-9, abs=1e-12)
        needed = t if s.semi_honest else max(2 * t - k, 0)
        both = min(Fraction(1), n * exact_above(n, a, k, needed - 1))
        assert degree.both_opened(s, k, t) == pytest.approx(float(both), rel=1e-9, abs=1e-12)
    if k < n - 1:
        b = a + d
        ways = math.factorial(b) * math.factorial(n - k)
        cut = Fraction(n * (n - k - 1) * ways, 2 * math.factorial(n) * math.factorial(b - k)) if k <= b else Fraction(0)
        assert degree.connected(s, k) == pytest.approx(float(min(cut, Fraction(1))), rel=1e-9)


def test_degrees_are_refused_by_the_bound_itself_and_not_by_one_beside_it() -> None:
    """The fewest survivors that a degree keeps connected are those of the exact bound, one fewer is refused."""
    trusting = degree.graph(Setting.of(400, 0.1, 0.3, security=40, semi_honest=True))
    n, k = 400, trusting.degree

    def kept(survivors: int) -> bool:
        b = 40 + n - survivors
        ways = math.factorial(b) * math.factorial(n - k)
        cut = Fraction(n * (n - k - 1) * ways, 2 * math.factorial(n) * math.factorial(b - k)) if k <= b else Fraction(0)
        return cut <= Fraction(1, 2**41)

    fewest = next(x for x in range(80, n) if kept(x))
    degree.check(trusting, 40, fewest)
    with pytest.raises(
        Misuse, match=rf"does not keep {fewest - 1} survivors connected for n = 400, A = 40, D = .*semi-honest server"
    ):
        degree.check(trusting, 40, fewest - 1)
    lying = degree.graph(Setting.of(200, 0.1, 0.1))
    with pytest.raises(Misuse, match="lying server"):
        degree.check(lying, 60, 180)


def test_settings_end_where_they_say() -> None:
    assert Setting(100, 0, 0).security == 80
    assert Setting(100, 0, 0, 1).security == 1
    assert Setting(100, 0, 0, 128).security == 128
    assert Setting(degree.MAX_PARTIES, 0, 0).parties == degree.MAX_PARTIES
    assert Setting(100, 90, 0).corrupt == 90  # 0.9 n is allowed
    assert Setting(100, 60, 30, semi_honest=True).dropouts == 30
    with pytest.raises(Infeasible, match=r"γ \+ δ = 0.91 must be at most 0.9 \(n = 100, A = 61, D = 30\)"):
        Setting(100, 61, 30, semi_honest=True)
    for gamma, delta, name in ((1.0, 0.0, "corrupt"), (0.0, 1.0, "dropout")):
        with pytest.raises(Misuse, match=f"the {name} share"):
            Setting.of(100, gamma, delta)
    for numbers in ((degree.MAX_PARTIES + 1, 0, 0), (100, 0, 100), (100, 0, -1)):
        with pytest.raises(Misuse):
            Setting(*numbers)
    for numbers in ((3, 3, 0), (3, 0, 3)):
        with pytest.raises(Misuse, match=r"must be in \[0, 2\]"):
            Setting(*numbers)


def test_allowed_thresholds_are_those_of_the_bounds() -> None:
    """Written once more: t − |C| ≥ 2, t ≤ n or the most, and 2t > n + |C| where the server may lie."""
    for n in range(2, 9):
        for c in range(n):
            for most in (None, n - 1):
                for lying in (True, False):
                    top = n if most is None else most
                    good = [t for t in range(1, top + 1) if t - c >= 2 and (not lying or 2 * t > n + c)]
                    words = (
                        "none is allowed with so many"
                        if not good
                        else f"allowed: {good[0]}" + (f" to {good[-1]}" if len(good) > 1 else "")
                    )
                    assert degree.allowed_thresholds(n, c, most=most, lying=lying) == words
    assert degree.allowed_thresholds(9, 2) == degree.allowed_thresholds(9, 2, lying=True)


def test_too_many_are_refused_with_the_nearest_that_would_do() -> None:
    with pytest.raises(Infeasible, match=r"γ \+ 2δ = 1 must be at most 0.9"):
        Setting.of(100, 0.4, 0.3)
    with pytest.raises(Infeasible, match=r"γ \+ δ = 0.95 must be at most 0.9"):
        Setting.of(100, 0.6, 0.35, semi_honest=True)
    with pytest.raises(Infeasible, match="no degree below n − 1 = 2 .* use the complete graph$"):
        degree.graph(Setting(3, 0, 0))
    for wrong in (Setting(100, 0, 0), replace(Setting(100, 0, 0), parties=3)):
        assert wrong.survivors == wrong.parties
    for arguments in ((2, 0, 0), (100, 100, 0), (100, -1, 0), (100, 0, 0, 0), (100, 0, 0, 129)):
        with pytest.raises(Misuse):
            Setting(*arguments)
    for share in (-0.1, 1.0):
        with pytest.raises(Misuse, match="share must be in"):
            Setting.of(100, share, 0.1)


@pytest.mark.parametrize(("n", "gamma", "delta", "trusted"), [(70, 0.4, 0.2, False), (100, 0.4, 0.3, False), (90, 0.6, 0.35, True)])
def test_the_nearest_numbers_that_are_named_would_do_and_one_more_would_not(
    n: int, gamma: float, delta: float, trusted: bool
) -> None:
    with pytest.raises(Infeasible) as error:
        degree.graph(Setting.of(n, gamma, delta, semi_honest=trusted))
    named = re.search(r"; with (\d+) corrupt \(0\.\d+ of n\) or (\d+) dropouts \(0\.\d+ of n\) there is one$", str(error.value))
    assert named is not None
    corrupt, dropouts = map(int, named.groups())
    a, d = int(gamma * n), int(delta * n)
    for numbers in ((corrupt, d), (a, dropouts)):
        assert degree.graph(Setting(n, *numbers, semi_honest=trusted)).parties == n
    for numbers in ((corrupt + 1, d), (a, dropouts + 1)):
        with pytest.raises(Infeasible):
            degree.graph(Setting(n, *numbers, semi_honest=trusted))


def test_a_share_in_decimals_means_whole_parties() -> None:
    """0.29 of 100 parties is 28.999… in floating point."""
    assert Setting.of(100, 0.29, 0.07) == Setting(100, 29, 7)


def test_a_graph_is_checked_before_it_is_joined() -> None:
    good = degree.graph(Setting.of(200, 0.1, 0.1))
    degree.check(good, 20, 180)
    with pytest.raises(Misuse, match="threshold t"):
        degree.check(replace(good, threshold=good.threshold - 1), 20, 180)
    with pytest.raises(Misuse, match="gap c_h"):
        degree.check(replace(good, gap=good.gap - 1), 20, 180)  # type: ignore[operator]
    with pytest.raises(Misuse, match="threshold t|gap c_h"):
        degree.check(good, 60, 180)
    trusting = degree.graph(Setting.of(400, 0.1, 0.3, security=40, semi_honest=True))
    degree.check(trusting, 40, 280)
    with pytest.raises(Misuse, match="does not keep"):
        degree.check(trusting, 40, 100)


# The graph itself


@given(st.integers(6, 60), st.integers(1, 20), st.binary(min_size=1, max_size=8))
@settings(max_examples=100)
def test_neighbours_are_mutual_and_k_of_them(n: int, half: int, seed: bytes) -> None:
    k = min(2 * half, (n - 2) // 2 * 2)
    graph, everybody = Harary(n, k, 2, 40, None), range(1, n + 1)
    near = {u: graph.holders(u, everybody, seed) for u in everybody}
    assert all(len(set(near[u])) == k and u not in near[u] and list(near[u]) == sorted(near[u]) for u in everybody)
    assert all(u in near[v] for u in everybody for v in near[u])
    some = [u for u in everybody if u % 3]
    assert all(graph.holders(u, some, seed) == tuple(v for v in near[u] if v % 3) for u in some)
    for members in (list(everybody), list(some)):
        for one in (graph, Complete()):
            others = {u: tuple(row.tolist()) for u, row in one.others(members, seed).items()}
            assert others == {u: tuple(v for v in one.holders(u, members, seed) if v != u) for u in members}
            assert sorted(one.along(members, seed)) == sorted(members)


def test_along_the_ring_those_next_to_each_other_share_most_holders() -> None:
    graph, seed = Harary(50, 8, 3, 1, None), b"ring"
    order = graph.along(range(1, 51), seed)
    near = {u: set(graph.holders(u, range(1, 51), seed)) for u in order}
    assert all(len(near[u] & near[v]) == 6 for u, v in pairwise([*order, order[0]]))


def test_the_ring_is_another_for_another_seed() -> None:
    graph = Harary(50, 6, 3, 40, None)
    drawn = {graph.holders(1, range(1, 51), bytes([i])) for i in range(50)}
    assert len(drawn) > 40


def test_all_neighbours_are_equally_likely() -> None:
    """χ² over 20 000 rings; the seeds are fixed, the bound is exceeded with probability 10^-6."""
    graph, n = Harary(11, 2, 2, 40, None), 11
    seen = np.zeros(n + 1)
    for i in range(20_000):
        for v in graph.holders(3, range(1, n + 1), i.to_bytes(4, "big")):
            seen[v] += 1
    others = np.delete(seen[1:], 2)
    assert seen[3] == 0
    assert ((others - others.mean()) ** 2 / others.mean()).sum() < 46.9  # χ² with 9 degrees of freedom at 10^-6


@given(st.integers(8, 40), st.data())
@settings(max_examples=100)
def test_a_thin_place_is_found_wherever_there_is_one(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, (n - 2) // 2)) * 2
    gap = data.draw(st.integers(0, k // 2 - 1))
    graph, seed = Harary(n, k, 2, 40, gap), data.draw(st.binary(max_size=4))
    present = sorted(data.draw(st.sets(st.integers(1, n), min_size=1)))
    order = [u for _, u in sorted((degree_place(graph, u, seed), u) for u in range(1, n + 1))]
    thin = []
    for u in present:
        at = order.index(u)
        after = [order[(at + step) % n] for step in range(1, k // 2 + 1)]
        if len(set(after) & set(present)) <= gap:
            thin.append(u)
    found = graph.thin_place(present, seed)
    assert (found is None) == (not thin)
    assert found is None or found in thin
    assert replace(graph, gap=None).thin_place(present, seed) is None


def degree_place(graph: Harary, u: int, seed: bytes) -> int:
    from protocols.primitives.graph import ring_order

    return int(ring_order(graph.parties, seed)[1][u - 1])


def test_a_malformed_graph_is_refused() -> None:
    odd, whole, above, below, secure = (10, 3, 2), (7, 6, 2), (10, 4, 5), (10, 4, 1), (10, 4, 2)
    for arguments in ((*odd, 40), (10, 10, 2, 40), (*whole, 40), (*above, 40), (*below, 40), (*secure, 0), (*secure, 129)):
        with pytest.raises(Misuse):
            Harary(*arguments, None)
    assert Harary(*secure, 128, None).degree == 4
    with pytest.raises(Misuse, match="gap"):
        Harary(10, 4, 2, 40, 2)
