"""Noise that a trusted server adds: how large it is, and what the server sees without it.

Sources: χ² and correlation as in `securefl.audit.measured.inside`; the game as in `securefl.audit.measured.apart`.

What it does not show: anything against the server, which is trusted: ε is that of the model alone.
"""

from __future__ import annotations

import numpy as np

from securefl.audit.measured.epsilon import two_worlds
from securefl.audit.measured.inside import amiss
from securefl.audit.measured.registry import Setting, flagged, measure
from securefl.audit.measured.summed import FALSE_ALARM, Whole, summed
from securefl.audit.verdict import Verdict, harmless, stated
from securefl.ledger import EXACT, opened_in_training
from securefl.privacy.record import Central

ONLY = ("central",)
RESOLUTION = 1e4
"""Steps of a standard deviation in which noise is looked at."""


@measure(
    "central-variance",
    10,
    "variance of the noise that the server adds to sums of zero, with 0, 1 and the tolerated number of parties gone",
    how="χ² against the σ that the job's ε asks for, both ways, for all values, each coordinate and each step; correlation between "
    f"steps and values; wrong with {2 * FALSE_ALARM:g} for each number gone",
    on=ONLY,
)
def variance(setting: Setting) -> Verdict:
    """Noise of the server that is smaller than the σ of its account, or that repeats."""
    made, told = summed(setting), list[str]()
    moved = made.bounds[0] * made.plan.granularity
    std, rounds = setting.noise_multiplier * moved, made.values(20_000 if setting.quick else 400_000)
    for survivors in made.survivors:
        occasions = [made.occasion(f"server {survivors}", number) for number in range(rounds)]
        nothing: Whole = np.zeros(made.encoding.size, np.int64)
        noise = np.array([made.decoded(nothing, survivors, one) for one in occasions])
        missing = made.encoding.parties - survivors
        wrong = amiss(np.rint(noise / std * RESOLUTION).astype(np.int64), RESOLUTION**2)
        if wrong:
            return flagged("central-variance", f"with {missing} of {made.encoding.parties} parties gone, {wrong}")
        told.append(f"{float((noise**2).mean()) / std**2:.3f} with {missing} gone")
    return harmless(f"of the variance that is promised: {', '.join(told)}; {noise.size} values each")


@measure(
    "central-trust",
    18,
    "what the server opens before it adds noise, and whether a run says so",
    how="whether one record is in the exact sum of a step, told by the server; never wrong",
    on=ONLY,
)
def trust(setting: Setting) -> Verdict:
    """The server sees exact sums: stated, where the run and its ledger state it."""
    made = summed(setting)
    encoding = made.encoding
    if not isinstance(encoding, Central) or "trusted" not in encoding.forecast():
        return flagged("central-trust", "the server opens exact sums, and no line of a run says that it is trusted")
    events = opened_in_training(1, mechanism=setting.name, sums=[])
    if not any(one.coverage == EXACT and "number of parties" not in one.what for one in events):
        return flagged("central-trust", "the server opens exact sums, and the ledger lists none")
    hits, false = 0, 0
    for number in range(50):
        occasion, (record, _) = made.occasion("trust", number), made.direction(number)
        others = range(2, made.encoding.parties + 1)
        rest = [made.sent(occasion, u) for u in others]
        worlds = [made.total([made.sent(occasion, 1, x), *rest]) for x in (record, None)]
        hits, false = hits + bool(worlds[0].any()), false + bool(worlds[1].any())
    measured = two_worlds(hits, false, 50, setting.delta)
    return stated(
        f"the server opens the exact sum of every step and is trusted with it: it tells one record in {hits} of 50 sums, with "
        f"{false} false alarms (ε ≥ {measured.lower:.2f}, all that 50 show); ε is that of the model, for everybody but the server"
    )
