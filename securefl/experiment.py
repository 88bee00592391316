"""A job from its data to its result, simulated: load, split, scale, train, and compare with what the sites reach alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from protocols.rand import fresh
from securefl import data as datasets
from securefl.assessment import assess, without_few
from securefl.baselines import Baselines, baselines
from securefl.cohort import cohort_size, short_sums, smallest_cohort
from securefl.data import Dataset, Split
from securefl.data.assays import Assays
from securefl.data.types import Coding
from securefl.data_knobs import DataKnobs
from securefl.encode import limit_of
from securefl.errors import UserError
from securefl.evaluation import scored
from securefl.exact_sums import ExactSums
from securefl.fairness import by_group
from securefl.job import Job
from securefl.knobs import ModelKnobs, SimulationKnobs
from securefl.ledger import exact_moments, opened_in_scaling
from securefl.models import build, threads_for
from securefl.parties import Consortium
from securefl.privacy.budget import Ledgers, ledgers_of, strangers
from securefl.privacy.store import Store
from securefl.results import DataSummary, Opened, Preparation, RoundRecord, RunResult
from securefl.resume import Keeping
from securefl.round_types import Fold
from securefl.runner import Runner
from securefl.scaling import PRECISION, ROWS_MAX, Exponents, Moments, Scaler, from_ranges, scaling_rows
from securefl.standardise import Scaled, filled, standardised, without_ranges
from securefl.timing import Gauge

if TYPE_CHECKING:
    from securefl.audit.recording import Recording

Splits = dict[str, tuple[Split, ...]]


def split(job: Job, dataset: Dataset) -> Splits:
    """Training and held-out rows of every site.

    Raises:
        UserError: for a site with too few rows.
    """
    knobs, seed = job.data, job.simulation.seed
    folds = None if knobs.splits == 1 else knobs.splits
    return {s.name: datasets.plan(s, folds=folds, holdout=knobs.holdout, seed=seed) for s in dataset.sites}


def run_job(
    job: Job,
    *,
    dataset: Dataset | None = None,
    on_event: Callable[[RoundRecord], None] | None = None,
    on_notice: Callable[[str], None] = lambda _line: None,
    on_start: Callable[[], None] = lambda: None,
    recording: Recording | None = None,
) -> RunResult:
    """Run a job in this process.

    Args:
        job: the knobs.
        dataset: its data, if they are loaded already.
        on_event: called after each round.
        on_notice: called with a line that the user should see, before training where that can be.
        on_start: called once when nothing can be refused any more, before the first round.
        recording: writes down what the server and each party saw; kept from ``on_start`` on, whatever happens.

    Raises:
        UserError, Misuse: for bad input, before training.
    """
    began, spent = time.perf_counter(), dict[str, float]()
    if job.model.fix:
        raise UserError(f"model.fix (--fix-model) is refused for {job.model.name}: it is for a model of your own, in a Runner")
    with _timed(spent, "load_data"):
        loaded = dataset or datasets.of_job(job)
    smallest_cohort(job.privacy, cohort_size(job.privacy, len(loaded.rows)))
    if isinstance(loaded, Assays):
        from securefl.assay_runs import run  # noqa: PLC0415

        return replace(run(job, loaded, on_event, on_notice, on_start, recording).after(spent), wall=time.perf_counter() - began)
    with _ledgers(job, loaded) as ledgers:
        result = _run(job, loaded, spent, ledgers, on_event, on_notice, on_start, recording)
    return replace(result, wall=time.perf_counter() - began)


@contextmanager
def _ledgers(job: Job, loaded: Dataset) -> Iterator[Ledgers]:
    """Each site's own ledger, where the job names a file."""
    knobs = job.privacy
    if knobs.ledger is None:
        yield {}
        return
    data = knobs.ledger_data or Path(job.data.name).name
    with Store(knobs.ledger) as store:
        yield ledgers_of(store, {s.name: (s.known, s.y) for s in loaded.sites}, data)


