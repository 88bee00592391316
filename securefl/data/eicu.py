"""eICU: who dies in the hospital, by what was known in the first 24 hours in the unit.

Source: T. Pollard et al., "The eICU Collaborative Research Database", Sci Data 5:180178 (2018), physionet.org/content/eicu-crd, and
its open demo, physionet.org/content/eicu-crd-demo (Open Database License).  Seven tables; cohort and traps are in docs/eicu.md.

One row a *hospital* stay, by its first stay in a unit; splits keep a patient's rows together, at all sites.  What it does not
protect: ε of a record is that of a stay, and a patient may have several.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from securefl.data import eicu_features as public
from securefl.data import outcome
from securefl.data.columns import some
from securefl.data.eicu_tables import STAY, check_tables, collect, folder_of, number, numbers, once, scan, stray
from securefl.data.types import Dataset, Site
from securefl.errors import UserError, quoted

KEYS = ("region", "hospital")
"""What a site is."""
UNKNOWN = "unknown"
"""The region of a hospital without one."""
FEWEST_ROWS = 5
"""A site with fewer stays is left out: it could not hold out rows in five folds."""
COMPARED = public.COMPARED
PATIENT = (
    STAY,
    "patienthealthsystemstayid",
    "uniquepid",
    "hospitalid",
    "unitvisitnumber",
    "hospitaladmitoffset",
    "unitadmitsource",
    "age",
    "gender",
)
LABEL = "hospitaldischargestatus"

Columns = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Cohort:
    """The stays that are rows, in the order of their numbers.

    Attributes:
        frame: their columns of the patient table, with ``died``.
        notes: who was left out.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Read:
    """The rows of a folder.

    Attributes:
        folder: with the tables.
        x: features, shape (rows, features), with what publicly stands in for missing ones.
        gaps: which are missing.
        died: shape (rows,), int64.
        patients, apache: as `securefl.data.types.Site.owners` and ``.compared``.
        measured: the measurements of apacheApsVar as they stand there, by name, shape (rows,), NaN where missing.
        rows: numbers of a site's rows, by its name.
        cut: how many values were cut to their range, by measurement.
        notes: who was left out.
    """

    folder: Path
    x: NDArray[np.float64]
    gaps: NDArray[np.bool_]
    died: NDArray[np.int64]
    patients: NDArray[np.uint64]
    apache: NDArray[np.float64]
    measured: Columns
    rows: dict[str, NDArray[np.intp]]
    cut: dict[str, int]
    notes: tuple[str, ...]

    def site(self, name: str) -> Site:
        """The rows of one site."""
        own = self.rows[name]
        return Site(name, self.x[own], self.died[own], self.gaps[own], self.patients[own], self.apache[own])


def read(*, sites: str = "region", directory: Path | None = None) -> Read:
    """Every row of a folder, with its site; arguments and errors as for `load`, but for those about all sites together."""
    if sites not in KEYS:
        raise UserError(f"sites is {sites!r}: {' or '.join(KEYS)} is allowed")
    folder = folder_of(directory)
    check_tables(folder)
    cohort = cohort_of(folder)
    aps = _of_stays(folder, "apacheApsVar", cohort.frame, (*public.MEASURES, *public.ACUTE))
    columns, cut = features_of(folder, cohort.frame, aps)
    known = np.column_stack([columns[name] for name in public.bounds()])
    gaps, fills = np.isnan(known), public.fills()
    keys = site_keys(folder, cohort.frame, sites)
    return Read(
        folder=folder,
        x=np.where(gaps, [fills.get(name, 0.0) for name in public.bounds()], known),
        gaps=gaps,
        died=cohort.frame.get_column("died").to_numpy().astype(np.int64),
        patients=_patients(cohort.frame),
        apache=predictions_of(folder, cohort.frame),
        measured=_measurements(aps),
        rows={name: np.flatnonzero(keys == name) for name in _ordered(keys)},
        cut=cut,
        notes=cohort.notes,
    )


def own_name(found: Read, *, sites: str = "region", wanted: str | None = None, party: str = "") -> str:
    """The site of one party, out of a folder with the tables of its own hospitals, or of more.

    Args:
        found: all rows of the folder.
        sites: what a site is.
        wanted: which is the party's; by default the one of the party's name, or the only one that there is.
        party: the party's name.

    Raises:
        UserError: no such site, several to choose from, or fewer than `FEWEST_ROWS` stays.
    """
    name = wanted or (party if party in found.rows or len(found.rows) != 1 else next(iter(found.rows)))
    if name not in found.rows:
        listed = some(map(quoted, found.rows))
        raise UserError(f"{found.folder} has no site {quoted(name)} (--site): its {sites}s are {listed}")
    if len(found.rows[name]) < FEWEST_ROWS:
        raise UserError(
            f"{found.folder}: {quoted(name)} has fewer than {FEWEST_ROWS} stays: it could not hold any out in five folds"
        )
    return name


