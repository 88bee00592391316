"""Differential privacy of records by noise inside the sum (secure DP-SGD): the encoding of a step, and one that trusts the server.

The unit is a record, added or removed, over all rounds.  Every round is one step: parties add up clipped gradients of a Poisson
sample in whole numbers, rotate exactly, round ⌊s + U⌋ without a condition, add their share of noise; the server divides the noised
sum by a public number and steps along it.  Nothing exact leaves beside it, no size of a batch, no weight, no metric.

`Central` is the same step with the noise added by the server, for comparison alone.

Sources: sums of noise as in `securefl.privacy.noised`, the step as in Abadi et al. (CCS 2016), sampling in secret and unconditional
rounding as in docs/privacy.md.

What it does not protect: each site knows its own sample, so against itself its records have no amplification by it; against other
parties, at most |C| of them, and the server they have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.errors import Misuse
from protocols.rand import Entropy, Rand, fresh
from protocols.suite import Occasion
from securefl.encoding import Decoded, Encoded
from securefl.privacy.composition import spent
from securefl.privacy.events import Covered, DpSgdEvent
from securefl.privacy.noised_sum import NoisedSum, refuse_sums
from securefl.privacy.party import rotation
from securefl.privacy.record_plan import RecordPlan, check_records, on_radius, wide_enough
from securefl.privacy.rounding import norm_bounds, rotate_back, rotate_whole, round_sum
from securefl.privacy.samplers import drawn

FINE = 2.0**16
"""Steps of the grid, times √d, in a record's bound where no noise hides the rounding: it adds 2^-16 to the norm."""


@dataclass(frozen=True)
class RecordLevel(NoisedSum):
    """An `securefl.encoding.Encoding` of sums of clipped gradients, with noise in the sum.

    Attributes:
        plan: sampling, grid, noise and width.
        learning_rate: step size along the mean gradient.
    """

    plan: RecordPlan
    learning_rate: float

    @property
    def blocks(self) -> tuple[int, ...]:
        """Length of each model's gradient."""
        return (self.plan.size,) * self.plan.models

    @property
    def clip(self) -> float:
        """Bound of the L2 norm of a record's gradient."""
        return self.plan.clip

    @property
    def size(self) -> int:
        """Coordinates of all models, each padded to a power of two."""
        return self.plan.dimension * self.plan.models

    @property
    def state(self) -> tuple[float, ...]:
        """None."""
        return ()

    def at(self, _state: NDArray[np.float32]) -> RecordLevel:
        """The same in every round."""
        return self

    def encode(
        self, updates: Sequence[ArrayLike], _weights: Sequence[int], sums: Mapping[str, ArrayLike], occasion: Occasion, rand: Rand
    ) -> Encoded:
        """Rotate, round without a condition, add noise, each model for itself.

        Args:
            updates: for each model the sum of its clipped gradients in whole numbers, shape (plan.size,), int64.
            sums: none.
            occasion: names the rotation.
            rand: source of rounding and noise.

        Raises:
            UserError: for sums, which would leave without noise.
            Misuse: for another number, shape or dtype.
        """
        refuse_sums(sums)
        totals = [np.asarray(update) for update in updates]
        if [(t.shape, t.dtype) for t in totals] != [((size,), np.dtype(np.int64)) for size in self.blocks]:
            raise Misuse(f"{len(self.blocks)} sums of {self.plan.size} whole numbers are encoded, not {len(totals)} of other kinds")
        signs = rotation(occasion)
        return Encoded(np.concatenate([self._block(t, signs, rand.child(f"model {i}")) for i, t in enumerate(totals)]), (), ())

    def _block(self, total: NDArray[np.int64], signs: object, rand: Rand) -> NDArray[np.int64]:
        scaled = rotate_whole(total, signs) * 2.0**-self.plan.shift  # type: ignore[arg-type]
        whole = round_sum(scaled, rand.child("rounding"))
        whole += self.noise(rand)
        return whole

    def noise(self, rand: Rand) -> NDArray[np.int64]:
        """One party's share of the noise for one model, shape (plan.dimension,), int64."""
        return drawn(self.plan.kind, rand, "noise", self.plan.dimension, self.plan.share)

    def decode(self, total: NDArray[np.int64], contributors: int, occasion: Occasion) -> Decoded:
        """The step of each model: −learning rate × noised sum / (rate × public rows of those in the sum).

        Raises:
            Misuse: for another shape or dtype, or an impossible number of contributors.
        """
        if total.shape != (self.size,) or total.dtype != np.int64:
            raise Misuse(f"a total has shape ({self.size},) and dtype int64, not {total.shape} and {total.dtype}")
        if not 1 <= contributors <= self.parties:
            raise Misuse(f"contributors must be 1 to {self.parties}, not {contributors}")
        signs, unit = rotation(occasion), -self.learning_rate * self.plan.granularity / self.plan.expected_batch(contributors)
        parts = np.split(total.astype(np.float64), self.plan.models)
        updates = tuple(rotate_back(part * unit, signs, self.plan.size) for part in parts)
        return Decoded(updates, (contributors,) * self.plan.models, {})

    def forecast(self) -> str:
        """One line on what the noise does to a step."""
        n = self.parties
        batch = max(1, round(self.plan.expected_batch(n)))
        return (
            f"noise inside the sum: a step's mean gradient over about {batch} record{'s' * (batch != 1)}, each of at most "
            f"{self.clip:g}, carries an error of norm about {self.plan.error(n):.3g} "
            f"({self.plan.noise_multiplier(n):.3g} clips of noise in the sum)"
        )


