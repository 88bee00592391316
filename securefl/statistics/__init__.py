"""Statistics over tables that stay at their sites: the server opens sums over all sites, exact or noised, and no more.

    from securefl.statistics import Columns, SecureStatistics

`SecureStatistics` describes columns, counts cells, and finds quantiles and correlations; `secure_totals` is the sum below, for
statistics of one's own.

What it does not protect: without noise (`SecureStatistics.noised` has it) the sums are exact and have no ε.  The difference of the
same sum over two cohorts is what the sites in one of them alone have.
"""

from __future__ import annotations

from securefl.statistics.columns import Columns
from securefl.statistics.noised import Asked
from securefl.statistics.results import Cells, Correlation, Description, Quantiles
from securefl.statistics.secure import SecureStatistics
from securefl.statistics.totals import secure_totals

__all__ = ["Asked", "Cells", "Columns", "Correlation", "Description", "Quantiles", "SecureStatistics", "secure_totals"]
