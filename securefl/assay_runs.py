"""A job on partners with different assays, simulated: one trunk by secure sums, private heads, and what each partner gains by it.

What it does not protect: see `securefl.private_layers`.  Each partner's own model, with which its gain is compared, and the gains
exist in a simulation only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from securefl.cohort import short_sums
from securefl.data.assays import Assays
from securefl.data.split import places
from securefl.data_knobs import DataKnobs
from securefl.errors import UserError
from securefl.gains import Gain, Gains, figures
from securefl.job import Job
from securefl.knobs import ModelKnobs, SimulationKnobs
from securefl.models import threads_for
from securefl.multitask import Multitask, MultitaskTrainer
from securefl.parties import Consortium
from securefl.privacy.plain import PlainTraining
from securefl.private_layers import one_pattern
from securefl.results import DataSummary, RoundRecord, RunResult
from securefl.round_types import Fold
from securefl.runner import Runner

if TYPE_CHECKING:
    from securefl.audit.recording import Recording


def run(
    job: Job,
    loaded: Assays,
    on_event: Callable[[RoundRecord], None] | None,
    on_notice: Callable[[str], None],
    on_start: Callable[[], None],
    recording: Recording | None,
) -> RunResult:
    """Train, and compare with what each partner reaches alone; arguments as for `securefl.experiment.run_job`.

    Raises:
        UserError, Misuse: for bad input, before training.
    """
    refuse(job)
    folds, models = parts(job, loaded)
    trainer = MultitaskTrainer(learning_rate=job.performance.learning_rate, target=job.data.target or "class")
    names = [partner.name for partner in loaded.partners]
    simulation = SimulationKnobs(dropout=job.simulation.dropout)
    done = {"data": DataKnobs(), "model": ModelKnobs(shared=job.model.shared), "simulation": simulation}
    runner = Runner(
        models,
        folds,
        trainer=trainer,
        job=job.model_copy(update=done),
        name=loaded.name,
        consortium=Consortium.of(names, replace(short_sums(job.privacy).policy, min_cohort=job.privacy.min_cohort or 2)),
        on_notice=on_notice,
        recording=recording,
    )
    on_start()
    if recording is not None:
        recording.keep()
    result = runner.run(on_event)
    gains = None
    if job.simulation.baselines:
        with threads_for(runner.template):
            gains = compared(job, loaded, folds, runner)
    return replace(
        result,
        job=job.plain(),
        gains=gains,
        data=DataSummary(
            loaded.source, loaded.notes, loaded.rows, {partner.name: len(partner.test) for partner in loaded.partners}
        ),
    )


def refuse(job: Job) -> None:
    """Refuse what is not there for these data.

    Raises:
        UserError: naming the key.
    """
    for key, given in (("data.folds above 1", job.data.splits > 1), ("privacy.ledger", job.privacy.ledger is not None)):
        if given:
            raise UserError(f"{key} is refused for {job.data.name}: partners with different assays have none")
    if one_pattern(None, job, own_flow=False) is None:
        raise UserError(f"model.shared is needed for {job.data.name}, such as trunk.*: partners have different assays")


def parts(job: Job, loaded: Assays) -> tuple[dict[str, Fold], dict[str, nn.Module]]:
    """Training and held-out compounds of each partner, and its model at the start."""
    folds, models = dict[str, Fold](), dict[str, nn.Module]()
    for partner in loaded.partners:
        train, test = (TensorDataset(*map(torch.from_numpy, loaded.part(partner, rows))) for rows in (partner.train, partner.test))
        folds[partner.name] = Fold(train, test)
        models[partner.name] = Multitask(
            len(loaded.features), job.model.hidden, len(partner.assays), job.simulation.seed, job.model.private
        )
    return folds, models


def compared(job: Job, loaded: Assays, folds: Mapping[str, Fold], runner: Runner) -> Gains:
    """Figures of each partner's model of the federation, and of one that it trains alone in the same rounds and steps."""
    if loaded.molecules is None or not isinstance(runner.trainer, MultitaskTrainer) or runner.layered is None:
        raise UserError("gains are of partners with assays")
    halves = places(loaded.molecules.keys, job.simulation.seed + 1) < 0.5
    trainer, target, gains = runner.trainer, runner.trainer.target, {}
    for partner in loaded.partners:
        test = folds[partner.name].test
        (shared,) = runner.final_models(partner.name)
        own = alone(job, trainer, runner.layered.templates[partner.name], folds[partner.name])
        if test is None:
            continue
        first = np.asarray(halves[partner.test])
        each = [figures(trainer.outputs(model, test), first, target) for model in (own, shared)]
        gains[partner.name] = Gain(*each)
    return Gains(gains, target)


def alone(job: Job, trainer: MultitaskTrainer, template: nn.Module, fold: Fold) -> nn.Module:
    """A partner's own model: the same start, rounds, steps, batches and optimizer, without a sum and without noise."""
    model, training = copy.deepcopy(template), PlainTraining(sample_rate=job.privacy.sample_rate)
    for _ in range(job.privacy.rounds):
        trainer.train(model, fold.train, training, job.privacy.steps)
    return model
