"""The noise inside a sum, by itself: how large it is with whom gone, by which law, and how far one contribution moves the sum.

Sources: χ² for variances, widened by the excess kurtosis of the law; Pearson's χ² for the law itself, against its exact
probabilities (Skellam: e^−μ I_k(μ); the sum of discrete Gaussians: one of their summed variance, which is close).

What it does not show: noise that is smaller by less than the numbers in the verdict; a norm that is exceeded by contributions of
another shape.  Floating point and timing are not looked at.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import chdtrc, gammaincinv, ive, ndtr, ndtri

from protocols.errors import Misuse
from securefl.audit.measured.noise import by_chance, pairs, smallest
from securefl.audit.measured.registry import ANY_SUM, IN_SUM, Setting, flagged, measure
from securefl.audit.measured.summed import FALSE_ALARM, Reals, Summed, Whole, summed
from securefl.audit.verdict import Verdict, harmless
from securefl.errors import UserError

BINS = 32
"""Classes of about equal probability into which values of the noise are sorted."""
TABLE = 2.0**32
"""Above this variance, in squared steps, a law on the integers is taken for a Gaussian: they differ by less than 10^-9 there."""
NEAR = 4.0
"""Variance, in squared steps, from which on noise counts as near a Gaussian: excess kurtosis at most ¼."""
FAR = (1e6, 2.0, 1.0)
"""Lengths of contributions in clips: an outlier, one that is clipped to a half, one that is within."""


def largest(values: float, alarm: float) -> float:
    """The share of its variance that so many Gaussian values exceed with probability ``alarm``."""
    return 2 * float(gammaincinv(values / 2, 1 - alarm)) / values


def effective(values: int, steps: float) -> float:
    """So many Gaussian values as say as much of a variance as these of Skellam noise of variance ``steps`` do."""
    return values / (1 + 1 / (2 * max(steps, 1e-9)))


def amiss(noise: Whole, promised: float, *, alarm: float = FALSE_ALARM) -> str:
    """What is wrong with the noise of several sums: its variance, in all or of a single coordinate or sum, or what repeats.

    Args:
        noise: in steps, shape (sums, values).
        promised: variance of a value.
        alarm: probability of a fault where there is none, but for what is said of correlation, which has the same once more.
    """
    ratios = noise.astype(np.float64) ** 2 / promised
    share, count = float(ratios.mean()), effective(noise.size, promised)
    if not smallest(count, alarm / 4) <= share <= largest(count, alarm / 4):
        return f"the noise has {share:.4g} of the variance that was promised"
    for axis, what in ((0, "coordinate"), (1, "sum")) if promised >= NEAR else ():
        each, tests = ratios.mean(axis=axis), noise.shape[1 - axis]
        few = effective(noise.shape[axis], promised)
        if float(each.min()) < smallest(few, alarm / 4 / tests):
            return f"the noise of one {what} has {float(each.min()):.3g} of the variance that was promised"
    compared = list(pairs({"sum": noise.astype(np.float64)}))
    for what, one, two in compared:
        if by_chance(one, two) < alarm / len(compared):
            return f"{what} have something in common: one tells the other"
    return ""


@measure(
    "sum-variance",
    10,
    "variance of the decoded sum on zero inputs, with 0, 1 and the tolerated number of parties gone",
    how="χ² against the plan's noise, both ways, for all values, each coordinate and each sum; correlation between sums and "
    f"values; one sum of each kind also by real sessions of the protocol; wrong with {2 * FALSE_ALARM:g} for each number gone",
    on=IN_SUM,
)
def variance(setting: Setting) -> Verdict:
    """Noise of another size than promised, or that repeats, with whoever is gone."""
    made, told = summed(setting), list[str]()
    rounds = made.values(20_000 if setting.quick else 400_000)
    for survivors in made.survivors:
        missing = made.encoding.parties - survivors
        noise = made.noise(f"variance {survivors}", rounds, survivors)
        wrong = amiss(noise, survivors * made.plan.share)
        if wrong:
            return flagged("sum-variance", f"with {missing} of {made.encoding.parties} parties gone, {wrong}")
        occasion = made.occasion(f"variance {survivors}")
        read = made.decoded(noise[0], survivors, occasion)
        sent = {u: made.sent(occasion, u) for u in range(1, made.encoding.parties + 1)}
        gone = range(survivors + 1, made.encoding.parties + 1)
        total, contributors = made.through_protocol(sent, gone, occasion)
        if contributors != survivors or (total != noise[0]).any():
            return flagged("sum-variance", f"{made.scheme.name} gives another sum than that of the {survivors} who survived")
        again = made.decoded(total, survivors, occasion)
        step = made.plan.granularity
        decoded = float((again**2).mean()) / (step**2 * survivors * made.plan.share)
        count = effective(made.size, survivors * made.plan.share)
        if (read != again).any() or not smallest(count, FALSE_ALARM) <= decoded <= largest(count, FALSE_ALARM):
            return flagged("sum-variance", f"what is decoded has {decoded:.3g} of the variance that was promised")
        told.append(f"{float((noise**2.0).mean()) / (survivors * made.plan.share):.3f} with {missing} gone")
    return harmless(f"of the variance that is promised: {', '.join(told)}; {rounds * made.encoding.size} values each")


def classes(kind: str, variance: float) -> tuple[Reals, Reals]:
    """Bounds between classes of a law, and the probability of each class; half-open towards the right, whole numbers apart."""
    deviation = math.sqrt(variance)
    bounds = np.unique(np.floor(ndtri(np.arange(1, BINS) / BINS) * deviation) + 0.5)
    if variance > TABLE:
        below = ndtr(bounds / deviation)
    else:
        reach = math.ceil(12 * deviation) + 20
        k = np.arange(-reach, reach + 1, dtype=np.float64)
        mass = ive(np.abs(k), variance) if kind == "skellam" else np.exp(-(k**2) / (2 * variance))
        below = np.cumsum(mass / mass.sum())[(bounds - 0.5).astype(np.int64) + reach]
    return bounds, np.diff(np.concatenate([[0.0], below, [1.0]]))


def unlike(values: Whole, kind: str, variance: float) -> float:
    """How likely values of that law lie in classes as unevenly as these do: Pearson's χ²."""
    bounds, expected = classes(kind, variance)
    found = np.bincount(np.searchsorted(bounds, values.ravel()), minlength=len(expected))
    wanted = expected * values.size
    return float(chdtrc(len(expected) - 1, float(((found - wanted) ** 2 / wanted).sum())))


