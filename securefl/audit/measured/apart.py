"""How far apart two worlds are, with one party's contribution in a sum and without it: ε measured beside the ε that is claimed.

The reader knows everybody else's contribution, and the noise of as many survivors as may be corrupt: what is left is the noise of
the honest ones alone, of the fewest that open a sum.

Sources: the likelihood ratio of a shift in one coordinate, which is the best test for noise that is Gaussian; bounds as in
`securefl.audit.measured.epsilon`.

What it does not show: that no better reader exists.  The fit extrapolates, and holds as far as integer noise is near a Gaussian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from protocols.rand import Replay
from securefl.audit.measured.epsilon import Measured, epsilon_of_mu, fit_mu, two_worlds
from securefl.audit.measured.inside import NEAR, effective
from securefl.audit.measured.noise import smallest
from securefl.audit.measured.registry import ANY_SUM, IN_SUM, Setting, compared, flagged, measure
from securefl.audit.measured.summed import FALSE_ALARM, Reals, Summed, Whole, of_party, summed
from securefl.audit.verdict import Verdict, harmless, untold
from securefl.encode import Plan, decode, encode

FIT_LEVEL = 1e-4
"""Probability with which the interval of a fitted μ misses it."""
RUNS = 4000
"""Canaries that the fit rests on in ``--quick``."""


def scores(made: Summed, label: str, wanted: int, *, drawn: bool = False) -> tuple[Reals, Reals]:
    """What a reader makes of single sums, in clips: of coordinates that a canary is in, and of as many and more that none is in.

    Every honest party carries a canary of its own, in a coordinate of its own; each is one run of the game.  The corrupt do not
    take part: the reader has subtracted what they sent.

    Args:
        made: the sums.
        label: of their randomness.
        wanted: runs.
        drawn: whether a canary that is a record goes through the sampling of its site; else it is in for certain.

    Returns:
        Shapes (runs,), of ``wanted`` runs or a few more, and (others,).
    """
    made = replace(made, unit=made.drawn or made.unit) if drawn else made
    inside, outside = list[Reals](), list[Reals]()
    carried = min(made.honest, made.size // 2)
    for number in range(-(-wanted // carried)):
        canaries = [made.direction(number * carried + u) for u in range(carried)]
        vectors = {u: canaries[u - 1][0] if u <= carried else None for u in range(1, made.honest + 1)}
        opened = _opened(made, vectors, label, number) / made.encoding.clip
        at = [place for _, place in canaries]
        inside.append(opened[at])
        outside.append(np.delete(opened, at))
    return np.concatenate(inside), np.concatenate(outside)


@measure(
    "sum-fit",
    10,
    "white-box canaries: the distance of the worlds with and without one party's contribution",
    how="μ fitted to single sums with the noise of the fewest honest survivors, turned into ε over all rounds as of a Gaussian; "
    f"the interval misses with {FIT_LEVEL:g}, if noise is near a Gaussian",
    on=ANY_SUM,
)
def fitted(setting: Setting) -> Verdict:
    """The noise as a reader of single sums finds it, over all rounds."""
    made = summed(setting)
    left = math.inf if made.trusted else made.honest * made.plan.share
    inside, outside = scores(made, "fit", RUNS if setting.quick else 10_000)
    low, high = fit_mu(inside, outside, level=FIT_LEVEL)
    ends = [over_all(made, mu) for mu in (low, high)]
    measured = Measured("Gaussian fit", ends[0], math.inf, 1 - FIT_LEVEL, setting.delta, len(inside), ends[1])
    if left < NEAR and low < math.inf:
        return untold(f"the honest noise has a variance of {left:.3g} squared steps: too far from a Gaussian for a fit")
    told = f"μ in {low:.4f} … {high:.4f} a sum over {made.fewest}, of which {made.honest} are honest"
    verdict = compared("sum-fit", setting, setting.claimed, measured, told)
    ratio = 1 / setting.noise_multiplier if made.trusted else made.plan.radius / math.sqrt(left)
    return verdict if verdict.broken else replace(verdict, why=f"{verdict.why}; clip/σ is {ratio:.4f}")


def over_all(made: Summed, mu: float) -> float:
    """ε over all rounds of units that are μ standard deviations in a sum: as of a Gaussian, or of a sampled one by Opacus."""
    if not made.setting.summed:
        return epsilon_of_mu(mu * math.sqrt(made.steps), made.setting.delta)
    return made.setting.epsilon_of(0.0 if math.isinf(mu) else 1 / mu, made.steps) if mu else 0.0


@measure(
    "sum-worlds",
    10,
    "whether one party's contribution is in one noised sum, beside the same game on an exact sum",
    how="likelihood ratio, N runs of each world, Clopper–Pearson bounds, against ε of one sum over the fewest; a sound mechanism "
    "at its very ε is refuted with 5 %",
    on=ANY_SUM,
)
def game(setting: Setting) -> Verdict:
    """A contribution of one clip, there or not, told by the coordinate that it is in."""
    made = summed(setting)
    with_it, without = scores(made, "worlds", 400 if setting.quick else 2000, drawn=True)
    runs = min(len(with_it), len(without))
    hits, false = (int((values[:runs] > 0.5).sum()) for values in (with_it, without))
    measured = two_worlds(hits, false, runs, setting.delta)
    bare = two_worlds(*exact(made, 200), 200)
    told = f"told in {hits} of {runs} runs, {false} false alarms, in one sum; in an exact sum ε ≥ {bare.lower:.2f}"
    return compared("sum-worlds", setting, made.spent(made.fewest), measured, told)


def exact(made: Summed, runs: int) -> tuple[int, int]:
    """Hits and false alarms of the same game on sums without noise, over all parties."""
    e = made.encoding
    plan = Plan(e.parties, e.blocks, e.clip, 1, (), made.setting.job.privacy.precision)
    counts = [0, 0]
    for number in range(runs):
        canary, at = made.direction(number)
        for world in (0, 1):
            given = [canary if u == world == 0 else np.zeros(made.size) for u in range(e.parties)]
            parts = [
                encode(plan, of_party(e, x), [1] * len(e.blocks), {}, Replay(f"exact {number} {world} {u}")()).vector
                for u, x in enumerate(given)
            ]
            mean = np.concatenate([x for x in decode(plan, np.sum(parts, axis=0), e.parties).updates if x is not None])
            counts[world] += bool(mean[at] * e.parties > e.clip / 2)
    return counts[0], counts[1]


@measure(
    "sum-differencing",
    9,
    "the difference of two sums, with one party and without it, where nobody's contribution changes",
    how="the reader knows all others and subtracts totals; χ² of the noise that is left, from below, and the distance of "
    f"the worlds with and without the party, against ε of its one sum; wrong with {FALSE_ALARM:g} and {FIT_LEVEL:g}",
    on=IN_SUM,
)
def differencing(setting: Setting) -> Verdict:
    """What subtracting sums shows: noise must be new in each, or it cancels."""
    made = summed(setting)
    n = made.encoding.parties
    if made.fewest == n:
        return harmless(f"no sum is opened over fewer than all {n} parties")
    runs, corrupt = 40 if setting.quick else 400, made.fewest - made.honest
    remain, differences = n - corrupt, list[Whole]()
    inside, outside = list[float](), list[Reals]()
    for number in range(runs):
        first, second = (made.occasion(f"difference {number}", turn) for turn in (1, 2))
        canary, at = made.direction(number)
        fewer = made.total(made.sent(second, u) for u in range(2, remain + 1))
        bare = made.total(made.sent(first, u) for u in range(1, remain + 1))
        whole = made.total(made.sent(first, u, canary if u == 1 else None) for u in range(1, remain + 1))
        differences.append(bare - fewer)
        left = made.decoded(whole - fewer, remain, first) / made.encoding.clip
        inside.append(float(left[at]))
        outside.append(np.delete(left, at))
    promised = (2 * remain - 1) * made.plan.share
    noise = np.array(differences, np.float64) ** 2
    share = float(noise.mean()) / promised
    if share < smallest(effective(noise.size, promised), FALSE_ALARM):
        return flagged("sum-differencing", f"the difference of two sums has {share:.3g} of the noise that two sums have")
    low, high = fit_mu(np.array(inside), np.concatenate(outside), level=FIT_LEVEL)
    ends = [epsilon_of_mu(mu, setting.delta) for mu in (low, high)]
    measured = Measured("Gaussian fit", ends[0], math.inf, 1 - FIT_LEVEL, setting.delta, runs, ends[1])
    told = f"two sums, over {n} parties and {n - 1}: their difference has {share:.3f} of the noise of two"
    return compared("sum-differencing", setting, made.spent(n, drawn=False), measured, told)


def _opened(made: Summed, vectors: Mapping[int, Reals | None], label: str, number: int) -> Reals:
    """The sum of these parties' contributions in a round of a run of their own."""
    occasion = made.occasion(label, number)
    total = made.total(made.sent(occasion, u, vector) for u, vector in vectors.items())
    return made.decoded(total, len(vectors), occasion)
