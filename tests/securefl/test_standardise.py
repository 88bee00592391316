"""Scaling and imputation out of noised sums: exact where the noise is off, within ε with the training, and nothing exact beside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from stub_runner import refused

from protocols.errors import Misuse
from protocols.policy import Policy
from securefl import exact_sums, experiment
from securefl.data.types import Coding, Dataset, Site
from securefl.errors import UserError
from securefl.experiment import prepared_features, run_job, split
from securefl.job import Job
from securefl.parties import Consortium
from securefl.privacy.budget import PartyLedger
from securefl.privacy.composition import Before, noise_beside, rdp_of_step, spent
from securefl.privacy.divergence import SkellamEvent, epsilon_of_rdp, rdp_of
from securefl.privacy.events import DpSgdEvent, parse
from securefl.privacy.prepared import encoding_of, noise_of
from securefl.privacy.rows import digest_of
from securefl.privacy.store import Budget, Store
from securefl.results import RunResult
from securefl.scaling import from_ranges
from securefl.standardise import SHARE, Scaled
from securefl.statistics import opening, totals
from securefl.timing import Gauge

MECHANISMS = ("local-record", "distributed-record", "central")
RANGES = np.array([[-4.0, 8.0], [0.0, 1.0], [-10.0, 100.0]])
STATISTICS = SkellamEvent(4e9, 0.0, 2.0**15)
"""Noise of standard deviation 2 for a norm of 1."""


def data(rows: int = 400, sites: int = 4) -> Dataset:
    rng = np.random.default_rng(7)
    made = []
    for i in range(sites):
        x = np.column_stack([rng.normal(2, 3, rows), rng.integers(0, 2, rows), rng.gamma(3, 10, rows)])
        missing = np.column_stack([rng.random(rows) < 0.2, np.zeros((rows, 2), dtype=bool)])
        y = (x[:, 0] + x[:, 1] > 2.5).astype(np.int64)
        made.append(Site(f"site {i}", np.where(missing, 2.0, x), y, missing))
    codings = (Coding("a", fill=2.0), Coding("b", ("no", "yes")), Coding("c", fill=45.0))
    return Dataset(
        "made", ("a", "b=yes", "c"), tuple(made), RANGES, fixed_sites=True, source="", codings=codings, classes=("no", "yes")
    )


def job(mechanism: str = "local-record", folds: int = 1, scaling: str = "noised", **privacy: Any) -> Job:
    knobs = {"mechanism": mechanism, "protocol": "secagg", "rows": 280, "rounds": 2, **privacy}
    return Job.parse(
        {"data": {"folds": folds, "scaling": scaling}, "privacy": knobs, "simulation": {"baselines": False}},
    )


def prepared(asked: Job, loaded: Dataset | None = None, **options: Any) -> Scaled:
    given = loaded or data()
    names = [s.name for s in given.sites]
    return prepared_features(asked, given, split(asked, given), Consortium.of(names, Policy()), Gauge(names), **options)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of the statistics off."""
    monkeypatch.setattr(totals, "skellam", lambda _rand, _label, size, _share: np.zeros(size, dtype=np.int64))


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as made:
        yield made


def ledgers(store: Store, loaded: Dataset) -> dict[str, PartyLedger]:
    return {s.name: PartyLedger(store, s.name, "made", digest_of((s.x, s.y))) for s in loaded.sites}


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_without_noise_it_is_the_pooled_standardisation_and_the_pooled_mean(quiet: None, mechanism: str, folds: int) -> None:
    loaded, asked = data(), job(mechanism, folds, epsilon=100.0)
    found, splits = prepared(asked, loaded), split(asked, loaded)
    low, high = RANGES.T
    gaps = [np.where(s.missing, np.nan, np.clip(s.x, low, high)) for s in loaded.sites]  # type: ignore[arg-type]
    own = [x[splits[s.name][0].train] if folds == 1 else x for s, x in zip(loaded.sites, gaps, strict=True)]
    want = StandardScaler().fit(np.concatenate(own))
    assert len(found.scalers) == folds
    for scaler in found.scalers:
        assert np.allclose(scaler.shift, want.mean_, rtol=0, atol=2e-4 * (high - low))
        assert np.allclose(scaler.scale, want.scale_, rtol=2e-3)
        assert np.array_equal([scaler.low, scaler.high], [low, high])
    for before, after in zip(loaded.sites, found.dataset.sites, strict=True):
        assert before.missing is not None
        assert np.allclose(after.x[before.missing], want.mean_[0], atol=3e-3)
        assert np.array_equal(after.x[~before.missing], before.x[~before.missing])
    assert [c.fill is None for c in found.dataset.codings] == [False, True, False]
    assert found.dataset.codings[0].fill == pytest.approx(want.mean_[0], abs=3e-3)
    assert not any("public range" in line for line in found.lines)


