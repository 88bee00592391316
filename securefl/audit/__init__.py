"""The audit harness: plays the cheating server, the cheating party and the curious reader against any protocol of the seam.

    from securefl.audit import audit_protocol

    audit = audit_protocol("secagg")
    assert audit.passed, audit.report

Each row of the catalogue (`securefl.audit.registry.ROWS`) has scripts that say the lie, who must notice, in which round and by
which check.  What comes of one is refused, harmless, stated (it works by design, and the documents say so) or broken, with the
recovered secret beside the true one.  A protocol that crashes, hangs or floods under attack is broken, too.

`measure_mechanism` does the same to the ε that training claims: `securefl.audit.measured`.  `audit_job` does both for a job file.

What it does not show: that what was not tried does not work.  A passed audit is not a proof.

The names are loaded on first use: what records a run lies in this package too, and needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securefl.audit.adversary import Adversary
    from securefl.audit.audit import Audit, Result, audit_protocol
    from securefl.audit.cheating import CheatingServer
    from securefl.audit.federation import Federation
    from securefl.audit.measured.run import Measurement, measure_mechanism
    from securefl.audit.of_job import JobAudit, audit_job
    from securefl.audit.target import Bounds, Target
    from securefl.audit.verdict import Verdict

__all__ = [
    "Adversary",
    "Audit",
    "Bounds",
    "CheatingServer",
    "Federation",
    "JobAudit",
    "Measurement",
    "Result",
    "Target",
    "Verdict",
    "audit_job",
    "audit_protocol",
    "measure_mechanism",
]

_HOMES = {
    "Adversary": "securefl.audit.adversary",
    "Audit": "securefl.audit.audit",
    "Bounds": "securefl.audit.target",
    "CheatingServer": "securefl.audit.cheating",
    "Federation": "securefl.audit.federation",
    "JobAudit": "securefl.audit.of_job",
    "Measurement": "securefl.audit.measured.run",
    "Result": "securefl.audit.audit",
    "Target": "securefl.audit.target",
    "Verdict": "securefl.audit.verdict",
    "audit_job": "securefl.audit.of_job",
    "audit_protocol": "securefl.audit.audit",
    "measure_mechanism": "securefl.audit.measured.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
