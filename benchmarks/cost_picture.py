"""Cost of every secure protocol against n, d and dropouts: measured whole sums, and the picture of them in docs/protocols.md.

    taskset -c 0 python benchmarks/cost_picture.py docs/protocols-cost.svg

Three columns, each with one thing varied about a middle case; three rows: CPU seconds of a party over all steps, CPU seconds of the
server, bytes that a party sends.  Three parties do all of their own work, the others share their public work; values have 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import matplotlib as mpl
import typer
from rounds import measure

from protocols import sums
from protocols.he_parameters import HeParameters
from protocols.suite import SumParameters

mpl.use("svg")
from matplotlib import pyplot as plt

PROTOCOLS = ("secagg", "secagg+", "kahe", "lightsecagg", "bfv")
MIDDLE = {"parties n": 32, "values d": 100_000, "dropouts": 0.1}
VARIED: dict[str, tuple[float, ...]] = {
    "parties n": (8, 16, 32, 64, 128),
    "values d": (1000, 10_000, 100_000, 1_000_000),
    "dropouts": (0.0, 0.1, 0.2, 0.3),
}
ROWS = ("a party, CPU ms", "the server, CPU ms", "a party sends, kB")


def parameters(name: str, n: int, d: int) -> SumParameters:
    """Those that a run takes; with as many corrupt parties as `secagg+` needs fewer than all others as neighbours for: a tenth."""
    if name == "bfv":
        return HeParameters.bfv(n, d, 32767)
    return sums.scheme(name).parameters(n, d, 32767, corrupt=n // 10)


def point(name: str, n: int, d: int, dropout: float) -> tuple[float, float, float]:
    """One measured sum, in the units of `ROWS`."""
    p = parameters(name, n, d)
    out = measure(name, p, dropout=dropout, alone=range(2, 5))
    kinds = {kind.__name__ for kind in sums.scheme(name).flow.messages("server")}
    sent = sum(size / count for kind, (count, size) in out.sent.items() if kind in kinds)
    party = sum(median(values) for values in out.client_s.values())
    return 1e3 * party, 1e3 * sum(out.server_s.values()), sent / 1e3


def line(name: str, axis: str) -> Iterator[tuple[float, tuple[float, float, float]]]:
    """A protocol along one axis; what it cannot do there is left out."""
    for value in VARIED[axis]:
        case: dict[str, Any] = {**MIDDLE, axis: value}
        n, d, dropout = int(case["parties n"]), int(case["values d"]), float(case["dropouts"])
        if name == "secagg+" and dropout > 0.1:  # its graph stands a tenth
            continue
        yield value, point(name, n, d, dropout)


def main(picture: Annotated[Path, typer.Argument(help="The SVG to write.")]) -> None:
    """Measure and draw."""
    figure, grid = plt.subplots(3, 3, figsize=(10.5, 9), layout="constrained")
    for column, axis in enumerate(VARIED):
        for name in PROTOCOLS:
            found = list(line(name, axis))
            print(axis, name, [(value, [float(f"{x:.3g}") for x in cost]) for value, cost in found], flush=True)
            for row, what in enumerate(ROWS):
                axes = grid[row][column]
                axes.plot([value for value, _ in found], [cost[row] for _, cost in found], "o-", markersize=3, label=name)
                axes.set(yscale="log", ylabel=what if column == 0 else None)
                if axis != "dropouts":
                    axes.set_xscale("log")
                axes.grid(alpha=0.3)
        rest = ", ".join(f"{key.split()[-1]} = {value}" for key, value in MIDDLE.items() if key != axis)
        grid[0][column].set_title(rest, fontsize=9)
        grid[2][column].set_xlabel(axis)
    grid[0][0].legend(fontsize=7)
    figure.savefig(picture, metadata={"Date": None})


if __name__ == "__main__":
    typer.run(main)
