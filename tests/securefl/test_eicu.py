"""The eICU loader against a recomputation in pandas, on a made-up folder and, where SECUREFL_DATA has it, on the open demo."""

from __future__ import annotations

import os
import re
from pathlib import Path

import made_eicu
import numpy as np
import pandas as pd
import pytest

from securefl.data import eicu, eicu_features, eicu_tables, load, plan
from securefl.data.types import Dataset
from securefl.errors import UserError

LOGGED = {"urine", "wbc", "creatinine", "pao2", "bun", "glucose", "bilirubin"}
SHARED = {"coma_scale": ["eyes", "motor", "verbal"], "blood_gas": ["ph", "pao2", "pco2", "fio2"]}


@pytest.fixture
def made() -> dict[str, pd.DataFrame]:
    return made_eicu.tables()


@pytest.fixture
def folder(made: dict[str, pd.DataFrame], tmp_path: Path) -> Path:
    return made_eicu.write(tmp_path / "eicu-crd-demo", made)


def real_folder() -> Path:
    root = os.environ.get("SECUREFL_DATA")
    if not root or not (Path(root) / "eicu_demo").is_dir():
        pytest.skip("SECUREFL_DATA names no folder with eicu_demo")
    return Path(root) / "eicu_demo"


def read(folder: Path, table: str) -> pd.DataFrame:
    (path,) = folder.glob(f"{table}.csv*")
    return pd.read_csv(path, dtype={"uniquepid": str, "age": str})


