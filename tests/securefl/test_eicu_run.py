"""Jobs on eICU from end to end, on a made-up folder; the demo's figures where SECUREFL_DATA has it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_eicu
import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from securefl import data as datasets
from securefl import fairness, report, tables
from securefl.assessment import BINS, MIN_CELL, counts, read, specs
from securefl.cli import main
from securefl.errors import UserError
from securefl.experiment import run_job, split
from securefl.job import Job
from securefl.results import RunResult

PLAIN = {"mechanism": "none", "rounds": 3, "sample_rate": 1.0, "w_max": 1024}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_eicu.write(tmp_path_factory.mktemp("data") / "eicu", made_eicu.tables())


def job(folder: Path, *, sites: str | None = None, **privacy: Any) -> Job:
    tree: dict[str, Any] = {"data": {"name": "eicu", "dir": str(folder)}, "privacy": {**PLAIN, **privacy}}
    if sites is not None:
        tree["data"]["sites"] = sites
    return Job.parse(tree)


@pytest.fixture(scope="module")
def by_region(folder: Path) -> RunResult:
    return run_job(job(folder))


@pytest.fixture(scope="module")
def by_hospital(folder: Path) -> RunResult:
    return run_job(job(folder, sites="hospital"))


def test_what_the_secure_sum_says_is_within_its_bounds_of_the_exact_scores(by_region: RunResult) -> None:
    found = by_region.assessment
    assert found.secure
    assert found.federated.rows == by_region.metrics["rows"]
    for name in ("auroc", "auprc", "brier"):
        one = getattr(found.federated, name)
        if name != "brier":
            assert abs(one.value - by_region.metrics[name]) <= one.off + 1e-9
        assert one.low < one.value < one.high
    assert abs(found.pooled.auroc.value - by_region.pooled["auroc"]) <= found.pooled.auroc.off + 1e-9


def test_the_other_model_is_scored_on_the_same_rows_and_folds(folder: Path, by_region: RunResult) -> None:
    asked = job(folder)
    loaded = datasets.of_job(asked)
    splits, found = split(asked, loaded), by_region.assessment
    aurocs, precisions = [], []
    for fold in range(5):
        parts = [(s.compared[splits[s.name][fold].test], s.y[splits[s.name][fold].test]) for s in loaded.sites]
        scores, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
        known = ~np.isnan(scores)
        aurocs.append(roc_auc_score(labels[known], scores[known]))
        precisions.append(average_precision_score(labels[known], scores[known]))
    assert abs(found.compared.auroc.value - np.mean(aurocs)) <= found.compared.auroc.off
    assert abs(found.compared.auprc.value - np.mean(precisions)) <= found.compared.auprc.off
    assert found.name == "APACHE IVa"
    assert found.compared.rows == found.same_rows.rows < found.federated.rows
    assert found.compared.positives == found.same_rows.positives


def test_what_is_opened_is_listed_and_counted(by_region: RunResult) -> None:
    rows = [event for event in by_region.opened if "scores" in event.what or "by group and class" in event.what]
    assert [row.exact for row in rows] == [True] * 3
    (saw,) = [s for s in by_region.server_saw if s.step == "after training"]
    screened, by_sex = 2 * (2 * 2 + 4 * 2), 2 * 2 * 5 * fairness.BINS
    assert (saw.count, saw.size) == (3, 8 * (3 * 2 * 5 * BINS + screened + by_sex))
    assert by_region.assessment.groups is not None
    assert list(by_region.assessment.groups.figures) == ["sex"]  # some age group is too small in the made-up tables
    assert sum(spec.size for spec in specs(5, compared=True)) == 3 * 2 * 5 * BINS


def test_counts_of_sites_add_up_to_those_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    sites = [[(rng.random(n), rng.integers(0, 2, n)) for n in (7, 0, 12)] for _ in range(4)]
    others = [[np.where(rng.random(len(y)) < 0.3, np.nan, rng.random(len(y))) for _, y in folds] for folds in sites]
    each = [counts(folds, other) for folds, other in zip(sites, others, strict=True)]
    total = {key: np.sum([one[key] for one in each], axis=0) for key in each[0]}
    together = [tuple(np.concatenate(parts) for parts in zip(*(folds[f] for folds in sites), strict=True)) for f in range(3)]
    whole = counts(together, [np.concatenate([other[f] for other in others]) for f in range(3)])
    assert all(np.array_equal(total[key], whole[key]) for key in whole)
    assert set(whole) == {spec.name for spec in specs(3, compared=True)}
    assert read(total, "federated", 3).rows == sum(len(y) for folds in sites for _, y in folds)


def test_missing_values_become_the_secure_mean_and_the_scaler_is_that_of_the_filled_rows(
    folder: Path, by_region: RunResult
) -> None:
    loaded = datasets.load("eicu", directory=folder)
    known = np.concatenate([s.known for s in loaded.sites])
    mean = np.nanmean(known, axis=0)
    filled = np.where(np.isnan(known), mean, known)
    prepared = by_region.preparation
    assert np.allclose(prepared.shift, filled.mean(axis=0), rtol=1e-9, atol=1e-7)
    deviation = filled.std(axis=0)
    assert np.allclose(prepared.scale, np.where(deviation > 0, deviation, 1), rtol=1e-7)
    fills = {column["column"]: column["fill"] for column in prepared.columns}
    gaps = np.isnan(known).any(axis=0)
    assert gaps.sum() > 20
    stood = np.array([fills[name] for name, gap in zip(loaded.features, gaps, strict=True) if gap])
    assert np.allclose(stood, mean[gaps], rtol=1e-9, atol=1e-7)


def test_of_a_site_with_few_of_a_class_nothing_is_told_but_its_rows(by_hospital: RunResult) -> None:
    found, tree = by_hospital.assessment.sites, by_hospital.as_json()
    assert set(found) == set(by_hospital.sites)
    loaded = {s.name: s.y for s in datasets.load("eicu", directory=Path(by_hospital.job["data"]["dir"]), sites="hospital").sites}
    few = [name for name, y in loaded.items() if 0 < min(y.sum(), (1 - y).sum()) < MIN_CELL]
    assert few
    for name in few:
        assert tree["evaluation"]["sites"][name] == {
            "rows": len(loaded[name]), "positives": None, "auroc": None, "auprc": None, "brier": None, "calibration": [],
        }  # fmt: skip
        assert tree["site_metrics"][name] == {"rows": len(loaded[name])}
    assert any(one.auroc is not None for one in found.values())


def test_a_site_without_one_class_has_no_auroc_and_is_no_error(tmp_path: Path) -> None:
    made = made_eicu.tables()
    patient = made["patient"]
    made["patient"] = patient.assign(
        hospitaldischargestatus=patient.hospitaldischargestatus.where(patient.hospitalid != 7, "Alive")
    )
    result = run_job(job(made_eicu.write(tmp_path / "eicu", made), sites="hospital", rounds=1))
    one = result.assessment.sites["hospital 7"]
    assert (one.positives, one.auroc) == (0, None)
    assert "auroc" not in result.site_metrics["hospital 7"]
    assert result.assessment.federated.auroc is not None


def test_a_figure_that_the_bins_hide_is_marked(by_region: RunResult) -> None:
    assert by_region.assessment is not None
    assert by_region.assessment.federated.auroc is not None
    assert "~" not in tables.assessed(by_region).note
    blurred = replace(by_region.assessment.federated, auroc=replace(by_region.assessment.federated.auroc, off=0.218))
    sheet = tables.assessed(replace(by_region, assessment=replace(by_region.assessment, federated=blurred)))
    assert [cell[0] == "~" for cell in sheet.rows[0]] == [False, False, True, False, False]
    assert "~: the bins can hide more" in sheet.note


def test_the_tables_and_the_page_show_figures_with_intervals_and_the_curve(by_region: RunResult, by_hospital: RunResult) -> None:
    sheet, curve = tables.assessed(by_region), tables.calibration(by_region)
    assert [row[0] for row in sheet.rows[:3]] == ["federated, all rows", "federated, with APACHE IVa", "APACHE IVa, the same"]
    one = by_region.assessment.federated.auroc
    assert sheet.rows[0][2] == f"{one.value:.3f} ({one.low:.3f}–{one.high:.3f})"
    assert len(curve.rows) == len(by_region.assessment.federated.calibration) > 0
    page = report.html(by_region)
    for words in (sheet.title, curve.title, "<h2>Calibration</h2>", "AUPRC", "Brier", "APACHE IVa"):
        assert words in page
    assert page.count("<svg") == report.html(replace(by_region, assessment=None)).count("<svg") + 1
    assert "–" in [cell for row in tables.assessed(by_hospital).rows for cell in row]
    for result in (by_region, by_hospital):
        shown = [key for sheet in tables.sheets(result) for key in sheet.columns]
        assert shown.count("accuracy") <= shown.count("AUROC")


def test_many_sites_share_a_row_of_their_own_models(by_region: RunResult) -> None:
    local = [replace(by_region.local[0], name=f"s{i}", metrics={"auroc": i / 30} if i else {}) for i in range(31)]
    many = replace(by_region, local=local)
    (sheet,) = [s for s in tables.sheets(many) if s.title.startswith("Score on held-out")]
    assert [row[0] for row in sheet.rows] == ["federated, all sites", "pooled, all rows", "a site alone, mean of 31"]
    assert sheet.rows[-1][2] == f"{np.mean([i / 30 for i in range(1, 31)]):.3f}"


@pytest.mark.parametrize(
    ("privacy", "secure"),
    [
        ({"mechanism": "local-record", "epsilon": 8.0}, True),
        ({"mechanism": "distributed-record", "rows": 90}, False),
        ({"mechanism": "distributed-party"}, False),
        ({"mechanism": "central", "rows": 90}, False),
    ],
)
def test_it_runs_under_every_mechanism_and_opens_exact_scores_only_where_others_are(
    folder: Path, privacy: dict[str, Any], secure: bool
) -> None:
    knobs = {"mechanism": "none", "rounds": 2, "epsilon": 3.0} | privacy
    result = run_job(
        Job.parse({"data": {"name": "eicu", "dir": str(folder)}, "privacy": knobs, "simulation": {"baselines": False}})
    )
    assert result.epsilon
    assert max(result.epsilon) <= knobs["epsilon"]
    assert result.assessment.secure == secure
    assert any("histograms" in event.what for event in result.opened) == secure
    assert result.assessment.federated.auroc is not None
    if not secure:
        assert not [e for e in result.opened if e.exact and "number of parties" not in e.what and not e.bare]
        assert "Simulation only" in tables.assessed(result).note


def test_noised_scaling_runs_and_spends_no_more(folder: Path) -> None:
    tree = {"data": {"name": "eicu", "dir": str(folder), "scaling": "noised"}, "privacy": {"rounds": 2, "epsilon": 8.0}}
    result = run_job(Job.parse(tree | {"simulation": {"baselines": False}}))
    assert max(result.epsilon) <= 8


def test_a_budget_that_no_exact_sum_may_leave_costs_no_training(folder: Path, tmp_path: Path) -> None:
    """The figures are then a simulation's, and nothing exact is listed or formed."""
    ledger = tmp_path / "ledger.db"
    for site in ("Midwest", "Northeast", "South", "West", "unknown"):
        assert main(["budget", str(ledger), "--set", f"{site}/eicu", "9", "1e-4"]) == 0
    knobs = {"rounds": 1, "epsilon": 2.0, "ledger": str(ledger)}
    tree = {"data": {"name": "eicu", "dir": str(folder)}, "privacy": knobs, "simulation": {"baselines": False}}
    result = run_job(Job.parse(tree))
    found = result.assessment
    assert not found.secure
    assert "takes part in nothing that is opened without noise" in found.insecure
    assert found.warning in result.warnings
    assert found.federated.auroc is not None
    assert not any("histograms" in event.what for event in result.opened)
    assert not any(saw.step == "after training" for saw in result.server_saw)
    assert set(found.plain()["simulation_only"]) >= {"federated", "compared", "sites"}


