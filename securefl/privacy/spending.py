"""What a run spends of ε: the account of every party, whatever its mechanism, made before training and charged as it goes.

Noise inside the sum is charged when a party's masked input leaves; training on a site charges its own account step by step.

What it does not protect: it counts this run alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from securefl.encoding import Encoding
from securefl.privacy.composition import ALONE, Before
from securefl.privacy.plain import LocalTraining
from securefl.privacy.prepared import UNITS

if TYPE_CHECKING:
    from securefl.knobs import PrivacyKnobs


class Spending:
    """The accounts of all parties of a run.

    Args:
        knobs: of the job.
        encoding: how updates become the integers of the sums.
        training: by party, for each model trained side by side, where its batches come from.
        models_per_record: in how many of the models one record takes part.
        before: what was opened before, under the same ε.
    """

    def __init__(
        self,
        knobs: PrivacyKnobs,
        encoding: Encoding,
        training: Mapping[str, tuple[LocalTraining, ...]],
        models_per_record: int,
        before: Before = ALONE,
    ) -> None:
        self._knobs, self._training, self._models_per_record = knobs, training, models_per_record
        self._encoding, self._before = encoding, before.happened
        made = {name: encoding.account(knobs.accountant, before.happened) for name in training}
        self._accounts = {name: account for name, account in made.items() if account is not None}

    @property
    def unit(self) -> str | None:
        """What one ε protects; None without differential privacy."""
        return UNITS.get(self._knobs.mechanism)

    @property
    def delta(self) -> float | None:
        """δ at which ε is stated; None without differential privacy."""
        return self._knobs.delta if self._knobs.mechanism != "none" else None

    @property
    def accountant(self) -> str | None:
        """What ε is computed with; None without differential privacy."""
        if self._accounts:
            return next(iter(self._accounts.values())).accountant
        return self._knobs.accountant if self._local else None

    @property
    def _local(self) -> bool:
        return self._knobs.mechanism == "local-record"

    @property
    def noise_multiplier(self) -> float | None:
        """Standard deviation of the noise on the sum of a step's clipped gradients, divided by the clip.

        A site's own, or the server's; None without, and where it depends on how many parties survive.
        """
        if (server := getattr(self._encoding, "multiplier", None)) is not None:
            return float(server)
        first: Any = next(iter(self._training.values()))[0]
        return first.noise_multiplier if self._local else None

    def epsilon(self) -> dict[str, float]:
        """ε spent by each party so far; empty without differential privacy."""
        if self._accounts:
            return {name: account.epsilon for name, account in self._accounts.items()}
        return {name: self._site(name, planned=False) for name in self._training} if self._local else {}

    def planned(self, name: str) -> float:
        """ε of a party once all rounds have run; infinite without differential privacy, or where the server has the exact sums."""
        if self._knobs.mechanism == "central":
            return math.inf
        if self._accounts:
            return self._knobs.epsilon
        return self._site(name, planned=True) if self._local else math.inf

    def _site(self, name: str, *, planned: bool) -> float:
        from securefl.privacy.dpsgd import site_epsilon  # noqa: PLC0415

        models: Any = self._training[name]
        return site_epsilon(models, self._models_per_record, planned=planned, before=self._before)

    def charge(self, left: Iterable[str], contributors: int | None) -> None:
        """Charge the parties whose masked input has ``left``; ``contributors`` is None where no sum is known of."""
        for name in left:
            if name in self._accounts:
                self._accounts[name].charge(contributors)