def oracle(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cohort and features, from the description in docs/eicu.md: rows by number of the stay."""
    patient = read(folder, "patient")
    patient["before"] = -patient.hospitaladmitoffset
    first = patient.sort_values(["unitvisitnumber", "before", "patientunitstayid"]).groupby("patienthealthsystemstayid").head(1)
    first = first.assign(years=pd.to_numeric(first.age.replace("> 89", "90")))
    first = first[first.hospitaldischargestatus.notna() & ~(first.years < 18)]
    cohort = first.set_index("patientunitstayid").sort_index()
    aps, pred = (read(folder, t).set_index("patientunitstayid").replace(-1, np.nan) for t in ("apacheApsVar", "apachePredVar"))
    out = pd.DataFrame(index=cohort.index)
    out["age"], out["male"] = cohort.years, cohort.gender.map({"Male": 1.0, "Female": 0.0})
    out["hours_before_ln"] = np.log(1 + (cohort.before / 60).clip(0, 720))
    there = aps.reindex(cohort.index)
    for name, m in eicu_features.MEASURES.items():
        value, normal = there[name].clip(m.low, m.high), m.normal
        if name in LOGGED:
            value, normal = np.log(1 + value), np.log(1 + normal)
        out[f"{name}_ln" if name in LOGGED else name] = value
        if m.off:
            out[f"{name}_off"] = (value - normal).abs()
        group = next((g for g, names in SHARED.items() if name in names), name)
        out[f"{group}_missing"] = there[SHARED.get(group, [name])].isna().all(axis=1).astype(float)
    out["apache_missing"] = (~cohort.index.isin(aps.index)).astype(float)
    for name in eicu_features.ACUTE:
        out[name] = there[name]
    for name in eicu_features.CHRONIC:
        out[name] = pred.reindex(cohort.index)[name]
    for name, source in eicu_features.SOURCES.items():
        out[name] = (cohort.unitadmitsource == source).astype(float)
    dx, past = read(folder, "admissionDx"), read(folder, "pastHistory")
    dx, past = dx[dx.admitdxenteredoffset <= 1440], past[past.pasthistoryenteredoffset <= 1440]
    named = dx[dx.admitdxpath.str.contains(r"\|Diagnosis\|")]
    out["dx_missing"] = (~cohort.index.isin(named.patientunitstayid)).astype(float)
    for name, words in eicu_features.DIAGNOSES.items():
        hit = named.patientunitstayid[[any(w in text.lower() for w in words.split("|")) for text in named.admitdxname]]
        out[name] = cohort.index.isin(hit).astype(float)
    room = dx.admitdxpath.str.contains("Was the patient admitted from the O.R.", regex=False) & dx.admitdxpath.str.endswith("|Yes")
    out["operative"] = cohort.index.isin(dx.patientunitstayid[room]).astype(float)
    elective = dx.admitdxpath.str.endswith("|Elective|Yes")
    out["elective"] = cohort.index.isin(dx.patientunitstayid[elective]).astype(float)
    for name, words in eicu_features.HISTORY.items():
        hit = past.patientunitstayid[[any(w in text.lower() for w in words.split("|")) for text in past.pasthistorypath]]
        out[name] = cohort.index.isin(hit).astype(float)
    return cohort, out


def check(dataset: Dataset, folder: Path, key: pd.Series) -> None:
    """Every row, label, feature, gap, prediction and site is the oracle's."""
    cohort, features = oracle(folder)
    assert set(dataset.features) == set(features.columns)
    apache = read(folder, "apachePatientResult")
    apache = apache[apache.apacheversion == "IVa"].set_index("patientunitstayid").predictedhospitalmortality.replace(-1, np.nan)
    seen = 0
    assert [s.name for s in dataset.sites] == list(dict.fromkeys(s.name for s in dataset.sites))
    for site in dataset.sites:
        own = cohort.index[key == site.name]
        want = features.loc[own, list(dataset.features)].to_numpy(float)
        assert np.array_equal(np.isnan(want), site.missing)
        assert np.allclose(site.known, want, rtol=1e-12, equal_nan=True)
        assert np.isfinite(site.x).all()
        assert site.y.tolist() == (cohort.loc[own].hospitaldischargestatus == "Expired").astype(int).tolist()
        assert np.allclose(site.compared, apache.reindex(own), equal_nan=True)
        patients = cohort.loc[own].uniquepid
        assert (patients.nunique(), len(own)) == (len(np.unique(site.owners)), len(site.y))
        seen += len(own)
    assert seen == len(cohort)
    low, high = dataset.ranges.T
    everything = np.concatenate([site.x for site in dataset.sites])
    assert ((everything >= low - 1e-12) & (everything <= high + 1e-12)).all()


def regions(folder: Path, cohort: pd.DataFrame) -> pd.Series:
    table = read(folder, "hospital").set_index("hospitalid").region
    return cohort.hospitalid.map(table).fillna("unknown")


@pytest.mark.parametrize("packed", [False, True])
def test_cohort_and_every_feature_are_those_of_a_recomputation(made: dict[str, pd.DataFrame], tmp_path: Path, packed: bool) -> None:
    folder = made_eicu.write(tmp_path / "tables", made, packed=packed)
    cohort, _ = oracle(folder)
    by_region = load("eicu", directory=folder)
    check(by_region, folder, regions(folder, cohort))
    assert [s.name for s in by_region.sites] == ["Midwest", "Northeast", "South", "West", "unknown"]
    by_hospital = load("eicu", directory=folder, sites="hospital")
    check(by_hospital, folder, cohort.hospitalid.map("hospital {}".format))
    assert [s.name for s in by_hospital.sites] == [f"hospital {n}" for n in (7, 58, 61, 73, 90, 95, 99, 140)]


def test_the_demo_is_that_of_a_recomputation() -> None:
    folder = real_folder()
    cohort, _ = oracle(folder)
    dataset = load("eicu", directory=folder.parent)
    check(dataset, folder, regions(folder, cohort))
    sizes = {site.name: (len(site.y), int(site.y.sum())) for site in dataset.sites}
    assert sizes == {"Midwest": (702, 52), "Northeast": (140, 18), "South": (648, 53), "West": (459, 37), "unknown": (196, 21)}
    hospitals = load("eicu", directory=folder.parent, sites="hospital")
    check(hospitals, folder, cohort.hospitalid.map("hospital {}".format))
    assert len(hospitals.sites) == 186
    assert sum(site.y.sum() == 0 for site in hospitals.sites) > 50


def test_the_folder_is_found_by_variable_and_by_a_name_that_begins_with_eicu(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECUREFL_DATA", str(tmp_path))
    assert load("eicu").source == load("eicu", directory=folder).source
    (tmp_path / "eicu-2").mkdir()
    assert load("eicu").sites[0].y.size
    (folder / "patient.csv").rename(folder / "PATIENT.csv")
    assert load("eicu").sites[0].y.size


# Nothing of the outcome, and nothing after the first day, is in a feature.


def shuffled(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    rows = np.random.default_rng(1).permutation(len(frame))
    return frame.assign(**{name: frame[name].to_numpy()[rows] for name in columns})


def everything(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([s.known for s in dataset.sites]), np.concatenate([s.y for s in dataset.sites])


def test_outcome_columns_in_another_order_change_no_feature(made: dict[str, pd.DataFrame], folder: Path, tmp_path: Path) -> None:
    before = everything(load("eicu", directory=folder))
    moved = {}
    for name, frame in made.items():
        columns = [c for c in frame.columns if (c in eicu_features.OUTCOMES or c in eicu_features.PREDICTIONS) and c != eicu.LABEL]
        moved[name] = shuffled(frame, columns)
    assert any(not moved[name].equals(made[name]) for name in made)
    labelled = moved["patient"].hospitaldischargestatus != ""  # which stays have an outcome decides who is in the cohort
    swap = {"Alive": "Expired", "Expired": "Alive"}
    moved["patient"].loc[labelled, eicu.LABEL] = moved["patient"].hospitaldischargestatus[labelled].map(swap)
    after = everything(load("eicu", directory=made_eicu.write(tmp_path / "moved", moved)))
    assert np.array_equal(before[0], after[0], equal_nan=True)
    assert np.array_equal(before[1], 1 - after[1])


def late(made: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables with rows of every stay that were entered a minute after the first day."""
    stays = made["patient"].patientunitstayid
    past = "notes/Progress Notes/Past History/Organ Systems/Neurologic/Dementia/dementia"
    path = "admission diagnosis|All Diagnosis|Non-operative|Diagnosis|Neurologic|Coma"
    more = {
        "pastHistory": pd.DataFrame({"patientunitstayid": stays, "pasthistoryenteredoffset": 1441, "pasthistorypath": past}),
        "admissionDx": pd.DataFrame(
            {"patientunitstayid": stays, "admitdxenteredoffset": 1441, "admitdxname": "Coma", "admitdxpath": path}
        ),
    }
    return made | {name: pd.concat([made[name], rows]) for name, rows in more.items()}


def test_rows_after_the_first_day_change_nothing(
    made: dict[str, pd.DataFrame], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, later = everything(load("eicu", directory=folder)), made_eicu.write(tmp_path / "later", late(made))
    assert np.array_equal(before[0], everything(load("eicu", directory=later))[0], equal_nan=True)
    # Without the window they would be in.
    monkeypatch.setattr(eicu_features, "WINDOW", 10**6)
    names = load("eicu", directory=later).features
    x = everything(load("eicu", directory=later))[0]
    assert x[:, names.index("past_dementia")].all()
    assert x[:, names.index("dx_coma")].all()
    assert not before[0][:, names.index("past_dementia")].any()


def test_no_column_that_is_an_outcome_or_a_prediction_can_be_asked_for_as_a_feature(folder: Path) -> None:
    asked: list[str] = []
    real = eicu_tables.scan

    def watching(folder: Path, table: str, columns: list[str]) -> object:
        asked.extend(columns)
        return real(folder, table, columns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eicu, "scan", watching)
        load("eicu", directory=folder)
    assert set(asked) & eicu_features.OUTCOMES == {eicu.LABEL}
    assert set(asked) & eicu_features.PREDICTIONS == {"predictedhospitalmortality"}
    for name in (*eicu_features.OUTCOMES, *eicu_features.PREDICTIONS):
        with pytest.raises(UserError, match="is refused as a feature"):
            eicu_features.refuse_outcomes(("age", name))


# Splits by patient.


@pytest.mark.parametrize("folds", [None, 2, 5])
def test_a_patient_is_on_one_side_of_a_split_at_all_sites(folder: Path, folds: int | None) -> None:
    dataset = load("eicu", directory=folder, sites="hospital")
    across = np.concatenate([np.unique(s.owners) for s in dataset.sites]).tolist()
    assert len(set(across)) < len(across)  # some were at two hospitals
    for seed in (0, 7):
        parts = {s.name: plan(s, folds=folds, holdout=0.3, seed=seed) for s in dataset.sites}
        for number in range(folds or 1):
            held = {o for s in dataset.sites for o in s.owners[parts[s.name][number].test].tolist()}
            trained = {o for s in dataset.sites for o in s.owners[parts[s.name][number].train].tolist()}
            assert not held & trained
            share = sum(len(parts[s.name][number].test) for s in dataset.sites) / sum(len(s.y) for s in dataset.sites)
            assert abs(share - (0.3 if folds is None else 1 / folds)) < 0.12  # five standard deviations at 300 patients
        if folds:
            for s in dataset.sites:
                assert sorted(np.concatenate([p.test for p in parts[s.name]]).tolist()) == list(range(len(s.y)))


def test_the_seed_decides_the_split(folder: Path) -> None:
    site = load("eicu", directory=folder).sites[0]
    one, same, other = (plan(site, folds=5, holdout=0.3, seed=seed)[0].test.tolist() for seed in (1, 1, 2))
    assert one == same != other


# Bad input: one line that names what is wrong.


def refused(folder: Path, **more: str) -> str:
    with pytest.raises(UserError) as caught:
        load("eicu", directory=folder, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(folder: Path, table: str, **changes: object) -> None:
    path = folder / f"{table}.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.assign(**changes).to_csv(path, index=False)


@pytest.mark.parametrize("table", eicu_tables.TABLES)
def test_a_missing_table_is_named(folder: Path, table: str) -> None:
    (folder / f"{table}.csv").unlink()
    assert table in refused(folder)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("patient", "uniquepid"),
        ("patient", "hospitaldischargestatus"),
        ("hospital", "region"),
        ("apacheApsVar", "creatinine"),
        ("apachePredVar", "cirrhosis"),
        ("apachePatientResult", "predictedhospitalmortality"),
        ("admissionDx", "admitdxenteredoffset"),
        ("pastHistory", "pasthistorypath"),
    ],
)
def test_a_missing_column_is_named(made: dict[str, pd.DataFrame], folder: Path, table: str, column: str) -> None:
    made[table].drop(columns=column).to_csv(folder / f"{table}.csv", index=False)
    text = refused(folder)
    assert re.search(rf"{table}\.csv has no column '{column}'", text)


@pytest.mark.parametrize("sep", [";", "\t"])
def test_another_delimiter_is_named(made: dict[str, pd.DataFrame], tmp_path: Path, sep: str) -> None:
    assert f"is divided by {sep!r}" in refused(made_eicu.write(tmp_path / "other", made, sep=sep))


def test_one_class_over_all_sites_is_refused_and_a_hospital_without_a_death_is_not(
    made: dict[str, pd.DataFrame], folder: Path
) -> None:
    patient = made["patient"]
    calm = patient.assign(hospitaldischargestatus=patient.hospitaldischargestatus.where(patient.hospitalid != 7, "Alive"))
    calm.to_csv(folder / "patient.csv", index=False)
    dataset = load("eicu", directory=folder, sites="hospital")
    assert dataset.sites[0].y.sum() == 0
    rewrite(folder, "patient", hospitaldischargestatus="Alive")
    assert "one value over all sites: every stay is alive" in refused(folder)


@pytest.mark.parametrize("gaps", [False, True], ids=["known of all", "known of some"])
def test_a_feature_that_is_the_outcome_is_named(made: dict[str, pd.DataFrame], folder: Path, gaps: bool) -> None:
    """Stays without a row of APACHE, or with −1 in it, do not hide it."""
    status = made["patient"].set_index("patientunitstayid").hospitaldischargestatus
    aps = made["apacheApsVar"].drop_duplicates("patientunitstayid").set_index("patientunitstayid")
    aps = aps if gaps else aps.reindex(status.index).fillna(-1)
    aps = aps.assign(dialysis=(status.reindex(aps.index) == "Expired").astype(int))
    if gaps:
        aps.iloc[::3, list(aps.columns).index("dialysis")] = -1
    aps.reset_index().to_csv(folder / "apacheApsVar.csv", index=False)
    assert "the feature 'dialysis' is refused: it tells of every stay that has it how it ended" in refused(folder)
    place = list(aps.columns).index("dialysis")
    aps.iloc[1::9, place] = 1 - aps.dialysis.iloc[1::9].abs()
    aps.reset_index().to_csv(folder / "apacheApsVar.csv", index=False)
    assert load("eicu", directory=folder).sites  # control: some stays that it does not tell


@pytest.mark.parametrize(
    ("table", "changes", "words"),
    [
        ("apacheApsVar", {"creatinine": "high"}, "'creatinine' holds 'high', which is no number"),
        ("pastHistory", {"pasthistoryenteredoffset": "noon"}, "'pasthistoryenteredoffset' of pastHistory holds 'noon'"),
        ("patient", {"age": "old"}, "'age' holds 'old'"),
        ("patient", {"hospitaldischargestatus": "gone"}, "is 'gone': Alive, Expired or nothing"),
        ("patient", {"uniquepid": ""}, "a row without uniquepid"),
        ("patient", {"patientunitstayid": "5"}, "no single row of the stay 5"),
        ("patient", {"hospitaldischargestatus": ""}, "no hospital stay of an adult has a hospitaldischargestatus"),
        ("patient", {"hospitalid": "7"}, "1 site with 5 stays or more: two are needed"),
    ],
)
def test_cells_that_cannot_be_are_named(folder: Path, table: str, changes: dict[str, object], words: str) -> None:
    rewrite(folder, table, **changes)
    assert words in refused(folder)


def test_damaged_files_and_folders_are_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "region or hospital" in refused(folder, sites="planet")
    assert "is no folder" in refused(tmp_path / "none")
    (tmp_path / "bare").mkdir()
    assert "has no patient.csv" in refused(tmp_path / "bare")
    made_eicu.write(tmp_path / "eicu-crd", made_eicu.tables())
    assert "several eICU folders (eicu-crd, eicu-crd-demo)" in refused(tmp_path)
    (folder / "pastHistory.csv").write_text("")
    assert "pastHistory.csv" in refused(folder)
    (folder / "pastHistory.csv").unlink()
    (folder / "pastHistory.csv.gz").write_bytes(b"\x1f\x8b not gzip")
    assert "pastHistory.csv.gz cannot be read as a table" in refused(folder)
    monkeypatch.delenv("SECUREFL_DATA", raising=False)
    with pytest.raises(UserError, match=r"--data-dir or SECUREFL_DATA"):
        load("eicu")