def _run(
    job: Job,
    loaded: Dataset,
    spent: dict[str, float],
    ledgers: Ledgers,
    on_event: Callable[[RoundRecord], None] | None,
    on_notice: Callable[[str], None],
    on_start: Callable[[], None],
    recording: Recording | None,
) -> RunResult:
    splits, names = split(job, loaded), [s.name for s in loaded.sites]
    short = short_sums(job.privacy)
    policy = replace(short.policy, min_cohort=job.privacy.min_cohort or 2)
    consortium = Consortium.of(names, policy)
    gauge = Gauge(names)
    with _timed(spent, "scale_features"):
        scaled = prepared_features(job, loaded, splits, consortium, gauge, recording, ledgers)
    loaded, scalers, opened = scaled.dataset, scaled.scalers, scaled.opened
    spent["scale_features"] -= sum(gauge.clock.total().values())  # the steps of its secure sums stand for themselves
    folds = {
        s.name: tuple(
            Fold(_rows(scaler, s.x[part.train], s.y[part.train]), _rows(scaler, s.x[part.test], s.y[part.test]))
            for scaler, part in zip(scalers, splits[s.name], strict=True)
        )
        for s in loaded.sites
    }
    model = build(job.model, len(loaded.features), job.simulation.seed)
    simulation = SimulationKnobs(dropout=job.simulation.dropout)
    done = {"data": DataKnobs(), "model": ModelKnobs(fix=job.model.fix, shared=job.model.shared), "simulation": simulation}
    done["privacy"] = job.privacy.model_copy(update={"ledger": None, "ledger_data": None})
    with _timed(spent, "prepare_training"):
        runner = Runner(
            model,
            folds,
            job=job.model_copy(update=done),
            name=loaded.name,
            models_per_record=max(1, job.data.splits - 1),
            consortium=consortium,
            on_notice=on_notice,
            recording=recording,
            ledgers=ledgers,
            before=scaled.before,
        )
    lonely = [
        f"{name} trains on 1 row: what it sends is about that row alone"
        for name, parts in splits.items()
        if min(len(part.train) for part in parts) == 1
    ]
    unknown = {strangers(ledger.store, ledger.data, names) for ledger in ledgers.values()}
    for line in (*loaded.warnings, *scaled.lines, *lonely, *filter(None, unknown)):
        runner.warnings.append(line)
        on_notice(line)
    kept = Keeping.of(job, loaded, runner, recorded=recording is not None and recording.needed)
    on_start()
    if recording is not None:
        recording.keep()
    result = runner.run(kept.after(on_event))
    result = replace(result, site_metrics=without_few(result.site_metrics, loaded, splits))
    with _timed(spent, "train_baselines"), threads_for(model):
        alone = baselines(job, runner.trainer, runner.template, folds) if job.simulation.baselines else Baselines()
    if loaded.compared:
        after = Gauge(names, "after training", "histograms of the final model's scores on held-out rows")
        exact = ExactSums(job, "assessment", consortium, after, recording, ledgers)
        with _timed(spent, "assess"), threads_for(model):
            scores = scored(runner.trainer, runner.scored_models(), folds)
            assessment = assess(loaded, splits, scores, alone, exact)
            assessment = replace(assessment, groups=by_group(loaded, splits, scores, exact))
        spent["assess"] -= sum(after.clock.total().values())
        if line := assessment.warning:
            result.warnings.append(line)
            on_notice(line)
        opened += exact.opened
        shown = assessment.without_few(result.site_metrics)
        result = replace(after.added_to(result, short.flow), assessment=assessment, site_metrics=shown)
    result = gauge.added_to(result.after(spent), short.flow)
    return replace(
        result,
        job=job.plain(),
        pooled=alone.pooled,
        local=alone.local,
        opened=[*opened, *result.opened],
        data=DataSummary(
            loaded.source,
            loaded.notes,
            {s.name: len(s.y) for s in loaded.sites},
            {name: sum(len(part.test) for part in parts) for name, parts in splits.items()},
        ),
        preparation=_preparation(loaded, scalers[0]),
    )


