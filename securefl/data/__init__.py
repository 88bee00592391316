"""Data sets as sites: named sets, a user's own table, and splits by site.

`load` turns a name into a `Dataset`; `plan` draws a site's train and test rows.  No loader opens anything: what a
`Dataset` calls public (ranges, feature names) is published with the data, or stated by the user.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from securefl.data.split import plan
from securefl.data.types import Dataset, Site, Split
from securefl.errors import UserError

if TYPE_CHECKING:
    from securefl.data.contract import Contract
    from securefl.job import Job

NAMES = ("breast-cancer", "heart", "eicu", "tox21", "chembl")
"""Data sets that `load` knows by name."""
MOLECULES = ("tox21", "chembl")
"""Those of them that are molecules with assays, which `of_job` alone loads."""

__all__ = ["MOLECULES", "NAMES", "Dataset", "Site", "Split", "load", "of_job", "own_eicu", "plan"]


def load(
    name: str,
    *,
    clients: int | None = None,
    seed: int = 0,
    directory: Path | None = None,
    label: str | None = None,
    site: str | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    levels: Mapping[str, Sequence[str]] | None = None,
    drop: Collection[str] = (),
    sites: str | None = None,
    contract: Contract | None = None,
    later: bool = False,
    private: bool = False,
) -> Dataset:
    """Load a data set by name, or a table from a CSV file.

    Args:
        name: ``breast-cancer``, ``heart``, ``eicu``, or a path that ends in ``.csv``.
        clients: number of sites, for ``breast-cancer`` alone: 2 up to 14, None for 5.
        seed: the job's seed; it deals the rows of ``breast-cancer`` out to sites.
        directory: folder with the files of ``heart`` or ``eicu``; see `securefl.data.heart.load`, `securefl.data.eicu.load`.
        label: column of the label, for a CSV file alone.
        site: column that names each row's site, for a CSV file alone.
        ranges: publicly known lower and upper bounds by column, for a CSV file alone.
        levels: publicly known values of columns of text, for a CSV file alone.
        drop: columns to leave out, for a CSV file alone.
        sites: what a site is, for ``eicu`` alone: ``region`` or ``hospital``.
        contract: what a CSV file must hold, and which columns are features.
        later: whether missing numbers of a CSV file will get the mean of their column.
        private: whether no row of a CSV file may decide what is a feature.

    Raises:
        UserError: the name is unknown, an argument does not belong to it, or the data are refused; one line that names
        the culprit.
    """
    alone: dict[str, object] = {"label": label, "site": site, "ranges": ranges or None, "levels": levels or None}
    alone |= {"drop": drop or None, "contract": contract}
    _refuse_strangers(name, alone, directory, sites)
    # A loader is imported on use: pandas, scikit-learn and pooch take seconds.
    if name in MOLECULES:
        raise UserError(f"{name} is no table of sites: of_job loads it")
    if name == "eicu":
        return _eicu(clients, sites or "region", directory)
    if name == "heart":
        from securefl.data import heart  # noqa: PLC0415

        return heart.load(clients=clients, directory=directory)
    if name == "breast-cancer":
        from securefl.data import breast_cancer  # noqa: PLC0415

        return breast_cancer.load(clients=clients, seed=seed)
    from securefl.data import table as csv  # noqa: PLC0415

    if clients is not None:
        raise UserError(f"clients is {clients}, but the data fix the sites: one a value of the site column")
    return csv.load(
        Path(name), label=label, site=site, ranges=ranges or {}, levels=levels or {}, drop=drop, contract=contract,
        later=later, private=private,
    )  # fmt: skip


def _refuse_strangers(name: str, of_a_table: Mapping[str, object], directory: Path | None, sites: str | None) -> None:
    """Refuse an unknown name, and arguments that do not belong to it."""
    if not name.lower().endswith(".csv"):
        if name not in NAMES:
            raise UserError(f"data is {name!r}: {', '.join(NAMES)} or a path that ends in .csv is allowed")
        for argument, given in of_a_table.items():
            if given is not None:
                raise UserError(f"{argument} is given, but goes with a .csv file only: {name} has its own")
    if directory is not None and name not in ("heart", "eicu"):
        raise UserError(f"a data directory is given, but goes with heart and eicu only, not with {name}")
    if sites is not None and name != "eicu":
        raise UserError(f"sites is given, but goes with eicu only, not with {name}")


def _eicu(clients: int | None, sites: str, directory: Path | None) -> Dataset:
    if clients is not None:
        raise UserError(f"clients is {clients}, but the data fix the sites: eicu has its regions or its hospitals")
    with _polars():
        from securefl.data import eicu  # noqa: PLC0415
    return eicu.load(sites=sites, directory=directory)


def own_eicu(job: Job, directory: Path, site: str | None, party: str) -> Site:
    """A party's rows out of a folder of eICU's tables; as `securefl.data.eicu.read` and `own_name`.

    Raises:
        UserError: also where measurements are not in the units of `securefl.data.eicu_contract`.
    """
    with _polars():
        from securefl.data import eicu  # noqa: PLC0415
    from securefl.data.eicu_contract import broken_in  # noqa: PLC0415

    sites = job.data.sites or "region"
    found = eicu.read(sites=sites, directory=directory)
    own = eicu.own_name(found, sites=sites, wanted=site, party=party)
    ((_, broken),) = broken_in(found.measured, {own: found.rows[own]}).values()
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise UserError(f"{directory}: {own}: {broken[0].line}{more}; securefl doctor --data eicu shows all")
    return found.site(own)


@contextmanager
def _polars() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "polars":
            raise
        raise UserError("eicu needs polars, which reads its tables: pip install 'securefl[eicu]'") from None


def of_job(job: Job) -> Dataset:
    """The data that a job names; errors as for `load`."""
    data, seed = job.data, job.simulation.seed
    if data.name in MOLECULES:
        from securefl.data import assays  # noqa: PLC0415

        return assays.of_job(job)
    return load(
        data.name,
        clients=data.clients,
        seed=seed,
        directory=data.dir,
        label=data.label,
        site=data.site,
        ranges=data.ranges,
        levels=data.levels,
        drop=data.drop,
        sites=data.sites,
        contract=data.contract,
        later=data.scaling == "noised",
        private=job.privacy.mechanism != "none",
    )
