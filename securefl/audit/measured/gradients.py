"""White-box canaries: records whose gradient is one coordinate, seen step by step through the training of a mechanism.

A step of the model of `securefl.audit.measured.probe` releases the clipped sum of features itself, coordinate by coordinate, in
three tensors: the strongest view that any reader of updates has.

Sources: gradient canaries after Nasr et al. 2023 (arXiv 2302.07956); what a record adds is told by its own coordinate.

What it does not show: a mistake that only another model, optimizer or loss brings out.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from securefl.audit.measured.epsilon import Measured, fit_mu, guessed
from securefl.audit.measured.probe import released, tensors
from securefl.audit.measured.registry import RECORDS, Setting, compared, flagged, measure
from securefl.audit.verdict import Verdict, harmless

CANARIES = 1000
FIT_LEVEL = 1e-4
"""Probability with which the interval of a fitted μ misses it."""
FAR = 1000.0
"""Length of a canary's gradient, in clips: clipping is seen too."""


def _canaries(setting: Setting, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A record for each canary that is in, and one without a gradient so that there is always a row."""
    rows = np.zeros((int(inside.sum()) + 1, len(inside)), np.float32)
    rows[np.arange(len(rows) - 1), np.flatnonzero(inside)] = FAR * setting.job.privacy.clip
    return rows


@measure(
    "clip-outlier",
    16,
    "a record with a gradient of 10⁶ clips, over all tensors and in each, beside the same training without it",
    how="noise and sampling repeat and cancel, so that the outlier's part stands alone; never wrong",
    on=("local-record",),
)
def outlier(setting: Setting) -> Verdict:
    """How far one record moves the clipped sum of a step, spread over all tensors or in one coordinate of one."""
    clip, rand = setting.job.privacy.clip, setting.rand("outlier")
    plain = ((rand.words("rows", 20 * 64) >> np.uint64(11)).astype(np.float64) / 2**53 - 0.5).reshape(20, 64)
    wide = np.where(np.arange(64) % 2, -1.0, 1.0) / 8
    lone = [np.eye(64)[place.start] for place in tensors(64).values()]
    worst = 0.0
    for size in (1e6, 2.0):
        for shape in (wide, *lone):
            records = np.concatenate([plain, size * clip * shape[None]]).astype(np.float32)
            pair = [released(setting, part, 3, label="outlier", rate=1.0) for part in (records, _without(records))]
            worst = max(worst, float(np.linalg.norm(pair[0] - pair[1], axis=1).max()))
    if worst > clip * (1 + 1e-6):
        return flagged("clip-outlier", f"one record moves the sum by {worst / clip:.4g} clips")
    return harmless(f"one record moves the sum by {worst / clip:.6f} clips at most")


def _without(records: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same rows, the last with a gradient of zero: as if it were not there."""
    return np.concatenate([records[:-1], np.zeros_like(records[:1])])


@measure(
    "epsilon-fit",
    10,
    "white-box canaries: the distance of two worlds in one step",
    how=f"μ fitted to single steps, turned into ε over all steps by the job's accountant; the interval misses with {FIT_LEVEL:g}",
    on=("local-record",),
)
def fitted(setting: Setting) -> Verdict:
    """The noise as a reader of single steps finds it, accounted over all of them."""
    inside = setting.coins("fit", CANARIES)
    sums = released(setting, _canaries(setting, inside), 50 if setting.quick else 400, label="fit", rate=1.0)
    low, high = fit_mu(sums[:, inside].ravel(), sums[:, ~inside].ravel(), level=FIT_LEVEL)
    ends = [0.0 if not mu else setting.epsilon_of(0.0 if math.isinf(mu) else 1 / mu, setting.steps) for mu in (low, high)]
    measured = Measured("Gaussian fit", ends[0], math.inf, 1 - FIT_LEVEL, setting.delta, sums.size, ends[1])
    verdict = compared("epsilon-fit", setting, setting.claimed, measured, f"μ in {low:.4f} … {high:.4f} a step")
    return verdict if verdict.broken else replace(verdict, why=f"{verdict.why}; 1/σ is {1 / setting.noise_multiplier:.4f}")


@measure(
    "epsilon-gradients",
    11,
    "white-box canaries: a coordinate that only one record touches, over all steps",
    how="one-run bound; a sound mechanism at its very ε is wrongly refuted with at most 5 %",
    on=RECORDS,
)
def gradients(setting: Setting) -> Verdict:
    """Guesses from the sum of all that a site's steps release, with the job's noise, sampling and number of steps."""
    inside = setting.coins("gradients", CANARIES)
    sums = released(setting, _canaries(setting, inside), setting.few(setting.steps, 100, 2000), label="gradients")
    guesses = CANARIES // 5
    measured, right = guessed(sums.sum(axis=0), inside, guesses // 2, guesses // 2, setting.delta)
    return compared("epsilon-gradients", setting, setting.claimed, measured, f"{right} of {guesses} guesses are right")
