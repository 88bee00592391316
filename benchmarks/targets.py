"""What the protocols are to reach, measured now: a row for each target with its value, its bound, and whether it holds.

    taskset -c 0 python benchmarks/targets.py [--only masks --only memory] [--json] [--peers DIR]

Seconds are CPU seconds of this process, and ratios are of seconds in this process, unless a row says otherwise.  A measurement in
which a row falls short is repeated twice, and the medians count.  Exit code 1 where a row falls short.
Rows against other software need ``--peers DIR``, a folder with a virtual environment for each (docs/performance.md says how to make
them), and read "not run" where it is not there, "failed" where it does not run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated
from unittest.mock import patch

import numpy as np
import typer
from against import fedml_coding, flower_masks, flower_simulator, interpreter, nvflare_simulator, pfl_simulator
from rich.console import Console
from rich.table import Table
from rounds import PERMISSIVE, Measured, measure
from secure_sum import build, report

from protocols import simulate, sums
from protocols.secagg_parameters import Parameters
from protocols.session import SERVER, client
from protocols.suite import Occasion
from protocols.vector import Vector


@dataclass(frozen=True)
class Row:
    """One target: ``value`` is at most ``bound``, or at least where ``least``.

    A value of None was not run, or ``failed`` to; a row without a bound is a figure.
    """

    name: str
    value: float | None
    bound: float | None
    unit: str = "×"
    least: bool = False
    failed: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is reached; what was not run is not missed, what failed is."""
        if self.value is None or self.bound is None:
            return not self.failed
        return bool(self.value >= self.bound if self.least else self.value <= self.bound)  # not numpy's, which JSON lacks


def masks() -> list[Row]:
    """One round of 100 parties on a graph of 30 neighbours, beside the keystream and the additions alone."""
    p = build("secagg+", 100, 1_000_000, graph=(30, 16))
    out = report(measured := measure("secagg+", p, dropout=0.1), p)
    floor = out["floor"]
    mask = floor["mask_keystream_s"] + floor["mask_additions_s"]
    unmask = floor["unmask_keystream_s"] + floor["unmask_additions_s"]
    allowed = 1.02 * p.ring.bits * p.size / 8 + 2**16
    where = "n = 100, d = 10^6, k = 30, t = 16, 10 % dropout"
    return [
        Row(f"mask step over its floor ({where})", measured.median("mask") / mask, 1.4),
        Row(f"server's unmasking over its floor ({where})", measured.server_s["reveal"] / unmask, 1.5),
        Row("upload over 1.02 × the packed vector + 64 KiB", measured.upload / allowed, 1.0),
    ]


def memory() -> list[Row]:
    """Peak of the server's allocations in a large cohort over that in a small one; parties share their public work."""
    peaks = [
        measure("secagg+", build("secagg+", n, 1_000_000, graph=(30, 16)), memory=True, alone=()).server_peak or 0
        for n in (50, 400)
    ]
    return [Row("server's memory, n = 400 over n = 50 (d = 10^6, k = 30)", peaks[1] / peaks[0], 1.2)]


def thousand() -> list[Row]:
    """The server's CPU seconds with 1000 parties; parties share their public work, the server does its own."""
    p = build("secagg+", 1000, 100_000, corrupt=100, dropouts=300, security=40, semi_honest=True)
    rows = []
    for dropout, bound in ((0.0, 1.0), (0.3, 10.0)):
        spent = sum(measure("secagg+", p, dropout=dropout, alone=()).server_s.values())
        rows.append(Row(f"server, n = 1000, d = 10^5, {dropout:.0%} dropout, semi-honest rule", spent, bound, "s"))
    return rows


def one_process() -> list[Row]:
    """A whole sum of 1000 parties in this process, everything checked: wall time."""
    n, d = 1000, 1000
    p = Parameters.sparse(n, d, 32767, corrupt=100, dropouts=100, security=40)
    scheme = sums.scheme("secagg+")
    roster, parties = sums.enrol(n, policy=PERMISSIVE)
    terms = scheme.terms(Occasion("benchmark", 0), roster, p)
    sessions = {SERVER: sums.server_session(scheme, terms)}
    sessions |= {client(party.index): sums.client_session(scheme, party, terms) for party in parties}
    x = np.arange(d)
    network = simulate.vanish({client(u): "Masked" for u in range(5, n + 1, 10)})
    began = time.perf_counter()
    outcome = simulate.run(sessions, {client(u): [Vector(x)] for u in range(1, n + 1)}, network=network)
    spent = time.perf_counter() - began
    if outcome.abort is not None or not np.array_equal(outcome.outputs[0].values, 900 * x):
        raise AssertionError("the sum is wrong")
    return [Row("a sum of 1000 parties in one process (d = 1000, 10 % dropout), wall time", spent, 30.0, "s")]


