"""Two candidate updates of one party, one exact sum: the likelihood-ratio game, with and without noise.

The server knows everybody else's update, and for one party two candidates that differ by one record; it looks at the sum of one
round and says which of the two is in it.  The sum is that of `securefl.encode`, which every protocol gives exactly.

What it does not show: what many rounds give away together; the canaries do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from protocols.rand import Replay
from securefl.audit.measured.epsilon import two_worlds
from securefl.audit.measured.gradients import FAR
from securefl.audit.measured.probe import released
from securefl.audit.measured.registry import RECORDS, Setting, compared, measure
from securefl.audit.verdict import Verdict
from securefl.encode import Plan, decode, encode

FEATURES, ROWS, PARTIES = 8, 20, 4


def opened(setting: Setting, candidate: int, run: int) -> NDArray[np.float64]:
    """What one round opens of that candidate in that run, in clips: the mean update over all parties, others' parts subtracted.

    Args:
        setting: the mechanism.
        candidate: 1 with the record, 0 without it.
        run: number of the run, from which its randomness follows.
    """
    rows = np.zeros((ROWS, FEATURES), np.float32)
    rows[:, 1:] = (setting.rand("game").words("rows", ROWS * (FEATURES - 1)) >> np.uint64(63)).reshape(ROWS, -1)
    if candidate:
        rows[0, 0] = FAR * setting.job.privacy.clip
    knobs = setting.job.privacy
    label = f"game {candidate} {run}"
    update = released(setting, rows, steps_of(setting), label=label, rows=ROWS).sum(axis=0) / ROWS
    plan = Plan(PARTIES, (FEATURES,), knobs.update_clip, knobs.w_max, (), knobs.precision)
    others = [np.zeros(FEATURES) for _ in range(PARTIES - 1)]
    parts = [encode(plan, [x], [1], {}, Replay(f"{setting.seed} {label} {u}")()).vector for u, x in enumerate([update, *others])]
    mean = decode(plan, np.sum(parts, axis=0), PARTIES).updates[0]
    return np.zeros(FEATURES) if mean is None else mean * PARTIES * ROWS / knobs.clip


def steps_of(setting: Setting) -> int:
    """Steps of a round."""
    return setting.few(setting.job.privacy.local_steps, 5, 20)


@measure(
    "epsilon-worlds",
    10,
    "which of two updates is in one exact sum",
    how="likelihood ratio, N runs of each world, Clopper–Pearson bounds; a sound mechanism at its very ε is refuted with 5 %",
    on=RECORDS,
)
def game(setting: Setting) -> Verdict:
    """Runs with and without one record, told apart by the coordinate in which their updates differ."""
    runs = 200 if setting.quick else 2000
    score = [[float(opened(setting, candidate, run)[0]) for run in range(runs)] for candidate in (0, 1)]
    steps = steps_of(setting)
    line = steps * setting.job.privacy.sample_rate / 2  # halfway between the two means
    false, hits = (sum(value > line for value in values) for values in score)
    measured = two_worlds(hits, false, runs, setting.delta)
    claimed = setting.epsilon_of(setting.noise_multiplier, steps) if setting.private else setting.claimed
    what = f"told in {hits} of {runs} runs, {false} false alarms" + (", in one round" if setting.private else "")
    return compared("epsilon-worlds", setting, claimed, measured, what)
