"""Fewer coordinates a round: a random mask, or low-rank factors, from a seed that everybody works out from the round.

Source: Konečný et al., *Federated Learning: Strategies for Improving Communication Efficiency* (2016, arXiv 1610.05492), structured
updates.  Both are linear and the same for all parties, so the sum of what is sent is the sketch of the sum, exactly.

The seed is a hash of the run, the round, the attempt and the models: every site works it out, and it takes no byte.  What a mask
leaves out, or lies outside the factors' span, is not learnt in this round; the next one has another seed.

Need Σ w·S(u), for the sketch S of the round, and Σ w.

What it does not protect: as the encoding inside, for fewer values.  A server that lies can try models until it likes their seed,
and so has a say in which coordinates are summed; it learns no more by that than from whole updates.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.rand import Rand, Seed
from protocols.suite import Occasion
from protocols.wire import canonical
from securefl.algorithms.wrapped import Shapes, Wrapped
from securefl.encode import finite_vector
from securefl.encoding import Decoded, Encoded

if TYPE_CHECKING:
    from securefl.knobs import PerformanceKnobs

Vector = NDArray[np.float64]


class Sketch(Protocol):
    """A linear map from d values to fewer, another one in every round."""

    @property
    def size(self) -> int:
        """Values that are left."""

    def down(self, vector: Vector, rand: Rand) -> Vector:
        """From shape (d,) to shape (size,); its L2 norm does not grow."""

    def up(self, values: Vector, rand: Rand) -> Vector:
        """The vector of shape (d,) with this sketch that is shortest."""


@dataclass(frozen=True)
class Mask:
    """Coordinates that are chosen at random.

    Attributes:
        length: d.
        size: how many are kept.
    """

    length: int
    size: int

    def _kept(self, rand: Rand) -> NDArray[np.int64]:
        return np.sort(np.argpartition(rand.words("mask", self.length), self.size - 1)[: self.size])

    def down(self, vector: Vector, rand: Rand) -> Vector:
        """The kept ones."""
        return vector[self._kept(rand)]

    def up(self, values: Vector, rand: Rand) -> Vector:
        """The kept ones in their places, 0 elsewhere."""
        out = np.zeros(self.length)
        out[self._kept(rand)] = values
        return out


@dataclass(frozen=True)
class LowRank:
    """Each matrix H (m × n) becomes AᵀH with A (m × r) orthonormal and random, or HA where that is smaller; the rest stays.

    Attributes:
        shapes: of the parameters, in the order of the vector.
        rank: r.
    """

    shapes: Shapes
    rank: int

    @property
    def size(self) -> int:
        """Values that are left."""
        return sum(self._left(shape) for shape in self.shapes)

    def _left(self, shape: tuple[int, ...]) -> int:
        rows, columns = _matrix(shape)
        return self.rank * min(rows, columns) if self._factored(shape) else rows * columns

    def _factored(self, shape: tuple[int, ...]) -> bool:
        return len(shape) > 1 and self.rank < max(_matrix(shape)) and self.rank * min(_matrix(shape)) < math.prod(shape)

    def _factors(self, rand: Rand) -> list[Vector | None]:
        """A of each parameter, for its longer side."""
        out: list[Vector | None] = []
        for number, shape in enumerate(self.shapes):
            if not self._factored(shape):
                out.append(None)
                continue
            long = max(_matrix(shape))
            words = rand.words(f"factor {number}", long * self.rank)
            out.append(np.linalg.qr((words * 2.0**-63 - 1.0).reshape(long, self.rank))[0])
        return out

    def down(self, vector: Vector, rand: Rand) -> Vector:
        """The factors that are sent, one after the other."""
        parts = np.split(vector, np.cumsum([math.prod(shape) for shape in self.shapes])[:-1])
        sent = []
        for part, shape, a in zip(parts, self.shapes, self._factors(rand), strict=True):
            rows, columns = _matrix(shape)
            h = part.reshape(rows, columns)
            sent.append(part if a is None else (a.T @ h if rows >= columns else h @ a).reshape(-1))
        return np.concatenate(sent)

    def up(self, values: Vector, rand: Rand) -> Vector:
        """The product of the factors."""
        parts = np.split(values, np.cumsum([self._left(shape) for shape in self.shapes])[:-1])
        whole = []
        for part, shape, a in zip(parts, self.shapes, self._factors(rand), strict=True):
            rows, columns = _matrix(shape)
            if a is None:
                whole.append(part)
            else:
                h = a @ part.reshape(self.rank, columns) if rows >= columns else part.reshape(rows, self.rank) @ a.T
                whole.append(h.reshape(-1))
        return np.concatenate(whole)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], math.prod(shape[1:])) if shape else (1, 1)


@dataclass(frozen=True)
class Sketched(Wrapped):
    """Updates go through a sketch.

    Attributes:
        sketch: of every block.
    """

    sketch: Sketch

    def encode(
        self, updates: Sequence[ArrayLike], weights: Sequence[int], sums: Mapping[str, ArrayLike], occasion: Occasion, rand: Rand
    ) -> Encoded:
        """One party's integers; errors as for the encoding inside."""
        whole = [
            finite_vector(update, size, f"update of block {i}")
            for i, (update, size) in enumerate(zip(updates, self.blocks, strict=True))
        ]
        small = [self.sketch.down(update, shared(occasion, i)) for i, update in enumerate(whole)]
        return self.inner.encode(small, weights, sums, occasion, rand)

    def decode(self, total: NDArray[np.int64], contributors: int, occasion: Occasion) -> Decoded:
        """What the opened sum says."""
        found = self.inner.decode(total, contributors, occasion)
        updates = tuple(None if u is None else self.sketch.up(u, shared(occasion, i)) for i, u in enumerate(found.updates))
        return replace(found, updates=updates)


def shared(occasion: Occasion, block: int) -> Rand:
    """The public randomness of a block in a round: all have it, and no message brings it."""
    o = occasion
    return Rand(Seed(hashlib.sha256(b"securefl sketch" + canonical([o.run, o.round, o.attempt, o.model, block])).digest()))


def sketch_of(knobs: PerformanceKnobs, length: int, shapes: Shapes | None) -> Sketch | None:
    """The sketch that a job names, of vectors of ``length`` values; None for whole updates."""
    if knobs.compression == "mask":
        return Mask(length, max(1, math.ceil(knobs.keep * length)))
    return LowRank(shapes or ((length,),), knobs.rank) if knobs.compression == "low-rank" else None
