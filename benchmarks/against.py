"""Other software measured beside ours, for `targets.py`: each in its own environment, by a script of `benchmarks/peers`.

Ours runs in this process, on the same cores as the other and just before it.  Both run the same job (`peers/digits_job.py`), or a
sum of the same size.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from rounds import measure
from secure_sum import build

CLIENTS, DIM, DROPOUT = 100, 1_000_000, 0.1
PARTIES, ROUNDS = 50, 10
Clock = Callable[[], float]


def interpreter(folder: Path | None, name: str) -> Path | None:
    """Python of an environment in a folder of them, or None where it is not there."""
    path = None if folder is None else folder / name / "bin" / "python"
    return path if path is not None and path.exists() else None


def ask(python: Path, script: str, **options: object) -> dict[str, Any]:
    """The JSON object that a script of `benchmarks/peers` prints last.

    Raises:
        RuntimeError: it failed, or took ten minutes; with the end of what it wrote.
    """
    words = [str(python), str(Path(__file__).parent / "peers" / script)]
    words += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603  (a path of the caller)
    except subprocess.TimeoutExpired as late:
        raise RuntimeError(f"{script} took more than {late.timeout:.0f} s") from late
    if done.returncode != 0:
        raise RuntimeError(f"{script} failed with {done.returncode}: {done.stderr[-2000:]}")
    out: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return out


def fedml_coding(python: Path) -> tuple[float, float]:
    """LightSecAgg: how many times faster than FedML's arithmetic ours encodes and decodes."""
    from lightsecagg import coding  # noqa: PLC0415

    ours = coding(CLIENTS, DIM, 7)
    theirs = ask(python, "fedml_masking.py", clients=CLIENTS, dim=DIM, dropout=DROPOUT, reps=3)
    return theirs["encode_s"] / ours["encode_s"], theirs["decode_s"] / ours["decode_s"]


def flower_masks(python: Path) -> tuple[float, float]:
    """SecAgg+ on a graph of 30 neighbours, 16 shares to rebuild: how many times faster than Flower's our client and server are."""
    ours = measure("secagg+", build("secagg+", CLIENTS, DIM, graph=(30, 16)), dropout=DROPOUT)
    theirs = ask(python, "flower_secagg.py", clients=CLIENTS, dim=DIM, dropout=DROPOUT, shares=31, threshold=0.5)
    if not ours.exact or theirs["error"] > 1e-4:
        raise AssertionError("a sum is wrong")
    client, server = sum(map(ours.median, ours.client_s)), sum(ours.server_s.values())
    return theirs["client_s"] / client, theirs["server_s"] / server


def flower_simulator(python: Path) -> tuple[float]:
    """Our round with active secagg over Flower's without it."""
    return (_rounds(python, "flower_simulator.py", "secagg", takes=1, in_torch=False),)


def pfl_simulator(python: Path) -> tuple[float]:
    """Our plain round over pfl-research's, both in torch and in one process: CPU seconds."""
    return (_rounds(python, "pfl_simulator.py", "plain-insecure", takes=3, in_torch=True, clock=time.process_time),)


def nvflare_simulator(python: Path) -> tuple[float]:
    """Our plain round over that of NVIDIA FLARE's simulator, both in numpy."""
    return (_rounds(python, "nvflare_simulator.py", "plain-insecure", takes=1, in_torch=False),)


def _rounds(python: Path, script: str, protocol: str, *, takes: int, in_torch: bool, clock: Clock = time.perf_counter) -> float:
    """Median seconds of our rounds over theirs; takes alternate, ours first and last."""
    from simulator import accuracy, deal, ours  # noqa: PLC0415  (loads torch)

    parts, test = deal(PARTIES)
    mine, theirs = [ours(parts, ROUNDS, protocol, in_torch=in_torch, clock=clock)], list[dict[str, Any]]()
    for _ in range(takes):
        theirs.append(ask(python, script, parties=PARTIES, rounds=ROUNDS))
        mine.append(ours(parts, ROUNDS, protocol, in_torch=in_torch, clock=clock))
    if abs(theirs[0]["accuracy"] - accuracy(mine[0][1], test)) > 0.05:
        raise AssertionError("the models differ: not the same job")
    return median(seconds for seconds, _ in mine) / median(take["round_s"] for take in theirs)
