"""How rows become features in a run over a network: by public ranges, or by one secure sum before the rounds, the same for all.

What the sum gives, a `Scaling`, is public.  It travels behind the models of every round, so its hash is part of every session
identity: parties that were told different ones get masks that don't cancel.  A party takes one scaling in a run and no second.

What it does not protect: the sum is opened to the server, and what it gave is the server's word.  A party holds it to the public
ranges; within them a server that lies can stretch, squeeze and shift features, as it can by the first layer of the models that
it chooses.  No clip and no noise depends on it, so ε does not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse, require
from protocols.rand import Rand
from protocols.vector import Sum, Vector
from securefl.cohort import short_sums
from securefl.encode import limit_of
from securefl.errors import UserError, quoted
from securefl.ledger import exact_moments, opened_with_noise
from securefl.privacy.composition import ALONE, Before
from securefl.scaling import PRECISION, ROWS_MAX, Moments, Scaler, scaling_rows
from securefl.stages import SCALING, ExactStage, Stage

if TYPE_CHECKING:
    from securefl.data.public import Public
    from securefl.data.types import Site, Split
    from securefl.job import Job
    from securefl.statistics.asking import Book
    from securefl.statistics.noise import StatisticsPlan

PIECES = 4
"""float32 for one float64: its 16-bit pieces, each a whole number below 2^16."""
ROUNDING = 1e-9
"""Relative: what float64 may add to a value at the edge of a range."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scaling:
    """What a sum for scaling gave.

    Attributes:
        shift, scale: of the features, shape (features,), float64.
        fills: what stands in for a missing number, likewise.
    """

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    fills: NDArray[np.float64]

    @classmethod
    def of(cls, scaler: Scaler, fills: NDArray[np.float64]) -> Scaling:
        """Out of a scaler."""
        return cls(scaler.shift, scaler.scale, fills)

    @staticmethod
    def length(features: int) -> int:
        """How many float32 it travels as."""
        return 3 * PIECES * features

    def values(self) -> Floats:
        """As it travels: every float64 in `PIECES` whole numbers."""
        whole = np.concatenate([self.shift, self.scale, self.fills]).astype("<f8")
        return whole.view("<u2").astype(np.float32)

    @classmethod
    def of_values(cls, values: Floats) -> Scaling:
        """As it came.

        Raises:
            Refused: ``scaling-form`` for what `values` cannot have given.
        """
        pieces = values.astype(np.uint16) if bool(((values >= 0) & (values < 2**16)).all()) else np.zeros(0, np.uint16)
        fits = pieces.size == values.size and values.size % (3 * PIECES) == 0 and bool((pieces == values).all())
        require(fits, "scaling-form", "a scaling is of whole numbers below 2^16, twelve a feature")
        return cls(*np.split(pieces.astype("<u2").view("<f8").astype(np.float64), 3))

    def text(self) -> str:
        """As it is kept: JSON, exact."""
        return json.dumps({"shift": self.shift.tolist(), "scale": self.scale.tolist(), "fills": self.fills.tolist()})

    @classmethod
    def read(cls, text: str) -> Scaling:
        """As it was kept."""
        tree = json.loads(text)
        return cls(*(np.array(tree[key], dtype=np.float64) for key in ("shift", "scale", "fills")))


@dataclass(frozen=True, eq=False)
class ScalingSum:
    """The sum that gives a scaling; made by `scaling_of`.

    Attributes:
        public: of the data.
        stage: the sum.
        clamped: whether values are cut to the public ranges.
        filled: whether what it gives stands in for missing numbers.
        before: what of it is under the ε of training, by the account of a party: as if the fewest sites were in it.
    """

    public: Public
    stage: Stage
    clamped: bool
    filled: bool
    before: Before = ALONE

    def vector(self, site: Site, parts: Sequence[Split], rand: Rand) -> Vector:
        """What a party adds.

        Raises:
            UserError: for rows that it cannot be made from.
        """
        raise NotImplementedError

    def read(self, total: Sum) -> tuple[Scaling, tuple[str, ...]]:
        """What the opened sum gives, and lines that the server's operator should see.

        Raises:
            Abort: where it gives nothing.
        """
        raise NotImplementedError

    def check(self, found: Scaling) -> None:
        """Hold what a server says to the public ranges.

        Raises:
            Refused: ``scaling-range`` for a feature that is shifted or filled from outside of its range, or whose unit is wider.
        """
        low, high = self.public.ranges.T
        slack = ROUNDING * (1 + np.abs(low) + np.abs(high))
        inside = [(value >= low - slack) & (value <= high + slack) for value in (found.shift, found.fills)]
        unit = (found.scale > 0) & (found.scale <= np.maximum((high - low) / 2, 1.0) + slack)
        bad = np.flatnonzero(~(inside[0] & inside[1] & unit))
        name = quoted(self.public.features[bad[0]]) if bad.size else ""
        require(not bad.size, "scaling-range", f"the scaling of {name} does not fit its public range")

    def scaler(self, found: Scaling) -> Scaler:
        """With the bounds that values are cut to, which no server has a say in."""
        low, high = self.public.ranges.T.copy() if self.clamped else (None, None)
        return Scaler(found.shift, found.scale, low, high)


def scaling_of(job: Job, public: Public, parties: int) -> ScalingSum | None:
    """The sum for scaling that a job has over a network; None where public ranges scale.

    Raises:
        UserError: for noised scaling that cannot be, or a sum that could not be formed.
    """
    if job.data.scaling == "noised":
        return _Noised.of(job, public, parties)
    return _Exact.of(job, public, parties) if job.privacy.mechanism == "none" else None


