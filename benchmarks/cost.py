"""Whole sums under masks and under key-additive masking: what ``--protocol auto`` goes by, and is held against.

    taskset -c 0 python benchmarks/cost.py [--write] [--takes N]
    python benchmarks/cost.py --table

A line for every sum: what the vectors cost a party and the server, measured beside the formula of `protocols.cost`; then the rates
that fit best, to be put into `protocols.cost.RATES` by hand.  ``--write`` records the sums in tests/protocols/cost.json;
``--table`` prints what is recorded there as docs/protocols.md has it.

CPU seconds of one core, medians.  Only work on whole vectors is counted; the rounds of the keys are the same in both.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import typer
from rounds import measure
from scipy.optimize import nnls

from protocols import cost, secagg
from protocols.bulk import Bulk
from protocols.kahe_parameters import KaheParameters
from protocols.primitives import rlwe
from protocols.secagg_parameters import Parameters
from protocols.suite import SumParameters

SIZES = {5: (1000, 100_000, 1_000_000), 20: (1000, 20_000, 200_000, 1_000_000), 100: (1000, 10_000, 50_000, 200_000)}
MOST, DROPOUTS = 32767, (0.0, 0.1, 0.3)
FILE = Path(__file__).parents[1] / "tests" / "protocols" / "cost.json"


class Clock:
    """CPU seconds within the functions that work on whole vectors, however they are called."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()

    def timed(self, name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its seconds added up under a name."""

        def run(*args: Any, **more: Any) -> Any:
            began = time.process_time()
            try:
                return fn(*args, **more)
            finally:
                self.spent[name] += time.process_time() - began

        return run


def vectors(name: str, p: SumParameters, dropout: float) -> dict[str, float]:
    """One sum: what its vectors cost a party, as a mean over all, and the server; keys, shares and boxes are left out.

    A party's are those of writing, packing and hashing; the server's those of taking messages in, with the check of one signature
    each, of removing masks, and of opening ciphertexts.
    """
    clock = Clock()
    with (
        patch.object(Bulk, "by", clock.timed("party", Bulk.by)),
        patch.object(secagg, "apply_masks", clock.timed("masks", secagg.apply_masks)),
        patch.object(rlwe, "open_sum", clock.timed("ciphertexts", rlwe.open_sum)),
    ):
        out = measure(name, p, dropout=dropout, alone=())
    if not out.exact:
        raise AssertionError("the sum is wrong")
    server = out.server_s["survey"] + clock.spent["masks"] + clock.spent["ciphertexts"]
    return {"client_s": clock.spent["party"] / p.parties, "server_s": server, "upload": out.upload}


def sums_of(n: int, sizes: Sequence[int], dropout: float, takes: int) -> Iterator[dict[str, Any]]:
    """Sums under both protocols, by turns."""
    for d in sizes:
        made: dict[str, Any] = {"secagg": Parameters.cheapest(n, d, MOST), "kahe": KaheParameters.of(n, d, MOST)}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in made}
        for _ in range(takes):
            for name, p in made.items():
                found[name].append(vectors(name, p, dropout))
        both = {name: {what: round(median(one[what] for one in some), 5) for what in some[0]} for name, some in found.items()}
        yield {"parties": n, "size": d, "max_abs": MOST, "dropout": dropout, **both}


def modelled(row: dict[str, Any]) -> dict[str, cost.Cost]:
    """The formula's amounts for one measured sum."""
    n, d, dropout = row["parties"], row["size"], round(row["dropout"] * row["parties"]) / row["parties"]
    return {
        "secagg": cost.masked(Parameters.cheapest(n, d, MOST), dropout),
        "kahe": cost.enciphered(KaheParameters.of(n, d, MOST), dropout),
    }


def fitted(rows: Sequence[dict[str, Any]]) -> cost.Work:
    """The rates with which the formula comes closest to the measured seconds, starting from those that it has."""
    amounts, seconds = list[tuple[float, ...]](), list[float]()
    for row in rows:
        for name, known in modelled(row).items():
            for work, spent in ((known.client, row[name]["client_s"]), (known.server, row[name]["server_s"])):
                weight = 1 / (abs(spent) + 0.01) ** 0.5
                amounts.append(tuple(weight * amount for amount in astuple(work)))
                seconds.append(weight * spent)
    known = np.array(astuple(cost.RATES))  # what the sums do not tell stays near what it was
    near = 0.1 * np.eye(len(known))
    found = nnls(np.vstack([np.array(amounts) * known, near]), np.concatenate([seconds, near.sum(axis=1)]))[0]
    return cost.Work(*(found * known).tolist())


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f}" if seconds >= 0.01 else f"{1000 * seconds:.1f}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Recorded sums of 20 parties and more, and of 10 000 values and more: measured, and by the formula in brackets."""
    lines = [
        "| n | values | dropouts | party, ms: masks | keys | server, ms: masks | keys | sent, MB: masks | keys | `auto` takes |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in [row for row in rows if row["parties"] >= 20 and row["size"] >= 10_000]:
        model, cells = modelled(row), list[str]()
        for what in ("client", "server"):
            for name in ("secagg", "kahe"):
                known = getattr(model[name], what).seconds(cost.RATES)
                cells.append(f"{_ms(row[name][f'{what}_s'])} ({_ms(known)})")
        cells += [f"{row[name]['upload'] / 1e6:.3g}" for name in ("secagg", "kahe")]
        lost = round(row["dropout"] * row["parties"]) / row["parties"]
        taken = cost.choose(row["parties"], row["size"], MOST, dropout=lost).name
        lines.append(f"| {row['parties']} | {row['size']} | {lost:.0%} | {' | '.join(cells)} | `{taken}` |")
    return "\n".join(lines)


def main(
    write: Annotated[bool, typer.Option("--write", help="Record the sums for the test.")] = False,
    takes: Annotated[int, typer.Option(help="Takes of each sum.", min=1)] = 3,
    recorded: Annotated[bool, typer.Option("--table", help="Measure nothing; print what is recorded.")] = False,
) -> None:
    """Measure."""
    if recorded:
        print(table(json.loads(FILE.read_text(encoding="utf-8"))))
        return
    rows = list[dict[str, Any]]()
    for n, sizes in SIZES.items():
        for dropout in [share for share in DROPOUTS if round(share * n) <= n - Parameters.of(n, 1, 1).threshold]:
            for row in sums_of(n, sizes, dropout, takes):
                rows.append(row)
                model = {
                    name: {"client_s": round(c.client.seconds(cost.RATES), 5), "server_s": round(c.server.seconds(cost.RATES), 5)}
                    for name, c in modelled(row).items()
                }
                print(json.dumps({**row, "model": model}), flush=True)
    print(json.dumps({name: float(f"{rate:.2g}") for name, rate in asdict(fitted(rows)).items()}))
    if write:
        FILE.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
