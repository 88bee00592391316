"""Clip → weight → scale → round, and back: real vectors as bounded integers that a ring can add without overflow.

Source: stochastic rounding into a ring as in Kairouz, Liu and Steinke (ICML 2021, arXiv 2102.06387), without its noise;
weights as one more coordinate as in Bonawitz et al. (CCS 2017).

Layout of an encoded vector, in this order (`Plan.layout` gives the slices):

    block 0 | block 1 | … | one weight a block | the named sums, in the order of `Plan.sums`

Every coordinate is a signed integer with absolute value ≤ `Plan.limit`, so that the sum over `Plan.parties` of them stays
below half of the ring 2^`Plan.bits`.  The coordinate that counts parties belongs to the protocol and is not in here.

What it does not protect: clipping bounds a party's pull on the mean, it is no differential privacy.  Σ weight and the named
sums are opened as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from protocols.errors import Abort, Misuse
from protocols.rand import Rand
from protocols.suite import Occasion
from securefl.encoding import Decoded, Encoded, Noiseless, SumSpec
from securefl.errors import UserError

_ELEVEN = np.uint64(11)
_AT_ONCE = 16 * 1024
"""Values that are rounded at once: they stay in cache."""
PRECISIONS = range(8, 49)
"""Bits of one party's signed coordinate that a plan accepts.  Above 48 a float64 has too few bits left to round without bias."""


