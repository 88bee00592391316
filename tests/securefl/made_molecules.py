"""Small tables of molecules in the form of Tox21 and ChEMBL: chains with groups, of which labels follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

GROUPS = ("O", "N", "Cl", "c1ccccc1", "C(=O)O", "C#N")


def smiles() -> list[str]:
    """Distinct molecules, none spelled canonically on purpose."""
    return [
        f"{'C' * length}C({one}){'C' * tail}{other}"
        for length in range(1, 6)
        for tail in range(4)
        for one in GROUPS
        for other in GROUPS
    ]


def frame(*, values: bool, assays: int = 8) -> pd.DataFrame:
    """A table in which an assay asks for a group, or gives a value that grows with it; two cells in five are empty."""
    rng, names = np.random.default_rng(5), smiles()
    wanted = [GROUPS[number % len(GROUPS)] for number in range(assays)]
    has = np.array([[group in name for group in wanted] for name in names], dtype=float)
    cells = 5.5 + 2 * has + rng.normal(size=has.shape) * 0.4 if values else np.abs(has - (rng.random(has.shape) < 0.05))
    cells[rng.random(has.shape) < 0.4] = np.nan
    table = pd.DataFrame(cells, columns=[f"assay {number}" for number in range(assays)])
    table.insert(0, "smiles", names)
    return table


def write(folder: Path, table: pd.DataFrame, name: str = "tox21") -> Path:
    """The folder, with the table where `securefl.data.molecules` looks for it."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / {"tox21": "tox21.csv.gz", "chembl": "chembl_5thresh.csv.gz"}[name], index=False)
    return folder
