"""How a site trains and encodes by the ``[privacy]`` of a job: made here for a run and for the audit that measures it.

What it does not protect: see `securefl.privacy.dpsgd`; without a mechanism, nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from protocols.errors import Misuse
from protocols.plugins import AUTO
from protocols.rand import Entropy
from protocols.sums import scheme
from securefl.encode import Plan
from securefl.encoding import Encoding, SumSpec
from securefl.errors import UserError
from securefl.privacy.composition import ALONE, Before
from securefl.privacy.plain import LocalTraining, PlainTraining

if TYPE_CHECKING:
    from securefl.knobs import PrivacyKnobs
    from securefl.privacy.noise_plan import Cohort
    from securefl.privacy.record import RecordLevel

UNITS = {"local-record": "record", "distributed-party": "party", "distributed-record": "record", "central": "record"}
"""What one ε protects, by mechanism."""


def noise_of(knobs: PrivacyKnobs, models_per_record: int = 1, before: Before = ALONE) -> float | None:
    """The noise multiplier that the job's ε asks for over all its steps; None where nobody adds Gaussian noise.

    Args:
        knobs: of the job.
        models_per_record: in how many models, trained side by side, one record takes part.
        before: what was opened before, under the same ε.

    Raises:
        UserError: for an ε that the accountant cannot prove with any noise; for the prv accountant beside integer noise.
    """
    if knobs.mechanism not in ("local-record", "central"):
        return None
    if before.planned:
        if knobs.accountant != "rdp":
            raise UserError(f"accountant {knobs.accountant} is refused beside noised statistics, whose noise rdp alone knows")
        from securefl.privacy.composition import noise_beside  # noqa: PLC0415

        return noise_beside(
            before.planned,
            epsilon=knobs.epsilon,
            delta=knobs.delta,
            sample_rate=knobs.sample_rate,
            steps=knobs.rounds * knobs.steps * models_per_record,
        )
    from securefl.privacy.accountant import calibrate  # noqa: PLC0415  (Opacus loads in 3 s)

    return calibrate(
        epsilon=knobs.epsilon,
        delta=knobs.delta,
        sample_rate=knobs.sample_rate,
        steps=knobs.rounds * knobs.steps,
        accountant=knobs.accountant,
        models_per_record=models_per_record,
    )


def encoding_of(
    knobs: PrivacyKnobs,
    parties: int,
    blocks: tuple[int, ...],
    sums: tuple[SumSpec, ...],
    *,
    models_per_record: int | None = None,
    learning_rate: float = 1.0,
    before: Before = ALONE,
) -> Encoding:
    """How updates become the integers of a sum: with noise in it for ``distributed-party`` and ``distributed-record``.

    Args:
        knobs: of the job.
        parties: parties invited.
        blocks: length of each update block.
        sums: metrics that are opened beside the updates where no noise is in the sum.
        models_per_record: in how many of the blocks one record takes part; by default in all.
        learning_rate: step size along a mean gradient over all sites.
        before: what was opened before, under the same ε of a record.

    Raises:
        UserError: for a protocol that does not hide single updates, or noise that cannot be.
        Misuse: for statistics before a mechanism whose ε is of no record.
    """
    if before.planned and UNITS.get(knobs.mechanism) != "record":
        raise Misuse(f"the ε of {knobs.mechanism} is of no record: noised sums of records cannot be under it")
    if knobs.mechanism in ("none", "local-record"):
        return Plan(parties, blocks, knobs.update_clip, knobs.w_max, sums, knobs.precision)
    from securefl.privacy.adaptive import AdaptiveClip  # noqa: PLC0415
    from securefl.privacy.noise_plan import Cohort, calibrate_distributed  # noqa: PLC0415  (scipy's transforms load with it)
    from securefl.privacy.party import PartyLevel  # noqa: PLC0415

    protocol = scheme("secagg" if knobs.protocol == AUTO else knobs.protocol)
    if not protocol.hides:
        shown = "exactly" if knobs.mechanism == "central" else "with a share of the noise alone"
        raise UserError(f"{protocol.name} shows every update {shown}: {knobs.mechanism} needs one that hides them")
    of_sum = protocol.parameters(parties, 1, 1, threshold=knobs.threshold)
    cohort = Cohort(parties, of_sum.threshold, of_sum.corrupt)
    if knobs.summed:
        return _of_records(knobs, cohort, blocks, models_per_record or len(blocks), learning_rate, before)
    quantile = knobs.clip_quantile
    adaptive = None if quantile is None else AdaptiveClip(knobs.update_clip, quantile)
    plan = calibrate_distributed(
        epsilon=knobs.epsilon,
        delta=knobs.delta,
        cohort=cohort,
        rounds=knobs.rounds,
        size=sum(blocks) + (adaptive is not None),
        clip=knobs.update_clip if adaptive is None else 1.0,
        kind=knobs.noise,
    )
    return PartyLevel(plan, blocks, adaptive)


def _of_records(
    knobs: PrivacyKnobs, cohort: Cohort, blocks: tuple[int, ...], models_per_record: int, learning_rate: float, before: Before
) -> RecordLevel:
    from securefl.privacy.record import Central, RecordLevel, central_plan  # noqa: PLC0415
    from securefl.privacy.record_plan import RecordPlan, calibrate_records  # noqa: PLC0415

    if knobs.rows is None:
        raise UserError(
            f"privacy.rows is missing: {knobs.mechanism} divides the sum over all sites by the public number of rows that a "
            "site is expected to have: a whole number from 1 on, such as --rows 100"
        )
    if len(set(blocks)) != 1:
        raise Misuse(f"models trained side by side have one size, not {sorted(set(blocks))}")
    if knobs.mechanism == "central":
        draft = RecordPlan(
            knobs.noise, cohort, knobs.epsilon, knobs.delta, knobs.rounds, blocks[0], knobs.clip, knobs.sample_rate, knobs.rows,
            len(blocks), models_per_record,
        )  # fmt: skip
        plan, multiplier = central_plan(draft), noise_of(knobs, models_per_record, before)
        return Central(plan, learning_rate, multiplier or math.inf)
    plan = calibrate_records(
        epsilon=knobs.epsilon,
        delta=knobs.delta,
        cohort=cohort,
        rounds=knobs.rounds,
        size=blocks[0],
        clip=knobs.clip,
        rate=knobs.sample_rate,
        rows=knobs.rows,
        models=len(blocks),
        models_per_record=models_per_record,
        kind=knobs.noise,
        before=before.planned,
    )
    return RecordLevel(plan, learning_rate)


def event_of(
    knobs: PrivacyKnobs, encoding: Encoding, noise_multiplier: float | None, models_per_record: int = 1
) -> dict[str, Any] | None:
    """What one round costs a party, as plain data; where that depends on the survivors, as if the fewest did.

    Args:
        knobs: of the job.
        encoding: of its rounds.
        noise_multiplier: from `noise_of`.
        models_per_record: in how many models one record takes part.
    """
    from securefl.privacy.events import DpSgdEvent, plain  # noqa: PLC0415

    if noise_multiplier is not None:
        return plain(DpSgdEvent(noise_multiplier, knobs.sample_rate, knobs.steps * models_per_record))
    event = encoding.event(None)
    return None if event is None else plain(event)


def local_training(
    knobs: PrivacyKnobs,
    *,
    noise_multiplier: float | None,
    entropy: Entropy,
    planned_steps: int | None = None,
    encoding: Encoding | None = None,
) -> LocalTraining:
    """How one site trains one model.

    Args:
        knobs: of the job.
        noise_multiplier: from `noise_of`; None trains without noise.
        entropy: gives fresh randomness for each round's sampling and each step's noise.
        planned_steps: steps over all rounds; by default the job's.
        encoding: of the run; where its sums are over records, training gives those.
    """
    if knobs.summed:
        from securefl.privacy.gradients import GradientSums  # noqa: PLC0415
        from securefl.privacy.record import RecordLevel  # noqa: PLC0415

        if not isinstance(encoding, RecordLevel):
            raise Misuse(f"{knobs.mechanism} trains for sums over records, not for {type(encoding).__name__}")
        return GradientSums(encoding.plan, entropy)
    if noise_multiplier is None:
        return PlainTraining(sample_rate=knobs.sample_rate, entropy=entropy)
    from securefl.privacy.dpsgd import LocalRecordDP  # noqa: PLC0415

    return LocalRecordDP(
        noise_multiplier=noise_multiplier,
        sample_rate=knobs.sample_rate,
        clip=knobs.clip,
        delta=knobs.delta,
        accountant=knobs.accountant,
        planned_steps=knobs.rounds * knobs.steps if planned_steps is None else planned_steps,
        expected_rows=knobs.rows,
        entropy=entropy,
    )
