"""The final model of a run over a network assessed: one secure sum of its scores on held-out rows, as `securefl.assessment` has it.

The final model is delivered first; its hash is part of the sum's session identity, so no two parties score different ones.

What it does not protect: as `securefl.assessment`.  A party's own figures stay with the party.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from protocols.rand import Rand
from protocols.vector import Sum, Vector
from securefl import assessment
from securefl.assessment import METHOD, MIN_CELL, PRECISION, Scored
from securefl.binned import BINS
from securefl.evaluation import scored
from securefl.ledger import NOISED
from securefl.models import threads_for
from securefl.modules import Copier
from securefl.stages import ASSESSMENT, ExactStage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from securefl.data.public import Public
    from securefl.job import Job
    from securefl.own_rows import OwnRows
    from securefl.round_types import Fold
    from securefl.shared_job import SharedJob
    from securefl.trainer import ClientTrainer


@dataclass(frozen=True, eq=False)
class AssessmentSum:
    """The sum that assesses; made by `assessment_of`.

    Attributes:
        stage: the sum.
        folds: how many.
        name: of the other model, or empty.
    """

    stage: ExactStage
    folds: int
    name: str

    def vector(self, scores: Scored, others: Sequence[NDArray[np.float64]] | None, rand: Rand) -> Vector:
        """What a party adds: counts of its own scores, and of the other model's on the same rows."""
        return self.stage.vector(assessment.counts(scores, others), rand)

    def read(self, total: Sum) -> str:
        """The figures, as JSON.

        Raises:
            Abort: for counts that so many parties cannot have.
        """
        sums = self.stage.decoded(total).sums
        names = ("federated", "same_rows", "compared") if self.name else ("federated",)
        about = {"folds": self.folds, "bins": BINS, "min_cell": MIN_CELL, "method": METHOD, "contributors": total.contributors}
        figures = {name: asdict(assessment.read(sums, name, self.folds)) for name in names}
        return json.dumps({"name": self.name, **figures, **about}, allow_nan=False)


def assessment_of(job: Job, public: Public, parties: int) -> AssessmentSum | None:
    """The sum after the last round; None where there is nothing to compare with, or noise inside the sums leaves no exact one."""
    if not public.compared or job.privacy.mechanism in NOISED:
        return None
    folds, what = job.data.splits, assessment.opened(compared=public.compared)
    specs = assessment.specs(folds, compared=True)
    return AssessmentSum(ExactStage.of(ASSESSMENT, job, parties, specs, [what], precision=PRECISION), folds, public.compared)


def own_scores(shared: SharedJob, trainer: ClientTrainer, models: Sequence[NDArray[np.float32]], folds: tuple[Fold, ...]) -> Scored:
    """The final models' scores on a party's own held-out rows, by fold."""
    made = Copier(shared.template)
    with threads_for(shared.template):
        return scored(trainer, [made(vector) for vector in models], {"own": folds})["own"]


def own_figures(scores: Scored, rows: OwnRows) -> dict[str, Any]:
    """A party's own figures, for itself alone: of the final model, and of the other one on the rows that this has scored."""
    out: dict[str, Any] = {"federated": asdict(assessment.of_scores(scores)), "bins": BINS, "min_cell": MIN_CELL}
    others = rows.compared()
    if others is not None:
        found = assessment.counts(scores, others)
        out |= {name: asdict(assessment.read(found, name, len(scores))) for name in ("same_rows", "compared")}
    return {**out, "name": rows.public.compared, "method": METHOD}
