"""Kaplan–Meier curves out of sums: how many of all sites' records had the event, and how many were censored, in each interval.

Times are known to the interval only: one counts as its end.  The curve is the Kaplan–Meier estimate of times so rounded, so with
edges at every time that there is (days, say) it is that of the pooled rows.  With a minimum cell count above 1 intervals are
joined, by what screening tells (`securefl.statistics.cells`) and before anything is counted, until each surely has the minimum of
events or none, and of censored records or none, in every group.

Sources: E. Kaplan and P. Meier, J Am Stat Assoc 53:457 (1958); its variance by Greenwood, the interval of log(−log S) as in
J. Kalbfleisch and R. Prentice, The Statistical Analysis of Failure Time Data (Wiley, 2002), section 1.4; N. Mantel, Cancer
Chemother Rep 50:163 (1966) for the log-rank test.

What it does not protect: screening opens how many sites have any event, or any censored record, in each of the first intervals.
Fine intervals and few sites make that nearly the curve itself.  Two curves over the same rows with other edges or groups give by
their difference counts that no minimum was held to.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from securefl.binned import Z
from securefl.errors import UserError, quoted
from securefl.statistics.axes import Axis
from securefl.statistics.results import Array, Released, plain

if TYPE_CHECKING:
    from securefl.results import Opened
    from securefl.statistics.secure import SecureStatistics

MOST_INTERVALS = 10_000

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class LogRank:
    """The test that all groups have one curve.

    Attributes:
        statistic: Mantel's, χ² with ``freedom`` degrees of freedom; NaN where no event tells groups apart.
        freedom: groups less one.
        p: its upper tail.
    """

    statistic: float
    freedom: int
    p: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Survival(Released):
    """Curves over all sites, one a group; shapes are (groups, intervals).

    Attributes:
        time: column of times.
        event: column that tells an event from a censored record.
        by: column of groups, or None.
        groups: its levels, or ``("all",)``.
        edges: of the intervals, shape (intervals + 1,), in the column's unit.  An interval has its upper edge, the first one both.
        at_risk: records whose time lies beyond the lower edge.
        events: of them, those with an event in the interval.
        censored: of them, those that were censored in it; they count as at risk until its end.
        survival: estimated probability of no event up to the upper edge; NaN where nobody is at risk.
        low, high: its interval, of 95 %; NaN where ``survival`` is 0, 1 or NaN.
        log_rank: with two groups or more.
    """

    time: str
    event: str
    by: str | None
    groups: tuple[Hashable, ...]
    edges: Array
    at_risk: Counts
    events: Counts
    censored: Counts
    survival: Array
    low: Array
    high: Array
    log_rank: LogRank | None

    @property
    def median(self) -> tuple[float | None, ...]:
        """For each group the end of the first interval at which half or fewer are free of the event; None where there is none."""
        below = self.survival <= 0.5
        return tuple(float(self.edges[1 + np.argmax(line)]) if line.any() else None for line in below)

    def as_json(self) -> dict[str, Any]:
        """As `Released.as_json`, with columns, ``edges``, one object a group in ``curves``, and ``log_rank``."""
        arrays = ("at_risk", "events", "censored", "survival", "low", "high")
        curves = [
            {"group": plain(group), "median": median, **{key: [plain(v) for v in getattr(self, key)[at]] for key in arrays}}
            for at, (group, median) in enumerate(zip(self.groups, self.median, strict=True))
        ]
        test = None if self.log_rank is None else {key: plain(value) for key, value in asdict(self.log_rank).items()}
        head = {"time": self.time, "event": self.event, "by": self.by, "edges": self.edges.tolist()}
        return {**super().as_json(), **head, "curves": curves, "log_rank": test}


def kaplan_meier(
    statistics: SecureStatistics, time: str, event: str, *, intervals: int | Sequence[float] = 20, by: str | None = None
) -> Survival:
    """Kaplan–Meier curves over all sites, with the log-rank test between groups: two secure sums, or one where the minimum is 1.

    Args:
        statistics: the sites.
        time: column with a range.  A time beyond its upper end is censored there.
        event: column with two levels, the second of which is the event.
        intervals: how many equal ones over the range, or their edges.
        by: column with levels, a curve for each; None for one curve.

    Rows without time, event or group are left out, and their number is told to the site alone.

    Raises:
        UserError: bad input, before anything leaves; or, after screening, a group that does not surely have the minimum of
            events and of censored records (none is as well).
        Abort: as for every sum.
    """
    low, high = statistics.columns.range(time)
    edges, happened = edges_of(time, intervals, (low, high)), statistics.axis(event)
    if len(happened.labels) != 3:
        raise UserError(f"{quoted(event)} needs two levels, censored and event, not {len(happened.labels) - 1}")
    groups = None if by is None else statistics.axis(by)
    times = [site.numbers(time, (-np.inf, np.inf), statistics.tell) for site in statistics.sites]
    for site, own_times in zip(statistics.sites, times, strict=True):
        if early := int(np.sum(own_times < low)):
            raise UserError(
                f"{quoted(site.name)}: {early} of {site.rows} values of {quoted(time)} lie below {low:g}, where time begins"
            )
    shape, own = table_of(times, happened.places, groups, edges)
    for site, counts in zip(statistics.sites, own, strict=True):
        if out := site.rows - int(counts.sum()):
            statistics.tell(f"{quoted(site.name)}: {out} of {site.rows} rows lack a time, event or group and are left out")
    of = " by ".join([f"events and censored records of {quoted(time)}", *([quoted(by)] if by is not None else [])])
    starts, sites, opened = np.arange(shape[1]), None, list["Opened"]()
    if statistics.min_cell > 1:
        least, sites, opened = statistics.screened(own, f"{shape[1]} intervals, {of}")
        found = joined(least, statistics.min_cell)
        if found is None:
            raise UserError(
                f"not every group surely has {statistics.min_cell} events or none, and as many censored records or none: "
                "no curve is released"
            )
        starts = found
    summed = [np.add.reduceat(counts, starts, axis=1) for counts in own]
    counts, sites = statistics.counted([one.ravel() for one in summed], with_sites=sites)
    note = f"each is {statistics.min_cell} or more, or none" if statistics.min_cell > 1 else ""
    opened += statistics.event(f"counts in {len(starts)} intervals, {of}", 1, note)
    return Survival(
        **statistics.released(sites, opened),
        time=time,
        event=event,
        by=by,
        groups=("all",) if groups is None else groups.labels[:-1],
        edges=np.append(edges[starts], edges[-1]),
        **curves(counts.reshape(summed[0].shape)),
    )


def edges_of(column: str, intervals: int | Sequence[float], bounds: tuple[float, float]) -> Array:
    """Edges of the intervals, shape (intervals + 1,), float64.

    Args:
        column: of times.
        intervals: how many equal ones over the public range, or edges, ascending, from its lower to its upper end.
        bounds: the public range.

    Raises:
        UserError: too many or none, or edges that do not ascend over the range.
    """
    whole = isinstance(intervals, int | np.integer)
    edges = np.linspace(*bounds, max(int(intervals), 0) + 1) if whole else np.asarray(intervals, dtype=np.float64)  # type: ignore[arg-type]
    if edges.ndim != 1 or not 1 <= len(edges) - 1 <= MOST_INTERVALS:
        raise UserError(f"a curve over {quoted(column)} has 1 to {MOST_INTERVALS} intervals, not {edges.size - 1}")
    if not (np.diff(edges) > 0).all() or (edges[0], edges[-1]) != bounds:
        raise UserError(f"the edges of a curve over {quoted(column)} must ascend from {bounds[0]:g} to {bounds[1]:g}")
    return edges


def table_of(
    times: Sequence[Array], happened: Sequence[Counts], groups: Axis | None, edges: Array
) -> tuple[tuple[int, int, int], list[Counts]]:
    """Shape (groups, intervals, 2) of the table, and each site's counts in it: events first, then censored records.

    Args:
        times: for each site the time of each row, NaN where missing; a time beyond the last edge is censored there.
        happened: for each site 1 for an event, 0 for a censored record, 2 where missing.
        groups: levels of the groups, or None for one group.  A row without time, event or group is left out.
        edges: of the intervals.
    """
    kinds = 1 if groups is None else len(groups.labels) - 1
    shape, out = (kinds, len(edges) - 1, 2), list[Counts]()
    for at, (time, event) in enumerate(zip(times, happened, strict=True)):
        group = np.zeros(len(time), dtype=np.int64) if groups is None else groups.places[at]
        kept = ~np.isnan(time) & (event < 2) & (group < kinds)
        late = time[kept] > edges[-1]
        interval = np.clip(np.searchsorted(edges, time[kept], side="left") - 1, 0, shape[1] - 1)
        kind = np.where(late, 1, 1 - event[kept])
        flat = np.ravel_multi_index((group[kept], interval, kind), shape)
        out.append(np.bincount(flat, minlength=int(np.prod(shape))).astype(np.int64).reshape(shape))
    return shape, out


def joined(least: Counts, k: int) -> Counts | None:
    """Where joined intervals begin, shape (joined,): each surely has k or none of both kinds in every group.

    Args:
        least: lower bounds of the counts, shape (groups, intervals, 2); 0 for none, and only for none.
        k: the minimum cell count.

    Returns:
        None where not even the whole range is such an interval.
    """
    starts, begin, held = list[int](), 0, np.zeros_like(least[:, 0])
    for interval in range(least.shape[1]):
        held = held + least[:, interval]
        if ((held == 0) | (held >= k)).all():
            starts.append(begin)
            begin, held = interval + 1, np.zeros_like(held)
    # What is left over goes to the last whole interval; bounds only grow.
    while begin < least.shape[1] and starts:
        begin = starts.pop()
        held = least[:, begin:].sum(axis=1)
        if ((held == 0) | (held >= k)).all():
            starts.append(begin)
            break
    return np.array(starts, dtype=np.int64) if starts else None


def curves(counts: Counts) -> dict[str, Any]:
    """At risk, estimate and interval of every group, from counts of shape (groups, intervals, 2); arrays of (groups, intervals)."""
    events, censored = counts[..., 0], counts[..., 1]
    gone = counts.sum(axis=2)
    at_risk = gone[:, ::-1].cumsum(axis=1)[:, ::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        survival = np.where(at_risk > 0, np.cumprod(np.where(at_risk > 0, 1 - events / at_risk, 1.0), axis=1), np.nan)
        variance = np.cumsum(np.where(events > 0, events / (at_risk * (at_risk - events)), 0.0), axis=1)
        inside = (survival > 0) & (survival < 1)
        logs = np.log(np.where(inside, survival, np.nan))
        wide = Z * np.sqrt(variance) / logs
        low, high = np.exp(logs * np.exp(-wide)), np.exp(logs * np.exp(wide))
    return {
        "at_risk": at_risk,
        "events": events,
        "censored": censored,
        "survival": survival,
        "low": low,
        "high": high,
        "log_rank": log_rank(at_risk, events) if len(counts) > 1 else None,
    }


def log_rank(at_risk: Counts, events: Counts) -> LogRank:
    """Mantel's test from counts of shape (groups, intervals)."""
    n, d = at_risk.sum(axis=0).astype(np.float64), events.sum(axis=0).astype(np.float64)
    used = n > 1
    share = np.where(used, at_risk / np.maximum(n, 1), 0.0)
    spread = np.where(used, d * (n - d) / np.maximum(n - 1, 1), 0.0)
    difference = (events - d * share)[:, used].sum(axis=1)
    covariance = np.diag((spread * share).sum(axis=1)) - np.einsum("j,gj,hj->gh", spread, share, share)
    freedom = len(at_risk) - 1
    if np.linalg.matrix_rank(covariance) < freedom:
        return LogRank(np.nan, freedom, np.nan)
    statistic = float(difference[1:] @ np.linalg.solve(covariance[1:, 1:], difference[1:]))
    return LogRank(statistic, freedom, float(chdtrc(freedom, statistic)))