@dataclass(frozen=True)
class Plan(Noiseless):
    """What every party's vector looks like: public, the same for all, fixed before anybody trains.

    Attributes:
        parties: parties invited, ≥ 2.
        blocks: length of each update block (one a model or fold), each ≥ 1; empty for a sum of statistics alone.
        clip: bound of the L2 norm of one block, > 0, in units of the update.
        w_max: largest weight of a party in a block, 1 … ``limit``.
        sums: named coordinates after the blocks.
        precision: bits of one party's signed coordinate, 8 … 48.
        ring: bits of the ring, or None for the least that has the headroom.

    Raises:
        UserError: a value outside its range, or ``parties · limit ≥ 2^(bits−1)``.
    """

    parties: int
    blocks: tuple[int, ...] = ()
    clip: float = 1.0
    w_max: int = 1
    sums: tuple[SumSpec, ...] = ()
    precision: int = 16
    ring: int | None = None

    def __post_init__(self) -> None:
        if self.parties < 2:
            raise UserError(f"a secure sum needs at least 2 parties, not {self.parties}")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision must be {PRECISIONS[0]} to {PRECISIONS[-1]} bits, not {self.precision}")
        if min(self.blocks, default=1) < 1 or self.size < 1:
            raise UserError(f"every block of an update needs at least one coordinate: {self.blocks}")
        if not 1 <= self.w_max <= self.limit:
            raise UserError(f"w_max must be 1 to {self.limit} at {self.precision} bits of precision, not {self.w_max}")
        if not (0 < self.clip < math.inf and 0 < self.step < math.inf):
            raise UserError(f"the L2 bound of an update must be positive and finite, not {self.clip}")
        names = [spec.name for spec in self.sums]
        if len(set(names)) < len(names):
            raise UserError(f"the names of sums must differ: {', '.join(names)}")
        if self.bits > 62:
            raise UserError(f"a ring of {self.bits} bits is too wide: at most 62, so lower the precision or the parties")
        if self.parties * self.limit >= 2 ** (self.bits - 1):
            raise UserError(
                f"{self.parties} parties times {self.limit} overflow a ring of {self.bits} bits: "
                f"it must have at least {self._least_bits}"
            )

    @property
    def _least_bits(self) -> int:
        return self.precision + (self.parties - 1).bit_length()

    @property
    def bits(self) -> int:
        """Width of the ring: ``precision + ⌈log2 parties⌉`` unless ``ring`` says otherwise."""
        return self._least_bits if self.ring is None else self.ring

    @cached_property
    def limit(self) -> int:
        """Largest absolute value of one party's coordinate, ``2^(precision−1) − 1``."""
        return limit_of(self.precision)

    @cached_property
    def size(self) -> int:
        """Coordinates in all."""
        return sum(self.blocks) + len(self.blocks) + sum(spec.size for spec in self.sums)

    @property
    def step(self) -> float:
        """What one unit of a block's coordinate is worth, in units of weight × update."""
        return self.w_max * self.clip / self.limit

    def encode(
        self, updates: Sequence[ArrayLike], weights: Sequence[int], sums: Mapping[str, ArrayLike], _occasion: Occasion, rand: Rand
    ) -> Encoded:
        """`encode`, whatever the occasion."""
        return encode(self, updates, weights, sums, rand)

    def decode(self, total: NDArray[np.int64], contributors: int, _occasion: Occasion) -> Decoded:
        """`decode`, whatever the occasion."""
        return decode(self, total, contributors)

    def forecast(self) -> str:
        """Nothing: no noise is in the sum."""
        return ""

    @cached_property
    def layout(self) -> tuple[tuple[str, slice], ...]:
        """Where everything lies: ``block 0`` …, ``weights`` (if there are blocks), then the names of the sums."""
        parts = [(f"block {i}", length) for i, length in enumerate(self.blocks)]
        parts += [("weights", len(self.blocks))] if self.blocks else []
        parts += [(spec.name, spec.size) for spec in self.sums]
        places, start = [], 0
        for name, length in parts:
            places.append((name, slice(start, start + length)))
            start += length
        return tuple(places)

    @cached_property
    def places(self) -> Mapping[str, slice]:
        """The same by name."""
        return dict(self.layout)

    @cached_property
    def block_places(self) -> tuple[tuple[slice, int], ...]:
        """For each block where it lies, and where its weight does."""
        first = sum(self.blocks)
        return tuple((self.places[f"block {i}"], first + i) for i in range(len(self.blocks)))

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the sums."""
        return frozenset(spec.name for spec in self.sums)


def limit_of(precision: int) -> int:
    """Largest absolute value that a signed coordinate of ``precision`` bits holds, both signs alike."""
    return int(2 ** (precision - 1)) - 1


def encode(
    plan: Plan,
    updates: Sequence[ArrayLike],
    weights: Sequence[int],
    sums: Mapping[str, ArrayLike],
    rand: Rand,
) -> Encoded:
    """One party's vector of integers.

    Args:
        plan: the public layout and bounds.
        updates: one real vector a block, shape (plan.blocks[i],); scaled down where its L2 norm is above ``plan.clip``.
        weights: one integer ≥ 0 a block (rows of training data); 0 takes the party out of that block.
        sums: for each name of ``plan.sums`` its values, shape (size,), within ± the bound.
        rand: source of the rounding's uniforms; its label ``stochastic rounding`` is drawn.

    Returns:
        The vector, and what was clipped or cut.  Each scaled value v becomes ⌊v⌋ + [U < v − ⌊v⌋] with U uniform on the
        multiples of 2^−53 in [0, 1): unbiased, less than one step away, deterministic given ``rand``.

    Raises:
        UserError: wrong number or shape, NaN or inf, a value beyond its bound, a negative or fractional weight.
    """
    scaled = np.empty(plan.size)
    clipped, cut = scale(plan, updates, weights, sums, scaled)
    return Encoded(round_unbiased(scaled, rand), clipped, cut)


def scale(
    plan: Plan, updates: Sequence[ArrayLike], weights: Sequence[int], sums: Mapping[str, ArrayLike], out: NDArray[np.float64]
) -> tuple[tuple[bool, ...], tuple[int, ...]]:
    """`encode` up to the rounding: write what is to be rounded into ``out``, shape (plan.size,); what was clipped, and cut.

    Raises:
        UserError: as `encode`.
    """
    if len(updates) != len(plan.blocks) or len(weights) != len(plan.blocks):
        raise UserError(f"{len(plan.blocks)} blocks need as many updates and weights, not {len(updates)}, {len(weights)}")
    if sums.keys() != plan.names:
        odd = sorted(sums.keys() ^ plan.names)
        raise UserError(f"the sums must be exactly those of the plan: {', '.join(odd)} missing or unknown")
    clipped, cut = list[bool](), list[int]()
    for i, (update, given, (place, weighs)) in enumerate(zip(updates, weights, plan.block_places, strict=True)):
        weight = _weight(given, i)
        if weight > plan.w_max:
            weight = plan.w_max
            cut.append(i)
        clipped.append(_scale_update(plan, update, weight, i, out[place]))
        out[weighs] = weight
    for spec in plan.sums:
        out[plan.places[spec.name]] = _scale_sum(spec, sums[spec.name], plan.limit)
    return tuple(clipped), tuple(cut)


def decode(plan: Plan, total: NDArray[np.int64], contributors: int) -> Decoded:
    """Means and sums out of the opened total.

    Args:
        plan: the plan that the contributors encoded with.
        total: sum of their vectors, shape (plan.size,), int64.
        contributors: how many vectors are in it, 1 … ``plan.parties``.

    Raises:
        Misuse: wrong shape, dtype or number of contributors.
        Abort: ``weight-total`` where no block has any weight or a total weight is impossible; ``sum-range`` where a coordinate
            is beyond what so many parties can add up to.
    """
    if total.shape != (plan.size,) or total.dtype != np.int64:
        raise Misuse(f"a total has shape ({plan.size},) and dtype int64, not {total.shape} and {total.dtype}")
    if not 1 <= contributors <= plan.parties:
        raise Misuse(f"contributors must be 1 to {plan.parties}, not {contributors}")
    part = {name: total[place] for name, place in plan.layout}
    _within(total, contributors * plan.limit, "the total")
    weights = tuple(int(w) for w in part["weights"]) if plan.blocks else ()
    if weights and not (all(0 <= w <= contributors * plan.w_max for w in weights) and any(weights)):
        raise Abort("weight-total", f"total weights must be 0 to {contributors * plan.w_max}, not all 0")
    updates = tuple(_real(part[f"block {i}"], plan.step / w) if w else None for i, w in enumerate(weights))
    for update, w in zip(updates, weights, strict=True):
        if update is not None and np.linalg.norm(update) > _largest_mean(plan, update.size, contributors, w):
            raise Abort("sum-range", f"the norm of a mean update is beyond {plan.clip:g}, the bound of every update")
    opened: dict[str, NDArray[Any]] = {}
    for spec in plan.sums:
        if spec.exact(plan.limit):
            _within(part[spec.name], contributors * spec.max, f"sum {spec.name!r}")
            opened[spec.name] = part[spec.name].copy()
        else:
            opened[spec.name] = _real(part[spec.name], spec.max / plan.limit)
    return Decoded(updates, weights, opened)


def finite_vector(values: ArrayLike, length: int, what: str) -> NDArray[np.float64]:
    """``values`` as float64, shape (length,); the array itself where it is of that dtype.

    Raises:
        UserError: naming ``what``: another shape, something that is no real number, NaN or inf.
    """
    real = _real_vector(values, length, what)
    bad = np.flatnonzero(~np.isfinite(real))
    if bad.size:
        raise UserError(f"{what} is {real[bad[0]]} at index {bad[0]}: every value must be finite")
    return real


def _real_vector(values: ArrayLike, length: int, what: str) -> NDArray[np.float64]:
    """`finite_vector`, finite or not."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.shape != (length,):
        raise UserError(f"{what} must be {length} real numbers, not shape {array.shape} of {array.dtype}")
    return array.astype(np.float64, copy=False)


