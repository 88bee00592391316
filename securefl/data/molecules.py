"""Molecules with activities: Tox21 and ChEMBL tables in MoleculeNet's form, as fingerprints and labels of many assays.

Source: Tox21 Data Challenge 2014 (public domain) and a ChEMBL extract (CC BY-SA 3.0), both from DeepChem's data sets; fingerprints
as in Rogers and Hahn, "Extended-connectivity fingerprints" (2010), by RDKit; scaffolds as in Bemis and Murcko (1996).

A molecule is its canonical SMILES: rows that spell one molecule in two ways are one compound.  Which compounds are held out follows
from a hash of that, so it is the same at every partner, and no partner tells another which compounds it has.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from securefl.data.heart import VARIABLE
from securefl.errors import UserError

MISSING = -1.0
"""Stands for no measurement, in labels and in values, both of which are 0 or above."""
BITS = 1024
"""Length of a fingerprint."""
RADIUS = 2
THRESHOLD = 6.5
"""−log10 of the molar activity from which on a compound counts as active (ChEMBL): 0.3 µM."""
FEWEST = 25
"""Compounds of each class, and so twice as many values, that an assay of ChEMBL needs."""
Target = Literal["class", "value"]
Group = Literal["compound", "scaffold"]


@dataclass(frozen=True)
class Table:
    """Where a named table lies, and what is in it."""

    folder: str
    file: str
    source: str
    values: bool

    @property
    def fewest(self) -> int:
        """Compounds of each class that an assay needs."""
        return FEWEST if self.values else 1


TABLES = {
    "tox21": Table("tox21", "tox21.csv.gz", "Tox21 Data Challenge 2014, US government, public domain", values=False),
    "chembl": Table("chembl_5thresh", "chembl_5thresh.csv.gz", "ChEMBL, EMBL-EBI, CC BY-SA 3.0", values=True),
}
BESIDE = ("smiles", "mol_id")
"""Columns that are no assay."""


@dataclass(frozen=True, eq=False)
class Molecules:
    """Compounds and what was measured of them.

    Attributes:
        fingerprints: shape (compounds, `BITS`), uint8, 0 or 1.
        labels: shape (compounds, assays), float32: 0 or 1, or values; `MISSING` where nothing was measured.
        assays: names, in order.
        keys: what decides on which side of a split a compound is, shape (compounds,), uint64.
        notes: what was left out, merged, or counted.
    """

    fingerprints: NDArray[np.uint8] = field(repr=False)
    labels: NDArray[np.float32] = field(repr=False)
    assays: tuple[str, ...] = field(repr=False)
    keys: NDArray[np.uint64] = field(repr=False)
    notes: tuple[str, ...] = ()


def load(name: str, directory: Path | None, *, target: Target = "class", group: Group = "compound") -> Molecules:
    """Read a table.

    Args:
        name: ``tox21`` or ``chembl``.
        directory: folder that holds the table, or its folder; None for that of SECUREFL_DATA.
        target: active or not, or the measured value (of ``chembl`` alone).
        group: whether a compound is on one side of every split by itself, or with all of its scaffold.

    Raises:
        UserError: RDKit or the table is missing; a column is missing; a cell is no number; values are asked of classes; nothing is
            left.
    """
    chem = rdkit()
    table = TABLES[name]
    if target == "value" and not table.values:
        raise UserError(f"data.target = value is refused for {name}: its labels are 0 and 1, it has no values")
    smiles, assays, cells = _read(_file(table, directory))
    molecules = [chem.read(text) for text in smiles]
    readable = np.array([molecule is not None for molecule in molecules])
    if not readable.any():
        raise UserError(f"{table.file}: none of the {len(smiles)} SMILES is readable")
    kept = [molecule for molecule in molecules if molecule is not None]
    spelled, first, place = np.unique([chem.canonical(molecule) for molecule in kept], return_index=True, return_inverse=True)
    notes = [f"{len(spelled)} compounds, {len(assays)} assays; fingerprints of {BITS} bits, radius {RADIUS}"]
    if lost := int((~readable).sum()):
        notes.append(f"{lost} of {len(smiles)} SMILES cannot be read by RDKit: left out")
    if twice := len(kept) - len(spelled):
        notes.append(f"{twice} rows of compounds that came before: merged")
    values = _merged(cells[readable], place, len(spelled))
    labels, shown = _labels(values, table, target)
    if not shown.any():
        raise UserError(f"{table.file}: no assay has enough compounds of each class, at least {table.fewest}")
    if not shown.all():
        at = f" at {THRESHOLD:g}" if table.values else ""
        notes.append(f"{int(shown.sum())} of {len(assays)} assays have {table.fewest} compounds of each class{at}: others left out")
    used = (labels[:, shown] != MISSING).any(axis=1)
    chosen = [kept[row] for row in first[used]]
    groups = (
        spelled[used].tolist()
        if group == "compound"
        else [chem.scaffold(m) or text for m, text in zip(chosen, spelled[used], strict=True)]
    )
    keys = np.array([_key(text) for text in groups], dtype=np.uint64)
    names = tuple(np.array(assays)[shown].tolist())
    return Molecules(chem.fingerprints(chosen), labels[used][:, shown], names, keys, tuple(notes))


def _file(table: Table, directory: Path | None) -> Path:
    base = directory or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if base is None:
        raise UserError(f"{table.file} is needed: give its folder with --data-dir, or the one that holds it in {VARIABLE}")
    for path in (base / table.file, base / table.folder / table.file):
        if path.is_file():
            return path
    raise UserError(f"{base} holds neither {table.file} nor {table.folder}/{table.file}")


def _read(path: Path) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """SMILES, names of assays and their cells, shape (rows, assays), NaN where one is empty."""
    import pandas as pd  # noqa: PLC0415

    try:
        frame = pd.read_csv(path, dtype={"smiles": str, "mol_id": str})
    except (OSError, EOFError, ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the table: {' '.join(str(error).split())}") from None
    if "smiles" not in frame:
        raise UserError(f"{path} has no column 'smiles': is it separated by commas?")
    assays = [column for column in frame if column not in BESIDE]
    odd = next((column for column in assays if frame[column].dtype.kind not in "fiu"), None)
    if odd is not None:
        raise UserError(f"{path}: the column {odd!r} holds something else than numbers")
    if not assays or not len(frame):
        raise UserError(f"{path} has no {'assay' if len(frame) else 'row'}")
    cells = frame[assays].to_numpy(dtype=np.float64)
    if (cells < 0).any() or np.isinf(cells).any():
        row, column = np.argwhere((cells < 0) | np.isinf(cells))[0]
        raise UserError(f"{path}: {assays[column]} is {cells[row, column]:g} in line {row + 2}: 0 or more is allowed")
    return frame["smiles"].fillna("").tolist(), assays, cells


def _merged(cells: NDArray[np.float64], place: NDArray[np.int64], compounds: int) -> NDArray[np.float64]:
    """Means over the rows of a compound, shape (compounds, assays), NaN where none has a value."""
    known = ~np.isnan(cells)
    total, count = np.zeros((compounds, cells.shape[1])), np.zeros((compounds, cells.shape[1]))
    np.add.at(total, place, np.where(known, cells, 0.0))
    np.add.at(count, place, known)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _labels(values: NDArray[np.float64], table: Table, target: Target) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Labels, and which assays are shown; a compound whose rows disagree evenly has no class."""
    active = values >= (THRESHOLD if table.values else 0.5)
    known = ~np.isnan(values) & (table.values | (values != 0.5))
    shown = np.minimum((known & active).sum(axis=0), (known & ~active).sum(axis=0)) >= table.fewest
    labels = np.where(known, values if target == "value" else active, MISSING)
    return labels.astype(np.float32), shown


