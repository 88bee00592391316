"""Degree and threshold of the sparse graph, computed, never chosen.

Source: Bell et al., CCS 2020 (eprint 2020/704), section 3 and theorem 3.10, with the exact hypergeometric tails in place of their
bounds, as production systems use them.  Symbols:

    n      invited parties                      k        degree of the Harary graph, even
    γ, A   corrupt share, A = ⌊γn⌋              t        shares that rebuild a secret, out of k
    δ, D   dropout share, D = ⌊δn⌋              σ, η     security and failure bits; σ' = σ + 1

1.  The honest survivors stay connected: with B = A + D, for k ≤ B,
    ln n + ln(n−k−1) − ln 2 + ln B! + ln(n−k)! − ln n! − ln(B−k)! < −σ' ln 2.
2.  t1 is the smallest value with Pr[Hypergeom(n, A, k) > t1] ≤ 2^−σ'/n; t2 is the 2^−η/n lower quantile of
    Hypergeom(n, ⌈(1−δ)n⌉, k), the neighbours who stay.
3.  Against a server that may lie after the keys are fixed (semi-malicious), t1 ← ⌈(t1 + k − 1.25)/2⌉: then 2t > k + t1, and no
    neighbourhood opens both secrets of a party.
4.  t = max(t1 + 1, 2); the least k with t2 ≥ t is taken.
5.  Such a server also chooses who drops.  So after each survivor the next k/2 places must hold more than c_h survivors, c_h the
    smallest value with Pr[Hypergeom(n−1, A, k/2) > c_h] ≤ 2^−σ'/n.  Honest dropouts may break this; if they do so in more than
    one of a hundred rounds, a larger k is taken.

What it does not cover: the order of the ring comes from the session identity and the round-0 list, and the server and the last
sender can try many: 2^40 tries eat 40 bits.  So σ = 80 is the default; σ = 40 is for a public beacon drawn after the list.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse
from protocols.primitives.graph import Harary
from protocols.schema import MAX_PARTIES

FAILURE = 20
"""η: an honest neighbourhood falls below t in fewer than 2^−η of the rounds."""
SECURITY = 80
"""σ of a flow that runs without a public beacon."""
BROKEN_RINGS = 0.01
"""Largest share of rounds in which honest dropouts may leave a thin place on the ring."""


class Infeasible(Misuse):
    """No sparse graph stands so many corrupt parties and dropouts."""


@dataclass(frozen=True)
class Setting:
    """What the graph must stand.

    Attributes:
        parties: n, 3 to `MAX_PARTIES`.
        corrupt: A, corrupt parties.
        dropouts: D, parties that may vanish.
        security: σ, bits.
        semi_honest: whether the server is trusted to follow the protocol.

    Raises:
        Misuse: for numbers outside these bounds.
        Infeasible: with A + D > 0.9 n (semi-honest) or A + 2D > 0.9 n.
    """

    parties: int
    corrupt: int
    dropouts: int
    security: int = SECURITY
    semi_honest: bool = False

    def __post_init__(self) -> None:
        n, a, d = self.parties, self.corrupt, self.dropouts
        if not 3 <= n <= MAX_PARTIES:
            raise Misuse(f"a sparse graph has 3 to {MAX_PARTIES} parties, not {n}")
        if not 0 <= a < n or not 0 <= d < n:
            raise Misuse(f"corrupt parties and dropouts must be in [0, {n - 1}], not {a} and {d}")
        if not 1 <= self.security <= 128:
            raise Misuse(f"the security parameter σ must be in [1, 128], not {self.security}")
        used, formula = (a + d, "γ + δ") if self.semi_honest else (a + 2 * d, "γ + 2δ")
        if used > 0.9 * n:
            values = f"n = {n}, A = {a}, D = {d}"
            raise Infeasible(f"no sparse graph stands this: {formula} = {used / n:.3g} must be at most 0.9 ({values})")

    @classmethod
    def of(cls, parties: int, gamma: float, delta: float, *, security: int = SECURITY, semi_honest: bool = False) -> Setting:
        """The setting of a corrupt share γ and a dropout share δ, both in [0, 1).

        Raises:
            Misuse: for numbers outside these bounds.
            Infeasible: as the constructor, with the nearest shares for which there is a graph.
        """
        for name, value in (("corrupt", gamma), ("dropout", delta)):
            if not 0 <= value < 1:
                raise Misuse(f"the {name} share must be in [0, 1), not {value:g}")
        # a share such as 0.29 of 100 parties is 28.999… in floating point
        corrupt, dropouts = (math.floor(share * parties + 1e-9) for share in (gamma, delta))
        try:
            return cls(parties, corrupt, dropouts, security, semi_honest)
        except Infeasible as error:
            raise Infeasible(f"{error}{_nearest(parties, corrupt, dropouts, security, semi_honest)}") from None

    @property
    def survivors(self) -> int:
        """S = n − D."""
        return self.parties - self.dropouts


def graph(setting: Setting) -> Harary:
    """The sparse graph of least degree that stands ``setting``.

    Raises:
        Infeasible: where no degree below n − 1 does, with the nearest corrupt and dropout shares that would.
    """
    found = _search(setting)
    if found is None:
        raise Infeasible(f"no degree below n − 1 = {setting.parties - 1} stands {_words(setting)}{_nearest(*astuple(setting))}")
    return found


@lru_cache(maxsize=256)
def _search(s: Setting) -> Harary | None:
    for k in range(2, s.parties - 1, 2):
        if connected(s, k) > 2.0 ** -(s.security + 1):
            continue
        t = max(threshold_bound(s, k) + 1, 2)
        if stay_quantile(s, k) < t:
            continue
        if s.semi_honest:
            return Harary(s.parties, k, t, s.security, None)
        c_h = gap(s, k)
        if c_h < k // 2 and thin_rounds(s, k, c_h) <= BROKEN_RINGS:
            return Harary(s.parties, k, t, s.security, c_h)
    return None


def check(graph: Harary, corrupt: int, survivors: int) -> None:
    """What every party asks of a graph before it joins: the bounds that secrecy needs, for A corrupt parties.

    Args:
        graph: the graph.
        corrupt: A.
        survivors: fewest parties whose sum is opened.

    Raises:
        Misuse: where a bound is broken, with the bound and the values.
    """
    s = Setting(graph.parties, corrupt, 0, graph.security, semi_honest=graph.gap is None)
    t1 = threshold_bound(s, graph.degree)
    if graph.threshold <= t1:
        raise Misuse(f"the threshold t = {graph.threshold} of k = {graph.degree} must be above {t1} for {_words(s)}")
    if graph.gap is not None:
        if graph.gap < (least := gap(s, graph.degree)):
            raise Misuse(f"the gap c_h = {graph.gap} must be at least {least} with k = {graph.degree} for {_words(s)}")
        return
    lost = Setting(graph.parties, corrupt, min(graph.parties - survivors, graph.parties - 1), graph.security, semi_honest=True)
    if connected(lost, graph.degree) > 2.0 ** -(graph.security + 1):
        raise Misuse(f"the degree k = {graph.degree} does not keep {survivors} survivors connected for {_words(lost)}")


def connected(s: Setting, k: int) -> float:
    """Bound on the probability that the honest survivors are not connected, 0 where k > A + D."""
    n, b, ln = s.parties, s.corrupt + s.dropouts, _log_factorials(s.parties)
    if k > b:
        return 0.0
    return math.exp(min(0.0, math.log(n) + math.log(n - k - 1) - math.log(2) + ln[b] + ln[n - k] - ln[n] - ln[b - k]))


def threshold_bound(s: Setting, k: int) -> int:
    """t1, which the threshold must exceed."""
    t1 = _least(_above(s.parties, s.corrupt, k), 2.0 ** -(s.security + 1) / s.parties)
    return t1 if s.semi_honest else math.ceil((t1 + k - 1.25) / 2)


def stay_quantile(s: Setting, k: int) -> int:
    """t2: at least so many of k neighbours stay, except in 2^−η/n of the neighbourhoods."""
    below = np.cumsum(_hypergeometric(s.parties, s.survivors, k))
    return int(np.argmax(below > 2.0**-FAILURE / s.parties))


def gap(s: Setting, k: int) -> int:
    """c_h: at most so many of k/2 places are corrupt, except with probability 2^−σ'/n."""
    return _least(_above(s.parties - 1, s.corrupt, k // 2), 2.0 ** -(s.security + 1) / s.parties)


def thin_rounds(s: Setting, k: int, c_h: int) -> float:
    """Bound on the share of rounds in which D random dropouts leave a thin place."""
    return min(1.0, s.survivors * float(_hypergeometric(s.parties - 1, s.survivors - 1, k // 2)[: c_h + 1].sum()))


def both_opened(s: Setting, k: int, t: int) -> float:
    """Bound on the probability that somewhere the corrupt holders, with a lying server, reach a secret that is not to be opened."""
    needed = t if s.semi_honest else 2 * t - k
    return min(1.0, s.parties * float(_hypergeometric(s.parties, s.corrupt, k)[max(needed, 0) :].sum()))


def too_few_stay(s: Setting, k: int, t: int) -> float:
    """Bound on the share of rounds in which D random dropouts leave a neighbourhood with fewer than t."""
    return min(1.0, s.parties * float(_hypergeometric(s.parties, s.survivors, k)[:t].sum()))


def _nearest(parties: int, corrupt: int, dropouts: int, security: int, semi_honest: bool) -> str:  # noqa: FBT001
    """The largest number of corrupt parties, and of dropouts, that would do, found by bisection."""

    def stands(a: int, d: int) -> bool:
        try:
            return _search(Setting(parties, a, d, security, semi_honest)) is not None
        except Infeasible:
            return False

    found = []
    for what, most in (("corrupt", corrupt), ("dropouts", dropouts)):
        low, high = -1, most
        while high - low > 1:
            middle = (low + high) // 2
            fits = stands(middle, dropouts) if what == "corrupt" else stands(corrupt, middle)
            low, high = (middle, high) if fits else (low, middle)
        if low >= 0:
            found.append(f"{low} {what} ({low / parties:.3g} of n)")
    return f"; with {' or '.join(found)} there is one" if found else "; use the complete graph"


def _words(s: Setting) -> str:
    server = "semi-honest server" if s.semi_honest else "lying server"
    return f"n = {s.parties}, A = {s.corrupt}, D = {s.dropouts}, σ = {s.security}, {server}"


def _least(above: NDArray[np.float64], bound: float) -> int:
    return int(np.argmax(above <= bound))


def _above(n: int, marked: int, k: int) -> NDArray[np.float64]:
    """Pr[X > i] for i = 0 … k, X the marked ones among k drawn of n; summed from the small end."""
    pmf = _hypergeometric(n, marked, k)
    return np.concatenate([np.cumsum(pmf[:0:-1])[::-1], [0.0]])


@lru_cache(maxsize=64)
def _hypergeometric(n: int, marked: int, k: int) -> NDArray[np.float64]:
    """Pr[X = i] for i = 0 … k, shape (k + 1,)."""
    ln, i = _log_factorials(n), np.arange(max(0, k - (n - marked)), min(k, marked) + 1)
    out = np.zeros(k + 1)
    out[i] = np.exp(
        ln[marked] - ln[i] - ln[marked - i] + ln[n - marked] - ln[k - i] - ln[n - marked - k + i] - (ln[n] - ln[k] - ln[n - k])
    )
    return out


@lru_cache(maxsize=8)
def _log_factorials(n: int) -> NDArray[Any]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def allowed_thresholds(parties: int, corrupt: int, *, most: int | None = None, lying: bool = True) -> str:
    """The thresholds with t − |C| ≥ 2, t ≤ n (or ``most``) and, where the server may lie, 2t > n + |C|: in words, for a refusal."""
    low, high = max(corrupt + 2, (parties + corrupt) // 2 + 1 if lying else 0), parties if most is None else most
    return f"allowed: {low} to {high}" if low < high else f"allowed: {low}" if low == high else "none is allowed with so many"
