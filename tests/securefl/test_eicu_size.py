"""A table that would not fit: the loader streams it, under a limit on memory that an eager reader of the same table breaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import made_eicu
import pandas as pd

BLOCKS = 150
LIMIT_MB = 700
"""Of private writable memory (RLIMIT_DATA), with libraries, stacks of threads and what allocators hold in reserve.  The table has
350 MB; one of twice that size passes as well."""

CHILD = """
import resource, sys
from pathlib import Path
limit = int(sys.argv[2]) * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
from securefl.data import eicu, eicu_tables
if sys.argv[3] == "eager":
    def collect(folder, table, frame):
        import polars as pl
        whole = pl.read_csv(folder / f"{table}.csv", infer_schema=False)
        return frame.collect() if len(whole) else whole
    eicu.collect = collect
data = eicu.load(directory=Path(sys.argv[1]))
print(sum(len(site.y) for site in data.sites), data.sites[0].known[:, data.features.index("past_dementia")].min())
"""


def loaded(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "POLARS_MAX_THREADS": "2", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(folder), str(LIMIT_MB), how]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_a_table_larger_than_memory_is_streamed_and_read_eagerly_it_is_not(tmp_path: Path) -> None:
    made = made_eicu.tables()
    folder = made_eicu.write(tmp_path / "eicu", made)
    stays = made["patient"].patientunitstayid.tolist()
    text = "notes/Progress Notes/Past History/Organ Systems/Neurologic/Dementia/dementia" + "/of a long path" * 10
    block = "".join(f"{stays[at % len(stays)]},15,{text}\n" for at in range(9000))
    with (folder / "pastHistory.csv").open("w") as file:
        file.write("patientunitstayid,pasthistoryenteredoffset,pasthistorypath\n")
        file.writelines(block for _ in range(BLOCKS))
    assert (folder / "pastHistory.csv").stat().st_size > 300e6
    streamed = loaded(folder, "streamed")
    assert streamed.returncode == 0, streamed.stderr[-500:]
    rows, least = streamed.stdout.split()
    patient = pd.read_csv(folder / "patient.csv")
    assert 0 < int(rows) <= patient.patienthealthsystemstayid.nunique()
    assert float(least) == 1.0
    assert loaded(folder, "eager").returncode != 0


def test_the_program_that_makes_and_loads_a_folder_of_the_full_size_does_so_at_a_small_one() -> None:
    """At the full set's 200,859 stays and 3.1 GB it takes 23 CPU seconds and 0.7 GB of memory."""
    script = Path(__file__).parents[2] / "benchmarks" / "eicu_size.py"
    command = [sys.executable, str(script), "--stays", "2000", "--gigabytes", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    found = json.loads(done.stdout)
    assert found["stays"] == 2000
    assert 1000 < found["rows"] <= 2000
    assert found["region"]["sites"] >= 4
    assert found["hospital"]["sites"] > 100
