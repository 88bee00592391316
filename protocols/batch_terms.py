"""What many sums after one handshake agree on: the terms of the handshake, and those of each sum that follows from it.

One handshake prepares S sums with secrets of their own.  It runs under a session identity of its own, and step i under

    sid_i = H(sid of the handshake, i, hash of the model that the inputs of step i are computed from)

As that model is not known when shares are dealt, shares and commitments are hashed under H(sid, i) alone; keys, masks, signatures
of a sum are under sid_i.  A sparse graph's order is drawn once, as who holds whose shares is settled by the handshake.

Step i is of round (round of the handshake) + i: what a party's journal keeps of rounds holds for steps as it does for single sums.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic

from protocols.errors import Misuse
from protocols.suite import P, Terms, session_id
from protocols.wire import digest

MAX_STEPS = 4096
"""Most sums that one handshake prepares."""
MAX_SECRETS = 1 << 15
"""Most secrets of one kind that one handshake shares, of all parties together: n·S."""


def most_steps(parties: int) -> int:
    """Largest S for so many parties: the server of a handshake holds up to 130·n·S bytes for each of them."""
    return min(MAX_STEPS, max(1, MAX_SECRETS // parties))


@dataclass(frozen=True)
class HandshakeTerms(Terms[P], Generic[P]):
    """Terms of one handshake.

    Attributes:
        steps: S, number of sums that it prepares, 1 to `most_steps`.

    Raises:
        Misuse: for another number of sums, or rounds past 2^32.
    """

    steps: int

    def __post_init__(self) -> None:
        most = most_steps(len(self.roster))
        if not 1 <= self.steps <= most:
            raise Misuse(f"one handshake of {len(self.roster)} parties prepares 1 to {most} sums, not {self.steps}")
        replace(self.occasion, round=self.occasion.round + self.steps - 1)

    @cached_property
    def sid(self) -> bytes:
        """Session identity of the handshake, 32 bytes."""
        whole = session_id(self.suite, self.occasion, self.roster, self.parameters)
        return digest(["securefl handshake sid", whole, self.steps])

    def at(self, step: int, model: bytes = bytes(32)) -> StepTerms[P]:
        """The terms of one sum, from 0, whose inputs were computed from the model of that hash.

        Raises:
            Misuse: for a step that was not prepared.
        """
        if not 0 <= step < self.steps:
            raise Misuse(f"the handshake prepared steps 0 to {self.steps - 1}, not {step}")
        occasion = replace(self.occasion, round=self.occasion.round + step, model=model)
        return StepTerms(self.suite, occasion, self.roster, self.parameters, self, step)


@dataclass(frozen=True)
class StepTerms(Terms[P], Generic[P]):
    """Terms of one sum of those that a handshake prepared.

    Attributes:
        handshake: its terms.
        step: i, from 0.
    """

    handshake: HandshakeTerms[P]
    step: int

    @cached_property
    def sid(self) -> bytes:
        """sid_i, 32 bytes."""
        return digest(["securefl step sid", self.handshake.sid, self.step, self.occasion.model])

    @cached_property
    def dealing(self) -> bytes:
        """Identity under which the shares of this step are hashed, known when they are dealt."""
        return digest(["securefl step shares", self.handshake.sid, self.step])

    @property
    def ordering(self) -> bytes:
        """That of the handshake."""
        return self.handshake.sid
