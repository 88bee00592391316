"""What is measured of a mechanism: named checks, each for the mechanisms that it is made for.

A mechanism joins by an entry in `MECHANISMS` and by checks that name it, or by being trained through the same seam
(`Setting.training`): then those of ``local-record`` serve it as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.rand import Entropy, Rand, Replay
from securefl.audit.measured.epsilon import Measured
from securefl.audit.verdict import Verdict, stated, untold
from securefl.encoding import Encoding
from securefl.errors import UserError
from securefl.job import Job
from securefl.privacy.plain import LocalTraining
from securefl.privacy.prepared import local_training, noise_of

MECHANISMS: dict[str, str] = {
    "local-record": "record",
    "distributed-record": "record",
    "distributed-party": "party",
    "central": "record",
    "none": "record",
}
"""Mechanism → its unit: what ε protects, or would."""
RECORDS = ("local-record", "none")
"""Those whose sites train as `Setting.training` has them, and whose sums are as exact as they can be."""
IN_SUM = ("distributed-party", "distributed-record")
"""Those that put noise into the sum."""
SUMMED = ("distributed-record", "central")
"""Those whose sums are over records: a round is one step over all sites."""
ANY_SUM = (*IN_SUM, "central")
"""Those whose noise is in the sum, or is added to it by the server."""
ASKED = (9, 10, 25, 33, 34, 35)
"""Rows that every mechanism is asked about: measured, or said why not."""
UNASKED: dict[str, dict[int, str]] = {
    "local-record": {
        9: "a site's ε counts its own noise alone, so a difference of sums tells no more than the site's own steps, which "
        "epsilon-gradients sees bare",
        25: "it adds no noise in sums, and their keys are the protocol's: securefl audit PROTOCOL plays it",
        35: "no ε rests on another party's noise",
    },
    "none": {
        9: "no ε is claimed, and what two exact sums differ by lies open: securefl audit PROTOCOL shows it",
        25: "its sums are the protocol's: securefl audit PROTOCOL plays it",
        34: "no ε is claimed that could be charged",
        35: "there is no noise",
    },
    "central": {
        9: "the server opens exact sums, and is trusted with them (central-trust)",
        35: "the noise is the server's own (central-variance), and exact sums go to it by design (central-trust)",
    },
}
"""Mechanism → row of `ASKED` → why nothing is measured there."""
PARTIES, BLOCKS, MODELS, ROWS = 12, (700, 324), (324, 324), 100
"""Parties, lengths of the blocks of an update, of the gradients of models side by side, and rows a site, where no job says so."""


@dataclass(frozen=True)
class Setting:
    """A mechanism as configured.

    Attributes:
        job: whose ``[privacy]`` it is.
        seed: of everything random: canaries, noise, sampling; a measurement repeats.
        quick: whether less is tried.
        parties: invited to a sum with noise in it.
        blocks: lengths of the blocks of an update in such a sum; None for those of no job.
    """

    job: Job
    seed: str = "audit"
    quick: bool = True
    parties: int = PARTIES
    blocks: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """The mechanism's name."""
        return self.job.privacy.mechanism

    @property
    def unit(self) -> str:
        """What ε protects, or would."""
        return MECHANISMS[self.name]

    @property
    def in_sum(self) -> bool:
        """Whether the noise is in the sum, or is added to it."""
        return self.name in ANY_SUM

    @property
    def server(self) -> bool:
        """Whether the noise is the server's own, which opens exact sums."""
        return self.in_sum and self.name not in IN_SUM

    @property
    def summed(self) -> bool:
        """Whether the sums are over records."""
        return self.name in SUMMED

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the blocks of an update, or of the gradients of the models."""
        return self.blocks or (MODELS if self.summed else BLOCKS)

    @property
    def private(self) -> bool:
        """Whether an ε is claimed."""
        return self.name != "none"

    @property
    def claimed(self) -> float:
        """ε over all rounds; infinite where none is claimed."""
        return self.job.privacy.epsilon if self.private else math.inf

    @property
    def delta(self) -> float:
        """δ at which ε is stated; without a claim that of the job's defaults."""
        return self.job.privacy.delta

    @property
    def steps(self) -> int:
        """Training steps over all rounds, in all models that one record takes part in."""
        return self.job.privacy.rounds * self.job.privacy.steps * self.models_per_record

    @property
    def models_per_record(self) -> int:
        """In how many of the models that are trained side by side one record takes part: in those of all folds but one."""
        splits = self.job.data.splits
        return splits - 1 if splits > 1 else len(self.lengths) if self.summed else 1

    def few(self, count: int, quick: int, full: int) -> int:
        """So many rounds or steps of the job, or the most that are tried."""
        return min(count, quick if self.quick else full)

    @cached_property
    def noise_multiplier(self) -> float:
        """The σ that the job's ε asks for, as training computes it; 0.0 without a mechanism."""
        return noise_of(self.job.privacy, self.models_per_record) or 0.0

    @cached_property
    def encoding(self) -> Encoding:
        """Of the sums of the job, as a run makes it."""
        from securefl.privacy.prepared import encoding_of  # noqa: PLC0415  (as a run: what is patched there is measured)

        knobs = self.job.privacy
        if self.summed:
            knobs = knobs.model_copy(update={"rows": knobs.rows or ROWS})
        return encoding_of(knobs, self.parties, self.lengths, (), models_per_record=self.models_per_record)

    def epsilon_of(self, noise_multiplier: float, steps: int, *, rate: float | None = None) -> float:
        """ε of so many steps with that noise, by the job's accountant; infinite without noise; ``rate`` is by default the job's."""
        from securefl.privacy import accountant  # noqa: PLC0415

        knobs = self.job.privacy
        sampled = knobs.sample_rate if rate is None else rate
        return accountant.epsilon_of(noise_multiplier, sampled, steps, knobs.delta, knobs.accountant)

    def training(self, rows: int, *, label: str, rate: float | None = None, size: int = 1) -> LocalTraining:
        """How one site trains one model under the mechanism, as `securefl.runner.Runner` has it train.

        Args:
            rows: public number by whose share a noised sum is divided.
            label: of its randomness.
            rate: sampling rate; by default the job's.
            size: coordinates of a gradient.
        """
        knobs = self.job.privacy
        chosen = knobs.sample_rate if rate is None else rate
        if self.summed:
            from securefl.audit.measured.records import site_of  # noqa: PLC0415  (it builds upon this module)

            return site_of(self, size, rate=chosen, label=label)
        return local_training(
            knobs.model_copy(update={"sample_rate": chosen, "rows": rows}),
            noise_multiplier=self.noise_multiplier if self.private else None,
            entropy=self.entropy(label),
            planned_steps=max(self.steps, 1000),
        )

    def entropy(self, label: str) -> Entropy:
        """Randomness that repeats, by label."""
        return Replay(f"{self.seed}: {label}")

    def rand(self, label: str) -> Rand:
        """One source of it."""
        return self.entropy(label)()

    def coins(self, label: str, count: int) -> NDArray[np.bool_]:
        """Fair coins, shape (count,): which canaries are in."""
        return (self.rand(label).words("coins", count) & np.uint64(1)).astype(np.bool_)

    def knobs(self, **change: Any) -> dict[str, Any]:
        """The job's ``[privacy]`` for a small job of one's own, with what is changed."""
        others = ("threshold", "min_cohort", "clients_per_round", "rows")
        tree = {name: value for name, value in self.job.plain()["privacy"].items() if name not in others}
        given = {**tree, "protocol": "auto", **change}
        if not self.summed:
            return given
        return {"rows": ROWS, **{name: value for name, value in given.items() if name != "local_steps"}}


