"""Association of many variants with a phenotype out of sums: alleles of cases and controls, χ², odds ratios.

A variant's genotype is the number of its alternative alleles, 0, 1 or 2.  Per variant four numbers are opened: alternative and
reference alleles of cases and of controls.  With a minimum cell count k above 1 the sites first screen, for each of the four, how
many *persons* carry such an allele (`securefl.statistics.cells`); a variant of which one of these is not surely none, nor surely k,
is withheld whole: nothing of it is counted.

Sources: the allelic test and Woolf's interval of the odds ratio (B. Woolf, Ann Hum Genet 19:251, 1955) as in D. Clayton's chapter
of the Handbook of Statistical Genetics (Wiley, 2007); genomic control by B. Devlin and K. Roeder, Biometrics 55:997 (1999).

What it does not protect: aggregate allele counts tell of a person with a known genome whether it is among the cases, the better the
more variants there are (N. Homer et al., PLoS Genet 4:e1000167, 2008).  Many variants of a few persons are as good as their names.
Missing genotypes are not screened: numbers of alleles of two variants tell how many more persons lack one, be it a single person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from securefl.binned import Z
from securefl.errors import UserError, quoted
from securefl.statistics.columns import SiteTable, named
from securefl.statistics.results import Array, Released, plain

if TYPE_CHECKING:
    import pandas as pd

    from securefl.results import Opened
    from securefl.statistics.secure import SecureStatistics

MEDIAN_CHI2 = 0.4549364231195724
"""Median of χ² with one degree of freedom."""
_BLOCK = 1024
"""Variants that are counted at once: genotypes of all of them as numbers would be eight times the table."""

Counts = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Association(Released):
    """Variants over all sites; arrays have shape (variants,), and NaN for a variant that is withheld or does not vary.

    Attributes:
        phenotype: column that tells cases from controls.
        variants: names.
        alleles: shape (variants, 2, 2), object: of controls and cases, reference and alternative; None where withheld.
        frequency: of the alternative allele, over both.
        odds_ratio: of the alternative allele in cases against controls; 0 or infinite where a cell is none.
        low, high: its interval, of 95 %; NaN where a cell is none.
        chi2: Pearson's, without correction, of the table of alleles.
        p: its upper tail with one degree of freedom.
    """

    phenotype: str
    variants: tuple[str, ...]
    alleles: NDArray[np.object_]
    frequency: Array
    odds_ratio: Array
    low: Array
    high: Array
    chi2: Array
    p: Array

    @property
    def withheld(self) -> int:
        """Number of variants of which nothing is released."""
        return sum(cell is None for cell in self.alleles[:, 0, 0].tolist())

    @property
    def inflation(self) -> float:
        """Genomic control's λ: the median of χ² over what it is without any association; NaN without variants."""
        known = self.chi2[np.isfinite(self.chi2)]
        return float(np.median(known)) / MEDIAN_CHI2 if known.size else np.nan

    def frame(self) -> pd.DataFrame:
        """One row a variant."""
        import pandas as pd  # noqa: PLC0415 - slow to import

        names = [f"{who}_{allele}" for who in ("control", "case") for allele in ("ref", "alt")]
        counts = pd.DataFrame(self.alleles.reshape(-1, 4), columns=names, index=list(self.variants)).astype("Int64")
        keys = ("frequency", "odds_ratio", "low", "high", "chi2", "p")
        return counts.assign(**{key: getattr(self, key) for key in keys})

    def as_json(self) -> dict[str, Any]:
        """As `Released.as_json`, with ``phenotype``, ``inflation`` and one object a variant in ``variants``."""
        keys = ("frequency", "odds_ratio", "low", "high", "chi2", "p")
        values = [getattr(self, key).tolist() for key in keys]
        variants = {
            name: {"alleles": table, **dict(zip(keys, map(plain, figures), strict=True))}
            for name, table, *figures in zip(self.variants, self.alleles.tolist(), *values, strict=True)
        }
        head = {"phenotype": self.phenotype, "inflation": plain(self.inflation), "withheld": self.withheld}
        return {**super().as_json(), **head, "variants": variants}


