"""Statistics over tables that stay at their sites: the server opens sums over all sites, exact or noised, and no more.

    from securefl.statistics import Columns, SecureStatistics

`SecureStatistics` describes columns, counts cells, and finds quantiles and correlations; `kaplan_meier` and `associate` ask it for
survival curves and for variants by phenotype; `secure_totals` is the sum below, for
statistics of one's own.

What it does not protect: without noise (`SecureStatistics.noised` has it) the sums are exact and have no ε.  The difference of the
same sum over two cohorts is what the sites in one of them alone have.
"""

from __future__ import annotations

from securefl.statistics.association import Association, associate
from securefl.statistics.columns import Columns
from securefl.statistics.groups import Grouped, described_by
from securefl.statistics.noised import Asked
from securefl.statistics.results import Cells, Correlation, Description, Quantiles
from securefl.statistics.secure import SecureStatistics
from securefl.statistics.survival import Survival, kaplan_meier
from securefl.statistics.totals import secure_totals

__all__ = [
    "Asked",
    "Association",
    "Cells",
    "Columns",
    "Correlation",
    "Description",
    "Grouped",
    "Quantiles",
    "SecureStatistics",
    "Survival",
    "associate",
    "described_by",
    "kaplan_meier",
    "secure_totals",
]
