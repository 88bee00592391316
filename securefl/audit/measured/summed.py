"""Sums with noise in them, as a job makes them: its encoding, its protocol, and one unit's contribution.

What is measured of noise inside a sum (`securefl.audit.measured.inside`, ``apart``, ``beside``) asks for no more than an
`securefl.encoding.Encoding` with a plan of its noise, and for what a unit (a party, a record) hands to it.  Sums are formed by
the ring or field of the protocol's own parameters and centred by it; `through_protocol` has real sessions form one.

What it does not show: what a run does before it encodes, or after it has decoded; `securefl.audit.measured.beside` plays runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols import simulate, sums
from protocols.plugins import AUTO
from protocols.rand import Replay
from protocols.schema import Message
from protocols.session import SERVER, Address, Session, client
from protocols.suite import Occasion, SumParameters
from protocols.vector import Vector
from securefl.audit.measured.registry import Setting
from securefl.encoding import Encoding
from securefl.errors import UserError
from securefl.privacy.divergence import DiscreteGaussianEvent, Event, epsilon_of_events
from securefl.privacy.noise_plan import NoisePlan
from securefl.privacy.record import Central
from securefl.privacy.record_plan import RecordPlan
from securefl.privacy.rounding import norm_bounds

Reals = NDArray[np.float64]
Whole = NDArray[np.int64]
Unit = Callable[[Encoding, Reals], Sequence[Reals]]
"""From a vector of all coordinates to what one unit with that contribution hands to `Encoding.encode`."""
OTHERS = 20
"""Records beside the one that is looked at."""
FALSE_ALARM = 1e-9
"""Probability with which each statistical check calls sound noise unsound."""


def of_party(encoding: Encoding, vector: Reals) -> list[Reals]:
    """A party's contribution is its whole update, block by block."""
    return np.split(vector, np.cumsum(encoding.blocks)[:-1])


