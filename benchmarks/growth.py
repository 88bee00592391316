"""What one party of a secure sum pays as the cohort grows, and the picture of it in docs/performance.md.

    taskset -c 0 python benchmarks/growth.py docs/performance-growth.svg [--most 2048]

For each n, a whole sum over the sparse graph (10 % corrupt, 10 % dropouts, σ = 40, 1000 values): the neighbours k, and the CPU
seconds of five parties that do all of their own work, by step; the others share theirs.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Annotated

import matplotlib as mpl
import typer
from rounds import measure

from protocols.secagg_parameters import Parameters

mpl.use("svg")
from matplotlib import pyplot as plt

SIZE = 1000


def main(
    picture: Annotated[Path, typer.Argument(help="The SVG to write.")],
    most: Annotated[int, typer.Option(help="Largest cohort, a power of two.", min=128)] = 2048,
) -> None:
    """Measure cohorts of 64, 128, … parties."""
    cohorts, degrees, seconds, masking = list[int](), list[int](), list[float](), list[float]()
    n = 128
    while n <= most:
        p = Parameters.sparse(n, SIZE, 32767, corrupt=n // 10, dropouts=n // 10, security=40)
        out = measure("secagg+", p, dropout=0.1, alone=range(2, 7))
        by_step = {step: median(values) for step, values in out.client_s.items()}
        cohorts.append(n)
        degrees.append(p.graph.degree)  # type: ignore[union-attr]
        seconds.append(sum(by_step.values()))
        masking.append(by_step["mask"])
        shown = ", ".join(f"{step} {value * 1e3:.1f}" for step, value in by_step.items())
        print(f"n = {n}: k = {degrees[-1]}, {seconds[-1] * 1e3:.0f} ms a party ({shown} ms)")
        n *= 2
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(cohorts, degrees, "o-")
    left.set(xscale="log", xlabel="parties n", ylabel="neighbours k", ylim=(0, None), title="Neighbours of a party")
    right.plot(cohorts, [1e3 * value for value in seconds], "o-", label="all steps")
    right.plot(cohorts, [1e3 * value for value in masking], "o-", label="masking")
    right.set(xscale="log", xlabel="parties n", ylabel="CPU ms of a party", ylim=(0, None), title="Cost of a party, d = 1000")
    right.legend()
    for axes in (left, right):
        axes.set_xticks(cohorts, [str(one) for one in cohorts])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    typer.run(main)
