"""Many sums after one handshake, which noised sums may share: what opens one step must not open another.

Source: row 25 of the catalogue, played by the harness on the protocols that a job may take.

What it does not show: anything of the noise; the other checks measure that.
"""

from __future__ import annotations

from dataclasses import replace

from protocols.batch_sums import NAMES as WITH_BATCHES
from protocols.plugins import AUTO
from securefl.audit.measured.registry import ANY_SUM, Setting, measure
from securefl.audit.verdict import Verdict, combine, inapplicable

ROW = 25


@measure(
    "handshake-steps",
    ROW,
    "one handshake for many steps: a party lost at one of them, to open its part of an earlier one",
    how="the server sums the steps before and after the loss, and tries all that was opened at one on the vectors of the others; "
    "never wrong",
    on=ANY_SUM,
)
def steps(setting: Setting) -> Verdict:
    """Keys, seeds or shares that serve two steps."""
    from securefl.audit.audit import audit_protocol  # noqa: PLC0415  (loads all attacks)

    asked = setting.job.privacy.protocol
    names = ("secagg", "kahe") if asked == AUTO else (asked,)
    if not set(names) <= set(WITH_BATCHES):
        return inapplicable(f"{asked} has no handshake for many steps: each of its rounds has one of its own")
    found = [(name, result) for name in names for result in audit_protocol(name, rows=(ROW,)).results]
    worst = combine((f"{name}: {result.name}", result.verdict) for name, result in found)
    return replace(worst, who="measurement", check="handshake-steps") if worst.broken else worst
