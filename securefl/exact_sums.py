"""Exact secure sums of a run beside its training: of feature statistics before it, of the final model's scores after it.

What it does not protect: every one of these sums is opened exactly; the ledger and the result list it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from protocols.rand import fresh
from protocols.suite import Occasion
from securefl.cohort import short_sums
from securefl.encoding import Decoded, SumSpec
from securefl.parties import Consortium
from securefl.privacy.budget import Ledgers, charging
from securefl.results import Opened
from securefl.statistics import secure_totals
from securefl.timing import Gauge

if TYPE_CHECKING:
    from securefl.audit.recording import Recording
    from securefl.job import Job


@dataclass
class ExactSums:
    """Sums under one name, in the order of their numbers.

    Attributes:
        job: names the protocol and the threshold.
        purpose: what the name begins with.
        consortium: the parties.
        gauge: measures them.
        recording: writes down what the server and each party saw.
        ledgers: by site name, charged before anything leaves.
        opened: what was opened so far.
    """

    job: Job
    purpose: str
    consortium: Consortium
    gauge: Gauge
    recording: Recording | None = None
    ledgers: Ledgers | None = None
    opened: list[Opened] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._run = f"{self.purpose}-{fresh().bytes('run', 8).hex()}"

    def total(
        self, number: int, what: Opened, specs: Sequence[SumSpec], values: Sequence[Mapping[str, ArrayLike]], *, precision: int
    ) -> Decoded:
        """Open one sum; arguments and errors as for `securefl.statistics.secure_totals`."""
        protocol = short_sums(self.job.privacy)
        self.gauge.sizes.append(sum(spec.size for spec in specs))
        self.opened.append(what)
        return secure_totals(
            charging(self.consortium, self.ledgers or {}, self._run, [what]),
            replace(protocol, flow=self.gauge.clock.timed(protocol.flow)),
            Occasion(self._run, number),
            specs,
            values,
            precision=precision,
            threshold=self.job.privacy.threshold_of_all,
            watch=self.gauge.traffic.watch,
            recording=self.recording,
        )
