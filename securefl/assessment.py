"""The final model assessed: its scores on held-out rows as histograms, summed in secret, beside another model's on the same rows.

Each site counts its held-out rows by class, fold and bin of their score (`securefl.binned`), for the federated model, for it on the
rows that the other model has scored too, and for the other model.  One secure sum opens the counts over all sites; AUROC, average
precision, Brier score and calibration follow from them.  A site's own figures follow from its own counts, at home: in a simulation
they are shown, where both classes reach the minimum cell.

What it does not protect: the summed counts are exact and outside differential privacy.  Where the noise of training is inside the
sum, so that nothing exact may be opened, no sum is formed, and the figures exist in a simulation only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from protocols.errors import Abort
from securefl.binned import BINS, Figures, figures, histogram
from securefl.encoding import SumSpec
from securefl.ledger import NOISED
from securefl.results import Opened

if TYPE_CHECKING:
    from securefl.baselines import Baselines
    from securefl.data.types import Dataset, Split
    from securefl.exact_sums import ExactSums
    from securefl.fairness import ByGroup

MIN_CELL = 5
"""Fewest rows of a class that a site's figures, or a point of a curve, are told of."""
LIMIT = 2**23 - 1
"""Most rows of one site in one bin."""
PRECISION = 24
"""Bits of one count."""
METHOD = (
    "95 % intervals of the held-out rows alone. AUROC: mean over folds, Hanley and McNeil 1982; AUPRC: average precision, mean "
    "over folds, logit interval of Boyd et al. 2013; Brier score: normal; calibration: Wilson. Counts by score in "
    f"{BINS} bins"
)
NO_EXACT = "noise inside the sum leaves no exact one"
"""Why mechanisms with noise inside the sum have no secure figures."""
Counts = dict[str, NDArray[np.int64]]
Scored = Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]
"""For each fold scores and labels of held-out rows."""


