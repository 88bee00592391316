"""LightSecAgg in figures: recovery with and without dropouts, bytes of the shares, encoding and decoding.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/lightsecagg.py [--clients 100] [--dim 1000000] [--peers DIR] [--json]

Recovery is measured in a server's session that waits for answers: all that it does from the first byte of the first answer to the
sum, and the step alone, at the same U.  Encoding is the drawing of mask and noise and the product that codes them; decoding the
coefficients and the product that opens the sum of the masks.  With ``--peers``, whose ``DIR/fedml/bin/python`` has FedML
(`benchmarks/peers/fedml_masking.py`), both are set in proportion to FedML's.  CPU seconds on one core, medians.
"""

from __future__ import annotations

import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer
from against import ask, interpreter

from protocols import lightsecagg, sums
from protocols.bulk import Bulk
from protocols.lightsecagg_parameters import LightParameters, layouts
from protocols.lightsecagg_recovery import answer_statement, interpolate
from protocols.lightsecagg_types import Answer, Opened, Summing
from protocols.rand import fresh
from protocols.ring import Accumulator
from protocols.session import SERVER, Session, client
from protocols.suite import Occasion
from protocols.vector import Vector, with_count
from protocols.wire import Limits, encode

MAX_ABS = 32767
SCHEME = sums.scheme("lightsecagg")


def timed(act: Callable[[], Any], reps: int) -> float:
    """Median CPU seconds."""
    act()
    return median(seconds(act) for _ in range(reps))


def seconds(act: Callable[[], Any]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


class Recovery:
    """A server that waits for the answers of all parties but the lost; every survivor's input is zero but the first's."""

    def __init__(self, p: LightParameters, lost: int) -> None:
        roster, parties = sums.enrol(p.parties)
        self.p, self.terms, self.x = (
            p,
            SCHEME.terms(Occasion("benchmark", 0), roster, p),
            np.arange(p.size, dtype=np.int64) % MAX_ABS,
        )
        self.u3, L = tuple(range(lost + 1, p.parties + 1)), bytes(32)
        self.limits = Limits(p.parties, layouts(p))
        z, shares = lightsecagg.draw_mask(p, roster.indexes, fresh())
        self.y = with_count(Vector(self.x), p)
        p.ring.add_into(self.y, z)
        count = np.zeros_like(self.y)
        count[-1] = len(self.u3) - 1
        p.ring.add_into(self.y, count)
        self.answers = dict[int, list[bytes]]()
        for party in parties[lost:]:
            bulk = Bulk.of(layouts(p)["answer"], shares[party.index - 1])
            statement = answer_statement(self.terms, party.index, L, self.u3, bulk.digest)
            message = Answer(bulk, party.identity.sign(statement))
            self.answers[party.index] = [bytes(chunk) for chunk in encode(message, 0, self.limits)]

    def run(self) -> tuple[float, float]:
        """CPU seconds from the first answer to the sum, and those of the step alone."""
        total = Accumulator(self.p.ring, self.p.size + 1)
        total.add(self.y)
        opened = Opened(Summing(self.terms, bytes(32), self.u3, {}, total), self.u3)
        server = Session(SCHEME.flow, SERVER, {"client": self.u3}, [opened], self.limits)
        feeds = [
            seconds(lambda u=u, chunk=chunk: server.feed(client(u), chunk))  # type: ignore[misc]
            for u, chunks in self.answers.items()
            for chunk in chunks
        ]
        if server.ended is not None or not np.array_equal(server.outputs[0].values, self.x):
            raise SystemExit("the sum is wrong")
        return sum(feeds), feeds[-1]


def recovery(clients: int, dim: int, reps: int) -> dict[str, Any]:
    """Recovery without dropouts and with 30 %, at the same U; takes alternate."""
    p = LightParameters.of(clients, dim, MAX_ABS, dropouts=int(0.3 * clients))
    runs = [Recovery(p, 0), Recovery(p, p.dropouts)]
    takes = [[run.run() for run in runs] for _ in range(reps + 1)][1:]
    (all_, step), (all_lost, step_lost) = ([median(take[i][j] for take in takes) for j in range(2)] for i in range(2))
    return {
        "U": p.threshold,
        "T": p.noise,
        "recovery_s": [all_, all_lost],
        "recovery_ratio": all_ / all_lost,
        "step_s": [step, step_lost],
        "step_ratio": step / step_lost,
    }


def coding(clients: int, dim: int, reps: int) -> dict[str, Any]:
    """Encoding, decoding and the bytes of the shares at 10 % dropout and T = n/2."""
    p = LightParameters.of(clients, dim, MAX_ABS, dropouts=int(0.1 * clients), noise=clients // 2)
    everybody = list(range(1, clients + 1))
    _, shares = lightsecagg.draw_mask(p, everybody, fresh())
    helpers = {u: shares[u - 1] for u in everybody[-p.threshold :]}
    upload = layouts(p)["boxes"].nbytes * 8 / p.ring.bits
    return {
        "U": p.threshold,
        "T": p.noise,
        "field_bits": p.ring.bits,
        "encode_s": timed(lambda: lightsecagg.draw_mask(p, everybody, fresh()), reps),
        "decode_s": timed(lambda: interpolate(p, helpers, {}, fresh()), reps),
        "upload_bytes": layouts(p)["boxes"].nbytes,
        "upload_values": upload,
        "upload_ratio": upload / (dim * clients / p.blocks),
    }


def main(
    clients: Annotated[int, typer.Option(help="Invited parties.", min=10)] = 100,
    dim: Annotated[int, typer.Option(help="Values of a vector.", min=100)] = 1_000_000,
    reps: Annotated[int, typer.Option(help="Takes; medians are shown.", min=1)] = 7,
    peers: Annotated[
        Path | None, typer.Option(help="Folder whose fedml/bin/python has FedML.", exists=True, file_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure recovery, encoding and decoding in one process."""
    python = interpreter(peers, "fedml")
    if peers is not None and python is None:
        raise typer.BadParameter(f"{peers} has no fedml/bin/python")
    rows = {"recovery": recovery(clients, dim, reps), "coding": coding(clients, dim, reps)}
    if python is not None:
        rows["peer"] = row = ask(python, "fedml_masking.py", clients=clients, dim=dim, dropout=0.1, reps=min(reps, 3))
        rows["coding"] |= {f"{key}_times_faster": row[f"{key}_s"] / rows["coding"][f"{key}_s"] for key in ("encode", "decode")}
    if as_json:
        print(json.dumps({"bench": "lightsecagg", "clients": clients, "dim": dim, **rows}))
        return
    for name, values in rows.items():
        for key, value in values.items():
            text = (
                ", ".join(f"{x:.4f}" for x in value)
                if isinstance(value, list)
                else f"{value:.4g}"
                if isinstance(value, float)
                else value
            )
            print(f"{name} {key}: {text}")


if __name__ == "__main__":
    typer.run(main)