@dataclass(frozen=True)
class Summed:
    """Sums of one job.

    Attributes:
        setting: whose randomness and effort it is.
        encoding: how contributions become integers; it says a sum's mean.
        plan: what the accountant was told of the noise in it.
        scheme: the protocol that adds up.
        unit: from a vector to what a unit hands in.
        rate: probability with which a unit is drawn by secret sampling; 1 where the server sees who takes part.
        drawn: `unit` with that sampling; None where nothing is drawn.
    """

    setting: Setting
    encoding: Encoding
    plan: NoisePlan | RecordPlan
    scheme: sums.Scheme
    unit: Unit = of_party
    rate: float = 1.0
    drawn: Unit | None = None

    @property
    def trusted(self) -> bool:
        """Whether the server adds the noise."""
        return isinstance(self.encoding, Central)

    @property
    def parts(self) -> int:
        """Sums of one round, each with an account of its own: one a model for records, one for whole updates."""
        return self.plan.models if isinstance(self.plan, RecordPlan) else 1

    @property
    def steps(self) -> int:
        """Sums over all rounds that a unit is in."""
        return self.plan.steps if isinstance(self.plan, RecordPlan) else self.plan.rounds

    @property
    def bounds(self) -> tuple[float, float]:
        """L2 and L1 norm, in steps of the grid, by which a unit moves one of the `parts` at most, as the accountant takes it."""
        if self.trusted:
            return norm_bounds(self.plan.radius, self.plan.dimension, 0.0)[1:]
        event = self.plan.event(self.encoding.parties)
        return event.delta2, event.delta1

    @property
    def coarseness(self) -> float:
        """By what share of its length a contribution may change before the grid: where it is rounded to whole numbers."""
        return math.sqrt(self.size) / self.plan.fixed if isinstance(self.plan, RecordPlan) else 0.0

    def spent(self, survivors: int, rounds: int = 1, *, drawn: bool = True) -> float:
        """ε that is accounted for after so many rounds over so many; ``drawn``: with amplification by sampling in secret."""
        if self.trusted:
            steps = rounds * self.setting.models_per_record
            return self.setting.epsilon_of(self.setting.noise_multiplier, steps, rate=None if drawn else 1.0)
        event = self.plan.event(survivors, rounds)
        return epsilon_of_events([event if drawn else replace(event, rate=1.0)], self.plan.delta)

    @property
    def size(self) -> int:
        """Coordinates of a contribution."""
        return sum(self.encoding.blocks)

    @cached_property
    def parameters(self) -> SumParameters:
        """Of the protocol, for these sums."""
        e = self.encoding
        threshold = self.setting.job.privacy.threshold
        return self.scheme.noised(e.parties, e.size, e.limit, bits=e.bits, tail=e.tail, threshold=threshold)

    @property
    def fewest(self) -> int:
        """Survivors below whom the protocol opens nothing."""
        return self.parameters.threshold

    @property
    def honest(self) -> int:
        """Of the fewest survivors, those who do not help the server."""
        return self.parameters.threshold - self.parameters.corrupt

    @property
    def survivors(self) -> tuple[int, ...]:
        """All parties, all but one, and the fewest that open a sum."""
        n = self.encoding.parties
        return tuple(dict.fromkeys((n, max(n - 1, self.fewest), self.fewest)))

    def occasion(self, label: str, number: int = 0) -> Occasion:
        """One of its own for each label and number."""
        return Occasion(f"{self.setting.seed} {label}", number)

    def sent(self, occasion: Occasion, party: int, vector: Reals | None = None, *, label: str = "") -> Whole:
        """A party's integers for a sum, shape (encoding.size,); by default of a contribution of zero."""
        given = self.unit(self.encoding, np.zeros(self.size) if vector is None else vector)
        rand = Replay(f"{occasion.run} {occasion.round} {party} {label}")()
        return self.encoding.encode(given, [1] * len(self.encoding.blocks), {}, occasion, rand).vector

    def moved(self, occasion: Occasion, vector: Reals, *, label: str = "") -> Whole:
        """By how much a contribution moves a party's integers, beside `others`: rounding and noise repeat, so noise cancels."""
        others = self.others
        with_it = vector if others is None else np.concatenate([others, vector[None]])
        return self.sent(occasion, 1, with_it, label=label) - self.sent(occasion, 1, others, label=label)

    @cached_property
    def others(self) -> Reals | None:
        """Records of the same party, each of at most 1.5 clips, shape (OTHERS, size); None where a party is the unit."""
        if not self.setting.summed:
            return None
        words = self.setting.rand("beside").words("records", OTHERS * self.size).reshape(OTHERS, -1)
        rows = (words >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1
        lengths = np.linspace(0, 1.5, OTHERS)[:, None] * self.encoding.clip
        return np.asarray(rows * (lengths / np.linalg.norm(rows, axis=1)[:, None]), np.float64)

    def total(self, vectors: Iterable[Whole]) -> Whole:
        """Their sum as the protocol's ring forms it, centred, shape (encoding.size,)."""
        ring = self.parameters.ring
        out = np.zeros(self.encoding.size, ring.dtype)
        for vector in vectors:
            ring.add_into(out, ring.lift(vector))
        ring.reduce(out)
        return ring.centre(out)

    def decoded(self, total: Whole, contributors: int, occasion: Occasion) -> Reals:
        """The sum of contributions that is read from a total, shape (size,), in units of a contribution."""
        encoding: Encoding = self.encoding
        if isinstance(encoding, Central):  # a server has other noise in every round
            encoding = replace(encoding, entropy=Replay(f"{occasion.run} {occasion.round} server"))
        means = [x for x in encoding.decode(total, contributors, occasion).updates if x is not None]
        scale = -self.plan.expected_batch(contributors) if isinstance(self.plan, RecordPlan) else contributors
        return np.concatenate(means) * scale

    def noise(self, label: str, rounds: int, survivors: int) -> Whole:
        """The noise of so many sums, in steps of the grid, shape (rounds, encoding.size)."""
        out = list[Whole]()
        for number in range(rounds):
            occasion = self.occasion(label, number)
            out.append(self.total(self.sent(occasion, u) for u in range(1, survivors + 1)))
        return np.array(out)

    def through_protocol(self, vectors: Mapping[int, Whole], gone: Iterable[int], occasion: Occasion) -> tuple[Whole, int]:
        """The same sum by real sessions, of which some vanish before their input leaves: total and contributors.

        Raises:
            Abort: where no sum is opened.
        """
        roster, parties = sums.enrol(self.encoding.parties, entropy=Replay(f"{occasion.run} roster"), policy=self.scheme.policy)
        terms = self.scheme.terms(occasion, roster, self.parameters)
        sessions: dict[Address, Session] = {SERVER: sums.server_session(self.scheme, terms)}
        sessions |= {client(p.index): sums.client_session(self.scheme, p, terms) for p in parties}
        stage = upload(self.scheme)
        network = simulate.vanish({client(u): stage for u in gone})
        outcome = simulate.run(sessions, {client(u): [Vector(x)] for u, x in vectors.items()}, network=network)
        if outcome.reason is not None:
            raise outcome.reason
        found: Any = outcome.outputs[0]
        return found.values, found.contributors

    def direction(self, number: int) -> tuple[Reals, int]:
        """A contribution as long as the bound, in one coordinate, which goes through all of them by number; that coordinate."""
        at = number % self.size
        out = np.zeros(self.size)
        out[at] = self.encoding.clip
        return out, at

    def values(self, wanted: int) -> int:
        """Sums that give about so many values: from 20 to 400."""
        return min(400, max(20, -(-wanted // self.encoding.size)))


def upload(scheme: sums.Scheme) -> str:
    """Name of the message with which an input leaves under a protocol."""
    ways = (port.type for step in scheme.flow.steps if step.spends for port in step.gives)
    return next(kind.__name__ for kind in ways if issubclass(kind, Message))


def summed(setting: Setting) -> Summed:
    """The sums of the job of a mechanism that puts noise into them, or has the server add it.

    Raises:
        UserError: for a job whose sums carry no such noise, or a noise that cannot be.
    """
    knobs, encoding = setting.job.privacy, setting.encoding
    plan, scheme = getattr(encoding, "plan", None), sums.scheme("secagg" if knobs.protocol == AUTO else knobs.protocol)
    if isinstance(plan, RecordPlan):
        from securefl.audit.measured.records import of_records  # noqa: PLC0415  (it builds upon this module)

        return Summed(setting, encoding, plan, scheme, of_records(setting, 1.0), plan.rate, of_records(setting, plan.rate))
    if not isinstance(plan, NoisePlan):
        raise UserError(f"the sums of {knobs.mechanism} carry no noise")
    return Summed(setting, encoding, plan, scheme)


def epsilon_of_variance(made: Summed, survivors: int, variance: float) -> float:
    """ε at the plan's δ of all rounds whose honest noise has this variance (squared steps), by the accountant of its law."""
    event: Event = made.plan.event(survivors, made.plan.rounds)
    if isinstance(event, DiscreteGaussianEvent):
        event = replace(event, share=variance / max(event.honest, 1), rounds=made.steps, rate=made.rate)
    else:
        event = replace(event, variance=variance, rounds=made.steps, rate=made.rate)
    return epsilon_of_events([event], made.plan.delta)
