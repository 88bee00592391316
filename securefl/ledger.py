"""What was opened, as events: covered by ε, or exact.

Differential privacy covers the updates.  The total weight and the metrics of held-out rows leave beside them as exact sums; over
changing cohorts the difference of two exact sums can betray one site's value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from securefl.results import Opened

if TYPE_CHECKING:
    from securefl.privacy.events import Event

COVERED, EXACT = "covered by ε", "exact"
NOISED = {
    "distributed-party": ("sum of updates, all parties alike", "noise of every party inside the sum; ε of a party", "party"),
    "distributed-record": (
        "sum of clipped gradients over all sites",
        "noise of every party inside the sum; ε of a record",
        "record",
    ),
    "central": ("the same with the server's noise", "noise of the trusted server; ε of a record", "record"),
}
"""By mechanism, where noise is in what is opened: what that is, whose noise, and what ε protects."""


def opened_in_training(
    rounds: int,
    *,
    mechanism: str,
    sums: Sequence[str],
    hidden: bool = True,
    public_rows: bool = False,
    event: Mapping[str, Any] | None = None,
    beside: Mapping[str, str] | None = None,
    counted: Mapping[str, str] | None = None,
    groups: int | None = None,
) -> list[Opened]:
    """The events of ``rounds`` finished rounds of training.

    Args:
        rounds: in which a sum was opened.
        mechanism: of the job: ``local-record``, ``distributed-record``, ``distributed-party``, ``central`` or ``none``.
        sums: names of the metrics.
        hidden: whether the protocol hides every site's own values.
        public_rows: whether weights and noise follow a public number, the same for all sites, in place of a site's rows.
        event: of one round, as plain data, for what ε covers.
        beside: what an algorithm opens beside the updates, and what it tells; without noise in the sum it is exact, with it inside
            the one vector that is covered, and with local-record made of what is.
        counted: what sites count of themselves in the same sum, held-out rows among it, and what that tells; always exact.
        groups: how many random groups have sums of their own; None: one sum over all.
    """
    if mechanism in NOISED:
        what, note, whose = NOISED[mechanism]
        exact = Opened(
            "exact sum of clipped gradients over all sites",
            rounds,
            EXACT,
            "to the server alone, which is trusted with it",
            bare=True,
        )
        return [
            *([exact] if mechanism == "central" else []),
            Opened(what, rounds, COVERED, note, whose, event),
            Opened("number of parties in the sum", rounds, EXACT, "public, like the roster"),
        ]
    private = mechanism == "local-record"
    how = COVERED if private else EXACT
    unit, event = ("record", event) if private else (None, None)
    alone = "the difference of two sums over sites that differ by one is nearly its update"
    note = "DP-SGD on every site; ε of a record" if private else alone
    events = [Opened("sum of weighted updates", rounds, how, note, unit, event if hidden else None)]
    if not public_rows:
        note = "differs between rounds by the rows of sites that dropped out"
        events.append(Opened("sum of weights (row total)", rounds, EXACT, note))
    if groups is not None:
        note = "over fewer sites, so a difference shows more; nobody knows who is in which"
        events.append(Opened(f"sum of weighted updates of each of {groups} random groups", rounds, how, note, unit))
        if not public_rows:
            events.append(Opened("sum of weights of each random group", rounds, EXACT, "the rows of its sites"))
    if private and not public_rows:
        note = "the noise on the mean gradient of a site is divided by its rows, which its size can tell"
        events.append(Opened("row count of each site, through the size of its noise", rounds, EXACT, note))
    events += [Opened(told, rounds, how, tells, unit) for told, tells in (beside or {}).items()]
    events += [Opened(told, rounds, EXACT, tells) for told, tells in (counted or {}).items()]
    if sums:
        events.append(Opened(f"held-out metrics ({', '.join(sums)})", rounds, EXACT, "sums over all sites of held-out rows"))
    if hidden:
        return events
    bare = "in clear: no protocol hides it from the server or the network"
    return [
        Opened("every site's update", rounds, how, bare, unit, event),
        *([] if public_rows else [Opened("every site's weight (its rows)", rounds, EXACT, bare)]),
        *([Opened("every site's held-out metrics", rounds, EXACT, bare)] if sums else []),
        *events,
    ]


def opened_in_scaling(what: str, note: str) -> Opened:
    """The event of one exact sum of feature statistics before training."""
    return Opened(what, 1, EXACT, note)


def exact_moments(splits: int) -> Opened:
    """The event of the exact sum that gives means and deviations; ``splits`` as the job has it."""
    which = "training rows" if splits == 1 else "rows"
    return opened_in_scaling("rows, means and variances of each column", f"for scaling, over the {which} of all sites")


def opened_with_noise(names: Sequence[str], event: Event) -> list[Opened]:
    """The one noised sum of several statistics, none of them exact.

    Args:
        names: of the questions.
        event: what it costs a record.
    """
    from securefl.privacy.events import plain  # noqa: PLC0415

    note = "noise of every party inside the sum; one ε of a record for all of it"
    return [Opened(f"noised sums: {'; '.join(names)}", 1, COVERED, note, "record", plain(event))]


def opened_in_statistics(what: str, sums: int, note: str, *, hidden: bool = True) -> list[Opened]:
    """The events of ``sums`` exact sums for one statistic, without any training.

    Args:
        what: which sums.
        sums: how many.
        note: what they can show.
        hidden: whether the protocol hides every site's own values.
    """
    events = [Opened(what, sums, EXACT, note)]
    if hidden:
        return events
    return [Opened("every site's values in these sums", sums, EXACT, "in clear: no protocol hides them"), *events]
