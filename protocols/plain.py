"""No protection at all: every vector reaches the server in clear.  Named ``plain-insecure`` so that nobody uses it by accident.

It is the baseline that the secure protocols must equal bit for bit, and has their bounds and their headroom.  As nothing is hidden
from anybody, a simulation may add the vectors up where they are (`InClear`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from protocols.bulk import Bulk, Packed
from protocols.errors import Abort, require
from protocols.flow import Arrived, Flow, Input, Output
from protocols.policy import Policy
from protocols.ring import Accumulator
from protocols.schema import Message, Raw
from protocols.secagg_parameters import Parameters
from protocols.suite import PLAIN, Terms
from protocols.vector import Sum, Vector, bounded_each, checked_sum, counted

flow = Flow("plain-insecure")


def suite(parameters: Parameters) -> str:
    """The suite string."""
    return f"{PLAIN}{parameters.ring.bits}"


def layout(parameters: Parameters) -> Packed:
    """How the vector lies on the wire: as those of ``secagg``, but not hashed, as nothing is signed."""
    return Packed(parameters.ring, parameters.size + 1, kept=True, hashed=False)


@dataclass(frozen=True)
class Attending:
    """A party before it has sent its vector."""

    me: int
    terms: Terms
    policy: Policy


@dataclass(frozen=True)
class Clear(Message):
    """The vector itself."""

    x: Annotated[Bulk, Raw("masked")]


@dataclass(frozen=True)
class Adding:
    """Server: vectors come in."""

    terms: Terms
    total: Accumulator


@flow.client(spends=True)
def submit(attending: Attending, x: Input[Vector]) -> Clear:
    """Check the invitation against the own policy; send the vector in clear."""
    terms, parameters = attending.terms, attending.terms.parameters
    runs = suite(parameters)
    require(terms.suite == runs, "terms-suite", f"the suite named is {terms.suite}, the one that runs {runs}")
    attending.policy.check(terms)
    return Clear(Bulk.by(layout(parameters), counted(x, parameters)))


def absorb_clear(srv: Adding, _sender: int, clear: Clear) -> Adding:
    """Add one vector."""
    clear.x.add_to(srv.total)
    return srv


@flow.server(fold=absorb_clear, quorum=lambda srv: srv.terms.parameters.threshold, within=300.0)
def total(srv: Adding, arrived: Arrived[Clear]) -> Output[Sum]:
    """The sum over all that arrived."""
    parameters = srv.terms.parameters
    return Output(checked_sum(parameters.ring.centre(srv.total.total()), len(arrived), parameters))


flow.check()


class InClear:
    """What a run of the flow opens, bit by bit, without sessions and messages: for a simulation, which has all vectors.

    Args:
        parameters: of the sum.

    Attributes:
        message: one as long as that of any party in the flow.
    """

    def __init__(self, parameters: Parameters) -> None:
        self._parameters, self._arrived = parameters, 0
        self._added = np.zeros(parameters.size, dtype=np.int64)  # 2^b divides 2^64, modulo which they are added
        packed = layout(parameters)
        self.message = Clear(Bulk(None, None, bytes(packed.nbytes), packed))

    def add(self, *xs: Vector) -> None:
        """Add some vectors.

        Raises:
            Misuse: for another shape or dtype, or a value past max_abs; none of them was added.
        """
        if xs:
            self._added += bounded_each(xs, self._parameters).sum(axis=0)
            self._arrived += len(xs)

    def total(self) -> Sum:
        """The sum over all that were added, once.

        Raises:
            Abort: ``quorum``, ``sum-count`` or ``sum-range``.
        """
        if self._arrived < (need := self._parameters.threshold):
            raise Abort("quorum", f"{self._arrived} {Clear.__name__} where {need} are needed")
        ring = self._parameters.ring
        total = ring.lift(np.append(self._added, self._arrived))
        return checked_sum(ring.centre(total), self._arrived, self._parameters)
