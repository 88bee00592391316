"""The noise alone, tensor by tensor and step by step: how large it is, and whether one value tells another.

χ² for the variance; for what must be independent the exact distribution of a correlation of two Gaussian samples about zero
(r² is of Beta(½, (n − 1)/2)).  Both alarms are shared out among their tests (Bonferroni).

What it does not show: noise that is too small on a part of a tensor, or on a fourth one; noise that follows other noise by
another rule than one of `pairs`; noise that is smaller by little: of a tensor with n values in all steps, anything above
1 − 6·√(2/n) of the variance, or so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, gammaincinv

from securefl.audit.measured.probe import released, tensors
from securefl.audit.measured.registry import Setting, flagged, measure
from securefl.audit.verdict import Verdict, harmless

FALSE_ALARM = 1e-9
"""Probability with which sound noise is called too small, and with which it is called repeated."""
SIZE = 1000
"""Weights of the model."""

Noise = NDArray[np.float64]


def smallest(values: float, alarm: float) -> float:
    """The share of its variance that so many Gaussian values fall below with probability ``alarm``."""
    return 2 * float(gammaincinv(values / 2, alarm)) / values


def by_chance(one: Noise, two: Noise) -> float:
    """How likely independent Gaussian values about zero are correlated as much as these are; 1.0 where one sample is zero."""
    a, b = one.ravel(), two.ravel()
    size = float(a @ a) * float(b @ b)
    if len(a) < 2 or not size:
        return 1.0
    return float(betainc((len(a) - 1) / 2, 0.5, max(0.0, 1 - float(a @ b) ** 2 / size)))


def pairs(noise: Mapping[str, Noise]) -> Iterator[tuple[str, Noise, Noise]]:
    """What must have nothing in common, in words and as two samples of equal shape, each value once in a pair.

    Args:
        noise: of each tensor, shape (steps, values).
    """
    for name, values in noise.items():
        for start in (0, 1):
            yield f"the noise on the {name} in one step and in the next", values[start:-1:2], values[start + 1 :: 2]
        half = values.shape[1] // 2
        if half:
            yield f"neighbouring values of the noise on the {name}", values[:, :-1:2], values[:, 1::2]
            yield f"the halves of the noise on the {name}", values[:, :half], values[:, half : 2 * half]
    for (first, one), (second, two) in combinations(noise.items(), 2):
        width = min(one.shape[1], two.shape[1])
        yield f"the noise on the {first} and on the {second}", one[:, :width], two[:, :width]


@measure(
    "noise-variance",
    10,
    "variance of the noise on gradients that are zero, tensor by tensor",
    how="χ² of what steps release against the σ that training states, for each of three tensors and each step; correlation between "
    f"steps, tensors and values; wrong with {2 * FALSE_ALARM:g} in all",
    on=("local-record",),
)
def variance(setting: Setting) -> Verdict:
    """Noise smaller than stated on some tensor or in some step, or the same in two steps, tensors or values."""
    steps = 200 if setting.quick else 1000
    values = released(setting, np.zeros((10, SIZE), np.float32), steps, label="variance", rate=1.0)
    noise = {name: values[:, place] for name, place in tensors(SIZE).items()}
    std = setting.noise_multiplier * setting.job.privacy.clip
    ratios = {name: float((part**2).mean()) / std**2 for name, part in noise.items()}
    for name, part in noise.items():
        if ratios[name] < smallest(part.size, FALSE_ALARM / 2 / len(noise)):
            return flagged("noise-variance", f"the noise on the {name} has {ratios[name]:.3g} of the variance that it should have")
    least = float((values**2).mean(axis=1).min()) / std**2
    if least < smallest(SIZE, FALSE_ALARM / 2 / steps):
        return flagged("noise-variance", f"the noise of one step has {least:.3g} of the variance that it should have")
    compared = list(pairs(noise))
    for what, one, two in compared:
        if by_chance(one, two) < FALSE_ALARM / len(compared):
            return flagged("noise-variance", f"{what} have something in common: one tells the other")
    shares = ", ".join(f"{ratio:.3f} on the {name} ({noise[name].size})" for name, ratio in ratios.items())
    return harmless(f"of the variance that is stated: {shares}; steps, tensors and values have nothing in common")
