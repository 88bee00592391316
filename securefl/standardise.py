"""Standardisation and imputation before private training: means and variances out of one noised sum, their ε part of the run's.

One `securefl.statistics.SecureStatistics.noised` over public ranges, Skellam noise of every site inside, `SHARE` of the run's ε if
it stood alone.  Its event and those of training are composed by RDP, and the noise of training is made for what is left: with a
quarter of ε it grows by about 4 %, as small losses add up in squares.  Nothing exact is opened.

Where the noise hides a variance, a feature keeps its public range; where it hides the count, a missing number becomes the middle.

What it does not protect: the noise of statistics counts on the honest among the fewest survivors, also where training's is a site's
own; see `securefl.statistics.noise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Misuse
from protocols.sums import Scheme
from securefl.cohort import cohort_size, short_sums
from securefl.data.types import Coding, Dataset, Site, Split
from securefl.errors import UserError, quoted
from securefl.job import Job
from securefl.models import build, to_vector
from securefl.parties import Consortium
from securefl.privacy.budget import Charge, Ledgers, refuse_over
from securefl.privacy.composition import ALONE, Before, merged
from securefl.privacy.divergence import SkellamEvent
from securefl.privacy.events import parse
from securefl.privacy.prepared import encoding_of, event_of, noise_of
from securefl.results import Opened
from securefl.scaling import Scaler, filled_codings, from_ranges, scaling_rows
from securefl.statistics import Asked, Columns, SecureStatistics
from securefl.timing import Gauge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from securefl.audit.recording import Recording
    from securefl.statistics.results_noised import NoisedDescription

SHARE = 0.25
"""What the statistics would cost alone, in parts of the run's ε."""
DEVIATIONS = 2.0
"""Of the noise, that a variance or a count must exceed to be used."""


@dataclass(frozen=True)
class Scaled:
    """What training starts from.

    Attributes:
        dataset: rows with what stands in for missing numbers, not scaled.
        scalers: of each fold.
        opened: for it.
        before: what of that is under the ε of training.
        lines: that the user should see.
    """

    dataset: Dataset
    scalers: list[Scaler]
    opened: list[Opened]
    before: Before = ALONE
    lines: tuple[str, ...] = ()


def standardised(
    job: Job,
    loaded: Dataset,
    splits: Mapping[str, tuple[Split, ...]],
    consortium: Consortium,
    gauge: Gauge,
    recording: Recording | None = None,
    ledgers: Ledgers | None = None,
) -> Scaled:
    """Scale and impute by noised statistics of the training rows, in cross-validation of all rows; ``gauge`` measures the sum.

    Raises:
        UserError: before anything leaves, for a mechanism whose unit is not a record, a column without a public range, a protocol
            that shows single sums, a budget that the whole run would exceed, or an ε that cannot be reached.
    """
    ranges, protocol, folds = _ranges(job, loaded), short_sums(job.privacy), len(next(iter(splits.values())))
    statistics = SecureStatistics(
        consortium,
        _timed(protocol, gauge),
        {s.name: _table(loaded, s, splits[s.name]) for s in loaded.sites},
        Columns(dict(zip(loaded.features, map(tuple, ranges.tolist()), strict=True))),
        threshold=job.privacy.threshold_of_all,
        watch=gauge.traffic.watch,
        recording=recording,
        ledgers=ledgers,
    )
    asked, epsilon, delta = Asked(describe=loaded.features), SHARE * job.privacy.epsilon, job.privacy.delta
    plan = statistics.noise(asked, epsilon=epsilon, delta=delta)
    planned = plan.event(plan.cohort.smallest)
    _refuse(job, loaded, planned, ledgers or {})
    gauge.sizes.append(plan.size)
    release = statistics.noised(asked, epsilon=epsilon, delta=delta)
    found: NoisedDescription = release["description"]
    scaler, kept = scaler_of(ranges, found)
    fills, middles = fills_of(ranges, found)
    lines = told(loaded.features, loaded.codings, release.epsilon, kept, middles)
    return Scaled(filled(loaded, fills), [scaler] * folds, [*release.opened], Before((planned,), (release.event,)), lines)


def told(
    features: Sequence[str], codings: Sequence[Coding], epsilon: float, kept: NDArray[np.bool_], middles: NDArray[np.bool_]
) -> tuple[str, ...]:
    """What the user should see; of missing numbers only where there may be some, not where there are.

    Args:
        features: their names.
        codings: of the columns.
        epsilon: what the sum would cost alone.
        kept: which features keep their range, from `scaler_of`.
        middles: which are filled by its middle, from `fills_of`.
    """
    filled = {coding.column for coding in codings if coding.fill is not None}
    hidden = np.array([name in filled for name in features]) & middles
    what = {
        "scaled by the public range, as noise hides the variance": kept,
        "a missing number becomes the middle of the public range, as noise hides the count": hidden,
    }
    return (
        f"means and variances for scaling would cost ε = {epsilon:.3g} alone; the run's ε is over them and the training",
        *(f"{line}: {_names(features, which)}" for line, which in what.items() if which.any()),
    )


