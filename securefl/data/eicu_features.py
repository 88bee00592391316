"""What is publicly known of the eICU features: names, ranges, normal values, and the columns that may never be one.

Nothing here reads a row.  Ranges and normal values are a clinician's, so that scaling by them opens nothing.  APACHE's convention
takes a missing measurement for a normal one; that is what stands in where no secure mean may be opened.

Source: columns as in the eICU-CRD's documentation (Pollard et al., Sci Data 5:180178, 2018); the worst value of the first 24 hours
as APACHE IV defines it (Zimmerman et al., Crit Care Med 34:1297, 2006), hence features of the distance from normal beside the
values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from securefl.data.types import Coding
from securefl.errors import UserError

WINDOW = 24 * 60
"""Minutes after admission to the unit within which something must have been entered."""

OUTCOMES = frozenset(
    {
        "hospitaldischargestatus",
        "hospitaldischargelocation",
        "hospitaldischargeoffset",
        "hospitaldischargetime24",
        "hospitaldischargeyear",
        "unitdischargestatus",
        "unitdischargelocation",
        "unitdischargeoffset",
        "unitdischargetime24",
        "dischargeweight",
        "diedinhospital",
        "dischargelocation",
        "actualicumortality",
        "actualhospitalmortality",
        "actualiculos",
        "actualhospitallos",
        "actualventdays",
        "unabridgedunitlos",
        "unabridgedhosplos",
        "unabridgedactualventdays",
    }
)
"""Columns that are the outcome, or are known only at the end of a stay."""

PREDICTIONS = frozenset(
    {
        "apachescore",
        "acutephysiologyscore",
        "predictedicumortality",
        "predictedhospitalmortality",
        "predictediculos",
        "predictedhospitallos",
        "predventdays",
    }
)
"""Columns of APACHE's own results: kept aside for comparison."""


@dataclass(frozen=True)
class Measure:
    """A measurement of apacheApsVar: the worst value of the first 24 hours.

    Attributes:
        low, high: public range, in the column's unit; what lies outside is cut to it.
        normal: its normal value.
        log: whether the feature is ln(1 + value).
        off: whether the distance from normal is a feature too: both too much and too little are bad.
        missing: name of the feature that is 1 where it is missing; measurements that are taken together share one.
    """

    low: float
    high: float
    normal: float
    log: bool = False
    off: bool = False
    missing: str = ""


MEASURES: dict[str, Measure] = {
    "eyes": Measure(1, 4, 4, missing="coma_scale"),
    "motor": Measure(1, 6, 6, missing="coma_scale"),
    "verbal": Measure(1, 5, 5, missing="coma_scale"),
    "urine": Measure(0, 6000, 2000, log=True, missing="urine"),
    "wbc": Measure(0, 60, 10, log=True, off=True, missing="wbc"),
    "temperature": Measure(30, 42, 37, off=True, missing="temperature"),
    "respiratoryrate": Measure(0, 60, 20, off=True, missing="respiratoryrate"),
    "sodium": Measure(110, 170, 140, off=True, missing="sodium"),
    "heartrate": Measure(20, 200, 80, off=True, missing="heartrate"),
    "meanbp": Measure(30, 180, 85, off=True, missing="meanbp"),
    "ph": Measure(6.9, 7.7, 7.4, off=True, missing="blood_gas"),
    "hematocrit": Measure(10, 60, 40, off=True, missing="hematocrit"),
    "creatinine": Measure(0, 12, 1, log=True, missing="creatinine"),
    "albumin": Measure(1, 5.5, 3.8, missing="albumin"),
    "pao2": Measure(30, 500, 100, log=True, missing="blood_gas"),
    "pco2": Measure(10, 110, 40, off=True, missing="blood_gas"),
    "bun": Measure(0, 150, 15, log=True, missing="bun"),
    "glucose": Measure(20, 800, 120, log=True, off=True, missing="glucose"),
    "bilirubin": Measure(0, 30, 0.6, log=True, missing="bilirubin"),
    "fio2": Measure(21, 100, 21, missing="blood_gas"),
}
"""Units: urine ml/24 h; wbc 10³/µl; temperature °C; respiratoryrate, heartrate 1/min; sodium mmol/l; meanbp mm Hg; hematocrit %;
creatinine, bun, glucose, bilirubin mg/dl; albumin g/dl; pao2, pco2 mm Hg; fio2 %.  Eyes, motor, verbal: the Glasgow Coma Scale."""

ACUTE = ("intubated", "vent", "dialysis", "meds")
"""Yes or no in apacheApsVar."""

CHRONIC = (
    "thrombolytics",
    "aids",
    "hepaticfailure",
    "lymphoma",
    "metastaticcancer",
    "leukemia",
    "immunosuppression",
    "cirrhosis",
    "activetx",
    "ima",
    "midur",
    "oobventday1",
    "oobintubday1",
    "diabetes",
)
"""Yes or no in apachePredVar, known on the first day."""