@measure(
    "sum-law",
    10,
    "the law of the noise, of one party and in what is opened",
    how=f"Pearson's χ² against exact probabilities, where the fewest survive; wrong with {FALSE_ALARM:g}",
    on=IN_SUM,
)
def law(setting: Setting) -> Verdict:
    """Noise of another law than the accountant was told, or values that wrapped around."""
    made, told = summed(setting), list[str]()
    rounds = made.values(40_000 if setting.quick else 400_000)
    for who, survivors in (("one party", 1), (f"{made.fewest} parties", made.fewest)):
        noise, total = made.noise(f"law {survivors}", rounds, survivors), survivors * made.plan.share
        p = unlike(noise, made.plan.kind, total)
        if p < FALSE_ALARM / 2:
            what = f"the noise of {who} is not {made.plan.kind} noise of variance {total:.4g}"
            return flagged("sum-law", f"{what}: {noise.size} values lie so with a probability of {p:.1g}")
        told.append(f"of {who} p = {p:.2f}")
    return harmless(f"{made.plan.kind} noise, {', '.join(told)}; {noise.size} values each")


def shapes(made: Summed, number: int) -> dict[str, Reals]:
    """Contributions of length 1: over all coordinates, in one of each block, and what rounds worst in a round."""
    size, starts = made.size, np.cumsum([0, *made.encoding.blocks[:-1]])
    out = {"all coordinates": np.where(np.arange(size) % 2, -1.0, 1.0)}
    for block, start in enumerate(starts):
        out[f"one coordinate of block {block + 1}"] = np.eye(1, size, int(start))[0]
    if len(starts) > 1:
        out["one coordinate of each block"] = np.isin(np.arange(size), starts).astype(np.float64)
    out["halfway between two steps everywhere"] = halfway(made, number)
    return {name: shape / float(np.linalg.norm(shape)) for name, shape in out.items()}