@contextmanager
def _timed(spent: dict[str, float], step: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    spent[step] = time.perf_counter() - began


def _preparation(loaded: Dataset, scaler: Scaler) -> Preparation:
    shift, scale, low, high = (
        None if part is None else tuple(map(float, part)) for part in (scaler.shift, scaler.scale, scaler.low, scaler.high)
    )
    columns = tuple(asdict(coding) for coding in loaded.codings or map(Coding, loaded.features))
    return Preparation(loaded.features, loaded.classes, columns, shift or (), scale or (), low, high)


def _rows(scaler: Scaler, x: NDArray[Any], y: NDArray[Any]) -> TensorDataset:
    return TensorDataset(torch.from_numpy(scaler.apply(x)), torch.from_numpy(y.astype("float32")))


def prepared_features(
    job: Job,
    loaded: Dataset,
    splits: Splits,
    consortium: Consortium,
    gauge: Gauge,
    recording: Recording | None = None,
    ledgers: Ledgers | None = None,
) -> Scaled:
    """Rows, scalers and what was opened for them, as the job wants it: `scale`, or `securefl.standardise.standardised`."""
    for row in _opened_in_table(job):
        for ledger in (ledgers or {}).values():
            ledger.note(f"table-{fresh().bytes('run', 8).hex()}", row)
    if job.data.scaling == "noised":
        found = standardised(job, loaded, splits, consortium, gauge, recording, ledgers)
        return replace(found, opened=[*_opened_in_table(job), *found.opened])
    return scale(job, loaded, splits, consortium, gauge, recording, ledgers)


def _opened_in_table(job: Job) -> list[Opened]:
    named = "names and kinds" if job.privacy.mechanism != "none" else "names, kinds, values of text columns"
    told = opened_in_scaling("columns of the table", f"{named} and which, without a public range or levels, are constant")
    return [told] if job.data.is_table else []


def scale(
    job: Job,
    loaded: Dataset,
    splits: Splits,
    consortium: Consortium,
    gauge: Gauge,
    recording: Recording | None = None,
    ledgers: Ledgers | None = None,
) -> Scaled:
    """Rows, the same scaler for each fold, and what was opened for it; ``gauge`` measures the secure sums.

    With differential privacy, public ranges.  Without, means and variances out of one secure sum: of the training rows, or in
    cross-validation of all rows, as sums for each fold would differ by its held-out rows.  Where a table has no public ranges,
    powers of two that bound each column come out of a secure histogram before that.  Where the data ask for it, the means are those
    of the values that are there, and stand in for missing ones.
    """
    folds, bounds = len(next(iter(splits.values()))), loaded.ranges
    exact = ExactSums(job, "scaling", consortium, gauge, recording, ledgers)
    opened = exact.opened
    opened += _opened_in_table(job)
    if bounds is None and job.privacy.mechanism in ("distributed-party", "distributed-record", "central"):
        raise UserError(
            f"{job.privacy.mechanism} needs public ranges of all columns (--range COLUMN=LOW:HIGH): scaling by what the sites hold "
            f"would open exact sums, which no ε covers; missing: {without_ranges(job, loaded)}"
        )
    if bounds is None:
        exponents = Exponents(len(loaded.features), loaded.features)
        what = opened_in_scaling("binary exponents of each column", "sites by power of two: the table has no public ranges")
        bounds = exponents.read(
            exact.total(0, what, exponents.specs(), [exponents.sums(s.x) for s in loaded.sites], precision=PRECISION).sums
        )
    if job.privacy.mechanism != "none":
        return Scaled(loaded, [from_ranges(bounds)] * folds, opened)
    moments = Moments(bounds, limit=limit_of(PRECISION), rows_max=ROWS_MAX)
    rows, what = [scaling_rows(s, splits[s.name], known=loaded.means) for s in loaded.sites], exact_moments(folds)
    if loaded.means:
        total = exact.total(1, what, moments.specs(), [moments.sums_known(x) for x in rows], precision=PRECISION)
        scaler, fills = moments.filling(total.sums, len(loaded.sites), [coding.fill or 0.0 for coding in loaded.codings])
        return Scaled(filled(loaded, fills), [scaler] * folds, opened)
    total = exact.total(1, what, moments.specs(), [moments.sums(x) for x in rows], precision=PRECISION)
    return Scaled(loaded, [moments.scaler(total.sums, len(loaded.sites))] * folds, opened)
