"""Encodings around an encoding: what a job asks for besides, in the order compressed (grouped (quantised or as it is)).

Each gives `securefl.encoding.Encoding`, so protocols, accounts and both halves of a run take it as any other.

What it does not protect: as what is inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from securefl.encoding import Encoding, PartyAccount, SumSpec
from securefl.errors import UserError

if TYPE_CHECKING:
    from securefl.algorithms.base import Algorithm
    from securefl.job import Job
    from securefl.privacy.divergence import Event

Shapes = tuple[tuple[int, ...], ...]
"""Of the parameters of a model, in the order of its vector."""


@dataclass(frozen=True)
class Wrapped:
    """Base: everything as inside, but the blocks.

    Attributes:
        inner: the encoding inside.
        blocks: length of each update block.
    """

    inner: Encoding
    blocks: tuple[int, ...]

    @property
    def parties(self) -> int:
        """Parties invited."""
        return self.inner.parties

    @property
    def sums(self) -> tuple[SumSpec, ...]:
        """Named coordinates beside the updates."""
        return self.inner.sums

    @property
    def clip(self) -> float:
        """Bound of the L2 norm of what is left of an update."""
        return self.inner.clip

    @property
    def w_max(self) -> int:
        """Largest weight of a party."""
        return self.inner.w_max

    @property
    def size(self) -> int:
        """Integers of a party."""
        return self.inner.size

    @property
    def limit(self) -> int:
        """Largest absolute value of one, where no noise is in it."""
        return self.inner.limit

    @property
    def bits(self) -> int:
        """Width of the ring."""
        return self.inner.bits

    @property
    def tail(self) -> int:
        """Bound of the noise in the sum."""
        return self.inner.tail

    @property
    def state(self) -> tuple[float, ...]:
        """Public values of the round."""
        return self.inner.state

    def at(self, state: NDArray[np.float32]) -> Self:
        """The encoding of a round."""
        return replace(self, inner=self.inner.at(state))

    def event(self, survivors: int | None) -> Event | None:
        """What a sum costs each party in it."""
        return self.inner.event(survivors)

    def account(self, accountant: str, before: tuple[Event, ...]) -> PartyAccount | None:
        """A party's account."""
        return self.inner.account(accountant, before)

    def forecast(self) -> str:
        """One line on noise and rounding."""
        return self.inner.forecast()


def wrapped(
    job: Job,
    algorithm: Algorithm,
    parties: int,
    blocks: tuple[int, ...],
    shapes: Shapes | None,
    sums: tuple[SumSpec, ...],
    build: Callable[[tuple[int, ...]], Encoding],
) -> Encoding:
    """The encoding that a job asks for.

    Args:
        job: the knobs.
        algorithm: of the run.
        parties: n.
        blocks: length of each update block.
        shapes: of the parameters of a model; None: one vector.
        sums: named coordinates.
        build: makes the encoding inside for blocks of these lengths.

    Raises:
        UserError: for a combination that is meaningless or unsafe, with the reason.
    """
    from securefl.algorithms.groups import Grouped  # noqa: PLC0415
    from securefl.algorithms.quantised import Quantised  # noqa: PLC0415
    from securefl.algorithms.sketches import Sketched, sketch_of  # noqa: PLC0415

    knobs, performance = job.privacy, job.performance
    sketch = sketch_of(performance, blocks[0], shapes) if blocks else None
    kept = blocks if sketch is None else (sketch.size,) * len(blocks)
    refuse(job, algorithm, sketched=sketch is not None)
    count = knobs.groups or 1
    inside = tuple(size for size in kept for _ in range(count))
    bits = performance.update_bits
    made = build(inside) if bits is None else Quantised.of(knobs, parties, inside, sums, bits)
    if knobs.groups is not None:
        made = Grouped(made, kept, knobs.groups)
    return made if sketch is None else Sketched(made, blocks, sketch)


def refuse(job: Job, algorithm: Algorithm, *, sketched: bool) -> None:
    """Refuse what does not go together.

    Raises:
        UserError: in one line, with the reason.
    """
    mechanism, performance = job.privacy.mechanism, job.performance
    noised = mechanism in ("distributed-party", "distributed-record", "central")
    if job.privacy.groups is not None and noised:
        raise UserError(f"privacy.groups is refused with {mechanism}: the weights of the groups would be exact beside a noised sum")
    if job.privacy.groups is not None and algorithm.own_step and (algorithm.extra or algorithm.specs(job, 1)):
        raise UserError(f"privacy.groups is refused with {algorithm.name}: a median of its vectors does not fit its other sums")
    if performance.update_bits is not None and noised:
        raise UserError(f"performance.update_bits is refused with {mechanism}: the noise computes its own grid")
    if sketched and job.privacy.summed:
        raise UserError(f"performance.compression is refused with {mechanism}: its sums are whole numbers of one gradient a record")
    if sketched and (algorithm.extra or algorithm.uniform):
        raise UserError(
            f"performance.compression is refused with {algorithm.name}: its other sums are made of whole updates, and would not fit"
        )
