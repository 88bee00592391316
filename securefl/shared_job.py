"""A job as everybody between machines has it: the part that all must have alike, its hash, and what follows from it.

The hash of a job, or of the bundle that it came in, is in the name of its run, so it enters every session identity: other jobs make
masks that don't cancel.

What it does not protect: a job that all agree to may be a bad one.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from protocols.flow import Flow
from protocols.rand import Entropy
from protocols.suite import Occasion, Roster, Terms
from securefl.cohort import short_sums
from securefl.data.eicu_contract import contract
from securefl.data.public import Public, public_of
from securefl.encode import limit_of
from securefl.errors import UserError
from securefl.metrics import BinaryMetrics
from securefl.privacy.composition import ALONE
from securefl.results import Preparation
from securefl.run_terms import RunTerms
from securefl.scaling import Scaler, filled_codings, from_ranges
from securefl.shared_assessment import AssessmentSum, assessment_of
from securefl.shared_scaling import Scaling, ScalingSum, scaling_of
from securefl.stages import Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from protocols.policy import Policy
    from securefl.job import Job
    from securefl.trainer import ClientTrainer

OWN = {"data": ("dir",), "privacy": ("ledger", "ledger_data"), "simulation": ("dropout", "baselines")}
"""Keys of a job that are each machine's own business."""


def shared(job: Job) -> dict[str, Any]:
    """What all must have alike, as plain data: neither paths nor what a simulation alone has."""
    tree = job.plain()
    del tree["output"]
    for section, keys in OWN.items():
        for key in keys:
            tree[section].pop(key, None)
    if job.data.is_table:
        tree["data"]["name"] = "table"
    tree["data"]["ranges"] = [[name, *bounds] for name, bounds in job.data.ranges.items()]  # their order is that of the features
    tree["data"]["levels"] = [[name, *values] for name, values in job.data.levels.items()]
    held = contract() if job.data.name == "eicu" else job.data.contract
    tree["data"]["contract"] = None if held is None else held.digest
    return tree


def shared_text(job: Job) -> str:
    """`shared` as JSON with sorted keys."""
    return json.dumps(shared(job), sort_keys=True, separators=(",", ":"))


def job_hash(job: Job) -> bytes:
    """SHA-256 of `shared_text`."""
    return hashlib.sha256(shared_text(job).encode()).digest()


def run_name(job: bytes, entropy: Entropy) -> str:
    """A name for a new run of a job: it never comes twice, and ends in the job's hash."""
    return f"{entropy().bytes('run', 8).hex()}-{_text(job)}"


def is_run_of(run: str, job: bytes) -> bool:
    """Whether a run's name is one that `run_name` gives for this job's hash."""
    return re.fullmatch(f"[0-9a-f]{{16}}-{re.escape(_text(job))}", run) is not None


def _text(job: bytes) -> str:
    return base64.urlsafe_b64encode(job).decode().rstrip("=")