def load(*, sites: str = "region", directory: Path | None = None) -> Dataset:
    """Stays by site, with features of their first 24 hours and APACHE IVa's prediction aside.

    Args:
        sites: ``region`` (of the hospital; `UNKNOWN` where it has none) or ``hospital``.
        directory: folder with the tables, or one that holds it; None for that of SECUREFL_DATA.

    Raises:
        UserError: a table or a column is missing, a file is damaged or no table divided by commas, a cell is no number, ``sites``
            is neither; a stay comes twice; the outcome has one value over all sites; a feature is the outcome; there are fewer than
            two sites.
    """
    found = read(sites=sites, directory=directory)
    folder, died = found.folder, found.died
    _refuse_outcome(np.where(found.gaps, np.nan, found.x), died)
    small = [name for name, own in found.rows.items() if len(own) < FEWEST_ROWS]
    kept = {name: own for name, own in found.rows.items() if name not in small}
    if len(kept) < 2:
        raise UserError(f"{folder} has {len(kept)} site{'s' * (len(kept) != 1)} with {FEWEST_ROWS} stays or more: two are needed")
    every = np.concatenate([*kept.values()])
    if len(np.unique(died[every])) < 2:
        raise UserError(
            f"{folder}: the outcome {LABEL!r} has one value over all sites: every stay is {public.CLASSES[died[every][0]]}"
        )
    predicted = int((~np.isnan(found.apache[every])).sum())
    return Dataset(
        name="eicu",
        features=tuple(public.bounds()),
        sites=tuple(map(found.site, kept)),
        ranges=np.array([*public.bounds().values()], dtype=np.float64),
        fixed_sites=True,
        source=f"eICU Collaborative Research Database or its demo, {folder.name}; PhysioNet, by the licence of the set",
        notes=(
            *found.notes,
            f"{died[every].sum()} of {len(every)} stays ended with death in hospital; {COMPARED} predicted {predicted}",
            f"values cut to their public range: {some(f'{name} {count}' for name, count in found.cut.items() if count) or 'none'}",
            *([f"sites of fewer than {FEWEST_ROWS} stays, left out: {some(small)}"] if small else []),
        ),
        codings=public.codings(),
        classes=public.CLASSES,
        means=True,
        compared=COMPARED,
    )


def cohort_of(folder: Path) -> Cohort:
    """One row a hospital stay of an adult: its first stay in a unit, the outcome known.

    Raises:
        UserError: as `load`.
    """
    patient = numbers(
        folder,
        "patient",
        collect(folder, "patient", scan(folder, "patient", (*PATIENT, LABEL)).with_columns(pl.col(STAY).str.strip_chars())),
        ("unitvisitnumber", "hospitaladmitoffset"),
    )
    for name in PATIENT[:4]:
        if patient.get_column(name).null_count():
            raise UserError(f"{folder}: the table patient has a row without {name}")
    odd = patient.filter(pl.col(LABEL).is_not_null() & ~pl.col(LABEL).is_in(["Alive", "Expired"]))
    if len(odd):
        raise UserError(f"{folder}: patient.{LABEL} is {odd.get_column(LABEL)[0]!r}: Alive, Expired or nothing is expected")
    stay, of_hospital = pl.col(STAY), "patienthealthsystemstayid"
    once(folder, "patient", patient)
    aged = patient.with_columns(
        pl.when(pl.col("age").str.contains(r"^\s*>")).then(pl.lit(str(public.OLDEST))).otherwise(pl.col("age")).alias("age")
    )
    aged = numbers(folder, "patient", aged, ("age",))
    # The earliest stay has the lowest visit number, or began nearest to the admission to the hospital.
    order = ["unitvisitnumber", -pl.col("hospitaladmitoffset"), stay.str.len_chars(), stay]
    first = aged.sort([of_hospital, *order], nulls_last=True).unique(of_hospital, keep="first", maintain_order=True)
    ended, young = first.filter(pl.col(LABEL).is_not_null()), (pl.col("age") < public.AGE[0]).fill_null(value=False)
    rows = ended.filter(~young)
    if not len(rows):
        raise UserError(f"{folder}: no hospital stay of an adult has a {LABEL}")
    rows = rows.with_columns((pl.col(LABEL) == "Expired").alias("died")).drop(LABEL).sort(stay.str.len_chars(), stay)
    patients = rows.get_column("uniquepid").n_unique()
    told = f"{len(patient)} stays in units, {len(first)} in hospitals, of which the first unit is taken; {len(rows)} rows"
    few = f"{len(first) - len(ended)} hospital stays without {LABEL}, {len(ended) - len(rows)} of patients under {public.AGE[0]:g}"
    return Cohort(rows, (f"{told} of {patients} patients", f"left out: {few}"))


