"""Statistics of masked vectors, row 13: what leaves a party looks like chance, whatever it put in.

Three tests of every party's vectors in two runs, in which all inputs are least and all are largest: Pearson's χ² of every byte; for
every bit, how often neighbours agree in it (serial correlation, exact binomial bound); and a classifier of two samples that learns
from every second value which run it is of and is tried on the others.  Its number of right guesses has the tails of a fair binomial
at most where both runs have one law (Hoeffding 1956).  They find faults of wiring, never a weak generator.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.bulk import Packed
from protocols.errors import Misuse
from securefl.audit.federation import MAX_ABS, Federation
from securefl.audit.knowledge import observe
from securefl.audit.registry import UPLOAD, attack
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict, broken, harmless, inapplicable, unavailable

SIZE = 20_000
"""Coordinates of an input."""
FALSE_ALARM = 1e-9
"""Probability that sound masks are called bad, over all tests together."""
FEWEST = 1000
"""Values of an array below which it is not looked at."""


@attack(
    13,
    "statistics of masked vectors",
    lie="none: what leaves every party is held against chance, in bytes and between neighbours, and a classifier tells two inputs",
    notice="nobody has to: masked values are uniform, and say nothing of what is under them",
    strikes=[UPLOAD],
)
def statistics(target: Target) -> Verdict:
    """All least against all largest inputs."""
    try:
        worlds = [target.long(SIZE, value) for value in (-MAX_ABS, MAX_ABS)]
    except Misuse as error:
        return inapplicable(f"it takes no inputs of {SIZE} values ({error})")
    low, high = (observe(fed.at(round=place)).uploads(target.uploads) for place, fed in enumerate(worlds))
    if not low or not high:
        return unavailable("no vector leaves in an honest run")
    found = [(p, why, u) for u in low.keys() & high.keys() for p, why in _tests(worlds[0], low[u], high[u])]
    if not found:
        return harmless("no vector of whole numbers leaves that is long enough to look at")
    p, why, u = min(found)
    if p < FALSE_ALARM / len(found):
        likely = f"{p:.1g}" if p else "below 1e-300"
        return broken(f"{why}: by chance with probability {likely}", whose=f"client {u}")
    return harmless(f"chance in {len(found)} tests of {SIZE} values a party; the least likely has p = {p:.1g}")


def _tests(fed: Federation, low: list[NDArray[Any]], high: list[NDArray[Any]]) -> Iterator[tuple[float, str]]:
    """How likely chance does so, and what it did."""
    for one, two in zip(low, high, strict=False):
        if one.dtype.kind not in "iu" or min(one.size, two.size) < FEWEST:
            continue
        bits, words = width(fed, one), (_words(one), _words(two))
        for values in words:
            yield from uniform(values, bits)
            yield from serial(values, bits)
        if one.shape == two.shape:
            yield told_apart(*words, bits)


def width(fed: Federation, values: NDArray[Any]) -> int:
    """Bits of a value that uniform values fill: those of its ring or field, less the top eight where they would not."""
    layouts = [one for one in fed.scheme.layouts(fed.terms.parameters).values() if isinstance(one, Packed)]
    ring = next((one.ring for one in layouts if one.size == values.size), None)
    if ring is None:
        return 8 * values.dtype.itemsize
    return ring.bits if 1 - ring.modulus / 2.0**ring.bits < 2**-20 else ring.bits - 8


def _words(values: NDArray[Any]) -> NDArray[np.uint64]:
    return values.reshape(-1).astype(np.uint64)


def _bytes(values: NDArray[np.uint64], bits: int) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Each byte of the values, and how many values it can have."""
    for low in range(0, bits, 8):
        count = 1 << min(8, bits - low)
        yield (values >> np.uint64(low) & np.uint64(count - 1)).astype(np.int64), count


def uniform(values: NDArray[np.uint64], bits: int) -> Iterator[tuple[float, str]]:
    """Pearson's χ² of every byte against the uniform law, upper tail; shape (n,)."""
    from scipy.stats import chi2  # noqa: PLC0415

    for place, (byte, count) in enumerate(_bytes(values, bits)):
        expected = values.size / count
        statistic = ((np.bincount(byte, minlength=count) - expected) ** 2).sum() / expected
        yield float(chi2.sf(statistic, count - 1)), f"byte {place} of the masked values is not uniform"


def serial(values: NDArray[np.uint64], bits: int) -> Iterator[tuple[float, str]]:
    """For every bit, in how many pairs of neighbours it is equal, against a fair coin; two-sided."""
    from scipy.stats import binom  # noqa: PLC0415

    changed, pairs = values[1:] ^ values[:-1], values.size - 1
    for bit in range(bits):
        differ = int((changed >> np.uint64(bit) & np.uint64(1)).sum())
        tail = 2 * float(binom.sf(max(differ, pairs - differ) - 1, pairs, 0.5))
        yield min(1.0, tail), f"neighbours agree in bit {bit} {pairs - differ} of {pairs} times"


def told_apart(one: NDArray[np.uint64], two: NDArray[np.uint64], bits: int) -> tuple[float, str]:
    """A naive Bayes classifier over bytes: learned from even places, tried on odd ones; the tail of its right guesses."""
    from scipy.stats import binom  # noqa: PLC0415

    score = np.zeros((2, one[1::2].size))
    for first, second in zip(_bytes(one, bits), _bytes(two, bits), strict=True):
        logs = [np.log(np.bincount(byte[::2], minlength=count) + 1.0) for byte, count in (first, second)]
        score += np.stack([(logs[0] - logs[1])[byte[1::2]] for byte, _ in (first, second)])
    right = int((score[0] > 0).sum() + (score[1] <= 0).sum())
    trials = score.size
    why = f"a classifier tells inputs of {-MAX_ABS} from inputs of {MAX_ABS} in {right} of {trials} masked values"
    return float(binom.sf(right - 1, trials, 0.5)), why
