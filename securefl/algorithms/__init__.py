"""Algorithms of federated learning, each by its paper, each over secure sums alone.

One is chosen by ``performance.algorithm``, or handed to `securefl.Runner` as an object:

    from securefl.algorithms import FedProx, Scaffold

What they do not protect: see each; nothing here sees a single update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from securefl.algorithms.base import Algorithm, Local, Steered
from securefl.algorithms.fair import QFedAvg
from securefl.algorithms.nova import FedNova
from securefl.algorithms.proximal import FedProx, FedSGD
from securefl.algorithms.scaffold import Scaffold
from securefl.algorithms.server import AdaptiveServer, FedOpt, Scheduled
from securefl.errors import UserError

if TYPE_CHECKING:
    from securefl.aggregator import ServerAggregator
    from securefl.job import Job

__all__ = [
    "AdaptiveServer",
    "Algorithm",
    "FedNova",
    "FedOpt",
    "FedProx",
    "FedSGD",
    "Local",
    "QFedAvg",
    "Scaffold",
    "Scheduled",
    "Steered",
    "of_job",
    "server_of",
    "with_algorithm",
]


def of_job(job: Job) -> Algorithm:
    """The algorithm that ``performance.algorithm`` names."""
    knobs = job.performance
    name = knobs.algorithm
    if name in ("fedadam", "fedyogi", "fedadagrad"):
        return FedOpt(name, beta1=knobs.decay_mean, beta2=knobs.decay_squares, adaptivity=knobs.adaptivity)
    makers = {
        "fedprox": lambda: FedProx(knobs.proximal),
        "fednova": lambda: FedNova(knobs.step_rows),
        "qfedavg": lambda: QFedAvg(knobs.fairness),
        "scaffold": Scaffold,
        "fedsgd": FedSGD,
    }
    return makers.get(name, Algorithm)()


def server_of(algorithm: Algorithm, job: Job, parties: int, own: ServerAggregator | None = None) -> ServerAggregator:
    """The server's step of a run: the algorithm's or one's own, at the rate of the job's schedule.

    Args:
        algorithm: of the run, after its `Algorithm.specs`.
        job: the knobs.
        parties: invited parties.
        own: a step of the user's own.

    Raises:
        UserError: for a step of one's own beside an algorithm that has another.
    """
    if own is not None and algorithm.own_step:
        raise UserError(f"{algorithm.name} has a server step of its own: leave out {type(own).__name__}")
    made = own or algorithm.server(job.performance.server_learning_rate, parties)
    schedule = job.performance.server_schedule
    return made if schedule == "constant" else Scheduled(made, schedule, job.privacy.rounds)


def with_algorithm(job: Job, algorithm: Algorithm | None, *, own_flow: bool) -> Job:
    """The job with the keys of an algorithm that was handed over as an object.

    Raises:
        UserError: where the job names another one, or a local flow of the user's own would leave out what a site does.
    """
    if algorithm is not None:
        if job.performance.algorithm not in ("fedavg", algorithm.name):
            raise UserError(f"performance.algorithm is {job.performance.algorithm}, and {algorithm.name} is given: name it once")
        job = job.model_copy(update={"performance": job.performance.model_copy(update=algorithm.knobs())})
    made = algorithm or of_job(job)
    if own_flow and made.local() is not None:
        raise UserError(f"{made.name} has steps of its own at the sites, which a local flow of your own would leave out")
    return job