def key_additive() -> list[Row]:
    """Key-additive masking beside masks: a party, the server's opening at several dropouts, bytes; the server of 1000 parties."""
    from cost import Clock  # noqa: PLC0415
    from kahe import measure as kahe_kernel  # noqa: PLC0415

    from protocols.kahe_parameters import KaheParameters  # noqa: PLC0415
    from protocols.primitives import negacyclic, rlwe  # noqa: PLC0415

    scheme = sums.scheme("kahe")

    def opened(p: KaheParameters, dropout: float, alone: Collection[int]) -> tuple[Measured, float]:
        """A sum, and the seconds in which the server opens its ciphertexts; the public elements are at hand."""
        clock, public = Clock(), rlwe.elements(scheme.suite(p))
        for split in p.limbs:
            for first in range(0, p.shape.elements, negacyclic.CHUNK):
                public.spectra(split, first, negacyclic.Room.of(split))
        with patch.object(rlwe, "open_sum", clock.timed("open", rlwe.open_sum)):
            return measure("kahe", p, dropout=dropout, alone=alone), clock.spent["open"]

    n, d, few = 100, 1_000_000, range(2, 12)
    masks = measure("secagg+", build("secagg+", n, d, graph=(30, 16)), dropout=0.1, alone=few)
    sparse = KaheParameters.over(build("secagg+", n, rlwe.DEGREE, max_abs=rlwe.LARGEST, graph=(30, 16)), d, 32767)  # type: ignore[arg-type]
    ours, _ = opened(sparse, 0.1, few)
    complete = KaheParameters.of(n, d, 32767)
    (whole, none_lost), (_, some_lost) = (opened(complete, share, few) for share in (0.0, 0.3))
    plain = Parameters.of(n, d, 32767).ring.bits * d / 8
    sent = {kind: size / count for kind, (count, size) in whole.sent.items()}
    up = sum(sent[kind] for kind in ("Advert", "Boxes", "Enciphered", "Agree", "Openings"))
    shares = {"corrupt": 100, "dropouts": 300, "security": 40, "semi_honest": True}
    keys = Parameters.sparse(1000, rlwe.DEGREE, rlwe.LARGEST, **shares)
    many, opening = opened(KaheParameters.over(keys, 100_000, 32767), 0.0, ())
    alone = measure("secagg+", keys, alone=())
    kernel = kahe_kernel(KaheParameters.of(n, d, 32767), 15)
    where = "n = 100, d = 10^6, k = 30"
    return [
        Row("kahe: a party's encryption over its floor (n = 100, d = 10^6)", kernel["party"] / kernel["party_floor"], 1.3),
        Row(f"kahe: party's step over that of masks ({where})", ours.median("encrypt") / masks.median("mask"), 1.2),
        Row("kahe: opening, 30 % over 0 % dropout (n = 100, d = 10^6)", some_lost / none_lost, 1.1),
        Row(
            f"kahe: opening, times faster than under masks, key sum included (10 % dropout, {where})",
            masks.server_s["reveal"] / ours.server_s["reveal"],
            8.0,
            least=True,
        ),
        Row(
            "kahe: server beside its key sum, n = 1000, d = 10^5",
            many.server_s["survey"] + opening - alone.server_s["survey"],
            0.3,
            "s",
        ),
        Row("kahe: a party's bytes, all rounds, over a packed vector under masks (n = 100, d = 10^6)", up / plain, 1.15),
    ]


def light() -> list[Row]:
    """LightSecAgg: recovery with and without dropouts, and bytes of the shares."""
    from lightsecagg import coding, recovery  # noqa: PLC0415

    found, shares = recovery(100, 1_000_000, 7), coding(100, 1_000_000, 1)
    return [
        Row("lightsecagg: recovery, 0 % over 30 % dropout, arrival of answers included (d = 10^6)", found["recovery_ratio"], 1.1),
        Row("lightsecagg: shares uploaded over d·n/(U − T) values", shares["upload_ratio"], 1.0),
    ]


def homomorphic() -> list[Row]:
    """BFV beside TenSEAL's CKKS at its common default: 10^6 values of 16 bits, 100 parties."""
    from he import LIMIT, inputs, ours, theirs  # noqa: PLC0415

    from protocols.he_parameters import HeParameters  # noqa: PLC0415

    xs = inputs(1_000_000)
    bfv, ckks = ours(HeParameters.bfv(100, 1_000_000, LIMIT), xs, 3), theirs(xs, 1)
    if not bfv["exact"]:
        raise AssertionError("the sum is wrong")
    return [
        Row("bfv: bytes a value uploaded (16 bits, 100 parties)", bfv["up_bytes_a_value"], 8.4, "B"),
        Row("bfv: client over TenSEAL's CKKS (8192, 60/40/40)", bfv["client_s"] / ckks["client_s"], 0.3),
    ]


def simulator() -> list[Row]:
    """Rounds of plain FedAvg over 50 parties beside bare loops: wall time."""
    from simulator import figures  # noqa: PLC0415  (loads torch)

    out = figures(50, 10)
    return [
        Row("plain round over the bare loop in numpy (digits, 50 parties), wall time", out["plain, numpy over bare numpy"], 2.0),
        Row("plain round over the bare loop in torch (the same), wall time", out["plain, torch over bare torch"], 1.5),
    ]