def test_held_out_rows_are_scaled_and_filled_as_the_training_rows_and_the_result_says_how(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folds: dict[str, Any] = {}
    real = experiment.Runner
    monkeypatch.setattr(experiment, "Runner", lambda model, given, **more: folds.update(given) or real(model, given, **more))
    loaded, asked = data(), job(epsilon=8.0)
    made = run_job(asked, dataset=loaded).preparation
    assert made is not None
    fill = np.array([made.columns[0]["fill"], 0, made.columns[2]["fill"]])
    assert fill[0] != 2.0
    for site in loaded.sites:
        x = np.clip(np.where(site.missing, fill, site.x), made.low, made.high)  # type: ignore[arg-type]
        part = split(asked, loaded)[site.name][0]
        for rows, fold in ((part.train, folds[site.name][0].train), (part.test, folds[site.name][0].test)):
            want = (x[rows] - np.array(made.shift)) / np.array(made.scale)
            assert np.allclose(fold.tensors[0].numpy(), want, atol=1e-5)


def by_hand(statistics: SkellamEvent, training: Any, delta: float = 1e-5) -> float:
    """ε of both, order by order."""
    total, left = rdp_of(statistics), delta
    if isinstance(training, DpSgdEvent):
        return epsilon_of_rdp(total + training.steps * rdp_of_step(training.noise_multiplier, training.sample_rate), left)
    return epsilon_of_rdp(total + training.rounds * rdp_of(training), left - training.failure)


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_run_s_epsilon_is_that_of_both_events_and_the_ledger_holds_both(
    monkeypatch: pytest.MonkeyPatch, store: Store, mechanism: str, folds: int
) -> None:
    loaded, asked = data(), job(mechanism, folds)
    monkeypatch.setattr(experiment, "_ledgers", lambda *_: _Given(ledgers(store, loaded)))
    result = run_job(asked, dataset=loaded)
    rows = [row for row in result.opened if row.event is not None]
    assert [row.what.startswith("noised sums: rows; moments of a;") for row in rows] == [True, False]
    assert {row.unit for row in rows} == {"record"}
    worst = parse(rows[0].event)
    assert isinstance(worst, SkellamEvent)
    for name, epsilon in zip(ledgers(store, loaded), result.epsilon, strict=True):
        statement = PartyLedger(store, name, "made").statement("record")
        statistics, training = (entry.event for entry in statement.entries)
        assert isinstance(statistics, SkellamEvent)
        assert statistics.variance > worst.variance  # all sites were in the sum
        times = statement.entries[1].times
        whole = (
            replace(training, steps=training.steps * times)
            if isinstance(training, DpSgdEvent)
            else replace(training, rounds=training.rounds * times, failure=training.failure * times)  # type: ignore[type-var]
        )
        assert epsilon == pytest.approx(by_hand(statistics, whole), rel=1e-9)
        assert epsilon == pytest.approx(statement.spent.epsilon, rel=1e-9)
        assert epsilon <= by_hand(worst, whole) <= 3.0
        if mechanism != "distributed-record":  # there the noise of training is also for the fewest, and four survived
            assert by_hand(worst, whole) > 0.999 * 3.0
    assert result.accountant == "rdp"
    assert spent([(worst, 1)], 1e-5).epsilon == pytest.approx(SHARE * 3.0, rel=1e-5)


class _Given:
    """A context that gives what it was given."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def __enter__(self) -> Any:
        return self.what

    def __exit__(self, *_: object) -> None:
        return None


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_nothing_exact_about_features_is_opened_beside(monkeypatch: pytest.MonkeyPatch, mechanism: str) -> None:
    def exact(*_: object, **__: object) -> None:
        raise AssertionError("an exact sum")

    monkeypatch.setattr(exact_sums, "secure_totals", exact)
    monkeypatch.setattr(opening, "secure_totals", exact)
    plain = run_job(job(mechanism, scaling="auto"), dataset=data())
    result = run_job(job(mechanism), dataset=data())
    assert [o.what for o in result.opened[1:]] == [o.what for o in plain.opened]
    assert (result.opened[0].coverage, result.opened[0].rounds) == ("covered by ε", 1)
    assert result.as_json()["privacy"]["epsilon"] == result.epsilon
    assert max(result.epsilon) <= 3.0
    assert any("would cost ε = " in line for line in result.warnings)


def test_the_noise_of_training_grows_by_what_the_statistics_take() -> None:
    before = Before((STATISTICS,), (STATISTICS,))
    knobs = job().privacy
    alone = noise_beside((), epsilon=3.0, delta=1e-5, sample_rate=knobs.sample_rate, steps=knobs.rounds * knobs.steps)
    with_it = noise_of(knobs, 1, before)
    assert with_it is not None
    assert 1.001 * alone < with_it < 1.5 * alone
    knobs = job("distributed-record").privacy
    shares = [encoding_of(knobs, 4, (4,), (), before=b).plan for b in (Before(), before)]  # type: ignore[attr-defined]
    assert shares[0].noise_multiplier(4) * 1.001 < shares[1].noise_multiplier(4)
    assert 0.99 * 3 < shares[1].spent(shares[1].cohort.smallest) <= 3.0


@pytest.mark.parametrize("epsilon", [0.8, 3.0, 50.0])
def test_noise_beside_is_the_least(epsilon: float) -> None:
    event = SkellamEvent(4e10, 0.0, 2.0**15)
    sigma = noise_beside((event,), epsilon=epsilon, delta=1e-5, sample_rate=0.2, steps=60)
    assert by_hand(event, DpSgdEvent(sigma, 0.2, 60)) <= epsilon < by_hand(event, DpSgdEvent(sigma * (1 - 1e-5), 0.2, 60))
    with pytest.raises(UserError, match="cannot be reached beside the noised statistics over 60 steps"):
        noise_beside((SkellamEvent(1.0, 0.0, 2.0**15),), epsilon=epsilon, delta=1e-5, sample_rate=0.2, steps=60)


def test_where_noise_hides_the_variance_a_feature_keeps_its_public_range(quiet: None) -> None:
    """Rows enough for one feature, a constant one, and a run with almost no ε."""
    loaded = data()
    constant = tuple(replace(s, x=np.column_stack([s.x[:, :2], np.full(len(s.x), 50.0)])) for s in loaded.sites)
    found, public = prepared(job(epsilon=100.0), replace(loaded, sites=constant)), from_ranges(RANGES)
    assert "scaled by the public range, as noise hides the variance: c" in found.lines
    assert (found.scalers[0].shift[2], found.scalers[0].scale[2]) == (public.shift[2], public.scale[2])
    assert found.scalers[0].shift[0] != public.shift[0]
    found = prepared(job(epsilon=0.05))
    assert "scaled by the public range, as noise hides the variance: a, b=yes, c" in found.lines
    assert "a missing number becomes the middle of the public range, as noise hides the count: a, c" in found.lines
    assert np.array_equal([found.scalers[0].shift, found.scalers[0].scale], [public.shift, public.scale])
    assert found.dataset.codings[0].fill == 2.0
    assert all(np.array_equal(a.x, b.x) for a, b in zip(found.dataset.sites, loaded.sites, strict=True))


@pytest.mark.parametrize("moved", [-(2**30), 2**30])
def test_whatever_the_noise_scalers_are_finite_and_positive(monkeypatch: pytest.MonkeyPatch, moved: int) -> None:
    """Counts below 0, variances below 0, and both far above what can be."""
    monkeypatch.setattr(totals, "skellam", lambda _rand, _label, size, _share: np.full(size, moved, dtype=np.int64))
    found = prepared(job())
    scaler, (low, high) = found.scalers[0], RANGES.T
    assert np.isfinite(scaler.shift).all()
    assert (scaler.scale > 0).all()
    assert ((low <= scaler.shift) & (scaler.shift <= high)).all()
    assert all(np.isfinite(site.x).all() for site in found.dataset.sites)


@pytest.mark.parametrize(
    ("knobs", "line"),
    [
        ({"mechanism": "none"}, "data.scaling is refused without differential privacy, where means and variances are exact"),
        (
            {"mechanism": "distributed-party"},
            (
                "data.scaling is refused with distributed-party: its ε protects all records of a party at once, the noise of such "
                "statistics one of them"
            ),
        ),
        (
            {"accountant": "prv"},
            "privacy.accountant is refused with data.scaling = noised (--scaling), whose noise the rdp accountant alone knows",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(knobs: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as caught:
        Job.parse({"data": {"scaling": "noised"}, "privacy": knobs})
    assert str(caught.value) == line


def test_an_option_makes_a_file_s_scaling_idle_and_says_so_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = {"data": {"scaling": "noised"}, "privacy": {"mechanism": "none"}}
    assert Job.parse(tree, names={"privacy.mechanism": "--no-dp"}).data.scaling == "auto"
    assert "scaling" not in Job.parse({"privacy": {"mechanism": "none"}}).plain()["data"]
    assert Job.parse(job().plain()) == job()
    line = refused(capsys, "run", "--scaling", "exact")
    assert "--scaling = 'exact' is refused; allowed: auto or noised" in line


TABLE = "age,dose,ill,hospital\n" + "\n".join(
    f"{40 + i % 30},{i % 7},{'yes' if i % 3 else 'no'},{'ABCD'[i % 4]}" for i in range(200)
)


def test_a_column_without_a_public_range_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(TABLE)
    tree: dict[str, Any] = {"name": str(path), "label": "ill", "site": "hospital", "scaling": "noised", "ranges": {"age": [0, 120]}}
    with pytest.raises(UserError) as caught:
        run_job(Job.parse({"data": tree}))
    assert str(caught.value) == (
        "data.scaling = noised needs public ranges of all columns (--range COLUMN=LOW:HIGH), which bound what one row adds; "
        "missing: dose"
    )
    del tree["scaling"]
    for mechanism in ("distributed-party", "distributed-record", "central"):
        given = {"mechanism": mechanism, **({} if mechanism == "distributed-party" else {"rows": 50})}
        with pytest.raises(UserError, match=f"^{mechanism} needs public ranges of all columns .*; missing: dose$"):
            run_job(Job.parse({"data": tree, "privacy": given}))


def test_missing_numbers_of_a_table_become_the_noised_mean(quiet: None, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(TABLE.replace("\n44,", "\n,").replace("\n65,", "\n?,"))
    tree: dict[str, Any] = {"name": str(path), "label": "ill", "site": "hospital", "ranges": {"age": [0, 120], "dose": [0, 10]}}
    knobs = {"epsilon": 50.0, "rounds": 1, "rows": 50}
    results: list[RunResult] = [
        run_job(Job.parse({"data": {**tree, "scaling": how}, "privacy": knobs, "simulation": {"baselines": False}}))
        for how in ("noised", "auto")
    ]
    fills = [r.preparation.columns[0]["fill"] for r in results if r.preparation is not None]
    assert fills[1] == 60.0
    assert 50 < fills[0] < 58
    notes = [r.data.notes for r in results if r.data is not None]
    assert "missing numbers replaced by the middle of the public range: age 60" in notes[1]
    assert (
        "missing numbers replaced by the column's noised mean, or where noise hides it the middle of the public range: age 60"
        in notes[0]
    )
    assert results[0].opened[0].what == "columns of the table"


@pytest.mark.parametrize("mechanism", ["distributed-party", "none"])
def test_units_that_are_no_record_are_refused_in_a_job_that_was_not_parsed(mechanism: str) -> None:
    asked = job()
    asked = asked.model_copy(update={"privacy": asked.privacy.model_copy(update={"mechanism": mechanism})})
    with pytest.raises(UserError, match=f"data.scaling = noised is refused with {mechanism}: the noise .* protects a record"):
        prepared(asked)
    with pytest.raises(Misuse, match=f"the ε of {mechanism} is of no record"):
        encoding_of(asked.privacy, 4, (4,), (), before=Before((STATISTICS,), (STATISTICS,)))
    with pytest.raises(UserError, match="accountant prv is refused beside noised statistics"):
        noise_of(job().privacy.model_copy(update={"accountant": "prv"}), 1, Before((STATISTICS,), (STATISTICS,)))


@pytest.mark.parametrize(
    ("knobs", "line"),
    [
        ({"protocol": "plain-insecure"}, "plain-insecure shows every site's sums with a share of the noise alone"),
        ({"delta": 0.01}, "site 0: delta is 0.01: it must be below 1 over its rows"),
        ({"epsilon": 1e-9, "delta": 1e-30}, "epsilon 2.5e-10 .*choose a larger epsilon"),
        ({"mechanism": "distributed-record", "rows": None}, "privacy.rows is missing"),
        ({"mechanism": "distributed-record", "rows": 10**6}, "delta is 1e-05: it must lie below 1 over the number of records"),
        ({"mechanism": "central", "protocol": "plain-insecure"}, "plain-insecure shows"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_leaves(
    monkeypatch: pytest.MonkeyPatch, store: Store, knobs: dict[str, Any], line: str
) -> None:
    monkeypatch.setattr(opening, "noised_totals", lambda *_, **__: pytest.fail("it left"))
    loaded, asked = data(), job()
    asked = asked.model_copy(update={"privacy": asked.privacy.model_copy(update=knobs)})
    with pytest.raises(UserError, match=line):
        prepared(asked, loaded, ledgers=ledgers(store, loaded))
    assert not store.entries(("site 0", "made"))


@pytest.mark.parametrize("mechanism", MECHANISMS[:2])
def test_a_budget_must_hold_the_statistics_and_the_training_before_either_leaves(store: Store, mechanism: str) -> None:
    loaded, asked = data(), job(mechanism)
    store.set_budget(("site 2", "made"), "record", Budget(2.9, 1e-5))
    with pytest.raises(UserError, match="site 2 has ε = 2.9 of 2.9 of a record left .* needs ε = .* refused before anything left"):
        prepared(asked, loaded, ledgers=ledgers(store, loaded))
    assert not store.entries(("site 0", "made"))
    store.set_budget(("site 2", "made"), "record", Budget(3.0, 1e-5))
    found = prepared(asked, loaded, ledgers=ledgers(store, loaded))
    assert [entry.event for entry in store.entries(("site 2", "made"))] == list(found.before.happened)