def _key(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


@dataclass(frozen=True)
class Rdkit:
    """The few functions of RDKit that are used."""

    read: Callable[[str], Any]
    canonical: Callable[[Any], str]
    scaffold: Callable[[Any], str]
    fingerprints: Callable[[list[Any]], NDArray[np.uint8]]


def rdkit() -> Rdkit:
    """RDKit, told to be silent of molecules that it cannot read.

    Raises:
        UserError: where it is not installed.
    """
    try:
        from rdkit import Chem, RDLogger  # noqa: PLC0415
        from rdkit.Chem import rdFingerprintGenerator  # noqa: PLC0415
        from rdkit.Chem.Scaffolds import MurckoScaffold  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "rdkit":
            raise
        raise UserError("tox21 and chembl need RDKit, which reads molecules: pip install 'securefl[chem]'") from None
    RDLogger.DisableLog("rdApp.*")  # type: ignore[attr-defined]  # RDKit's modules are compiled
    maker = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)

    def fingerprints(molecules: list[Any]) -> NDArray[np.uint8]:
        return np.array([maker.GetFingerprintAsNumPy(molecule) for molecule in molecules], dtype=np.uint8)

    def scaffold(molecule: Any) -> str:
        found: str = MurckoScaffold.MurckoScaffoldSmiles(mol=molecule)  # type: ignore[no-untyped-call]
        return found

    return Rdkit(lambda text: Chem.MolFromSmiles(text) if text else None, Chem.MolToSmiles, scaffold, fingerprints)
