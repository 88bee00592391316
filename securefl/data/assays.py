"""Partners with different assays: which assays each has, its compounds, and which of them are held out.

What it does not protect: in a simulation all of this lies in one process.  A partner itself needs its own part of it alone: the
side of a compound follows from the compound and the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from securefl.data import molecules as tables
from securefl.data.molecules import MISSING, Molecules
from securefl.data.split import places, shuffled, source
from securefl.data.types import Dataset
from securefl.errors import UserError

if TYPE_CHECKING:
    from securefl.job import Job

PARTNERS = {"tox21": 4, "chembl": 8}
"""How many partners there are, unless the job says so."""


@dataclass(frozen=True, eq=False)
class Partner:
    """One partner.

    Attributes:
        name: its name.
        assays: numbers of its assays, shape (assays,), int64.
        train, test: numbers of its compounds, each with a measurement in one of its assays, shape (compounds,), int64.
    """

    name: str
    assays: NDArray[np.int64] = field(repr=False)
    train: NDArray[np.int64] = field(repr=False)
    test: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class Assays(Dataset):
    """Molecules, and partners that measured them; ``sites`` is empty, as no table has the same columns everywhere.

    Attributes:
        molecules: all of them.
        partners: in a fixed order.
    """

    molecules: Molecules | None = field(default=None, repr=False)
    partners: tuple[Partner, ...] = field(default=(), repr=False)

    @property
    def rows(self) -> dict[str, int]:
        """Compounds of each partner."""
        return {partner.name: len(partner.train) + len(partner.test) for partner in self.partners}

    def part(self, partner: Partner, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Fingerprints and labels of some compounds of a partner, shapes (compounds, bits) and (compounds, its assays)."""
        if self.molecules is None:
            raise UserError(f"{self.name} has no molecules")
        return self.molecules.fingerprints[rows], self.molecules.labels[np.ix_(rows, partner.assays)]


def of_job(job: Job) -> Assays:
    """The partners that a job names.

    Raises:
        UserError: as `securefl.data.molecules.load` and `deal`.
    """
    data = job.data
    found = tables.load(data.name, data.dir, target=data.target or "class", group=data.group or "compound")
    return deal(data.name, found, data.clients or PARTNERS[data.name], holdout=data.holdout, seed=job.simulation.seed)


def deal(name: str, molecules: Molecules, partners: int, *, holdout: float, seed: int) -> Assays:
    """Deal assays out to partners at random, in equal numbers to within one; hold out the same compounds at all of them.

    Args:
        name: of the data.
        molecules: compounds and assays.
        partners: how many.
        holdout: share of the compounds that is held out, on average.
        seed: decides who gets which assay, and which compounds are held out.

    Raises:
        UserError: for more partners than assays, or a partner without a compound to train on or to hold out.
    """
    count = len(molecules.assays)
    if partners > count:
        raise UserError(f"data.clients is {partners}, but {name} has {count} assays: every partner needs one")
    order = shuffled(source(seed, "assays"), "order", np.arange(count))
    held = places(molecules.keys, seed) < holdout
    made = []
    for number, own in enumerate(np.array_split(order, partners), 1):
        known = (molecules.labels[:, own] != MISSING).any(axis=1)
        partner = Partner(f"partner-{number}", np.sort(own), np.flatnonzero(known & ~held), np.flatnonzero(known & held))
        if not (len(partner.train) and len(partner.test)):
            raise UserError(f"{partner.name} has no compound to train on or to hold out: another seed or holdout is needed")
        made.append(partner)
    where = tables.TABLES[name].source if name in tables.TABLES else name
    return Assays(
        name=name,
        features=tuple(f"bit {bit}" for bit in range(molecules.fingerprints.shape[1])),
        sites=(),
        ranges=None,
        fixed_sites=False,
        source=where,
        notes=(*molecules.notes, f"assays dealt to {partners} partners at random; the same compounds are held out at all"),
        molecules=molecules,
        partners=tuple(made),
    )
