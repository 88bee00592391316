"""The eICU loader at the size of the full set: seconds and memory on a made-up folder of that many stays.

``.venv/bin/python benchmarks/eicu_size.py [--stays 200859] [--gigabytes 3] [--dir DIR]``

The folder is made first (and kept where DIR names one): patients, stays and APACHE tables in the numbers of the full set, and as
many rows of pastHistory and admissionDx as the bytes allow.  Then a process loads it by region and by hospital, and tells its
peak of resident anonymous memory, sampled every 10 ms: pages of mapped files come and go as the system likes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from protocols.rand import Rand, Seed
from securefl.data import eicu_features as public

CHUNK = 250_000
CHILD = """
import json, sys, threading, time
import polars
from pathlib import Path
from securefl.data import eicu

def anonymous():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("RssAnon")]
    return int(line.split()[1]) / 1024

out, seen = {"libraries_mb": anonymous()}, [0.0]

def watch():
    while True:
        seen[0] = max(seen[0], anonymous())
        time.sleep(0.01)

threading.Thread(target=watch, daemon=True).start()
for sites in ("region", "hospital"):
    began, cpu = time.perf_counter(), time.process_time()
    data = eicu.load(sites=sites, directory=Path(sys.argv[1]))
    out[sites] = {"wall": time.perf_counter() - began, "cpu": time.process_time() - cpu, "sites": len(data.sites)}
    out["rows"] = sum(len(site.y) for site in data.sites)
    del data
out["peak_mb"] = seen[0]
print(json.dumps(out))
"""


def uniform(rand: Rand, label: str, count: int) -> np.ndarray:
    return rand.words(label, count).astype(np.float64) * 2.0**-64


def small_tables(rand: Rand, stays: int) -> dict[str, pl.DataFrame]:
    """All tables but the two long ones."""
    number, draw = np.arange(stays), {name: uniform(rand, name, stays) for name in ("died", "age", "hospital", "severity")}
    died = draw["died"] < 0.03 + 0.12 * draw["severity"]
    patient = pl.DataFrame(
        {
            "patientunitstayid": number + 141_000,
            "patienthealthsystemstayid": number * 5 // 6 + 128_000,
            "gender": np.where(draw["age"] < 0.5, "Male", "Female"),
            "age": np.where(draw["age"] > 0.97, "> 89", (18 + draw["age"] * 73).astype(int).astype(str)),
            "hospitalid": (draw["hospital"] * 208).astype(int) + 50,
            "hospitaladmitoffset": -(draw["severity"] * 5000).astype(int),
            "unitadmitsource": np.where(draw["age"] < 0.6, "Emergency Department", "Floor"),
            "unitvisitnumber": number % 6 % 2 + 1,
            "hospitaldischargestatus": np.where(died, "Expired", "Alive"),
            "uniquepid": [f"{i:09d}" for i in (number * 2 // 3).tolist()],
        }
    )
    stay = patient.select("patientunitstayid")
    measured = {
        name: np.where(uniform(rand, f"gap {name}", stays) < 0.3, -1, m.low + (m.high - m.low) * uniform(rand, name, stays)).round(
            2
        )
        for name, m in public.MEASURES.items()
    }
    yes = {name: (uniform(rand, name, stays) < 0.1).astype(int) for name in (*public.ACUTE, *public.CHRONIC)}
    result = stay.with_columns(apacheversion=pl.lit("IVa"), predictedhospitalmortality=pl.Series(draw["severity"].round(4)))
    return {
        "patient": patient,
        "hospital": pl.DataFrame({"hospitalid": np.arange(50, 258), "region": ["South", "West", "Midwest", "Northeast"] * 52}),
        "apacheApsVar": stay.with_columns(**{k: pl.Series(v) for k, v in (measured | {n: yes[n] for n in public.ACUTE}).items()}),
        "apachePredVar": stay.with_columns(**{name: pl.Series(yes[name]) for name in public.CHRONIC}),
        "apachePatientResult": pl.concat([result, result.with_columns(apacheversion=pl.lit("IV"))]),
    }


def long_table(rand: Rand, path: Path, columns: tuple[str, ...], texts: list[str], stays: int, size: float) -> int:
    """Rows of one stay, an offset and a text, until the file has ``size`` bytes; how many."""
    rows = 0
    with path.open("wb") as file:
        while file.tell() < size:
            label = f"{path.name} {rows}"
            stay = (uniform(rand, label, CHUNK) * stays).astype(int) + 141_000
            offset = (uniform(rand, f"{label} offset", CHUNK) * 6000 - 500).astype(int)
            text = np.array(texts, dtype=object)[(uniform(rand, f"{label} text", CHUNK) * len(texts)).astype(int)]
            frame = pl.DataFrame({columns[0]: np.arange(rows, rows + CHUNK), columns[1]: stay, columns[2]: offset})
            frame = frame.with_columns(pl.Series(columns[3], text.tolist()), pl.Series(columns[4], text.tolist()))
            frame.write_csv(file, include_header=rows == 0)
            rows += CHUNK
    return rows


def make(folder: Path, stays: int, size: float) -> None:
    rand = Rand(Seed(bytes(32)))
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in small_tables(rand, stays).items():
        frame.write_csv(folder / f"{name}.csv")
    past = "notes/Progress Notes/Past History/Organ Systems/{}"
    kinds = [
        "Pulmonary/COPD/COPD  - moderate",
        "Neurologic/Strokes/stroke - date unknown",
        "Endocrine (R)/Hypothyroidism/hypothyroidism",
    ]
    columns = ("pasthistoryid", "patientunitstayid", "pasthistoryenteredoffset", "pasthistorypath", "pasthistoryvaluetext")
    long_table(rand, folder / "pastHistory.csv", columns, [past.format(kind) for kind in kinds], stays, size * 0.8)
    names = ["Sepsis, pulmonary", "Bleeding, upper GI", "CVA, cerebrovascular accident/stroke", "Asthma"]
    path = "admission diagnosis|All Diagnosis|Non-operative|Diagnosis|Cardiovascular|{}"
    columns = ("admissiondxid", "patientunitstayid", "admitdxenteredoffset", "admitdxpath", "admitdxname")
    long_table(rand, folder / "admissionDx.csv", columns, [path.format(name) for name in names], stays, size * 0.2)


def measured(folder: Path) -> dict[str, object]:
    """What a process of its own says of loading."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(folder)], check=True, capture_output=True, text=True)  # noqa: S603
    found: dict[str, object] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stays", type=int, default=200_859)
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument("--dir", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = given.dir or Path(made) / "eicu"
        if not (folder / "admissionDx.csv").exists():
            make(folder, given.stays, given.gigabytes * 1e9)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(json.dumps({"stays": given.stays, "csv_gb": round(size / 1e9, 2), **measured(folder)}, indent=1))


if __name__ == "__main__":
    main()