@dataclass(frozen=True)
class Central(RecordLevel):
    """The same sums without noise of the parties: the server opens them exactly and adds Gaussian noise.  It is trusted with them.

    Attributes:
        multiplier: standard deviation of the server's noise, divided by the norm that a record can have in the sum.
        entropy: where the server's noise comes from.
    """

    multiplier: float = math.inf
    entropy: Entropy = fresh

    def noise(self, rand: Rand) -> NDArray[np.int64]:  # noqa: ARG002
        """None."""
        return np.zeros(self.plan.dimension, dtype=np.int64)

    @cached_property
    def deviation(self) -> float:
        """Standard deviation of the server's noise on a coordinate of the sum, in units of the gradient."""
        _, moved, _ = norm_bounds(self.plan.radius, self.plan.dimension, 0.0)
        return self.multiplier * moved * self.plan.granularity

    def decode(self, total: NDArray[np.int64], contributors: int, occasion: Occasion) -> Decoded:
        """As without: then the server's noise is added to the exact sums."""
        import torch  # noqa: PLC0415

        from securefl.privacy.noise import gaussian  # noqa: PLC0415

        exact, rand = super().decode(total, contributors, occasion), self.entropy()
        scale = self.learning_rate * self.deviation / self.plan.expected_batch(contributors)
        updates = tuple(
            update + scale * gaussian(rand, f"model {i}", (self.plan.size,), 1.0, dtype=torch.float64).numpy()
            for i, update in enumerate(exact.updates)
            if update is not None
        )
        return replace(exact, updates=updates)

    def event(self, _survivors: int | None) -> None:
        """None: the server's noise does not depend on them."""
        return

    def account(self, accountant: str, before: tuple[Covered, ...]) -> CentralAccount:
        """What a party's records spend, by the sampled Gaussian mechanism."""
        return CentralAccount(self, accountant, before=before)

    def forecast(self) -> str:
        """One line on who is trusted."""
        return (
            "central is for comparison: the server opens the exact sum of clipped gradients and adds the noise itself; its ε holds "
            "against whoever gets the model, not against the server, which is trusted"
        )


def central_plan(draft: RecordPlan) -> RecordPlan:
    """The draft without noise of the parties, on a grid that is fine beside a gradient.

    Raises:
        UserError: for a value out of range.
    """
    check_records(draft)
    return wide_enough(replace(on_radius(draft, FINE * math.sqrt(draft.dimension)), share=0.0))


@dataclass
class CentralAccount:
    """What the steps that one party's sums went into have spent, by Opacus' accountant of the sampled Gaussian mechanism.

    Attributes:
        encoding: of the run.
        accountant: ``rdp`` or ``prv``.
        steps: rounds so far.
        before: what was opened before, under the same ε.
    """

    encoding: Central
    accountant: str
    steps: int = 0
    before: tuple[Covered, ...] = ()

    def charge(self, _survivors: int | None) -> None:
        """The party's masked input has left."""
        self.steps += 1

    @property
    def epsilon(self) -> float:
        """ε of a record at the plan's δ, as far as it is spent, against those who see the noised steps."""
        plan, steps = self.encoding.plan, self.steps * self.encoding.plan.models_per_record
        happened = [DpSgdEvent(self.encoding.multiplier, plan.rate, steps)] if steps else []
        return spent([(event, 1) for event in (*self.before, *happened)], plan.delta, self.accountant).epsilon