def features_of(folder: Path, cohort: pl.DataFrame, aps: pl.DataFrame) -> tuple[Columns, dict[str, int]]:
    """Every feature of `eicu_features.bounds` by name, shape (rows,), NaN where missing; and how many values were cut to a range.

    ``aps`` is what apacheApsVar has of these stays.

    Raises:
        UserError: as `load`.
    """
    before = _of_stays(folder, "apachePredVar", cohort, public.CHRONIC)
    diagnoses = diagnoses_of(folder, cohort)
    history = history_of(folder, cohort)
    raw: Columns = {"age": _column(cohort, "age")}
    gender = cohort.get_column("gender").str.strip_chars().str.to_lowercase()
    raw["male"] = np.where(gender.is_in(["male", "female"]).fill_null(value=False), gender == "male", np.nan).astype(np.float64)
    hours = np.clip(-_column(cohort, "hospitaladmitoffset") / 60, 0, public.HOURS)
    raw["hours_before_ln"] = np.log1p(hours)
    cut = {"age": int(np.sum(raw["age"] > public.AGE[1]))}
    raw["age"] = np.clip(raw["age"], *public.AGE)
    for name, measure in public.MEASURES.items():
        value = _column(aps, name)
        cut[name] = int(np.sum((value < measure.low) | (value > measure.high)))
        value = np.clip(value, measure.low, measure.high)
        value = np.log1p(value) if measure.log else value
        raw[public.value_name(name)] = value
        if measure.off:
            raw[f"{name}_off"] = np.abs(value - public.transformed(measure, measure.normal))
    for name, measures in public.gaps().items():
        raw[name] = np.all([np.isnan(raw[public.value_name(one)]) for one in measures], axis=0).astype(np.float64)
    raw["apache_missing"] = aps.get_column("there").is_null().to_numpy().astype(np.float64)
    raw["dx_missing"] = 1 - _yes(diagnoses, "diagnosed")
    for frame, names in ((aps, public.ACUTE), (before, public.CHRONIC)):
        raw |= {name: np.clip(_column(frame, name), 0, 1) for name in names}
    source = cohort.get_column("unitadmitsource").str.strip_chars()
    raw |= {name: (source == value).fill_null(value=False).to_numpy().astype(np.float64) for name, value in public.SOURCES.items()}
    raw |= {name: _yes(diagnoses, name) for name in (*public.DIAGNOSES, *public.SURGERY)}
    raw |= {name: _yes(history, name) for name in public.HISTORY}
    return raw, cut


def diagnoses_of(folder: Path, cohort: pl.DataFrame) -> pl.DataFrame:
    """What was entered into admissionDx within the window, by stay in the order of the cohort."""
    name, path = (pl.col(f"admitdx{part}").str.to_lowercase() for part in ("name", "path"))
    diagnosis = path.str.contains("|diagnosis|", literal=True)
    what = {"diagnosed": diagnosis}
    what |= {feature: diagnosis & name.str.contains(pattern) for feature, pattern in public.DIAGNOSES.items()}
    what |= {feature: path.str.contains(pattern) for feature, pattern in public.SURGERY.items()}
    return _within(folder, "admissionDx", cohort, "admitdxenteredoffset", ("admitdxname", "admitdxpath"), what)


def history_of(folder: Path, cohort: pl.DataFrame) -> pl.DataFrame:
    """What was entered into pastHistory within the window, by stay in the order of the cohort."""
    path = pl.col("pasthistorypath").str.to_lowercase()
    what = {feature: path.str.contains(pattern) for feature, pattern in public.HISTORY.items()}
    return _within(folder, "pastHistory", cohort, "pasthistoryenteredoffset", ("pasthistorypath",), what)


def predictions_of(folder: Path, cohort: pl.DataFrame) -> NDArray[np.float64]:
    """APACHE IVa's probability of death in hospital, shape (rows,), NaN where it has none; never a feature."""
    value, version = "predictedhospitalmortality", "apacheversion"
    frame = scan(folder, "apachePatientResult", (STAY, version, value)).filter(pl.col(version) == "IVa")
    found = _joined(folder, "apachePatientResult", cohort, frame, (value,))
    p = _column(found, value)
    return np.where((p >= 0) & (p <= 1), p, np.nan)


def within_window(offset: str) -> pl.Expr:
    """Whether a row was entered in the first 24 hours; what says no time was not."""
    return (number(offset) <= public.WINDOW).fill_null(value=False)


