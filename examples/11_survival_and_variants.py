"""Clinical research without rows in one place: survival curves of a trial and an association study, out of secure sums.

Both are compared with what scipy makes of the pooled rows, which no party has; here they were made up in one place.
"""

import numpy as np
import pandas as pd
from scipy import stats

from securefl.statistics import Columns, SecureStatistics, associate, kaplan_meier

HOSPITALS, PATIENTS, MONTHS, VARIANTS = 4, 250, 36, 500
made = np.random.default_rng(7)  # made-up rows; nothing here is secret


def trial(site: int) -> pd.DataFrame:
    """Patients of two arms, the second of which lives longer; some leave before the end."""
    arm = made.integers(0, 2, PATIENTS)
    dies, leaves = made.exponential(18 + 9 * arm + site, PATIENTS), made.uniform(6, MONTHS, PATIENTS)
    return pd.DataFrame(
        {"month": np.ceil(np.minimum(dies, leaves)), "died": (dies <= leaves).astype(int), "arm": np.where(arm, "new", "usual")}
    )


trials = {f"hospital {site}": trial(site) for site in range(1, HOSPITALS + 1)}
known = Columns({"month": (0, MONTHS)}, levels={"died": [0, 1], "arm": ["usual", "new"]})
exact = kaplan_meier(SecureStatistics.simulated(trials, known, min_cell=1), "month", "died", intervals=MONTHS, by="arm")
pooled = pd.concat(trials.values())
arms = [pooled[pooled["arm"] == arm] for arm in exact.groups]
curves = [stats.CensoredData.right_censored(rows["month"], rows["died"] == 0) for rows in arms]
off = max(
    np.nanmax(np.abs(line - stats.ecdf(curve).sf.evaluate(exact.edges[1:])))
    for line, curve in zip(exact.survival, curves, strict=True)
)
print(f"an interval a month: curves differ from the pooled ones by {off:.0e}; medians {exact.median[0]:g} and {exact.median[1]:g}")
print(f"log-rank: p = {exact.log_rank.p:.3g} from sums, {stats.logrank(*curves).pvalue:.3g} from pooled rows")
small = int(((exact.events > 0) & (exact.events < 5)).sum())
careful = kaplan_meier(SecureStatistics.simulated(trials, known), "month", "died", intervals=MONTHS, by="arm")
print(f"{small} counts of events were below 5; with the minimum of 5 there are {len(careful.edges) - 1} intervals, and none is")


def biobank() -> dict[str, np.ndarray]:
    """Genotypes of variants of all frequencies, one of which doubles the odds of the disease."""
    share = np.linspace(0.01, 0.5, VARIANTS)
    genotypes = made.binomial(2, share, (PATIENTS, VARIANTS))
    ill = made.random(PATIENTS) < 1 / (1 + np.exp(1 - 0.7 * genotypes[:, 400]))
    return {"ill": ill.astype(int), **{f"rs{at}": column for at, column in enumerate(genotypes.T)}}


banks = {f"biobank {number}": biobank() for number in range(1, 4)}
names = [f"rs{at}" for at in range(VARIANTS)]
found = associate(SecureStatistics.simulated(banks, Columns(levels={"ill": [0, 1]})), "ill", names)
best = int(np.nanargmin(found.p))
table = np.array(found.alleles[best].tolist())
print(f"{found.variants[best]}: odds ratio {found.odds_ratio[best]:.2f} ({found.low[best]:.2f} to {found.high[best]:.2f})", end="")
print(f", p = {found.p[best]:.2g}; pooled, scipy has {stats.chi2_contingency(table, correction=False).pvalue:.2g}")
print(f"{found.withheld} of {VARIANTS} variants are not released: of some allele fewer than 5 persons may be carriers, but some")
