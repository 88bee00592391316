"""What was opened, as events: covered by ε, or exact.

Differential privacy covers the updates.  The total weight and the metrics of held-out rows leave beside them as exact sums; over
changing cohorts the difference of two exact sums can betray one site's value.
"""

from __future__ import annotations

from collections.abc import Sequence

from securefl.results import Opened

COVERED, EXACT = "covered by ε", "exact"


def opened_in_training(rounds: int, *, private: bool, sums: Sequence[str], hidden: bool = True) -> list[Opened]:
    """The events of ``rounds`` finished rounds of training; without a protocol that hides them, every site's own values."""
    how = COVERED if private else EXACT
    events = [
        Opened("sum of weighted updates", rounds, how, "DP-SGD on every site" if private else "an exact sum can betray a member")
    ]
    events.append(
        Opened("sum of weights (row total)", rounds, EXACT, "differs between rounds by the rows of sites that dropped out")
    )
    if private:
        note = "the noise on the mean gradient of a site is divided by its rows, which its size can tell"
        events.append(Opened("row count of each site, through the size of its noise", rounds, EXACT, note))
    if sums:
        events.append(Opened(f"held-out metrics ({', '.join(sums)})", rounds, EXACT, "sums over all sites of held-out rows"))
    if hidden:
        return events
    bare = "in clear: no protocol hides it from the server or the network"
    return [
        Opened("every site's update", rounds, how, bare),
        Opened("every site's weight (its rows)", rounds, EXACT, bare),
        *([Opened("every site's held-out metrics", rounds, EXACT, bare)] if sums else []),
        *events,
    ]


def opened_in_scaling(what: str, note: str) -> Opened:
    """The event of one exact sum of feature statistics before training."""
    return Opened(what, 1, EXACT, note)