def halfway(made: Summed, number: int) -> Reals:
    """A contribution that lies halfway between two steps in every coordinate, as long as the bound allows: its norm varies most."""
    whole = max(math.floor(made.plan.radius / math.sqrt(made.encoding.size / made.parts) - 0.5), 0)
    total = np.full(made.encoding.size, 2 * whole + 1, np.int64)
    occasion = made.occasion("clip", number)
    return (made.decoded(total, 1, occasion) - made.decoded(np.zeros_like(total), 1, occasion)) / 2


@measure(
    "sum-clip",
    16,
    "contributions of 10⁶, 2 and 1 clips, over all blocks and in each, and those that rounding serves worst",
    how="noise repeats and cancels, so that a contribution stands alone in integers; its L2 and L1 norm against what the "
    "accountant was told; never wrong",
    on=ANY_SUM,
)
def clipped(setting: Setting) -> Verdict:
    """How far one contribution moves the sum, after clipping, rotation and rounding, with all blocks together."""
    made, worst = summed(setting), 0.0
    delta2, delta1 = made.bounds
    tries = 40 if setting.quick else 400
    for number in range(tries):
        occasion = made.occasion("clip", number)
        for name, shape in shapes(made, number).items() if number < 3 else [("halfway", halfway(made, number))]:
            for length in FAR if number < 3 else (None,):
                vector = shape if length is None else shape * length * made.encoding.clip
                try:
                    moved = made.moved(occasion, vector)
                except (UserError, Misuse) as error:
                    return flagged("sum-clip", f"{name}: a contribution of {length or 1:g} clips is not encoded: {error}")
                parts = moved.astype(np.float64).reshape(made.parts, -1)
                norm, least = float(np.linalg.norm(parts, axis=1).max()), float(np.abs(parts).sum(axis=1).max())
                worst = max(worst, norm / delta2)
                if norm > delta2 or least > delta1:
                    far = f"{norm:.5g} steps in L2 and {least:.5g} in L1, where {delta2:.5g} and {delta1:.5g}"
                    return flagged("sum-clip", f"{name}: one contribution moves the sum by {far} are accounted for")
    return harmless(f"one contribution moves the sum by {worst:.4f} of the L2 norm that is accounted for, at most")


@measure(
    "sum-gain",
    20,
    "a contribution within the bound comes out of the sum as it went in",
    how="noise repeats and cancels; what comes out along a contribution of one clip, against it, with rounding taken at its worst "
    "and a deviation of 8 (10⁻¹⁵)",
    on=ANY_SUM,
)
def gain(setting: Setting) -> Verdict:
    """A grid, a rotation or a centring that differs between the party and whoever decodes."""
    made, tries = summed(setting), 16
    found = list[float]()
    for number in range(tries):
        occasion = made.occasion("gain", number)
        shape = shapes(made, number)["all coordinates"]
        total = made.total([made.sent(occasion, 1, shape * made.encoding.clip), *(made.sent(occasion, u) for u in (2, 3))])
        bare = made.total([made.sent(occasion, u) for u in (1, 2, 3)])
        found.append(float((made.decoded(total, 3, occasion) - made.decoded(bare, 3, occasion)) @ shape) / made.encoding.clip)
    mean, slack = float(np.mean(found)), (1 + 8 / math.sqrt(tries)) / (2 * made.plan.radius) + made.coarseness
    if abs(mean - 1) > slack:
        return flagged("sum-gain", f"{mean:.4g} of a contribution comes out of the sum, where 1 ± {slack:.3g} should")
    return harmless(f"{mean:.4f} of a contribution comes out of the sum")