def _timed(protocol: Scheme, gauge: Gauge) -> Scheme:
    return replace(protocol, flow=gauge.clock.timed(protocol.flow))


def refuse_unit(job: Job) -> None:
    """Raise `UserError` for a mechanism whose unit is not a record."""
    if job.privacy.mechanism not in ("local-record", "distributed-record", "central"):
        raise UserError(
            f"data.scaling = noised is refused with {job.privacy.mechanism}: the noise of such statistics protects a record, "
            "which is not its unit"
        )


def _ranges(job: Job, loaded: Dataset) -> NDArray[np.float64]:
    refuse_unit(job)
    if loaded.ranges is None:
        raise UserError(
            f"data.scaling = noised needs public ranges of all columns (--range COLUMN=LOW:HIGH), which bound what one row adds; "
            f"missing: {without_ranges(job, loaded)}"
        )
    return loaded.ranges


def without_ranges(job: Job, loaded: Dataset) -> str:
    """The columns that a job gives no public range, in words."""
    without = [quoted(c.column) for c in loaded.codings if not c.values and c.column not in job.data.ranges]
    return ", ".join(without) or "those of the data set"


def _table(loaded: Dataset, site: Site, splits: Sequence[Split]) -> dict[str, NDArray[np.float64]]:
    """The rows of a site that statistics are over, by column, NaN where missing."""
    return dict(zip(loaded.features, scaling_rows(site, splits, known=True).T, strict=True))


def _refuse(job: Job, loaded: Dataset, planned: SkellamEvent, ledgers: Ledgers) -> None:
    """Refuse, before the statistics leave, what the training after them would be refused for."""
    knobs, before, models = job.privacy, Before((planned,), (planned,)), job.data.splits
    size, per_record = to_vector(build(job.model, len(loaded.features), job.simulation.seed)).size, max(1, models - 1)
    encoding = encoding_of(
        knobs, cohort_size(knobs, len(loaded.sites)), (size,) * models, (), models_per_record=per_record, before=before
    )
    step = event_of(knobs, encoding, noise_of(knobs, per_record, before), per_record)
    if step is None:
        raise Misuse(f"nobody says what a round of {knobs.mechanism} costs")
    (training,) = merged([(parse(step), knobs.rounds)])
    refuse_over(ledgers, [Charge("noised sums for scaling", planned, "record"), Charge("training", training, "record")])


def scaler_of(ranges: NDArray[np.float64], found: NoisedDescription) -> tuple[Scaler, NDArray[np.bool_]]:
    """Noised mean and deviation (divisor n) where the noise does not hide the variance, else the range; and where it does."""
    public, low, high = from_ranges(ranges), ranges[:, 0].copy(), ranges[:, 1].copy()
    count = np.array([np.nan if c is None else float(c) for c in found.count])
    variance = found.variance * (count - 1) / count
    known = (count > DEVIATIONS * found.count_noise) & (variance > DEVIATIONS * found.variance_noise + found.variance_error)
    deviation = np.sqrt(np.where(known, variance, 1.0))
    return Scaler(np.where(known, found.mean, public.shift), np.where(known, deviation, public.scale), low, high), ~known


def fills_of(ranges: NDArray[np.float64], found: NoisedDescription) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Noised means, and the middle of the range where the noise hides the count; and where it does."""
    count = np.array([np.nan if c is None else float(c) for c in found.count])
    known = (count > DEVIATIONS * found.count_noise) & np.isfinite(found.mean)
    return np.where(known, found.mean, ranges[:, 0] / 2 + ranges[:, 1] / 2), ~known


def filled(loaded: Dataset, fills: NDArray[np.float64]) -> Dataset:
    """The data with ``fills`` for missing numbers, in the rows and in how a column is coded."""
    sites = tuple(s if s.missing is None else replace(s, x=np.where(s.missing, fills, s.x)) for s in loaded.sites)
    codings = filled_codings(loaded.features, loaded.codings, fills)
    return replace(loaded, sites=sites, codings=codings)


def _names(features: Sequence[str], which: NDArray[np.bool_]) -> str:
    return ", ".join(quoted(name) for name, chosen in zip(features, which, strict=True) if chosen)