Play = Callable[[Setting], Verdict]


@dataclass(frozen=True)
class Measure:
    """One thing that is measured.

    Attributes:
        check: its id.
        row: row of the catalogue that it belongs to.
        name: what is tried, in a few words.
        how: how, and how often it is wrong.
        play: measures it.
        on: mechanisms that it is made for; empty for all.
    """

    check: str
    row: int
    name: str
    how: str
    play: Play
    on: tuple[str, ...] = ()


MEASURES: list[Measure] = []
"""All of them, in order, once `securefl.audit.measured` is imported."""


def measure(check: str, row: int, name: str, *, how: str, on: Iterable[str] = ()) -> Callable[[Play], Play]:
    """Register a measurement."""

    def register(play: Play) -> Play:
        MEASURES.append(Measure(check, row, name, how, play, tuple(on)))
        return play

    return register


def known(name: str) -> str:
    """The name of a mechanism that can be measured.

    Raises:
        UserError: for any other.
    """
    if name not in MECHANISMS:
        raise UserError(f"nothing measures the mechanism {name}; there are {', '.join(MECHANISMS)}")
    return name


def flagged(check: str, why: str, measured: Measured | None = None) -> Verdict:
    """More is given away than is claimed."""
    return Verdict("broken", why, who="measurement", check=check, measured=measured)


def compared(check: str, setting: Setting, claimed: float, measured: Measured, what: str) -> Verdict:
    """A measured ε beside a claimed one: broken where what is refuted lies above it, untold where nothing above it could be."""
    measured = replace(measured, claimed=claimed)
    if not setting.private:
        found = f"none below {measured.lower:.2f} holds" if measured.lower else "these trials refute none"
        return replace(stated(f"{what}: no ε is claimed, and {found}"), measured=measured)
    if measured.lower > claimed:
        return flagged(check, f"{what}: ε = {claimed:.3g} is claimed, and refuted by {measured.line}", measured)
    if measured.cap < claimed:
        most = f"{measured.trials} trials show at most {measured.cap:.2f}, however much is given away"
        return untold(f"{what}: ε = {claimed:.3g} is claimed, and {most}", measured)
    return Verdict("harmless", f"{what}: within the ε of {claimed:.3g} that is claimed", measured=measured)