def _within(
    folder: Path, table: str, cohort: pl.DataFrame, offset: str, columns: Sequence[str], what: Mapping[str, pl.Expr]
) -> pl.DataFrame:
    """For each stay whether any row of the window is so; one pass over the table, whatever its size."""
    public.refuse_outcomes((offset, *columns))
    rows, inside = scan(folder, table, (STAY, offset, *columns)), within_window(offset)
    # Flags first, so that texts are let go of before rows are brought together by stay.
    flags = rows.select(
        pl.col(STAY).str.strip_chars(),
        *((inside & expression.fill_null(value=False)).alias(name) for name, expression in what.items()),
        stray(offset).alias("stray"),
    )
    own = flags.join(cohort.lazy().select(STAY), on=STAY, how="semi")
    found = collect(folder, table, own.group_by(STAY).agg(pl.all().max()))
    if found.get_column("stray").any():
        odd = collect(folder, table, rows.filter(stray(offset)).select(offset).head(1))
        raise UserError(f"{folder}: the column {offset!r} of {table} holds {odd.item()!r}, which is no number")
    return cohort.select(STAY).join(found, on=STAY, how="left", maintain_order="left")


def _of_stays(folder: Path, table: str, cohort: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of numbers of a table with one row a stay; −1 is missing."""
    public.refuse_outcomes(tuple(columns))
    frame = _joined(folder, table, cohort, scan(folder, table, (STAY, *columns)), columns)
    return frame.with_columns(pl.when(pl.col(name) == -1).then(None).otherwise(pl.col(name)).alias(name) for name in columns)


def _joined(folder: Path, table: str, cohort: pl.DataFrame, frame: pl.LazyFrame, columns: Sequence[str]) -> pl.DataFrame:
    """The rows of the cohort's stays in its order, ``columns`` as numbers; ``there`` is null where the table has none."""
    own = frame.with_columns(pl.col(STAY).str.strip_chars()).join(cohort.lazy().select(STAY), on=STAY, how="semi")
    found = numbers(folder, table, once(folder, table, collect(folder, table, own)), columns)
    return cohort.select(STAY).join(found.with_columns(there=pl.lit(1)), on=STAY, how="left", maintain_order="left")


def _column(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    values = frame.get_column(name).cast(pl.Float64).fill_null(np.nan).to_numpy()
    return np.array(np.where(np.isfinite(values), values, np.nan), dtype=np.float64)


def _yes(frame: pl.DataFrame, name: str) -> NDArray[np.float64]:
    return np.array(frame.get_column(name).fill_null(value=False).to_numpy(), dtype=np.float64)


def _patients(cohort: pl.DataFrame) -> NDArray[np.uint64]:
    """A number for each patient that every site computes alike: splits follow from it."""
    ids = cohort.get_column("uniquepid").str.strip_chars()
    known = {one: int.from_bytes(hashlib.sha256(one.encode()).digest()[:8], "little") for one in ids.unique().to_list()}
    return np.array([known[one] for one in ids.to_list()], dtype=np.uint64)


def measurements_of(folder: Path, cohort: pl.DataFrame) -> Columns:
    """The measurements of apacheApsVar as they stand there, by name, shape (rows,), NaN where missing."""
    return _measurements(_of_stays(folder, "apacheApsVar", cohort, tuple(public.MEASURES)))


def _measurements(aps: pl.DataFrame) -> Columns:
    return {name: _column(aps, name) for name in public.MEASURES}


def site_keys(folder: Path, cohort: pl.DataFrame, sites: str) -> NDArray[np.object_]:
    """The name of each row's site, shape (rows,); ``sites`` is one of `KEYS`."""
    hospitals = cohort.get_column("hospitalid").str.strip_chars()
    if sites == "hospital":
        return np.array([f"hospital {one}" for one in hospitals.to_list()], dtype=object)
    table = collect(folder, "hospital", scan(folder, "hospital", ("hospitalid", "region")))
    region = dict(zip(table.get_column("hospitalid").to_list(), table.get_column("region").to_list(), strict=True))
    return np.array([region.get(one) or UNKNOWN for one in hospitals.to_list()], dtype=object)


def _ordered(keys: NDArray[np.object_]) -> list[str]:
    """Regions by name, the unknown one last; hospitals by number."""
    return sorted(
        set(keys.tolist()),
        key=lambda name: (name == UNKNOWN, len(name), name) if name[-1].isdigit() else (name == UNKNOWN, 0, name),
    )


def _refuse_outcome(known: NDArray[np.float64], died: NDArray[np.int64]) -> None:
    """Refuse a feature that tells who died of all stays: it is the outcome under another name."""
    cut = outcome.apart(known, died)
    if cut.any():
        named = [name for name, found in zip(public.bounds(), cut, strict=True) if found]
        raise UserError(
            f"the feature {', '.join(map(repr, named))} is refused: it tells of every stay that has it how it ended, so it is the "
            "outcome"
        )
