"""Rounds of plain FedAvg in Flower's simulator (Ray), timed: one JSON object.

The job of `digits_job.py` in numpy; nothing is hidden.  One worker for each core that this process may use.  Wall seconds of the
median round, from the beginning of one to the beginning of the next; the first, which starts the workers, is left out.
``pip install 'flwr[simulation]==1.41.0' scikit-learn``.

usage: OMP_NUM_THREADS=1 DIR/flower/bin/python benchmarks/peers/flower_simulator.py --parties 50 --rounds 10
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

# Ray's workers import the job too.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", "")])
os.environ["FLWR_TELEMETRY_ENABLED"] = os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import flwr
import numpy as np
from digits_job import Weights, accuracy, begin, deal, passes
from flwr.client import ClientApp, NumPyClient
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation


class Party(NumPyClient):
    """One pass in a round."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def fit(self, parameters: Weights, config: dict[str, Any]) -> tuple[Weights, int, dict[str, Any]]:
        """Train."""
        return passes(parameters, self.x, self.y, config["seed"]), len(self.y), {}


class Timed(FedAvg):
    """FedAvg that keeps when each round began, how many results each had, and the last model."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.marks, self.results, self.weights = list[float](), list[int](), begin()

    def configure_fit(self, *given: Any, **named: Any) -> Any:
        """A round begins."""
        self.marks.append(time.perf_counter())
        return super().configure_fit(*given, **named)

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """A round ends."""
        out = super().aggregate_fit(server_round, results, failures)
        self.results.append(len(results))
        self.weights = parameters_to_ndarrays(out[0])
        return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parties", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    n, cores = given.parties, len(os.sched_getaffinity(0))
    logging.getLogger("flwr").setLevel(logging.ERROR)
    strategy = Timed(
        fraction_fit=1.0,
        fraction_evaluate=0.0,
        min_fit_clients=n,
        min_available_clients=n,
        initial_parameters=ndarrays_to_parameters(begin()),
        on_fit_config_fn=lambda number: {"seed": number - 1},
    )

    def party(context: Any) -> Any:
        return Party(*deal(n)[0][int(context.node_config["partition-id"])]).to_client()

    def server(_: Any) -> ServerAppComponents:
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=given.rounds))

    run_simulation(
        server_app=ServerApp(server_fn=server),
        client_app=ClientApp(client_fn=party),
        num_supernodes=n,
        backend_config={"init_args": {"num_cpus": cores}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    if strategy.results != [n] * given.rounds:
        raise SystemExit(f"results of each round: {strategy.results}")
    out = {
        "flwr": flwr.__version__,
        "workers": cores,
        "round_s": median(np.diff(strategy.marks)[1:]),
        "first_round_s": strategy.marks[1] - strategy.marks[0],
        "rounds": len(strategy.results),
        "accuracy": accuracy(strategy.weights, deal(n)[1]),
    }
    print(json.dumps(out))


if __name__ == "__main__":
    main()
