"""What an exact sum gives away, and what one party can do to it: rows 10 and 16.

Both are about the sum itself, the same under every protocol, so they are played on the numbers that a protocol is given and gives.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Abort, Misuse
from protocols.rand import Rand, Replay
from protocols.vector import Vector, with_count
from securefl.audit.measured.epsilon import two_worlds
from securefl.audit.registry import attack
from securefl.audit.target import Target
from securefl.audit.verdict import Verdict, broken, stated
from securefl.encode import Plan, decode, encode

TRIALS = 400
"""Runs in each of the two worlds of the membership game."""


@attack(
    10,
    "which of two updates was in the sum",
    lie="the server knows two candidate updates of one party and the spread of the others', and compares likelihoods",
    notice="nobody can: an exact sum is not private by itself; only noise is",
)
def membership(target: Target) -> Verdict:
    """A likelihood-ratio test on exact sums, and the largest ε that it refutes; `securefl.audit.measured` plays it with noise."""
    n, d = target.parties, 64
    hits, false = _game(n, d, Replay("membership")())
    bound = two_worlds(hits, false, TRIALS)
    told = f"told apart in {hits}/{TRIALS} runs with {false} false alarms: no ε below {bound.lower:.1f} holds without noise"
    return replace(stated(f"{told} ({TRIALS} runs show at most {bound.cap:.1f})"), measured=bound)


def _game(n: int, d: int, rand: Rand) -> tuple[int, int]:
    """Hits and false alarms of the test at the middle, over sums of n parties of d coordinates."""
    words = rand.words("updates", 2 * TRIALS * n * d).reshape(2, TRIALS, n, d)
    updates = (words >> np.uint64(11)).astype(np.float64) / 2**53 * 2 - 1  # uniform on [−1, 1]
    one, two = updates[0, 0, 0], updates[1, 0, 0]
    others = updates[:, :, 1:].sum(axis=2)
    score = ((others[0] + one) @ (one - two), (others[1] + two) @ (one - two))
    middle = (one + two) @ (one - two) / 2
    return int((score[0] > middle).sum()), int((score[1] > middle).sum())


@attack(
    16,
    "an update × 100, or × −100",
    lie="one party scales its update a hundredfold, or claims a weight beyond the plan",
    notice="clip and largest weight, in the party's own encoding; who writes its own gets at most the bound of a coordinate",
)
def poisoning(target: Target) -> Verdict:
    """How far one party pulls the mean, against the least that clipping must hold."""
    n, d, p = target.parties, 4096, target.federation().terms.parameters
    plan = Plan(n, (d,), clip=1.0, w_max=10)
    rand = Replay("poison")()
    honest = [_unit(rand.child(f"{u}").words("update", d)) / 2 for u in range(n)]
    mean = _mean(plan, honest, 10)
    try:
        moved = max(float(np.linalg.norm(_mean(plan, [*honest[:-1], honest[-1] * times], 1000) - mean)) for times in (100, -100))
    except Abort as error:
        return broken(f"an update × 100 is not clipped by who sends it, and ends the round of all: {error.check}")
    most = 2.0 / n + math.sqrt(d) * plan.step  # one party's share twice, and a rounding step for each value
    if moved > most:
        return broken(f"one update × 100 moved the mean by {moved:.3g}, and a clipped one moves it by at most {most:.3g}")
    try:
        with_count(Vector(np.full(p.size, p.max_abs + 1)), p)
    except Misuse:
        bound = math.sqrt(d)
        return stated(
            f"clipped, it moves the mean by {moved:.2g} of at most {2 / n:.2g}; a party that skips its own clipping has every "
            f"coordinate up to its bound, {bound:.1f} clips in all: within the range nobody sees it"
        )
    return broken("a coordinate past its bound was taken")


def _unit(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    values = (words >> np.uint64(11)).astype(np.float64) / 2**53 - 0.5
    return values / float(np.linalg.norm(values))


def _mean(plan: Plan, updates: list[NDArray[np.float64]], last: int) -> NDArray[np.float64]:
    """The weighted mean that comes out; the last party claims a weight of its own."""
    weights = [10] * (len(updates) - 1) + [last]
    parts = [
        encode(plan, [x], [w], {}, Replay(f"round {u}")()).vector for u, (x, w) in enumerate(zip(updates, weights, strict=True))
    ]
    mean = decode(plan, np.sum(parts, axis=0), len(updates)).updates[0]
    return np.zeros(plan.blocks[0]) if mean is None else mean