def associate(statistics: SecureStatistics, phenotype: str, variants: Sequence[str]) -> Association:
    """The allelic test of every variant over all sites: two secure sums, or one where the minimum is 1.

    Args:
        statistics: the sites.
        phenotype: column with two levels, the second of which is a case.
        variants: columns of genotypes: 0, 1, 2 or missing.  They need no range and no levels.

    Raises:
        UserError: bad input, before anything leaves.
        Abort: as for every sum.
    """
    names, cases = named(variants, "an association"), statistics.axis(phenotype)
    if len(cases.labels) != 3:
        raise UserError(f"{quoted(phenotype)} needs two levels, control and case, not {len(cases.labels) - 1}")
    own = [counted(site, names, case) for site, case in zip(statistics.sites, cases.places, strict=True)]
    shown, sites, opened, k = np.ones(len(names), dtype=bool), None, list["Opened"](), statistics.min_cell
    of = f"of {len(names)} variant{'s' * (len(names) != 1)} by {quoted(phenotype)}"
    if k > 1:
        least, sites, opened = statistics.screened([carriers for _, carriers in own], f"carriers {of}")
        shown = ((least == 0) | (least >= k)).all(axis=(1, 2))
    alleles = np.zeros((len(names), 2, 2), dtype=np.int64)
    if shown.any():
        counts, sites = statistics.counted([mine[shown].ravel() for mine, _ in own], with_sites=sites, each=2)
        alleles[shown] = counts.reshape(-1, 2, 2)
        opened += statistics.event(
            f"alleles {of}, {int(shown.sum())} of them", 1, f"of {k} carriers or more, or none" if k > 1 else ""
        )
    released = alleles.astype(object)
    released[~shown] = None
    return Association(
        **statistics.released(sites or 0, opened), phenotype=phenotype, variants=names, alleles=released, **tested(alleles, shown)
    )


def counted(site: SiteTable, variants: Sequence[str], case: Counts) -> tuple[Counts, Counts]:
    """A site's alleles and carriers of each variant.

    Args:
        site: its table.
        variants: columns of genotypes, 0, 1, 2 or missing.
        case: for each row 1 for a case, 0 for a control, 2 where missing; such a row is left out.

    Returns:
        Alleles, and persons with at least one; both of shape (variants, 2, 2): controls and cases, reference and alternative.

    Raises:
        UserError: no such column, or a value that is no genotype.
    """
    alleles = np.zeros((len(variants), 2, 2), dtype=np.int64)
    carriers = np.zeros_like(alleles)
    for begin in range(0, len(variants), _BLOCK):
        names = variants[begin : begin + _BLOCK]
        table = np.column_stack([site.numbers(name, (-np.inf, np.inf), _ignored) for name in names])
        known = ~np.isnan(table)
        odd = known & (table != 0) & (table != 1) & (table != 2)
        if odd.any():
            row, column = np.argwhere(odd)[0]
            raise UserError(
                f"{quoted(site.name)}: {quoted(names[column])} is {table[row, column]:g} in row {row}: a genotype is 0, 1 or 2"
            )
        for who in range(2):
            own = table[case == who]
            part = slice(begin, begin + len(names)), who
            alleles[*part, 1] = np.nansum(own, axis=0)
            alleles[*part, 0] = 2 * known[case == who].sum(axis=0) - alleles[*part, 1]
            carriers[*part, 1] = (own > 0).sum(axis=0)
            carriers[*part, 0] = (own < 2).sum(axis=0)
    return alleles, carriers


def _ignored(_line: str) -> None:
    """Nothing is clipped; that a site has no value of one variant among many is nothing to tell."""


def tested(alleles: Counts, shown: NDArray[np.bool_]) -> dict[str, Any]:
    """Figures of tables of shape (variants, 2, 2), each of shape (variants,), NaN where not shown."""
    table = np.where(shown[:, None, None], alleles, np.nan)
    (a, b), (c, d) = table[:, 0].T, table[:, 1].T
    total, controls, cases, refs, alts = a + b + c + d, a + b, c + d, a + c, b + d
    with np.errstate(divide="ignore", invalid="ignore"):
        chi2 = total * (a * d - b * c) ** 2 / (controls * cases * refs * alts)
        ratio = a * d / (b * c)
        wide = Z * np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
        whole = (table > 0).all(axis=(1, 2))
        low, high = (np.where(whole, ratio * np.exp(sign * wide), np.nan) for sign in (-1, 1))
        return {
            "frequency": alts / total,
            "odds_ratio": ratio,
            "low": low,
            "high": high,
            "chi2": chi2,
            "p": np.where(np.isnan(chi2), np.nan, chdtrc(1, np.nan_to_num(chi2))),
        }