def all_finite(values: NDArray[np.floating[Any]]) -> bool:
    """Whether no value is NaN or inf: a sum of squares shows it in one pass, unless it overflows."""
    return math.isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())


def within_bound(real: NDArray[np.float64], bound: float, name: str) -> NDArray[np.float64]:
    """``real`` unchanged.

    Raises:
        UserError: naming the sum ``name``: a value beyond ± ``bound``.
    """
    bad = np.flatnonzero(np.abs(real) > bound)
    if bad.size:
        raise UserError(f"sum {name!r} is {real[bad[0]]:g} at index {bad[0]}: it must be within ±{bound:g}")
    return real


def _largest_mean(plan: Plan, size: int, contributors: int, weight: int) -> float:
    """Largest L2 norm of a weighted mean of clipped updates after rounding, with room for float64's last bits."""
    return (plan.clip + contributors * plan.step * math.sqrt(size) / weight) * (1 + 2.0**-40)


def _scale_sum(spec: SumSpec, values: ArrayLike, limit: int) -> NDArray[np.float64]:
    real = within_bound(finite_vector(values, spec.size, f"sum {spec.name!r}"), spec.max, spec.name)
    if spec.integer and (np.rint(real) != real).any():
        raise UserError(f"sum {spec.name!r} takes whole numbers only")
    return real if spec.exact(limit) else real / spec.max * limit


