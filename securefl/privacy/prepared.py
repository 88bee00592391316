"""How a site trains by the ``[privacy]`` of a job: made here for a run and for the audit that measures it, so that both are one.

What it does not protect: see `securefl.privacy.dpsgd`; without a mechanism, nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocols.rand import Entropy
from securefl.privacy.plain import LocalTraining, PlainTraining

if TYPE_CHECKING:
    from securefl.job import PrivacyKnobs


def noise_of(knobs: PrivacyKnobs, models_per_record: int = 1) -> float | None:
    """The noise multiplier that the job's ε asks for over all its steps; None without a mechanism.

    Args:
        knobs: of the job.
        models_per_record: in how many models, trained side by side, one record takes part.

    Raises:
        UserError: for an ε that the accountant cannot prove with any noise.
    """
    if knobs.mechanism == "none":
        return None
    from securefl.privacy.accountant import calibrate  # noqa: PLC0415  (Opacus loads in 3 s)

    return calibrate(
        epsilon=knobs.epsilon,
        delta=knobs.delta,
        sample_rate=knobs.sample_rate,
        steps=knobs.rounds * knobs.local_steps,
        accountant=knobs.accountant,
        models_per_record=models_per_record,
    )


def local_training(
    knobs: PrivacyKnobs, *, noise_multiplier: float | None, entropy: Entropy, planned_steps: int | None = None
) -> LocalTraining:
    """How one site trains one model.

    Args:
        knobs: of the job.
        noise_multiplier: from `noise_of`; None trains without noise.
        entropy: gives fresh randomness for each round's sampling and each step's noise.
        planned_steps: steps over all rounds; by default the job's.
    """
    if noise_multiplier is None:
        return PlainTraining(sample_rate=knobs.sample_rate, entropy=entropy)
    from securefl.privacy.dpsgd import LocalRecordDP  # noqa: PLC0415

    return LocalRecordDP(
        noise_multiplier=noise_multiplier,
        sample_rate=knobs.sample_rate,
        clip=knobs.clip,
        delta=knobs.delta,
        accountant=knobs.accountant,
        planned_steps=knobs.rounds * knobs.local_steps if planned_steps is None else planned_steps,
        expected_rows=knobs.rows,
        entropy=entropy,
    )
