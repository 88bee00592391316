"""How a site trains and encodes by the ``[privacy]`` of a job: made here for a run and for the audit that measures it.

What it does not protect: see `securefl.privacy.dpsgd`; without a mechanism, nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from protocols.errors import Misuse
from protocols.plugins import AUTO
from protocols.rand import Entropy
from protocols.sums import scheme
from securefl.encode import Encoding, Plan, SumSpec
from securefl.errors import UserError
from securefl.privacy.plain import LocalTraining, PlainTraining

if TYPE_CHECKING:
    from securefl.job import PrivacyKnobs
    from securefl.privacy.events import Event
    from securefl.privacy.party import Account

UNITS = {"local-record": "record", "distributed-party": "party"}
"""What one ε protects, by mechanism."""


def noise_of(knobs: PrivacyKnobs, models_per_record: int = 1) -> float | None:
    """The noise multiplier that the job's ε asks for over all its steps; None where training itself adds no noise.

    Args:
        knobs: of the job.
        models_per_record: in how many models, trained side by side, one record takes part.

    Raises:
        UserError: for an ε that the accountant cannot prove with any noise.
    """
    if knobs.mechanism != "local-record":
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


def encoding_of(knobs: PrivacyKnobs, parties: int, blocks: tuple[int, ...], sums: tuple[SumSpec, ...]) -> Encoding:
    """How updates become the integers of a sum: with noise in it for ``distributed-party``.

    Args:
        knobs: of the job.
        parties: parties invited.
        blocks: length of each update block.
        sums: metrics that are opened beside the updates where no noise is in the sum.

    Raises:
        UserError: for a protocol that does not hide single updates, or noise that cannot be.
    """
    if knobs.mechanism != "distributed-party":
        return Plan(parties, blocks, knobs.update_clip, knobs.w_max, sums, knobs.precision)
    from securefl.privacy.noise_plan import Cohort, calibrate_distributed  # noqa: PLC0415  (scipy's transforms load with it)
    from securefl.privacy.party import PartyLevel  # noqa: PLC0415

    protocol = scheme("secagg" if knobs.protocol == AUTO else knobs.protocol)
    if not protocol.hides:
        raise UserError(
            f"{protocol.name} shows every update with a share of the noise alone: distributed-party needs one that hides them"
        )
    of_sum = protocol.parameters(parties, 1, 1, threshold=knobs.threshold)
    cohort = Cohort(parties, of_sum.threshold, of_sum.corrupt)
    plan = calibrate_distributed(
        epsilon=knobs.epsilon,
        delta=knobs.delta,
        cohort=cohort,
        rounds=knobs.rounds,
        size=sum(blocks),
        clip=knobs.update_clip,
        kind=knobs.noise,
    )
    return PartyLevel(plan, blocks)


def accounts(encoding: Encoding, parties: Iterable[str]) -> dict[str, Account]:
    """An account for every party where noise is in the sum; else none."""
    if not encoding.tail:
        return {}
    from securefl.privacy.party import Account, PartyLevel  # noqa: PLC0415

    if not isinstance(encoding, PartyLevel):
        raise Misuse(f"nobody accounts for the noise of a {type(encoding).__name__}")
    return {name: Account(encoding.plan) for name in parties}


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
        return plain(DpSgdEvent(noise_multiplier, knobs.sample_rate, knobs.local_steps * models_per_record))
    event = settled(encoding, None)
    return None if event is None else plain(event)


def settled(encoding: Encoding, survivors: int | None) -> Event | None:
    """What a round over so many cost each party in it, where that depends on them; None for the fewest, or where nobody knows."""
    if not encoding.tail:
        return None
    from securefl.privacy.party import PartyLevel  # noqa: PLC0415

    if not isinstance(encoding, PartyLevel):
        raise Misuse(f"nobody accounts for the noise of a {type(encoding).__name__}")
    return encoding.plan.event(encoding.plan.cohort.smallest if survivors is None else survivors)


def forecast(encoding: Encoding) -> str:
    """One line on what the noise in the sum does to a mean update."""
    from securefl.privacy.party import PartyLevel, expectation  # noqa: PLC0415

    return expectation(encoding.plan) if isinstance(encoding, PartyLevel) else ""


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
