"""Sums with noise in them, as a job makes them: its encoding, its protocol, and one unit's contribution.

What is measured of noise inside a sum (`securefl.audit.measured.inside`, ``apart``, ``beside``) asks for no more than an
`securefl.encode.Encoding` with a plan of its noise, and for what a unit (a party, later a record) hands to it.  Sums are formed by
the ring or field of the protocol's own parameters and centred by it; `through_protocol` has real sessions form one.

What it does not show: what a run does before it encodes, or after it has decoded; `securefl.audit.measured.beside` plays runs.
"""

from __future__ import annotations

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

Reals = NDArray[np.float64]
Whole = NDArray[np.int64]
Unit = Callable[[Encoding, Reals], Sequence[Reals]]
"""From a vector of all coordinates to what one unit with that contribution hands to `Encoding.encode`."""
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
    """

    setting: Setting
    encoding: Encoding
    plan: NoisePlan
    scheme: sums.Scheme
    unit: Unit = of_party
    rate: float = 1.0

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
        """By how much a contribution moves a party's integers: rounding and noise repeat, so that the noise cancels."""
        return self.sent(occasion, 1, vector, label=label) - self.sent(occasion, 1, label=label)

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
        read = self.encoding.decode(total, contributors, occasion)
        means = [x for x in read.updates if x is not None]
        return np.concatenate(means) * contributors

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
    """The sums of the job of a mechanism that puts noise into them.

    Raises:
        UserError: for a job whose sums carry no such noise, or a noise that cannot be.
    """
    from securefl.privacy.prepared import encoding_of  # noqa: PLC0415  (as a run: what is patched there is measured)

    knobs = setting.job.privacy
    encoding = encoding_of(knobs, setting.parties, setting.blocks, ())
    plan = getattr(encoding, "plan", None)
    if not isinstance(plan, NoisePlan):
        raise UserError(f"the sums of {knobs.mechanism} carry no noise")
    return Summed(setting, encoding, plan, sums.scheme("secagg" if knobs.protocol == AUTO else knobs.protocol))


def epsilon_of_variance(made: Summed, survivors: int, variance: float) -> float:
    """ε at the plan's δ of all rounds whose honest noise has this variance (squared steps), by the accountant of its law."""
    event: Event = made.plan.event(survivors)
    if isinstance(event, DiscreteGaussianEvent):
        event = replace(event, share=variance / max(event.honest, 1), rounds=made.plan.rounds, rate=made.rate)
    else:
        event = replace(event, variance=variance, rounds=made.plan.rounds, rate=made.rate)
    return epsilon_of_events([event], made.plan.delta)
