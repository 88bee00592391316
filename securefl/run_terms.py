"""What everybody in a run works out alone, from the job, the number of parties and the size of the model: nobody is believed.

Server and parties each make it for themselves; where they differ, their session identities do, and nothing opens.

What it does not protect: two parties with other jobs are merely kept apart; who has the right one, nobody says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from protocols.bulk import Floats
from protocols.cost import EXPECTED
from protocols.suite import SumParameters
from protocols.sums import Scheme, chosen
from protocols.wire import Limits
from securefl import places
from securefl.algorithms import of_job
from securefl.algorithms.groups import refuse_lonely
from securefl.algorithms.wrapped import Shapes, wrapped
from securefl.cohort import cohort_size, smallest_cohort
from securefl.encoding import Encoding, SumSpec
from securefl.errors import UserError
from securefl.ledger import NOISED, opened_in_training
from securefl.privacy.composition import ALONE, Before
from securefl.privacy.prepared import encoding_of, event_of, noise_of

if TYPE_CHECKING:
    from securefl.algorithms import Algorithm
    from securefl.job import Job
    from securefl.knobs import PrivacyKnobs
    from securefl.results import Opened
    from securefl.trainer import ClientTrainer


@dataclass(frozen=True, eq=False)
class RunTerms:
    """The public side of a run.

    Attributes:
        job: the knobs.
        parties: n, number of parties that a round invites.
        models: how many models are trained side by side.
        models_per_record: in how many of them one record takes part.
        plan: how updates become the vector of the first round's sum.
        protocol: of the sums.
        choice: for ``auto`` one line on why.
        parameters: of every sum.
        weight: public weight of every site, or None: its rows.
        algorithm: what sites and server do.
        before: noised sums of the same records that were opened before: ε is over these and the training.
        beside: how many public values of the run travel behind the models and the encoding's, float32.
    """

    job: Job
    parties: int
    models: int
    models_per_record: int
    plan: Encoding
    protocol: Scheme
    choice: str
    parameters: SumParameters
    weight: int | None
    algorithm: Algorithm
    before: Before = ALONE
    beside: int = 0

    @classmethod
    def of(
        cls,
        job: Job,
        parties: int,
        size: int,
        sums: tuple[SumSpec, ...],
        *,
        models: int = 1,
        models_per_record: int | None = None,
        own_flow: bool = False,
        before: Before = ALONE,
        beside: int = 0,
        algorithm: Algorithm | None = None,
        shapes: Shapes | None = None,
    ) -> RunTerms:
        """Work it out.

        Args:
            job: the knobs.
            parties: how many are registered; the job may invite fewer to a round.
            size: d, trainable parameters of one model.
            sums: metrics that a trainer adds to the sum.
            models: how many models are trained side by side.
            models_per_record: in how many of them one record takes part; by default in all.
            own_flow: whether a local flow of the user's own says what a site weighs.
            before: what was opened before, under the same ε.
            beside: how many public values of the run travel with the models.
            algorithm: what sites and server do; by default as the job says.
            shapes: of the parameters of a model, in the order of its vector; by default one vector.

        Raises:
            UserError, Misuse: where a round could not finish, or a parameter would not be safe.
        """
        knobs, each = job.privacy, models if models_per_record is None else models_per_record
        registered, parties = parties, cohort_size(knobs, parties)
        smallest_cohort(knobs, parties)
        algorithm = algorithm or of_job(job)
        algorithm.refuse(job)
        sums = (*sums, *places.specs(job), *algorithm.specs(job, models))
        blocks = (size,) * (models * (1 + algorithm.extra))
        rate = job.performance.learning_rate

        def inside(lengths: tuple[int, ...]) -> Encoding:
            return encoding_of(knobs, parties, lengths, sums, models_per_record=each, learning_rate=rate, before=before)

        plan = wrapped(job, algorithm, parties, blocks, shapes, sums, inside)
        _check_delta(knobs, registered)
        of_sum = {"bits": plan.bits, "threshold": knobs.threshold, **({"tail": plan.tail} if plan.tail else {})}
        lost = job.simulation.dropout or EXPECTED
        protocol, choice = chosen(knobs.protocol, parties, plan.size, plan.limit, dropout=lost, **of_sum)
        build: Any = protocol.noised if plan.tail else protocol.parameters
        parameters = build(parties, plan.size, plan.limit, **of_sum)
        if knobs.groups is not None:
            refuse_lonely(knobs.groups, parameters.threshold, parameters.corrupt, knobs.rounds)
        weight = knobs.w_max if (knobs.rows is not None or algorithm.uniform) and not own_flow else None
        return cls(job, parties, models, each, plan, protocol, choice, parameters, weight, algorithm, before, beside)

    def start(self, model: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """What the first round begins with: the models, then the algorithm's further vectors, all zero."""
        return [model] * self.models + [np.zeros_like(model)] * (self.models * self.algorithm.extra)

    def metrics(self, trainer: ClientTrainer, sums: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Metrics of a round out of its sums: the trainer's, and where sites stand."""
        if not self.plan.sums:
            return {}
        others = {spec.name for spec in (*places.specs(self.job), *self.algorithm.specs(self.job, self.models))}
        return {**trainer.read({name: values for name, values in sums.items() if name not in others}), **places.read(sums)}

    @property
    def layout(self) -> Floats:
        """How the global models travel, with the public values of the encoding and of the run behind them."""
        return Floats(sum(self.plan.blocks) + len(self.plan.state) + self.beside)

    @property
    def limits(self) -> Limits:
        """Sizes of a round's session."""
        return Limits(self.parties, {**self.protocol.layouts(self.parameters), "model": self.layout})

    @property
    def noise_multiplier(self) -> float | None:
        """Of a site's own Gaussian noise, or the server's; None where nobody adds any."""
        return noise_of(self.job.privacy, self.models_per_record, self.before)

    def opened(self, rounds: int, noise_multiplier: float | None) -> list[Opened]:
        """What so many rounds open; ``noise_multiplier`` is that of the accounts."""
        own = {spec.name for spec in (*places.specs(self.job), *self.algorithm.specs(self.job, self.models))}
        return opened_in_training(
            rounds,
            mechanism=self.job.privacy.mechanism,
            sums=[spec.name for spec in self.plan.sums if spec.name not in own],
            beside=self.algorithm.opened(),
            counted=places.TOLD if self.job.privacy.places else {},
            groups=self.job.privacy.groups,
            hidden=self.protocol.hides,
            public_rows=self.weight is not None,
            event=event_of(self.job.privacy, self.plan, noise_multiplier, self.models_per_record),
        )


def _check_delta(knobs: PrivacyKnobs, registered: int) -> None:
    """Noise in a sum is sized for a cohort; δ must be small beside all who may be in one.

    Raises:
        UserError: where it is not below one over the registered parties, or their records.
    """
    if knobs.clients_per_round is None or knobs.mechanism not in NOISED:
        return
    units = registered * (knobs.rows or 1 if knobs.summed else 1)
    if knobs.delta * units >= 1:
        raise UserError(f"privacy.delta is {knobs.delta:g}: it must lie below 1 over all parties or records, {1 / units:g}")
