"""UCI heart disease: four real hospitals, prepared as in FLamby's Fed-Heart-Disease.

Source: A. Janosi, W. Steinbrunn, M. Pfisterer, R. Detrano, UCI, doi:10.24432/C52P4X, CC BY 4.0.  Preparation: J. Ogier
du Terrail et al., "FLamby" (NeurIPS 2022 datasets and benchmarks): drop slope, ca and thal, which three hospitals
hardly recorded; keep complete rows; chest pain type and resting ECG as 0/1 columns without their first level; label 1
where num > 0.

The files write "not measured" as 0 in chol (all complete rows of switzerland, 33 of va) and in one trestbps of va.
FLamby keeps these zeros as values, and so does this loader, so that results can be compared.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securefl.data.types import Coding, Dataset, Site
from securefl.errors import UserError

UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
FOLDER = "heart_disease"
VARIABLE = "SECUREFL_DATA"
FILES: dict[str, tuple[str, str]] = {
    "cleveland": (
        "processed.cleveland.data",
        "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    ),
    "hungarian": (
        "processed.hungarian.data",
        "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    ),
    "switzerland": (
        "processed.switzerland.data",
        "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
    ),
    "va": (
        "processed.va.data",
        "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
    ),
}
"""Hospital → file name and sha256, in FLamby's order."""

RANGES: dict[str, tuple[float, float]] = {
    "age": (20.0, 90.0),
    "sex": (0.0, 1.0),
    "trestbps": (60.0, 220.0),
    "chol": (0.0, 600.0),
    "fbs": (0.0, 1.0),
    "thalach": (60.0, 220.0),
    "exang": (0.0, 1.0),
    "oldpeak": (-3.0, 7.0),
    "cp=2": (0.0, 1.0),
    "cp=3": (0.0, 1.0),
    "cp=4": (0.0, 1.0),
    "restecg=1": (0.0, 1.0),
    "restecg=2": (0.0, 1.0),
}
"""Bounds that a clinician could write down without seeing a row, so scaling by them opens nothing.

age: adults sent to coronary angiography, years.  trestbps: from hypotension to severe hypertension, mm Hg.  chol:
mg/dl, up to familial hypercholesterolaemia, and 0 because the format uses it for "not measured".  thalach: beats a
minute, up to 220 minus age 0, the common rule for the maximum.  oldpeak: ST depression in mm, negative for elevation.
The others are yes or no.  Few rows lie outside.
"""
CODINGS = (
    *(Coding(name) for name in RANGES if "=" not in name),
    Coding("cp", ("1", "2", "3", "4")),
    Coding("restecg", ("0", "1", "2")),
)
CLASSES = ("no heart disease", "heart disease")


def load(*, clients: int | None = None, directory: Path | None = None, base_url: str = UCI, cache: Path | None = None) -> Dataset:
    """The four hospitals, 303, 261, 46 and 130 complete rows with 13 features.

    Args:
        clients: must be None: the data fix the sites.
        directory: folder that holds ``heart_disease/`` or the files themselves; None for the one that SECUREFL_DATA
            names, and without that variable a download, checked by sha256, into the user's cache folder.
        base_url: where to download from, ending in a slash.
        cache: folder for downloaded files; None for the user's cache folder.

    Raises:
        UserError: ``clients`` is given; a file is missing, cannot be downloaded or is not the expected one.
    """
    if clients is not None:
        raise UserError(f"clients is {clients}, but the data fix the sites: heart has its {len(FILES)} hospitals")
    if directory is not None:
        raw = _local(directory, f"data directory {directory}")
    elif os.environ.get(VARIABLE):
        raw = _local(Path(os.environ[VARIABLE]), f"{VARIABLE}={os.environ[VARIABLE]}")
    else:
        raw = _download(base_url, cache)
    sites, kept = [], []
    for hospital, content in raw.items():
        x, y, seen = prepare(content.decode("ascii"))
        sites.append(Site(hospital, x, y))
        kept.append(f"{hospital} {y.size} of {seen}")
    chol = list(RANGES).index("chol")
    zeros = {site.name: int(np.sum(site.x[:, chol] == 0)) for site in sites}
    return Dataset(
        name="heart",
        features=tuple(RANGES),
        sites=tuple(sites),
        ranges=np.array(list(RANGES.values()), dtype=np.float64),
        fixed_sites=True,
        source="Heart Disease, UCI doi:10.24432/C52P4X, CC BY 4.0, prepared as in FLamby's Fed-Heart-Disease",
        notes=(
            f"complete rows without slope, ca and thal: {', '.join(kept)}",
            "chol is 0, which stands for not measured and is kept as a value as in FLamby, in: "
            + ", ".join(f"{count} rows of {name}" for name, count in zeros.items() if count),
        ),
        codings=CODINGS,
        classes=CLASSES,
    )


def prepare(text: str) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """FLamby's preparation of one hospital's file.

    Args:
        text: rows of 14 comma-separated fields, age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca
            thal num, ``?`` for a missing one.

    Returns:
        Features of the complete rows in the order of `RANGES`, shape (complete, 13), float64; their labels, shape
        (complete,), int64; and how many rows the file has.
    """
    lines = [line.split(",") for line in text.splitlines() if line.strip()]
    used = [line[:10] + line[13:14] for line in lines]
    table = np.array([line for line in used if "?" not in line], dtype=np.float64).reshape(-1, 11)
    age, sex, cp, trestbps, chol, fbs, restecg, thalach, exang, oldpeak, num = table.T
    levels = [cp == 2, cp == 3, cp == 4, restecg == 1, restecg == 2]
    x = np.column_stack([age, sex, trestbps, chol, fbs, thalach, exang, oldpeak, *levels]).astype(np.float64)
    return x, (num > 0).astype(np.int64), len(lines)


def _local(folder: Path, named: str) -> dict[str, bytes]:
    """The files of a folder that the user named (``named`` says how), checked like downloaded ones."""
    where = folder / FOLDER if (folder / FOLDER).is_dir() else folder
    contents = {}
    for hospital, (file, sha256) in FILES.items():
        try:
            contents[hospital] = (where / file).read_bytes()
        except OSError:
            raise UserError(f"{named} has no readable {FOLDER}/{file} or {file}") from None
        if hashlib.sha256(contents[hospital]).hexdigest() != sha256:
            raise UserError(f"{where / file} is not UCI's file: its sha256 is not {sha256[:12]}…")
    return contents


def _download(base_url: str, cache: Path | None) -> dict[str, bytes]:
    import pooch  # noqa: PLC0415 - slow to import

    pooch.get_logger().setLevel(logging.ERROR)
    store = pooch.create(
        path=cache if cache is not None else pooch.os_cache("securefl") / FOLDER,
        base_url=base_url,
        registry={file: f"sha256:{sha256}" for file, sha256 in FILES.values()},
        retry_if_failed=1,
    )
    remedy = f"get the files and name their folder with --data-dir or {VARIABLE}"
    contents = {}
    for hospital, (file, _) in FILES.items():
        try:
            contents[hospital] = Path(store.fetch(file)).read_bytes()
        except OSError as error:
            reason = type(error).__name__
            raise UserError(f"{base_url}{file} could not be downloaded ({reason}): {remedy}") from None
        except ValueError:
            raise UserError(f"{base_url}{file} is not the expected file (its sha256 differs): {remedy}") from None
    return contents