@dataclass(frozen=True)
class Assessment:
    """What is known of the final model.

    Attributes:
        insecure: why the figures did not come out of a secure sum, so that they exist in a simulation only; empty where they did.
        federated: on all held-out rows.
        name: of the other model, or empty.
        same_rows: of the federated model, on the rows that the other model has scored; None without it.
        compared: of the other model, on the same rows.
        pooled: of the model trained on all rows in one place (simulation only); None without baselines.
        sites: of the federated model on each site's rows (simulation only).
        local: of each site's own model on the held-out rows of all sites (simulation only).
        folds: how many.
        groups: of the federated model, by sex and age group; None where the data have neither.
    """

    insecure: str
    federated: Figures
    name: str
    same_rows: Figures | None
    compared: Figures | None
    pooled: Figures | None
    sites: Mapping[str, Figures]
    local: Mapping[str, Figures]
    folds: int
    groups: ByGroup | None = None

    @property
    def secure(self) -> bool:
        """Whether the figures came out of a secure sum."""
        return not self.insecure

    @property
    def warning(self) -> str:
        """A line that the user must see, or nothing: where a sum was hoped for and not formed."""
        hoped = self.insecure not in ("", NO_EXACT)
        return f"the figures of the final model exist in a simulation only: {self.insecure}" if hoped else ""

    def without_few(self, by_site: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
        """Metrics by site, of sites with too few rows of a class the number of rows alone."""
        bare = {name for name, found in self.sites.items() if found.auroc is None}
        return {name: {k: v for k, v in metrics.items() if k == "rows" or name not in bare} for name, metrics in by_site.items()}

    def plain(self) -> dict[str, Any]:
        """As JSON-ready data."""
        bare = ["pooled", "sites", "local"] + ([] if self.secure else ["federated", "same_rows", "compared"])
        return {
            "secure": self.secure,
            **asdict(self),
            "bins": BINS,
            "min_cell": MIN_CELL,
            "method": METHOD,
            "simulation_only": bare,
        }


def assess(
    loaded: Dataset,
    splits: Mapping[str, Sequence[Split]],
    scores: Mapping[str, Scored],
    alone: Baselines,
    exact: ExactSums,
) -> Assessment:
    """Assess a final model.

    Args:
        loaded: the data, with the other model's probabilities.
        splits: by site.
        scores: by site, of the federated model.
        alone: baselines, or empty ones.
        exact: opens the sum.

    Where the sum may not be formed, or is aborted, the training is not lost: the figures then exist in a simulation only.
    """
    folds = len(next(iter(splits.values())))
    others = {s.name: None if s.compared is None else [s.compared[part.test] for part in splits[s.name]] for s in loaded.sites}
    values, beside = [counts(scores[name], others[name]) for name in scores], all(one is not None for one in others.values())
    what = opened(compared=loaded.compared if beside else "")
    insecure = hindrance(exact, what)
    sums: Mapping[str, NDArray[Any]] = {key: np.sum([one[key] for one in values], axis=0) for key in values[0]}
    if not insecure:
        try:
            sums = exact.total(0, what, specs(folds, compared=beside), values, precision=PRECISION).sums
        except Abort as abort:
            insecure = f"the sum was aborted by {abort.check}"
    return Assessment(
        insecure=insecure,
        federated=read(sums, "federated", folds),
        name=loaded.compared if beside else "",
        same_rows=read(sums, "same_rows", folds) if beside else None,
        compared=read(sums, "compared", folds) if beside else None,
        pooled=of_scores(alone.pooled_scores) if alone.pooled_scores else None,
        sites={name: of_scores(rows) for name, rows in scores.items()},
        local={name: of_scores(rows) for name, rows in alone.local_scores.items()},
        folds=folds,
    )


def without_few(
    by_site: Mapping[str, Mapping[str, float]], loaded: Dataset, splits: Mapping[str, Sequence[Split]]
) -> dict[str, dict[str, float]]:
    """Metrics by site, of sites with a class of fewer held-out rows than the minimum cell, but some, the number of rows alone."""
    held = {s.name: np.bincount(np.concatenate([s.y[part.test] for part in splits[s.name]]), minlength=2) for s in loaded.sites}
    few = {name for name, classes in held.items() if ((classes > 0) & (classes < MIN_CELL)).any()}
    return {name: {k: v for k, v in metrics.items() if k == "rows" or name not in few} for name, metrics in by_site.items()}


def hindrance(exact: ExactSums, what: Opened) -> str:
    """Why no exact sum may be formed; empty where it may."""
    from securefl.privacy.budget import charges_of  # noqa: PLC0415 - brings scipy, which the tables of a command line do without

    if exact.job.privacy.mechanism in NOISED:
        return NO_EXACT
    refusals = (ledger.refusal(charges_of([what])) for ledger in (exact.ledgers or {}).values())
    return next(filter(None, refusals), "")


def specs(folds: int, *, compared: bool) -> tuple[SumSpec, ...]:
    """The coordinates for a plan."""
    names = ("federated", "same_rows", "compared") if compared else ("federated",)
    return tuple(
        SumSpec(f"{name}.{kind}", folds * BINS, LIMIT, integer=True) for name in names for kind in ("positives", "negatives")
    )


def counts(scored: Scored, others: Sequence[NDArray[np.float64]] | None) -> Counts:
    """What one site adds.

    Args:
        scored: the federated model's scores and the labels, by fold.
        others: the other model's of the same rows, NaN where it has none; or None.
    """
    out = _by_fold("federated", scored)
    if others is not None:
        both = [(s[k], y[k], o[k]) for (s, y), o in zip(scored, others, strict=True) for k in (~np.isnan(o),)]
        out |= _by_fold("same_rows", [(s, y) for s, y, _ in both])
        out |= _by_fold("compared", [(o, y) for _, y, o in both])
    return out


def read(sums: Mapping[str, NDArray[Any]], name: str, folds: int, *, min_cell: int = MIN_CELL) -> Figures:
    """Figures of one of the models out of summed counts."""
    p, n = (np.asarray(sums[f"{name}.{kind}"]).reshape(folds, BINS) for kind in ("positives", "negatives"))
    return figures(p, n, min_cell=min_cell)


def of_scores(scored: Scored) -> Figures:
    """Figures of scores that lie in one place."""
    return read(_by_fold("own", scored), "own", len(scored))


def opened(*, compared: str) -> Opened:
    """The event of the sum."""
    beside = f", and of {compared} on the same rows" if compared else ""
    return Opened(
        "histograms of the final model's scores", 1, "exact", f"held-out rows of all sites by class, fold and bin{beside}"
    )


def _by_fold(name: str, scored: Scored) -> Counts:
    pairs = [histogram(scores, labels) for scores, labels in scored]
    return {f"{name}.{kind}": np.concatenate([pair[at] for pair in pairs]) for at, kind in enumerate(("positives", "negatives"))}