SOURCES: dict[str, str] = {
    "from_emergency": "Emergency Department",
    "from_floor": "Floor",
    "from_operating_room": "Operating Room",
    "from_direct_admit": "Direct Admit",
    "from_recovery_room": "Recovery Room",
    "from_step_down": "Step-Down Unit (SDU)",
    "from_other_hospital": "Other Hospital",
}
"""Feature → value of patient.unitadmitsource."""

DIAGNOSES: dict[str, str] = {
    "dx_arrest": "arrest",
    "dx_sepsis": "sepsis",
    "dx_stroke": "cva|intracranial|subarachnoid",
    "dx_ketoacidosis": "diabetic ketoacidosis",
    "dx_overdose": "overdose|withdrawal",
    "dx_heart_failure": "chf|cardiomyopathy|shock, cardiogenic",
    "dx_respiratory": "pneumonia|ards|respiratory|emphysema",
    "dx_coronary": "infarction, acute myocardial|angina|chest pain",
    "dx_bleeding": "bleeding",
    "dx_rhythm": "rhythm",
    "dx_coma": "coma",
    "dx_heart_surgery": "cabg|valve",
    "dx_trauma": "trauma",
    "dx_renal": "renal failure",
}
"""Feature → what admissionDx.admitdxname holds, in small letters, of a row whose path has a diagnosis."""

SURGERY: dict[str, str] = {"operative": r"went to the o\.r\..*\|yes$", "elective": r"\|elective\|yes$"}
"""Feature → how admissionDx.admitdxpath ends, in small letters."""

HISTORY: dict[str, str] = {
    "past_heart_failure": "congestive heart failure",
    "past_copd": "/copd/",
    "past_cancer": "/cancer/",
    "past_renal": "renal failure|renal insufficiency",
    "past_stroke": "/strokes/",
    "past_liver": "cirrhosis",
    "past_dementia": "dementia",
    "past_none": "no health problems",
}
"""Feature → what pastHistory.pasthistorypath holds, in small letters."""

CLASSES = ("alive", "died in hospital")
COMPARED = "APACHE IVa"
"""The model that the final one is assessed beside."""
AGE = (18.0, 90.0)
OLDEST = 90.0
"""What the age "> 89" counts as."""
HOURS = 720.0
"""Most hours in the hospital before the unit that count."""


def transformed(measure: Measure, value: float) -> float:
    """A value of a measurement as its feature has it."""
    return math.log1p(value) if measure.log else value


def value_name(name: str) -> str:
    """The feature of a measurement's value."""
    return f"{name}_ln" if MEASURES[name].log else name


def bounds() -> dict[str, tuple[float, float]]:
    """Public range of every feature, in the order of the columns of `securefl.data.types.Site.x`."""
    out: dict[str, tuple[float, float]] = {"age": AGE, "male": (0.0, 1.0), "hours_before_ln": (0.0, math.log1p(HOURS))}
    for name, measure in MEASURES.items():
        low, high, normal = (transformed(measure, v) for v in (measure.low, measure.high, measure.normal))
        out[value_name(name)] = (low, high)
        if measure.off:
            out[f"{name}_off"] = (0.0, max(high - normal, normal - low))
    out |= dict.fromkeys((*gaps(), "apache_missing", "dx_missing"), (0.0, 1.0))
    return out | dict.fromkeys((*ACUTE, *CHRONIC, *SOURCES, *DIAGNOSES, *SURGERY, *HISTORY), (0.0, 1.0))


def gaps() -> dict[str, tuple[str, ...]]:
    """Feature that is 1 where something is missing → the measurements that it stands for."""
    shared = dict.fromkeys(measure.missing for measure in MEASURES.values())
    return {f"{one}_missing": tuple(name for name, m in MEASURES.items() if m.missing == one) for one in shared}


def fills() -> dict[str, float]:
    """What stands in for a missing number where no mean is opened: the normal value, 0 for no, 65 years, either sex."""
    out: dict[str, float] = {"age": 65.0, "male": 0.5, "hours_before_ln": 0.0}
    for name, measure in MEASURES.items():
        out[value_name(name)] = transformed(measure, measure.normal)
        if measure.off:
            out[f"{name}_off"] = 0.0
    return out | dict.fromkeys((*ACUTE, *CHRONIC), 0.0)


def codings() -> tuple[Coding, ...]:
    """How the features are coded: each is a column of numbers."""
    standing = fills()
    return tuple(Coding(name, fill=standing.get(name)) for name in bounds())


def refuse_outcomes(columns: tuple[str, ...]) -> None:
    """Refuse columns that may never become features.

    Raises:
        UserError: for one that is the outcome, or APACHE's own result.
    """
    for name in columns:
        if name in OUTCOMES:
            raise UserError(f"the column {name!r} is refused as a feature: it is the outcome, or known only at the end of a stay")
        if name in PREDICTIONS:
            raise UserError(f"the column {name!r} is refused as a feature: it is APACHE's own result, kept for comparison")
