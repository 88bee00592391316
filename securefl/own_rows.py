"""A site's own rows, made ready for training by public knowledge alone.

What it does not protect: a row outside of the public ranges is clamped to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import TensorDataset

from securefl import data as datasets
from securefl.claims import check_claims
from securefl.data.public import public_of
from securefl.errors import UserError
from securefl.inputs import look_through
from securefl.round import Fold
from securefl.scaling import from_ranges
from securefl.usercode.remote import RemoteTrainer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from securefl.data.types import Site
    from securefl.job import Job
    from securefl.scaling import Scaler
    from securefl.shared_job import SharedJob


def own_folds(job: Job, site: Site) -> tuple[Fold, ...]:
    """Training and held-out rows of one site, scaled by public ranges.

    Raises:
        UserError: for too few rows, or columns that are not the job's.
    """
    public = public_of(job)
    if site.x.shape[1] != len(public.features):
        raise UserError(f"{site.name} has {site.x.shape[1]} columns where the job has {len(public.features)} features")
    scaler, splits = from_ranges(public.ranges), job.data.splits
    parts = datasets.plan(site, folds=None if splits == 1 else splits, holdout=job.data.holdout, seed=job.simulation.seed)
    return tuple(
        Fold(_rows(scaler, site.x[part.train], site.y[part.train]), _rows(scaler, site.x[part.test], site.y[part.test]))
        for part in parts
    )


def refuse_unfit(shared: SharedJob, name: str, folds: tuple[Fold, ...]) -> list[str]:
    """Look through the own rows before anything leaves; lines that the site's operator must see.

    Raises:
        UserError: as `securefl.inputs.look_through` and `securefl.claims.check_claims`.
        UserError, CodeFault: as `securefl.usercode.remote.RemoteTrainer.check`, where the job has code of its own.
    """
    knobs = shared.job.privacy
    rate, private = knobs.sample_rate, knobs.per_record
    if isinstance(shared.trainer, RemoteTrainer):
        shared.trainer.check(by_record=private)
    look_through({name: folds}, shared.trainer, shared.template, sample_rate=rate, private=private, everybody=False)
    return check_claims({name: folds}, knobs, shared.about.models_per_record)


def _rows(scaler: Scaler, x: NDArray[Any], y: NDArray[Any]) -> TensorDataset:
    return TensorDataset(torch.from_numpy(scaler.apply(x)), torch.from_numpy(y.astype("float32")))