def imports() -> list[Row]:
    """Wall time of fresh interpreters."""

    def seconds(*words: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, capture_output=True)  # noqa: S603  (our own words)
        return time.perf_counter() - began

    torch, ours = (median(seconds("-c", f"import {name}") for _ in range(3)) for name in ("torch", "securefl"))
    return [
        Row("import securefl over import torch, wall time", ours / torch, 1.2),
        Row("securefl --help, wall time", median(seconds("-m", "securefl", "--help") for _ in range(3)), 1.0, "s"),
    ]


MEASUREMENTS: dict[str, Callable[[], list[Row]]] = {
    "masks": masks,
    "memory": memory,
    "thousand": thousand,
    "one-process": one_process,
    "kahe": key_additive,
    "lightsecagg": light,
    "homomorphic": homomorphic,
    "simulator": simulator,
    "imports": imports,
}


@dataclass(frozen=True)
class Versus:
    """A measurement beside other software: the name of its environment, the rows without values, and what measures these."""

    peer: str
    rows: tuple[Row, ...]
    values: Callable[[Path], tuple[float, ...]]

    def measure(self, folder: Path | None) -> list[Row]:
        """The rows; without values where the environment is not there."""
        python = interpreter(folder, self.peer)
        if python is None:
            return list(self.rows)
        try:
            values = self.values(python)
        except RuntimeError as failure:
            print(failure, file=sys.stderr)
            return [replace(row, failed=True) for row in self.rows]
        return [replace(row, value=value) for row, value in zip(self.rows, values, strict=True)]


AGAINST = {
    "lightsecagg-fedml": Versus(
        "fedml",
        (
            Row("lightsecagg: encoding, times faster than FedML's", None, 7.0, least=True),
            Row("lightsecagg: decoding, times faster than FedML's", None, 15.0, least=True),
        ),
        fedml_coding,
    ),
    "masks-flower": Versus(
        "flower",
        (
            Row("secagg+: client, times faster than Flower's (n = 100, d = 10^6, k = 30, t = 16, 10 % dropout)", None, None),
            Row("secagg+: server, times faster than Flower's (the same)", None, None),
        ),
        flower_masks,
    ),
    "simulator-flower": Versus(
        "flower",
        (Row("round with active secagg over Flower's plain round (digits, 50 parties), wall time", None, 0.5),),
        flower_simulator,
    ),
    "simulator-pfl": Versus("pfl", (Row("plain round in torch over pfl-research's (the same)", None, 1.0),), pfl_simulator),
    "simulator-nvflare": Versus(
        "nvflare", (Row("plain round over NVIDIA FLARE's (the same), wall time", None, None),), nvflare_simulator
    ),
}
NAMES = (*MEASUREMENTS, *AGAINST)


def settled(act: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a measurement; where one falls short, the medians of three."""
    takes = [act()]
    if not all(row.holds or row.failed for row in takes[0]):
        takes += [act(), act()]
    values = [[row.value for row in same if row.value is not None] for same in zip(*takes, strict=True)]
    return [replace(row, value=median(found) if found else None) for row, found in zip(takes[0], values, strict=True)]


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"Measurements: {', '.join(NAMES)}; all unless given.")] = None,
    peers: Annotated[
        Path | None,
        typer.Option(
            help="Folder of virtual environments of other software: DIR/NAME/bin/python for "
            f"{', '.join(dict.fromkeys(versus.peer for versus in AGAINST.values()))}, made as docs/performance.md says.  "
            "About 10 minutes more.  Rows of one that is not there are not run.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure every target; exit code 1 where one falls short."""
    for name in only or ():
        if name not in NAMES:
            raise typer.BadParameter(f"no measurement {name!r}; there are {', '.join(NAMES)}")
    screen, rows = Console(stderr=True), list[Row]()
    for name in only or NAMES:
        began = time.perf_counter()
        with screen.status(name):
            rows += settled(partial(AGAINST[name].measure, peers) if name in AGAINST else MEASUREMENTS[name])
        screen.print(f"{name}: {time.perf_counter() - began:.0f} s", highlight=False)
    if as_json:
        print(json.dumps([{**vars(row), "holds": row.holds} for row in rows], ensure_ascii=False))
    else:
        table = Table("target", "value", "bound", "")
        for row in rows:
            value = "failed" if row.failed else "not run" if row.value is None else f"{row.value:.3g} {row.unit}"
            bound = "" if row.bound is None else f"{'≥' if row.least else '≤'} {row.bound:g} {row.unit}"
            verdict = "MISSED" if not row.holds else "" if row.value is None or row.bound is None else "holds"
            table.add_row(row.name, value, bound, verdict)
        Console().print(table)
    raise typer.Exit(0 if all(row.holds for row in rows) else 1)


if __name__ == "__main__":
    typer.run(main)