def _scale_update(plan: Plan, update: ArrayLike, weight: int, block: int, out: NDArray[np.float64]) -> bool:
    """Write an update, clipped, weighted and scaled, into ``out``, shape (plan.blocks[block],); whether it was clipped.

    No |value| in ``out`` is above the limit, so that none is rounded beyond it.
    """
    what = f"update of block {block}"
    x = _real_vector(update, out.size, what)
    if _surely_within(x, plan.clip):  # with more room than three operations can lose bits
        np.multiply(x, weight / plan.w_max * plan.limit / plan.clip, out=out)
        return False
    x, was_clipped = _clip(finite_vector(x, out.size, what), plan.clip)
    out[:] = x / plan.clip * (weight / plan.w_max) * plan.limit  # quotients of at most 1, and these operations are monotonic
    return was_clipped


def _surely_within(x: NDArray[np.float64], bound: float) -> bool:
    """Whether a plain sum of squares shows that ``x`` is finite and its norm below the bound."""
    return 2.0**-300 < bound < 2.0**300 and float(np.vdot(x, x)) < bound * bound * (1 - 2.0**-20)


def _clip(x: NDArray[np.float64], bound: float) -> tuple[NDArray[np.float64], bool]:
    """``x`` scaled to an L2 norm of at most ``bound`` (to the last bits), and whether that changed it; no entry is above it."""
    largest = float(np.max(np.abs(x)))
    if largest == 0:
        return x, False
    unit = x / largest  # the squares of x may overflow
    norm = math.sqrt(float(np.sum(unit * unit)))
    return (unit * (bound / norm), True) if norm * largest > bound else (x, False)


def _weight(weight: int, block: int) -> int:
    if type(weight) is int and weight >= 0:
        return weight
    if isinstance(weight, bool | np.bool_) or not isinstance(weight, int | np.integer) or weight < 0:
        raise UserError(f"the weight of block {block} must be a whole number ≥ 0, not {weight!r}")
    return int(weight)


def round_unbiased(real: NDArray[np.float64], rand: Rand) -> NDArray[np.int64]:
    """Each value up or down to a whole number, right on average; the label ``stochastic rounding`` of ``rand`` is drawn.

    Args:
        real: any shape.
        rand: the randomness.
    """
    flat, stream = real.reshape(-1), rand.stream("stochastic rounding")
    rounded = np.empty(flat.size, dtype=np.int64)
    draws, spare = np.empty(min(_AT_ONCE, flat.size), dtype=np.uint64), np.empty(min(_AT_ONCE, flat.size))
    for start in range(0, flat.size, _AT_ONCE):
        part = flat[start : start + _AT_ONCE]
        stream.fill(drawn := draws[: part.size])
        _round(part, drawn, spare[: part.size], rounded[start : start + part.size])
    return rounded.reshape(real.shape)


def round_each(real: NDArray[np.float64], rands: Sequence[Rand]) -> NDArray[np.int64]:
    """`round_unbiased` of every row, each by a ``rand`` of its own: what they give alone, in fewer passes."""
    draws, rounded = np.empty(real.shape, dtype=np.uint64), np.empty(real.shape, dtype=np.int64)
    for row, rand in zip(draws, rands, strict=True):
        rand.stream("stochastic rounding").fill(row)
    _round(real, draws, np.empty(real.shape), rounded)
    return rounded


def _round(real: NDArray[np.float64], draws: NDArray[np.uint64], spare: NDArray[np.float64], rounded: NDArray[np.int64]) -> None:
    """Write ⌊v⌋ + [U < v − ⌊v⌋] of each value into ``rounded``, U from the top 53 bits of ``draws``; both others are used up.

    U and v − ⌊v⌋ are compared in units of 2^−53, and ⌊v⌋ is exact, as no |v| is above 2^48.
    """
    draws >>= _ELEVEN
    np.floor(real, out=spare)
    np.copyto(rounded, spare, casting="unsafe")
    np.subtract(real, spare, out=spare)
    spare *= 2.0**53
    rounded += draws.view(np.int64) < spare


def _real(values: NDArray[np.int64], unit: float) -> NDArray[np.float64]:
    return values.astype(np.float64) * unit


def _within(values: NDArray[np.int64], bound: float, what: str) -> None:
    if (np.abs(values) > bound).any():
        raise Abort("sum-range", f"{what} is beyond ±{bound:g}")