@dataclass(frozen=True, eq=False)
class SharedJob:
    """A job over a network, worked out by one machine alone.

    Attributes:
        job: the job.
        cohort: who is registered, and invited to a round, unless the job draws a part of them for each.
        public: of its data.
        bundle: hash of the bundle that it came in; None for a job file.
        code: model and trainer of the job's own, which run in a child; None for those that the job names.
    """

    job: Job
    cohort: Roster
    public: Public
    bundle: bytes | None = None
    code: tuple[ClientTrainer, nn.Module] | None = None

    @classmethod
    def of(
        cls,
        job: Job,
        cohort: Roster,
        bundle: bytes | None = None,
        code: tuple[ClientTrainer, nn.Module] | None = None,
    ) -> SharedJob:
        """Check that the job can run over a network with these parties; ``bundle`` and ``code`` as the attributes.

        Raises:
            UserError, Misuse: where it cannot, with the key.
        """
        for key, given in (
            ("simulation.dropout", job.simulation.dropout > 0),
            ("model.fix", job.model.fix),
            ("privacy.patience", job.privacy.patience is not None),
            ("model.shared", job.model.shared is not None),
            ("performance.handshake_rounds above 1", (job.performance.handshake_rounds or 1) > 1),
        ):
            if given:
                raise UserError(f"{key} is refused over a network: it is for simulations yet")
        made = cls(job, cohort, public_of(job), bundle, code)
        found, _ = made.about.algorithm, made.stages  # refused here, not in the first round
        if code is not None and (found.steers or found.reads_loss):
            raise UserError(
                f"performance.algorithm = {found.name} is refused for a bundle with code of its own: it reaches into the "
                "steps of a site, and those run behind walls"
            )
        return made

    @cached_property
    def hash(self) -> bytes:
        """Of the bundle that the job came in, else of the job."""
        return job_hash(self.job) if self.bundle is None else self.bundle

    @cached_property
    def template(self) -> nn.Module:
        """The model at the start."""
        from securefl.models import build  # noqa: PLC0415  (loads torch)

        if self.code is not None:
            return self.code[1]
        return build(self.job.model, len(self.public.features), self.job.simulation.seed)

    @cached_property
    def trainer(self) -> ClientTrainer:
        """What a site does; to be copied."""
        from securefl.trainer import ClientTrainer  # noqa: PLC0415

        trainer = ClientTrainer(learning_rate=self.job.performance.learning_rate) if self.code is None else self.code[0]
        trainer.metrics = replace(BinaryMetrics(), limit=limit_of(self.job.privacy.precision), folds=self.job.data.splits)
        return trainer

    @cached_property
    def about(self) -> RunTerms:
        """What the run is."""
        from securefl.models import shapes_of, to_vector  # noqa: PLC0415

        return RunTerms.of(
            self.job,
            len(self.cohort),
            to_vector(self.template).size,
            copy.deepcopy(self.trainer).sums(),
            models=self.job.data.splits,
            models_per_record=max(1, self.job.data.splits - 1),
            before=ALONE if self.scaling is None else self.scaling.before,
            beside=0 if self.scaling is None else Scaling.length(len(self.public.features)),
            shapes=shapes_of(self.template),
        )

    @cached_property
    def scaling(self) -> ScalingSum | None:
        """The sum for scaling before the rounds; None where public ranges scale."""
        return scaling_of(self.job, self.public, len(self.cohort))

    @cached_property
    def assessment(self) -> AssessmentSum | None:
        """The sum over the final model's scores after the rounds; None without one."""
        return assessment_of(self.job, self.public, len(self.cohort))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The sums beside the rounds."""
        return tuple(one.stage for one in (self.scaling, self.assessment) if one is not None)

    def scaler(self, found: Scaling | None) -> Scaler:
        """How rows become features: by public ranges, or by what the sum for scaling gave."""
        return from_ranges(self.public.ranges) if found is None or self.scaling is None else self.scaling.scaler(found)

    def fills(self, found: Scaling | None) -> NDArray[np.float64] | None:
        """What the sum for scaling puts in the place of missing numbers; None where it puts nothing there."""
        return found.fills if found is not None and self.scaling is not None and self.scaling.filled else None

    def preparation(self, found: Scaling | None) -> Preparation:
        """The same for the model's file."""
        made, fills, public = self.scaler(found), self.fills(found), self.public
        low, high = (None if part is None else tuple(map(float, part)) for part in (made.low, made.high))
        codings = public.codings if fills is None else filled_codings(public.features, public.codings, fills)
        columns = tuple(asdict(coding) for coding in codings)
        return Preparation(
            public.features, public.classes, columns, (*map(float, made.shift),), (*map(float, made.scale),), low, high
        )

    @cached_property
    def flow(self) -> Flow:
        """One round."""
        from securefl.apart import round_apart  # noqa: PLC0415
        from securefl.secure import secured  # noqa: PLC0415

        return secured(round_apart(), self.about.protocol)

    @property
    def suite(self) -> str:
        """The suite string of its rounds."""
        return self.about.protocol.suite(self.about.parameters)

    @cached_property
    def policy(self) -> Policy:
        """What a party of this job asks of every sum: its protocol, its smallest cohort, and nobody who is not registered."""
        policy = short_sums(self.job.privacy).policy
        known = frozenset(member.identity for member in self.cohort.members)
        least = self.job.privacy.min_cohort or 2
        return replace(policy, min_cohort=least, registered=known, suites=frozenset({self.suite}))

    def terms(self, occasion: Occasion, cohort: Roster | None = None) -> Terms[Any]:
        """The terms of a sum of those whom its round invites: ``cohort``, or all."""
        return self.about.protocol.terms(occasion, cohort or self.cohort, self.about.parameters)
