"""White-box canaries: records whose gradient is one coordinate, seen step by step through the training of a mechanism.

A linear model without bias whose loss is its mean output has each record's features as that record's gradient, so that a step
releases the clipped sum itself, coordinate by coordinate: the strongest view that any reader of updates has.

Sources: gradient canaries after Nasr et al. 2023 (arXiv 2302.07956); what a record adds is told by its own coordinate.

What it does not show: a mistake that only another model, optimizer or loss brings out.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import chdtri
from torch import nn
from torch.utils.data import TensorDataset

from securefl.audit.measured.epsilon import Measured, fit_mu, guessed
from securefl.audit.measured.registry import Setting, compared, flagged, measure
from securefl.audit.verdict import Verdict, harmless

CANARIES = 1000
FALSE_ALARM = 1e-9
"""Probability with which sound noise is called too small, or repeated."""
FIT_LEVEL = 1e-4
"""Probability with which the interval of a fitted μ misses it."""
FAR = 1000.0
"""Length of a canary's gradient, in clips: clipping is seen too."""


def released(
    setting: Setting, features: NDArray[np.float32], steps: int, *, label: str, rate: float | None = None, rows: int = CANARIES
) -> NDArray[np.float64]:
    """What each step adds to the model: the clipped and noised sum of the records' gradients, in the gradients' units.

    Args:
        setting: the mechanism.
        features: the records, which are their gradients, shape (records, d).
        steps: how many.
        label: of the randomness.
        rate: sampling rate; by default the job's.
        rows: public number of rows.

    Returns:
        One sum a step, shape (steps, d).
    """
    model = nn.Linear(features.shape[1], 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    x = torch.from_numpy(features).to(torch.float64)
    data, sums = TensorDataset(x, torch.zeros(len(x))), list[NDArray[np.float64]]()
    scale = (setting.job.privacy.sample_rate if rate is None else rate) * rows if setting.private else 1.0
    training = setting.training(rows, label=label, rate=rate)
    with training.private(model, torch.optim.SGD(model.parameters(), lr=1.0), data, steps) as (wrapped, optimizer, batches):
        for batch, _ in batches:
            before = model.weight.detach().numpy().copy()
            optimizer.zero_grad()
            if len(batch):
                (wrapped(batch).sum() if not setting.private else wrapped(batch).mean()).backward()
            optimizer.step()
            sums.append((before - model.weight.detach().numpy())[0] * scale)
    return np.array(sums)


def _canaries(setting: Setting, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A record for each canary that is in, and one without a gradient so that there is always a row."""
    rows = np.zeros((int(inside.sum()) + 1, len(inside)), np.float32)
    rows[np.arange(len(rows) - 1), np.flatnonzero(inside)] = FAR * setting.job.privacy.clip
    return rows


@measure(
    "noise-variance",
    10,
    "variance of the noise on gradients that are zero",
    how=f"χ² of the released sums against the σ that training states, and steps against each other; wrong with {2 * FALSE_ALARM:g}",
    on=("local-record",),
)
def variance(setting: Setting) -> Verdict:
    """Noise smaller than stated, or the same in two steps."""
    steps = 20 if setting.quick else 200
    noise = released(setting, np.zeros((10, CANARIES), np.float32), steps, label="variance", rate=1.0)
    stated = setting.noise_multiplier * setting.job.privacy.clip
    ratio = float((noise**2).sum()) / (stated**2 * noise.size)
    if ratio < float(chdtri(noise.size, 1 - FALSE_ALARM)) / noise.size:
        return flagged("noise-variance", f"the noise has {ratio:.3g} of the variance that it should have")
    one, two = noise[:-1].ravel(), noise[1:].ravel()
    alike = abs(float(one @ two)) / (float(np.linalg.norm(one) * np.linalg.norm(two)) or 1.0)
    if alike > 6.2 / math.sqrt(one.size):  # 6.2 standard deviations: 6e-10
        return flagged("noise-variance", f"the noise of a step follows that of the step before: correlation {alike:.2g}")
    return harmless(f"{ratio:.3f} of the variance that is stated, over {noise.size} values; steps have nothing in common")


@measure(
    "clip-outlier",
    16,
    "a record with a gradient of 10⁶ clips, beside the same training without it",
    how="noise and sampling repeat and cancel, so that the outlier's part stands alone; never wrong",
    on=("local-record",),
)
def outlier(setting: Setting) -> Verdict:
    """How far one record moves the clipped sum, spread over several coordinates or in one."""
    clip, rand = setting.job.privacy.clip, setting.rand("outlier")
    plain = ((rand.words("rows", 20 * 64) >> np.uint64(11)).astype(np.float64) / 2**53 - 0.5).reshape(20, 64)
    wide = np.where(np.arange(64) % 2, -1.0, 1.0) / 8
    worst = 0.0
    for size in (1e6, 2.0):
        for shape in (wide, np.eye(64)[3]):
            records = np.concatenate([plain, size * clip * shape[None]]).astype(np.float32)
            pair = [released(setting, part, 1, label="outlier", rate=1.0) for part in (records, _without(records))]
            worst = max(worst, float(np.linalg.norm(pair[0] - pair[1])))
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
)
def gradients(setting: Setting) -> Verdict:
    """Guesses from the sum of all that a site's steps release, with the job's noise, sampling and number of steps."""
    inside = setting.coins("gradients", CANARIES)
    sums = released(setting, _canaries(setting, inside), setting.few(setting.steps, 100, 2000), label="gradients")
    guesses = CANARIES // 5
    measured, right = guessed(sums.sum(axis=0), inside, guesses // 2, guesses // 2, setting.delta)
    return compared("epsilon-gradients", setting, setting.claimed, measured, f"{right} of {guesses} guesses are right")