@dataclass(frozen=True, eq=False)
class _Exact(ScalingSum):
    """Exact means and variances, without differential privacy."""

    stage: ExactStage
    moments: Moments | None = None

    @classmethod
    def of(cls, job: Job, public: Public, parties: int) -> _Exact:
        moments = Moments(public.ranges, limit=limit_of(PRECISION), rows_max=ROWS_MAX)
        opened = exact_moments(job.data.splits)
        stage = ExactStage.of(SCALING, job, parties, moments.specs(), [opened], precision=PRECISION)
        return cls(public, stage, clamped=False, filled=public.means, moments=moments)

    def _moments(self) -> Moments:
        if self.moments is None:
            raise Misuse("a sum of no moments")
        return self.moments

    def vector(self, site: Site, parts: Sequence[Split], rand: Rand) -> Vector:
        rows = scaling_rows(site, parts, known=self.filled)
        return self.stage.vector(self._moments().sums_known(rows) if self.filled else self._moments().sums(rows), rand)

    def read(self, total: Sum) -> tuple[Scaling, tuple[str, ...]]:
        sums, moments = self.stage.decoded(total).sums, self._moments()
        if self.filled:
            standing = [coding.fill or 0.0 for coding in self.public.codings]
            return Scaling.of(*moments.filling(sums, total.contributors, standing)), ()
        scaler = moments.scaler(sums, total.contributors)
        return Scaling.of(scaler, scaler.shift), ()


@dataclass(frozen=True, eq=False)
class _Noised(ScalingSum):
    """Means and variances with noise of every party inside the sum, under the run's ε."""

    plan: StatisticsPlan | None = None

    @classmethod
    def of(cls, job: Job, public: Public, parties: int) -> _Noised:
        from securefl.privacy.noise_plan import Cohort  # noqa: PLC0415  (scipy's transforms load with it)
        from securefl.standardise import SHARE, refuse_unit  # noqa: PLC0415
        from securefl.statistics.noise import planned  # noqa: PLC0415

        refuse_unit(job)
        knobs, protocol = job.privacy, short_sums(job.privacy)
        if not protocol.hides:
            raise UserError(f"{protocol.name} shows every site's sums with a share of the noise alone: take one that hides them")
        of_sum: Any = protocol.parameters(parties, 1, 1, threshold=knobs.threshold_of_all)
        book = _book(public, [])
        cohort = Cohort(parties, of_sum.threshold, of_sum.corrupt)
        plan = planned(book.questions, cohort, ROWS_MAX, epsilon=SHARE * knobs.epsilon, delta=knobs.delta)
        of_plan = {"tail": plan.tail, "bits": plan.bits, "threshold": knobs.threshold_of_all}
        parameters = protocol.noised(parties, plan.size, 1, **of_plan)  # type: ignore[arg-type]
        event = plan.event(plan.cohort.smallest)
        stage = Stage(SCALING, protocol, parameters, plan.size, tuple(opened_with_noise(book.names, event)))
        return cls(public, stage, clamped=True, filled=True, before=Before((event,), (event,)), plan=plan)

    def _plan(self) -> StatisticsPlan:
        if self.plan is None:
            raise Misuse("a noised sum without its plan")
        return self.plan

    def vector(self, site: Site, parts: Sequence[Split], rand: Rand) -> Vector:
        from securefl.privacy.samplers import skellam  # noqa: PLC0415

        rows, plan = scaling_rows(site, parts, known=True), self._plan()
        if len(rows) * plan.delta >= 1 or len(rows) > ROWS_MAX:
            raise UserError(f"{quoted(site.name)}: {len(rows)} rows, where δ = {plan.delta:g} must be below 1 over them")
        book = _book(self.public, [(site.name, rows)])
        sums = np.concatenate([question.sums(0, scale) for question, scale in plan.scaled(book.questions)])
        return Vector(sums + skellam(rand, "noise", plan.size, plan.share))

    def read(self, total: Sum) -> tuple[Scaling, tuple[str, ...]]:
        from securefl.standardise import fills_of, scaler_of, told  # noqa: PLC0415
        from securefl.statistics.cells import DEFAULT  # noqa: PLC0415

        plan, book, ranges = self._plan(), _book(self.public, []), self.public.ranges
        about = {"sites": total.contributors, "min_cell": DEFAULT, "opened": self.stage.opened}
        release = book.release(plan, total.values, total.contributors, about)
        scaler, kept = scaler_of(ranges, release["description"])
        fills, middles = fills_of(ranges, release["description"])
        lines = told(self.public.features, self.public.codings, release.epsilon, kept, middles)
        return Scaling.of(scaler, fills), lines


def _book(public: Public, tables: Sequence[tuple[str, NDArray[np.float64]]]) -> Book:
    """The questions of noised scaling, over these tables or none."""
    from securefl.statistics import Asked, Columns  # noqa: PLC0415
    from securefl.statistics.asking import Book  # noqa: PLC0415
    from securefl.statistics.columns import SiteTable  # noqa: PLC0415

    columns = Columns(dict(zip(public.features, map(tuple, public.ranges.tolist()), strict=True)))
    own = [SiteTable.of(name, dict(zip(public.features, rows.T, strict=True))) for name, rows in tables]
    return Book(Asked(describe=public.features), columns, own, lambda _line: None)
