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
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from protocols.flow import Flow
from protocols.rand import Entropy
from protocols.suite import Occasion, Roster, Terms
from securefl.cohort import short_sums
from securefl.data.public import Public, public_of
from securefl.encode import limit_of
from securefl.errors import UserError
from securefl.metrics import BinaryMetrics
from securefl.results import Preparation
from securefl.run_terms import RunTerms
from securefl.scaling import Scaler, from_ranges

if TYPE_CHECKING:
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
    tree["data"]["contract"] = None if job.data.contract is None else job.data.contract.digest
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
    """Whether a run's name ends in this job's hash."""
    return run.endswith(f"-{_text(job)}")


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
            ("data.scaling = noised", job.data.scaling == "noised"),
            ("privacy.patience", job.privacy.patience is not None),
            ("performance.handshake_rounds above 1", (job.performance.handshake_rounds or 1) > 1),
        ):
            if given:
                raise UserError(f"{key} is refused over a network: it is for simulations yet")
        made = cls(job, cohort, public_of(job), bundle, code)
        made.about  # noqa: B018  (refused here, not in the first round)
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
        from securefl.models import to_vector  # noqa: PLC0415

        return RunTerms.of(
            self.job,
            len(self.cohort),
            to_vector(self.template).size,
            copy.deepcopy(self.trainer).sums(),
            models=self.job.data.splits,
            models_per_record=max(1, self.job.data.splits - 1),
        )

    @property
    def scaler(self) -> Scaler:
        """How rows become features: by public ranges."""
        return from_ranges(self.public.ranges)

    @property
    def preparation(self) -> Preparation:
        """The same for the model's file."""
        made, public = self.scaler, self.public
        low, high = (None if part is None else tuple(map(float, part)) for part in (made.low, made.high))
        columns = tuple(asdict(coding) for coding in public.codings)
        return Preparation(
            public.features, public.classes, columns, (*map(float, made.shift),), (*map(float, made.scale),), low, high
        )

    @cached_property
    def flow(self) -> Flow:
        """One round."""
        from securefl.apart import round_apart  # noqa: PLC0415
        from securefl.secure import secured  # noqa: PLC0415

        return secured(round_apart(), self.about.protocol)

    @cached_property
    def policy(self) -> Policy:
        """What a party of this job asks of every sum: its protocol, its smallest cohort, and nobody who is not registered."""
        policy = short_sums(self.job.privacy).policy
        known = frozenset(member.identity for member in self.cohort.members)
        suite = self.about.protocol.suite(self.about.parameters)
        least = self.job.privacy.min_cohort or 2
        return replace(policy, min_cohort=least, registered=known, suites=frozenset({suite}))

    def terms(self, occasion: Occasion, cohort: Roster | None = None) -> Terms[Any]:
        """The terms of a sum of those whom its round invites: ``cohort``, or all."""
        return self.about.protocol.terms(occasion, cohort or self.cohort, self.about.parameters)
