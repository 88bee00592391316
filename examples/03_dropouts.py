"""Parties vanish at every stage: the server opens the sum over those whose vector arrived, or the session ends in a typed abort.

Seven parties, threshold 5.  Who vanishes before "Masked" is not in the sum; who vanishes later is, because the others help to
open its masks.  Three dropouts are one too many, at any stage.
"""

import numpy as np

from protocols import Abort, secure_sum

PARTIES = 7
STAGES = ("Advert", "Boxes", "Masked", "Agree", "Openings")
inputs = [np.array([u, 10 * u, 2**u]) for u in range(1, PARTIES + 1)]
everybody = sum(inputs)


def attempt(stage: str, gone: tuple[int, ...]) -> str:
    try:
        total = secure_sum(inputs, max_abs=1000, dropouts=dict.fromkeys(gone, stage))
    except Abort as error:
        return str(error)
    without = everybody - sum(inputs[u - 1] for u in gone)
    who = "all" if np.array_equal(total.values, everybody) else "the rest" if np.array_equal(total.values, without) else "WRONG"
    return f"sum over {total.contributors} ({who}): {total.values.tolist()}"


print(f"{'vanish before':14} {'who':9} outcome")
for stage in STAGES:
    for gone in ((3, 6), (3, 5, 6)):
        print(f"{stage:14} {', '.join(map(str, gone)):9} {attempt(stage, gone)}")
