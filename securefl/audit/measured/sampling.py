"""The batches that training draws, against what the accountant takes for granted: each record by itself, with probability q.

Three binomial tests, each exact: how often records are in at all; how many of the batches' sizes lie in the middle of
Binomial(records, q); how many of the records' counts lie in the middle of Binomial(steps, q).  The whole data set has the wrong
rate, batches of fixed size have sizes that are too much alike, passes over shuffled records have counts that are; one batch for all
steps has counts that are too far apart, and all records or none have such sizes.

What it does not show: dependence that leaves sizes and counts as they are, such as pairs of records that mostly come together.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc

from securefl.audit.measured.probe import probed
from securefl.audit.measured.registry import SUMMED, Setting, flagged, measure
from securefl.audit.verdict import Verdict, harmless

FALSE_ALARM = 1e-9
"""Probability with which sound sampling is flagged, over the six tails of the three tests."""
SPREAD, FEWEST, MOST = 5.0, 100, 20_000
"""Standard deviation that sizes shall have; bounds of the number of records that it is reached with."""

Drawn = NDArray[np.bool_]


def middle(trials: int, rate: float) -> tuple[int, int, float]:
    """The least interval around the mean of Binomial(trials, rate) that holds half of it: both ends, and its exact probability."""
    counts = np.arange(trials + 1)
    below = bdtr(counts.astype(np.float64), trials, rate)
    order = np.argsort(np.abs(counts - trials * rate), kind="stable")
    held = np.cumsum(np.diff(below, prepend=0.0)[order])
    inside = order[: int((held >= 0.5).argmax()) + 1]
    return int(inside.min()), int(inside.max()), min(1.0, float(held[len(inside) - 1]))


def chance(hits: int, trials: int, rate: float) -> float:
    """The smaller tail of Binomial(trials, rate) at ``hits``: at most that, or at least that many."""
    more = float(bdtrc(hits - 1.0, trials, rate)) if hits else 1.0
    return min(float(bdtr(float(hits), trials, rate)), more)


def fault(drawn: Drawn, rate: float, *, alarm: float = FALSE_ALARM) -> str:
    """In which way records were not drawn by themselves at that rate; empty where nothing speaks against it.

    Args:
        drawn: whether a record was in a step's batch, shape (steps, records).
        rate: q.
        alarm: probability of a fault where there is none.
    """
    steps, records = drawn.shape
    total = int(drawn.sum())
    if chance(total, drawn.size, rate) < alarm / 6:
        return f"records are in a batch at rate {total / drawn.size:.3g}, where {rate:.3g} is accounted for"
    for what, counts, trials in (
        ("sizes of batches", drawn.sum(axis=1), records),
        ("counts of how often a record is in", drawn.sum(axis=0), steps),
    ):
        low, high, p = middle(trials, rate)
        hits = int(((counts >= low) & (counts <= high)).sum())
        if chance(hits, len(counts), p) < alarm / 6:
            share = f"{hits} of {len(counts)} lie in {low} … {high}, where {100 * p:.0f} % should"
            return f"{what}: {share}: records are not drawn by themselves"
    return ""


@measure(
    "batch-sampling",
    10,
    "which records are in the batches that training draws",
    how="binomial tests of rate, sizes and counts against the sampling rate that the accountant takes for granted; wrong with "
    f"{FALSE_ALARM:g} in all",
    on=("local-record", *SUMMED),
)
def sampling(setting: Setting) -> Verdict:
    """Batches that are not Poisson samples at the job's rate."""
    rate, steps = setting.job.privacy.sample_rate, 200 if setting.quick else 1000
    wanted = SPREAD**2 / (rate * (1 - rate)) if rate < 1 else 0.0
    records = min(MOST, max(FEWEST, math.ceil(wanted)))
    probe = probed(setting, np.zeros((records, 4), np.float32), steps, label="batches", rows=records)
    drawn, wrong = np.zeros((steps, records), np.bool_), ""
    for number, batch in enumerate(probe.batches):
        drawn[number, batch] = True
        if int(drawn[number].sum()) < len(batch):
            wrong = "a record is twice in one batch"
    wrong = wrong or fault(drawn, rate)
    if wrong:
        return flagged("batch-sampling", wrong)
    sizes = drawn.sum(axis=1)
    found = f"rate {drawn.mean():.4f} in {steps} batches of {records} records, sizes {sizes.mean():.1f} ± {sizes.std():.1f}"
    return harmless(f"{found}; accounted for: {rate:g}, {records * rate:.1f} ± {math.sqrt(records * rate * (1 - rate)):.1f}")
