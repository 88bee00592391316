"""A site's own rows, and how they become features: by public ranges, or by the scaling that all parties of a run share.

What it does not protect: a row outside of the public ranges is clamped to them, or scaled as it is where exact means scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from securefl import data as datasets
from securefl.claims import check_claims
from securefl.data.public import public_of
from securefl.errors import UserError
from securefl.inputs import look_through
from securefl.round_types import Fold
from securefl.scaling import Scaler, from_ranges
from securefl.usercode.remote import RemoteTrainer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from securefl.data.public import Public
    from securefl.data.types import Site, Split
    from securefl.job import Job
    from securefl.shared_job import SharedJob


@dataclass(frozen=True, eq=False)
class OwnRows:
    """Of one site; made by `OwnRows.of`.

    Attributes:
        site: the rows.
        parts: which of them train and which are held out, for each model that is trained side by side.
        public: of the job's data.
    """

    site: Site
    parts: tuple[Split, ...]
    public: Public

    @classmethod
    def of(cls, job: Job, site: Site) -> OwnRows:
        """Hold rows to a job, and split them.

        Raises:
            UserError: for too few rows, or columns that are not the job's.
        """
        public, splits = public_of(job), job.data.splits
        if site.x.shape[1] != len(public.features):
            raise UserError(f"{site.name} has {site.x.shape[1]} columns where the job has {len(public.features)} features")
        parts = datasets.plan(site, folds=None if splits == 1 else splits, holdout=job.data.holdout, seed=job.simulation.seed)
        return cls(site, parts, public)

    def folds(self, scaler: Scaler | None = None, fills: NDArray[np.float64] | None = None) -> tuple[Fold, ...]:
        """Training and held-out rows.

        Args:
            scaler: of the features; by default that of the public ranges.
            fills: what stands in for missing numbers, shape (features,); by default what the rows have there.

        Raises:
            UserError: for values that are too far out to be scaled.
        """
        made, x = scaler or from_ranges(self.public.ranges), self.site.x
        if fills is not None and self.site.missing is not None:
            x = np.where(self.site.missing, fills, x)
        return tuple(
            Fold(_rows(made, x[part.train], self.site.y[part.train]), _rows(made, x[part.test], self.site.y[part.test]))
            for part in self.parts
        )

    def compared(self) -> list[NDArray[np.float64]] | None:
        """The other model's scores of the held-out rows, by fold; None without it."""
        scores = self.site.compared
        return None if scores is None else [scores[part.test] for part in self.parts]


def refuse_unfit(shared: SharedJob, rows: OwnRows) -> list[str]:
    """Look through the own rows before anything leaves; lines that the site's operator must see.

    Raises:
        UserError: as `securefl.inputs.look_through` and `securefl.claims.check_claims`.
        UserError, CodeFault: as `securefl.usercode.remote.RemoteTrainer.check`, where the job has code of its own.
    """
    knobs, name, folds = shared.job.privacy, rows.site.name, rows.folds()  # by public ranges, where no sum is open yet
    rate, private = knobs.sample_rate, knobs.per_record
    if isinstance(shared.trainer, RemoteTrainer):
        shared.trainer.check(by_record=private)
    look_through({name: folds}, shared.trainer, shared.template, sample_rate=rate, private=private, everybody=False)
    return check_claims({name: folds}, knobs, shared.about.models_per_record)


def _rows(scaler: Scaler, x: NDArray[Any], y: NDArray[Any]) -> TensorDataset:
    return TensorDataset(torch.from_numpy(scaler.apply(x)), torch.from_numpy(y.astype("float32")))
