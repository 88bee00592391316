"""Secure sums of a run over a network beside its rounds: of feature statistics before them, of the final model's scores after them.

Server and parties work a stage out alone, as they do the rounds.  A stage is one sum, under a name of its own: that of the run
behind a mark.  Names of runs begin with hexadecimal digits, so no occasion of a stage, and no sid, is one of a round.  All attempts
at a stage are attempts at the same round 1 of that name: a party's journal lets one input leave, whatever a server says of the
attempts before.

What it does not protect: what is opened exactly, or with the noise that it says, is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from protocols.policy import Policy
from protocols.rand import Rand
from protocols.suite import Occasion, Roster, SumParameters, Terms
from protocols.sums import Scheme
from protocols.vector import Sum, Vector
from securefl.cohort import short_sums
from securefl.encode import Plan, decode, encode
from securefl.encoding import Decoded, SumSpec
from securefl.results import Opened

if TYPE_CHECKING:
    from securefl.job import Job

SCALING, ASSESSMENT = "scaling", "assessment"
MARKS = {SCALING: "s", ASSESSMENT: "a"}
"""By stage, what stands before the name of the run in its occasion."""
NUMBER = 1
"""Of the one sum of a stage."""


@dataclass(frozen=True, eq=False)
class Stage:
    """One secure sum beside the rounds.

    Attributes:
        name: `SCALING` or `ASSESSMENT`.
        protocol: how it is formed.
        parameters: of the sum.
        size: coordinates of the vector that is summed.
        opened: what it opens.
    """

    name: str
    protocol: Scheme
    parameters: SumParameters
    size: int
    opened: tuple[Opened, ...]

    def occasion(self, run: str, attempt: int, model: bytes = bytes(32)) -> Occasion:
        """Of an attempt; ``model`` is the hash of what the inputs were computed from, zeros where that is rows alone."""
        return Occasion(f"{MARKS[self.name]}-{run}", NUMBER, attempt, model)

    def terms(self, occasion: Occasion, cohort: Roster) -> Terms[Any]:
        """The terms of the sum."""
        return self.protocol.terms(occasion, cohort, self.parameters)

    def policy(self, of_rounds: Policy) -> Policy:
        """What a party asks of this sum: what it asks of every round, and this protocol."""
        return replace(of_rounds, suites=frozenset({self.protocol.suite(self.parameters)}))


@dataclass(frozen=True, eq=False)
class ExactStage(Stage):
    """One that is opened exactly.

    Attributes:
        plan: how named values become the vector.
    """

    plan: Plan

    @classmethod
    def of(
        cls, name: str, job: Job, parties: int, specs: Sequence[SumSpec], opened: Sequence[Opened], *, precision: int
    ) -> ExactStage:
        """Work it out.

        Args:
            name: of the stage.
            job: names protocol and threshold.
            parties: n.
            specs: names, sizes and bounds of the values.
            opened: what it opens.
            precision: bits of one party's coordinate.

        Raises:
            UserError, Misuse: where it could not be formed.
        """
        plan, protocol = Plan(parties, sums=tuple(specs), precision=precision), short_sums(job.privacy)
        parameters = protocol.parameters(parties, plan.size, plan.limit, bits=plan.bits, threshold=job.privacy.threshold_of_all)
        return cls(name, protocol, parameters, plan.size, tuple(opened), plan)

    def vector(self, values: Mapping[str, ArrayLike], rand: Rand) -> Vector:
        """What a party adds.

        Raises:
            UserError: for a value past its bound.
        """
        return Vector(encode(self.plan, [], [], values, rand).vector)

    def decoded(self, total: Sum) -> Decoded:
        """The opened sums.

        Raises:
            Abort: ``sum-range`` for what so many parties cannot have added.
        """
        return decode(self.plan, total.values, total.contributors)