def test_an_aborted_sum_costs_no_training(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from protocols.errors import Abort
    from securefl import exact_sums

    real = exact_sums.secure_totals

    def aborting(*given: Any, **more: Any) -> Any:
        if given[2].run.startswith("assessment"):
            raise Abort("deadline")
        return real(*given, **more)

    monkeypatch.setattr(exact_sums, "secure_totals", aborting)
    result = run_job(job(folder, rounds=1))
    assert result.assessment.insecure == "the sum was aborted by deadline"
    assert result.assessment.warning in result.warnings


# The command line: one line, exit code 2, nothing written.


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> str:
    before = sorted(tmp_path.rglob("*"))
    assert main(["run", "--data", "eicu", "--no-dp", "--out", str(tmp_path / "out"), *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    return shown.err


def test_bad_words_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECUREFL_DATA", raising=False)
    assert "--sites = 'planet' is refused; allowed: region or hospital" in refused(capsys, tmp_path, "--sites", "planet")
    assert "--data-dir or SECUREFL_DATA" in refused(capsys, tmp_path)
    assert "is no folder" in refused(capsys, tmp_path, "--data-dir", str(tmp_path / "none"))
    assert "data.clients is refused for eicu" in refused(capsys, tmp_path, "--clients", "4")
    assert "data.label is refused for eicu" in refused(capsys, tmp_path, "--label", "hospitaldischargestatus")
    assert main(["run", "--data", "heart", "--sites", "region"]) == 2
    assert "data.sites is refused for heart: it belongs to eicu" in capsys.readouterr().err


def test_bad_folders_are_named_by_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = made_eicu.tables()
    for name, change, words in (
        ("one", {"patient": made["patient"].assign(hospitaldischargestatus="Alive")}, "one value over all sites"),
        ("two", {"pastHistory": made["pastHistory"].drop(columns="pasthistorypath")}, "has no column 'pasthistorypath'"),
    ):
        assert words in refused(capsys, tmp_path, "--data-dir", str(made_eicu.write(tmp_path / name, made | change)))
    assert "is divided by ';'" in refused(capsys, tmp_path, "--data-dir", str(made_eicu.write(tmp_path / "semi", made, sep=";")))


def test_without_polars_one_line_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    for name in ("securefl.data.eicu", "securefl.data.eicu_tables"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr(datasets, "eicu", raising=False)
    with pytest.raises(UserError, match=r"pip install 'securefl\[eicu\]'"):
        datasets.load("eicu", directory=folder)


def test_a_run_of_the_command_prints_json_with_its_evaluation(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    words = [
        "run",
        "--data",
        "eicu",
        "--data-dir",
        str(folder),
        "--no-dp",
        "--rounds",
        "2",
        "--json",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["evaluation"]["federated"]["auroc"]["low"] < tree["evaluation"]["federated"]["auroc"]["high"]
    assert tree["evaluation"]["method"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == tree
    assert "evaluation" not in tree["simulation_only"]


# The demo.


def real() -> Path:
    root = os.environ.get("SECUREFL_DATA")
    if not root or not (Path(root) / "eicu_demo").is_dir():
        pytest.skip("SECUREFL_DATA names no folder with eicu_demo")
    return Path(root)


def test_five_regions_reach_what_pooled_training_reaches() -> None:
    """AUROC 0.83 or more (standard error 0.015): full batches, so nothing in it is random but the rounding of updates."""
    tree: dict[str, Any] = {"data": {"name": "eicu", "dir": str(real())}, "privacy": {**PLAIN, "rounds": 12}}
    result = run_job(Job.parse(tree))
    assert result.metrics["auroc"] >= 0.83
    assert abs(result.metrics["auroc"] - result.pooled["auroc"]) < 0.01
    assert all(result.metrics["auroc"] > site.metrics["auroc"] + 0.02 for site in result.local)
    assert result.assessment.compared.auroc.value > 0.84
    assert result.assessment.federated.brier.value < 0.07


def test_186_hospitals_reach_it_too() -> None:
    """Four rounds on the demo's hospitals: AUROC of 0.83 or more, where a hospital alone has 0.54; measured 0.847."""
    tree: dict[str, Any] = {
        "data": {"name": "eicu", "dir": str(real()), "sites": "hospital"},
        "privacy": {**PLAIN, "rounds": 4, "local_steps": 1},
        "performance": {"learning_rate": 1.0},
        "simulation": {"baselines": False},
    }
    result = run_job(Job.parse(tree))
    assert len(result.sites) == 186
    assert result.metrics["auroc"] >= 0.83
    assert sum(one.positives is None for one in result.assessment.sites.values()) > 50
