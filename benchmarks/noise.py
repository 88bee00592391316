"""CPU seconds for a million draws of integer noise, beside the keystream of the random words that they take.

taskset -c 0 python benchmarks/noise.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
from numpy.typing import NDArray

from protocols.rand import fresh
from securefl.privacy.laws import DiscreteGaussian, Poisson
from securefl.privacy.noise_plan import Cohort, calibrate_distributed
from securefl.privacy.noised import contribution, mean
from securefl.privacy.rounding import rotate
from securefl.privacy.samplers import discrete_gaussian, skellam, staircase

SIZE, REPEATS = 1_000_000, 5


def cpu(work: Callable[[], object]) -> float:
    """Median over `REPEATS` of the CPU seconds of ``work``."""
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return median(times)


def keystream(words: int) -> None:
    """So many random words, written into one small buffer again and again."""
    stream, buffer = fresh().stream("x"), np.empty(1 << 16, dtype=np.uint64)
    for _ in range(words >> 16):
        stream.fill(buffer)


def main() -> None:
    print(f"{SIZE:,} draws, CPU seconds (median of {REPEATS}); two words a draw alone; the table, once for a variance")
    samplers: dict[str, Callable[..., NDArray[np.int64]]] = {"skellam": skellam, "discrete gaussian": discrete_gaussian}
    for name, sampler in samplers.items():
        for exponent in (0, 10, 20, 30, 40):
            variance = 2.0**exponent
            law = Poisson(variance / 2) if name == "skellam" else DiscreteGaussian(variance)
            staircase.cache_clear()
            table = cpu(lambda law=law: staircase.__wrapped__(law))
            staircase(law)
            drawing = cpu(lambda s=sampler, v=variance: s(fresh(), "x", SIZE, v))
            words = 2 * SIZE * (2 if name == "skellam" else 1)
            stream = cpu(lambda words=words: keystream(words))
            print(f"{name:18} variance 2^{exponent:<2}  {drawing:.3f}  {stream:.3f}  {table:.3f}")
    plan = calibrate_distributed(epsilon=3.0, delta=1e-5, cohort=Cohort.of(100), rounds=20, size=SIZE, clip=1.0)
    x, signs = np.full(SIZE, 1e-3), fresh().seed("signs")
    print(f"a contribution of {SIZE:,} values, skellam  {cpu(lambda: contribution(plan, x, signs, fresh())):.3f}")
    print(f"its rotation alone  {cpu(lambda: rotate(x, signs)):.3f}")
    total = np.ones(plan.dimension, dtype=np.int64)
    print(f"the mean out of the sum  {cpu(lambda: mean(plan, total, 100, signs)):.3f}")


if __name__ == "__main__":
    main()
