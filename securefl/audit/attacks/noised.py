"""Noise inside the sum under a protocol: row 35.  `securefl.audit.measured` looks at the noise itself, this at who leaves it out.

What it does not show: noise sized by another plan than that of `securefl.privacy.noise_plan` for the protocol's own threshold.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import gammaincinv

from protocols.rand import Replay
from protocols.session import client
from protocols.simulate import vanish
from protocols.suite import Occasion
from securefl.audit.federation import federation, run
from securefl.audit.registry import UPLOAD, attack
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict, broken, combine, harmless, inapplicable
from securefl.errors import UserError
from securefl.privacy import noise_plan
from securefl.privacy.divergence import SkellamEvent, epsilon_of_events
from securefl.privacy.party import PartyLevel

SIZE, EPSILON = 2048, 3.0
"""Values of the sum, and ε that its noise is sized for."""
FALSE_ALARM = 1e-9
"""Probability with which noise that suffices is called too small."""


@attack(
    35,
    "corrupt parties leave out their noise, and an exact value beside a noised sum",
    lie="the fewest survive, as many of them as may be corrupt send no noise; a party hands an exact value to a noised sum",
    notice="nobody can notice missing noise: that of the honest suffices; the exact value is refused by the party itself",
    strikes=[UPLOAD],
)
def left_out(target: Target) -> Verdict:
    """One sum of zeros through the protocol; the ε of the noise that is found in it."""
    scheme, n = target.scheme, target.parties
    if not (scheme.noisy and scheme.hides):
        return inapplicable("its sums carry no noise")
    given = None if target.parameters is None or target.shape == "secagg+" else target.parameters.threshold
    of_sum = scheme.parameters(n, 1, 1, threshold=given)
    t, corrupt = of_sum.threshold, of_sum.corrupt
    plan = noise_plan.calibrate_distributed(
        epsilon=EPSILON, delta=1e-5, cohort=noise_plan.Cohort(n, t, corrupt), rounds=1, size=SIZE, clip=1.0
    )
    encoding, occasion = PartyLevel(plan, (SIZE,)), Occasion("noised", 0)
    parameters = scheme.noised(n, encoding.size, encoding.limit, tail=encoding.tail, bits=encoding.bits, threshold=given)
    fed = federation(n, encoding.size, parameters=parameters, scheme=scheme, policy=replace(target.own_policy, min_cohort=2))
    zeros = np.zeros(SIZE)
    for u, x in fed.vectors.items():
        x[:] = encoding.encode([zeros], [1], {}, occasion, Replay(f"noised {u}")()).vector if u > corrupt else 0
    stage = target.uploads[0].__name__
    outcome = run(fed, network=vanish({client(u): stage for u in range(t + 1, n + 1)}))
    if outcome.reason is not None or not outcome.outputs:
        return broken(f"unavailable: a noised sum over the fewest is not opened: {outcome.reason}")
    values = outcome.outputs[0].values
    found = float((values.astype(np.float64) ** 2).mean())
    most = found / (2 * float(gammaincinv(SIZE / 2, FALSE_ALARM)) / SIZE)
    _, delta2, delta1 = plan.bounds
    least = epsilon_of_events([SkellamEvent(most, delta1, delta2)], plan.delta)
    told = f"{corrupt} of {t} survivors send no noise: what is left is that of an ε of {least:.2f} at least"
    missing = broken(f"{told}, {EPSILON:g} was promised") if least > EPSILON else harmless(f"{told}, within {EPSILON:g}")
    try:
        encoding.encode([zeros], [1], {"rows": [1.0]}, occasion, Replay("noised sums")())
        beside = broken("an exact value is taken along with a noised update")
    except UserError as error:
        beside = Verdict("refused", str(error), who="the party", check="encoding")
    return combine([("noise left out", missing), ("an exact value", beside)])
