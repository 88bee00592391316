"""A small folder of tables as PhysioNet lays out eICU, made up: every trap of the real one is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from securefl.data import eicu_features as public

HOSPITALS = {58: "Midwest", 61: "Midwest", 7: "South", 140: "South", 73: "West", 90: None, 95: "Northeast"}
"""Hospital → region; 99 is in no table."""
NORMALS = {name: measure.normal for name, measure in public.MEASURES.items()}


def tables(seed: int = 0, patients: int = 260) -> dict[str, pd.DataFrame]:
    """The seven tables, by name."""
    rng = np.random.default_rng(seed)
    stays, aps, pred, result, dx, past = [], [], [], [], [], []
    unit, hospital_stay = 1000, 500
    for patient in range(patients):
        for _ in range(rng.choice([1, 1, 1, 2])):
            hospital_stay += 1
            hospital = int(rng.choice([*HOSPITALS, 99]))
            severity = rng.normal()
            status = "Expired" if severity + rng.normal() * 0.7 > 1.1 else "Alive"
            status = "" if rng.random() < 0.03 else status
            age = rng.choice(["> 89", "", "16", *map(str, range(18, 90))])
            visits = int(rng.choice([1, 1, 2, 3]))
            units = rng.permutation(np.arange(unit + 1, unit + 1 + visits)).tolist()  # numbers tell nothing of the order
            unit += visits
            for visit, number in enumerate(units, start=1):
                stays.append(
                    {
                        "patientunitstayid": number,
                        "patienthealthsystemstayid": hospital_stay,
                        "gender": rng.choice(["Male", "Female", "Other", ""]),
                        "age": age,
                        "ethnicity": "",
                        "hospitalid": hospital,
                        "hospitaladmitoffset": int(-rng.integers(-30, 60000)) - 3000 * visit,
                        "unitadmitsource": rng.choice([*public.SOURCES.values(), "Chest Pain Center", ""]),
                        "unitvisitnumber": visit,
                        "hospitaldischargestatus": status,
                        "hospitaldischargelocation": "Death" if status == "Expired" else "Home",
                        "hospitaldischargeoffset": int(rng.integers(100, 9000)),
                        "unitdischargestatus": status,
                        "dischargeweight": round(float(rng.normal(80, 9)), 1),
                        "uniquepid": f"p-{patient}",
                    }
                )
                if rng.random() < 0.9:
                    aps.append({"patientunitstayid": number, **_measures(rng, severity)})
                    pred.append(
                        {
                            "patientunitstayid": number,
                            "diedinhospital": int(status == "Expired"),
                            "dischargelocation": 9 if status == "Expired" else 4,
                            **{name: int(rng.choice([-1, 0, 0, 1])) for name in public.CHRONIC},
                        }
                    )
                    for version in ("IV", "IVa"):
                        p = round(float(1 / (1 + np.exp(2 - severity))), 6) if rng.random() < 0.9 else -1
                        result.append(
                            {
                                "patientunitstayid": number,
                                "apacheversion": version,
                                "predictedhospitalmortality": p + (0.0001 if version == "IV" else 0),
                                "actualhospitalmortality": status.upper(),
                            }
                        )
                dx += [_diagnosis(rng, number) for _ in range(rng.integers(0, 4))]
                past += [_history(rng, number) for _ in range(rng.integers(0, 4))]
    regions = [{"hospitalid": number, "region": region or ""} for number, region in HOSPITALS.items()]
    frames = {"patient": stays, "hospital": regions, "apacheApsVar": aps, "apachePredVar": pred}
    frames |= {"apachePatientResult": result, "admissionDx": dx, "pastHistory": past}
    return {name: pd.DataFrame(rows).sample(frac=1, random_state=seed) for name, rows in frames.items()}


def within(made: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The same tables with every measurement cut to its public range, as a site that knows its units has them."""
    aps = made["apacheApsVar"]
    for name, m in public.MEASURES.items():
        aps[name] = np.where(aps[name] == -1, -1, np.clip(aps[name], m.low, m.high))
    return made


def _measures(rng: np.random.Generator, severity: float) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, measure in public.MEASURES.items():
        width = measure.high - measure.low
        value = measure.normal + 0.2 * width * rng.normal() + 0.08 * width * severity
        out[name] = -1 if rng.random() < 0.2 else round(float(abs(value)), 3)
    return {**out, **{name: int(rng.random() < 0.3) for name in public.ACUTE}}


def _offset(rng: np.random.Generator) -> int | str:
    return rng.choice([-300, 0, 15, 1439, 1440, 1441, 5000, ""])


def _diagnosis(rng: np.random.Generator, stay: int) -> dict[str, object]:
    names = [
        "Sepsis, pulmonary",
        "Cardiac arrest (with or without)",
        "Bleeding, upper GI",
        "Yes",
        "No",
        "CABG alone",
        "Pneumonia, viral",
    ]
    name = str(rng.choice(names))
    path = f"admission diagnosis|All Diagnosis|Operative|Diagnosis|Cardiovascular|{name}"
    if name in {"Yes", "No"}:
        question = "Was the patient admitted from the O.R. or went to the O.R. within 4 hours of admission?"
        path = f"admission diagnosis|{rng.choice([question, 'Elective'])}|{name}"
    return {"patientunitstayid": stay, "admitdxenteredoffset": _offset(rng), "admitdxname": name, "admitdxpath": path}


def _history(rng: np.random.Generator, stay: int) -> dict[str, object]:
    ends = [
        "Organ Systems/Cardiovascular (R)/Congestive Heart Failure/CHF",
        "Organ Systems/Pulmonary/COPD/COPD  - severe",
        "Organ Systems/Hematology/Oncology (R)/Cancer/Cancer-Primary Site/lung",
        "Past History Obtain Options/No Health Problems",
        "Organ Systems/Neurologic/Seizures/other seizures",
    ]
    path = f"notes/Progress Notes/Past History/{rng.choice(ends)}"
    return {"patientunitstayid": stay, "pasthistoryenteredoffset": _offset(rng), "pasthistorypath": path}


def of_region(made: dict[str, pd.DataFrame], region: str) -> dict[str, pd.DataFrame]:
    """The tables of one region's hospitals, as they would lie there; ``unknown`` for those without a region."""
    known = dict(zip(made["hospital"]["hospitalid"], made["hospital"]["region"], strict=True))
    patient = made["patient"]
    own = patient[[(known.get(one) or "unknown") == region for one in patient["hospitalid"]]]
    out = {"patient": own, "hospital": made["hospital"][made["hospital"]["hospitalid"].isin(own["hospitalid"])]}
    rest = made.keys() - out.keys()
    return out | {name: made[name][made[name]["patientunitstayid"].isin(own["patientunitstayid"])] for name in rest}


def write(folder: Path, made: dict[str, pd.DataFrame], *, packed: bool = False, sep: str = ",") -> Path:
    """The tables as files, ``.csv`` or ``.csv.gz``."""
    folder.mkdir(exist_ok=True)
    for name, frame in made.items():
        frame.to_csv(folder / f"{name}.csv{'.gz' * packed}", index=False, sep=sep)
    return folder
