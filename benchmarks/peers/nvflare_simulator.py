"""Rounds of plain FedAvg in NVIDIA FLARE's simulator, timed: one JSON object.

The job of `digits_job.py` in numpy by FLARE's FedAvg recipe; the parties' script, which the simulator runs, is
this file too.  Wall seconds of the median round, from one model that the first party gets to the next.
``pip install nvflare==2.9.0 numpy scikit-learn``.

usage: OMP_NUM_THREADS=1 DIR/nvflare/bin/python benchmarks/peers/nvflare_simulator.py --parties 50 --rounds 10 [--threads 50]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from digits_job import accuracy, begin, deal, flat, passes, unflat


def party(parties: int, marks: Path) -> None:
    """What each party runs: a pass in a round."""
    import nvflare.client as flare  # noqa: PLC0415  (only here is the script a party)

    flare.init()
    me = int(flare.get_site_name().rsplit("-", 1)[-1])
    x, y = deal(parties)[0][me - 1]
    while flare.is_running() and (message := flare.receive()) is not None:
        if me == 1:
            with marks.open("a", encoding="utf-8") as file:
                file.write(f"{time.perf_counter()}\n")
        weights = unflat(np.asarray(message.params["numpy_key"], np.float32))
        update = {"numpy_key": flat(passes(weights, x, y, message.current_round or 0))}
        flare.send(flare.FLModel(params=update, params_type="FULL", meta={"NUM_STEPS_CURRENT_ROUND": len(y)}))


def give_up(folder: Path) -> None:
    """End the processes that the simulator started, which wait for each other for ever where one of them could not begin."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)
    os.write(2, b"the simulator did not end in time\n")
    os._exit(1)


def simulate(parties: int, rounds: int, threads: int, folder: Path) -> None:
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe  # noqa: PLC0415  (a party needs none of it)
    from nvflare.recipe import SimEnv  # noqa: PLC0415

    script, marks = Path(__file__).resolve(), folder / "marks"
    os.environ["PYTHONPATH"] = str(script.parent)  # the processes that the simulator starts import the job too
    os.environ["NVFLARE_MAX_RUNNER_SYNC_TIMEOUT"] = "600"  # so many processes on few cores begin late
    os.chdir(folder)
    recipe = NumpyFedAvgRecipe(
        name="digits",
        model=flat(begin()),
        min_clients=parties,
        num_rounds=rounds,
        train_script=str(script),
        train_args=f"--as-party --parties {parties} --marks {marks}",
    )
    began = time.perf_counter()
    where = SimEnv(num_clients=parties, num_threads=threads, workspace_root=str(folder), log_config="concise")
    recipe.execute(where).get_status()
    seen = [float(line) for line in marks.read_text(encoding="utf-8").split()]
    if len(seen) != rounds:
        raise SystemExit(f"{len(seen)} rounds were seen")
    model = next(folder.glob("**/server.npy"))
    out = {
        "nvflare": importlib.metadata.version("nvflare"),
        "threads": threads,
        "round_s": median(np.diff(seen)),
        "all_s": time.perf_counter() - began,
        "rounds": rounds,
        "accuracy": accuracy(unflat(np.load(model)), deal(parties)[1]),
    }
    print("\n" + json.dumps(out))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parties", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=50)
    parser.add_argument("--limit", type=float, default=480.0, help="seconds")
    parser.add_argument("--as-party", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--marks", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_known_args()[0]
    if given.as_party:
        party(given.parties, given.marks)
        return
    with tempfile.TemporaryDirectory() as name:
        watch = threading.Timer(given.limit, give_up, [Path(name)])
        watch.daemon = True
        watch.start()
        simulate(given.parties, given.rounds, given.threads, Path(name))
        watch.cancel()


if __name__ == "__main__":
    main()
